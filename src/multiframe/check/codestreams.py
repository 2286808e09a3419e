"""What is wrong with the codestream of a frame: its head and its end, against what the data set says.

It knows what a head tells (``codecs/_headers.py`` reads it) and what each Transfer Syntax allows. Nothing is decoded.
It must not know how frames are found.
"""

from struct import error as StructError
from struct import unpack_from

import numpy as np

from multiframe.check.findings import Findings
from multiframe.codec import PixelSpec
from multiframe.codecs import _headers
from multiframe.codestream import evidence
from multiframe.errors import DecodeError
from multiframe.frameindex import FrameIndex
from multiframe.header import Header
from multiframe.instance import Instance
from multiframe.ranges import Buffer, ByteRange
from multiframe.rope import Rope
from multiframe.source import run

__all__ = ["look_at_codestream"]

_HEADS = (4 << 10, 64 << 10, 1 << 20)
_4 = "1.2.840.10008.1.2.4."
_PROCESSES = {_4 + "50": (0,), _4 + "51": (0, 1), _4 + "57": (3,), _4 + "70": (3,), _4 + "80": (55,), _4 + "81": (55,)}
_HIGH_THROUGHPUT = frozenset(_4 + n for n in ("201", "202", "203"))
_REVERSIBLE = frozenset(_4 + n for n in ("90", "92", "201", "202"))


def look_at_codestream(
    found: Findings, header: Header, spec: PixelSpec, index: FrameIndex, frame: int, instance: Instance
) -> None:
    """Compare the head and the end of one frame's codestream with what the data set says."""
    family = header.syntax.family
    if family in ("deflate", "uncompressed", "rle"):  # these tell nothing that the index did not prove
        return
    parts = index.parts(frame)
    at = parts[0].start
    rope = Rope(parts)

    def read(start: int, stop: int) -> bytes:
        wanted = ByteRange(max(0, start), min(stop, rope.size))
        buffers: tuple[Buffer, ...] = tuple(run(rope.read(wanted), instance.source, identity=instance.stat.identity))
        return b"".join(buffers)

    tail = np.frombuffer(read(rope.size - 8, rope.size).rjust(8, b"\0"), np.uint8).reshape(1, 8)
    looks = evidence(family, np.zeros((1, 64), np.uint8), tail, np.array([rope.size], np.uint64))
    if looks is not None and family in ("jpeg", "jpegls", "jpeg2000") and not looks.ends[0]:
        what = f"the codestream does not end with {'EOC' if family == 'jpeg2000' else 'EOI'} (FFD9)"
        found.frame("codestream-end", frame, what, int(parts[-1].stop) - 2)
    for size in _HEADS:
        head = read(0, size)
        try:
            told = _head(family, head)
        except DecodeError as error:
            if "ends" in str(error) and size < min(rope.size, _HEADS[-1]):
                continue  # its header is longer than what was read
            found.frame("codestream", frame, str(error), at)
            return
        break
    _agree(found, header, spec, told, head, frame, at)


def _head(family: str, head: bytes) -> _headers.Header:
    """Read what a codestream says of itself."""
    if family == "jpeg2000":
        return _headers.jpeg2000(head)
    return _headers.jpegxl(head) if family == "jpegxl" else _headers.jpeg(head)


def _agree(
    found: Findings, header: Header, spec: PixelSpec, told: _headers.Header, head: bytes, frame: int, at: int
) -> None:
    uid = header.syntax.uid
    if (told.rows, told.columns) != (spec.rows, spec.columns):
        what = f"the codestream is {told.columns} x {told.rows}, the data set says {spec.columns} x {spec.rows}"
        found.frame("codestream-size", frame, what, at)
    if told.samples and told.samples != spec.samples:
        what = f"the codestream has {told.samples} components, Samples per Pixel is {spec.samples}"
        found.frame("codestream-samples", frame, what, at)
    if told.precision > spec.bits_allocated:
        what = f"the codestream has {told.precision} bits, Bits Allocated is {spec.bits_allocated}"
        found.frame("codestream-bits", frame, what, at)
    elif told.precision != spec.bits_stored:
        what = f"the codestream has {told.precision} bits, Bits Stored is {spec.bits_stored}"
        found.frame("codestream-depth", frame, what, at)
    colours = spec.photometric
    if isinstance(told, _headers.JpegHeader):
        if told.process not in _PROCESSES.get(uid, (told.process,)):
            what = f"the codestream is of process SOF{told.process}, which is not {header.syntax.name}"
            found.frame("codestream-process", frame, what, at)
        colours = told.colours(spec.photometric)
    elif isinstance(told, _headers.Jpeg2000Header):
        if told.start:
            found.frame("codestream-boxes", frame, "the frame is a JP2 file, not a codestream", at)
        if told.high_throughput != (uid in _HIGH_THROUGHPUT):
            is_ = "is" if told.high_throughput else "is not"
            found.frame("codestream-process", frame, f"the codestream {is_} High-Throughput JPEG 2000", at)
        elif uid in _REVERSIBLE and not told.reversible:
            what = f"the codestream is not reversible, and the Transfer Syntax is {header.syntax.name}"
            found.frame("codestream-process", frame, what, at)
        if told.samples == 3 and spec.photometric == "RGB" and _transformed(head, told.start):
            colours = "YBR_RCT" if told.reversible else "YBR_ICT"
    if colours != spec.photometric:
        what = f"the codestream has the colours of {colours}, Photometric Interpretation is {spec.photometric}"
        found.frame("codestream-colour", frame, what, at)


def _transformed(head: bytes, start: int) -> bool:
    """Whether a JPEG 2000 codestream has a multiple component transform (ISO/IEC 15444-1 A.6.1)."""
    at = start + 2
    try:
        while True:
            marker, length = unpack_from(">HH", head, at)
            if marker == 0xFF52:
                return head[at + 8] == 1
            if marker == 0xFF90 or length < 2:
                return False
            at += 2 + length
    except (StructError, IndexError):
        return False
