"""What a walk over a near file has read already: `Kept`, so that no byte of a small file is read twice.

A walk over small Items reads what lies between them too, and where they leave a doubt the codestreams are walked as
well. It knows which bytes it holds. It must not know what they mean, nor how they are read; what is far has `Nearby`.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from struct import Struct

from multiframe.encapsulation import NEAR, follow_items
from multiframe.ranges import Buffer, ByteRange, ItemChain
from multiframe.source import KEPT, ByteSource, FileSource, Identity, ObjectStat, Reply

__all__ = ["Kept"]

_LENGTH = Struct("<12xI")


class Kept:
    """A near file, and the first bytes that were read of it.

    It is bound to the file of its first answer, and is for one walk at a time.

    Parameters
    ----------
    source : ByteSource
        The file.
    limit : int
        Most bytes that are kept.

    Attributes
    ----------
    held : int
        Bytes that are kept now.
    seen : ObjectStat or None
        The file: size and identity as its first answer told them.

    Examples
    --------
    >>> from multiframe.testing import CountingSource
    >>> source = CountingSource(FileSource(__file__))
    >>> kept = Kept(source)
    >>> [bytes(kept.read_ranges([ByteRange(*wanted)]).buffers[0]) for wanted in ((3, 7), (5, 9))]
    [b'What', b'at a']
    >>> source.bytes_read
    6
    """

    def __init__(self, source: ByteSource, *, limit: int = KEPT) -> None:
        self.source = source
        self.held = 0
        self._limit = limit
        self.seen: ObjectStat | None = None
        self._starts: list[int] = []  # of the pieces, in order; no two overlap
        self._pieces: list[Buffer] = []
        self._records: list[tuple[ItemChain, bytes]] = []  # answers, not yet taken apart
        self._from = 0, 0  # where the last chain began, and how many Items it met
        self._last: tuple[int, bytes] = 0, b""  # window, which the next one may overlap

    def __repr__(self) -> str:
        return repr(self.source)

    def stat(self) -> ObjectStat:
        """Size and identity now."""
        return self.source.stat()

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        cut, missing = self._cut(ranges, identity)
        if missing or self.seen is None:
            self._keep(missing, self.source.read_ranges(missing, identity=self._bound(identity)), cut)
        return self._reply(cut)

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        cut, missing = self._cut(ranges, identity)
        if missing or self.seen is None:
            reply = await self.source.read_ranges_async(missing, identity=self._bound(identity))
            self._keep(missing, reply, cut)
        return self._reply(cut)

    def read_items(self, chain: ItemChain, /, *, identity: Identity | None = None) -> bytes:
        """Answer an `ItemChain`, blocking."""
        source = self.source
        # From one Item to the next, as the chain before had them.
        stride = max(8, chain.start - self._from[0]) // self._from[1] if self._from[1] else NEAR
        self._from = chain.start, 0
        if isinstance(source, FileSource):
            answer = source.read_items(chain, identity=self._bound(identity), window=self._window, stride=stride)
        elif (follow := getattr(source, "read_items", None)) is not None:
            answer = follow(chain, identity=self._bound(identity))
        else:
            answer = follow_items(self._read, identity, chain, window=_as_it_is, stride=stride)
            self._from = chain.start, len(answer) // chain.record
            return answer
        self._from = chain.start, len(answer) // chain.record
        if self.held + len(answer) <= self._limit:
            self._records.append((chain, answer))
            self.held += len(answer)
        return answer

    def _bound(self, identity: Identity | None) -> Identity | None:
        return self.seen.identity if identity is None and self.seen else identity

    # ------------------------------------------------------------------ ranges

    def _cut(
        self, ranges: Sequence[ByteRange], identity: Identity | None
    ) -> tuple[list[list[Buffer | ByteRange]], list[ByteRange]]:
        """Cut each range into what is held and what has to be read."""
        seen = self.seen
        if seen is None or identity not in (None, seen.identity):  # another one: whoever reads will say so
            return [[wanted] for wanted in ranges], list(ranges)
        self._take_apart()
        cut = [list(self._held(start, min(stop, seen.size))) for start, stop in ranges]
        return cut, [part for parts in cut for part in parts if isinstance(part, ByteRange)]

    def _held(self, at: int, stop: int) -> Iterator[Buffer | ByteRange]:
        """Give the bytes that are held, and the ranges that are not."""
        starts, pieces = self._starts, self._pieces
        k = max(bisect_right(starts, at) - 1, 0)
        while at < stop:
            before = starts[k] if k < len(starts) else stop
            if at < before:
                yield ByteRange(at, min(before, stop))
                at = min(before, stop)
                continue
            piece = pieces[k]
            if at < before + len(piece):
                yield piece[at - before : stop - before]
                at = before + len(piece)
            k += 1

    def _keep(self, asked: Sequence[ByteRange], reply: Reply, cut: list[list[Buffer | ByteRange]]) -> None:
        """Fill in what was read, and keep it."""
        self.seen = self.seen or reply.stat
        buffers = iter(reply.buffers)
        for parts in cut:
            for k, part in enumerate(parts):
                if isinstance(part, ByteRange):
                    parts[k] = data = next(buffers)
                    self._put(part.start, data)

    def _put(self, start: int, data: Buffer) -> None:
        """Keep bytes none of which is held, if there is room."""
        if not data or self.held + len(data) > self._limit:
            return
        k = bisect_right(self._starts, start)
        if k < len(self._starts) and start + len(data) > self._starts[k]:
            return  # two ranges of one question overlap
        if k and self._starts[k - 1] + len(self._pieces[k - 1]) > start:
            return
        self._starts.insert(k, start)
        self._pieces.insert(k, data)
        self.held += len(data)

    def _reply(self, cut: list[list[Buffer | ByteRange]]) -> Reply:
        assert self.seen is not None
        buffers = [parts[0] if len(parts) == 1 else b"".join(parts) for parts in cut]  # type: ignore[arg-type]
        return Reply(buffers, self.seen)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ Items

    def _read(self, identity: Identity | None, size: int, at: int) -> bytes:
        return bytes(self.read_ranges([ByteRange(at, at + size)], identity=identity).buffers[0])

    def _window[File](self, read: Callable[[File, int, int], bytes], file: File, size: int, at: int) -> bytes:
        """Read a window over near Items: only what is not held, though windows overlap by an Item."""
        start, last = self._last
        out: list[Buffer] = []
        stop = at + size
        for part in self._held(at, stop) if self._starts else (ByteRange(at, stop),):
            if not isinstance(part, ByteRange):
                out.append(part)
                continue
            if start <= part.start < start + len(last):
                out.append(last[part.start - start : part.stop - start])
                part = ByteRange(min(start + len(last), part.stop), part.stop)
            if part.size:
                data = read(file, part.size, part.start)
                self._put(part.start, data)
                out.append(data)
                if len(data) < part.size:
                    break
        window = bytes(out[0]) if len(out) == 1 else b"".join(out)
        self._last = at, window
        return window

    def _take_apart(self) -> None:
        """Keep what answers to chains hold like anything else that was read."""
        answers, self._records = self._records, []
        for chain, answer in answers:
            self.held -= len(answer)
            at = chain.start - 8
            for i in range(0, len(answer) - 15, chain.record):
                one = answer[i : i + chain.record]
                size = self.seen.size if self.seen else at + 16
                for part in list(self._held(at, min(at + len(one), size))):
                    if isinstance(part, ByteRange):
                        self._put(part.start, one[part.start - at : part.stop - at])
                at += 8 + _LENGTH.unpack_from(one)[0]


def _as_it_is[File](read: Callable[[File, int, int], bytes], file: File, size: int, at: int) -> bytes:
    return read(file, size, at)
