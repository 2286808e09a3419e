"""How a place is written in the catalog: a path of this machine, or the URL of an object elsewhere.

A local path is bytes as the operating system has them, and begins with a slash; anything else is a URL. It must not
know what lies there.
"""

import os
import re
from collections.abc import Iterable

from multiframe.errors import SourceError

__all__ = ["OURS", "inside", "is_below", "is_local", "is_url", "lists", "path_of", "root_of", "scope_of", "shown"]

OURS = ".multiframe-"
"""What the names of files and folders begin with that are on their way, and nobody's business but their writer's."""

_ROOT = re.compile(r"(?:https?://[^/?#@\s]+(?:/[^?#]*)?|(?:s3|gs|az)://[^/\s]+(?:/.*)?)", re.I | re.S)


def is_local(path: bytes) -> bool:
    """Whether a place in the catalog is a file of this machine."""
    return path.startswith(b"/")


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether somebody means a URL."""
    return isinstance(place, str) and "://" in place and not place.startswith(("/", "."))


def path_of(place: str | os.PathLike[str]) -> bytes:
    """Write a place as the catalog does.

    Examples
    --------
    >>> path_of("/srv/../srv/a.dcm"), path_of("s3://archive/2026/a.dcm")
    (b'/srv/a.dcm', b's3://archive/2026/a.dcm')
    """
    return str(place).encode() if is_url(place) else os.fsencode(os.path.abspath(place))


def root_of(place: str | os.PathLike[str]) -> bytes:
    """Write a root as the catalog does: a folder where it really lies, a bucket without a slash at its end.

    Raises
    ------
    SourceError
        It is a URL that would have to be kept secret, or none that can be a root.

    Examples
    --------
    >>> root_of("s3://archive/2026/")
    b's3://archive/2026'
    >>> root_of("https://example.org/list.txt?signature=secret")
    Traceback (most recent call last):
        ...
    multiframe.errors.SourceError: https://example.org/list.txt: not a root: write ...
    """
    if not is_url(place):
        return os.fsencode(os.path.realpath(place))
    url = str(place).rstrip("/")
    if not _ROOT.fullmatch(url):
        told = "not a root: write s3://BUCKET/PREFIX, gs://, az:// or https://HOST/PATH, without a password or a query"
        raise SourceError(f"{shown(url.encode())}: {told}")
    scheme, _, rest = url.partition("://")
    return f"{scheme.lower()}://{rest}".encode()


def lists(root: bytes) -> bool:
    """Whether a root is a list of addresses."""
    return root.startswith(b"http") and root.lower().endswith(b".txt")


def scope_of(root: bytes) -> bytes:
    """Give what all that a root lists lies below: a list of addresses may only name what lies beside it."""
    return root.rpartition(b"/")[0] if lists(root) else root


def inside(folder: bytes) -> bytes:
    """Give what the places of all that lies in a folder begin with."""
    return folder.rstrip(b"/") + b"/"


def is_below(path: bytes, folders: Iterable[bytes]) -> bool:
    """Whether a place lies below one of these, or is one of them.

    Examples
    --------
    >>> (
    ...     is_below(b"/srv/a/1.dcm", [b"/srv/a"]),
    ...     is_below(b"/srv/ab.dcm", [b"/srv/a"]),
    ...     is_below(b"s3://a/b", [b"s3://a"]),
    ... )
    (True, False, True)
    """
    return any(path == folder or path.startswith(inside(folder)) for folder in folders)


def shown(path: bytes) -> str:
    """Give what of a place may be shown: no query, no password."""
    if is_local(path):
        return os.fsdecode(path)
    scheme, _, rest = re.split("[?#]", path.decode("utf-8", "replace"), maxsplit=1)[0].partition("://")
    host, slash, below = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{below}"
