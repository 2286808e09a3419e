"""Where stored instances lie: in a folder or a bucket, each at a place made of its UID alone.

A shelf takes a whole file only where nothing lies yet, whoever else tries at the same moment, on whatever machine. It
knows folders, and S3 by obstore, which is imported on use. It must not know the catalog.
"""

import contextlib
import fcntl
import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from hashlib import sha256
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

from multiframe.errors import StoreError, StoreFull
from multiframe.remote import source_of
from multiframe.source import ByteSource, FileSource

if TYPE_CHECKING:
    from obstore.store import RetryConfig, S3Store

__all__ = ["Bucket", "Folder", "Shelf", "sync_folder"]

_BLOCK: Final = 1 << 20
"""Bytes of an object that are sent at a time."""

_LOOKED_FOR: Final = 5 << 20
"""Bytes from which on it is looked first whether an object is there: all of it would be sent before it is refused."""

_MOST: Final = 5 << 30
"""Bytes of an object that S3 takes at once."""

_TRIES: Final = 4
_PATIENCE: Final = 60.0
"""Seconds without a byte after which a connection is given up, and after which nothing is tried again."""

_BUSY: Final = frozenset(
    (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE)
)


def _below(uid: str) -> str:
    return f"{sha256(uid.encode()).hexdigest()[:2]}/{uid}.dcm"


class Shelf(Protocol):
    """Where instances are put.

    Attributes
    ----------
    held : int
        Bytes of memory that putting one takes.
    """

    held: int

    def where(self, uid: str) -> Path | str:
        """Say where an instance lies, as the catalog is told."""
        ...

    def source(self, uid: str) -> ByteSource:
        """Give what lies there."""
        ...

    def alone(self, uids: Iterable[str]) -> AbstractContextManager[bool]:
        """Keep others from putting these instances until the block ends; gives whether that can be done."""
        ...

    def put(self, path: Path, uid: str) -> bool:
        """Put a file, which may be moved, where its UID says, unless something lies there: then False.

        Raises
        ------
        StoreError, OSError
            It cannot be put.
        """
        ...

    def settle(self, uids: Iterable[str]) -> None:
        """See to it that what was put outlives a loss of power."""
        ...

    def remove(self, uid: str) -> None:
        """Take away what lies there, if anything does."""
        ...


class Folder:
    """A folder, of 256.

    Parameters
    ----------
    folder : Path
        Made if it is not there.

    Raises
    ------
    StoreError
        It cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> shelf = Folder(Path(tempfile.mkdtemp()))
    >>> file = shelf.folder / "arrived"
    >>> file.write_bytes(b"...")
    3
    >>> shelf.put(file, "1.2.3"), shelf.where("1.2.3").relative_to(shelf.folder)
    (True, PosixPath('c4/1.2.3.dcm'))
    """

    held = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        try:
            if not (self.folder / "ff").exists():  # the last one
                for n in range(256):
                    (self.folder / f"{n:02x}").mkdir(parents=True, exist_ok=True, mode=0o750)
                sync_folder(self.folder)
        except OSError as error:
            raise StoreError(f"{self.folder}: nothing can be stored here: {error.strerror}") from None

    def where(self, uid: str) -> Path:
        """Say where an instance lies."""
        return self.folder / _below(uid)

    def source(self, uid: str) -> ByteSource:
        """Give what lies there."""
        return FileSource(self.where(uid))

    @contextlib.contextmanager
    def alone(self, uids: Iterable[str]) -> Iterator[bool]:
        """Hold the locks of the folders, always in the same order, so that nobody waits in a ring."""
        with contextlib.ExitStack() as locks:
            for folder in sorted({self.where(uid).parent for uid in uids}):
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                locks.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield True

    def put(self, path: Path, uid: str) -> bool:
        """Move a file to its place; whoever calls is `alone`."""
        # No second link: taking the first name away would change the file's ctime, and with it its identity.
        if (place := self.where(uid)).exists():
            return False
        path.rename(place)
        return True

    def settle(self, uids: Iterable[str]) -> None:
        """Sync the folders."""
        for folder in {self.where(uid).parent for uid in uids}:
            sync_folder(folder)

    def remove(self, uid: str) -> None:
        """Take a file away."""
        self.where(uid).unlink(missing_ok=True)


class Bucket:
    """A bucket of S3: an object is created on condition that there is none, in constant memory.

    It is sent in one request, by an address that obstore signs: obstore itself would hold all of it, and the condition
    of `PutObject` (RFC 9110 13.1.2) is the one that servers of every make keep.

    Parameters
    ----------
    url : str
        ``s3://BUCKET/PREFIX``; credentials as for reading.

    Raises
    ------
    StoreError
        It is of another kind of object store: those have other conditions, and none of them was tried.

    Examples
    --------
    >>> Bucket("gs://archive")
    Traceback (most recent call last):
        ...
    multiframe.errors.StoreError: gs://archive: instances are stored in a folder, or at s3://BUCKET/PREFIX, ...
    """

    held = _BLOCK

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme != "s3" or not parts.netloc:
            raise StoreError(f"{url}: instances are stored in a folder, or at s3://BUCKET/PREFIX, and nowhere else")
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        self._client: S3Store | None = None

    @property
    def _store(self) -> "S3Store":
        if self._client is None:
            from obstore.store import S3Store

            retry: RetryConfig = {"max_retries": _TRIES - 1, "retry_timeout": timedelta(seconds=_PATIENCE)}
            self._client = S3Store(self._bucket, client_options={"allow_http": True}, retry_config=retry)
        return self._client

    def _key(self, below: str) -> str:
        return f"{self._prefix}/{below}" if self._prefix else below

    def where(self, uid: str) -> str:
        """Say where an instance lies."""
        return f"{self.url}/{_below(uid)}"

    def source(self, uid: str) -> ByteSource:
        """Give what lies there."""
        return source_of(self.where(uid))

    def alone(self, uids: Iterable[str]) -> AbstractContextManager[bool]:
        """Keep nobody from anything: that could not be done."""
        return contextlib.nullcontext(False)

    def put(self, path: Path, uid: str) -> bool:
        """Send a file, and create the object on condition that there is none."""
        import obstore
        from obstore.exceptions import BaseError, NotFoundError

        size, key = path.stat().st_size, self._key(_below(uid))
        if size > _MOST:
            raise StoreError(f"instances of more than {_MOST} bytes are not stored in an object store")
        failure: str | None = None
        try:
            if size > _LOOKED_FOR:
                with contextlib.suppress(NotFoundError, FileNotFoundError):
                    obstore.head(self._store, key)
                    return False
            return self._sent(path, size, key)
        except (BaseError, OSError, ValueError, HTTPException) as error:
            failure = type(error).__name__
        raise StoreError(f"the object store does not take it ({failure})")  # obstore's own text may hold keys

    def _sent(self, path: Path, size: int, key: str) -> bool:
        """Send a file in one request; again, where the connection or the server fails."""
        until = time.monotonic() + _PATIENCE
        for left in reversed(range(_TRIES)):
            last = not left or time.monotonic() >= until
            try:
                status = self._asked(path, size, key)
            except (OSError, HTTPException):
                if last:
                    raise
            else:
                if status in (HTTPStatus.OK, HTTPStatus.CREATED):
                    return True
                if status == HTTPStatus.PRECONDITION_FAILED:
                    return False
                if last and status in _BUSY:
                    raise StoreFull(f"the object store has no room, or no time ({status})")
                if last or (status < 500 and status not in (*_BUSY, HTTPStatus.CONFLICT)):
                    raise ValueError(status)
            time.sleep(random.uniform(0.1, 1))
        raise AssertionError

    def _asked(self, path: Path, size: int, key: str) -> int:
        """Send a file once; gives the status."""
        from obstore import sign

        url = urlsplit(sign(self._store, "PUT", key, timedelta(hours=12)))
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        with contextlib.closing(kind(url.netloc, timeout=_PATIENCE, blocksize=_BLOCK)) as connection:
            with path.open("rb") as file, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # Whoever hangs up may have said before why.
                headers = {"Content-Length": str(size), "If-None-Match": "*"}
                connection.request("PUT", f"{url.path}?{url.query}", file, headers)
            answer = connection.getresponse()
            answer.read(_BLOCK)
            return answer.status

    def settle(self, uids: Iterable[str]) -> None:
        """Do nothing: what an object store has acknowledged it has."""

    def remove(self, uid: str) -> None:
        """Delete an object."""
        import obstore
        from obstore.exceptions import BaseError, NotFoundError

        failure: str | None = None
        try:
            obstore.delete(self._store, self._key(_below(uid)))
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            failure = type(error).__name__
        if failure is not None:
            raise StoreError(f"the object store does not delete it ({failure})")


def sync_folder(folder: Path) -> None:
    """See to it that the names in a folder outlive a loss of power."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
