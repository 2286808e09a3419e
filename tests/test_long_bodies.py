"""Long bodies: byte for byte what was sent, however it comes, and the connection is uvicorn's again behind them."""

import asyncio
import hashlib
import json
import random
import socket
import threading
import time
from itertools import pairwise

import pytest
import uvicorn

from multiframe.web.connections import patient, watch
from multiframe.web.long_bodies import LONG, LONG_BODY

PIECE = 200_000
PATIENCE = 0.5
SIZE = LONG + 1_234_567
BODY = random.Random(1).randbytes(SIZE)


async def app(scope, receive, send):
    """Answer with what was received; by the address: all of it, no more than a little, nothing of it."""
    if scope["type"] != "http":
        return
    long = scope.get(LONG_BODY)
    if long:
        long.piece = PIECE
    what, sizes, seen, last = scope["path"], [], hashlib.sha256(), {}
    while what != "/none":
        last = await receive()
        if last["type"] == "http.disconnect":
            SEEN.append("left")
            return
        sizes.append(len(last["body"]))
        seen.update(last["body"])
        if not last["more_body"] or (what == "/some" and sum(sizes) > PIECE):
            break
    told = json.dumps({"sha": seen.hexdigest(), "size": sum(sizes), "most": max(sizes, default=0), "long": bool(long)})
    SEEN.append(told)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(told))]})
    await send({"type": "http.response.body", "body": told.encode()})
    if what == "/watch":
        assert (await receive())["type"] == "http.disconnect"
        SEEN.append("watched")


SEEN: list[str] = []


class Watched(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.watching = asyncio.create_task(watch(self.server_state.connections, PATIENCE))

    async def shutdown(self, sockets=None):
        self.watching.cancel()
        await super().shutdown(sockets)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def port(request):
    config = uvicorn.Config(app, log_level="error", lifespan="off", http=patient(PATIENCE, 100), loop=request.param)
    server = Watched(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(port):
    SEEN.clear()
    with socket.create_connection(("127.0.0.1", port), 10) as s:
        yield s


def head(path="/", size=SIZE, more=""):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{more}\r\n".encode()


def answer(s):
    got = b""
    while b"}" not in got:
        more = s.recv(1)  # the next answer is another's
        assert more, got
        got += more
    assert got.startswith(b"HTTP/1.1 200 ")
    return json.loads(got.partition(b"\r\n\r\n")[2])


def whole(told, body=BODY):
    assert (told["sha"], told["size"]) == (hashlib.sha256(body).hexdigest(), len(body))


@pytest.mark.parametrize("cut", [1, 70, 65_536, 65_537, PIECE + 70, LONG, SIZE + 69])
def test_bodies_one_after_the_other(client, cut):
    """Cut anywhere: in the first head, behind it, and before the last byte."""
    sent = (head() + BODY) * 2
    client.sendall(sent[:cut])
    time.sleep(0.02)
    client.sendall(sent[cut:])  # the second request comes with the end of the first
    first = answer(client)
    whole(first)
    assert first["long"]
    whole(answer(client))


def test_pieces_are_as_large_as_they_are_wanted(client):
    client.sendall(head())
    client.sendall(BODY[:10])
    time.sleep(0.05)
    client.sendall(BODY[10:])
    told = answer(client)
    whole(told)
    assert 10_000 < told["most"] <= PIECE


@pytest.mark.parametrize("seed", range(5))
def test_whatever_pieces_they_come_in(client, seed):
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(SIZE), 30))
    client.sendall(head())
    for start, stop in pairwise([0, *cuts, SIZE]):
        client.sendall(BODY[start:stop])
        time.sleep(chance.choice((0, 0, 0.01)))
    whole(answer(client))
    client.sendall(head("/", 3) + b"abc")
    told = answer(client)
    whole(told, b"abc")
    assert not told["long"]


@pytest.mark.parametrize("path", ["/none", "/some"])
def test_what_nobody_wants_is_passed_over(client, path):
    client.sendall(head(path))
    client.sendall(BODY[: 2 * PIECE])
    answer(client)
    for start in range(2 * PIECE, SIZE, 100_000):
        client.sendall(BODY[start : start + 100_000])
    client.sendall(head() + BODY)
    whole(answer(client))


@pytest.mark.parametrize("sent", [10, PIECE, SIZE - 1])
def test_a_client_that_leaves_is_seen_to_leave(client, sent):
    client.sendall(head() + BODY[:sent])
    time.sleep(0.02)
    client.close()
    seen("left")


def seen(what):
    deadline = time.monotonic() + 5
    while what not in SEEN:
        assert time.monotonic() < deadline, SEEN
        time.sleep(0.01)


def test_a_client_that_leaves_behind_its_body_is_seen_to_leave(client):
    client.sendall(head("/watch") + BODY)
    whole(answer(client))
    client.close()
    seen("watched")


def test_it_is_told_to_go_on(client):
    client.sendall(head(more="Expect: 100-continue\r\n"))
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(BODY)
    whole(answer(client))


def test_who_does_not_go_on_is_not_waited_for(client):
    client.sendall(head() + BODY[:PIECE])
    assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    seen("left")


def test_who_goes_on_is_waited_for(client):
    """More than twice as long as patience lasts."""
    client.sendall(head() + BODY[:-20_000])
    for at in range(SIZE - 20_000, SIZE, 1000):
        time.sleep(PATIENCE / 8)
        client.sendall(BODY[at : at + 1000])
    whole(answer(client))


def test_a_body_in_chunks_is_uvicorns(client):
    client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY))
    told = answer(client)
    whole(told)
    assert not told["long"]
