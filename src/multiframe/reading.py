"""Reading many headers at once: near ones on all cores, far ones many at a time.

Near, reading a header is Python's work: other processes share it with this one, once there are enough files to be worth
starting them.
Far, it is waiting: threads do it. What is under way is bounded, and so is what is held. It must not know why somebody
wants them, nor what becomes of them.
"""

import gc
import os
import pickle
import select
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import batched, count
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
_AHEAD = 20  # pieces of work under way, for each process: this one may be busy with something else for a while
_PIPE = 1 << 20  # bytes of answers that another process need not wait with until they are taken
_RARELY = 50_000  # objects
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
        self._gleaner = Gleaner()  # of this process
        self._others: list[_Process] | None = None  # until they are started
        self._threads: ThreadPoolExecutor | None = None
        self._far: deque[Future[Answer]] = deque()  # under way

    def read(self, asked: Sequence[Asked]) -> Iterator[Answer]:
        """Begin to read, and give what is ready, of this or of what was asked for before."""
        near = [one for one in asked if is_local(one.path)]
        far = [one for one in asked if not is_local(one.path)]
        # The first ones at once: somebody may be looking.
        here = len(near) if self._processes == 1 else max(0, _ENOUGH - self._near)
        self._near += len(near)
        if len(near) > here and self._others is None:  # they start while the first ones are read
            self._start()
        yield from self._here(near[:here])
        for chunk in batched(near[here:], _CHUNK):
            yield from self._answered()
            # Those that are still starting, or have enough to do, are not waited for.
            free = [process for process in self._others or () if process.ready and len(process.asked) < _AHEAD]
            if free:
                min(free, key=lambda process: len(process.asked)).ask(chunk)
            else:
                yield from self._here(chunk)
        for one in far:
            self._threads = self._threads or ThreadPoolExecutor(_THREADS, thread_name_prefix="headers")
            self._far.append(self._threads.submit(_read, one, self._settings, self._budget))
            while len(self._far) > _FAR_AHEAD:
                yield self._far.popleft().result()

    def rest(self) -> Iterator[Answer]:
        """Give all that is under way; what others were asked is read here from its end on, until both meet."""
        yield from self._answered()
        while busy := [process for process in self._others or () if process.asked]:
            most = max(busy, key=lambda process: len(process.asked))
            if len(most.asked) > 1:
                yield from self._here(most.taken_back())
            else:
                most.wait()
            yield from self._answered()
        while self._far:
            yield self._far.popleft().result()

    def close(self) -> None:
        """End; what is under way is given up."""
        for process in self._others or ():
            process.close()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._others = self._threads = None
        self._far.clear()

    def _here(self, asked: Iterable[Asked]) -> Iterator[Answer]:
        for one in asked:
            yield _read(one, self._settings, self._budget, self._gleaner)

    def _start(self) -> None:
        self._others = []
        for _ in range(self._processes - 1):
            with suppress(OSError):  # there is no room for more: those that there are do without it
                self._others.append(_Process(self._settings))

    def _answered(self) -> Iterator[Answer]:
        """Give what others have read; one that is dead leaves its work to this one."""
        for process in list(self._others or ()):
            yield from process.answers()
            if process.dead:
                assert self._others is not None
                self._others.remove(process)
                process.close()
                for chunk in process.asked.values():
                    yield from self._here(chunk)


class _Process:
    """Another process that reads; it ends when its input does, however this one ends.

    What it is asked, and what it answers, lies in pipes: it need not wait for this one, nor this one for it, and no
    thread of this one has to be woken for them to be moved on.

    Attributes
    ----------
    ready : bool
        Whether it has said that it is there.
    dead : bool
        Whether that was noticed.
    asked : dict of int to sequence of Asked
        What it was asked and has not answered, in order.
    """

    def __init__(self, settings: Settings) -> None:
        command = [sys.executable, "-m", "multiframe.reading"]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True, pipesize=_PIPE
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._in, self._out = self._child.stdin.fileno(), self._child.stdout.fileno()
        self._given, self._come = bytearray(), bytearray()  # on their way to it and from it
        os.set_blocking(self._in, False)
        self.ready = self.dead = False
        self.asked: dict[int, Sequence[Asked]] = {}
        self._numbers = count()
        self._say(settings)

    def ask(self, chunk: Sequence[Asked]) -> None:
        """Have it read."""
        number = next(self._numbers)
        self.asked[number] = chunk
        self._say((number, [(path, stat and stat[:], known) for path, stat, known in chunk]))

    def taken_back(self) -> Sequence[Asked]:
        """Give what it was asked last, which it need not answer any more."""
        return self.asked.popitem()[1]

    def answers(self) -> list[Answer]:
        """Give what has come."""
        self._move(0)
        answers: list[Answer] = []
        at = 0
        while (first := at + _SIZE) < len(self._come) and (
            (stop := first + int.from_bytes(self._come[at:first])) <= len(self._come)
        ):
            number, said = pickle.loads(memoryview(self._come)[first:stop])  # noqa: S301  # a child of ours
            at, self.ready = stop, True
            if self.asked.pop(number, None):
                answers += [(path, _named(path, found) if type(found) is tuple else found) for path, found in said]
        del self._come[:at]
        return answers

    def wait(self) -> None:
        """Wait until it has said something, or is dead."""
        self._move(None)

    def close(self) -> None:
        """End it at once: it has nothing to put away."""
        self._child.kill()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        self._child.wait()

    def _say(self, what: object) -> None:
        self._given += pickle.dumps(what)
        self._move(0)

    def _move(self, timeout: int | None) -> None:
        """Move on what is on its way; None has it wait until something can be moved."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if self._given:
            poll.register(self._in, select.POLLOUT)
        try:
            for fd, _ in poll.poll(timeout):
                if fd == self._in:
                    del self._given[: os.write(fd, self._given)]
                elif data := os.read(fd, _PIPE):
                    self._come += data
                else:
                    self.dead = True
        except OSError:
            self.dead = True


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
    gc.freeze()
    gc.set_threshold(_RARELY)  # what is read makes no cycles, and is gone when it was sent
    with suppress(EOFError, BrokenPipeError):
        _say((None, ()))  # it is there
        while True:
            number, chunk = pickle.load(sys.stdin.buffer)  # noqa: S301
            asked = [Asked(path, stat and ObjectStat(*stat), known) for path, stat, known in chunk]
            _say((number, [(one.path, _bare(_read(one, settings, budget, gleaner)[1])) for one in asked]))


def _say(what: object) -> None:
    said = pickle.dumps(what)
    sys.stdout.buffer.write(len(said).to_bytes(_SIZE) + said)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
