"""Tokens that somebody else has given: JWTs of an OpenID provider, proven by the keys it publishes (RFC 7519, 7517).

It fetches those keys from the one address it was told, and from nowhere else: never from an address that a token names,
and never where a redirect points. It must not know how a request brings a token.
"""

import asyncio
import ipaddress
import json
import logging
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import jwt

from multiframe.web.access import Access, BadToken, NoKeys, actions_of, studies_of

__all__ = ["ALGORITHMS", "Issuer", "check_address", "fetch"]

log = logging.getLogger("multiframe.web")

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_OF_KEY: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}

ALGORITHMS: Final = frozenset(name for names in _OF_KEY.values() for name in names)
"""Signatures that are believed: asymmetric ones alone, each with the kind of key it is for. ``none`` is no signature,
and of an HMAC whose key is a published one anybody could make one."""

_WAIT = 5.0  # seconds for one step of a fetch
_LONGEST_WAIT = 10.0  # seconds for all of it
_FRESH = 300.0  # seconds for which keys, and what they have proven, are used without asking for them again
_STALE = 86_400.0  # seconds for which they are used while they cannot be had
_PAUSE = 10.0  # seconds between two fetches: a stream of unknown keys is no way to have us ask for them all the time
_LARGEST = 1 << 20  # bytes of what is fetched
_MOST_KEYS = 100
_LONGEST_TOKEN = 16 << 10  # characters
_PROVEN = 1024  # tokens that are remembered


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None  # becomes an HTTPError: where it points is nobody's we were told of


def check_address(url: str) -> str:
    """Give an address from which keys may be fetched: ``https``, or this machine.

    Raises
    ------
    ValueError
        It is another.

    Examples
    --------
    >>> check_address("https://id.example.org/keys")
    'https://id.example.org/keys'
    >>> check_address("http://169.254.169.254/keys")
    Traceback (most recent call last):
    ValueError: keys are fetched over https, or from this machine
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        near = ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = host == "localhost"
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and near)) or parts.username is not None:
        raise ValueError("keys are fetched over https, or from this machine")
    return url


def fetch(url: str) -> dict[str, Any]:
    """Fetch a JSON object; blocking.

    Raises
    ------
    OSError, ValueError
        It cannot be had, takes too long, or is none.
    """
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if urlsplit(check_address(url)).scheme == "http":
        handlers.append(urllib.request.ProxyHandler({}))  # what is on this machine is not asked for elsewhere
    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "multiframe"})
    ends = time.monotonic() + _LONGEST_WAIT
    with urllib.request.build_opener(*handlers).open(request, timeout=_WAIT) as answer:
        body = b""
        while piece := answer.read1(64 << 10):
            body += piece
            if len(body) > _LARGEST or time.monotonic() > ends:
                raise ValueError("it is too long, or takes too long")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


class _Proven(NamedTuple):
    access: Access
    until: float  # seconds since 1970


class Issuer:
    """An OpenID provider whose tokens are believed.

    Parameters
    ----------
    issuer : str
        As the claim ``iss`` has it.
    audience : str
        What ``aud`` must name: tokens for others are none for us.
    keys : str or None
        Where its JWK Set is; None: where ``/.well-known/openid-configuration`` below `issuer` says.
    leeway : float
        Seconds by which its clock and ours may differ.

    Raises
    ------
    ValueError
        An address is none that keys may be fetched from.

    References
    ----------
    RFC 7519 4.1, 7.2; RFC 7517; RFC 8725; OpenID Connect Discovery 1.0, 4.
    """

    def __init__(self, issuer: str, audience: str, keys: str | None = None, *, leeway: float = 30.0) -> None:
        self._issuer, self._audience, self._leeway = issuer, audience, leeway
        self._address = check_address(keys) if keys else None
        self._about = "" if keys else check_address(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        self._jwt = jwt.PyJWT(options={"enforce_minimum_key_length": True})
        self._keys: list[dict[str, Any]] = []
        self._fetched = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="keys")  # one: who never answers holds no more than that
        self._proven: OrderedDict[bytes, _Proven] = OrderedDict()

    async def find(self, token: str) -> Access:
        """Give what a token opens.

        Raises
        ------
        BadToken
            Nothing.
        NoKeys
            That cannot be said now.
        """
        digest, now = sha256(token.encode()).digest(), time.time()
        proven = self._proven.get(digest)
        if proven is not None and now < proven.until:
            self._proven.move_to_end(digest)
            return proven.access
        header = _header(token)
        await self._refresh(header)
        claims = self._claims(token, header)
        access = _access(claims)
        self._proven[digest] = _Proven(access, min(float(claims["exp"]) + self._leeway, now + _FRESH))
        if len(self._proven) > _PROVEN:
            self._proven.popitem(last=False)
        return access

    # ------------------------------------------------------------------------------------------------ keys

    async def _refresh(self, header: Mapping[str, Any]) -> None:
        """See to it that there are keys, if they can be had: at once if one is missing, else behind the answer."""
        now = time.monotonic()
        usable = now - self._fetched < _STALE
        known = usable and any(True for _ in self._fitting(header))
        if known and now - self._fetched < _FRESH:
            return
        if self._fetching is None and now - self._tried >= _PAUSE:
            self._tried = now
            self._fetching = asyncio.create_task(self._fetch())
        if self._fetching is not None and not known:
            await asyncio.wait([self._fetching], timeout=_LONGEST_WAIT)
        if time.monotonic() - self._fetched >= _STALE:
            raise NoKeys

    async def _fetch(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            address = self._address
            if address is None:
                told = await loop.run_in_executor(self._pool, fetch, self._about)
                if told.get("issuer") != self._issuer:
                    raise ValueError("that is the configuration of another issuer")
                address = check_address(str(told.get("jwks_uri")))
            keys = (await loop.run_in_executor(self._pool, fetch, address)).get("keys")
            if not isinstance(keys, list):
                raise ValueError("there are no keys")
            self._keys = [key for key in keys[:_MOST_KEYS] if isinstance(key, dict)]
            self._fetched = time.monotonic()
            self._proven.clear()  # a key that is gone proves nothing any more
        except (OSError, ValueError, RecursionError) as error:
            log.warning("the keys of the identity provider cannot be fetched: %s", type(error).__name__)
        finally:
            self._fetching = None

    def _fitting(self, header: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Give the keys that a token may have been signed with."""
        alg, kid = header["alg"], header.get("kid")
        for key in self._keys:
            kind = str(key.get("kty")), str(key.get("crv", ""))
            if alg not in _OF_KEY.get(kind, ()) or key.get("alg", alg) != alg or key.get("use", "sig") != "sig":
                continue
            if kid is None or key.get("kid") == kid:
                yield key

    def close(self) -> None:
        """Fetch nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------------------------------------ tokens

    def _claims(self, token: str, header: Mapping[str, Any]) -> dict[str, Any]:
        wrong = "no key of the identity provider has signed it"
        for key in self._fitting(header):
            try:
                return self._jwt.decode(
                    token,
                    jwt.PyJWK(key, algorithm=header["alg"]),
                    algorithms=[header["alg"]],
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=self._leeway,
                    options={"require": ["exp", "iss", "aud", "sub"]},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.PyJWKError):
                continue  # another key may have the same name, or none of them has one
            except jwt.InvalidTokenError as error:
                wrong = _WRONG.get(type(error), "its claims are not what they should be")
                break
            except (ValueError, TypeError, OverflowError, RecursionError):
                wrong = "it cannot be read"
                break
        raise BadToken(wrong)


_WRONG: Final[Mapping[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not good yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.MissingRequiredClaimError: "it needs the claims exp, iss, aud and sub",
}


def _header(token: str) -> dict[str, Any]:
    if len(token) > _LONGEST_TOKEN:
        raise BadToken("it is too long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise BadToken("it is neither a token of this server nor a JWT") from None
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise BadToken("its signature is of a kind that is not believed")
    if "crit" in header:
        raise BadToken("it wants something understood that is not")  # RFC 7515 4.1.11
    return header


def _access(claims: Mapping[str, Any]) -> Access:
    if not all(isinstance(claims[name], int | float) for name in ("exp", "nbf", "iat") if name in claims):
        raise BadToken("its exp, nbf or iat is no number")  # RFC 7519 2
    who = str(claims["sub"])
    if not 0 < len(who) <= 255 or not who.isprintable():
        raise BadToken("its sub names nobody")
    try:
        return Access(who, actions_of(_words(claims, "scope", "scp")), studies_of(_words(claims, "studies")))
    except ValueError as error:
        raise BadToken(str(error)) from None


def _words(claims: Mapping[str, Any], *names: str) -> list[str]:
    """Give the words of a claim: text with spaces between them, or a list of texts."""
    value = next((claims[name] for name in names if name in claims), "")
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"its {names[0]} is neither a text nor a list of texts")
    return words
