"""How frames become pixels and back: `PixelSpec`, the `Codec` and `Encoder` protocols and the registry.

It knows what a codec is and how one is found; it must not know any codec. A stranger's codec is found as ours are:
by an entry point of the group ``multiframe.codecs``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from multiframe.errors import CodecMissing
from multiframe.ranges import Buffer
from multiframe.syntaxes import TransferSyntax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Codec",
    "Encoder",
    "PixelSpec",
    "Reducer",
    "Rewriter",
    "codec_for",
    "encoded_spec",
    "encoder_for",
    "know",
    "known",
    "rewriter_for",
]


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """What the data set says of its pixels (PS3.3 C.7.6.3).

    Attributes
    ----------
    rows, columns, samples : int
        Shape of one frame.
    photometric : str
        Photometric Interpretation, such as ``MONOCHROME2`` or ``YBR_FULL_422``.
    bits_allocated, bits_stored : int
        Bits of one sample's cell, and of the sample.
    signed : bool
        Pixel Representation is 1.
    planar : bool
        Planar Configuration is 1: native colour by plane.
    kind : str
        ``integer``, or ``float`` for Float and Double Float Pixel Data.
    """

    rows: int
    columns: int
    samples: int = 1
    photometric: str = "MONOCHROME2"
    bits_allocated: int = 8
    bits_stored: int = 8
    signed: bool = False
    planar: bool = False
    kind: Literal["integer", "float"] = "integer"

    @property
    def shape(self) -> tuple[int, ...]:
        """``(rows, columns)`` or ``(rows, columns, samples)``."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame, padding of the whole value aside (PS3.5 8.1.1).

        Examples
        --------
        >>> PixelSpec(rows=2, columns=4, samples=3, photometric="YBR_FULL_422").frame_bits // 8
        16
        """
        samples = self.samples
        if self.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422"):
            samples = 2  # two luminances share one pair of chrominances (PS3.3 C.7.6.3.1.2)
        return self.rows * self.columns * samples * self.bits_allocated

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native frame; the last one may be filled up."""
        return (self.frame_bits + 7) // 8

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type one decoded sample has, in the machine's byte order."""
        import numpy as np

        if self.kind == "float":
            return np.dtype(f"f{self.bits_allocated // 8}")
        if self.bits_allocated == 1:
            return np.dtype("u1")
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


@runtime_checkable
class Codec(Protocol):
    """One family of codestreams.

    A codec is a class without state.

    Attributes
    ----------
    name : str
        Said in messages.
    decodes : frozenset of str
        Transfer Syntax UIDs it decodes.
    requires : tuple of str
        Packages to install, as pip names them.
    """

    name: str
    decodes: frozenset[str]
    requires: tuple[str, ...]

    def decode(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax) -> NDArray[np.generic]:
        """Decode one frame.

        Parameters
        ----------
        data : buffer
            The frame's codestream, pad byte included.
        spec : PixelSpec
            What the header says; a codestream of another size is refused before it is decoded.

        Returns
        -------
        ndarray
            Shape `spec.shape`, type `spec.dtype`; colour as RGB, palette indices and MONOCHROME1 as they are.

        Raises
        ------
        DecodeError
            The codestream is damaged or contradicts `spec`.
        """
        ...


@runtime_checkable
class Encoder(Codec, Protocol):
    """A codec that encodes, too; one that does not has none of these members.

    Attributes
    ----------
    encodes : frozenset of str
        Transfer Syntax UIDs it encodes, each without loss and each decoded as well.
    """

    encodes: frozenset[str]

    def holds(self, spec: PixelSpec, syntax: TransferSyntax) -> bool:
        """Say whether frames of such pixels can be written in a syntax."""
        ...

    def encode(self, pixels: NDArray[np.generic], spec: PixelSpec, syntax: TransferSyntax) -> bytes:
        """Encode one frame, without loss; equal pixels give equal bytes.

        What comes out was decoded again and compared: a library that fails silently is caught here.

        Parameters
        ----------
        pixels : ndarray
            Shape `spec.shape`, type `spec.dtype`, every sample within Bits Stored.
        spec : PixelSpec
            What the pixels are. Colours are left as they are; `encoded_spec` says how the data set names them then.

        Returns
        -------
        bytes
            The codestream, without pad byte.

        Raises
        ------
        EncodeError
            The syntax does not hold such pixels, or they did not come back as they were.
        """
        ...


@runtime_checkable
class Rewriter(Codec, Protocol):
    """A codec that turns codestreams of another syntax into its own, and back, without decoding them to pixels.

    Attributes
    ----------
    rewrites : frozenset of (str, str)
        From which Transfer Syntax UID to which.
    """

    rewrites: frozenset[tuple[str, str]]

    def rewrite(self, data: Buffer, spec: PixelSpec, source: TransferSyntax, target: TransferSyntax) -> bytes:
        """Rewrite one frame so that nothing is lost, not even what was lost before.

        Raises
        ------
        DecodeError
            The codestream is damaged or contradicts `spec`.
        EncodeError
            It is of a kind that cannot be rewritten.
        """
        ...


@runtime_checkable
class Reducer(Codec, Protocol):
    """A codec whose codestreams hold smaller pictures inside, which cost less than the whole one."""

    def reduced(self, data: Buffer, spec: PixelSpec, syntax: TransferSyntax, level: int) -> NDArray[np.generic] | None:
        """Decode one frame halved `level` times, or as often as can be.

        Returns
        -------
        ndarray or None
            As `Codec.decode` gives it, but smaller: a side is divided by a power of 2 and rounded up. None: this
            frame can be had whole only.

        Raises
        ------
        DecodeError
            As `Codec.decode`.
        """
        ...


_known: list[str] = []


def known() -> tuple[str, ...]:
    """Say where the codecs are that are installed, as ``module:class``; of two for one syntax the first is taken.

    Examples
    --------
    >>> known()[0]
    'multiframe.codecs.jpeg:JpegCodec'
    """
    if not _known:
        from importlib.metadata import entry_points  # here: 3 MB that a process which was told does not need

        points = sorted(entry_points(group="multiframe.codecs"), key=lambda p: p.name)
        _known[:] = [f"{point.module}:{point.attr}" for point in points]
    return tuple(_known)


def know(codecs: Iterable[str]) -> None:
    """Take it from another process where the codecs are, instead of looking through all packages for them.

    Examples
    --------
    >>> know(known())
    """
    _known[:] = codecs


@cache
def _codecs() -> tuple[Codec, ...]:
    return tuple(resolve_name(name)() for name in known())


@cache
def _registry() -> dict[str, Codec]:
    found: dict[str, Codec] = {}
    for codec in _codecs():
        for uid in codec.decodes:
            found.setdefault(uid, codec)
    return found


@cache
def _encoders() -> dict[str, Encoder]:
    found: dict[str, Encoder] = {}
    for codec in _codecs():
        if isinstance(codec, Encoder):
            for uid in codec.encodes:
                found.setdefault(uid, codec)
    return found


def codec_for(syntax: TransferSyntax) -> Codec:
    """Find the codec that decodes a syntax.

    Raises
    ------
    CodecMissing
        None of those installed does.

    Examples
    --------
    >>> from multiframe.syntaxes import syntax_of
    >>> codec_for(syntax_of("1.2.840.10008.1.2.4.50")).name
    'JPEG'
    """
    try:
        return _registry()[syntax.uid]
    except KeyError:
        raise CodecMissing(
            f"no installed codec decodes {syntax}; a package that does registers itself as multiframe.codecs"
        ) from None


def encoder_for(syntax: TransferSyntax) -> Encoder:
    """Find the codec that encodes a syntax.

    Raises
    ------
    CodecMissing
        None of those installed does.

    Examples
    --------
    >>> from multiframe.syntaxes import syntax_of
    >>> encoder_for(syntax_of("1.2.840.10008.1.2.4.80")).name
    'JPEG-LS'
    """
    try:
        return _encoders()[syntax.uid]
    except KeyError:
        raise CodecMissing(f"no installed codec encodes {syntax}: nothing can be given in it that is not so") from None


def rewriter_for(source: TransferSyntax, target: TransferSyntax) -> Rewriter | None:
    """Find the codec that rewrites codestreams of one syntax in another; None: they have to be decoded.

    Examples
    --------
    >>> from multiframe.syntaxes import syntax_of
    >>> rewriter_for(syntax_of("1.2.840.10008.1.2.4.50"), syntax_of("1.2.840.10008.1.2.4.111")).name
    'JPEG XL'
    """
    for codec in _codecs():
        if isinstance(codec, Rewriter) and (source.uid, target.uid) in codec.rewrites:
            return codec
    return None


def encoded_spec(spec: PixelSpec, syntax: TransferSyntax) -> PixelSpec:
    """Say what the data set has to say of pixels, once they are encoded without loss.

    Parameters
    ----------
    spec : PixelSpec
        What it says of the pixels as they are.

    Examples
    --------
    >>> from multiframe.syntaxes import syntax_of
    >>> encoded_spec(PixelSpec(2, 2, 3, "RGB"), syntax_of("1.2.840.10008.1.2.4.201")).photometric
    'YBR_RCT'

    References
    ----------
    PS3.3 C.7.6.3.1.2; PS3.5 8.2.4 (the reversible transform of JPEG 2000); PS3.5 Annex G (RLE is colour by plane).
    """
    if spec.samples == 1:
        return spec
    photometric = "YBR_RCT" if syntax.family == "jpeg2000" and spec.photometric == "RGB" else spec.photometric
    planar = spec.planar if syntax.family in ("native", "uncompressed", "deflate") else syntax.family == "rle"
    return replace(spec, photometric=photometric, planar=planar)
