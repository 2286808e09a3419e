"""The short way of a frame gives what the long one gives, and is taken only where nothing has changed."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.data import get_testdata_file

import multiframe
from multiframe.catalog import Catalog
from multiframe.settings import Settings
from multiframe.testing import Layout, cine
from multiframe.web.again import Again
from multiframe.web.app import create_app
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

    asyncio.run(run())


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
        assert (await app.get(2, "OPTIONS")).status_code in (400, 405)
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
