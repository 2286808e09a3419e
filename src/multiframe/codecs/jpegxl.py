"""JPEG XL: lossless, recompressed JPEG, lossy, by libjxl (PS3.5 8.2.15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiframe.codecs import _headers
from multiframe.codecs._pixels import IMAGECODECS, agree, fit, integers, ready, same, shielded, unsigned
from multiframe.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.codec import PixelSpec
    from multiframe.ranges import Buffer
    from multiframe.syntaxes import TransferSyntax

__all__ = ["JpegXlCodec"]

_EFFORT = 3
"""Of 1 to 9: frames are made while somebody waits."""


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
    encodes = frozenset({"1.2.840.10008.1.2.4.110"})
    rewrites = frozenset({("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.111")})
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

    def holds(self, spec: PixelSpec, syntax: TransferSyntax) -> bool:
        """1 to 16 bits; colour is RGB."""
        return integers(spec, 1, 16) and spec.photometric != "YBR_FULL"

    def encode(self, pixels: NDArray[Any], spec: PixelSpec, syntax: TransferSyntax) -> bytes:
        """Encode one frame; see `multiframe.codec.Encoder.encode`."""
        pixels = ready(self, pixels, spec, syntax, held=self.holds(spec, syntax))
        with shielded(self.name, encoding=True) as ic:
            data = bytes(
                ic.jpegxl_encode(
                    unsigned(pixels, spec),
                    lossless=True,
                    effort=_EFFORT,
                    bitspersample=spec.bits_stored,
                    usecontainer=False,
                    numthreads=1,
                )
            )
        return same(self, data, pixels, spec, syntax)

    def rewrite(self, data: Buffer, spec: PixelSpec, source: TransferSyntax, target: TransferSyntax) -> bytes:
        """Turn the codestream of one frame into one of another syntax, without decoding it to pixels.

        JPEG becomes JPEG XL with all that is needed to give the very same JPEG back, a fifth smaller.

        Raises
        ------
        DecodeError
            The codestream is not the picture the data set describes.
        EncodeError
            It is of a kind that cannot be rewritten, or does not come back as it was.
        """
        stream = bytes(data)
        agree("JPEG", _headers.jpeg(stream), spec)
        with shielded(self.name, encoding=True) as ic:
            rewritten = bytes(ic.jpegxl_encode_jpeg(stream, numthreads=1))
            again = bytes(ic.jpegxl_decode_jpeg(rewritten, numthreads=1))
        if again != stream:
            raise EncodeError("the JPEG codestream does not come back from JPEG XL as it was: nothing is given")
        return rewritten
