"""The short way of a frame gives what the long one gives, and is taken only where nothing has changed."""

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop
from pydicom.data import get_testdata_file
from uvicorn.server import ServerState

import multiframe
from multiframe.catalog import Catalog
from multiframe.settings import Settings
from multiframe.testing import Layout, cine
from multiframe.web.again import Again
from multiframe.web.app import create_app
from multiframe.web.connections import Patient, patient
from multiframe.web.doors import ACTION

ACCEPTS = ["multipart/related; type=application/octet-stream; transfer-syntax=*", "*/*"]
FRAMES = 7


class App:
    """The application without a socket, and how often it was asked the long way."""

    def __init__(self, path: Path, settings: Settings, cache: Path) -> None:
        self.catalog = Catalog(cache / "catalog.sqlite", settings=settings)
        self.catalog.scan([path])
        header = multiframe.open(path).header
        self.uid = header.sop_instance_uid
        self.url = (
            f"/dicom-web/studies/{header.study_instance_uid}/series/{header.series_instance_uid}"
            f"/instances/{self.uid}/frames/"
        )
        self.app = create_app(self.catalog, settings)
        self.long = 0

    async def __aenter__(self) -> "App":
        self._life = self.app.router.lifespan_context(self.app)
        await self._life.__aenter__()
        self.app.middleware_stack = self.app.build_middleware_stack()
        layer: Any = self.app.middleware_stack
        while not isinstance(layer, Again):
            layer = layer.app
        self.again = layer
        inner = layer._app

        async def counted(*arguments: Any) -> None:
            self.long += 1
            await inner(*arguments)

        layer._app = counted
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost:8080")
        instance = self.catalog.instance(self.uid)
        instance.complete()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self._life.__aexit__(None, None, None)
        self.catalog.close()

    async def get(self, frame: object, method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.request(method, f"{self.url}{frame}", headers=named)


def using(path: Path, tmp_path: Path, use: Callable[[App], Awaitable[None]], settings: Settings | None = None) -> None:
    async def run() -> None:
        async with App(path, settings or Settings(), tmp_path) as app:
            await use(app)

    asyncio.run(run(), loop_factory=uvloop.new_event_loop)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cine.dcm"
    cine(path, frames=FRAMES, rows=96, columns=128, layout=Layout(table="none", fragments=3))
    return path


@pytest.mark.parametrize("accept", ACCEPTS)
def test_the_short_way_gives_what_the_long_one_gives(path: Path, tmp_path: Path, accept: str) -> None:
    async def use(app: App) -> None:
        origin = {"origin": "http://localhost:3000", "accept": accept}
        await app.get(1, **origin)
        for number in range(1, FRAMES + 1):
            before = app.long
            short = await app.get(number, **origin)
            assert app.long == before, "one frame has shown the way to all others"
            app.again._ways.clear()
            long = await app.get(number, **origin)
            assert app.long == before + 1
            assert (short.status_code, short.content) == (long.status_code, long.content)
            assert short.headers.pop("x-request-id") != long.headers.pop("x-request-id")
            assert sorted(short.headers.multi_items()) == sorted(long.headers.multi_items())

    using(path, tmp_path, use)


def test_who_asks_otherwise_is_asked_again(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        assert (await app.get(1)).status_code == 200
        assert (await app.get(2)).status_code == 200
        assert app.long == 1
        assert (await app.get(2, host="evil.example")).status_code == 421
        assert (await app.get(2, origin="https://evil.example")).headers.get("access-control-allow-origin") is None
        assert (await app.get(2, origin="http://localhost:1")).headers["access-control-allow-origin"] is not None
        assert (await app.get(2, accept="application/dicom+json")).status_code == 406
        assert (await app.get("2?accept=image/jpeg")).headers["content-type"].startswith("image/jpeg")
        assert (await app.get(2, range="bytes=1-4")).status_code == 206
        assert (await app.get(2, if_none_match="*")).status_code == 304
        assert (await app.get(2, "HEAD")).content == b""
        assert (await app.get(2, "OPTIONS")).status_code == 204
        assert (await app.get(FRAMES + 1)).status_code == 404
        assert (await app.get(0)).status_code == 404
        assert (await app.get("2,3")).status_code == 200
        assert app.long == 13
        app.url = app.url.replace("/studies/", "/studies/9")
        assert (await app.get(2)).status_code == 404

    using(path, tmp_path, use)


def test_a_file_that_changed_or_is_gone_goes_the_long_way(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        await app.get(1)
        old = await app.get(3)
        assert app.long == 1
        data = bytearray(path.read_bytes())
        at = multiframe.open(path).index[2].start
        data[at + 300 : at + 304] = b"\x01\x02\x03\x04"
        path.write_bytes(data)
        new = await app.get(3)
        assert app.long == 2
        assert new.content != old.content
        assert b"\x01\x02\x03\x04" in new.content
        await app.get(3)
        before = app.long
        path.unlink()
        assert (await app.get(3)).status_code == 404
        assert app.long == before + 1

    using(path, tmp_path, use)


def test_a_file_written_over_while_it_is_read_goes_the_long_way(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(app: App) -> None:
        await app.get(1)
        preadv = os.preadv
        touched: list[int] = []

        def slow(fd: int, *arguments: Any) -> int:
            got = preadv(fd, *arguments)
            if not touched:
                touched.append(1)
                os.utime(path)  # somebody wrote, between our look before and our look after
            return got

        monkeypatch.setattr(os, "preadv", slow)
        assert (await app.get(2)).status_code == 200
        assert touched
        assert app.long == 2

    using(path, tmp_path, use)


def test_large_frames_and_a_full_budget_go_the_long_way(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        await app.get(1)
        await app.get(2)
        assert app.long == 2

    using(path, tmp_path, use, Settings(piece=1024))

    async def full(app: App) -> None:
        await app.get(1)
        budget = app.app.state.budget
        with budget.acquire(budget.limit - budget.held):
            waiting = asyncio.create_task(app.get(2))
            await asyncio.sleep(0.05)
            assert not waiting.done(), "it waits for memory as everybody does"
        assert (await waiting).status_code == 200
        assert app.long == 2
        held = budget.held
        await app.get(3)
        assert app.long == 2
        assert budget.held == held, "what the answer held is given back"

    (tmp_path / "2").mkdir()
    using(path, tmp_path / "2", full)


def test_bytes_that_must_be_turned_go_the_long_way(tmp_path: Path) -> None:
    path = Path(str(get_testdata_file("SC_rgb_small_odd_big_endian.dcm", read=False)))

    async def use(app: App) -> None:
        answers = [(await app.get(1)).content for _ in range(3)]
        assert len(set(answers)) == 1
        assert app.long == 3

    using(path, tmp_path, use)


def test_the_action_is_known_by_either_way(path: Path, tmp_path: Path) -> None:
    seen = []

    async def use(app: App) -> None:
        inner = app.app.middleware_stack
        assert inner is not None

        async def listening(scope: Any, receive: Any, send: Any) -> None:
            await inner(scope, receive, send)
            seen.append(scope[ACTION])

        app.app.middleware_stack = listening
        for frame in (1, 2):
            assert (await app.get(frame)).status_code == 200
        assert (app.long, seen) == (1, ["read", "read"])

    using(path, tmp_path, use)


class Served:
    """The application behind uvicorn's protocol, as a worker has it, and a way to speak to it byte by byte."""

    def __init__(self, app: App, port: int, state: ServerState) -> None:
        self.app, self.port, self.state = app, port, state
        self.connection: Callable[[], Any]
        self.at_once = self.unparsed = 0

    def request(self, frame: object, *more: str) -> bytes:
        lines = (f"GET {self.app.url}{frame} HTTP/1.1", "host: localhost:8080", *more)
        return "\r\n".join((*lines, "", "")).encode()

    async def talk(self, *requests: bytes) -> list[tuple[bytes, bytes]]:
        """Send all at once; gives heads, without what is never the same, and bodies."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"".join(requests))
        answers = [await answer(reader) for _ in requests]
        writer.close()
        return answers


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    return re.sub(rb"(x-request-id|date): [^\r]+", rb"\1", head), body


@asynccontextmanager
async def served(app: App, *, high: int | None = None) -> AsyncIterator[Served]:
    """Serve; `high`: the kernel takes little of an answer, and who writes is told to wait at so many bytes."""
    config = uvicorn.Config(app.app, log_config=None, proxy_headers=False, ws="none", http=patient(30.0, 100))
    config.load()
    state = ServerState()
    found = Served(app, 0, state)

    class Counting(config.http_protocol_class):  # type: ignore[misc, name-defined]
        def connection_made(self, transport: asyncio.Transport) -> None:
            if high is not None:
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
                transport.set_write_buffer_limits(high=high)
            super().connection_made(transport)

        def _taken_whole(self, *arguments: Any) -> bool:
            found.at_once += 1
            return super()._taken_whole(*arguments)

        def answer_again(self, *arguments: Any) -> None:
            found.unparsed += 1
            super().answer_again(*arguments)

    def connection() -> Any:
        return Counting(config=config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    found.connection = connection
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        for left in list(state.connections):
            left.transport.abort()
        server.close()


def test_an_answer_at_once_is_the_one_a_task_gives(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        async with served(app) as server:
            origin = "origin: http://localhost:3000"
            await server.talk(server.request(1, origin))
            assert server.at_once == 0
            gauges = app.app.state.gauges
            before = gauges.sum("frames_sent"), gauges.sum("requests", "frames", "200")
            numbers = range(1, FRAMES + 1)
            quick = await server.talk(*(server.request(n, origin) for n in numbers))
            assert server.at_once == FRAMES, "one behind the other: none waits for one before"
            await asyncio.sleep(0.01)
            counted = gauges.sum("frames_sent"), gauges.sum("requests", "frames", "200")
            assert counted == (before[0] + FRAMES, before[1] + FRAMES)
            assert (gauges.open, app.app.state.budget.held) == (0, 0)
            app.app.at_once = lambda scope: None  # type: ignore[attr-defined]
            assert quick == [(await server.talk(server.request(n, origin)))[0] for n in numbers]
            assert (server.at_once, app.long) == (FRAMES, 1)

    using(path, tmp_path, use)


async def one_by_one(server: Served, *requests: bytes) -> list[tuple[bytes, bytes]]:
    """Send each when the one before is answered, over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answers = []
    for request in requests:
        writer.write(request)
        answers.append(await answer(reader))
    writer.close()
    return answers


def test_a_head_that_came_before_is_not_parsed_again(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        async with served(app) as server:
            numbers = [*range(1, FRAMES + 1), 3]
            await server.talk(server.request(1))
            assert (server.at_once, server.unparsed) == (0, 0)
            await server.talk(server.request(1))
            quick = await one_by_one(server, *(server.request(n) for n in numbers))
            assert (server.at_once, server.unparsed) == (1 + len(numbers), len(numbers))
            for connection in server.state.connections:
                assert isinstance(connection, Patient)
                connection.heads._known.clear()
            app.app.at_once = lambda scope: None  # type: ignore[attr-defined]
            assert quick == await one_by_one(server, *(server.request(n) for n in numbers))
            assert server.unparsed == len(numbers)
            assert (app.app.state.gauges.open, app.app.state.budget.held) == (0, 0)

    using(path, tmp_path, use)


def test_what_was_planned_but_cannot_be_read_at_once_is_parsed_after_all(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        async with served(app) as server:
            await server.talk(server.request(1))
            wanted = await one_by_one(server, server.request(2), server.request(3))
            app.app.ways.ready = lambda plan, lend=False: None  # type: ignore[attr-defined]
            given = await one_by_one(server, server.request(2), server.request(3))
            for (head, body), (other, wanted_body) in zip(given, wanted, strict=True):
                assert (sorted(head.split(b"\r\n")), body) == (sorted(other.split(b"\r\n")), wanted_body)
            assert (server.at_once, server.unparsed) == (2, 3)
            assert (app.app.state.gauges.open, app.app.state.budget.held) == (0, 0)
            nowhere = server.request(FRAMES + 1)
            assert [head.split()[1] for head, _ in await one_by_one(server, nowhere, nowhere)] == [b"404", b"404"]

    using(path, tmp_path, use)


def test_who_asks_has_its_time_from_the_last_answer_on(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        async with served(app) as server:
            await server.talk(server.request(1))
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(server.request(1))
            await answer(reader)
            (connection,) = server.state.connections
            assert isinstance(connection, Patient)
            connection.timeout_keep_alive = 0.4
            for _ in range(4):  # the timer was set for the first of them
                await asyncio.sleep(0.2)
                writer.write(server.request(2))
                await answer(reader)
            assert server.unparsed == 4
            begun = time.monotonic()
            connection.timeout_keep_alive_handler()
            assert await asyncio.wait_for(reader.read(), 10) == b""
            assert time.monotonic() - begun > 0.3
            writer.close()

    using(path, tmp_path, use)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name.endswith("name") else default

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def writelines(self, pieces: Any) -> None:
        self.written += b"".join(pieces)

    def get_write_buffer_size(self) -> int:
        return 0

    @property
    def etags(self) -> list[bytes]:
        return re.findall(rb"etag: ([^\r]+)", self.written)


@pytest.mark.parametrize("then", ["nothing", "the next one", "the end", "the client leaves"])
def test_what_waits_for_the_end_of_a_turn_is_answered_whatever_comes_then(
    path: Path, tmp_path: Path, then: str
) -> None:
    async def use(app: App) -> None:
        async with served(app) as server:
            await server.talk(server.request(1))
            wanted = [
                re.findall(rb"etag: ([^\r]+)", head)[0]
                for head, _ in await one_by_one(server, server.request(1), server.request(2))
            ]
            wire = Wire()
            connection = server.connection()
            connection.connection_made(wire)
            gauges = app.app.state.gauges
            before = gauges.sum("frames_sent"), gauges.sum("broken_off", "client")
            connection.data_received(server.request(1))
            assert wire.written == b""
            if then == "the next one":
                connection.data_received(server.request(2))
                assert wire.etags == wanted[:1], "in their order"
            elif then == "the end":
                connection.shutdown()
                assert (wire.etags, wire.closed) == (wanted[:1], True)
            elif then == "the client leaves":
                wire.close()
                connection.connection_lost(None)
            await asyncio.sleep(0.01)
            expected = {"the next one": wanted, "the client leaves": []}.get(then, wanted[:1])
            assert wire.etags == expected
            counted = gauges.sum("frames_sent"), gauges.sum("broken_off", "client")
            assert counted == (before[0] + len(expected), before[1] + (then == "the client leaves"))
            assert (gauges.open, app.app.state.budget.held) == (0, 0)

    using(path, tmp_path, use)


def test_what_is_not_plain_is_not_answered_at_once(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        async with served(app) as server:
            await server.talk(server.request(1))
            for more in ("range: bytes=0-3", "if-none-match: *", "connection: close", "content-length: 0",
                         "expect: 100-continue", "authorization: Bearer x", "accept: text/html"):  # fmt: skip
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(server.request(2, more))
                assert (await reader.readline()).split()[1] in (b"200", b"206", b"304", b"406", b"100")
                writer.close()
            assert server.at_once == 0
            await server.talk(server.request(2))
            assert server.at_once == 1

    using(path, tmp_path, use)


def test_a_body_that_is_not_taken_keeps_its_memory_and_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    cine(path, frames=FRAMES)

    async def use(app: App) -> None:
        async with served(app, high=0) as server:
            await server.talk(server.request(1))
            wanted = [(await server.talk(server.request(n)))[0] for n in range(1, FRAMES + 1)]
            budget, held = app.app.state.budget, app.app.state.budget.held
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            slow.connect(("127.0.0.1", server.port))
            slow.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=slow, limit=16)
            before = server.at_once
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(server.request(1))
            while server.at_once == before:
                await asyncio.sleep(0.01)
            assert budget.held > held, "it has not left"
            assert [(await server.talk(server.request(n)))[0] for n in range(1, FRAMES + 1)] == wanted
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            reader._limit = 1 << 20  # type: ignore[attr-defined]
            assert await answer(reader) == wanted[0], "nobody has written into its memory"
            await asyncio.sleep(0.05)
            assert (budget.held, app.app.state.gauges.open) == (held, 0)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(server.request(2))
            await asyncio.sleep(0.05)
            assert budget.held > held
            writer.transport.abort()
            await asyncio.sleep(0.05)
            assert (budget.held, app.app.state.gauges.open) == (held, 0), "who has left holds nothing"

    using(path, tmp_path, use)


@pytest.mark.parametrize("high", [64 << 10, 1 << 20], ids=["told to wait", "not told"])
def test_a_body_that_is_taken_bit_by_bit_keeps_its_bytes(tmp_path: Path, high: int) -> None:
    """However much of it lies in the server's buffers meanwhile: nobody who asks for other frames has its memory."""
    path = tmp_path / "large.dcm"
    cine(path, frames=FRAMES)

    async def use(app: App) -> None:
        loop = asyncio.get_running_loop()
        async with served(app, high=high) as server:
            await server.talk(server.request(1))
            # All once: then there is memory that is large enough for any of them.
            (_, wanted), *_ = [(await server.talk(server.request(n)))[0] for n in range(1, FRAMES + 1)]
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
                slow.connect(("127.0.0.1", server.port))
                slow.setblocking(False)
                at_once, received, n = server.at_once, b"", 0
                await loop.sock_sendall(slow, server.request(1))
                while len(received.partition(b"\r\n\r\n")[2]) < len(wanted):
                    received += await loop.sock_recv(slow, 16 << 10)
                    n += 1
                    await server.talk(server.request(2 + n % (FRAMES - 1)))
                assert n > 5, "it came bit by bit"
                assert server.at_once == at_once + n + 1
                assert received.partition(b"\r\n\r\n")[2] == wanted

    using(path, tmp_path, use)


def test_behind_an_answer_at_once_nothing_is_waited_for(path: Path, tmp_path: Path) -> None:
    async def use(app: App) -> None:
        async with served(app) as server:
            await server.talk(server.request(1))
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for n in (1, 2):
                writer.write(server.request(n))
                await answer(reader)
                (connection,) = [c for c in server.state.connections if isinstance(c, Patient) and c.waits]
                connection.look(time.monotonic() + 60)  # a head that had begun would be refused now
            assert server.at_once == 2
            writer.write(server.request(3) + b"GET /")
            await answer(reader)
            connection.look(time.monotonic() + 60)
            assert b" 408 " in await reader.readline()
            writer.close()

    using(path, tmp_path, use)
