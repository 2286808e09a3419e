"""JPEG 2000 and High-Throughput JPEG 2000, by OpenJPEG and OpenJPH (PS3.5 8.2.4, A.4.4).

Two decoders, because neither will do alone. OpenJPH is several times faster on HT, but as imagecodecs drives it, it
wraps where a lossy picture overshoots black or white, and makes up what a cut stream lacks (both measured):
it is given whole lossless streams only.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2
from typing import TYPE_CHECKING, Any

from multiframe.codecs import _headers
from multiframe.codecs._pixels import IMAGECODECS, agree, compare, fit, integers, ready, rgb, same, shielded
from multiframe.errors import DecodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.codec import PixelSpec
    from multiframe.ranges import Buffer
    from multiframe.syntaxes import TransferSyntax

__all__ = ["Jpeg2000Codec"]

_OPENJPEG_EXACT = 24
"""Bits up to which OpenJPEG gives back what was encoded; from 25 on it does not (measured with 2.5.4)."""


class Jpeg2000Codec:
    """Decodes JPEG 2000 (up to 24 bits) and HTJ2K (lossless up to 32 bits); not Part 2 multi-component.

    Encodes without loss, up to 24 bits, RGB by the reversible transform. All HTJ2K is made in the order and with the
    markers that RPCL asks for (PS3.5 10.18): a tile-part a resolution, told by TLM, the lowest of 64 pixels at most.

    Examples
    --------
    >>> import imagecodecs, numpy
    >>> from multiframe.codec import PixelSpec
    >>> from multiframe.syntaxes import syntax_of
    >>> pixels = numpy.arange(-6, 6, dtype="i2").reshape(3, 4)
    >>> spec = PixelSpec(rows=3, columns=4, bits_allocated=16, bits_stored=16, signed=True)
    >>> Jpeg2000Codec().decode(imagecodecs.htj2k_encode(pixels), spec, syntax_of("1.2.840.10008.1.2.4.201"))[0]
    array([-6, -5, -4, -3], dtype=int16)
    """

    name = "JPEG 2000"
    decodes = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
    encodes = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 201, 202))
    requires = IMAGECODECS

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> NDArray[Any]:
        """Decode one frame; see `multiframe.codec.Codec.decode`."""
        header = _headers.jpeg2000(stream := bytes(data))
        agree(self.name, header, spec)
        # Without its boxes: palettes and colour spaces in there are not DICOM's (PS3.5 A.4.4).
        stream = stream[header.start :]
        openjph = header.whole and header.high_throughput and header.reversible and not syntax.lossy
        if spec.rows == spec.columns == spec.samples and header.precision <= _OPENJPEG_EXACT:
            openjph = False  # it gives some colours by plane, some by pixel: here one cannot be told from the other
        if not openjph and header.precision > _OPENJPEG_EXACT:
            raise DecodeError(f"samples of {header.precision} bits are not decoded exactly by OpenJPEG: refused")
        with shielded(self.name) as ic:
            pixels = ic.htj2k_decode(stream) if openjph else ic.jpeg2k_decode(stream)
        if openjph and pixels.shape == (spec.samples, spec.rows, spec.columns):
            pixels = pixels.transpose(1, 2, 0)  # without a colour transform OpenJPH gives plane by plane
        return rgb(fit(self.name, pixels, spec, header.precision), spec, spec.photometric)

    def reduced(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax, level: int) -> NDArray[Any] | None:
        """Decode one frame at a lower resolution; see `multiframe.codec.Reducer.reduced`.

        OpenJPEG does it, of HT too: as imagecodecs drives OpenJPH, it wraps at lower resolutions.
        """
        header = _headers.jpeg2000(stream := bytes(data))
        agree(self.name, header, spec)
        level = min(level, header.levels)
        if level < 1 or not header.whole or header.precision > _OPENJPEG_EXACT:
            return None
        with shielded(self.name) as ic:
            pixels = ic.jpeg2k_decode(stream[header.start :], skipres=level)
        spec = replace(spec, rows=-(-spec.rows >> level), columns=-(-spec.columns >> level))
        return rgb(fit(self.name, pixels, spec, header.precision), spec, spec.photometric)

    def holds(self, spec: PixelSpec, syntax: TransferSyntax) -> bool:
        """1 to 24 bits; of HTJ2K 3 at least, and two rows and columns: else OpenJPH does not give back what it took."""
        if syntax.media_type != "image/jphc":
            return integers(spec, 1, _OPENJPEG_EXACT)
        return integers(spec, 3, _OPENJPEG_EXACT) and min(spec.rows, spec.columns) > 1

    def encode(self, pixels: NDArray[Any], spec: PixelSpec, syntax: TransferSyntax) -> bytes:
        """Encode one frame; see `multiframe.codec.Encoder.encode`."""
        pixels = ready(self, pixels, spec, syntax, held=self.holds(spec, syntax))
        mixed = spec.photometric == "RGB"
        bits = spec.bits_stored
        if syntax.media_type != "image/jphc":
            with shielded(self.name, encoding=True) as ic:
                data = bytes(
                    ic.jpeg2k_encode(
                        pixels, level=0, reversible=True, codecformat="j2k", bitspersample=bits, mct=mixed, numthreads=1
                    )
                )
            return same(self, data, pixels, spec, syntax)
        with shielded(self.name, encoding=True) as ic:
            data = bytes(
                ic.htj2k_encode(
                    pixels,
                    prog_order="RPCL",
                    tlm=True,
                    tilepart="RESOLUTIONS",
                    resolutions=max(1, ceil(log2(max(spec.rows, spec.columns) / 64))),
                    bitspersample=bits,
                    rgb=mixed,
                )
            )
            # Not by the library that made it: what both of its halves get wrong would never be seen.
            again = ic.jpeg2k_decode(data)
        return compare(self, data, pixels, again)
