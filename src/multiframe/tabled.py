"""Frames where an offset table says they are, each proven by its own bytes: `Tabled` (sans-I/O).

Walking all Items of a far object costs seconds. A table that looks right says at once where each frame would lie; a
frame is given only when what lies there is whole Items and exactly one codestream. That finds every frame by itself
right or wrong, and cannot find a table that is wrong in two places at once: one that leaves out a frame here and
counts another twice there. Who needs more walks the Items.

It knows tables, Items and codestreams in memory. It must not know how bytes are read, nor what is done about a table
that lies.
"""

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np

from multiframe.codestream import Codestream, begins_inside, evidence, is_padding, rle_ends
from multiframe.encapsulation import END_WORD, ITEM_WORD
from multiframe.errors import FormatError, OffsetTableError
from multiframe.frameindex import FrameIndex, Offsets, frozen
from multiframe.header import Header
from multiframe.ranges import Buffer, ByteRange
from multiframe.rope import Stored
from multiframe.sharing import Table, Tables
from multiframe.syntaxes import Family

__all__ = ["Tabled", "believable"]

_PROVABLE: frozenset[Family] = frozenset(("jpeg", "jpegls", "jpeg2000", "rle", "uncompressed", "deflate"))
"""Families whose codestreams show where they end."""
_WORDS = Struct("<II")
_MOST = 256 << 20


class Given(NamedTuple):
    """A proven frame.

    Attributes
    ----------
    parts : tuple of Stored
        Where its payload lies.
    data : bytes
        The payload.
    """

    parts: tuple[Stored, ...]
    data: bytes


def shapely(table: Table, items_at: int, size: int, declared: int | None) -> bool:
    """Whether a table looks right: one entry a frame, from zero on rising, even, inside of Pixel Data."""
    entries = table.entries
    if not len(entries) or len(entries) != declared or entries[0] != 0:
        return False
    rising = bool((entries[1:] > entries[:-1]).all()) and not (entries % 2).any()
    return rising and int(entries[-1]) + items_at + 8 < size


def believable(header: Header, tables: Tables, size: int) -> "Tabled | None":
    """Give the frames as the first table has them that looks right; None: there is none, or no frame could be proven.

    Tables that contradict each other are none.
    """
    if header.syntax.family not in _PROVABLE:
        return None
    right = [t for t in tables.candidates if len(t.entries)]
    if not right or not all(shapely(t, tables.items_at, size, header.declared_frames) for t in right):
        return None
    if any(not np.array_equal(t.entries, right[0].entries) for t in right[1:]):
        return None
    try:
        return Tabled(header, right[0], tables.items_at, size)
    except FormatError:
        return None


class Tabled:
    """Where a table says that frames are.

    Parameters
    ----------
    header : Header
        Of the file.
    table : Table
        It has to look right (`believable`).
    items_at : int
        Offset of the first Item behind the Basic Offset Table.
    size : int
        Bytes of the object.
    """

    def __init__(self, header: Header, table: Table, items_at: int, size: int) -> None:
        self._family = header.syntax.family
        self._origin = table.origin
        self._declared = header.declared_frames
        self._lengths = table.lengths
        self._size = size
        self.tags: Offsets = frozen(table.entries + np.uint64(items_at))
        self._frame = self._pixels = self._segments = 0
        if self._family in ("rle", "uncompressed", "deflate"):
            spec = header.spec
            self._pixels = spec.rows * spec.columns
            self._frame = spec.frame_bytes
            self._segments = spec.samples * spec.bits_allocated // 8
        gaps = np.diff(self.tags)
        self._longest = max(int(gaps.max(initial=0)), 1 << 16)

    def __len__(self) -> int:
        return len(self.tags)

    @property
    def index(self) -> FrameIndex:
        """Where the table says that each frame lies: from its first Item's value to the end of its last Item's."""
        stops = [*self.tags[1:].tolist(), self._last()]
        return FrameIndex(
            self._origin, proof="own", declared=self._declared, complete=False, proven_to=int(self.tags[0]),
            starts=frozen(self.tags + np.uint64(8)), stops=frozen(stops), firsts=frozen(range(len(self) + 1)),
            claimed=True,
        )  # fmt: skip

    def _last(self) -> int:
        """Say where the last frame ends, as far as that can be told without a look."""
        if self._lengths is not None:
            length = int(self._lengths[-1])
            return min(int(self.tags[-1]) + 8 + length + length % 2, self._size)
        return self._size

    def span(self, i: int) -> ByteRange:
        """Give the Items of frame `i`; of the last one perhaps more, or not all."""
        start = int(self.tags[i])
        if i + 1 < len(self):
            return ByteRange(start, int(self.tags[i + 1]))
        if self._lengths is not None:
            return ByteRange(start, min(self._last() + 8, self._size))
        return ByteRange(start, min(self._size, start + 2 * self._longest + 8))

    def cut_short(self, data: Buffer) -> bool:
        """Whether the last frame goes on behind what was read of it."""
        return self._lengths is None and len(data) < self.reach(data) - int(self.tags[-1])

    def reach(self, data: Buffer) -> int:
        """Say up to where the last frame has to be read: to the end of its first Item, and the delimiter."""
        start = int(self.tags[-1])
        tag, length = _WORDS.unpack_from(data, 0) if len(data) >= 8 else (0, 0)
        return min(start + 16 + length, self._size) if tag == ITEM_WORD else start

    def prove(self, i: int, data: Buffer) -> Given:
        """Prove frame `i` by the bytes of its span.

        Raises
        ------
        OffsetTableError
            They are not whole Items that hold exactly one codestream.
        """
        span, last = self.span(i), i + 1 == len(self)
        if len(data) < span.size:
            raise OffsetTableError(f"the table says that frame with index {i} ends behind the file", span.start)
        parts: list[Stored] = []
        at, whole = 0, False
        while at < len(data):
            if len(data) - at < 8:
                break
            tag, length = _WORDS.unpack_from(data, at)
            if last and (tag, length) == (END_WORD, 0):
                whole = True
                break
            if tag != ITEM_WORD or at + 8 + length > len(data):
                break
            if length:
                parts.append(Stored(span.start + at + 8, span.start + at + 8 + length))
            at += 8 + length
        else:
            whole = not last or span.stop == self._size
        if not whole:
            raise OffsetTableError(
                f"the table says that frame with index {i} begins or ends where no Item does", span.start + at
            )
        payload = b"".join(bytes(data[p.start - span.start : p.stop - span.start]) for p in parts)
        listed = int(self._lengths[i]) if self._lengths is not None else len(payload)
        one = self._lengths is None or len(parts) == 1
        if not (one and (listed == len(payload) or (listed % 2 and listed + 1 == len(payload)))):
            raise OffsetTableError(f"the table has a wrong length for frame with index {i}", span.start)
        if not self._one(payload, [p.size for p in parts]):
            raise OffsetTableError(
                f"where the table says that frame with index {i} lies, there is not exactly one codestream", span.start
            )
        return Given(tuple(parts), payload)

    def _one(self, payload: bytes, sizes: Sequence[int]) -> bool:
        """Whether it is exactly one codestream."""
        if self._family == "uncompressed":
            return len(payload) - self._frame in (0, self._frame % 2)
        if self._family == "deflate":
            return len(sizes) == 1 and _inflates_to(payload, self._frame)
        if self._family == "rle":
            return len(sizes) == 1 and self._begins(payload) and rle_ends(payload, self._pixels)
        if not self._begins(payload) or payload[:1] != b"\xff":  # JPEG 2000 in its file format is no marker segments
            return False
        stream = Codestream(self._family)
        while stream.state in ("header", "data"):
            before = stream.at
            if before >= len(payload):
                return False
            stream.feed(payload[before:])
            if stream.at == before and stream.state in ("header", "data"):
                return False
        behind = payload[stream.at :]
        # What begins inside of the frame at the border of a fragment may be another frame's.
        if stream.state != "ended" or stream.unsure_from is not None or begins_inside(self._family, behind):
            return False
        return is_padding(behind) or len(sizes) == 1

    def _begins(self, payload: bytes) -> bool:
        head = np.frombuffer(payload[:64].ljust(64, b"\0"), np.uint8).reshape(1, -1)
        looks = evidence(
            self._family, head, np.zeros((1, 8), np.uint8), np.array([len(payload)], np.uint64), segments=self._segments
        )
        return looks is not None and bool(looks.begins[0])

    def plausible(self, i: int, record: Buffer) -> bool:
        """Whether the first bytes of frame `i`, its Item header and a little of its value, could be its beginning."""
        if len(record) < 8:
            return False
        tag, length = _WORDS.unpack_from(record, 0)
        stop = int(self.tags[i + 1]) if i + 1 < len(self) else self._size
        if tag != ITEM_WORD or int(self.tags[i]) + 8 + length > stop:
            return False
        value = bytes(record[8:])
        return self._family in ("uncompressed", "deflate") or length < 64 or self._begins(value)


def _inflates_to(payload: bytes, size: int) -> bool:
    stream = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        held = len(stream.decompress(payload, min(size, _MOST) + 1))
    except zlib.error:
        return False
    return held == size and stream.eof and is_padding(stream.unused_data)
