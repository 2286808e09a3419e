"""A search said in SQL, and what it finds (PS3.4 C.2.2.2; PS3.18 8.3.4, 10.6).

What has a column is matched by the database. What is kept as JSON alone is looked at row by row, in the order of the
answer, until there are enough, or so many that the search is refused. It must not know HTTP, files, or headers.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache, partial
from itertools import batched
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from multiframe.errors import TooBroad
from multiframe.levels import KEYS, LEVELS, REQUESTS, WORDS, Key, Level, level_of, lines_of, merged, text_of
from multiframe.matching import (
    PAIRS,
    Between,
    Combined,
    Empty,
    Equal,
    Item,
    Kind,
    Like,
    Moments,
    Number,
    Test,
    Words,
    around,
    combined,
    is_moved,
    kind_of,
    read_test,
)
from multiframe.schema import TABLES, days, instances, patterns, requests, series, studies

__all__ = [
    "EXAMINED", "ORDER", "Found", "Search", "find", "find_page", "is_one_question", "kind_of_path", "level_of_path",
    "remaining",
]  # fmt: skip

_LOOKUP = 500  # rows asked for in one query
_KEY_OF_TAG: Final = {key.tag: key for key in KEYS.values()}
_NAME_OF_TAG: Final = {key.tag: name for name, key in KEYS.items()}
_BEHIND = "52009229"  # from the functional groups on nothing is kept
# What we say of ourselves, whatever a file says, and the character set, which is ours too.
_MADE = frozenset((
    "00080005", "00080056", "00080201", "00081190", "00083002", "00201206", "00201208", "00201209",
))  # fmt: skip

_MANY = 1000  # left out: from here on it is worth finding out where they end
_FEW = 1000  # rows that have a value: up to here they are put in order, beyond the order is gone through for them
_INDEXED: Final = frozenset((  # by value alone: no planner knows how rare the one is that is asked for
    "modality", "instance_number", "rows", "columns", "number_of_frames",
))  # fmt: skip

EXAMINED = 50_000
"""Rows whose JSON is looked at in one search, at most."""

_STUDIES: list[sa.ColumnElement[Any]] = [
    studies.c.study_date.desc(),
    studies.c.study_time.desc(),
    studies.c.study.desc(),
]
_SERIES: list[sa.ColumnElement[Any]] = [series.c.series_number.nulls_last(), series.c.series]
_LIKE: Final = (  # what another of the series has, beside which the attributes of an instance may be kept
    sa.select(patterns.c.attributes)
    .where(
        patterns.c.study == instances.c.study,
        patterns.c.series == instances.c.series,
        patterns.c.number == instances.c.pattern,
    )
    .scalar_subquery()
)
_INSTANCES: list[sa.ColumnElement[Any]] = [instances.c.instance_number.nulls_last(), instances.c.instance]

ORDER: Final[Mapping[Level, list[sa.ColumnElement[Any]]]] = {
    "study": _STUDIES,
    "series": _STUDIES + _SERIES,
    "instance": _STUDIES + _SERIES + _INSTANCES,
}
"""The newest study first, then by number; the last column of each level is unique, so that the order is total."""


@dataclass(frozen=True, slots=True)
class Search:
    """A question to the catalog.

    Attributes
    ----------
    level : str
        What is looked for: ``study``, ``series`` or ``instance``.
    study, series : str or None
        Only below these.
    only : frozenset of str or None
        Only these studies, whatever else is asked for; None: all.
    conditions : mapping of str to str
        What values must match, as DICOM writes it (PS3.4 C.2.2.2): a value, ``*`` and ``?`` in text, ``from-to`` in
        dates and times, a list of UIDs or codes, ``""`` for none. By keyword of `KEYS`, or by tag in eight hexadecimal
        digits, with the tags of the sequences it lies in and dots before it.
    fuzzy : bool
        Match names by their words.
    zone : timedelta or None
        How far the clock by which dates and times are asked for is from UTC. Those of instances that say how far theirs
        is are matched by it; all others as they are written, as all are where this is None.
    classes : bool
        Say of each match which SOP Classes its study has.
    limit : int or None
        Give at most so many.
    offset : int
        Leave out so many of the first.
    """

    level: Level
    study: str | None = None
    series: str | None = None
    only: frozenset[str] | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    fuzzy: bool = False
    zone: timedelta | None = None
    classes: bool = False
    limit: int | None = None
    offset: int = 0


class Found(NamedTuple):
    """One match of a `Search`.

    Attributes
    ----------
    study, series, instance : str
        UIDs, down to the level searched.
    attributes : tuple of str
        DICOM JSON objects of the study, of the series and of the instance, down to the level searched.
    modalities : tuple of str
        Of all series of the study.
    study_series, study_instances : int
        How many the study has.
    series_instances : int
        How many the series has; 0 at study level.
    classes : tuple of str
        SOP Class UIDs of all instances of the study, where they were asked for.
    syntax : str
        Transfer Syntax UID of the instance as it is stored.
    """

    study: str
    series: str
    instance: str
    attributes: tuple[str, ...]
    modalities: tuple[str, ...]
    study_series: int
    study_instances: int
    series_instances: int
    classes: tuple[str, ...] = ()
    syntax: str = ""


@lru_cache(1024)
def kind_of_path(path: str) -> tuple[Level, Kind] | None:
    """Say at which level an attribute is matched, and how; None: it is not kept, or cannot be matched.

    Parameters
    ----------
    path : str
        Eight hexadecimal digits, with those of the sequences it lies in and dots before them.

    Examples
    --------
    >>> kind_of_path("00100020"), kind_of_path("00101002.00100020"), kind_of_path("7FE00010")
    (('study', 'text'), ('study', 'text'), None)
    """
    key = _KEY_OF_TAG.get(path)
    if key is not None:
        return key.level, key.kind
    level = None if path[:8] in _MADE else level_of_path(path)
    kind = None if level is None else kind_of(_vr(path[-8:]))
    return None if level is None or kind is None else (level, kind)


@lru_cache(1024)
def level_of_path(path: str) -> Level | None:
    """Say at which level an attribute is kept; None: it is not.

    Examples
    --------
    >>> level_of_path("00400275.00400009"), level_of_path("00091001"), level_of_path("7FE00010")
    ('series', None, None)
    """
    *outer, last = path.split(".")
    top = (*outer, last)[0]
    if not "00080000" < top < _BEHIND or any(int(tag[:4], 16) & 1 for tag in (*outer, last)):
        return None
    if len(outer) > 8 or any(_vr(tag) != "SQ" for tag in outer):
        return None
    return level_of(int(top, 16))


def _vr(tag: str) -> str:
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(int(tag, 16))[:2]  # the first of "US or SS"
    except KeyError:
        return ""


# ---------------------------------------------------------------------------------------------------- conditions


class _Asked:
    """The conditions of a search, read: those of columns, and those that JSON is looked at for."""

    def __init__(self, connection: sa.Connection, query: Search) -> None:
        self.clauses: list[sa.ColumnElement[bool]] = []
        self.below = False  # whether something is asked of what lies below the study
        self.beside = False  # whether a clause speaks of other tables, though it asks of the study
        self.items: dict[Level, Item] = {}
        fast: dict[str, Test] = {}
        slow: dict[str, tuple[Level, Kind, Test]] = {}
        for name, wanted in query.conditions.items():
            path = KEYS[name].tag if name in KEYS else name
            found = kind_of_path(path)
            if found is None or LEVELS.index(found[0]) > LEVELS.index(query.level):
                raise ValueError(f"{name} is no attribute that a {query.level} can be matched by")
            test = read_test(_NAME_OF_TAG.get(path, path), found[1], wanted, fuzzy=query.fuzzy)
            if test is None:
                continue
            if query.zone is not None and isinstance(test, Moments):
                test = test.at(query.zone)
            if path in _KEY_OF_TAG:
                fast[path] = test
                self.below |= found[0] != "study"
                self.beside |= path == KEYS["StudyInstanceUID"].tag
            else:
                slow[path] = (*found, test)
        if query.zone is not None:  # what a column holds may be another day by the clock of the client
            for path in [p for p in fast if _KEY_OF_TAG[p].kind in ("date", "time") and is_moved(p)]:
                test, key = fast[path], _KEY_OF_TAG[path]
                slow[path] = (key.level, key.kind, fast.pop(path))
                if isinstance(test, Between) and key.kind == "date":
                    fast[path] = around(test)
        # One Item of a sequence must match all that is asked of it: a table that knows but a part of it is no help.
        if any(path.startswith(f"{REQUESTS}.") for path in slow):
            for path in [path for path in fast if path.startswith(f"{REQUESTS}.")]:
                slow[path] = ("series", _KEY_OF_TAG[path].kind, fast.pop(path))
        for path, (level, kind, test) in slow.items():
            self.items.setdefault(level, Item(zone=query.zone)).add(path.split("."), kind, test)
        for date, time in PAIRS.items() if query.zone is None else ():
            both = combined(fast.get(date), fast.get(time))
            if both is not None:
                del fast[date], fast[time]
                self.clauses.append(_is_combined(_column(_KEY_OF_TAG[date]), _column(_KEY_OF_TAG[time]), both))
        asked_of_requests = {path: fast.pop(path) for path in list(fast) if path.startswith(f"{REQUESTS}.")}
        if asked_of_requests:
            self.clauses.extend(_has_request(asked_of_requests))
        tables = [TABLES[level] for level in LEVELS[: LEVELS.index(query.level) + 1]]
        for path, test in fast.items():
            key = _KEY_OF_TAG[path]
            if key.column in _INDEXED and path != KEYS["Modality"].tag:
                few = query.study is None and _is_rare(connection, key, test)
                self.clauses.append(_has_value(connection, key, test, few=few))
            else:
                self.clauses.extend(_clauses(key, test, tables))

    def by_study(self, query: Search) -> bool:
        """Whether whole studies match, so that what they say they have is what is found."""
        return query.study is None and not self.below and not self.beside


def _clauses(key: Key, test: Test, tables: Sequence[sa.Table]) -> Iterator[sa.ColumnElement[bool]]:
    name = _NAME_OF_TAG[key.tag]
    if name == "SOPClassesInStudy":
        yield _holds(instances, key, test)
    elif name in ("StudyInstanceUID", "SeriesInstanceUID"):
        for table in tables[LEVELS.index(key.level) :]:  # whichever is looked into first
            yield _is(table.c[key.column], test)
    else:
        yield _is(_column(key), test)


def _holds(table: sa.Table, key: Key, test: Test) -> sa.ColumnElement[bool]:
    """Ask for studies that something below them makes match."""
    other = table.alias()
    column, there = other.c[key.column], other.c.study == studies.c.study
    if isinstance(test, Empty):
        return ~sa.exists().where(there, column != "")
    return sa.exists().where(there, _is(column, test))


def _with_value(key: Key, test: Test, told: str | sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Ask for the rows that have a value, and for no more than its index holds."""
    other = (series if key.column == "modality" else instances).alias("with_value")
    return (
        sa.select(other.c[told] if isinstance(told, str) else told)
        .select_from(other)
        .where(_is(other.c[key.column], test))
    )


def _is_rare(connection: sa.Connection, key: Key, test: Test) -> bool:
    """Whether few rows have a value: it is found out by counting them, so far."""
    if isinstance(test, Like) and any(map(_is_wild, test.patterns)):
        return False
    if isinstance(test, Empty) and key.column == "modality":  # no series of the study has one: not this one
        return False
    some = _with_value(key, test, key.column).limit(_FEW + 1).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()) <= _FEW


def _has_value(connection: sa.Connection, key: Key, test: Test, *, few: bool) -> sa.ColumnElement[bool]:
    """Ask for a value in the way that is quick for a rare or for a frequent one, whatever a planner thinks of it."""
    if key.column == "modality":
        return studies.c.study.in_(_with_value(key, test, "study")) if few else _holds(series, key, test)
    if few and connection.dialect.name == "sqlite":  # else it goes through all rows for what the index does not hold
        these = _with_value(key, test, sa.literal_column("with_value.rowid"))
        return sa.literal_column("instances.rowid").in_(these)
    if few:
        return instances.c.instance.in_(_with_value(key, test, "instance"))
    return _is(_column(key) + sa.literal_column("0"), test)  # which no index has


def _column(key: Key) -> sa.ColumnElement[Any]:
    column: sa.ColumnElement[Any] = TABLES[key.level].c[key.column]
    return column


def _is(column: sa.ColumnElement[Any], test: Test) -> sa.ColumnElement[bool]:
    """Say a test in SQL."""
    match test:
        case Equal(values):
            return column == values[0] if len(values) == 1 else column.in_(values)
        case Like(patterns):
            return sa.or_(sa.false(), *(_like(column, pattern) for pattern in patterns))
        case Words(words):
            there = studies.c[WORDS[str(column.key)]]
            return sa.and_(
                *(
                    sa.or_(*(there.like(f"% {_pattern(spelling)}%", escape="!") for spelling in spellings))
                    for spellings in words
                )
            )
        case Between(first, last):
            bounds = [column != "", *([column >= first] if first else ()), *([column <= last] if last else ())]
            return sa.and_(*bounds)
        case Number(value):
            whole = value.adjusted() < 19 and value == value.to_integral_value() and abs(int(value)) < 2**63
            return column == int(value) if whole else sa.false()
        case Empty():
            return sa.or_(column.is_(None), column.in_(("", "="))) if _is_text(column) else column.is_(None)
        case Moments():
            raise TypeError("no column holds dates with times")


def _is_text(column: sa.ColumnElement[Any]) -> bool:
    return isinstance(column.type, sa.Text)


def _like(column: sa.ColumnElement[Any], pattern: str) -> sa.ColumnElement[bool]:
    """Match ``*`` and ``?``; without them it is plain equality, which an index answers."""
    return column.like(_pattern(pattern), escape="!") if _is_wild(pattern) else column == pattern


def _is_wild(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _pattern(wanted: str) -> str:
    for special in "!%_":
        wanted = wanted.replace(special, f"!{special}")
    return wanted.replace("*", "%").replace("?", "_")


def _is_combined(date: sa.ColumnElement[Any], time: sa.ColumnElement[Any], both: Combined) -> sa.ColumnElement[bool]:
    days, times = both.dates, both.times
    bounds = [date != ""]
    if days.first:
        bounds.append(sa.or_(date > days.first, sa.and_(date == days.first, time >= times.first)))
    if days.last:
        bounds.append(sa.or_(date < days.last, sa.and_(date == days.last, time != "", time <= times.last)))
    return sa.and_(*bounds)


def _has_request(asked: Mapping[str, Test]) -> Iterator[sa.ColumnElement[bool]]:
    """Ask for one Item of the Request Attributes Sequence that matches it all."""
    this = sa.tuple_(series.c.study, series.c.series)
    r = requests.c
    tests = [_is(r[_KEY_OF_TAG[path].column], test) for path, test in asked.items()]
    found = this.in_(sa.select(r.study, r.series).where(*tests))
    if all(isinstance(test, Empty) for test in asked.values()):  # a series without any request has none of them
        yield sa.or_(found, this.not_in(sa.select(r.study, r.series)))
    else:
        yield found
        yield studies.c.study.in_(sa.select(r.study).where(*tests))  # says the same, so that studies are looked up


# ---------------------------------------------------------------------------------------------------- finding


def _statement(query: Search, asked: _Asked, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    tables = [TABLES[level] for level in LEVELS[: LEVELS.index(query.level) + 1]]
    source: sa.FromClause = studies
    for table in tables[1:]:
        # Nothing is empty, so both joins are the same; but the outer one makes planners begin with the newest study, as
        # the answer does, where nothing is said of what lies below: they cannot know how soon there will be enough.
        source = source.join(table, isouter=not asked.below and query.study is None)
    chosen = sa.select(*columns).select_from(source).where(*asked.clauses)
    if query.study is not None:
        chosen = chosen.where(*(t.c.study == query.study for t in tables))
    if query.only is not None:
        chosen = chosen.where(*(t.c.study.in_(sorted(query.only)) for t in tables))
    if query.series is not None:
        chosen = chosen.where(*(t.c.series == query.series for t in tables[1:]))
    return chosen


def find(connection: sa.Connection, query: Search) -> list[Found]:
    """Find studies, series or instances.

    Raises
    ------
    ValueError
        A condition is not one that its attribute can be matched by; the message names the attribute alone.
    TooBroad
        Too many rows would have to be looked at.
    """
    asked = _Asked(connection, query)
    return _told(connection, _found(connection, query, asked, _begin(connection, query, asked)), query)


def is_one_question(query: Search) -> bool:
    """Whether one statement finds all that is told of matches: then it sees one state, without a transaction."""
    paths = (KEYS[name].tag if name in KEYS else name for name in query.conditions)
    return not (query.offset >= _MANY or query.classes or query.zone is not None) and all(
        path in _KEY_OF_TAG for path in paths
    )


def find_page(connection: sa.Connection, query: Search, most: int) -> tuple[list[Found], int | None]:
    """Find a page, and count what lies behind it, up to `most`; None: only looking at it all would tell how much.

    Raises
    ------
    ValueError, TooBroad
        As `find`.
    """
    if query.limit is None:
        return find(connection, query), 0
    asked = _Asked(connection, query)
    begin = _begin(connection, query, asked)
    rows = _found(connection, replace(query, limit=query.limit + 1), asked, begin)
    found = _told(connection, rows[: query.limit], query)
    if len(rows) <= query.limit:
        return found, 0
    last = rows[query.limit - 1] if query.limit else None
    return found, _behind(connection, query, asked, begin, last, most)


def remaining(connection: sa.Connection, query: Search, most: int) -> int | None:
    """Count the matches behind those of a search, up to `most`; None: only looking at them all would tell."""
    asked = _Asked(connection, query)
    return _behind(connection, query, asked, _begin(connection, query, asked), None, most)


class _Begin(NamedTuple):
    """Where a search begins: at the newest study, or at one that clauses say, and how many are left out from there.

    It may be known how many matches there are in all.
    """

    clauses: Sequence[sa.ColumnElement[bool]]
    offset: int
    total: int | None = None


def _begin(connection: sa.Connection, query: Search, asked: _Asked) -> _Begin:
    """Begin a search that leaves out many at the study where they end: each study knows how much it has."""
    all_days = not asked.clauses and query.only is None
    if query.offset < _MANY or asked.items or not asked.by_study(query) or (query.level == "study" and not all_days):
        return _Begin((), query.offset)
    first = (
        _first_of_all(query.level) if all_days else _first(query.level, partial(_restricted, query=query, asked=asked))
    )
    row = connection.execute(first, {"left_out": query.offset}).one_or_none()
    if row is None:
        return _Begin((sa.false(),), 0)
    t = studies.c
    here = sa.tuple_(t.study_date, t.study_time, t.study) <= sa.tuple_(*row[:3])
    return _Begin((here,), query.offset - int(row.run - row.each), int(row.total) if all_days else None)


@lru_cache(3)
def _first_of_all(level: Level) -> sa.Select[Any]:
    kept = {"study": days.c.n_studies, "series": days.c.n_series, "instance": days.c.n_instances}[level]
    first = _first(level, lambda chosen: chosen, sa.select(days.c.study_date, kept.label("has")).where(kept > 0))
    return first.add_columns(sa.select(sa.func.sum(kept)).scalar_subquery().label("total"))


def _first(
    level: Level, restricted: Callable[[sa.Select[Any]], sa.Select[Any]], kept: sa.Select[Any] | None = None
) -> sa.Select[Any]:
    """Ask for the study in which so many end as are left out; of days it may be kept how much they have."""
    t = studies.c
    each = {"study": sa.literal_column("1"), "series": t.n_series, "instance": t.n_instances}[level]
    left_out = sa.bindparam("left_out", type_=sa.Integer)
    # The day first: they are fewer, and a sum is sooner told than every step to it.
    summed = sa.select(t.study_date, sa.func.sum(each).label("has")).group_by(t.study_date)
    by_day = (restricted(summed) if kept is None else kept).subquery("by_day").c
    # By rows: none is like another, and nobody need look whether it is.
    so_far = sa.func.sum(by_day.has).over(order_by=by_day.study_date.desc(), rows=(None, 0))
    d = sa.select(by_day.study_date, by_day.has, so_far.label("run")).subquery("d").c
    day = sa.select(d.study_date, d.has, d.run).where(d.run > left_out).order_by(d.run).limit(1).cte("day").c
    run = day.run - day.has + sa.func.sum(each).over(order_by=_STUDIES, rows=(None, 0))
    told = sa.select(t.study_date, t.study_time, t.study, each.label("each"), run.label("run"))
    counted = restricted(told).where(t.study_date == day.study_date).subquery()
    return sa.select(counted).where(counted.c.run > left_out).order_by(counted.c.run).limit(1)


def _found(connection: sa.Connection, query: Search, asked: _Asked, begin: _Begin) -> Sequence[sa.Row[Any]]:
    depth = LEVELS.index(query.level) + 1
    keys = [TABLES[query.level].c[name] for name in LEVELS[:depth]]
    texts = [TABLES[level].c.attributes.label(f"{level}_attributes") for level in asked.items]
    like = [_LIKE.label("like")] if "instance" in asked.items else []
    chosen = _statement(query, asked, *keys, *texts, *like).where(*begin.clauses).order_by(*_order(query))
    if asked.items:
        found = _looked_at(connection, chosen.limit(EXAMINED + 1), query, asked.items, depth)
        return list(_those(connection, query, [tuple(row[:depth]) for row in found]))
    # The page is found by its keys, which an index may hold all of, and then filled in, in one question.
    page = chosen.limit(_written(query.limit)).offset(begin.offset or None).subquery("page")
    return connection.execute(_filled_in(query, page).order_by(*ORDER[query.level])).all()


def _written(limit: int | None) -> sa.ColumnElement[int] | None:
    """Have a limit stand in the statement: a plan that is kept, of a statement that is prepared, then minds it."""
    return None if limit is None else sa.bindparam(None, limit, sa.Integer, literal_execute=True)


def _restricted(chosen: sa.Select[Any], query: Search, asked: _Asked) -> sa.Select[Any]:
    """Of studies alone, those that are meant."""
    chosen = chosen.where(*asked.clauses)
    return chosen if query.only is None else chosen.where(studies.c.study.in_(sorted(query.only)))


def _order(query: Search) -> list[sa.ColumnElement[Any]]:
    """Leave out what is the same for all: an index may then give the order as it is."""
    order = ORDER[query.level]
    if query.study is None or query.level == "study":
        return order
    return order[len(_STUDIES) + (len(_SERIES) if query.series is not None and query.level == "instance" else 0) :]


def _looked_at(
    connection: sa.Connection, chosen: sa.Select[Any], query: Search, items: Mapping[Level, Item], depth: int
) -> Iterator[sa.Row[Any]]:
    """Look at the JSON of rows, in their order, and give those wanted."""
    # What cannot match without an attribute need not be read to know it.
    needed = {
        level: [f'"{tag}":' for tag, (_, test) in item.tests.items() if not isinstance(test, Empty)]
        for level, item in items.items()
    }
    before: dict[Level, tuple[str, bool]] = {}  # neighbours share their study and series
    skipped = given = 0
    if query.limit == 0:
        return
    with connection.execution_options(yield_per=_LOOKUP).execute(chosen) as rows:
        for n, row in enumerate(rows):
            if n >= EXAMINED:
                raise TooBroad(
                    f"more than {EXAMINED:,} rows would have to be looked at: "
                    "match one of the keys that are quick as well, such as StudyDate or PatientID"
                )
            good = True
            for (level, item), text in zip(items.items(), row[depth:], strict=False):
                if before.get(level, ("", False))[0] != text:
                    like = (row[-1] if level == "instance" else None) or ""
                    fits = all(tag in text or tag in like for tag in needed[level])
                    before[level] = (text, fits and item.matches(json.loads(_in_full(text, like))))
                if not before[level][1]:
                    good = False
                    break
            if not good:
                continue
            if skipped < query.offset:
                skipped += 1
                continue
            yield row
            given += 1
            if given == query.limit:
                return


def _behind(
    connection: sa.Connection, query: Search, asked: _Asked, begin: _Begin, last: sa.Row[Any] | None, most: int
) -> int | None:
    """Count what lies behind a page, whose last row may be known."""
    if asked.items or query.limit is None:
        return None
    if begin.total is not None:
        return min(most, max(0, begin.total - query.offset - query.limit))
    t = studies.c
    if query.level != "study" and asked.by_study(query):
        each = t.n_series if query.level == "series" else t.n_instances
        # Each has one at least: of more studies than that nobody need know how many they have.
        enough = _restricted(sa.select(each.label("each")).where(*begin.clauses), query, asked)
        enough = enough.limit(_written(begin.offset + query.limit + most))
        total = connection.execute(sa.select(sa.func.sum(enough.subquery().c.each))).scalar() or 0
        return min(most, max(0, int(total) - begin.offset - query.limit))
    behind = _statement(query, asked, sa.literal(1)).where(*begin.clauses).limit(_written(most))
    if last is not None and query.level == "study" and query.offset >= _MANY:
        behind = behind.where(
            sa.tuple_(t.study_date, t.study_time, t.study) < sa.tuple_(last.study_date, last.study_time, last.study)
        )
    else:
        behind = behind.offset(begin.offset + query.limit)
    return int(connection.execute(sa.select(sa.func.count()).select_from(behind.subquery())).scalar_one())


def _filled_in(query: Search, page: sa.Subquery | None = None) -> sa.Select[Any]:
    """Ask for all that is told of matches, as `_told` reads it: those of a page, or whichever are said."""
    depth = LEVELS.index(query.level) + 1
    t, s, i = studies.c, series.c, instances.c
    columns: list[sa.ColumnElement[Any]] = [t.study, t.n_series, t.n_instances, t.modalities, t.attributes]
    source: sa.FromClause = studies
    if page is not None:
        source = page.join(studies, t.study == page.c.study)
    if depth == 1:
        columns += [t.study_date, t.study_time]  # with the UID, where it stands in the order
    if depth > 1:
        columns += [s.series, s.instances, s.attributes.label("of_series")]
        given = s.study == t.study
        source = source.join(series, given if page is None else given & (s.series == page.c.series))
    if depth > 2:
        columns += [i.instance, i.syntax, i.attributes.label("of_instance"), _LIKE.label("like")]
        given = (i.study == t.study) & (i.series == s.series)
        source = source.join(instances, given if page is None else i.instance == page.c.instance)
    return sa.select(*columns).select_from(source)


def _those(connection: sa.Connection, query: Search, keys: Sequence[tuple[str, ...]]) -> Iterator[sa.Row[Any]]:
    """Fill in matches whose keys are known, in their order."""
    for some in batched(keys, _LOOKUP):
        chosen = _filled_in(query).where(studies.c.study.in_({key[0] for key in some}))
        if query.level == "series":
            chosen = chosen.where(series.c.series.in_({key[1] for key in some}))
        elif query.level == "instance":
            chosen = chosen.where(instances.c.instance.in_([key[2] for key in some]))
        of = {tuple(getattr(row, level) for level in LEVELS[: len(some[0])]): row for row in connection.execute(chosen)}
        yield from (of[key] for key in some)


def _told(connection: sa.Connection, rows: Sequence[sa.Row[Any]], query: Search) -> list[Found]:
    depth = LEVELS.index(query.level) + 1
    classes: dict[str, list[str]] = {}
    if query.classes:
        i = instances.c
        for some in batched(sorted({row.study for row in rows}), _LOOKUP):
            listed = sa.select(i.study, i.sop_class_uid).where(i.study.in_(some), i.sop_class_uid != "").distinct()
            for study, uid in connection.execute(listed):
                classes.setdefault(study, []).append(uid)
    found = []
    for row in rows:
        told: tuple[Any, ...] = tuple(row)
        study, n_series, n_instances, modalities, of_study = told[:5]
        uid, n, of_series = told[5:8] if depth > 1 else ("", 0, "")
        instance, syntax, of_instance, like = told[8:] if depth > 2 else ("", "", "", None)
        texts = (of_study, of_series, _in_full(of_instance, like))[:depth]
        has = tuple(sorted(classes.get(study, ())))
        found.append(Found(study, uid, instance, texts, _parted(modalities), n_series, n_instances, n, has, syntax))
    return found


def _in_full(own: str, like: str | None) -> str:
    """Give the attributes of an instance, of which those may be kept that are its own beside another's."""
    return text_of(merged(lines_of(own), _lines_of(like)).values()) if like else own


_lines_of = lru_cache(16)(lines_of)  # neighbours are like the same one


@lru_cache(1024)
def _parted(modalities: str) -> tuple[str, ...]:
    return tuple(sorted(modalities.split("\\"))) if modalities else ()
