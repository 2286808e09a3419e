"""Reading what lies far away, where each request costs a round trip.

It knows what a request is worth: neighbours are read at once, what was read lately is not read again (`Nearby`), a
long chain of Items is followed by many walkers (`Crew`), and who needs no more than they have proven need not wait for
them (`Prefix`). It must not know what the bytes mean, nor how a request is made.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from multiframe.elements import UNDEFINED
from multiframe.encapsulation import ITEM_WORD
from multiframe.errors import SourceChanged
from multiframe.ranges import Buffer, ByteRange, ItemChain, Plan, coalesce
from multiframe.source import FEW_STEPS, ByteSource, Identity, ObjectStat, Reply
from multiframe.walkers import Walkers

if TYPE_CHECKING:  # who reads near files alone need not load it
    import asyncio

__all__ = ["Crew", "Nearby", "Prefix", "Waiting", "steps"]

_GAP = 32 << 10
_MOST = 16 << 20
_REMEMBERED = 8 << 20
_SMALL = 16 << 10
_AHEAD = 64 << 10
_CARRIED = 4 << 20
_SPANS = 64


class Nearby:
    """A far object, and the bytes that were read of it last.

    Neighbouring ranges are one request. It is bound to the object of its first answer.

    Parameters
    ----------
    source : ByteSource
        The far object.
    limit : int
        Bytes that are remembered.

    Attributes
    ----------
    seen : ObjectStat or None
        The object: size and identity as its first answer told them.

    Examples
    --------
    >>> from multiframe.source import FileSource
    >>> near = Nearby(FileSource(__file__))
    >>> near.read_ranges([ByteRange(0, 100)]).stat == near.read_ranges([ByteRange(40, 60)]).stat
    True
    """

    far = True

    def __init__(self, source: ByteSource, *, limit: int = _REMEMBERED) -> None:
        self.source = source
        self._limit = limit
        self.seen: ObjectStat | None = None
        self._spans: deque[tuple[int, int, Buffer]] = deque()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return repr(self.source)

    def stat(self) -> ObjectStat:
        """Size and identity now."""
        return self.source.stat()

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges, blocking."""
        found, missing = self._remembered(ranges, identity)
        if missing:
            self._remember(missing, self.source.read_ranges(missing, identity=self._bound(identity)), found)
        return self._reply(ranges, found)

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        """Read the ranges without blocking the event loop."""
        found, missing = self._remembered(ranges, identity)
        if missing:
            reply = await self.source.read_ranges_async(missing, identity=self._bound(identity))
            self._remember(missing, reply, found)
        return self._reply(ranges, found)

    def _bound(self, identity: Identity | None) -> Identity | None:
        return self.seen.identity if identity is None and self.seen else identity

    def _remembered(
        self, ranges: Sequence[ByteRange], identity: Identity | None
    ) -> tuple[list[tuple[int, int, Buffer]], list[ByteRange]]:
        """Give the spans that answer, and what has to be asked for: of neighbours all, once."""
        with self._lock:
            spans = list(self._spans) if self.seen and identity in (None, self.seen.identity) else []
        found, missing = [], []
        size = self.seen.size if self.seen else 0
        for wanted in ranges:
            stop = min(wanted.stop, size) if spans else wanted.stop
            span = next((s for s in spans if s[0] <= wanted.start and stop <= s[1]), None)
            if span is None:
                missing.append(wanted)
            else:
                found.append(span)
        return found, [group.span for group in coalesce(missing, max_gap=_GAP, max_size=_MOST)]

    def _remember(self, asked: Sequence[ByteRange], reply: Reply, found: list[tuple[int, int, Buffer]]) -> None:
        with self._lock:
            self.seen = self.seen or reply.stat
            if self.seen != reply.stat:
                raise SourceChanged(f"{self.source!r} is not the object it was: it was replaced or written to")
            for wanted, buffer in zip(asked, reply.buffers, strict=True):
                span = wanted.start, wanted.start + len(buffer), buffer
                found.append(span)
                if len(buffer) <= self._limit // 2:
                    self._spans.appendleft(span)
            held = 0
            for i, (_, _, buffer) in enumerate(self._spans):
                held += len(buffer)
                if held > self._limit or i >= _SPANS:
                    while len(self._spans) > i:
                        self._spans.pop()
                    break

    def _reply(self, ranges: Sequence[ByteRange], found: list[tuple[int, int, Buffer]]) -> Reply:
        assert self.seen is not None
        out: list[Buffer] = []
        for start, stop in ranges:
            stop = max(start, min(stop, self.seen.size))
            span = next((s for s in found if s[0] <= start and stop <= s[1]), None)
            out.append(b"" if span is None else span[2][start - span[0] : stop - span[0]])
        return Reply(out, self.seen)


def steps(chain: ItemChain, *, carry: bool = False) -> Plan[bytes]:
    """Follow a short chain one request a step, and no further than to the Items that are needed.

    Parameters
    ----------
    carry : bool
        Read what lies between the Items too: it is wanted next.
    """
    at, record = chain.start, chain.record
    out: list[bytes] = []
    length = 0
    while len(out) < min(chain.limit, chain.need) and at <= chain.stop:
        wanted = ByteRange(at - 8, min(at - 8 + record, chain.stop))
        if out and (length <= _SMALL or (carry and length <= _CARRIED)):
            more = ByteRange(at - length, min(max(wanted.stop, at - length + _AHEAD), chain.stop))
            yield [more]  # whoever reads remembers it
        (one,) = yield [wanted]
        one = bytes(one)
        out.append(one if len(one) < 16 else one.ljust(record, b"\0"))
        next_at = _behind(one, at)
        if next_at is None:
            break
        at, length = next_at, next_at - at - 8
    return b"".join(out)


def _behind(record: bytes, at: int) -> int | None:
    """Give where the Item lies that follows the one at `at`, as its record says; None: that is no Item."""
    tag, length = int.from_bytes(record[8:12], "little"), int.from_bytes(record[12:16], "little")
    return at + 8 + length if len(record) >= 16 and tag == ITEM_WORD and length != UNDEFINED else None


class Prefix:
    """The Items that a walk under way has proven so far, for who needs no more than these.

    Only where they lie is told: their records are read anew, but all at once.

    Parameters
    ----------
    frames : int
        How many frames lie before the walk's first Item.

    Examples
    --------
    >>> prefix = Prefix(0)
    >>> prefix.tell([8, 16])
    >>> prefix.wait(2), len(prefix)
    (True, 2)
    """

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._tags = array("Q")
        self._told = threading.Condition()
        self._over = False

    def __len__(self) -> int:
        return len(self._tags)

    @property
    def last(self) -> int:
        """Offset of the last of them."""
        return self._tags[-1] if self._tags else -1

    def tell(self, tags: Sequence[int]) -> None:
        """Say where those lie that were proven now."""
        if tags:
            with self._told:
                self._tags.extend(tags)
                self._told.notify_all()

    def end(self) -> None:
        """Say that there will be no more."""
        with self._told:
            self._over = True
            self._told.notify_all()

    def wait(self, count: int) -> bool:
        """Wait until so many are proven, and say whether they are: else there will be no more."""
        with self._told:
            self._told.wait_for(lambda: self._over or len(self._tags) >= count)
            return len(self._tags) >= count

    def within[T](self, plan: Plan[T]) -> Plan[T | None]:
        """Run a plan on what is proven now; None where it needs more."""
        answers: list[Buffer] | None = None
        try:
            while True:
                asked = next(plan) if answers is None else plan.send(answers)
                ranges = [a for a in asked if isinstance(a, ByteRange)]
                buffers = iter((yield ranges) if ranges else ())
                answers = []
                for a in asked:
                    answer = next(buffers) if isinstance(a, ByteRange) else (yield from self._follow(a))
                    if answer is None:
                        return None
                    answers.append(answer)
        except StopIteration as done:
            found: T = done.value
            return found
        finally:
            plan.close()

    def _follow(self, chain: ItemChain) -> Plan[bytes | None]:
        """Answer a chain, no further than to the Items that are needed; None: they are not all proven."""
        out: list[bytes] = []
        at: int | None = chain.start
        while at is not None and at <= chain.stop and len(out) < min(chain.limit, chain.need):
            with self._told:
                k = bisect_left(self._tags, at)
                known = self._tags[k : k + min(chain.limit, chain.need) - len(out)]
            if known and known[0] == at:
                if len(out) + len(known) < chain.need and not self._over:
                    return None
                wanted = [ByteRange(tag - 8, min(tag - 8 + chain.record, chain.stop)) for tag in known]
                records = yield wanted
            elif known and k == 0 and len(out) < FEW_STEPS:  # the walk began behind it
                records = [(yield from steps(chain._replace(start=at, limit=1)))]
            else:
                return None
            for one in map(bytes, records):
                out.append(one if len(one) < 16 else one.ljust(chain.record, b"\0"))
                at = _behind(one, at)
                if at is None:
                    break
        return b"".join(out)


class Crew:
    """The walkers of one plan, and the requests they wait for; `prefix` is told what they have proven."""

    def __init__(self, source: ByteSource, identity: Identity | None, prefix: Prefix | None = None) -> None:
        import asyncio

        self._source = source.source if isinstance(source, Nearby) else source
        self._identity = identity
        self._prefix = prefix
        self._walkers: Walkers | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: asyncio.Queue[tuple[ByteRange, Buffer | BaseException]] = asyncio.Queue()

    async def follow(self, chain: ItemChain) -> bytes:
        """Answer a chain, as long as it may be; the one that goes on from there is half walked by then."""
        from asyncio import create_task

        walkers = self._walkers
        if walkers is None or walkers.taken_to != chain.start or walkers.record != chain.record:
            await self.close()
            walkers = self._walkers = Walkers(chain, hints=chain.hints)
        while not walkers.ready(chain.limit):
            for wanted in walkers.asks():
                task = create_task(self._read(wanted))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            wanted, data = await self._answers.get()
            if isinstance(data, BaseException):
                raise data
            walkers.answer(wanted, data)
            if self._prefix is not None:
                self._prefix.tell(walkers.proven(self._prefix.last))
        return walkers.take(chain.limit)

    async def _read(self, wanted: ByteRange) -> None:
        try:
            reply = await self._source.read_ranges_async([wanted], identity=self._identity)
            self._answers.put_nowait((wanted, reply.buffers[0]))
        except Exception as error:
            self._answers.put_nowait((wanted, error))

    async def close(self) -> None:
        """Give up what is still asked for."""
        from asyncio import gather

        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await gather(*tasks, return_exceptions=True)
        while not self._answers.empty():
            self._answers.get_nowait()
        self._walkers = None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # a third less work for each of thousands of requests; not there on Windows
    except ImportError:
        from asyncio import new_event_loop

        return new_event_loop()
    return uvloop.new_event_loop()


class Waiting:
    """A `Crew` for who waits for it without an event loop: it has one of its own, on a thread."""

    def __init__(self, source: ByteSource, identity: Identity | None, prefix: Prefix | None = None) -> None:
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="multiframe walkers", daemon=True)
        self._thread.start()
        self._crew = Crew(source, identity, prefix)

    def follow(self, chain: ItemChain) -> bytes:
        """Answer a chain."""
        return self._finish(self._crew.follow(chain))

    def close(self) -> None:
        """Give up what is still asked for, and end the thread."""
        try:
            self._finish(self._crew.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _finish[T](self, work: Coroutine[Any, Any, T]) -> T:
        from asyncio import run_coroutine_threadsafe

        future = run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
