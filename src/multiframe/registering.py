"""Rows into the tables: what reading files brought, and how it takes its place.

It knows which of two files of an instance counts, and keeps series and studies right while instances come and go. What
it writes it writes in the transaction it is given, and waits for no file meanwhile. It must not know how files are
found or read, nor HTTP.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import batched
from typing import Any

import sqlalchemy as sa

from multiframe.database import Database, among, insert
from multiframe.errors import SourceError, SourceNotFound
from multiframe.listing import same_object, source_at
from multiframe.records import Record
from multiframe.schema import instances, objects, patterns, requests, series, studies
from multiframe.source import Identity

__all__ = ["LONGEST", "LOOKUP", "as_text", "identity_of", "register", "remove"]

LOOKUP = 500
"""Paths asked for in one query."""

LONGEST = 2500
"""Bytes of a place that an index of PostgreSQL takes: longer ones are not catalogued."""

type Holder = tuple[bytes, str]
"""A file and its identity, as the database has them."""


class _Doubt(Exception):
    """Others have brought instances, and nobody knows whether the files that hold them are still there."""

    def __init__(self, holders: Collection[Holder]) -> None:
        super().__init__()
        self.holders = holders


def register(
    database: Database,
    records: Sequence[Record],
    then: Callable[[sa.Connection, list[Record]], object] = lambda *_: None,
) -> list[Record]:
    """Write records in place of whatever their paths held, in one short transaction; give them as they were written.

    The first file of an instance keeps it: another one is a duplicate, unless the first is not there any more. What
    another process wrote meanwhile of the same state of a file is left as it is, and not given.

    Parameters
    ----------
    then : callable
        What else belongs into the transaction; given its connection, and what was written.
    """
    there: dict[Holder, bool] = {}
    while True:
        try:
            with database.transaction(write=True) as connection:
                written = _written(connection, records, there)
                then(connection, written)
                return written
        except _Doubt as doubt:  # nothing was written: looking at files takes its time, and the writer has none
            there |= {holder: _there(*holder) for holder in doubt.holders}


def _there(path: bytes, identity: str) -> bool:
    try:
        return source_at(path).stat().identity == identity_of(identity)
    except SourceNotFound:
        return False
    except SourceError:
        return True  # nobody knows: it keeps what it has


# ---------------------------------------------------------------------------------------------------- writing


def _written(connection: sa.Connection, records: Iterable[Record], there: Mapping[Holder, bool]) -> list[Record]:
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
    taken = _holders(connection, first, there)
    for path, record in written.items():
        if (uid := record.uid) is None:
            continue
        if uid in taken:
            written[path] = Record(path, record.stat, f"a second file of instance {uid}", uid)
        taken.add(uid)
    final = list(written.values())
    insert(
        connection,
        objects,
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
        insert(connection, requests, asked_for)
    likes = {(p["study"], p["series"], p["number"]): p for r in good if (p := r.pattern)}
    _insert_new(connection, patterns, likes)
    if good:
        insert(connection, instances, [r.instance for r in good if r.instance])
        _count(connection, of_series)
    return final


def _known(connection: sa.Connection, records: Mapping[bytes, Record]) -> list[tuple[bytes, bool]]:
    """Give which files the database knows, and whether as they are: as an instance, or as none."""
    o = objects.c
    query = sa.select(o.path, o.identity, o.duplicate_of)
    known = []
    for some in batched(records, LOOKUP):
        for row in among(connection, query, o.path, some):
            same = row.duplicate_of is None and row.identity == as_text(records[row.path].stat.identity)
            known.append((row.path, same))
    return known


def _holders(connection: sa.Connection, records: Mapping[str, Record], there: Mapping[Holder, bool]) -> set[str]:
    """Give which of the instances another file holds; a file that is gone, or changed, holds nothing.

    A file that was moved keeps what is known of its frames.
    """
    i, o = instances.c, objects.c
    query = sa.select(i.instance, o.path, o.identity, i.frame_index).join_from(instances, objects)
    rows: list[tuple[str, bytes, str, bytes | None]] = []
    for some in batched(sorted(records), LOOKUP):
        rows += map(tuple, among(connection, query, i.instance, some))
    if unknown := {(path, identity) for _, path, identity, _ in rows} - there.keys():
        raise _Doubt(unknown)
    held: set[str] = set()
    for uid, path, identity, frame_index in rows:
        if there[path, identity]:
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
        insert(connection, table, [rows[key] for key in new])
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
    connection.execute(sa.delete(instances).where(i.path.in_(paths)))
    connection.execute(sa.delete(objects).where(objects.c.path.in_(paths)))
    _count(connection, {(row.study, row.series) for row in lost})  # before those are gone that are left empty
    for some in batched({row.study for row in lost}, LOOKUP):
        of_series = sa.select(i.instance).where(i.study == s.study, i.series == s.series)
        connection.execute(sa.delete(series).where(s.study.in_(some), ~of_series.exists()))
        _drop_patterns(connection, {row.series for row in lost if row.study in some})
        _sum(connection, some)
        of_study = sa.select(s.series).where(s.study == studies.c.study)
        connection.execute(sa.delete(studies).where(studies.c.study.in_(some), ~of_study.exists()))
    return [row.instance for row in lost]


def _drop_patterns(connection: sa.Connection, named: Iterable[str]) -> None:
    """Forget those headers of series beside which none is kept any more."""
    p, i = patterns.c, instances.c
    like = sa.select(i.instance).where(i.study == p.study, i.series == p.series, i.pattern == p.number)
    for some in batched(sorted(named), LOOKUP):
        connection.execute(sa.delete(patterns).where(p.series.in_(some), ~like.exists()))


def as_text(identity: Identity) -> str:
    """Give an identity as the database keeps it."""
    return f"[{','.join([str(part) if isinstance(part, int) else json.dumps(part) for part in identity])}]"


def identity_of(text: str) -> Identity:
    """Give an identity that `as_text` wrote."""
    return tuple(json.loads(text))
