"""Heavy work beside the event loop: a bounded number of processes that decode, encode and render.

A codestream is a stranger's input to a C library, and some libraries hold the GIL while they work: work is done in
processes that may be stopped, may die, and may not take all the memory; the answers of others go on. Work is a function
that can be pickled, with its arguments; its result is bytes. It must not know what is made, nor of what.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import pickle
import select
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from struct import pack, unpack
from typing import TYPE_CHECKING, Any

from multiframe import errors
from multiframe.codec import known
from multiframe.memory import MemoryBudget
from multiframe.web import journal
from multiframe.web.forwarded import forwarded
from multiframe.web.journal import REQUEST
from multiframe.web.once import ClientGone
from multiframe.web.tracing import span
from multiframe.web.work import ANSWER, ASKED, read_file, write_file

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["ClientGone", "Workers", "gone", "watcher", "who"]

log = logging.getLogger("multiframe.web")

_KEPT = 1 << 20
"""Bytes that the file between the two processes may keep when nothing goes through it."""

_LARGEST = 8
"""So many times the memory for all a single piece of work may take, alone: where less is refused, so are frames that
can be had."""

_IDLE = 30.0
"""Seconds after which a process that has nothing to do is ended: it holds its libraries."""

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # nothing here multiplies matrices
    # What a picture took is given back when it is done, whatever the next one needs.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 << 10),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 20),
}


class Workers:
    """Processes that work for one event loop; each is started when it is first needed.

    Parameters
    ----------
    count : int
        How many at most; 0: as many as this process may use cores.
    memory : int
        Bytes that pieces of work may take at once in these processes, together: a larger one waits until it is alone.
    timeout : float
        Seconds after which a piece of work is given up and its process stopped.

    Attributes
    ----------
    turns : MemoryBudget
        A turn each for a few more than can work: who has one asks for memory, and has his work done.

    Examples
    --------
    >>> workers = Workers(1)
    >>> asyncio.run(workers.run(bytes.upper, b"abc"))
    b'ABC'
    >>> workers.close()
    """

    def __init__(self, count: int = 0, *, memory: int = 64 << 20, timeout: float = 60.0) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._timeout = timeout
        # Turns, not bytes: who waits for them is served as fairly.
        self._free = MemoryBudget(self.count)
        self.turns = MemoryBudget(2 * self.count)
        self.room = MemoryBudget(memory)
        self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="workers")
        self._idle: list[_Process] = []
        self._reaper: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._all: weakref.WeakSet[_Process] = weakref.WeakSet()
        self._lock = threading.Lock()

    async def run(
        self, function: Callable[..., bytes], *args: Any, gone: Callable[[], Awaitable[bool]] | None = None,
        who: Hashable = None, need: int = 0,
    ) -> bytes:  # fmt: skip
        """Call a function in one of the processes; who wait for one take turns.

        Parameters
        ----------
        function : callable
            Of a module, so that it can be pickled; or a `functools.partial` of one.
        gone : callable, optional
            Asked when its turn comes: whether nobody waits for it any more.
        who : hashable
            For whom, as of `MemoryBudget.acquire_async`.
        need : int
            Bytes that it takes in its process; it gets little more. 0: not said.

        Raises
        ------
        ClientGone
            Nobody does.
        MultiframeError
            What the function raised.
        OverBudget
            It needs far more than there is for all.
        DecodeError
            It took too long, or its process died.
        RuntimeError
            It raised something else; the server's log has more.
        """
        room = self.room.limit
        if need > _LARGEST * room:
            raise errors.OverBudget(
                f"making it would take {need} bytes, {_LARGEST * room} are the most with this --memory: raise it"
            )
        with await self._free.acquire_async(1, who=who), await self.room.acquire_async(min(need, room), who=who):
            if gone is not None and await gone():
                raise ClientGone
            job = pickle.dumps((REQUEST.get(), function, args), protocol=5)
            here, loop = contextvars.copy_context(), asyncio.get_running_loop()
            try:
                with span("work", bytes=len(job)):
                    return await loop.run_in_executor(self._threads, here.run, self._work, job, need)
            finally:
                self._reap_later(loop)

    @asynccontextmanager
    async def turn(self, request: Request) -> AsyncIterator[None]:
        """Wait, without holding anything, until few others are about to have work done.

        A thousand frames that have to be decoded are asked for at once. Each waits for as long as it takes: memory, for
        which nobody waits long, is asked for by those alone whose work can begin.

        Raises
        ------
        ClientGone
            Nobody waits any more.
        """
        with await self.turns.acquire_async(1, who=who(request)):
            if await gone(request):
                raise ClientGone
            yield

    @property
    def living(self) -> int:
        """How many processes there are."""
        return sum(process.alive for process in list(self._all))

    def _reap_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._reaper is None or self._loop is not loop:
            self._loop, self._reaper = loop, loop.call_later(_IDLE, _reap, weakref.ref(self), loop)

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        """End who has had nothing to do for long."""
        self._reaper = None
        with self._lock:
            old = [process for process in self._idle if time.monotonic() - process.since >= _IDLE]
            self._idle = [process for process in self._idle if process not in old]
            left = bool(self._idle)
        for process in old:
            process.close()
        if left:
            self._reap_later(loop)

    def _work(self, job: bytes, need: int) -> bytes:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is None or not process.alive:
            process = _Process()
            self._all.add(process)
        try:
            result = process.call(job, need, self._timeout)
        except _Lost as lost:
            process.close()
            log.warning("a process that decodes was lost: %s", lost)
            raise errors.DecodeError(f"the work was given up: {lost}; damaged input may do that") from None
        except BaseException:
            # An error that was told leaves the process as good as new.
            self._give_back(process)
            raise
        self._give_back(process)
        return result

    def _give_back(self, process: _Process) -> None:
        process.since = time.monotonic()
        with self._lock:
            self._idle.append(process)

    def close(self) -> None:
        """End the processes; work that is under way is lost."""
        for process in list(self._all):
            process.close()
        self._threads.shutdown(cancel_futures=True)
        for process in list(self._all):  # one may have been started meanwhile
            process.close()


_WATCHER = "multiframe.watcher"
"""Where in the scope of a request its watcher is."""


def watcher(request: Request) -> asyncio.Task[None]:
    """Give the one task that listens for this client; it is done when the client has gone.

    There is one alone: who listens for a moment and gives up, as `Request.is_disconnected` does, leaves granian
    in a state in which the next one is told of a disconnect that never was.
    """
    task: asyncio.Task[None] | None = request.scope.get(_WATCHER)
    if task is None:
        task = request.scope[_WATCHER] = asyncio.create_task(_left(request.receive))
    return task


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def gone(request: Request) -> bool:
    """Whether the client has gone."""
    task = watcher(request)
    await asyncio.sleep(0)  # or it had no moment to be told
    return task.done() and not task.cancelled()  # cancelled: the answer is over, which says nothing of the client


_WHO = "multiframe.who"
"""Where in the scope of a request it is said who asks."""


def who(request: Request) -> tuple[Hashable, ...]:
    """Say who waits, as far as he can be told from others, however much each has asked for.

    First clients take turns, then the connections of one, then what is looked at: two tabs of a browser can have one
    connection, and six connections can be one tab.
    """
    known: tuple[Hashable, ...] | None = request.scope.get(_WHO)
    if known is None:
        peer = request.client
        host = peer.host if peer is not None else ""
        trusted = request.app.state.settings.trusted_proxies
        told = forwarded(request.headers.items(), host, trusted).client if trusted else ""
        below = request.path_params
        looked_at = next((below[name] for name in ("instance", "series", "study") if name in below), "")
        known = request.scope[_WHO] = (told or host, peer.port if peer is not None else 0, looked_at)
    return known


def _reap(workers: weakref.ref[Workers], loop: asyncio.AbstractEventLoop) -> None:
    found = workers()
    if found is not None:
        found._reap(loop)


class _Lost(Exception):
    """The process gave no answer."""


class _Process:
    """One process, seen from ours. Jobs and results go through a file both have open: a pipe would copy them thrice."""

    def __init__(self) -> None:
        self._file = _shared()
        self._ready = False
        self.since = 0.0
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "multiframe.web.work", str(self._file), journal.form(), *known()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[self._file],
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
            )
        except OSError:  # too many files, or processes
            os.close(self._file)
            raise
        # Also when nobody closes it: it ends with us, and no file stays open.
        self.close = weakref.finalize(self, _end, self._child, self._file)

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def call(self, job: bytes, need: int, timeout: float) -> bytes:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            if not self._ready:
                self._ready = bool(self._child.stdout.read(1))  # starting is not counted as work
            write_file(self._file, job)
            self._child.stdin.write(pack(ASKED, len(job), need))
            if not select.select([self._child.stdout], [], [], timeout)[0]:
                raise _Lost(f"no result after {timeout:g} s")
            answer = self._child.stdout.read(9)
            if len(answer) < 9:
                raise _Lost("it died")
            good, size = unpack(ANSWER, answer)
            result = read_file(self._file, size)
            if max(len(job), size) > _KEPT:
                os.ftruncate(self._file, 0)
        except (OSError, ValueError):  # ValueError: closed meanwhile
            raise _Lost("it died") from None
        if good:
            return result
        name, message = json.loads(result)
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, errors.MultiframeError):
            raise kind(message)
        raise RuntimeError(f"{name} on a worker")


def _end(child: subprocess.Popen[bytes], file: int) -> None:
    if child.poll() is None:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    os.close(file)


def _shared() -> int:
    """Open a file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("multiframe")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
