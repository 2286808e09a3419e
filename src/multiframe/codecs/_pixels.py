"""What all codec families do with samples: compare with the data set, fit into its type, turn colour into RGB.

It knows `PixelSpec` and numpy; it must not know any codestream. Results equal those of pydicom's ``pixel_array``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from multiframe.errors import CodecMissing, DecodeError, EncodeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.codec import Codec, PixelSpec
    from multiframe.codecs._headers import Header
    from multiframe.syntaxes import TransferSyntax

__all__ = [
    "IMAGECODECS",
    "agree",
    "cell",
    "compare",
    "fit",
    "integers",
    "ready",
    "rgb",
    "same",
    "shielded",
    "unsigned",
    "ybr_full",
]

IMAGECODECS: tuple[str, ...] = ("imagecodecs",)
"""What `Codec.requires` says of all codecs but the native one."""

_TO_RGB = ((1, 1, 1), (0, -0.114 * 1.772 / 0.587, 1.772), (1.402, -0.299 * 1.402 / 0.587, 0)), 128, 0.5
_TO_YBR = ((0.299, -0.299 / 1.772, 0.701 / 1.402), (0.587, -0.587 / 1.772, -0.587 / 1.402),
           (0.114, 0.886 / 1.772, -0.114 / 1.402)), 0, 128.5  # fmt: skip
"""What pixels are multiplied with, and what is taken from chrominances before and added after (ITU T.871, 7). Written
here, for pydicom's would bring 18 MB of modules into each process that decodes."""

_RETIRED = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420")


@contextmanager
def shielded(name: str, *, encoding: bool = False) -> Iterator[Any]:
    """Give the codec library, and turn whatever it raises into our errors.

    Yields
    ------
    module
        `imagecodecs`, imported on first use.

    Examples
    --------
    >>> with shielded("JPEG-LS") as ic:
    ...     ic.jpegls_decode(b"no codestream")
    Traceback (most recent call last):
        ...
    multiframe.errors.DecodeError: the JPEG-LS codestream is damaged or of a kind its decoder refuses (JpeglsError)
    """
    try:
        import imagecodecs

        yield imagecodecs
    except ImportError as error:
        raise CodecMissing(f"{name} needs imagecodecs: pip install imagecodecs") from error
    except Exception as error:
        # The library's text is left out: nobody promises that it quotes no bytes of the frame.
        if encoding:
            raise EncodeError(f"the {name} encoder refuses these pixels ({type(error).__name__})") from None
        raise DecodeError(
            f"the {name} codestream is damaged or of a kind its decoder refuses ({type(error).__name__})"
        ) from None


def cell(spec: PixelSpec) -> int:
    """Bytes of one sample, after making sure that numpy has such a type.

    Raises
    ------
    DecodeError
        Bits Allocated is neither 1 nor whole bytes, or Bits Stored is more.

    References
    ----------
    PS3.5 8.1.1.
    """
    allowed = (32, 64) if spec.kind == "float" else (1, 8, 16, 32, 64)
    if spec.bits_allocated not in allowed or not 1 <= spec.bits_stored <= spec.bits_allocated:
        raise DecodeError(
            f"{spec.kind} samples of {spec.bits_stored} bits in {spec.bits_allocated}: such samples are not known"
        )
    return spec.dtype.itemsize


def agree(name: str, header: Header, spec: PixelSpec) -> None:
    """Refuse a codestream that is not the picture the data set describes, before anything is allocated.

    Examples
    --------
    >>> from multiframe.codec import PixelSpec
    >>> from multiframe.codecs._headers import Header
    >>> agree("JPEG", Header(4096, 4096, 1, 8), PixelSpec(rows=2, columns=2))
    Traceback (most recent call last):
        ...
    multiframe.errors.DecodeError: the JPEG codestream has 4096 rows x 4096 columns x 1 samples of 8 bits, \
the data set says 2 x 2 x 1 of 8: one of them is damaged, nothing is decoded

    References
    ----------
    PS3.5 8.2: the two shall agree.
    """
    cell(spec)
    samples = header.samples or spec.samples
    same = (header.rows, header.columns, samples) == (spec.rows, spec.columns, spec.samples)
    # Fewer or more bits than Bits Stored are common and harmless; more than Bits Allocated would be cut off.
    if same and spec.kind == "integer" and 1 <= header.precision <= spec.bits_allocated:
        return
    raise DecodeError(
        f"the {name} codestream has {header.rows} rows x {header.columns} columns x {samples} samples"
        f" of {header.precision} bits, the data set says {spec.rows} x {spec.columns} x {spec.samples}"
        f" of {spec.bits_allocated}: one of them is damaged, nothing is decoded"
    )


def fit(name: str, pixels: NDArray[Any], spec: PixelSpec, bits: int) -> NDArray[Any]:
    """Read the low `bits` of each sample as the data set says, signed or not, in an array of its own.

    Examples
    --------
    >>> from multiframe.codec import PixelSpec
    >>> spec = PixelSpec(1, 2, bits_allocated=16, bits_stored=12, signed=True)
    >>> fit("RLE", np.array([[0x0FFF, 0xF001]], "u2"), spec, 12)
    array([[-1,  1]], dtype=int16)

    References
    ----------
    PS3.5 8.1.1: unused high bits are not to be relied on.
    """
    if pixels.shape != spec.shape:
        raise DecodeError(f"the {name} codestream decoded to {pixels.shape}, the data set says {spec.shape}")
    if pixels.dtype != spec.dtype or not (pixels.flags.c_contiguous and pixels.flags.writeable):
        pixels = pixels.astype(spec.dtype, order="C")
    unused = 8 * spec.dtype.itemsize - bits
    if unused > 0:
        np.left_shift(pixels, unused, out=pixels)
        np.right_shift(pixels, unused, out=pixels)
    return pixels


def rgb(pixels: NDArray[Any], spec: PixelSpec, photometric: str) -> NDArray[Any]:
    """Turn colour samples into RGB, in place.

    YBR_ICT and YBR_RCT pass: a JPEG 2000 decoder has undone them, and elsewhere they are labels left behind by one.

    Raises
    ------
    DecodeError
        The colours are of a retired kind, or not of 8 bits.

    References
    ----------
    PS3.3 C.7.6.3.1.2.
    """
    if spec.samples == 1:
        return pixels
    if photometric in _RETIRED:
        raise DecodeError(f"no way from {photometric}, a retired Photometric Interpretation, to RGB is known")
    if photometric not in ("YBR_FULL", "YBR_FULL_422"):
        return pixels
    if pixels.dtype != np.uint8 or spec.samples != 3:
        raise DecodeError(
            f"{photometric} is defined for three samples of 8 bits; here are {spec.samples} {pixels.dtype}"
        )
    return _turned(pixels, *_TO_RGB)


def ybr_full(pixels: NDArray[Any]) -> NDArray[Any]:
    """Turn RGB of 8 bits into YBR_FULL, in place.

    Examples
    --------
    >>> ybr_full(np.array([[[255, 0, 0], [128, 128, 128]]], "u1")).tolist()
    [[[76, 85, 255], [128, 128, 128]]]

    References
    ----------
    PS3.3 C.7.6.3.1.2.
    """
    return _turned(pixels, *_TO_YBR)


def _turned(pixels: NDArray[Any], matrix: Sequence[Sequence[float]], before: int, after: float) -> NDArray[Any]:
    # The conversion works in float: a band at a time, or a frame costs ten times its size.
    turn, band = np.array(matrix, np.float32), max(1, (1 << 18) // max(1, pixels.shape[1]))
    for top in range(0, pixels.shape[0], band):
        part = pixels[top : top + band].astype(np.float32)
        part[..., 1:] -= before
        part = part @ turn + np.array([0.5, after, after], np.float32)
        pixels[top : top + band] = np.clip(np.floor(part, out=part), 0, 255, out=part)
    return pixels


def integers(spec: PixelSpec, least: int, most: int) -> bool:
    """Whether samples are integers of so many bits, one or three to a pixel, each in cells of whole bytes."""
    whole = spec.kind == "integer" and spec.bits_allocated in (8, 16, 32) and spec.samples in (1, 3)
    # Two luminances that share their colours are no samples of equal number.
    return whole and least <= spec.bits_stored <= min(most, spec.bits_allocated) and "_42" not in spec.photometric


def ready(codec: Codec, pixels: NDArray[Any], spec: PixelSpec, syntax: TransferSyntax, *, held: bool) -> NDArray[Any]:
    """Make sure that pixels are what is said of them, and that the syntax holds such.

    Raises
    ------
    EncodeError
        They are not, or it does not.
    """
    if not held:
        raise EncodeError(
            f"{syntax} does not hold {spec.samples} x {spec.photometric} {spec.kind} samples of {spec.bits_stored} bits"
            f" in {spec.bits_allocated}: choose another Transfer Syntax"
        )
    if pixels.shape != spec.shape or pixels.dtype != spec.dtype:
        raise EncodeError(
            f"{codec.name}: pixels {pixels.shape} of {pixels.dtype}, but {spec.shape} of {spec.dtype} are said"
        )
    return np.ascontiguousarray(pixels)


def unsigned(pixels: NDArray[Any], spec: PixelSpec) -> NDArray[Any]:
    """Give samples as codestreams have them that know no sign: two's complement in as many bits as are stored.

    Examples
    --------
    >>> from multiframe.codec import PixelSpec
    >>> unsigned(np.array([[-1, 1]], "i2"), PixelSpec(1, 2, bits_allocated=16, bits_stored=12, signed=True))
    array([[4095,    1]], dtype=uint16)
    """
    if not spec.signed:
        return pixels
    kind = np.dtype(f"u{pixels.dtype.itemsize}")
    low: NDArray[Any] = pixels.view(kind) & kind.type((1 << spec.bits_stored) - 1)
    return low


def same(codec: Codec, data: bytes, pixels: NDArray[Any], spec: PixelSpec, syntax: TransferSyntax) -> bytes:
    """Give a codestream, once it was decoded to the pixels it was made of.

    Raises
    ------
    EncodeError
        It was not.
    """
    try:  # YBR_RCT: they are not to be turned into others
        raw = replace(spec, photometric="YBR_RCT") if spec.photometric == "YBR_FULL" else spec
        again = codec.decode(data, raw, syntax)
    except DecodeError:
        again = None
    return compare(codec, data, pixels, again)


def compare(codec: Codec, data: bytes, pixels: NDArray[Any], again: NDArray[Any] | None) -> bytes:
    """Give a codestream, if what was decoded from it is what it was made of.

    Raises
    ------
    EncodeError
        It is not.
    """
    if again is None or not np.array_equal(again, pixels):
        raise EncodeError(
            f"the pixels do not come back from {codec.name} as they were, or exceed Bits Stored: nothing is given"
        )
    return data
