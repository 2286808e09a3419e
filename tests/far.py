"""A far-away HTTP/1.1 server for tests and benchmarks: it counts, it is as far away as one likes, and it misbehaves.

A real server on a real socket, in a thread or (``process=True``) in a process of its own, with ranges, validators and
conditions as RFC 9110 says. Distance is a round trip before each answer; the bandwidth is shared by all connections,
piece by piece in turn. What it does not have is TCP's slow start, nor loss.

    with FarServer({"/a.dcm": data}, rtt=0.05, bandwidth=12_500_000) as far:
        far.faults["/a.dcm"] = Fault(status=503, times=2)
        ... far.url("/a.dcm") ...
        far.requests, far.bytes_sent, far.paths["/a.dcm"].highest
"""

import asyncio
import contextlib
import gzip
import multiprocessing
import os
import threading
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, cast

import uvloop

PIECE = 128 * 1024
TICK = 0.002  # seconds: how finely the bandwidth is shared out
REASONS = {200: "OK", 206: "Partial Content", 416: "Range Not Satisfiable", 412: "Precondition Failed"}


@dataclass(frozen=True)
class Fault:
    """How a path misbehaves; what is left out behaves well."""

    times: int | None = None  # only so many requests, counted from when it was set; None: all
    after: int = 0  # not before so many requests
    status: int = 0  # answer this, with no body to speak of
    retry_after: str | None = None
    redirect: str | None = None  # to there
    ignore_range: bool = False  # 200 and the whole body
    whole_below: int = 0  # the same for files smaller than that
    shift: int = 0  # Content-Range and bytes of a range so far beyond the one asked for
    claimed_shift: int = 0  # the same, in Content-Range alone
    total: int | None = None  # the size that Content-Range claims
    short: int = 0  # Content-Length and body so much shorter than Content-Range says
    extra: int = 0  # Content-Length and body so much longer
    cut: int | None = None  # the connection, after so many bytes of the body
    cuts: int | None = None  # so often only; None: always
    hang: bool = False  # no answer
    held_from: int | None = None  # no answer to ranges from there on, before this fault is another one's or lifted
    trickle: float = 0  # seconds for each byte of the body
    gzip: bool = False  # Content-Encoding, of the piece
    etag: str | None = ""  # another ETag; None: no ETag
    modified: bool = True  # whether Last-Modified is told
    unconditional: bool = False  # If-Match and If-Unmodified-Since are not looked at
    no_head: bool = False  # HEAD is refused, as by a presigned GET
    no_length: bool = False  # chunked


@dataclass
class Count:
    """What was asked of one path, or of all."""

    requests: int = 0
    bytes_sent: int = 0  # of bodies
    highest: int = 0  # most requests at once
    open: int = 0


@dataclass
class State:
    """All that is told to the outside, in one picklable piece."""

    total: Count = field(default_factory=Count)
    paths: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    connections: int = 0
    log: list[bytes] = field(default_factory=list)  # the heads of all requests


class _File:
    """Bytes in memory or on the disk, with their validators."""

    def __init__(self, place: bytes | Path) -> None:
        self.fd = -1
        if isinstance(place, bytes):
            self.data, self.size = place, len(place)
            self.etag = f'"{zlib.crc32(place):08x}-{len(place):x}"'
            self.modified = 1_700_000_000.0
        else:
            self.fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            stat = os.fstat(self.fd)
            self.data, self.size, self.modified = b"", stat.st_size, stat.st_mtime
            self.etag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'

    def read(self, start: int, stop: int) -> bytes:
        return self.data[start:stop] if self.fd < 0 else os.pread(self.fd, stop - start, start)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport
    answer: "_Answer | None"

    def __init__(self, server: "_Server") -> None:
        self.server = server
        self.buffer = b""
        self.busy = False
        self.paused = False
        self.gone = False
        self.count: Count | None = None
        self.answer = None
        self.owed = server.rtt * server.handshakes  # seconds that the first answer has to wait for

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.server.state.connections += 1
        self.server.connected.add(self)
        self.transport.set_write_buffer_limits(PIECE)

    def connection_lost(self, _: Exception | None) -> None:
        self.gone = True
        self.server.connected.discard(self)
        self._done()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.busy and self.server.bandwidth is None:
            self._flow()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.busy:
            self._next()

    def _next(self) -> None:
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if found:
            self.buffer = rest
            self.busy = True
            self._asked(head)

    def _asked(self, head: bytes) -> None:
        server = self.server
        server.state.log.append(head)
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ")
        path = target.partition("?")[0]
        count, total = server.state.paths[path], server.state.total
        for c in (count, total):
            c.requests += 1
            c.open += 1
            c.highest = max(c.highest, c.open)
        self.count = count
        headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
        self.answer = server.answer(method, path, headers)
        wait, self.owed = server.rtt + self.owed, 0.0
        if self.answer is None:  # it hangs, or is held
            server.held.append((path, partial(self._again, method, path, headers)))
            return
        if wait:
            server.loop.call_later(wait, self._send)
        else:
            self._send()

    def _again(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        self.answer = self.server.answer(method, path, headers)
        self._send()

    def _send(self) -> None:
        if self.gone or self.answer is None:
            return
        self.transport.write(self.answer.head)
        if self.answer.trickle:
            self._drip()
        elif self.server.bandwidth is not None and self.answer.left:
            self.server.share(self)
        else:
            self._flow()

    def _drip(self) -> None:
        if self.gone or self.answer is None:
            return
        if self.piece(1):
            self.server.loop.call_later(self.answer.trickle, self._drip)
        else:
            self._done()

    def _flow(self) -> None:
        """Send as fast as it is taken."""
        while not self.paused and not self.gone:
            if not self.piece(PIECE):
                self._done()
                return

    def piece(self, most: int) -> int:
        """Send so many bytes at most; tells how many."""
        answer = self.answer
        assert answer is not None
        n = min(most, answer.left)
        if n <= 0 or self.gone or self.transport.is_closing():
            return 0
        data = answer.file.read(answer.start, answer.start + n)
        data += bytes(n - len(data))  # what a fault sends beyond the end
        answer.start += n
        answer.left -= n
        assert self.count is not None
        self.count.bytes_sent += n
        self.server.state.total.bytes_sent += n
        self.transport.write(b"%x\r\n%s\r\n" % (n, data) if answer.chunked else data)
        return n

    def _done(self) -> None:
        if self.count is not None:
            self.count.open -= 1
            self.server.state.total.open -= 1
            self.count = None
        if self.gone or not self.busy:
            return
        assert self.answer is not None
        if self.answer.chunked:
            self.transport.write(b"0\r\n\r\n")
        if self.answer.close:
            self.transport.close()
            return
        self.busy = False
        if self.buffer:
            self._next()


@dataclass
class _Answer:
    head: bytes
    file: _File
    start: int = 0
    left: int = 0
    close: bool = False
    trickle: float = 0
    chunked: bool = False


_EMPTY = _File(b"")


class _Server:
    def __init__(
        self,
        files: Mapping[str, bytes | Path],
        folder: Path | None,
        rtt: float,
        bandwidth: float | None,
        handshakes: int,
    ) -> None:
        self.files = {path: _File(place) for path, place in files.items()}
        self.folder = folder
        self.rtt, self.bandwidth, self.handshakes = rtt, bandwidth, handshakes
        self.state = State()
        self.faults: dict[str, tuple[Fault, list[int]]] = {}  # and how many requests it has seen
        self.held: list[tuple[str, Callable[[], None]]] = []
        self.connected: set[_Connection] = set()
        self.sharing: deque[_Connection] = deque()
        self.shared_at = 0.0
        self.loop = uvloop.new_event_loop()
        self.port = 0

    def run(self, ready: threading.Event) -> None:
        async def main() -> None:
            self.stopped = asyncio.Event()
            server = await self.loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
            self.port = cast(asyncio.Server, server).sockets[0].getsockname()[1]
            ready.set()
            await self.stopped.wait()
            server.close()
            for connection in self.connected:
                connection.transport.abort()
            while self.connected:
                await asyncio.sleep(0.001)

        try:
            self.loop.run_until_complete(main())
        finally:
            self.loop.close()
            for file in self.files.values():
                file.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)

    # ------------------------------------------------------------------ the bandwidth

    def share(self, connection: _Connection) -> None:
        if not self.sharing:
            self.shared_at = self.loop.time()
            self.loop.call_later(TICK, self._tick)
        self.sharing.append(connection)

    def _tick(self) -> None:
        assert self.bandwidth is not None
        now = self.loop.time()
        budget = int((now - self.shared_at) * self.bandwidth)
        self.shared_at = now
        while budget > 0 and self.sharing:
            connection = self.sharing.popleft()
            sent = connection.piece(min(budget, 16 * 1024))
            budget -= sent
            if sent and connection.answer is not None and connection.answer.left:
                self.sharing.append(connection)
            else:
                connection._done()
        if self.sharing:
            self.loop.call_later(TICK, self._tick)

    # ------------------------------------------------------------------ the answers

    def file(self, path: str) -> _File | None:
        found = self.files.get(path)
        if found is None and self.folder is not None and ".." not in path:
            place = self.folder / path.lstrip("/")
            if place.is_file():
                found = self.files[path] = _File(place)
        return found

    def fault(self, path: str) -> Fault:
        fault, seen = self.faults.get(path, (Fault(), [0]))
        seen[0] += 1
        if fault.cuts is not None and seen[0] > fault.cuts:
            return replace(fault, cut=None)
        late = fault.times is not None and seen[0] > fault.after + fault.times
        return Fault() if late or seen[0] <= fault.after else fault

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> _Answer | None:
        fault = self.fault(path)
        file = self.file(path)
        if fault.hang:
            return None
        if fault.redirect is not None:
            return _plain(302, f"Location: {fault.redirect}\r\n")
        if fault.status:
            return _plain(fault.status, f"Retry-After: {fault.retry_after}\r\n" if fault.retry_after else "")
        if method not in ("GET", "HEAD") or (method == "HEAD" and fault.no_head):
            return _plain(403 if method == "HEAD" else 405, "")
        if file is None:
            return _plain(404, "")
        etag = file.etag if fault.etag == "" else fault.etag
        if not fault.unconditional and not _holds(headers, etag, file.modified if fault.modified else None):
            return _plain(412, "")
        extra = "Accept-Ranges: bytes\r\n"
        if etag is not None:
            extra += f"ETag: {etag}\r\n"
        if fault.modified:
            extra += f"Last-Modified: {formatdate(file.modified, usegmt=True)}\r\n"

        start, stop, status = 0, file.size, 200
        if "range" in headers and not fault.ignore_range and file.size >= fault.whole_below:
            start, stop = _range(headers["range"], file.size)
            if fault.held_from is not None and start >= fault.held_from:
                return None
            if start >= stop:
                return _plain(416, f"Content-Range: bytes */{file.size}\r\n")
            status = 206
            start, stop = start + fault.shift, stop + fault.shift
            total = file.size if fault.total is None else fault.total
            extra += f"Content-Range: bytes {start + fault.claimed_shift}-{stop - 1 + fault.claimed_shift}/{total}\r\n"
        length = max(0, stop - start - fault.short + fault.extra)
        if fault.gzip:
            file = _File(gzip.compress(file.read(start, stop)))
            start, length = 0, file.size
            extra += "Content-Encoding: gzip\r\n"
        extra += "Transfer-Encoding: chunked\r\n" if fault.no_length else f"Content-Length: {length}\r\n"
        if method == "HEAD":
            length = 0
        close = fault.cut is not None and fault.cut < length
        return _Answer(
            _head(status, extra),
            file,
            start,
            min(length, fault.cut) if fault.cut is not None else length,
            close,
            fault.trickle,
            fault.no_length and method != "HEAD",
        )


def _head(status: int, extra: str) -> bytes:
    return f"HTTP/1.1 {status} {REASONS.get(status, 'Other')}\r\n{extra}\r\n".encode("latin-1")


def _plain(status: int, extra: str) -> _Answer:
    return _Answer(_head(status, extra + "Content-Length: 0\r\n"), _EMPTY)


def _holds(headers: Mapping[str, str], etag: str | None, modified: float | None) -> bool:
    """Whether the request's conditions do (RFC 9110 13.1.1, 13.1.4, 13.2.2)."""
    if "if-match" in headers:
        wanted = [w.strip() for w in headers["if-match"].split(",")]
        return etag is not None and ("*" in wanted or (etag in wanted and not etag.startswith("W/")))
    if "if-unmodified-since" in headers and modified is not None:
        return int(modified) <= parsedate_to_datetime(headers["if-unmodified-since"]).timestamp()
    return True


def _range(text: str, size: int) -> tuple[int, int]:
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1 if last else size)


# ---------------------------------------------------------------------------------------------------- the outside


class _Settable[T](MutableMapping[str, T]):
    """A mapping of which the server is told what is set."""

    def __init__(self, tell: Any, values: Mapping[str, T]) -> None:
        self._tell = tell
        self._values: dict[str, T] = dict(values)

    def __getitem__(self, path: str) -> T:
        return self._values[path]

    def __setitem__(self, path: str, value: T) -> None:
        self._values[path] = value
        self._tell(path, value)

    def __delitem__(self, path: str) -> None:
        del self._values[path]
        self._tell(path, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class FarServer:
    """Serves until the block ends.

    Parameters
    ----------
    files : mapping of str to bytes or Path
        By path, such as ``/a.dcm``; a file on the disk is never loaded.
    folder : path, optional
        Its files are served besides.
    rtt : float
        Seconds before each answer.
    bandwidth : float, optional
        Bytes in a second, over all connections.
    handshakes : int
        Round trips that a new connection costs besides: 1 as TCP's, 2 or 3 with TLS.
    process : bool
        Whether it runs in a process of its own, so that it takes no time from what is measured.
    """

    def __init__(
        self,
        files: Mapping[str, bytes | Path] | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        rtt: float = 0,
        bandwidth: float | None = None,
        handshakes: int = 0,
        process: bool = False,
    ) -> None:
        self._arguments = (dict(files or {}), Path(folder) if folder is not None else None, rtt, bandwidth, handshakes)
        self._process = process
        self.port = 0
        self.faults = _Settable[Fault](lambda path, fault: self._call("fault", path, fault), {})
        self.files = _Settable[bytes | Path](lambda path, place: self._call("file", path, place), dict(files or {}))

    def __enter__(self) -> Self:
        if self._process:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._child = context.Process(target=_serve, args=(theirs, self._arguments), daemon=True)
            self._child.start()
            theirs.close()
            if not self._pipe.poll(30):
                raise RuntimeError("the far server did not start")
            self.port = self._pipe.recv()
        else:
            self._inside = _Inside(self._arguments)
            self.port = self._inside.server.port
        return self

    def __exit__(self, *_: object) -> None:
        self._call("stop")
        if self._process:
            self._child.join(10)
            self._pipe.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        if not self._process:
            return self._inside.call(name, *arguments)
        self._pipe.send((name, *arguments))
        if not self._pipe.poll(30):
            raise RuntimeError(f"the far server does not do {name}")
        return self._pipe.recv()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def state(self) -> State:
        """All counts at once, as they are now."""
        state: State = self._call("state")
        return state

    @property
    def requests(self) -> int:
        return self.state.total.requests

    @property
    def bytes_sent(self) -> int:
        return self.state.total.bytes_sent

    @property
    def highest(self) -> int:
        """Most requests at once."""
        return self.state.total.highest

    @property
    def connections(self) -> int:
        return self.state.connections

    @property
    def paths(self) -> Mapping[str, Count]:
        return self.state.paths

    @property
    def log(self) -> list[str]:
        """The heads of all requests."""
        return [head.decode("latin-1") for head in self.state.log]

    def reset(self) -> None:
        """Count anew."""
        self._call("reset")


class _Inside:
    """The server on a thread, and what can be asked of it from another."""

    def __init__(self, arguments: Any) -> None:
        self.server = _Server(*arguments)
        ready = threading.Event()
        self.thread = threading.Thread(target=self.server.run, args=(ready,), daemon=True)
        self.thread.start()
        if not ready.wait(10):
            raise RuntimeError("the far server did not start")

    def call(self, name: str, *arguments: Any) -> Any:
        if name == "stop":
            self.server.stop()
            self.thread.join(10)
            return None
        answer: list[Any] = []
        done = threading.Event()

        def on_loop() -> None:
            try:
                answer.append(getattr(self, f"_{name}")(*arguments))
            finally:
                done.set()

        self.server.loop.call_soon_threadsafe(on_loop)
        if not done.wait(10) or not answer:
            raise RuntimeError(f"the far server does not do {name}")
        return answer[0]

    def _state(self) -> State:
        state = self.server.state
        paths: defaultdict[str, Count] = defaultdict(Count, {path: replace(c) for path, c in state.paths.items()})
        return State(replace(state.total), paths, state.connections, list(state.log))

    def _reset(self) -> None:
        self.server.state.log.clear()
        self.server.state.connections = 0
        for count in (self.server.state.total, *self.server.state.paths.values()):
            count.requests = count.bytes_sent = 0
            count.highest = count.open

    def _fault(self, path: str, fault: Fault | None) -> None:
        if fault is None:
            self.server.faults.pop(path, None)
        else:
            self.server.faults[path] = fault, [0]
        held, self.server.held = self.server.held, []
        for of, answer in held:
            if of == path:
                answer()
            else:
                self.server.held.append((of, answer))

    def _file(self, path: str, place: bytes | Path | None) -> None:
        self.server.files.pop(path, _EMPTY)
        if place is not None:
            self.server.files[path] = _File(place)


def _serve(pipe: Connection, arguments: Any) -> None:
    inside = _Inside(arguments)
    pipe.send(inside.server.port)
    name = ""
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):  # who started us is gone
        while name != "stop":
            name, *rest = pipe.recv()
            pipe.send(inside.call(name, *rest))


if __name__ == "__main__":  # python -m tests.far FOLDER [RTT [BANDWIDTH]]: serve it until the end of the input
    import sys

    folder, *numbers = sys.argv[1:]
    rtt, bandwidth, *_ = (*map(float, numbers), 0.0, 0.0)
    with FarServer(folder=folder, rtt=rtt, bandwidth=bandwidth or None) as far:
        print(far.url("/"), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()
        print(far.requests, "requests,", far.bytes_sent, "bytes,", far.connections, "connections")
