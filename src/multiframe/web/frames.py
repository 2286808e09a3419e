"""WADO-RS frames: a list of frame numbers and an Accept header become a body (PS3.18 10.4.1.1.6).

A frame *number* (from 1) becomes an *index* (from 0) here, in one function. It must not know how frames are found, nor
how a body leaves.
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from hashlib import sha256
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from multiframe.codec import PixelSpec
from multiframe.errors import FormatError, FrameNotFound, NoPixelData, NotAcceptable
from multiframe.frameindex import FrameIndex
from multiframe.instance import Instance
from multiframe.rope import Made, Part, Rope
from multiframe.settings import Settings
from multiframe.source import run_async
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax
from multiframe.transcode import making, targets
from multiframe.web.again import Way
from multiframe.web.answers import Body, Section, body_answer, lasting, stream_answer
from multiframe.web.doors import Row
from multiframe.web.lookup import COUNTED, BadRequest, accept_of, current, uids, with_fresh
from multiframe.web.media import (
    Choice,
    MixedAccept,
    choose_frames,
    etag_matches,
    multipart,
    multipart_type,
    parse_accept,
)
from multiframe.web.workers import on_worker

__all__ = ["ROUTES", "frames", "indices_of"]

_BASELINE, _EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"

_MOST_FRAMES = 10_000
"""In one request: what is known of each part is held while the answer is sent."""


def indices_of(text: str, count: int) -> list[int]:
    """Turn frame numbers, from 1 and separated by commas, into indices from 0.

    An extension: ``a-b`` in the list is all from a to b. Nothing is built before it is known to be no longer than the
    instance.

    Raises
    ------
    BadRequest, FrameNotFound
        It is no such list, or names a frame that is not there.

    Examples
    --------
    >>> indices_of("3,1", 5), indices_of("5,2-4", 5)
    ([2, 0], [4, 1, 2, 3])
    """
    items = text.split(",", _MOST_FRAMES)
    if len(items) > min(count, _MOST_FRAMES):
        raise BadRequest(f"too many frames asked for: the instance has {count}, {_MOST_FRAMES} are the most at once")
    ranges = [_range_of(item) for item in items]
    total = sum(map(len, ranges))
    if total > count:
        raise BadRequest(f"{total} frames asked for, the instance has {count}: each at most once")
    if total > _MOST_FRAMES:
        raise BadRequest(f"{total} frames asked for at once: {_MOST_FRAMES} are the most, ask in several requests")
    for r in ranges:
        for i in (r[0], r[-1]):
            if not 0 <= i < count:
                raise FrameNotFound(f"there is no frame {i + 1}: the instance has {count}, counted from 1")
    indices = [i for r in ranges for i in r]
    if len(set(indices)) < len(indices):
        raise BadRequest("a frame list names each frame at most once")
    return indices


def _range_of(item: str) -> range:
    """Read one item of a list."""
    first, dash, last = item.partition("-")
    numbers = (first, last) if dash else (first,)
    if not all(n.isascii() and n.isdecimal() and len(n) < 12 for n in numbers):
        raise BadRequest("a frame list is numbers from 1 on, separated by commas; a-b is all from a to b")
    if dash and int(last) < int(first):
        raise BadRequest(f"{int(first)}-{int(last)} runs backwards: name the frames one by one")
    return range(int(first) - 1, int(last if dash else first))


async def frames(request: Request) -> Response:
    """``…/instances/{instance}/frames/{list}``: frames in parts or one alone, in the form the client wants (10.4.1.6).

    As stored or decoded, their sizes are known: one body with length and ranges. Encoded anew a single frame is made
    first and is such a body then; a list is made while it is sent.
    """
    study, series, uid = uids(request)

    async def use(instance: Instance) -> Response:
        count = instance.header.declared_frames or len(await instance.grow_async(None))
        indices = indices_of(request.path_params["frames"], count)
        choice = _choice(request, instance, len(indices))
        known = instance.known
        stored = choice.syntax == instance.frame_syntax
        index = await instance.grow_async(max(indices))
        if stored:
            rope, content_type = _rope(index, indices, choice, instance)
            answer = await body_answer(request, Body([Section(rope, instance)]), {"content-type": content_type})
        else:
            answer = await _Other(request, instance, choice, index, indices).answer()
        if known is None or not known.complete:
            request.app.state.indexer.complete(instance)
        elif stored and len(indices) == 1:
            Way(instance, partial(_one, choice)).leave(request.scope)
        return answer

    return await with_fresh(request, study, series, uid, use)


def _rope(index: FrameIndex, indices: Sequence[int], choice: Choice, instance: Instance) -> tuple[Rope, str]:
    """Give frames as stored as a body, and its content type."""
    return _laid([index.parts(i) for i in indices], choice, instance)


def _one(choice: Choice, instance: Instance, i: int) -> tuple[Rope, str]:
    """Give one frame of an instance whose index is complete."""
    assert instance.known is not None
    return _rope(instance.known, (i,), choice, instance)


def _laid(payloads: Sequence[Sequence[Part]], choice: Choice, instance: Instance) -> tuple[Rope, str]:
    """Give frames as a body of known size, and its content type."""
    content_type = choice.content_type
    identity = repr(instance.stat.identity)
    if not choice.multipart:
        return Rope(payloads[0], identity=f"{identity} {content_type}"), content_type
    rope, boundary = multipart([(content_type, p) for p in payloads], identity=identity)
    return rope, multipart_type(choice.media_type, boundary)


def _choice(request: Request, instance: Instance, count: int) -> Choice:
    settings: Settings = request.app.state.settings
    stored = instance.frame_syntax
    accept = accept_of(request)
    if not accept and settings.strict_accept:
        raise NotAcceptable("a request for frames says in Accept which media types it takes (PS3.18 8.7.5)")
    forms: tuple[TransferSyntax, ...]
    try:
        spec = instance.spec
        forms, bits = targets(spec, stored), spec.frame_bits
    except NoPixelData:
        raise
    except FormatError:  # a data set that does not say what its pixels are: frames are given as they lie
        forms, bits = (stored,), 0
    else:
        if request.url.path.startswith(f"{COUNTED}/"):
            forms = _counted(forms, spec)
    # What was never lossy is given decoded to who asks for nothing else, as long as that is of a bearable size.
    decode = stored.encapsulated and not stored.lossy and count * (bits + 7) // 8 <= settings.max_decode
    try:
        return choose_frames(parse_accept(accept), forms, count=count, decode=decode)
    except MixedAccept as error:
        raise BadRequest(str(error)) from None


def _counted(forms: tuple[TransferSyntax, ...], spec: PixelSpec) -> tuple[TransferSyntax, ...]:
    """Put JPEG Extended before colour in JPEG Baseline: the same data, which cornerstone decodes where it counts it.

    It decodes colour in JPEG Baseline by the browser's own means, and keeps two copies beside the one it counts.
    """
    if forms[0].uid != _BASELINE or spec.samples != 3:
        return forms
    return tuple(sorted(forms, key=lambda form: form.uid != _EXTENDED))


class _Other:
    """Frames of an instance that are wanted in another form than they are stored in."""

    def __init__(
        self, request: Request, instance: Instance, choice: Choice, index: FrameIndex, indices: Sequence[int]
    ) -> None:
        self._request, self._instance, self._choice = request, instance, choice
        self._identity = repr(instance.stat.identity)
        made = making(instance.spec, instance.frame_syntax, choice.syntax)
        self._made = [made(index.parts(i), i) for i in indices]

    async def answer(self) -> Response:
        if self._choice.syntax.uid == EXPLICIT_LE:
            return await self._body([(part,) for part in self._made], self._instance)
        if len(self._made) == 1:
            return await self._encoded(self._made[0])
        return await self._stream(self._made)

    async def _body(
        self, payloads: Sequence[Sequence[Part]], instance: Instance | None, *, etag: str | None = None
    ) -> Response:
        """Answer with what has a known size."""
        rope, content_type = _laid(payloads, self._choice, self._instance)
        body = Body([Section(rope, instance)], held=0 if instance is not None else rope.size, etag=etag)
        return await body_answer(self._request, body, {"content-type": content_type})

    async def _encoded(self, part: Made) -> Response:
        """Make one frame, or take it from those that were made a moment ago, and answer with it."""
        etag = self._etag([part])
        kept = await self._kept(etag)
        if kept is not None:
            return kept
        state = self._request.app.state
        key = f"{self._identity} {part!r}"
        frame = state.encoded.get(key)
        if frame is None:
            frame = await on_worker(self._request, part.make, await self._read(part), cost=part.cost)
            state.encoded.put(key, frame, size=len(frame))
        else:
            await current(self._instance)  # nothing was read that would show it
        return await self._body([(frame,)], None, etag=etag)

    async def _read(self, part: Made) -> bytes:
        return await run_async(part.read(), self._instance.source, identity=self._instance.stat.identity)

    def _etag(self, made: list[Made]) -> str:
        """Give the validator of what is not made yet: what it is made of, and what makes it."""
        return f'"{sha256(f"{self._identity} {self._choice!r} {made!r}".encode()).hexdigest()[:32]}"'

    async def _kept(self, etag: str) -> Response | None:
        """Answer who has it already: nothing is made for that."""
        if not etag_matches(self._request.headers.get("if-none-match"), etag):
            return None
        await current(self._instance)
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=self._headers(etag))

    def _headers(self, etag: str) -> dict[str, str]:
        return {"etag": etag, "cache-control": lasting(self._request), "vary": "Accept"}

    async def _stream(self, made: list[Made]) -> Response:
        """Make one frame after the other while they are sent; the first before that, or its error had no status."""
        request = self._request
        etag = self._etag(made)
        kept = await self._kept(etag)
        if kept is not None:
            return kept
        boundary = f"multiframe-{etag.strip('"')}"
        cost = max(part.cost for part in made)
        first = b""
        if request.method == "HEAD":
            await current(self._instance)
        else:
            first = await on_worker(request, made[0].make, await self._read(made[0]), cost=cost)

        async def pieces() -> AsyncIterator[bytes]:
            frame = first
            for k, part in enumerate(made):
                if k:
                    data = await self._read(part)
                    # Whether the client has gone the answer sees itself, between two pieces.
                    frame = await request.app.state.workers.run(part.make, data)
                head = f"\r\n--{boundary}\r\nContent-Type: {self._choice.content_type}\r\n\r\n".encode()
                yield (head if k else head[2:]) + frame
            yield f"\r\n--{boundary}--\r\n".encode()

        headers = {"content-type": multipart_type(self._choice.media_type, boundary)} | self._headers(etag)
        return stream_answer(request, pieces(), headers, held=cost)


ROUTES = [Row("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", frames, "read")]
