"""What tests are made of: Part 10 files of every layout, cines that know their frame numbers, a counting source.

Public, for plug-in authors and for us. It knows how encapsulated Pixel Data is *written* (PS3.5 A.4), with code of
its own: what writes the files that prove the readers shares nothing with the readers. NumPy, pydicom and Pillow are
imported on use. It must not know the readers, the server or the command line.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from struct import pack
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from multiframe.ranges import ByteRange
from multiframe.source import ByteSource, Identity, ObjectStat, Reply
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax, syntax_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import ImageFont
    from PIL.Image import Image
    from pydicom import Dataset

    type Floats = NDArray[np.floating[Any]]

__all__ = [
    "FRAMES_PER_SECOND",
    "JPEG_BASELINE",
    "NUMBER_CODE",
    "PHASES",
    "CountingSource",
    "Layout",
    "NumberCode",
    "Written",
    "cine",
    "part10",
    "read_number",
]

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

_ULTRASOUND_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."
_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


# ---------------------------------------------------------------------------------------------------------------
# Part 10 files, honest and lying


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How frames are laid out in encapsulated Pixel Data; the later fields are for files that lie.

    Attributes
    ----------
    table : str
        ``none`` (the Basic Offset Table is an empty Item), ``basic`` or ``extended``.
    fragments : int or tuple of int
        Pieces of each frame, or of each frame in turn.
    delimiter : bool
        Whether the Sequence Delimitation Item is written.
    eot_padded : bool
        Whether the lengths of the Extended Offset Table count the pad byte: writers differ.
    items : tuple of bytes or None
        Written as fragments as they are, odd lengths and all, in place of the frames'.
    basic_table : tuple of int or None
        Written in place of the true offsets, whatever `table` says.
    extended_table : tuple of (offsets, lengths) or None
        Likewise.

    References
    ----------
    PS3.5 A.4; PS3.3 C.7.6.3.1.8.

    Examples
    --------
    >>> Layout(table="basic", fragments=(1, 3)).fragments
    (1, 3)
    """

    table: Literal["none", "basic", "extended"] = "none"
    fragments: int | tuple[int, ...] = 1
    delimiter: bool = True
    eot_padded: bool = True
    items: tuple[bytes, ...] | None = None
    basic_table: tuple[int, ...] | None = None
    extended_table: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def split(self, index: int, frame: bytes) -> list[bytes]:
        r"""Cut a frame into its fragments, all of even length.

        Examples
        --------
        >>> Layout(fragments=2).split(0, b"abcde")
        [b'abcd', b'e\x00']
        """
        pieces = self.fragments if isinstance(self.fragments, int) else self.fragments[index]
        frame += b"\0" * (len(frame) % 2)
        pairs, more = divmod(len(frame) // 2, pieces)
        if pairs == 0 and frame:
            raise ValueError(f"frame {index} of {len(frame)} bytes cannot be cut into {pieces} fragments")
        # The first `more` pieces are one pair of bytes longer.
        cuts = [2 * (pairs * i + min(i, more)) for i in range(pieces + 1)]
        return [frame[a:b] for a, b in pairwise(cuts)]


def part10(
    frames: Sequence[bytes],
    *,
    rows: int,
    columns: int,
    syntax: str = EXPLICIT_LE,
    samples: int = 1,
    photometric: str = "MONOCHROME2",
    bits_allocated: int = 8,
    bits_stored: int | None = None,
    signed: bool = False,
    layout: Layout | None = None,
    number_of_frames: int | Literal["auto"] | None = "auto",
    extra: Dataset | None = None,
) -> bytes:
    """Build a small Part 10 file in memory.

    Parameters
    ----------
    frames : sequence of bytes
        Encoded, or native as stored: for Big Endian the caller swaps. Native frames are joined as they are.
    syntax : str
        Transfer Syntax UID.
    layout : Layout, optional
        Of encapsulated Pixel Data.
    number_of_frames : int or None
        What the data set claims; None leaves it out.
    extra : Dataset, optional
        Further elements; they replace ours, and those after Pixel Data are written there.

    Returns
    -------
    bytes
        The same bytes for the same arguments: the UIDs come from the contents, unless `extra` has them.

    References
    ----------
    PS3.10 7.1; PS3.5 8.1, A.4, A.5.

    Examples
    --------
    >>> import io, pydicom
    >>> file = part10([b"frame1", b"frame2"], rows=2, columns=3)
    >>> pydicom.dcmread(io.BytesIO(file)).PixelData
    b'frame1frame2'
    """
    from pydicom import Dataset

    transfer = syntax_of(syntax)
    layout = layout or Layout()
    fingerprint = (syntax, rows, columns, samples, photometric, bits_allocated, repr(layout), *frames)
    study, series, instance = _uids("part10", *fingerprint)
    data = Dataset()
    data.SOPClassUID = _SECONDARY_CAPTURE + ("4" if samples > 1 else "2" if bits_allocated <= 8 else "3")
    data.SOPInstanceUID = instance
    data.Modality = "OT"
    data.PatientName = "Synthetic^Layout"
    data.PatientID = "SYNTHETIC"
    data.StudyInstanceUID = study
    data.SeriesInstanceUID = series
    data.InstanceNumber = 1
    data.SamplesPerPixel = samples
    data.PhotometricInterpretation = photometric
    if samples > 1:
        data.PlanarConfiguration = 0
    if number_of_frames is not None:
        data.NumberOfFrames = len(frames) if number_of_frames == "auto" else number_of_frames
    data.Rows = rows
    data.Columns = columns
    data.BitsAllocated = bits_allocated
    data.BitsStored = bits_stored or bits_allocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(signed)
    data.update(extra or {})

    before, after = _head(data, transfer)
    if transfer.encapsulated:
        pixels = _encapsulated(frames, layout)
    else:
        value = b"".join(frames)
        value += b"\0" * (len(value) % 2)
        # Implicit VR has one VR for it (PS3.5 A.1); OW of 8-bit samples would be swapped in Big Endian.
        vr = b"OW" if bits_allocated > 8 or not transfer.explicit else b"OB"
        pixels = _element(0x7FE00010, vr, len(value), transfer) + value
    body = before + pixels + after
    if transfer.deflated:
        raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)  # no zlib header (PS3.5 A.5)
        body = raw.compress(body) + raw.flush()
        body += b"\0" * (len(body) % 2)
    return _meta(data, transfer) + body


def _encapsulated(frames: Sequence[bytes], layout: Layout) -> bytes:
    """Give the Extended Offset Table, if any, and Pixel Data."""
    offsets: list[int] = []
    lengths: list[int] = []
    fragments: list[bytes] = []
    at = 0
    for i, frame in enumerate(frames):
        offsets.append(at)
        pieces = layout.split(i, frame)
        fragments += pieces
        at += sum(8 + len(piece) for piece in pieces)
        lengths.append(len(frame) + (len(frame) % 2 if layout.eot_padded else 0))
    written: list[bytes] = []
    extended = layout.extended_table or (offsets, lengths)
    if layout.table == "extended" or layout.extended_table is not None:
        written += _extended_table(*extended)
    if layout.basic_table is not None:
        basic: Sequence[int] = layout.basic_table
    else:
        basic = offsets if layout.table == "basic" else ()
    written.append(_element(0x7FE00010, b"OB", 0xFFFFFFFF))
    for item in (pack(f"<{len(basic)}I", *basic), *(fragments if layout.items is None else layout.items)):
        written += (_ITEM, pack("<I", len(item)), item)
    if layout.delimiter:
        written.append(_SEQUENCE_END)
    return b"".join(written)


def _extended_table(offsets: Iterable[int], lengths: Iterable[int]) -> Iterator[bytes]:
    for tag, numbers in ((0x7FE00001, offsets), (0x7FE00002, lengths)):
        value = b"".join(pack("<Q", n) for n in numbers)
        yield _element(tag, b"OV", len(value)) + value


def _element(tag: int, vr: bytes, length: int, transfer: TransferSyntax | None = None) -> bytes:
    """Give the header of a data element whose VR has a 32-bit length (PS3.5 7.1.2, 7.1.3)."""
    order = ">" if transfer and not transfer.little else "<"
    if transfer and not transfer.explicit:
        return pack("<HHI", tag >> 16, tag & 0xFFFF, length)
    return pack(f"{order}HH2s2xI", tag >> 16, tag & 0xFFFF, vr, length)


def _head(data: Dataset, transfer: TransferSyntax) -> tuple[bytes, bytes]:
    """Give the elements before Pixel Data and those after it."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    written = []
    for part in (data[:0x7FE00001], data[0x7FE00011:]):
        file = DicomBytesIO()
        file.is_little_endian = transfer.little
        file.is_implicit_VR = not transfer.explicit
        write_dataset(file, part)
        written.append(file.getvalue())
    return written[0], written[1]


def _meta(data: Dataset, transfer: TransferSyntax) -> bytes:
    """Give the preamble and the File Meta Information (PS3.10 7.1)."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer.uid)
    file = DicomBytesIO()
    write_file_meta_info(file, meta)
    return b"\0" * 128 + b"DICM" + file.getvalue()


def _uids(*contents: object) -> tuple[str, str, str]:
    """Make the UIDs of study, series and instance from what the instance holds (PS3.5 B.2)."""
    digest = hashlib.sha256()
    for content in contents:
        part = content if isinstance(content, bytes) else str(content).encode()
        digest.update(b"%d:" % len(part) + part)
    seed = int.from_bytes(digest.digest()[:15])
    return f"2.25.{seed}1", f"2.25.{seed}2", f"2.25.{seed}3"


# ---------------------------------------------------------------------------------------------------------------
# The number in the picture


class NumberCode(NamedTuple):
    """Where the block code of the frame number lies in a picture of any size.

    Lay a grid of `grid_columns` x `grid_rows` over the whole picture. The code is the cells from (`left`, `top`),
    `columns` wide and `rows` high; white is 1, black is 0. Read row by row, highest bit first, they are 32 bits:
    4 of `mark`, 20 of the number, 8 of the number modulo `modulus`. Judge a cell by the mean of its inner half.

    Examples
    --------
    >>> NUMBER_CODE._asdict()  # what a browser test needs, as JSON
    {'grid_columns': 64, 'grid_rows': 48, 'left': 55, 'top': 1, 'columns': 8, 'rows': 4, 'mark': 10, 'modulus': 251}
    """

    grid_columns: int = 64
    grid_rows: int = 48
    left: int = 55
    top: int = 1
    columns: int = 8
    rows: int = 4
    mark: int = 0b1010
    modulus: int = 251

    def bits(self, number: int) -> list[int]:
        """Give the cells of a number, row by row."""
        if not 0 < number < 1 << 20:
            raise ValueError(f"frame number {number} is not in 1 to {(1 << 20) - 1}")
        word = self.mark << 28 | number << 8 | number % self.modulus
        return [word >> i & 1 for i in reversed(range(32))]

    def number(self, bits: Iterable[int]) -> int | None:
        """Give the number of cells, or None where mark or check do not fit.

        Examples
        --------
        >>> NUMBER_CODE.number(NUMBER_CODE.bits(8090))
        8090
        """
        word = int("".join(str(int(bit)) for bit in bits), 2)
        number = word >> 8 & 0xFFFFF
        fits = word >> 28 == self.mark and number % self.modulus == word & 0xFF and number > 0
        return number if fits else None


NUMBER_CODE = NumberCode()


def read_number(picture: NDArray[Any]) -> int | None:
    """Read the 1-based frame number out of a picture of `cine`.

    Parameters
    ----------
    picture : ndarray
        Grey ``(rows, columns)`` or RGB(A) ``(rows, columns, samples)``, at any scale; of a screenshot, the part
        that is the picture, for the code is found by its place alone (see `NumberCode`).

    Returns
    -------
    int or None
        None: no number can be read with certainty.

    Examples
    --------
    >>> import numpy as np
    >>> read_number(np.zeros((768, 1024), np.uint8)) is None
    True
    """
    import numpy as np

    code = NUMBER_CODE
    height = picture.shape[0] / code.grid_rows
    width = picture.shape[1] / code.grid_columns
    cells = np.empty((code.rows, code.columns))
    for row in range(code.rows):
        for column in range(code.columns):
            y, x = (code.top + row) * height, (code.left + column) * width
            # The inner half, and at least the pixel in the middle.
            y0, y1 = round(y + height / 4), round(y + height * 3 / 4)
            x0, x1 = round(x + width / 4), round(x + width * 3 / 4)
            inner = picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
            cells[row, column] = np.mean(inner[..., :3]) if picture.ndim == 3 else np.mean(inner)
    low, high = cells.min(), cells.max()
    if not high - low >= 64:  # a picture without the code is no number, whatever its noise says
        return None
    return code.number((cells > (low + high) / 2).ravel().tolist())


# ---------------------------------------------------------------------------------------------------------------
# The cine


class Written(NamedTuple):
    """What `cine` wrote."""

    frames: int
    size: int


def cine(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    frames: int | None = None,
    size: int | None = None,
    rows: int = 768,
    columns: int = 1024,
    syntax: str = JPEG_BASELINE,
    layout: Layout | None = None,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Written:
    """Write a synthetic ultrasound cine whose frames carry their numbers in the picture.

    Each frame shows its 1-based number as digits and as the block code that `read_number` reads. The picture is a
    beating heart in 32 phases; no two frames are the same bytes. Memory stays flat whatever the size.

    Parameters
    ----------
    file : path or binary file
        A binary file must be seekable where the layout has a table.
    frames, size : int
        One of the two: how many frames, or about how many bytes the file shall have.
    rows, columns : int
        At least 96 x 128.
    syntax : str
        JPEG Baseline (as ``YBR_FULL_422``), or a native one (as ``RGB``).
    layout : Layout, optional
        Its lying fields are not for cines.
    seed : int
        Another seed, another patient.
    progress : callable, optional
        Told ``(frames done, frames in all)`` after each frame.

    Returns
    -------
    Written
        The number of frames and of bytes.

    References
    ----------
    PS3.3 A.7 (US Multi-frame Image IOD), C.8.5.6; PS3.5 A.4.

    Examples
    --------
    >>> import io, pydicom
    >>> file = io.BytesIO()
    >>> cine(file, frames=2, rows=96, columns=128).frames
    2
    >>> _ = file.seek(0)
    >>> pydicom.dcmread(file).PhotometricInterpretation
    'YBR_FULL_422'
    """
    transfer = syntax_of(syntax)
    layout = layout or Layout()
    if syntax != JPEG_BASELINE and (transfer.encapsulated or transfer.deflated):
        raise ValueError(f"a cine is written in JPEG Baseline or a native syntax, not in {transfer}")
    if (frames is None) == (size is None):
        raise ValueError("say either how many frames or how many bytes")
    if rows < 96 or columns < 128:
        raise ValueError(f"{rows} x {columns} is too small for digits and code: at least 96 x 128")
    if layout.items is not None or layout.basic_table is not None or layout.extended_table is not None:
        raise ValueError("a cine does not lie: items, basic_table and extended_table are for part10")
    film = _Film(rows, columns, seed, PHASES if frames is None else min(max(frames, 1), PHASES), transfer)
    if frames is None:
        pieces = layout.fragments if isinstance(layout.fragments, int) else 1
        around = 8 * pieces + {"none": 0, "basic": 4, "extended": 16}[layout.table] if transfer.encapsulated else 0
        frames = 1
        for _ in range(3):  # longer numbers make larger frames: a little more than a division
            frames = max(1, round((size or 0) / (film.mean_size(frames) + around)))
    NUMBER_CODE.bits(frames)  # refuses what no code can hold before anything is written
    if layout.table == "basic" and frames * (film.mean_size(frames) + 32) >= 1 << 32:
        raise ValueError("a Basic Offset Table cannot address 4 GiB: use extended or none (PS3.5 A.4)")
    if layout.table == "extended" and layout.fragments != 1:
        raise ValueError("an Extended Offset Table needs one fragment a frame (PS3.3 C.7.6.3.1.8)")

    data = _cine_header(frames, film, transfer, str((rows, columns, seed, layout)))
    head = _meta(data, transfer) + _head(data, transfer)[0]
    pictures = _pictures(film, frames, progress)
    with ExitStack() as stack:
        out = stack.enter_context(Path(file).open("wb")) if isinstance(file, str | os.PathLike) else file
        out.write(head)
        if transfer.encapsulated:
            written = _write_encapsulated(out, pictures, frames, layout)
        else:
            written = _write_native(out, pictures, frames * rows * columns * 3, transfer)
    return Written(frames, len(head) + written)


def _pictures(film: _Film, frames: int, progress: Callable[[int, int], object] | None) -> Iterator[bytes]:
    for number in range(1, frames + 1):
        yield film.frame(number, frames)
        if progress:  # here, the frame before has been written
            progress(number, frames)


def _write_native(out: BinaryIO, pictures: Iterable[bytes], length: int, transfer: TransferSyntax) -> int:
    padded = length + length % 2
    if padded >= 0xFFFFFFFF:
        raise ValueError(f"native Pixel Data cannot have {length} bytes: its length has 32 bits (PS3.5 7.1.1)")
    written = out.write(_element(0x7FE00010, b"OB", padded, transfer))
    for picture in pictures:
        written += out.write(picture)
    return written + out.write(b"\0" * (padded - length))


def _write_encapsulated(out: BinaryIO, pictures: Iterable[bytes], frames: int, layout: Layout) -> int:
    # Tables come first but are known last: room now, numbers in the end.
    zeros = [0] * frames
    extended = b"".join(_extended_table(zeros, zeros)) if layout.table == "extended" else b""
    basic = bytes(4 * frames) if layout.table == "basic" else b""
    written = out.write(extended + _element(0x7FE00010, b"OB", 0xFFFFFFFF) + _ITEM + pack("<I", len(basic)) + basic)
    first = written
    offsets, lengths = array("Q"), array("Q")
    for i, picture in enumerate(pictures):
        offsets.append(written - first)
        lengths.append(len(picture) + (len(picture) % 2 if layout.eot_padded else 0))
        for piece in layout.split(i, picture):
            written += out.write(b"".join((_ITEM, pack("<I", len(piece)), piece)))
    if layout.delimiter:
        written += out.write(_SEQUENCE_END)
    if layout.table != "none":
        end = out.tell()
        if layout.table == "extended":
            out.seek(end - written)
            out.write(b"".join(_extended_table(offsets, lengths)))
        else:
            out.seek(end - written + first - len(basic))
            out.write(pack(f"<{frames}I", *offsets))
        out.seek(end)
    return written


FRAMES_PER_SECOND = 30
PHASES = 32
"""Frames of one heartbeat: 56 beats a minute."""


def _cine_header(frames: int, film: _Film, transfer: TransferSyntax, *contents: str) -> Dataset:
    from pydicom import Dataset

    study, series, instance = _uids("cine", frames, transfer.uid, *contents)
    data = Dataset()
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.SOPClassUID = _ULTRASOUND_MULTIFRAME
    data.SOPInstanceUID = instance
    data.StudyDate = data.SeriesDate = data.ContentDate = data.AcquisitionDate = "20260101"
    data.StudyTime = data.SeriesTime = data.ContentTime = data.AcquisitionTime = "120000"
    data.AccessionNumber = ""
    data.Modality = "US"
    data.Manufacturer = "multiframe"
    data.ManufacturerModelName = "Synthetic cine"
    data.ReferringPhysicianName = ""
    data.StudyDescription = "Synthetic echocardiography"
    data.SeriesDescription = f"Cine of {frames} frames"
    data.PatientName = "Demo^Cine"
    data.PatientID = f"DEMO-{frames}"
    data.PatientBirthDate = ""
    data.PatientSex = ""
    data.StudyInstanceUID = study
    data.SeriesInstanceUID = series
    data.StudyID = "1"
    data.SeriesNumber = 1
    data.InstanceNumber = 1
    data.PatientOrientation = ""
    data.HeartRate = round(60 * FRAMES_PER_SECOND / PHASES)
    data.CineRate = FRAMES_PER_SECOND
    data.RecommendedDisplayFrameRate = FRAMES_PER_SECOND
    data.FrameTime = f"{1000 / FRAMES_PER_SECOND:.3f}"
    data.SamplesPerPixel = 3
    data.PhotometricInterpretation = "YBR_FULL_422" if transfer.encapsulated else "RGB"
    data.PlanarConfiguration = 0
    data.NumberOfFrames = frames
    data.FrameIncrementPointer = 0x00181063  # Frame Time
    data.Rows = film.rows
    data.Columns = film.columns
    data.UltrasoundColorDataPresent = 1
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelRepresentation = 0
    data.BurnedInAnnotation = "NO"
    data.LossyImageCompression = "01" if transfer.encapsulated else "00"
    if transfer.encapsulated:
        data.LossyImageCompressionRatio = f"{film.rows * film.columns * 3 / film.mean_size(frames):.2f}"
        data.LossyImageCompressionMethod = "ISO_10918_1"
    region = Dataset()  # PS3.3 C.8.5.5: so that viewers can measure
    region.RegionSpatialFormat = 1
    region.RegionDataType = 1
    region.RegionFlags = 0
    region.RegionLocationMinX0 = 0
    region.RegionLocationMinY0 = film.band
    region.RegionLocationMaxX1 = film.columns - 1
    region.RegionLocationMaxY1 = film.rows - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX = region.PhysicalDeltaY = 16.0 / film.depth
    data.SequenceOfUltrasoundRegions = [region]
    return data


class _Film:
    """Frames, made fast: a heartbeat of pictures encoded once, and above each a band of its own with the number.

    The JPEG of every picture has a restart marker after each row of MCUs, where all prediction begins anew
    (ISO/IEC 10918-1 E.1.4, F.1.1.5.1). So the rows of the band, encoded apart with the same tables, take the place
    of the picture's own first rows: a fraction of the work of encoding a frame, and to decoders a JPEG like any.
    """

    def __init__(self, rows: int, columns: int, seed: int, phases: int, transfer: TransferSyntax) -> None:
        self.rows, self.columns = rows, columns
        self._native = not transfer.encapsulated
        # The code is 4 cells high with one above and one below it; MCUs of 4:2:2 are 8 pixels high.
        self.band = -(-rows * (NUMBER_CODE.rows + 2) // NUMBER_CODE.grid_rows // 8) * 8
        heart = _Heart(rows, columns, self.band, seed)
        self.depth = heart.depth
        self._title = _title(self.band, columns, rows)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the GIL
            self._around = list(pool.map(lambda phase: self._split(heart.picture(phase)), range(phases)))

    def mean_size(self, frames: int) -> float:
        """Estimate the mean size of so many frames, to a few bytes."""
        around = sum(len(head) + len(tail) for head, tail in self._around) / len(self._around)
        some = range(1, frames + 1, max(1, frames // 64))
        return around + sum(len(self._numbered(n, frames)) for n in some) / len(some)

    def frame(self, number: int, total: int) -> bytes:
        """Give the frame of a 1-based number, without pad byte."""
        head, tail = self._around[(number - 1) % len(self._around)]
        return b"".join((head, self._numbered(number, total), tail))

    def _numbered(self, number: int, total: int) -> bytes:
        return self._encode(_numbered(self._title, self.rows, number, total))[1]

    def _split(self, picture: Image) -> tuple[bytes, bytes]:
        """Encode a picture and give what comes before the band's bytes, and what after them."""
        head, scan = self._encode(picture)
        if self._native:
            return head, scan[self.band * self.columns * 3 :]
        restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", scan)]
        return head, scan[restarts[self.band // 8 - 1] :] + b"\xff\xd9"

    def _encode(self, picture: Image) -> tuple[bytes, bytes]:
        """Give headers and entropy-coded data; End of Image belongs to neither."""
        if self._native:
            return b"", picture.tobytes()
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY, subsampling="4:2:2", restart_marker_rows=1)
        jpeg = file.getvalue()
        start = jpeg.rindex(b"\xff\xda")  # Start of Scan: cannot occur in entropy-coded data
        start += 2 + int.from_bytes(jpeg[start + 2 : start + 4])
        return jpeg[:start], jpeg[start:-2]


_QUALITY = 97
"""185 KB a frame of 1024 x 768, as the cines have that made this project necessary."""


def _title(height: int, columns: int, rows: int) -> Image:
    """Draw what all bands share."""
    from PIL import Image, ImageDraw, ImageFont

    band = Image.new("RGB", (columns, height))
    draw = ImageDraw.Draw(band)
    em = rows / 40
    draw.text((em, 0.75 * em), "multiframe", "#7fd1e8", ImageFont.load_default(1.2 * em))
    draw.text((em, 2.6 * em), "synthetic, no patient", "#7a8a90", ImageFont.load_default(0.8 * em))
    return band


def _numbered(title: Image, rows: int, number: int, total: int) -> Image:
    """Draw a frame's number into a copy of the band, as digits and as block code."""
    from PIL import ImageDraw

    band = title.copy()
    draw = ImageDraw.Draw(band)
    big, small = _fonts(rows)
    em = rows / 40
    digits = f"{number}"
    draw.text((band.width / 2, 4.3 * em), digits, "white", big, "ms")
    draw.text((band.width / 2 + big.getlength(digits) / 2 + em, 4.3 * em), f"of {total}", "#7a8a90", small, "ls")
    code = NUMBER_CODE
    height, width = rows / code.grid_rows, band.width / code.grid_columns
    for i, bit in enumerate(code.bits(number)):
        row, column = divmod(i, code.columns)
        x, y = (code.left + column) * width, (code.top + row) * height
        if bit:
            draw.rectangle((round(x), round(y), round(x + width) - 1, round(y + height) - 1), "white")
    return band


@lru_cache(maxsize=4)
def _fonts(rows: int) -> tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]:
    from PIL import ImageFont

    return ImageFont.load_default(rows / 10), ImageFont.load_default(rows / 40)  # type: ignore[return-value]


class _Heart:
    """A beating heart as a sector scan: four chambers, speckle that moves with the wall, flow through a valve.

    One still picture is made in polar coordinates, as a scanner sees it; a phase of the beat only says where in it
    each pixel of the sector looks. Lengths are in units of the sector's depth.
    """

    # Left and right ventricle, left and right atrium: centre, half axes, tilt; how far and how much they contract.
    CHAMBERS = (
        (0.09, 0.43, 0.125, 0.24, -0.15, 0.24, 0.30),
        (-0.20, 0.46, 0.095, 0.20, 0.22, 0.19, 0.22),
        (0.115, 0.80, 0.135, 0.125, 0.0, 0.17, -0.16),
        (-0.20, 0.78, 0.12, 0.115, 0.0, 0.15, -0.14),
    )
    SHAPE = (720, 360)
    OPENING = 0.7156  # radians to either side: 41 degrees

    def __init__(self, rows: int, columns: int, band: int, seed: int) -> None:
        import numpy as np

        self.rows, self.columns, self.band = rows, columns, band
        self.depth = 0.93 * min(rows - band, columns / 1.35)
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        x = (x - columns / 2) / self.depth
        y = (y - band) / self.depth - 0.01
        r = np.hypot(x, y)
        self._inside = np.flatnonzero((y > 0) & (r > 0.03) & (r < 1) & (np.abs(np.arctan2(x, y)) < self.OPENING))
        self._x, self._y = x.ravel()[self._inside], y.ravel()[self._inside]

        rng = np.random.default_rng(seed)
        radius = np.linspace(0, 1.1, self.SHAPE[0])[:, None]
        angle = np.linspace(-1.15, 1.15, self.SHAPE[1])[None] * self.OPENING
        echo = self._echo(radius * np.sin(angle), radius * np.cos(angle))
        # Fully developed speckle: the magnitude of blurred complex noise. The beam widens with depth by itself.
        fy, fx = np.fft.fftfreq(self.SHAPE[0])[:, None], np.fft.fftfreq(self.SHAPE[1])
        beam = np.exp(-2 * np.pi**2 * ((1.5 * fy) ** 2 + (1.6 * fx) ** 2))
        noise = rng.standard_normal(self.SHAPE) + 1j * rng.standard_normal(self.SHAPE)
        speckle = np.abs(np.fft.ifft2(np.fft.fft2(noise) * beam))
        decibels = 20 * np.log10(speckle / speckle.mean() * echo + 1e-4) - 14 * (radius - 0.45)
        self._still = np.clip((decibels + 42) / 52 * 255, 0, 255).astype(np.float32).ravel()

    def _echo(self, x: Floats, y: Floats) -> Floats:
        """Say how strongly tissue answers."""
        import numpy as np

        def below(distance: Floats, soft: float) -> Floats:
            answer: Floats = 1 / (1 + np.exp(np.clip(distance / soft, -40, 40)))
            return answer

        def ellipse(cx: float, cy: float, rx: float, ry: float, tilt: float) -> Floats:
            c, s = np.cos(tilt), np.sin(tilt)
            along, across = ((x - cx) * c + (y - cy) * s) / rx, ((y - cy) * c - (x - cx) * s) / ry
            distance: Floats = np.hypot(along, across) + uneven
            return distance

        uneven: Floats = 0.03 * np.sin(9 * x + 4 * y) + 0.03 * np.sin(7 * y - 3 * x)
        echo: Floats = 0.12 + 0.08 * np.sin(5 * x + 11 * y) ** 2
        heart = ellipse(-0.03, 0.58, 0.36, 0.40, 0.02)
        echo = echo + (0.42 - echo) * below(heart - 1, 0.02)
        echo += 1.6 * np.exp(-(((heart - 1.02) / 0.03) ** 2)) * (0.4 + 0.6 * below(0.5 - y, 0.1))
        for cx, cy, rx, ry, tilt, _, _ in self.CHAMBERS:
            wall = ellipse(cx, cy, rx, ry, tilt)
            echo = echo * (1 - 0.985 * below(wall - 1, 0.05)) + 0.25 * np.exp(-(((wall - 1.06) / 0.04) ** 2))
        for cx, cy, half in ((0.10, 0.665, 0.11), (-0.195, 0.655, 0.085)):  # the valves between them
            leaflet = np.abs(y - cy + 0.25 * np.abs(x - cx) - 0.02)
            echo += 0.9 * np.exp(-((leaflet / 0.01) ** 2)) * below(np.abs(x - cx) - half, 0.01)
        echo += 0.8 * np.exp(-np.hypot(x, y) / 0.05)
        return echo

    def picture(self, phase: int) -> Image:
        """Draw one phase of the beat; the band above stays black."""
        import numpy as np
        from PIL import Image

        turn = 2 * np.pi * phase / PHASES
        squeeze = 0.5 - 0.5 * np.cos(turn)
        x, y = self._x, self._y
        # Where the tissue seen at (x, y) lies when the heart is at rest.
        rest_x = x.copy()
        rest_y = y + 0.05 * squeeze * np.exp(-(((y - 0.66) / 0.2) ** 2))
        for cx, cy, _, _, _, reach, strength in self.CHAMBERS:
            dx, dy = x - cx, y - cy
            pull = strength * squeeze * np.exp(-(dx * dx + 0.5 * dy * dy) / reach**2)
            rest_x += dx * pull
            rest_y += 0.5 * dy * pull
        grey = self._look(np.hypot(rest_x, rest_y), np.arctan2(rest_x, rest_y))
        rgb = np.repeat(grey[:, None], 3, 1)
        # Colour Doppler where blood is: towards the probe while the ventricle fills, away while it empties.
        flow = -np.sin(turn)
        jet = np.exp(-(((x - 0.07 - 0.2 * (y - 0.6)) / 0.055) ** 2) - ((y - 0.60) / 0.12) ** 2) * abs(flow)
        jet = (np.clip(2.2 * jet - 0.5, 0, 1) * np.clip((110 - grey) / 60, 0, 1))[:, None]
        ramp = [200 + 55 * jet, 60 + 150 * jet**3, 20 + 0 * jet]
        rgb += (np.hstack(ramp if flow > 0 else ramp[::-1]) - rgb) * jet
        canvas = np.zeros((self.rows * self.columns, 3), np.uint8)
        canvas[self._inside] = rgb
        picture = Image.fromarray(canvas.reshape(self.rows, self.columns, 3))
        self._annotate(picture, phase)
        return picture

    def _look(self, radius: Floats, angle: Floats) -> Floats:
        """Interpolate the still picture."""
        import numpy as np

        height, width = self.SHAPE
        i = np.clip(radius * ((height - 1) / 1.1), 0, height - 1.001)
        j = np.clip((angle / self.OPENING / 1.15 + 1) * ((width - 1) / 2), 0, width - 1.001)
        i0, j0 = i.astype(np.int32), j.astype(np.int32)
        i, j = i - i0, j - j0
        at = i0 * width + j0
        still = self._still
        upper = still.take(at) * (1 - j) + still.take(at + 1) * j
        lower = still.take(at + width) * (1 - j) + still.take(at + width + 1) * j
        return upper * (1 - i) + lower * i  # type: ignore[no-any-return]

    def _annotate(self, picture: Image, phase: int) -> None:
        """Draw a grey wedge, a depth scale, and the ECG with the moment of this picture."""
        from math import exp

        from PIL import ImageDraw

        draw = ImageDraw.Draw(picture)
        top, em = self.band, self.rows / 40
        for step in range(64):
            shade = 255 - 4 * step
            y = top + (2 + 8 * step / 64) * em
            draw.rectangle((em, y, 1.6 * em, y + em / 8), (shade, shade, shade))
        for centimetre in range(17):
            y = top + self.depth * (0.01 + centimetre / 16)
            length = em * (0.7 if centimetre % 5 == 0 else 0.35)
            draw.line((self.columns - em - length, y, self.columns - em, y), "#7a8a90", max(1, round(em / 10)))

        def ecg(beat: float) -> float:
            p, q = (0.86, 0.4, 0.03), (0.985, -0.4, 0.01)
            r, s, t = (0.02, 3.0, 0.014), (0.055, -0.8, 0.012), (0.32, 0.7, 0.05)
            return sum(height * exp(-(((beat - at) / width) ** 2)) for at, height, width in (p, q, r, s, t))

        left, base, length = em, self.rows - 2 * em, self.columns * 0.2
        trace = [(left + length * i / 200, base - em * ecg(i / 200)) for i in range(201)]
        draw.line(trace, "#4fbf6f", max(1, round(em / 10)))
        x, y = trace[200 * phase // PHASES]
        draw.ellipse((x - em / 4, y - em / 4, x + em / 4, y + em / 4), "#ffd75f")


# ---------------------------------------------------------------------------------------------------------------
# A source that counts


class CountingSource:
    """A `ByteSource` that counts what is asked of the one it wraps.

    It has no ``read_items`` even where the wrapped one has: so a walk over Items comes through here range by range,
    and is counted as a far object would see it.

    Parameters
    ----------
    source : ByteSource
        Asked in turn.

    Attributes
    ----------
    requests : int
        Ranges asked for.
    bytes_read : int
        Bytes that were answered.

    Examples
    --------
    >>> from multiframe.source import FileSource
    >>> source = CountingSource(FileSource(__file__))
    >>> len(source.read_ranges([ByteRange(0, 5), ByteRange(6, 8)]).buffers)
    2
    >>> source.requests, source.bytes_read
    (2, 7)
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.requests = 0
        self.bytes_read = 0

    def stat(self) -> ObjectStat:
        """Ask for size and identity; not counted, for no bytes are read."""
        return self._source.stat()

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        return self._counted(self._source.read_ranges(ranges, identity=identity))

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        return self._counted(await self._source.read_ranges_async(ranges, identity=identity))

    def _counted(self, reply: Reply) -> Reply:
        with self._lock:  # worker threads read at the same time
            self.requests += len(reply.buffers)
            self.bytes_read += sum(memoryview(buffer).nbytes for buffer in reply.buffers)
        return reply
