"""Compressed multiframe DICOM, frame by frame: found without reading pixels, served as it lies.

>>> import multiframe
>>> from pydicom.data import get_testdata_file
>>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
>>> len(instance)
30
"""

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
