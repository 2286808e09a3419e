"""What the catalog keeps of a header, gleaned from what is already known of one like it.

The files of a series differ in a few values. A header is compared with the last one of its kind, runs of elements at a
time; only elements that differ are read, and what is kept of all others is taken over. Whatever is not plain is left
to who reads a header from its first byte to its last: both must say the same. One that differs from another only in
values of the same length is not even walked over. It must not know files, nor where anything is kept.
"""

import json
import zlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from multiframe.dicomjson import Teller, attributes
from multiframe.elements import KNOWN_VRS, Element, Walk
from multiframe.errors import FormatError
from multiframe.header import Header, PixelData
from multiframe.levels import (
    LEVELS,
    REQUESTS,
    Level,
    beside,
    column_of,
    columns_of,
    is_searched,
    level_of,
    lines_of,
    requests_of,
    shared_out,
    text_of,
    written,
)
from multiframe.packing import Difference, Run, without

__all__ = ["Gleaned", "Gleaner", "gleaned"]

type Row = Mapping[str, Any]
type _Told = Sequence[tuple[Element, Callable[[bytes], str] | None]]
"""Elements of an instance that are its own, and how each is written where others of its shape have another value."""

_META, _SYNTAX, _CLASS, _INSTANCE = b"\2\0", 0x00020010, 0x00020002, 0x00020003
_CHARSET, _REPRESENTATION, _OFFSET = 0x00080005, 0x00280103, 0x00080201
_DECISIVE = frozenset((_CHARSET, _REPRESENTATION, _OFFSET))  # they say how others are read, or belong to all levels
_PIXELS: Final = frozenset((b"\xe0\x7f\x08\0", b"\xe0\x7f\x09\0", b"\xe0\x7f\x10\0"))
_AS_KEPT = frozenset((  # JSON writes strings and integers one way
    "AE", "AS", "CS", "DA", "DT", "IS", "LO", "LT", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US",
))  # fmt: skip
_MOST = 16  # kinds of header that are remembered
_MOST_CHANGED = 64  # from here on reading takes no longer
_MOST_SHAPES = 12  # that are remembered
_SHORT = 64  # bytes of a value that may as well be kept of each
_LONGEST_PATTERN = 1 << 20  # bytes
_MARGIN = 1024  # bytes that a header may be longer than those before it, before it has to be read anew


class Gleaned(NamedTuple):
    """What is kept of a header.

    Attributes
    ----------
    header : Header
        Itself.
    study, series, instance : mapping
        Columns, as `levels.columns_of` gives them, with UIDs; the same object for all whose values are the same. Beside
        a pattern, the instance's attributes are those of its own, as `levels.beside` gives them.
    requests : sequence of mapping
        As `schema.requests_of` gives them, with UIDs.
    facts : str
        Where what is needed lies in the header, as JSON; nothing, where that is as in the pattern.
    pattern : mapping or None
        A header of the same series that this one is like, as `schema.patterns` has it; the same object for all.
    kept : bytes or None
        What this one has of its own beside that one, as `packing.whole` takes it; without one, itself as a zlib stream,
        if that was made.
    """

    header: Header
    study: Row
    series: Row
    instance: Row
    requests: Sequence[Row]
    facts: str
    pattern: Row | None = None
    kept: bytes | None = None


def gleaned(header: Header) -> Gleaned:
    """Read a header element by element.

    Raises
    ------
    FormatError
        It is damaged.
    """
    study, series, instance = header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
    levels = shared_out(attributes(header))
    rows = {level: columns_of(level, told) for level, told in levels.items()}
    return Gleaned(
        header,
        {"study": study, **rows["study"]},
        {"study": study, "series": series, **rows["series"]},
        {"study": study, "series": series, "instance": instance, **rows["instance"]},
        [{"study": study, "series": series, **row} for row in requests_of(levels["series"])],
        _facts(header),
    )


def _facts(header: Header) -> str:
    facts = {"dataset_at": header.dataset_at, "pixel_data": header.pixel_data, "values": dict(header.values)}
    return json.dumps(facts)


class _Known:
    """A header, and where its elements lie, so that others can be compared with it."""

    def __init__(self, one: Gleaned, elements: Sequence[Element], varied: set[int]) -> None:
        header = one.header
        self.varied = varied  # tags of the instance that were not the same in all of its kind, and told by their value
        at = header.dataset_at
        self.one, self.elements = one, elements
        self.data = header.raw[at:]
        self.tags = [element.tag for element in elements]
        self.starts = [*(element.at - at for element in elements), len(self.data)]
        self.minded = [k for k, tag in enumerate(self.tags) if tag in header.values or tag in _DECISIVE]
        rows = (one.study, one.series, one.instance)
        self.lines = {level: lines_of(row["attributes"]) for level, row in zip(LEVELS, rows, strict=True)}

    @cached_property
    def pattern(self) -> Row | None:
        """It itself, for others of its series to be kept beside; None: it is too long for that."""
        raw = self.one.header.raw
        if len(raw) > _LONGEST_PATTERN:
            return None
        packed, told, facts = zlib.compress(raw, 1), self.one.instance["attributes"], self.one.facts
        named = sha256(b"\0".join((packed, told.encode(errors="surrogatepass"), facts.encode())))
        return {
            "study": self.one.series["study"],
            "series": self.one.series["series"],
            "number": int.from_bytes(named.digest()[:8], signed=True),
            "header": packed,
            "attributes": told,
            "facts": facts,
        }

    def run(self, data: bytes, at: int, k: int) -> int:
        """Say up to which element all are the same, from element `k` on, which is compared with what lies at `at`."""
        starts, n = self.starts, len(self.tags)
        by = at - starts[k]
        step, differs = 8, n + 1  # somewhere before that element
        while k < min(n, differs - 1):
            upto = min(k + step, n) if differs > n else (k + differs) // 2
            if data.startswith(self.data[starts[k] : starts[upto]], by + starts[k]):
                k, step = upto, 4 * step
            else:
                differs = upto
        return k

    def moved(self, k: int, by: int) -> Element:
        """Give element `k` as it lies in another data set, `by` bytes from where it lies in this one."""
        tag, vr, at, start, stop, depth = self.elements[k]
        shift = by - self.one.header.dataset_at
        return Element(tag, vr, at + shift, start + shift, stop + shift if stop >= 0 else stop, depth)


class _Compared(NamedTuple):
    runs: list[tuple[int, int, int]]  # elements that are the same: from one up to another, and `by` of `_Known.moved`
    changed: list[tuple[int, Element]]
    gone: list[int]
    pixels: PixelData


class _Hole(NamedTuple):
    """An element of the instance that is not the same in all headers of a shape."""

    start: int
    stop: int
    tag: str
    spell: Callable[[bytes], str]
    as_kept: bool  # what that writes


class _Beside(NamedTuple):
    """A header of the series, and how those of one shape differ from it."""

    known: _Known
    difference: Difference

    def kept(self, one: Gleaned, varied: Collection[str] = ()) -> Gleaned:
        """Keep beside it what was told in full; attributes that vary are told even where they are the same."""
        if self.known.pattern is None:
            return one
        lines = lines_of(one.instance["attributes"])
        own = beside(lines, {tag: line for tag, line in self.known.lines["instance"].items() if tag not in varied})
        instance = {**one.instance, "attributes": text_of(own.values())}
        facts = "" if one.facts == self.known.one.facts else one.facts
        kept = self.difference.of(one.header.raw)
        return one._replace(instance=instance, facts=facts, pattern=self.known.pattern, kept=kept)


class _Shape:
    """Headers that are the same byte for byte but for some values of the instance, which are of the same length.

    All that is known of one of them holds for the others, but for what those values say.
    """

    def __init__(
        self, data: bytes, holes: Sequence[tuple[int, int]], one: Gleaned, told: _Told, beside: _Beside
    ) -> None:
        stop = one.header.pixels.start
        around = zip([0, *(stop for _, stop in holes)], [*(at for at, _ in holes), stop], strict=True)
        self._fixed = [(start, data[start:stop]) for start, stop in around]
        spelled = {f"{element.tag:08X}": (element, spell) for element, spell in told if spell is not None}
        self._one, self._difference = beside.kept(one, spelled), beside.difference
        self._holes: list[_Hole] = []
        self._lines = lines_of(self._one.instance["attributes"])
        for tag, line in self._lines.items():
            if tag in spelled:
                element, spell = spelled[tag]
                vr = line[len('"00080018":{"vr":"') :][:2]
                self._holes.append(_Hole(element.start, element.stop, tag, spell, vr in _AS_KEPT))

    def gleaned(self, data: bytes) -> Gleaned | None:
        """Glean what is kept of a header of this shape; None: it is of another one."""
        for at, part in self._fixed:
            if not data.startswith(part, at):
                return None
        one = self._one
        like = one.header
        header = Header(data[: like.pixels.at], like.syntax, like.dataset_at, like.pixel_data, like.values)
        instance = dict(one.instance)
        lines = self._lines.copy()
        for start, stop, tag, spell, as_kept in self._holes:
            line = spell(data[start:stop])
            lines[tag] = line if as_kept else _rewritten(line)
            if is_searched("instance", tag):
                instance |= _columns(tag, lines[tag])
        instance["attributes"] = text_of(lines.values())
        instance["instance"] = header.sop_instance_uid
        kept = None if one.pattern is None else self._difference.of(header.raw)
        return Gleaned(header, one.study, one.series, instance, one.requests, one.facts, one.pattern, kept)


@lru_cache(1024)
def _columns(tag: str, line: str) -> Row:
    """Give the columns of an attribute of an instance: many have the same number."""
    return column_of("instance", tag, json.loads(f"{{{line}}}")[tag])


class Gleaner:
    """Gleans what is kept of one header after another.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> header = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False)).header
    >>> start = header.raw + bytes.fromhex("e07f1000 4f420000 ffffffff")
    >>> gleaner = Gleaner()
    >>> print(gleaner.glean(start))
    None
    >>> gleaner.remember(gleaned(header))
    >>> like = gleaner.glean(start)
    >>> like.header.raw == header.raw, like.series == gleaned(header).series, len(like.kept)
    (True, True, 92)
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], _Known] = {}
        self._shapes: list[_Shape] = []  # the one met last comes first
        self._longest = 0

    @property
    def reach(self) -> int:
        """How many bytes of a file are most likely enough; 0: nobody knows."""
        return self._longest + _MARGIN if self._longest else 0

    def remember(self, one: Gleaned) -> None:
        """Compare headers to come with this one, if it is plain."""
        header = one.header
        meta = _meta(header.raw)
        if meta is None or meta.at != header.dataset_at or header.syntax.deflated or not header.syntax.little:
            return
        elements = _elements(header)
        if elements:
            before = self._known.get(meta.kind)
            self._keep(meta, _Known(one, elements, before.varied if before else set()))

    def _keep(self, meta: "_Meta", known: _Known) -> None:
        self._known.pop(meta.kind, None)
        while len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[meta.kind] = known
        self._longest = max(len(known.one.header.raw) for known in self._known.values())

    def glean(self, data: bytes) -> Gleaned | None:
        """Glean what is kept of the header that a file begins with.

        Parameters
        ----------
        data : bytes
            The file from its first byte on.

        Returns
        -------
        Gleaned or None
            None: no header like it is known, it is not all there, or not plain. It has to be read.
        """
        for k, met in enumerate(self._shapes):
            if (same := met.gleaned(data)) is not None:
                if k:
                    self._shapes.insert(0, self._shapes.pop(k))
                return same
        meta = _meta(data) if self._known else None
        known = self._known.get(meta.kind) if meta is not None else None
        if meta is None or known is None or data[meta.at : meta.at + 6] != known.data[:6]:
            return None  # its first element tells how all are written
        try:
            found = _compared(data, meta.at, known)
            taken = None if found is None else _taken_over(data, meta, known, found)
        except FormatError:
            return None
        if found is None or taken is None:
            return None
        one, own = taken
        same_series = one.study is known.one.study and one.series is known.one.series
        if own is not None and not same_series:
            # It differs from another series also in what may be the same in all of its own.
            own = [(element, spell) for element, spell in own if spell and element.stop - element.start <= _SHORT]
        holes = [meta.instance, *((element.start, element.stop) for element, _ in own or ())]
        holes = [hole for hole in holes if hole[0] < hole[1]]
        size = len(one.header.raw)
        if same_series:
            like = _Beside(known, Difference(size, without(_same(data, meta, known, found), holes)))
            kept = like.kept(one)
        else:
            known = _Known(one, _elements_of(known, found), known.varied)
            self._keep(meta, known)  # the next ones are of that series, too
            like = _Beside(known, Difference(size, without([(0, size, 0)], holes)))
            kept = one if known.pattern is None else one._replace(kept=known.pattern["header"])
        if own is not None:
            self._shapes.insert(0, _Shape(data, holes, one, own, like))
            del self._shapes[_MOST_SHAPES:]
        return kept


class _Meta(NamedTuple):
    at: int  # what comes behind the File Meta Information
    syntax: tuple[int, int]
    instance: tuple[int, int]  # the SOP Instance UID, which is said there too
    kind: tuple[bytes, bytes]


def _meta(data: bytes) -> _Meta | None:
    """Find the File Meta Information's end, and what kind of file it is of; None: it is none that is plain."""
    if data[128:134] != b"DICM" + _META:
        return None
    here = Walk(132, explicit=True, little=True)
    syntax, instance, kind = (0, 0), (0, 0), b""
    try:
        while data[here.at : here.at + 2] == _META:
            vr = data[here.at + 4 : here.at + 6]
            element = here.step(data)
            if element is None or element.stop < 0 or vr not in KNOWN_VRS:
                return None
            if element.tag == _SYNTAX:
                syntax = element.start, element.stop
            elif element.tag == _CLASS:
                kind = data[element.start : element.stop]
            elif element.tag == _INSTANCE:
                instance = element.start, element.stop
    except FormatError:
        return None
    named = data[slice(*syntax)]
    return _Meta(here.at, syntax, instance, (named, kind)) if named.strip(b" \0") else None


def _elements(header: Header) -> list[Element] | None:
    """Give the elements of the top level; None: they are not plain, or there is no Pixel Data behind them."""
    pixels, explicit = header.pixel_data, header.explicit
    raw, at = header.raw, header.dataset_at
    begins_explicit = raw[at + 4 : at + 6] in KNOWN_VRS and int.from_bytes(raw[at : at + 2], "little") <= 0x0010
    if pixels is None or not begins_explicit == explicit == header.syntax.explicit:
        return None
    here = Walk(at, explicit=explicit, little=True, stop=pixels.at, descend=False)
    elements: list[Element] = []
    last = 0
    try:
        while here.at < pixels.at:
            if explicit and raw[here.at + 4 : here.at + 6] not in KNOWN_VRS:
                return None
            element = here.step(raw)
            if element is None or element.tag <= last:
                return None
            last = element.tag
            elements.append(element)
            while here.inside:
                if here.step(raw) is None:
                    return None
    except FormatError:
        return None
    found = {element.tag: (element.start, element.stop) for element in elements if element.tag in header.values}
    return elements if found == {tag: where for tag, where in header.values.items() if tag != _SYNTAX} else None


def _elements_of(known: _Known, found: "_Compared") -> list[Element]:
    """Give the elements of a header that was compared."""
    same = [known.moved(k, by) for first, stop, by in found.runs for k in range(first, stop)]
    return sorted([*same, *(element for _, element in found.changed)])


def _compared(data: bytes, at: int, known: _Known) -> _Compared | None:
    explicit, tags = known.one.header.syntax.explicit, known.tags
    here = Walk(at, explicit=explicit, little=True, descend=False)
    runs: list[tuple[int, int, int]] = []
    changed: list[tuple[int, Element]] = []
    gone: list[int] = []
    k = 0
    while True:
        same = known.run(data, at, k)
        if same > k:
            runs.append((k, same, at - known.starts[k]))
            at += known.starts[same] - known.starts[k]
            k = same
        if explicit and data[at + 4 : at + 6] not in KNOWN_VRS:
            return None
        here.at = at
        element = here.step(data)
        if element is None:
            return None
        if data[at : at + 4] in _PIXELS:
            gone.extend(range(k, len(tags)))
            return _Compared(runs, changed, gone, PixelData(element.tag, element.vr, at, element.start, element.stop))
        upto = bisect_left(tags, element.tag, k)
        gone.extend(range(k, upto))
        # Of one that was not there nobody knows whether it matters.
        if not 0 <= element.stop <= len(data) or tags[upto : upto + 1] != [element.tag] or len(changed) > _MOST_CHANGED:
            return None
        changed.append((upto, element))
        at, k = element.stop, upto + 1


def _same(data: bytes, meta: _Meta, known: _Known, found: _Compared) -> list[Run]:
    """Say what of a header is as in a known one, the File Meta Information too."""
    raw, at = known.one.header.raw, known.one.header.dataset_at
    one, other = data[: meta.at], raw[:at]
    first = _alike(one, other)
    last = _alike(one[: first - 1 : -1], other[: first - 1 : -1]) if first else 0
    moved = at - meta.at
    before = [(0, first, 0), (meta.at - last, meta.at, moved)]
    starts = known.starts
    return before + [(starts[k] + by, starts[stop] + by, at - by) for k, stop, by in found.runs]


def _alike(one: bytes, other: bytes) -> int:
    """Say how many bytes at the beginning are the same."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _taken_over(data: bytes, meta: _Meta, known: _Known, found: _Compared) -> tuple[Gleaned, _Told | None] | None:
    """Take over what is the same; gives also what is the instance's own, if others may differ in that alone."""
    one, pixels = known.one, found.pixels
    if (pixels.stop < 0) != one.header.syntax.encapsulated:
        return None
    if any(tag in _DECISIVE for tag in (known.tags[k] for k, _ in found.changed)):
        return None
    if any(known.tags[k] in _DECISIVE for k in found.gone):
        return None
    values = {_SYNTAX: meta.syntax}
    decisive: list[Element] = []
    for first, stop, by in found.runs:
        for k in known.minded[bisect_left(known.minded, first) : bisect_left(known.minded, stop)]:
            element = known.moved(k, by)
            if element.tag in _DECISIVE:
                decisive.append(element)
            if element.tag in one.header.values:
                values[element.tag] = element.start, element.stop
    # What was not the same before will not be from here on, though it is in this one.
    again = [known.moved(k, by) for k, by in _varied(known, found)]
    for _, element in found.changed:
        if element.tag in one.header.values:
            values[element.tag] = element.start, element.stop
    header = Header(data[: pixels.at], one.header.syntax, meta.at, pixels, dict(sorted(values.items())))
    told = dict.fromkeys(f"{known.tags[k]:08X}" for k in found.gone)
    teller = Teller(header)
    own: list[tuple[Element, Callable[[bytes], str] | None]] = []
    alike = True
    for element in sorted((*decisive, *again, *(element for _, element in found.changed))):
        line = teller.tell(element)
        if element.tag in _DECISIVE:
            continue
        told[f"{element.tag:08X}"] = _as_kept(line[0], element.vr) if line else None
        if level_of(element.tag) == "instance":
            spell = teller.spelling(element) if line else None
            own.append((element, spell))
            if spell is not None:
                known.varied.add(element.tag)
            alike = alike and (spell is not None or not line)
    one = _rows(header, known, told)
    return one, own if alike else None


def _varied(known: _Known, found: _Compared) -> Iterator[tuple[int, int]]:
    """Give the elements that are the same this time, though they were not in others of their kind."""
    for tag in known.varied:
        k = bisect_left(known.tags, tag)
        if known.tags[k : k + 1] == [tag] and known.elements[k].stop >= 0:
            yield from ((k, by) for first, stop, by in found.runs if first <= k < stop)


def _as_kept(text: str, vr: str) -> str:
    """Write an attribute as the catalog does."""
    return text if vr in _AS_KEPT else _rewritten(text)


def _rewritten(text: str) -> str:
    return written(json.loads(f"{{{text}}}"))[1:-1]


def _rows(header: Header, known: _Known, told: Mapping[str, str | None]) -> Gleaned:
    """Take over all but what is told anew; None: it is not kept."""
    changed: dict[Level, dict[str, str | None]] = {}
    for tag, line in told.items():
        level = level_of(int(tag, 16))
        if known.lines[level].get(tag) != line:
            changed.setdefault(level, {})[tag] = line
    one = known.one
    study, series, requests = one.study, one.series, one.requests
    study_uid, series_uid = header.study_instance_uid, header.series_instance_uid
    if "study" in changed:
        study = _row("study", study, known, changed["study"]) | {"study": study_uid}
    if "series" in changed or study_uid != series["study"]:
        uids = {"study": study_uid, "series": series_uid}
        lines = changed.get("series", {})
        series = _row("series", series, known, lines) | uids
        line = lines.get(REQUESTS, known.lines["series"].get(REQUESTS))
        requests = [uids | row for row in requests_of(json.loads(f"{{{line or ''}}}"))]
    uids = {"study": study_uid, "series": series_uid, "instance": header.sop_instance_uid}
    instance = _row("instance", one.instance, known, changed.get("instance", {})) | uids
    return Gleaned(header, study, series, instance, requests, _facts(header))


def _row(level: Level, row: Row, known: _Known, changed: Mapping[str, str | None]) -> dict[str, Any]:
    """Take over the columns of a level, but for those of changed attributes."""
    row = dict(row)
    for tag, line in changed.items():
        row |= column_of(level, tag, json.loads(f"{{{line}}}")[tag] if line else {})
    row["attributes"] = _text(known.lines[level], changed)
    return row


def _text(lines: Mapping[str, str], changed: Mapping[str, str | None]) -> str:
    together = {**lines, **changed}
    if len(together) > len(lines):
        together = dict(sorted(together.items()))
    return text_of(filter(None, together.values()))
