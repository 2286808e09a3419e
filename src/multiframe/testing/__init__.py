"""What tests are made of: files of every layout, numbered cines, sources that count or fail, kits for plug-ins.

Public, for plug-in authors and for us: by subclassing a kit, a stranger's source or codec proves that it keeps the
protocol. It must not know the readers, the server or the command line.

>>> import io
>>> from multiframe.testing import cine
>>> cine(io.BytesIO(), frames=2, rows=96, columns=128).frames
2
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiframe.testing.cines import FRAMES_PER_SECOND, JPEG_BASELINE, PHASES, Written, cine
    from multiframe.testing.files import Layout, part10
    from multiframe.testing.kits import ByteSourceTests, CodecTests, Sample
    from multiframe.testing.numbercode import NUMBER_CODE, NumberCode, read_number
    from multiframe.testing.sources import CountingSource, FaultySource

__all__ = [
    "FRAMES_PER_SECOND",
    "JPEG_BASELINE",
    "NUMBER_CODE",
    "PHASES",
    "ByteSourceTests",
    "CodecTests",
    "CountingSource",
    "FaultySource",
    "Layout",
    "NumberCode",
    "Sample",
    "Written",
    "cine",
    "part10",
    "read_number",
]

# Each name is fetched from its room when it is first used: `multiframe info` counts and needs nothing else. No room has
# the name of what is in it: importing `testing.cine` would put the room where the function is looked for.
_ROOMS = {
    "FRAMES_PER_SECOND": "cines",
    "JPEG_BASELINE": "cines",
    "NUMBER_CODE": "numbercode",
    "PHASES": "cines",
    "ByteSourceTests": "kits",
    "CodecTests": "kits",
    "CountingSource": "sources",
    "FaultySource": "sources",
    "Layout": "files",
    "NumberCode": "numbercode",
    "Sample": "kits",
    "Written": "cines",
    "cine": "cines",
    "part10": "files",
    "read_number": "numbercode",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
