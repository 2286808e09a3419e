"""The application: routes, who may ask, and which error is which status.

`create_app` builds; ``serve.py`` runs. It must not know how anything is read. A new error is one row in `STATUS`, a new
endpoint one row in the ROUTES of its module.
"""

import asyncio
import contextlib
import contextvars
import errno
import ipaddress
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, State
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from multiframe import errors
from multiframe.catalog import Catalog
from multiframe.instance import Instance
from multiframe.memory import ByteCache, MemoryBudget
from multiframe.settings import Settings
from multiframe.storing import Store
from multiframe.web import (
    arriving,
    bulkdata,
    capabilities,
    delete,
    frames,
    health,
    lookup,
    metadata,
    openapi,
    own,
    pages,
    rendered,
    retrieve,
    search,
    stow,
    wado_uri,
)
from multiframe.web.addresses import Address
from multiframe.web.again import Again, Ways
from multiframe.web.answers import works_of
from multiframe.web.asked import UID
from multiframe.web.doors import Doors, Forbidden, Keys, Unauthenticated, Unverifiable, guarded
from multiframe.web.forwarded import networks, split_host
from multiframe.web.gauges import Gauges
from multiframe.web.journal import REQUEST, Format, Journal
from multiframe.web.lookup import COUNTED, DICOMWEB
from multiframe.web.media import PreconditionFailed, RangeNotSatisfiable
from multiframe.web.once import ClientGone
from multiframe.web.origins import Origins
from multiframe.web.witness import AtOnce, Witness, failed
from multiframe.web.workers import Workers

__all__ = ["DICOMWEB", "ROUTES", "STATUS", "create_app"]

log = logging.getLogger("multiframe.web")

ROUTES = [*retrieve.ROUTES, *frames.ROUTES, *rendered.ROUTES, *metadata.ROUTES, *bulkdata.ROUTES, *search.ROUTES]
"""Below it."""

CHANGING = [*stow.ROUTES, *delete.ROUTES]
"""Below it too, at its usual address alone, where there is a store; deleting only where that is asked for."""

STATUS: dict[type[Exception], int] = {
    lookup.BadRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    lookup.NotThere: 404,
    lookup.TooMuch: 413,
    PreconditionFailed: 412,
    RangeNotSatisfiable: 416,
    arriving.NotYet: 503,
    stow.Stalled: 408,
    stow.LengthRequired: 411,
    stow.UnsupportedMedia: 415,
    errors.FrameNotFound: 404,
    errors.InstanceNotFound: 404,
    errors.NotFramewise: 404,
    errors.NoPixelData: 404,
    errors.SourceNotFound: 404,
    errors.NotAcceptable: 406,
    errors.UnknownSyntax: 406,
    errors.CodecMissing: 406,
    errors.TooBroad: 413,
    errors.FormatError: 500,
    errors.CodecError: 500,
    errors.SourceError: 502,
    errors.CatalogUnavailable: 503,
    errors.SourceChanged: 503,
    errors.OverBudget: 503,
    Unverifiable: 503,
    errors.NotStored: 409,
    errors.StoreError: 507,
    errors.MultiframeError: 500,
}
"""The nearest class counts."""

_UNSAID: dict[type[Exception], str] = {
    errors.SourceNotFound: "the file of this instance is gone",
    errors.SourceChanged: "the file of this instance keeps changing: ask again when it is at rest",
    errors.CatalogUnavailable: "the catalog's database does not answer: ask again; the server's log says why",
    errors.SourceError: "the file of this instance cannot be read",
}
"""What is said in place of a message that names a path: a path can hold a patient's name."""

_SPENT = {
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENOMEM: "no memory is left",
    errno.ENOSPC: "a disk of the server is full",
    errno.EDQUOT: "a disk of the server is full",
}
"""What a machine can run out of, and get back."""

_DRAWN = 8 << 20
"""Bytes that decoders may take at least, however little memory there is for all: a large frame can be shown."""

_ENCODED = 0.125
"""The part of the memory in which frames may wait that were encoded anew: clients fetch them in ranges."""

_UPLOADS = 0.25
"""The part of the memory for uploads on their way."""

_STORING = 4
"""Requests whose instances are put in their places, or deleted, at once: a bucket may take its time."""

_SWEPT = 2.0
"""Seconds for which a start waits for what a crash left to be finished: a bucket may be away."""

_SWEPT_AGAIN = 30.0

_ARRIVING = 0.125
"""The part of the memory for what is known of instances that are still arriving."""


def _told(error: Exception | str, message: str) -> dict[str, str]:
    """Give the body of a refusal: with the id under which the log tells of it."""
    name = error if isinstance(error, str) else type(error).__name__
    return {"error": name, "message": message, "request": REQUEST.get()}


async def _refused(request: Request, error: Exception) -> Response:
    nearest = next(c for c in type(error).__mro__ if c in STATUS)
    status = STATUS[nearest]
    message = next((_UNSAID[c] for c in type(error).__mro__ if c in _UNSAID), _numbered(str(error)))
    failed(request.scope, error)
    if status == 502 and (spent := _spent(error)):
        status, message = 503, f"{spent}: ask again in a moment"
    if status >= 500:
        uid = request.path_params.get("instance", "-")
        log.warning("%s %s: %s", status, type(error).__name__, uid if UID.fullmatch(uid) else "-")
    if isinstance(error, errors.CatalogUnavailable):  # it names the database, and neither a file nor a password
        log.warning("%s", error)
    headers = {"retry-after": "2"} if status == 503 else getattr(error, "headers", None)
    return JSONResponse(_told(error, message), status, headers)


def _numbered(message: str) -> str:
    """Give the number of a frame, from 1, in place of its index: addresses have numbers alone.

    Examples
    --------
    >>> _numbered("frame with index 9: the codestream ends too soon")
    'frame 10: the codestream ends too soon'
    """
    return re.sub(r"\bframe with index (\d+)", lambda found: f"frame {int(found[1]) + 1}", message)


def _spent(error: BaseException | None) -> str:
    """Say what has run out, if that is what is behind an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SPENT:
            return _SPENT[error.errno]
        error = error.__context__
    return ""


async def _surroundings(request: Request, error: Exception) -> Response:
    if not (spent := _spent(error)):
        raise error
    failed(request.scope, error)
    log.warning("503 %s: %s", type(error).__name__, spent)
    told = _told("SourceError", f"{spent}: ask again in a moment")
    return JSONResponse(told, 503, {"retry-after": "2"})


_SAID = {
    404: "there is nothing at this address: /openapi.json tells all addresses",
    405: "not by this method: Allow tells which ones this address takes",
}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    failed(request.scope, "HTTPError")
    told = _told("HTTPError", _SAID.get(error.status_code, error.detail))
    return JSONResponse(told, error.status_code, error.headers)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # as others call it in their logs: the client has closed the request


async def _unforeseen(request: Request, error: Exception) -> Response:
    message = "an error nobody foresaw; the server's log has more"
    return JSONResponse(_told(error, message), 500)


class _HostCheck:
    """Refuse names that are not ours: a page elsewhere could point its own name at this machine (DNS rebinding)."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._names = {name.lower() for name in settings.hosts}
        if settings.public_url:
            self._names.add((urlsplit(settings.public_url).hostname or "").lower())
        # Bound to every address, any of them may be asked for by number: a number cannot be pointed elsewhere.
        self._any_address = not self._names.isdisjoint({"0.0.0.0", "::", "[::]"})  # noqa: S104

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, error, message = refusal
        failed(scope, error)
        await JSONResponse(_told(error, message), status)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        hosts = Headers(scope=scope).getlist("host")
        if not hosts and scope["http_version"] == "1.0":
            return None  # it knew none; and no browser speaks it, that could be led here by another name
        # Two name nobody, though they be equal (RFC 9112 3.2): who reads the other one would be deceived.
        if len(hosts) != 1 or (name := split_host(hosts[0])) is None:
            return 400, "BadRequest", "a request names its host once, as in Host: NAME:PORT (RFC 9112 3.2)"
        if self._known(name):
            return None
        message = "this server is not known by that name: start it with --allow-host NAME or --public-url URL"
        return 421, "MisdirectedRequest", message

    def _known(self, name: str) -> bool:
        if name in self._names or name.strip("[]") in self._names:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


class Indexer:
    """Completes indexes behind the answers: the first frame waits for nothing, the next start for no walk."""

    def __init__(self, catalog: Catalog, gauges: Gauges) -> None:
        self._catalog = catalog
        self._gauges = gauges
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._busy: set[str] = set()

    def complete(self, instance: Instance) -> None:
        """See to it that the index becomes complete and is kept."""
        uid = instance.header.sop_instance_uid
        if uid in self._busy:
            return
        self._busy.add(uid)
        self._pool.submit(contextvars.copy_context().run, self._work, instance, uid)

    @property
    def waiting(self) -> int:
        """How many are under way or wait."""
        return len(self._busy)

    def _work(self, instance: Instance, uid: str) -> None:
        try:
            index = instance.complete()
            self._gauges.add("indexes", index.origin, "yes" if index.repaired else "no")
            self._catalog.keep_index(instance)
        except errors.MultiframeError as error:
            self._gauges.add("index_failures")
            # Whoever asks for a frame that this concerns is told; here there is nobody to tell.
            log.info("instance %s: index not completed: %s", uid, type(error).__name__)
        except Exception:
            log.exception("instance %s: index not completed", uid)
        finally:
            self._busy.discard(uid)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Application(Starlette):
    """Starlette, with the room that tells of everything around all others, also around those that catch errors."""

    around: Callable[[ASGIApp], Witness]
    keys: Keys
    ways: Ways

    def build_middleware_stack(self) -> ASGIApp:
        return self.around(super().build_middleware_stack())

    def at_once(self, scope: Scope) -> AtOnce | None:
        """Give the answer that is there already, to a server that can write it without waiting; None: call this.

        Who tells of everything, the doors and the short way follow one another as they do when it is called.
        """
        witness = self.middleware_stack
        if not isinstance(witness, Witness) or not self.keys.at_once(scope):
            return None
        return witness.at_once(scope, self.ways)


def _warm(catalog: Catalog) -> None:
    """Ask for nothing once: a first question costs what connecting and compiling statements cost."""
    with contextlib.suppress(errors.MultiframeError):
        catalog.instance("0")


def _store_of(settings: Settings, catalog: Catalog) -> Store:
    spool = Path(settings.spool) if settings.spool else None
    return Store(str(settings.store), catalog, spool=spool, room=settings.max_spool)


def _sweep(store: Store) -> bool:
    """Finish what a crash has left behind; says whether that could be done."""
    try:
        found = store.sweep()
    except (errors.MultiframeError, OSError) as error:
        log.warning("the store: what a crash left behind is not finished: %s", type(error).__name__)
        return False
    if found:
        log.warning("the store: %s instances catalogued that a crash had left behind", found)
    return True


async def _sweeping(state: State) -> None:
    """Sweep, again and again until a store or a database that is away is back."""
    while not await asyncio.get_running_loop().run_in_executor(state.storing, _sweep, state.store):
        await asyncio.sleep(_SWEPT_AGAIN)


def create_app(
    catalog: Catalog, settings: Settings | None = None, *, budget: MemoryBudget | None = None, started: float = 0.0,
    gauges: Gauges | None = None, journal: Journal | None = None, form: Format = "json", roots: Sequence[str] = (),
) -> Starlette:  # fmt: skip
    """Build the application over a catalog.

    Parameters
    ----------
    catalog : Catalog
        What is served; the caller closes it.
    settings : Settings, optional
        How.
    budget : MemoryBudget, optional
        Where all held bytes are entered; by default one of `settings.memory`.
    started : float
        A scan of the catalog that ended before then, in seconds since 1970, says nothing of what is served now.
    gauges : Gauges, optional
        Where requests are counted; by default those of this process alone.
    journal : Journal, optional
        Where each request is written down, and nothing without one.
    form : str
        How: ``json`` or ``text``.
    roots : sequence of str
        What has to be readable for the server to be ready.

    Returns
    -------
    Starlette
        To be run by any ASGI server.

    Raises
    ------
    MultiframeError, ValueError
        One of the trusted proxies is no address; the file of tokens or the identity provider cannot be used.
    """
    settings = settings or Settings()
    budget = budget or MemoryBudget(settings.memory)
    gauges = gauges or Gauges()
    networks(settings.trusted_proxies)
    keys = Keys(settings)
    ways = Ways(catalog, budget, most=settings.piece)
    changing = [row for row in CHANGING if settings.store and (settings.allow_delete or row.action != "delete")]
    rows = arriving.watched(ROUTES) if settings.store else ROUTES
    beside = [*own.ROUTES, *wado_uri.ROUTES, *health.ROUTES]
    told = openapi.describing([DICOMWEB, COUNTED], ROUTES, beside, changing)
    web = []
    for root, there in ((DICOMWEB, [*rows, *changing]), (COUNTED, rows)):
        describe = capabilities.describing(told, root)
        ends = [Address(root, {}, describe), Address(f"{root}/", {}, describe)]
        web += [*ends, *guarded(there, root=root, locked=keys.locked, describe=describe)]
    ours = [*guarded(beside, locked=keys.locked), openapi.route(told)]
    store = _store_of(settings, catalog) if settings.store else None

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.indexer = Indexer(catalog, gauges)
        await asyncio.to_thread(_warm, catalog)
        app.state.storing = ThreadPoolExecutor(_STORING, thread_name_prefix="store")
        if store is not None:
            # All its threads now: if one cannot be had that is told at the start, not a week later to whoever stores.
            together = threading.Barrier(_STORING)
            for _ in range(_STORING):
                app.state.storing.submit(together.wait)
        sweeping = asyncio.create_task(_sweeping(app.state)) if store is not None else None
        if sweeping:
            await asyncio.wait({sweeping}, timeout=_SWEPT)
        sampled = asyncio.create_task(health.sampling(app.state))
        yield
        sampled.cancel()
        if sweeping:
            sweeping.cancel()
        gauges.end()
        app.state.storing.shutdown(wait=False)
        app.state.indexer.close()
        app.state.workers.close()
        keys.close()
        if journal is not None:
            journal.drain()

    app = _Application(
        routes=[*web, *ours, *pages.routes(settings.ohif)],
        lifespan=lifespan,
        exception_handlers={
            errors.MultiframeError: _refused,
            lookup.BadRequest: _refused,
            lookup.NotThere: _refused,
            lookup.TooMuch: _refused,
            PreconditionFailed: _refused,
            RangeNotSatisfiable: _refused,
            Unauthenticated: _refused,
            Forbidden: _refused,
            Unverifiable: _refused,
            arriving.NotYet: _refused,
            stow.LengthRequired: _refused,
            stow.Stalled: _refused,
            stow.UnsupportedMedia: _refused,
            OSError: _surroundings,
            ClientGone: _nobody,
            HTTPException: _http_error,
            Exception: _unforeseen,
        },
        middleware=[
            Middleware(Doors, keys=keys),
            Middleware(Again, ways=ways),
            Middleware(_HostCheck, settings=settings),
            Middleware(
                Origins,
                allowed=settings.allow_origins,
                methods=set().union(*(row.methods for row in changing)) - {"GET", "HEAD", "OPTIONS"},
            ),
        ],
    )
    app.around = partial(Witness, gauges=gauges, journal=journal, form=form, trusted=settings.trusted_proxies)
    app.keys, app.ways = keys, ways
    app.state.catalog = catalog
    app.state.gauges = gauges
    app.state.readiness = health.Readiness(catalog, gauges, roots, store.incoming if store else None)
    app.state.journal = journal
    app.state.settings = settings
    app.state.store = store
    app.state.uploads = MemoryBudget(max(1, int(budget.limit * _UPLOADS)))
    app.state.arriving = ByteCache[str, arriving.Growing](budget, share=_ARRIVING)
    app.state.started = started
    app.state.workers = Workers(settings.decoders, memory=max(settings.memory, _DRAWN))
    app.state.budget = budget
    app.state.works = works_of(app.state.workers, budget)
    app.state.encoded = ByteCache[Hashable, bytes](budget, share=_ENCODED)
    return app
