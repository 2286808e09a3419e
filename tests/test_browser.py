"""The viewer in a real Chromium, over a real server: the painted picture tells which frame it is."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

import multiframe
from multiframe.demo import real_files
from multiframe.testing import NUMBER_CODE, cine
from tests.chromium import PATIENCE, page_of, renderer_rss
from tests.serving import Server, serving

pytestmark = pytest.mark.browser

FRAMES = 600
CAP = 1200 << 20
"""Resident bytes of the page's process: cornerstone's own cache takes 5 GB for as many colour frames."""

READ_NUMBER = """([code, rows, columns]) => {
  const canvas = document.querySelector('[data-testid="viewport"] canvas, canvas[data-testid="viewport"]');
  const { width: W, height: H } = canvas;
  const scale = Math.min(W / columns, H / rows);  // the picture is fitted into the middle of the viewport
  const w = columns * scale / code.grid_columns, h = rows * scale / code.grid_rows;  // of a cell
  const left = Math.round((W - columns * scale) / 2 + code.left * w);
  const top = Math.round((H - rows * scale) / 2 + code.top * h);
  // Only the code is read: whole pictures, many times a second, would be garbage that counts as the page's memory.
  const width = Math.ceil(code.columns * w);
  const { data } = canvas.getContext('2d').getImageData(left, top, width, Math.ceil(code.rows * h));
  const cells = [];
  for (let row = 0; row < code.rows; row++) for (let col = 0; col < code.columns; col++) {
    let sum = 0, n = 0;
    for (let y = Math.round((row + 0.25) * h); y < (row + 0.75) * h; y++)
      for (let x = Math.round((col + 0.25) * w); x < (col + 0.75) * w; x++) {
        sum += data[4 * (y * width + x) + 1]; n++;
      }
    cells.push(sum / n);
  }
  const low = Math.min(...cells), high = Math.max(...cells);
  if (!(high - low >= 64)) return null;
  const value = bits => bits.reduce((v, c) => 2 * v + (c > (low + high) / 2 ? 1 : 0), 0);
  const number = value(cells.slice(4, 24));
  return value(cells.slice(0, 4)) === code.mark && number % code.modulus === value(cells.slice(24)) ? number : null;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    cine(folder / "cine", frames=FRAMES)
    return folder


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with page_of(browser) as page:
        yield page


def address(server: Server, path: Path, frame: int | None = None) -> str:
    h = multiframe.open(path).header
    where = f"#/study/{h.study_instance_uid}/series/{h.series_instance_uid}/instance/{h.sop_instance_uid}"
    return f"{server.url}{where}" + (f"?frame={frame}" if frame else "")


def painted(page: Page, wanted: int | None = None) -> int | None:
    """Give the number read from the picture, waiting until it is the one wanted."""
    deadline = time.monotonic() + PATIENCE
    while True:
        number: int | None = page.evaluate(READ_NUMBER, [NUMBER_CODE._asdict(), 768, 1024])
        if (number is not None and wanted in (None, number)) or time.monotonic() > deadline:
            return number
        page.wait_for_timeout(20)


def test_the_first_frame_costs_one_frame(page: Page, server: Server, folder: Path) -> None:
    fetched: list[int] = []
    page.on(
        "response", lambda r: fetched.append(int(r.headers.get("content-length", 0))) if "/frames/" in r.url else None
    )
    page.goto(address(server, folder / "cine"))
    page.evaluate("() => window.multiframe.ready")
    assert painted(page) == 1
    assert 0 < fetched[0] < 400_000


def test_it_plays_jumps_and_stays_small(page: Page, server: Server, folder: Path) -> None:
    page.goto(address(server, folder / "cine"))
    page.evaluate("() => window.multiframe.ready")
    assert painted(page, 1) == 1

    middle = FRAMES // 2
    page.evaluate("n => window.multiframe.goto(n)", middle)
    assert painted(page, middle) == middle
    for n in (FRAMES, 2, 411, 77):
        page.evaluate("n => window.multiframe.goto(n)", n)
        assert painted(page, n) == n

    page.evaluate("() => window.multiframe.goto(1)")
    assert painted(page, 1) == 1  # the frame before stays on the screen until this one is there
    page.evaluate("() => window.multiframe.play()")
    seen: list[int] = []
    peak = 0
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and (not seen or max(seen) < FRAMES - 40):
        number, said = page.evaluate(
            f"arguments => {{ const seen = ({READ_NUMBER})(arguments); return [seen, window.multiframe.painted()]; }}",
            [NUMBER_CODE._asdict(), 768, 1024],
        )
        if number is not None:
            assert abs(number - said) <= 1, "what is shown is what is said"
            seen.append(number)
        peak = max(peak, renderer_rss())
    page.evaluate("() => window.multiframe.pause()")
    assert len(set(seen)) > 100
    assert seen == sorted(seen), "never back while it plays forward"
    assert 0 < peak < CAP


def test_who_cannot_wait_sees_it_play_once_it_is_open(page: Page, server: Server, folder: Path) -> None:
    held: list[Route] = []
    page.route("**/metadata", lambda route: held.append(route))  # which it marks
    page.goto(address(server, folder / "cine"))
    page.wait_for_selector(".spinner:visible")
    for key in ("Space", "Space", "Space", "End"):  # to play, not to play, to play; and nowhere is there to go yet
        page.keyboard.press(key)
    held[0].continue_()
    page.wait_for_function("() => window.multiframe.painted() > 5")
    page.evaluate("() => window.multiframe.pause()")
    assert (painted(page) or FRAMES) < FRAMES


def test_play_goes_on_over_a_damaged_frame(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    cine(path, frames=40)
    start = multiframe.open(path).index[20].start
    with path.open("r+b") as file:
        file.seek(start + 100)
        file.write(bytes(range(256)) * 8)
    with serving([path], cache=tmp_path / "cache") as server:
        page.goto(address(server, path, 21))
        trouble = page.locator(".trouble strong")
        trouble.wait_for()
        assert trouble.inner_text() == "This frame cannot be shown: its data is damaged"
        page.evaluate("() => window.multiframe.goto(1)")
        assert painted(page, 1) == 1, "the first picture after a failed opening"
        page.evaluate("""() => {
            window.seen = [];
            const look = () => {
              const failed = !document.querySelector('.trouble').hidden;
              const hidden = getComputedStyle(document.querySelector('.picture canvas')).visibility === 'hidden';
              window.seen.push([document.querySelector('.frame-line').textContent, failed, hidden]);
              requestAnimationFrame(look);
            };
            look();
            window.multiframe.goto(15);
            window.multiframe.play();
        }""")
        page.wait_for_function("() => window.multiframe.painted() > 25")
        page.evaluate("() => window.multiframe.pause()")
        seen = page.evaluate("() => window.seen")
        assert ["21 / 40", True, True] in seen, "its place, the error, no picture"
        assert all(hidden and line == "21 / 40" for line, failed, hidden in seen if failed)
        now = page.evaluate("() => window.multiframe.painted()")
        assert painted(page, now) == now


def test_real_cines_are_listed_and_painted(page: Page, tmp_path: Path) -> None:
    path = real_files()[0]
    with serving([path], cache=tmp_path) as server:
        page.goto(server.url)
        h = multiframe.open(path).header
        link = page.locator(f'a[href*="{h.study_instance_uid}"]').first
        link.wait_for()
        link.click()
        page.evaluate("() => window.multiframe.ready")
        page.evaluate("n => window.multiframe.goto(n)", 20)
        page.wait_for_function("() => window.multiframe.painted() === 20")
        colours = page.evaluate(
            """() => {
            const c = document.querySelector('[data-testid="viewport"] canvas, canvas[data-testid="viewport"]');
            const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            return new Set(Array.from({length: 4000}, (_, i) => d[4 * i * Math.floor(d.length / 16000)])).size; }"""
        )
        assert colours > 16, "a picture, not a blank"
