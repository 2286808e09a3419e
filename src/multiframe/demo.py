"""The data of ``multiframe demo``: a synthetic cine of any size, made once, and what real files are at hand.

It knows the user's cache folder and how a large file gets there whole or not at all. It must not know the server that
shows the files, nor the network: nothing is ever downloaded.
"""

import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from multiframe.errors import SourceError
from multiframe.settings import cache_folder, format_size
from multiframe.testing import cine

if sys.platform != "win32":
    import fcntl

__all__ = ["default_directory", "prepare", "real_files"]

VERSION = 1
"""Raised whenever `cine` draws or writes something else: older files are then not used any more."""


def default_directory() -> Path:
    """Name the folder the demo's files are kept in: ``$XDG_CACHE_HOME/multiframe/demo``, or below ``~/.cache``.

    Examples
    --------
    >>> default_directory().parts[-2:]
    ('multiframe', 'demo')
    """
    return cache_folder(os.environ) / "demo"


def real_files() -> list[Path]:
    """Find the real ultrasound cines that installed packages carry.

    pydicom brings one; another comes with ``pip install multiframe[demo]``. What is not there is left out.

    Examples
    --------
    >>> [path.name for path in real_files()]
    [...'examples_ybr_color.dcm']
    """
    # Looked up as files: pydicom's own finder goes to the network for what it does not have.
    wanted = (
        ("data_store", "data/color3d_jpeg_baseline.dcm"),
        ("pydicom", "data/test_files/examples_ybr_color.dcm"),
    )
    found = []
    for package, name in wanted:
        spec = find_spec(package)
        places = spec.submodule_search_locations if spec else None
        found += [path for place in places or () if (path := Path(place, name)).is_file()]
    return found


def prepare(directory: Path, size: int, *, progress: Callable[[int, int], object] | None = None) -> list[Path]:
    """Make the demo's files, or find them made.

    The cine is written under a temporary name and renamed when it is whole and on the disk; its final name holds its
    size, so that a file of that name and size is complete. An interrupt leaves nothing behind; what a killed process
    left is cleaned up by the next. Two at once take turns, and the second finds the first one's file.

    Parameters
    ----------
    directory : Path
        Made when it is not there.
    size : int
        Bytes of the cine, met within 1 % from 10 MB on; at least one frame is written.
    progress : callable, optional
        Told ``(frames done, frames in all)`` after each frame written; not called when the file is there.

    Returns
    -------
    list of Path
        The cine first, then the real one of `multiframe[demo]`, if it is installed.

    Raises
    ------
    SourceError
        No room, or the folder cannot be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _turn(directory):
            path = _complete(directory, size) or _make(directory, size, progress)
    except OSError as error:
        raise SourceError(
            f"{directory}: the demo's files cannot be kept there ({error.strerror or error}); "
            "name another folder with --dir"
        ) from error
    # Of the real cines one is shown: both carry the same SOP Instance UID.
    return [path, *(real for real in real_files() if real.name.startswith("color3d"))]


def _complete(directory: Path, size: int) -> Path | None:
    for path in sorted(directory.glob(f"cine-v{VERSION}-{size}-*.dcm")):
        recorded = re.fullmatch(r".*-([0-9]+)bytes\.dcm", path.name)
        if recorded and path.stat().st_size == int(recorded[1]):
            return path
    return None


def _make(directory: Path, size: int, progress: Callable[[int, int], object] | None) -> Path:
    for leftover in directory.glob(".cine-*.part"):  # it is our turn: whoever wrote it is dead
        leftover.unlink(missing_ok=True)
    free = shutil.disk_usage(directory).free
    needed = size + size // 50 + 16_000_000
    if free < needed:
        raise SourceError(
            f"{directory}: the demo's cine needs {format_size(needed)}, {format_size(free)} are free; "
            "make room, ask for a smaller --size, or name another folder with --dir"
        )
    part = directory / f".cine-{os.getpid()}.part"
    try:
        with _terminable(), part.open("xb") as file:
            written = cine(file, size=size, progress=progress)
            file.flush()
            os.fsync(file.fileno())
        path = directory / f"cine-v{VERSION}-{size}-{written.frames}frames-{written.size}bytes.dcm"
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


@contextmanager
def _turn(directory: Path) -> Iterator[None]:
    """Hold the folder; the system lets go of it for a process that dies."""
    if sys.platform == "win32":  # no such lock: of two at once, one may fail and say so
        yield
    else:
        fd = os.open(directory, os.O_RDONLY)
        try:
            with suppress(OSError):  # nor on some network file systems
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind as an interrupt does, where it would end the process on the spot."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
