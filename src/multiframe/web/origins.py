"""Who may read across origins, and with how few questions asked before (Fetch, HTTP CORS protocol).

A browser asks by OPTIONS before each address that it is to send more than a simple request to, and keeps the answer for
that address alone. So a viewer elsewhere is quick where its requests are simple: docs/how-to/viewers.md says how they
are kept so. It must not know what is asked for.
"""

from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Origins"]

_HERE = r"http://(localhost|127\.0\.0\.1)(:\d+)?"
_TAKEN = (
    "Accept", "Authorization", "Range", "If-None-Match", "If-Range", "If-Modified-Since",
    # What libraries add unasked; who refuses them refuses the request.
    "Cache-Control", "Pragma", "X-Requested-With", "X-Request-Id", "traceparent", "tracestate",
)  # fmt: skip
_SHOWN = (
    "Content-Range", "Content-Length", "Content-Type", "ETag", "Accept-Ranges", "Warning", "WWW-Authenticate",
    "X-Request-Id", "Retry-After",
)  # fmt: skip
_DAY = 86400
"""Seconds for which a browser may keep an answer to OPTIONS; Chromium keeps it for two hours at most."""


class Origins(CORSMiddleware):
    """Starlette's rules for other origins, with one more: every answer says that it depends on who asks.

    Without that, a cache may give a script elsewhere what was answered to a page of ours, with no leave to read it; the
    browser says then that the server refuses.

    Parameters
    ----------
    allowed : iterable of str
        Origins beyond this machine; ``*`` is everybody.
    methods : iterable of str
        Those that addresses have besides GET, HEAD and OPTIONS.
    """

    def __init__(self, app: ASGIApp, *, allowed: Iterable[str], methods: Iterable[str] = ()) -> None:
        named, besides = list(allowed), sorted(methods)
        super().__init__(
            app,
            allow_origins=["*"] if "*" in named else named,
            allow_origin_regex=_HERE,
            allow_methods=["GET", "HEAD", "OPTIONS", *besides],
            allow_headers=[*_TAKEN, *["Content-Type"] * bool(besides)],
            expose_headers=_SHOWN,
            max_age=_DAY,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have it answered."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return

        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "origin" not in headers.get("vary", "").lower():
                    headers.add_vary_header("Origin")
            await send(message)

        await super().__call__(scope, receive, said)
