"""Instances that are still arriving: what is in their header, and each frame as soon as it is whole.

Where the catalog has no instance of that UID, one that some process is receiving at the moment is looked for in the
store. Nothing of it may be kept by anybody: it can still fail. What is of all of it, such as the file, is waited for
until it is stored. It knows a file that grows, and how long anything is waited for. It must not know how an upload is
received, nor how a picture is made.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from multiframe.catalog import Catalog
from multiframe.dicomjson import metadata
from multiframe.errors import (
    InstanceNotFound,
    MultiframeError,
    NotFramewise,
    SourceChanged,
    SourceNotFound,
)
from multiframe.following import Follower
from multiframe.frameindex import FrameIndex
from multiframe.instance import Instance
from multiframe.opening import header_of
from multiframe.ranges import ByteRange
from multiframe.render import Facts, representative
from multiframe.rope import Made, Rope, digest
from multiframe.source import FileSource, run
from multiframe.storing import Store
from multiframe.transcode import making
from multiframe.web.addresses import Endpoint
from multiframe.web.answers import stream_answer
from multiframe.web.bulkdata import all_bulkdata, bulkdata, pixeldata, shaped, steps_of, value_of
from multiframe.web.doors import Row
from multiframe.web.frames import choice_of, frames, indices_of
from multiframe.web.lookup import accept_of, uids
from multiframe.web.media import multipart_type, parse_accept
from multiframe.web.metadata import addresses, metadata_of
from multiframe.web.models import choose_model
from multiframe.web.presentation import Form, Wanted
from multiframe.web.rendered import (
    Drawing,
    form_of,
    frames_rendered,
    instance_rendered,
    is_thumbnail,
    picture_headers,
    wanted_of,
)
from multiframe.web.retrieve import frame_file, retrieve
from multiframe.web.workers import gone, who

__all__ = ["WAIT", "Growing", "NotYet", "watched"]

WAIT = 10.0
"""Seconds for which a frame is waited for that has not arrived."""

_BOUNDARY = "multiframe-arriving-1f6a"
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

    def read(self, rope: Rope, wanted: ByteRange | None = None) -> bytes:
        """Read a body that is there, or a part of it: what is proven does not change any more."""
        wanted = wanted or ByteRange(0, rope.size)
        return b"".join(_steadily(lambda: run(rope.read(wanted), self.instance.source)))

    def stored(self) -> None:
        """See whether it is still arriving.

        Raises
        ------
        SourceNotFound
            It is stored now, or has failed.
        """
        self.instance.source.stat()


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
    """Have what is of one instance be given of those that are still arriving, too."""
    answers: dict[Endpoint, _Answer] = {
        frames: _frames,
        metadata_of: _metadata,
        bulkdata: _bulkdata,
        frames_rendered: _frames_rendered,
        instance_rendered: _instance_rendered,
        **dict.fromkeys((all_bulkdata, pixeldata, retrieve, frame_file), _whole),
    }
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
    model = choose_model(parse_accept(accept_of(request)), alone=True)
    header, named = growing.instance.header, digest(growing.instance.stat.identity)
    pieces = model.written(chain([b"["], metadata(header, bulk=addresses(request, header)), [b"]"]), named)

    async def sent() -> AsyncGenerator[bytes]:
        while some := await asyncio.to_thread(_together, pieces):
            yield some

    headers = {"cache-control": "no-store", "content-type": model.content_type(named), "vary": "Accept"}
    return stream_answer(request, sent(), headers)


def _together(pieces: Iterable[bytes]) -> bytes:
    """Take some pieces together: a thread's turn costs more than one is worth."""
    out, held = [], 0
    for piece in pieces:
        out.append(piece)
        held += len(piece)
        if held >= 128 * 1024:
            break
    return b"".join(out)


async def _bulkdata(request: Request, growing: Growing) -> Response:
    """Give a value of the header; Pixel Data only once it is whole."""
    path, instance = steps_of(request), growing.instance
    pixels, piece = instance.header.pixel_data, request.app.state.settings.piece
    if pixels is not None and path == [pixels.tag]:
        return await _whole(request, growing)
    payload = await asyncio.to_thread(value_of, instance, path)
    rope, content_type = shaped(request, instance, payload)

    async def pieces() -> AsyncGenerator[bytes]:
        for at in range(0, rope.size, piece):
            yield await asyncio.to_thread(growing.read, rope, ByteRange(at, min(at + piece, rope.size)))

    headers = {"content-type": content_type, "cache-control": "no-store", "vary": "Accept"}
    return stream_answer(request, pieces(), headers)


async def _whole(request: Request, growing: Growing) -> Response:
    """Wait until all of it is stored: a part of it is not given for the whole.

    Raises
    ------
    NotYet
        It was not stored in time.
    SourceNotFound
        The upload has ended.
    """
    until = time.monotonic() + WAIT
    while True:
        await asyncio.to_thread(growing.stored)
        if time.monotonic() >= until or await gone(request):
            raise NotYet("this instance has not arrived whole yet: ask again in a moment")
        await asyncio.sleep(_LOOK)


async def _frames(request: Request, growing: Growing) -> Response:
    """Give frames, once the last of them is there."""
    instance, state = growing.instance, request.app.state
    indices = indices_of(request.path_params["frames"], instance.header.declared_frames or 1)
    choice = choice_of(request, instance, len(indices))
    index = await _reached(request, growing, max(indices))
    parts: Sequence[Made | None] = [None] * len(indices)
    if choice.syntax != instance.frame_syntax:
        made = making(instance.spec, instance.frame_syntax, choice.syntax)
        parts = [made(index.parts(i), i) for i in indices]
    cost = max(part.cost if part else index[i].size for part, i in zip(parts, indices, strict=True))

    async def frame(k: int) -> bytes:
        data, part = await asyncio.to_thread(growing.read, Rope(index.parts(indices[k]))), parts[k]
        return data if part is None else await state.workers.run(part.make, data, gone=partial(gone, request))

    kind = multipart_type(choice.media_type, _BOUNDARY) if choice.multipart else choice.content_type
    within = choice.content_type if choice.multipart else None
    return await _in_turn(request, frame, len(indices), {"content-type": kind, "vary": "Accept"}, within, cost)


async def _frames_rendered(request: Request, growing: Growing) -> Response:
    """Give pictures of frames, once the last of them is there."""
    wanted = wanted_of(request)
    indices = indices_of(request.path_params["frames"], _pictured(growing.instance))
    form = form_of(accept_of(request), several=len(indices) > 1)
    return await _pictures(request, growing, indices, wanted, form)


async def _instance_rendered(request: Request, growing: Growing) -> Response:
    """Give the picture that stands for the instance: of its first frame, until the one is there that will."""
    instance, wanted = growing.instance, wanted_of(request)
    drawn = instance.header.pixel_data is not None and instance.syntax.family != "video"
    if not (drawn or is_thumbnail(request)):
        return await _whole(request, growing)
    count = _pictured(instance)
    form = form_of(accept_of(request), several=False)
    if form.multipart and not is_thumbnail(request):
        return await _pictures(request, growing, range(count), wanted, form)
    index = await asyncio.to_thread(representative, instance.header, count)
    there = await asyncio.to_thread(growing.reach, index)
    return await _pictures(request, growing, [index if there else 0], wanted, form)


def _pictured(instance: Instance) -> int:
    """Give the number of frames of which there are pictures.

    Raises
    ------
    NoPixelData, NotFramewise
        There are none.
    """
    _ = instance.header.pixels
    if instance.syntax.family == "video":
        raise NotFramewise("of video no pictures are made: /rendered of the instance gives it as it is stored")
    return instance.header.declared_frames or 1


async def _pictures(request: Request, growing: Growing, indices: Sequence[int], wanted: Wanted, form: Form) -> Response:
    instance, state = growing.instance, request.app.state
    drawing = Drawing.of(instance, wanted, form, state.settings)
    index = await _reached(request, growing, max(indices))
    first = await asyncio.to_thread(Facts.of, instance.header, indices[0], lambda: instance.items)
    cost = drawing.cost(max(index[i].size for i in indices), first)

    async def picture(k: int) -> bytes:
        i = indices[k]
        data = await asyncio.to_thread(growing.read, Rope(index.parts(i)))
        facts = await asyncio.to_thread(Facts.of, instance.header, i, lambda: instance.items) if k else first
        return await drawing.drawn(state.workers, data, facts, gone=partial(gone, request), who=who(request))

    headers = picture_headers(wanted, form, _BOUNDARY)
    return await _in_turn(request, picture, len(indices), headers, form.media_type if form.multipart else None, cost)


async def _in_turn(
    request: Request, make: Callable[[int], Awaitable[bytes]], count: int, headers: dict[str, str], within: str | None,
    cost: int,
) -> Response:  # fmt: skip
    """Answer with what is made one after the other while it is sent.

    Parameters
    ----------
    within : str or None
        The content type of each part; None: there is one body.
    cost : int
        Bytes that are held while one is made.
    """
    state = request.app.state
    cost = min(cost, state.budget.limit)
    first = b""
    if request.method != "HEAD":  # before the head of the answer, or its errors had no status
        with await state.budget.acquire_async(cost, timeout=state.settings.memory_wait, who=who(request)):
            first = await make(0)

    async def pieces() -> AsyncGenerator[bytes]:
        for k in range(count):
            data = first if k == 0 else await make(k)
            if within is not None:
                yield f"{'\r\n' if k else ''}--{_BOUNDARY}\r\nContent-Type: {within}\r\n\r\n".encode()
            yield data
        if within is not None:
            yield f"\r\n--{_BOUNDARY}--\r\n".encode()

    return stream_answer(request, pieces(), {**headers, "cache-control": "no-store"}, held=cost)


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
