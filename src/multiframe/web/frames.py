"""WADO-RS frames: a list of frame numbers and an Accept header become a body (PS3.18 10.4.1.1.6).

A frame *number* (from 1) becomes an *index* (from 0) here, in one function. It must not know how frames are found, nor
how a body leaves.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from hashlib import sha256
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from multiframe.errors import FormatError, FrameNotFound, NoPixelData, NotAcceptable
from multiframe.instance import Instance
from multiframe.rope import Made, Part, Rope, Stored
from multiframe.settings import Settings
from multiframe.source import run_async
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax
from multiframe.transcode import decoded_spec, fingerprint, targets, transcode
from multiframe.web.answers import ASK, FOREVER, Body, Section, body_answer, stream_answer
from multiframe.web.lookup import BadRequest, accept_of, current, uids, with_fresh
from multiframe.web.media import Choice, MixedAccept, choose_frames, etag_matches, multipart, parse_accept
from multiframe.web.workers import on_worker

__all__ = ["ROUTES", "frames", "indices_of"]

_MOST_FRAMES = 10_000
"""In one request: what is known of each part is held while the answer is sent."""


def indices_of(text: str, count: int) -> list[int]:
    """Turn frame numbers, from 1 and separated by commas, into indices from 0.

    Raises
    ------
    BadRequest, FrameNotFound
        It is no such list, or names a frame that is not there.
    """
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
        index = await instance.grow_async(max(indices))
        wanted = _Wanted(request, instance, choice, [index.parts(i) for i in indices], indices)
        answer = await wanted.answer()
        if known is None or not known.complete:
            request.app.state.indexer.complete(instance)
        return answer

    return await with_fresh(request, study, series, uid, use)


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
    # What was never lossy is given decoded to who asks for nothing else, as long as that is of a bearable size.
    decode = stored.encapsulated and not stored.lossy and count * (bits + 7) // 8 <= settings.max_decode
    try:
        return choose_frames(parse_accept(accept), forms, count=count, decode=decode)
    except MixedAccept as error:
        raise BadRequest(str(error)) from None


class _Wanted:
    """Frames of an instance, and the form they are wanted in."""

    def __init__(
        self, request: Request, instance: Instance, choice: Choice, payloads: list[tuple[Stored, ...]],
        indices: list[int],
    ) -> None:  # fmt: skip
        self._request, self._instance, self._choice = request, instance, choice
        self._payloads, self._indices = payloads, indices
        self._identity = repr(instance.stat.identity)
        self._source = instance.frame_syntax

    async def answer(self) -> Response:
        target = self._choice.syntax
        if target == self._source:
            return await self._body([tuple[Part, ...](payload) for payload in self._payloads], self._instance)
        key = f"{fingerprint(self._source, target)} {self._instance.spec!r}"
        made = [
            Made(payload, self._size, self._make(i), key)
            for i, payload in zip(self._indices, self._payloads, strict=True)
        ]
        if target.uid == EXPLICIT_LE:
            return await self._body([(part,) for part in made], self._instance)
        if len(made) == 1:
            return await self._encoded(made[0])
        return await self._stream(made)

    @property
    def _size(self) -> int:
        """Bytes of a frame that is decoded."""
        return (decoded_spec(self._instance.spec, self._source).frame_bits + 7) // 8

    def _make(self, i: int) -> Callable[[bytes], bytes]:
        return partial(transcode, spec=self._instance.spec, source=self._source, target=self._choice.syntax, index=i)

    async def _body(
        self, payloads: Sequence[Sequence[Part]], instance: Instance | None, *, etag: str | None = None
    ) -> Response:
        """Answer with what has a known size."""
        content_type = self._choice.content_type
        if self._choice.multipart:
            parts = [(content_type, payload) for payload in payloads]
            rope, boundary = multipart(parts, identity=self._identity)
            content_type = self._multipart(boundary)
        else:
            rope = Rope(payloads[0], identity=f"{self._identity} {content_type}")
        held = 0 if instance is not None else rope.size
        return await body_answer(
            self._request, Body([Section(rope, instance)], held=held, etag=etag), {"content-type": content_type}
        )

    def _multipart(self, boundary: str) -> str:
        return f'multipart/related; type="{self._choice.media_type}"; boundary={boundary}'

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
        settings: Settings = self._request.app.state.settings
        return {"etag": etag, "cache-control": ASK if settings.revalidate else FOREVER, "vary": "Accept"}

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
                    frame = await request.app.state.workers.run(part.make, data, gone=request.is_disconnected)
                head = f"\r\n--{boundary}\r\nContent-Type: {self._choice.content_type}\r\n\r\n".encode()
                yield (head if k else head[2:]) + frame
            yield f"\r\n--{boundary}--\r\n".encode()

        headers = {"content-type": self._multipart(boundary)} | self._headers(etag)
        return stream_answer(request, pieces(), headers, held=cost)


ROUTES = [("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", frames)]
