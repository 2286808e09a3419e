"""The short way of one frame: what was decided once for an instance and a kind of request holds for its next frame.

A viewer asks for one frame after the other, each time with the same headers. What Accept chooses and which headers an
answer has need not be found out each time. `Again` stands before the application: it remembers the way that a frame's
answer took, and goes it again while the file is the same, which every read proves anew. Whatever is not plain (a range,
a condition, bytes that are not in the page cache, no memory free at once) goes the long way.

The doors stand before it: who asks is found out each time, and a way is for those alone who may do just the same.

A server that can write an answer without waiting asks `Ways` itself, and no task is begun (decision 0027).

It knows paths and headers as ASGI has them. It must not know what frames are, nor decide anything itself.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, cast
from weakref import ref

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multiframe.catalog import Catalog
from multiframe.errors import MultiframeError
from multiframe.instance import Instance
from multiframe.memory import Lease, MemoryBudget
from multiframe.rope import Rope, Stored
from multiframe.source import FileSource
from multiframe.web.doors import ACCESS, ACTION

__all__ = ["Again", "Plan", "Ready", "Way", "Ways"]

_DECIDING = frozenset((b"accept", b"host", b"origin"))
"""Headers on which the answer depends; it depends on who asks as well."""

_NOT_PLAIN = frozenset((b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since"))
"""Headers that ask for something else than the whole frame."""

_OF_ONE_FRAME = (b"content-type", b"content-length", b"etag")
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


class Plan(NamedTuple):
    """An answer that is not read yet: the way it goes, and what it is made of."""

    way: "_Kept"
    instance: Instance
    rope: Rope
    content_type: str

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """All of them, names in lower case."""
        own = (self.content_type.encode("latin-1"), b"%d" % self.rope.size, self.rope.etag.encode())
        return [*self.way.headers, *zip(_OF_ONE_FRAME, own, strict=True)]

    @property
    def lines(self) -> bytes:
        """The same as they are sent, each with its end of line."""
        own = f"content-type: {self.content_type}\r\ncontent-length: {self.rope.size}\r\netag: {self.rope.etag}\r\n"
        return self.way.lines + own.encode("latin-1")


class Ready(NamedTuple):
    """A body that is there, and the memory that holds it until it has left."""

    body: bytearray | memoryview
    lease: Lease


class _Kept(NamedTuple):
    """A way without a hold on the instance: only the catalog decides how long that stays in memory."""

    instance: ref[Instance]
    uid: str
    make: Callable[[Instance, int], tuple[Rope, str]]
    headers: list[tuple[bytes, bytes]]
    lines: bytes
    action: str


type _Kind = tuple[str, bytes, tuple[tuple[bytes, bytes], ...], object]


class Ways:
    """How frames were answered of which others may be asked for.

    Parameters
    ----------
    catalog : Catalog
        Who knows which instances are in memory.
    budget : MemoryBudget
        Where the answers are entered.
    most : int
        Bytes of the largest frame that goes the short way: larger ones leave in pieces.
    """

    def __init__(self, catalog: Catalog, budget: MemoryBudget, *, most: int) -> None:
        self._catalog = catalog
        self._budget = budget
        self._most = min(most, budget.limit)
        self._ways: OrderedDict[_Kind, _Kept] = OrderedDict()
        self._spare = bytearray()

    def clear(self) -> None:
        """Forget them all."""
        self._ways.clear()

    def plan(self, scope: Scope) -> Plan | None:
        """Plan the answer for a request of whom is known who asks; None: it has to go the long way."""
        asked = _asked(scope)
        way = self._ways.get(asked[0]) if asked is not None else None
        if asked is None or way is None:
            return None
        instance = way.instance()
        if instance is None or self._catalog.cached(way.uid) is not instance:
            return None
        index, i = instance.known, asked[1] - 1
        if index is None or not 0 <= i < len(index) or not isinstance(instance.source, FileSource):
            return None
        rope, content_type = way.make(instance, i)
        if rope.size > self._most:
            return None
        self._ways.move_to_end(asked[0])
        scope[ACTION] = way.action  # what is counted and written down is the same by either way
        return Plan(way, instance, rope, content_type)

    def ready(self, plan: Plan, *, lend: bool = False) -> Ready | None:
        """Read an answer, and prove that it is of the file that was meant; None: it has to go the long way.

        Parameters
        ----------
        plan : Plan
            Of `plan`.
        lend : bool
            Whether its body may lie in the memory of one before, which `give_back` has brought: the processor's caches
            still hold that, and it need not be cleared.
        """
        lease = self._budget.try_acquire(plan.rope.size)
        if lease is None:
            return None
        body = self._room(plan.rope.size) if lend else bytearray(plan.rope.size)
        if _read(plan.rope, plan.instance, body):
            return Ready(body, lease)
        lease.release()
        return None

    def give_back(self, body: bytearray | memoryview) -> None:
        """Bring the memory of a body that has left, all of it: nobody looks at it any more."""
        if isinstance(body, memoryview) and len(body.obj) >= len(self._spare):  # type: ignore[arg-type]
            self._spare = cast(bytearray, body.obj)

    def _room(self, size: int) -> memoryview:
        """Give memory for a body, where that of one before is large enough."""
        spare, self._spare = self._spare, bytearray()
        return memoryview(spare if len(spare) >= size else bytearray(size))[:size]

    def learning(self, scope: Scope, send: Send) -> Send:
        """Watch an answer go the long way, and remember how it did."""
        asked = _asked(scope)
        if asked is None:
            return send
        kind, _ = asked

        async def watched(message: Message) -> None:
            way: Way | None = scope.get(_KEY)
            if message["type"] == "http.response.start" and message["status"] == 200 and way is not None:
                headers = [(n, v) for n, v in message["headers"] if n not in _OF_ONE_FRAME]
                uid = way.instance.header.sop_instance_uid
                lines = b"".join(b"%b: %b\r\n" % header for header in headers)
                self._ways[kind] = _Kept(ref(way.instance), uid, way.make, headers, lines, scope[ACTION])
                if len(self._ways) > _KEPT:
                    self._ways.popitem(last=False)
            await send(message)

        return watched


class Again:
    """An application, with a short way to frames of which one was asked for before.

    Parameters
    ----------
    app : ASGI application
        Whose answers are remembered.
    ways : Ways
        Where.
    """

    def __init__(self, app: ASGIApp, ways: Ways) -> None:
        self._app = app
        self._ways = ways

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the short way, or by the long one and remember it."""
        plan = self._ways.plan(scope)
        ready = self._ways.ready(plan) if plan is not None else None
        if plan is None or ready is None:
            await self._app(scope, receive, self._ways.learning(scope, send))
            return
        with ready.lease:
            await send({"type": "http.response.start", "status": 200, "headers": plan.headers})
            await send({"type": "http.response.body", "body": ready.body, "more_body": True})
            # The server waits here until the body has left its buffers: only then is the memory free.
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _asked(scope: Scope) -> tuple[_Kind, int] | None:
    """Tell what kind of request it is, and for which frame; None: it is not for one whole frame."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope["http_version"] == "1.0":
        return None  # what HTTP/1.0 is answered without a Host is not to be answered to others
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


def _read(rope: Rope, instance: Instance, body: bytearray | memoryview) -> bool:
    """Fill a buffer with a rope, from the page cache alone; says whether it could, and what was read is the file's."""
    wanted: list[tuple[int, memoryview]] = []
    with memoryview(body) as view:
        at = 0
        for part in rope.parts:
            if isinstance(part, bytes):
                view[at : at + len(part)] = part
                at += len(part)
            elif isinstance(part, Stored) and part.plain:
                wanted.append((part.start, view[at : (at := at + part.size)]))
            else:
                return False
        try:
            return cast(FileSource, instance.source).read_cached(wanted, identity=instance.stat.identity)
        except MultiframeError:
            return False  # the long way says what is wrong, or reads the file anew
        finally:
            for _, piece in wanted:
                piece.release()
