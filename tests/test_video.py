"""A video in DICOM, in a plain ``<video>`` of a real Chromium: it plays, and winds to any picture by range requests."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from playwright.sync_api import Browser, Page

import multiframe
from multiframe.testing import Layout, cine, part10
from tests.chromium import number_on_screen, page_of, wait_for
from tests.serving import Server

MPEG4_HIGH_41 = "1.2.840.10008.1.2.4.102"
FRAMES, RATE = 60, 12
ROWS, COLUMNS = 192, 256

pytestmark = pytest.mark.browser


def film(folder: Path) -> bytes:
    """Numbered pictures as H.264 in MP4; what says where they lie comes last, as encoders leave it."""
    cine(folder / "cine", frames=FRAMES, rows=ROWS, columns=COLUMNS)
    cast = multiframe.open(folder / "cine")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "2", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = COLUMNS, ROWS, "yuv420p"
        for i in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(cast.pixels(i)), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    (folder / "cine").unlink()
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    data = part10(
        [film(folder)], rows=ROWS, columns=COLUMNS, syntax=MPEG4_HIGH_41, samples=3, photometric="YBR_PARTIAL_420",
        layout=Layout(fragments=3), number_of_frames=FRAMES,
    )  # fmt: skip
    (folder / "video").write_bytes(data)
    return folder


def number(page: Page) -> int | None:
    return number_on_screen(page, (0, 0, COLUMNS, ROWS))


def test_a_video_plays_and_winds(browser: Browser, server: Server, folder: Path) -> None:
    h = multiframe.open(folder / "video").header
    series = f"{server.url}dicom-web/studies/{h.study_instance_uid}/series/{h.series_instance_uid}"
    [metadata] = server.client.get(f"{series}/instances/{h.sop_instance_uid}/metadata").json()
    told = metadata["7FE00010"]["BulkDataURI"]
    statuses: set[int] = set()
    with page_of(browser) as page:
        page.on("response", lambda r: statuses.add(r.status))
        for address in (
            told,
            f"{series}/instances/{h.sop_instance_uid}/pixeldata?accept=video/mp4",
            f"{series}/instances/{h.sop_instance_uid}/rendered",
        ):
            page.set_content(f'<body style="margin: 0"><video src="{address}" muted preload="metadata"></video>')
            page.wait_for_function("() => document.querySelector('video').readyState >= 1")
            duration = page.evaluate("() => document.querySelector('video').duration")
            assert duration == pytest.approx(FRAMES / RATE, abs=0.1)
            for frame in (1, 50, 7):
                page.evaluate("at => { document.querySelector('video').currentTime = at }", (frame - 0.5) / RATE)
                assert wait_for(frame, lambda: number(page)) == frame
        page.evaluate("() => document.querySelector('video').play()")
        page.wait_for_function("() => document.querySelector('video').ended")
        assert wait_for(FRAMES, lambda: number(page)) == FRAMES
    assert statuses == {206}
