"""A token behind the ``#`` of an address, in a real Chromium: the viewer and OHIF show it, and it is in no address."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request

import multiframe
from multiframe.settings import cache_folder
from multiframe.testing import cine
from multiframe.web.tokens import line_of, new_token
from tests.chromium import page_of, wait_for
from tests.serving import Server, serving

OHIF = Path(os.environ.get("OHIF") or cache_folder(os.environ) / "ohif")
ohif_is_here = (OHIF / "index.html").is_file()

pytestmark = pytest.mark.browser

TOKEN, OTHER = new_token(), new_token()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for seed in (1, 2):
        cine(folder / f"{seed}.dcm", frames=5, rows=96, columns=128, seed=seed)
    return folder / "1.dcm"


@pytest.fixture(scope="module")
def server(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    cache = tmp_path_factory.mktemp("cache")
    study = multiframe.open(path).header.study_instance_uid
    reading = ["search", "read", "render"]
    (cache / "tokens").write_text(
        line_of(TOKEN, "page", reading, [study], None) + line_of(OTHER, "test", reading, ["*"], None)
    )
    options = ["--tokens", str(cache / "tokens"), *(["--ohif-dir", str(OHIF)] if ohif_is_here else [])]
    with serving([path.parent], *options, cache=cache, headers={"authorization": f"Bearer {OTHER}"}) as server:
        yield server


class Seen:
    """What a page asks for."""

    def __init__(self, page: Page) -> None:
        self.requests: list[Request] = []
        page.on("request", lambda request: self.requests.append(request))

    def check(self) -> None:
        """Each request for data has shown the token, and none has it in its address."""
        asked = [r for r in self.requests if "/dicom-web/" in r.url or "/api/" in r.url]
        assert any("/frames/" in r.url for r in asked)
        for request in asked:
            assert request.header_value("authorization") == f"Bearer {TOKEN}", request.url
        assert not [r.url for r in self.requests if TOKEN in r.url or TOKEN in (r.header_value("referer") or "")]


def test_the_viewer_shows_the_token_it_was_opened_with(browser: Browser, server: Server, path: Path) -> None:
    h = multiframe.open(path).header
    place = f"/study/{h.study_instance_uid}/series/{h.series_instance_uid}/instance/{h.sop_instance_uid}"
    with page_of(browser) as page:
        seen = Seen(page)
        page.goto(f"{server.url}#{place}?token={TOKEN}&frame=3")
        assert wait_for(3, lambda: page.evaluate("() => window.multiframe.painted()")) == 3
        assert page.url == f"{server.url}#{place}?frame=3"
        page.reload()
        assert wait_for(3, lambda: page.evaluate("() => window.multiframe.painted()")) == 3
        page.goto(f"{server.url}#")
        assert wait_for(1, lambda: page.locator("tbody tr").count()) == 1, "the other study is not for this token"
        seen.check()
    with page_of(browser) as page:
        page.goto(server.url)
        page.get_by_text("HTTP 401").first.wait_for()


@pytest.mark.skipif(not ohif_is_here, reason="no OHIF here: make ohif brings one")
def test_ohif_shows_the_token_it_was_opened_with(browser: Browser, server: Server, path: Path) -> None:
    study = multiframe.open(path).header.study_instance_uid
    shown = "() => window.cornerstone?.getEnabledElements?.()[0]?.viewport.getCornerstoneImage?.()?.columns ?? 0"
    with page_of(browser) as page:
        seen = Seen(page)
        page.goto(f"{server.url}ohif/viewer?StudyInstanceUIDs={study}#token={TOKEN}")
        assert wait_for(128, lambda: page.evaluate(shown)) == 128
        assert TOKEN not in page.url
        seen.check()
