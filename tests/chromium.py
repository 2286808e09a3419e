"""Chromium for tests, headless: its flags, what its page processes hold, and the number in a picture on its screen."""

import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from multiframe.testing import read_number

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip

PATIENCE = 120
"""Seconds for what must come: a page that decodes on the cores of other tests is slow, and not wrong."""


@contextmanager
def browser_of() -> Iterator[Browser]:
    """Run a Chromium until the block ends."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "no Chromium: run make test, or set CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Browser, *, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """Open an empty page, of a user who was nowhere before; an error nobody caught in it fails the test."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert not problems


def renderer_rss() -> int:
    """Resident bytes of the largest page process that belongs to us."""
    sizes = [0]
    for p in psutil.Process().children(recursive=True):
        try:
            if "--type=renderer" in p.cmdline():
                sizes.append(p.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return max(sizes)


def number_on_screen(page: Page, picture: tuple[float, float, float, float]) -> int | None:
    """Read the number out of a screenshot; `picture` is left, top, width and height of the picture in it."""
    left, top, width, height = picture
    seen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    return read_number(seen[round(top) : round(top + height), round(left) : round(left + width)])


def wait_for[T](wanted: T, ask, *, seconds: float = PATIENCE) -> T | None:
    """Ask until the answer is the one wanted; gives the last answer."""
    deadline = time.monotonic() + seconds
    while (got := ask()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return got
