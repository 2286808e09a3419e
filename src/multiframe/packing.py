"""Bytes that are like others, kept as what they have of their own: what is the same is said by where it lies there.

It must not know what the bytes mean, nor where they are kept.
"""

from collections.abc import Iterable, Iterator
from struct import Struct

__all__ = ["Difference", "Run", "whole", "without"]

type Run = tuple[int, int, int]
"""From one byte up to another, the same as what lies so many bytes further on in others."""

_HEAD = Struct("<III")  # bytes of its own, which come next; where others have those behind them, and how many
_LEAST = 24  # bytes that are worth looking up


class Difference:
    """How bytes of one shape differ from others.

    Parameters
    ----------
    size : int
        How many bytes have that shape.
    same : iterable of Run
        What they have in common with the others, in ascending order.

    Examples
    --------
    >>> like = bytes(range(100))
    >>> data = like[:40] + b"something else" + like[50:]
    >>> kept = Difference(len(data), [(0, 40, 0), (54, 104, -4)]).of(data)
    >>> len(kept), whole(kept, like) == data
    (38, True)
    """

    def __init__(self, size: int, same: Iterable[Run]) -> None:
        self._pieces: list[tuple[bytes, int, int]] = []
        at = 0
        for start, stop, by in same:
            if stop - start >= _LEAST:
                self._pieces.append((_HEAD.pack(start - at, start + by, stop - start), at, start))
                at = stop
        if at < size:
            self._pieces.append((_HEAD.pack(size - at, 0, 0), at, size))

    def of(self, data: bytes) -> bytes:
        """Give what some bytes have of their own."""
        out: list[bytes] = []
        for head, start, stop in self._pieces:
            out += head, data[start:stop]
        return b"".join(out)


def whole(kept: bytes, like: bytes) -> bytes:
    """Give the bytes again of which a difference from others was kept."""
    out: list[bytes] = []
    at = 0
    while at < len(kept):
        own, start, size = _HEAD.unpack_from(kept, at)
        at += _HEAD.size
        out += kept[at : at + own], like[start : start + size]
        at += own
    return b"".join(out)


def without(same: Iterable[Run], holes: Iterable[tuple[int, int]]) -> Iterator[Run]:
    """Cut holes, in ascending order, out of what is the same.

    Examples
    --------
    >>> list(without([(0, 50, 7), (60, 70, 8)], [(10, 20), (45, 65)]))
    [(0, 10, 7), (20, 45, 7), (65, 70, 8)]
    """
    holes = list(holes)
    for start, stop, by in same:
        for first, last in holes:
            if first < stop and last > start:
                if first > start:
                    yield start, first, by
                start = last
        if start < stop:
            yield start, stop, by
