"""WADO-RS instances, series and studies: Part 10 files, in parts or one alone (PS3.18 10.4.1.1.1 to 10.4.1.1.3).

An address and an Accept header become a `Body` whose size is known before its first byte: of each file what it is made
of is settled first, then it is laid out anew when its turn comes. It must not know how a file is wrapped, nor how a
body leaves.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from multiframe.catalog import Catalog
from multiframe.errors import InstanceNotFound, NotAcceptable
from multiframe.instance import Instance
from multiframe.part10 import legacy, stored, syntax_given
from multiframe.rope import Rope
from multiframe.source import run
from multiframe.syntaxes import SYNTAXES
from multiframe.web.answers import Body, Later, Section, body_answer
from multiframe.web.lookup import BadRequest, TooMuch, accept_of, current, find, with_fresh
from multiframe.web.media import PART10, choose_files, parse_accept

__all__ = ["LAYOUTS", "ROUTES", "File", "file_answer", "files_of", "layout_of"]

MOST_PARTS: Final = 10_000
"""Files in one answer: what is known of each is held while it is sent."""

_HELD = 2048  # bytes that takes


class File(NamedTuple):
    """One file of an answer, settled.

    Attributes
    ----------
    instance : str
        Whose it is.
    syntax : str
        Transfer Syntax UID it leaves in.
    section : Section or Later
        Its bytes.
    """

    instance: str
    syntax: str
    section: Section | Later


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


LAYOUTS: Final = ("stored", "legacy")


async def files_of(
    request: Request, study: str | None, series: str | None, uid: str, *, layout: str, syntaxes: Sequence[str],
    alone: bool,
) -> list[File]:  # fmt: skip
    """Settle what an instance leaves as.

    Parameters
    ----------
    layout : str
        One of `LAYOUTS`.
    syntaxes : sequence of str
        What the client takes, as of `media.Taken`.
    alone : bool
        Whether the answer holds no other instance: then there is nothing to be gained by laying it out anew.

    Raises
    ------
    NotAcceptable
        In none of those it can be given.
    """

    async def lay(instance: Instance) -> Section:
        return Section(await asyncio.to_thread(_laid, instance, layout), instance)

    async def later() -> Section:
        return await lay(await find(request.app.state.catalog, study, series, uid))

    async def use(instance: Instance) -> File:
        await current(instance)
        syntax = _syntax(instance, syntaxes)
        known = instance.known
        section = await lay(instance)
        if instance.known is not known:
            request.app.state.indexer.complete(instance)
        return File(uid, syntax, section if alone else Later(section.size, section.heavy, section.etag, later))

    return [await with_fresh(request, study, series, uid, use)]


def _laid(instance: Instance, layout: str) -> Rope:
    header, size, identity = instance.header, instance.stat.size, repr(instance.stat.identity)
    if layout == "legacy" and header.syntax.encapsulated and header.pixel_data is not None:
        plan = legacy(header, instance.complete(), size, identity=identity)
    else:
        plan = stored(header, size, identity=identity)
    return run(plan, instance.source, identity=instance.stat.identity)


def _syntax(instance: Instance, syntaxes: Sequence[str]) -> str:
    """Choose the Transfer Syntax that an instance leaves in."""
    given = syntax_given(instance.header)
    for wanted in syntaxes:
        if wanted in ("*", "", given.uid) or (instance.header.pixel_data is None and wanted in SYNTAXES):
            return given.uid
    raise NotAcceptable(
        f"instance {instance.header.sop_instance_uid} is stored as {instance.syntax} and can be given as "
        f"{PART10}; transfer-syntax={given.uid}: not what Accept names"
    )


async def retrieve(request: Request) -> Response:
    """``/studies/…``, ``…/series/…``, ``…/instances/…``: Part 10 files (PS3.18 10.4.1.1)."""
    p = request.path_params
    study, series = p["study"], p.get("series")
    layout = layout_of(request, request.app.state.settings.layout_rs)
    if "instance" in p:
        uids: Sequence[str] = [p["instance"]]
    else:
        catalog: Catalog = request.app.state.catalog
        uids = await asyncio.to_thread(catalog.series_instances, study, series)
    if not uids:
        raise InstanceNotFound("no instance of that study or series is known")
    if len(uids) > MOST_PARTS:
        raise TooMuch(f"there are {len(uids)} instances: {MOST_PARTS} are the most in one answer, ask by series")
    alone = len(uids) == 1
    taken = choose_files(parse_accept(accept_of(request)), alone=alone)
    files: list[File] = []
    for uid in uids:
        files += await files_of(request, study, series, uid, layout=layout, syntaxes=taken.syntaxes, alone=alone)
        if len(files) > MOST_PARTS:
            raise TooMuch(f"these are more than {MOST_PARTS} files: ask for fewer instances at once")
    if taken.multipart:
        return await _in_parts(request, files)
    return await file_answer(request, files, _type(files[0]))


async def file_answer(request: Request, files: Sequence[File], content_type: str) -> Response:
    """Answer with one file as the whole body."""
    (file, *more) = files
    if more:
        raise NotAcceptable(f'these are {len(files)} files: they are given as multipart/related; type="{PART10}"')
    return await body_answer(request, Body([file.section]), {"content-type": content_type})


async def _in_parts(request: Request, files: Sequence[File]) -> Response:
    """Answer with files in parts; equal files give equal bytes, boundary included."""
    digest = sha256("".join(f"{file.section.etag} {file.syntax}\n" for file in files).encode()).hexdigest()[:32]
    boundary = f"multiframe-{digest}"
    sections: list[Section | Later] = []
    for file in files:
        head = f"{'\r\n' if sections else ''}--{boundary}\r\nContent-Type: {_type(file)}\r\n\r\n"
        sections += [_literal(head), file.section]
    sections.append(_literal(f"\r\n--{boundary}--\r\n"))
    content_type = f'multipart/related; type="{PART10}"; boundary={boundary}'
    body = Body(sections, held=_HELD * len(files))
    return await body_answer(request, body, {"content-type": content_type})


def _type(file: File) -> str:
    return f"{PART10}; transfer-syntax={file.syntax}"


def _literal(text: str) -> Section:
    return Section(Rope([text.encode()]), None)


_SERIES = "/studies/{study}/series/{series}"

ROUTES = [
    (_SERIES + "/instances/{instance}", retrieve),
    (_SERIES, retrieve),
    ("/studies/{study}", retrieve),
]
