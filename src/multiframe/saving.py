"""Writing files whole or not at all, and the index files of instances.

It knows paths and what is worth writing. It must not know the format of an index file (``indexfile.py``'s), nor how
many are written at once (``cli/index.py``'s).
"""

import contextlib
import os
import secrets
from pathlib import Path
from stat import S_IMODE
from typing import Literal, NamedTuple

from multiframe.errors import FormatError, SourceError, SourceNotFound
from multiframe.frameindex import FrameIndex
from multiframe.indexfile import SUFFIX, content_of, dump, read_index
from multiframe.indexing import index_frames
from multiframe.inflate import Inflated
from multiframe.instance import Instance, open_instance
from multiframe.ranges import ByteRange
from multiframe.source import FileSource, run

__all__ = ["Indexed", "index_file", "save_index", "write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; what is no regular file, such as a pipe or a device, is written into.

    It is on the disk before it takes the place of what was there, and keeps that one's permissions. A process that is
    killed leaves at worst a file ``.multiframe-*.tmp`` beside it.

    Raises
    ------
    OSError
        It cannot be written; nothing has changed.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "frame.jpg"
    >>> write_whole(path, b"all of it")
    >>> path.read_bytes()
    b'all of it'
    """
    path = path.resolve()  # a link stays one, and what it leads to is replaced
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    temporary = path.with_name(f".multiframe-{secrets.token_hex(8)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(file.fileno(), S_IMODE(path.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class Unplaced(FormatError):
    """The data set is deflated: an index of it would name places in no file."""


def save_index(instance: Instance, path: str | os.PathLike[str] | None = None) -> Path:
    """Write the index file of an instance, complete and proven whole.

    Parameters
    ----------
    instance : Instance
        Whose frames are found first, all of them, as far as they are not known.
    path : path-like, optional
        Where to; else ``NAME.frames`` beside the file NAME. An index file that is there is replaced.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    SourceError
        It cannot be written there; or something lies there that is no index file; or no path was given, and the
        instance is not of a local file.
    FormatError
        The data set is deflated: its frames have no place in the file.
    FrameNotFound, NoPixelData, FragmentError, TruncatedError, SourceChanged
        As `Instance.index`.

    Examples
    --------
    >>> import multiframe, shutil, tempfile
    >>> from pydicom.data import get_testdata_file
    >>> path = shutil.copy(get_testdata_file("examples_ybr_color.dcm", read=False), tempfile.mkdtemp())
    >>> save_index(multiframe.open(path)).name
    'examples_ybr_color.dcm.frames'
    """
    if isinstance(instance.source, Inflated):
        raise Unplaced("the data set is deflated: its frames have no place in the file that an index could name")
    if path is None:
        if not isinstance(instance.source, FileSource):
            raise SourceError("an index file can be written beside a local file only: give a path")
        path = f"{instance.source.path}{SUFFIX}"
    target = Path(path)
    index = _proven(instance)
    plan = content_of(instance.header, index, instance.stat)
    content = run(plan, instance.source, identity=instance.stat.identity)
    try:
        _spare(target)
        write_whole(target, dump(index, content))
    except OSError as error:
        raise SourceError(f"{target}: {error.strerror or 'cannot be written'}") from None
    return target


def _proven(instance: Instance) -> FrameIndex:
    """Give the index proven whole; one that is not is found anew from the Items."""
    index = instance.complete()
    if index.proof == "whole":
        return index
    return run(index_frames(instance.header, instance.stat.size), instance.source, identity=instance.stat.identity)


def _spare(path: Path) -> None:
    """Make sure that a slip of the pen costs nobody a DICOM file, or any other but an index file."""
    if path.is_file():
        head = bytes(FileSource(path).read_ranges([ByteRange(0, 132)]).buffers[0])
        if head and (head[:2] != b"\x1f\x8b" or head[128:] == b"DICM"):
            raise SourceError(f"{path} is there and is no index file: it is not overwritten; name another")


class Indexed(NamedTuple):
    """What was found of one file, and what became of it.

    Attributes
    ----------
    source : str
        What was asked for; a URL without its query.
    state : str
        ``found``: nothing was to be written; ``written``; ``fresh``: the index file there is right already.
    index_file : str or None
        Where the index file lies.
    index_bytes : int or None
        And its size.
    frames, declared_frames, kind, origin, repaired, proof, complete, damage, fragments
        As ``multiframe info`` tells them.
    """

    source: str
    state: Literal["found", "written", "fresh"]
    index_file: str | None
    index_bytes: int | None
    frames: int
    declared_frames: int | None
    kind: str
    origin: str
    repaired: bool
    proof: str
    complete: bool
    damage: str | None
    fragments: int


def index_file(place: str, output: Path | None = None, *, force: bool = False) -> Indexed:
    """Find all frames of a file, and write its index file unless a fresh one is there.

    Parameters
    ----------
    place : str
        A path or URL.
    output : Path, optional
        Where the index file belongs; None: nothing is written.
    force : bool
        Find the frames anew even where a fresh index file is there.

    Raises
    ------
    MultiframeError
        As `open_instance` and `save_index`; and where not one frame was found, the reason.
    """
    instance = open_instance(place)
    state: Literal["found", "written", "fresh"] = "found"
    index = None
    if output is not None:
        _spare(output)
    if output is not None and not force:
        with contextlib.suppress(SourceNotFound):
            index = read_index(FileSource(output), instance.source, instance.header, instance.stat)
            state = "fresh"
    if index is None:
        # Of its own, lest an index file that lies about is written again as what was found.
        instance = Instance(instance.source, instance.stat, instance.header)
        index = _proven(instance)
        if index.damage and not len(index):
            raise index.damage.error()
        if output is not None:
            save_index(instance, output)
            state = "written"
    return Indexed(
        source=place.partition("?")[0] if "://" in place else place,
        state=state,
        index_file=str(output) if output else None,
        index_bytes=output.stat().st_size if output else None,
        frames=len(index),
        declared_frames=index.declared,
        kind=index.kind,
        origin=index.origin,
        repaired=index.repaired,
        proof=index.proof,
        complete=index.damage is None,
        damage=str(index.damage.error()) if index.damage else None,
        fragments=index.fragments,
    )
