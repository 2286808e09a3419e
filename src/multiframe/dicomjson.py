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
from json.encoder import encode_basestring as quoted
from typing import Any, Final

from multiframe.elements import ITEM, ITEM_END, SEQUENCE_END, Element, Walk
from multiframe.errors import FormatError, TruncatedError
from multiframe.header import Header
from multiframe.settings import KIB, MIB

__all__ = ["INLINE_LIMIT", "attributes", "dictionary_vr", "metadata"]

INLINE_LIMIT: Final = MIB
"""Bytes of a binary value beyond which it is no longer written inline."""

_PIECE = 32 * KIB
_LONG = 64 * KIB  # values beyond are written in pieces
_SMALL, _SHORT_SEQUENCE = KIB, 4 * KIB
# Per-frame Items repeat each other: most of their values, and many of their sequences, were written before.
_MEMO_VALUE, _MEMO_SEQUENCE, _MEMO_ENTRIES = 64, 256, 4096

_CHARSET, _REPRESENTATION, _RETRIEVE_URL = 0x00080005, 0x00280103, 0x00081190
_TABLES = frozenset((0x7FE00001, 0x7FE00002))  # they describe Items that DICOMweb never shows
_FUNCTIONAL_GROUPS, _PIXEL_DATA = 0x52009229, 0x7FE00010

_TEXTS = frozenset(("LT", "ST", "UT", "UR"))  # of one value, whatever backslashes are in it (PS3.5 6.2)
_SPACED = frozenset(("LO", "SH", "UC"))
_WORDS = {"OB": 1, "UN": 1, "OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_AMBIGUOUS = {"OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}  # implicit VR: PS3.5 A.1

_INTEGER = re.compile(r"[+-]?\d{1,15}")
_DECIMAL = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")  # as it stands it is a JSON number
_ANY_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


class _Text:
    """How the character strings of one Item are decoded (PS3.3 C.12.1.1.2)."""

    def __init__(self, encodings: Sequence[str]) -> None:
        self.encodings = encodings
        self.encoding = encodings[0]

    def decode(self, data: bytes) -> str:
        if b"\x1b" not in data or len(self.encodings) == 1:
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


class _Scope:
    """What the elements of one Item, and of the Items inside it, are read by."""

    __slots__ = ("signed", "text")

    def __init__(self, text: _Text, signed: bool) -> None:
        self.text = text
        self.signed = signed


type _Written = tuple[int, str, bytes, _Text, bool]  # tag, VR, value, and what it is read by


class _Writer:
    """Spells elements of one data set."""

    def __init__(self, header: Header) -> None:
        self.raw = header.raw
        self.little = header.syntax.little
        self.order = "<" if self.little else ">"
        self.scopes = [_Scope(_text_of(b""), False)]
        self.memo: dict[_Written, str] = {}

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
        data = self.raw[element.start : element.stop]
        scope = self.scopes[-1]
        if tag == _CHARSET:
            scope.text = _text_of(data)
            return '"00080005":{"vr":"CS","Value":["ISO_IR 192"]}'  # JSON is UTF-8, whatever the file was
        if tag == _REPRESENTATION:
            scope.signed = data[:1] == b"\1" or data[:2] == b"\0\1"
        if len(self.scopes) == 1 or len(data) > _MEMO_VALUE:
            return f'"{tag:08X}":{{"vr":"{vr}"{self.value(vr, data)}}}'
        key = (tag, vr, data, scope.text, False)
        written = self.memo.get(key)
        if written is None:
            written = self.keep(key, f'"{tag:08X}":{{"vr":"{vr}"{self.value(vr, data)}}}')
        return written

    def keep(self, key: _Written, written: str) -> str:
        """Remember what was written; all is forgotten when it becomes much."""
        if len(self.memo) >= _MEMO_ENTRIES:
            self.memo.clear()
        self.memo[key] = written
        return written

    def value(self, vr: str, data: bytes) -> str:
        """Write what follows the VR: nothing where the value is empty (PS3.18 F.2.5)."""
        if not data:
            return ""
        code = _NUMBERS.get(vr)
        if code is not None:
            numbers = self._numbers(vr, code, data)
            return f',"Value":[{numbers}]' if numbers else ""
        word = _WORDS.get(vr)
        if word is not None:
            return f',"InlineBinary":"{b64encode(self._swapped(data, word)).decode()}"'
        if vr == "AT":
            tags = struct.unpack(f"{self.order}{len(data) // 4 * 2}H", data[: len(data) // 4 * 4])
            pairs = zip(tags[::2], tags[1::2], strict=True)
            listed = ",".join(f'"{group:04X}{number:04X}"' for group, number in pairs)
            return f',"Value":[{listed}]' if listed else ""
        text = self.scopes[-1].text.decode(data)
        if vr in _TEXTS:
            text = text.rstrip(" \0")
            return f',"Value":[{quoted(text)}]' if text else ""
        spell = _SPELLED.get(vr, quoted)
        values = [part.rstrip(" \0") if vr in _SPACED else part.strip(" \0") for part in text.split("\\")]
        if not any(values):
            return ""
        return f',"Value":[{",".join([spell(part) if part else "null" for part in values])}]'

    def long(self, vr: str, start: int, stop: int) -> Iterator[str]:
        """Write a long value as `value` does, in pieces."""
        word, code = _WORDS.get(vr), _NUMBERS.get(vr)
        if word is not None:
            yield ',"InlineBinary":"'
            for at in range(start, stop, 3 * _PIECE):  # a multiple of 3 and of every word: pieces join without a seam
                yield b64encode(self._swapped(self.raw[at : min(at + 3 * _PIECE, stop)], word)).decode()
            yield '"'
        elif code is not None:
            yield ',"Value":['
            for at in range(start, stop, _PIECE):
                numbers = self._numbers(vr, code, self.raw[at : min(at + _PIECE, stop)])
                yield f",{numbers}" if at > start and numbers else numbers
            yield "]"
        elif vr in _TEXTS and len(self.scopes[-1].text.encodings) == 1:
            decoder = codecs.getincrementaldecoder(self.scopes[-1].text.encoding)("replace")
            while stop > start and self.raw[stop - 1] in b" \0":
                stop -= 1
            yield ',"Value":["'
            for at in range(start, stop, _PIECE):
                last = at + _PIECE >= stop
                yield quoted(decoder.decode(self.raw[at : min(at + _PIECE, stop)], last))[1:-1]
            yield '"]'
        else:
            yield self.value(vr, self.raw[start:stop])

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


def metadata(
    header: Header, *, bulk: Callable[[str], str | None] | None = None, retrieve_url: str | None = None
) -> Iterator[bytes]:
    """Write all attributes before Pixel Data as one JSON object, in pieces of some KB.

    Left out are group 2, group lengths, the Extended Offset Table, and Pixel Data wherever it is encapsulated inside
    a sequence. A binary value beyond `INLINE_LIMIT` is given by its URI where `bulk` has one, and else is left out
    too: bulk data comes with a later version.

    Parameters
    ----------
    header : Header
        Whose bytes are read.
    bulk : callable, optional
        Gives the Bulkdata URI, or None, for a path such as ``00189999/2/00081234`` (tags and, from 1, Items).
    retrieve_url : str, optional
        Written as Retrieve URL (0008,1190).

    Yields
    ------
    bytes
        UTF-8.

    Raises
    ------
    FormatError
        The contents of a sequence are no data set.

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
    end = len(header.raw) if header.pixel_data is None else header.pixel_data.at
    url = f'"{_RETRIEVE_URL:08X}":{{"vr":"UR","Value":[{quoted(retrieve_url)}]}}' if retrieve_url else ""
    pieces = ["{"]
    size = 0
    for text in _texts(_Writer(header), header.dataset_at, end, header.explicit, bulk, url):
        pieces.append(text)
        size += len(text)
        if size >= _PIECE:
            yield "".join(pieces).encode("utf-8", "replace")
            pieces.clear()
            size = 0
    pieces.append("}")
    yield "".join(pieces).encode("utf-8", "replace")


def _texts(
    writer: _Writer, at: int, end: int, explicit: bool, bulk: Callable[[str], str | None] | None = None, url: str = ""
) -> Iterator[str]:
    """Write the elements from `at` to `end`, all of a data set or one sequence of it; `url` is an element to add."""
    raw, scopes, memo = writer.raw, writer.scopes, writer.memo
    here = Walk(at, explicit=explicit, little=writer.little, stop=end, descend=False)
    # What closes each open sequence and Item, by turns: an odd number of them means that we stand in a sequence.
    closers: list[str] = []
    path: list[list[Any]] = []  # for each of those sequences its tag and how many Items were met
    comma = ""
    in_icon = False
    while here.at < end:
        element = here.step(raw)
        if element is None:
            raise TruncatedError("the data set ends inside an element", here.at)
        tag, _, _, start, stop, depth = element
        if in_icon:
            in_icon = tag != SEQUENCE_END
            continue
        if tag in (ITEM_END, SEQUENCE_END):
            continue  # an Item may as well end without one: ends are told from what comes next
        is_item = tag == ITEM
        while len(closers) > 2 * depth - is_item:
            if len(closers) % 2:
                path.pop()
            else:
                scopes.pop()
            yield closers.pop()
            comma = ","
        if is_item:
            yield ",{" if path[-1][1] else ',"Value":[{'
            path[-1][1] += 1
            closers[-1] = "]}"
            closers.append("}")
            scopes.append(_Scope(scopes[-1].text, scopes[-1].signed))
            comma = ""
            continue
        if not tag & 0xFFFF:
            continue
        if tag == _PIXEL_DATA and stop < 0 and element.vr != "SQ":  # the Items that follow are fragments
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
            if stop >= 0 and depth and size <= _MEMO_SEQUENCE:
                key = (tag, vr, raw[start:stop], scopes[-1].text, scopes[-1].signed)
                written = memo.get(key)
                if written is None:
                    written = writer.keep(key, "".join(_texts(writer, element.at, stop, here.explicit)))
                yield comma + written
                comma = ","
                continue
            if stop >= 0:
                here.enter(element)
                here.explicit = element.vr == "SQ"  # else only the dictionary says that it is one
            yield f'{comma}"{tag:08X}":{{"vr":"SQ"'
            closers.append("}")
            path.append([f"{tag:08X}", 0])
            continue
        if size <= _LONG:
            yield comma + writer.element(element, vr)
        elif vr in _WORDS and size > INLINE_LIMIT:
            where = "/".join([*(f"{name}/{item}" for name, item in path), f"{tag:08X}"])
            uri = bulk(where) if bulk is not None else None
            if uri is None:
                continue
            yield f'{comma}"{tag:08X}":{{"vr":"{vr}","BulkDataURI":{quoted(uri)}}}'
        else:
            yield f'{comma}"{tag:08X}":{{"vr":"{vr}"'
            yield from writer.long(vr, start, stop)
            yield "}"
        comma = ","
    del scopes[len(scopes) - len(closers) // 2 :]
    yield from reversed(closers)
    if url:
        yield comma + url


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
    writer = _Writer(header)
    end = len(header.raw) if header.pixel_data is None else header.pixel_data.at
    here = Walk(header.dataset_at, explicit=header.explicit, little=header.syntax.little, stop=end, descend=False)
    texts = []
    opened: Element | None = None  # a sequence that is closed by its delimiter
    while here.at < end:
        element = here.step(header.raw)
        if element is None:
            raise TruncatedError("the data set ends inside an element", here.at)
        group, size = element.tag >> 16, element.stop - element.start
        if opened is not None and element.tag == SEQUENCE_END and not element.depth:
            texts += _short_sequence(writer, opened.at, here.at, header.explicit)
            opened = None
        if element.depth or group == 0xFFFE:
            continue
        if element.tag >= _FUNCTIONAL_GROUPS:
            break
        if not element.tag & 0xFFFF or group & 1:
            continue
        if element.stop < 0:
            opened = element
        elif (vr := writer.vr(element)) == "SQ":
            texts += _short_sequence(writer, element.at, element.stop, header.explicit)
        elif size <= _SMALL:
            texts.append(writer.element(element, vr))
    told: dict[str, dict[str, Any]] = json.loads("{" + ",".join(texts) + "}")
    return told


def _short_sequence(writer: _Writer, at: int, stop: int, explicit: bool) -> list[str]:
    """Write one sequence that is not long; nothing where it is no sequence inside."""
    if stop - at > _SHORT_SEQUENCE:
        return []
    try:
        return ["".join(_texts(writer, at, stop, explicit))]
    except FormatError:
        del writer.scopes[1:]  # in whichever Item it was
        return []
