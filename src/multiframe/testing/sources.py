"""Sources that are made for tests: one that counts, one that fails on purpose.

It knows `ByteSource` and nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Sequence
from threading import Lock

from multiframe.errors import SourceChanged, SourceError
from multiframe.ranges import Buffer, ByteRange
from multiframe.source import ByteSource, Identity, ObjectStat, Reply, is_far

__all__ = ["CountingSource", "FaultySource"]


class CountingSource:
    """A `ByteSource` that counts what is asked of the one it wraps.

    It has no ``read_items`` even where the wrapped one has: so a walk over Items comes through here range by range,
    and is counted as a far object would see it.

    Parameters
    ----------
    source : ByteSource
        Asked in turn.

    Attributes
    ----------
    far : bool
        Whether the wrapped source is.
    requests : int
        Ranges asked for.
    bytes_read : int
        Bytes that were answered.

    Examples
    --------
    >>> from multiframe.source import FileSource
    >>> source = CountingSource(FileSource(__file__))
    >>> len(source.read_ranges([ByteRange(0, 5), ByteRange(6, 8)]).buffers)
    2
    >>> source.requests, source.bytes_read
    (2, 7)
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._lock = Lock()
        self.far = is_far(source)
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        self.requests = 0
        self.bytes_read = 0

    def stat(self) -> ObjectStat:
        """Ask for size and identity; not counted, for no bytes are read."""
        return self._source.stat()

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        return self._counted(self._source.read_ranges(ranges, identity=identity))

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        return self._counted(await self._source.read_ranges_async(ranges, identity=identity))

    def _counted(self, reply: Reply) -> Reply:
        with self._lock:  # worker threads read at the same time
            self.requests += len(reply.buffers)
            self.bytes_read += sum(memoryview(buffer).nbytes for buffer in reply.buffers)
        return reply


class FaultySource:
    """A `ByteSource` that fails on purpose, and always at the same place.

    Calls of `read_ranges` and `read_ranges_async` are counted together, from 0. What is not asked to fail is answered
    as the wrapped source answers it.

    Parameters
    ----------
    source : ByteSource
        Asked in turn.
    fails : container of int
        Calls that raise `error`: ``{2}``, or ``range(3, 10)``.
    error : type
        What they raise: `SourceError`, or a kind of it.
    short : container of int
        Calls whose every buffer has lost its last half, rounded up, though the object has not ended: against the
        protocol, and what a cut connection gives to a source that does not compare lengths.
    changed : int, optional
        From this call on the object has another identity; nobody is told but who asks for the old one.
    cut : int, optional
        Bytes after which the object ends, from the beginning: size and answers agree.
    delay : float
        Seconds that each call waits first; on the event loop others run meanwhile.

    Attributes
    ----------
    calls : int
        How many there were.

    Examples
    --------
    >>> from multiframe.source import FileSource
    >>> source = FaultySource(FileSource(__file__), fails={1}, short={2}, changed=3)
    >>> wanted, identity = [ByteRange(0, 6)], source.stat().identity
    >>> source.read_ranges(wanted).buffers
    [b'\"\"\"Sou']
    >>> source.read_ranges(wanted)
    Traceback (most recent call last):
        ...
    multiframe.errors.SourceError: call 1 fails on purpose
    >>> source.read_ranges(wanted).buffers
    [b'\"\"\"']
    >>> source.read_ranges(wanted, identity=identity)
    Traceback (most recent call last):
        ...
    multiframe.errors.SourceChanged: the object is not the one it was, on purpose
    >>> FaultySource(FileSource(__file__), cut=4).read_ranges(wanted).buffers
    [b'\"\"\"S']
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        fails: Container[int] = (),
        error: type[SourceError] = SourceError,
        short: Container[int] = (),
        changed: int | None = None,
        cut: int | None = None,
        delay: float = 0,
    ) -> None:
        self._source = source
        self._fails, self._error, self._short = fails, error, short
        self._changed, self._end, self._delay = changed, cut, delay
        self._lock = Lock()
        self.calls = 0

    def stat(self) -> ObjectStat:
        """Size and identity, as the next call will find them."""
        return self._seen(self._source.stat(), self.calls)

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        call = self._begun()
        time.sleep(self._delay)
        self._fail(call)
        return self._answer(call, self._source.read_ranges(self._inside(ranges)), identity)

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        call = self._begun()
        await asyncio.sleep(self._delay)
        self._fail(call)
        return self._answer(call, await self._source.read_ranges_async(self._inside(ranges)), identity)

    def _begun(self) -> int:
        with self._lock:  # worker threads read at the same time
            self.calls += 1
            return self.calls - 1

    def _fail(self, call: int) -> None:
        if call in self._fails:
            raise self._error(f"call {call} fails on purpose")

    def _inside(self, ranges: Sequence[ByteRange]) -> Sequence[ByteRange]:
        end = self._end
        return ranges if end is None else [ByteRange(min(start, end), min(stop, end)) for start, stop in ranges]

    def _seen(self, stat: ObjectStat, call: int) -> ObjectStat:
        size = stat.size if self._end is None else min(stat.size, self._end)
        changed = self._changed is not None and call >= self._changed
        return ObjectStat(size, ("changed", *stat.identity) if changed else stat.identity)

    def _answer(self, call: int, reply: Reply, identity: Identity | None) -> Reply:
        """Compare with what is seen through this source: the wrapped one knows nothing of our changes."""
        stat = self._seen(reply.stat, call)
        if identity not in (None, stat.identity):
            raise SourceChanged("the object is not the one it was, on purpose")
        buffers = reply.buffers
        if call in self._short:
            buffers = [_half(buffer) for buffer in buffers]
        return Reply(buffers, stat)


def _half(buffer: Buffer) -> Buffer:
    return buffer[: len(buffer) // 2]
