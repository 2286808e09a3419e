"""Files to index: any number of frames and fragments, with or without an offset table, and what is true of them.

Each frame begins with the header of a real JPEG Baseline file, goes on with its number and coded-looking bytes, and
ends with EOI: what readers look at is there, but nothing would decode. Sizes vary, by 5 % if nothing else is said: no
frame can be found by multiplication. It must not know who reads them.
"""

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory
from typing import Literal

from PIL import Image
from pydicom import Dataset

from multiframe.testing import JPEG_BASELINE, part10

type Table = Literal["none", "basic", "extended"]

ITEM = b"\xfe\xff\x00\xe0"
END = b"\xfe\xff\xdd\xe0\0\0\0\0"
PIXELS = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
SPREAD = 0.05


@dataclass(frozen=True)
class Plan:
    """A file to make.

    Attributes
    ----------
    frame_size : int
        Bytes of a frame on average.
    slide : bool
        A whole slide image (which wsidicom opens), not a secondary capture.
    spread : float
        The part of that by which a frame is longer or shorter at most.
    """

    frames: int
    frame_size: int
    table: Table = "none"
    fragments: int = 1
    slide: bool = False
    spread: float = SPREAD

    @property
    def name(self) -> str:
        """Tells it from all others."""
        return f"{self.frames}x{self.frame_size}-{self.fragments}-{self.table}{'-slide' if self.slide else ''}.dcm"


@dataclass(frozen=True)
class Made:
    """A file that was made."""

    plan: Plan
    path: Path
    size: int
    pixels_at: int
    """Offset of the first Item, the table."""
    first_at: int
    """Offset of the Item behind it."""

    def frame(self, i: int) -> bytes:
        """Give frame `i`, counted from 0, from nothing but the plan."""
        return _frame(i, _sizes(self.plan)[i])


@contextmanager
def made(plan: Plan, folder: Path) -> Iterator[Made]:
    """Make a file, which is removed in the end; it is in the page cache."""
    with TemporaryDirectory(prefix="multiframe-bench-", dir=folder) as inside:
        path = Path(inside) / plan.name
        yield _write(plan, path)


def _write(plan: Plan, path: Path) -> Made:
    sizes = _sizes(plan)
    head = _head(plan)
    offsets, at = [], 0
    for size in sizes:
        offsets.append(at)
        at += size + 8 * plan.fragments
    basic = pack(f"<{plan.frames}I", *offsets) if plan.table == "basic" else b""
    if plan.table == "extended":
        for element, values in ((b"\x01\0", offsets), (b"\x02\0", sizes)):
            head += b"\xe0\x7f" + element + b"OV\0\0" + pack(f"<I{plan.frames}Q", 8 * plan.frames, *values)
    head += PIXELS
    with path.open("wb", buffering=1 << 20) as out:
        out.write(head + ITEM + pack("<I", len(basic)) + basic)
        first = out.tell()
        for i, size in enumerate(sizes):
            frame = _frame(i, size)
            step = size // plan.fragments // 2 * 2
            for k in range(plan.fragments):
                piece = frame[k * step : (k + 1) * step if k + 1 < plan.fragments else size]
                out.write(ITEM + pack("<I", len(piece)))
                out.write(piece)
        out.write(END)
    return Made(plan, path, path.stat().st_size, len(head), first)


@cache
def _sizes(plan: Plan) -> list[int]:
    """Bytes of each frame, all even; the same whatever the table."""
    chance = random.Random(plan.frame_size)
    most = int(plan.frame_size * plan.spread) // 2
    return [plan.frame_size // 2 * 2 + 2 * chance.randint(-most, most) for _ in range(plan.frames)]


def _frame(i: int, size: int) -> bytes:
    start = _jpeg_header() + b"%09d" % i
    return start + _filler()[: size - len(start) - 2] + b"\xff\xd9"


@cache
def _jpeg_header() -> bytes:
    """Give all before the coded data of a small JPEG file."""
    file = io.BytesIO()
    Image.new("YCbCr", (16, 16)).save(file, "JPEG", quality=85)
    data = file.getvalue()
    scan = data.rindex(b"\xff\xda")
    return data[: scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])]


@cache
def _filler() -> bytes:
    return random.Random(0).randbytes(1 << 20).replace(b"\xff", b"\xfe")


def _head(plan: Plan) -> bytes:
    """Give all before Pixel Data and its Extended Offset Table."""
    extra = Dataset()
    if plan.slide:
        extra.SOPClassUID = WSI
        extra.Modality = "SM"
        extra.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        extra.DimensionOrganizationType = "TILED_FULL"
        extra.TotalPixelMatrixColumns = 256 * 100
        extra.TotalPixelMatrixRows = 256 * -(-plan.frames // 100)
        extra.TotalPixelMatrixFocalPlanes = 1
        extra.NumberOfOpticalPaths = 1
        extra.BurnedInAnnotation = "NO"
        # highdicom works out where each tile lies.
        path, origin, measures, shared = Dataset(), Dataset(), Dataset(), Dataset()
        path.OpticalPathIdentifier = "1"
        origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0.0
        measures.PixelSpacing, measures.SliceThickness = [0.001, 0.001], 0.001
        shared.PixelMeasuresSequence = [measures]
        extra.OpticalPathSequence = [path]
        extra.TotalPixelMatrixOriginSequence = [origin]
        extra.SharedFunctionalGroupsSequence = [shared]
        extra.ImageOrientationSlide = [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
        extra.FrameOfReferenceUID = "2.25.1"
        extra.ImagedVolumeWidth = extra.ImagedVolumeHeight = 10.0
        extra.ImagedVolumeDepth = 1.0
    rows, columns = (256, 256) if plan.slide else (768, 1024)
    file = part10(
        [_frame(0, plan.frame_size)],
        rows=rows,
        columns=columns,
        syntax=JPEG_BASELINE,
        samples=3,
        photometric="YBR_FULL_422",
        number_of_frames=plan.frames,
        extra=extra,
    )
    return file[: file.index(PIXELS)]
