"""WADO-RS frames: a list of frame numbers and an Accept header become a body (PS3.18 10.4.1.1.6).

A frame *number* (from 1) becomes an *index* (from 0) here, in one function. It must not know how frames are found, nor
how a body leaves.
"""

from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from functools import lru_cache, partial
from itertools import accumulate

from starlette.requests import Request
from starlette.responses import Response

from multiframe import __version__
from multiframe.codec import PixelSpec
from multiframe.errors import FormatError, FrameNotFound, NoPixelData
from multiframe.frameindex import FrameIndex
from multiframe.instance import Instance
from multiframe.part10 import Decoding, can_hold
from multiframe.ranges import Buffer, ByteRange
from multiframe.rope import Laid, Made, Part, Rope, Stored, digest, touched
from multiframe.settings import Settings
from multiframe.source import Identity
from multiframe.syntaxes import EXPLICIT_LE, TransferSyntax, syntax_of
from multiframe.transcode import decoded_spec, fingerprint, making, targets
from multiframe.web.again import Way
from multiframe.web.answers import (
    Body,
    Section,
    body_answer,
    in_pieces,
    lasting,
    made_kept,
    made_once,
    not_modified,
    stream_answer,
)
from multiframe.web.doors import Row
from multiframe.web.lookup import BadRequest, accept_of, current, for_ohif, uids, with_fresh
from multiframe.web.media import (
    Choice,
    Kind,
    MixedAccept,
    boundary_of,
    choose_frames,
    multipart,
    multipart_type,
    parse_accept,
)
from multiframe.web.tracing import span

__all__ = ["ROUTES", "choice_of", "decoding_of", "frames", "given", "indices_of", "laid", "made_by"]

_BASELINE, _EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"

_MOST_FRAMES = 10_000
"""In one request: what is known of each part is held while the answer is sent."""

_ALONE = 1024
"""Bodies of one frame of which size, ETag and boundary are kept: what one viewer asks for, others ask for as well. Each
takes about a kilobyte."""

_FOUND_AT_ONCE = 256
"""Frames of a list that are looked for before the first of them is sent; neighbours among them are one read."""


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
    first and is such a body then; a list is made while it is sent. So is one of frames that are still to be found.
    """
    study, series, uid = uids(request)

    async def use(instance: Instance) -> Response:
        # One that is cut in its first frame had one: where it is cut is said then.
        count = instance.header.declared_frames or len(await instance.grow_async(None)) or 1
        indices = indices_of(request.path_params["frames"], count)
        choice = choice_of(request, instance, len(indices))
        known = instance.known
        answer = await given(request, instance, choice, indices)
        if known is None or not known.complete:
            request.app.state.indexer.complete(instance)
        elif choice.syntax == instance.frame_syntax and len(indices) == 1:
            in_parts_of = choice.media_type if choice.multipart else ""
            Way(instance, partial(_one, choice.content_type, in_parts_of)).leave(request.scope)
        return answer

    return await with_fresh(request, study, series, uid, use)


async def given(request: Request, instance: Instance, choice: Choice, indices: Sequence[int]) -> Response:
    """Answer with frames in the form that was chosen."""
    known = instance.known
    found = known is not None and (known.complete or max(indices) < len(known))
    stored = choice.syntax == instance.frame_syntax
    if len(indices) > 1 and (not found if stored else choice.syntax.uid != EXPLICIT_LE):
        return await _while_made(request, instance, choice, indices)
    with span("index", frames=max(indices) + 1):
        index = await instance.grow_async(max(indices))
    if not stored:
        made = making(instance.spec, instance.frame_syntax, choice.syntax)
        return await _made(request, instance, choice, [made(index.parts(i), i) for i in indices])
    if len(indices) > 1:
        rope, content_type = _listed(index, indices, choice, instance)
    else:
        rope, content_type = laid([index.parts(indices[0])], choice, instance)
    return await body_answer(request, Body([Section(rope, instance)]), {"content-type": content_type})


def _listed(index: FrameIndex, indices: Sequence[int], choice: Choice, instance: Instance) -> tuple[Rope, str]:
    """Give frames as stored, in parts, as a body, and its content type."""
    named = _named(instance, choice, indices)
    boundary = boundary_of(named)
    head = f"\r\n--{boundary}\r\nContent-Type: {choice.content_type}\r\n\r\n".encode()
    rope = Rope([_Parts(index, indices, head), f"\r\n--{boundary}--\r\n".encode()], digest=named)
    return rope, multipart_type(choice.media_type, boundary)


class _Parts:
    """Frames in parts, laid out where they are asked for (`rope.Laid`): their places lie in arrays."""

    def __init__(self, index: FrameIndex, indices: Sequence[int], head: bytes) -> None:
        self._index, self._indices, self._head = index, indices, head
        whole = len(indices) == len(index)
        sizes = index.sizes[indices].tolist() if whole else [sum(p.size for p in index.parts(i)) for i in indices]
        # An empty line before the first boundary is allowed, and not what clients look for: it is left out.
        self._ends = list(accumulate((len(head) + size for size in sizes), initial=-2))
        self._ends[0] = 0
        self.size = self._ends[-1]
        self.etag = head.hex()  # the boundary names all that they are made of

    def within(self, wanted: ByteRange) -> Iterator[tuple[Part, ByteRange]]:
        """Give the parts that `wanted` touches."""
        i = bisect_right(self._ends, wanted.start) - 1
        while i < len(self._indices) and self._ends[i] < wanted.stop:
            head = self._head if i else self._head[2:]
            yield from touched([head, *self._index.parts(self._indices[i])], self._ends[i], wanted)
            i += 1


def _one(content_type: str, in_parts_of: str, instance: Instance, i: int) -> tuple[Rope, str]:
    """Give one frame of an instance whose index is complete."""
    assert instance.known is not None
    return _alone(content_type, in_parts_of, instance.stat.identity, instance.known.parts(i))


@lru_cache(_ALONE)
def _alone(content_type: str, in_parts_of: str, identity: Identity, parts: tuple[Stored, ...]) -> tuple[Rope, str]:
    """Give one frame as a body, and its content type; in no part where no media type of parts is named."""
    if not in_parts_of:
        return Rope(parts, identity=f"{identity!r} {content_type}"), content_type
    rope, boundary = multipart([(content_type, parts)], identity=repr(identity))
    return rope, multipart_type(in_parts_of, boundary)


def laid(payloads: Sequence[Sequence[Part | Laid]], choice: Choice, instance: Instance) -> tuple[Rope, str]:
    """Give what has a known size as a body, and its content type."""
    content_type = choice.content_type
    identity = repr(instance.stat.identity)
    if not choice.multipart:
        return Rope(payloads[0], identity=f"{identity} {content_type}"), content_type
    rope, boundary = multipart([(content_type, p) for p in payloads], identity=identity)
    return rope, multipart_type(choice.media_type, boundary)


def _named(instance: Instance, choice: Choice, indices: Sequence[int]) -> str:
    """Name a list before its frames are found or made: what it says is the same then."""
    return digest(instance.stat.identity, choice, indices, made_by(instance, choice))


def made_by(instance: Instance, choice: Choice) -> object:
    """Say what makes frames what they are when they leave: it changes when their bytes might."""
    source = instance.frame_syntax
    return __version__ if choice.syntax == source else (fingerprint(source, choice.syntax), instance.spec)


def decoding_of(instance: Instance) -> Decoding:
    """Say how the frames of an instance are decoded."""
    spec, source, index = instance.spec, instance.frame_syntax, instance.index
    made = making(spec, source, syntax_of(EXPLICIT_LE))
    return Decoding(decoded_spec(spec, source), lambda i: made(index.parts(i), i))


def choice_of(
    request: Request, instance: Instance, count: int, kind: Kind = "frames", *, room: int | None = None
) -> Choice:  # fmt: skip
    """Choose in which form frames of an instance leave, by what the client takes.

    Parameters
    ----------
    kind : str
        As of `media.choose_frames`.
    room : int, optional
        Bytes up to which they are decoded for who names no Transfer Syntax; by default ``--max-decode``.

    Raises
    ------
    NotAcceptable, BadRequest
        Nothing it takes can be given, or what it takes cannot be told.
    """
    settings: Settings = request.app.state.settings
    stored = instance.frame_syntax
    accept = accept_of(request)
    forms: tuple[TransferSyntax, ...]
    try:
        spec = instance.spec
        forms, size = targets(spec, stored), spec.frame_bytes
    except NoPixelData:
        raise
    except FormatError:  # a data set that does not say what its pixels are: frames are given as they lie
        forms, size = (stored,), 0
    else:
        if for_ohif(request):
            forms = _counted(forms, spec)
        if kind != "frames" and stored.encapsulated and not can_hold(decoded_spec(spec, stored), count):
            forms = tuple(form for form in forms if form.uid != EXPLICIT_LE)
    # What was never lossy is given decoded to who asks for nothing else, as long as that is of a bearable size.
    room = settings.max_decode if room is None else room
    decode = stored.encapsulated and not stored.lossy and count * size <= room
    try:
        return choose_frames(parse_accept(accept), forms, count=count, kind=kind, decode=decode)
    except MixedAccept as error:
        raise BadRequest(str(error)) from None


def _counted(forms: tuple[TransferSyntax, ...], spec: PixelSpec) -> tuple[TransferSyntax, ...]:
    """Put JPEG Extended before colour in JPEG Baseline: the same data, which cornerstone decodes where it counts it.

    It decodes colour in JPEG Baseline by the browser's own means, and keeps two copies beside the one it counts.
    """
    if forms[0].uid != _BASELINE or spec.samples != 3:
        return forms
    return tuple(sorted(forms, key=lambda form: form.uid != _EXTENDED))


async def _made(request: Request, instance: Instance, choice: Choice, made: Sequence[Made]) -> Response:
    """Answer with frames in another form than they are stored in: decoded ones, or one that was encoded anew."""
    if choice.syntax.uid == EXPLICIT_LE:
        rope, content_type = laid([(part,) for part in made], choice, instance)
        return await body_answer(request, Body([Section(rope, instance)]), {"content-type": content_type})
    (part,) = made
    etag = f'"{digest(instance.stat.identity, choice, part)}"'
    kept = await not_modified(request, _headers(request, etag), [instance])
    if kept is not None:
        return kept
    frame, lease = await made_kept(request, part, instance)
    rope, content_type = laid([(frame,)], choice, instance)
    body = Body([Section(rope, None)], held=rope.size, etag=etag)
    return await body_answer(request, body, {"content-type": content_type}, lease=lease)


def _headers(request: Request, etag: str) -> dict[str, str]:
    return {"etag": etag, "cache-control": lasting(request), "vary": "Accept"}


async def _while_made(request: Request, instance: Instance, choice: Choice, indices: Sequence[int]) -> Response:
    """Answer with frames that are found, or encoded anew, while those before them are sent."""
    named = _named(instance, choice, indices)
    headers = _headers(request, f'"{named}"')
    kept = await not_modified(request, headers, [instance])
    if kept is not None:
        return kept
    boundary = boundary_of(named)
    headers["content-type"] = multipart_type(choice.media_type, boundary)
    given = _found if choice.syntax == instance.frame_syntax else _encoded
    pieces = given(request, instance, choice, indices, boundary)
    first: Buffer = b""
    if request.method == "HEAD":
        await current(instance)
    else:
        first = await anext(pieces)  # an error of it still has a status
    return stream_answer(request, pieces, headers, first=first, held=None)


async def _found(
    request: Request, instance: Instance, choice: Choice, indices: Sequence[int], boundary: str
) -> AsyncGenerator[Buffer]:
    """Give frames as stored, some at a time; while the next ones are looked for, no memory is held."""
    head, end = f"\r\n--{boundary}\r\nContent-Type: {choice.content_type}\r\n\r\n".encode(), f"\r\n--{boundary}--\r\n"
    for some in _together(indices):
        index = await instance.grow_async(max(some))
        pieces: list[Part] = []
        for i in some:
            pieces += [head, *index.parts(i)]
        if some[0] == indices[0]:
            pieces[0] = head[2:]
        if some[-1] == indices[-1]:
            pieces.append(end.encode())
        body = Body([Section(Rope(pieces, identity=f"{boundary} {some[0]}"), instance)])
        async with aclosing(in_pieces(request, body, begun=some[0] != indices[0])) as sent:
            async for piece in sent:
                yield piece


def _together(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    """Part a list: the first frame is not kept waiting for others, later ones are found some at a time."""
    at, some = 0, 1
    while at < len(indices):
        yield indices[at : at + some]
        at, some = at + some, min(4 * some, _FOUND_AT_ONCE)


async def _encoded(
    request: Request, instance: Instance, choice: Choice, indices: Sequence[int], boundary: str
) -> AsyncGenerator[Buffer]:
    """Give frames encoded anew, each made when the one before has left."""
    made = making(instance.spec, instance.frame_syntax, choice.syntax)
    head = f"--{boundary}\r\nContent-Type: {choice.content_type}\r\n\r\n".encode()
    for k, i in enumerate(indices):
        part = made((await instance.grow_async(i)).parts(i), i)
        with await made_once(request, part, instance, begun=k > 0) as frame:
            yield b"\r\n" + head if k else head
            yield frame
    yield f"\r\n--{boundary}--\r\n".encode()


ROUTES = [Row("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", frames, "read")]
