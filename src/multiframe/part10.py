"""One object in three wrappings, as ropes: a Part 10 file as it lies, with one fragment a frame, or of one frame alone.

What leaves is literal header bytes and ranges of the source: size, entity tag and any part are known without building
it. It knows how a file is written (PS3.10 7, PS3.5 7, A.4) and which attributes speak of frames. It must not know
files, HTTP, or how a frame is found; and it decodes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from multiframe.dicomjson import dictionary_vr
from multiframe.elements import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, Element, Walk
from multiframe.encapsulation import END_OF_ITEMS, item_header
from multiframe.errors import FormatError, FragmentError, TruncatedError
from multiframe.frameindex import FrameIndex
from multiframe.header import Header
from multiframe.indexing import word_of
from multiframe.ranges import ByteRange, Plan
from multiframe.rope import Laid, Part, Rope, Stored
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax, syntax_of

__all__ = ["IMPLEMENTATION_UID", "legacy", "stored", "syntax_given"]

type Piece = Part | Laid

IMPLEMENTATION_UID: Final = "2.25.70673264303168952226208500632726887936"
"""Implementation Class UID of what has no File Meta Information of its own."""

_GROUP, _CLASS, _INSTANCE, _SYNTAX, _IMPLEMENTATION = 0x00020000, 0x00020002, 0x00020003, 0x00020010, 0x00020012
_VERSION = 0x00020001
_REPRESENTATION, _FRAMES = 0x00280103, 0x00280008
_TABLE, _TABLE_LENGTHS, _PIXEL_DATA = 0x7FE00001, 0x7FE00002, 0x7FE00010
_DELIMITERS = 0xFFFE

_SHORT = Struct("<HH2sH")
_LONG = Struct("<HH2s2xI")
_WIDE = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
_WORDS = {
    "US": 2, "SS": 2, "OW": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4, "FD": 8, "OD": 8, "OV": 8,
    "SV": 8, "UV": 8,
}  # fmt: skip
"""Bytes that Big Endian turns round together (PS3.5 7.3)."""
_PIXEL_VR = {0x7FE00008: "OF", 0x7FE00009: "OD"}
_END_OF_ITEM = Struct("<HHI").pack(ITEM_END >> 16, ITEM_END & 0xFFFF, 0)

_WINDOW = 64 << 10
_MOST_TAIL = 64 << 20
_MOST_ITEM = UNDEFINED - 1


def syntax_given(header: Header) -> TransferSyntax:
    """Name the Transfer Syntax in which an object leaves that is not decoded.

    Implicit VR, Big Endian and deflated data sets leave as Explicit VR Little Endian (PS3.18 8.7.3).
    """
    return header.syntax if header.syntax.encapsulated else syntax_of(EXPLICIT_LE)


def stored(header: Header, size: int, *, identity: str = "") -> Plan[Rope]:
    """Give the object as it lies in its file, or the same data set as Explicit VR Little Endian.

    What lies as Explicit VR Little Endian, or encapsulated, leaves byte for byte. Anything else is written anew,
    element by element: sequences of undefined length, no group lengths (PS3.5 7.2), UN where nobody knows the VR.

    Parameters
    ----------
    header : Header
        Of the file.
    size : int
        Bytes of the file.
    identity : str
        What the file's bytes are of: enters the entity tag.

    Raises
    ------
    FormatError, TruncatedError
        The data set cannot be written anew: it is damaged, or ends too soon.

    Examples
    --------
    >>> import multiframe
    >>> from multiframe.source import run
    >>> from pydicom.data import get_testdata_file
    >>> file = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> rope = run(stored(file.header, file.stat.size), file.source)
    >>> rope.parts == (Stored(0, file.stat.size),)
    True

    References
    ----------
    PS3.10 7.1; PS3.5 7.1, A.1 to A.4; PS3.18 8.7.3.
    """
    if _lies_well(header):
        return Rope([Stored(0, size)], identity=identity)
    pieces = [*_meta(header), *_edited(_head(header), {}, _is_group_length)]
    pixels = header.pixel_data
    if pixels is None:
        return Rope(pieces, identity=identity)
    if pixels.stop < 0:
        # Of such files nothing but the header is written otherwise than it should be.
        return Rope([*pieces, _OPENED, Stored(pixels.start, size)], identity=identity)
    pieces += _native(header, size)
    pieces += yield from _tail(header, pixels.stop, size)
    return Rope(pieces, identity=identity)


def legacy(header: Header, index: FrameIndex, size: int, *, identity: str = "") -> Plan[Rope]:
    """Give the object so that viewers which read whole files find its frames: one fragment each, and no table.

    An Extended Offset Table stops dicomParser, and several fragments a frame without a table show wrong pictures
    elsewhere; a Basic one makes cornerstone copy the whole file for each frame. All other attributes are as they were,
    but for Number of Frames where it was wrong. What is not encapsulated, or is video, is as in `stored`.

    Parameters
    ----------
    header, size, identity
        As of `stored`.
    index : FrameIndex
        All frames.

    Raises
    ------
    FormatError
        Not all frames could be told apart, or it is damaged otherwise.
    FragmentError
        A frame is longer than an Item can be.

    References
    ----------
    PS3.5 A.4.
    """
    if not header.syntax.encapsulated or index.kind == "stream":
        return (yield from stored(header, size, identity=identity))
    require_all(index)
    changes: dict[int, Sequence[Piece]] = {}
    if header.declared_frames != len(index) and (header.declared_frames or len(index) > 1):
        changes[_FRAMES] = [element(_FRAMES, "IS", str(len(index)).encode())]
    pieces = [*_meta(header), *_edited(_head(header), changes, _speaks_of_tables)]
    pieces += [_OPENED, item_header(0), *_fragments(index), END_OF_ITEMS]
    pieces += yield from _tail(header, index.proven_to, size)
    return Rope(pieces, identity=identity)


def require_all(index: FrameIndex) -> None:
    """Make sure that all frames are told apart.

    Raises
    ------
    FormatError
        They are not, and this is why.
    LookupError
        They were not all looked for.
    """
    if index.damage is not None:
        raise index.damage.error()
    if not index.complete or index.claimed:
        raise LookupError("complete() the index first")


# ------------------------------------------------------------------------------------------------ pieces of a file


def element(tag: int, vr: str, value: bytes) -> bytes:
    r"""Write a data element as Explicit VR Little Endian, padded to even length.

    Examples
    --------
    >>> element(0x00280008, "IS", b"1")
    b'(\x00\x08\x00IS\x02\x001 '
    """
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    return _opening(tag, vr, len(value)) + value


def _opening(tag: int, vr: str, length: int) -> bytes:
    """Write tag, VR and length of an element; UN where the length has no room in that VR (PS3.5 6.2.2)."""
    if vr in _WIDE:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)
    if length > 0xFFFF:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, b"UN", length)
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), length)


_OPENED = _opening(_PIXEL_DATA, "OB", UNDEFINED)
"""What encapsulated Pixel Data begins with."""


def _lies_well(header: Header) -> bool:
    """Whether the file is what it should be sent as."""
    given = syntax_given(header)
    return header.meta_at == 132 and header.text(_SYNTAX) == given.uid and header.explicit and header.syntax.little


def _meta(header: Header, *, syntax: str = "", instance: str = "") -> list[Piece]:
    """Write preamble and File Meta Information (PS3.10 7.1): as they were, but for what is named.

    The preamble is empty: what other formats have there points to places of the file as it was.
    """
    kept: dict[int, bytes] = {}
    if header.meta_at >= 0:
        here = Walk(header.meta_at, explicit=True, little=True, stop=header.dataset_at)
        while here.at < header.dataset_at:
            found = here.step(header.raw)
            if found is None:
                raise TruncatedError("the File Meta Information ends inside an element", here.at)
            if not found.depth and found.tag >> 16 == 2:
                kept[found.tag] = header.raw[found.at : here.at]
    for tag, vr, value in (
        (_VERSION, "OB", b"\0\1"),
        (_CLASS, "UI", header.sop_class_uid.encode()),
        (_INSTANCE, "UI", header.sop_instance_uid.encode()),
        (_IMPLEMENTATION, "UI", IMPLEMENTATION_UID.encode()),
    ):
        kept.setdefault(tag, element(tag, vr, value))
    kept[_SYNTAX] = element(_SYNTAX, "UI", (syntax or syntax_given(header).uid).encode())
    if instance:
        kept[_INSTANCE] = element(_INSTANCE, "UI", instance.encode())
    kept.pop(_GROUP, None)
    whole = b"".join(kept[tag] for tag in sorted(kept))
    return [bytes(128) + b"DICM" + element(_GROUP, "UL", len(whole).to_bytes(4, "little")) + whole]


class _Head(NamedTuple):
    """A data set before its pixels, as Explicit VR Little Endian, and whether it lies so in the source."""

    raw: bytes
    start: int
    stop: int
    lies: bool


def _head(header: Header) -> _Head:
    stop = len(header.raw) if header.pixel_data is None else header.pixel_data.at
    if header.explicit and header.syntax.little:
        return _Head(header.raw, header.dataset_at, stop, True)
    raw = b"".join(_rewritten(header, header.raw[:stop], header.dataset_at))
    return _Head(raw, 0, len(raw), False)


def _edited(
    head: _Head, changes: Mapping[int, Sequence[Piece]], dropped: Callable[[int], bool]
) -> Iterator[Piece]:  # fmt: skip
    """Give the elements of the top level, with others in place of some, or added; and without those `dropped`."""

    def kept(start: int, stop: int) -> Iterator[Piece]:
        if start < stop:
            yield Stored(start, stop) if head.lies else head.raw[start:stop]

    waiting = sorted(changes, reverse=True)
    here = Walk(head.start, explicit=True, little=True, stop=head.stop, descend=False, strays=True)
    start, leaving = head.start, False
    while here.at < head.stop:
        found = here.step(head.raw)
        if found is None:
            raise TruncatedError("the data set ends inside an element", here.at)
        if found.depth or found.tag >> 16 == _DELIMITERS:
            continue
        if not leaving:
            leaves = found.tag in changes or dropped(found.tag)
            if not leaves and not (waiting and waiting[-1] < found.tag):
                continue
            yield from kept(start, found.at)
        while waiting and waiting[-1] <= found.tag:
            yield from changes[waiting.pop()]
        leaving = found.tag in changes or dropped(found.tag)
        start = found.at
    if not leaving:
        yield from kept(start, head.stop)
    for tag in reversed(waiting):
        yield from changes[tag]


def _is_group_length(tag: int) -> bool:
    return not tag & 0xFFFF


def _speaks_of_tables(tag: int) -> bool:
    """Whether an element is a table of the Items as they were, or counts the bytes of its group (PS3.5 7.2)."""
    return tag in (_TABLE, _TABLE_LENGTHS) or not tag & 0xFFFF


def _native(header: Header, size: int) -> list[Piece]:
    """Give native pixels, whatever their words were."""
    pixels, allocated = header.pixels, header.number(0x00280100)
    if pixels.stop > size:
        raise TruncatedError("the file ends inside Pixel Data", size)
    word = 1 if header.syntax.little else word_of(pixels.vr, allocated)
    vr = _PIXEL_VR.get(pixels.tag) or (pixels.vr if pixels.vr == "OB" and allocated <= 8 else "OW")
    value = Stored(pixels.start, pixels.stop, word=word, origin=pixels.start)
    return [_opening(pixels.tag, vr, pixels.stop - pixels.start), value]


def _fragments(index: FrameIndex) -> list[Piece]:
    """Give each frame as one Item."""
    starts, stops = index.starts, index.stops
    neighbours = np.array_equal(starts[1:], stops[:-1] + np.uint64(8))
    if len(index) == len(starts) and neighbours and not ((stops - starts) % np.uint64(2)).any():
        return [Stored(int(starts[0]) - 8, int(stops[-1]))]  # so they lie
    return [Fragments(index)]


class Fragments:
    """Frames one behind the other, each as one Item: laid out where they are asked for.

    Raises
    ------
    FragmentError
        A frame is longer than an Item can be.
    """

    def __init__(self, index: FrameIndex) -> None:
        self._index = index
        ends = np.concatenate((np.zeros(1, np.int64), np.cumsum((index.stops - index.starts).astype(np.int64))))
        firsts = index.firsts.astype(np.int64)
        self._lengths = ends[firsts[1:]] - ends[firsts[:-1]]
        self._lengths += self._lengths % 2
        if len(self._lengths) and self._lengths.max() > _MOST_ITEM:
            i = int(self._lengths.argmax())
            raise FragmentError(f"the frame with index {i} is longer than an Item can be", int(index.starts[0]))
        self._stops = np.cumsum(self._lengths + 8)

    @property
    def size(self) -> int:
        """Bytes of all Items."""
        return int(self._stops[-1]) if len(self._stops) else 0

    @property
    def etag(self) -> str:
        """What changes where a byte does."""
        digest = sha256()
        for offsets in (self._index.starts, self._index.stops, self._index.firsts):
            digest.update(offsets.tobytes())
        return digest.hexdigest()

    def within(self, wanted: ByteRange) -> Iterator[tuple[Part, ByteRange]]:
        """Give the parts that `wanted` touches, in their order, and what of each is wanted."""
        for k in range(int(self._stops.searchsorted(wanted.start, "right")), len(self._stops)):
            length = int(self._lengths[k])
            at = int(self._stops[k]) - 8 - length
            if at >= wanted.stop:
                return
            payload = self._index.parts(k)
            pad = bytes(length - sum(part.size for part in payload))
            parts: list[bytes | Stored] = [item_header(length), *payload, pad]
            for part in parts:
                size = len(part) if isinstance(part, bytes) else part.size
                inside = ByteRange(max(wanted.start - at, 0), min(wanted.stop - at, size))
                if inside.start < inside.stop:
                    yield part, inside
                at += size


# ------------------------------------------------------------------------------------------------ behind the pixels


def _tail(header: Header, at: int, size: int) -> Plan[list[Piece]]:
    """Give the elements behind Pixel Data; what lies there and is none is left out."""
    explicit, little = header.explicit, header.syntax.little
    window, base = b"", at
    if header.syntax.encapsulated:  # what closes the Items, and Items that hold nothing
        (answer,) = yield [ByteRange(at, min(at + _WINDOW, size))]
        window = bytes(answer)
        while window[at - base : at - base + 8] == item_header(0):
            at += 8
        if window[at - base : at - base + 8] == END_OF_ITEMS:
            at += 8
    here = Walk(at, explicit=explicit, little=little, stop=size, descend=False)
    end, last = at, _PIXEL_DATA
    try:
        while here.at < size:
            found = here.step(window, base) if base <= here.at < base + len(window) else None
            if found is None:
                base = here.at
                (answer,) = yield [ByteRange(base, min(base + _WINDOW, size))]
                window = bytes(answer)
                found = here.step(window, base)
            if found is None or (not found.depth and found.tag <= last):
                break
            if not found.depth and found.tag >> 16 != _DELIMITERS:
                last = found.tag
            if not here.inside:
                end = here.at
    except FormatError:
        pass  # junk: what stood before it is kept
    if end == at:
        return []
    if explicit and little:
        return [Stored(at, end)]
    if end - at > _MOST_TAIL:
        raise FormatError(f"more than {_MOST_TAIL} bytes lie behind Pixel Data: not written anew", at)
    (answer,) = yield [ByteRange(at, end)]
    return [b"".join(_rewritten(header, bytes(answer), 0))]


# ------------------------------------------------------------------------------------------------ another encoding


def _rewritten(header: Header, raw: bytes, at: int) -> Iterator[bytes]:
    """Write the elements from `at` on as Explicit VR Little Endian."""
    writer = _Writer(raw, header.syntax.little, signed=header.number(_REPRESENTATION) == 1)
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

    def __init__(self, raw: bytes, little: bool, *, signed: bool) -> None:
        self._raw = raw
        self._little = little
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
            yield _opening(tag, vr, UNDEFINED)
            self._fragments = True
            return
        vr = "SQ" if stop < 0 else vr or self._vr(tag)
        if vr == "SQ":
            if stop >= 0:
                here.enter(found)
                here.explicit = found.vr == "SQ"  # else only the dictionary says that it is one
            yield _opening(tag, "SQ", UNDEFINED)
            self._closers.append(END_OF_ITEMS)
            return
        value = self._raw[start:stop]
        if not here.little:
            value = _turned(value, _WORDS.get(vr, 1))
        if tag == _REPRESENTATION:
            self._signed[-1] = value[:1] == b"\1"
        yield _opening(tag, vr, len(value))
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
