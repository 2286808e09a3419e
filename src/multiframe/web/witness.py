"""The outermost room: every request is given an id, and written down and counted when it is over.

The line is the audit trail: who asked for what, when, and how many bytes have left, also where it was refused. It is
made of what `asked` leaves of an address, never of the address itself. It knows ASGI. It must not know how anything is
answered; and as every frame passes here, it must not do anything twice.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multiframe.web import tracing
from multiframe.web.access import Access
from multiframe.web.again import Plan, Ready, Ways
from multiframe.web.asked import METHODS, Asked, asked_of
from multiframe.web.attributes import PARAMETERS, path_of
from multiframe.web.doors import ACCESS, ACTION
from multiframe.web.forwarded import forwarded
from multiframe.web.gauges import ERRORS, Gauges
from multiframe.web.journal import REQUEST, Format, Journal, request_id, stamp
from multiframe.web.sockets import TOO_SLOW
from multiframe.web.tracing import request_span

__all__ = ["AtOnce", "Witness", "failed"]

log = logging.getLogger("multiframe.web")

_FAILED = "multiframe.failed"


def failed(scope: Scope, error: Exception | str) -> None:
    """Say which kind of error refused a request, or broke its answer off."""
    scope[_FAILED] = error if isinstance(error, str) else type(error).__name__


class AtOnce:
    """An answer with status 200 that needs nothing but to be read.

    Attributes
    ----------
    lines : bytes
        Its headers, each with its end of line.
    """

    __slots__ = ("_begun", "_name", "_plan", "_ready", "_scope", "_ways", "_witness", "lines")

    def __init__(self, witness: "Witness", ways: Ways, scope: Scope, plan: Plan) -> None:
        self._begun = perf_counter()
        self._witness, self._ways, self._scope, self._plan = witness, ways, scope, plan
        self._name = request_id(scope["headers"])
        self.lines = b"%bx-request-id: %b\r\n" % (plan.lines, self._name.encode())
        self._ready: Ready | None = None

    def read(self) -> bytearray | memoryview | None:
        """Give the body; None: the application has to be called, and nothing is told of this."""
        ready = self._ready = self._ways.ready(self._plan, lend=True)
        if ready is None:
            return None
        self._witness.begins()
        return ready.body

    def over(self, *, left: bool, free: bool, slow: bool = False) -> None:
        """Tell of it, once its body has left.

        Parameters
        ----------
        left : bool
            The client had left before.
        free : bool
            Nobody looks at the body any more.
        slow : bool
            The client was cut off, for it took it too slowly.
        """
        if slow:
            self._scope[TOO_SLOW] = True
        ready = self._ready
        assert ready is not None
        if free:
            self._ways.give_back(ready.body)
        ready.lease.release()
        self._witness.ends(self._scope, self._name, len(ready.body), self._begun, left=left)


class Witness:
    """An application, and what is said of it.

    Parameters
    ----------
    app : ASGI application
        All the others.
    gauges : Gauges
        Where requests are counted.
    journal : Journal, optional
        Where they are written down.
    form : str
        How: ``json`` or ``text``.
    trusted : tuple of str
        Proxies whose word is taken for who the client is.
    """

    def __init__(
        self,
        app: ASGIApp,
        gauges: Gauges,
        journal: Journal | None = None,
        form: Format = "json",
        *,
        trusted: tuple[str, ...] = (),
    ) -> None:
        self.app = app
        self._gauges = gauges
        self._journal = journal
        self._form = form
        self._trusted = trusted
        self._over: list[_Over] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and tell of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = perf_counter()
        name = request_id(scope["headers"])
        REQUEST.set(name)
        raw = name.encode()
        status = sent = received = 0
        whole = False
        bodiless = scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            nonlocal status, sent, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                await send({**message, "headers": [*message["headers"], (b"x-request-id", raw)]})
                return
            await send(message)
            if not bodiless:
                sent += len(message.get("body", b""))
            whole = not message.get("more_body", False)

        async def receiving() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        self._gauges.open += 1
        with request_span(scope, name) as span:
            try:
                await self.app(scope, receiving if scope["method"] in ("POST", "PUT") else receive, sending)
            except Exception as error:
                # Its 500 has left, or the connection is broken off: either way it is we who have to say why.
                failed(scope, error)
                log.exception("unforeseen")
            finally:
                self._gauges.open -= 1
                # Uvicorn alone knows that it threw away what it was given for a client that had left.
                left = getattr(getattr(receive, "__self__", None), "disconnected", False)
                over = _Over(scope, name, status, sent, received, perf_counter() - begun, whole and not left, left)
                if span is not None:
                    self._tell([over], span)
                else:
                    self._tell_soon(over)

    def at_once(self, scope: Scope, ways: Ways) -> AtOnce | None:
        """Tell of an answer that needs only to be read, as of any other; None: there is none, and nothing is told."""
        plan = None if tracing.on() else ways.plan(scope)
        return AtOnce(self, ways, scope, plan) if plan is not None else None

    def begins(self) -> None:
        """Count an answer at once as open."""
        self._gauges.open += 1

    def ends(self, scope: Scope, name: str, size: int, begun: float, *, left: bool) -> None:
        """Tell of an answer at once."""
        self._gauges.open -= 1
        self._tell_soon(_Over(scope, name, 200, size, 0, perf_counter() - begun, not left, left))

    def _tell_soon(self, over: "_Over") -> None:
        if not self._over:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._over.append(over)

    def _tell_all(self) -> None:
        """Tell of all that were over in this turn of the loop.

        Between two frames the processor's caches hold neither what this needs nor what the next one does: one behind
        the other they take half the time. And they are one line less than one write each.
        """
        over, self._over = self._over, []
        self._tell(over)

    def _tell(self, over: Sequence["_Over"], span: Any = None) -> None:
        lines = [line for one in over if (line := self._told(one, span)) is not None]
        if self._journal is not None and lines:
            when = stamp()
            self._journal.write(*(line.json(when) if self._form == "json" else line.text(when) for line in lines))

    def _told(self, over: "_Over", span: Any) -> "_Line | None":
        """Count one, and give what is written down of it."""
        scope, name, status, sent, received, seconds, whole, left = over
        method: str = scope["method"]
        asked, frames = asked_of(method, scope["path"], scope["query_string"])
        count = 0
        if frames and whole and sent and status == 200:
            count = 1 if frames.isdecimal() else _count(frames)
        slow = not whole and TOO_SLOW in scope
        if slow:
            failed(scope, "TooSlow")
            status = 408 if status == 499 else status
        self._gauges.answered(asked.endpoint, status, seconds, sent, count)
        if received:
            self._gauges.add("received_bytes", asked.endpoint, n=received)
        ended = "whole" if whole else "client left" if not slow and (left or status == 499) else "broken off"
        if not whole:
            self._gauges.add("broken_off", "server" if ended == "broken off" else "client")
        error: str | None = scope.get(_FAILED)
        if error is not None:
            self._gauges.add("errors", error if error in _ERRORS else "other")
        if span is not None:
            span.update_name(f"{method if method in METHODS else 'other'} {asked.endpoint}")
            uids = {f"dicom.{level}": uid for level, uid in zip(Asked._fields[1:], asked[1:], strict=True) if uid}
            span.set_attributes({
                "http.request.method": method if method in METHODS else "_OTHER", "http.response.status_code": status,
                "http.response.body.size": sent, "multiframe.endpoint": asked.endpoint, "multiframe.ended": ended,
                **uids, **({"multiframe.frames": frames} if frames else {}), **({"error.type": error} if error else {}),
            })  # fmt: skip
        if self._journal is None:
            return None
        access = scope.get(ACCESS)
        who = access.who if isinstance(access, Access) and access.who != "-" else None
        client = _client(scope, self._trusted)
        keys = _keys(scope["query_string"]) if asked.endpoint == "search" and scope["query_string"] else ""
        shown = method if method in METHODS else "other"
        return _Line(name, asked, frames, keys, error, shown, who, scope.get(ACTION), client, status, sent, received,
                     seconds, ended)  # fmt: skip


class _Over(NamedTuple):
    """A request that is over."""

    scope: Scope
    name: str
    status: int
    sent: int
    received: int
    seconds: float
    whole: bool
    left: bool


_ERRORS = frozenset(ERRORS)


def _client(scope: Scope, trusted: tuple[str, ...]) -> str:
    """Give the address of who asked: what a trusted proxy says, as far as it is one."""
    peer: str = scope["client"][0] if scope.get("client") else ""
    if trusted:
        headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        with suppress(ValueError):
            return str(ip_address(forwarded(headers, peer, trusted).client))
    return peer


def _count(frames: str) -> int:
    """Count the frames of a list that was answered, and so is one."""
    ranges = (item.partition("-") for item in frames.removesuffix("...").rstrip(",-").split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges if first)


def _keys(query: bytes) -> str:
    """Name what was searched by: attributes we know, no value; a name we do not know may be anything."""
    try:
        named = [name for name, _ in parse_qsl(query[:8192].decode("ascii", "replace"), keep_blank_values=True)]
    except ValueError:
        named = []
    return ",".join(dict.fromkeys(name if name.lower() in PARAMETERS or path_of(name) else "?" for name in named[:64]))


@lru_cache(2048)
def _what(asked: Asked) -> str:
    uids = {level: uid for level, uid in zip(Asked._fields[1:], asked[1:], strict=True) if uid}
    return json.dumps({"endpoint": asked.endpoint, **uids}, separators=(",", ":"))[1:-1]


_quoted = lru_cache(512)(json.dumps)


class _Line(NamedTuple):
    """What is written down of a request."""

    request: str
    asked: Asked
    frames: str
    keys: str
    error: str | None
    method: str
    who: str | None
    action: str | None
    client: str
    status: int
    sent: int
    received: int
    seconds: float
    ended: str

    def json(self, when: str) -> str:
        """Write it for machines: by hand, for that takes a third of the time, and only `_quoted` can need quoting."""
        more = f',"frames":"{self.frames}"' if self.frames else ""
        if self.keys:
            more += f',"keys":{_quoted(self.keys)}'
        if self.received:
            more += f',"received":{self.received}'
        if self.error is not None:
            more += f',"error":{_quoted(self.error)}'
        return (
            f'{{"time":"{when}","level":"info","logger":"multiframe.access","request":"{self.request}",'
            f'"client":{_quoted(self.client)},"who":{_quoted(self.who)},"method":"{self.method}",'
            f'"action":{_quoted(self.action)},{_what(self.asked)}{more},"status":{self.status},"bytes":{self.sent},'
            f'"seconds":{self.seconds:.6f},"ended":"{self.ended}"}}'
        )

    def text(self, when: str) -> str:
        """Write it for people."""
        uid = self.asked.instance or self.asked.series or self.asked.study
        what = " ".join(word for word in (uid, self.frames, self.keys) if word)
        how = " ".join(word for word in (self.error, "" if self.ended == "whole" else self.ended) if word) or "whole"
        who = _quoted(self.who) if self.who else "-"
        return (
            f"{when[11:19]} {self.status} {self.method} {self.asked.endpoint} {what or '-'} {self.sent:,} B "
            f"{1e3 * self.seconds:.1f} ms {self.client or '-'} {who} {how} [{self.request}]"
        )
