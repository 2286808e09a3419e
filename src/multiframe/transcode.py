"""One frame, as it is stored, in another Transfer Syntax; never in one that claims more than the frame has.

What is lossless stays so: nothing here encodes with loss (`multiframe.render` makes pictures to look at). What was
encoded with loss may be given decoded, or encoded once more without further loss; whoever writes a data set around it
says that it was lossy (PS3.3 C.7.6.1.1.5). Samples are given in the colours the data set names, so that a client that
has read the metadata reads them right. It must not know where frames come from, nor HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

from multiframe.codec import PixelSpec, codec_for, encoder_for, rewriter_for
from multiframe.errors import CodecMissing, DecodeError, EncodeError
from multiframe.ranges import Buffer
from multiframe.syntaxes import EXPLICIT_LE, SYNTAXES, TransferSyntax, syntax_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from multiframe.rope import Made, Stored

__all__ = ["decoded_spec", "encoded_spec", "fingerprint", "making", "takes", "targets", "transcode"]


def decoded_spec(spec: PixelSpec, source: TransferSyntax) -> PixelSpec:
    """Say what a frame is once it is decoded, as it is given to who has read the stored data set.

    Colours that a codec undoes, and such as share chrominances, become RGB, pixel by pixel; RGB and YBR_FULL stay what
    they are, by plane where the data set says so.

    Parameters
    ----------
    spec : PixelSpec
        What the data set says.
    source : TransferSyntax
        What the frame is stored in; native frames are decoded already.

    Examples
    --------
    >>> jpeg = syntax_of("1.2.840.10008.1.2.4.50")
    >>> decoded_spec(PixelSpec(480, 640, 3, "YBR_FULL_422"), jpeg).photometric
    'RGB'

    References
    ----------
    PS3.3 C.7.6.3.1.2, C.7.6.3.1.3.
    """
    if not source.encapsulated or spec.samples == 1 or spec.photometric in ("RGB", "YBR_FULL"):
        return spec
    return replace(spec, photometric="RGB", planar=False)


def encoded_spec(spec: PixelSpec, source: TransferSyntax, target: TransferSyntax) -> PixelSpec:
    """Say what a data set says of a frame that was encoded anew.

    Coded data that are only written otherwise stay what they were. Else it is as of `decoded_spec`, by pixel; and RGB
    that JPEG 2000 keeps by its reversible transform is called YBR_RCT.

    Examples
    --------
    >>> encoded_spec(
    ...     PixelSpec(480, 640, 3, "RGB"), syntax_of(EXPLICIT_LE), syntax_of("1.2.840.10008.1.2.4.90")
    ... ).photometric
    'YBR_RCT'

    References
    ----------
    PS3.3 C.7.6.3.1.2; PS3.5 8.2.4.
    """
    if rewriter_for(source, target) is not None:
        return spec
    after = replace(decoded_spec(spec, source), planar=False)
    transformed = after.photometric == "RGB" and target.media_type in ("image/jp2", "image/jphc")
    return replace(after, photometric="YBR_RCT") if transformed else after


@lru_cache(1024)
def targets(spec: PixelSpec, source: TransferSyntax) -> tuple[TransferSyntax, ...]:
    """Say in which Transfer Syntaxes frames can be given: as stored first, then decoded, then all others.

    Examples
    --------
    >>> jpeg = syntax_of("1.2.840.10008.1.2.4.50")
    >>> [t.uid[18:] for t in targets(PixelSpec(480, 640, 3, "YBR_FULL_422"), jpeg)][:3]
    ['4.50', '1', '1.98']
    """
    found = [source]
    try:
        codec_for(source)
    except CodecMissing:
        return (source,)
    after = decoded_spec(spec, source)
    for uid in (EXPLICIT_LE, *SYNTAXES):
        target = syntax_of(uid)
        if target in found:
            continue
        if rewriter_for(source, target) is not None or _holds(after, target):
            found.append(target)
    return tuple(found)


def _holds(spec: PixelSpec, target: TransferSyntax) -> bool:
    try:
        return encoder_for(target).holds(spec, target)
    except CodecMissing:
        return False


def transcode(
    data: Buffer, spec: PixelSpec, source: TransferSyntax, target: TransferSyntax, *, index: int | None = None
) -> bytes:
    """Turn one frame from one Transfer Syntax into another; equal frames give equal bytes.

    Parameters
    ----------
    data : buffer
        The frame as stored, pad byte included.
    spec : PixelSpec
        What the data set says of it.
    target : TransferSyntax
        One of `targets`.
    index : int, optional
        Which frame it is, counted from 0: said in errors.

    Returns
    -------
    bytes
        Without pad byte. Native ones are what `decoded_spec` says.

    Raises
    ------
    DecodeError, EncodeError, CodecMissing
        The frame is damaged, the target does not hold it, or no codec is installed.

    Examples
    --------
    >>> spec = PixelSpec(1, 5)
    >>> rle = transcode(bytes([7, 7, 7, 7, 2]), spec, syntax_of(EXPLICIT_LE), syntax_of("1.2.840.10008.1.2.5"))
    >>> len(rle), transcode(rle, spec, syntax_of("1.2.840.10008.1.2.5"), syntax_of(EXPLICIT_LE)).hex()
    (68, '0707070702')
    """
    try:
        if source == target:
            return bytes(data)
        rewriter = rewriter_for(source, target)
        if rewriter is not None:
            return rewriter.rewrite(_unpadded(data), spec, source, target)
        after = decoded_spec(spec, source)
        return encoder_for(target).encode(_pixels(data, spec, source), after, target)
    except (DecodeError, EncodeError) as error:
        if index is None:
            raise
        raise type(error)(f"frame with index {index}: {error}") from None


def _pixels(data: Buffer, spec: PixelSpec, source: TransferSyntax) -> NDArray[Any]:
    """Decode a frame to what `decoded_spec` says."""
    codec = codec_for(source)
    if spec.photometric != "YBR_FULL" or spec.samples != 3:
        return codec.decode(data, spec, source)
    if source.family == "jpegxl" or (source.family == "jpeg" and source.lossy):
        # These libraries have RGB to give, and nothing else.
        from multiframe.codecs._pixels import ybr_full  # here: NumPy, which who only asks what can be had does not need

        return ybr_full(codec.decode(data, spec, source))
    # What was never lossy must not become so by a rounded colour: YBR_RCT says that samples are not to be turned.
    return codec.decode(data, replace(spec, photometric="YBR_RCT"), source)


def _unpadded(data: Buffer) -> bytes:
    """Take the zero off that made a codestream even (PS3.5 A.4): it would be kept for ever."""
    stream = bytes(data)
    end = stream.rfind(b"\xff\xd9")
    return stream[: end + 2] if end >= 0 and not stream[end + 2 :].strip(b"\0") else stream


@cache
def making(
    spec: PixelSpec, source: TransferSyntax, target: TransferSyntax
) -> Callable[[tuple[Stored, ...], int], Made]:
    """Give what turns the place of a frame, and its index, into the part of a rope that it becomes in another syntax.

    Its size is that of the decoded frame: exact where the target is native, else nobody may rely on it.

    Examples
    --------
    >>> from multiframe.rope import Stored
    >>> spec = PixelSpec(2, 2)
    >>> frame = making(spec, syntax_of("1.2.840.10008.1.2.5"), syntax_of(EXPLICIT_LE))((Stored(0, 70),), 0)
    >>> frame.size
    4
    """
    from multiframe.rope import Made  # here: OpenSSL comes with it, 4 MB that processes which only encode do not need

    size = decoded_spec(spec, source).frame_bytes
    need = takes(spec, source, target)
    key = f"{fingerprint(source, target)} {spec!r}"

    def made(stored: tuple[Stored, ...], i: int) -> Made:
        return Made(stored, size, partial(transcode, spec=spec, source=source, target=target, index=i), key, need)

    return made


_TAKEN = {"jpegxl": 16, "jpeg2000": 9, "": 8}
"""Times the bytes of a decoded frame that encoding it takes, by family; measured, the check of the result included."""

_TAKEN_DECODING = {"jpeg2000": 8, "": 4}
"""The same of decoding alone; JPEG 2000 has 32 bits for each sample."""


def takes(spec: PixelSpec, source: TransferSyntax, target: TransferSyntax | None = None) -> int:
    """Say how many bytes turning a frame into another Transfer Syntax takes at most; None: decoding it.

    Examples
    --------
    >>> takes(PixelSpec(1000, 1000), syntax_of("1.2.840.10008.1.2.4.80"), syntax_of("1.2.840.10008.1.2.4.201"))
    9000000
    """
    decoded = spec.rows * spec.columns * spec.samples * max(1, spec.dtype.itemsize)
    if target is None or not target.encapsulated:
        return decoded * _TAKEN_DECODING.get(source.family, _TAKEN_DECODING[""])
    return decoded * _TAKEN.get(target.family, _TAKEN[""])


@lru_cache(1024)
def fingerprint(source: TransferSyntax, target: TransferSyntax) -> str:
    """Name what turns frames of one syntax into another, in words that change when its result might.

    Examples
    --------
    >>> fingerprint(syntax_of("1.2.840.10008.1.2.4.50"), syntax_of(EXPLICIT_LE)).split()[:2]
    ['1.2.840.10008.1.2.4.50', '1.2.840.10008.1.2.1']
    """
    packages = {"multiframe", *codec_for(source).requires}
    rewriter = rewriter_for(source, target)
    packages.update((rewriter or encoder_for(target)).requires)
    return " ".join([source.uid, target.uid, *(f"{name}={_version(name)}" for name in sorted(packages))])


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # here: 3 MB that processes which decode do not need

    try:
        return version(package)
    except PackageNotFoundError:
        return "?"
