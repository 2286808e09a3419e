"""What many tests share: a server, a browser, the databases a catalog may lie in, and interrupts that arrive."""

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from multiframe.catalog import Catalog
from multiframe.testing import cine
from tests.chromium import browser_of
from tests.postgres import PostgreSQL
from tests.serving import Server, serving


def pytest_configure() -> None:
    # A job in a shell's background is started with interrupts ignored, and hands that on to all that it starts.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cine of as many frames as the module's FRAMES says."""
    path = tmp_path_factory.mktemp("cine") / "cine.dcm"
    cine(path, frames=request.module.FRAMES)
    return path


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A catalog with nothing in it: a module may have another."""
    catalog = Catalog(tmp_path / "catalog.sqlite")
    yield catalog
    catalog.close()


@pytest.fixture(scope="module")
def options() -> Sequence[str]:
    """Options of `server`: a module gives its own."""
    return ()


@pytest.fixture(scope="module")
def server(folder: Path, options: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`multiframe serve` over the `folder` of the module."""
    with serving([folder], *options, cache=tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of the module's own: while Playwright runs, no test in this thread can run an event loop."""
    with browser_of() as browser:
        yield browser


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for all tests; each has a schema of its own."""
    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database: whoever asks for it, or for `new_database`, is run with each."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def new_database(kind: str, request: pytest.FixtureRequest) -> Callable[[Path], Path | str]:
    """Name a database that nobody has used: a file in the folder given, or a URL."""
    if kind == "sqlite":
        return lambda folder: folder / "catalog.sqlite"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return lambda _: server.fresh()
