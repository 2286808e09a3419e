"""WADO-RS metadata: DICOM JSON of an instance, a series or a study, streamed (PS3.18 10.4.1.1.5).

It must not know how JSON is written, nor how a stream leaves.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response

from multiframe.catalog import Catalog
from multiframe.dicomjson import metadata
from multiframe.errors import InstanceNotFound, NotAcceptable
from multiframe.instance import Instance
from multiframe.web.answers import stream_answer
from multiframe.web.lookup import accept_of, current, with_fresh
from multiframe.web.media import accepts_json, parse_accept

__all__ = ["ROUTES", "metadata_of"]

_PIECE = 64 * 1024


async def metadata_of(request: Request) -> Response:
    """``…/metadata`` of an instance, a series or a study: DICOM JSON, streamed (PS3.18 10.4.1.1.2)."""
    if not accepts_json(parse_accept(accept_of(request))):
        raise NotAcceptable("metadata is given as application/dicom+json")
    catalog: Catalog = request.app.state.catalog
    p = request.path_params
    study, series = p["study"], p.get("series")
    if "instance" in p:
        uids: Sequence[str] = [p["instance"]]
    else:
        uids = await asyncio.to_thread(catalog.series_instances, study, series)
    if not uids:
        raise InstanceNotFound("no instance of that study or series is known")
    first = await with_fresh(request, study, series, uids[0], current)
    headers = {
        "content-type": "application/dicom+json",
        "cache-control": "private, no-cache",
        "vary": "Accept, Accept-Encoding",
    }
    return stream_answer(request, _pieces(request, study, series, uids, first), headers, compress=True)


async def _pieces(
    request: Request, study: str, series: str | None, uids: Sequence[str], first: Instance
) -> AsyncIterator[bytes]:
    """Write a JSON array of instances."""
    before = b"["
    for uid in uids:
        instance = first if uid == uids[0] else await with_fresh(request, study, series, uid, current)
        pieces = metadata(instance.header)
        while data := await asyncio.to_thread(_gather, pieces, _PIECE):
            yield before + data
            before = b""
        before = b","
    yield b"]"


def _gather(pieces: Iterator[bytes], size: int) -> bytes:
    """Take pieces together until there is enough to be worth sending."""
    out, held = [], 0
    for piece in pieces:
        out.append(piece)
        held += len(piece)
        if held >= size:
            break
    return b"".join(out)


_SERIES = "/studies/{study}/series/{series}"

ROUTES = [
    (_SERIES + "/instances/{instance}/metadata", metadata_of),
    (_SERIES + "/metadata", metadata_of),
    ("/studies/{study}/metadata", metadata_of),
]
