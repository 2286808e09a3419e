"""Bringing the catalog up to date with what lies below some roots: one scan on its way.

It knows which files are as they were, reads the others' headers, and writes them in short transactions; what it had
done when it was stopped, or killed, the next one need not do again. Any number may be on their way at once. It must not
know how an instance is given out.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import batched
from pathlib import Path

import sqlalchemy as sa

from multiframe.database import Database
from multiframe.errors import MultiframeError, SourceError
from multiframe.folders import files, inside
from multiframe.registering import LOOKUP, Record, gone, identity_of, register, remove
from multiframe.schema import instances, objects, scans
from multiframe.settings import MIB
from multiframe.source import FileSource, ObjectStat

__all__ = ["Scan", "ScanStatus"]

_BATCH_FILES, _BATCH_SECONDS, _BATCH_BYTES = 200, 0.5, 8 * MIB  # whichever comes first


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
    roots : sequence of Path
        Files and folders.
    read : callable
        Reads a header into a `Record`.
    forget : callable
        Told which instance is not what it was.
    progress : callable, optional
        Told now and then how far it is.
    """

    def __init__(
        self,
        database: Database,
        roots: Sequence[Path],
        read: Callable[[bytes, ObjectStat], Record],
        forget: Callable[[str], object],
        progress: Callable[[ScanStatus], object] | None = None,
    ) -> None:
        self.database = database
        self.roots = _outermost(roots)
        self.progress = progress
        self.status = ScanStatus(running=True)
        self.unlisted: list[bytes] = []
        self._read, self._forget = read, forget
        self._records: list[Record] = []
        self._weight = 0
        self._seen: list[bytes] = []
        self._flushed = time.monotonic()
        with database.transaction(write=True) as connection:
            connection.execute(sa.update(scans).values(running=False))
            added = connection.execute(sa.insert(scans).values(running=True, updated=time.time(), counts="{}"))
            self.generation = int(added.inserted_primary_key[0])  # type: ignore[index]  # a plain insert has one

    def run(self, stop: Callable[[], bool]) -> ScanStatus:
        """Scan, unless `stop` says otherwise before a file; give what was done."""
        stopped = False
        try:
            for some in batched(files(self.roots, self._unlisted), LOOKUP):
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
        query = sa.select(objects.c.path, objects.c.identity).where(objects.c.path.in_(paths))
        with self.database.transaction() as connection:
            return dict(connection.execute(query).all())

    def _meet(self, path: bytes, stat: ObjectStat, known: str | None) -> None:
        self._count("found")
        if known is not None and identity_of(known) == stat.identity:
            self._count("unchanged")
            self._seen.append(path)
        else:
            self._open(path, stat)
        self._flush_if_due()

    def _flush_if_due(self) -> None:
        if (
            len(self._records) >= _BATCH_FILES
            or self._weight >= _BATCH_BYTES
            or len(self._seen) >= 2 * LOOKUP
            or time.monotonic() - self._flushed >= _BATCH_SECONDS
        ):
            self.flush()

    def _open(self, path: bytes, stat: ObjectStat) -> None:
        try:
            record = self._read(path, stat)
        except MultiframeError:
            self._count("failed")
            self._seen.append(path)  # it is there: what was known of it, should it come back, stays
            return
        except Exception as error:  # a fault of ours with one file must not cost all others
            record = Record(path, stat, f"internal error: {type(error).__name__}")
        self._records.append(record)
        self._weight += record.weight

    def flush(self) -> None:
        """Write what has come together, in one short transaction, and say so."""
        not_there = gone(self.database, self._records)
        with self.database.transaction(write=True) as connection:
            written = register(connection, self._records, self.generation, not_there)
            for record in written:
                if record.uid is not None:
                    self._count("registered")
                    self._forget(record.uid)
                else:
                    self._count("ignored" if record.harmless else "failed")
            # Another process has read the others meanwhile.
            self._seen += {record.path for record in self._records} - {record.path for record in written}
            self._count("unchanged", len(self._records) - len(written))
            for paths in batched(self._seen, LOOKUP):
                # A later scan may have met it already, and would take it for one that is gone.
                these = sa.and_(objects.c.path.in_(paths), objects.c.seen < self.generation)
                connection.execute(sa.update(objects).where(these).values(seen=self.generation))
            self.status = replace(self.status, updated=time.time())
            counts = asdict(self.status)
            running, updated = counts.pop("running"), counts.pop("updated")
            connection.execute(
                sa.update(scans)
                .where(scans.c.id == self.generation)
                .values(running=running, updated=updated, counts=json.dumps(counts))
            )
        self._records, self._seen, self._weight = [], [], 0
        self._flushed = time.monotonic()
        if self.progress is not None:
            self.progress(self.status)

    def _drop_vanished(self) -> None:
        missed = sa.and_(objects.c.seen < self.generation, sa.or_(*map(_below, self.roots)))
        for directory in self.unlisted:  # not seen, but not known to be gone either
            missed = sa.and_(missed, sa.not_(_below(directory)))
        query = sa.select(objects.c.path).where(missed).limit(LOOKUP)
        while True:
            with self.database.transaction(write=True) as connection:
                paths = connection.execute(query).scalars().all()
                if not paths:
                    return
                for uid in remove(connection, paths):
                    self._forget(uid)
            self._count("vanished", len(paths))

    def _promote_copies(self) -> None:
        """Read the second copies of instances whose first is gone."""
        first = sa.select(instances.c.instance).where(instances.c.instance == objects.c.duplicate_of)
        query = sa.select(objects.c.path).where(objects.c.duplicate_of.is_not(None), ~first.exists())
        with self.database.transaction() as connection:
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
    path = objects.c.path
    return sa.or_(path == root, sa.and_(path >= below, path < below[:-1] + b"0"))  # "0" comes next after "/"
