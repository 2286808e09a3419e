"""The short way of one frame: what was decided once for an instance and a kind of request holds for its next frame.

A viewer asks for one frame after the other, each time with the same headers. What Accept chooses and which headers an
answer has need not be found out each time. `Again` stands before the application: it remembers the way that a frame's
answer took, and goes it again while the file is the same, which every read proves anew. Whatever is not plain (a range,
a condition, bytes that are not in the page cache, no memory free at once) goes the long way.

The doors stand before it: who asks is found out each time, and a way is for those alone who may do just the same.

It knows paths and headers as ASGI has them. It must not know what frames are, nor decide anything itself.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import ref

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multiframe.catalog import Catalog
from multiframe.errors import MultiframeError
from multiframe.instance import Instance
from multiframe.memory import Lease, MemoryBudget
from multiframe.ranges import ByteRange
from multiframe.rope import Rope, Stored
from multiframe.source import FileSource
from multiframe.web.doors import ACCESS, ACTION

__all__ = ["Again", "Way"]

_DECIDING = frozenset((b"accept", b"host", b"origin"))
"""Headers on which the answer depends; it depends on who asks as well."""

_NOT_PLAIN = frozenset((b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since"))
"""Headers that ask for something else than the whole frame."""

_OF_ONE_FRAME = frozenset((b"content-type", b"content-length", b"etag"))
"""What differs from frame to frame; every other header of an answer is the same for the next one."""

_KEPT = 1024
"""Ways; each takes some 2 kB."""

_KEY = "multiframe.way"
"""Where in the scope an endpoint leaves its way."""


class Way(NamedTuple):
    """How an endpoint makes its answer for one frame of an instance whose index is complete.

    Attributes
    ----------
    instance : Instance
        Of it; whose file must be what it was.
    make : callable
        Given the instance and an index that it has, gives body and content type.
    """

    instance: Instance
    make: Callable[[Instance, int], tuple[Rope, str]]

    def leave(self, scope: Scope) -> None:
        """Tell it to `Again`, if that stands in front."""
        scope[_KEY] = self


class _Kept(NamedTuple):
    """A way without a hold on the instance: only the catalog decides how long that stays in memory."""

    instance: ref[Instance]
    uid: str
    make: Callable[[Instance, int], tuple[Rope, str]]
    headers: list[tuple[bytes, bytes]]
    action: str


type _Kind = tuple[str, bytes, tuple[tuple[bytes, bytes], ...], object]


class Again:
    """An application, with a short way to frames of which one was asked for before.

    Parameters
    ----------
    app : ASGI application
        Whose answers are remembered.
    catalog : Catalog
        Who knows which instances are in memory.
    budget : MemoryBudget
        Where the answers are entered.
    most : int
        Bytes of the largest frame that goes the short way: larger ones leave in pieces.
    """

    def __init__(self, app: ASGIApp, catalog: Catalog, budget: MemoryBudget, *, most: int) -> None:
        self._app = app
        self._catalog = catalog
        self._budget = budget
        self._most = min(most, budget.limit)
        self._ways: OrderedDict[_Kind, _Kept] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the short way, or by the long one and remember it."""
        asked = _asked(scope)
        if asked is None:
            await self._app(scope, receive, send)
            return
        kind, number = asked
        way = self._ways.get(kind)
        ready = None if way is None else self._ready(way, number - 1)
        if way is None or ready is None:
            await self._app(scope, receive, self._learning(kind, scope, send))
            return
        self._ways.move_to_end(kind)
        scope[ACTION] = way.action  # what is counted and written down is the same by either way
        headers, body, lease = ready
        with lease:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": True})
            # The server waits here until the body has left its buffers: only then is the memory free.
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _ready(self, way: _Kept, i: int) -> tuple[list[tuple[bytes, bytes]], bytearray, Lease] | None:
        """Give the answer for frame `i`, read and proven; None: it has to go the long way."""
        instance = way.instance()
        if instance is None or self._catalog.cached(way.uid) is not instance:
            return None
        index, source = instance.known, instance.source
        if index is None or not 0 <= i < len(index) or not isinstance(source, FileSource):
            return None
        rope, content_type = way.make(instance, i)
        lease = self._budget.try_acquire(rope.size) if rope.size <= self._most else None
        if lease is None:
            return None
        body = _read(rope, source, instance)
        if body is None:
            lease.release()
            return None
        headers = [
            *way.headers,
            (b"content-type", content_type.encode("latin-1")),
            (b"content-length", b"%d" % rope.size),
            (b"etag", rope.etag.encode()),
        ]
        return headers, body, lease

    def _learning(self, kind: _Kind, scope: Scope, send: Send) -> Send:
        """Watch an answer go the long way, and remember how it did."""

        async def watched(message: Message) -> None:
            way: Way | None = scope.get(_KEY)
            if message["type"] == "http.response.start" and message["status"] == 200 and way is not None:
                headers = [(n, v) for n, v in message["headers"] if n not in _OF_ONE_FRAME]
                uid = way.instance.header.sop_instance_uid
                self._ways[kind] = _Kept(ref(way.instance), uid, way.make, headers, scope[ACTION])
                if len(self._ways) > _KEPT:
                    self._ways.popitem(last=False)
            await send(message)

        return watched


def _asked(scope: Scope) -> tuple[_Kind, int] | None:
    """Tell what kind of request it is, and for which frame; None: it is not for one whole frame."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    path, frames, number = scope["path"].rpartition("/frames/")
    if not frames or not (number.isascii() and number.isdecimal() and len(number) < 12):
        return None
    deciding = []
    for header in scope["headers"]:
        if header[0] in _DECIDING:
            deciding.append(header)
        elif header[0] in _NOT_PLAIN:
            return None
    return (path, scope["query_string"], tuple(deciding), scope[ACCESS]), int(number)


def _read(rope: Rope, source: FileSource, instance: Instance) -> bytearray | None:
    """Fill one buffer with a rope, from the page cache alone; None: it cannot, or what was read is not the file's."""
    body = bytearray(rope.size)
    wanted: list[tuple[int, memoryview]] = []
    with memoryview(body) as view:
        at = 0
        for part, inside in rope.within(ByteRange(0, rope.size)):
            if isinstance(part, bytes):
                view[at : at + len(part)] = part
            elif isinstance(part, Stored) and part.plain:
                wanted.append((part.start, view[at : at + inside.size]))
            else:
                return None
            at += inside.size
        try:
            return body if source.read_cached(wanted, identity=instance.stat.identity) else None
        except MultiframeError:
            return None  # the long way says what is wrong, or reads the file anew
        finally:
            for _, piece in wanted:
                piece.release()
