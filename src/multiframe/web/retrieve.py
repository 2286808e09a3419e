"""WADO-RS instances, series and studies: Part 10 files, in parts or one alone (PS3.18 10.4.1.1.1 to 10.4.1.1.3).

An address and an Accept header become a `Body` whose size is known before its first byte: of each file what it is made
of is settled first, then it is laid out anew when its turn comes. Only files whose frames are encoded anew have no size
before: one frame is encoded first, several are while they are sent. It must not know how a file is wrapped, nor how a
body leaves.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, nullcontext, suppress
from functools import partial
from typing import Final, NamedTuple, cast

from starlette.requests import Request
from starlette.responses import Response

from multiframe.catalog import Catalog
from multiframe.errors import FormatError, FrameNotFound, NotAcceptable, SourceChanged
from multiframe.frameindex import FrameIndex
from multiframe.instance import Instance
from multiframe.memory import MemoryBudget
from multiframe.part10 import (
    Decoding,
    Encoding,
    Singles,
    can_hold,
    decoded,
    derived_uid,
    encoded,
    item,
    legacy,
    stored,
    syntax_given,
)
from multiframe.ranges import Buffer, ByteRange
from multiframe.rope import Made, Rope, digest
from multiframe.settings import Settings
from multiframe.source import run
from multiframe.syntaxes import EXPLICIT_LE, SYNTAXES, TransferSyntax, syntax_of
from multiframe.transcode import decoded_spec, encoded_spec, fingerprint, making, targets
from multiframe.web.answers import (
    ASK,
    Body,
    Later,
    Section,
    body_answer,
    headed,
    in_pieces,
    lasting,
    leased,
    made_kept,
    made_once,
    not_modified,
    stream_answer,
)
from multiframe.web.doors import Row
from multiframe.web.frames import decoding_of
from multiframe.web.lookup import BadRequest, TooMuch, accept_of, current, find, with_fresh
from multiframe.web.media import PART10, boundary_of, choose_files, multipart_type, parse_accept
from multiframe.web.metadata import partly, settled
from multiframe.web.once import Shared

__all__ = ["LAYOUTS", "ROUTES", "File", "Files", "file_answer", "layout_of"]

MOST_PARTS: Final = 10_000
"""Files in one answer: what is known of each is held while it is sent."""

_HELD = 2048  # bytes that takes

_REWRITTEN = 3
"""Times the bytes of a header that writing it anew takes: as it was, in pieces, and joined."""

LAYOUTS: Final = ("stored", "legacy", "single")
"""How files can be wrapped."""


class Anew(NamedTuple):
    """What a file is made of whose frames are encoded anew: what stands before and behind them, what makes each."""

    instance: Instance
    before: Rope
    behind: Rope
    frames: Iterable[Made]


class Encoded(NamedTuple):
    """A file whose frames are encoded anew.

    Attributes
    ----------
    etag : str
        What changes where a byte does.
    sole : bool
        Whether there is one frame alone: it is encoded before anything leaves, and the file has a size then.
    lay : callable
        Says what it is made of.
    """

    etag: str
    sole: bool
    lay: Callable[[], Awaitable[Anew]]


class File(NamedTuple):
    """One file of an answer, settled.

    Attributes
    ----------
    instance : str
        Its SOP Instance UID.
    syntax : str
        Transfer Syntax UID it leaves in.
    section : Section, Later or Encoded
        Its bytes.
    held : int
        Bytes held besides, while it is laid out and sent: of a header that is written anew.
    """

    instance: str
    syntax: str
    section: Section | Later | Encoded
    held: int = 0


def layout_of(request: Request, default: str) -> str:
    """Give the wrapping an address asks for.

    Raises
    ------
    BadRequest
        There is no such wrapping, or more than one is named.
    """
    (layout, *more) = request.query_params.getlist("layout") or [default]
    if more or layout not in LAYOUTS:
        raise BadRequest(f"layout is one of {', '.join(LAYOUTS)}")
    return layout


class Files:
    """What the instances of one answer leave as.

    Parameters
    ----------
    request : Request
        Whose answer it is.
    study, series : str or None
        What the instances have to be of.
    layout : str
        One of `LAYOUTS`.
    syntaxes : sequence of str
        What the client takes, as of `media.Taken`.
    alone : bool
        Whether there is one instance: then there is nothing to be gained by laying its file out anew.
    asked : str
        What the client says that by.
    """

    def __init__(
        self, request: Request, study: str | None, series: str | None, *, layout: str, syntaxes: Sequence[str],
        alone: bool, asked: str = "Accept",
    ) -> None:  # fmt: skip
        self._request = request
        self._study, self._series = study, series
        self._layout = layout
        self._syntaxes = syntaxes
        self._alone = alone
        self._asked = asked
        self._left = cast(Settings, request.app.state.settings).max_decode
        self._singles: tuple[str, Singles] | None = None

    async def of(self, uid: str, *, number: int | None = None) -> list[File]:
        """Settle what an instance leaves as.

        Parameters
        ----------
        number : int, optional
            Of the layout ``single``: this frame alone, counted from 1.

        Raises
        ------
        NotAcceptable
            It can be given in none of the syntaxes that are taken.
        FrameNotFound, FormatError
            There is no such frame, or it cannot be told from others.
        """

        async def use(instance: Instance) -> list[File]:
            await current(instance)
            known, held = instance.known, instance.held
            try:
                need = self._rewriting(instance)
                with await leased(self._request, need, begun=False) if need else nullcontext():
                    return await asyncio.to_thread(self._files, instance, number)
            finally:
                if instance.held != held:
                    cast(Catalog, self._request.app.state.catalog).weigh(instance)
                if instance.known is not known:
                    self._request.app.state.indexer.complete(instance)

        return await with_fresh(self._request, self._study, self._series, uid, use)

    def _files(self, instance: Instance, number: int | None) -> list[File]:
        header, uid = instance.header, instance.header.sop_instance_uid
        count = _count(instance) if self._layout == "single" else 1
        if number is not None and not 1 <= number <= count:
            raise FrameNotFound(f"there is no frame {number}: the instance has {count}, counted from 1")
        split = self._layout == "single" and count > 1
        indices = [None] if not split else range(count) if number is None else [number - 1]
        if len(indices) > MOST_PARTS:
            raise TooMuch(f"the instance has {count} frames: {MOST_PARTS} are the most in one answer, ask for each")
        target = self._target(instance, 1 if number is not None else None)
        syntax = syntax_given(header).uid if target is None else target.uid
        encode = target if target is not None and target.encapsulated else None
        lay = partial(self._laid, number=number, decode=target is not None)

        async def later(i: int | None) -> Section:
            instance = await find(self._request.app.state.catalog, self._study, self._series, uid)
            return Section(await asyncio.to_thread(lay, instance, i), instance)

        files = []
        for i in indices:
            section: Section | Later | Encoded
            section = self._encoded(instance, encode, i) if encode else Section(lay(instance, i), instance)
            if isinstance(section, Section) and (not self._alone or len(indices) > 1):
                section = Later(section.size, section.heavy, section.etag, partial(later, i))
            files.append(
                File(uid if i is None else derived_uid(uid, i + 1), syntax, section, self._rewriting(instance))
            )
        return files

    def _rewriting(self, instance: Instance) -> int:
        """Say how many bytes are held while its header is written anew, element by element; 0: it leaves as it lies.

        Of a header that takes more than half of the memory so much is said: it is alone then, and is not refused.
        """
        header, budget = instance.header, cast(MemoryBudget, self._request.app.state.budget)
        if header.explicit and header.syntax.little:
            return 0
        size = header.size if header.pixel_data is None else header.pixel_data.at
        return min(_REWRITTEN * size, budget.limit // 2)

    def _encoded(self, instance: Instance, target: TransferSyntax, i: int | None) -> Encoded:
        """Settle a file whose frames are encoded anew; `i`: of one frame alone."""
        uid, made = instance.header.sop_instance_uid, making(instance.spec, instance.frame_syntax, target)
        facts = instance.stat.identity, fingerprint(instance.frame_syntax, target), instance.spec

        def laid(instance: Instance) -> tuple[Rope, Rope]:
            said = encoded_spec(instance.spec, instance.frame_syntax, target)
            encoding, index = Encoding(said, target), _all(instance)
            if i is not None:
                return self._single(instance, index, encoding=encoding).around(i)
            plan = encoded(instance.header, index, instance.stat.size, encoding)
            return run(plan, instance.source, identity=instance.stat.identity)

        async def lay() -> Anew:
            instance = await find(self._request.app.state.catalog, self._study, self._series, uid)
            if (instance.stat.identity, fingerprint(instance.frame_syntax, target), instance.spec) != facts:
                raise SourceChanged("the file is not the one this answer began with")
            before, behind = await asyncio.to_thread(laid, instance)
            index = instance.index
            frames = (made(index.parts(k), k) for k in (range(len(index)) if i is None else (i,)))
            return Anew(instance, before, behind, frames)

        sole = i is not None or len(instance.index) == 1
        return Encoded(f'"{digest(*facts, i)}"', sole, lay)

    def _single(
        self, instance: Instance, index: FrameIndex, *, decoding: Decoding | None = None,
        encoding: Encoding | None = None,
    ) -> Singles:  # fmt: skip
        """Give frames as instances of their own: what they share is worked out once for all of a file."""
        header, identity = instance.header, repr(instance.stat.identity)
        key = f"{header.sop_instance_uid} {identity}"
        if self._singles is None or self._singles[0] != key:
            self._singles = None
            singles = Singles(
                header, index, _count(instance), items=instance.items, decoding=decoding, encoding=encoding,
                identity=identity,
            )  # fmt: skip
            self._singles = key, singles
        return self._singles[1]

    def _laid(self, instance: Instance, i: int | None, number: int | None, decode: bool) -> Rope:
        header, size, identity = instance.header, instance.stat.size, repr(instance.stat.identity)
        decoding = decoding_of(instance) if decode else None
        if i is not None:
            index = instance.complete() if number is None or decoding else instance.grow(i)
            return self._single(instance, index, decoding=decoding).rope(i)
        if decoding is not None:
            plan = decoded(header, _all(instance), size, decoding, identity=identity)
        elif self._layout != "stored" and header.syntax.encapsulated and header.pixel_data is not None:
            plan = legacy(header, _all(instance), size, identity=identity)
        else:
            plan = stored(header, size, identity=identity)
        return run(plan, instance.source, identity=instance.stat.identity)

    def _target(self, instance: Instance, frames: int | None) -> TransferSyntax | None:
        """Choose among as stored (None), decoded, encoded anew: the first that the client takes and that can be had."""
        header = instance.header
        given = syntax_given(header)
        why = ""
        for wanted in self._syntaxes:
            if wanted in ("*", given.uid) or (header.pixel_data is None and (not wanted or wanted in SYNTAXES)):
                return None
            target = syntax_of(wanted or EXPLICIT_LE) if not wanted or wanted in SYNTAXES else None
            if target is not None:
                found = self._decoded_size(instance, frames, target)
                size, hindered = found or (0, "")
                if found and not hindered and (wanted or not given.lossy):
                    self._left -= size
                    return target
                if not wanted:
                    return None
                why = hindered or why
        refused = f"instance {header.sop_instance_uid} is stored as {instance.syntax}"
        raise NotAcceptable(f"{refused} and {why or self._could_be(instance, frames, given)}")

    def _could_be(self, instance: Instance, frames: int | None, given: TransferSyntax) -> str:
        """Say in what it could be had, for who asks for something else."""
        syntaxes = [given]
        with suppress(FormatError):  # nobody knows what its pixels are
            for target in targets(instance.spec, given):
                _, hindered = self._decoded_size(instance, frames, target) or (0, "as stored")
                syntaxes += [] if hindered else [target]
        also = "; also as ".join(f"{PART10}; transfer-syntax={t.uid}" for t in syntaxes)
        return f"can be given as {also}: not what {self._asked} names"

    def _decoded_size(self, instance: Instance, frames: int | None, target: TransferSyntax) -> tuple[int, str] | None:
        """Say how many bytes its frames have when they are decoded, and why they cannot be given so; empty: they can.

        None: not to be had in that syntax, or as stored.
        """
        given = syntax_given(instance.header)
        none, as_stored = f"cannot be given as {target}", "ask for transfer-syntax=*, as stored"
        try:
            spec = instance.spec
        except FormatError as error:
            return 0, f"{none}, for nobody knows what its pixels are: {error}; {as_stored}"
        if target == given or given.family == "video" or target not in targets(spec, given):
            return None
        after = decoded_spec(spec, given)
        each, count = after.frame_bits // 8, instance.header.declared_frames or 1
        long = f"would have {{}} bytes when it is decoded, more than is allowed: {as_stored}"
        if each * min(count, frames or count) > self._left:
            return each * count, long.format(each * count)  # without looking for any
        index = instance.complete()
        size = each * (frames or len(index))
        if index.damage is not None:
            return 0, f"{none}, for it is damaged: {index.damage.error()}; {as_stored}"
        if not (target.encapsulated or can_hold(after, frames or len(index))):
            return 0, f"{none}, which holds no {size} bytes: {as_stored}"
        budget: MemoryBudget = self._request.app.state.budget
        largest = max((sum(part.size for part in index.parts(i)) for i in range(len(index))), default=0)
        if largest + each > budget.limit // 2:
            return 0, f"{none}, for a frame takes {largest + each} bytes, more than there is memory for: {as_stored}"
        return size, long.format(size) if size > self._left else ""


def _count(instance: Instance) -> int:
    """Say how many frames there are to be told apart; video is one."""
    if instance.header.pixel_data is None or instance.syntax.family == "video":
        return 1
    return instance.header.declared_frames or len(_all(instance))


def _all(instance: Instance) -> FrameIndex:
    """Find all frames, or say why not."""
    index = instance.complete()
    if index.damage is not None:
        raise index.damage.error()
    return index


async def retrieve(request: Request) -> Response:
    """``/studies/…``, ``…/series/…``, ``…/instances/…``: Part 10 files (PS3.18 10.4.1.1)."""
    p = request.path_params
    study, series = p["study"], p.get("series")
    layout = layout_of(request, request.app.state.settings.layout_rs)
    # Of files that are gone it is said how many: nothing else can be had of them, and the rest can.
    states, gone = ([(p["instance"], ())], 0) if "instance" in p else await settled(request)
    uids = [uid for uid, _ in states]
    if len(uids) > MOST_PARTS:
        raise TooMuch(f"there are {len(uids)} instances: {MOST_PARTS} are the most in one answer, ask by series")
    alone = len(uids) == 1
    taken = choose_files(parse_accept(accept_of(request)), alone=alone)
    given = Files(request, study, series, layout=layout, syntaxes=taken.syntaxes, alone=alone)
    files: list[File] = []
    for uid in uids:
        files += await given.of(uid)
        if len(files) > MOST_PARTS:
            raise TooMuch(f"these are more than {MOST_PARTS} files: ask for fewer instances at once")
    if taken.multipart:
        return await _in_parts(request, files, gone)
    return await file_answer(request, files, _type(files[0]), gone)


async def frame_file(request: Request) -> Response:
    """``…/frames/{number}.dcm``: a frame as an instance of its own, for viewers that know no others.

    It is a file at an address, to be opened as such: the whole body, as stored where Accept names no Transfer Syntax.
    """
    p = request.path_params
    text = p["number"]
    if not (text.isascii() and text.isdecimal() and len(text) < 9):
        raise BadRequest("a frame is a number from 1 on")
    named = [syntax for e in parse_accept(accept_of(request)) for syntax in e.values("transfer-syntax")]
    syntaxes = named or [request.query_params.get("transferSyntax", "*")]
    asked = "Accept" if named else "transferSyntax"
    given = Files(request, p["study"], p["series"], layout="single", syntaxes=syntaxes, alone=True, asked=asked)
    files = await given.of(p["instance"], number=int(text))
    return await file_answer(request, files, PART10)


async def file_answer(request: Request, files: Sequence[File], content_type: str, gone: int = 0) -> Response:
    """Answer with one file as the whole body; `gone`: how many there were besides."""
    (file, *more) = files
    if more:
        raise NotAcceptable(f'these are {len(files)} files: they are given as multipart/related; type="{PART10}"')
    if not isinstance(file.section, Encoded):
        return await _answer(request, Body([file.section], held=file.held), content_type, gone)
    if not file.section.sole:
        return await _while_made(request, files, None, content_type, gone)
    etag = file.section.etag
    kept = await not_modified(request, _unchanged(request, etag, gone))
    if kept is not None:
        return kept
    instance, before, behind, frames = await file.section.lay()
    (part,) = frames
    frame, lease = await made_kept(request, part, instance)
    rope = Rope([*before.parts, *item(frame), *behind.parts])
    body = Body([Section(rope, instance)], held=file.held + len(frame), etag=etag)
    return await _answer(request, body, content_type, gone, lease)


async def _answer(
    request: Request, body: Body, content_type: str, gone: int, lease: Shared | None = None
) -> Response:  # fmt: skip
    headers = {"content-type": content_type}
    if gone:
        headers["cache-control"] = ASK  # they may be back
    return await body_answer(request, body, headers, lease=lease, whole=partly(headers, gone))


def _unchanged(request: Request, etag: str, gone: int) -> dict[str, str]:
    """Give the headers of what is made anew, as far as they are known before it is."""
    return {"etag": etag, "cache-control": ASK if gone else lasting(request), "vary": "Accept"}


async def _in_parts(request: Request, files: Sequence[File], gone: int) -> Response:
    """Answer with files in parts; equal files give equal bytes, boundary included."""
    boundary = boundary_of(digest(*((file.section.etag, file.syntax) for file in files)))
    content_type = multipart_type(PART10, boundary)
    if any(isinstance(file.section, Encoded) for file in files):
        return await _while_made(request, files, boundary, content_type, gone)
    sections: list[Section | Later] = []
    for file in files:
        assert not isinstance(file.section, Encoded)
        head = f"{'\r\n' if sections else ''}--{boundary}\r\nContent-Type: {_type(file)}\r\n\r\n"
        sections += [_literal(head), file.section]
    sections.append(_literal(f"\r\n--{boundary}--\r\n"))
    body = Body(sections, held=_HELD * len(files) + max(file.held for file in files))
    return await _answer(request, body, content_type, gone)


async def _while_made(
    request: Request, files: Sequence[File], boundary: str | None, content_type: str, gone: int
) -> Response:
    """Answer with files of which some are made while they are sent; of no known length."""
    etag = f'"{digest(boundary, *((file.section.etag, file.syntax) for file in files))}"'
    headers = {**_unchanged(request, etag, gone), "content-type": content_type}
    kept = await not_modified(request, headers)
    if kept is not None:
        return kept
    status = partly(headers, gone)
    pieces = _pieces(request, files, boundary)
    first: Buffer = b"" if request.method == "HEAD" else await anext(pieces)  # an error of it still has a status
    return stream_answer(request, pieces, headers, first=first, held=None, status=status)


async def _pieces(request: Request, files: Sequence[File], boundary: str | None) -> AsyncGenerator[Buffer]:
    begun, line = False, ""
    for file in files:
        head = f"{line}--{boundary}\r\nContent-Type: {_type(file)}\r\n\r\n".encode() if boundary else b""
        line = "\r\n"
        given = _anew(request, file.section, begun) if isinstance(file.section, Encoded) else in_pieces(
            request, Body([file.section], held=file.held), begun=begun
        )  # fmt: skip
        async with aclosing(headed(head, given)) as sent:
            async for piece in sent:
                yield piece
                begun = True
    if boundary:
        yield f"\r\n--{boundary}--\r\n".encode()


async def _anew(request: Request, section: Encoded, begun: bool) -> AsyncGenerator[Buffer]:
    """Give a file whose frames are encoded anew: each is made when the one before has left."""
    instance, before, behind, frames = await section.lay()
    piece = cast(Settings, request.app.state.settings).piece
    head = Body([Section(before, instance)])
    for i, part in enumerate(frames):
        # The first before anything leaves: if it cannot be had, that has a status.
        with await made_once(request, part, instance, each=0 if i else piece, begun=begun or i > 0) as frame:
            for at in range(0, 0 if i else head.size, piece):
                for buffer in await head.read(request, ByteRange(at, min(at + piece, head.size))):
                    yield buffer
            for buffer in item(frame):
                yield buffer
    async with aclosing(in_pieces(request, Body([Section(behind, instance)]), begun=True)) as pieces:
        async for buffer in pieces:
            yield buffer


def _type(file: File) -> str:
    return f"{PART10}; transfer-syntax={file.syntax}"


def _literal(text: str) -> Section:
    return Section(Rope([text.encode()]), None)


_SERIES = "/studies/{study}/series/{series}"

ROUTES = [
    Row(_SERIES + "/instances/{instance}/frames/{number}.dcm", frame_file, "read"),
    Row(_SERIES + "/instances/{instance}", retrieve, "read"),
    Row(_SERIES, retrieve, "read"),
    Row("/studies/{study}", retrieve, "read"),
]
