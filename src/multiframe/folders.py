"""The regular files below folders. It knows directories; it must not know what a file holds."""

import os
import stat as modes
from collections.abc import Callable, Iterable, Iterator

from multiframe.places import OURS, inside
from multiframe.source import ObjectStat, object_stat

__all__ = ["OURS", "files"]

_OURS = OURS.encode()


def files(roots: Iterable[bytes], unlisted: Callable[[bytes], None]) -> Iterator[tuple[bytes, ObjectStat]]:
    """Walk over all regular files below the roots, in the same order every time; no file is opened.

    What is still being written under a name of ours is passed by.

    Parameters
    ----------
    roots : iterable of bytes
        Files and folders; links in folders are not followed.
    unlisted : callable
        Told of each folder that cannot be listed.
    """
    for root in roots:
        pending = [root]
        while pending:
            path = pending.pop()
            try:
                status = os.stat(path, follow_symlinks=False)
                if not modes.S_ISDIR(status.st_mode):
                    if modes.S_ISREG(status.st_mode):
                        yield path, object_stat(status)
                    continue
                names = sorted(os.listdir(path), reverse=True)
            except FileNotFoundError:
                continue
            except OSError:
                unlisted(path)
                continue
            below = inside(path)
            pending.extend(below + name for name in names if not name.startswith(_OURS))
