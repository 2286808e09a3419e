"""The doors: who asks, which address needs which leave, and what is answered who has none (RFC 6750).

`Doors` stands before everything and finds out who asks: it refuses nobody. Each address is a `Row` of its module's
ROUTES, and `guarded` makes addresses of rows with a guard before each endpoint: no address can be added that nobody
guards. It must not know how an address is answered, nor what a token is made of.

A token for some studies is refused any other by 403 before anything is looked up, so that the answer is the same
whether there is such a study or not. Where an address names none, whoever answers leaves the other studies out, as if
they were not there.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from multiframe.settings import Settings
from multiframe.web.access import ACTIONS, EVERYTHING, READING, Access, Action, BadToken, NoKeys
from multiframe.web.addresses import Address, Describe, Endpoint
from multiframe.web.tokens import PREFIX, TokenFile

if TYPE_CHECKING:
    from multiframe.web import issuer

__all__ = [
    "ACCESS",
    "ACTION",
    "ACTIONS",
    "Action",
    "Doors",
    "Forbidden",
    "Keys",
    "Row",
    "Unauthenticated",
    "Unverifiable",
    "access_of",
    "guarded",
]

ACTION: Final = "multiframe.action"
"""Where in the scope of a request its action is, once an address is found for it."""

ACCESS: Final = "multiframe.access"
"""Where in the scope of a request its `Access` is, or the error that whoever asks is told."""

_REALM = 'Bearer realm="multiframe"'


class Unauthenticated(Exception):
    """Who asks has shown no token, or none that is good."""

    def __init__(self, message: str, *, shown: bool = False) -> None:
        super().__init__(message)
        self.headers = {"www-authenticate": _REALM + (', error="invalid_token"' if shown else "")}


class Forbidden(Exception):
    """Who asks is known, and has no leave for this."""

    def __init__(self, message: str, action: Action) -> None:
        super().__init__(message)
        self.headers = {"www-authenticate": f'{_REALM}, error="insufficient_scope", scope="{action}"'}


class Unverifiable(Exception):
    """Whether a token is good cannot be said now: the keys of whoever has given it cannot be had."""

    headers: Mapping[str, str] = {}


type _Asker = Access | Unauthenticated | Unverifiable


class Row(NamedTuple):
    """An address and what is done there.

    Attributes
    ----------
    path : str
        As Starlette writes it; a study is ``{study}`` in it.
    endpoint : callable
        Answers it.
    action : str
        One of `ACTIONS`, or ``open``: anybody may ask.
    methods : tuple of str
        HEAD comes with GET.
    minds : bool
        Whether the endpoint itself minds which studies whoever asks may see, by `access_of`. Without that, and without
        a study in its path, the address is closed to tokens that are for some studies.
    """

    path: str
    endpoint: Endpoint
    action: Action
    methods: tuple[str, ...] = ("GET",)
    minds: bool = False


class Keys:
    """What opens the doors: tokens of a file, and those of an identity provider.

    Parameters
    ----------
    settings : Settings
        Name both.

    Raises
    ------
    MultiframeError, ValueError
        The file cannot be used; the identity provider is not named as it should be.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = TokenFile(Path(settings.tokens)) if settings.tokens else None
        self._issuer: issuer.Issuer | None = None
        if settings.oidc_issuer:
            from multiframe.web.issuer import Issuer  # and with it megabytes that nobody else needs

            if not settings.oidc_audience:
                raise ValueError("an identity provider gives tokens to many: oidc_audience says which are for us")
            self._issuer = Issuer(
                settings.oidc_issuer, settings.oidc_audience, settings.oidc_keys, leeway=settings.oidc_leeway
            )
        self.locked = self._file is not None or self._issuer is not None
        self._without = READING if settings.anonymous else None if self.locked else EVERYTHING

    def at_once(self, scope: Scope) -> bool:
        """Put who asks into the scope of a request that shows no token; says whether it shows none."""
        for name, _ in scope["headers"]:
            if name == b"authorization":
                return False
        scope[ACCESS] = self._nobody()
        return True

    def _nobody(self) -> _Asker:
        return self._without or Unauthenticated("show a token: Authorization: Bearer TOKEN")

    async def who(self, shown: list[bytes]) -> _Asker:
        """Say who asks, by the Authorization headers of a request."""
        if not self.locked or not shown:
            return self._nobody()
        scheme, _, token = shown[0].decode("latin-1").partition(" ")
        token = token.strip(" ")
        if len(shown) > 1 or scheme.lower() != "bearer" or not token.isascii() or not token.isprintable():
            return Unauthenticated("Authorization is Bearer and one token, once")
        if self._file is not None:
            access = self._file.find(token)
            if access is not None:
                return access
        if self._issuer is None or token.startswith(PREFIX):
            return Unauthenticated("this token is not good, or not any more", shown=True)
        try:
            return await self._issuer.find(token)
        except BadToken as error:
            return Unauthenticated(f"this token is not good: {error}", shown=True)
        except NoKeys:
            return Unverifiable("the keys of the identity provider cannot be had: ask again in a moment")

    def close(self) -> None:
        """Fetch nothing more."""
        if self._issuer is not None:
            self._issuer.close()


class Doors:
    """An application, told who asks.

    Parameters
    ----------
    app : ASGI application
        Finds an `Access`, or an error, at `ACCESS` in the scope of each request.
    keys : Keys
        What opens.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request and who asks."""
        if scope["type"] == "http":
            shown = [value for name, value in scope["headers"] if name == b"authorization"]
            scope[ACCESS] = await self._keys.who(shown)
        await self.app(scope, receive, send)


def access_of(request: Request) -> Access:
    """Give what whoever asks may do; behind a guard there is always such.

    Raises
    ------
    Unauthenticated, Unverifiable
        Nobody knows.
    """
    asker: _Asker = request.scope[ACCESS]
    if isinstance(asker, Access):
        return asker
    raise asker


def guarded(
    rows: Iterable[Row], *, root: str = "", locked: bool = False, describe: Describe | None = None
) -> list[Address]:
    """Give the addresses of rows, with a guard before each endpoint.

    Parameters
    ----------
    root : str
        What their paths are below of.
    locked : bool
        Whether answers depend on who asks.
    describe : callable, optional
        As `Address` has it: whoever asks is told what can be asked.
    """
    addresses: dict[str, dict[str, Endpoint]] = {}
    for row in rows:
        addresses.setdefault(root + row.path, {}).update(dict.fromkeys(row.methods, _guard(row, locked)))
    return [Address(path, endpoints, describe) for path, endpoints in addresses.items()]


def _guard(row: Row, locked: bool) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        request.scope[ACTION] = row.action
        if row.action == "open":
            return await row.endpoint(request)
        _let_in(access_of(request), row, request.path_params.get("study"))
        answer = await row.endpoint(request)
        if locked:
            answer.headers.add_vary_header("Authorization")  # a browser may have several users, one after the other
        return answer

    return endpoint


def _let_in(access: Access, row: Row, study: str | None) -> None:
    """Let nobody in who has no leave.

    Raises
    ------
    Unauthenticated, Forbidden
        Why not.
    """
    if row.action not in access.actions:
        if access is READING:
            raise Unauthenticated(f"without a token nobody may {row.action} here")
        raise Forbidden(f"this token is not for {row.action}", row.action)
    if study is not None:
        if not access.sees(study):
            raise Forbidden("this token is not for that study", row.action)
    elif access.studies is not None and not row.minds:
        raise Forbidden("this token is for some studies, and the address names none", row.action)
