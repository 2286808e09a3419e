"""A body in parts, read as it arrives: whatever pieces it comes in, the parts are the same. Pure.

It knows RFC 2046 5.1 (delimiters, preamble, epilogue, the headers of a part) and that a stranger wrote the bytes: what
is held is a head or a delimiter, never a part. It must not know what parts are of, nor where bytes come from.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

__all__ = ["Begun", "Ended", "Malformed", "MultipartReader"]

_HEAD: Final = 16 * 1024
"""Bytes the headers of a part may have."""

_AROUND: Final = 64 * 1024
"""Bytes that may stand before the first part and after the last: they say nothing."""

_PADDING: Final = 64
"""White space that may follow a delimiter on its line ("transport padding")."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 5.6.2
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BOUNDARY = re.compile(r"[\x20-\x7e]{0,69}[\x21-\x7e]")


class Malformed(ValueError):
    """The body is not what RFC 2046 says; the message says what is wrong, and at which byte of it."""


class Begun(NamedTuple):
    """A part begins.

    Attributes
    ----------
    headers : mapping of str to str
        Names in lower case.
    """

    headers: Mapping[str, str]


class Ended(NamedTuple):
    """The part is over."""


type Event = Begun | memoryview | Ended


class MultipartReader:
    r"""Reads a body in parts, piece by piece.

    Parameters
    ----------
    boundary : str
        As the Content-Type names it.

    Raises
    ------
    Malformed
        It is no boundary (RFC 2046 5.1.1): empty, longer than 70 characters, or not printable.

    Examples
    --------
    >>> reader = MultipartReader("b")
    >>> events = [*reader.feed(b"--b\r\nContent-Type: text/plain\r\n\r\ngood"), *reader.feed(b" day\r\n--b--")]
    >>> reader.end()
    >>> [bytes(event) if isinstance(event, memoryview) else event for event in events]
    [Begun(headers={'content-type': 'text/plain'}), b'good', b' day', Ended()]
    """

    def __init__(self, boundary: str) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise Malformed("the boundary is not 1 to 70 printable characters")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # A body may begin with its first delimiter: as if a line had just ended.
        self._held = b"\r\n"
        self._read = -2
        self._around = 0
        self._state = self._before

    def feed(self, data: bytes | bytearray) -> Iterator[Event]:
        """Take the next piece of the body, and give what it brings.

        Raises
        ------
        Malformed
            What has come so far cannot be the beginning of such a body.
        """
        data = self._held + data if self._held else data
        at = 0
        while True:
            state, (events, after) = self._state, self._state(data, at)
            yield from events
            if self._state == state and after == at:
                break
            at = after
        self._held = bytes(data[at:])
        self._read += at

    def end(self) -> None:
        """Say that nothing more comes.

        Raises
        ------
        Malformed
            The last delimiter has not come: the body was cut.
        """
        size = self._read + len(self._held)
        if self._state == self._before:
            raise Malformed(f"the body, of {size} bytes, has no delimiter with the boundary that Content-Type names")
        if self._state != self._after:
            raise Malformed(f"the body ends at byte {size} before its last delimiter")

    # Each state is given all there is, and from where; it says what that brings, and how far it went.

    def _before(self, data: bytes | bytearray, at: int) -> tuple[list[Event], int]:
        stop = self._found(data, at)
        self._skip(stop - at)
        return [], stop

    def _after(self, data: bytes | bytearray, at: int) -> tuple[list[Event], int]:
        self._skip(len(data) - at)
        return [], len(data)

    def _skip(self, size: int) -> None:
        self._around += size
        if self._around <= _AROUND:
            return
        if self._state == self._before:
            raise Malformed(f"{_AROUND} bytes of the body have no delimiter with the boundary that Content-Type names")
        raise Malformed(f"more than {_AROUND} bytes of the body belong to no part")

    def _content(self, data: bytes | bytearray, at: int) -> tuple[list[Event], int]:
        stop = self._found(data, at)
        events: list[Event] = [memoryview(data)[at:stop]] if stop > at else []
        if self._state != self._content:
            events.append(Ended())
        return events, stop

    def _found(self, data: bytes | bytearray, at: int) -> int:
        """Look for a delimiter; say up to where there is none. What is a delimiter the line after it decides."""
        while True:
            found = data.find(self._delimiter, at)
            if found < 0:  # its beginning may be there
                cut = data.find(b"\r", max(at, len(data) - len(self._delimiter) + 1))
                return cut if cut >= 0 else len(data)
            behind = bytes(data[found + len(self._delimiter) : found + len(self._delimiter) + _PADDING + 2])
            line = behind.lstrip(b" \t")
            if behind.startswith(b"--") or line.startswith(b"\r\n"):
                self._state = self._line
                return found
            if b"--".startswith(behind) or b"\r\n".startswith(line):
                if len(behind) > _PADDING:
                    raise Malformed(f"the line of a delimiter is too long at byte {self._read + found}")
                return found  # not yet to be told
            at = found + 1  # a longer boundary, of somebody else's

    def _line(self, data: bytes | bytearray, at: int) -> tuple[list[Event], int]:
        """Read the line of a delimiter: `_found` has seen all of it."""
        behind = at + len(self._delimiter)
        if data.startswith(b"--", behind):
            self._state = self._after
            return [], behind + 2
        self._state = self._head
        return [], data.index(b"\r\n", behind)  # a part without headers begins with an empty line

    def _head(self, data: bytes | bytearray, at: int) -> tuple[list[Event], int]:
        stop = data.find(b"\r\n\r\n", at)
        if (stop if stop >= 0 else len(data)) - at > _HEAD:
            raise Malformed(f"the headers of a part are longer than {_HEAD} bytes at byte {self._read + at}")
        if stop < 0:
            return [], at
        headers = _headers(bytes(data[at + 2 : stop]), self._read + at)
        self._state = self._opening
        return [Begun(headers)], stop + 2

    def _opening(self, data: bytes | bytearray, at: int) -> tuple[list[Event], int]:
        """Pass by the empty line behind the headers, with which the delimiter behind an empty part may begin."""
        stop = self._found(data, at)
        if stop > at + 1:
            self._state = self._content
            return [], at + 2
        return [Ended()] if self._state == self._line else [], at


def _headers(text: bytes, at: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in re.sub(rb"\r\n(?=[ \t])", b"", text).split(b"\r\n") if text else ():
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise Malformed(f"a line of the headers of a part is none, behind byte {at}")
        key = name.decode("ascii").lower()
        if key in headers:
            raise Malformed(f"a part says {key} twice, behind byte {at}")
        headers[key] = value.strip().decode("latin-1")
    return headers
