"""Connections that are not waited for without end: heads and bodies that come too slowly, answers nobody takes.

uvicorn waits for a client as long as it likes: for the end of a request, and for an answer to be taken; and it takes
heads of any length. A few hundred sockets that do nothing would hold all memory there is for answers. So each
connection is looked at once in a while: whoever is waited for has to bring, or take, `LEAST` bytes a second.

An application may have an answer at once, by `at_once`: it is written where the request was read. For a frame
that costs less than a task and uvicorn's `send`; where the head came before, nothing is parsed either (decision 0027).

It knows uvicorn's protocol and TCP. It must not know what is asked.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from httptools.parser.errors import HttpParserInvalidMethodError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from multiframe.web.heads import Heads
from multiframe.web.journal import audit
from multiframe.web.long_bodies import LONG, LongBody, length_of
from multiframe.web.sockets import HEAD_TOO_LONG, LEAST, LONGEST_HEAD, NO_METHOD, TOO_SLOW

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from uvicorn._types import ASGI3Application

__all__ = ["Patient", "patient", "watch"]


class _AtOnce(Protocol):
    """An answer that needs nothing but to be read."""

    lines: bytes

    def read(self) -> bytearray | memoryview | None:
        """Give the body; None: the application has to be called."""
        ...

    def over(self, *, left: bool, free: bool, slow: bool = False) -> None:
        """Hear whether the client left before, or was too slow, and whether the memory of the body is free."""
        ...


class _Turn:
    """What is answered at once of all that came in one turn of the loop: first all of it is planned, then it is read.

    Between two frames the processor's caches hold nothing of the program any more. So one plan is made behind the
    other, and then one body is read and written behind the other: that takes two thirds of the time.
    """

    def __init__(self) -> None:
        self._asked: list[tuple[Patient, bytes, dict[str, Any], _AtOnce]] = []

    def add(self, connection: Patient, data: bytes, scope: dict[str, Any], answer: _AtOnce) -> None:
        """Answer at the end of this turn."""
        if not self._asked:
            connection.loop.call_soon(self.answer)
        self._asked.append((connection, data, scope, answer))

    def answer(self) -> None:
        """Answer now."""
        asked, self._asked = self._asked, []
        for connection, data, scope, answer in asked:
            connection.answer_again(data, scope, answer)


_TOO_LONG = "multiframe.too_long"
_WITH_BODY = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade"))
_REQUEST = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} /\S* HTTP/1\.[01]\r\n")  # RFC 9112 3, of any method
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
    heads : Heads
        Those that came before, on all of them.
    turn : _Turn
        What is answered when all of them have been listened to.
    """

    patience: float
    most: int
    heads: Heads
    turn: _Turn

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
        self._between = True  # whether what came last has ended with a request, and nothing of the next one
        self._planned = False  # whether a request waits for the end of this turn of the loop
        self._begun = 0  # requests of what came last
        self._found: dict[str, Any] | None = None  # the last of them that was answered at once
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
    def _answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self._taken += len(data)
        if self._last or self.transport.is_closing():
            return
        if self._planned:
            self.turn.answer()  # answers leave in the order of their requests
        if not (self._between and self._asked_again(data)):
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        between, before = self._between, self._head
        self._between, self._begun, self._found = False, 0, None
        self._data = data
        super().data_received(data)
        self._data = b""
        self._parsed(data, between, before)

    def _parsed(self, data: bytes, between: bool, before: int) -> None:
        """Look at what has been parsed: `between` and `before` are how it stood before that."""
        if between and self._between and self._begun == 1 and self._found is not None:
            self.heads.learn(data, self._found)
        if self._coming == "head" and self._head == before and not self._between:
            self._head += len(data)  # of a header that is not whole yet nobody else counts
        if self._coming is not None and self._head > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse(431, "HeadTooLong", HEAD_TOO_LONG)

    def on_message_begin(self) -> None:
        """Expect a request."""
        super().on_message_begin()
        self._begun += 1
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
        if (told := self.url.partition(b"://"))[1] and not self.url.startswith(b"/"):
            # The whole address stands in the request line: its host counts, whatever Host says (RFC 9112 3.2.2).
            host = re.split(b"[/?]", told[2], maxsplit=1)[0]
            self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]
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
        if cycle.scope["http_version"] == "1.0":
            app = cast("ASGI3Application", partial(_without_chunks, cycle, app))
        if _TOO_LONG in cycle.scope:
            app = cast("ASGI3Application", _head_too_long)
        elif (length := length_of(cycle.scope)) >= LONG:
            app = cast("ASGI3Application", partial(LongBody(self, cycle, length, came=self._came).answer, app))
        elif self._plain(cycle) and (answer := self._at_once({**cycle.scope})) and (body := answer.read()):
            self._found = cast("dict[str, Any]", cycle.scope)  # as it was parsed: the application writes into its own
            if self._taken_whole(answer, body):
                cycle.response_started = cycle.response_complete = True
                self.on_response_complete()
            else:
                self._wait_for(cycle, answer)
            return
        super()._start_asgi_task(cycle, app)

    def _plain(self, cycle: RequestResponseCycle) -> bool:
        """Whether a request waits for no other, has no body, and is not the last one."""
        return self._next and cycle.keep_alive and not any(name in _WITH_BODY for name, _ in cycle.scope["headers"])

    def _at_once(self, scope: Any) -> _AtOnce | None:
        """Give the answer that the application has at once; None: it has to be called."""
        find = getattr(self.app, "at_once", None)
        if find is None or self.transport.get_write_buffer_size():
            return None
        try:
            found: _AtOnce | None = find(scope)
        except Exception:  # when it is called, it says why
            return None
        return found

    def _asked_again(self, data: bytes) -> bool:
        """Plan the answer of a request that came before but for its number, unparsed; says whether there is one."""
        if self._answering or self.limit_concurrency is not None or (scope := self.heads.scope_of(data)) is None:
            return False
        scope |= {"client": self.client, "server": self.server, "state": self.app_state.copy()}
        answer = self._at_once(scope)
        if answer is None:
            return False
        self._planned = True
        self.turn.add(self, data, scope, answer)
        return True

    def answer_again(self, data: bytes, scope: dict[str, Any], answer: _AtOnce) -> None:
        """Read and write what was planned; where it cannot be read at once, parse the request after all."""
        self._planned = False
        body = answer.read()
        if body is None:
            self._parse(data)
            return
        if self.transport.is_closing():
            answer.over(left=True, free=True)
            return
        self._since = time.monotonic()
        if self._taken_whole(answer, body):
            self.server_state.total_requests += 1
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_handler()
            return
        self._unset_keepalive_if_required()
        self._coming = None
        self.cycle = RequestResponseCycle(
            cast("Any", scope), self.transport, self.flow, self.logger, self.access_logger, self.access_log,
            self.server_state.default_headers, asyncio.Event(), False, True, self.on_response_complete,
        )  # fmt: skip
        self.cycle.more_body = False
        self._wait_for(self.cycle, answer)

    def shutdown(self) -> None:
        """Close where nothing is due, else behind what is."""
        if self._planned:
            self.turn.answer()
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close what asks for nothing more; what asked since it was to be looked at has its time from then on."""
        left = self._since + self.timeout_keep_alive - time.monotonic()
        if left <= 0:
            super().timeout_keep_alive_handler()
        elif not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)

    def _taken_whole(self, answer: _AtOnce, body: bytearray | memoryview) -> bool:
        """Write an answer; says whether it is over: the client may have to be waited for."""
        head = [STATUS_LINE[200]]
        for name, value in self.server_state.default_headers:
            head += (name, b": ", value, b"\r\n")
        head += (answer.lines, b"\r\n")
        self.transport.writelines([b"".join(head), body])
        if self._paused:
            return False
        answer.over(left=False, free=not self.transport.get_write_buffer_size())
        return True

    def _wait_for(self, cycle: RequestResponseCycle, answer: _AtOnce) -> None:
        """Wait in a task, as others do, until the client has taken an answer."""
        cycle.response_started, cycle.chunked_encoding = True, False
        super()._start_asgi_task(cycle, cast("ASGI3Application", partial(_taken, answer)))

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
        """Refuse what is no HTTP, as any other request is refused: it takes an address of 64 KiB for that, too."""
        if self._head > LONGEST_HEAD:
            self._refuse(431, "HeadTooLong", HEAD_TOO_LONG)
            return
        if isinstance(sys.exception(), HttpParserInvalidMethodError) and _REQUEST.match(self._data):
            self._refuse(501, "HTTPError", NO_METHOD)
            return
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
                self._too_slow()
                self.transport.abort()
            self._since, self._before = now, left
        elif self._coming == "head" and not self._taken:
            self.transport.close()  # it never asked anything
        elif self._coming == "head" and self._head:
            self._refuse(408, "TooSlow", f"a request must be whole within {self.patience:g} s")
        elif self._coming == "body" and not self._held_up:
            if self.cycle.response_complete:
                self.transport.abort()  # what comes still is for nobody
            elif self._taken - self._before < LEAST * self.patience:
                self._too_slow()
                self._refuse(408, "TooSlow", f"a body comes with {LEAST} bytes a second at least")
            self._since, self._before = now, self._taken

    def _too_slow(self) -> None:
        """Have the request that is answered be told of as one that we broke off."""
        cast("dict[str, Any]", self.cycle.scope)[TOO_SLOW] = True

    @property
    def _held_up(self) -> bool:
        """Whether a body does not come because nobody here has taken what came."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue


def patient(patience: float, most: int) -> type[Patient]:
    """Give a class of connections with that patience, of which there are so many at most."""
    facts = {"patience": patience, "most": most, "heads": Heads(), "turn": _Turn()}
    return cast("type[Patient]", type("Patient", (Patient,), facts))


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
        answer.over(left=left, free=False, slow=TOO_SLOW in scope)


async def _without_chunks(
    cycle: RequestResponseCycle, app: ASGI3Application, scope: Any, receive: Any, send: Any
) -> None:
    """Answer HTTP/1.0, which knows no chunks: a body of unknown length ends with the connection (RFC 9112 6.1, 6.3).

    uvicorn would send chunks. What is broken off is reset, for a plain end would look like that of the whole.
    """
    endless = False

    async def sent(message: Any) -> None:
        nonlocal endless
        if message["type"] == "http.response.start":
            endless = not any(name.lower() == b"content-length" for name, _ in message["headers"])
            if endless:
                cycle.chunked_encoding, cycle.expected_content_length = False, sys.maxsize
        elif endless and not message.get("more_body", False):
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    try:
        await app(scope, receive, sent)
    finally:
        if endless and not cycle.response_complete:
            reset = struct.pack("ii", 1, 0)
            cycle.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            cycle.transport.abort()


async def _head_too_long(scope: Scope, receive: Receive, send: Send) -> None:
    body = json.dumps({"error": "HeadTooLong", "message": HEAD_TOO_LONG}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 431, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
