"""The doors: which address needs which leave, and who may do what at it.

Each address is a `Row` of its module's ROUTES, and a row names the action that it is. `guarded` makes a route of a row,
and stands before its endpoint: no address can be added that nobody guards. It must not know how an address is answered.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, NamedTuple, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["ACTION", "ACTIONS", "Action", "Endpoint", "Row", "guarded"]

type Action = Literal["search", "read", "render", "store", "delete", "metrics", "open"]
type Endpoint = Callable[[Request], Awaitable[Response]]

ACTIONS: Final[frozenset[Action]] = frozenset(get_args(Action.__value__)) - {"open"}
"""What leave is given for; ``open`` is what needs none."""

ACTION: Final = "multiframe.action"
"""Where in the scope of a request its action is, once an address is found for it."""


class Row(NamedTuple):
    """An address and what is done there.

    Attributes
    ----------
    path : str
        As Starlette writes it. A study is ``{study}`` in it, or ``studyUID`` in the query.
    endpoint : callable
        Answers it.
    action : str
        One of `ACTIONS`, or ``open``: anybody may ask.
    methods : tuple of str
        HEAD comes with GET.
    """

    path: str
    endpoint: Endpoint
    action: Action
    methods: tuple[str, ...] = ("GET",)


def guarded(rows: Iterable[Row], *, root: str = "") -> list[Route]:
    """Give the routes of rows, below a root."""
    return [Route(root + row.path, _guard(row), methods=list(row.methods)) for row in rows]


def _guard(row: Row) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        request.scope[ACTION] = row.action
        return await row.endpoint(request)

    return endpoint
