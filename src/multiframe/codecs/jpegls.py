"""JPEG-LS, lossless and near-lossless, by CharLS (PS3.5 8.2.3, A.4.3).

CharLS holds the GIL while it decodes: whoever serves many readers decodes JPEG-LS in other processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiframe.codecs import _headers
from multiframe.codecs._pixels import IMAGECODECS, agree, fit, integers, ready, rgb, same, shielded, unsigned
from multiframe.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.codec import PixelSpec
    from multiframe.ranges import Buffer
    from multiframe.syntaxes import TransferSyntax

__all__ = ["JpegLsCodec"]

_JPEG_LS = 0xF7 - 0xC0


class JpegLsCodec:
    """Decodes JPEG-LS Lossless and Near-Lossless, 2 to 16 bits, any interleave; encodes Lossless.

    Examples
    --------
    >>> import imagecodecs, numpy
    >>> from multiframe.codec import PixelSpec
    >>> from multiframe.syntaxes import syntax_of
    >>> pixels = numpy.arange(12, dtype="u1").reshape(3, 4)
    >>> spec = PixelSpec(rows=3, columns=4)
    >>> JpegLsCodec().decode(imagecodecs.jpegls_encode(pixels), spec, syntax_of("1.2.840.10008.1.2.4.80"))[2]
    array([ 8,  9, 10, 11], dtype=uint8)
    """

    name = "JPEG-LS"
    decodes = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
    encodes = frozenset({"1.2.840.10008.1.2.4.80"})
    requires = IMAGECODECS

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> NDArray[Any]:
        """Decode one frame; see `multiframe.codec.Codec.decode`."""
        stream = bytes(data)
        header = _headers.jpeg(stream)
        agree(self.name, header, spec)
        if header.process != _JPEG_LS:
            raise DecodeError(f"the codestream is JPEG (SOF{header.process}), the Transfer Syntax says {syntax}")
        if stream.rfind(b"\xff\xd9") < header.at:
            # CharLS reads on behind the end, for seconds, and holds the GIL meanwhile.
            raise DecodeError("the JPEG-LS codestream has no EOI (FFD9): it is cut short")
        with shielded(self.name) as ic:
            pixels = ic.jpegls_decode(stream)
        # JPEG-LS knows no sign: the precision tells where it sits.
        return rgb(fit(self.name, pixels, spec, header.precision), spec, header.colours(spec.photometric))

    def holds(self, spec: PixelSpec, syntax: TransferSyntax) -> bool:
        """2 to 16 bits."""
        return integers(spec, 2, 16)

    def encode(self, pixels: NDArray[Any], spec: PixelSpec, syntax: TransferSyntax) -> bytes:
        """Encode one frame; see `multiframe.codec.Encoder.encode`."""
        pixels = ready(self, pixels, spec, syntax, held=self.holds(spec, syntax))
        with shielded(self.name, encoding=True) as ic:
            data = bytes(ic.jpegls_encode(unsigned(pixels, spec), bitspersample=spec.bits_stored))
        return same(self, data, pixels, spec, syntax)
