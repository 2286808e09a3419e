"""Who can find frames: multiframe, pydicom, highdicom and wsidicom, each used as its documentation says.

They are asked for the same things: to know where all frames lie (`index`), and for the bytes of one frame (`frame`),
knowing nothing but the path. Nobody decodes. What a library cannot do, it says by an exception.
"""

import importlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from struct import unpack
from typing import Any, BinaryIO

import pydicom
from pydicom.encaps import get_frame, parse_basic_offsets, parse_fragments

import multiframe
from benchmarks.index_files import Made
from multiframe.encapsulation import records
from multiframe.ranges import ItemChain
from multiframe.source import FileSource


@dataclass(frozen=True)
class Reader:
    """A library.

    Attributes
    ----------
    index : callable
        Given a path, finds all frames; gives how many there are.
    frame : callable
        Given a path and an index, gives the bytes of that frame.
    slides_only : bool
        It opens whole slide images and nothing else.
    """

    name: str
    version: str
    index: Callable[[Path], int]
    frame: Callable[[Path, int], bytes]
    slides_only: bool = False


def readers() -> list[Reader]:
    """Give those that are installed, ours first."""
    found = [
        Reader("multiframe", multiframe.__version__, _multiframe_index, _multiframe_frame),
        Reader("pydicom", pydicom.__version__, _pydicom_index, _pydicom_frame),
    ]
    for make in (_highdicom, _wsidicom):
        try:
            found.append(make())
        except ImportError:
            continue
    return found


# ---------------------------------------------------------------------------------------------------------------
# The walk alone: from Item header to Item header


def walk_multiframe(file: Made) -> int:
    """Follow the Items in strides, as `index_frames` asks for them; gives how many there are."""
    source, at, limit, n = FileSource(file.path), file.first_at, 16, 0
    while True:
        chain = ItemChain(at, file.size, limit)
        items = records(source.read_items(chain), chain)
        n += len(items.at)
        if items.end != "more":
            return n
        at, limit = items.next_at, min(4 * limit, 1 << 15)


def walk_pydicom(file: Made) -> int:
    """Let pydicom parse the fragments of an open file."""
    with file.path.open("rb") as opened:
        opened.seek(file.first_at)
        return parse_fragments(opened)[0]


# ---------------------------------------------------------------------------------------------------------------
# multiframe


def _multiframe_index(path: Path) -> int:
    return len(multiframe.open(path).index)


def _multiframe_frame(path: Path, i: int) -> bytes:
    (frame,) = multiframe.open(path).encoded([i])
    return frame.data


# ---------------------------------------------------------------------------------------------------------------
# pydicom


def _pydicom_opened(file: BinaryIO) -> pydicom.Dataset:
    """Read all before Pixel Data, and leave the file at the first Item."""
    data = pydicom.dcmread(file, stop_before_pixels=True)
    file.seek(12, io.SEEK_CUR)
    return data


def _pydicom_index(path: Path) -> int:
    """A table is taken as it is; without one the fragments are counted, which are not always frames."""
    with path.open("rb") as file:
        data = _pydicom_opened(file)
        if "ExtendedOffsetTable" in data:
            value = data.ExtendedOffsetTable
            return len(unpack(f"<{len(value) // 8}Q", value))
        return len(parse_basic_offsets(file)) or parse_fragments(file)[0]


def _pydicom_frame(path: Path, i: int) -> bytes:
    with path.open("rb") as file:
        data = _pydicom_opened(file)
        extended = (
            (data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths) if "ExtendedOffsetTable" in data else None
        )
        return get_frame(file, i, number_of_frames=data.NumberOfFrames, extended_offsets=extended)


# ---------------------------------------------------------------------------------------------------------------
# highdicom, wsidicom


def _highdicom() -> Reader:
    highdicom: Any = importlib.import_module("highdicom")

    def index(path: Path) -> int:
        return int(highdicom.imread(path, lazy_frame_retrieval=True).number_of_frames)

    def frame(path: Path, i: int) -> bytes:
        return bytes(highdicom.imread(path, lazy_frame_retrieval=True).get_raw_frame(i, as_index=True))

    return Reader("highdicom", version("highdicom"), index, frame)


def _wsidicom() -> Reader:
    streams: Any = importlib.import_module("wsidicom.file.io.wsidicom_io")
    reading: Any = importlib.import_module("wsidicom.file.io.wsidicom_reader")
    upath: Any = importlib.import_module("upath")

    def opened(path: Path) -> Any:
        return reading.WsiDicomReader(streams.WsiDicomReadIO(path.open("rb"), upath.UPath(os.fspath(path))))

    def index(path: Path) -> int:
        with opened(path) as reader:
            return len(reader.frame_index)

    def frame(path: Path, i: int) -> bytes:
        with opened(path) as reader:
            return bytes(reader.read_frame(i))

    return Reader("wsidicom", version("wsidicom"), index, frame, slides_only=True)
