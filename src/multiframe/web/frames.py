"""WADO-RS frames: a list of frame numbers and an Accept header become a body (PS3.18 10.4.1.1.6).

A frame *number* (from 1) becomes an *index* (from 0) here, in one function. It must not know how frames are found, nor
how a body leaves.
"""

from collections.abc import Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from multiframe.errors import FrameNotFound
from multiframe.frameindex import FrameIndex
from multiframe.instance import Instance
from multiframe.rope import Rope
from multiframe.web.again import Way
from multiframe.web.answers import Body, Section, body_answer
from multiframe.web.lookup import BadRequest, accept_of, uids, with_fresh
from multiframe.web.media import Choice, choose_frames, multipart, parse_accept

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
    """``…/instances/{instance}/frames/{list}``: frames as stored, in parts or one alone (PS3.18 10.4.1.6)."""
    study, series, uid = uids(request)

    async def use(instance: Instance) -> Response:
        count = instance.header.declared_frames or len(await instance.grow_async(None))
        indices = indices_of(request.path_params["frames"], count)
        choice = choose_frames(parse_accept(accept_of(request)), instance.frame_syntax, count=len(indices))
        known = instance.known
        index = await instance.grow_async(max(indices))
        rope, content_type = _rope(index, indices, choice, instance)
        answer = await body_answer(request, Body([Section(rope, instance)]), {"content-type": content_type})
        if known is None or not known.complete:
            request.app.state.indexer.complete(instance)
        elif len(indices) == 1:
            Way(instance, partial(_one, choice)).leave(request.scope)
        return answer

    return await with_fresh(request, study, series, uid, use)


def _rope(index: FrameIndex, indices: Sequence[int], choice: Choice, instance: Instance) -> tuple[Rope, str]:
    """Give frames as a body, and its content type."""
    content_type = f"{choice.media_type}; transfer-syntax={instance.frame_syntax.uid}"
    identity = repr(instance.stat.identity)
    payloads = [index.parts(i) for i in indices]
    if not choice.multipart:
        return Rope(payloads[0], identity=f"{identity} {content_type}"), content_type
    rope, boundary = multipart([(content_type, p) for p in payloads], identity=identity)
    return rope, f'multipart/related; type="{choice.media_type}"; boundary={boundary}'


def _one(choice: Choice, instance: Instance, i: int) -> tuple[Rope, str]:
    """Give one frame of an instance whose index is complete."""
    assert instance.known is not None
    return _rope(instance.known, (i,), choice, instance)


ROUTES = [("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", frames)]
