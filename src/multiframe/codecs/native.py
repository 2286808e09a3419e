"""Native frames: bytes that are the samples, bare, encapsulated or deflated one by one (PS3.5 8.1.1, A.4.13).

It knows how samples are packed. Frames reach it as little endian bytes whatever the data set was written in,
frames of single bits beginning at a byte: finding and shifting them is the frame index's work.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from multiframe.codecs._pixels import cell, fit, ready, rgb
from multiframe.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.codec import PixelSpec
    from multiframe.ranges import Buffer
    from multiframe.syntaxes import TransferSyntax

__all__ = ["NativeCodec"]


class NativeCodec:
    """Decodes and encodes uncompressed frames and those of Deflated Image Frame Compression.

    Examples
    --------
    >>> from multiframe.codec import PixelSpec
    >>> from multiframe.syntaxes import EXPLICIT_LE, syntax_of
    >>> spec = PixelSpec(rows=1, columns=2, bits_allocated=16, bits_stored=16)
    >>> NativeCodec().decode(bytes.fromhex("0100 ff00"), spec, syntax_of(EXPLICIT_LE))
    array([[  1, 255]], dtype=uint16)
    """

    name = "native"
    decodes = frozenset(f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".2", ".1.98", ".1.99", ".8.1"))
    encodes = frozenset(f"1.2.840.10008.1.2{tail}" for tail in (".1", ".1.98", ".8.1"))
    requires: tuple[str, ...] = ()

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> NDArray[Any]:
        """Decode one frame; see `multiframe.codec.Codec.decode`."""
        cell(spec)
        size = spec.frame_bytes
        if syntax.family == "deflate":
            data = _inflated(data, size)
        raw = memoryview(data).toreadonly()  # the caller's bytes: whatever changes them must copy
        # An Item's value is padded to even length; more than that is no frame of this size.
        if not size <= len(raw) <= size + 1:
            raise DecodeError(f"the frame has {len(raw)} bytes, the data set says {size}: nothing is decoded")
        raw = raw[:size]
        count = spec.rows * spec.columns * spec.samples
        samples: NDArray[Any]
        if spec.bits_allocated == 1:
            samples = np.unpackbits(np.frombuffer(raw, np.uint8), count=count, bitorder="little")
        else:
            samples = np.frombuffer(raw, spec.dtype.newbyteorder("<"))
        if samples.size != count:
            samples = _upsampled(samples, count, spec)
        elif spec.planar and spec.samples > 1:
            samples = samples.reshape(spec.samples, spec.rows, spec.columns).transpose(1, 2, 0)
        bits = spec.bits_stored if spec.kind == "integer" else spec.bits_allocated
        return rgb(fit(self.name, samples.reshape(spec.shape), spec, bits), spec, spec.photometric)

    def holds(self, spec: PixelSpec, syntax: TransferSyntax) -> bool:
        """Anything but luminances that share their colours: pixels have been given their own."""
        return "_42" not in spec.photometric

    def encode(self, pixels: NDArray[Any], spec: PixelSpec, syntax: TransferSyntax) -> bytes:
        """Encode one frame; see `multiframe.codec.Encoder.encode`."""
        pixels = ready(self, pixels, spec, syntax, held=self.holds(spec, syntax))
        if spec.bits_allocated == 1:
            return _deflated(np.packbits(pixels.reshape(-1), bitorder="little").tobytes(), syntax)
        if spec.planar and spec.samples > 1:
            pixels = pixels.transpose(2, 0, 1)
        return _deflated(pixels.astype(spec.dtype.newbyteorder("<"), copy=False).tobytes(), syntax)


def _deflated(frame: bytes, syntax: TransferSyntax) -> bytes:
    if syntax.family != "deflate":
        return frame
    return zlib.compress(frame, wbits=-zlib.MAX_WBITS)


def _inflated(data: Buffer, size: int) -> bytes:
    """Inflate one frame (RFC 1951), never beyond what the frame may have."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        frame = inflater.decompress(data, size + 2)
    except zlib.error:
        raise DecodeError("the deflated frame is damaged") from None
    if len(frame) <= size + 1 and not inflater.eof:
        raise DecodeError(f"the deflated frame is cut short after {len(frame)} of {size} bytes")
    return frame


def _upsampled(samples: NDArray[Any], count: int, spec: PixelSpec) -> NDArray[Any]:
    """Give each pixel of a pair the chrominance they share: Y1 Y2 B R -> Y1 B R, Y2 B R (PS3.3 C.7.6.3.1.2)."""
    if spec.samples != 3 or count % 6:
        raise DecodeError(f"{spec.photometric} needs three samples and pixels in pairs: this frame has neither")
    pairs = samples.reshape(-1, 4)
    full = np.empty((len(pairs), 2, 3), samples.dtype)
    full[:, :, 0] = pairs[:, :2]
    full[:, :, 1:] = pairs[:, None, 2:]
    return full.reshape(-1)
