"""Reading what lies far away, where each request costs a round trip.

It knows what a request is worth: neighbours are read at once, what was read lately is not read again (`Nearby`), and a
long chain of Items is followed by many walkers (`Crew`). It must not know what the bytes mean, nor how a request is
made.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from multiframe.elements import UNDEFINED
from multiframe.encapsulation import ITEM_WORD
from multiframe.errors import SourceChanged
from multiframe.ranges import Buffer, ByteRange, ItemChain, Plan, coalesce
from multiframe.source import ByteSource, Identity, ObjectStat, Reply
from multiframe.walkers import Walkers

__all__ = ["Crew", "Nearby", "Waiting", "steps"]

_GAP = 32 << 10
_MOST = 16 << 20
_REMEMBERED = 8 << 20
_SMALL = 16 << 10
_AHEAD = 64 << 10
_CARRIED = 4 << 20
_SPANS = 64


class Nearby:
    """A far object, and the bytes that were read of it last.

    Neighbouring ranges are one request. It is bound to the object of its first answer.

    Parameters
    ----------
    source : ByteSource
        The far object.
    limit : int
        Bytes that are remembered.

    Attributes
    ----------
    seen : ObjectStat or None
        The object: size and identity as its first answer told them.

    Examples
    --------
    >>> from multiframe.source import FileSource
    >>> near = Nearby(FileSource(__file__))
    >>> near.read_ranges([ByteRange(0, 100)]).stat == near.read_ranges([ByteRange(40, 60)]).stat
    True
    """

    far = True

    def __init__(self, source: ByteSource, *, limit: int = _REMEMBERED) -> None:
        self.source = source
        self._limit = limit
        self.seen: ObjectStat | None = None
        self._spans: deque[tuple[int, int, Buffer]] = deque()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return repr(self.source)

    def stat(self) -> ObjectStat:
        """Size and identity now."""
        return self.source.stat()

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        found, missing = self._remembered(ranges, identity)
        if missing:
            self._remember(missing, self.source.read_ranges(missing, identity=self._bound(identity)), found)
        return self._reply(ranges, found)

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        found, missing = self._remembered(ranges, identity)
        if missing:
            reply = await self.source.read_ranges_async(missing, identity=self._bound(identity))
            self._remember(missing, reply, found)
        return self._reply(ranges, found)

    def _bound(self, identity: Identity | None) -> Identity | None:
        return self.seen.identity if identity is None and self.seen else identity

    def _remembered(
        self, ranges: Sequence[ByteRange], identity: Identity | None
    ) -> tuple[list[tuple[int, int, Buffer]], list[ByteRange]]:
        """Give the spans that answer, and what has to be asked for: of neighbours all, once."""
        with self._lock:
            spans = list(self._spans) if self.seen and identity in (None, self.seen.identity) else []
        found, missing = [], []
        size = self.seen.size if self.seen else 0
        for wanted in ranges:
            stop = min(wanted.stop, size) if spans else wanted.stop
            span = next((s for s in spans if s[0] <= wanted.start and stop <= s[1]), None)
            if span is None:
                missing.append(wanted)
            else:
                found.append(span)
        return found, [group.span for group in coalesce(missing, max_gap=_GAP, max_size=_MOST)]

    def _remember(self, asked: Sequence[ByteRange], reply: Reply, found: list[tuple[int, int, Buffer]]) -> None:
        with self._lock:
            self.seen = self.seen or reply.stat
            if self.seen != reply.stat:
                raise SourceChanged(f"{self.source!r} is not the object it was: it was replaced or written to")
            for wanted, buffer in zip(asked, reply.buffers, strict=True):
                span = wanted.start, wanted.start + len(buffer), buffer
                found.append(span)
                if len(buffer) <= self._limit // 2:
                    self._spans.appendleft(span)
            held = 0
            for i, (_, _, buffer) in enumerate(self._spans):
                held += len(buffer)
                if held > self._limit or i >= _SPANS:
                    while len(self._spans) > i:
                        self._spans.pop()
                    break

    def _reply(self, ranges: Sequence[ByteRange], found: list[tuple[int, int, Buffer]]) -> Reply:
        assert self.seen is not None
        out: list[Buffer] = []
        for start, stop in ranges:
            stop = max(start, min(stop, self.seen.size))
            span = next((s for s in found if s[0] <= start and stop <= s[1]), None)
            out.append(b"" if span is None else span[2][start - span[0] : stop - span[0]])
        return Reply(out, self.seen)


def steps(chain: ItemChain, *, carry: bool = False) -> Plan[bytes]:
    """Follow a short chain one request a step, and no further than to the Items that are needed.

    Parameters
    ----------
    carry : bool
        Read what lies between the Items too: it is wanted next.
    """
    at, record = chain.start, chain.record
    out: list[bytes] = []
    length = 0
    while len(out) < min(chain.limit, chain.need) and at <= chain.stop:
        wanted = ByteRange(at - 8, min(at - 8 + record, chain.stop))
        if out and (length <= _SMALL or (carry and length <= _CARRIED)):
            more = ByteRange(at - length, min(max(wanted.stop, at - length + _AHEAD), chain.stop))
            yield [more]  # whoever reads remembers it
        (one,) = yield [wanted]
        one = bytes(one)
        if len(one) < 16:
            out.append(one)
            break
        tag, length = int.from_bytes(one[8:12], "little"), int.from_bytes(one[12:16], "little")
        out.append(one.ljust(record, b"\0"))
        if tag != ITEM_WORD or length == UNDEFINED:
            break
        at += 8 + length
    return b"".join(out)


class Crew:
    """The walkers of one plan, and the requests they wait for."""

    def __init__(self, source: ByteSource, identity: Identity | None) -> None:
        self._source = source.source if isinstance(source, Nearby) else source
        self._identity = identity
        self._walkers: Walkers | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: asyncio.Queue[tuple[ByteRange, Buffer | BaseException]] = asyncio.Queue()

    async def follow(self, chain: ItemChain) -> bytes:
        """Answer a chain, as long as it may be; the one that goes on from there is half walked by then."""
        walkers = self._walkers
        if walkers is None or walkers.taken_to != chain.start or walkers.record != chain.record:
            await self.close()
            walkers = self._walkers = Walkers(chain, hints=chain.hints)
        while not walkers.ready(chain.limit):
            for wanted in walkers.asks():
                task = asyncio.create_task(self._read(wanted))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            wanted, data = await self._answers.get()
            if isinstance(data, BaseException):
                raise data
            walkers.answer(wanted, data)
        return walkers.take(chain.limit)

    async def _read(self, wanted: ByteRange) -> None:
        try:
            reply = await self._source.read_ranges_async([wanted], identity=self._identity)
            self._answers.put_nowait((wanted, reply.buffers[0]))
        except Exception as error:
            self._answers.put_nowait((wanted, error))

    async def close(self) -> None:
        """Give up what is still asked for."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while not self._answers.empty():
            self._answers.get_nowait()
        self._walkers = None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # a third less work for each of thousands of requests; not there on Windows
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Waiting:
    """A `Crew` for who waits for it without an event loop: it has one of its own, on a thread."""

    def __init__(self, source: ByteSource, identity: Identity | None) -> None:
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="multiframe walkers", daemon=True)
        self._thread.start()
        self._crew = Crew(source, identity)

    def follow(self, chain: ItemChain) -> bytes:
        """Answer a chain."""
        return self._finish(self._crew.follow(chain))

    def close(self) -> None:
        """Give up what is still asked for, and end the thread."""
        try:
            self._finish(self._crew.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _finish[T](self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
