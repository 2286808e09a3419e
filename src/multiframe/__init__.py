"""Compressed multiframe DICOM, frame by frame: found without reading pixels, served as it lies.

>>> import multiframe
>>> from pydicom.data import get_testdata_file
>>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
>>> len(instance)
30
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiframe.codec import Codec, PixelSpec
    from multiframe.errors import MultiframeError
    from multiframe.frameindex import FrameIndex
    from multiframe.header import Header
    from multiframe.instance import EncodedFrame, Instance
    from multiframe.instance import open_instance as open
    from multiframe.ranges import ByteRange
    from multiframe.settings import Settings
    from multiframe.source import ByteSource, FileSource

__all__ = [
    "ByteRange",
    "ByteSource",
    "Codec",
    "EncodedFrame",
    "FileSource",
    "FrameIndex",
    "Header",
    "Instance",
    "MultiframeError",
    "PixelSpec",
    "Settings",
    "open",
]

__version__ = "0.1.0"

# Each name is fetched from its room when it is first used: `multiframe --help` and the process that only watches over
# the workers need neither NumPy nor the walk.
_ROOMS = {
    "ByteRange": "ranges",
    "ByteSource": "source",
    "Codec": "codec",
    "EncodedFrame": "instance",
    "FileSource": "source",
    "FrameIndex": "frameindex",
    "Header": "header",
    "Instance": "instance",
    "MultiframeError": "errors",
    "PixelSpec": "codec",
    "Settings": "settings",
    "open": "instance",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f"{__name__}.{_ROOMS[name]}")
    value = getattr(room, "open_instance" if name == "open" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
