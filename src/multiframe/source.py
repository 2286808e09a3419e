"""Where bytes come from: the `ByteSource` protocol, local files, and the two drivers that run plans.

It knows how to read ranges and whether the object is still the same one. It must not know what the bytes mean.
The drivers are the only two-coloured code: every parser above is one plan.

Users' files are never memory-mapped: a file cut while mapped kills the process by SIGBUS.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from fcntl import F_SETFL, fcntl
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from multiframe.encapsulation import NEAR, follow_items
from multiframe.errors import SourceChanged, SourceError, SourceNotFound
from multiframe.memory import MemoryBudget
from multiframe.ranges import Buffer, ByteRange, ItemChain, Plan

if TYPE_CHECKING:
    from multiframe.far import Crew, Prefix, Waiting
    from multiframe.keeping import Kept

__all__ = [
    "FEW_STEPS",
    "KEPT",
    "ByteSource",
    "FileSource",
    "Identity",
    "ObjectStat",
    "Reply",
    "is_far",
    "object_stat",
    "run",
    "run_async",
]

type Window = Callable[[Callable[[int, int, int], bytes], int, int, int], bytes]
type Identity = tuple[int | str, ...]
"""What tells one state of an object from another; a local file's is inode, size, mtime_ns, ctime_ns: its
device has another number on each machine that has mounted it."""

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_CANNOT_SAY = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)  # a file system that does not know RWF_NOWAIT
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # opening a named pipe must not wait for a writer
_NO_ATIME = getattr(os, "O_NOATIME", 0)


class ObjectStat(NamedTuple):
    """Size in bytes, and identity."""

    size: int
    identity: Identity


class Reply(NamedTuple):
    """The bytes of each range asked for, in that order, and what object they are of."""

    buffers: Sequence[Buffer]
    stat: ObjectStat


@runtime_checkable
class ByteSource(Protocol):
    """Anything bytes can be read from: three methods, no state, no lock.

    A range that runs past the end is answered short. Given an identity, a source whose object has another one raises
    `SourceChanged` and hands out nothing.
    """

    def stat(self) -> ObjectStat:
        """Size and identity now."""
        ...

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        ...

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        ...


@runtime_checkable
class ItemReader(Protocol):
    """What a source may have besides: following Items without opening the object anew for each."""

    def read_items(self, chain: ItemChain, /, *, identity: Identity | None = None) -> bytes:
        """Answer an `ItemChain`, blocking."""
        ...


class FileSource:
    """A local file, opened anew for every call: nothing is held between calls, and a replaced file is noticed.

    Parameters
    ----------
    path : path-like
        Where it lies.

    Examples
    --------
    >>> import multiframe.source
    >>> FileSource(multiframe.source.__file__).read_ranges([ByteRange(0, 3)]).buffers
    [b'\"\"\"']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"FileSource({str(self.path)!r})"

    def stat(self) -> ObjectStat:
        """Size and identity now."""
        try:
            return object_stat(os.stat(self.path))
        except (OSError, ValueError) as error:
            raise self._error(error) from None

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        with self._opened(identity) as (fd, stat):
            buffers = [_pread(fd, start, min(stop, stat.size)) for start, stop in ranges]
            self._unchanged(fd, stat)
        return Reply(buffers, stat)

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges: from the page cache at once, from the disk on a worker thread."""
        with self._opened(identity) as (fd, stat):
            buffers: list[Buffer] = []
            for start, stop in ranges:
                data = _pread_cached(fd, start, min(stop, stat.size))
                if start + len(data) < min(stop, stat.size):
                    # Short is not the end: only a part was in memory.
                    data += await _in_thread(fd, start + len(data), min(stop, stat.size))
                buffers.append(data)
            self._unchanged(fd, stat)
        return Reply(buffers, stat)

    def read_cached(self, wanted: Iterable[tuple[int, memoryview]], /, *, identity: Identity | None = None) -> bool:
        """Fill buffers with what lies at offsets, waiting for no disk.

        Returns
        -------
        bool
            Whether all of it was in the page cache; if not, the buffers hold nothing of use.
        """
        with self._opened(identity) as (fd, stat):
            for start, into in wanted:
                if _fill_cached(fd, into, start) < len(into):
                    return False
            self._unchanged(fd, stat)
        return True

    def read_items(
        self, chain: ItemChain, /, *, identity: Identity | None = None, window: "Window | None" = None,
        stride: int = NEAR,
    ) -> bytes:  # fmt: skip
        """Answer an `ItemChain` with the file opened once; `window` and `stride` as of `follow_items`."""
        with self._opened(identity) as (fd, stat):
            # To look where frames lie is no use of the file; to note the time of each look costs a tenth of the walk.
            with contextlib.suppress(OSError):  # of somebody else's file it is noted
                fcntl(fd, F_SETFL, _OPEN | _NO_ATIME)
            answer = follow_items(os.pread, fd, chain, window=window, stride=stride)
            self._unchanged(fd, stat)
        return answer

    def _opened(self, identity: Identity | None) -> "_OpenFile":
        return _OpenFile(self, identity)

    def _unchanged(self, fd: int, stat: ObjectStat) -> None:
        """Compare after the read too: a file written over while it is read gives a mixture."""
        if object_stat(os.fstat(fd)) != stat:
            raise SourceChanged(f"{self.path} changed while it was read")

    def _error(self, error: OSError | ValueError) -> SourceError:
        if not isinstance(error, OSError):  # a zero byte in the name
            return SourceNotFound(f"{str(self.path)!r}: no such file")
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return SourceNotFound(f"{self.path}: no such file")
        return SourceError(f"{self.path}: {error.strerror or 'cannot be read'}")


class _OpenFile:
    """An open descriptor and the stat that came with it; every way out closes it, every OSError leaves as ours."""

    __slots__ = ("_fd", "_identity", "_source")

    def __init__(self, source: FileSource, identity: Identity | None) -> None:
        self._source = source
        self._identity = identity

    def __enter__(self) -> tuple[int, ObjectStat]:
        try:
            self._fd = os.open(self._source.path, _OPEN)
        except (OSError, ValueError) as error:
            raise self._source._error(error) from None
        try:
            found = os.fstat(self._fd)
            if not S_ISREG(found.st_mode):
                raise SourceError(f"{self._source.path} is not a regular file")
            stat = object_stat(found)
            if self._identity is not None and stat.identity != self._identity:
                raise SourceChanged(f"{self._source.path} is not the file it was: it was replaced or written to")
        except BaseException:
            os.close(self._fd)
            raise
        return self._fd, stat

    def __exit__(self, _: object, error: object, __: object) -> None:
        os.close(self._fd)
        if isinstance(error, OSError) and not isinstance(error, SourceError):
            raise self._source._error(error) from None


def object_stat(s: os.stat_result) -> ObjectStat:
    """Give size and identity of a local file."""
    return ObjectStat(s.st_size, (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns))


def _pread(fd: int, start: int, stop: int) -> bytes:
    if stop <= start:
        return b""
    data = os.pread(fd, stop - start, start)
    if len(data) < stop - start and data:  # a signal or the end; one more read tells
        more = os.pread(fd, stop - start - len(data), start + len(data))
        while more:
            data += more
            more = os.pread(fd, stop - start - len(data), start + len(data))
    return data


def _pread_cached(fd: int, start: int, stop: int) -> bytearray:
    """Read what the page cache holds, waiting for no disk."""
    data = bytearray(max(0, stop - start))
    with memoryview(data) as view:
        got = _fill_cached(fd, view, start)
    if got < len(data):
        del data[got:]
    return data


def _fill_cached(fd: int, into: memoryview, start: int) -> int:
    """Fill a buffer with what the page cache holds, and say how far that went.

    The kernel may stop where it had meant to read ahead, with the next page in memory all the same: one more question
    costs less than a thread.
    """
    size, got = len(into), 0
    if not _NOWAIT:
        return 0
    try:
        while got < size:
            more = os.preadv(fd, [into[got:] if got else into], start + got, _NOWAIT)
            if not more:
                break
            got += more
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno not in _CANNOT_SAY:
            raise
    return got


async def _in_thread(fd: int, start: int, stop: int) -> bytes:
    """Read on a worker thread; a cancelled caller must not close the descriptor under the reader."""
    import asyncio  # who has no event loop need not load it

    reading = asyncio.get_running_loop().run_in_executor(None, _pread, fd, start, stop)
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        while not reading.done():
            with contextlib.suppress(asyncio.CancelledError):  # however often: it is told below
                await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()  # seen
        raise


def _ranges_of(asked: Sequence[ByteRange | ItemChain]) -> list[ByteRange]:
    return [a for a in asked if isinstance(a, ByteRange)]


def _cost(asked: Sequence[ByteRange | ItemChain], source: ByteSource) -> int:
    """Bytes that answering may hold."""
    held: int = getattr(source, "held", 0)
    return held + sum(a.size if isinstance(a, ByteRange) else a.limit * a.record for a in asked)


def _merged(asked: Sequence[ByteRange | ItemChain], ranges: Sequence[Buffer], chains: Sequence[bytes]) -> list[Buffer]:
    r, c = iter(ranges), iter(chains)
    return [next(r) if isinstance(a, ByteRange) else next(c) for a in asked]


FEW_STEPS = 8
"""Items up to which a far chain is followed one by one; beyond, walkers are sent ahead."""


KEPT = 4 << 20
"""Bytes of a near file that a walk keeps, so as not to read them twice."""


def is_far(source: ByteSource) -> bool:
    """Whether each request to a source costs a round trip: it says so by an attribute ``far``."""
    return bool(getattr(source, "far", False))


def run[T](
    plan: Plan[T], source: ByteSource, *, identity: Identity | None = None, budget: MemoryBudget | None = None,
    carry: bool = False, prefix: "Prefix | None" = None,
) -> T:  # fmt: skip
    """Run a plan to its end, blocking.

    Parameters
    ----------
    identity : tuple, optional
        The object the plan is about; another one raises `SourceChanged`.
    budget : MemoryBudget, optional
        Where what is read is entered until the plan asks on.
    carry : bool
        Of a far source: read what lies between Items too, for it is wanted next.
    prefix : Prefix, optional
        Of a far source: is told which Items are proven while a long chain is followed.

    Examples
    --------
    >>> def first_bytes(n):
    ...     (data,) = yield [ByteRange(0, n)]
    ...     return bytes(data)
    >>> import multiframe.source
    >>> run(first_bytes(3), FileSource(multiframe.source.__file__))
    b'\"\"\"'
    """
    answers: Sequence[Buffer] | None = None
    lease = crew = near = None
    try:
        while True:
            asked = next(plan) if answers is None else plan.send(answers)
            if lease is not None:
                lease.release()
            lease = budget.acquire(min(_cost(asked, source), budget.limit), timeout=30) if budget is not None else None
            ranges = _ranges_of(asked)
            buffers = source.read_ranges(ranges, identity=identity).buffers if ranges else ()
            chains = []
            for chain in asked:
                if isinstance(chain, ByteRange):
                    continue
                if not is_far(source):
                    source = near = near or _kept(source, budget)
                    chains.append(near.read_items(chain, identity=identity))
                elif chain.need <= FEW_STEPS:
                    chains.append(run(_steps(chain, carry), source, identity=identity))
                else:
                    crew = crew or _waiting(source, identity, prefix)
                    chains.append(crew.follow(chain))
            answers = _merged(asked, buffers, chains)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        plan.close()
        if lease is not None:
            lease.release()
        if crew is not None:
            crew.close()


async def run_async[T](
    plan: Plan[T], source: ByteSource, *, identity: Identity | None = None, budget: MemoryBudget | None = None,
    carry: bool = False,
) -> T:  # fmt: skip
    """Run a plan to its end on the event loop, as `run` does."""
    answers: Sequence[Buffer] | None = None
    lease = crew = near = None
    try:
        while True:
            asked = next(plan) if answers is None else plan.send(answers)
            if lease is not None:
                lease.release()
            lease = None
            if budget is not None:
                lease = await budget.acquire_async(min(_cost(asked, source), budget.limit), timeout=30)
            ranges = _ranges_of(asked)
            buffers = (await source.read_ranges_async(ranges, identity=identity)).buffers if ranges else ()
            chains = []
            for chain in asked:
                if isinstance(chain, ByteRange):
                    continue
                if not is_far(source):
                    source = near = near or _kept(source, budget)
                    from asyncio import to_thread

                    chains.append(await to_thread(near.read_items, chain, identity=identity))
                elif chain.need <= FEW_STEPS:
                    chains.append(await run_async(_steps(chain, carry), source, identity=identity))
                else:
                    crew = crew or _crew(source, identity)
                    chains.append(await crew.follow(chain))
            answers = _merged(asked, buffers, chains)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        plan.close()
        if lease is not None:
            lease.release()
        if crew is not None:
            await crew.close()


def _kept(source: ByteSource, budget: MemoryBudget | None) -> "Kept":
    from multiframe.keeping import Kept

    if isinstance(source, Kept):
        return source
    return Kept(source) if budget is None else Kept(source, limit=min(KEPT, budget.limit // 4))


def _steps(chain: ItemChain, carry: bool) -> Plan[bytes]:
    from multiframe.far import steps  # most plans are about local files

    return steps(chain, carry=carry)


def _waiting(source: ByteSource, identity: Identity | None, prefix: "Prefix | None") -> "Waiting":
    from multiframe.far import Waiting

    return Waiting(source, identity, prefix)


def _crew(source: ByteSource, identity: Identity | None) -> "Crew":
    from multiframe.far import Crew

    return Crew(source, identity)
