"""A data set as Explicit VR Little Endian, whatever it was written in, and with other elements in place of some.

It knows how elements are written (PS3.5 7) and, from pydicom's dictionary, which VR one has that does not say. What
lies so already is not copied: it leaves as a range of the source. It must not know what any element means.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np

from multiframe.dicomjson import dictionary_vr
from multiframe.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, Element, PassedBy, Walk
from multiframe.encapsulation import END_OF_ITEMS, item_header
from multiframe.errors import TruncatedError
from multiframe.header import Header
from multiframe.rope import Laid, Part, Stored

__all__ = ["WORDS", "Head", "Piece", "TopElement", "element", "opening", "rewritten"]

type Piece = Part | Laid

_REPRESENTATION = 0x00280103
_DELIMITERS = 0xFFFE
_WINDOW = 1 << 20

_SHORT = Struct("<HH2sH")
_LONG = Struct("<HH2s2xI")
_WIDE = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
WORDS = {
    "US": 2, "SS": 2, "OW": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4, "FD": 8, "OD": 8, "OV": 8,
    "SV": 8, "UV": 8,
}  # fmt: skip
"""Bytes that Big Endian turns round together (PS3.5 7.3)."""
_END_OF_ITEM = Struct("<HHI").pack(ITEM_END >> 16, ITEM_END & 0xFFFF, 0)


def element(tag: int, vr: str, value: bytes) -> bytes:
    r"""Write a data element as Explicit VR Little Endian, padded to even length.

    Examples
    --------
    >>> element(0x00280008, "IS", b"1")
    b'(\x00\x08\x00IS\x02\x001 '
    """
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    return opening(tag, vr, len(value)) + value


def opening(tag: int, vr: str, length: int) -> bytes:
    """Write tag, VR and length of an element; UN where the length has no room in that VR (PS3.5 6.2.2)."""
    if vr in _WIDE:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)
    if length > 0xFFFF:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, b"UN", length)
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)


class TopElement(NamedTuple):
    """An element of the top level, from its tag to the next one."""

    tag: int
    vr: str
    at: int
    start: int
    end: int


class Head:
    """A data set before its pixels, as Explicit VR Little Endian.

    Attributes
    ----------
    lies : bool
        Whether it lies so in the source.
    """

    def __init__(self, header: Header) -> None:
        stop = header.size if header.pixel_data is None else header.pixel_data.at
        self.lies = header.explicit and header.syntax.little
        self._header = header
        self._raw, at = b"", header.dataset_at
        if not self.lies:
            self._raw, at = b"".join(rewritten(header, header.part(0, stop), at)), 0
            stop = len(self._raw)
        found: list[tuple[int, str, int, int]] = []
        for met, _ in self.walked(Walk(at, explicit=True, little=True, stop=stop, descend=False, strays=True), stop):
            if met is not None and not met.depth and met.tag >> 16 != _DELIMITERS:
                found.append((met.tag, met.vr, met.at, met.start))
        ends = [*(at for _, _, at, _ in found[1:]), stop]
        self.elements = [TopElement(*met, end) for met, end in zip(found, ends, strict=False)]

    def walked(self, here: Walk, stop: int) -> Iterator[tuple[Element | None, int]]:
        """Walk up to `stop`: each element, and where the walk stands then; None for an Item that was passed by."""
        window, base = b"", 0
        items = PassedBy()
        while here.at < stop:
            if here.among_items and items.passes(here, window, base):
                yield None, here.at
                continue
            met = here.step(window, base) if base <= here.at < base + len(window) else None
            if met is None:
                window, base = (self._raw, 0) if self._raw else self._header.window(here.at, _WINDOW)
                met = here.step(window, base)
            if met is None:
                raise TruncatedError("the data set ends inside an element", here.at)
            yield met, here.at

    def value(self, start: int, stop: int) -> bytes:
        """Give some of its bytes."""
        return self._raw[start:stop] if self._raw else self._header.part(start, stop)

    def piece(self, start: int, stop: int) -> Piece:
        """Give some of it."""
        return Stored(start, stop) if self.lies else self._raw[start:stop]

    def edited[T](self, changes: Mapping[int, Sequence[T]], dropped: Callable[[int], bool]) -> Iterator[Piece | T]:
        """Give its elements, with others in place of some, or added; and without those `dropped`."""
        waiting = sorted(changes, reverse=True)
        start = stop = 0  # what is kept, and not given yet
        for one in self.elements:
            leaves = one.tag in changes or dropped(one.tag)
            if start < stop and (leaves or (waiting and waiting[-1] < one.tag)):
                yield self.piece(start, stop)
                start = stop
            while waiting and waiting[-1] <= one.tag:
                yield from changes[waiting.pop()]
            if not leaves:
                start, stop = start if start < stop else one.at, one.end
            else:
                start = stop = one.end
        if start < stop:
            yield self.piece(start, stop)
        for tag in reversed(waiting):
            yield from changes[tag]


def rewritten(header: Header, raw: bytes, at: int) -> Iterator[bytes]:
    """Write the elements from `at` on as Explicit VR Little Endian."""
    writer = _Writer(raw, signed=header.number(_REPRESENTATION) == 1)
    here = Walk(at, explicit=header.explicit, little=header.syntax.little, stop=len(raw), descend=False, strays=True)
    while here.at < len(raw):
        found = here.step(raw)
        if found is None:
            raise TruncatedError("the data set ends inside an element", here.at)
        yield from writer.add(found, here)
    if here.inside:
        raise TruncatedError("the data set ends inside a sequence", here.at)
    yield from writer.close(0)


class _Writer:
    """Writes elements as a walk meets them; sequences and Items get an undefined length, for theirs is not known yet.

    What it closes them with is told from what comes next: in the source an Item may as well end without a word.
    """

    def __init__(self, raw: bytes, *, signed: bool) -> None:
        self._raw = raw
        self._closers: list[bytes] = []  # a sequence's and an Item's by turns
        self._signed = [signed]
        self._fragments = False

    def close(self, depth: int) -> Iterator[bytes]:
        """End what is open beyond so many of them."""
        while len(self._closers) > depth:
            if len(self._closers) % 2 == 0:
                self._signed.pop()
            yield self._closers.pop()

    def add(self, found: Element, here: Walk) -> Iterator[bytes]:
        """Write one element."""
        tag, vr, _, start, stop, depth = found
        if self._fragments:  # of an icon
            self._fragments = tag != SEQUENCE_END
            yield END_OF_ITEMS if tag == SEQUENCE_END else item_header(stop - start) + self._raw[start:stop]
            return
        is_item = tag == ITEM
        if tag >> 16 == _DELIMITERS and not (is_item and depth):
            return
        yield from self.close(2 * depth - is_item)
        if is_item:
            yield item_header(UNDEFINED)
            self._closers.append(_END_OF_ITEM)
            self._signed.append(self._signed[-1])
            return
        if not tag & 0xFFFF:
            return  # a group length
        if stop < 0 and vr in ("OB", "OW"):
            yield opening(tag, vr, UNDEFINED)
            self._fragments = True
            return
        vr = "SQ" if stop < 0 else vr or self._vr(tag)
        if vr == "SQ":
            if stop >= 0:
                here.enter(found)
                here.explicit = found.vr == "SQ"  # else only the dictionary says that it is one
            yield opening(tag, "SQ", UNDEFINED)
            self._closers.append(END_OF_ITEMS)
            return
        value = self._raw[start:stop]
        if not here.little:
            value = _turned(value, WORDS.get(vr, 1))
        if tag == _REPRESENTATION:
            self._signed[-1] = value[:1] == b"\1"
        yield opening(tag, vr, len(value))
        yield value

    def _vr(self, tag: int) -> str:
        vr = dictionary_vr(tag)
        if vr == "US or SS":
            return "SS" if self._signed[-1] else "US"
        return vr


def _turned(value: bytes, word: int) -> bytes:
    """Turn words round; what is left over at the end stays."""
    whole = len(value) // word * word
    if word == 1 or not whole:
        return value
    return np.frombuffer(value[:whole], f">u{word}").astype(f"<u{word}").tobytes() + value[whole:]
