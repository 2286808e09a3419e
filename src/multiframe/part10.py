"""One object in three wrappings, as ropes: a Part 10 file as it lies, with one fragment a frame, or of one frame alone.

What leaves is literal header bytes and ranges of the source: size, entity tag and any part are known without building
it. It knows how a file is written (PS3.10 7, PS3.5 7, A.4) and which attributes speak of frames. It must not know
files, HTTP, or how a frame is found; and it decodes nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from struct import unpack_from
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from multiframe.codec import PixelSpec
from multiframe.dicomjson import Items
from multiframe.elements import ITEM, ITEM_END, UNDEFINED, Walk, walk
from multiframe.encapsulation import END_OF_ITEMS, item_header
from multiframe.errors import FormatError, FragmentError, TruncatedError
from multiframe.explicit import WORDS, Head, Piece, TopElement, element, opening, rewritten
from multiframe.frameindex import FrameIndex
from multiframe.header import Header
from multiframe.indexing import word_of
from multiframe.ranges import ByteRange, Plan
from multiframe.rope import Made, Part, Rope, Stored, touched
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax, syntax_of

__all__ = [
    "IMPLEMENTATION_UID",
    "Decoding",
    "Encoding",
    "Singles",
    "can_hold",
    "decoded",
    "decoded_value",
    "derived_uid",
    "encoded",
    "frame_number",
    "half_behind",
    "item",
    "legacy",
    "stored",
    "syntax_given",
]

IMPLEMENTATION_UID: Final = "2.25.70673264303168952226208500632726887936"
"""Implementation Class UID of what has no File Meta Information of its own."""

_GROUP, _CLASS, _INSTANCE, _SYNTAX, _IMPLEMENTATION = 0x00020000, 0x00020002, 0x00020003, 0x00020010, 0x00020012
_VERSION = 0x00020001
_FRAMES = 0x00280008
_SOP_INSTANCE, _SERIES, _NUMBER, _CONVERSION = 0x00080018, 0x0020000E, 0x00200013, 0x00209172
_PHOTOMETRIC, _PLANAR, _ALLOCATED, _LOSSY = 0x00280004, 0x00280006, 0x00280100, 0x00282110
_POINTER, _PER_FRAME, _OVERLAY_FRAMES = 0x00280009, 0x52009230, 0x60000015
_OF_MANY = frozenset((
    *(0x00082142, 0x00082143),  # Start Trim, Stop Trim
    *(0x00200242, 0x00209161, 0x00209162, 0x00209163, 0x00209228),  # concatenations
    *(0x00286010, 0x00286020, 0x00286022, 0x00286023),  # representative frame, frames of interest
))  # fmt: skip
"""What speaks of other frames than one."""
_TABLE, _TABLE_LENGTHS, _PIXEL_DATA = 0x7FE00001, 0x7FE00002, 0x7FE00010
_DELIMITERS = 0xFFFE
_LAST = frozenset((  # tags of Digital Signatures Sequence and Data Set Trailing Padding, little and big endian
    b"\xfa\xff\xfa\xff", b"\xff\xfa\xff\xfa", b"\xfc\xff\xfc\xff", b"\xff\xfc\xff\xfc",
))  # fmt: skip

_PIXEL_VR = {0x7FE00008: "OF", 0x7FE00009: "OD"}

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
    pieces = [*_meta(header), *Head(header).edited({}, _is_group_length)]
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
    changes = _counted(header, len(index))
    pieces = [*_meta(header), *Head(header).edited(changes, _speaks_of_tables)]
    pieces += [_OPENED, item_header(0), *_fragments(index), END_OF_ITEMS]
    pieces += yield from _tail(header, index.proven_to, size)
    return Rope(pieces, identity=identity)


class Decoding(NamedTuple):
    """How frames are decoded; by whom and where is not this room's.

    Attributes
    ----------
    spec : PixelSpec
        What the pixels are then.
    frame : callable
        Gives the native bytes of the frame with an index, as little endian.
    """

    spec: PixelSpec
    frame: Callable[[int], Made]


def can_hold(spec: PixelSpec, frames: int) -> bool:
    """Say whether so many native frames have room in one value, each from a byte of its own on (PS3.5 8.1.1, 7.1)."""
    return spec.frame_bits % 8 == 0 and spec.frame_bits // 8 * frames < UNDEFINED - 1


def decoded(
    header: Header, index: FrameIndex, size: int, decoding: Decoding, *, identity: str = ""
) -> Plan[Rope]:  # fmt: skip
    """Give the object with native frames, as Explicit VR Little Endian; its size is known before one is decoded.

    The data set says of the pixels what they are then, and that they were lossy if they ever were.

    Parameters
    ----------
    header, index, size, identity
        As of `legacy`; the frames are encapsulated, and `can_hold`.

    Raises
    ------
    FormatError
        As `legacy`.

    References
    ----------
    PS3.5 8.1.1; PS3.3 C.7.6.1.1.5 (Lossy Image Compression), C.7.6.3.
    """
    require_all(index)
    changes = _described(header, decoding.spec) | _counted(header, len(index))
    pieces = [*_meta(header, syntax=EXPLICIT_LE), *Head(header).edited(changes, _speaks_of_tables)]
    pieces += _decoded(index, decoding, range(len(index)))
    pieces += yield from _tail(header, index.proven_to, size)
    return Rope(pieces, identity=identity)


class Encoding(NamedTuple):
    """What frames become that are encoded anew.

    Attributes
    ----------
    spec : PixelSpec
        What the data set is to say of them.
    syntax : TransferSyntax
        What they are encoded in.
    """

    spec: PixelSpec
    syntax: TransferSyntax


def encoded(
    header: Header, index: FrameIndex, size: int, encoding: Encoding, *, identity: str = ""
) -> Plan[tuple[Rope, Rope]]:
    """Give what stands before and behind the frames of an object that are to be encoded anew, without loss.

    Between the two belongs each frame as an `item`: how long it becomes nobody knows before.

    Parameters
    ----------
    header, index, size, identity
        As of `legacy`; native frames too.

    Raises
    ------
    FormatError
        As `legacy`.

    References
    ----------
    PS3.5 A.4; PS3.3 C.7.6.1.1.5.
    """
    require_all(index)
    changes = _described(header, encoding.spec) | _counted(header, len(index))
    head = [*_meta(header, syntax=encoding.syntax.uid), *Head(header).edited(changes, _speaks_of_tables)]
    native = not header.syntax.encapsulated
    tail = yield from _tail(header, header.pixels.stop if native else index.proven_to, size)
    return Rope([*head, _OPENED, item_header(0)], identity=identity), Rope([END_OF_ITEMS, *tail], identity=identity)


def item(frame: bytes) -> Iterator[bytes]:
    """Give a frame as an Item.

    Raises
    ------
    FragmentError
        It is longer than an Item can be.

    Examples
    --------
    >>> [len(piece) for piece in item(b"odd")]
    [8, 3, 1]
    """
    if len(frame) > _MOST_ITEM - 1:
        raise FragmentError("a frame is longer than an Item can be", None)
    yield item_header(len(frame) + len(frame) % 2)
    yield frame
    if len(frame) % 2:
        yield b"\0"


def derived_uid(uid: str, number: int) -> str:
    """Make the UID of one frame of an instance, or, with number 0, of the series of its frames.

    It is a UUID of version 8 below 2.25: 98 bits of a hash of the instance's UID, and 24 of the number. So the same
    frame has the same UID wherever it is made, and `frame_number` reads the number.

    Parameters
    ----------
    number : int
        Counted from 1.

    Examples
    --------
    >>> derived_uid("1.2.3", 5)
    '2.25.213795091800223341477743007781078695941'

    References
    ----------
    PS3.5 B.2; RFC 9562 5.8.
    """
    named = int.from_bytes(sha256(f"a frame of {uid}".encode()).digest()) >> 256 - 98 << 24 | number
    first, second, third = named >> 74, named >> 62 & 0xFFF, named & (1 << 62) - 1
    return f"2.25.{first << 80 | 8 << 76 | second << 64 | 2 << 62 | third}"


def frame_number(uid: str) -> int | None:
    """Read the number out of a UID that `derived_uid` may have made; None: it has not.

    Examples
    --------
    >>> frame_number(derived_uid("1.2.3", 5)), frame_number("1.2.3")
    (5, None)
    """
    tail = uid.removeprefix("2.25.")
    if tail == uid or not (tail.isascii() and tail.isdecimal()) or len(tail) > 39:
        return None
    number = int(tail)
    return number & 0xFFFFFF if number >> 76 & 0xF == 8 and number >> 62 & 3 == 2 else None


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


_OPENED = opening(_PIXEL_DATA, "OB", UNDEFINED)
"""What encapsulated Pixel Data begins with."""


def _lies_well(header: Header) -> bool:
    """Whether the file is what it should be sent as."""
    given = syntax_given(header)
    return header.meta_at == 132 and header.text(_SYNTAX) == given.uid and header.explicit and header.syntax.little


def _meta(header: Header, *, syntax: str = "") -> list[Piece]:
    """Write preamble and File Meta Information (PS3.10 7.1): as they were, but for the Transfer Syntax."""
    return [_written(_meta_elements(header, syntax))]


def _meta_elements(header: Header, syntax: str) -> dict[int, bytes]:
    was = header.part(max(header.meta_at, 0), header.dataset_at)
    kept = {e.tag: element(e.tag, e.vr, was[e.start : e.stop]) for e in walk(was) if not e.depth}
    for tag, vr, value in (
        (_VERSION, "OB", b"\0\1"),
        (_CLASS, "UI", header.sop_class_uid.encode()),
        (_INSTANCE, "UI", header.sop_instance_uid.encode()),
        (_IMPLEMENTATION, "UI", IMPLEMENTATION_UID.encode()),
    ):
        kept.setdefault(tag, element(tag, vr, value))
    kept[_SYNTAX] = element(_SYNTAX, "UI", (syntax or syntax_given(header).uid).encode())
    kept.pop(_GROUP, None)
    return kept


def _written(meta: Mapping[int, bytes]) -> bytes:
    """Write elements of group 2, and the preamble: empty, for other formats point from it to places of the file."""
    whole = b"".join(meta[tag] for tag in sorted(meta))
    return bytes(128) + b"DICM" + element(_GROUP, "UL", len(whole).to_bytes(4, "little")) + whole


def _is_group_length(tag: int) -> bool:
    return not tag & 0xFFFF


def _speaks_of_tables(tag: int) -> bool:
    """Whether an element is a table of the Items as they were, or counts the bytes of its group (PS3.5 7.2)."""
    return tag in (_TABLE, _TABLE_LENGTHS) or not tag & 0xFFFF


def _counted(header: Header, frames: int) -> dict[int, Sequence[Piece]]:
    """Correct Number of Frames where it is wrong."""
    declared = header.declared_frames
    if declared == frames or (declared is None and frames == 1):
        return {}
    return {_FRAMES: [element(_FRAMES, "IS", str(frames).encode())]}


def _described(header: Header, spec: PixelSpec) -> dict[int, Sequence[Piece]]:
    """Say of decoded pixels what they are."""
    changes: dict[int, Sequence[Piece]] = {_PHOTOMETRIC: [element(_PHOTOMETRIC, "CS", spec.photometric.encode())]}
    if spec.samples > 1:
        changes[_PLANAR] = [element(_PLANAR, "US", int(spec.planar).to_bytes(2, "little"))]
    if header.syntax.lossy:
        changes[_LOSSY] = [element(_LOSSY, "CS", b"01")]
    return changes


def _decoded(index: FrameIndex, decoding: Decoding, indices: Sequence[int]) -> list[Piece]:
    """Give native pixels that are not there yet."""
    frames = DecodedFrames(index, decoding, indices)
    length = frames.size + frames.size % 2
    vr = "OW" if decoding.spec.bits_allocated > 8 else "OB"
    return [opening(_PIXEL_DATA, vr, length), frames, bytes(frames.size % 2)]


def decoded_value(index: FrameIndex, decoding: Decoding) -> list[Piece]:
    """Give native pixels that are not there yet, of all frames: the value as of `decoded`."""
    return _decoded(index, decoding, range(len(index)))[1:]


class DecodedFrames:
    """Frames one behind the other, decoded: laid out where they are asked for."""

    def __init__(self, index: FrameIndex, decoding: Decoding, indices: Sequence[int]) -> None:
        self._indices = indices
        self._decoding = decoding
        self._frame = decoding.spec.frame_bits // 8
        self.size = self._frame * len(indices)
        sizes = [sum(part.size for part in index.parts(i)) for i in indices] if len(indices) < 2 else _payloads(index)
        self.heavy = self._frame + int(max(sizes, default=0))
        self._offsets = _offsets_of(index)
        self._last: tuple[int, Made] | None = None

    @property
    def etag(self) -> str:
        """What changes where a byte does."""
        return f"{self._offsets} {list(self._indices)!r:.40} {self._made(0).key if self._indices else ''}"

    def _made(self, k: int) -> Made:
        """Give a frame, the same one as long as no other is asked for: who makes it keeps what came out."""
        if self._last is None or self._last[0] != k:
            self._last = k, self._decoding.frame(self._indices[k])
        return self._last[1]

    def within(self, wanted: ByteRange) -> Iterator[tuple[Part, ByteRange]]:
        """Give the parts that `wanted` touches, in their order, and what of each is wanted."""
        for k in range(wanted.start // self._frame, len(self._indices)):
            at = k * self._frame
            if at >= wanted.stop:
                return
            yield self._made(k), ByteRange(max(wanted.start - at, 0), min(wanted.stop - at, self._frame))


def _native_vr(header: Header) -> str:
    pixels = header.pixels
    named = pixels.vr == "OB" and header.number(_ALLOCATED) <= 8
    return _PIXEL_VR.get(pixels.tag) or (pixels.vr if named else "OW")


def _native(header: Header, size: int) -> list[Piece]:
    """Give native pixels, whatever their words were."""
    pixels = header.pixels
    if pixels.stop > size:
        raise TruncatedError("the file ends inside Pixel Data", size)
    word = 1 if header.syntax.little else word_of(pixels.vr, header.number(_ALLOCATED))
    value = Stored(pixels.start, pixels.stop, word=word, origin=pixels.start)
    return [opening(pixels.tag, _native_vr(header), pixels.stop - pixels.start), value]


def _fragments(index: FrameIndex) -> list[Piece]:
    """Give each frame as one Item."""
    starts, stops = index.starts, index.stops
    neighbours = np.array_equal(starts[1:], stops[:-1] + np.uint64(8))
    if len(index) == len(starts) and neighbours and not ((stops - starts) % np.uint64(2)).any():
        return [Stored(int(starts[0]) - 8, int(stops[-1]))]  # so they lie
    return [Fragments(index)]


def _payloads(index: FrameIndex) -> NDArray[np.int64]:
    """Give the bytes of each frame, without Item headers."""
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum((index.stops - index.starts).astype(np.int64))))
    firsts = index.firsts.astype(np.int64)
    return ends[firsts[1:]] - ends[firsts[:-1]]


def _offsets_of(index: FrameIndex) -> str:
    """Name where all frames lie."""
    digest = sha256()
    for offsets in (index.starts, index.stops, index.firsts):
        digest.update(offsets.tobytes())
    return digest.hexdigest()


class Fragments:
    """Frames one behind the other, each as one Item: laid out where they are asked for.

    Raises
    ------
    FragmentError
        A frame is longer than an Item can be.
    """

    def __init__(self, index: FrameIndex) -> None:
        self._index = index
        self._lengths = _payloads(index)
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
        return _offsets_of(self._index)

    def within(self, wanted: ByteRange) -> Iterator[tuple[Part, ByteRange]]:
        """Give the parts that `wanted` touches, in their order, and what of each is wanted."""
        for k in range(int(self._stops.searchsorted(wanted.start, "right")), len(self._stops)):
            length = int(self._lengths[k])
            at = int(self._stops[k]) - 8 - length
            if at >= wanted.stop:
                return
            payload = self._index.parts(k)
            pad = bytes(length - sum(part.size for part in payload))
            yield from touched([item_header(length), *payload, pad], at, wanted)


# ------------------------------------------------------------------------------------------------ one frame alone


class Singles:
    """Each frame of an instance as an instance of its own, for viewers that know no others.

    A frame keeps the attributes of its instance, its SOP Class too, but for these: SOP Instance UID and Series Instance
    UID are derived (`derived_uid`), for it is another object; Instance Number is the frame's; Conversion Source
    Attributes Sequence names the instance and the frame it is of. Number of Frames is 1; of the Per-Frame Functional
    Groups, and of what Frame Increment Pointer names, only the frame's own is left. What speaks of other frames is left
    out: trims, frames of interest, concatenations, overlays of several frames, signatures.

    Parameters
    ----------
    header, identity
        As of `legacy`.
    index : FrameIndex
        The frames that are asked for, at least.
    frames : int
        How many the instance has.
    items : Items, optional
        Where their functional groups lie, if that is known: they are not looked for then.
    decoding : Decoding, optional
        Where they are to be decoded.
    encoding : Encoding, optional
        Where they are to be encoded anew.

    Raises
    ------
    FormatError
        The data set has not as many Per-Frame Functional Groups as frames, or is damaged.

    References
    ----------
    PS3.3 C.12.1 (SOP Common: Conversion Source Attributes), C.7.6.16 (functional groups), C.7.6.6 (multi-frame).
    """

    def __init__(
        self, header: Header, index: FrameIndex, frames: int, *, items: Items | None = None,
        decoding: Decoding | None = None, encoding: Encoding | None = None, identity: str = "",
    ) -> None:  # fmt: skip
        self._header = header
        self._index = index
        self._decoding = decoding
        self._identity = identity
        self._head = Head(header)
        self._frames = frames
        self._uid = header.sop_instance_uid
        found = items if items is not None and self._head.lies else None
        self._groups = self._items() if found is None else list(zip(found.starts, found.stops, strict=True))
        self._bare = found is not None
        if self._groups and len(self._groups) != frames:
            there = f"there are Per-Frame Functional Groups for {len(self._groups)} frames"
            raise FormatError(f"{there}, the instance has {frames}", None)
        self._pointed = self._vectors()
        self._overlays = {
            one.tag >> 16
            for one in self._head.elements
            if one.tag & 0xFF00FFFF == _OVERLAY_FRAMES and self._value(one).strip(b" \0") not in (b"", b"1")
        }
        self._meta = _meta_elements(header, EXPLICIT_LE if decoding else encoding.syntax.uid if encoding else "")
        self._source = element(0x00081150, "UI", header.sop_class_uid.encode())
        self._source += element(0x00081155, "UI", self._uid.encode())
        # What all frames share, with a tag in place of what is the frame's own.
        changes: dict[int, Sequence[Piece | int]] = {tag: [tag] for tag in (_SOP_INSTANCE, _NUMBER, _CONVERSION)}
        changes |= {tag: [tag] for tag, _, _ in self._pointed} | ({_PER_FRAME: [_PER_FRAME]} if self._groups else {})
        changes[_SERIES] = [element(_SERIES, "UI", derived_uid(self._uid, 0).encode())]
        changes[_FRAMES] = [element(_FRAMES, "IS", b"1")]
        anew = decoding or encoding
        if anew is not None:
            changes |= _described(header, anew.spec)
        self._template = list(self._head.edited(changes, self._dropped))

    def _value(self, one: TopElement) -> bytes:
        return self._head.value(one.start, one.end)

    def _items(self) -> list[tuple[int, int]]:
        """Find the Per-Frame Functional Groups of each frame."""
        one = next((e for e in self._head.elements if e.tag == _PER_FRAME), None)
        if one is None:
            return []
        found: list[tuple[int, int]] = []
        here = Walk(one.at, explicit=True, little=True, stop=one.end, descend=False)
        begun = one.at
        for met, at in self._head.walked(here, one.end):
            if met is None:
                found.append((begun, at))
            elif met.tag == _PER_FRAME and met.at == one.at and met.stop >= 0:
                here.enter(met)
            elif met.tag == ITEM and met.depth == 1 and met.stop >= 0:
                found.append((met.at, met.stop))
                here.at = met.stop  # what is in it is not looked at
            elif met.tag == ITEM_END and not met.depth:
                found.append((begun, at))
            if here.among_items:
                begun = here.at
        return found

    def _vectors(self) -> list[tuple[int, str, list[bytes]]]:
        """Find what Frame Increment Pointer names, where it has a value for each frame (PS3.3 C.7.6.6.1.1)."""
        pointed: set[int] = set()
        for one in self._head.elements:
            if one.tag == _POINTER:
                words = self._value(one)
                pairs = (unpack_from("<HH", words, k) for k in range(0, len(words) - 3, 4))
                pointed = {group << 16 | number for group, number in pairs}
        out = []
        for one in self._head.elements:
            if one.tag not in pointed or one.vr == "SQ" or self._frames == 1:
                continue
            value, width = self._value(one), WORDS.get(one.vr)
            if width is None:
                values = value.rstrip(b" \0").split(b"\\")
            else:
                values = [value[k : k + width] for k in range(0, len(value), width)]
            if len(values) == self._frames:
                out.append((one.tag, one.vr, values))
        return out

    def _dropped(self, tag: int) -> bool:
        return tag in _OF_MANY or _speaks_of_tables(tag) or tag >> 16 in self._overlays

    def rope(self, i: int) -> Rope:
        """Give the frame with index `i`."""
        return Rope([*self._front(i), *self._pixels(i)], identity=self._identity)

    def around(self, i: int) -> tuple[Rope, Rope]:
        """Give what stands before and behind the frame with index `i`, which is to be encoded anew, as of `encoded`."""
        before = Rope([*self._front(i), _OPENED, item_header(0)], identity=self._identity)
        return before, Rope([END_OF_ITEMS], identity=self._identity)

    def _front(self, i: int) -> list[Piece]:
        number = i + 1
        uid = derived_uid(self._uid, number).encode()
        source = self._source + element(0x00081160, "IS", str(number).encode())
        own: dict[int, Sequence[Piece]] = {
            _SOP_INSTANCE: [element(_SOP_INSTANCE, "UI", uid)],
            _NUMBER: [element(_NUMBER, "IS", str(number).encode())],
            _CONVERSION: [element(_CONVERSION, "SQ", item_header(len(source)) + source)],
        }
        if self._groups:
            start, stop = self._groups[i]
            item = item_header(stop - start) if self._bare else b""
            own[_PER_FRAME] = [
                opening(_PER_FRAME, "SQ", len(item) + stop - start) + item, self._head.piece(start, stop)
            ]  # fmt: skip
        for tag, vr, values in self._pointed:
            own[tag] = [element(tag, vr, values[i])]
        pieces: list[Piece] = [_written({**self._meta, _INSTANCE: element(_INSTANCE, "UI", uid)})]
        for piece in self._template:
            if isinstance(piece, int):
                pieces += own[piece]
            else:
                pieces.append(piece)
        return pieces

    def _pixels(self, i: int) -> Iterator[Piece]:
        self._index.require(i)
        if self._decoding is not None:
            yield from _decoded(self._index, self._decoding, [i])
            return
        parts = self._index.parts(i)
        size = sum(part.size for part in parts)
        if self._header.syntax.encapsulated:
            if size > _MOST_ITEM - 1:
                raise FragmentError(f"the frame with index {i} is longer than an Item can be", parts[0].start)
            yield _OPENED + item_header(0) + item_header(size + size % 2)
            yield from parts
            yield bytes(size % 2) + END_OF_ITEMS
        else:
            yield opening(self._header.pixels.tag, _native_vr(self._header), size + size % 2)
            yield from parts
            yield bytes(size % 2)


# ------------------------------------------------------------------------------------------------ behind the pixels


def half_behind(header: Header, index: FrameIndex, size: int) -> Plan[int | None]:
    """Give where an element begins behind Pixel Data that has not come whole; None: there is none.

    What may lie there by the standard is told by its tag from what is no element at all, which nobody minds.

    Parameters
    ----------
    header, index, size
        As of `legacy`.

    References
    ----------
    PS3.6 (Digital Signatures Sequence, Data Set Trailing Padding).
    """
    pixels = header.pixels
    native = not header.syntax.encapsulated or index.kind == "stream"
    _, end = yield from _behind(header, pixels.stop if native else index.proven_to, size)
    if end >= size:
        return None
    (answer,) = yield [ByteRange(end, min(end + 4, size))]
    return end if bytes(answer) in _LAST else None


def _tail(header: Header, at: int, size: int) -> Plan[list[Piece]]:
    """Give the elements behind Pixel Data; what lies there and is none is left out."""
    at, end = yield from _behind(header, at, size)
    if end == at:
        return []
    if header.explicit and header.syntax.little:
        return [Stored(at, end)]
    if end - at > _MOST_TAIL:
        raise FormatError(f"more than {_MOST_TAIL} bytes lie behind Pixel Data: not written anew", at)
    (answer,) = yield [ByteRange(at, end)]
    return [b"".join(rewritten(header, bytes(answer), 0))]


def _behind(header: Header, at: int, size: int) -> Plan[tuple[int, int]]:
    """Give where the elements behind Pixel Data begin, and where the last of them ends that is whole."""
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
    return at, end
