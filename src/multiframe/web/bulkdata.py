"""WADO-RS bulk data and pixel data: values as bytes, by the addresses that metadata gives (PS3.18 10.4.1.1.4).

One value has a known size, an entity tag and ranges, like a frame. All bulk data of an instance, a series or a study
are made while they are sent: of many files only one is held. It must not know how a value is found in a header, nor
how a body leaves.
"""

import asyncio
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from multiframe import __version__
from multiframe.catalog import Catalog
from multiframe.dicomjson import metadata, value_at
from multiframe.errors import NoPixelData, NotAcceptable, OverBudget, SourceChanged
from multiframe.frameindex import FrameIndex
from multiframe.indexing import word_of
from multiframe.instance import Instance
from multiframe.ranges import ByteRange
from multiframe.rope import Part, Rope, Stored, digest, touched
from multiframe.settings import Settings
from multiframe.source import run_async
from multiframe.web.answers import ASK, Body, Section, body_answer, lasting, not_modified, stream_answer
from multiframe.web.doors import Row
from multiframe.web.lookup import BadRequest, NotThere, accept_of, base_url, uids, with_fresh
from multiframe.web.media import (
    MixedAccept,
    boundary_of,
    choose_frames,
    choose_octets,
    multipart,
    multipart_type,
    parse_accept,
)
from multiframe.web.metadata import States, addresses, partly, settled

__all__ = ["ROUTES", "all_bulkdata", "all_pixeldata", "bulkdata", "pixeldata", "shaped", "steps_of", "value_of"]

_PATH = re.compile(r"[0-9A-Fa-f]{8}(?:/[1-9][0-9]{0,8}/[0-9A-Fa-f]{8}){0,63}")
_ALLOCATED = 0x00280100
_MOST_VALUES = 10_000
"""Of one instance, in one answer: where each lies is held while it is sent."""


async def bulkdata(request: Request) -> Response:
    """``…/instances/{instance}/bulkdata/{path}``: one value, little endian (PS3.18 10.4.1.1.4, F.2.7).

    The path has tags and, between them, Item numbers from 1: ``52009230/7/00289145/1/00283010``.
    """
    study, series, uid = uids(request)
    path = steps_of(request)

    async def use(instance: Instance) -> Response:
        pixels = instance.header.pixel_data
        if len(path) == 1 and pixels is not None and path[0] == pixels.tag:
            return await _pixels(request, instance)
        payload = await asyncio.to_thread(value_of, instance, path)
        return await _whole(request, instance, payload, "application/octet-stream")

    return await with_fresh(request, study, series, uid, use)


def steps_of(request: Request) -> list[int]:
    """Read the path of an address.

    Raises
    ------
    BadRequest
        It is none.
    """
    text = request.path_params["path"]
    if not _PATH.fullmatch(text):
        raise BadRequest("the path to a value is tags and Item numbers from 1 in turn, such as 00189999/2/00081234")
    return _steps(text)


def _steps(path: str) -> list[int]:
    """Read a path: tags are hexadecimal, the Item numbers between them are not."""
    return [int(step, 10 if i % 2 else 16) for i, step in enumerate(path.split("/"))]


def value_of(instance: Instance, path: Sequence[int]) -> list[Stored]:
    """Find a value; blocking.

    Raises
    ------
    NotThere
        There is none.
    """
    found = _value(instance, path)
    if found is None:
        text = "/".join(f"{step:d}" if i % 2 else f"{step:08X}" for i, step in enumerate(path))
        raise NotThere(f"there is no bulk data at {text} in this instance")
    return found


def _value(instance: Instance, path: Sequence[int]) -> list[Stored] | None:
    """Find a value; blocking, for a long header is read on the way."""
    found = value_at(instance.header, path, instance.items if len(path) > 1 else None)
    if found is None:
        return None
    return [Stored(found.start, found.stop, word=found.word, origin=found.start)]


async def _whole(request: Request, instance: Instance, payload: Sequence[Part], own: str) -> Response:
    """Answer with one value, in the form the client takes."""
    rope, content_type = shaped(request, instance, payload, own)
    return await body_answer(request, Body([Section(rope, instance)]), {"content-type": content_type})


def shaped(request: Request, instance: Instance, payload: Sequence[Part], own: str) -> tuple[Rope, str]:
    """Give one value as a body in the form the client takes, and its content type."""
    form = choose_octets(parse_accept(accept_of(request)), own)
    identity = f"{instance.stat.identity!r} {form.media_type}"
    if not form.multipart:
        return Rope(payload, identity=identity), form.media_type
    rope, boundary = multipart([(form.media_type, payload)], identity=identity)
    return rope, multipart_type(form.media_type, boundary)


# ---------------------------------------------------------------------------------------------------------------
# Pixel Data


async def pixeldata(request: Request) -> Response:
    """``…/instances/{instance}/pixeldata``: native the value, encapsulated all frames in parts, a video its stream."""
    study, series, uid = uids(request)

    async def use(instance: Instance) -> Response:
        return await _pixels(request, instance)

    return await with_fresh(request, study, series, uid, use)


async def _pixels(request: Request, instance: Instance) -> Response:
    native = _native(instance)
    if native is not None:
        return await _whole(request, instance, native, "application/octet-stream")
    known = instance.known
    index = await _complete(instance)
    if index.kind == "stream":
        answer = await _whole(request, instance, index.stream, instance.syntax.media_type)
    else:
        answer = await _frames(request, instance, index)
    if known is None or not known.complete:
        request.app.state.indexer.complete(instance)
    return answer


def _native(instance: Instance) -> list[Stored] | None:
    """Give the whole value where it is native; None: it is encapsulated."""
    pixels = instance.header.pixels
    if pixels.stop < 0:
        return None
    word = 1 if instance.syntax.little else word_of(pixels.vr, instance.header.number(_ALLOCATED))
    return [Stored(pixels.start, pixels.stop, word=word, origin=pixels.start)]


async def _complete(instance: Instance) -> FrameIndex:
    """Find all frames: half of them is not given for the whole."""
    index = await instance.grow_async(None)
    if index.damage is not None:
        raise index.damage.error()
    if index.declared is not None and index.kind == "frames" and len(index) < index.declared:
        index.require(index.declared - 1)
    return index


class _Parts:
    """All frames in parts, laid out where they are asked for (`rope.Laid`): their places lie in arrays."""

    def __init__(self, index: FrameIndex, head: bytes, identity: str) -> None:
        self._index, self._head = index, head
        lengths = [0, *accumulate((index.stops - index.starts).tolist())]
        # An empty line before the first boundary is allowed, and not what clients look for: it is left out.
        self._ends = [lengths[k] + i * len(head) - (2 if i else 0) for i, k in enumerate(index.firsts.tolist())]
        self.size = self._ends[-1]
        self.etag = digest(identity, head, self.size)

    def within(self, wanted: ByteRange) -> Iterator[tuple[Part, ByteRange]]:
        """Give the parts that `wanted` touches."""
        i = bisect_right(self._ends, wanted.start) - 1
        while i < len(self._index) and self._ends[i] < wanted.stop:
            head = self._head if i else self._head[2:]
            yield from touched([head, *self._index.parts(i)], self._ends[i], wanted)
            i += 1


async def _frames(request: Request, instance: Instance, index: FrameIndex) -> Response:
    """Answer with all frames as stored, one part a frame (PS3.18 8.7.3.3)."""
    try:
        choice = choose_frames(
            parse_accept(accept_of(request)), (instance.frame_syntax,), count=len(index), decode=False
        )
    except MixedAccept as error:
        raise BadRequest(str(error)) from None
    identity = f"{instance.stat.identity!r} {choice.content_type}"
    if not choice.multipart:
        rope = Rope(index.parts(0), identity=identity)
        return await body_answer(request, Body([Section(rope, instance)]), {"content-type": choice.content_type})
    boundary = boundary_of(digest(identity))
    head = f"\r\n--{boundary}\r\nContent-Type: {choice.content_type}\r\n\r\n".encode()
    rope = Rope([_Parts(index, head, identity), f"\r\n--{boundary}--\r\n".encode()], identity=identity)
    headers = {"content-type": multipart_type(choice.media_type, boundary)}
    return await body_answer(request, Body([Section(rope, instance)]), headers)


# ---------------------------------------------------------------------------------------------------------------
# All of an instance, a series, a study


class _Value(NamedTuple):
    """One part of a long answer."""

    content_type: str
    location: str
    payload: Sequence[Part]


async def all_bulkdata(request: Request) -> Response:
    """``…/bulkdata`` of an instance, a series or a study: every value that metadata names, in parts."""
    return await _all(request, pixels_only=False)


async def all_pixeldata(request: Request) -> Response:
    """``…/pixeldata`` of a series or a study: Pixel Data of each instance that has some, in parts."""
    return await _all(request, pixels_only=True)


async def _all(request: Request, *, pixels_only: bool) -> Response:
    if not choose_octets(parse_accept(accept_of(request)), alone=False).multipart:
        raise NotAcceptable("many values are given as multipart/related")
    states, gone = await settled(request)
    facts = (__version__, pixels_only, states, gone, base_url(request))
    named = digest(*facts)
    boundary = boundary_of(named)
    headers = {
        "etag": f'"{named}"',
        "cache-control": ASK if gone else lasting(request),
        "vary": "Accept",
    }
    kept = await not_modified(request, headers)
    if kept is not None:
        return kept
    status = partly(headers, gone)
    headers["content-type"] = multipart_type("application/octet-stream", boundary)
    pieces = _sent(request, states, boundary, pixels_only=pixels_only)
    first = await anext(pieces)
    if first.startswith(f"--{boundary}--".encode()):
        raise (
            NoPixelData("none of these instances has Pixel Data") if pixels_only else NotThere("there is no bulk data")
        )
    return stream_answer(request, pieces, headers, first=first, status=status)


async def _sent(request: Request, states: States, boundary: str, *, pixels_only: bool) -> AsyncGenerator[bytes]:
    catalog: Catalog = request.app.state.catalog
    settings: Settings = request.app.state.settings
    before = ""
    for uid, identity in states:
        instance = await asyncio.to_thread(catalog.instance, uid)
        if instance.stat.identity != identity:
            raise SourceChanged("the file is not the one this answer began with")
        async for value in _values(request, instance, pixels_only=pixels_only):
            head = f"{before}--{boundary}\r\nContent-Type: {value.content_type}\r\nContent-Location: {value.location}"
            yield f"{head}\r\n\r\n".encode()
            before = "\r\n"
            rope = Rope(value.payload)
            for at in range(0, rope.size, settings.piece):
                plan = rope.read(ByteRange(at, min(at + settings.piece, rope.size)))
                yield b"".join(await run_async(plan, instance.source, identity=identity))
    yield f"{before}--{boundary}--\r\n".encode()


async def _values(request: Request, instance: Instance, *, pixels_only: bool) -> AsyncGenerator[_Value]:
    """Give the bulk data of one instance in the order of its metadata, Pixel Data last."""
    octets, address = "application/octet-stream", addresses(request, instance.header)
    if not pixels_only:
        for path, payload in await asyncio.to_thread(_named, instance):
            yield _Value(octets, address(path), payload)
    try:
        native = _native(instance)
    except NoPixelData:
        return
    location = address(f"{instance.header.pixels.tag:08X}")
    if native is not None:
        yield _Value(octets, location, native)
        return
    index = await _complete(instance)
    if index.kind == "stream":
        yield _Value(instance.syntax.media_type, location, index.stream)
        return
    syntax = instance.frame_syntax
    for i in range(len(index)):
        yield _Value(f"{syntax.media_type}; transfer-syntax={syntax.uid}", f"{location}/frames/{i + 1}", index.parts(i))


def _named(instance: Instance) -> list[tuple[str, list[Stored]]]:
    """Find all values but Pixel Data that metadata gives an address; blocking."""
    paths: list[str] = []

    def bulk(path: str) -> str:
        paths.append(path)
        if len(paths) > _MOST_VALUES:
            raise OverBudget(f"there are more than {_MOST_VALUES} values: ask for them by their addresses")
        return ""

    for _ in metadata(instance.header, bulk=bulk):
        pass
    pixels = instance.header.pixel_data
    own = f"{pixels.tag:08X}" if pixels is not None else ""
    found = []
    for text in paths:
        if text != own:
            payload = _value(instance, _steps(text))
            if payload is not None:
                found.append((text, payload))
    return found


_STUDY = "/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"

ROUTES = [
    Row(_INSTANCE + "/bulkdata/{path:path}", bulkdata, "read"),
    Row(_INSTANCE + "/bulkdata", all_bulkdata, "read"),
    Row(_INSTANCE + "/pixeldata", pixeldata, "read"),
    Row(_SERIES + "/bulkdata", all_bulkdata, "read"),
    Row(_SERIES + "/pixeldata", all_pixeldata, "read"),
    Row(_STUDY + "/bulkdata", all_bulkdata, "read"),
    Row(_STUDY + "/pixeldata", all_pixeldata, "read"),
]
