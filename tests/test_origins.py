"""Viewers on another origin, in a real Chromium: which of their requests it asks leave for, and that it gets it."""

import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from playwright.sync_api import Browser, Page
from starlette.types import Receive, Scope, Send

import multiframe
from multiframe.catalog import Catalog
from multiframe.settings import Settings
from multiframe.testing import cine
from multiframe.web.app import create_app
from tests.chromium import page_of

FRAME = "multipart/related; type=application/octet-stream; transfer-syntax=*"
QUOTED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
DICOM_JSON = "application/dicom+json"


class Site:
    """The application on a port, whose requests are counted; and a page elsewhere."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        (folder / "files").mkdir()
        cine(folder / "files" / "cine", frames=20, rows=96, columns=128)
        header = multiframe.open(folder / "files" / "cine").header
        self.catalog = Catalog(folder / "catalog.sqlite")
        self.catalog.scan([folder / "files"])
        self.app = create_app(self.catalog, Settings(**settings))
        self.asked: Counter[str] = Counter()
        self.server = uvicorn.Server(
            uvicorn.Config(self.counted, log_level="error", port=0, lifespan="on", interface="asgi3")
        )
        self.study = f"studies/{header.study_instance_uid}"
        self.series = f"{self.study}/series/{header.series_instance_uid}"
        self.instance = f"{self.series}/instances/{header.sop_instance_uid}"

    async def counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.asked[scope["method"]] += 1
        await self.app(scope, receive, send)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/dicom-web"


@contextmanager
def run(site: Site, host: str = "localhost") -> Iterator[str]:
    """Run it until the block ends; gives the address of the page."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    thread = threading.Thread(target=site.server.run, daemon=True)
    thread.start()
    while not site.server.started:
        assert thread.is_alive()
    with http.server.ThreadingHTTPServer((host, 0), partial(Quiet, directory="/nowhere")) as pages:
        serving = threading.Thread(target=pages.serve_forever, daemon=True)
        serving.start()
        yield f"http://{host}:{pages.server_port}/"
        pages.shutdown()
        serving.join()
    site.server.should_exit = True
    thread.join()
    site.catalog.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


ASK = """async ([url, headers, times, cache]) => {
    for (let i = 0; i < times; i++) {
        const answer = await fetch(url, { headers, cache });
        const body = await answer.arrayBuffer();
        if (!answer.ok) throw new Error(`${answer.status} ${url}`);
        if (!body.byteLength) throw new Error('nothing');
    }
    return true;
}"""


def ask(
    page: Page, url: str, headers: dict[str, str] | None = None, *, times: int = 1, cache: str = "no-store"
) -> None:
    assert page.evaluate(ASK, [url, headers or {}, times, cache])


@pytest.mark.browser
def test_what_viewers_ask_for_costs_no_question_before(browser: Browser, site: Site) -> None:
    """Searches, metadata, frames, parts of frames and pictures, in the headers OHIF and cornerstone3D send."""
    with run(site) as elsewhere, page_of(browser) as page:
        page.goto(elsewhere)
        ask(page, f"{site.root}/studies?limit=25&includefield=00081030", {"Accept": DICOM_JSON})
        ask(page, f"{site.root}/{site.study}/series", {"Accept": DICOM_JSON})
        ask(page, f"{site.root}/{site.series}/metadata", {"Accept": DICOM_JSON})
        for number in range(1, 11):
            ask(page, f"{site.root}/{site.instance}/frames/{number}", {"Accept": FRAME})
        ask(page, f"{site.root}/{site.instance}/frames/1", {"Accept": FRAME, "Range": "bytes=0-999"})
        ask(page, f"{site.root}/{site.instance}/frames/1?accept={QUOTED.replace('+', '%2B')}")
        ask(page, f"{site.root}/{site.instance}/frames/1/rendered", {"Accept": "image/jpeg"})
        ask(page, f"{site.root}/{site.instance}/bulkdata/7FE00010", {"Accept": "*/*"})
        assert site.asked == {"GET": 17}


@pytest.mark.browser
def test_what_has_to_be_asked_before_is_asked_once_an_address(browser: Browser, site: Site) -> None:
    """Quotes in Accept, a token, what libraries add: Chromium's rule. Leave is given, and kept."""
    with run(site) as elsewhere, page_of(browser) as page:
        page.goto(elsewhere)
        for number, headers in enumerate((
            {"Accept": QUOTED}, {"Accept": FRAME, "Authorization": "Bearer x"},
            {"X-Request-Id": "9f1c9b0e-6a0f-4b43-9be1-0f6e1b3c5a11", "traceparent": "00-1-2-00", "pragma": "no-cache"},
        ), 1):  # fmt: skip
            before = site.asked["OPTIONS"]
            ask(page, f"{site.root}/{site.instance}/frames/{number}", headers, times=5, cache="default")
            assert site.asked["OPTIONS"] - before == 1, headers


@pytest.mark.browser
def test_what_is_told_can_be_read(browser: Browser, site: Site) -> None:
    """And every answer says that it depends on the origin, also to who says none: a cache may have it for others."""
    with run(site) as elsewhere, page_of(browser) as page:
        page.goto(elsewhere)
        for headers in ({}, {"origin": elsewhere[:-1]}, {"origin": "https://evil.example"}):
            for below in ("frames/1", "frames/1", "metadata", "frames/99"):
                answer = httpx.get(f"{site.root}/{site.instance}/{below}", headers=headers)
                assert answer.headers["vary"].lower().count("origin") == 1
        told = page.evaluate(
            """async ([url, accept]) => {
                const answer = await fetch(url, { headers: { Accept: accept, Range: 'bytes=5-9' } });
                return ['content-range', 'etag', 'accept-ranges', 'content-length'].map(n => answer.headers.get(n));
            }""",
            [f"{site.root}/{site.instance}/frames/1", FRAME],
        )
        assert all(told)
        assert told[0].startswith("bytes 5-9/")


@pytest.mark.browser
@pytest.mark.parametrize("allowed", [(), ("*",)])
def test_only_those_who_may_read(browser: Browser, tmp_path: Path, allowed: tuple[str, ...]) -> None:
    """A page of an origin that is not one of ours: as the settings say."""
    site = Site(tmp_path, allow_origins=allowed)
    with run(site, "127.0.0.2") as elsewhere, page_of(browser) as page:
        page.goto(elsewhere)
        read = page.evaluate("url => fetch(url).then(() => true, () => false)", f"{site.root}/studies")
        assert read is bool(allowed)
