"""Bodies on their way out: known ones with ranges and entity tags, streamed ones, both within the memory budget.

It turns a `Body` (ropes of one or more instances), or an iterator of bytes, into an HTTP answer: 200, 206, 304 or 416,
GET or HEAD, piece by piece, and stops reading when the client has gone. It must not know what a body holds, nor how a
client asked for it.
"""

import asyncio
import logging
import sys
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import aclosing, nullcontext
from functools import partial
from http import HTTPStatus
from itertools import accumulate
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from multiframe.errors import MultiframeError, SourceChanged
from multiframe.instance import Instance
from multiframe.memory import ByteCache, Lease, MemoryBudget
from multiframe.ranges import Buffer, ByteRange
from multiframe.rope import Made, Rope, digest
from multiframe.settings import Settings
from multiframe.source import is_far, run_async
from multiframe.web.lookup import current
from multiframe.web.media import PreconditionFailed, content_range, etag_expected, etag_matches, parse_range
from multiframe.web.once import ClientGone, Gone, Once, Shared
from multiframe.web.tracing import span
from multiframe.web.witness import failed
from multiframe.web.workers import Workers, gone, watcher, who

__all__ = [
    "ASK",
    "FOREVER",
    "Body",
    "Later",
    "Section",
    "Works",
    "body_answer",
    "headed",
    "in_pieces",
    "lasting",
    "leased",
    "made_kept",
    "made_once",
    "not_modified",
    "stream_answer",
    "works_of",
]

log = logging.getLogger("multiframe.web")

FOREVER = "private, max-age=31536000, immutable"
"""Cache-Control of what does not change as long as its file does not."""

ASK = "private, no-cache"
"""Cache-Control of what may be kept, but is asked for before it is used."""


_NEAR, _FAR = 8, 64
"""Reads at once: more of a disk would only wait behind each other, in no order we know; of far objects each is a round
trip."""


class Works(NamedTuple):
    """What is under way for more than one: reads, and frames and pictures that have to be made.

    Attributes
    ----------
    near, far : Once
        Reads.
    made : Once
        What is made on a worker, with a turn and memory of its own.
    parts : Once
        What is made on a worker for a longer answer, which has the memory for it.
    """

    near: Once
    far: Once
    made: Once
    parts: Once


def works_of(workers: Workers, budget: MemoryBudget) -> Works:
    """Begin with nothing under way."""
    near, far, parts = (Once(MemoryBudget(most)) for most in (_NEAR, _FAR, sys.maxsize))
    return Works(near, far, Once(workers.turns, budget), parts)


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
        self._told: str | None = None
        self._laid: tuple[Later, Section] | None = None
        self._made: tuple[Made, bytes] | None = None

    @property
    def etag(self) -> str:
        """A strong validator, quotes included."""
        if self._etag is not None:
            return self._etag
        if len(self.sections) == 1:
            return self.sections[0].etag
        return f'"{digest(*(section.etag for section in self.sections))}"'

    @property
    def made(self) -> bool:
        """Whether something has to be made on a worker while it is read."""
        return any(section.heavy for section in self.sections)

    @property
    def sole(self) -> tuple[Made, Instance] | None:
        """The one thing that has to be made and read, if there is no other."""
        if len(self.sections) > 1 or not isinstance(self.sections[0], Section):
            return None
        rope, instance = self.sections[0]
        parts = [part for part in rope.parts if not isinstance(part, bytes)]
        if len(parts) != 1 or instance is None or not isinstance(parts[0], Made):
            return None
        return parts[0], instance

    def give(self, part: Made, data: bytes) -> None:
        """Take what was made of a part."""
        self._made = part, part.checked(data)

    @property
    def instances(self) -> list[Instance]:
        """Whose bytes it is made of, each once, as far as they are held."""
        held = [s.instance for s in self.sections if isinstance(s, Section) and s.instance is not None]
        return list({id(instance): instance for instance in held}.values())

    def _cut(self, wanted: ByteRange) -> Iterator[tuple[int, Section | Later, ByteRange]]:
        """Give the sections `wanted` touches: where each begins, and what of it is wanted."""
        k = bisect_right(self._stops, wanted.start)
        while k < len(self.sections) and (at := self._stops[k] - self.sections[k].size) < wanted.stop:
            section = self.sections[k]
            yield at, section, ByteRange(max(wanted.start - at, 0), min(wanted.stop - at, section.size))
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
        for at, section, inside in self._cut(wanted):
            rope, instance = await self._section(section)
            if instance is None:
                out += _literal(rope, inside)
            elif not rope.heavy:
                out += await self._read(request, at, rope, inside, instance)
            else:
                for part, some in rope.within(inside):
                    if isinstance(part, Made):
                        out.append((await self._make(request, part, instance))[some.start : some.stop])
                    else:
                        plan = Rope([part]).read(some)
                        out += await run_async(plan, instance.source, identity=instance.stat.identity)
        return out

    async def _read(
        self, request: Request, at: int, rope: Rope, inside: ByteRange, instance: Instance
    ) -> Sequence[Buffer]:
        """Read a part of the rope that begins at `at`, once for all that want it at the same time."""
        if self._told is None:
            self._told = self.etag  # not made anew for each piece
        works: Works = request.app.state.works

        async def read(_: object) -> Sequence[Buffer]:
            with span("read", bytes=inside.size):
                return await run_async(rope.read(inside), instance.source, identity=instance.stat.identity)

        once = works.far if is_far(instance.source) else works.near
        with await once.do((self._told, at, inside), read, who=who(request)) as buffers:
            read_ones: Sequence[Buffer] = buffers
            return read_ones

    async def _make(self, request: Request, part: Made, instance: Instance) -> bytes:
        if self._made is None or self._made[0] is not part:
            self._made = None  # its bytes are counted no longer
            works: Works = request.app.state.works
            make, key = _making(request, part, instance), (instance.stat.identity, part)
            with await works.parts.do(key, make, who=who(request), gone=partial(gone, request)) as made:
                self.give(part, made)
        assert self._made is not None
        return self._made[1]


def _making(request: Request, part: Made, instance: Instance) -> Callable[[Gone], Awaitable[bytes]]:
    """Give what makes a part on a worker."""
    workers: Workers = request.app.state.workers
    identity = instance.stat.identity

    async def make(nobody: Gone) -> bytes:
        data = await run_async(part.read(), instance.source, identity=identity)
        return await workers.run(part.make, data, gone=nobody, who=who(request), need=part.need)

    return make


async def made_once(
    request: Request, part: Made, instance: Instance, *, each: int = 0, begun: bool = False
) -> Shared:  # fmt: skip
    """Have something made on a worker, once for all that want it at the same time.

    Parameters
    ----------
    each : int
        Bytes held besides for each answer it goes into.
    begun : bool
        Whether some of the answer has left already: then it waits for memory for as long as it takes.

    Raises
    ------
    ClientGone, OverBudget, MultiframeError
        As of `Once.do` and `Workers.run`.
    """
    state = request.app.state
    works: Works = state.works
    return await works.made.do(
        (instance.stat.identity, part), _making(request, part, instance), who=who(request), gone=partial(gone, request),
        cost=part.cost, each=each, timeout=None if begun else state.settings.memory_wait,
    )  # fmt: skip


async def made_kept(request: Request, part: Made, instance: Instance) -> tuple[bytes, Shared | None]:
    """Have something made as `made_once` does, and keep it for a moment: who wants it may fetch it in ranges.

    Returns
    -------
    bytes, Shared or None
        The lease of it; None: it was kept, and what is held of it is to be entered once more.
    """
    cache: ByteCache[Hashable, bytes] = request.app.state.encoded
    key = instance.stat.identity, part
    kept = cache.get(key)
    if kept is not None:
        await current(instance)  # nothing was read that would show it
        return kept, None
    lease = await made_once(request, part, instance, each=request.app.state.settings.piece)
    made: bytes = lease.value
    cache.put(key, made, size=len(made))
    return made, lease


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


async def not_modified(
    request: Request, headers: dict[str, str], instances: Iterable[Instance] = ()
) -> Response | None:
    """Answer 304 to who has it already: nothing is made for that (RFC 9110 13.1.2, 15.4.5).

    Parameters
    ----------
    headers : dict
        Of the whole answer; its ``etag`` is compared.
    instances : iterable of Instance
        Whose files must be what they were: nothing is read that would show it.

    Returns
    -------
    Response or None
        None: the client has not.
    """
    if not etag_matches(request.headers.get("if-none-match"), headers["etag"]):
        return None
    for instance in instances:
        await current(instance)
    kept = {name: value for name, value in headers.items() if not name.startswith("content-")}
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=kept)


async def body_answer(
    request: Request, body: Body, headers: dict[str, str], *, lease: Lease | Shared | None = None,
    whole: HTTPStatus = HTTPStatus.OK,
) -> Response:  # fmt: skip
    """Answer with a body: 200, 206, 304, 412 or 416, GET or HEAD (RFC 9110 13, 14).

    Parameters
    ----------
    lease : Lease or Shared, optional
        Where what it holds is entered already; it is let go when the last piece has left.
    whole : HTTPStatus
        Of the whole body: 206 where some of what was asked for cannot be had (PS3.18 10.4.3.1).
    """
    answer: Response | None = None
    try:
        answer = await _body_answer(request, body, headers, lease, whole)
    finally:
        if lease is not None and not isinstance(answer, _BodyResponse):
            lease.release()
    return answer


async def _body_answer(
    request: Request, body: Body, headers: dict[str, str], lease: Lease | Shared | None, whole: HTTPStatus
) -> Response:  # fmt: skip
    settings: Settings = request.app.state.settings
    budget: MemoryBudget = request.app.state.budget
    etag = body.etag
    if not etag_expected(request.headers.get("if-match"), etag):
        raise PreconditionFailed(etag)
    headers |= {"etag": etag, "accept-ranges": "bytes", "vary": "Accept"}
    headers.setdefault("cache-control", lasting(request))
    kept = await not_modified(request, headers, body.instances)
    if kept is not None:
        return kept
    if request.method == "HEAD":
        for instance in body.instances:
            await current(instance)  # nothing is read that would show it
    part, status = ByteRange(0, body.size), whole
    if request.headers.get("if-range", etag) == etag:
        asked = parse_range(request.headers.get("range"), body.size)
        if asked is not None:
            part, status = asked, HTTPStatus.PARTIAL_CONTENT
            headers["content-range"] = content_range(part, body.size)
    headers["content-length"] = str(part.size)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    held = min(part.size, settings.piece, budget.limit)
    workers: Workers = request.app.state.workers
    sole = body.sole
    if lease is None and sole is not None:
        lease = await made_once(request, *sole, each=held)
        try:
            body.give(sole[0], lease.value)
        except BaseException:
            lease.release()
            raise
    async with workers.turn(request) if body.made and lease is None else nullcontext():
        if lease is None:
            need = held + body.heavy
            lease = await budget.acquire_async(need, timeout=settings.memory_wait, who=who(request))
        try:
            first = await body.read(request, ByteRange(part.start, part.start + held))
        except BaseException:
            lease.release()
            raise
    return _BodyResponse(request, body, part, first, lease, piece=held, status_code=status, headers=headers)


class _BodyResponse(Response):
    """A body on its way out, piece by piece: what is held is one piece, whatever the size of the body."""

    def __init__(
        self, request: Request, body: Body, part: ByteRange, first: Sequence[Buffer], lease: Lease | Shared, *,
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
                    return
                buffers = await self._body.read(self._request, ByteRange(at, min(at + self._piece, stop)))
            # The server waits here until the last piece has left its buffers: only then is the memory free.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            pass  # nobody is there to be told
        except MultiframeError as error:
            # The head is out: all that is left is to break off, so that nobody takes half for the whole.
            failed(scope, error)
            log.warning("broken off: %s", type(error).__name__)
        finally:
            if listening is not None:
                listening.cancel()
            self._lease.release()


def stream_answer(
    request: Request, pieces: AsyncGenerator[Buffer], headers: dict[str, str], *, first: Buffer = b"",
    held: int | None = 0, status: HTTPStatus = HTTPStatus.OK,
) -> Response:  # fmt: skip
    """Answer with what is made while it is sent, of a length nobody knows yet: chunked, without ranges.

    Parameters
    ----------
    pieces : async generator of buffers
        Asked for the next one when the one before has left; closed when the client has gone.
    first : buffer
        What it has given already: before the head leaves, an error still has a status.
    held : int or None
        Bytes held besides while a piece is made. None: each piece is given inside a lease of its own, as of `leased`.
    status : HTTPStatus
        206 where some of what was asked for cannot be had (PS3.18 10.4.3.1).
    """
    return _StreamResponse(request, pieces, headers, first=first, held=held, status=status)


async def leased(request: Request, size: int, *, begun: bool = True) -> Lease:
    """Enter the bytes of one piece of a stream; as many as the budget has, if they are more.

    Parameters
    ----------
    begun : bool
        Whether some of the answer has left already: then it waits for as long as it takes, holding nothing.
    """
    state = request.app.state
    timeout = None if begun else state.settings.memory_wait
    lease: Lease = await state.budget.acquire_async(min(size, state.budget.limit), timeout=timeout, who=who(request))
    return lease


async def in_pieces(request: Request, body: Body, *, begun: bool) -> AsyncGenerator[Buffer]:
    """Give a body of known size as a part of a stream, each piece inside a lease of its own.

    Whoever takes it closes it (`aclosing`): else the lease of a client that has gone is held until a collection.

    Parameters
    ----------
    begun : bool
        As of `leased`.
    """
    piece: int = request.app.state.settings.piece
    for at in range(0, body.size, piece):
        wanted = ByteRange(at, min(at + piece, body.size))
        with await leased(request, wanted.size + body.heavy, begun=begun or at > 0):
            buffers = await body.read(request, wanted)
            yield buffers[0] if len(buffers) == 1 else b"".join(buffers)


async def headed(head: bytes, pieces: AsyncGenerator[Buffer]) -> AsyncGenerator[Buffer]:
    """Give a head and pieces, once the first of these is there: it may say that they cannot be had.

    Whoever takes it closes it; that closes the pieces.
    """
    async with aclosing(pieces):
        async for piece in pieces:
            if head:
                yield head
                head = b""
            yield piece
    if head:
        yield head


class _StreamResponse(Response):
    """Bytes that are made while they are sent."""

    def __init__(
        self, request: Request, pieces: AsyncGenerator[Buffer], headers: dict[str, str], *, first: Buffer,
        held: int | None, status: HTTPStatus,
    ) -> None:  # fmt: skip
        super().__init__(None, status, headers)
        del self.headers["content-length"]  # not known before it is written
        self._request, self._pieces, self._first, self._held = request, pieces, first, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, held = self._request, self._held
        piece = request.app.state.settings.piece
        async with aclosing(self._pieces):
            with nullcontext() if held is None else await leased(request, piece + held, begun=False):
                listening, begun = watcher(request), False
                try:
                    data: Buffer | None = None
                    if request.method != "HEAD":  # an error in the first piece still has a status
                        data, self._first = self._first or await anext(self._pieces, None), b""
                    begun = True
                    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                    while data is not None:
                        if data:
                            await send({"type": "http.response.body", "body": data, "more_body": True})
                        if held is None:  # its memory is free when the server would take more
                            await send({"type": "http.response.body", "body": b"", "more_body": True})
                        await asyncio.sleep(0)
                        if listening.done():
                            return
                        data = await anext(self._pieces, None)
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                except ClientGone:
                    pass
                except MultiframeError as error:
                    if not begun:
                        raise
                    failed(scope, error)
                    log.warning("broken off: %s", type(error).__name__)
                finally:
                    listening.cancel()
