"""What a proxy says of the request it passes on: Forwarded (RFC 7239) and the X-Forwarded headers before it.

Pure: headers in, an `Origin` out. Anybody can write these headers, so each value is believed only where a trusted proxy
must have written it. It must not know what the base of an address is used for.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Origin", "authority", "forwarded", "networks", "split_host"]

_LOOPBACK = frozenset(("localhost", "127.0.0.1", "[::1]"))
_PORTS = {"http": 80, "https": 443}

type Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST = re.compile(r"([0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[0-9A-Za-z._~-]+){0,16}/?")
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*(?:"([^"\\]*)"|([^\s",;]*))\s*')
_MOST = 4096  # characters of a header: no chain of proxies writes more


class Origin(NamedTuple):
    """What the client asked, as the outermost trusted proxy saw it; empty: it did not say.

    Attributes
    ----------
    scheme : str
        ``http`` or ``https``.
    host : str
        With its port, if it is not the usual one.
    prefix : str
        The path the proxy has taken off, without a slash at its end.
    client : str
        The client's own address.
    """

    scheme: str = ""
    host: str = ""
    prefix: str = ""
    client: str = ""


def split_host(host: str) -> str | None:
    """Give the name in a Host header, in lower case and without its port; None where it is none (RFC 9110 7.2).

    Examples
    --------
    >>> split_host("Images.example.org:8080"), split_host("[::1]:80"), split_host("a@localhost")
    ('images.example.org', '[::1]', None)
    """
    found = _HOST.fullmatch(host)
    return found[1].lower() if found else None


def authority(scheme: str, host: str, server: tuple[str, int | None] | None, *, proxied: bool = False) -> str:
    """Give name and port by which this server was asked for.

    That is the Host header. Where there is none, the socket's address; and its port where the name is this machine's,
    the connection came from it, and the port is not said: dicomweb-client leaves it out, and follows our addresses.

    Parameters
    ----------
    server : tuple of str and int, or None
        Address and port of the socket.
    proxied : bool
        Whether a trusted proxy has passed the request on: then the socket's port is nothing to the client.

    Examples
    --------
    >>> authority("http", "images.example", ("127.0.0.1", 8042)), authority("http", "localhost", ("127.0.0.1", 8042))
    ('images.example', 'localhost:8042')
    >>> authority("http", "", ("::1", 8042)), authority("https", "", ("192.0.2.1", 443))
    ('[::1]:8042', '192.0.2.1')
    """
    if server is None or not (address := _ip(server[0])) or address.is_unspecified:
        return host or "localhost"
    if host and (proxied or host.lower() not in _LOOPBACK or not address.is_loopback):
        return host
    name = host or (f"[{address}]" if address.version == 6 else str(address))
    return name if server[1] in (None, _PORTS.get(scheme)) else f"{name}:{server[1]}"


@lru_cache(8)
def networks(named: tuple[str, ...]) -> tuple[Network, ...]:
    """Read addresses and networks, such as ``10.0.0.0/8``.

    Raises
    ------
    ValueError
        One of them is neither.
    """
    return tuple(ipaddress.ip_network(name, strict=False) for name in named)


def forwarded(headers: Iterable[tuple[str, str]], peer: str | None, trusted: tuple[str, ...]) -> Origin:
    """Tell what the client asked, by the word of trusted proxies.

    Each proxy writes its word behind those it was given. So the last word is our peer's, and counts if our peer is
    trusted; the word before is that of whom our peer names as *its* peer, and counts if that one is trusted too.
    Forwarded goes before X-Forwarded-Proto and X-Forwarded-Host; only X-Forwarded-Prefix knows a prefix.

    Parameters
    ----------
    headers : iterable of (str, str)
        Of the request, names in lower case.
    peer : str or None
        The address the request came from.
    trusted : tuple of str
        Addresses and networks of proxies.

    References
    ----------
    RFC 7239 4, 5, 8.1.

    Examples
    --------
    >>> forwarded([("forwarded", "for=192.0.2.43;host=example.org;proto=https")], "10.0.0.1", ("10.0.0.0/8",))
    Origin(scheme='https', host='example.org', prefix='', client='192.0.2.43')
    >>> forwarded([("x-forwarded-host", "evil.example")], "192.0.2.7", ("10.0.0.0/8",))
    Origin(scheme='', host='', prefix='', client='')
    """
    if not _is_trusted(peer, trusted):
        return Origin()
    told: dict[str, list[str]] = {}
    for name, value in headers:
        if name == "forwarded" or name.startswith("x-forwarded-"):
            told.setdefault(name, []).extend(value[-_MOST:].split(","))
    hops = _hops(told.get("x-forwarded-for", ()), trusted)
    names = ("proto", "host", "prefix", "for")
    scheme, host, prefix, client = (_word(told.get(f"x-forwarded-{name}", ()), hops) for name in names)
    # Split at every comma, also between quotes: what a client began to quote must not swallow what a proxy added.
    elements = [dict(_pairs(element)) for element in told.get("forwarded", ())]
    if elements:
        word = elements[-_hops([element.get("for", "") for element in elements], trusted)]
        scheme, host, client = word.get("proto", ""), word.get("host", ""), word.get("for", "")
    return Origin(
        scheme.lower() if scheme.lower() in ("http", "https") else "",
        host.lower() if split_host(host) else "",
        prefix.rstrip("/") if _PREFIX.fullmatch(prefix) else "",
        _address(client)[:64],
    )


def _pairs(element: str) -> Iterable[tuple[str, str]]:
    for pair in element.split(";"):
        if found := _PAIR.fullmatch(pair):
            yield found[1].lower(), found[2] or found[3] or ""


def _hops(clients: Sequence[str], trusted: tuple[str, ...]) -> int:
    """Count from the end whose word counts: our peer's, and those before it as long as each is trusted."""
    hops = 1
    for client in reversed(clients[1:]):
        if not _is_trusted(_address(client), trusted):
            break
        hops += 1
    return hops


def _word(values: Sequence[str], hops: int) -> str:
    """Give the word of the proxy `hops` from the end; of the first that has one, where not all of them say it."""
    return values[-min(hops, len(values))].strip() if values else ""


def _address(node: str) -> str:
    """Give an address without its port: ``192.0.2.4:47011``, ``[2001:db8::1]:80`` (RFC 7239 6)."""
    node = node.strip()
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node


def _is_trusted(address: str | None, trusted: tuple[str, ...]) -> bool:
    found = _ip(address) if address and trusted else None
    return found is not None and any(found in network for network in networks(trusted))


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
