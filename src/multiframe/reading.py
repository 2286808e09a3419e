"""Reading many headers at once: near ones on all cores, far ones many at a time.

Near, reading a header is Python's work: processes of their own do it, once there are enough to be worth starting them.
Far, it is waiting: threads do it. What is under way is bounded, and so is what is held. It must not know why somebody
wants them, nor what becomes of them.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import batched
from typing import NamedTuple

from multiframe.errors import MultiframeError, SourceError
from multiframe.listing import same_object, source_at
from multiframe.memory import MemoryBudget
from multiframe.places import is_local
from multiframe.registering import Record, read_record
from multiframe.settings import Settings
from multiframe.source import Identity, ObjectStat

__all__ = ["Asked", "Reader"]

_CHUNK = 25  # files a process is given at a time
_ENOUGH = 200  # files that are worth starting processes for: that takes half a second
_THREADS = 32
_AHEAD = 4  # pieces of work under way, for each process


class Asked(NamedTuple):
    """A place whose header is wanted, what its list says of it, and what the catalog knows it as."""

    path: bytes
    stat: ObjectStat | None
    known: Identity | None


type Answer = tuple[bytes, Record | SourceError | None]
"""A place, and what was read of it: None, it is as it was known; an error, it cannot be read now."""


class Reader:
    """Reads headers, and answers in about the order in which it was asked.

    Parameters
    ----------
    settings : Settings
        First read and largest size of a header; `memory` is what each process may hold.
    budget : MemoryBudget
        Where this process enters what it reads.
    processes : int
        How many may read near files; 1: this one alone.
    """

    def __init__(self, settings: Settings, budget: MemoryBudget, processes: int = 1) -> None:
        self._settings, self._budget, self._processes = settings, budget, processes
        self._near = 0
        self._pool: ProcessPoolExecutor | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: deque[tuple[Future[list[Answer]], Sequence[Asked]]] = deque()

    def read(self, asked: Sequence[Asked]) -> Iterator[Answer]:
        """Begin to read, and give what is ready, of this or of what was asked for before."""
        near = [one for one in asked if is_local(one.path)]
        far = [one for one in asked if not is_local(one.path)]
        # The first ones at once: somebody may be looking.
        here = len(near) if self._processes == 1 else max(0, _ENOUGH - self._near)
        self._near += len(near)
        for one in near[:here]:
            yield _read(one, self._settings, self._budget)
        for chunk in batched(near[here:], _CHUNK):
            self._under_way.append((self._submitted(chunk), chunk))
            yield from self._ready(_AHEAD * self._processes)
        for one in far:
            self._threads = self._threads or ThreadPoolExecutor(_THREADS, thread_name_prefix="headers")
            work = self._threads.submit(_read_some, [one], self._settings, self._budget)
            self._under_way.append((work, [one]))
            yield from self._ready(_AHEAD * _THREADS)

    def rest(self) -> Iterator[Answer]:
        """Wait for all that is under way."""
        yield from self._ready(0)

    def close(self) -> None:
        """End; what is under way is given up."""
        self._under_way.clear()
        for pool in (self._pool, self._threads):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._threads = None

    def _submitted(self, chunk: Sequence[Asked]) -> Future[list[Answer]]:
        if self._pool is None:
            from multiprocessing import get_context

            self._pool = ProcessPoolExecutor(
                self._processes, get_context("spawn"), initializer=_begin, initargs=(self._settings,)
            )
        try:
            return self._pool.submit(_read_there, chunk)
        except BrokenExecutor as error:
            broken: Future[list[Answer]] = Future()
            broken.set_exception(error)
            return broken

    def _ready(self, most: int) -> Iterator[Answer]:
        while len(self._under_way) > most:
            work, chunk = self._under_way.popleft()
            try:
                yield from work.result()
            except BrokenExecutor:  # a process was killed: the others are given up, too, and this one does their work
                self._processes = 1
                yield from _read_some(chunk, self._settings, self._budget)


def _read(asked: Asked, settings: Settings, budget: MemoryBudget) -> Answer:
    path, stat, known = asked
    try:
        if stat is None and known is not None and same_object(source_at(path).stat().identity, known):
            return path, None
        return path, read_record(path, stat, settings, budget)
    except MultiframeError as error:
        return path, error if isinstance(error, SourceError) else SourceError(str(error))
    except Exception as error:  # a fault of ours with one file must not cost all others
        return path, Record(path, stat or ObjectStat(0, ()), f"internal error: {type(error).__name__}")


def _read_some(asked: Sequence[Asked], settings: Settings, budget: MemoryBudget) -> list[Answer]:
    return [_read(one, settings, budget) for one in asked]


# ---------------------------------------------------------------------------------------------------- over there

_there: tuple[Settings, MemoryBudget] | None = None


def _begin(settings: Settings) -> None:
    global _there
    from multiprocessing import parent_process

    _there = settings, MemoryBudget(settings.memory)
    parent = parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    # A parent that was killed tells nobody: its end is waited for.
    threading.Thread(target=end_with_parent, name="orphan", daemon=True).start()


def _read_there(chunk: Sequence[Asked]) -> list[Answer]:
    assert _there is not None
    return _read_some(chunk, *_there)
