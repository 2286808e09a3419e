"""Bodies on their way out: known ones with ranges and entity tags, streamed ones, both within the memory budget.

It turns a `Body` (ropes of one or more instances), or an iterator of bytes, into an HTTP answer: 200, 206, 304 or 416,
GET or HEAD, piece by piece, and stops reading when the client has gone. It must not know what a body holds, nor how a
client asked for it.
"""

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from itertools import accumulate
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from multiframe.errors import MultiframeError, SourceChanged
from multiframe.instance import Instance
from multiframe.memory import Lease, MemoryBudget
from multiframe.ranges import Buffer, ByteRange
from multiframe.rope import Made, Rope
from multiframe.settings import Settings
from multiframe.source import run_async
from multiframe.web.lookup import current
from multiframe.web.media import RangeNotSatisfiable, content_range, etag_matches, parse_range
from multiframe.web.workers import ClientGone, Workers, gone, watcher, who

__all__ = ["ASK", "FOREVER", "Body", "Later", "Section", "body_answer", "lasting", "stream_answer"]

log = logging.getLogger("multiframe.web")

FOREVER = "private, max-age=31536000, immutable"
"""Cache-Control of what does not change as long as its file does not."""

ASK = "private, no-cache"
"""Cache-Control of what may be kept, but is asked for before it is used."""


class Section(NamedTuple):
    """A rope, and the instance whose bytes it is made of; None: it is all literals."""

    rope: Rope
    instance: Instance | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.rope.size

    @property
    def heavy(self) -> int:
        """Bytes held while its largest part is made."""
        return self.rope.heavy

    @property
    def etag(self) -> str:
        """What changes where a byte does."""
        return self.rope.etag


class Later(NamedTuple):
    """A section that is laid out when its turn comes: of a study only the file on its way is held.

    Attributes
    ----------
    size, heavy, etag
        As of the section that `lay` gives.
    lay : callable
        Gives it; if it is another one by then, the body is broken off.
    """

    size: int
    heavy: int
    etag: str
    lay: Callable[[], Awaitable[Section]]


class Body:
    """Sections one behind the other: a frame, a list of frames, a file, the files of a study.

    Parameters
    ----------
    sections : sequence of Section and Later
        At least one.
    etag : str, optional
        A strong validator, quotes included; by default one of its ropes.
    held : int
        Bytes that exist already, until it has left.

    Attributes
    ----------
    size : int
        Bytes, known before anything is read.
    heavy : int
        Bytes held besides what is read: of what is made already, and of what has to be, one part at a time.
    """

    def __init__(self, sections: Sequence[Section | Later], *, etag: str | None = None, held: int = 0) -> None:
        self.sections = tuple(sections)
        self._stops = list(accumulate(section.size for section in self.sections))
        self.size = self._stops[-1]
        self.heavy = held + max(section.heavy for section in self.sections)
        self._etag = etag
        self._laid: tuple[Later, Section] | None = None
        self._made: tuple[Made, bytes] | None = None

    @property
    def etag(self) -> str:
        """A strong validator, quotes included."""
        if self._etag is not None:
            return self._etag
        if len(self.sections) == 1:
            return self.sections[0].etag
        return f'"{sha256("".join(s.etag for s in self.sections).encode()).hexdigest()[:32]}"'

    @property
    def made(self) -> bool:
        """Whether something has to be made on a worker while it is read."""
        return any(section.heavy for section in self.sections)

    @property
    def instances(self) -> list[Instance]:
        """Whose bytes it is made of, each once, as far as they are held."""
        held = [s.instance for s in self.sections if isinstance(s, Section) and s.instance is not None]
        return list({id(instance): instance for instance in held}.values())

    def _cut(self, wanted: ByteRange) -> Iterator[tuple[Section | Later, ByteRange]]:
        k = bisect_right(self._stops, wanted.start)
        while k < len(self.sections) and (at := self._stops[k] - self.sections[k].size) < wanted.stop:
            section = self.sections[k]
            yield section, ByteRange(max(wanted.start - at, 0), min(wanted.stop - at, section.size))
            k += 1

    async def _section(self, section: Section | Later) -> Section:
        if isinstance(section, Section):
            return section
        if self._laid is None or self._laid[0] is not section:
            self._laid = None
            laid = await section.lay()
            if laid.etag != section.etag:
                raise SourceChanged("the file is not the one this answer began with")
            self._laid = section, laid
        return self._laid[1]

    async def read(self, request: Request, wanted: ByteRange) -> Sequence[Buffer]:
        """Read a part of it; what has to be made is made on a worker, and the last of it is kept for the next part."""
        out: list[Buffer] = []
        for section, inside in self._cut(wanted):
            rope, instance = await self._section(section)
            if instance is None:
                out += _literal(rope, inside)
            elif not rope.heavy:
                out += await run_async(rope.read(inside), instance.source, identity=instance.stat.identity)
            else:
                for part, some in rope.within(inside):
                    if isinstance(part, Made):
                        out.append((await self._make(request, part, instance))[some.start : some.stop])
                    else:
                        plan = Rope([part]).read(some)
                        out += await run_async(plan, instance.source, identity=instance.stat.identity)
        return out

    async def _make(self, request: Request, part: Made, instance: Instance) -> bytes:
        if self._made is None or self._made[0] is not part:
            self._made = None  # its bytes are counted no longer
            data = await run_async(part.read(), instance.source, identity=instance.stat.identity)
            workers: Workers = request.app.state.workers
            made = await workers.run(part.make, data, gone=partial(gone, request))
            self._made = part, part.checked(made)
        return self._made[1]


def _literal(rope: Rope, wanted: ByteRange) -> Sequence[Buffer]:
    try:
        next(rope.read(wanted))
    except StopIteration as done:
        buffers: Sequence[Buffer] = done.value
        return buffers
    raise AssertionError("a rope without a source has bytes of one")


def lasting(request: Request) -> str:
    """Give Cache-Control of what does not change as long as its file does not: `ASK` where the settings want that."""
    settings: Settings = request.app.state.settings
    return ASK if settings.revalidate else FOREVER


async def body_answer(request: Request, body: Body, headers: dict[str, str]) -> Response:
    """Answer with a body: 200, 206, 304 or 416, GET or HEAD (RFC 9110 13, 14)."""
    settings: Settings = request.app.state.settings
    budget: MemoryBudget = request.app.state.budget
    etag = body.etag
    headers |= {"etag": etag, "accept-ranges": "bytes", "vary": "Accept"}
    headers.setdefault("cache-control", lasting(request))
    if request.method == "HEAD" or "if-none-match" in request.headers:
        for instance in body.instances:
            await current(instance)  # nothing is read that would show it
    if etag_matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    part, status = ByteRange(0, body.size), HTTPStatus.OK
    if request.headers.get("if-range", etag) == etag:
        try:
            asked = parse_range(request.headers.get("range"), body.size)
        except RangeNotSatisfiable:
            headers["content-range"] = content_range(None, body.size)
            return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
        if asked is not None:
            part, status = asked, HTTPStatus.PARTIAL_CONTENT
            headers["content-range"] = content_range(part, body.size)
    headers["content-length"] = str(part.size)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    held = min(part.size, settings.piece, budget.limit)
    workers: Workers = request.app.state.workers
    async with workers.turn(request) if body.made else nullcontext():
        lease = await budget.acquire_async(held + body.heavy, timeout=settings.memory_wait, who=who(request))
        try:
            first = await body.read(request, ByteRange(part.start, part.start + held))
        except BaseException:
            lease.release()
            raise
    return _BodyResponse(request, body, part, first, lease, piece=held, status_code=status, headers=headers)


class _BodyResponse(Response):
    """A body on its way out, piece by piece: what is held is one piece, whatever the size of the body."""

    def __init__(
        self, request: Request, body: Body, part: ByteRange, first: Sequence[Buffer], lease: Lease, *,
        piece: int, status_code: int, headers: dict[str, str],
    ) -> None:  # fmt: skip
        super().__init__(None, status_code, headers)
        self._request = request
        self._body, self._part, self._first, self._lease, self._piece = body, part, first, lease, piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        listening: asyncio.Task[None] | None = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            at, stop = self._part
            buffers = self._first
            if stop - at > self._piece:
                listening = watcher(self._request)
            while buffers:
                body = buffers[0] if len(buffers) == 1 else b"".join(buffers)
                at += len(body)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if at >= stop:
                    break
                await asyncio.sleep(0)  # a long body to a quick client must not keep all others waiting
                if listening is not None and listening.done():
                    break
                buffers = await self._body.read(self._request, ByteRange(at, min(at + self._piece, stop)))
            # The server waits here until the last piece has left its buffers: only then is the memory free.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            pass  # nobody is there to be told
        except MultiframeError as error:
            # The head is out: all that is left is to break off, so that nobody takes half for the whole.
            log.warning("%s: broken off: %s", scope["path"], type(error).__name__)
        finally:
            if listening is not None:
                listening.cancel()
            self._lease.release()


def stream_answer(
    request: Request, pieces: AsyncIterator[bytes], headers: dict[str, str], *, held: int = 0,
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:  # fmt: skip
    """Answer with what is made while it is sent, of a length nobody knows yet: chunked, without ranges.

    Parameters
    ----------
    pieces : async iterator of bytes
        Asked for the next one when the one before has left; closed when the client has gone.
    held : int
        Bytes held besides while a piece is made.
    status : HTTPStatus
        206 where some of what was asked for cannot be had (PS3.18 10.4.3.1).
    """
    return _StreamResponse(request, pieces, headers, held=held, status=status)


class _StreamResponse(Response):
    """Bytes that are made while they are sent."""

    def __init__(
        self, request: Request, pieces: AsyncIterator[bytes], headers: dict[str, str], *, held: int, status: HTTPStatus
    ) -> None:
        super().__init__(None, status, headers)
        del self.headers["content-length"]  # not known before it is written
        self._request, self._pieces, self._held = request, pieces, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._request.app.state
        lease = await state.budget.acquire_async(
            min(state.settings.piece, state.budget.limit) + self._held,
            timeout=state.settings.memory_wait,
            who=who(self._request),
        )
        listening = watcher(self._request)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._request.method != "HEAD":
                async for data in self._pieces:
                    if data:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                    await asyncio.sleep(0)
                    if listening.done():
                        return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            pass
        except MultiframeError as error:
            log.warning("%s: broken off: %s", scope["path"], type(error).__name__)
        finally:
            listening.cancel()
            lease.release()
