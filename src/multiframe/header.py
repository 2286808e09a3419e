"""All that stands before Pixel Data, without reading Pixel Data (PS3.10 7, PS3.5 7).

It knows the few attributes that say what frames are. It must not know where a frame lies, nor parse what it does not
need: semantics are pydicom's, from the raw bytes kept here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from multiframe.codec import PixelSpec
from multiframe.elements import Walk
from multiframe.errors import FormatError, NoPixelData, NotDicom, TruncatedError
from multiframe.ranges import Buffer, ByteRange, Plan
from multiframe.syntaxes import TransferSyntax, syntax_of

__all__ = ["Header", "PixelData", "read_header"]

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

    def text(self, tag: int) -> str:
        """Give a value of the default repertoire without its padding; empty where it is absent."""
        start, stop = self.values.get(tag, (0, 0))
        return self.raw[start:stop].decode("latin-1").strip(" \0")

    def number(self, tag: int, default: int = 0) -> int:
        """Give an unsigned 16-bit value."""
        start, stop = self.values.get(tag, (0, 0))
        if stop - start < 2:
            return default
        return int.from_bytes(self.raw[start : start + 2], "little" if self.syntax.little else "big")

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
    def declared_frames(self) -> int | None:
        """Number of Frames (0028,0008) as written; None where it is absent, zero or no number."""
        text = self.text(_FRAMES)
        return int(text) or None if text.isascii() and text.isdigit() and len(text) <= 12 else None

    @property
    def extended_table(self) -> tuple[Buffer, Buffer] | None:
        """The raw values of the Extended Offset Table and its lengths (PS3.3 C.7.6.3.1.8), where both are there."""
        if _TABLE not in self.values or _TABLE_LENGTHS not in self.values:
            return None
        (a, b), (c, d) = self.values[_TABLE], self.values[_TABLE_LENGTHS]
        return self.raw[a:b], self.raw[c:d]

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
        No ``DICM`` at byte 128.
    FormatError, TruncatedError
        What follows is no data set, or ends inside an element.
    UnknownSyntax
        The Transfer Syntax UID is none of the table.

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
        wanted = min(max(upto, first_read, 2 * len(data)), max_header)
        (answer,) = yield [ByteRange(len(data), wanted)]
        ended = len(data) + len(answer) < wanted
        data.extend(answer)

    yield from more(132)
    if data[128:132] != b"DICM":
        raise NotDicom("not a DICOM file: no DICM at byte 128")
    values: dict[int, tuple[int, int]] = {}
    here = Walk(132, explicit=True, little=True)
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
    if _SYNTAX not in values:
        raise FormatError("the File Meta Information names no Transfer Syntax", here.at)
    start, stop = values[_SYNTAX]
    syntax = syntax_of(bytes(data[start:stop]).decode("latin-1").strip(" \0"))
    if syntax.deflated:
        raise FormatError(
            "a deflated data set is one stream without random access: not opened by this version; "
            "store it in another Transfer Syntax",
            here.at,
        )

    dataset_at = here.at
    here = Walk(dataset_at, explicit=syntax.explicit, little=syntax.little, descend=False)
    pixel_data = None
    while True:
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
                values[element.tag] = element.start, element.stop
    end = len(data) if pixel_data is None else pixel_data.at
    header = Header(bytes(data[:end]), syntax, dataset_at, pixel_data, values)
    if pixel_data is not None and (pixel_data.stop < 0) != syntax.encapsulated:
        state = "of undefined length" if pixel_data.stop < 0 else "of defined length"
        raise FormatError(f"Pixel Data is {state}, which the Transfer Syntax {syntax} does not allow", pixel_data.at)
    return header
