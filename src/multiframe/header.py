"""All that stands before Pixel Data, without reading Pixel Data (PS3.10 7, PS3.5 7).

It knows the few attributes that say what frames are, and the lies that headers tell: what a data set is written in is
believed of its elements rather than of its label. It must not know where a frame lies, nor parse what it does not
need: semantics are pydicom's, from the raw bytes kept here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from multiframe.codec import PixelSpec
from multiframe.elements import KNOWN_VRS, PassedBy, Walk
from multiframe.errors import FormatError, NoPixelData, NotDicom, TruncatedError
from multiframe.ranges import Buffer, ByteRange, Plan
from multiframe.syntaxes import EXPLICIT_LE, IMPLICIT_LE, TransferSyntax, syntax_of

__all__ = ["Deflated", "Header", "LongHeader", "PixelData", "read_header"]

_SYNTAX = 0x00020010
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS = (
    0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011,
)  # fmt: skip
_ALLOCATED, _STORED, _REPRESENTATION = 0x00280100, 0x00280101, 0x00280103
_TABLE, _TABLE_LENGTHS = 0x7FE00001, 0x7FE00002
_FLOAT, _DOUBLE, _PIXELS = 0x7FE00008, 0x7FE00009, 0x7FE00010
_WANTED = frozenset(
    (
        *(_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES, _SAMPLES, _PHOTOMETRIC, _PLANAR, _FRAMES, _ROWS, _COLUMNS),
        *(_ALLOCATED, _STORED, _REPRESENTATION, _TABLE, _TABLE_LENGTHS),
    )
)
_PIXEL_TAGS = frozenset((_FLOAT, _DOUBLE, _PIXELS))

_EXPLICIT_BE = "1.2.840.10008.1.2.2"
_FIRST_GROUP = 0x0010  # some data sets begin with the patient
_LOOK = 4096  # bytes of a data set that tell how it is written
_TELLING = 3  # elements one behind the other that are no accident
_LARGE = 1 << 20
_STRIDE = 4 << 20  # a header is read by twice as much each time, but no more than that
_INTEGER = re.compile(r"\+?0*([1-9][0-9]{0,11})(?:\.0*)?")
_ITEM_TAG = b"\xfe\xff\x00\xe0"


class Deflated(FormatError):
    """The data set is one deflate stream (PS3.5 A.5): `multiframe.inflate.inflated` gives a source that can be read.

    Attributes
    ----------
    syntax : TransferSyntax
        As the file names it; the inflated bytes name Explicit VR Little Endian.
    """

    def __init__(self, syntax: TransferSyntax, offset: int) -> None:
        message = "the data set is one deflate stream, in which nothing can be found before it is inflated"
        super().__init__(f"{syntax}: {message}", offset)
        self.syntax = syntax


class PixelData(NamedTuple):
    """The element that holds the pixels: Pixel Data, Float or Double Float Pixel Data.

    Attributes
    ----------
    tag, vr
        As written; `vr` is empty in implicit VR.
    at : int
        Offset of the tag.
    start, stop : int
        The value; `stop` is -1 where it is encapsulated (of undefined length).
    """

    tag: int
    vr: str
    at: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """All of a DICOM file that stands before its Pixel Data.

    Attributes
    ----------
    raw : bytes
        The bytes themselves, from the file's first; all of it where there is no Pixel Data.
    syntax : TransferSyntax
        How the data set and the frames are written.
    dataset_at : int
        Offset of the first element behind the File Meta Information.
    pixel_data : PixelData or None
        Where Pixel Data begins.
    values : mapping of int to (int, int)
        Where in `raw` the values of the few attributes lie that this package itself needs.
    """

    raw: bytes = field(repr=False)
    syntax: TransferSyntax
    dataset_at: int
    pixel_data: PixelData | None
    values: Mapping[int, tuple[int, int]] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes before Pixel Data."""
        return len(self.raw)

    @property
    def held(self) -> int:
        """Bytes that are in memory."""
        return len(self.raw)

    def part(self, start: int, stop: int) -> bytes:
        """Give some of its bytes."""
        return self.raw[start:stop]

    def window(self, start: int, size: int) -> tuple[bytes, int]:
        """Give bytes that hold `size` from `start` on, unless the header ends before, and the offset of the first."""
        return self.raw, 0

    def text(self, tag: int) -> str:
        """Give a value of the default repertoire without its padding; empty where it is absent."""
        start, stop = self.values.get(tag, (0, 0))
        return self.part(start, stop).decode("latin-1").strip(" \0")

    def number(self, tag: int, default: int = 0) -> int:
        """Give an unsigned 16-bit value."""
        start, stop = self.values.get(tag, (0, 0))
        if stop - start < 2:
            return default
        return int.from_bytes(self.part(start, start + 2), "little" if self.syntax.little else "big")

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID (0008,0016)."""
        return self.text(_SOP_CLASS)

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018)."""
        return self.text(_SOP_INSTANCE)

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID (0020,000D)."""
        return self.text(_STUDY)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID (0020,000E)."""
        return self.text(_SERIES)

    @property
    def meta_at(self) -> int:
        """Offset of the File Meta Information; -1: there is none."""
        return _meta_at(self.part(0, _LOOK))

    @property
    def explicit(self) -> bool:
        """Whether the elements name their VR: as they lie there, whatever the Transfer Syntax says."""
        return _is_explicit(self.part(0, self.dataset_at + _LOOK), self.dataset_at, self.syntax)

    @property
    def declared_frames(self) -> int | None:
        """Number of Frames (0028,0008) as written; None where it is absent, zero or no number."""
        number = _INTEGER.fullmatch(self.text(_FRAMES))
        return int(number[1]) if number else None

    @property
    def extended_table(self) -> tuple[Buffer, Buffer] | None:
        """The raw values of the Extended Offset Table and its lengths (PS3.3 C.7.6.3.1.8), where both are there."""
        if _TABLE not in self.values or _TABLE_LENGTHS not in self.values:
            return None
        (a, b), (c, d) = self.values[_TABLE], self.values[_TABLE_LENGTHS]
        return self.part(a, b), self.part(c, d)

    @property
    def pixels(self) -> PixelData:
        """Where Pixel Data begins.

        Raises
        ------
        NoPixelData
            There is none.
        """
        if self.pixel_data is None:
            raise NoPixelData("the data set has no Pixel Data: there are no frames")
        return self.pixel_data

    @property
    def spec(self) -> PixelSpec:
        """What the data set says of its pixels.

        Raises
        ------
        NoPixelData
            There are none.
        FormatError
            Rows, Columns or Bits Allocated are missing or absurd.
        """
        data = self.pixels
        allocated = self.number(_ALLOCATED)
        spec = PixelSpec(
            rows=self.number(_ROWS),
            columns=self.number(_COLUMNS),
            samples=self.number(_SAMPLES, 1),
            photometric=self.text(_PHOTOMETRIC),
            bits_allocated=allocated,
            bits_stored=self.number(_STORED, allocated) or allocated,
            signed=self.number(_REPRESENTATION) == 1,
            planar=self.number(_PLANAR) == 1,
            kind="integer" if data.tag == _PIXELS else "float",
        )
        if not (spec.rows and spec.columns and spec.samples):
            raise FormatError("Rows, Columns or Samples per Pixel is missing or zero", data.at)
        if allocated not in (1, 8, 16, 32, 64):
            raise FormatError(f"Bits Allocated is {allocated}", data.at)
        return spec


class LongHeader(Header):
    """A header too long to be held: all but a little of it stays in the file, and is read where it is asked for.

    `raw` reads all of it, each time.

    Parameters
    ----------
    size : int
        Bytes before Pixel Data.
    read : callable
        Gives the bytes from one offset to another, blocking.
    syntax, dataset_at, pixel_data, values
        As of `Header`.
    """

    __slots__ = ("_held", "_read", "_size")
    _held: dict[int, bytes]
    _read: Callable[[int, int], bytes]
    _size: int

    def __init__(
        self, size: int, read: Callable[[int, int], bytes], *, syntax: TransferSyntax, dataset_at: int,
        pixel_data: PixelData | None, values: Mapping[int, tuple[int, int]],
    ) -> None:  # fmt: skip
        first = read(0, min(size, dataset_at + _LOOK))
        held = {0: first} | {start: read(start, stop) for start, stop in values.values() if stop > len(first)}
        for name, value in (
            ("_size", size), ("_read", read), ("_held", held), ("syntax", syntax), ("dataset_at", dataset_at),
            ("pixel_data", pixel_data), ("values", values),
        ):  # fmt: skip
            object.__setattr__(self, name, value)  # frozen

    @property
    def raw(self) -> bytes:
        """All of the bytes."""
        return self._read(0, self._size)

    @property
    def size(self) -> int:
        """Bytes before Pixel Data."""
        return self._size

    @property
    def held(self) -> int:
        """Bytes that are in memory."""
        return sum(map(len, self._held.values()))

    def part(self, start: int, stop: int) -> bytes:
        """Give some of its bytes."""
        stop = min(stop, self._size)
        if stop <= len(self._held[0]):
            return self._held[0][start:stop]
        value = self._held.get(start)
        return value[: stop - start] if value is not None and stop - start <= len(value) else self._read(start, stop)

    def window(self, start: int, size: int) -> tuple[bytes, int]:
        """Give bytes that hold `size` from `start` on, unless the header ends before, and the offset of the first."""
        return self._read(start, min(start + size, self._size)), start


def read_header(*, first_read: int = 65_536, max_header: int = 64 << 20) -> Plan[Header]:
    """Read all before Pixel Data, and not a byte of a pixel more than the reads happen to bring.

    Parameters
    ----------
    first_read : int
        Bytes asked for at first: most headers fit.
    max_header : int
        A header longer than this is refused.

    Raises
    ------
    NotDicom
        No ``DICM`` at byte 128, and what lies at byte 0 is no data set beyond doubt.
    Deflated
        The data set is one deflate stream: read the header again from the source that `inflated` gives.
    FormatError, TruncatedError
        What follows is no data set, or ends inside an element.
    UnknownSyntax
        The Transfer Syntax UID is none of the table.

    Notes
    -----
    What real files get wrong is read where it can be read in one way only: no preamble, no File Meta Information (then
    the data set is native: of encapsulated frames nothing would tell the codec), explicit VR that is implicit and the
    reverse, VRs nobody knows, Items outside of any sequence, encapsulated Pixel Data of a defined length.

    References
    ----------
    PS3.10 7.1 (File Meta Information).

    Examples
    --------
    >>> from multiframe.source import FileSource, run
    >>> from pydicom.data import get_testdata_file
    >>> path = get_testdata_file("examples_ybr_color.dcm", read=False)
    >>> header = run(read_header(), FileSource(path))
    >>> header.syntax.name, header.declared_frames
    ('JPEG Baseline (Process 1)', 30)
    """
    data = bytearray()
    ended = False

    def more(upto: int) -> Plan[None]:
        nonlocal ended
        if ended:
            raise TruncatedError("the file ends inside its header", len(data))
        if upto > max_header:
            raise FormatError(f"the header is longer than {max_header} bytes: not read", len(data))
        wanted = min(max(upto, first_read, min(2 * len(data), len(data) + _STRIDE)), max_header)
        (answer,) = yield [ByteRange(len(data), wanted)]
        ended = len(data) + len(answer) < wanted
        data.extend(answer)

    yield from more(132 + 8)
    at = _meta_at(data)
    if at < 0:
        while len(data) < _LOOK and not ended:
            yield from more(_LOOK)
        if _told(data[:_LOOK], 0, ended=ended) is None:
            raise NotDicom("not a DICOM file: no DICM at byte 128, and it does not begin with a data set either")
        at = 0
    values: dict[int, tuple[int, int]] = {}
    here = Walk(at, explicit=True, little=True)
    while True:  # the File Meta Information: always Explicit VR Little Endian, and group 2 to its end
        while len(data) < here.at + 8 and not ended:
            yield from more(here.at + 8)
        if len(data) < here.at + 8 or data[here.at : here.at + 2] != b"\x02\x00":
            break
        element = here.step(data)
        if element is None:
            yield from more(here.at + 12)
            continue
        while len(data) < here.at and not ended:
            yield from more(here.at)
        if element.tag == _SYNTAX:
            values[_SYNTAX] = element.start, element.stop
    if here.at > len(data):
        raise TruncatedError("the file ends inside its File Meta Information", len(data))
    dataset_at = here.at
    while len(data) < dataset_at + _LOOK and not ended and len(data) < max_header:
        yield from more(min(dataset_at + _LOOK, max_header))
    look = data[: dataset_at + _LOOK]
    start, stop = values.get(_SYNTAX, (0, 0))
    uid = bytes(data[start:stop]).decode("latin-1").strip(" \0")
    if uid:
        syntax = syntax_of(uid)
    else:
        told = _told(look, dataset_at, ended=ended)
        if told is None:
            raise FormatError("the File Meta Information names no Transfer Syntax", dataset_at)
        syntax = syntax_of(told)
    if syntax.deflated:
        raise Deflated(syntax, dataset_at)

    explicit = _is_explicit(look, dataset_at, syntax)
    here = Walk(dataset_at, explicit=explicit, little=syntax.little, descend=False, strays=True)
    pixel_data = None
    per_frame = PassedBy()
    while True:
        if here.among_items and here.explicit == explicit and per_frame.passes(here, data):
            continue
        if len(data) <= here.at and not ended:
            yield from more(here.at + 12)
        if ended and here.at >= len(data):
            if here.at > len(data) or here.inside:
                raise TruncatedError("the file ends inside a value or a sequence", len(data))
            break
        element = here.step(data)
        if element is None:
            yield from more(here.at + 12)
        elif element.depth == 0:
            if element.tag in _PIXEL_TAGS:
                pixel_data = PixelData(element.tag, element.vr, element.at, element.start, element.stop)
                break
            if element.tag in _WANTED:
                if here.spilled >= 0 and element.tag in values:
                    raise FormatError(_WHOSE, here.spilled)
                values[element.tag] = element.start, element.stop
    end = len(data) if pixel_data is None else pixel_data.at
    header = Header(bytes(memoryview(data)[:end]), syntax, dataset_at, pixel_data, values)
    if pixel_data is None:
        return header
    if here.spilled >= 0:  # the pixels may be an icon's: those of the image are the last thing in a file, or nearly so
        if pixel_data.stop < 0:
            raise FormatError(_WHOSE, here.spilled)
        (after,) = yield [ByteRange(pixel_data.stop, pixel_data.stop + 4)]
        group = int.from_bytes(after[:2], "little" if syntax.little else "big")
        if after and group <= _PIXELS >> 16:
            raise FormatError(_WHOSE, here.spilled)
    if syntax.encapsulated and pixel_data.stop >= 0:
        while len(data) < pixel_data.start + 4 and not ended:
            yield from more(pixel_data.start + 4)
        if data[pixel_data.start : pixel_data.start + 4] == _ITEM_TAG:  # Items all the same, of a length told
            return replace(header, pixel_data=pixel_data._replace(stop=-1))
    unnamed = not uid and pixel_data.stop >= 0
    while unnamed and len(data) < pixel_data.start + 4 and not ended:
        yield from more(pixel_data.start + 4)
    if unnamed and data[pixel_data.start : pixel_data.start + 4] == _ITEM_TAG:
        raise FormatError("the File Meta Information names no Transfer Syntax, and Pixel Data holds Items", dataset_at)
    if (pixel_data.stop < 0) != syntax.encapsulated:
        state = "of undefined length" if pixel_data.stop < 0 else "of defined length"
        raise FormatError(f"Pixel Data is {state}, which the Transfer Syntax {syntax} does not allow", pixel_data.at)
    return header


_DELIMITERS = 0xFFFE
_WHOSE = "an Item lies outside of any sequence: whether what follows belongs to it or to the image cannot be told"


def _meta_at(data: Buffer) -> int:
    """Say where the File Meta Information begins; -1: nowhere.

    Preamble and prefix are left out by some writers, and ``DICM`` can be found in the middle of a value.
    """
    if data[128:132] == b"DICM" and (data[132:134] == b"\2\0" or not _looks_explicit(data, 0, "little")):
        return 132
    if data[:4] == b"DICM" and data[4:6] == b"\2\0":
        return 4
    return 0 if data[:2] == b"\2\0" and _looks_explicit(data, 0, "little") else -1


def _looks_explicit(data: Buffer, at: int, order: Literal["little", "big"]) -> bool:
    """Whether an element with a VR of the standard can begin at `at`."""
    return int.from_bytes(data[at : at + 2], order) <= _FIRST_GROUP and bytes(data[at + 4 : at + 6]) in KNOWN_VRS


def _told(data: Buffer, at: int, *, ended: bool) -> str | None:
    """Tell from its first elements how a native data set is written, where nothing else does; None: they are none."""
    for uid in (EXPLICIT_LE, _EXPLICIT_BE, IMPLICIT_LE):
        syntax = syntax_of(uid)
        if _reads(data, at, explicit=syntax.explicit, little=syntax.little, ended=ended):
            return uid
    return None


def _is_explicit(data: Buffer, at: int, syntax: TransferSyntax) -> bool:
    """Whether the elements at `at` name their VR; where that cannot be told, what the Transfer Syntax says."""
    if _looks_explicit(data, at, "little" if syntax.little else "big") == syntax.explicit:
        return syntax.explicit
    other = not syntax.explicit
    look = data[: at + _LOOK]
    return other if _reads(look, at, explicit=other, little=syntax.little) else syntax.explicit


def _reads(data: Buffer, at: int, *, explicit: bool, little: bool, ended: bool = False) -> bool:
    """Whether what lies at `at` can be read as elements in ascending order, one behind the other."""
    here = Walk(at, explicit=explicit, little=little, descend=False)
    last = -1
    seen = 0
    try:
        while seen < _TELLING:
            element = here.step(data)
            if element is None:
                return ended and seen > 0 and here.at == len(data)
            if element.depth or element.tag >> 16 == _DELIMITERS:
                continue
            if element.tag <= last or (last < 0 and element.tag >> 16 > _FIRST_GROUP):
                return False
            if not element.stop < element.start + _LARGE:
                return False
            last = element.tag
            seen += 1
    except FormatError:
        return False
    return True
