"""The DICOM JSON Model, streamed from the bytes of a header, item by item (PS3.18 F.2).

It knows how each VR is spelled in JSON and stands on the one walk over elements: there is never a dictionary of a
data set, so a header with 100,000 per-frame items costs no more memory than one with ten. pydicom is asked, on use,
for what only its dictionaries know: the VR of an implicit element, and rare character sets. It must not know files,
HTTP, or where an answer goes.
"""

import codecs
import json
import math
import re
import struct
import warnings
from array import array
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from json.encoder import encode_basestring as quoted
from operator import getitem
from typing import Any, Final, NamedTuple

from multiframe.elements import (
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    SHAPED,
    UNDEFINED,
    Element,
    PassedBy,
    Shape,
    Shapes,
    Walk,
    spans,
)
from multiframe.errors import FormatError, TruncatedError
from multiframe.header import Header
from multiframe.settings import KIB

__all__ = [
    "INLINE_LIMIT",
    "Groups",
    "Items",
    "Teller",
    "Value",
    "attributes",
    "dictionary_vr",
    "is_told",
    "metadata",
    "value_at",
]

INLINE_LIMIT: Final = KIB
"""Bytes of a binary value beyond which it is no longer written inline."""

_PIECE = 32 * KIB
_LONG = 64 * KIB  # values beyond are written in pieces
_WINDOW = 256 * KIB  # how much of a long header is seen at a time
_SMALL, _SHORT_SEQUENCE = KIB, 4 * KIB
_MEMO_VALUE, _MEMO_ENTRIES = 64, 4096  # per-frame Items repeat each other: most of their values were written before

_CHARSET, _REPRESENTATION, _RETRIEVE_URL = 0x00080005, 0x00280103, 0x00081190
_TABLES = frozenset((0x7FE00001, 0x7FE00002))  # they describe Items that DICOMweb never shows
_FUNCTIONAL_GROUPS, _PER_FRAME, _PIXEL_DATA = 0x52009229, 0x52009230, 0x7FE00010
_FLOATS = {0x7FE00008: "OF", 0x7FE00009: "OD"}

_TEXTS = frozenset(("LT", "ST", "UT", "UR"))  # of one value, whatever backslashes are in it (PS3.5 6.2)
_SPACED = frozenset(("LO", "SH", "UC"))
_WORDS = {"OB": 1, "UN": 1, "OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_AMBIGUOUS = {"OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}  # implicit VR: PS3.5 A.1

_INTEGER = re.compile(r"[+-]?[0-9]{1,15}")
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"  # as it stands it is a JSON number
_DECIMAL, _DECIMALS = re.compile(_NUMBER), re.compile(rf"{_NUMBER}(?:\\{_NUMBER})*[ \0]*")
_ANY_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class _Text:
    """How the character strings of one Item are decoded (PS3.3 C.12.1.1.2)."""

    def __init__(self, encodings: Sequence[str]) -> None:
        self.encodings = encodings
        self.encoding = encoding = encodings[0]

        def decode(data: bytes) -> str:
            return data.decode(encoding, "replace")

        self.decode = decode if len(encodings) == 1 else self._switched  # nearly always one

    def _switched(self, data: bytes) -> str:
        if b"\x1b" not in data:
            return data.decode(self.encoding, "replace")
        from pydicom.charset import decode_bytes

        with warnings.catch_warnings():  # what cannot be decoded is replaced: that is all there is to say
            warnings.simplefilter("ignore")
            return str(decode_bytes(data, self.encodings, {0x0D, 0x0A, 0x09, 0x0C, 0x5C, 0x5E, 0x3D}))


@lru_cache(64)
def _text_of(character_set: bytes) -> _Text:
    terms = [term.strip(b" \0").decode("latin-1") for term in character_set.split(b"\\")]
    if terms in ([""], ["ISO_IR 6"], ["ISO_IR 100"]):
        return _Text(["latin-1"])  # the default repertoire is a part of it
    if terms == ["ISO_IR 192"]:
        return _Text(["utf-8"])
    from pydicom.charset import python_encoding

    encodings = [python_encoding.get(term, python_encoding.get(term.replace("_", " "), "latin-1")) for term in terms]
    return _Text(encodings)


@lru_cache(4096)
def dictionary_vr(tag: int) -> str:
    """Give the VR an implicit element has (PS3.6); what a private one has is nobody's to say but its owner's."""
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    from pydicom.datadict import dictionary_VR

    try:
        vr = str(dictionary_VR(tag))
    except KeyError:
        return "UN"
    return _AMBIGUOUS.get(vr, vr)


class _Sight:
    """The part of a header that is seen: all of it, or of a long one a window that moves on with the walk."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.little = header.syntax.little
        self.order = "<" if self.little else ">"
        self.end = header.size if header.pixel_data is None else header.pixel_data.at
        self.data, self.base = header.window(header.dataset_at, _WINDOW)

    def walk(self, at: int, end: int, *, explicit: bool) -> Walk:
        """Begin to walk over elements, without going into sequences of defined length."""
        return Walk(at, explicit=explicit, little=self.little, stop=end, descend=False)

    def step(self, here: Walk) -> Element:
        """Take a step, and see further where that is needed."""
        if here.at < self.base:
            self.look(here.at, _WINDOW)
        element = here.step(self.data, self.base)
        while element is None:
            reach = self.base + len(self.data)
            if reach >= self.end or not self.data:
                raise TruncatedError("the data set ends inside an element", here.at)
            self.look(here.at, max(_WINDOW, 2 * (reach - here.at)))
            element = here.step(self.data, self.base)
        return element

    def look(self, at: int, size: int) -> int:
        """See `size` bytes from `at` on, or what there is of them; give their index in `data`."""
        if not (self.base <= at and at + size <= self.base + len(self.data)):
            self.data, self.base = self.header.window(at, max(size, _WINDOW))
        return at - self.base

    def bytes(self, start: int, stop: int) -> bytes:
        """Give the bytes of a value."""
        i = self.look(start, stop - start)
        return self.data[i : i + stop - start]


type _Spell = Callable[[bytes], str]
"""Writes what follows the VR: nothing where the value is empty (PS3.18 F.2.5)."""


class _Scope:
    """What the elements of one Item, and of the Items inside it, are read by."""

    __slots__ = ("shapes", "signed", "text")

    def __init__(self, text: _Text, signed: bool, shapes: "Shapes[_Written]") -> None:
        self.text = text
        self.signed = signed
        self.shapes = shapes


class _Values(dict[bytes, str]):
    """What one element is written as, for each value it had: a value that was met before is a look-up."""

    __slots__ = ("_spell",)

    def __init__(self, spell: _Spell) -> None:
        self._spell = spell

    def __missing__(self, data: bytes) -> str:
        written = self._spell(data)
        if len(data) <= _MEMO_VALUE:
            if len(self) >= _MEMO_ENTRIES:
                self.clear()
            self[data] = written
        return written


class _Written(Shape):
    """A shape, and what is written around its values."""

    __slots__ = ("_form", "_values")

    def __init__(self, data: bytes, at: int, text: str, leaves: Sequence[tuple[Element, _Values]]) -> None:
        super().__init__(data, [(element.start - at, element.stop - at) for element, _ in leaves])
        self._form = text.replace("%", "%%").replace(_HOLE, "%s")
        self._values = [values for _, values in leaves]

    def written(self, values: Sequence[bytes]) -> str:
        """Write one with these values."""
        return self._form % tuple(map(getitem, self._values, values))


_HOLE = "\0"  # stands nowhere in JSON


class _Unshaped(Exception):
    """What is in a sequence is not told by its headers alone."""


class _Writer(_Sight):
    """Spells elements of one data set."""

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.known: dict[tuple[_Text, bool], Shapes[_Written]] = {}
        self.values: dict[tuple[int, str, _Text], _Values] = {}
        self.spellings: dict[tuple[str, _Text], _Spell] = {}
        self.holes: list[tuple[Element, _Values]] | None = None  # the values that are left open, while a shape is found
        self.explicit = header.explicit
        self.scopes = [self.scope(_text_of(b""), False)]

    def scope(self, text: _Text, signed: bool) -> _Scope:
        """Give a scope, with the shapes that were met in others like it."""
        return _Scope(text, signed, self.known.setdefault((text, signed), Shapes()))

    def vr(self, element: Element) -> str:
        """Give the VR an element is written with, looked up where the syntax does not say it."""
        vr = element.vr
        if element.stop < 0:
            return "SQ"  # also where UN is written: of undefined length it can only be one (PS3.5 6.2.2)
        if vr in ("", "UN"):
            vr = dictionary_vr(element.tag)
            if vr == "US or SS":
                vr = "SS" if self.scopes[-1].signed else "US"
        return vr

    def element(self, element: Element, vr: str) -> str:
        """Write an element that is no sequence and not long."""
        tag = element.tag
        scope = self.scopes[-1]
        if self.holes is not None:
            if tag in (_CHARSET, _REPRESENTATION):
                raise _Unshaped
            key = tag, vr, scope.text
            values = self.values.get(key)
            if values is None:
                values = self.values[key] = _Values(self.spelling(vr, scope.text))
            self.holes.append((element, values))
            return f'"{tag:08X}":{{"vr":"{vr}"{_HOLE}}}'
        data = self.bytes(element.start, element.stop)
        if tag == _CHARSET:
            self.scopes[-1] = self.scope(_text_of(data), scope.signed)
            return '"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'  # JSON is UTF-8, whatever the file was
        if tag == _REPRESENTATION:
            self.scopes[-1] = self.scope(scope.text, data[:1] == b"\1" or data[:2] == b"\0\1")
        return f'"{tag:08X}":{{"vr":"{vr}"{self.value(vr, data, scope.text)}}}'

    def alike(self, here: Walk) -> bool:
        """Whether we stand where shapes are: not in what was written as UN, which is read by other rules."""
        return here.explicit == self.explicit and here.little == self.little and self.holes is None

    def shaped(self, here: Walk, element: Element) -> str | None:
        """Find the shape of the Item or sequence that the last step has met, write it, and go on behind it.

        Returns
        -------
        str or None
            None: it is written element by element.
        """
        at, is_item, shapes = element.at, element.tag == ITEM, self.scopes[-1].shapes
        i = self.look(at, min(SHAPED, self.end - at))
        if not shapes.worth(self.data, i):
            return None
        end = element.stop if element.stop >= 0 else self._end_of(element)
        if end is None or end > min(at + SHAPED, self.base + len(self.data)):
            return None
        self.holes = []
        depth = len(self.scopes)
        try:
            if is_item:
                text = "{" + "".join(_texts(self, element.start, end - 8 * (element.stop < 0), self.explicit)) + "}"
            else:
                text = "".join(_texts(self, at, end, self.explicit))
            shape = _Written(self.data[i : i + end - at], at, text, self.holes)
        except (FormatError, _Unshaped):  # what is damaged is told where it is written
            return None
        finally:
            self.holes = None
            del self.scopes[depth:]
        shapes.add(self.data, i, shape)
        if is_item or element.stop < 0:
            here.pass_by(end)
        values = shape.values(self.data, i)
        assert values is not None
        return shape.written(values)

    def _end_of(self, element: Element) -> int | None:
        told = spans(self.data, self.base, element, explicit=self.explicit, little=self.little)
        return told[0] if told is not None else None

    def value(self, vr: str, data: bytes, by: _Text) -> str:
        """Write what follows the VR: nothing where the value is empty (PS3.18 F.2.5)."""
        return self.spelling(vr, by)(data)

    def spelling(self, vr: str, by: _Text) -> _Spell:
        """Give what writes values of a VR: which kind it is, is asked once and not for each of a hundred thousand."""
        found = self.spellings.get((vr, by))
        if found is None:
            if vr in _NUMBERS:
                found = self._number_spelling(vr)
            elif vr in _WORDS:
                found = self._binary_spelling(_WORDS[vr])
            else:
                found = self._tags if vr == "AT" else _text_spelling(vr, by)
            self.spellings[vr, by] = found
        return found

    def _number_spelling(self, vr: str) -> _Spell:
        code = _NUMBERS[vr]
        width = struct.calcsize("=" + code)
        known: dict[int, tuple[Callable[[bytes], tuple[int, ...]], str]] = {}
        if code in "HhIi":  # which JSON writes as Python does
            for n in range(1, 4):
                form = f',"Value":[{",".join(["%d"] * n)}]'
                known[n * width] = struct.Struct(f"{self.order}{n}{code}").unpack, form

        def spell(data: bytes) -> str:
            found = known.get(len(data))
            if found is not None:
                return found[1] % found[0](data)
            numbers = self._numbers(vr, code, data)
            return f',"Value":[{numbers}]' if numbers else ""

        return spell

    def _binary_spelling(self, word: int) -> _Spell:
        def spell(data: bytes) -> str:
            return f',"InlineBinary":"{b64encode(self._swapped(data, word)).decode()}"' if data else ""

        return spell

    def _tags(self, data: bytes) -> str:
        tags = struct.unpack(f"{self.order}{len(data) // 4 * 2}H", data[: len(data) // 4 * 4])
        pairs = zip(tags[::2], tags[1::2], strict=True)
        listed = ",".join(f'"{group:04X}{number:04X}"' for group, number in pairs)
        return f',"Value":[{listed}]' if listed else ""

    def long(self, vr: str, start: int, stop: int) -> Iterator[str]:
        """Write a long value as `value` does, in pieces."""
        word, code = _WORDS.get(vr), _NUMBERS.get(vr)
        if word is not None:
            yield ',"InlineBinary":"'
            for at in range(start, stop, 3 * _PIECE):  # a multiple of 3 and of every word: pieces join without a seam
                yield b64encode(self._swapped(self.bytes(at, min(at + 3 * _PIECE, stop)), word)).decode()
            yield '"'
        elif code is not None:
            yield ',"Value":['
            for at in range(start, stop, _PIECE):
                numbers = self._numbers(vr, code, self.bytes(at, min(at + _PIECE, stop)))
                yield f",{numbers}" if at > start and numbers else numbers
            yield "]"
        elif vr in _TEXTS and len(self.scopes[-1].text.encodings) == 1:
            decoder = codecs.getincrementaldecoder(self.scopes[-1].text.encoding)("replace")
            while stop > start and self.bytes(stop - 1, stop) in (b" ", b"\0"):
                stop -= 1
            yield ',"Value":["'
            for at in range(start, stop, _PIECE):
                last = at + _PIECE >= stop
                yield quoted(decoder.decode(self.bytes(at, min(at + _PIECE, stop)), last))[1:-1]
            yield '"]'
        else:
            yield self.value(vr, self.bytes(start, stop), self.scopes[-1].text)

    def _numbers(self, vr: str, code: str, data: bytes) -> str:
        width = struct.calcsize("=" + code)
        n = len(data) // width
        numbers = struct.unpack(f"{self.order}{n}{code}", data[: n * width])
        if code in "fd":  # JSON has no number for NaN and the infinities, F.2.3 allows no text: null, a value not there
            return ",".join([repr(x) if math.isfinite(x) else "null" for x in numbers])
        if vr in ("UV", "SV"):  # JavaScript has no integers beyond 2**53
            return ",".join([str(x) if -(2**53) <= x <= 2**53 else f'"{x}"' for x in numbers])
        return ",".join(map(str, numbers))

    def _swapped(self, data: bytes, word: int) -> bytes:
        """Give a binary value in little endian, as F.2.7 asks."""
        if self.little or word == 1:
            return data
        whole = len(data) // word * word
        words = array({2: "H", 4: "I", 8: "Q"}[word], data[:whole])
        words.byteswap()
        return words.tobytes() + data[whole:]


def _integer(text: str) -> str:
    return str(int(text)) if _INTEGER.fullmatch(text) else quoted(text)


def _decimal(text: str) -> str:
    """Give a DS as the number it is, digit by digit; as a string where it is none (F.2.3 allows both)."""
    if _DECIMAL.fullmatch(text):
        return text
    if _ANY_DECIMAL.fullmatch(text) and math.isfinite(number := float(text)):
        return repr(number)
    return quoted(text)


def _person_name(text: str) -> str:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return "{" + ",".join(f'"{name}":{quoted(group)}' for name, group in groups if group) + "}"


_SPELLED: dict[str, Callable[[str], str]] = {"PN": _person_name, "IS": _integer, "DS": _decimal}


def _text_spelling(vr: str, by: _Text) -> _Spell:
    """Give what writes values of a VR that is text."""
    decode = by.decode
    if vr in _TEXTS:

        def whole(data: bytes) -> str:
            text = decode(data).rstrip(" \0")
            return f',"Value":[{quoted(text)}]' if text else ""

        return whole
    one = _SPELLED.get(vr, quoted)
    strip = str.rstrip if vr in _SPACED else str.strip

    def spell(data: bytes) -> str:
        text = decode(data)
        if "\\" not in text:
            text = strip(text, " \0")
            return f',"Value":[{one(text)}]' if text else ""
        values = [strip(part, " \0") for part in text.split("\\")]
        if not any(values):
            return ""
        return f',"Value":[{",".join([one(part) if part else "null" for part in values])}]'

    def decimals(data: bytes) -> str:
        text = decode(data)
        if _DECIMALS.fullmatch(text):  # nearly always
            return f',"Value":[{text.rstrip(" \0").replace("\\", ",")}]'
        return spell(data)

    return decimals if vr == "DS" else spell


def metadata(
    header: Header, *, bulk: Callable[[str], str | None] | None = None, retrieve_url: str | None = None,
    groups: "Groups | None" = None,
) -> Iterator[bytes]:  # fmt: skip
    """Write all attributes up to Pixel Data as one JSON object, in pieces of some KB.

    Left out are group 2, group lengths, the Extended Offset Table, and Pixel Data wherever it is encapsulated inside
    a sequence. Pixel Data itself, and a binary value beyond `INLINE_LIMIT`, is given by its URI; it is left out where
    `bulk` has none.

    Parameters
    ----------
    header : Header
        Whose bytes are read; of a long one a window at a time, blocking.
    bulk : callable, optional
        Gives the Bulkdata URI, or None, for a path such as ``00189999/2/00081234`` (tags and, from 1, Items).
    retrieve_url : str, optional
        Written as Retrieve URL (0008,1190).
    groups : Groups, optional
        Of the Per-Frame Functional Groups only these Items are written; all else is whole.

    Yields
    ------
    bytes
        UTF-8.

    Raises
    ------
    FormatError
        The contents of a sequence are no data set.
    SourceChanged, SourceError
        A long header cannot be read on.

    References
    ----------
    PS3.18 F.2.

    Examples
    --------
    >>> import json, multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> told = json.loads(b"".join(metadata(instance.header)))
    >>> told["00280008"]
    {'vr': 'IS', 'Value': [30]}
    """
    writer = _Writer(header)
    url = f'"{_RETRIEVE_URL:08X}":{{"vr":"UR","Value":[{quoted(retrieve_url)}]}}' if retrieve_url else ""
    pieces = ["{"]
    size = 0
    wrote = False
    for text in _texts(writer, header.dataset_at, writer.end, writer.explicit, bulk, url, groups):
        pieces.append(text)
        wrote = True
        size += len(text)
        if size >= _PIECE:
            yield "".join(pieces).encode("utf-8", "replace")
            pieces.clear()
            size = 0
    pixels = header.pixel_data
    if pixels is not None and bulk is not None and (uri := bulk(f"{pixels.tag:08X}")) is not None:
        comma = "," if wrote else ""
        pieces.append(f'{comma}"{pixels.tag:08X}":{{"vr":"{_pixel_vr(header)}","BulkDataURI":{quoted(uri)}}}')
    pieces.append("}")
    yield "".join(pieces).encode("utf-8", "replace")


def _pixel_vr(header: Header) -> str:
    """Give the VR of Pixel Data as it leaves: encapsulated it is OB (PS3.5 A.4), in implicit VR OW (A.1)."""
    pixels = header.pixels
    if pixels.tag in _FLOATS:
        return _FLOATS[pixels.tag]
    return "OB" if pixels.stop < 0 or pixels.vr == "OB" else "OW"


def _texts(
    writer: _Writer, at: int, end: int, explicit: bool, bulk: Callable[[str], str | None] | None = None, url: str = "",
    groups: "Groups | None" = None,
) -> Iterator[str]:  # fmt: skip
    """Write the elements from `at` to `end`, all of a data set or one sequence of it; `url` is an element to add."""
    scopes = writer.scopes
    here = writer.walk(at, end, explicit=explicit)
    # What closes each open sequence and Item, by turns: an odd number of them means that we stand in a sequence.
    closers: list[str] = []
    path: list[list[Any]] = []  # for each of those sequences its tag and how many Items were met
    comma = ""
    in_icon = False

    def closed(left: int) -> Iterator[str]:
        while len(closers) > left:
            if len(closers) % 2:
                path.pop()
            else:
                scopes.pop()
            yield closers.pop()

    while here.at < end:
        item, inside = here.among_items, here.inside_item
        if (item or inside) and not in_icon and writer.alike(here):
            if here.at + SHAPED > writer.base + len(writer.data):
                writer.look(here.at, min(SHAPED, writer.end - here.at))
            found = scopes[here.depth].shapes.find(writer.data, here.at - writer.base)
            if found is not None:
                if len(closers) > 2 * here.depth + item:
                    yield from closed(2 * here.depth + item)
                    comma = ","
                shape, values = found
                here.at += shape.size
                if item:
                    yield f",{shape.written(values)}" if path[-1][1] else f',"Value":[{shape.written(values)}'
                    path[-1][1] += 1
                    closers[-1] = "]}"
                else:
                    yield comma + shape.written(values)
                    comma = ","
                continue
        element = writer.step(here)
        tag, _, _, start, stop, depth = element
        if in_icon:
            in_icon = tag != SEQUENCE_END
            continue
        if tag in (ITEM_END, SEQUENCE_END):
            continue  # an Item may as well end without one: ends are told from what comes next
        is_item = tag == ITEM
        if len(closers) > 2 * depth - is_item:
            yield from closed(2 * depth - is_item)
            comma = ","
        if is_item:
            whole = writer.shaped(here, element) if depth == 1 and writer.alike(here) else None
            begun = whole or "{"
            yield f",{begun}" if path[-1][1] else f',"Value":[{begun}'
            path[-1][1] += 1
            closers[-1] = "]}"
            if whole:
                continue
            closers.append("}")
            scopes.append(writer.scope(scopes[-1].text, scopes[-1].signed))
            comma = ""
            continue
        if not tag & 0xFFFF:
            continue
        if tag == _PIXEL_DATA and stop < 0 and element.vr != "SQ":  # the Items that follow are fragments
            if writer.holes is not None:
                raise _Unshaped
            in_icon = True
            continue
        if not depth:
            if tag in _TABLES:
                continue
            if url and tag >= _RETRIEVE_URL:
                yield comma + url
                url, comma = "", ","
                if tag == _RETRIEVE_URL:
                    continue
        vr = writer.vr(element)
        size = stop - start
        if vr == "SQ":
            if depth and size <= SHAPED and writer.alike(here):
                written = writer.shaped(here, element)
                if written is not None:
                    yield comma + written
                    comma = ","
                    continue
            if stop >= 0:
                here.enter(element)
                here.explicit = element.vr == "SQ"  # else only the dictionary says that it is one
            yield f'{comma}"{tag:08X}":{{"vr":"SQ"'
            closers.append("}")
            path.append([f"{tag:08X}", 0])
            if tag == _PER_FRAME and not depth and groups is not None:
                yield from _chosen(writer, here, groups, bulk)
                here.pass_by(groups.end)
            continue
        if vr in _WORDS and size > INLINE_LIMIT:
            if writer.holes is not None:
                raise _Unshaped
            where = "/".join([*(f"{name}/{item}" for name, item in path), f"{tag:08X}"])
            uri = bulk(where) if bulk is not None else None
            if uri is None:
                continue
            yield f'{comma}"{tag:08X}":{{"vr":"{vr}","BulkDataURI":{quoted(uri)}}}'
        elif size <= _LONG:
            yield comma + writer.element(element, vr)
        else:
            yield f'{comma}"{tag:08X}":{{"vr":"{vr}"'
            yield from writer.long(vr, start, stop)
            yield "}"
        comma = ","
    del scopes[len(scopes) - len(closers) // 2 :]
    yield from reversed(closers)
    if url:
        yield comma + url


def _chosen(writer: _Writer, here: Walk, groups: "Groups", bulk: Callable[[str], str | None] | None) -> Iterator[str]:
    """Write some Items of the sequence we stand in."""
    scope = writer.scopes[-1]
    for k, (start, stop) in enumerate(groups.items):
        named = None
        if bulk is not None:
            named = _below(bulk, f"{_PER_FRAME:08X}/{groups.first + k + 1}/")
        yield ",{" if k else ',"Value":[{'
        writer.scopes.append(writer.scope(scope.text, scope.signed))
        yield from _texts(writer, start, stop, here.explicit, named)
        writer.scopes.pop()
        yield "}"
    if groups.items:
        yield "]"


def _below(bulk: Callable[[str], str | None], before: str) -> Callable[[str], str | None]:
    return lambda path: bulk(before + path)


# ---------------------------------------------------------------------------------------------------------------
# Finding one's way


class Groups(NamedTuple):
    """Where Items of the Per-Frame Functional Groups Sequence lie.

    Attributes
    ----------
    first : int
        The index of the first of them.
    items : sequence of (int, int)
        Offsets of the contents of each.
    end : int
        Offset behind the sequence.
    """

    first: int
    items: Sequence[tuple[int, int]]
    end: int


class Items:
    """Where all Items of the Per-Frame Functional Groups Sequence lie: found once, in one pass over their headers.

    Attributes
    ----------
    starts, stops : array of int
        Offsets of the contents of each.
    end : int
        Offset behind the sequence.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> header = multiframe.open(get_testdata_file("eCT_Supplemental.dcm", read=False)).header
    >>> items = Items(header)
    >>> len(items), items.groups(1, 2).first
    (2, 1)
    """

    def __init__(self, header: Header) -> None:
        self.starts, self.stops = array("Q"), array("Q")
        self.end = 0
        sight = _Sight(header)
        here = sight.walk(header.dataset_at, sight.end, explicit=header.explicit)
        element = _found(sight, here, _PER_FRAME)
        if element is None or not _entered(here, element):
            return
        for start, stop in _items(sight, here):
            self.starts.append(start)
            self.stops.append(stop)
        self.end = here.at

    def __len__(self) -> int:
        return len(self.starts)

    def groups(self, first: int, stop: int) -> Groups:
        """Give some of them, counted from 0; those that are not there are left out."""
        return Groups(first, list(zip(self.starts[first:stop], self.stops[first:stop], strict=True)), self.end)


def _found(sight: _Sight, here: Walk, tag: int) -> Element | None:
    """Walk to an element of the data set or Item that `here` is in."""
    stop = here.stop or 0
    while here.at < stop:
        element = sight.step(here)
        if element.tag == tag and not element.depth:
            return element
    return None


def _entered(here: Walk, element: Element) -> bool:
    """Go into the sequence just met; False: it is none."""
    if element.stop >= 0:
        vr = element.vr if element.vr not in ("", "UN") else dictionary_vr(element.tag)
        if vr != "SQ":
            return False
        here.enter(element)
        here.explicit = element.vr == "SQ"
    return here.among_items or here.at == element.stop


def _items(sight: _Sight, here: Walk) -> Iterator[tuple[int, int]]:
    """Give where the contents of each Item of a sequence lie, which was entered, and go on behind it."""
    alike = PassedBy()
    form = struct.Struct("<HHI" if here.little else ">HHI")
    while here.among_items:
        i = sight.look(here.at, min(SHAPED, sight.end - here.at))
        at = here.at
        length = UNDEFINED
        if len(sight.data) - i >= 8:
            group, number, length = form.unpack_from(sight.data, i)
            if group << 16 | number != ITEM:
                length = UNDEFINED
        if length != UNDEFINED:  # many of them lie before the one that is wanted: no step for each
            here.skip(at + 8 + length)
            yield at + 8, here.at
        elif alike.passes(here, sight.data, sight.base):
            yield at + 8, here.at - 8
        else:
            element = sight.step(here)
            if element.tag == ITEM:
                last = element
                while here.depth:
                    last = sight.step(here)
                yield at + 8, last.at


class Value(NamedTuple):
    """A value as it lies.

    Attributes
    ----------
    vr : str
        Two letters.
    start, stop : int
        Offsets.
    word : int
        Bytes of a word to be turned round, so that it leaves in little endian (PS3.18 F.2.7); 1: none.
    """

    vr: str
    start: int
    stop: int
    word: int


def value_at(header: Header, path: Sequence[int], items: Items | None = None) -> Value | None:
    """Find the value of a path of tags and Item numbers; None: there is none, or it is a sequence.

    Parameters
    ----------
    path : sequence of int
        A tag; or the tag of a sequence, the number of an Item in it, from 1, and so on.
    items : Items, optional
        Of the same header, if they are known.

    Raises
    ------
    FormatError
        What lies on the way is no data set.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> header = multiframe.open(get_testdata_file("examples_palette.dcm", read=False)).header
    >>> value_at(header, [0x00281201]).vr
    'OW'
    """
    sight = _Sight(header)
    at, end, explicit, little = header.dataset_at, sight.end, header.explicit, sight.little
    tags, numbers = path[::2], path[1::2]
    for depth, tag in enumerate(tags):
        here = Walk(at, explicit=explicit, little=little, stop=end, descend=False)
        element = _found(sight, here, tag)
        if element is None:
            return None
        if depth == len(numbers):
            vr = element.vr if element.vr not in ("", "UN") else dictionary_vr(tag)
            if element.stop < 0 or vr == "SQ":
                return None
            return Value(vr, element.start, element.stop, 1 if little else _WORDS.get(vr, 1))
        if not _entered(here, element):
            return None
        n = numbers[depth]
        if items is not None and not depth and tag == _PER_FRAME:
            found = (items.starts[n - 1], items.stops[n - 1]) if n <= len(items) else None
        else:
            found = next(islice(_items(sight, here), n - 1, n), None)
        if found is None:
            return None
        (at, end), explicit, little = found, here.explicit, here.little
    return None


def attributes(header: Header) -> dict[str, dict[str, Any]]:
    """Give the standard's attributes of the top level as `metadata` would, but for long ones.

    Left out are values over 1 KiB and sequences over 4 KiB. What stands behind the Shared Functional Groups is not
    looked at: nothing there is searched for, and the per-frame Items may be many.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> attributes(instance.header)["00080060"]
    {'vr': 'CS', 'Value': ['US']}
    """
    teller = Teller(header)
    writer = teller.writer
    here = writer.walk(header.dataset_at, writer.end, explicit=writer.explicit)
    texts = []
    opened: Element | None = None  # a sequence that is closed by its delimiter
    while here.at < writer.end:
        element = writer.step(here)
        if opened is not None and element.tag == SEQUENCE_END and not element.depth:
            texts += _short_sequence(writer, opened.at, here.at, header.explicit)
            opened = None
        if element.depth or element.tag >> 16 == 0xFFFE:
            continue
        if element.tag >= _FUNCTIONAL_GROUPS:
            break
        if element.stop >= 0:
            texts += teller.tell(element)
        elif is_told(element.tag):
            opened = element
    told: dict[str, dict[str, Any]] = json.loads("{" + ",".join(texts) + "}")
    return told


def is_told(tag: int) -> bool:
    """Whether `attributes` gives such an attribute, if it is not too long."""
    return tag < _FUNCTIONAL_GROUPS and bool(tag & 0xFFFF) and not tag >> 16 & 1


class Teller:
    """Tells attributes of the top level one by one: for whoever knows where they lie, and wants but some of them.

    Parameters
    ----------
    header : Header
        What they lie in.
    """

    def __init__(self, header: Header) -> None:
        self.writer = _Writer(header)

    def tell(self, element: Element) -> list[str]:
        """Write an attribute of defined length as `attributes` has it; nothing where that has none.

        What it says of those that come next, such as the character set, is minded.
        """
        if not is_told(element.tag):
            return []
        writer = self.writer
        vr = writer.vr(element)
        if vr == "SQ":
            return _short_sequence(writer, element.at, element.stop, writer.explicit)
        return [writer.element(element, vr)] if element.stop - element.start <= _SMALL else []

    def spelling(self, element: Element) -> Callable[[bytes], str] | None:
        """Give what writes any value of an attribute as `tell` has just written the one it has; None: a sequence."""
        vr = self.writer.vr(element)
        if vr == "SQ":
            return None
        begin, spell = f'"{element.tag:08X}":{{"vr":"{vr}"', self.writer.spelling(vr, self.writer.scopes[-1].text)
        return lambda data: f"{begin}{spell(data)}}}"


def _short_sequence(writer: _Writer, at: int, stop: int, explicit: bool) -> list[str]:
    """Write one sequence that is not long; nothing where it is no sequence inside."""
    if stop - at > _SHORT_SEQUENCE:
        return []
    try:
        return ["".join(_texts(writer, at, stop, explicit))]
    except FormatError:
        del writer.scopes[1:]  # in whichever Item it was
        return []
