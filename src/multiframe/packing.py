"""Bytes that are the same but in a few places, compressed once: what is the same is deflated for the first only.

A zlib stream may be put together of pieces (RFC 1951 3.2.3): a piece whose compressor looked at nothing before it can
be used again, and what differs is stored as it is. It must not know what the bytes mean, nor where they are kept.
"""

import zlib
from collections.abc import Iterable

__all__ = ["Packer"]

_BEGIN, _END = b"\x78\x01", b"\x03\x00"  # what a zlib stream begins with (RFC 1950 2.2); an empty block, the last one
_NEAR = 48  # bytes between two places that are not worth a piece of their own
_STORED = 0xFFFF  # bytes of one stored block (RFC 1951 3.2.4)


class Packer:
    """Compresses bytes that are like these.

    Parameters
    ----------
    like : bytes
        All others are as long, and the same but in the holes.
    holes : iterable of (int, int)
        From where to where they may differ, in ascending order.

    Examples
    --------
    >>> like = bytes(range(256)) * 4
    >>> packer = Packer(like, [(100, 103)])
    >>> other = like[:100] + b"abc" + like[103:]
    >>> zlib.decompress(packer.packed(other)) == other
    True
    """

    def __init__(self, like: bytes, holes: Iterable[tuple[int, int]]) -> None:
        self._pieces: list[tuple[int, int, bytes | None]] = []  # from, to, and what it is deflated: None, it is stored
        done = 0
        for start, stop in (*holes, (len(like), len(like))):
            if start - done < _NEAR:
                start = done
            else:
                self._pieces.append((done, start, _deflated(like[done:start])))
            if stop > start:
                if self._pieces and self._pieces[-1][2] is None:
                    start = self._pieces.pop()[0]
                self._pieces.append((start, stop, None))
            done = stop

    def packed(self, data: bytes) -> bytes:
        """Give a zlib stream of bytes that are like the first ones."""
        out = [_BEGIN]
        for start, stop, deflated in self._pieces:
            if deflated is not None:
                out.append(deflated)
                continue
            for at in range(start, stop, _STORED):
                some = data[at : min(stop, at + _STORED)]
                size = len(some)
                out += b"\0" + size.to_bytes(2, "little") + (size ^ _STORED).to_bytes(2, "little"), some
        out += _END, zlib.adler32(data).to_bytes(4, "big")
        return b"".join(out)


def _deflated(data: bytes) -> bytes:
    """Deflate a piece that refers to nothing before it, and ends with a byte."""
    deflate = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush(zlib.Z_FULL_FLUSH)
