"""What a codestream says of itself, read from its first bytes: no library, no allocation.

It knows the headers of JPEG, JPEG-LS, JPEG 2000, JPEG XL and RLE. Every codec reads them *before* it decodes: a decoder
believes the dimensions in the codestream, and a few hostile bytes there cost gigabytes or minutes.
It must not know what the data set says: `multiframe.codecs._pixels.agree` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from struct import error as StructError
from struct import unpack_from
from typing import TYPE_CHECKING

from multiframe.errors import DecodeError

if TYPE_CHECKING:
    from multiframe.ranges import Buffer

__all__ = ["Header", "Jpeg2000Header", "JpegHeader", "jpeg", "jpeg2000", "jpegxl", "rle"]

_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Header:
    """Size of the picture and of its samples.

    Attributes
    ----------
    rows, columns, samples, precision : int
        As the codestream has them; `precision` is the bits of one sample.
    """

    rows: int
    columns: int
    samples: int
    precision: int


@dataclass(frozen=True, slots=True)
class JpegHeader(Header):
    """The frame header of JPEG or JPEG-LS, and the hints before it about colour.

    Attributes
    ----------
    at : int
        Where the frame header begins.
    process : int
        n of SOFn; 3 is lossless, 55 JPEG-LS.
    rgb_ids : bool
        The components are called R, G, B.
    jfif : bool
        A JFIF segment is there: colour is YCbCr.
    adobe : int or None
        Transform of the Adobe segment: 1 is YCbCr.
    """

    at: int
    process: int
    rgb_ids: bool
    jfif: bool
    adobe: int | None

    def colours(self, photometric: str) -> str:
        """Give the Photometric Interpretation the codestream has, whatever the data set says.

        Data sets that still say RGB after compression are common; the codestream's own marks are the better witness.

        Examples
        --------
        >>> JpegHeader(1, 1, 3, 8, at=2, process=0, rgb_ids=False, jfif=True, adobe=None).colours("RGB")
        'YBR_FULL'
        """
        if self.samples == 3:
            if self.rgb_ids:
                return "RGB"
            if (self.jfif or self.adobe == 1) and not photometric.startswith("YBR"):
                return "YBR_FULL"
        return photometric


@dataclass(frozen=True, slots=True)
class Jpeg2000Header(Header):
    """SIZ, COD and COC of a JPEG 2000 main header.

    Attributes
    ----------
    start : int
        Where the codestream begins: behind the boxes, when some writer left a JP2 file.
    reversible, high_throughput : bool
        Every component is coded by the 5/3 transform; by the HT block coder alone.
    whole : bool
        The tile-parts are all there, and EOC behind them.
    levels : int
        How often every component is halved: so many resolutions lie below the full one.
    """

    start: int
    reversible: bool
    high_throughput: bool
    whole: bool
    levels: int


def jpeg(data: bytes) -> JpegHeader:
    """Read the header of a JPEG or JPEG-LS codestream.

    Examples
    --------
    >>> jpeg(bytes.fromhex("ffd8 fff7000b 08 0002 0003 01 010000 0000")).columns
    3

    References
    ----------
    ISO/IEC 10918-1 B.2; ISO/IEC 14495-1 C.2.
    """
    if data[:2] != b"\xff\xd8":
        raise DecodeError("a JPEG codestream begins with SOI (FFD8); this one does not")
    jfif, adobe, at = False, None, 2
    try:
        while True:
            mark, kind = data[at], data[at + 1]
            if mark != 0xFF or kind in (0x00, 0xD8, 0xD9, 0xDA):
                raise DecodeError(f"a JPEG frame header (SOF) is due before byte {at} of the codestream; there is none")
            if kind == 0xFF:  # fill byte
                at += 1
                continue
            (length,) = unpack_from(">H", data, at + 2)
            if kind in _FRAME_HEADERS:
                break
            segment = data[at + 4 : at + 2 + length]
            jfif = jfif or (kind >> 4 == 0xE and segment.startswith(b"JFIF"))
            if kind == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
                adobe = segment[11]
            at += 2 + length
        precision, rows, columns, samples = unpack_from(">BHHB", data, at + 4)
    except (IndexError, StructError):
        raise DecodeError("the JPEG codestream ends before its frame header (SOF)") from None
    ids = data[at + 10 : at + 10 + 3 * samples : 3]
    return JpegHeader(
        rows,
        columns,
        samples,
        precision,
        at=at,
        process=kind - 0xC0,
        rgb_ids=ids in (b"RGB", b"rgb"),
        jfif=jfif,
        adobe=adobe,
    )


def jpeg2000(data: bytes) -> Jpeg2000Header:
    """Read the main header of a JPEG 2000 codestream.

    Components of different size or kind are refused: no Photometric Interpretation of the standard has them.

    References
    ----------
    ISO/IEC 15444-1 A.5, A.6, I.5; ISO/IEC 15444-15 (HT); PS3.5 8.2.4.
    """
    try:
        start = _behind_boxes(data, b"jp2c") if data[4:8] == b"jP  " else 0
        if data[start : start + 4] != b"\xff\x4f\xff\x51":
            raise DecodeError("a JPEG 2000 codestream begins with SOC and SIZ (FF4F FF51); this one does not")
        width, height, left, top = unpack_from(">4I", data, start + 8)
        (samples,) = unpack_from(">H", data, start + 40)
        parts = {data[start + 42 + 3 * i : start + 45 + 3 * i] for i in range(samples)}
        if len(parts) != 1 or (part := parts.pop())[1:] != b"\x01\x01":
            raise DecodeError("the components of the JPEG 2000 codestream differ in size or in kind of samples")

        styles: list[int] = []
        transforms: list[int] = []
        levels: list[int] = []
        wide = 2 if samples > 256 else 1
        at = start + 4 + unpack_from(">H", data, start + 4)[0]
        while data[at : at + 2] != b"\xff\x90":  # SOT: the first tile
            kind, length = unpack_from(">HH", data, at)
            if kind >> 8 != 0xFF or length < 2:
                raise DecodeError(f"the JPEG 2000 main header is damaged at byte {at} of the codestream")
            if kind in (0xFF52, 0xFF53):  # COD; COC overrules it for one component
                coding = at + (9 if kind == 0xFF52 else 5 + wide)
                levels.append(data[coding])
                styles.append(data[coding + 3])
                transforms.append(data[coding + 4])
            at += 2 + length
    except (IndexError, StructError):
        raise DecodeError("the JPEG 2000 codestream ends within its main header") from None
    return Jpeg2000Header(
        height - top,
        width - left,
        samples,
        (part[0] & 0x7F) + 1,
        start=start,
        reversible=bool(transforms) and all(t == 1 for t in transforms),
        # Code-block style 01...... is HT only; 11...... mixes both block coders.
        high_throughput=bool(styles) and all(s >> 6 == 0b01 for s in styles),
        whole=_reaches_eoc(data, at),
        levels=min(levels, default=0),
    )


def jpegxl(data: bytes) -> Header:
    """Read size and depth of a JPEG XL codestream; `samples` is not told without its colour encoding: 0.

    Animations, previews, float samples and extra channels are refused: a frame is one picture of integer samples.

    Examples
    --------
    >>> jpegxl(bytes.fromhex("ff0a00015c80a0b8"))
    Header(rows=33, columns=47, samples=0, precision=8)

    References
    ----------
    ISO/IEC 18181-1 D.2, D.3; ISO/IEC 18181-2; PS3.5 8.2.15.
    """
    try:
        start = _jxl_codestream(data)
        if data[start : start + 2] != b"\xff\x0a":
            raise DecodeError("a JPEG XL codestream begins with FF0A; this one does not")
        bits = _Bits(data[start + 2 : start + 66])
        rows, columns = _jxl_size(bits)
        precision = 8
        if not bits.take(1):  # not all default
            if bits.take(1):  # extra fields
                bits.take(3)  # orientation: a data set has its own
                if bits.take(1):
                    _jxl_size(bits)  # intrinsic size: how a browser would lay it out
                if bits.take(1) or bits.take(1):
                    raise DecodeError("the JPEG XL codestream is an animation or has a preview")
            if bits.take(1):
                raise DecodeError("the JPEG XL codestream has float samples")
            precision = (8, 10, 12, 0)[choice] if (choice := bits.take(2)) < 3 else 1 + bits.take(6)
            bits.take(1)
            if bits.take(2):
                raise DecodeError("the JPEG XL codestream has extra channels")
    except (IndexError, StructError):
        raise DecodeError("the JPEG XL codestream ends within its header") from None
    return Header(rows, columns, 0, precision)


def rle(data: Buffer) -> list[tuple[int, int]]:
    """Read where the segments of an RLE frame lie.

    Examples
    --------
    >>> rle(bytes.fromhex("02000000 40000000 42000000") + bytes(52) + b"abcd")
    [(64, 66), (66, 68)]

    References
    ----------
    PS3.5 G.5.
    """
    if len(data) < 64:
        raise DecodeError("the RLE frame ends within its 64-byte header")
    count, *offsets = unpack_from("<16I", data)
    if not 1 <= count <= 15:
        raise DecodeError(f"an RLE frame has 1 to 15 segments; this one says {count}")
    borders = [*offsets[:count], len(data)]
    if borders[0] < 64 or any(a >= b for a, b in pairwise(borders)):
        raise DecodeError("the offsets in the RLE header do not ascend within the frame")
    return list(pairwise(borders))


def _behind_boxes(data: bytes, wanted: bytes) -> int:
    """Find the content of the first box of a type (ISO/IEC 15444-1 I.4)."""
    at = 0
    while True:
        length, kind = unpack_from(">I4s", data, at)
        content = at + 8
        if length == 1:
            (length,) = unpack_from(">Q", data, content)
            content += 8
        if kind == wanted:
            return content
        if length < content - at:
            raise DecodeError(f"the file format's boxes hold no {wanted.decode()}")
        at += length


def _reaches_eoc(data: bytes, at: int) -> bool:
    """Go from tile-part to tile-part by their lengths (ISO/IEC 15444-1 A.4.2)."""
    while data[at : at + 2] == b"\xff\x90" and at + 12 <= len(data):
        (length,) = unpack_from(">I", data, at + 6)
        if length < 12:  # 0: to the end, wherever that is
            return length == 0 and data.rfind(b"\xff\xd9") > at
        at += length
    return data[at : at + 2] == b"\xff\xd9"


def _jxl_codestream(data: bytes) -> int:
    if data[4:8] != b"JXL ":
        return 0
    try:
        return _behind_boxes(data, b"jxlc")
    except (DecodeError, StructError):
        return _behind_boxes(data, b"jxlp") + 4  # the first part, behind its number


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    def extent() -> int:
        return 1 + bits.take((9, 13, 18, 30)[bits.take(2)])

    small = bits.take(1)
    rows = 8 * (1 + bits.take(5)) if small else extent()
    if ratio := bits.take(3):
        over, under = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return rows, rows * over // under
    return rows, 8 * (1 + bits.take(5)) if small else extent()


class _Bits:
    """Bits of a JPEG XL header, least significant first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise IndexError
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return taken
