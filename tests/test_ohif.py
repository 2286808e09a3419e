"""OHIF as its package has it, in a real Chromium, over `serve --ohif`: the picture on the screen tells its frame."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import multiframe
from multiframe.settings import cache_folder
from multiframe.testing import cine
from tests.chromium import number_on_screen, page_of, renderer_rss, wait_for
from tests.serving import Server
from tests.test_catalog import dicom

OHIF = Path(os.environ.get("OHIF") or cache_folder(os.environ) / "ohif")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (OHIF / "index.html").is_file(), reason="no OHIF here: make ohif brings one"),
]

FRAMES = 300

PICTURE = """() => {
  const [shown] = window.cornerstone?.getEnabledElements?.() ?? [];
  const image = shown?.viewport.getCornerstoneImage?.();
  if (!image) return null;
  const place = shown.viewport.element.getBoundingClientRect();
  const scale = Math.min(place.width / image.columns, place.height / image.rows);
  const width = image.columns * scale, height = image.rows * scale;
  return [place.left + (place.width - width) / 2, place.top + (place.height - height) / 2, width, height];
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    cine(folder / "cine", frames=FRAMES)
    (folder / "bare").write_bytes(dicom(StudyInstanceUID="1.2.3", PatientName="Nobody^Knows"))
    return folder


@pytest.fixture(scope="module")
def options() -> Sequence[str]:
    return "--ohif-dir", str(OHIF)


def number(page: Page) -> int | None:
    picture = page.evaluate(PICTURE)
    return number_on_screen(page, picture) if picture else None


def test_a_study_without_modalities_stands_in_the_list(browser: Browser, server: Server) -> None:
    with page_of(browser) as page:
        page.goto(f"{server.url}ohif")
        page.get_by_text("Nobody, Knows").first.wait_for()


def test_it_opens_a_cine_jumps_and_plays(browser: Browser, server: Server, folder: Path) -> None:
    answers: list[tuple[int, str]] = []
    with page_of(browser) as page:
        page.on("response", lambda r: answers.append((r.status, r.url)))
        study = multiframe.open(folder / "cine").header.study_instance_uid
        page.goto(f"{server.url}ohif/viewer?StudyInstanceUIDs={study}")
        assert wait_for(1, lambda: number(page)) == 1
        jump = "index => window.cornerstone.getEnabledElements()[0].viewport.setImageIdIndex(index)"
        for frame in (150, FRAMES, 7):
            page.evaluate(jump, frame - 1)
            assert wait_for(frame, lambda: number(page)) == frame
        page.evaluate("""() => {
            const { viewport } = window.cornerstone.getEnabledElements()[0];
            window.seen = new Set();
            viewport.element.addEventListener(
              'CORNERSTONE_STACK_NEW_IMAGE', () => window.seen.add(viewport.getCurrentImageIdIndex()));
            window.cornerstoneTools.utilities.cine.playClip(viewport.element, { framesPerSecond: 24 });
        }""")
        page.wait_for_function("() => window.seen.size > 25")
        counted, limit = page.evaluate("() => [cornerstone.cache.getCacheSize(), cornerstone.cache.getMaxCacheSize()]")
        assert counted <= limit == 1 << 30
        assert 0 < renderer_rss() < 4 << 30
    ours = [(status, url) for status, url in answers if url.startswith(server.url)]
    assert {status for status, url in ours if "/dicom-web/" in url} <= {200, 204}
    assert len([url for _, url in ours if "/frames/" in url]) > 25
    assert [url for status, url in ours if status >= 400] == []
    assert [url for _, url in answers if not url.startswith((server.url, "data:", "blob:"))] == [], (
        "nobody else is asked"
    )
