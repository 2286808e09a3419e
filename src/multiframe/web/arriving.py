"""Instances that are still arriving: their header, and each frame as soon as it is whole.

Where the catalog has no instance of that UID, one that some process is receiving at the moment is looked for in the
store. Nothing of it may be kept by anybody: it can still fail. It knows a file that grows, and how long a frame is
waited for. It must not know how an upload is received.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from multiframe.catalog import Catalog
from multiframe.dicomjson import metadata
from multiframe.errors import InstanceNotFound, MultiframeError, NotAcceptable, SourceChanged, SourceNotFound
from multiframe.following import Follower
from multiframe.frameindex import FrameIndex
from multiframe.instance import Instance, header_of
from multiframe.rope import Made, Rope, read_all
from multiframe.source import FileSource, run
from multiframe.storing import Store
from multiframe.transcode import making
from multiframe.web.answers import stream_answer
from multiframe.web.doors import Endpoint, Row
from multiframe.web.frames import choice_of, frames, indices_of
from multiframe.web.lookup import accept_of, uids
from multiframe.web.media import accepts_json, multipart_type, parse_accept
from multiframe.web.metadata import addresses, metadata_of
from multiframe.web.workers import gone, who

__all__ = ["WAIT", "Growing", "NotYet", "watched"]

WAIT = 10.0
"""Seconds for which a frame is waited for that has not arrived."""

_LOOK = 0.1  # seconds between two looks
_RETRIES = 50  # of a read, when the file is written on meanwhile


class NotYet(Exception):
    """The frame has not arrived; it may, in a moment."""


class Growing:
    """An instance whose file grows; threads may share it.

    Parameters
    ----------
    path : Path
        Where it arrives.
    catalog : Catalog
        Whose budget and limits hold.
    """

    def __init__(self, path: Path, catalog: Catalog) -> None:
        source, settings = FileSource(path), catalog.settings
        limits = {"first_read": settings.first_read, "max_header": settings.max_header}
        stat = source.stat()
        _, header = _steadily(lambda: header_of(source, None, catalog.budget, **limits))
        self.instance = Instance(source, stat, header, budget=catalog.budget)
        self._follower = Follower(self.instance, 0, WAIT)
        self._lock = threading.Lock()

    def reach(self, i: int) -> FrameIndex | None:
        """Give an index that has frame `i`, if that is there."""
        with self._lock:
            return self._follower.reach(i)

    def read(self, index: FrameIndex, i: int) -> bytes:
        """Read a frame that is there: what is proven does not change any more."""
        source = self.instance.source
        (body,) = _steadily(lambda: run(read_all([Rope(index.parts(i))]), source))
        return bytes(body)


def _steadily[T](read: Callable[[], T]) -> T:
    """Read a file that is written on: again, where that happened meanwhile."""
    for _ in range(_RETRIES):
        try:
            return read()
        except SourceChanged:
            continue
    return read()


type _Answer = Callable[[Request, Growing], Awaitable[Response]]


async def _found(request: Request) -> Growing | None:
    """Look for the instance of an address among those that are arriving."""
    study, series, uid = uids(request)
    store: Store = request.app.state.store
    for path in await asyncio.to_thread(lambda: list(store.arriving(uid))):
        known: Growing | None = request.app.state.arriving.get(str(path))
        if known is None:
            try:
                known = await asyncio.to_thread(Growing, path, request.app.state.catalog)
            except MultiframeError:
                continue  # it has just been stored, or failed
            request.app.state.arriving.put(str(path), known, size=2048 + known.instance.held)
        header = known.instance.header
        if (header.study_instance_uid, header.series_instance_uid) == (study, series):
            return known
    return None


def watched(rows: Iterable[Row]) -> list[Row]:
    """Have frames and metadata be given of instances that are still arriving, too."""
    answers: dict[Endpoint, _Answer] = {frames: _frames, metadata_of: _metadata}
    return [
        row._replace(endpoint=partial(_perhaps, row.endpoint, answers[row.endpoint]))
        if row.endpoint in answers and "{instance}" in row.path
        else row
        for row in rows
    ]


async def _perhaps(stored: Endpoint, arriving: _Answer, request: Request) -> Response:
    """Answer of what is stored, else of what is arriving; what ends meanwhile is looked for once more."""
    store: Store = request.app.state.store
    until = time.monotonic() + WAIT
    while True:
        try:
            return await stored(request)
        except InstanceNotFound:
            growing = await _found(request)
            if growing is None:
                settling = await asyncio.to_thread(store.settling, request.path_params["instance"])
                if not settling or time.monotonic() >= until:
                    raise
                await asyncio.sleep(_LOOK)
                continue
        with suppress(SourceNotFound):  # it is stored now, or has failed
            return await arriving(request, growing)


async def _metadata(request: Request, growing: Growing) -> Response:
    if not accepts_json(parse_accept(accept_of(request))):
        raise NotAcceptable("metadata is given as application/dicom+json")
    header = growing.instance.header
    pieces = metadata(header, bulk=addresses(request, header))

    async def sent() -> AsyncGenerator[bytes]:
        yield b"["
        while some := await asyncio.to_thread(_together, pieces):
            yield some
        yield b"]"

    return stream_answer(request, sent(), {"cache-control": "no-store", "content-type": "application/dicom+json"})


def _together(pieces: Iterable[bytes]) -> bytes:
    """Take some pieces together: a thread's turn costs more than one is worth."""
    out, held = [], 0
    for piece in pieces:
        out.append(piece)
        held += len(piece)
        if held >= 128 * 1024:
            break
    return b"".join(out)


async def _frames(request: Request, growing: Growing) -> Response:
    """Give frames, once the last of them is there; they are read one after the other while they are sent."""
    instance = growing.instance
    indices = indices_of(request.path_params["frames"], instance.header.declared_frames or 1)
    choice = choice_of(request, instance, len(indices))
    index = await _reached(request, growing, max(indices))
    parts: Sequence[Made | None] = [None] * len(indices)
    if choice.syntax != instance.frame_syntax:
        made = making(instance.spec, instance.frame_syntax, choice.syntax)
        parts = [made(index.parts(i), i) for i in indices]
    cost = max(part.cost if part else index[i].size for part, i in zip(parts, indices, strict=True))

    async def frame(k: int) -> bytes:
        data, part = await asyncio.to_thread(growing.read, index, indices[k]), parts[k]
        return data if part is None else await state.workers.run(part.make, data, gone=partial(gone, request))

    state = request.app.state
    first = b""
    if request.method != "HEAD":  # before the head of the answer, or its errors had no status
        with await state.budget.acquire_async(cost, timeout=state.settings.memory_wait, who=who(request)):
            first = await frame(0)
    boundary = "multiframe-arriving-1f6a"

    async def pieces() -> AsyncGenerator[bytes]:
        for k in range(len(indices)):
            data = first if k == 0 else await frame(k)
            if choice.multipart:
                yield f"{'\r\n' if k else ''}--{boundary}\r\nContent-Type: {choice.content_type}\r\n\r\n".encode()
            yield data
        if choice.multipart:
            yield f"\r\n--{boundary}--\r\n".encode()

    kind = multipart_type(choice.media_type, boundary) if choice.multipart else choice.content_type
    headers = {"content-type": kind, "cache-control": "no-store", "vary": "Accept"}
    return stream_answer(request, pieces(), headers, held=cost)


async def _reached(request: Request, growing: Growing, i: int) -> FrameIndex:
    """Wait for a frame.

    Raises
    ------
    NotYet
        It did not come in time.
    SourceNotFound
        The upload has ended.
    """
    until = time.monotonic() + WAIT
    while True:
        found = await asyncio.to_thread(growing.reach, i)
        if found is not None:
            return found
        if time.monotonic() >= until or await gone(request):
            raise NotYet(f"frame {i + 1} has not arrived yet: ask again in a moment")
        await asyncio.sleep(_LOOK)
