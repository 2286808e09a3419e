"""Connections that are not waited for without end: heads and bodies that come too slowly, answers nobody takes.

uvicorn waits for a client as long as it likes: for the end of a request, and for an answer to be taken; and it takes
heads of any length. A few hundred sockets that do nothing would hold all memory there is for answers. So each
connection is looked at once in a while: whoever is waited for has to bring, or take, `LEAST` bytes a second.

An application may have an answer at once, by `at_once`: it is written where the request was read. For a frame
that costs less than a task and uvicorn's `send` (decision 0027).

It knows uvicorn's protocol and TCP. It must not know what is asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from multiframe.web.journal import audit
from multiframe.web.long_bodies import LONG, LongBody, length_of
from multiframe.web.sockets import LEAST, LONGEST_HEAD

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from uvicorn._types import ASGI3Application

__all__ = ["Patient", "patient", "watch"]


class _AtOnce(Protocol):
    """An answer that is there; `over` is told whether the client left before it, and whether its memory is free."""

    headers: list[tuple[bytes, bytes]]
    body: bytearray | memoryview
    over: Callable[[bool, bool], None]


_TOO_LONG = "multiframe.too_long"
_WITH_BODY = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade"))
_LOOKS = 8  # how often a connection is looked at in the time it is given


class Patient(HttpToolsProtocol):
    """A connection; `patient` makes classes of it that have the two numbers.

    Attributes
    ----------
    patience : float
        Seconds in which a head must be whole, and after which a body or an answer must have gone on.
    most : int
        Connections at once. The one that has waited longest for its client goes when there are more; a new one is
        refused when all are at work.
    """

    patience: float
    most: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._head = 0  # bytes of the request that is coming
        self._coming: str | None = "head"  # what of a request is waited for; None: it is whole
        self._taken = 0  # bytes, of all requests
        self._since = self._closing = time.monotonic()
        self._before = 0  # of `_taken`, or of what is still to be sent, at that time
        self._paused = False
        self._next = False  # whether a request may be answered where it was read: it does not wait for others
        self._between = False  # whether what came last has ended with a request, and nothing of the next one
        self._last = False  # whether nothing more is taken: the answers that are due are the last
        if len(self.connections) > self.most and not self._make_room():
            self._refuse(503, "TooManyConnections", "this server has too many connections: come back in a moment")

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for its client."""
        others = cast("Iterable[Patient]", self.connections)
        idle = [c for c in others if c.waits and c is not self and not c.transport.is_closing()]
        if not idle:
            return False
        min(idle, key=lambda c: c._since).transport.abort()
        return True

    @property
    def waits(self) -> bool:
        """Whether nothing is under way but a request that is not whole yet."""
        return self._coming == "head" and not self._answering

    @property
    def _asked(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None

    @property
    def _answering(self) -> bool:
        return self._asked and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._taken += len(data)
        if self._last or self.transport.is_closing():
            return
        before, self._between = self._head, False
        super().data_received(data)
        if self._coming == "head" and self._head == before and not self._between:
            self._head += len(data)  # of a header that is not whole yet nobody else counts
        if self._coming is not None and self._head > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse(431, "HeadTooLong", f"address and headers have at most {LONGEST_HEAD} bytes")

    def on_message_begin(self) -> None:
        """Expect a request."""
        super().on_message_begin()
        self._head, self._coming, self._since = 0, "head", time.monotonic()
        self._between = False

    def on_url(self, url: bytes) -> None:
        """Take a piece of an address."""
        super().on_url(url)
        self._head += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        self._head += len(name) + len(value) + 4

    def on_headers_complete(self) -> None:
        """Expect a body."""
        self._coming, self._since, self._before = "body", time.monotonic(), self._taken
        if self._head > LONGEST_HEAD:
            cast("dict[str, Any]", self.scope)[_TOO_LONG] = True
        self._next = True
        super().on_headers_complete()
        self._next = False

    def on_message_complete(self) -> None:
        """Expect nothing more, or the next request where this one is answered already."""
        super().on_message_complete()
        self._between = True
        self._coming, self._head = (None, self._head) if self._answering else ("head", 0)

    def on_response_complete(self) -> None:
        """Expect the next request, or the rest of the body that nobody wanted."""
        super().on_response_complete()
        self._since = time.monotonic()
        if self._coming is None:
            self._coming, self._head = "head", 0

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if _TOO_LONG in cycle.scope:
            app = cast("ASGI3Application", _head_too_long)
        elif (length := length_of(cycle.scope)) >= LONG:
            app = cast("ASGI3Application", partial(LongBody(self, cycle, length, came=self._came).answer, app))
        elif self._next and (answer := self._at_once(cycle)) is not None:
            self._write(cycle, answer)
            return
        super()._start_asgi_task(cycle, app)

    def _at_once(self, cycle: RequestResponseCycle) -> _AtOnce | None:
        """Give the answer that the application has at once; None: it has to be called."""
        find = getattr(self.app, "at_once", None)
        if find is None or not cycle.keep_alive or self.transport.get_write_buffer_size():
            return None
        if any(name in _WITH_BODY for name, _ in cycle.scope["headers"]):
            return None
        try:
            found: _AtOnce | None = find(cycle.scope)
        except Exception:  # when it is called, it says why
            return None
        return found

    def _write(self, cycle: RequestResponseCycle, answer: _AtOnce) -> None:
        """Write an answer; where the client does not take it, wait for that in a task as others do."""
        head = [STATUS_LINE[200]]
        for name, value in (*cycle.default_headers, *answer.headers):
            head += (name, b": ", value, b"\r\n")
        head.append(b"\r\n")
        cycle.response_started, cycle.chunked_encoding = True, False
        self.transport.writelines([b"".join(head), answer.body])
        if self._paused:
            super()._start_asgi_task(cycle, cast("ASGI3Application", partial(_taken, answer)))
            return
        cycle.response_complete = True
        self.on_response_complete()
        answer.over(False, not self.transport.get_write_buffer_size())

    def _came(self, size: int) -> None:
        self._taken += size

    def pause_writing(self) -> None:
        """Wait until the client has taken what is sent."""
        super().pause_writing()
        self._paused, self._since, self._before = True, time.monotonic(), self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._paused, self._since, self._before = False, time.monotonic(), self._taken

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as any other request is refused."""
        self._refuse(400, "NotHttp", "what came is not HTTP/1.1 (RFC 9112): send a request line and headers")

    def _refuse(self, status: int, error: str, message: str) -> None:
        """Say why, and close. Behind a whole request its answer comes first, and nothing is said: none asked for it."""
        # No request has begun that the witness could tell of.
        audit("turned away", status=status, error=error, client=self.client[0] if self.client else None)
        if self._answering and self._coming != "body":
            # What comes still is read and thrown away: unread, it would take the answer along when we close.
            self._last, self._coming, self.cycle.keep_alive = True, None, False
            return
        if self._answering and (self.cycle.response_started or self.pipeline):
            self.transport.abort()  # this would be taken for that answer
            return
        body = json.dumps({"error": error, "message": message}).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        head += "retry-after: 2\r\n" if status == 503 else ""
        self.transport.write(STATUS_LINE[status] + head.encode() + b"\r\n" + body)
        self.transport.close()

    def look(self, now: float) -> None:
        """Close what is waited for in vain."""
        if self.transport.is_closing():
            if now - self._closing > self.patience:
                self.transport.abort()  # or it would wait for what nobody takes
            return
        self._closing = now
        if now - self._since <= self.patience:
            return
        if self._paused:
            left = self.transport.get_write_buffer_size()
            if self._before - left < LEAST * self.patience:
                self.transport.abort()
            self._since, self._before = now, left
        elif self._coming == "head" and not self._asked and not self._taken:
            self.transport.close()  # it never asked anything
        elif self._coming == "head" and self._head:
            self._refuse(408, "TooSlow", f"a request must be whole within {self.patience:g} s")
        elif self._coming == "body" and not self._held_up:
            if self.cycle.response_complete:
                self.transport.abort()  # what comes still is for nobody
            elif self._taken - self._before < LEAST * self.patience:
                self._refuse(408, "TooSlow", f"a body comes with {LEAST} bytes a second at least")
            self._since, self._before = now, self._taken

    @property
    def _held_up(self) -> bool:
        """Whether a body does not come because nobody here has taken what came."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue


def patient(patience: float, most: int) -> type[Patient]:
    """Give a class of connections with that patience, of which there are so many at most."""
    return cast("type[Patient]", type("Patient", (Patient,), {"patience": patience, "most": most}))


async def watch(connections: Iterable[Any], patience: float) -> None:
    """Look at all connections again and again, until cancelled."""
    while True:
        await asyncio.sleep(patience / _LOOKS)
        now = time.monotonic()
        for connection in list(connections):
            if isinstance(connection, Patient):
                connection.look(now)


async def _taken(answer: _AtOnce, scope: Scope, receive: Receive, send: Send) -> None:
    """Wait until an answer has left the server's buffers: only then is its memory free."""
    left = True
    try:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        left = bool(getattr(getattr(send, "__self__", None), "disconnected", False))
    finally:
        answer.over(left, False)


async def _head_too_long(scope: Scope, receive: Receive, send: Send) -> None:
    body = json.dumps(
        {"error": "HeadTooLong", "message": f"address and headers have at most {LONGEST_HEAD} bytes"}
    ).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
