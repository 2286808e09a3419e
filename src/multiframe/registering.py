"""From a file's header to rows, and rows into the tables: what reading one file brought, and how it takes its place.

It knows which of two files of an instance counts, and keeps series and studies right while instances come and go. What
it writes it writes in the transaction it is given, and waits for no file meanwhile. It must not know how files are
found, nor HTTP.
"""

import json
import os
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import batched
from stat import S_ISLNK
from typing import Any, NamedTuple

import sqlalchemy as sa

from multiframe.database import Database
from multiframe.errors import FormatError, NotDicom, SourceError, SourceNotFound, UnknownSyntax
from multiframe.far import Nearby
from multiframe.gleaning import Gleaned, Gleaner, gleaned
from multiframe.header import Header
from multiframe.instance import header_of
from multiframe.keeping import Kept
from multiframe.listing import same_object, source_at
from multiframe.memory import MemoryBudget
from multiframe.places import shown
from multiframe.ranges import ByteRange
from multiframe.schema import instances, objects, requests, series, studies
from multiframe.settings import MIB, Settings
from multiframe.source import FileSource, Identity, ObjectStat

__all__ = [
    "LONGEST",
    "LOOKUP",
    "UID",
    "Record",
    "as_text",
    "gone",
    "identity_of",
    "lies_there",
    "read_record",
    "register",
    "remove",
]

LOOKUP = 500
"""Paths asked for in one query."""

LONGEST = 2500
"""Bytes of a place that an index of PostgreSQL takes: longer ones are not catalogued."""

UID = re.compile(r"[0-9A-Za-z._-]{1,64}")
"""Looser than PS3.5 9.1, and harmless in a URL or a header."""

_BIG_HEADER, _BIG_COMPRESSED = 4 * MIB, MIB  # what is longer is read again from its file
_NOT_DICOM = "not a DICOM file"
_NO_UIDS = "names no study, series and instance that could be asked for"  # such as a DICOMDIR

type Holder = tuple[bytes, str]
"""A file and its identity, as the database has them."""


class Record(NamedTuple):
    """What reading one file brought: rows to be, of each level."""

    path: bytes
    stat: ObjectStat
    problem: str | None = None
    duplicate_of: str | None = None
    study: Mapping[str, Any] | None = None
    series: Mapping[str, Any] | None = None
    requests: Sequence[Mapping[str, Any]] = ()
    instance: dict[str, Any] | None = None

    @property
    def uid(self) -> str | None:
        """SOP Instance UID of the instance that it is."""
        return None if self.instance is None else self.instance["instance"]

    @property
    def weight(self) -> int:
        """About how many bytes it takes."""
        return 1024 if self.instance is None else 8192 + len(self.instance["header"] or b"")

    @property
    def harmless(self) -> bool:
        """Whether nobody need worry that it is no instance."""
        return self.problem in (_NOT_DICOM, _NO_UIDS) or self.duplicate_of is not None


def read_record(
    path: bytes, stat: ObjectStat | None, settings: Settings, budget: MemoryBudget, gleaner: Gleaner | None = None
) -> Record:
    """Read a file's header into rows; what is no instance is remembered as that, so as not to be opened again.

    Parameters
    ----------
    stat : ObjectStat or None
        The state of a local file that is meant; a far object tells its own with its first bytes.
    gleaner : Gleaner, optional
        Knows headers like this one, and shall know this one.

    Raises
    ------
    SourceError, OverBudget
        It cannot be read now: that is no property of the file, and not remembered.
    """
    source: FileSource | Nearby | Kept = source_at(path)
    near = isinstance(source, FileSource)
    if near:
        stat = stat or source.stat()
        # Behind the look at its state, and before that state is read: a link put in its place leads nowhere.
        if not lies_there(path):
            raise SourceNotFound(f"{shown(path)}: a link has taken its place, and nothing outside the roots is read")
    limits = {"first_read": settings.first_read, "max_header": settings.max_header}
    if near and stat and gleaner:
        first = min(*limits.values(), stat.size)
        first = min(first, gleaner.reach or first)  # of a longer one the rest is read
        source = Kept(source, limit=first)  # what was read to compare it need not be read again
        with budget.acquire(min(first, budget.limit), timeout=settings.memory_wait):
            (start,) = source.read_ranges([ByteRange(0, first)], identity=stat.identity).buffers
            found = gleaner.glean(bytes(start))
        if found is not None:
            return _record_of(path, stat, found)
    try:
        _, header = header_of(source, stat.identity if near and stat else None, budget, **limits)
        problem = None
    except (FormatError, UnknownSyntax) as error:
        header, problem = None, _NOT_DICOM if isinstance(error, NotDicom) else str(error)
    if isinstance(source, Nearby):
        stat = source.seen
    if stat is None:  # not a byte was read of it
        stat = source.stat()
    if header is None:
        return Record(path, stat, problem)
    if not all(map(UID.fullmatch, _uids(header))):
        return Record(path, stat, _NO_UIDS)
    found = gleaned(header)
    if near and gleaner:
        gleaner.remember(found)
    return _record_of(path, stat, found)


def lies_there(path: bytes) -> bool:
    """Whether a place is written as it really lies, and no link leads there; what is not there is not told apart.

    It says whether `os.path.realpath` gives the same, in a fraction of its time; a link to itself leads elsewhere, too.
    """
    if any(part in (b"", b".", b"..") for part in path.split(b"/")[1:]):
        return False
    at = 0
    try:
        while at >= 0:
            at = path.find(b"/", at + 1)
            if S_ISLNK(os.lstat(path[:at] if at >= 0 else path).st_mode):
                return False
    except (OSError, ValueError):
        pass  # whoever opens it will say so
    return True


def _uids(header: Header) -> tuple[str, str, str]:
    return header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid


def _record_of(path: bytes, stat: ObjectStat, found: Gleaned) -> Record:
    header = found.header
    if not all(map(UID.fullmatch, _uids(header))):
        return Record(path, stat, _NO_UIDS)
    compressed = found.packed
    if compressed is None and len(header.raw) <= _BIG_HEADER:
        compressed = zlib.compress(header.raw, 1)
    if compressed is not None and len(compressed) > _BIG_COMPRESSED:
        compressed = None
    return Record(
        path,
        stat,
        study=found.study,
        series=found.series,
        requests=found.requests,
        instance={
            **found.instance,
            "path": path,
            "syntax": header.syntax.uid,
            "facts": found.facts,
            "header_size": len(header.raw),
            "header": compressed,
            "frame_index": None,
        },
    )


# ---------------------------------------------------------------------------------------------------- who holds it


def gone(database: Database, records: Iterable[Record]) -> set[Holder]:
    """Give which files that hold the records' instances are not there any more, or are others.

    It is asked before the transaction that writes: looking at files takes its time, and the writer has none. Whoever
    becomes the holder meanwhile was there a moment ago.
    """
    uids = {record.uid for record in records if record.uid is not None}
    query = sa.select(objects.c.path, objects.c.identity).join_from(instances, objects)
    held: list[Holder] = []
    for some in batched(sorted(uids), LOOKUP):
        with database.transaction() as connection:
            held += [
                (row.path, row.identity) for row in connection.execute(query.where(instances.c.instance.in_(some)))
            ]
    return {(path, identity) for path, identity in held if not _there(path, identity)}


def _there(path: bytes, identity: str) -> bool:
    try:
        return source_at(path).stat().identity == identity_of(identity)
    except SourceNotFound:
        return False
    except SourceError:
        return True  # nobody knows: it keeps what it has


# ---------------------------------------------------------------------------------------------------- writing


def register(connection: sa.Connection, records: Iterable[Record], gone: Collection[Holder]) -> list[Record]:
    """Write records in place of whatever their paths held; give them as they were written.

    The first file of an instance keeps it: another one is a duplicate, unless the first is not there any more. What
    another process wrote meanwhile of the same state of a file is left as it is, and not given.

    Parameters
    ----------
    connection : Connection
        In the transaction of the one writer.
    gone : collection of Holder
        As `gone` gives it.
    """
    written = {record.path: record for record in records}
    other = []
    for path, same in _known(connection, written):
        if same:
            del written[path]
        else:
            other.append(path)
    if not written:
        return []
    for paths in batched(other, LOOKUP):
        remove(connection, paths)
    first: dict[str, Record] = {}
    for record in written.values():
        if record.uid is not None:
            first.setdefault(record.uid, record)
    taken = _holders(connection, first, gone)
    for path, record in written.items():
        if (uid := record.uid) is None:
            continue
        if uid in taken:
            written[path] = Record(path, record.stat, f"a second file of instance {uid}", uid)
        taken.add(uid)
    final = list(written.values())
    connection.execute(
        sa.insert(objects),
        [
            {
                "path": r.path,
                "size": r.stat.size,
                "identity": as_text(r.stat.identity),
                "problem": r.problem,
                "duplicate_of": r.duplicate_of,
            }
            for r in final
        ],
    )
    good = [r for r in final if r.instance is not None]
    _insert_new(connection, studies, {r.study["study"]: r.study for r in reversed(good) if r.study})
    of_series = {(r.series["study"], r.series["series"]): r for r in reversed(good) if r.series}
    new = _insert_new(connection, series, {key: r.series for key, r in of_series.items() if r.series})
    asked_for = [row for key in new for row in of_series[key].requests]
    if asked_for:
        connection.execute(sa.insert(requests), asked_for)
    if good:
        connection.execute(sa.insert(instances), [r.instance for r in good if r.instance])
        _count(connection, of_series)
    return final


def _known(connection: sa.Connection, records: Mapping[bytes, Record]) -> list[tuple[bytes, bool]]:
    """Give which files the database knows, and whether as they are: as an instance, or as none."""
    o = objects.c
    known = []
    for some in batched(records, LOOKUP):
        for row in connection.execute(sa.select(o.path, o.identity, o.duplicate_of).where(o.path.in_(some))):
            same = row.duplicate_of is None and row.identity == as_text(records[row.path].stat.identity)
            known.append((row.path, same))
    return known


def _holders(connection: sa.Connection, records: Mapping[str, Record], gone: Collection[Holder]) -> set[str]:
    """Give which of the instances another file holds; a file that is gone, or changed, holds nothing.

    A file that was moved keeps what is known of its frames.
    """
    i, o = instances.c, objects.c
    query = sa.select(i.instance, o.path, o.identity, i.frame_index).join_from(instances, objects)
    held: set[str] = set()
    for some in batched(sorted(records), LOOKUP):
        for uid, path, identity, frame_index in connection.execute(query.where(i.instance.in_(some))).all():
            if (path, identity) not in gone:
                held.add(uid)
                continue
            remove(connection, [path])
            moved = records[uid]
            if frame_index is not None and moved.instance and _moved(identity_of(identity), moved.stat.identity):
                moved.instance["frame_index"] = frame_index
    return held


def _moved(old: Identity, new: Identity) -> bool:
    """Whether a file is the one that lay elsewhere: inode, size and time of modification outlast a new name."""
    near = len(old) == len(new) == 4 and all(isinstance(part, int) for part in (*old, *new))
    return old[:3] == new[:3] if near else old[:1] == ("etag",) and same_object(old, new)


def _insert_new(connection: sa.Connection, table: sa.Table, rows: Mapping[Any, Mapping[str, Any]]) -> list[Any]:
    """Insert those rows that are not there, and give their keys.

    The first instance of a study or series speaks for it.
    """
    keys = list(table.primary_key.columns)
    there: set[Any] = set()
    for some in batched({row["study"] for row in rows.values()}, LOOKUP):
        found = connection.execute(sa.select(*keys).where(table.c.study.in_(some))).all()
        there.update(row[0] if len(keys) == 1 else tuple(row) for row in found)
    new = [key for key in rows if key not in there]
    if new:
        connection.execute(sa.insert(table), [rows[key] for key in new])
    return new


def _count(connection: sa.Connection, of_series: Iterable[tuple[str, str]]) -> None:
    """Count the instances of series anew."""
    s, i = series.c, instances.c
    n = sa.select(sa.func.count()).select_from(instances).where(i.study == s.study, i.series == s.series)
    for some in batched(sorted(of_series), LOOKUP):
        # The study is said twice: SQLite looks no pair up in an index.
        these = sa.and_(s.study.in_({study for study, _ in some}), sa.tuple_(s.study, s.series).in_(some))
        connection.execute(sa.update(series).where(these).values(instances=n.scalar_subquery()))
    _sum(connection, {study for study, _ in of_series})


def _sum(connection: sa.Connection, named: Iterable[str]) -> None:
    """Count the series and instances of studies anew, and list their modalities."""
    s, t = series.c, studies.c
    n = sa.select(sa.func.count()).where(s.study == t.study).scalar_subquery()
    m = sa.select(sa.func.coalesce(sa.func.sum(s.instances), 0)).where(s.study == t.study).scalar_subquery()
    each = sa.select(s.modality).where(s.study == t.study, s.modality != "").correlate(studies).distinct().subquery()
    listed = sa.select(sa.func.coalesce(sa.func.aggregate_strings(each.c.modality, "\\"), "")).scalar_subquery()
    kept = {"n_series": n, "n_instances": m, "modalities": listed}
    for some in batched(sorted(named), LOOKUP):
        connection.execute(sa.update(studies).where(t.study.in_(some)).values(kept))


def remove(connection: sa.Connection, paths: Sequence[bytes]) -> list[str]:
    """Forget files, with their instances, and the series and studies that are left empty; give the instances."""
    s, i = series.c, instances.c
    lost = connection.execute(sa.select(i.instance, i.study, i.series).where(i.path.in_(paths))).all()
    connection.execute(sa.delete(objects).where(objects.c.path.in_(paths)))
    _count(connection, {(row.study, row.series) for row in lost})  # before those are gone that are left empty
    for some in batched({row.study for row in lost}, LOOKUP):
        of_series = sa.select(i.instance).where(i.study == s.study, i.series == s.series)
        connection.execute(sa.delete(series).where(s.study.in_(some), ~of_series.exists()))
        _sum(connection, some)
        of_study = sa.select(s.series).where(s.study == studies.c.study)
        connection.execute(sa.delete(studies).where(studies.c.study.in_(some), ~of_study.exists()))
    return [row.instance for row in lost]


def as_text(identity: Identity) -> str:
    """Give an identity as the database keeps it."""
    return json.dumps(identity, separators=(",", ":"))


def identity_of(text: str) -> Identity:
    """Give an identity that `as_text` wrote."""
    return tuple(json.loads(text))
