"""Study / series / instance -> `Instance`: what was read of files once is kept, with what it was read of.

Headers and frame indexes lie in a database, each bound to the identity of its file: a file that changed is another
file. One process scans; any number read, and add indexes. It knows directories and SQL. It must not know HTTP, nor hold
a header longer than somebody uses it, but within the memory budget.

The database is a cache: deleting it costs a scan. It holds patients' names: nobody but its owner may read it.
"""

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import batched
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy import event

from multiframe.dicomjson import attributes
from multiframe.errors import (
    FormatError,
    InstanceNotFound,
    MultiframeError,
    NotDicom,
    SourceError,
    SourceNotFound,
    UnknownSyntax,
)
from multiframe.folders import files, inside
from multiframe.frameindex import FrameIndex
from multiframe.header import Header, LongHeader, PixelData
from multiframe.indexfile import dump, index_beside, load
from multiframe.inflate import Inflated, inflated
from multiframe.instance import Instance, header_of
from multiframe.memory import ByteCache, MemoryBudget
from multiframe.migrations import REVISIONS
from multiframe.ranges import ByteRange
from multiframe.schema import KEYS, LEVELS, Key, Level, columns_of, requests_of, shared_out
from multiframe.schema import instances as _instances
from multiframe.schema import objects as _objects
from multiframe.schema import requests as _requests
from multiframe.schema import scans as _scans
from multiframe.schema import schema as _schema
from multiframe.schema import series as _series
from multiframe.schema import studies as _studies
from multiframe.searching import ORDER, Found, Search, find, kind_of_path, remaining
from multiframe.settings import MIB, Settings
from multiframe.source import FileSource, Identity, ObjectStat
from multiframe.syntaxes import syntax_of

__all__ = ["KEYS", "LEVELS", "Catalog", "Found", "Key", "Level", "ScanStatus", "Search", "kind_of_path"]

_BUSY = 10.0  # seconds a writer waits for another
_BATCH_FILES, _BATCH_SECONDS, _BATCH_BYTES = 200, 0.5, 8 * MIB  # whichever comes first
_LOOKUP = 500  # paths asked for in one query
_BIG_HEADER, _BIG_COMPRESSED = 4 * MIB, MIB  # what is longer is read again from its file
_STALE = 60.0  # seconds after which a scan that says nothing is taken for dead
_UID = re.compile(r"[0-9A-Za-z._-]{1,64}")  # looser than PS3.5 9.1, and harmless in a URL or a header
_version = sa.table("alembic_version", sa.column("version_num", sa.String))  # Alembic's own

_NOT_DICOM = "not a DICOM file"
_NO_UIDS = "names no study, series and instance that could be asked for"  # such as a DICOMDIR
_DEFAULTS = Settings()


@dataclass(frozen=True, slots=True)
class ScanStatus:
    """How far a scan has come.

    Attributes
    ----------
    running : bool
        Whether it still goes on.
    found : int
        Files met.
    registered : int
        Files read and now in the catalog.
    unchanged : int
        Files known from before, not opened.
    ignored : int
        Files that are no DICOM, a DICOMDIR, or a second file of an instance.
    failed : int
        Files and directories that cannot be read, or are damaged.
    vanished : int
        Files known from before that are gone.
    updated : float
        When it last said so, in seconds since 1970.
    """

    running: bool = False
    found: int = 0
    registered: int = 0
    unchanged: int = 0
    ignored: int = 0
    failed: int = 0
    vanished: int = 0
    updated: float = 0.0


class _Record(NamedTuple):
    """What reading one file brought: rows to be, of each level."""

    path: bytes
    stat: ObjectStat
    problem: str | None = None
    duplicate_of: str | None = None
    study: dict[str, Any] | None = None
    series: dict[str, Any] | None = None
    requests: Sequence[dict[str, Any]] = ()
    instance: dict[str, Any] | None = None

    @property
    def weight(self) -> int:
        return 1024 if self.instance is None else 8192 + len(self.instance["header"] or b"")


class Catalog:
    """Finds instances by their UIDs, without reading a file that was read before.

    All methods but `cached` block. Threads may share it; each process opens its own.

    Parameters
    ----------
    database : path or str
        A file of its own, made if it is not there; or, with ``://`` in it, a database URL of SQLAlchemy.
    settings : Settings
        First read and largest size of a header, the cache's share of memory, and how long to wait for memory.
    budget : MemoryBudget, optional
        Where headers and indexes kept in memory are entered; else one of ``settings.memory``.

    Raises
    ------
    SourceError
        The database is damaged, was written by a newer version, or is none of ours.

    Examples
    --------
    >>> import tempfile
    >>> from pydicom.data import get_testdata_file
    >>> catalog = Catalog(Path(tempfile.mkdtemp()) / "catalog.sqlite")
    >>> catalog.scan([Path(get_testdata_file("examples_ybr_color.dcm", read=False))]).registered
    1
    >>> [uid] = [found.instance for found in catalog.search(Search("instance", conditions={"Modality": "US"}))]
    >>> len(catalog.instance(uid))
    30
    >>> catalog.close()
    """

    def __init__(
        self, database: Path | str, *, settings: Settings = _DEFAULTS, budget: MemoryBudget | None = None
    ) -> None:
        self.settings = settings
        self.budget = budget if budget is not None else MemoryBudget(settings.memory)
        self._cache = ByteCache[str, Instance](self.budget, share=settings.cache_share)
        # Instances somebody uses though the cache has let go of them: two of one file would look for its frames twice.
        self._live: WeakValueDictionary[str, Instance] = WeakValueDictionary()
        self._loading = [Lock() for _ in range(64)]
        if isinstance(database, str) and "://" in database:
            url = sa.make_url(database)
            self._name = url.render_as_string(hide_password=True).partition("?")[0]
        else:
            url = sa.URL.create("sqlite", database=str(database))
            self._name = str(database)
            _make_private(Path(database))
        # Parameters of statements are patients' data: they must not come out in an error.
        self._engine = sa.create_engine(url, hide_parameters=True)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _on_connect)
            event.listen(self._engine, "begin", _on_begin)
        self._writer = self._engine.execution_options(writes=True)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    # ------------------------------------------------------------------------------------------------ the database

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sa.Connection]:
        """Run a transaction; whatever the database has to say leaves as an error of ours, without any value."""
        try:
            with (self._writer if write else self._engine).begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            said = str(error.orig)
            if "locked" in said or "busy" in said:
                advice = f"another process kept it busy for {_BUSY:g} s; try again"
            elif isinstance(error, sa.exc.OperationalError) and "no such" not in said:
                advice = said  # the disk is full, the file is not ours to write, ...
            else:
                advice = f"the catalog is damaged ({said}): it is only a cache, delete the file and start again"
            raise SourceError(f"{self._name}: {advice}") from None

    def _prepare(self) -> None:
        """Make the tables, or bring them up to date; Alembic is imported only for the latter."""
        with self._transaction(write=True) as connection:
            tables = sa.inspect(connection).get_table_names()
            if not tables:
                _schema.create_all(connection)
                connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
                connection.execute(sa.insert(_version).values(version_num=REVISIONS[-1]))
                return
            revision = None
            if "alembic_version" in tables:
                revision = connection.execute(sa.select(_version.c.version_num)).scalar()
            if revision == REVISIONS[-1]:
                return
            if revision not in REVISIONS:
                newer = "was written by a newer version of multiframe" if revision else "is not a catalog of multiframe"
                raise SourceError(f"{self._name} {newer}: name another file, or delete it (a catalog is only a cache)")
            from multiframe.migrations.upgrade import upgrade

            upgrade(connection)

    # ------------------------------------------------------------------------------------------------ scanning

    def scan(
        self,
        roots: Sequence[Path],
        *,
        progress: Callable[[ScanStatus], object] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> ScanStatus:
        """Bring the catalog up to date with the files below `roots`; only one process may do so at a time.

        Every file is looked at, and none is opened that is what it was. Symbolic links below the roots are not
        followed: what lies below the roots is met where it lies, what does not is nobody's business. What was
        catalogued from elsewhere stays.

        Parameters
        ----------
        roots : sequence of Path
            Files and directories.
        progress : callable, optional
            Told now and then how far it is.
        stop : callable, optional
            Asked before each file whether to stop; a scan that was stopped, or killed, is taken up by the next one.

        Returns
        -------
        ScanStatus
            What was done.
        """
        return _Scan(self, roots, progress).run(stop)

    def status(self) -> ScanStatus:
        """Tell how far the last scan came, whichever process runs it."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(_scans).order_by(_scans.c.id.desc()).limit(1)).one_or_none()
        if row is None:
            return ScanStatus()
        running = row.running and time.time() - row.updated < _STALE
        return ScanStatus(running=running, updated=row.updated, **json.loads(row.counts))

    def _read(self, path: bytes, stat: ObjectStat) -> _Record:
        """Read a file's header into rows; what is no instance is remembered as that, so as not to be opened again.

        Raises
        ------
        SourceError, OverBudget
            It cannot be read now: that is no property of the file, and not remembered.
        """
        source = FileSource(os.fsdecode(path))
        limits = {"first_read": self.settings.first_read, "max_header": self.settings.max_header}
        try:
            _, header = header_of(source, stat.identity, self.budget, **limits)
            return _record(path, stat, header)
        except (FormatError, UnknownSyntax) as error:
            return _Record(path, stat, _NOT_DICOM if isinstance(error, NotDicom) else str(error))

    # ------------------------------------------------------------------------------------------------ instances

    def cached(self, sop_instance_uid: str, *, study: str | None = None, series: str | None = None) -> Instance | None:
        """Give an instance that is in memory, or None; asks no database and no disk: fit for an event loop."""
        instance = self._cache.get(sop_instance_uid)
        if instance is None:
            instance = self._live.get(sop_instance_uid)
        if instance is None:
            return None
        header = instance.header
        if study is not None and header.study_instance_uid != study:
            return None
        if series is not None and header.series_instance_uid != series:
            return None
        return instance

    def instance(self, sop_instance_uid: str, *, study: str | None = None, series: str | None = None) -> Instance:
        """Give an instance as it was read; its file is not looked at before frames are asked for.

        Raises
        ------
        InstanceNotFound
            There is none of that UID, or it is not of that study and series.
        SourceChanged
            Its header is too long to be kept, and the file is not the one it was: `refresh` it. Such a header is read
            where it is asked for (`LongHeader`).
        """
        instance = self.cached(sop_instance_uid)
        if instance is None:
            with self._loading[hash(sop_instance_uid) % len(self._loading)]:
                instance = self.cached(sop_instance_uid)
                if instance is None:
                    instance = self._load(sop_instance_uid)
        header = instance.header
        if study not in (None, header.study_instance_uid) or series not in (None, header.series_instance_uid):
            raise InstanceNotFound(f"instance {sop_instance_uid} is not of the study and series asked for")
        return instance

    def _load(self, uid: str) -> Instance:
        i, o = _instances.c, _objects.c
        query = sa.select(
            i.facts, i.syntax, i.header, i.header_size, i.frame_index, o.path, o.size, o.identity
        ).join_from(_instances, _objects)
        with self._transaction() as connection:
            row = connection.execute(query.where(i.instance == uid)).one_or_none()
        if row is None:
            raise InstanceNotFound(_no_such(uid))
        source: FileSource | Inflated = FileSource(os.fsdecode(row.path))
        stat = ObjectStat(row.size, _identity(row.identity))
        if syntax_of(row.syntax).deflated:
            source = inflated(source)
            stat = stat._replace(size=source.stat().size)
        facts = json.loads(row.facts)
        pixel_data = PixelData(*facts["pixel_data"]) if facts["pixel_data"] else None
        values = {int(tag): (start, stop) for tag, (start, stop) in facts["values"].items()}
        syntax, dataset_at = syntax_of(row.syntax), facts["dataset_at"]
        if row.header is None:

            def read(start: int, stop: int) -> bytes:
                return bytes(source.read_ranges([ByteRange(start, stop)], identity=stat.identity).buffers[0])

            header: Header = LongHeader(
                row.header_size, read, syntax=syntax, dataset_at=dataset_at, pixel_data=pixel_data, values=values
            )
        else:
            with self.budget.acquire(row.header_size, timeout=self.settings.memory_wait):
                header = Header(zlib.decompress(row.header), syntax, dataset_at, pixel_data, values)
        index = _index(row.frame_index)
        if index is None and isinstance(source, FileSource):
            index = index_beside(source, header, stat, budget=self.budget)
        instance = Instance(source, stat, header, index=index, budget=self.budget)
        self._keep(uid, instance)
        return instance

    def _keep(self, uid: str, instance: Instance) -> None:
        self._live[uid] = instance
        self._cache.put(uid, instance, size=2048 + instance.held)

    def weigh(self, instance: Instance) -> None:
        """Enter an instance in memory anew: more of it is held than when it was read."""
        uid = instance.header.sop_instance_uid
        if self.cached(uid) is instance:
            self._keep(uid, instance)

    def keep_index(self, instance: Instance) -> None:
        """Store the index of `instance` once it is complete, unless its file has changed meanwhile."""
        uid = instance.header.sop_instance_uid
        index = instance.known
        if index is not None and index.complete and index.proof == "whole":
            same = sa.select(_objects.c.path).where(_objects.c.identity == _dumped(instance.stat.identity))
            with self._transaction(write=True) as connection:
                connection.execute(
                    sa.update(_instances)
                    .where(_instances.c.instance == uid, _instances.c.path.in_(same))
                    .values(frame_index=dump(index))
                )
        self.weigh(instance)

    def refresh(self, sop_instance_uid: str) -> Instance:
        """Read an instance anew, because its file has changed.

        Raises
        ------
        InstanceNotFound
            There is none of that UID, or the file now holds something else.
        SourceNotFound
            The file is gone.
        """
        i, o = _instances.c, _objects.c
        query = (
            sa.select(o.path, o.size, o.identity).join_from(_instances, _objects).where(i.instance == sop_instance_uid)
        )
        with self._loading[hash(sop_instance_uid) % len(self._loading)]:
            with self._transaction() as connection:
                row = connection.execute(query).one_or_none()
            self._forget(sop_instance_uid)
            if row is None:
                raise InstanceNotFound(_no_such(sop_instance_uid))
            try:
                stat = FileSource(os.fsdecode(row.path)).stat()
            except SourceNotFound:
                with self._transaction(write=True) as connection:
                    _remove(connection, [row.path])
                raise
            if stat.identity != _identity(row.identity):
                record = self._read(row.path, stat)
                with self._transaction(write=True) as connection:
                    newest = connection.execute(sa.select(sa.func.max(_scans.c.id))).scalar() or 0
                    _register(connection, [record], newest)
                if record.instance is not None:
                    self._forget(record.instance["instance"])
            return self._load(sop_instance_uid)

    def _forget(self, uid: str) -> None:
        self._cache.drop(uid)
        self._live.pop(uid, None)

    def series_instances(self, study: str, series: str | None = None) -> list[str]:
        """Give the SOP Instance UIDs of a study or series, by series number, instance number, and UID."""
        return [uid for uid, _, _ in self._of_series(study, series)]

    def _of_series(self, study: str, series: str | None) -> list[tuple[str, bytes, str]]:
        i, o = _instances.c, _objects.c
        query = sa.select(i.instance, o.path, o.identity).join_from(_instances, _objects)
        query = query.join(_series, sa.and_(_series.c.study == i.study, _series.c.series == i.series))
        query = query.where(i.study == study)
        if series is not None:
            query = query.where(i.series == series)
        with self._transaction() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(*ORDER["instance"][-4:]))]

    def states(self, study: str, series: str | None = None) -> list[tuple[str, Identity | None]]:
        """Give the SOP Instance UIDs of a study or series in order, with the identity of the file of each.

        Every file is looked at; a header is read only where a file has changed. None: the file is gone, or what it
        holds now is of another instance.
        """
        told: list[tuple[str, Identity | None]] = []
        for uid, path, dumped in self._of_series(study, series):
            kept = _identity(dumped)
            found: Identity | None
            try:
                found = FileSource(os.fsdecode(path)).stat().identity
                if found != kept:
                    found = self.refresh(uid).stat.identity
            except (SourceNotFound, InstanceNotFound):
                found = None
            told.append((uid, found))
        return told

    # ------------------------------------------------------------------------------------------------ searching

    def search(self, query: Search) -> list[Found]:
        """Find studies, series or instances, in an order that stays the same while the catalog does.

        Studies come newest first; series and instances by their numbers.

        Raises
        ------
        ValueError
            A condition is not one that its attribute can be matched by; the message names the attribute alone.
        TooBroad
            It asks for what is not kept in a column, of too many.
        """
        with self._transaction() as connection:
            return find(connection, query)

    def remaining(self, query: Search, most: int) -> int | None:
        """Count the matches behind those of a search, up to `most`; None: that would take too long."""
        with self._transaction() as connection:
            return remaining(connection, query, most)


# ---------------------------------------------------------------------------------------------------- the scan


class _Scan:
    """One scan on its way."""

    def __init__(
        self, catalog: Catalog, roots: Sequence[Path], progress: Callable[[ScanStatus], object] | None
    ) -> None:
        self.catalog = catalog
        self.roots = _outermost(roots)
        self.progress = progress
        self.status = ScanStatus(running=True)
        self.unlisted: list[bytes] = []
        self._records: list[_Record] = []
        self._weight = 0
        self._seen: list[bytes] = []
        self._flushed = time.monotonic()
        with catalog._transaction(write=True) as connection:
            connection.execute(sa.update(_scans).values(running=False))
            added = connection.execute(sa.insert(_scans).values(running=True, updated=time.time(), counts="{}"))
            self.generation = int(added.inserted_primary_key[0])  # type: ignore[index]  # a plain insert has one

    def run(self, stop: Callable[[], bool]) -> ScanStatus:
        stopped = False
        try:
            for some in batched(files(self.roots, self._unlisted), _LOOKUP):
                known = self._known([path for path, _ in some])
                for path, stat in some:
                    if stopped := stop():
                        break
                    self._meet(path, stat, known.get(path))
                if stopped:
                    break
            self.flush()
            if not stopped:
                self._drop_vanished()
                self._promote_copies()
        finally:
            self.status = replace(self.status, running=False)
            self.flush()
        return self.status

    def _unlisted(self, directory: bytes) -> None:
        self.unlisted.append(directory)
        self._count("failed")

    def _count(self, what: str, n: int = 1) -> None:
        self.status = replace(self.status, **{what: getattr(self.status, what) + n})

    def _known(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        query = sa.select(_objects.c.path, _objects.c.identity).where(_objects.c.path.in_(paths))
        with self.catalog._transaction() as connection:
            return dict(connection.execute(query).all())

    def _meet(self, path: bytes, stat: ObjectStat, known: str | None) -> None:
        self._count("found")
        if known is not None and _identity(known) == stat.identity:
            self._count("unchanged")
            self._seen.append(path)
        else:
            self._open(path, stat)
        self._flush_if_due()

    def _flush_if_due(self) -> None:
        if (
            len(self._records) >= _BATCH_FILES
            or self._weight >= _BATCH_BYTES
            or len(self._seen) >= 2 * _LOOKUP
            or time.monotonic() - self._flushed >= _BATCH_SECONDS
        ):
            self.flush()

    def _open(self, path: bytes, stat: ObjectStat) -> None:
        try:
            record = self.catalog._read(path, stat)
        except MultiframeError:
            self._count("failed")
            self._seen.append(path)  # it is there: what was known of it, should it come back, stays
            return
        except Exception as error:  # a fault of ours with one file must not cost all others
            record = _Record(path, stat, f"internal error: {type(error).__name__}")
        self._records.append(record)
        self._weight += record.weight

    def flush(self) -> None:
        """Write what has come together, in one short transaction, and say so."""
        with self.catalog._transaction(write=True) as connection:
            if self._records:
                for record in _register(connection, self._records, self.generation):
                    if record.instance is not None:
                        self._count("registered")
                        self.catalog._forget(record.instance["instance"])
                    else:
                        ignored = record.problem in (_NOT_DICOM, _NO_UIDS) or record.duplicate_of is not None
                        self._count("ignored" if ignored else "failed")
            for paths in batched(self._seen, _LOOKUP):
                connection.execute(sa.update(_objects).where(_objects.c.path.in_(paths)).values(seen=self.generation))
            self.status = replace(self.status, updated=time.time())
            counts = asdict(self.status)
            running, updated = counts.pop("running"), counts.pop("updated")
            connection.execute(
                sa.update(_scans)
                .where(_scans.c.id == self.generation)
                .values(running=running, updated=updated, counts=json.dumps(counts))
            )
        self._records, self._seen, self._weight = [], [], 0
        self._flushed = time.monotonic()
        if self.progress is not None:
            self.progress(self.status)

    def _drop_vanished(self) -> None:
        missed = sa.and_(_objects.c.seen != self.generation, sa.or_(*map(_below, self.roots)))
        for directory in self.unlisted:  # not seen, but not known to be gone either
            missed = sa.and_(missed, sa.not_(_below(directory)))
        query = sa.select(_objects.c.path).where(missed).limit(_LOOKUP)
        while True:
            with self.catalog._transaction(write=True) as connection:
                paths = connection.execute(query).scalars().all()
                if not paths:
                    return
                for uid in _remove(connection, paths):
                    self.catalog._forget(uid)
            self._count("vanished", len(paths))

    def _promote_copies(self) -> None:
        """Read the second copies of instances whose first is gone."""
        first = sa.select(_instances.c.instance).where(_instances.c.instance == _objects.c.duplicate_of)
        query = sa.select(_objects.c.path).where(_objects.c.duplicate_of.is_not(None), ~first.exists())
        with self.catalog._transaction() as connection:
            paths = connection.execute(query).scalars().all()
        for path in paths:
            try:
                self._open(path, FileSource(os.fsdecode(path)).stat())
            except SourceError:
                self._count("failed")
            self._flush_if_due()


def _outermost(roots: Iterable[Path]) -> list[bytes]:
    """Give the roots as they really lie, without those that lie below others."""
    kept: list[bytes] = []
    for root in sorted({os.fsencode(os.path.realpath(root)) for root in roots}):
        if not any(root.startswith(inside(outer)) for outer in kept):
            kept.append(root)
    return kept


def _below(root: bytes) -> sa.ColumnElement[bool]:
    below = inside(root)
    path = _objects.c.path
    return sa.or_(path == root, sa.and_(path >= below, path < below[:-1] + b"0"))  # "0" comes next after "/"


# ---------------------------------------------------------------------------------------------------- rows


def _record(path: bytes, stat: ObjectStat, header: Header) -> _Record:
    uids = header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
    if not all(map(_UID.fullmatch, uids)):
        return _Record(path, stat, _NO_UIDS)
    study, series, instance = uids
    levels = shared_out(attributes(header))
    facts = {"dataset_at": header.dataset_at, "pixel_data": header.pixel_data, "values": dict(header.values)}
    compressed = zlib.compress(header.raw, 1) if len(header.raw) <= _BIG_HEADER else None
    if compressed is not None and len(compressed) > _BIG_COMPRESSED:
        compressed = None
    rows = {level: columns_of(level, told) for level, told in levels.items()}
    return _Record(
        path,
        stat,
        study={"study": study, **rows["study"]},
        series={"study": study, "series": series, **rows["series"]},
        requests=[{"study": study, "series": series, **row} for row in requests_of(levels["series"])],
        instance={
            "study": study,
            "series": series,
            "instance": instance,
            "path": path,
            "syntax": header.syntax.uid,
            "facts": json.dumps(facts),
            "header_size": len(header.raw),
            "header": compressed,
            "frame_index": None,
            **rows["instance"],
        },
    )


def _register(connection: sa.Connection, records: Iterable[_Record], generation: int) -> list[_Record]:
    """Write records in place of whatever their paths held; give them as they were written.

    The first file of an instance keeps it: another one is a duplicate, unless the first is not there any more.
    """
    written = {record.path: record for record in records}
    for paths in batched(written, _LOOKUP):
        _remove(connection, paths)
    uids = {record.instance["instance"] for record in written.values() if record.instance is not None}
    holders = _holders(connection, uids)
    taken: set[str] = set(holders)
    for path, record in written.items():
        if record.instance is None:
            continue
        uid = record.instance["instance"]
        if uid in taken:
            written[path] = _Record(path, record.stat, f"a second file of instance {uid}", uid)
        taken.add(uid)
    final = list(written.values())
    connection.execute(
        sa.insert(_objects),
        [
            {
                "path": r.path,
                "size": r.stat.size,
                "identity": _dumped(r.stat.identity),
                "problem": r.problem,
                "duplicate_of": r.duplicate_of,
                "seen": generation,
            }
            for r in final
        ],
    )
    good = [r for r in final if r.instance is not None]
    _insert_new(connection, _studies, {r.study["study"]: r.study for r in reversed(good) if r.study})
    series = {(r.series["study"], r.series["series"]): r for r in reversed(good) if r.series}
    new = _insert_new(connection, _series, {key: r.series for key, r in series.items() if r.series})
    asked_for = [row for key in new for row in series[key].requests]
    if asked_for:
        connection.execute(sa.insert(_requests), asked_for)
    if good:
        connection.execute(sa.insert(_instances), [r.instance for r in good if r.instance])
        _count(connection, series)
    return final


def _holders(connection: sa.Connection, uids: Collection[str]) -> set[str]:
    """Give which of the instances another file holds; a file that is gone, or changed, holds nothing."""
    query = sa.select(_instances.c.instance, _objects.c.path, _objects.c.identity).join_from(_instances, _objects)
    held: set[str] = set()
    for some in batched(sorted(uids), _LOOKUP):
        for uid, path, identity in connection.execute(query.where(_instances.c.instance.in_(some))).all():
            try:
                same = FileSource(os.fsdecode(path)).stat().identity == _identity(identity)
            except SourceNotFound:
                same = False
            except SourceError:
                same = True
            if same:
                held.add(uid)
            else:
                _remove(connection, [path])
    return held


def _insert_new(connection: sa.Connection, table: sa.Table, rows: Mapping[Any, dict[str, Any]]) -> list[Any]:
    """Insert those rows that are not there, and give their keys.

    The first instance of a study or series speaks for it.
    """
    keys = list(table.primary_key.columns)
    there: set[Any] = set()
    for some in batched({row["study"] for row in rows.values()}, _LOOKUP):
        found = connection.execute(sa.select(*keys).where(table.c.study.in_(some))).all()
        there.update(row[0] if len(keys) == 1 else tuple(row) for row in found)
    new = [key for key in rows if key not in there]
    if new:
        connection.execute(sa.insert(table), [rows[key] for key in new])
    return new


def _count(connection: sa.Connection, series: Iterable[tuple[str, str]]) -> None:
    """Count the instances of series anew."""
    s, i = _series.c, _instances.c
    n = sa.select(sa.func.count()).select_from(_instances).where(i.study == s.study, i.series == s.series)
    for some in batched(sorted(series), _LOOKUP):
        # The study is said twice: SQLite looks no pair up in an index.
        these = sa.and_(s.study.in_({study for study, _ in some}), sa.tuple_(s.study, s.series).in_(some))
        connection.execute(sa.update(_series).where(these).values(instances=n.scalar_subquery()))


def _remove(connection: sa.Connection, paths: Sequence[bytes]) -> list[str]:
    """Forget files, with their instances, and the series and studies that are left empty; give the instances."""
    i = _instances.c
    gone = connection.execute(sa.select(i.instance, i.study, i.series).where(i.path.in_(paths))).all()
    connection.execute(sa.delete(_objects).where(_objects.c.path.in_(paths)))
    _count(connection, {(row.study, row.series) for row in gone})
    for studies in batched({row.study for row in gone}, _LOOKUP):
        s = _series.c
        instances = sa.select(i.instance).where(i.study == s.study, i.series == s.series)
        connection.execute(sa.delete(_series).where(s.study.in_(studies), ~instances.exists()))
        series = sa.select(s.series).where(s.study == _studies.c.study)
        connection.execute(sa.delete(_studies).where(_studies.c.study.in_(studies), ~series.exists()))
    return [row.instance for row in gone]


def _dumped(identity: Identity) -> str:
    return json.dumps(identity, separators=(",", ":"))


def _identity(dumped: str) -> Identity:
    return tuple(json.loads(dumped))


def _index(dumped: bytes | None) -> FrameIndex | None:
    if dumped is None:
        return None
    try:
        return load(dumped)[0]
    except FormatError:
        return None  # of another version: found anew, and written over


def _no_such(uid: str) -> str:
    shown = uid if _UID.fullmatch(uid) else "of that UID"
    return f"the catalog has no instance {shown}"


# ---------------------------------------------------------------------------------------------------- SQLite


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise SourceError(f"{path}: the catalog cannot be kept here: {error.strerror}") from None


def _on_connect(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where sqlite3 thinks
    for pragma in (
        f"busy_timeout = {int(1000 * _BUSY)}",
        "journal_mode = WAL",  # readers never wait for the writer
        "synchronous = NORMAL",
        "foreign_keys = ON",
        "case_sensitive_like = ON",  # as everywhere else (PS3.4 C.2.2.2.4)
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _on_begin(connection: sa.Connection) -> None:
    # A writer takes its turn at once: one that read first could find that it read too early, and no waiting helps it.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
