"""STOW-RS: instances in a request's body, in parts or one alone, become stored ones (PS3.18 10.5).

A body is written to the store as it arrives; its end decides, so that half a body stores nothing. What became of each
instance is told in the words of PS3.18 I.2. It must not know how anything is stored, nor what a file holds.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from contextvars import copy_context
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from multiframe.errors import OverBudget
from multiframe.levels import written
from multiframe.memory import MemoryBudget
from multiframe.rope import digest, facts_of
from multiframe.settings import Settings
from multiframe.storing import NOT_UNDERSTOOD, Arriving, Upload
from multiframe.web.asked import UID
from multiframe.web.doors import Row, access_of
from multiframe.web.gauges import Gauges
from multiframe.web.journal import audit
from multiframe.web.long_bodies import LONG_BODY, LongBody
from multiframe.web.lookup import DICOMWEB, BadRequest, TooMuch, accept_of, base_url
from multiframe.web.media import PART10, MediaRange, parse_accept
from multiframe.web.models import JSON, Model, choose_model
from multiframe.web.multipart import Begun, Ended, Event, Malformed, MultipartReader
from multiframe.web.workers import ClientGone, who

__all__ = ["ROUTES", "LengthRequired", "Stalled", "UnsupportedMedia", "store"]

log = logging.getLogger("multiframe.web")

_MOST_PARTS = 10_000
"""In one request: an answer names each."""

_ENDING = 4
"""Instances that are looked through and synced while the next one arrives."""

_LARGE = 512 * 1024
"""Bytes of a body that are received and written at a time, where there is memory."""

_PIECES = 4
"""How many of them are held at most: one that comes, one that waits, one that is written, and what is left over."""

_IDLE = 60.0
"""Seconds for which the next byte of a body is waited for."""

_TOLD = 8
"""Failures that are told in words too, in Warning headers."""


class UnsupportedMedia(Exception):
    """The body is of a kind that is not stored; the message says which are."""


class LengthRequired(Exception):
    """The request says neither how long its body is nor that it comes in chunks."""


class Stalled(Exception):
    """The client has stopped sending in the middle of its body."""


async def store(request: Request) -> Response:
    """``/studies``, ``/studies/{study}``: store the instances in the body (PS3.18 10.5)."""
    # Whoever could not read the answer is told before anything is stored.
    model = choose_model(parse_accept(accept_of(request)), alone=True)
    body = _body(request)
    with ExitStack() as held:
        piece = await _enter(request, held)
        study, permits = request.path_params.get("study"), access_of(request).sees
        upload = await asyncio.to_thread(Upload, request.app.state.store, study, permits=permits)
        try:
            await _receive(upload, body, piece)
        except ClientDisconnect:
            await _close(upload)
            raise ClientGone from None
        except Malformed as error:
            await _close(upload)
            raise BadRequest(f"nothing is stored: {error}") from None
        except BaseException:
            await _close(upload)
            raise
    state, context = request.app.state, copy_context()
    keeping = partial(context.run, _keep, upload, state.gauges, access_of(request).who)
    # By threads of its own: where a store does not answer, all others would wait for it with us.
    await asyncio.shield(asyncio.get_running_loop().run_in_executor(state.storing, keeping))
    return _answer(request, upload.arriving, model)


async def _enter(request: Request, held: ExitStack) -> int:
    """Enter in the budgets what is held of a body, and say how much is written at a time.

    Long bodies go on faster in large pieces. These have half of what there is for uploads, so that whoever comes after
    them has some, too; and all uploads have a part of the memory alone: who sends slowly keeps nobody from reading.
    """
    state, settings, asking = request.app.state, _settings(request), who(request)
    uploads: MemoryBudget = state.uploads
    long: LongBody | None = request.scope.get(LONG_BODY)
    if long is not None and uploads.held + _PIECES * _LARGE <= uploads.limit // 2:
        with suppress(OverBudget), ExitStack() as ours:
            for budget in (uploads, state.budget):
                ours.enter_context(await budget.acquire_async(_PIECES * _LARGE, timeout=0, who=asking))
            held.enter_context(ours.pop_all())
            long.piece = _LARGE
            return _LARGE
    size = min(2 * settings.piece, uploads.limit)
    for budget in (uploads, state.budget):
        held.enter_context(await budget.acquire_async(size, timeout=settings.memory_wait, who=asking))
    return size // _PIECES


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _keep(upload: Upload, gauges: Gauges, whose: str) -> None:
    try:
        upload.keep()
        for arriving in upload.arriving:
            done = "stored" if arriving.refusal is None else "refused"
            gauges.add("stored", done)
            why = {"reason": f"{arriving.refusal.reason:04X}"} if arriving.refusal else {}
            audit(done, who=whose if whose != "-" else None, bytes=arriving.size, **_named(arriving), **why)
    finally:
        upload.close()


def _named(arriving: Arriving) -> dict[str, str]:
    """Give the UIDs of an instance, as far as they are such."""
    named = arriving.names
    uids = {"study": named.study, "series": named.series, "instance": named.instance} if named else {}
    return {level: uid for level, uid in uids.items() if UID.fullmatch(uid)}


async def _close(upload: Upload) -> None:
    """Leave no trace, even where the request is broken off meanwhile."""
    await asyncio.shield(asyncio.to_thread(upload.close))


# ---------------------------------------------------------------------------------------------------- the body


def _body(request: Request) -> AsyncIterator[Event]:
    """See what kind of body it is, and give what it brings."""
    headers, most = request.headers, _settings(request).max_upload
    length = headers.get("content-length")
    if length is None and "transfer-encoding" not in headers and request.scope["http_version"].startswith("1"):
        raise LengthRequired("say how long the body is: Content-Length, or Transfer-Encoding: chunked")
    if length is not None and length.isdecimal() and most and int(length) > most:
        raise TooMuch(f"the body is longer than {most} bytes, the most that is stored at once: send less")
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMedia("a body is taken as it is, in no content coding")
    kinds = parse_accept(headers.get("content-type", ""))
    kind = kinds[0] if len(kinds) == 1 else MediaRange("")
    if kind.type == PART10:
        return _alone(_limited(request, most))
    types = {value.lower() for value in kind.values("type")}
    if kind.type != "multipart/related" or not types <= {PART10}:
        raise UnsupportedMedia(f'instances are taken as multipart/related; type="{PART10}", or one as {PART10}')
    boundaries = set(kind.values("boundary"))
    if len(boundaries) != 1:
        raise BadRequest("Content-Type names no boundary, or several")
    try:
        return _in_parts(_limited(request, most), MultipartReader(boundaries.pop()))
    except Malformed as error:
        raise BadRequest(str(error)) from None


async def _limited(request: Request, most: int) -> AsyncIterator[bytes | bytearray]:
    total = 0
    body = request.stream()
    while True:
        try:
            async with asyncio.timeout(_IDLE):
                data = await anext(body, None)
        except TimeoutError:
            raise Stalled(f"nothing came for {_IDLE:g} s: nothing is stored, send it again") from None
        if data is None:
            break
        total += len(data)
        if most and total > most:
            raise TooMuch(f"the body is longer than {most} bytes, the most that is stored at once: send less")
        yield data
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) != total:
        raise Malformed(f"the body ended after {total} of {length} bytes")


async def _alone(body: AsyncIterator[bytes | bytearray]) -> AsyncIterator[Event]:
    yield Begun({"content-type": PART10})
    async for data in body:
        yield memoryview(data)
    yield Ended()


async def _in_parts(body: AsyncIterator[bytes | bytearray], reader: MultipartReader) -> AsyncIterator[Event]:
    async for data in body:
        for event in reader.feed(data):
            yield event
    reader.end()


async def _receive(upload: Upload, body: AsyncIterator[Event], piece: int) -> None:
    writing: _Writing | None = None
    ending: set[asyncio.Task[None]] = set()
    try:
        async for event in body:
            if isinstance(event, Begun):
                if len(upload.arriving) == _MOST_PARTS:
                    raise TooMuch(f"more than {_MOST_PARTS} parts: send them in several requests")
                writing = _Writing(await asyncio.to_thread(upload.begin), piece)
                if complaint := _complaint(event):
                    writing.arriving.refuse(NOT_UNDERSTOOD, complaint)
                continue
            assert writing is not None  # a body begins with a part
            if isinstance(event, Ended):  # it is synced while the next one arrives
                ending.add(asyncio.create_task(writing.end()))
                if len(ending) >= _ENDING:
                    done, ending = await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.gather(*done)
            else:
                await writing.put(event)
        if writing is None:
            raise Malformed("the body has no part")
        await asyncio.gather(*ending)
    finally:
        if writing is not None:
            await writing.rest()
        if ending:
            await asyncio.wait(ending)


class _Writing:
    """Writes an instance: what comes is written at once, and what comes meanwhile is written next.

    Parameters
    ----------
    arriving : Arriving
        What is written.
    piece : int
        About how many bytes may wait; who brings more waits.
    """

    def __init__(self, arriving: Arriving, piece: int) -> None:
        self.arriving = arriving
        self._piece = piece
        self._came: list[memoryview] = []
        self._size = 0
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def put(self, data: memoryview) -> None:
        """Have it written."""
        self._came.append(data)
        self._size += len(data)
        if self._task is None:
            self._task = asyncio.create_task(self._write())
        while self._size >= self._piece // 2 and self._task is not None:
            self._taken.clear()
            await self._taken.wait()

    async def _write(self) -> None:
        try:
            while self._came:
                came, self._came, self._size = self._came, [], 0
                self._taken.set()
                await asyncio.to_thread(self.arriving.write, came)
        finally:
            self._task = None
            self._taken.set()

    async def end(self) -> None:
        """Nothing more comes: see that it is whole."""
        await self.rest()
        await asyncio.to_thread(self.arriving.finish)

    async def rest(self) -> None:
        """Wait for what is being written."""
        if self._task is not None:
            await asyncio.wait([self._task])


def _complaint(part: Begun) -> str:
    """Say what is wrong with the headers of a part; empty: nothing."""
    kinds = parse_accept(part.headers.get("content-type", PART10))
    if len(kinds) != 1 or kinds[0].type != PART10:
        return f"a part is not {PART10}"
    if part.headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        return "a part is in a transfer encoding: it is taken as it is"
    return ""


# ---------------------------------------------------------------------------------------------------- the answer


def _answer(request: Request, arrived: Sequence[Arriving], model: Model) -> Response:
    """Say what became of each instance (PS3.18 10.5.3, I.2)."""
    refused = sum(a.refusal is not None for a in arrived)
    status = HTTPStatus.CONFLICT if refused == len(arrived) else HTTPStatus.ACCEPTED if refused else HTTPStatus.OK
    told = _module(f"{base_url(request)}{DICOMWEB}", arrived)
    text = written(told)
    named = digest(facts_of(text.encode()))
    if model != JSON:  # of which the answer is no array
        text = f"[{text}]"
    body = b"".join(model.written(iter([text.encode()]), named))
    response = Response(body, status, {"cache-control": "no-store", "vary": "Accept"}, model.content_type(named))
    for n, arriving in enumerate(arrived, 1):
        if arriving.refusal is None or len(response.headers.getlist("warning")) == _TOLD:
            continue
        said = re.sub(r'[^\x20-\x7e]|["\\]', "?", arriving.refusal.message)[:300]
        response.headers.append("warning", f'299 multiframe "instance {n} of {len(arrived)} is not stored: {said}"')
    for url in _location(told):
        response.headers["location"] = url
    return response


def _location(told: dict[str, Any]) -> Sequence[str]:
    """Give the address of what is stored now, if it is one thing: an instance, or a study.

    It is no Content-Location: that would say that the answer itself can be had there (RFC 9110 8.7, 10.2.2).
    """
    stored = told.get("00081199", {}).get("Value", ())
    urls: Sequence[str] = (stored[0] if len(stored) == 1 else told)["00081190"].get("Value", ())
    return urls


def _module(root: str, arrived: Sequence[Arriving]) -> dict[str, Any]:
    """Give the Store Instances Response Module as DICOM JSON (PS3.18 I.2)."""
    studies = {a.names.study for a in arrived if a.names and a.refusal is None}
    told: dict[str, Any] = {
        "00081190": _of("UR", *(f"{root}/studies/{study}" for study in studies if len(studies) == 1))
    }
    stored, failed, others = [], [], []
    for arriving in arrived:
        names, refusal = arriving.names, arriving.refusal
        reason = {"00081197": _of("US", refusal.reason)} if refusal else {}
        if names is None:
            others.append(reason)
            continue
        item = {"00081150": _of("UI", names.sop_class), "00081155": _of("UI", names.instance), **reason}
        if refusal is None:
            url = f"{root}/studies/{names.study}/series/{names.series}/instances/{names.instance}"
            stored.append({**item, "00081190": _of("UR", url)})
        else:
            failed.append(item)
    for tag, items in (("00081199", stored), ("00081198", failed), ("0008119A", others)):
        if items:
            told[tag] = _of("SQ", *items)
    return dict(sorted(told.items()))


def _of(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


ROUTES = [Row("/studies", store, "store", ("POST",), minds=True), Row("/studies/{study}", store, "store", ("POST",))]
"""Only where there is a store."""
