"""JPEG: baseline, extended and lossless, by libjpeg-turbo (PS3.5 8.2.1, A.4.1).

It knows which colours a JPEG has and lets libjpeg convert them; JPEG-LS is another family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiframe.codecs import _headers
from multiframe.codecs._pixels import IMAGECODECS, agree, fit, integers, ready, rgb, same, shielded, unsigned
from multiframe.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.codec import PixelSpec
    from multiframe.ranges import Buffer
    from multiframe.syntaxes import TransferSyntax

__all__ = ["JpegCodec"]

_BASELINE, _EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_LOSSLESS = 3
_PROCESSES = (0, 1, 2, _LOSSLESS)
_YCBCR = bytes.fromhex("ffee000e") + b"Adobe" + bytes.fromhex("00640000000001")
"""An Adobe segment that says: the colour is YCbCr."""


class JpegCodec:
    """Decodes JPEG Baseline, Extended (8 and 12 bits) and Lossless (2 to 16 bits); encodes Lossless.

    Colours are those of the codestream: component identifiers R, G, B and the JFIF and Adobe segments
    overrule a Photometric Interpretation that contradicts them.

    Examples
    --------
    >>> import imagecodecs, numpy
    >>> from multiframe.codec import PixelSpec
    >>> from multiframe.syntaxes import syntax_of
    >>> pixels = numpy.arange(12, dtype="u2").reshape(3, 4)
    >>> frame = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=12)
    >>> spec = PixelSpec(rows=3, columns=4, bits_allocated=16, bits_stored=12)
    >>> JpegCodec().decode(frame, spec, syntax_of("1.2.840.10008.1.2.4.70"))[2]
    array([ 8,  9, 10, 11], dtype=uint16)
    """

    name = "JPEG"
    decodes = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70))
    encodes = frozenset({"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"})
    rewrites = frozenset({(_BASELINE, _EXTENDED)})
    requires = IMAGECODECS

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> NDArray[Any]:
        """Decode one frame; see `multiframe.codec.Codec.decode`."""
        stream = bytes(data)
        header = _headers.jpeg(stream)
        agree(self.name, header, spec)
        if header.process not in _PROCESSES:
            raise DecodeError(f"JPEG process SOF{header.process} is none that DICOM uses (PS3.5 8.2.1)")
        if stream.rfind(b"\xff\xd9") < header.at:
            # libjpeg paints what is missing grey and says nothing.
            raise DecodeError("the JPEG codestream has no EOI (FFD9): it is cut short")
        colours = header.colours(spec.photometric)
        ask: dict[str, str] = {}
        if spec.samples == 3:
            # Never let libjpeg guess. Lossless it cannot convert; 8-bit lossy it converts as the standard does.
            ybr = colours.startswith("YBR") and header.process != _LOSSLESS
            ask = {"colorspace": "YCBCR" if ybr else "RGB", "outcolorspace": "RGB"}
            if ybr:
                colours = "RGB"
        with shielded(self.name) as ic:
            pixels = ic.jpeg8_decode(stream, **ask)
        return rgb(fit(self.name, pixels, spec, spec.bits_stored), spec, colours)

    def holds(self, spec: PixelSpec, syntax: TransferSyntax) -> bool:
        """2 to 16 bits; no YBR: libjpeg would take away three of four colours, and say that it is lossless."""
        return integers(spec, 2, 16) and spec.photometric != "YBR_FULL"

    def encode(self, pixels: NDArray[Any], spec: PixelSpec, syntax: TransferSyntax) -> bytes:
        """Encode one frame; see `multiframe.codec.Encoder.encode`."""
        pixels = ready(self, pixels, spec, syntax, held=self.holds(spec, syntax))
        # Its components are called R, G and B.
        ask = {"colorspace": "RGB", "outcolorspace": "RGB"} if spec.samples == 3 else {}
        with shielded(self.name, encoding=True) as ic:
            data = bytes(
                ic.jpeg8_encode(
                    unsigned(pixels, spec), lossless=True, predictor=1, bitspersample=spec.bits_stored, **ask
                )
            )
        return same(self, data, pixels, spec, syntax)

    def rewrite(self, data: Buffer, spec: PixelSpec, source: TransferSyntax, target: TransferSyntax) -> bytes:
        """Say of a codestream of the baseline process that it is one of the extended process; see `Rewriter.rewrite`.

        What the baseline process may do, the extended one with 8 bits may too: tables and entropy-coded data stay as
        they are, and one byte, that of the frame header's marker, becomes another. Colour that no mark tells is
        marked as what it is, in 16 bytes: decoders of the extended process do not guess.

        References
        ----------
        ISO/IEC 10918-1 4.11, B.2.2; ISO/IEC 10918-6 6.5.3 (the Adobe segment); PS3.5 8.2.1, table A.4-1.
        """
        stream = bytes(data)
        header = _headers.jpeg(stream)
        agree(self.name, header, spec)
        if header.process != 0 or header.precision != 8:
            raise EncodeError(
                f"JPEG process SOF{header.process} of {header.precision} bits is not the baseline process"
            )
        if stream.rfind(b"\xff\xd9") < header.at:
            raise DecodeError("the JPEG codestream has no EOI (FFD9): it is cut short")
        told = header.adobe is None and header.colours(spec.photometric).startswith("YBR")
        mark = _YCBCR if told and spec.samples == 3 else b""
        return b"".join((stream[: header.at], mark, b"\xff\xc1", stream[header.at + 2 :]))
