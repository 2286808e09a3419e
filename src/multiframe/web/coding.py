"""Content codings of what is made while it is sent: zstd and gzip (RFC 9110 8.4.1, RFC 8878).

It knows how bytes are squeezed, piece by piece. It must not know what they are, nor who asked: ``media.choose_coding``
chooses. Frames are never coded again.
"""

import zlib
from collections.abc import Iterator

import zstandard

__all__ = ["Coder", "coded"]

_ZSTD_LEVEL, _GZIP_LEVEL, _GZIP = 3, 1, 31


class Coder:
    """Squeezes a stream.

    Parameters
    ----------
    coding : str
        ``zstd`` or ``gzip``; empty: bytes pass as they are.

    Examples
    --------
    >>> coder = Coder("gzip")
    >>> zlib.decompress(coder.code(b"abc") + coder.flush() + coder.code(b"def") + coder.end(), wbits=31)
    b'abcdef'
    """

    def __init__(self, coding: str) -> None:
        self._zstd = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj() if coding == "zstd" else None
        self._gzip = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP) if coding == "gzip" else None

    def code(self, data: bytes) -> bytes:
        """Take more bytes; give what is ready."""
        squeeze = self._zstd or self._gzip
        return squeeze.compress(data) if squeeze is not None else data

    def flush(self) -> bytes:
        """Give all that was taken so far: who waits for a first byte is not kept waiting."""
        if self._zstd is not None:
            return self._zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        return self._gzip.flush(zlib.Z_SYNC_FLUSH) if self._gzip is not None else b""

    def end(self) -> bytes:
        """Give the rest."""
        if self._zstd is not None:
            return self._zstd.flush()
        return self._gzip.flush() if self._gzip is not None else b""


def coded(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """Squeeze pieces; what comes first is given at once."""
    coder = Coder(coding)
    first = True
    for piece in pieces:
        data = coder.code(piece)
        if first:
            data += coder.flush()
            first = False
        if data:
            yield data
    if rest := coder.end():
        yield rest
