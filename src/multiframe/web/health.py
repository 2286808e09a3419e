"""Whether it lives, whether it can serve, and its numbers: for what watches over servers.

Once a second each process shows what it holds and that it is alive; what is asked for is put together from that. It
must not know what a request is for. No answer names a path or what a file holds.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from multiframe.errors import CatalogUnavailable, InstanceNotFound, MultiframeError, SourceNotFound
from multiframe.places import is_url
from multiframe.web.doors import Row
from multiframe.web.gauges import Gauges

if TYPE_CHECKING:
    from prometheus_client import Metric

    from multiframe.catalog import Catalog

__all__ = ["ROUTES", "Readiness", "sample", "sampling"]

_PATIENCE = 2.0
"""Seconds after which what does not answer is taken for broken."""

_KEPT = 10.0
"""Seconds that the answer of a far root is good for: who asks each second must not cost its server as many requests."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_UNKEPT = {"cache-control": "no-store"}


def sample(state: State) -> None:
    """Show the others what this process holds, and that it is alive."""
    gauges: Gauges = state.gauges
    gauges.beat()
    gauges.set("workers", to=1)
    gauges.set("memory_limit_bytes", to=state.budget.limit)
    gauges.set("memory_held_bytes", to=state.budget.held)
    gauges.set("memory_waiting", to=state.budget.waiting)
    for name, cache in (("instances", state.catalog.kept), ("encoded", state.encoded)):
        gauges.set("cache_held_bytes", name, to=cache.held)
        gauges.follow("cache_hits", name, to=cache.hits)
        gauges.follow("cache_misses", name, to=cache.misses)
    gauges.set("index_waiting", to=state.indexer.waiting)
    gauges.set("decoders", to=state.workers.living)
    gauges.set("decoders_waiting", to=state.workers.turns.held + state.workers.turns.waiting)
    if state.journal is not None:
        state.journal.flush()
        gauges.follow("log_lines_lost", to=state.journal.lost)
    with suppress(OSError, ValueError):  # not every system has it
        gauges.set("resident_bytes", to=_PAGE * int(Path("/proc/self/statm").read_text().split()[1]))
        gauges.set("open_files", to=len(os.listdir("/proc/self/fd")))


async def sampling(state: State, period: float = 1.0) -> None:
    """Do so once a second, until cancelled."""
    while True:
        sample(state)
        await asyncio.sleep(period)


class Readiness:
    """What must be well for requests to be answered.

    Parameters
    ----------
    catalog : Catalog
        Whose database has to answer.
    gauges : Gauges
        Who know which processes are alive.
    roots : sequence of str
        Files and folders that have to be readable, and URLs that have to answer.
    store : Path, optional
        The folder in which instances arrive: it has to be writable.
    """

    def __init__(
        self, catalog: "Catalog", gauges: Gauges, roots: Sequence[str] = (), store: Path | None = None
    ) -> None:
        self._catalog, self._gauges, self._store = catalog, gauges, store
        self._roots = dict(enumerate(roots, 1))
        self._far = {k: root for k, root in self._roots.items() if is_url(root)}
        self._silent, self._looked = list[int](), float("-inf")  # which far ones gave no answer, and when
        self._under_way: dict[str, asyncio.Future[str]] = {}
        self._checks: Mapping[str, Callable[[], str]] = {
            "catalog": self._no_catalog,
            "roots": self._no_root,
            "store": self._no_store,
            "workers": self._no_worker,
        }

    async def found(self) -> dict[str, str]:
        """Say of each what is wrong; empty where nothing is.

        What hangs is waited for once: whoever asks meanwhile waits for the same answer, and no thread is added.
        """
        for name, check in self._checks.items():
            if name not in self._under_way or self._under_way[name].done():
                self._under_way[name] = asyncio.ensure_future(asyncio.to_thread(check))
        await asyncio.wait(self._under_way.values(), timeout=_PATIENCE)
        silent = f"gave no answer within {_PATIENCE:g} s"
        return {name: task.result() if task.done() else silent for name, task in self._under_way.items()}

    def _no_catalog(self) -> str:
        try:
            self._catalog.instance("0")
        except InstanceNotFound:
            return ""
        except CatalogUnavailable:
            return "the database does not answer"
        except MultiframeError as error:
            return f"the database cannot be used: {type(error).__name__}"
        return ""

    def _no_root(self) -> str:
        bad = [k for k, root in self._roots.items() if k not in self._far and not _readable(root)]
        bad = sorted(bad + self._silent_roots())
        return f"of {len(self._roots)} roots these cannot be read: {', '.join(map(str, bad))}" if bad else ""

    def _silent_roots(self) -> list[int]:
        if self._far and time.monotonic() - self._looked > _KEPT:
            with ThreadPoolExecutor(min(len(self._far), 8), thread_name_prefix="ready") as pool:
                answers = list(pool.map(_answers, self._far.values()))
            self._silent = [k for k, well in zip(self._far, answers, strict=True) if not well]
            self._looked = time.monotonic()
        return self._silent

    def _no_store(self) -> str:
        return "the store cannot be written" if self._store and not os.access(self._store, os.W_OK) else ""

    def _no_worker(self) -> str:
        alive, wanted = len(self._gauges.alive()), self._gauges.workers
        return f"{alive} of {wanted} processes are alive" if alive < wanted else ""


def _readable(root: str) -> bool:
    try:
        if os.path.isdir(root):
            with os.scandir(root) as entries:
                next(entries, None)
        else:
            with open(root, "rb") as file:
                file.read(1)
    except OSError:
        return False
    return True


def _answers(root: str) -> bool:
    from multiframe.remote import RemoteSource, listed  # here: nobody else needs it where all roots are near

    timeout = _PATIENCE / 4  # a whole request may take three times as long
    try:
        if root.lower().startswith(("http://", "https://")):
            RemoteSource(root, timeout=timeout, retries=0).stat()
        else:
            with suppress(SourceNotFound):  # nothing is there yet: that is an answer, too
                next(listed(root, timeout=timeout, retries=0), None)
    except MultiframeError:
        return False
    return True


async def healthz(request: Request) -> Response:
    """``/healthz``: this process lives, and its event loop turns."""
    return PlainTextResponse("ok\n", headers=_UNKEPT)


async def readyz(request: Request) -> Response:
    """``/readyz``: requests can be answered, or why not."""
    found = await request.app.state.readiness.found()
    ready = not any(found.values())
    body = {"ready": ready, "checks": {name: wrong or "ok" for name, wrong in found.items()}}
    return JSONResponse(body, 200 if ready else 503, _UNKEPT)


async def metrics(request: Request) -> Response:
    """``/metrics``: all numbers of all processes, as Prometheus or OpenMetrics text."""
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import CollectorRegistry

    sample(request.app.state)  # of this process they are of now; of the others, a second old at most
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(request.app.state))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    body = await asyncio.to_thread(encode, registry)
    return Response(body, headers={"content-type": content_type, **_UNKEPT})


class _Numbers:
    """All numbers, as prometheus_client collects them."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator["Metric"]:
        yield from self._state.gauges.families(self._scan)

    def describe(self) -> Sequence["Metric"]:
        return ()  # nothing is asked for before it is collected

    def _scan(self) -> dict[tuple[str, ...], float]:
        try:
            status = self._state.catalog.status()
        except MultiframeError:
            return {}
        told: dict[tuple[str, ...], float] = {("scan_running",): float(status.running)}
        return told | {("scan_files", what): getattr(status, what) for what in ("found", "registered", "failed")}


ROUTES = [
    Row("/healthz", healthz, "open"),
    Row("/readyz", readyz, "open"),
    Row("/metrics", metrics, "metrics", minds=True),
]
