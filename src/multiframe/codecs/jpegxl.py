"""JPEG XL: lossless, recompressed JPEG, lossy, by libjxl (PS3.5 8.2.15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiframe.codecs import _headers
from multiframe.codecs._pixels import IMAGECODECS, agree, fit, shielded
from multiframe.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.codec import PixelSpec
    from multiframe.ranges import Buffer
    from multiframe.syntaxes import TransferSyntax

__all__ = ["JpegXlCodec"]


class JpegXlCodec:
    """Decodes JPEG XL Lossless, JPEG Recompression and JPEG XL, up to 16 bits.

    The decoder gives RGB whatever lies in the codestream: JPEG's YCbCr, XYB or RGB.

    Examples
    --------
    >>> import imagecodecs, numpy
    >>> from multiframe.codec import PixelSpec
    >>> from multiframe.syntaxes import syntax_of
    >>> pixels = numpy.arange(12, dtype="u1").reshape(3, 4)
    >>> frame = imagecodecs.jpegxl_encode(pixels, lossless=True)
    >>> JpegXlCodec().decode(frame, PixelSpec(rows=3, columns=4), syntax_of("1.2.840.10008.1.2.4.110"))[2]
    array([ 8,  9, 10, 11], dtype=uint8)
    """

    name = "JPEG XL"
    decodes = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (110, 111, 112))
    requires = IMAGECODECS

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> NDArray[Any]:
        """Decode one frame; see `multiframe.codec.Codec.decode`."""
        stream = bytes(data)
        header = _headers.jpegxl(stream)
        agree(self.name, header, spec)
        if not syntax.lossy and spec.samples > 1 and spec.photometric.startswith("YBR"):
            # Whether the writer stored YBR samples as they were or let libjxl convert is not told.
            raise DecodeError(f"{spec.photometric} in {syntax}: whether the samples are YBR or RGB is not told")
        with shielded(self.name) as ic:
            # The data set's geometry holds, not an orientation noted inside.
            pixels = ic.jpegxl_decode(stream, keeporientation=True)
        # JPEG XL knows no sign: it sits at Bits Stored, or lower when the codestream has fewer bits.
        return fit(self.name, pixels, spec, min(header.precision, spec.bits_stored))
