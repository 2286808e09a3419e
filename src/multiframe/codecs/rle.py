"""RLE Lossless: a PackBits segment for each byte of each sample (PS3.5 Annex G, A.4.2)."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Any

import numpy as np

from multiframe.codecs import _headers
from multiframe.codecs._pixels import IMAGECODECS, cell, fit, ready, rgb, same, shielded
from multiframe.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.codec import PixelSpec
    from multiframe.ranges import Buffer
    from multiframe.syntaxes import TransferSyntax

__all__ = ["RleCodec"]


class RleCodec:
    """Decodes and encodes RLE Lossless, 8 to 64 bits allocated, up to 15 segments.

    Examples
    --------
    >>> from multiframe.codec import PixelSpec
    >>> from multiframe.syntaxes import syntax_of
    >>> frame = bytes.fromhex("01000000 40000000") + bytes(56) + bytes.fromhex("fd07 0002")
    >>> RleCodec().decode(frame, PixelSpec(rows=1, columns=5), syntax_of("1.2.840.10008.1.2.5"))
    array([[7, 7, 7, 7, 2]], dtype=uint8)
    """

    name = "RLE"
    decodes = frozenset({"1.2.840.10008.1.2.5"})
    encodes = decodes
    requires = IMAGECODECS

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> NDArray[Any]:
        """Decode one frame; see `multiframe.codec.Codec.decode`."""
        stream = memoryview(data)
        segments = _headers.rle(stream)
        size = cell(spec)
        if len(segments) != spec.samples * size or spec.bits_allocated == 1 or spec.kind != "integer":
            raise DecodeError(
                f"the RLE frame has {len(segments)} segments, the data set says"
                f" {spec.samples} samples of {spec.bits_allocated} bits: one of them is damaged, nothing is decoded"
            )
        count = spec.rows * spec.columns
        if any(count > 64 * (stop - start) for start, stop in segments):  # two bytes give 128 at most (PS3.5 G.3.1)
            raise DecodeError(f"an RLE segment is too short for the {count} bytes of its plane: nothing is decoded")
        pixels = np.empty(spec.shape, spec.dtype.newbyteorder("<"))
        planes = pixels.view(np.uint8).reshape(count, spec.samples, size)
        for i, (start, stop) in enumerate(segments):
            with shielded(self.name) as ic:
                # Some writers pad a plane to even length. More would be the plane of another picture.
                plane = ic.packbits_decode(stream[start:stop], out=count + 1)
            if len(plane) < count:
                raise DecodeError(f"RLE segment {i} gives {len(plane)} of the {count} bytes of its plane")
            # Most significant byte first (PS3.5 G.2).
            planes[:, i // size, size - 1 - i % size] = np.frombuffer(plane, np.uint8, count)
        return rgb(fit(self.name, pixels, spec, spec.bits_stored), spec, spec.photometric)

    def holds(self, spec: PixelSpec, syntax: TransferSyntax) -> bool:
        """Whole bytes, not more than 15 of them a pixel."""
        size = spec.samples * spec.bits_allocated // 8
        cells = spec.bits_allocated in (8, 16, 32, 64) and spec.kind == "integer"
        return cells and size <= 15 and "_42" not in spec.photometric

    def encode(self, pixels: NDArray[Any], spec: PixelSpec, syntax: TransferSyntax) -> bytes:
        """Encode one frame; see `multiframe.codec.Encoder.encode`."""
        pixels = ready(self, pixels, spec, syntax, held=self.holds(spec, syntax))
        planes = pixels.astype(spec.dtype.newbyteorder(">"), copy=False).view(np.uint8)
        planes = planes.reshape(spec.rows, spec.columns, -1)  # most significant byte first (PS3.5 G.2)
        segments = []
        for i in range(planes.shape[2]):
            with shielded(self.name, encoding=True) as ic:
                segment = bytes(ic.packbits_encode(planes[:, :, i].copy()))  # row by row (G.3.1)
            segments.append(segment + bytes(len(segment) % 2))
        offsets = [64]
        for segment in segments[:-1]:
            offsets.append(offsets[-1] + len(segment))
        head = pack("<16I", len(segments), *offsets, *bytes(15 - len(segments)))
        return same(self, head + b"".join(segments), pixels, spec, syntax)
