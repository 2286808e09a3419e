"""Rendered resources and thumbnails: what a browser shows of an instance (PS3.18 10.4.1.1.3, 10.4.1.1.4, 9.4).

Frames are pictures, JPEG, PNG or GIF; a video and an encapsulated document are given as they lie, a report as text. It
knows which frames an address stands for, and that one picture has a length and an ETag while several are made as they
are sent. It must not know how a picture is made (``render``), where a document lies (``document``), what a report says
(``report``), nor how parameters are read (``presentation``).

An ETag is of what the picture is made of, not of its bytes: who has it already is told so before anything is decoded.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple, Self, cast

from starlette.requests import Request
from starlette.responses import Response

from multiframe.catalog import Catalog
from multiframe.document import document_of
from multiframe.errors import NoPixelData, NotAcceptable, NotFramewise, SourceChanged
from multiframe.instance import Instance
from multiframe.memory import MemoryBudget
from multiframe.picture import MEDIA_TYPES, MediaType, revision
from multiframe.ranges import Buffer
from multiframe.render import Facts, Presentation, draw, representative
from multiframe.report import is_report, report_of
from multiframe.rope import Part, Rope, digest
from multiframe.settings import Settings
from multiframe.transcode import takes
from multiframe.web.answers import (
    ASK,
    Body,
    Section,
    Works,
    body_answer,
    headed,
    in_pieces,
    lasting,
    leased,
    not_modified,
    stream_answer,
)
from multiframe.web.doors import Row
from multiframe.web.frames import indices_of
from multiframe.web.lookup import BadRequest, accept_of, current, find, uids, with_fresh
from multiframe.web.media import boundary_of, multipart, multipart_type, parse_accept
from multiframe.web.metadata import address, partly, settled
from multiframe.web.once import Gone, Shared
from multiframe.web.presentation import Form, Wanted, choose_rendered, of_rendered, of_wado_uri
from multiframe.web.workers import Workers, who
from multiframe.web.workers import gone as client_gone

__all__ = [
    "ROUTES",
    "Drawing",
    "form_of",
    "frames_rendered",
    "instance_rendered",
    "is_thumbnail",
    "offers_of",
    "picture_headers",
    "wado_uri_rendered",
    "wanted_of",
]

_MOST_INSTANCES = 10_000
"""Of one answer."""

_REPORTS: Final = ("text/html", "text/plain")
"""What a report is given as."""

_OF_A_REPORT = 64
"""Bytes that reading a report takes, for each of its own."""

_TRIES = 32
"""Instances looked at for one that has a picture, where one stands for a series or a study."""


# --- what is asked for


async def frames_rendered(request: Request) -> Response:
    """``…/frames/{list}/rendered`` and ``…/frames/{list}/thumbnail``."""
    study, series, uid = uids(request)
    wanted = wanted_of(request)

    async def use(instance: Instance) -> Response:
        indices = indices_of(request.path_params["frames"], await _count(instance))
        form = form_of(accept_of(request), several=len(indices) > 1)
        if len(indices) > 1:
            return await _several(request, instance, indices, wanted, form)
        return await _one(request, instance, indices[0], wanted, form)

    return await with_fresh(request, study, series, uid, use)


async def instance_rendered(request: Request) -> Response:
    """``…/instances/{instance}/rendered``: of many frames the representative one, or all where parts are asked for."""
    study, series, uid = uids(request)
    wanted = wanted_of(request)

    async def use(instance: Instance) -> Response:
        return await _of_instance(request, instance, wanted)

    return await with_fresh(request, study, series, uid, use)


async def series_rendered(request: Request) -> Response:
    """``…/series/{series}/rendered`` and ``…/studies/{study}/rendered``: a part an instance that can be rendered."""
    wanted = wanted_of(request)
    study, series, listed, gone = await _listed(request)
    if len(listed) > _MOST_INSTANCES:
        raise BadRequest(f"there are {len(listed)} instances, {_MOST_INSTANCES} are the most: ask for single series")
    if len(listed) == 1:
        return await with_fresh(request, study, series, listed[0], _standing(request, wanted))
    return await _of_each(request, study, series, listed, wanted, gone)


async def series_thumbnail(request: Request) -> Response:
    """``…/series/{series}/thumbnail`` and ``…/studies/{study}/thumbnail``: that of an instance in the middle."""
    wanted = wanted_of(request)
    study, series, listed, _ = await _listed(request)
    catalog: Catalog = request.app.state.catalog
    from_the_middle = sorted(range(len(listed)), key=lambda i: abs(2 * i - len(listed)))
    for i in from_the_middle[:_TRIES]:
        header = (await find(catalog, study, series, listed[i])).header
        if header.pixel_data is not None and header.syntax.family != "video":
            return await with_fresh(request, study, series, listed[i], _standing(request, wanted))
    raise NoPixelData("none of these instances has a picture")


async def wado_uri_rendered(request: Request, study: str, series: str, uid: str, media_type: str) -> Response:
    """Answer WADO-URI that asks for something rendered.

    Parameters
    ----------
    media_type : str
        One of those that `offers_of` gives of the instance.

    References
    ----------
    PS3.18 9.4.1.2.
    """
    query = request.query_params

    async def use(instance: Instance) -> Response:
        if media_type not in MEDIA_TYPES:
            return await _undrawn(request, instance, Form(False, media_type))
        count = await _count(instance)
        if "frameNumber" in query:
            (index, *more) = indices_of(query["frameNumber"].strip(), count)
            if more:
                raise BadRequest("frameNumber is one number, from 1 on")
        else:
            index = await _representative(instance, count)
        spec = instance.spec
        try:
            wanted = of_wado_uri(query.multi_items(), columns=spec.columns, rows=spec.rows)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        return await _one(request, instance, index, wanted, Form(False, media_type))

    return await with_fresh(request, study, series, uid, use)


async def offers_of(instance: Instance) -> Sequence[str]:
    """Give the media types that an instance can be rendered as, the best first (PS3.18 8.7.4)."""
    if instance.syntax.family == "video":
        return [instance.syntax.media_type]
    if instance.header.pixel_data is not None:
        return MEDIA_TYPES
    return await asyncio.to_thread(_texts_of, instance)


def _texts_of(instance: Instance) -> Sequence[str]:
    if is_report(instance.header):
        return _REPORTS
    document = document_of(instance.header)
    return document.media_types if document is not None else ()


def is_thumbnail(request: Request) -> bool:
    """Say whether an address asks for a thumbnail."""
    return request.url.path.endswith("/thumbnail")


def wanted_of(request: Request) -> Wanted:
    """Read what a picture is to be like.

    Raises
    ------
    BadRequest
        The query says it wrongly.
    """
    query = request.query_params
    if any(value.strip() and not parse_accept(value) for value in query.getlist("accept")):
        raise BadRequest("accept is a list of media types, such as image/jpeg")
    try:
        return of_rendered(query.multi_items(), thumbnail=is_thumbnail(request))
    except ValueError as error:
        raise BadRequest(str(error)) from None


def form_of(accept: str, offers: Sequence[str] = MEDIA_TYPES, *, several: bool) -> Form:
    """Choose how what is rendered is sent, by what the client takes.

    Raises
    ------
    BadRequest, NotAcceptable
        That is malformed, or nothing that can be given.
    """
    try:
        return choose_rendered(parse_accept(accept), offers, several=several)
    except ValueError as error:
        raise BadRequest(str(error)) from None


async def _listed(request: Request) -> tuple[str, str | None, list[str], int]:
    """Give study, series (None: all of the study), the instances in there, and of how many the file is gone."""
    states, gone = await settled(request)
    return request.path_params["study"], request.path_params.get("series"), [uid for uid, _ in states], gone


async def _count(instance: Instance) -> int:
    """Give the number of frames as written, else as found; an instance that is cut in its first frame had one.

    Raises
    ------
    NoPixelData, NotFramewise
        There is nothing to make a picture of.
    """
    _ = instance.header.pixels
    if instance.syntax.family == "video":
        raise NotFramewise("of video no pictures are made: /rendered of the instance gives it as it is stored")
    return instance.header.declared_frames or len(await instance.grow_async(None)) or 1


async def _representative(instance: Instance, count: int) -> int:
    return await asyncio.to_thread(representative, instance.header, count)


def _standing(request: Request, wanted: Wanted) -> Callable[[Instance], Awaitable[Response]]:
    """Let one instance stand for its series or study: which one it is can be another tomorrow."""

    async def use(instance: Instance) -> Response:
        return await _of_instance(request, instance, wanted, stands=True)

    return use


async def _of_instance(request: Request, instance: Instance, wanted: Wanted, *, stands: bool = False) -> Response:
    """Answer with what shows an instance; where it `stands` for a series or a study, with one frame of it."""
    accept = accept_of(request)
    if not is_thumbnail(request) and (instance.header.pixel_data is None or instance.syntax.family == "video"):
        whole = form_of(accept, await offers_of(instance), several=False)
        return await _undrawn(request, instance, whole, ask=stands)
    count = await _count(instance)
    form = form_of(accept, several=False)
    if form.multipart and count > 1 and not (stands or is_thumbnail(request)):
        return await _several(request, instance, range(count), wanted, form)
    return await _one(request, instance, await _representative(instance, count), wanted, form, ask=stands)


# --- how it is answered


def picture_headers(wanted: Wanted, form: Form, boundary: str) -> dict[str, str]:
    """Give the headers that tell what pictures these are."""
    headers = {"vary": "Accept", "content-type": form.media_type}
    if form.multipart:
        headers["content-type"] = multipart_type(form.media_type, boundary)
    if wanted.warnings:
        headers["warning"] = ", ".join(f'299 multiframe "{text}"' for text in wanted.warnings)
    return headers


def _key(what: str, wanted: Wanted, form: Form) -> str:
    """Name pictures that are not made yet: the same wishes, files and libraries make the same ones."""
    return digest(what, wanted.presentation, form, revision())


def _head(boundary: str, form: Form, location: str = "") -> bytes:
    where = f"Content-Location: {location}\r\n" if location else ""
    return f"--{boundary}\r\nContent-Type: {_said(form.media_type)}\r\n{where}\r\n".encode()


def _part(data: bytes, boundary: str, form: Form, location: str = "") -> bytes:
    return _head(boundary, form, location) + data + b"\r\n"


def _end(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode()


async def _one(
    request: Request, instance: Instance, index: int, wanted: Wanted, form: Form, *, ask: bool = False
) -> Response:
    """Answer with one picture: made before anything is sent, it has a length and ranges."""
    key = _key(f"{instance.stat.identity!r} {index}", wanted, form)
    etag, boundary = f'"{key}"', boundary_of(key)
    headers = picture_headers(wanted, form, boundary) | {
        "etag": etag,
        "cache-control": ASK if ask else lasting(request),
    }
    kept = await not_modified(request, headers, [instance])
    if kept is not None:
        return kept
    shared = await _drawn(request, instance, index, wanted, form, each=request.app.state.settings.piece)
    data: bytes = shared.value
    if form.multipart:
        data = _part(data, boundary, form) + _end(boundary)
    body = Body([Section(Rope([data]), None)], etag=etag, held=len(data))
    return await body_answer(request, body, headers, lease=shared)


async def _payload(request: Request, instance: Instance, media_type: str, *, begun: bool = False) -> Sequence[Part]:
    """Give what is not drawn: a video or a document as it lies, or a report as text.

    Raises
    ------
    NotAcceptable
        The report is too long.
    SourceChanged
        There is nothing of that kind any more.
    """
    if instance.syntax.family == "video":
        return (await instance.grow_async(None)).stream
    if media_type in _REPORTS:
        await current(instance)  # nothing is read that would show it
        with await leased(request, _OF_A_REPORT * instance.header.size, begun=begun):
            return [await asyncio.to_thread(_told, instance, media_type)]
    document = await asyncio.to_thread(document_of, instance.header)
    if document is None:
        raise SourceChanged("the file is not the one this answer began with")
    return [document.value]


def _told(instance: Instance, media_type: str) -> bytes:
    try:
        report = report_of(instance.header)
    except ValueError as error:
        raise NotAcceptable(f"{error}: it can be given as application/dicom alone") from None
    return report.html() if media_type == "text/html" else report.text()


def _body(instance: Instance, rope: Rope) -> Body:
    held = sum(len(part) for part in rope.parts if isinstance(part, bytes))
    return Body([Section(rope, instance)], held=held)


def _said(media_type: str) -> str:
    """Give a media type as Content-Type says it."""
    return f"{media_type}; charset=utf-8" if media_type in _REPORTS else media_type


def _harmless(media_type: str) -> dict[str, str]:
    """Give the headers that keep what a file holds from acting in our name; viewers of PDF do not work in a sandbox."""
    headers = {"x-content-type-options": "nosniff"}
    if media_type.startswith(("text/", "application/xml", "model/")):
        headers["content-security-policy"] = "sandbox; default-src 'none'"
    return headers


async def _undrawn(request: Request, instance: Instance, form: Form, *, ask: bool = False) -> Response:
    """Answer with what is not drawn: what shows it asks for ranges."""
    payload = await _payload(request, instance, form.media_type)
    identity, content_type = f"{instance.stat.identity!r} {form}", _said(form.media_type)
    rope = Rope(payload, identity=identity)
    if form.multipart:
        rope, boundary = multipart([(content_type, payload)], identity=identity)
        content_type = multipart_type(form.media_type, boundary)
    headers = {"content-type": content_type, **_harmless(form.media_type)}
    if ask:
        headers["cache-control"] = ASK
    return await body_answer(request, _body(instance, rope), headers)


async def _several(
    request: Request, instance: Instance, indices: Sequence[int], wanted: Wanted, form: Form
) -> Response:
    """Answer with frames of an instance in parts, each made when the one before has left."""
    key = _key(f"{instance.stat.identity!r} {indices!r}", wanted, form)
    boundary = boundary_of(key)
    headers = picture_headers(wanted, form, boundary) | {"etag": f'"{key}"', "cache-control": lasting(request)}
    kept = await not_modified(request, headers, [instance])
    if kept is not None:
        return kept

    async def pieces() -> AsyncGenerator[bytes]:
        for k, index in enumerate(indices):
            with await _drawn(request, instance, index, wanted, form, begun=k > 0) as picture:
                yield _part(picture, boundary, form)
        yield _end(boundary)

    given = pieces()
    return stream_answer(request, given, headers, first=await anext(given), held=None)


async def _of_each(
    request: Request, study: str, series: str | None, listed: Sequence[str], wanted: Wanted, gone: int
) -> Response:
    """Answer with a part an instance, a picture of it or its text; where Accept takes neither it is left out."""
    accept = accept_of(request)
    boundary = boundary_of(digest(study, series, listed, accept, wanted.presentation, revision()))
    kinds: list[str] = []

    async def part(instance: Instance) -> tuple[Form, str, Shared | Body] | None:
        offers, location = await offers_of(instance), f"{address(request, instance.header)}/rendered"
        try:
            form = form_of(accept, offers, several=True)
            if form.media_type not in MEDIA_TYPES:
                payload = await _payload(request, instance, form.media_type, begun=bool(kinds))
                return form, location, _body(instance, Rope(payload, identity=repr(instance.stat.identity)))
        except NotAcceptable:
            return None
        index = await _representative(instance, await _count(instance))
        return form, location, await _drawn(request, instance, index, wanted, form, begun=bool(kinds))

    async def pieces() -> AsyncGenerator[Buffer]:
        for uid in listed:
            found = await with_fresh(request, study, series, uid, part)
            if found is None:
                continue
            (form, location, given), begun = found, bool(kinds)
            kinds.append(form.media_type)
            if isinstance(given, Shared):
                with given as picture:
                    yield _part(picture, boundary, form, location)
                continue
            head = _head(boundary, form, location)
            async with aclosing(headed(head, in_pieces(request, given, begun=begun))) as sent:
                async for piece in sent:
                    yield piece
            yield b"\r\n"
        yield _end(boundary)

    given = pieces()
    first = await anext(given)
    if not kinds:
        raise NotAcceptable("none of these instances can be given as what Accept names: pictures are image/jpeg")
    headers = picture_headers(wanted, Form(True, kinds[0]), boundary) | {"cache-control": ASK}
    status = partly(headers, gone)
    return stream_answer(request, given, headers, first=first, held=None, status=status)


class Drawing(NamedTuple):
    """What it takes to make pictures of an instance's frames.

    Attributes
    ----------
    instance : Instance
        Whose.
    presentation : Presentation
        What they are to be like.
    size : int
        Bytes of one before it is written as a file.
    need : int
        Bytes in the process that draws: decoding, samples through a LUT, the picture before and after it is scaled.
    """

    instance: Instance
    presentation: Presentation
    size: int
    need: int

    @classmethod
    def of(cls, instance: Instance, wanted: Wanted, form: Form, settings: Settings) -> Self:
        """Look at what is wanted.

        Raises
        ------
        BadRequest, NotAcceptable
            It is no part of the picture, or more than may be decoded.
        """
        spec = instance.spec
        try:
            _, (columns, rows) = wanted.presentation.viewport.fit(spec.columns, spec.rows)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        decoded = spec.rows * spec.columns * spec.samples * spec.dtype.itemsize
        if decoded > (most := settings.max_decode):
            raise NotAcceptable(f"a frame has {decoded} bytes when it is decoded, {most} are the most here")
        need = takes(spec, instance.frame_syntax) + 2 * decoded + 6 * columns * rows
        presentation = replace(wanted.presentation, media_type=cast(MediaType, form.media_type))
        return cls(instance, presentation, 3 * columns * rows, need)

    def cost(self, stored: int, facts: Facts) -> int:
        """Give the bytes held here for a frame of so many: that, once more on its way to the worker, and the picture.

        A large one waits until it is alone.
        """
        return 2 * (stored + len(facts.raw)) + self.size

    async def drawn(self, workers: Workers, frame: Buffer, facts: Facts, *, gone: Gone, who: Hashable) -> bytes:
        """Make a picture of a frame, on a worker."""
        instance = self.instance
        return await workers.run(
            draw, frame, instance.spec, instance.frame_syntax, facts, self.presentation,
            gone=gone, who=who, need=self.need,
        )  # fmt: skip


async def _drawn(
    request: Request, instance: Instance, index: int, wanted: Wanted, form: Form, *, each: int = 0, begun: bool = False
) -> Shared:
    """Make a picture of one frame on a worker, once for all that want the same.

    Parameters
    ----------
    each, begun
        As of `made_once`.
    """
    state = request.app.state
    settings: Settings = state.settings
    budget: MemoryBudget = state.budget
    workers: Workers = state.workers
    works: Works = state.works
    drawing = Drawing.of(instance, wanted, form, settings)
    known = instance.known
    stored = (await instance.grow_async(index)).parts(index)
    held = instance.held

    async def cut(_: Gone) -> Facts:
        return await asyncio.to_thread(Facts.of, instance.header, index, lambda: instance.items)

    # Once, too: twenty waiting for threads would not come to what is made below while it is made.
    key = instance.stat.identity, index
    with await works.parts.do((*key, Facts), cut, who=who(request), gone=partial(client_gone, request)) as facts:
        pass
    if instance.held != held:
        state.catalog.weigh(instance)

    async def make(nobody: Gone) -> bytes:
        frame = await anext(instance.encoded_async([index]))
        return await drawing.drawn(workers, frame.data, facts, gone=nobody, who=who(request))

    cost = drawing.cost(sum(part.size for part in stored), facts)
    shared = await works.made.do(
        (*key, drawing.presentation), make, who=who(request), gone=partial(client_gone, request),
        cost=min(cost, budget.limit), each=each, timeout=None if begun else settings.memory_wait,
    )  # fmt: skip
    if known is None or not known.complete:
        state.indexer.complete(instance)
    return shared


_STUDY = "/studies/{study}"
_SERIES = _STUDY + "/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"

ROUTES = [
    Row(f"{_INSTANCE}/frames/{{frames}}/rendered", frames_rendered, "render"),
    Row(f"{_INSTANCE}/frames/{{frames}}/thumbnail", frames_rendered, "render"),
    Row(f"{_INSTANCE}/rendered", instance_rendered, "render"),
    Row(f"{_INSTANCE}/thumbnail", instance_rendered, "render"),
    Row(f"{_SERIES}/rendered", series_rendered, "render"),
    Row(f"{_SERIES}/thumbnail", series_thumbnail, "render"),
    Row(f"{_STUDY}/rendered", series_rendered, "render"),
    Row(f"{_STUDY}/thumbnail", series_thumbnail, "render"),
]
