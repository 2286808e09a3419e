"""Heads of requests that came before but for the number of a frame: they are not parsed again.

A viewer asks for one frame after the other, and nothing else of what it sends differs. Such a head means what the one
before meant, with another number in its path. It is known again by its bytes, all of them.

It knows the first line of HTTP/1.1 and the scope of ASGI. It must not know who answers, nor what a frame is.
"""

from collections import OrderedDict
from typing import Any

__all__ = ["Heads"]

_KEPT = 1024
"""Heads; each takes as much as its bytes twice, and some."""

_LONGEST = 4096
"""Bytes of a head that is kept."""

_DIGITS = 11
_NUMBERED = b"/frames/"
_END = b" HTTP/1.1\r\n"


class Heads:
    r"""What heads meant that may come again.

    Examples
    --------
    >>> heads = Heads()
    >>> head = b"GET /a/frames/%d HTTP/1.1\r\nHost: b\r\n\r\n"
    >>> heads.learn(head % 7, {"path": "/a/frames/7", "raw_path": b"/a/frames/7", "headers": [(b"host", b"b")]})
    >>> heads.scope_of(head % 12)
    {'path': '/a/frames/12', 'raw_path': b'/a/frames/12', 'headers': [(b'host', b'b')]}
    >>> heads.scope_of(head.replace(b"b", b"c") % 12) is None
    True
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[bytes, bytes], tuple[dict[str, Any], str, bytes]] = OrderedDict()

    def learn(self, data: bytes, scope: dict[str, Any]) -> None:
        """Keep what a head meant.

        Parameters
        ----------
        data : bytes
            All that came: a request without a body, and nothing else.
        scope : dict
            What it was parsed to.
        """
        found = _split(data) if len(data) <= _LONGEST else None
        if found is None:
            return
        key, number = found
        raw: bytes = key[0][4:] + number
        # The number is that of the path: neither that of a query nor one in a header.
        if not (key[0].startswith(b"GET ") and key[1].startswith(_END) and scope["raw_path"] == raw):
            return
        if scope["path"] != raw.decode("ascii", "replace") or b"%" in raw:
            return
        self._known[key] = (scope, scope["path"].removesuffix(number.decode()), raw.removesuffix(number))
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)

    def scope_of(self, data: bytes) -> dict[str, Any] | None:
        """Give what a head means; None: none such came before."""
        found = _split(data)
        known = self._known.get(found[0]) if found is not None else None
        if found is None or known is None:
            return None
        self._known.move_to_end(found[0])
        scope, path, raw = known
        return {**scope, "path": path + found[1].decode(), "raw_path": raw + found[1]}


def _split(data: bytes) -> tuple[tuple[bytes, bytes], bytes] | None:
    """Take the number out of a head: what is before and behind it, and the number."""
    at = data.find(_NUMBERED) + len(_NUMBERED)
    end = data.find(b" ", at, at + _DIGITS + 1)
    if at < len(_NUMBERED) or end < 0:
        return None
    number = data[at:end]
    return ((data[:at], data[end:]), number) if number.isdigit() else None
