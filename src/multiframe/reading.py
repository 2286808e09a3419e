"""Reading many headers at once: near ones on all cores, far ones many at a time.

Near, reading a header is Python's work: other processes share it with this one, once there are enough files to be worth
starting them.
Far, it is waiting: threads do it. What is under way is bounded, and so is what is held. It must not know why somebody
wants them, nor what becomes of them.
"""

import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import batched
from typing import Any, NamedTuple

from multiframe.errors import MultiframeError, SourceError
from multiframe.gleaning import Gleaner
from multiframe.listing import same_object, source_at
from multiframe.memory import MemoryBudget
from multiframe.places import is_local
from multiframe.records import Record, read_record
from multiframe.settings import Settings
from multiframe.source import Identity, ObjectStat

__all__ = ["Asked", "Reader"]

_CHUNK = 100  # files a process is given at a time
_ENOUGH = 400  # files that may be the beginning of many: to start a process takes as long as some thousand headers
_THREADS = 32
_AHEAD = 8  # pieces of work under way, for each process: this one may be busy with something else for a while
_PIPE = 1 << 20  # bytes of an answer that another process need not wait with until it is taken
_SIZE = 8  # bytes that say how long an answer is
_FAR_AHEAD = 4 * _THREADS


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
        How many read near files, this one among them; 1: this one alone.
    """

    def __init__(self, settings: Settings, budget: MemoryBudget, processes: int = 1) -> None:
        self._settings, self._budget, self._processes = settings, budget, processes
        self._near = 0
        self._gleaner = Gleaner()  # of this thread
        self._pool: ThreadPoolExecutor | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._children: dict[int, _Process] = {}  # by the thread that talks to it
        self._starting: list[Future[None]] = []
        self._under_way: deque[tuple[Future[list[Answer]], Sequence[Asked]]] = deque()  # and what may be read here

    def read(self, asked: Sequence[Asked]) -> Iterator[Answer]:
        """Begin to read, and give what is ready, of this or of what was asked for before."""
        near = [one for one in asked if is_local(one.path)]
        far = [one for one in asked if not is_local(one.path)]
        # The first ones at once: somebody may be looking.
        here = len(near) if self._processes == 1 else max(0, _ENOUGH - self._near)
        self._near += len(near)
        if len(near) > here and self._pool is None:  # they start while the first ones are read
            self._start()
        for one in near[:here]:
            yield _read(one, self._settings, self._budget, self._gleaner)
        for chunk in batched(near[here:], _CHUNK):
            assert self._pool is not None
            while self._under_way and self._under_way[0][0].done():
                yield from self._under_way.popleft()[0].result()
            # Those that are still starting, or have enough to do, are not waited for.
            if all(child.done() for child in self._starting) and len(self._under_way) < _AHEAD * len(self._starting):
                self._under_way.append((self._pool.submit(self._read_there, chunk), chunk))
            else:
                for one in chunk:
                    yield _read(one, self._settings, self._budget, self._gleaner)
        for one in far:
            self._threads = self._threads or ThreadPoolExecutor(_THREADS, thread_name_prefix="headers")
            self._under_way.append((self._threads.submit(_read_some, [one], self._settings, self._budget), ()))
            while len(self._under_way) > _FAR_AHEAD:
                yield from self._under_way.popleft()[0].result()

    def rest(self) -> Iterator[Answer]:
        """Wait for all that is under way; what no other process has begun is read here."""
        while self._under_way:
            future, chunk = self._under_way.pop()
            if chunk and future.cancel():
                for one in chunk:
                    yield _read(one, self._settings, self._budget, self._gleaner)
            else:
                self._under_way.append((future, ()))
                yield from self._under_way.popleft()[0].result()

    def close(self) -> None:
        """End; what is under way is given up."""
        self._under_way.clear()
        if not all(child.done() for child in self._starting):
            for process in list(self._children.values()):
                process.kill()
        for pool in (self._pool, self._threads):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._threads = None
        while self._children:
            self._children.popitem()[1].close()

    def _start(self) -> None:
        """Start the other processes, each with a thread that talks to it."""
        others = self._processes - 1
        self._pool = ThreadPoolExecutor(others, thread_name_prefix="reading")
        self._starting = [self._pool.submit(self._start_one) for _ in range(others)]

    def _start_one(self) -> None:
        with suppress(OSError, EOFError, pickle.UnpicklingError):  # it is started anew, or does without
            child = self._children[threading.get_ident()] = _Process(self._settings)
            child.wait()

    def _read_there(self, chunk: Sequence[Asked]) -> list[Answer]:
        """Have the process of this thread read; one that was killed leaves its work to this one."""
        here = threading.get_ident()
        try:
            if here not in self._children:
                self._children[here] = child = _Process(self._settings)
                child.wait()
            return self._children[here].read(chunk)
        except (OSError, EOFError, pickle.UnpicklingError):
            return _read_some(chunk, self._settings, self._budget)


class _Process:
    """Another process that reads; it ends when its input does, however this one ends."""

    def __init__(self, settings: Settings) -> None:
        command = [sys.executable, "-m", "multiframe.reading"]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, pipesize=_PIPE
        )
        self._say(settings)

    def wait(self) -> None:
        """Wait until it is there."""
        self._answer()

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    def read(self, chunk: Sequence[Asked]) -> list[Answer]:
        self._say([(path, stat and stat[:], known) for path, stat, known in chunk])
        return [(path, _named(path, said) if type(said) is tuple else said) for path, said in self._answer()]

    def _answer(self) -> Any:
        """Take an answer in one piece: each read waits for the interpreter, which has other things to do."""
        assert self._child.stdout is not None
        size = self._child.stdout.read(_SIZE)
        if len(size) < _SIZE:
            raise EOFError
        return pickle.loads(self._child.stdout.read(int.from_bytes(size)))  # noqa: S301  # a child of ours

    def _say(self, what: object) -> None:
        assert self._child.stdin is not None
        pickle.dump(what, self._child.stdin)
        self._child.stdin.flush()

    def close(self) -> None:
        self.kill()  # it has nothing to put away
        for pipe in (self._child.stdin, self._child.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._child.wait()


def _read(asked: Asked, settings: Settings, budget: MemoryBudget, gleaner: Gleaner | None = None) -> Answer:
    path, stat, known = asked
    try:
        if stat is None and known is not None and same_object(source_at(path).stat().identity, known):
            return path, None
        return path, read_record(path, stat, settings, budget, gleaner)
    except MultiframeError as error:
        return path, error if isinstance(error, SourceError) else SourceError(str(error))
    except Exception as error:  # a fault of ours with one file must not cost all others
        return path, Record(path, stat or ObjectStat(0, ()), f"internal error: {type(error).__name__}")


def _read_some(
    asked: Sequence[Asked], settings: Settings, budget: MemoryBudget, gleaner: Gleaner | None = None
) -> list[Answer]:
    return [_read(one, settings, budget, gleaner) for one in asked]


def _bare(found: Record | SourceError | None) -> tuple[Any, ...] | SourceError | None:
    """Give what is sent of what was read: pickle takes three times as long over a tuple that has names."""
    return (found.stat[:], found[2:]) if isinstance(found, Record) else found


def _named(path: bytes, bare: tuple[Any, ...]) -> Record:
    stat, rest = bare
    return Record(path, ObjectStat(*stat), *rest)


def main() -> None:
    """Be the other process."""
    settings: Settings = pickle.load(sys.stdin.buffer)  # noqa: S301  # the parent's
    budget = MemoryBudget(settings.memory)
    gleaner = Gleaner()
    with suppress(EOFError, BrokenPipeError):
        _say(None)  # it is there
        while True:
            chunk = pickle.load(sys.stdin.buffer)  # noqa: S301
            asked = [Asked(path, stat and ObjectStat(*stat), known) for path, stat, known in chunk]
            _say([(path, _bare(found)) for path, found in _read_some(asked, settings, budget, gleaner)])


def _say(what: object) -> None:
    said = pickle.dumps(what)
    sys.stdout.buffer.write(len(said).to_bytes(_SIZE) + said)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
