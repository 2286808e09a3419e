"""Long lists of frames on their way out: in order, coalesced, by turns, and no further than somebody listens."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

import multiframe
from multiframe.catalog import Catalog
from multiframe.ranges import ByteRange
from multiframe.settings import Settings
from multiframe.source import FileSource, Reply
from multiframe.testing import cine
from multiframe.web.app import create_app
from multiframe.web.over_tls import self_signed, serve_tls
from tests.serving import OCTETS
from tests.test_server import parts_of

FRAMES = 150


class Counted:
    """How often a file was read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.ranges: list[ByteRange] = []
        read = FileSource.read_ranges_async

        async def counted(source: FileSource, ranges: Any, /, **options: Any) -> Reply:
            self.calls += 1
            self.ranges += ranges
            return await read(source, ranges, **options)

        monkeypatch.setattr(FileSource, "read_ranges_async", counted)


@asynccontextmanager
async def running(
    path: Path, folder: Path, *, tls: bool, settings: Settings | None = None, complete: bool = True
) -> AsyncIterator[str]:
    """Serve in this process; gives the address of the frames."""
    settings = settings or Settings()
    catalog = Catalog(folder / "catalog.sqlite", settings=settings)
    catalog.scan([path])
    app = create_app(catalog, settings)
    h = multiframe.open(path).header
    if complete:
        catalog.instance(h.sop_instance_uid).complete()
    below = f"studies/{h.study_instance_uid}/series/{h.series_instance_uid}/instances/{h.sop_instance_uid}/frames"
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        at = f"127.0.0.1:{listener.getsockname()[1]}/dicom-web/{below}"
        answers = asyncio.Event()
        if tls:
            stop, loop = asyncio.Event(), asyncio.get_running_loop()
            made = self_signed(folder, ("127.0.0.1",))
            serving = asyncio.create_task(serve_tls(app, listener, made, ready=answers.set, stop=stop))
            await answers.wait()
            yield f"https://{at}"
            stop.set()
            for number in (2, 15):
                loop.remove_signal_handler(number)
        else:
            server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
            server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            yield f"http://{at}"
            server.should_exit = True
        await serving
    catalog.close()


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/1.1 over TLS", "HTTP/2"])
def test_a_client_that_leaves_stops_the_reading(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    pieces = path.stat().st_size // Settings().piece

    async def run() -> None:
        reads = Counted(monkeypatch)
        async with running(path, tmp_path, tls=protocol != "HTTP/1.1") as url:
            http2 = protocol == "HTTP/2"
            client = httpx.AsyncClient(http2=http2, http1=not http2, verify=False)  # noqa: S501
            async with client, client.stream("GET", f"{url}/1-{FRAMES}", headers={"accept": OCTETS}) as answer:
                assert answer.http_version == protocol.partition(" ")[0]
                async for _ in answer.aiter_raw():
                    break
                await asyncio.sleep(0.3)  # it runs ahead until all buffers on the way are full
            await asyncio.sleep(0.1)
            then = reads.calls
            await asyncio.sleep(0.5)
            assert reads.calls == then
            assert 0 < then < pieces, "it had not read it all anyway"

    asyncio.run(run())


def test_neighbours_are_one_read(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list in order each piece is one range; of a list out of order each frame's part of it is."""

    async def run() -> None:
        async with (
            running(path, tmp_path, tls=False, settings=Settings(piece=1 << 20)) as url,
            httpx.AsyncClient() as c,
        ):
            reads = Counted(monkeypatch)
            ahead = await c.get(f"{url}/1-40", headers={"accept": OCTETS})
            assert len(reads.ranges) == reads.calls < 10
            reads.ranges.clear()
            back = await c.get(f"{url}/{','.join(map(str, range(79, 0, -2)))}", headers={"accept": OCTETS})
            assert len(reads.ranges) >= 40
            instance = multiframe.open(path)
            assert [body for _, body in parts_of(ahead)] == [f.data for f in instance.encoded(range(40))]
            assert [body for _, body in parts_of(back)] == [f.data for f in instance.encoded(range(78, -1, -2))]
            assert int(ahead.headers["content-length"]) == len(ahead.content)

    asyncio.run(run())


def test_a_long_list_lets_others_have_their_turn(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients that take everything at once: neither is a few pieces ahead of the other."""
    catalog = Catalog(tmp_path / "catalog.sqlite")
    catalog.scan([path])
    h = multiframe.open(path).header
    catalog.instance(h.sop_instance_uid).complete()
    below = f"studies/{h.study_instance_uid}/series/{h.series_instance_uid}/instances/{h.sop_instance_uid}/frames"

    async def run() -> None:
        app = create_app(catalog)
        taken = {"greedy": 0, "other": 0}
        apart = 0

        async def ask(who: str, frames: str) -> None:
            scope = {
                "type": "http", "method": "GET", "path": f"/dicom-web/{below}/{frames}", "query_string": b"",
                "headers": [(b"host", b"localhost"), (b"accept", OCTETS.encode())], "client": (who, 1),
                "server": ("localhost", 80), "scheme": "http", "http_version": "1.1", "root_path": "",
            }  # fmt: skip

            async def receive() -> Any:
                await asyncio.sleep(60)

            async def send(message: Any) -> None:
                nonlocal apart
                taken[who] += bool(message.get("body"))
                if who == "other" and taken["other"] > 1:
                    apart = max(apart, taken["greedy"] - taken["other"])

            await app(scope, receive, send)

        async with app.router.lifespan_context(app):
            greedy = asyncio.create_task(ask("greedy", f"1-{FRAMES}"))
            other = asyncio.create_task(ask("other", f"1-{FRAMES // 4}"))
            await asyncio.wait([greedy, other], return_when=asyncio.FIRST_COMPLETED)
            assert other.done()
            assert not greedy.done()
            assert apart < 20
            await greedy

    asyncio.run(run())
    catalog.close()


async def _ask_plainly(url: str) -> int:
    """Ask on a connection of one's own, at once."""
    parts = httpx.URL(url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    lines = f"GET {parts.path} HTTP/1.1\r\nHost: localhost\r\nAccept: {OCTETS}\r\nConnection: close\r\n\r\n"
    writer.write(lines.encode())
    answer = await reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}\r\n".encode() in head + b"\r\n"
    writer.close()
    return int(head[9:12])


@pytest.mark.parametrize("tls", [False, True])
def test_a_thousand_frames_from_one_tab(tmp_path: Path, tls: bool) -> None:
    """None fails, in a budget of a dozen of them; and one who comes after all of them is not the last to be served."""
    path = tmp_path / "small.dcm"
    cine(path, frames=FRAMES, rows=96, columns=128)

    async def run() -> None:
        settings = Settings(memory=64 << 10)
        async with running(path, tmp_path, tls=tls, settings=settings) as url:
            done: list[str] = []
            options: dict[str, Any] = {"verify": False, "timeout": 60, "http2": tls}
            async with httpx.AsyncClient(**options) as tab, httpx.AsyncClient(**options) as other:

                async def ask(client: httpx.AsyncClient, who: str, i: int) -> int:
                    frame = f"{url}/{1 + i % FRAMES}"
                    if who == "tab" and not tls:
                        status = await _ask_plainly(frame)
                    else:
                        status = (await client.get(frame, headers={"accept": OCTETS})).status_code
                    done.append(who)
                    return status

                await ask(other, "before", 0)
                count = 1000 if tls else 400  # sockets, both ends in this process
                asked = [asyncio.create_task(ask(tab, "tab", i)) for i in range(count)]
                await asyncio.sleep(0)
                statuses = {await ask(other, "other", 3)}
                statuses |= set(await asyncio.gather(*asked))
            assert statuses == {200}
            assert done.index("other") < count - 10

    asyncio.run(run())


def test_no_file_stays_open(path: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(path, tmp_path, tls=False) as url:
            async with httpx.AsyncClient() as client:
                for _ in range(3):
                    async with client.stream("GET", f"{url}/1-{FRAMES}", headers={"accept": OCTETS}) as answer:
                        async for _ in answer.aiter_raw():
                            break
            await asyncio.sleep(0.1)
            opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
            assert str(path) not in opened

    asyncio.run(run())


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("tls", [False, True])
def test_a_list_of_frames_still_to_be_found_is_sent_while_they_are(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    """Chunked and without ranges then; the same bytes under the same tag, with a length, once all are found."""
    grown: list[int] = []
    grow = multiframe.Instance.grow_async

    async def counted(instance: Any, until: Any, **options: Any) -> Any:
        grown.append(until)
        return await grow(instance, until, **options)

    async def run() -> None:
        client = httpx.AsyncClient(http2=tls, http1=not tls, verify=False)  # noqa: S501
        async with running(path, tmp_path, tls=tls, complete=False) as url, client:
            asked = f"{url}/2,1,{FRAMES // 2}-{FRAMES}"
            monkeypatch.setattr(multiframe.Instance, "grow_async", counted)
            early = await client.get(asked, headers={"accept": OCTETS, "range": "bytes=0-9"})
            assert early.status_code == 200
            assert grown[0] == 1, "not all frames are found before the first is sent"
            assert not {"content-length", "accept-ranges"} & set(early.headers)
            late = early
            for _ in range(100):
                late = await client.get(asked, headers={"accept": OCTETS})
                if "content-length" in late.headers:
                    break
                await asyncio.sleep(0.05)
            assert int(late.headers["content-length"]) == len(late.content)
            assert early.content == late.content
            for name in ("content-type", "etag", "cache-control"):
                assert early.headers[name] == late.headers[name]
            assert len(parts_of(early)) == 3 + FRAMES // 2
            kept = await client.get(asked, headers={"accept": OCTETS, "if-none-match": early.headers["etag"]})
            assert kept.status_code == 304

    asyncio.run(run())


def _never_completed(app: Any) -> None:
    """Nothing is found behind the answers."""
    app.state.indexer.complete = lambda instance: None


async def _listed(path: Path, folder: Path, **settings: Any) -> tuple[Any, Any, str]:
    catalog = Catalog(folder / "catalog.sqlite", settings=Settings(**settings))
    catalog.scan([path])
    app = create_app(catalog, Settings(**settings))
    h = multiframe.open(path).header
    below = f"studies/{h.study_instance_uid}/series/{h.series_instance_uid}/instances/{h.sop_instance_uid}/frames"
    return catalog, app, f"/dicom-web/{below}"


def test_lists_that_are_not_read_hold_a_piece_each_and_those_that_look_for_frames_none(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neighbours are one read, a client that takes no more stops the reading, and one that goes frees the memory."""
    piece = 64 << 10
    reads = Counted(monkeypatch)

    async def run() -> None:
        catalog, app, url = await _listed(path, tmp_path, piece=piece, memory=8 << 20, cache_share=0.1)
        async with app.router.lifespan_context(app):
            _never_completed(app)
            budget, leaves, stalled = app.state.budget, asyncio.Event(), asyncio.Event()
            before, looked = budget.held, []
            grow = multiframe.Instance.grow_async

            async def seen(instance: Any, until: Any, **options: Any) -> Any:
                looked.append(budget.held)
                return await grow(instance, until, **options)

            monkeypatch.setattr(multiframe.Instance, "grow_async", seen)
            bodies: list[list[bytes]] = [[], []]

            async def ask(number: int) -> None:
                scope = {
                    "type": "http", "method": "GET", "path": f"{url}/1-{FRAMES}", "query_string": b"",
                    "headers": [(b"host", b"localhost"), (b"accept", OCTETS.encode())], "client": ("here", number),
                    "server": ("localhost", 80), "scheme": "http", "http_version": "1.1", "root_path": "",
                }  # fmt: skip

                async def receive() -> Any:
                    await leaves.wait()
                    return {"type": "http.disconnect"}

                async def send(message: Any) -> None:
                    bodies[number].append(bytes(message.get("body", b"")))
                    if number == 0 and sum(map(len, bodies[0])) > 10 * piece:
                        stalled.set()
                        await leaves.wait()

                await app(scope, receive, send)

            slow = asyncio.create_task(ask(0))
            await stalled.wait()
            assert piece // 2 < budget.held - before <= piece + app.state.catalog._cache._held
            calls, size = reads.calls, len(bodies[0])
            await asyncio.sleep(0.1)
            assert (reads.calls, len(bodies[0])) == (calls, size)
            leaves.set()
            await slow
            assert reads.calls <= calls + 1
            leaves.clear()
            looked.clear()
            await ask(1)
            body = b"".join(bodies[1])
            assert max(looked) <= before + app.state.catalog._cache._held
            frames = multiframe.open(path).encoded(range(FRAMES))
            assert [body for _, body in parts_of(httpx.Response(200, content=body, headers=_type(body)))] == [
                frame.data for frame in frames
            ]
            assert budget.held <= before + app.state.catalog._cache._held
        catalog.close()

    asyncio.run(run())


def _type(body: bytes) -> dict[str, str]:
    boundary = body.partition(b"\r\n")[0].decode().removeprefix("--")
    return {"content-type": f'multipart/related; type="image/jpeg"; boundary={boundary}'}
