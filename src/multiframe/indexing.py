"""Finding the frames: `index_frames`, the plan that walks Items or counts native bytes.

It knows where Pixel Data begins and asks for Item headers; how they are shared out is ``sharing.py``'s. It must not
know files, codecs or what asks; it reads nothing itself.
"""

from collections.abc import Sequence

from multiframe.codestream import HEAD, evidence
from multiframe.encapsulation import read_table, records
from multiframe.errors import FormatError, FragmentError, OffsetTableError, TruncatedError
from multiframe.frameindex import Damage, FrameIndex, Native
from multiframe.header import Header
from multiframe.ranges import Buffer, ByteRange, ItemChain, Plan
from multiframe.sharing import DEEP_ITEMS, Sharing, Table, Tables

__all__ = ["MAX_FRAGMENTS", "index_frames", "read_tables", "word_of"]

MAX_FRAGMENTS = 1 << 20
"""More Items than that are refused: memory must not depend on what a file claims."""

_FIRST_ITEMS = 16
_MAX_TABLE = 64 << 20


def index_frames(
    header: Header, size: int, *, known: FrameIndex | None = None, until: int | None = None, far: bool = False
) -> Plan[FrameIndex]:
    """Find the byte ranges of the frames, reading no pixels: of each fragment its Item header and its two ends.

    Parameters
    ----------
    header : Header
        Of the file.
    size : int
        Bytes of the file.
    known : FrameIndex, optional
        What was found before: the walk goes on from there.
    until : int, optional
        Stop as soon as the frame of this index is proven; None: find all.
    far : bool
        Each read costs a round trip: rather ask for many Items at once, and for fewer bytes of large ones.

    Returns
    -------
    FrameIndex
        Perhaps not complete, where `until` was given.

    Raises
    ------
    NoPixelData
        There are no frames.
    FragmentError
        What follows Pixel Data is not even a first Item.

    References
    ----------
    PS3.5 A.4, 8.1.1; PS3.3 C.7.6.3.1.8 (Extended Offset Table).

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> index = instance.index
    >>> len(index), index.origin, index.proof
    (30, 'basic', 'whole')
    """
    if known is not None and known.complete:
        return known
    if not header.syntax.encapsulated:
        return _native_index(header, size)
    tables = yield from read_tables(header, size)
    found = Sharing(header, tables, size, known)
    at, limit = found.next_at, _FIRST_ITEMS
    hints: Sequence[int] = ()
    while True:
        # Far away records stay as long as they began: walkers have brought the next ones already.
        deep = until is not None or ((far or len(found) < DEEP_ITEMS) and not found.large)
        need = limit
        if far and until is not None:
            need = found.needed(until)
            limit = max(need, limit)
        elif far and not len(found):
            need = 1  # one tells how far the next are
        sparse = until is None and not far and found.doubted
        head = HEAD.get(header.syntax.family, 16) if deep and not sparse else 16
        chain = ItemChain(at, size, limit, head, need, hints, sparse)
        (answer,) = yield [chain]
        items = records(answer, chain)
        found.add(items)
        if items.end != "more":
            return (yield from found.whole())
        if len(found) > MAX_FRAGMENTS:
            raise FragmentError(f"more than {MAX_FRAGMENTS} fragments: refused", items.next_at)
        if until is not None and found.could_hold(until):
            partial = yield from found.so_far(until)
            if len(partial) > until:
                return partial
        at = items.next_at
        limit = min(4 * limit, 1 << 12 if deep or sparse else 1 << 15)
        if far and until is None:
            limit, hints = 1 << 12, tables.hints


def _native_index(header: Header, size: int) -> FrameIndex:
    pixels, spec = header.pixels, header.spec
    word = 1 if header.syntax.little else word_of(pixels.vr, spec.bits_allocated)
    layout = Native(pixels.start, spec.frame_bits, word)
    declared, length = header.declared_frames, pixels.stop - pixels.start
    frames, doubt = _native_count(length, layout.bits, declared, cut=pixels.stop > size)
    there = 8 * max(0, min(pixels.stop, size) - pixels.start) // layout.bits
    damage = None
    if doubt:
        message = (
            f"Pixel Data has {length} bytes, which {declared} frames of {layout.bits / 8:g} bytes do not fill as "
            f"frames do: Rows, Columns, Samples per Pixel, Bits Allocated, Photometric Interpretation or Number of "
            f"Frames is wrong"
        )
        damage = Damage("fragments", message, pixels.at)
    elif there < frames:
        frames = there
        damage = Damage("cut", f"the file ends inside Pixel Data, behind {frames} whole frames", size)
    elif frames < (declared or 1):
        message = f"Pixel Data holds {frames} frames, Number of Frames says {declared or 1}"
        damage = Damage("fragments", message, pixels.stop)
    return FrameIndex(
        "native",
        declared=declared,
        proven_to=min(pixels.stop, size),
        native=layout,
        native_frames=frames,
        damage=damage,
    )


_MISLABELLED = ((3, 2), (2, 3), (2, 1), (1, 2), (3, 1), (1, 3), (4, 1), (1, 4), (8, 1), (1, 8))
"""How much longer or shorter than the header says all frames are where it has samples, bits or subsampling wrong."""


def _native_count(length: int, bits: int, declared: int | None, *, cut: bool = False) -> tuple[int, bool]:
    """Say how many frames of so many bits a value holds, and whether that cannot be told.

    `cut`: the file ends before the value does.
    """
    expected = declared or 1
    over = length - -(-expected * bits // 8)
    if over in (0, 1):  # one byte pads the value
        return expected, False
    for more, less in _MISLABELLED if expected > 1 else ((3, 2),):
        if length * 8 * less - expected * bits * more in range(16 * less):
            return 0, True
    if bits % 8 == 0 and length // (bits // 8) and length % (bits // 8) <= 1:
        return length // (bits // 8), False  # whole frames only: Number of Frames is wrong
    if cut:
        return 0, True  # a length that is neither what the frames need nor what is there: nothing says what this is
    held = 8 * length // bits
    if expected > 1:
        # Would all be used up if each frame were longer or shorter? Then the second need not begin where it should.
        spread = over % expected == 0 or (expected % 2 == 1 and (over - 1) % expected == 0)
        if spread or (bits % 8 and over > 0):
            return 0, True
    return min(held, expected), False


def word_of(vr: str, bits_allocated: int) -> int:
    """Bytes of a word in big endian: OB is a string of bytes, OW of pairs whatever a cell has (PS3.5 8.1.1, 7.3)."""
    if bits_allocated > 8:
        return bits_allocated // 8
    return 2 if vr == "OW" else 1


def _frame_bytes(header: Header) -> int:
    """Give the bytes of an uncompressed frame as a fragment has them; 0: not known."""
    try:
        bits = header.spec.frame_bits
    except FormatError:
        return 0
    return -(-bits // 16) * 2


def read_tables(header: Header, size: int) -> Plan[Tables]:
    """Read what tables there are, if there could be as many frames as they list."""
    start, family = header.pixels.start, header.syntax.family
    chain = ItemChain(start, size, 1, 64 if family == "rle" else 16)
    (answer,) = yield [chain]
    first = records(answer, chain)
    if not len(first.at):
        if first.end in ("eof", "cut", "more"):
            raise TruncatedError("the file ends before the first Item of Pixel Data", start)
        raise FragmentError("encapsulated Pixel Data does not begin with an Item", start)
    found: list[Table] = []
    extended = header.extended_table
    if extended is not None:
        offsets, lengths = extended
        if len(offsets) != len(lengths) or len(offsets) % 8:
            offsets = lengths = b""
        found.append(Table("extended", read_table(offsets, width=8), read_table(lengths, width=8)))
    length = int(first.length[0])
    looks = evidence(family, first.head, first.tail[1:], first.length)
    if length and looks is not None and looks.begins[0]:
        # No table at all: the first Item is a fragment already. As an entry, such a mark would point beyond 3 GiB.
        return Tables(start, tuple(found))
    if length:
        data: Buffer = b""
        if length % 4 == 0 and length <= _MAX_TABLE:
            (data,) = yield [ByteRange(start + 8, start + 8 + length)]
        entries = read_table(data if len(data) == length else b"", width=4)
        # The first entry is zero; or there is one a frame, and the Item is not as long as a frame itself.
        tells = not first.head[0, :4].any()
        tells = tells or (len(entries) == header.declared_frames and length != _frame_bytes(header))
        if family in ("deflate", "uncompressed") and not tells:
            raise OffsetTableError("the first Item is no Basic Offset Table; is it a fragment? No telling", start)
        found.append(Table("basic", entries, None))
    return Tables(start + 8 + length, tuple(found))
