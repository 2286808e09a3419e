"""WADO-RS metadata: the attributes of an instance, a series or a study, streamed (PS3.18 10.4.1.1.5).

It settles which files an answer is of before its head leaves, and gives bulk data their addresses. It must not know
how JSON or XML is written, nor how a stream leaves.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from multiframe import __version__
from multiframe.catalog import Catalog
from multiframe.dicomjson import Groups, metadata
from multiframe.errors import FrameNotFound, InstanceNotFound, SourceChanged, SourceNotFound
from multiframe.header import Header
from multiframe.instance import Instance
from multiframe.rope import digest
from multiframe.source import Identity, is_far
from multiframe.web.answers import ASK, not_modified, stream_answer
from multiframe.web.coding import coded
from multiframe.web.doors import Row
from multiframe.web.lookup import DICOMWEB, BadRequest, accept_of, base_url, current, with_fresh
from multiframe.web.media import choose_coding, parse_accept
from multiframe.web.models import choose_model

__all__ = ["ROUTES", "States", "address", "addresses", "metadata_of", "partly", "settled"]

_PIECE = 128 * 1024
_WINDOW = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


type States = list[tuple[str, Identity]]
"""SOP Instance UIDs, and of which state of its file each is."""


async def settled(request: Request) -> tuple[States, int]:
    """Say which instances an address means, as their files are now, and of how many the file is gone.

    Raises
    ------
    InstanceNotFound, SourceNotFound
        There is none.
    """
    catalog: Catalog = request.app.state.catalog
    p = request.path_params
    study, series = p["study"], p.get("series")
    if "instance" in p:

        async def state(instance: Instance) -> Identity:
            return (await current(instance)).stat.identity

        return [(p["instance"], await with_fresh(request, study, series, p["instance"], state))], 0
    found = await asyncio.to_thread(catalog.states, study, series)
    if not found:
        raise InstanceNotFound("no instance of that study or series is known")
    there = [(uid, identity) for uid, identity in found if identity is not None]
    if not there:
        raise SourceNotFound("the files of these instances are gone")
    return there, len(found) - len(there)


def partly(headers: dict[str, str], gone: int) -> HTTPStatus:
    """Say in the head that something is missing (PS3.18 10.4.3.1: 206)."""
    if not gone:
        return HTTPStatus.OK
    files = "the file of 1 instance is" if gone == 1 else f"the files of {gone} instances are"
    told = f'299 multiframe "{files} gone: left out"'
    headers["warning"] = f"{headers['warning']}, {told}" if "warning" in headers else told
    return HTTPStatus.PARTIAL_CONTENT


def address(request: Request, header: Header) -> str:
    """Give the absolute address of an instance."""
    study, series, uid = header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
    return f"{base_url(request)}{DICOMWEB}/studies/{study}/series/{series}/instances/{uid}"


def addresses(request: Request, header: Header) -> Callable[[str], str]:
    """Give what turns the path of a value into its absolute address."""
    below = f"{address(request, header)}/bulkdata/"
    return lambda path: below + path


async def metadata_of(request: Request) -> Response:
    """``…/metadata`` of an instance, a series or a study: DICOM JSON or XML, streamed (PS3.18 10.4.1.1.2).

    ``?frames=a-b`` of an instance: of the per-frame functional groups only those of these frames.
    """
    model = choose_model(parse_accept(accept_of(request)), alone="instance" in request.path_params)
    window = _window(request)
    states, gone = await settled(request)
    coding = choose_coding(request.headers.get("accept-encoding", ""))
    named = digest(__version__, base_url(request), coding, window, gone, states, model)
    headers = {
        "cache-control": ASK,
        "vary": "Accept, Accept-Encoding",
        "etag": f'"{named}"',
    }
    kept = await not_modified(request, headers)
    if kept is not None:
        return kept
    status = partly(headers, gone)
    headers["content-type"] = model.content_type(named)
    if coding:
        headers["content-encoding"] = coding
    first = await _instance(request, states[0])
    groups = await _groups(request, first, window) if window is not None else None
    pieces = coded(model.written(_together(_json(request, states, first, groups)), named), coding)
    return stream_answer(request, _sent(pieces), headers, status=status)


def _window(request: Request) -> tuple[int, int] | None:
    """Read ``frames=a-b``, frame numbers, into indices from 0, half-open."""
    asked = request.query_params.getlist("frames")
    if not asked:
        return None
    found = _WINDOW.fullmatch(asked[0])
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if len(asked) > 1 or not 1 <= first <= last:
        raise BadRequest("frames is a frame number from 1 on, or the first and the last of several: frames=1-100")
    if "instance" not in request.path_params:
        raise BadRequest("frames is for the metadata of one instance")
    return first - 1, last


async def _groups(request: Request, instance: Instance, window: tuple[int, int]) -> Groups:
    count = instance.header.declared_frames or 1
    if window[1] > count:
        raise FrameNotFound(f"there is no frame {window[1]}: the instance has {count}, counted from 1")
    if "items" not in instance.__dict__:
        await asyncio.to_thread(getattr, instance, "items")
        request.app.state.catalog.weigh(instance)
    return instance.items.groups(*window)


async def _instance(request: Request, state: tuple[str, Identity]) -> Instance:
    """Give an instance in the state that was settled."""
    p = request.path_params
    instance = await with_fresh(request, p["study"], p.get("series"), state[0], current)
    if instance.stat.identity != state[1]:
        raise SourceChanged("the file is not the one this answer began with")
    return instance


def _json(
    request: Request, states: Sequence[tuple[str, Identity]], first: Instance, groups: Groups | None
) -> Iterator[bytes]:
    """Write a JSON array of instances; run on a thread."""
    catalog: Catalog = request.app.state.catalog
    before = b"["
    for uid, identity in states:
        instance = first if uid == states[0][0] else catalog.instance(uid, study=request.path_params["study"])
        near = not is_far(instance.source)  # each look at a far one is a round trip, and all had theirs just now
        if instance.stat.identity != identity or (near and instance.source.stat().identity != identity):
            raise SourceChanged("the file is not the one this answer began with")
        for piece in metadata(instance.header, bulk=addresses(request, instance.header), groups=groups):
            yield before + piece
            before = b""
        before = b","
    yield b"]"


async def _sent(pieces: Iterator[bytes]) -> AsyncGenerator[bytes]:
    while data := await asyncio.to_thread(next, pieces, b""):
        yield data


def _together(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Take pieces together until there is enough to be worth a thread's turn; the first is not kept waiting."""
    out: list[bytes] = []
    held, enough = 0, 1
    for piece in pieces:
        out.append(piece)
        held += len(piece)
        if held >= enough:
            yield b"".join(out)
            out.clear()
            held, enough = 0, _PIECE
    if out:
        yield b"".join(out)


_SERIES = "/studies/{study}/series/{series}"

ROUTES = [
    Row(_SERIES + "/instances/{instance}/metadata", metadata_of, "read"),
    Row(_SERIES + "/metadata", metadata_of, "read"),
    Row("/studies/{study}/metadata", metadata_of, "read"),
]
