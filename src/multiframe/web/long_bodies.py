"""Long bodies, received straight from the socket into large buffers: uvicorn copies each piece of 256 KB five times.

A body whose length is known needs no parser: so many bytes are its, and what is behind them is the next request. Once
the application asks for more of it than came with the head, it is received by a protocol of its own, which gives the
connection back at its end. It knows uvicorn's protocol and ASGI. It must not know what is received.
"""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Final, cast

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, HTTPScope, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["LONG", "LONG_BODY", "LongBody", "length_of"]

LONG: Final = 1 << 20
"""Bytes of a body from which on this is worth while."""

LONG_BODY: Final = "multiframe.long_body"
"""Where in the scope of a request its `LongBody` is found, if it has one."""

_PIECE: Final = 128 * 1024
_LINGER: Final = 0.005
"""Seconds for which a piece may become longer before it is given."""


def length_of(scope: HTTPScope) -> int:
    """Give the Content-Length of a request; 0: it has none, or its body is of another kind.

    Examples
    --------
    >>> length_of({"headers": [(b"content-length", b"5000000")]})
    5000000
    >>> length_of({"headers": [(b"transfer-encoding", b"chunked")]})
    0
    """
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers or b"upgrade" in headers:
        return 0
    length = headers.get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


class LongBody(asyncio.BufferedProtocol):
    """Receives the body of one request.

    Parameters
    ----------
    connection : HttpToolsProtocol
        Whose request it is.
    cycle : RequestResponseCycle
        What uvicorn knows of the request.
    length : int
        Bytes of the body.
    came : callable
        Told how many bytes have come, each time.

    Attributes
    ----------
    piece : int
        Bytes that are given at a time, and held until they are: the application says how many.
    """

    def __init__(
        self, connection: HttpToolsProtocol, cycle: RequestResponseCycle, length: int, *, came: Callable[[int], None]
    ) -> None:
        self.piece = _PIECE
        self._connection = connection
        self._cycle = cycle
        self._left = length  # to be received
        self._came = came
        self._buffer = bytearray()
        self._filled = 0
        self._ours = False  # whether the connection is
        self._ripe = False  # whether what is there is to be given
        self._timer: asyncio.TimerHandle | None = None

    async def answer(
        self, app: ASGI3Application, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Have an application answer that receives from here."""
        cast("MutableMapping[str, Any]", scope)[LONG_BODY] = self
        await app(scope, self.receive, send)

    @property
    def disconnected(self) -> bool:
        """Whether the client has left, as uvicorn tells whoever asks the owner of `receive`."""
        return self._cycle.disconnected

    async def receive(self) -> ASGIReceiveEvent:
        """Give more of the body, or say that the client has left."""
        cycle = self._cycle
        if not self._ours:
            message = await cycle.receive()
            if message["type"] == "http.request":
                self._left -= len(message["body"])
                if message["more_body"] and self._left and not self._connection.transport.is_closing():
                    self._ours = True
                    self._hand_over(self)
            return message
        while not (self._ripe or cycle.disconnected or cycle.response_complete):
            cycle.message_event.clear()
            self._connection.flow.resume_reading()
            await cycle.message_event.wait()
        if cycle.disconnected or cycle.response_complete:
            return {"type": "http.disconnect"}
        self._linger_no_more()
        body, self._buffer = self._buffer, bytearray()
        del body[self._filled :]
        self._filled, self._ripe = 0, False
        if not self._left:
            self._give_back()
            cycle.message_event.clear()  # whoever receives again waits for the client to leave
        return cast("ASGIReceiveEvent", {"type": "http.request", "body": body, "more_body": self._left > 0})

    def _give_back(self) -> None:
        """Have uvicorn go on: the body is over."""
        connection, self._ours = self._connection, False
        if connection.transport.is_closing():
            return
        # The one there was still waits for the body.
        connection.parser = httptools.HttpRequestParser(connection)
        connection.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._hand_over(connection)
        connection.on_message_complete()

    def _hand_over(self, protocol: asyncio.BaseProtocol) -> None:
        flow = self._connection.flow
        flow.pause_reading()  # in which of its two ways a transport reads, it decides when it begins to
        self._connection.transport.set_protocol(protocol)
        flow.resume_reading()

    def _give(self) -> None:
        self._linger_no_more()
        self._ripe = True
        self._cycle.message_event.set()

    def _linger_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------------------------------------------ the transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes belong: never more than are the body's."""
        if not self._buffer:
            self._buffer = bytearray(min(self.piece, self._left))
        at = 0 if self._cycle.response_complete else self._filled  # nobody wants what comes still
        return memoryview(self._buffer)[at : at + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come."""
        connection = self._connection
        self._came(nbytes)
        self._left -= nbytes
        if self._cycle.response_complete:
            if not self._left:
                connection.flow.pause_reading()
                connection.loop.call_soon(self._give_back)
            return
        self._filled += nbytes
        if self._filled == len(self._buffer):
            connection.flow.pause_reading()
            self._give()
        elif self._timer is None:
            self._timer = connection.loop.call_later(_LINGER, self._give)

    def eof_received(self) -> None:
        """Tell uvicorn."""
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell uvicorn."""
        self._linger_no_more()
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell uvicorn."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell uvicorn."""
        self._connection.resume_writing()
