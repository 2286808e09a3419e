"""Running it: the one process that watches over the others, workers that answer, one that scans, one that watches.

Who calls `serve` binds the port and becomes the parent: a new program in the same process, without the modules of a
command line. The parent starts the children, restarts a worker that dies, and passes signals on; it reads nothing. It
must not know what is served, nor what its children do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from multiframe.errors import MultiframeError, SourceError
from multiframe.settings import Settings
from multiframe.web import tracing
from multiframe.web.children import AFTERWARDS, PID_SIZE, UNUSABLE, Child, be, journals, reap, start, terminate
from multiframe.web.gauges import shared
from multiframe.web.sockets import cut_off

if TYPE_CHECKING:
    from multiframe.web.journal import Journal
    from multiframe.web.over_tls import Certificate

__all__ = ["Served", "serve"]

log = logging.getLogger("multiframe.serve")

_RESTARTS = 5
"""A worker that dies more often than this within a minute is not started again."""

_SURROUNDINGS, _INTERRUPTED = 3, 130
"""How the parent ends, as the command does."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_LIVED = 10.0
"""Seconds that what watches the folders must have lived, or it is not started again."""

_LEFT_BEHIND = 3.0
"""Seconds in which the port may come free: children whose parent was killed while they began have it that long."""

_SHORT_SCAN = 0.3
"""Seconds for which the announcement waits for the scan: a small folder is then listed when its address is told."""


@dataclasses.dataclass(frozen=True)
class Served:
    """What is served, and where.

    Attributes
    ----------
    roots : sequence of str
        Files, folders and URLs.
    database : Path or str
        Where headers and indexes are kept: a file, or a URL.
    host, port
        What to bind; port 0 is any that is free.
    workers : int
        Processes that answer; they share the memory out among them.
    certificate : Certificate, optional
        With one HTTP/2 and HTTP/1.1 are spoken over TLS, else HTTP/1.1 alone.
    """

    roots: Sequence[str]
    database: Path | str
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    certificate: Certificate | None = None


def serve(served: Served, settings: Settings) -> NoReturn:
    """Serve until told to stop: this process is nothing else from then on.

    ``Serving URL`` is printed once requests are answered. A signal ends it, with 130 if that was SIGINT, else with 0.
    Answers under way are finished first, within `settings.shutdown_timeout` seconds; a second signal ends them. SIGHUP
    has other workers take the place of these: certificates are read anew. It ends with 3 where the database cannot be
    used, as a worker has said, or stays away for `settings.database_wait` seconds, and where workers die as soon as
    they are started.

    Parameters
    ----------
    served : Served
        What and where.
    settings : Settings
        How; `memory` is for all workers together.

    Raises
    ------
    OSError
        The port cannot be bound, or the access log not be written.
    """
    if settings.traces:
        tracing.check()
    try:
        journals(settings)  # that the log cannot be written is said before anything is begun
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: see --access-log", error.filename) from None
    listener = _bind(served.host, served.port)
    cut_off(listener, settings.patience)
    host, port = listener.getsockname()[:2]
    cores = len(os.sched_getaffinity(0))
    settings = dataclasses.replace(
        settings,
        memory=max(1, settings.memory // served.workers),
        hosts=(*settings.hosts, served.host, host),
        decoders=settings.decoders or max(1, cores // served.workers),
    )
    scheme = "https" if served.certificate else "http"
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host  # noqa: S104
    _become_parent({
        "url": f"{scheme}://{shown}:{port}/",
        "database": str(served.database),
        "roots": list(served.roots),
        "settings": dataclasses.asdict(settings),
        "listener": listener.fileno(),
        "started": time.time(),
        "gauges": shared(2 * served.workers),  # when others take over, all are there for a while
        "workers": served.workers,
        "certificate": [str(path.resolve()) for path in served.certificate] if served.certificate else None,
    })  # fmt: skip


def _become_parent(orders: dict[str, Any]) -> NoReturn:
    """Begin anew: what a command line is parsed with takes 20 MB, which would be held for as long as is served."""
    told = os.memfd_create("orders")
    os.write(told, json.dumps(orders).encode() + b"\n")
    os.lseek(told, 0, os.SEEK_SET)
    os.set_inheritable(told, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until there is somebody again whom they can tell
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", __name__, "parent", str(told)])


def _oversee(orders: dict[str, Any], _: Settings, __: Journal | None) -> None:
    """Be the parent."""
    listener = socket.socket(fileno=orders["listener"])
    try:
        ended = _Parent(orders, listener, orders["workers"]).run(lambda: print(f"Serving {orders['url']}", flush=True))
    except (MultiframeError, RuntimeError) as error:
        sys.stderr.write(f"multiframe: {error}\n")
        sys.exit(_SURROUNDINGS)
    sys.exit(_INTERRUPTED if ended == signal.SIGINT else 0)


def _bind(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"{error.strerror}: not an address of this machine", host) from None
    family, kind, proto, _, address = found[0]
    patience = time.monotonic() + _LEFT_BEHIND
    while True:
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE and time.monotonic() < patience:
                time.sleep(0.05)
                continue
            what = f"{error.strerror}: choose another --port, or 0 for any that is free"
            raise OSError(error.errno, what, f"{host}:{port}") from None
        listener.set_inheritable(True)
        return listener


class _Parent:
    """Starts children, waits for signals, restarts what died."""

    def __init__(self, orders: dict[str, Any], listener: socket.socket, workers: int) -> None:
        self._orders = orders
        self._listener = listener
        self._wanted = workers
        self._ends = 0
        self._ended = 0
        self._renew = False
        self._rows: dict[Child, int] = {}
        self._deaths: list[float] = []
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        self._ready_r, self._ready_w = os.pipe()
        os.set_inheritable(self._ready_w, True)

    def run(self, ready: Callable[[], None]) -> int:
        handlers = {s: signal.signal(s, self._on_signal) for s in _SIGNALS}
        # Any child's end wakes us too.
        handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        waker = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        workers: list[Child] = []
        coming: list[Child] = []  # are to take their places, once all can
        leaving: list[Child] = []  # still finish what they have begun
        scanner: Child | None = None
        watcher: Child | None = None
        try:
            workers += [self._start("worker") for _ in range(self._wanted)]
            scanner = self._start("scan")
            if self._orders["settings"]["watch"] or self._orders["settings"]["rescan"]:
                watcher = self._start("watch")
            watching = time.monotonic()
            able: set[int] = set()  # children that can take requests, by their numbers
            answering, announced = 0.0, False
            while not self._ended:
                wait = max(0.0, answering + _SHORT_SCAN - time.monotonic()) if answering and not announced else None
                readable, _, _ = select.select([self._wake_r, self._ready_r], [], [], wait)
                if self._wake_r in readable:
                    os.read(self._wake_r, 512)
                if self._ready_r in readable:
                    able.update(array("i", os.read(self._ready_r, 128 * PID_SIZE)))
                    answering = answering or time.monotonic()
                able &= {child.pid for child in (*workers, *coming)}
                scanned = scanner.poll() is not None
                if scanned and scanner.stdin:
                    scanner.stdin.close()
                if answering and not announced and (scanned or time.monotonic() >= answering + _SHORT_SCAN):
                    announced = True
                    ready()
                    _notify("READY=1")
                if coming and all(c.pid in able for c in coming):
                    terminate(workers)
                    leaving, workers, coming = leaving + workers, coming, []
                elif coming and not all(c.poll() is None for c in coming):
                    log.warning("not reloaded: workers that could take over do not start")
                    terminate(coming)
                    leaving, coming = leaving + coming, []
                if self._renew and not coming and all(c.pid in able for c in workers):
                    self._renew = False
                    coming = [self._start("worker") for _ in range(self._wanted)]
                    scanner = self._start("scan") if scanned else scanner
                reap(leaving)
                if watcher and watcher.poll() is not None and not self._ended:
                    # Without it all is served as before: it must not end the server, however often it ends itself.
                    lived = time.monotonic() - watching
                    again = "starting another" if lived > _LIVED else "folders are watched no more"
                    log.warning("what watches the folders ended with %s: %s", watcher.returncode, again)
                    reap([watcher])
                    watcher = self._start("watch") if lived > _LIVED else None
                    watching = time.monotonic()
                for dead in [c for c in workers if c.poll() is not None and not self._ended]:
                    workers.remove(dead)
                    if dead.returncode == UNUSABLE and not announced:
                        raise SourceError("not started, for the reason above")
                    self._count_death()
                    log.warning("a worker ended with %s: starting another", dead.returncode)
                    workers.append(self._start("worker", serving=announced))
            return self._ended
        finally:
            _notify("STOPPING=1")
            self._listener.close()  # it is the children's alone now: when they close it, nobody else is let in
            self._stop([*workers, *coming, *leaving, *(c for c in (scanner, watcher) if c)])
            signal.set_wakeup_fd(waker)
            for s, handler in handlers.items():
                signal.signal(s, handler)
            for fd in (self._wake_r, self._wake_w, self._ready_r, self._ready_w):
                os.close(fd)

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._renew = True
            return
        self._ended = number
        self._ends += 1

    def _stop(self, children: Sequence[Child]) -> None:
        """Have children finish what they have begun, as long as that may take; a second signal ends it."""
        terminate(children)
        left = list(children)
        deadline = time.monotonic() + self._orders["settings"]["shutdown_timeout"] + AFTERWARDS
        while reap(left) and self._ends < 2 and (wait := deadline - time.monotonic()) > 0:
            if select.select([self._wake_r], [], [], wait)[0]:
                os.read(self._wake_r, 512)
        if left:
            log.warning("stopped before all answers had been sent")
        for child in left:
            child.kill()
            child.wait()
        reap(left)

    def _count_death(self) -> None:
        now = time.monotonic()
        self._deaths = [t for t in self._deaths if now - t < 60] + [now]
        if len(self._deaths) > _RESTARTS:
            raise RuntimeError("workers die as soon as they are started: see what they said above")

    def _free_row(self) -> int:
        """Choose where a worker counts: where nobody living does, going on with what one before has counted."""
        self._rows = {child: row for child, row in self._rows.items() if child.poll() is None}
        return min(set(range(2 * self._wanted)) - set(self._rows.values()), default=0)

    def _start(self, role: str, *, serving: bool = False) -> Child:
        """Start a child; `serving`: this server answers already, and a database that is away is no reason to end it."""
        inherited: list[int]
        inherited, row = [], 0
        if role == "worker":
            inherited, row = [self._listener.fileno(), self._ready_w, self._orders["gauges"]], self._free_row()
        orders = {**self._orders, "ready": self._ready_w, "row": row, "serving": serving}
        child = start(role, orders, inherited)
        if role == "worker":
            self._rows[child] = row
        return child


def _notify(state: str) -> None:
    """Tell a service manager, where there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.connect("\0" + address[1:] if address.startswith("@") else address)
            told.sendall(state.encode())


if __name__ == "__main__":
    be({"parent": _oversee})
