"""Running it: one process that watches over the others, workers that answer, one that scans, one that watches folders.

Who calls `serve` binds the port and becomes the parent: a new program in the same process, without the modules of a
command line. The parent starts the children, restarts a worker that dies, and passes signals on; it reads nothing.
Children are this module run again, with their orders as JSON on their standard input; they end when its other end
closes, however the parent ended. It must not know what is served.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from multiframe.errors import CatalogUnavailable, MultiframeError, SourceError
from multiframe.settings import Settings
from multiframe.web import tracing
from multiframe.web.gauges import Gauges, shared
from multiframe.web.journal import Journal, audit_to, catch_all, form, format_for, log_to
from multiframe.web.sockets import cut_off

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from multiframe.catalog import Catalog, ScanStatus
    from multiframe.web.over_tls import Certificate

__all__ = ["Served", "serve"]

log = logging.getLogger("multiframe.serve")

_Child = subprocess.Popen[bytes]

_RESTARTS = 5
"""A worker that dies more often than this within a minute is not started again."""

_UNUSABLE = 78
"""How a child ends that has said why it cannot work here: another would say the same."""

_SURROUNDINGS, _INTERRUPTED = 3, 130
"""How the parent ends, as the command does."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 26)}
"""Frames come and go by the thousand. Left to itself, glibc asks the kernel for new pages for each and gives them back
after: that costs more than reading and sending it (decision 0012)."""

_AFTERWARDS = 10.0
"""Seconds a child has, beyond those in which answers may be finished, to close what it holds."""

_LAST_WORD = 0.2
"""Seconds for who was let in last to say what they want: uvicorn hangs up at its end on who has not."""

_SETTLE = 0.3
"""Seconds for which a file must not have been written to before it is catalogued."""

_RETRY = 5.0
"""Seconds after which a scan is begun again that the database was away for."""

_ASK = 1.0
"""Seconds after which a database that was away at the start is asked again."""

_LIVED = 10.0
"""Seconds that what watches the folders must have lived, or it is not started again."""

_UNWATCHED = 60.0
"""Seconds after which everything is looked through again where the kernel does not tell."""

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
    _journals(settings)  # that the log cannot be written is said before anything is begun
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


def _journals(settings: Settings) -> tuple[Journal, Journal | None]:
    """Begin to write down what this process logs, and what `audit` is told; give where both goes.

    Raises
    ------
    OSError
        The access log cannot be written.
    """
    said = Journal()
    log_to(said, format_for(said, settings.log_format))
    if settings.access_log == "off":
        return said, None
    access = said if settings.access_log == "-" else Journal(settings.access_log)
    audit_to(access, format_for(access, settings.log_format))
    return said, access


def _bind(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"{error.strerror}: not an address of this machine", host) from None
    family, kind, proto, _, address = found[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
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
        self._rows: dict[_Child, int] = {}
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
        workers: list[_Child] = []
        coming: list[_Child] = []  # are to take their places, once all can
        leaving: list[_Child] = []  # still finish what they have begun
        scanner: _Child | None = None
        watcher: _Child | None = None
        try:
            workers += [self._start("worker") for _ in range(self._wanted)]
            scanner = self._start("scan")
            if self._orders["settings"]["watch"] or self._orders["settings"]["rescan"]:
                watcher = self._start("watch")
            watching = time.monotonic()
            waiting, announced = self._wanted, False
            answering = 0.0
            while not self._ended:
                wait = max(0.0, answering + _SHORT_SCAN - time.monotonic()) if answering and not announced else None
                readable, _, _ = select.select([self._wake_r, self._ready_r], [], [], wait)
                if self._wake_r in readable:
                    os.read(self._wake_r, 512)
                if self._ready_r in readable:
                    waiting -= len(os.read(self._ready_r, 512))
                    answering = answering or time.monotonic()
                scanned = scanner.poll() is not None
                if scanned and scanner.stdin:
                    scanner.stdin.close()
                if answering and not announced and (scanned or time.monotonic() >= answering + _SHORT_SCAN):
                    announced = True
                    ready()
                    _notify("READY=1")
                if coming and waiting <= 0:
                    _terminate(workers)
                    leaving, workers, coming = leaving + workers, coming, []
                elif coming and not all(c.poll() is None for c in coming):
                    log.warning("not reloaded: workers that could take over do not start")
                    _terminate(coming)
                    leaving, coming, waiting = leaving + coming, [], 0
                if self._renew and waiting <= 0:
                    self._renew = False
                    coming, waiting = [self._start("worker") for _ in range(self._wanted)], self._wanted
                    scanner = self._start("scan") if scanned else scanner
                _reap(leaving)
                if watcher and watcher.poll() is not None and not self._ended:
                    # Without it all is served as before: it must not end the server, however often it ends itself.
                    lived = time.monotonic() - watching
                    again = "starting another" if lived > _LIVED else "folders are watched no more"
                    log.warning("what watches the folders ended with %s: %s", watcher.returncode, again)
                    _reap([watcher])
                    watcher = self._start("watch") if lived > _LIVED else None
                    watching = time.monotonic()
                for dead in [c for c in workers if c.poll() is not None and not self._ended]:
                    workers.remove(dead)
                    if dead.returncode == _UNUSABLE and not announced:
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

    def _stop(self, children: Sequence[_Child]) -> None:
        """Have children finish what they have begun, as long as that may take; a second signal ends it."""
        _terminate(children)
        left = list(children)
        deadline = time.monotonic() + self._orders["settings"]["shutdown_timeout"] + _AFTERWARDS
        while _reap(left) and self._ends < 2 and (wait := deadline - time.monotonic()) > 0:
            if select.select([self._wake_r], [], [], wait)[0]:
                os.read(self._wake_r, 512)
        if left:
            log.warning("stopped before all answers had been sent")
        for child in left:
            child.kill()
            child.wait()
        _reap(left)

    def _count_death(self) -> None:
        now = time.monotonic()
        self._deaths = [t for t in self._deaths if now - t < 60] + [now]
        if len(self._deaths) > _RESTARTS:
            raise RuntimeError("workers die as soon as they are started: see what they said above")

    def _free_row(self) -> int:
        """Choose where a worker counts: where nobody living does, going on with what one before has counted."""
        self._rows = {child: row for child, row in self._rows.items() if child.poll() is None}
        return min(set(range(2 * self._wanted)) - set(self._rows.values()), default=0)

    def _start(self, role: str, *, serving: bool = False) -> _Child:
        """Start a child; `serving`: this server answers already, and a database that is away is no reason to end it."""
        inherited: list[int]
        inherited, row = [], 0
        if role == "worker":
            inherited, row = [self._listener.fileno(), self._ready_w, self._orders["gauges"]], self._free_row()
        orders = {**self._orders, "ready": self._ready_w, "row": row, "serving": serving}
        child = _child(role, orders, inherited)
        if role == "worker":
            self._rows[child] = row
        return child


def _child(role: str, orders: dict[str, Any], inherited: Sequence[int] = ()) -> _Child:
    child = subprocess.Popen(
        [sys.executable, "-m", "multiframe.web.serve", role],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**_ENVIRONMENT, **os.environ},
        pass_fds=inherited,
        # A Ctrl-C is ours to pass on: children end in order, not each on its own.
        start_new_session=True,
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it is dead already: seen where children are waited for
        # Not as an argument, which everybody on this machine may read: there are secrets in it.
        child.stdin.write(json.dumps(orders).encode() + b"\n")
        child.stdin.flush()
    return child


def _terminate(children: Sequence[_Child]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()


def _reap(children: list[_Child]) -> bool:
    """Let go of those that have ended; says whether there are others."""
    for child in [c for c in children if c.poll() is not None]:
        children.remove(child)
        if child.stdin:
            child.stdin.close()
    return bool(children)


def _notify(state: str) -> None:
    """Tell a service manager, where there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.connect("\0" + address[1:] if address.startswith("@") else address)
            told.sendall(state.encode())


def _when_orphaned(then: Callable[[], None]) -> None:
    """Call `then` when the parent's end of our standard input closes."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        then()

    threading.Thread(target=wait, name="orphan", daemon=True).start()


def _work(orders: dict[str, Any], settings: Settings, journal: Journal | None) -> None:
    import gc

    from multiframe.catalog import Catalog
    from multiframe.memory import MemoryBudget
    from multiframe.virtual import VirtualCatalog
    from multiframe.web.app import create_app

    if settings.traces:
        tracing.start()
    budget = MemoryBudget(settings.memory)
    kind = VirtualCatalog if settings.virtual_series else Catalog
    catalog = kind(orders["database"], settings=settings, budget=budget, roots=orders["roots"], may_be_away=True)
    app = create_app(
        catalog, settings, budget=budget, started=orders["started"], journal=journal,
        gauges=Gauges(orders["gauges"], orders["row"], workers=orders["workers"]),
        form=format_for(journal, settings.log_format) if journal else "json", roots=orders["roots"],
    )  # fmt: skip
    listener = socket.socket(fileno=orders["listener"])

    def ready() -> None:
        gc.collect()
        gc.freeze()  # modules stay: nobody need look through them for garbage again and again
        threading.Thread(target=tell, name="ready", daemon=True).start()

    def tell() -> None:
        _await_database(catalog, None if orders["serving"] else settings.database_wait)
        os.write(orders["ready"], b".")

    try:
        if orders["certificate"]:
            _work_tls(app, listener, orders["certificate"], ready, settings)
        else:
            _work_plain(app, listener, ready, settings)
    finally:
        catalog.close()
        tracing.stop()


def _await_database(catalog: Catalog, seconds: float | None) -> None:
    """Wait until the database answers; meanwhile requests are told that it does not.

    Behind so many seconds this process ends; None: it waits as long as the server lives.
    """
    begun, said = time.monotonic(), False
    most = "" if seconds is None else f", {seconds:g} s at most"
    while wrong := catalog.away():
        if seconds is not None and time.monotonic() - begun >= seconds:
            sys.stderr.write(f"multiframe: {wrong}\n")
            sys.stderr.flush()
            os._exit(_UNUSABLE)
        if not said:
            said = True
            log.warning("waiting for the database%s: %s", most, wrong)
        time.sleep(_ASK)
    if said:
        log.warning("the database answers")


def _work_plain(app: Starlette, listener: socket.socket, ready: Callable[[], None], settings: Settings) -> None:
    import asyncio

    import uvicorn

    from multiframe.web.connections import patient, watch
    from multiframe.web.sockets import IDLE

    config = uvicorn.Config(
        app,
        fd=listener.fileno(),
        log_level="warning",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # of proxies, we believe those that the settings name, and no other at 127.0.0.1
        timeout_keep_alive=round(IDLE),
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
        http=patient(settings.patience, settings.connections),
        ws="none",
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self.watching = asyncio.create_task(watch(self.server_state.connections, settings.patience))
            ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for taken in (*self.servers, *(sockets or ())):
                taken.close()
            await asyncio.sleep(_LAST_WORD)
            await super().shutdown(sockets)
            # What took too long was told to end, and tidies up: an upload takes away what it has written.
            if left := list(self.server_state.tasks):
                await asyncio.wait(left, timeout=_AFTERWARDS / 2)

    server = Server(config)

    def end() -> None:
        server.should_exit = True

    # uvicorn raises the signal that ended it once more behind its end: then, too, there is something to be closed.
    signal.signal(signal.SIGTERM, lambda *_: end())
    _when_orphaned(end)
    asyncio.run(server.serve(sockets=[listener]), loop_factory=config.get_loop_factory())


def _work_tls(
    app: Starlette, listener: socket.socket, certificate: Sequence[str], ready: Callable[[], None], settings: Settings
) -> None:
    import asyncio

    import uvloop

    from multiframe.web.over_tls import Certificate, check, serve_tls

    files = Certificate(*map(Path, certificate))
    check(files)

    async def work() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def orphaned() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it ends anyway
                loop.call_soon_threadsafe(stop.set)

        _when_orphaned(orphaned)
        await serve_tls(
            app, listener, files, ready=ready, stop=stop, patience=settings.patience, connections=settings.connections,
            shutdown_timeout=max(1.0, settings.shutdown_timeout),
        )  # fmt: skip

    asyncio.run(work(), loop_factory=uvloop.new_event_loop)


def _scan(orders: dict[str, Any], settings: Settings, _: Journal | None) -> None:
    """Scan what is served, or what has changed there."""
    from multiframe.catalog import Catalog

    stopped = _ending()
    os.nice(5)  # who waits for a picture goes before who makes the list longer
    while not stopped.is_set():
        try:
            with contextlib.closing(Catalog(orders["database"], settings=settings)) as catalog:
                changed = orders.get("changed")
                if changed is not None:
                    paths = [os.fsencode(path) for path in changed]
                    catalog.scan(paths, settle=_SETTLE, whole=False, stop=stopped.is_set)
                else:
                    _scan_all(catalog, orders, stopped)
            return
        except CatalogUnavailable:  # the workers say so
            stopped.wait(_RETRY)


def _scan_all(catalog: Catalog, orders: dict[str, Any], stopped: threading.Event) -> None:
    with catalog.claim(orders["roots"]) as claimed:
        if not claimed:
            return  # another server scans the same folders into the same database
        again = orders.get("again", False)
        tty = sys.stderr.isatty()
        begun = shown = time.monotonic()

        def progress(status: ScanStatus) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= (0.2 if tty else 5) and not again:
                shown = now
                _say(f"reading headers: {status.found:,} files, {status.registered:,} instances", live=tty)

        cores = min(8, len(os.sched_getaffinity(0)))
        status = catalog.scan(orders["roots"], processes=cores, settle=_SETTLE, progress=progress, stop=stopped.is_set)
        if not stopped.is_set() and (not again or status.registered or status.vanished):
            _say(_told(status, time.monotonic() - begun), live=tty)


def _ending() -> threading.Event:
    """Give what is set when this child is to end."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    _when_orphaned(stopped.set)
    return stopped


def _watch(orders: dict[str, Any], settings: Settings, _: Journal | None) -> None:
    """Watch what is served, and have it scanned: what has changed at once, all of it now and then."""
    from multiframe.watching import Watcher

    stopped = _ending()
    watcher = Watcher([os.fsencode(root) for root in orders["roots"]] if settings.watch else [], stopped)
    waiting: list[bytes] = []
    scan: _Child | None = None
    # The first scan may have passed by where something came before it was watched.
    scanned = time.monotonic() - max(0.0, settings.rescan - _UNWATCHED)
    catalog = _which(orders["database"])
    for due in watcher.changes():
        waiting += due
        if scan is not None and scan.poll() is not None:
            _reap([scan])
            scan = None
        if scan is not None:
            continue
        every = settings.rescan if watcher.watched or not settings.watch else min(settings.rescan, _UNWATCHED)
        before, catalog = catalog, _which(orders["database"])
        # Whoever asks next makes a new one, with nothing in it. When this began, there may not have been any.
        taken_away = before is not None and catalog != before
        if taken_away or (every and time.monotonic() - scanned >= every):
            scanned = time.monotonic()
            waiting.clear()
            scan = _child("scan", {**orders, "again": True})
        elif waiting:
            scan = _child("scan", {**orders, "changed": [os.fsdecode(path) for path in waiting]})
            waiting = []
    if scan is not None:
        _terminate([scan])
        scan.wait()


def _which(database: str) -> tuple[int, int] | None:
    """Tell one file from another of the same name; None: there is none, or a server's database."""
    try:
        stat = os.stat(database)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _told(status: ScanStatus, seconds: float) -> str:
    """Say what a scan has found, and nothing of what it has not."""
    counts = {
        "read": status.registered,
        "unchanged": status.unchanged,
        "could not be read": status.failed,
        "left out (no DICOM, or a second file of an instance)": status.ignored,
        "gone": status.vanished,
    }
    parts = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    files = "file" if status.found == 1 else "files"
    return f"{status.found:,} {files} in {seconds:.1f} s: {parts or 'nothing to serve'}\n"


def _say(text: str, *, live: bool) -> None:
    if form() == "json":
        logging.getLogger("multiframe.scan").info(text.rstrip())
        return
    sys.stderr.write(f"\r\x1b[K{text}" if live else text if text.endswith("\n") else text + "\n")
    sys.stderr.flush()


def _settings(facts: dict[str, Any]) -> Settings:
    tuples = {k: tuple(v) for k, v in facts.items() if isinstance(v, list)}
    return Settings(**{**facts, **tuples})


def main() -> None:
    """Be one of them: the role is the first argument, the orders are the first line of the input, or of a file."""
    role, file = sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 0
    with open(file, "rb", buffering=0, closefd=file > 0) as told:  # no byte more: behind it comes the parent's end
        orders = json.loads(told.readline())
    settings = _settings(orders["settings"])
    _, journal = _journals(settings)
    catch_all()
    try:
        {"parent": _oversee, "worker": _work, "scan": _scan, "watch": _watch}[role](orders, settings, journal)
    except MultiframeError as error:
        if role == "worker":  # the scan meets the same, and once is enough
            sys.stderr.write(f"multiframe: {error}\n")
        sys.exit(_UNUSABLE)
    sys.stderr.flush()
    os._exit(0)  # a thread that completes an index could go on for long: it is begun anew another time


if __name__ == "__main__":
    main()
