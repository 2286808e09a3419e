"""From an address to an `Instance` that is the file as it is now, and from a request to the addresses it is told.

It knows UIDs in a URL, what clients call this server, and what to do when a file has changed since it was catalogued.
It must not know what is wanted of the instance, nor how it is answered.
"""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request

from multiframe.catalog import Catalog
from multiframe.errors import MultiframeError, NotAcceptable, SourceChanged, SourceNotFound
from multiframe.instance import Instance
from multiframe.settings import Settings
from multiframe.source import is_far
from multiframe.web.forwarded import authority, forwarded
from multiframe.web.tracing import span

__all__ = [
    "COUNTED",
    "DICOMWEB",
    "BadRequest",
    "NotThere",
    "TooMuch",
    "accept_of",
    "base_url",
    "current",
    "find",
    "for_ohif",
    "uids",
    "with_fresh",
]

DICOMWEB = "/dicom-web"
"""The root of DICOMweb, below `base_url`."""

COUNTED = f"{DICOMWEB}/ohif"
"""The same again, for OHIF: it counts colour frames of JPEG Baseline for less than they take, and more."""


class BadRequest(Exception):
    """The request itself is malformed; the message says what and how it should be."""


class NotThere(Exception):
    """The instance is there, and has nothing at that address below it."""


class TooMuch(Exception):
    """More is asked for than one answer may hold; the message says how to ask for less."""


def accept_of(request: Request) -> str:
    """Give what the client takes; an ``accept`` in the query stands in place of the header (PS3.18 8.3.3.1).

    Raises
    ------
    NotAcceptable
        It does not say, and that is not let pass (PS3.18 8.7.5).
    """
    settings: Settings = request.app.state.settings
    # A plus sign in a query is a space to whoever forgot to encode it.
    asked = [value.replace("dicom ", "dicom+") for value in request.query_params.getlist("accept")]
    accept = ",".join((asked or request.headers.getlist("accept"))[:8])
    if not accept and settings.strict_accept:
        raise NotAcceptable("a request says in Accept which media types it takes (PS3.18 8.7.5)")
    return accept


def base_url(request: Request) -> str:
    """Give what this client's absolute addresses begin with, without a slash at the end.

    That is ``public_url`` where it is set; else what a trusted proxy says the client asked for; else the Host header,
    which was compared with the names of this server before anything else; else, in HTTP/1.0, the address of the socket.
    An entity tag of an answer that holds such addresses must cover it.
    """
    settings: Settings = request.app.state.settings
    if settings.public_url:
        return settings.public_url.rstrip("/")
    peer = request.client.host if request.client else None
    told = forwarded(request.headers.items(), peer, settings.trusted_proxies)
    scheme, server = request.scope.get("scheme", "http"), request.scope.get("server")
    host = told.host or authority(scheme, request.headers.get("host", ""), server, proxied=any(told))
    return f"{told.scheme or scheme}://{host}{told.prefix}"


def uids(request: Request) -> tuple[str, str, str]:
    """Give study, series and instance of an address."""
    p = request.path_params
    return p["study"], p["series"], p["instance"]


def for_ohif(request: Request) -> bool:
    """Whether what is asked for lies below the root for OHIF."""
    return request.url.path.startswith(f"{COUNTED}/")


async def find(catalog: Catalog, study: str | None, series: str | None, uid: str) -> Instance:
    """Find an instance: at once where it is in use, else on a thread."""
    found = catalog.cached(uid, study=study, series=series)
    if found is not None:
        return found
    with span("catalog"):
        return await asyncio.to_thread(catalog.instance, uid, study=study, series=series)


async def with_fresh[T](
    request: Request, study: str | None, series: str | None, uid: str, use: Callable[[Instance], Awaitable[T]]
) -> T:
    """Use an instance; where its file has changed, read it anew once: neither old bytes nor old errors are given."""
    catalog: Catalog = request.app.state.catalog
    try:
        instance = await find(catalog, study, series, uid)
    except SourceChanged:  # seen already where a header too long to be kept is read again
        await asyncio.to_thread(catalog.refresh, uid)
        return await use(await find(catalog, study, series, uid))
    try:
        return await use(instance)
    except SourceNotFound:
        # It was moved, and another process has seen it; or it is gone, and stays in the catalog: a folder can be away
        # for a moment.
        return await use(await asyncio.to_thread(catalog.look_again, uid, study=study, series=series))
    except MultiframeError:
        if await _unchanged(instance):
            raise
    await asyncio.to_thread(catalog.refresh, uid)
    return await use(await find(catalog, study, series, uid))


async def current(instance: Instance) -> Instance:
    """Make sure the file is the one whose header is kept."""
    if not await _unchanged(instance):
        raise SourceChanged("the file is not the one whose header is kept")
    return instance


async def _unchanged(instance: Instance) -> bool:
    """Whether the file is still the one whose header and index are kept.

    Raises
    ------
    SourceNotFound, SourceError
        It is not there, or cannot be read.
    """
    source = instance.source
    return (await asyncio.to_thread(source.stat) if is_far(source) else source.stat()) == instance.stat
