"""The children of a server: how one is started, and what each is: a worker, the scan, the watcher of folders.

Children are this module run again, with their orders as JSON on their standard input; they end when its other end
closes, however the parent ended. Each imports what it needs when it is begun. They must not know of one another.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiframe.errors import CatalogUnavailable, MultiframeError
from multiframe.settings import Settings
from multiframe.web import tracing
from multiframe.web.gauges import Gauges
from multiframe.web.journal import Journal, audit_to, catch_all, form, format_for, log_to

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from multiframe.catalog import Catalog, ScanStatus

__all__ = ["AFTERWARDS", "PID_SIZE", "UNUSABLE", "Child", "be", "journals", "reap", "start", "terminate"]

log = logging.getLogger("multiframe.serve")

Child = subprocess.Popen[bytes]

UNUSABLE = 78
"""How a child ends that has said why it cannot work here: another would say the same."""

AFTERWARDS = 10.0
"""Seconds a child has, beyond those in which answers may be finished, to close what it holds."""

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # nothing here multiplies matrices
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 26),
}
"""Frames come and go by the thousand. Left to itself, glibc asks the kernel for new pages for each and gives them back
after: that costs more than reading and sending it (decision 0012)."""

PID_SIZE = array("i").itemsize
"""Bytes by which a worker tells its parent that it can take requests: its number."""

_LAST_WORD = 0.2
"""Seconds for who was let in last to say what they want: uvicorn hangs up at its end on who has not."""

_SETTLE = 0.3
"""Seconds for which a file must not have been written to before it is catalogued."""

_RETRY = 5.0
"""Seconds after which a scan is begun again that the database was away for."""

_ASK = 1.0
"""Seconds after which a database that was away at the start is asked again."""

_UNWATCHED = 60.0
"""Seconds after which everything is looked through again where the kernel does not tell."""


def start(role: str, orders: dict[str, Any], inherited: Sequence[int] = ()) -> Child:
    """Start a child.

    Parameters
    ----------
    role : str
        What it is to be.
    orders : dict
        What it is told; as JSON.
    inherited : sequence of int
        Descriptors that it has, too.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "multiframe.web.children", role],
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


def terminate(children: Sequence[Child]) -> None:
    """Tell children to end."""
    for child in children:
        if child.poll() is None:
            child.terminate()


def reap(children: list[Child]) -> bool:
    """Let go of those that have ended; says whether there are others."""
    for child in [c for c in children if c.poll() is not None]:
        children.remove(child)
        if child.stdin:
            child.stdin.close()
    return bool(children)


def journals(settings: Settings) -> tuple[Journal, Journal | None]:
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
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more: we are told so, and end
            os.write(orders["ready"], array("i", [os.getpid()]))

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
            os._exit(UNUSABLE)
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
                await asyncio.wait(left, timeout=AFTERWARDS / 2)

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
                    paths = _but_away(catalog, settings, changed)
                    catalog.scan(paths, settle=_SETTLE, whole=False, stop=stopped.is_set)
                else:
                    _scan_all(catalog, settings, orders, stopped)
            return
        except CatalogUnavailable:  # the workers say so
            stopped.wait(_RETRY)


def _but_away(catalog: Catalog, settings: Settings, places: Sequence[str]) -> list[bytes]:
    """Leave out what lies in a store that is away: what is not mounted has not been removed."""
    paths = [os.fsencode(place) for place in places]
    if not settings.store:
        return paths
    from multiframe.places import is_below, root_of
    from multiframe.storing import is_away

    if not is_away(settings.store, catalog):
        return paths
    log.warning("there is nothing where the store was: what the catalog knows of it stays. Is its disk mounted?")
    store = [root_of(settings.store)]
    return [path for path in paths if not is_below(path, store)]


def _scan_all(catalog: Catalog, settings: Settings, orders: dict[str, Any], stopped: threading.Event) -> None:
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
        roots = _but_away(catalog, settings, orders["roots"])
        status = catalog.scan(roots, processes=cores, settle=_SETTLE, progress=progress, stop=stopped.is_set)
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
    scan: Child | None = None
    # The first scan may have passed by where something came before it was watched.
    scanned = time.monotonic() - max(0.0, settings.rescan - _UNWATCHED)
    catalog = _which(orders["database"])
    for due in watcher.changes():
        waiting += due
        if scan is not None and scan.poll() is not None:
            reap([scan])
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
            scan = start("scan", {**orders, "again": True})
        elif waiting:
            scan = start("scan", {**orders, "changed": [os.fsdecode(path) for path in waiting]})
            waiting = []
    if scan is not None:
        terminate([scan])
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


type Role = Callable[[dict[str, Any], Settings, Journal | None], None]


def be(roles: Mapping[str, Role]) -> None:
    """Be one of them: the role is the first argument, the orders are the first line of the input, or of a file."""
    role, file = sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 0
    with open(file, "rb", buffering=0, closefd=file > 0) as told:  # no byte more: behind it comes the parent's end
        orders = json.loads(told.readline())
    settings = _settings(orders["settings"])
    _, journal = journals(settings)
    catch_all()
    try:
        roles[role](orders, settings, journal)
    except MultiframeError as error:
        if role == "worker":  # the scan meets the same, and once is enough
            sys.stderr.write(f"multiframe: {error}\n")
        sys.exit(UNUSABLE)
    sys.stderr.flush()
    os._exit(0)  # a thread that completes an index could go on for long: it is begun anew another time


if __name__ == "__main__":
    be({"worker": _work, "scan": _scan, "watch": _watch})
