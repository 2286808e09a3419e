"""What tests of the catalog, and of all that stands on it, share: the databases it may lie in."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres import PostgreSQL


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
