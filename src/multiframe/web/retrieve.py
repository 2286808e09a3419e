"""WADO-RS: frames and metadata (PS3.18 10.4).

It turns a URL and headers into an `Instance` and a `Rope`, and a rope into an answer. It must not know how frames are
found or where headers are kept. A frame *number* (from 1) becomes an *index* (from 0) here, in one function.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from multiframe.catalog import Catalog
from multiframe.dicomjson import metadata
from multiframe.errors import (
    FrameNotFound,
    InstanceNotFound,
    MultiframeError,
    NotAcceptable,
    SourceChanged,
    SourceNotFound,
)
from multiframe.instance import Instance
from multiframe.memory import Lease, MemoryBudget
from multiframe.ranges import Buffer, ByteRange
from multiframe.rope import Rope
from multiframe.settings import Settings
from multiframe.source import run_async
from multiframe.web.media import (
    RangeNotSatisfiable,
    accepts_json,
    choose_frames,
    content_range,
    etag_matches,
    multipart,
    parse_accept,
    parse_range,
    takes_gzip,
)

__all__ = ["ROUTES", "BadRequest", "facts", "frames"]

log = logging.getLogger("multiframe.web")

_MOST_FRAMES = 10_000
"""In one request: what is known of each part is held while the answer is sent."""

_FOREVER = "private, max-age=31536000, immutable"


class BadRequest(Exception):
    """The request itself is malformed; the message says what and how it should be."""


class _RopeResponse(Response):
    """A rope on its way out, piece by piece: what is held is one piece, whatever the size of the body."""

    def __init__(
        self, rope: Rope, part: ByteRange, first: Sequence[Buffer], lease: Lease, instance: Instance, *,
        piece: int, status_code: int, headers: dict[str, str],
    ) -> None:  # fmt: skip
        super().__init__(None, status_code, headers)
        self._rope, self._part, self._first = rope, part, first
        self._lease, self._instance, self._piece = lease, instance, piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            at, stop = self._part
            buffers = self._first
            if stop - at > self._piece:
                watcher = asyncio.ensure_future(_disconnect(receive))
            while buffers:
                body = buffers[0] if len(buffers) == 1 else b"".join(buffers)
                at += len(body)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if at >= stop or (watcher is not None and watcher.done()):
                    break
                buffers = await _read(self._rope, ByteRange(at, min(at + self._piece, stop)), self._instance)
            # The server waits here until the last piece has left its buffers: only then is the memory free.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except MultiframeError as error:
            # The head is out: all that is left is to break off, so that nobody takes half for the whole.
            log.warning("instance %s: broken off: %s", self._instance.header.sop_instance_uid, type(error).__name__)
        finally:
            if watcher is not None:
                watcher.cancel()
            self._lease.release()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(rope: Rope, part: ByteRange, instance: Instance) -> Sequence[Buffer]:
    return await run_async(rope.read(part), instance.source, identity=instance.stat.identity)


async def _rope_answer(request: Request, instance: Instance, rope: Rope, headers: dict[str, str]) -> Response:
    """Answer with a rope: 200, 206, 304 or 416, GET or HEAD."""
    settings: Settings = request.app.state.settings
    budget: MemoryBudget = request.app.state.budget
    etag = rope.etag
    headers |= {"etag": etag, "accept-ranges": "bytes", "cache-control": _FOREVER, "vary": "Accept"}
    if request.method == "HEAD" or "if-none-match" in request.headers:
        await _current(instance)  # nothing is read that would show it
    if etag_matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    part, status = ByteRange(0, rope.size), HTTPStatus.OK
    if request.headers.get("if-range", etag) == etag:
        try:
            asked = parse_range(request.headers.get("range"), rope.size)
        except RangeNotSatisfiable:
            headers["content-range"] = content_range(None, rope.size)
            return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
        if asked is not None:
            part, status = asked, HTTPStatus.PARTIAL_CONTENT
            headers["content-range"] = content_range(part, rope.size)
    headers["content-length"] = str(part.size)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    held = min(part.size, settings.piece, budget.limit)
    lease = await budget.acquire_async(held, timeout=settings.memory_wait)
    try:
        first = await _read(rope, ByteRange(part.start, part.start + held), instance)
    except BaseException:
        lease.release()
        raise
    return _RopeResponse(rope, part, first, lease, instance, piece=held, status_code=status, headers=headers)


def _accept(request: Request) -> str:
    """Give what the client takes; an ``accept`` in the query goes before the header (PS3.18 8.3.3.1)."""
    return ",".join([*request.query_params.getlist("accept"), *request.headers.getlist("accept")][:8])


def _indices(text: str, count: int) -> list[int]:
    """Frame numbers, from 1 and separated by commas, become indices from 0."""
    numbers = text.split(",")
    if len(numbers) > count:
        raise BadRequest(f"{len(numbers)} frames asked for, the instance has {count}: each at most once")
    if len(numbers) > _MOST_FRAMES:
        raise BadRequest(
            f"{len(numbers)} frames asked for at once: {_MOST_FRAMES} are the most, ask in several requests"
        )
    indices = []
    for number in numbers:
        if not (number.isascii() and number.isdecimal() and len(number) < 12):
            raise BadRequest("a frame list is numbers from 1 on, separated by commas")
        if not 1 <= int(number) <= count:
            raise FrameNotFound(f"there is no frame {int(number)}: the instance has {count}, counted from 1")
        indices.append(int(number) - 1)
    if len(set(indices)) < len(indices):
        raise BadRequest("a frame list names each frame at most once")
    return indices


def _uids(request: Request) -> tuple[str, str, str]:
    p = request.path_params
    return p["study"], p["series"], p["instance"]


async def _instance(catalog: Catalog, study: str | None, series: str | None, uid: str) -> Instance:
    found = catalog.cached(uid, study=study, series=series)
    if found is not None:
        return found
    return await asyncio.to_thread(catalog.instance, uid, study=study, series=series)


async def _with_fresh[T](
    request: Request, study: str | None, series: str | None, uid: str, use: Callable[[Instance], Awaitable[T]]
) -> T:
    """Use an instance; where its file has changed, read it anew once: neither old bytes nor old errors are given."""
    catalog: Catalog = request.app.state.catalog
    instance = await _instance(catalog, study, series, uid)
    try:
        return await use(instance)
    except SourceNotFound:
        raise  # it stays in the catalog: a folder can be away for a moment
    except MultiframeError:
        if _unchanged(instance):
            raise
    await asyncio.to_thread(catalog.refresh, uid)
    return await use(await _instance(catalog, study, series, uid))


def _unchanged(instance: Instance) -> bool:
    """Whether the file is still the one whose header and index are kept.

    Raises
    ------
    SourceNotFound, SourceError
        It is not there, or cannot be read.
    """
    return instance.source.stat() == instance.stat


async def frames(request: Request) -> Response:
    """``…/instances/{instance}/frames/{list}``: frames as stored, in parts or one alone (PS3.18 10.4.1.6)."""
    study, series, uid = _uids(request)

    async def use(instance: Instance) -> Response:
        count = instance.header.declared_frames or len(await instance.grow_async(None))
        indices = _indices(request.path_params["frames"], count)
        syntax = instance.frame_syntax
        choice = choose_frames(parse_accept(_accept(request)), syntax, count=len(indices))
        known = instance.known
        index = await instance.grow_async(max(indices))
        content_type = f"{choice.media_type}; transfer-syntax={syntax.uid}"
        identity = repr(instance.stat.identity)
        payloads = [index.parts(i) for i in indices]
        if choice.multipart:
            rope, boundary = multipart([(content_type, p) for p in payloads], identity=identity)
            content_type = f'multipart/related; type="{choice.media_type}"; boundary={boundary}'
        else:
            rope = Rope(payloads[0], identity=f"{identity} {content_type}")
        answer = await _rope_answer(request, instance, rope, {"content-type": content_type})
        if known is None or not known.complete:
            request.app.state.indexer.complete(instance)
        return answer

    return await _with_fresh(request, study, series, uid, use)


async def _current(instance: Instance) -> Instance:
    """Make sure the file is the one whose header is kept."""
    if not _unchanged(instance):
        raise SourceChanged("the file is not the one whose header is kept")
    return instance


async def metadata_of(request: Request) -> Response:
    """``…/metadata`` of an instance, a series or a study: DICOM JSON, streamed (PS3.18 10.4.1.1.2)."""
    if not accepts_json(parse_accept(_accept(request))):
        raise NotAcceptable("metadata is given as application/dicom+json")
    catalog: Catalog = request.app.state.catalog
    p = request.path_params
    study, series = p["study"], p.get("series")
    if "instance" in p:
        uids = [p["instance"]]
    else:
        uids = await asyncio.to_thread(catalog.series_instances, study, series)
    if not uids:
        raise InstanceNotFound("no instance of that study or series is known")
    first = await _with_fresh(request, study, series, uids[0], _current)
    return _MetadataResponse(request, study, series, uids, first)


class _MetadataResponse(Response):
    """A JSON array of instances, written while it is sent."""

    def __init__(self, request: Request, study: str, series: str | None, uids: Sequence[str], first: Instance) -> None:
        headers = {"content-type": "application/dicom+json", "cache-control": "private, no-cache",
                   "vary": "Accept, Accept-Encoding"}  # fmt: skip
        self._gzip = takes_gzip(request.headers.get("accept-encoding", ""))
        if self._gzip:
            headers["content-encoding"] = "gzip"
        super().__init__(None, 200, headers)
        del self.headers["content-length"]  # not known before it is written
        self._request, self._study, self._series, self._uids, self._first = request, study, series, uids, first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._request.app.state
        lease = await state.budget.acquire_async(
            min(state.settings.piece, state.budget.limit), timeout=state.settings.memory_wait
        )
        squeeze = zlib.compressobj(1, wbits=31) if self._gzip else None
        watcher = asyncio.ensure_future(_disconnect(receive))

        async def out(data: bytes, *, last: bool = False) -> None:
            if squeeze is not None:
                data = squeeze.compress(data) + (squeeze.flush() if last else b"")
            if data or last:
                await send({"type": "http.response.body", "body": data, "more_body": not last})

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._request.method == "HEAD":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            before = b"["
            for uid in self._uids:
                instance = self._first
                if uid != self._uids[0]:
                    instance = await _with_fresh(self._request, self._study, self._series, uid, _current)
                pieces = metadata(instance.header)
                while data := await asyncio.to_thread(_gather, pieces, 64 * 1024):
                    await out(before + data)
                    before = b""
                    if watcher.done():
                        return
                before = b","
            await out(b"]", last=True)
        except MultiframeError as error:
            log.warning("study %s: metadata broken off: %s", self._study, type(error).__name__)
        finally:
            watcher.cancel()
            lease.release()


def _gather(pieces: Iterator[bytes], size: int) -> bytes:
    """Take pieces together until there is enough to be worth sending."""
    out, held = [], 0
    for piece in pieces:
        out.append(piece)
        held += len(piece)
        if held >= size:
            break
    return b"".join(out)


async def facts(request: Request) -> Response:
    """``/api/instances/{instance}``: what the viewer shows beside the picture; our own, no part of the standard."""
    instance = await _instance(request.app.state.catalog, None, None, request.path_params["instance"])
    index = instance.known
    return JSONResponse(
        {
            "size": instance.stat.size,
            "frames": instance.header.declared_frames or (len(index) if index and index.complete else 1),
            "syntax": {"uid": instance.syntax.uid, "name": instance.syntax.name},
            "origin": index.origin if index else None,
            "complete": bool(index and index.complete),
            "fragments": index.fragments if index and index.complete else None,
            "damage": index.damage.message if index and index.damage else None,
        },
        headers={"cache-control": "private, no-cache"},
    )


_SERIES = "/studies/{study}/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"

ROUTES = [
    (_INSTANCE + "/frames/{frames}", frames),
    (_INSTANCE + "/metadata", metadata_of),
    (_SERIES + "/metadata", metadata_of),
    ("/studies/{study}/metadata", metadata_of),
]
