"""What a value must be to match a search key: PS3.4 C.2.2.2, without any database.

Pure. The text of a key is read once, into a test; a test is asked of values as `stored` gives them, here, or said in
SQL by ``searching.py``: both must mean the same. It must not know what is searched, nor where it is kept.

The words are the standard's; what the standard leaves open is said in ``docs/reference/dicomweb.md``.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final, Literal

__all__ = [
    "PAIRS", "Between", "Combined", "Empty", "Equal", "Item", "Kind", "Like", "Moments", "Number", "Test", "Words",
    "around", "combined", "is_moved", "kind_of", "name_words", "read_test", "read_zone", "stored", "wildcard",
]  # fmt: skip

type Kind = Literal["uid", "code", "text", "name", "date", "time", "datetime", "number", "tag"]

MOST_LISTED: Final = 500
"""Values in a list to be matched by."""

LONGEST: Final = 1024
"""Characters of a key that is no list."""

_MOST_WILD, _MOST_WORDS = 32, 16

_KINDS: Final[Mapping[str, Kind]] = {
    "UI": "uid", "CS": "code", "AE": "text", "AS": "text", "LO": "text", "LT": "text", "SH": "text", "ST": "text",
    "UC": "text", "UR": "text", "UT": "text", "PN": "name", "DA": "date", "TM": "time", "DT": "datetime",
    "IS": "number", "DS": "number", "US": "number", "SS": "number", "UL": "number", "SL": "number", "UV": "number",
    "SV": "number", "FL": "number", "FD": "number", "AT": "tag",
}  # fmt: skip

PAIRS: Final[Mapping[str, str]] = {
    "00080020": "00080030", "00080021": "00080031", "00080022": "00080032", "00080023": "00080033",
    "00100030": "00100032", "00400002": "00400003", "00400004": "00400005", "00400244": "00400245",
    "00400250": "00400251",
}  # fmt: skip
"""The date of an event, and its time: ranges of both are one range (PS3.4 C.2.2.2.5.4)."""

_UID = re.compile(r"[0-9A-Za-z._-]{1,64}")  # as loose as the catalog
_DATE = re.compile(r"[0-9]{4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
_TIME = re.compile(r"(?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?)?)?")
_MOMENT = (
    r"([0-9]{4})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:([0-9]{2})(?:\.([0-9]{1,6}))?)?)?)?)?)?"
    r"([+-][0-9]{4})?"
)
_DATETIME = re.compile(_MOMENT, re.ASCII)
_DATETIMES = re.compile(rf"({_MOMENT})?\s*-\s*({_MOMENT})?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,32}(?:\.[0-9]{0,32})?|\.[0-9]{1,32})(?:[eE][+-]?[0-9]{1,3})?")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_ZONE = re.compile(r"([+-])([01][0-9])([0-5][0-9])", re.ASCII)
_ZONE_TAG = "00080201"
_FARTHEST = timedelta(hours=14)

_EXAMPLES = {
    "date": "20261231 or 20260101-20261231",
    "time": "0930 or 0930-1015",
    "datetime": "20261231093000 or 202601-202606",
}


def kind_of(vr: str) -> Kind | None:
    """Say how values of a VR are matched; None: they are not."""
    return _KINDS.get(vr)


# ---------------------------------------------------------------------------------------------------- values


def stored(kind: Kind, value: Any) -> str | int | Decimal | None:
    """Give a value of DICOM JSON in the form in which it is matched; None or empty: there is none.

    Examples
    --------
    >>> (
    ...     stored("name", {"Alphabetic": "Doe^Jane^^^", "Phonetic": "x"}),
    ...     stored("time", "0930"),
    ...     stored("date", "2026.12.31"),
    ... )
    ('=doe^jane==x=', '093000.000000', '20261231')
    """
    if kind == "number":
        if type(value) is int and abs(value) < 10**32:
            return value
        try:
            number = Decimal(str(value))
        except ArithmeticError:
            return None
        if not number.is_finite():
            return None
        return int(number) if number.adjusted() < 32 and number == number.to_integral_value() else number
    if isinstance(value, dict):
        groups = [value.get(name, "") for name in ("Alphabetic", "Ideographic", "Phonetic")]
        return _groups(groups)
    text = "" if value is None else str(value).replace("\0", "").strip()
    if kind == "name":
        return _groups(text.split("="))
    if kind == "date":
        text = text.replace(".", "")  # ACR-NEMA wrote 1999.12.31
        return text if _DATE.fullmatch(text) else ""
    if kind == "time":
        text = text.replace(":", "")
        return _padded_time(text, "0") if _TIME.fullmatch(text) else ""
    return text.upper() if kind == "tag" else text


def _groups(groups: Sequence[str]) -> str:
    """Write component groups with "=" on both sides of each, so that each can be found; none: ``=``."""
    folded = [_folded_name(group) for group in groups]
    while folded and not folded[-1]:
        del folded[-1]
    return "=" + "".join(f"{group}=" for group in folded)


def _folded_name(text: str) -> str:
    return unicodedata.normalize("NFC", text.replace("\0", "").casefold()).strip().rstrip("^ ")


def _padded_time(text: str, fill: str) -> str:
    """Give a TM in full, ``HHMMSS.FFFFFF``, so that times compare as text."""
    whole, _, fraction = text.partition(".")
    return f"{whole.ljust(6, fill)}.{fraction.ljust(6, fill)}"


_APOSTROPHES = frozenset("'`´ʼ‘’′")  # noqa: RUF001
_GERMAN = {ord(c): f"{plain}e" for c, plain in zip("äöüø", "aouo", strict=True)} | {ord("å"): "aa"}
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h"})


@lru_cache(4096)
def _words(name: str, kept: str = "") -> tuple[tuple[str, ...], ...]:
    """Give the words of a name, each with its spellings: without accents, and as German and Danish write them out."""
    text = unicodedata.normalize("NFC", name.casefold())
    text = "".join(
        "" if c in _APOSTROPHES else c if c in kept or unicodedata.category(c)[0] not in "PZSC" else " " for c in text
    )
    return tuple(tuple(dict.fromkeys((_plain(word), _plain(word.translate(_GERMAN))))) for word in text.split())


def _plain(word: str) -> str:
    decomposed = unicodedata.normalize("NFKD", word)
    # Only marks on letters of alphabets are accents: those of Japanese make other sounds.
    bare = "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", bare).translate(_PLAIN)


def name_words(name: str) -> str:
    """Give all spellings of the words of a name, each with spaces around it: what fuzzy matching looks at.

    Examples
    --------
    >>> name_words("Müller-O'Brien^Jörg=李^四")
    ' muller mueller obrien jorg joerg 李 四 '
    """
    spellings = dict.fromkeys(s for word in _words(name) for s in word)
    return f" {' '.join(spellings)} " if spellings else ""


# ---------------------------------------------------------------------------------------------------- tests


@dataclass(frozen=True, slots=True)
class Equal:
    """One of a list of UIDs, or an attribute tag (PS3.4 C.2.2.2.1, C.2.2.2.2)."""

    values: tuple[str, ...]

    def matches(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.values


@dataclass(frozen=True, slots=True)
class Like:
    """One of some patterns with ``*`` and ``?`` (PS3.4 C.2.2.2.4), or a plain value (C.2.2.2.1)."""

    patterns: tuple[str, ...]

    def matches(self, value: Any) -> bool:
        """Whether a value is like one of them."""
        return bool(value) and any(wildcard(pattern, value) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Words:
    """Words of a name, each with its spellings, in any order: fuzzy matching (PS3.4 C.2.2.2.1.1)."""

    words: tuple[tuple[str, ...], ...]

    def matches(self, value: Any) -> bool:
        """Whether each begins one of the words of a name."""
        if not value:
            return False
        there = name_words(value)
        return all(any(wildcard(f"* {spelling}*", there) for spelling in word) for word in self.words)


@dataclass(frozen=True, slots=True)
class Between:
    """A date or a time, or a range of them with both ends in it; an end may be open (PS3.4 C.2.2.2.5)."""

    first: str
    last: str
    ranged: bool

    def matches(self, value: Any) -> bool:
        """Whether a value lies in it."""
        return bool(value) and (not self.first or value >= self.first) and (not self.last or value <= self.last)


@dataclass(frozen=True, slots=True)
class Combined:
    """From the first time of the first date to the last time of the last date (PS3.4 C.2.2.2.5.4)."""

    dates: Between
    times: Between

    def matches(self, date: Any, time: Any) -> bool:
        """Whether a date and its time lie in it; without a time only whole days do."""
        after = not self.dates.first or (date, time) >= (self.dates.first, self.times.first)
        before = not self.dates.last or (date, time or "~") <= (self.dates.last, self.times.last)
        return bool(date) and after and before


type _Moment = tuple[datetime, timedelta | None]  # by the clock on the wall, and how far that is from UTC


@dataclass(frozen=True, slots=True)
class Moments:
    """A date with a time, or a range of them (PS3.4 C.2.2.2.5.3)."""

    first: _Moment | None
    last: _Moment | None

    def matches(self, value: Any) -> bool:
        """Whether a value lies in it; offsets from UTC count where both sides have one."""
        if not value:
            return False
        try:
            moment = _moment(value)[0]
        except ValueError:
            return False
        return (self.first is None or _not_after(self.first, moment)) and (
            self.last is None or _not_after(moment, self.last)
        )

    def at(self, zone: timedelta) -> "Moments":
        """Give them with an offset from UTC, where they have none of their own."""
        first, last = ((m[0], zone if m[1] is None else m[1]) if m else None for m in (self.first, self.last))
        return Moments(first, last)


@dataclass(frozen=True, slots=True)
class Number:
    """A number, however it is written."""

    value: Decimal

    def matches(self, value: Any) -> bool:
        """Whether a value is that number."""
        return value is not None and value == self.value


@dataclass(frozen=True, slots=True)
class Empty:
    """No value, or no attribute: what ``""`` asks for (Empty Value Matching)."""

    def matches(self, value: Any) -> bool:
        """Whether a value is none."""
        return value in (None, "", "=")


type Test = Equal | Like | Words | Between | Moments | Number | Empty


def read_test(name: str, kind: Kind, wanted: str, *, fuzzy: bool = False) -> Test | None:
    """Read what a key asks for; None: everything matches (PS3.4 C.2.2.2.3).

    Parameters
    ----------
    name : str
        What the attribute is called where it has to be complained of.
    kind : str
        How its values are matched.
    wanted : str
        The key's value.
    fuzzy : bool
        Match names by their words.

    Raises
    ------
    ValueError
        It cannot be matched by; the message names the attribute, not the value.

    Examples
    --------
    >>> read_test("StudyTime", "time", "0930-")
    Between(first='093000.000000', last='', ranged=True)
    >>> read_test("PatientName", "name", "*") is None
    True
    """
    wanted = wanted.strip()
    if any(unicodedata.category(c) == "Cc" or c == "\ufffd" for c in wanted):
        raise ValueError(f"{name} is matched by text in UTF-8, without control characters")
    if kind not in ("uid", "code") and len(wanted) > LONGEST:
        raise ValueError(f"{name} is matched by {LONGEST} characters at most")
    if not wanted.strip("*"):
        return None
    if wanted == '""':
        return Empty()
    if kind == "uid":
        uids = _listed(name, wanted)
        if not all(map(_UID.fullmatch, uids)):
            raise ValueError(f"{name} is matched by a UID or a list of them, without wild cards")
        return Equal(uids)
    if kind == "tag":
        tags = tuple(tag.upper() for tag in _listed(name, wanted))
        if not all(map(_TAG.fullmatch, tags)):
            raise ValueError(f"{name} is matched by a tag, such as 00280010")
        return Equal(tags)
    if kind == "number":
        if not _NUMBER.fullmatch(wanted):
            raise ValueError(f"{name} is matched by a number")
        return Number(Decimal(wanted))
    if kind == "code":
        return _like(name, *_listed(name, wanted))
    if kind == "text":
        return _like(name, wanted)
    if kind == "name":
        if not fuzzy:
            folded = "=".join(_folded_name(group) for group in wanted.split("=")).strip("=")
            return _like(name, _in_groups(folded)) if folded else None
        return _read_words(name, wanted)
    return _read_moments(name, wanted) if kind == "datetime" else _read_range(name, kind, wanted)


def _listed(name: str, wanted: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in re.split(r"[,\\]", wanted) if part.strip())
    if len(parts) > MOST_LISTED:
        raise ValueError(f"{name} is matched by a list of {MOST_LISTED} values at most, not {len(parts)}")
    return parts


def _in_groups(wanted: str) -> str:
    """Say a pattern of a name so that it matches from one "=" to another; names begin and end with one (`_groups`).

    What begins with any letters needs none before it: it would be looked for at each.
    """
    pattern = re.sub(r"\*+", "*", f"*={wanted}=*")
    return re.sub(r"(?<=[^?=*])\*=\*\Z", "*", re.sub(r"\A\*=\*(?=[^?=*])", "*", pattern))


def _like(name: str, *patterns: str) -> Like:
    patterns = tuple(re.sub(r"\*+", "*", pattern) for pattern in patterns)
    if any(pattern.count("*") > _MOST_WILD for pattern in patterns) or any(len(p) > LONGEST + 4 for p in patterns):
        raise ValueError(f"{name} is matched by {_MOST_WILD} wild cards and {LONGEST} characters at most")
    return Like(patterns)


def _read_words(name: str, wanted: str) -> Words | None:
    words = [word for word in _words(wanted, "*?") if word[0].strip("*")]
    if len(words) > _MOST_WORDS:
        raise ValueError(f"{name} is matched by {_MOST_WORDS} words at most")
    _like(name, wanted)
    return Words(tuple(words)) if words else None


def _read_range(name: str, kind: Kind, wanted: str) -> Between:
    first, dash, last = (part.strip() for part in wanted.partition("-"))
    well = _DATE if kind == "date" else _TIME
    if not (first or last) or any(bound and not well.fullmatch(bound) for bound in (first, last)):
        raise ValueError(f"{name} is matched by a {kind} or a range of them, such as {_EXAMPLES[kind]}")
    if not dash:
        last = first
    if kind == "time":  # one given to the minute means all of that minute
        first, last = first and _padded_time(first, "0"), last and _padded_time(last, "9")
    return Between(first, last, bool(dash))


def _read_moments(name: str, wanted: str) -> Moments:
    try:
        if _DATETIME.fullmatch(wanted):  # also with a negative offset, which cannot be told from the end of a range
            return Moments(*_moment(wanted))
        found = _DATETIMES.fullmatch(wanted)
        if found and (found[1] or found[10]):
            return Moments(
                _moment(found[1])[0] if found[1] else None,
                _moment(found[10])[1] if found[10] else None,
            )
    except ValueError:
        pass
    raise ValueError(f"{name} is matched by a date with a time or a range of them, such as {_EXAMPLES['datetime']}")


def _moment(text: str) -> tuple[_Moment, _Moment]:
    """Give the first and the last moment that a DT names.

    Raises
    ------
    ValueError
        It is none.
    """
    found = _DATETIME.fullmatch(text.strip())
    if not found:
        raise ValueError
    year, month, day, hour, minute, second = (int(part) if part else None for part in found.groups()[:6])
    fraction, offset = found[7], found[8]
    first = datetime(
        year or 0,
        month or 1,
        day or 1,
        hour or 0,
        minute or 0,
        min(second or 0, 59),
        int((fraction or "0").ljust(6, "0")),
    )
    try:
        if fraction is not None:
            last = first + timedelta(microseconds=10 ** (6 - len(fraction)) - 1)
        elif month is None:
            last = first.replace(month=12, day=31, hour=23, minute=59, second=59, microsecond=999999)
        elif day is None:
            last = (first + timedelta(days=31)).replace(day=1) - timedelta(microseconds=1)
        else:
            unit = "days" if hour is None else "hours" if minute is None else "minutes" if second is None else "seconds"
            last = first + timedelta(**{unit: 1}) - timedelta(microseconds=1)
    except OverflowError:
        last = datetime.max
    away = None
    if offset:
        away = read_zone(offset)
    return (first, away), (last, away)


def read_zone(text: str) -> timedelta:
    """Read an offset from UTC, as of Timezone Offset From UTC (PS3.3 C.12.1.1).

    Raises
    ------
    ValueError
        It is none.

    Examples
    --------
    >>> read_zone("-0330") == -timedelta(hours=3, minutes=30)
    True
    """
    found = _ZONE.fullmatch(text.strip())
    away = timedelta(hours=int(found[2]), minutes=int(found[3])) if found else 2 * _FARTHEST
    if found is None or away > _FARTHEST:
        raise ValueError("TimezoneOffsetFromUTC is hours and minutes, such as +0200 or -0330")
    return -away if found[1] == "-" else away


def is_moved(tag: str) -> bool:
    """Whether a date or time is another one by the clock of another time zone. Nobody is a day older elsewhere.

    Examples
    --------
    >>> is_moved("00080020"), is_moved("00100030")
    (True, False)
    """
    return not tag.startswith("0010")


def around(dates: Between) -> Between:
    """Give the days in which dates may be written that lie in a range by the clock of another time zone.

    Examples
    --------
    >>> around(Between("20260101", "20261231", True))
    Between(first='20251230', last='20270102', ranged=True)
    """
    return Between(_days_from(dates.first, -2), _days_from(dates.last, 2), ranged=True)


def _days_from(date: str, days: int) -> str:
    if not date:
        return ""
    try:
        return f"{datetime.strptime(date, '%Y%m%d') + timedelta(days=days):%Y%m%d}".zfill(8)
    except (ValueError, OverflowError):  # no such day, or no such year: from there on all
        return ""


def _moved(date: str, time: str, by: timedelta) -> tuple[str, str]:
    """Say a date and its time by the clock of another time zone; without a time nobody knows another day."""
    if not time:
        return date, time
    try:
        day = date or "20000103"
        there = datetime.strptime(f"{day}{time[:4]}", "%Y%m%d%H%M") + by
    except (ValueError, OverflowError):
        return date, time
    return f"{there:%Y%m%d}".zfill(8) if date else "", f"{there:%H%M}{time[4:]}"


def _not_after(one: _Moment, other: _Moment) -> bool:
    (here, away), (there, far) = one, other
    return here - there <= (away - far if away is not None and far is not None else timedelta(0))


def combined(date: Test | None, time: Test | None) -> Combined | None:
    """Make one range of that of a date and that of its time, where both are of the same form (PS3.4 C.2.2.2.5.4)."""
    if not (isinstance(date, Between) and isinstance(time, Between) and date.ranged and time.ranged):
        return None
    alike = bool(date.first) == bool(time.first) and bool(date.last) == bool(time.last)
    return Combined(date, time) if alike else None


@lru_cache(256)
def _pieces(pattern: str) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile("".join("." if c == "?" else re.escape(c) for c in piece), re.DOTALL) for piece in pattern.split("*")
    )


def wildcard(pattern: str, text: str) -> bool:
    """Whether a text is like a pattern: ``*`` is any characters or none, ``?`` is one (PS3.4 C.2.2.2.4).

    Looks for each piece between two ``*`` once, from the left: no pattern takes long.

    Examples
    --------
    >>> wildcard("D?e*", "Doe^Jane"), wildcard("*a*a", "xa")
    (True, False)
    """
    first, *rest = _pieces(pattern)
    if not rest:
        return first.fullmatch(text) is not None
    found = first.match(text)
    for piece in rest[:-1]:
        if found is None:
            return False
        found = piece.search(text, found.end())
    if found is None:
        return False
    # The last piece ends where the text does; it is as long as it is written.
    start = len(text) - (len(pattern) - 1 - pattern.rindex("*"))
    return start >= found.end() and rest[-1].fullmatch(text, start) is not None


# ---------------------------------------------------------------------------------------------------- attributes


@dataclass(frozen=True, slots=True)
class Item:
    """What the attributes of a data set, or of one Item of a sequence, must match all together.

    Attributes
    ----------
    tests : dict
        Of attributes that lie in it, by tag: how they are matched, and by what.
    items : dict
        Of sequences: what at least one of their Items must match (PS3.4 C.2.2.2.6).
    zone : timedelta or None
        How far the clock is from UTC by which dates and times are asked for; None: they are matched as they are
        written.
    """

    tests: dict[str, tuple[Kind, Test]] = field(default_factory=dict)
    items: dict[str, "Item"] = field(default_factory=dict)
    zone: timedelta | None = None

    def add(self, path: Sequence[str], kind: Kind, test: Test) -> None:
        """Add a test of an attribute, given by the tags of the sequences it lies in and its own."""
        here = self
        for tag in path[:-1]:
            here = here.items.setdefault(tag, Item())
        here.tests[path[-1]] = (kind, test)

    def matches(self, attributes: Mapping[str, Any]) -> bool:
        """Whether a DICOM JSON object matches."""
        return self._matches(attributes, None if self.zone is None else (self.zone, _zone_of(attributes)))

    def _matches(self, attributes: Mapping[str, Any], zones: tuple[timedelta, timedelta | None] | None) -> bool:
        left = dict(self.tests)
        moved = {} if zones is None else _in_zone(attributes, left, *zones)

        def values(tag: str, kind: Kind) -> list[Any]:
            found = moved[tag] if tag in moved else _values(attributes, tag, kind)
            own = None if zones is None or kind != "datetime" else zones[1]
            return found if own is None else [_with_zone(value, own) for value in found]

        for date, time in PAIRS.items():
            if date in left and time in left:
                both = combined(left[date][1], left[time][1])
                if both is not None:
                    del left[date], left[time]
                    if not both.matches(next(iter(values(date, "date")), ""), next(iter(values(time, "time")), "")):
                        return False
        for tag, (kind, test) in left.items():
            # Any value of several does (C.2.2.3); no value is one that is empty.
            if not any(map(test.matches, values(tag, kind) or [None])):
                return False
        return all(
            any(item._matches(one, zones) for one in attributes.get(tag, {}).get("Value") or [{}])
            for tag, item in self.items.items()
        )


def _zone_of(attributes: Mapping[str, Any]) -> timedelta | None:
    """Give the offset from UTC of all times of a data set that have none of their own; None: nobody knows it."""
    try:
        return read_zone(str((attributes.get(_ZONE_TAG, {}).get("Value") or [""])[0]))
    except ValueError:
        return None


def _with_zone(moment: str, own: timedelta) -> str:
    """Write a DT with the offset from UTC that it has; one that is written is its own."""
    if moment[-5:-4] in ("+", "-"):
        return moment
    minutes = abs(own) // timedelta(minutes=1)
    return f"{moment}{'-' if own < timedelta(0) else '+'}{minutes // 60:02}{minutes % 60:02}"


def _in_zone(
    attributes: Mapping[str, Any], asked: Iterable[str], zone: timedelta, own: timedelta | None
) -> dict[str, list[Any]]:
    """Give dates and times as the clock of a zone says them."""
    if own is None:
        return {}
    found: dict[str, list[Any]] = {}
    asked = set(asked)
    for date, time in PAIRS.items():
        if asked.isdisjoint((date, time)) or not is_moved(date):
            continue
        days, times = _values(attributes, date, "date"), _values(attributes, time, "time")
        pairs = [_moved(day, hour, zone - own) for day, hour in zip_longest(days, times, fillvalue="")]
        found[date], found[time] = [day for day, _ in pairs if day], [hour for _, hour in pairs if hour]
    return found


def _values(attributes: Mapping[str, Any], tag: str, kind: Kind) -> list[Any]:
    values: Iterable[Any] = attributes.get(tag, {}).get("Value") or ()
    return [given for value in values if (given := stored(kind, value)) not in (None, "", "=")]
