"""Synthetic ultrasound cines of any size, whose frames carry their numbers in the picture.

Memory stays flat whatever the size. NumPy, pydicom and Pillow are imported on use.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from multiframe.syntaxes import TransferSyntax, syntax_of
from multiframe.testing.files import (
    ITEM,
    SEQUENCE_END,
    Layout,
    element,
    extended_table,
    file_meta,
    head_and_tail,
    uids,
)
from multiframe.testing.film import PHASES, Film
from multiframe.testing.numbercode import NUMBER_CODE

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["FRAMES_PER_SECOND", "JPEG_BASELINE", "PHASES", "Written", "cine"]

FRAMES_PER_SECOND = 30
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

_ULTRASOUND_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"


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
    film = Film(rows, columns, seed, PHASES if frames is None else min(max(frames, 1), PHASES), transfer)
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
    head = file_meta(data, transfer) + head_and_tail(data, transfer)[0]
    pictures = _pictures(film, frames, progress)
    with ExitStack() as stack:
        out = stack.enter_context(Path(file).open("wb")) if isinstance(file, str | os.PathLike) else file
        out.write(head)
        if transfer.encapsulated:
            written = _write_encapsulated(out, pictures, frames, layout)
        else:
            written = _write_native(out, pictures, frames * rows * columns * 3, transfer)
    return Written(frames, len(head) + written)


def _pictures(film: Film, frames: int, progress: Callable[[int, int], object] | None) -> Iterator[bytes]:
    for number in range(1, frames + 1):
        yield film.frame(number, frames)
        if progress:  # here, the frame before has been written
            progress(number, frames)


def _write_native(out: BinaryIO, pictures: Iterable[bytes], length: int, transfer: TransferSyntax) -> int:
    padded = length + length % 2
    if padded >= 0xFFFFFFFF:
        raise ValueError(f"native Pixel Data cannot have {length} bytes: its length has 32 bits (PS3.5 7.1.1)")
    written = out.write(element(0x7FE00010, b"OB", padded, transfer))
    for picture in pictures:
        written += out.write(picture)
    return written + out.write(b"\0" * (padded - length))


def _write_encapsulated(out: BinaryIO, pictures: Iterable[bytes], frames: int, layout: Layout) -> int:
    # Tables come first but are known last: room now, numbers in the end.
    zeros = [0] * frames
    extended = b"".join(extended_table(zeros, zeros)) if layout.table == "extended" else b""
    basic = bytes(4 * frames) if layout.table == "basic" else b""
    written = out.write(extended + element(0x7FE00010, b"OB", 0xFFFFFFFF) + ITEM + pack("<I", len(basic)) + basic)
    first = written
    offsets, lengths = array("Q"), array("Q")
    for i, picture in enumerate(pictures):
        offsets.append(written - first)
        lengths.append(len(picture) + (len(picture) % 2 if layout.eot_padded else 0))
        for piece in layout.split(i, picture):
            written += out.write(b"".join((ITEM, pack("<I", len(piece)), piece)))
    if layout.delimiter:
        written += out.write(SEQUENCE_END)
    if layout.table != "none":
        end = out.tell()
        if layout.table == "extended":
            out.seek(end - written)
            out.write(b"".join(extended_table(offsets, lengths)))
        else:
            out.seek(end - written + first - len(basic))
            out.write(pack(f"<{frames}I", *offsets))
        out.seek(end)
    return written


def _cine_header(frames: int, film: Film, transfer: TransferSyntax, *contents: str) -> Dataset:
    from pydicom import Dataset

    study, series, instance = uids("cine", frames, transfer.uid, *contents)
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
    data.Laterality = ""
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
