"""WADO-RS bulk data and pixel data: values as bytes, by the addresses that metadata gives (PS3.18 10.4.1.1.4).

One value has a known size, an entity tag and ranges, like a frame. All bulk data of an instance, a series or a study
are made while they are sent: of many files only one is held. It must not know how a value is found in a header, nor
how a body leaves.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from multiframe import __version__
from multiframe.dicomjson import metadata, value_at
from multiframe.errors import NoPixelData, NotAcceptable, SourceChanged
from multiframe.frameindex import FrameIndex
from multiframe.indexing import word_of
from multiframe.instance import Instance
from multiframe.part10 import decoded_value
from multiframe.ranges import Buffer
from multiframe.rope import Laid, Made, Part, Rope, Stored, digest
from multiframe.source import Identity
from multiframe.syntaxes import EXPLICIT_LE
from multiframe.transcode import making
from multiframe.web.answers import (
    ASK,
    Body,
    Section,
    body_answer,
    headed,
    in_pieces,
    lasting,
    made_once,
    not_modified,
    stream_answer,
)
from multiframe.web.doors import Row
from multiframe.web.frames import choice_of, decoding_of, given, laid, made_by
from multiframe.web.lookup import BadRequest, NotThere, TooMuch, accept_of, base_url, find, uids, with_fresh
from multiframe.web.media import OCTETS, Choice, boundary_of, multipart, multipart_type, octets_in_parts, parse_accept
from multiframe.web.metadata import States, address, partly, settled

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
        return await _whole(request, instance, payload)

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


async def _whole(request: Request, instance: Instance, payload: Sequence[Part]) -> Response:
    """Answer with one value, in the form the client takes."""
    rope, content_type = shaped(request, instance, payload)
    return await body_answer(request, Body([Section(rope, instance)]), {"content-type": content_type})


def shaped(request: Request, instance: Instance, payload: Sequence[Part]) -> tuple[Rope, str]:
    """Give one value as a body in the form the client takes, and its content type."""
    in_parts = octets_in_parts(parse_accept(accept_of(request)))
    identity = f"{instance.stat.identity!r} {OCTETS}"
    if not in_parts:
        return Rope(payload, identity=identity), OCTETS
    rope, boundary = multipart([(OCTETS, payload)], identity=identity)
    return rope, multipart_type(OCTETS, boundary)


# ---------------------------------------------------------------------------------------------------------------
# Pixel Data


async def pixeldata(request: Request) -> Response:
    """``…/instances/{instance}/pixeldata``: native pixels and a video are one value, all else is a part a frame."""
    study, series, uid = uids(request)

    async def use(instance: Instance) -> Response:
        return await _pixels(request, instance)

    return await with_fresh(request, study, series, uid, use)


async def _pixels(request: Request, instance: Instance) -> Response:
    """Answer with Pixel Data in the form that the same Accept would be given frames in (PS3.18 8.7.3.3)."""
    known = instance.known
    choice = await _choice(request, instance)
    payload = await _value_of_pixels(instance, choice)
    if payload is None:
        answer = await given(request, instance, choice, range(len(await _complete(instance))))
    else:
        rope, content_type = laid([payload], choice, instance)
        answer = await body_answer(request, Body([Section(rope, instance)]), {"content-type": content_type})
    if known is not instance.known:
        request.app.state.indexer.complete(instance)
    return answer


async def _choice(request: Request, instance: Instance) -> Choice:
    """Choose how Pixel Data of one instance leaves."""
    if not instance.syntax.encapsulated:
        # Native pixels are one value, whatever it holds; only who wants them encoded has to know how many frames.
        choice = choice_of(request, instance, instance.header.declared_frames or 1, "value")
        if choice.syntax == instance.frame_syntax:
            return choice
    index = await _complete(instance)
    return choice_of(request, instance, 1 if index.kind == "stream" else len(index), "value")


async def _value_of_pixels(instance: Instance, choice: Choice) -> Sequence[Part | Laid] | None:
    """Give Pixel Data that are one value as they leave: native, or the stream of a video; None: a part a frame."""
    if choice.syntax.family == "video":
        return (await _complete(instance)).stream
    if choice.syntax.uid != EXPLICIT_LE:
        return None
    if instance.syntax.encapsulated:
        index = await _complete(instance)
        return await asyncio.to_thread(lambda: decoded_value(index, decoding_of(instance)))
    pixels = instance.header.pixels
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


# ---------------------------------------------------------------------------------------------------------------
# All of an instance, a series, a study


class _Settled(NamedTuple):
    """What an instance gives to a long answer: in which form its Pixel Data, or None, for it has none; made by what."""

    uid: str
    identity: Identity
    choice: Choice | None
    by: object = None


class _Value(NamedTuple):
    """One part of a long answer. A payload that is one `Made` alone has no size before it is made."""

    instance: Instance
    media_type: str
    content_type: str
    location: str
    payload: Sequence[Part | Laid] | Made


async def all_bulkdata(request: Request) -> Response:
    """``…/bulkdata`` of an instance, a series or a study: every value that metadata names, in parts."""
    return await _all(request, pixels_only=False)


async def all_pixeldata(request: Request) -> Response:
    """``…/pixeldata`` of a series or a study: Pixel Data of each instance that has some, in parts."""
    return await _all(request, pixels_only=True)


async def _all(request: Request, *, pixels_only: bool) -> Response:
    states, gone = await settled(request)
    chosen = await _chosen(request, states, pixels_only=pixels_only)
    named = digest(__version__, pixels_only, chosen, gone, base_url(request))
    headers = {
        "etag": f'"{named}"',
        "cache-control": ASK if gone else lasting(request),
        "vary": "Accept",
    }
    kept = await not_modified(request, headers)
    if kept is not None:
        return kept
    status = partly(headers, gone)
    values = _values(request, chosen, pixels_only=pixels_only)
    first = await anext(values, None)
    if first is None:
        raise (
            NoPixelData("none of these instances has Pixel Data") if pixels_only else NotThere("there is no bulk data")
        )
    boundary = boundary_of(named)
    headers["content-type"] = multipart_type(first.media_type, boundary)  # of the first part (RFC 2387 3.1)
    pieces = _sent(request, first, values, boundary)
    begun: Buffer = b""
    if request.method == "HEAD":
        await values.aclose()
    else:
        begun = await anext(pieces)  # an error of it still has a status
    return stream_answer(request, pieces, headers, first=begun, held=None, status=status)


async def _chosen(request: Request, states: States, *, pixels_only: bool) -> list[_Settled]:
    """Settle the form of each instance before anything leaves.

    Raises
    ------
    NotAcceptable
        One of them cannot be given as the client takes it: then none is, for nobody may take a part for the study.
    """
    refused: NotAcceptable | None = None
    try:
        octets_in_parts(parse_accept(accept_of(request)), alone=False)
    except NotAcceptable as error:
        refused = error
    room: int = request.app.state.settings.max_decode
    chosen = []
    for uid, identity in states:
        instance = await _instance(request, uid, identity)
        header = instance.header
        if refused is not None and not pixels_only and len(await asyncio.to_thread(_named, instance)):
            raise refused
        if header.pixel_data is None:
            chosen.append(_Settled(uid, identity, None))
            continue
        count = header.declared_frames or len(await instance.grow_async(None)) or 1
        try:
            choice = choice_of(request, instance, count, "values", room=room)
        except NotAcceptable as error:
            raise NotAcceptable(f"instance {uid}: {error}") from None
        if choice.syntax.uid == EXPLICIT_LE != instance.frame_syntax.uid:
            room -= count * instance.spec.frame_bytes
        chosen.append(_Settled(uid, identity, choice, made_by(instance, choice)))
    return chosen


async def _instance(request: Request, uid: str, identity: Identity) -> Instance:
    """Give an instance in the state that was settled."""
    instance = await find(request.app.state.catalog, request.path_params["study"], None, uid)
    if instance.stat.identity != identity:
        raise SourceChanged("the file is not the one this answer began with")
    return instance


async def _values(request: Request, chosen: Sequence[_Settled], *, pixels_only: bool) -> AsyncGenerator[_Value]:
    """Give the bulk data of each instance in the order of its metadata, Pixel Data last."""
    for uid, identity, choice, _ in chosen:
        instance = await _instance(request, uid, identity)
        here = address(request, instance.header)
        if not pixels_only:
            for path, payload in await asyncio.to_thread(_named, instance):
                yield _Value(instance, OCTETS, OCTETS, f"{here}/bulkdata/{path}", payload)
        if choice is None:
            continue
        form = partial(_Value, instance, choice.media_type, choice.content_type)
        value = await _value_of_pixels(instance, choice)
        if value is not None:
            yield form(f"{here}/bulkdata/{instance.header.pixels.tag:08X}", value)
            continue
        index = await _complete(instance)
        stored = choice.syntax == instance.frame_syntax
        made = None if stored else making(instance.spec, instance.frame_syntax, choice.syntax)
        for i in range(len(index)):
            parts = index.parts(i)
            yield form(f"{here}/frames/{i + 1}", made(parts, i) if made else parts)


async def _sent(request: Request, first: _Value, rest: AsyncGenerator[_Value], boundary: str) -> AsyncGenerator[Buffer]:
    """Write parts, each read or made when the one before has left."""
    line = ""
    value: _Value | None = first
    async with aclosing(rest):
        while value is not None:
            types = f"Content-Type: {value.content_type}\r\nContent-Location: {value.location}"
            head = f"{line}--{boundary}\r\n{types}\r\n\r\n".encode()
            async with aclosing(headed(head, _bytes_of(request, value, begun=bool(line)))) as pieces:
                async for piece in pieces:
                    yield piece
            line, value = "\r\n", await anext(rest, None)
    yield f"{line}--{boundary}--\r\n".encode()


async def _bytes_of(request: Request, value: _Value, *, begun: bool) -> AsyncGenerator[Buffer]:
    instance, payload = value.instance, value.payload
    if isinstance(payload, Made):
        with await made_once(request, payload, instance, begun=begun) as frame:
            yield frame
        return
    body = Body([Section(Rope(payload, identity=repr(instance.stat.identity)), instance)])
    async with aclosing(in_pieces(request, body, begun=begun)) as pieces:
        async for piece in pieces:
            yield piece


def _named(instance: Instance) -> list[tuple[str, list[Stored]]]:
    """Find all values but Pixel Data that metadata gives an address; blocking."""
    paths: list[str] = []

    def bulk(path: str) -> str:
        paths.append(path)
        if len(paths) > _MOST_VALUES:
            raise TooMuch(
                f"{instance.header.sop_instance_uid} has more than {_MOST_VALUES} values: ask for each by its address"
            )
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
