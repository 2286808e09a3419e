"""Addresses: which methods each takes, and that `Allow` says just these (RFC 9110 9.3.7, 10.2.1, 15.5.6).

It knows methods. It must not know who may use them, nor what they do.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from multiframe.web.sockets import NO_METHOD

__all__ = ["METHODS", "Address", "Describe", "Endpoint", "any_other"]

type Endpoint = Callable[[Request], Awaitable[Response]]
type Describe = Callable[[Request, str], Response | None]

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
"""Those of HTTP (RFC 9110 9.3, RFC 5789)."""


class Address(Route):
    """An address and all that can be done there: one route, so that no method hides another.

    Parameters
    ----------
    path : str
        As Starlette writes it.
    endpoints : mapping of str to callable
        What answers each method. HEAD comes with GET.
    describe : callable, optional
        Answers OPTIONS at a path to who asks for more than `Allow`; None to all others.
    """

    def __init__(self, path: str, endpoints: Mapping[str, Endpoint], describe: Describe | None = None) -> None:
        async def endpoint(request: Request) -> Response:
            return await endpoints["GET" if request.method == "HEAD" else request.method](request)

        super().__init__(path, endpoint, methods=endpoints)
        self._describe = describe

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether an address is this one, whatever the method: what lies behind it is not asked then."""
        match, found = super().matches(scope)
        return (Match.NONE if match is Match.NONE else Match.FULL), found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        assert self.methods is not None
        if scope["method"] in self.methods:
            await self.app(scope, receive, send)
            return
        answer = any_other(scope["method"], self.methods)
        if self._describe is not None and (more := self._describe(Request(scope), self.path)) is not None:
            more.headers["allow"] = answer.headers["allow"]
            answer = more
        await answer(scope, receive, send)


def any_other(method: str, taken: Collection[str]) -> Response:
    """Answer a method that an address does not take; OPTIONS asks which it does.

    Raises
    ------
    HTTPException
        405; or 501, where it is a method of no address (RFC 9110 9.1).

    Examples
    --------
    >>> any_other("OPTIONS", {"GET", "HEAD"}).headers["allow"]
    'GET, HEAD, OPTIONS'
    """
    if method not in METHODS:
        raise HTTPException(501, NO_METHOD)
    allow = {"allow": ", ".join(name for name in METHODS if name in taken or name == "OPTIONS")}
    if method != "OPTIONS":
        raise HTTPException(405, headers=allow)
    return Response(None, 204, allow)
