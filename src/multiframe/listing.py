"""What lies below a root, near or far: folders, buckets, and lists of addresses at a web server.

It must not know what an object holds, nor how that is kept.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from stat import S_ISREG
from urllib.parse import urljoin

from multiframe.errors import SourceError
from multiframe.far import Nearby
from multiframe.folders import files
from multiframe.places import inside, is_local, lists, scope_of
from multiframe.ranges import ByteRange
from multiframe.remote import RemoteSource, listed
from multiframe.source import FileSource, Identity, ObjectStat

__all__ = ["REMEMBERED", "objects", "same_object", "source_at", "vanished"]

REMEMBERED = 256 << 10
"""Bytes that a far object keeps of what was read of it last."""

_AT_ONCE = 32
_LONGEST_LIST = 256 << 20


def source_at(path: bytes) -> FileSource | Nearby:
    """Give the source of a place in the catalog."""
    if is_local(path):
        return FileSource(os.fsdecode(path))
    return Nearby(RemoteSource(path.decode()), limit=REMEMBERED)


def same_object(one: Identity, other: Identity) -> bool:
    """Whether two identities are of one state: a list of objects knows less than their server says of each.

    Examples
    --------
    >>> same_object(("etag", '"abc"', "", 9), ("etag", '"abc"', "version 3", 9)), same_object((1, 2), (1, 3))
    (True, False)
    """
    if one == other:
        return True
    match one, other:
        case ("etag", str(tag), _, size), ("etag", str(tag2), _, size2):
            return size == size2 and tag.strip('"') == tag2.strip('"')
    return False


def objects(root: bytes, unlisted: Callable[[bytes], None]) -> Iterator[tuple[bytes, ObjectStat | None]]:
    """Walk over all objects below a root; none is opened.

    Parameters
    ----------
    root : bytes
        As `root_of` writes it.
    unlisted : callable
        Told of each root or folder that cannot be listed.

    Yields
    ------
    bytes, ObjectStat or None
        A place, and what its list says of it; None: nothing.
    """
    if is_local(root):
        yield from files([root], unlisted)
        return
    try:
        if lists(root):
            yield from _named(root)
        elif root.startswith(b"http"):
            yield root, None
        else:
            yield from ((url.encode(), stat) for url, stat in listed(root.decode()))
    except SourceError:
        unlisted(root)


def _named(root: bytes) -> Iterator[tuple[bytes, None]]:
    """Read a list of addresses, one a line, each below the folder of the list."""
    source = RemoteSource(root.decode())
    stat = source.stat()
    if stat.size > _LONGEST_LIST:
        raise SourceError(f"{source.place}: a list of {stat.size:,} bytes is too long")
    (text,) = source.read_ranges([ByteRange(0, stat.size)], identity=stat.identity).buffers
    scope = inside(scope_of(root))
    for line in bytes(text).decode("utf-8", "replace").splitlines():
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        url = urljoin(root.decode(), name).encode()
        if url.startswith(scope) and b"/../" not in url and not any(c in url for c in b"?#"):
            yield url, None


def vanished(paths: Sequence[bytes]) -> list[bytes]:
    """Give which of some places hold no object: none that could be met, and not only none that could be reached."""
    near = [path for path in paths if is_local(path) and _is_gone(path)]
    far = [path for path in paths if not is_local(path)]
    if not far:
        return near
    with ThreadPoolExecutor(min(len(far), _AT_ONCE), thread_name_prefix="vanished") as pool:
        return near + [path for path, gone in zip(far, pool.map(_is_gone, far), strict=True) if gone]


def _is_gone(path: bytes) -> bool:
    try:
        if is_local(path):
            return not S_ISREG(os.lstat(path).st_mode)
        source_at(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, SourceError):
        pass
    return False
