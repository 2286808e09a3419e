"""The database under the catalog: SQLite in a file of its own, or PostgreSQL, which many servers share.

It opens it, brings its tables up to date, runs transactions and says in our words what went wrong. One writer writes at
a time, on however many machines: SQLite has it so, and in PostgreSQL a lock of the database sees to it, so that what is
right with one is right with the other. A reader sees one state from beginning to end. It must not know what the tables
hold; no value, and no password, gets out.
"""

import fcntl
import logging
import os
import select
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event

from multiframe.errors import CatalogFull, CatalogUnavailable
from multiframe.migrations import REVISIONS
from multiframe.schema import schema

__all__ = ["BUSY", "Database", "among", "insert", "is_url", "look"]

log = logging.getLogger("multiframe.catalog")

BUSY = 10.0
"""Seconds a writer waits for another, and anybody for a connection."""

_UPGRADE = 600.0  # seconds that bringing a large database up to date may take
_FRESH = 1.0  # seconds for which a connection is believed to be one
_LOCK = 0x6D756C7469667261  # of the one writer: "multifra"
_version = sa.table("alembic_version", sa.column("version_num", sa.String))  # Alembic's own


def is_url(database: Path | str) -> bool:
    """Whether a database is named by a URL, not by a path."""
    return isinstance(database, str) and "://" in database


class Database:
    """A database, opened and up to date.

    Parameters
    ----------
    place : path or str
        A file of its own, made if it is not there; or, with ``://`` in it, a URL: ``postgresql://USER@HOST/NAME``, or
        ``sqlite:///PATH``.
    may_be_away : bool
        Whether it may be used before it answers: every transaction fails until it does, and the first then makes the
        tables or brings them up to date.

    Attributes
    ----------
    name : str
        What it is called in messages: no password is in it.
    shared : bool
        Whether other machines may use it too.

    Raises
    ------
    CatalogUnavailable
        It cannot be reached, is damaged, was written by a newer version, or is none of ours.
    """

    def __init__(self, place: Path | str, *, may_be_away: bool = False) -> None:
        if is_url(place):
            url = _url(str(place))
            self.name = url.render_as_string(hide_password=True).partition("?")[0]
        else:
            url = sa.URL.create("sqlite", database=str(place))
            self.name = str(place)
            _make_private(Path(place))
        self._file: tuple[int, int] | None = None
        self._finding = threading.RLock()
        self.shared = url.get_backend_name() == "postgresql"
        # Parameters of statements are patients' data: they must not come out in an error.
        if self.shared:
            self._engine = self._postgresql(url)
        else:
            self._engine = sa.create_engine(url, hide_parameters=True)
            event.listen(self._engine, "connect", on_connect)
            event.listen(self._engine, "begin", _on_begin)
        if self.shared:
            # A reader sees one state. A writer sees what there is when its turn comes, not when it began to wait.
            self._writer = self._engine.execution_options(isolation_level="READ COMMITTED", writes=True)
            self._alone: sa.Engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            self._engine = self._engine.execution_options(isolation_level="REPEATABLE READ")
        else:
            self._writer = self._engine.execution_options(writes=True)
            self._alone = self._engine
        self._prepared = False
        if may_be_away and self.shared and self.away():
            return
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _postgresql(self, url: sa.URL) -> sa.Engine:
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise CatalogUnavailable(f"{self.name}: install its driver: pip install 'multiframe[postgresql]'") from None
        defaults = {
            "application_name": "multiframe",
            "connect_timeout": "5",
            # A machine that is gone is noticed, here and there: its lock must not outlive it for long.
            "tcp_user_timeout": "15000",
            "keepalives_idle": "15",
        }
        engine = sa.create_engine(
            url.set(query={**defaults, **url.query}),
            hide_parameters=True,
            pool_timeout=BUSY,
            pool_use_lifo=True,  # what was used last has what is asked most prepared
            max_overflow=30,
        )
        event.listen(engine, "checkin", _on_checkin)
        event.listen(engine, "checkout", _on_checkout)
        event.listen(engine, "begin", _on_begin_postgresql)
        return engine

    def away(self) -> str:
        """Say why nobody answers; nothing, if somebody does."""
        try:
            self._engine.connect().close()
        except sa.exc.OperationalError as error:
            return f"{self.name}: {self._advice(error)}"
        except sa.exc.DBAPIError:
            pass  # waiting helps nothing: whoever uses it is told
        return ""

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(
        self, *, write: bool = False, alone: bool = False, patience: float | None = None
    ) -> Iterator[sa.Connection]:
        """Run a transaction; whatever the database has to say leaves as an error of ours, without any value.

        Parameters
        ----------
        write : bool
            Whether it writes: then it waits for its turn.
        alone : bool
            Whether each statement may see the state of its own moment: beginning and ending are two trips less.
        patience : float, optional
            Seconds that may take, if not `BUSY`.

        Raises
        ------
        CatalogUnavailable
            It is away, busy, full, or damaged.
        """
        if not self._prepared:
            self._prepare()  # several may do so at once: one writes, the others find it done
        with self._transaction(write=write, alone=alone, patience=patience) as connection:
            yield connection

    @contextmanager
    def _transaction(
        self, *, write: bool = False, alone: bool = False, patience: float | None = None
    ) -> Iterator[sa.Connection]:
        if not self.shared:
            self._find_again()
        try:
            engine = self._writer if write else self._alone if alone else self._engine
            if patience is not None:
                engine = engine.execution_options(patience=patience)
            with engine.begin() as connection:
                yield connection
        except sa.exc.TimeoutError:
            raise CatalogUnavailable(f"{self.name}: no connection came free for {BUSY:g} s; try again") from None
        except sa.exc.DBAPIError as error:
            full = CatalogFull if _is_full(error) else CatalogUnavailable
            raise full(f"{self.name}: {self._advice(error)}") from None

    def _find_again(self) -> None:
        """Begin anew where the file was removed or replaced: connections would go on with what nobody else sees."""
        path = Path(self._engine.url.database or "")
        with self._finding:  # others wait until it has its tables
            known = self._file
            if known != (there := _identity(path)) or there is None:
                _make_private(path)
                self._file = _identity(path)
                if known is not None:
                    log.warning("%s was taken away: a new one is made, and filled by a scan", self.name)
                    self._engine.dispose()
                    self._prepare()

    @contextmanager
    def claim(self, what: str) -> Iterator[bool]:
        """Claim to be the only one who does something, until the block ends or the process dies; gives whether it is.

        What is claimed is spared, not made safe: a server that lost its connection has lost its claim, too.
        """
        digest = sha256(what.encode("utf-8", "surrogateescape")).digest()
        if not self.shared:
            with open(f"{self._engine.url.database}.{digest[:4].hex()}.lock", "w", opener=_private) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    yield False
                else:
                    yield True
            return
        key = int.from_bytes(digest[:8], signed=True)
        with ExitStack() as held:
            try:
                connection = held.enter_context(self._engine.connect())
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                got = connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({key})").scalar_one()
                held.callback(connection.invalidate)  # the lock goes with the connection
            except sa.exc.DBAPIError as error:
                raise CatalogUnavailable(f"{self.name}: {self._advice(error)}") from None
            yield bool(got)

    def _advice(self, error: sa.exc.DBAPIError) -> str:
        busy = f"another process kept it busy for {BUSY:g} s; try again"
        if self.shared:
            state = getattr(error.orig, "sqlstate", None)
            if state == "55P03":  # lock_not_available
                return busy
            if isinstance(error, sa.exc.OperationalError) or state is None:
                return f"the database does not answer ({_first_line(error)}); it is asked again with the next request"
            # The server's own words can hold values: its five letters say which error it is.
            return f"the database refused a statement (SQLSTATE {state}): is it a catalog of multiframe?"
        said = str(error.orig)
        if "locked" in said or "busy" in said:
            return busy
        if isinstance(error, sa.exc.OperationalError) and "no such" not in said:
            return said  # the disk is full, the file is not ours to write, ...
        return f"the catalog is damaged ({said}): it is only a cache, delete the file and start again"

    def _prepare(self) -> None:
        """Make the tables, or bring them up to date; Alembic is imported only for the latter."""
        with self._transaction() as connection:
            if self._revision(connection) == REVISIONS[-1]:
                self._prepared = True
                return
        # Another server may be at it, and has much to do.
        with self._transaction(write=True, patience=_UPGRADE) as connection:
            revision = self._revision(connection)
            if revision is None:
                schema.create_all(connection)
                connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
                connection.execute(sa.insert(_version).values(version_num=REVISIONS[-1]))
            elif revision not in REVISIONS:
                newer = "was written by a newer version of multiframe" if revision else "is not a catalog of multiframe"
                raise CatalogUnavailable(
                    f"{self.name} {newer}: name another one, or delete it (a catalog is only a cache)"
                )
            elif revision != REVISIONS[-1]:
                from multiframe.migrations.upgrade import upgrade

                upgrade(connection)
        self._prepared = True
        self._engine.dispose()  # connections that wait so long

    @staticmethod
    def _revision(connection: sa.Connection) -> str | None:
        """Give which revision a database is of; None: it is empty; nothing: it is not ours."""
        tables = sa.inspect(connection).get_table_names()
        if "alembic_version" not in tables:
            return "" if tables else None
        return connection.execute(sa.select(_version.c.version_num)).scalar() or ""


def look(place: Path | str) -> tuple[str, str | None]:
    """Look at a database and change nothing: its name without a password, and which version its tables are of.

    Returns
    -------
    tuple of str and str or None
        None: there are no tables yet. A version that is not in `REVISIONS` is a newer one's, or nothing of ours.

    Raises
    ------
    CatalogUnavailable
        It cannot be reached or read.
    """
    url = _url(str(place)) if is_url(place) else sa.URL.create("sqlite", database=str(place))
    name = url.render_as_string(hide_password=True).partition("?")[0] if is_url(place) else str(place)
    try:
        if url.get_backend_name() == "sqlite":
            path = quote(os.path.abspath(url.database or ""))
            engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(f"file:{path}?mode=ro", uri=True))
        else:
            engine = sa.create_engine(url.set(query={"connect_timeout": "5", **url.query}))
    except ImportError:
        raise CatalogUnavailable(f"{name}: install its driver: pip install 'multiframe[postgresql]'") from None
    try:
        with engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
            if not tables:
                return name, None
            return name, str(connection.scalar(sa.select(_version.c.version_num)))
    except sa.exc.DBAPIError as error:
        raise CatalogUnavailable(f"{name}: {_first_line(error)}") from None
    finally:
        engine.dispose()


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, at least one, that all name the same columns, two or more; into PostgreSQL they are copied.

    A copy is one statement, not one a row. Values go to the driver as they are: there are many, and all of them plain.
    """
    names = list(rows[0])
    values = list(map(itemgetter(*names), rows))
    columns = ", ".join(f'"{name}"' for name in names)
    if connection.dialect.name != "postgresql":
        marks = ", ".join("?" * len(names))
        statement = f'INSERT INTO "{table.name}" ({columns}) VALUES ({marks})'  # noqa: S608  # our own names
        connection.exec_driver_sql(statement, values)
        return
    driver: Any = connection.connection.driver_connection
    base = connection.dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({columns}) FROM STDIN') as copy:
            for row in values:
                copy.write_row(row)
    except base as error:
        # As if it were a statement like others: SQLAlchemy knows no copies.
        lost = connection.dialect.is_disconnect(error, driver, None)
        raise sa.exc.DBAPIError.instance(
            "COPY", None, error, base, hide_parameters=True, connection_invalidated=lost, dialect=connection.dialect
        ) from None


class _Array(sa.types.UserDefinedType[str]):
    """An array as PostgreSQL writes it: to write a list so takes its driver as long as the server to find the rows."""

    cache_ok = True
    render_bind_cast = True

    def __init__(self, of: str) -> None:
        self.of = of

    def get_col_spec(self, **_: object) -> str:
        return f"{self.of}[]"


def among(
    connection: sa.Connection, query: sa.Select[Any], column: sa.Column[Any], values: Collection[bytes | str]
) -> Sequence[sa.Row[Any]]:
    """Give the rows of a query whose column has one of many values, each a word of its own to nobody but the driver.

    The query has no condition yet. To write down hundreds of values takes SQLAlchemy longer than it takes SQLite to
    look them up.
    """
    if connection.dialect.name == "postgresql":
        words = ",".join([f'"{_escaped(value)}"' for value in values])
        array = sa.literal(f"{{{words}}}", _Array("bytea" if isinstance(column.type, sa.LargeBinary) else "text"))
        return connection.execute(query.where(column == sa.any_(array))).all()
    marks = ", ".join("?" * len(values))
    where = f'WHERE "{column.table.name}"."{column.name}" IN ({marks})'
    return connection.exec_driver_sql(f"{query.compile(dialect=connection.dialect)} {where}", tuple(values)).all()


def _escaped(value: bytes | str) -> str:
    if isinstance(value, bytes):
        return rf"\\x{value.hex()}"
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _is_full(error: sa.exc.DBAPIError) -> bool:
    """Whether a disk is full, or the server out of something else (SQLSTATE class 53)."""
    code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code == sqlite3.SQLITE_FULL or str(getattr(error.orig, "sqlstate", None)).startswith("53")


def _first_line(error: sa.exc.DBAPIError) -> str:
    """Say why there is no connection: what libpq says of that holds host and user, and no values."""
    if error.connection_invalidated:
        return "the connection was lost"
    return (str(error.orig).strip().splitlines() or ["no reason given"])[0]


def _url(text: str) -> sa.URL:
    """Read a URL; what is wrong is said without it, for it may hold a password."""
    scheme = text.partition("://")[0]
    try:
        url = sa.make_url(text)
        backend = url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise CatalogUnavailable(f"{scheme}://…: not a URL: write postgresql://USER@HOST/NAME") from None
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise CatalogUnavailable(f"{scheme}: no database the catalog can lie in; write postgresql://USER@HOST/NAME")
    return url


# ---------------------------------------------------------------------------------------------------- PostgreSQL


def _on_begin_postgresql(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get("writes"):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(1000 * options.get('patience', BUSY))}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _on_checkin(_: Any, record: sa.pool.ConnectionPoolEntry) -> None:
    record.info["used"] = monotonic()


def _on_checkout(connection: Any, record: sa.pool.ConnectionPoolEntry, _: object) -> None:
    """Meet a database again that was away, without an error: a connection of before is asked whether it is one.

    Not if it was used a moment ago and nothing has come since: a server that ends, or cuts it off, says so.
    """
    used = record.info.get("used")
    if used is None or (monotonic() - used < _FRESH and not connection.closed and not _has_come(connection.fileno())):
        return
    from psycopg import Error

    try:
        connection.autocommit = True
        connection.execute("")
        connection.autocommit = False
    except Error as error:
        raise sa.exc.InvalidatePoolError from error


def _has_come(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


# ---------------------------------------------------------------------------------------------------- SQLite


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise CatalogUnavailable(f"{path}: the catalog cannot be kept here: {error.strerror}") from None


def on_connect(connection: Any, _: object) -> None:
    """Have a connection of SQLite behave as ours do."""
    connection.isolation_level = None  # transactions begin where we say, not where sqlite3 thinks
    for pragma in (
        "page_size = 8192",  # of a new file: an instance takes some 2 KB, and 4 KB would hold one, and little else
        f"busy_timeout = {int(1000 * BUSY)}",
        "journal_mode = WAL",  # readers never wait for the writer
        "synchronous = NORMAL",
        "foreign_keys = ON",
        "case_sensitive_like = ON",  # as everywhere else (PS3.4 C.2.2.2.4)
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _on_begin(connection: sa.Connection) -> None:
    # A writer takes its turn at once: one that read first could find that it read too early, and no waiting helps it.
    options = connection.get_execution_options()
    if "patience" in options:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(1000 * options['patience'])}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")
