"""What becomes of an answer that is due when what comes behind its request is not waited for: the protocol alone, with
an application that answers when it is told to.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop
from uvicorn import Config
from uvicorn.server import ServerState

from multiframe.web.connections import patient, watch
from multiframe.web.sockets import LONGEST_HEAD

PATIENCE = 0.1
ASKED = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
BEHIND = {
    "too slow": b"GET / HTTP/1.1\r\nHost: ",
    "too long": b"GET / HTTP/1.1\r\nX: " + b"x" * LONGEST_HEAD,
    "no HTTP": b"\x16\x03\x01 no HTTP\r\n\r\n",
}


class Due:
    """An application whose answers all wait for one event."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        leaving = asyncio.create_task(self._leaving(receive))
        await self.go.wait()
        leaving.cancel()
        body = b"x" * 300_000 + scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body[:1000], "more_body": True})
        await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": body[1000:]})

    async def _leaving(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


@asynccontextmanager
async def connected(app: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a client of an application."""
    state = ServerState()
    config = Config(app, log_config=None, access_log=False)
    config.load()
    kind = patient(PATIENCE, 4)
    server = await asyncio.get_running_loop().create_server(lambda: kind(config, state, {}), "127.0.0.1")
    watching = asyncio.create_task(watch(state.connections, PATIENCE))
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        server.close()


@asynccontextmanager
async def due() -> AsyncIterator[tuple[Due, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give the application and a client of it."""
    app = Due()
    async with connected(app) as (reader, writer):
        yield app, reader, writer


@pytest.mark.parametrize("requests", [1, 2])
@pytest.mark.parametrize("behind", BEHIND)
def test_the_answers_that_are_due_come_whole_and_then_the_connection_closes(behind: str, requests: int) -> None:
    async def answers() -> tuple[bytes, list[str]]:
        async with due() as (app, reader, writer):
            writer.write(b"".join(ASKED % n for n in range(requests)) + BEHIND[behind])
            await writer.drain()
            await asyncio.sleep(4 * PATIENCE)
            assert not reader.at_eof()
            writer.write(b"\r\n\r\n" + ASKED % 9)  # what comes still is nobody's
            app.go.set()
            return await asyncio.wait_for(reader.read(), 10), app.asked

    received, asked = asyncio.run(answers())
    assert asked == [f"/{n}" for n in range(requests)]
    for n in range(requests):
        head, _, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (b"connection: close" in head) == (n == requests - 1)
        assert rest[300_000:].startswith(b"/%d" % n)
        received = rest[300_002:]
    assert received == b""


@pytest.mark.parametrize("behind", BEHIND)
def test_a_client_that_leaves_then_is_still_noticed(behind: str) -> None:
    async def noticed() -> None:
        async with due() as (app, _, writer):
            writer.write(ASKED % 0 + BEHIND[behind])
            await writer.drain()
            await asyncio.sleep(4 * PATIENCE)
            writer.transport.abort()
            await asyncio.wait_for(app.left.wait(), 10)

    asyncio.run(noticed())


def test_an_address_that_is_too_long_is_told_so() -> None:
    async def answer() -> bytes:
        async with due() as (_, reader, writer):
            writer.write(b"GET /" + b"x" * LONGEST_HEAD + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            return await asyncio.wait_for(reader.read(), 10)

    received = asyncio.run(answer())
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b'"HeadTooLong"' in received


class Unmeasured:
    """An application that does not know how long its answer becomes; it may break off, or fail."""

    def __init__(self, how: str) -> None:
        self.how = how

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        await asyncio.sleep(0.05)  # and the client has all of that
        if self.how == "fails":
            raise ValueError
        if self.how == "whole":
            await send({"type": "http.response.body", "body": b"end"})


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("how", ["whole", "breaks off", "fails"])
def test_http_1_0_is_sent_no_chunks_and_can_tell_the_whole_from_a_part(how: str, method: bytes) -> None:
    """RFC 9112 6.1: no Transfer-Encoding in an answer to HTTP/1.0; 6.3: then it ends with the connection."""

    async def answer() -> bytes:
        async with connected(Unmeasured(how)) as (reader, writer):
            writer.write(method + b" / HTTP/1.0\r\n\r\n")
            return await asyncio.wait_for(reader.read(), 10)

    if how != "whole":
        with pytest.raises(ConnectionResetError):
            asyncio.run(answer(), loop_factory=uvloop.new_event_loop)
        return
    head, _, body = asyncio.run(answer(), loop_factory=uvloop.new_event_loop).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == (b"" if method == b"HEAD" else b"x" * 300_000 + b"end")
