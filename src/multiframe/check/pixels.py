"""What is wrong with Pixel Data: counts, Items, offset tables, and what comes behind them (PS3.5 A.4, PS3.3 C.7.6.3).

Tables and counts are compared with the frames that were found by the Items. It must not know what a codestream looks
like, but by asking ``codestreams.py``.
"""

from collections.abc import Callable
from struct import unpack_from

import numpy as np

from multiframe.check.codestreams import look_at_codestream
from multiframe.check.findings import Findings, bare
from multiframe.check.header import DELIMITERS, walk_over
from multiframe.codec import PixelSpec
from multiframe.elements import ITEM, SEQUENCE_END
from multiframe.encapsulation import read_table
from multiframe.errors import FormatError, NoPixelData, TruncatedError
from multiframe.frameindex import FrameIndex, Offsets
from multiframe.header import Header
from multiframe.inflate import Inflated
from multiframe.instance import Instance
from multiframe.ranges import ByteRange, Plan
from multiframe.source import run

__all__ = ["look_at_pixels"]

type _Read = Callable[[int, int], bytes]

_FRAMES, _PADDING = 0x00280008, 0xFFFCFFFC
_EOT, _EOT_LENGTHS, _PIXELS = 0x7FE00001, 0x7FE00002, 0x7FE00010
_WINDOW = 64 << 10
_MOST_STEPS = 4096
_MOST_TABLE = 64 << 20
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3}


def look_at_pixels(found: Findings, instance: Instance, *, all_frames: bool) -> None:
    """Look at Pixel Data and all behind it."""
    header, size = instance.header, instance.stat.size

    def read(start: int, stop: int) -> bytes:
        return run(_range(start, stop), instance.source, identity=instance.stat.identity)

    if isinstance(instance.source, Inflated):
        found.add("deflated", "the data set is one deflate stream", header.dataset_at)
    if header.pixel_data is None:
        found.add("no-pixel-data", "the data set has no Pixel Data")
        return
    spec = _description(found, header)
    try:
        index = instance.complete()
    except NoPixelData:
        return
    except FormatError as error:
        kind = "truncated" if isinstance(error, TruncatedError) else "fragments"
        if spec is not None or header.syntax.encapsulated:
            found.add(kind, bare(error), error.offset)
        return
    _counts(found, header, index)
    if index.native is not None:
        _native(found, header, index, read, size)
        return
    items_at = _items(found, header, index, read)
    _end(found, header, index, read, size)
    if index.kind == "stream":
        _video(found, header, index)
        return
    table = _basic(found, header, index, read, items_at) if items_at is not None else False
    extended = _extended(found, header, index, items_at or header.pixels.start, basic=table)
    several = len(index) and int(np.diff(index.firsts.astype(np.int64)).max()) > 1
    if several and not table and not extended and len(index) > 1:
        found.add("no-table", "frames are in several fragments, and no table tells which", header.pixels.at)
    if spec is not None:
        for frame in range(len(index) if all_frames else min(1, len(index))):
            look_at_codestream(found, header, spec, index, frame, instance)


def _description(found: Findings, header: Header) -> PixelSpec | None:
    pixels = header.pixels
    try:
        spec = header.spec
    except FormatError as error:
        found.add("pixel-description", bare(error), error.offset)
        return None
    samples = 3 if spec.photometric.startswith("YBR") else _SAMPLES.get(spec.photometric)
    if samples is not None and samples != spec.samples:
        what = f"{spec.photometric} has {samples} samples per pixel, the data set says {spec.samples}"
        found.add("photometric-samples", what, header.values[0x00280004][0])
    if spec.bits_stored > spec.bits_allocated:
        what = f"Bits Stored is {spec.bits_stored}, more than Bits Allocated, {spec.bits_allocated}"
        found.add("pixel-description", what, pixels.at)
    if pixels.vr and pixels.tag == _PIXELS:
        if header.syntax.encapsulated and pixels.vr != "OB":
            found.add("pixel-vr", f"encapsulated Pixel Data has the VR {pixels.vr}, not OB", pixels.at)
        elif not header.syntax.encapsulated and spec.bits_allocated > 8 and pixels.vr != "OW":
            what = f"Pixel Data of {spec.bits_allocated} bits has the VR {pixels.vr}, not OW"
            found.add("pixel-vr", what, pixels.at)
    return spec


def _counts(found: Findings, header: Header, index: FrameIndex) -> None:
    """Compare Number of Frames with what was found, and say why frames are missing."""
    damage = index.damage
    at = header.values[_FRAMES][0] if _FRAMES in header.values else header.pixels.at
    if damage is not None and damage.kind == "cut":
        found.add("truncated", damage.message, damage.offset)
        return
    if index.kind == "stream":
        return
    count, declared = len(index), index.declared
    if declared is None and _FRAMES in header.values and header.text(_FRAMES):
        if header.text(_FRAMES).strip("0"):
            found.add("frames-invalid", "Number of Frames is no number", at)
        else:
            found.add("frames-zero", "Number of Frames is zero", at)
    elif declared is None and count > 1:
        found.add("frames-missing", f"there is no Number of Frames, and there are {count:,} frames", at)
    elif count != (declared or 1) and (count or damage is None):
        found.add("frames-count", f"Number of Frames says {declared or 1:,}, {count:,} were found", at)
    if damage is not None and "Number of Frames says" not in damage.message:
        found.add("native-length" if index.native else "fragments", damage.message, damage.offset)


def _native(found: Findings, header: Header, index: FrameIndex, read: _Read, size: int) -> None:
    pixels = header.pixels
    length = pixels.stop - pixels.start
    if {_EOT, _EOT_LENGTHS} & set(header.values):
        found.add("eot-native", "native Pixel Data has an Extended Offset Table", _eot_at(header))
    if length % 2:
        found.add("value-odd", f"Pixel Data has {length:,} bytes", pixels.at)
    if index.native and len(index) and index.damage is None:
        filled = -(-len(index) * index.native.bits // 8)
        if length - filled > filled % 2:
            what = f"Pixel Data has {length:,} bytes, {len(index):,} frames fill {filled:,}"
            found.add("native-length", what, pixels.at)
    if pixels.stop <= size:
        _trailing(found, header, pixels.stop, read, size)


def _items(found: Findings, header: Header, index: FrameIndex, read: _Read) -> int | None:
    """Look at the Items; give the offset behind the Basic Offset Table, None where there is no such Item."""
    at = header.pixels.start
    head = read(at - 4, at + 8)
    if head[:4] != b"\xff\xff\xff\xff":
        found.add("pixel-length", "encapsulated Pixel Data has a defined length", header.pixels.at)
    starts, stops = index.starts, index.stops
    lengths = stops - starts
    odd = np.flatnonzero(lengths % np.uint64(2))
    if len(odd):
        found.add("item-odd", f"{len(odd):,} Items have an odd length", int(starts[odd[0]]) - 8)
    gaps = starts[1:] - stops[:-1]
    empty = np.flatnonzero(gaps > 8)
    if len(empty):
        count = int((gaps[empty] // np.uint64(8)).sum()) - len(empty)
        found.add("item-empty", f"{count:,} Items have no value", int(stops[empty[0]]))
    several = np.flatnonzero(np.diff(index.firsts.astype(np.int64)) > 1)
    family = header.syntax.family
    if len(several) and family in ("rle", "deflate"):
        what = f"{len(several):,} frames are in more than one fragment, which {header.syntax.name} does not allow"
        found.add(f"{family}-fragments", what, int(starts[index.firsts[several[0]]]) - 8)
    if len(starts) and int(starts[0]) == at + 8:
        found.add("bot-missing", "the first Item is a fragment: the Item of the Basic Offset Table is missing", at)
        return None
    return at + 8 + int.from_bytes(head[8:], "little")


def _basic(found: Findings, header: Header, index: FrameIndex, read: _Read, items_at: int) -> bool:
    """Compare the Basic Offset Table with the Items; tell whether it has entries."""
    at = header.pixels.start
    length = items_at - at - 8
    if not length:
        return False
    if length % 4 or length > _MOST_TABLE:
        found.add("bot-length", f"the Basic Offset Table has {length:,} bytes: not four an entry", at)
    elif len(index):
        _compare(found, "bot", read_table(read(at + 8, items_at), width=4), index, items_at, at)
    return True


def _extended(found: Findings, header: Header, index: FrameIndex, items_at: int, *, basic: bool) -> bool:
    """Compare the Extended Offset Table with the Items; tell whether there is one."""
    if not {_EOT, _EOT_LENGTHS} & set(header.values):
        return False
    at = _eot_at(header)
    if basic:
        found.add("eot-with-bot", "there is an Extended Offset Table, and the Basic one is not empty", at)
    table = header.extended_table
    if table is None or len(table[0]) % 8 or len(table[0]) != len(table[1]) or not len(table[0]):
        found.add("eot-incomplete", "the Extended Offset Table lacks an element, or its two are of no fitting size", at)
        return True
    if not len(index):
        return True
    several = np.flatnonzero(np.diff(index.firsts.astype(np.int64)) > 1)
    if len(several):
        what = f"{len(several):,} frames are in several fragments, and there is an Extended Offset Table"
        found.add("eot-fragments", what, int(index.starts[index.firsts[several[0]]]) - 8)
    entries, lengths = read_table(table[0], width=8), read_table(table[1], width=8)
    _compare(found, "eot", entries, index, items_at, at)
    true = index.sizes.astype(np.uint64)
    n = min(len(true), len(lengths))
    one_each = np.diff(index.firsts[: n + 1].astype(np.int64)) == 1
    short = (lengths[:n] + np.uint64(1) == true[:n]) & (lengths[:n] % np.uint64(2) == 1)
    wrong = np.flatnonzero((lengths[:n] != true[:n]) & ~short & one_each)
    where = header.values[_EOT_LENGTHS][0]
    if len(wrong):
        k = int(wrong[0])
        what = f"{len(wrong):,} lengths are wrong; of frame with index {k} it says {int(lengths[k]):,}, it is "
        found.add("eot-length", f"{what}{int(true[k]):,}", where + 8 * k)
    elif short.any():
        what = f"{int(short.sum()):,} lengths do not count the byte that pads the frame"
        found.add("eot-unpadded", what, where + 8 * int(np.flatnonzero(short)[0]))
    return True


def _eot_at(header: Header) -> int:
    return min(header.values[tag][0] for tag in (_EOT, _EOT_LENGTHS) if tag in header.values)


def _compare(found: Findings, table: str, entries: Offsets, index: FrameIndex, items_at: int, at: int) -> None:
    """Say in which way a table is wrong, and of its first wrong entry what it says and what is true."""
    firsts = index.firsts[:-1].astype(np.int64)
    true = index.starts[firsts] - np.uint64(8 + items_at)
    name, width = ("Basic Offset Table", 4) if table == "bot" else ("Extended Offset Table", 8)
    where = at + 8 if table == "bot" else at
    if len(entries) != len(true) and index.damage is None:
        found.add(f"{table}-count", f"the {name} has {len(entries):,} entries for {len(true):,} frames", at)
    n = min(len(entries), len(true))
    entries, true = entries[:n], true[:n]
    # Items without a value may lie before a frame: an entry may point to the first of them.
    before = np.concatenate(([items_at], index.stops[firsts[1:n] - 1])).astype(np.uint64)[:n] - np.uint64(items_at)
    right = (entries == true) | ((entries >= before) & (entries < true) & ((true - entries) % np.uint64(8) == 0))
    wrong = np.flatnonzero(~right)
    if not len(wrong):
        return
    k = int(wrong[0])
    says = f"of frame with index {k} it says {int(entries[k]):,}, true is {int(true[k]):,}"
    how = f"{len(wrong):,} of {n:,} entries of the {name} are wrong"
    code = f"{table}-wrong"
    offsets = entries.astype(np.int64) - true.astype(np.int64)
    if table == "bot" and n > 1 and not entries.any():
        code, how = "bot-zero", f"all entries of the {name} are zero"
    elif table == "bot" and (entries == true % np.uint64(1 << 32)).all():
        code, how = "bot-wrapped", f"the {name} cannot reach beyond 4 GiB: its entries begin again at zero"
    elif (offsets == offsets[0]).all():
        code, how = f"{table}-origin", f"all entries of the {name} are {int(offsets[0]):+,} bytes off"
    elif (np.sort(entries) == true).all():
        code, how = f"{table}-order", f"the entries of the {name} are right, but not in order"
    found.add(code, f"{how}; {says}", where + width * k)


def _video(found: Findings, header: Header, index: FrameIndex) -> None:
    at = header.pixels.at
    found.add("video", f"the frames share one stream of {index.fragments:,} fragments", at)
    if index.fragments > 1 and not header.syntax.name.startswith("Fragmentable"):
        what = f"the stream is in {index.fragments:,} fragments, which {header.syntax.name} does not allow"
        found.add("video-fragments", what, int(index.starts[1]) - 8)


def _end(found: Findings, header: Header, index: FrameIndex, read: _Read, size: int) -> None:
    """Look at what comes behind the last fragment."""
    if index.damage is not None and index.damage.kind == "cut":
        return
    at, first, empty = index.proven_to, 0, 0
    while True:
        window = read(at, at + _WINDOW)
        i = 0
        while window[i : i + 8] == b"\xfe\xff\x00\xe0\0\0\0\0":
            first = first or at + i
            empty += 1
            i += 8
        at += i
        if i < _WINDOW or len(window) < _WINDOW:
            break
    if empty:
        found.add("item-empty", f"{empty:,} Items behind the last fragment have no value", first)
    head = read(at, at + 8)
    group, number = unpack_from("<HH", head) if len(head) == 8 else (0, 0)
    tag = group << 16 | number
    if tag == SEQUENCE_END:
        _trailing(found, header, at + 8, read, size)
    elif tag != ITEM:  # else there are fragments that belong to no frame: said already
        found.add("no-delimiter", "Pixel Data ends without a Sequence Delimitation Item", at)
        _trailing(found, header, at, read, size)


def _trailing(found: Findings, header: Header, at: int, read: _Read, size: int) -> None:
    """Look at what comes behind Pixel Data: data elements, padding, or neither."""
    walk = walk_over(header, at, size)
    last, good = header.pixels.tag, at
    try:
        for _ in range(_MOST_STEPS):
            if walk.at >= size:
                return
            element = walk.step(read(walk.at, walk.at + 12), walk.at)
            if element is None or (not element.depth and element.tag >> 16 != DELIMITERS and element.tag <= last):
                break
            if not element.depth and element.tag >> 16 != DELIMITERS:
                last = element.tag
                if element.tag == _PADDING:
                    what = f"{element.stop - element.start:,} bytes of Data Set Trailing Padding"
                    found.add("padding", what, element.at)
            if not walk.inside:
                good = walk.at
        else:
            return
    except FormatError:
        pass
    zeros = not any(read(good, min(size, good + _WINDOW)))
    what = f"{size - good:,} bytes behind the data set are no data elements" + (", but zeros" if zeros else "")
    found.add("trailing", what, good)


def _range(start: int, stop: int) -> Plan[bytes]:
    (data,) = yield [ByteRange(start, stop)]
    return bytes(data)
