"""Bringing the catalog up to date with what lies below some roots: one scan on its way.

It knows which files are as they were, reads the others' headers, and writes them in short transactions; what it had
done when it was stopped, or killed, the next one need not do again. Any number may be on their way at once. It must not
know how an instance is given out.
"""

import json
import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import batched, chain

import numpy as np
import sqlalchemy as sa

from multiframe.database import Database, among
from multiframe.errors import SourceError
from multiframe.listing import objects as objects_below
from multiframe.listing import same_object, vanished
from multiframe.places import inside, is_below, is_local, root_of, scope_of
from multiframe.reading import Asked, Reader
from multiframe.records import HARMLESS, Record
from multiframe.registering import LONGEST, LOOKUP, identity_of, register, remove
from multiframe.schema import instances, objects, scans
from multiframe.settings import MIB
from multiframe.source import ObjectStat

__all__ = ["Scan", "ScanStatus", "below", "problems"]

_BATCH_FILES, _BATCH_SECONDS, _BATCH_BYTES = 1000, 0.5, 8 * MIB  # whichever comes first
_KEPT = 100  # scans that are remembered
_PAGE = 5000  # of what is catalogued
_HASH = 2**64 - 1
_LONG_AGO = 1e9
_PATIENCE = 5  # times that files are waited for which are being written


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


class Scan:
    """One scan on its way.

    Parameters
    ----------
    database : Database
        Where what is found is kept.
    roots : sequence of path-like
        Files, folders and URLs.
    reader : Reader
        Reads headers.
    forget : callable
        Told which instance is not what it was.
    progress : callable, optional
        Told now and then how far it is.
    settle : float
        Seconds for which a local file must not have been written to: a younger one is waited for a little, and left
        if it is still being written.
    whole : bool
        Whether `roots` are what somebody named, and not only what has changed below.
    failing : callable, optional
        Told path and reason of what cannot be read now.
    """

    def __init__(
        self,
        database: Database,
        roots: Sequence[str | os.PathLike[str] | bytes],
        reader: Reader,
        forget: Callable[[str], object],
        progress: Callable[[ScanStatus], object] | None = None,
        *,
        settle: float = 0.0,
        whole: bool = True,
        failing: Callable[[bytes, str], object] | None = None,
    ) -> None:
        self.database = database
        self.roots = _outermost(roots)
        self.progress = progress
        self._counts = Counter[str]()
        self._running, self._updated = True, 0.0
        self._young: list[bytes] = []  # still being written, perhaps
        self._unlisted: list[bytes] = []
        self._met = array("Q")
        self._reader, self._forget, self._settle, self._failing = reader, forget, settle, failing
        self._records: list[Record] = []
        self._weight = 0
        self._flushed = time.monotonic()
        self._id = self._enter() if whole else None

    @property
    def status(self) -> ScanStatus:
        """How far it is."""
        return ScanStatus(running=self._running, updated=self._updated, **self._counts)

    def _enter(self) -> int:
        with self.database.transaction(write=True) as connection:
            connection.execute(sa.update(scans).values(running=False))
            added = connection.execute(sa.insert(scans).values(running=True, updated=time.time(), counts="{}"))
            number = int(added.inserted_primary_key[0])  # type: ignore[index]  # a plain insert has one
            connection.execute(sa.delete(scans).where(scans.c.id < number - _KEPT))
        return number

    def run(self, stop: Callable[[], bool]) -> ScanStatus:
        """Scan, unless `stop` says otherwise before a file; give what was done."""
        try:
            stopped = self._look(self._objects(), stop)
            for _ in range(_PATIENCE):
                if stopped or not self._young:
                    break
                time.sleep(self._settle)
                young, self._young = self._young, []
                self._count("found", -len(young))  # they are met again
                below = (objects_below(path, self._not_listed) for path in young)
                stopped = self._look(chain.from_iterable(below), stop)
            self._met.extend(hash(path) & _HASH for path in self._young)
            if not stopped:
                self._drop_vanished()
                self._promote_copies()
        finally:
            self._running = False
            self.flush()
        return self.status

    def _look(self, objects: Iterable[tuple[bytes, ObjectStat | None]], stop: Callable[[], bool]) -> bool:
        """Read what is not as it was; gives whether it was stopped."""
        stopped = False
        for some in batched(objects, LOOKUP):
            known = self._known([path for path, _ in some])
            changed: list[Asked] = []
            for path, stat in some:
                if stopped := stop():
                    break
                self._meet(path, stat, known.get(path), changed)
            self._open(changed)
            self._flush_if_due()
            if stopped:
                break
        for path, found in self._reader.rest():
            self._take(path, found)
        self.flush()
        return stopped

    def _objects(self) -> Iterator[tuple[bytes, ObjectStat | None]]:
        for root in self.roots:
            yield from objects_below(root, self._not_listed)

    def _not_listed(self, directory: bytes) -> None:
        self._unlisted.append(directory)
        self._fail(directory, "the folder cannot be listed")

    def _fail(self, path: bytes, why: str) -> None:
        """Count what cannot be read now, and say why: unlike what is no instance, it is not remembered."""
        self._count("failed")
        if self._failing is not None:
            self._failing(path, why)

    def _count(self, what: str, n: int = 1) -> None:
        self._counts[what] += n

    def _known(self, paths: Sequence[bytes]) -> dict[bytes, str]:
        query = sa.select(objects.c.path, objects.c.identity)
        with self.database.transaction() as connection:
            return {row.path: row.identity for row in among(connection, query, objects.c.path, paths)}

    def _meet(self, path: bytes, stat: ObjectStat | None, known: str | None, changed: list[Asked]) -> None:
        self._count("found")
        identity = None if known is None else identity_of(known)
        if stat is not None and identity is not None and same_object(stat.identity, identity):
            self._count("unchanged")
        elif len(path) > LONGEST:
            self._fail(path, f"its path is longer than {LONGEST} bytes")
        elif stat is not None and self._settle and is_local(path) and _age(stat) < self._settle:
            self._young.append(path)
            return  # it may be gone when it is looked for again
        else:
            changed.append(Asked(path, stat, identity))
        self._met.append(hash(path) & _HASH)

    def _flush_if_due(self) -> None:
        if (
            len(self._records) >= _BATCH_FILES
            or self._weight >= _BATCH_BYTES
            or time.monotonic() - self._flushed >= _BATCH_SECONDS
        ):
            self.flush()

    def _open(self, changed: Sequence[Asked]) -> None:
        for path, found in self._reader.read(changed):
            self._take(path, found)
            self._flush_if_due()

    def _take(self, path: bytes, found: Record | SourceError | None) -> None:
        if found is None:  # as it was
            self._count("unchanged")
        elif isinstance(found, SourceError):
            self._fail(path, str(found))  # what was known of it, should it come back, stays
        else:
            self._records.append(found)
            self._weight += found.weight

    def flush(self) -> None:
        """Write what has come together, in one short transaction, and say so."""
        if self._records or self._id is not None:
            register(self.database, self._records, self._written)
        self._records, self._weight = [], 0
        self._flushed = time.monotonic()
        if self.progress is not None:
            self.progress(self.status)

    def _written(self, connection: sa.Connection, written: Sequence[Record]) -> None:
        for record in written:
            if record.uid is not None:
                self._count("registered")
                self._forget(record.uid)
            else:
                self._count("ignored" if record.harmless else "failed")
        # Another process has read the others meanwhile.
        self._count("unchanged", len(self._records) - len(written))
        self._say(connection)

    def _say(self, connection: sa.Connection) -> None:
        self._updated = time.time()
        counts = asdict(self.status)
        running, updated = counts.pop("running"), counts.pop("updated")
        said = {"running": running, "updated": updated, "counts": json.dumps(counts)}
        connection.execute(sa.update(scans).where(scans.c.id == self._id).values(said))

    def _drop_vanished(self) -> None:
        """Forget what lies below the roots in the catalog, was not met, and is not there when looked for."""
        for some in batched(self._vanished(), LOOKUP):
            self._drop(some)

    def _vanished(self) -> Iterator[bytes]:
        met = np.sort(np.frombuffer(self._met, np.uint64)) if self._met else np.empty(0, np.uint64)
        unlisted = [scope_of(directory) for directory in self._unlisted]  # not met, but not known to be gone either
        for scope in map(scope_of, self.roots):
            after = b""
            while paths := self._catalogued(scope, after):
                after = paths[-1]
                hashes = np.array([hash(path) & _HASH for path in paths], np.uint64)
                at = np.searchsorted(met, hashes)
                missed = at == len(met)
                missed[~missed] = met[at[~missed]] != hashes[~missed]
                asked = [path for path, not_met in zip(paths, missed, strict=True) if not_met]
                asked = [path for path in asked if not is_below(path, unlisted)]
                yield from vanished(asked)

    def _catalogued(self, scope: bytes, after: bytes) -> Sequence[bytes]:
        query = sa.select(objects.c.path).where(below(scope), objects.c.path > after)
        with self.database.transaction() as connection:
            return connection.execute(query.order_by(objects.c.path).limit(_PAGE)).scalars().all()

    def _drop(self, paths: Sequence[bytes]) -> None:
        with self.database.transaction(write=True) as connection:
            for uid in remove(connection, paths):
                self._forget(uid)
        self._count("vanished", len(paths))

    def _promote_copies(self) -> None:
        """Read the second copies of instances whose first is gone."""
        first = sa.select(instances.c.instance).where(instances.c.instance == objects.c.duplicate_of)
        query = sa.select(objects.c.path).where(objects.c.duplicate_of.is_not(None), ~first.exists())
        with self.database.transaction() as connection:
            paths = connection.execute(query).scalars().all()
        self._open([Asked(path, None, None) for path in paths])
        for path, found in self._reader.rest():
            self._take(path, found)


def problems(database: Database, roots: Iterable[str | os.PathLike[str] | bytes]) -> Iterator[tuple[bytes, str]]:
    """Give path and reason of each file below the roots that looked like DICOM and was no instance when it was read."""
    for scope in map(scope_of, _outermost(roots)):
        query = sa.select(objects.c.path, objects.c.problem).where(below(scope), objects.c.problem.not_in(HARMLESS))
        with database.transaction() as connection:
            rows = connection.execute(query.order_by(objects.c.path), execution_options={"yield_per": _PAGE})
            yield from ((row.path, row.problem) for row in rows)


def _outermost(roots: Iterable[str | os.PathLike[str] | bytes]) -> list[bytes]:
    """Give the roots as they really lie, without those that lie below others; bytes are as they lie already."""
    kept: list[bytes] = []
    for root in sorted({root if isinstance(root, bytes) else root_of(root) for root in roots}):
        if not is_below(root, kept):
            kept.append(root)
    return kept


def _age(stat: ObjectStat) -> float:
    """Seconds since a local file was last written to; one that is of the future is old enough."""
    age = time.time() - int(stat.identity[2]) / 1e9
    return age if age >= 0 else _LONG_AGO


def below(root: bytes) -> sa.ColumnElement[bool]:
    """Ask for what lies at a place or below it."""
    first = inside(root)
    path = objects.c.path
    return sa.or_(path == root, sa.and_(path >= first, path < first[:-1] + b"0"))  # "0" comes next after "/"
