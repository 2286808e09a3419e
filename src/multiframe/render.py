"""Pixels -> the 8-bit picture the standard says is seen: Modality LUT, VOI, polarity, palette.

It knows the greyscale pipeline (PS3.4 N.2.1) and which functional group holds its numbers for a frame. It must not
know how pixels are decoded, how a picture is written, or who asks. Wrong numbers in a data set (a slope of 0, a
window without width, half a LUT) give a picture without that step, never an exception: the rest of the picture is
still right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from math import isfinite, log2
from struct import pack
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from multiframe.codec import Reducer, codec_for
from multiframe.dicomjson import Items
from multiframe.elements import ITEM, ITEM_END, SEQUENCE_END, Element, Walk
from multiframe.errors import DecodeError, FormatError, TruncatedError
from multiframe.picture import MEDIA_TYPES, QUALITY, MediaType, Viewport, fitted, write

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from multiframe.codec import PixelSpec
    from multiframe.header import Header
    from multiframe.ranges import Buffer
    from multiframe.syntaxes import TransferSyntax

__all__ = ["Facts", "Presentation", "Window", "displayed", "draw", "representative"]

type _Values = NDArray[np.float64]
type _Step = Callable[[_Values], _Values]
type Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

_MOST_SHADES = 1 << 16
_STEEPEST = 60.0  # e**60 is far beyond 8 bits and far within a float
_BAND = 1 << 18  # values that are worked on at once: in float they are eight times as large as in the frame

_FUNCTIONS: dict[str, Function] = {"LINEAR_EXACT": "LINEAR_EXACT", "SIGMOID": "SIGMOID"}
_SEEN = 1 << 16  # bytes of a long header that are seen at once
_REPRESENTATIVE = 0x00286010
_IMAGE, _OPTICAL_PATHS, _SHARED, _PER_FRAME = 0x0028, 0x00480105, 0x52009229, 0x52009230


@dataclass(frozen=True, slots=True)
class Window:
    """Which values are shown between black and white (PS3.3 C.11.2.1.2, C.11.2.1.3).

    Attributes
    ----------
    centre, width : float
        In values behind the Modality LUT.
    function : str
        ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.

    Examples
    --------
    >>> from pydicom.dataset import Dataset
    >>> displayed(np.array([[0, 40, 80]]), Dataset(), 0, window=Window(40, 40, "LINEAR_EXACT"))
    array([[  0, 128, 255]], dtype=uint8)
    """

    centre: float
    width: float
    function: Function = "LINEAR"

    @property
    def valid(self) -> bool:
        """Whether it is one: a width of less than 1 is none for LINEAR."""
        return self.width >= 1 if self.function == "LINEAR" else self.width > 0

    def __call__(self, values: _Values) -> _Values:
        """Turn values into light, 0 to 1."""
        if self.function == "SIGMOID":
            return 1 / (1 + np.exp(np.clip(-4 * (values - self.centre) / self.width, -_STEEPEST, _STEEPEST)))
        centre, width = self.centre, self.width
        if self.function == "LINEAR":
            centre, width = centre - 0.5, width - 1
        if width == 0:
            return (values > centre).astype(np.float64)
        return np.clip((values - centre) / width + 0.5, 0, 1)


class Facts(NamedTuple):
    """What a data set says of how one frame is shown, cut out of it: of 100,000 per-frame groups one.

    Attributes
    ----------
    raw : bytes
        Data elements: the Image Pixel group, ICC profiles, the shared functional groups, and as the only per-frame
        group that of the frame.
    explicit, little : bool
        How they are written.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("liver_1frame.dcm", read=False))
    >>> found = Facts.of(instance.header, 2).dataset()
    >>> len(instance.dataset.PerFrameFunctionalGroupsSequence), len(found.PerFrameFunctionalGroupsSequence)
    (3, 1)
    """

    raw: bytes
    explicit: bool
    little: bool

    @classmethod
    def of(cls, header: Header, index: int, items: Callable[[], Items] | None = None) -> Facts:
        """Cut out what concerns the frame of that index, counted from 0.

        Parameters
        ----------
        items : callable, optional
            Says where the per-frame groups of this header lie, as `Instance.items` does, which finds them once.

        Raises
        ------
        FormatError
            The header cannot be walked to its end.
        """
        explicit, little = header.explicit, header.syntax.little
        order = "<" if little else ">"
        found: list[bytes] = []
        for element, end in _elements(header):
            if element.tag >> 16 == _IMAGE or element.tag in (_OPTICAL_PATHS, _SHARED):
                found.append(header.part(element.at, end))
            elif element.tag == _PER_FRAME:
                for start, stop in (Items(header) if items is None else items()).groups(index, index + 1).items:
                    item = pack(f"{order}HHI", *divmod(ITEM, 1 << 16), stop - start) + header.part(start, stop)
                    found.append(pack(f"{order}HH", *divmod(_PER_FRAME, 1 << 16)))
                    found += [b"SQ\0\0" if explicit else b"", pack(f"{order}I", len(item)), item]
        return cls(b"".join(found), explicit, little)

    def dataset(self) -> Dataset:
        """Let pydicom read them; for `displayed` the frame has index 0 in it.

        Raises
        ------
        FormatError
            It cannot.
        """
        from pydicom.filereader import read_dataset

        try:
            return read_dataset(BytesIO(self.raw), is_implicit_VR=not self.explicit, is_little_endian=self.little)
        except Exception as error:  # whatever pydicom stumbles over, of whatever class
            message = f"pydicom cannot read how the frame is shown ({type(error).__name__}); as stored it can be had"
            raise FormatError(message) from None


@dataclass(frozen=True, slots=True)
class Presentation:
    """How a picture of a frame is wanted (PS3.18 8.3.5).

    Attributes
    ----------
    media_type : str
        One of `multiframe.picture.MEDIA_TYPES`.
    viewport : Viewport
        Its size, and the part of the frame it shows.
    window : Window or None
        None: what the data set says.
    quality : int
        1 to 100, of a JPEG.
    profile : str
        ``no``: the picture has no ICC profile; ``yes``: that of the data set, if it has one; ``srgb``: colours that
        the data set has a profile for are turned into sRGB.
    """

    media_type: MediaType = MEDIA_TYPES[0]
    viewport: Viewport = Viewport()  # noqa: RUF009  # frozen
    window: Window | None = None
    quality: int = QUALITY
    profile: Literal["no", "yes", "srgb"] = "no"


def draw(data: Buffer, spec: PixelSpec, syntax: TransferSyntax, facts: Facts, wanted: Presentation) -> bytes:
    """Decode a frame and write the picture of it: all the work, in one call that can be made in another process.

    Parameters
    ----------
    data : buffer
        The frame, of `syntax`.

    Raises
    ------
    DecodeError, CodecMissing, FormatError
        The frame or its ICC profile is damaged, nothing installed reads it, or pydicom cannot read how it is shown.
    ValueError
        The part of the frame that is wanted lies outside of it.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> (frame,) = instance.encoded([4])
    >>> facts = Facts.of(instance.header, 4)
    >>> draw(frame.data, instance.spec, frame.syntax, facts, Presentation("image/png", Viewport(64, 64)))[1:4]
    b'PNG'
    """
    dataset = facts.dataset()
    pixels = _decoded(data, spec, syntax, dataset, wanted)
    shown = displayed(pixels, dataset, 0, window=wanted.window)
    picture = fitted(shown, wanted.viewport, of=(spec.columns, spec.rows))
    profile = _profile(dataset) if wanted.profile != "no" and picture.ndim == 3 else b""
    srgb = wanted.profile == "srgb" and bool(profile)
    try:
        return write(picture, wanted.media_type, quality=wanted.quality, profile=profile, srgb=srgb)
    except ValueError as error:
        raise FormatError(f"{error}; without it the picture can be had") from None


def _decoded(
    data: Buffer, spec: PixelSpec, syntax: TransferSyntax, dataset: Dataset, wanted: Presentation
) -> NDArray[Any]:
    """Decode a frame: at a lower resolution where that costs less and what is seen is the same."""
    codec = codec_for(syntax)
    box, (columns, rows) = wanted.viewport.fit(spec.columns, spec.rows)
    # At least two pixels for one that is shown: then it is still the mean of them that decides.
    level = int(log2(max(1.0, min((box[2] - box[0]) / columns, (box[3] - box[1]) / rows) / 2)))
    # Indices of a palette have no mean; and the darkest value of a smaller picture is not that of the whole.
    mixes = spec.photometric != "PALETTE COLOR" and (
        spec.samples > 1 or spec.bits_stored <= 8 or bool(wanted.window or _voi(dataset, 0, signed=spec.signed))
    )
    if level and mixes and isinstance(codec, Reducer):
        with suppress(DecodeError):  # the whole frame will tell
            if (pixels := codec.reduced(data, spec, syntax, level)) is not None:
                return pixels
    return codec.decode(data, spec, syntax)


def representative(header: Header, count: int) -> int:
    """Say which of `count` frames stands for all: Representative Frame Number, else the one in the middle.

    Returns
    -------
    int
        Its index, from 0.

    References
    ----------
    PS3.3 C.7.6.6: the attribute counts from 1.

    Examples
    --------
    >>> import multiframe
    >>> from pydicom.data import get_testdata_file
    >>> instance = multiframe.open(get_testdata_file("examples_ybr_color.dcm", read=False))
    >>> representative(instance.header, len(instance))
    15
    """
    for element, end in _elements(header):
        if element.tag == _REPRESENTATIVE and end == element.start + 2:
            number = int.from_bytes(header.part(element.start, end), "little" if header.syntax.little else "big")
            if 1 <= number <= count:
                return number - 1
    return count // 2


def _elements(header: Header) -> Iterator[tuple[Element, int]]:
    """Give the elements of the top level, up to the per-frame groups, and the offset behind each."""
    here = Walk(
        header.dataset_at, explicit=header.explicit, little=header.syntax.little, stop=header.size, descend=False,
        strays=True,
    )  # fmt: skip
    data, base = header.window(here.at, _SEEN)
    begun: Element | None = None
    while here.at < header.size:
        element = here.step(data, base) if base <= here.at < base + len(data) else None
        if element is None:
            data, base = header.window(here.at, _SEEN)
            element = here.step(data, base)
        if element is None:
            raise TruncatedError("the data set ends inside an element", here.at)
        if element.depth:
            continue
        if element.tag == _PER_FRAME:
            yield element, -1
            return
        if element.tag == SEQUENCE_END and begun is not None:
            yield begun, here.at
            begun = None
        elif element.stop < 0:
            begun = element
        elif element.tag not in (ITEM, ITEM_END, SEQUENCE_END):
            yield element, element.stop


def displayed(pixels: NDArray[Any], dataset: Dataset, index: int, *, window: Window | None = None) -> NDArray[np.uint8]:
    """Make the 8-bit picture of a frame.

    Grey: Modality LUT or rescale, then the window asked for, else the first VOI LUT, else the first window, else from
    the darkest to the brightest value there is (for 8 bits or fewer: the whole range, lest a cine flicker);
    MONOCHROME1 inverted. Colour: the palette, or RGB brought to 8 bits; a window is for grey alone.

    Parameters
    ----------
    pixels : ndarray
        One frame as a codec gives it: ``(rows, columns)``, or ``(rows, columns, 3)`` as RGB.
    dataset : Dataset
        The instance's, or what `Facts` has of it; Pixel Data is not needed.
    index : int
        Which frame it is: 0-based, for the functional groups.
    window : Window, optional
        In place of what the data set says.

    Returns
    -------
    ndarray
        ``(rows, columns)`` or ``(rows, columns, 3)``.

    Examples
    --------
    >>> from pydicom.dataset import Dataset
    >>> ct = Dataset()
    >>> ct.RescaleIntercept, ct.RescaleSlope, ct.WindowCenter, ct.WindowWidth = -1024, 1, 40, 400
    >>> displayed(np.array([[0, 1064, 4095]], "u2"), ct, 0)
    array([[  0, 128, 255]], dtype=uint8)

    References
    ----------
    PS3.3 C.7.6.3.1.2, C.7.6.16.2.9, C.7.6.16.2.10, C.11.1, C.11.2; PS3.4 N.2.1.
    """
    if not pixels.size:
        return np.zeros(pixels.shape, np.uint8)
    # Absurd numbers in a data set overflow; what comes of it is clipped, and nobody can act on a warning.
    with np.errstate(all="ignore"):
        if pixels.ndim == 3:
            return _eight_bits(pixels, dataset)
        photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
        signed = bool(np.issubdtype(pixels.dtype, np.signedinteger))
        every = _every_value(pixels, dataset)
        if photometric == "PALETTE COLOR" and (palette := _palette(dataset, signed=signed)):
            return _looked_up(pixels, every, palette)
        modality = _modality(dataset, index, signed=signed)
        voi = window or _voi(dataset, index, signed=signed)
        if voi is None:
            voi = _stretching(pixels if every is None else every, modality)

        def shades(values: _Values) -> NDArray[np.uint8]:
            light = voi(modality(values))
            if photometric == "MONOCHROME1":
                light = 1 - light
            return np.floor(np.nan_to_num(light) * 255 + 0.5).astype(np.uint8)

        return _looked_up(pixels, every, shades)


def _bands(pixels: NDArray[Any]) -> Iterator[slice]:
    """Cut into rows that are worked on together: what is made of them on the way is larger than they are."""
    rows = max(1, _BAND // max(1, pixels[:1].size))
    return (slice(top, top + rows) for top in range(0, len(pixels), rows))


def _every_value(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.int64] | None:
    """Give all values there may be in the frame, each once; None where they are too many to go through."""
    if not (np.issubdtype(pixels.dtype, np.integer) and pixels.dtype.itemsize <= 4):
        return None
    low, high = int(pixels.min()), int(pixels.max())
    if (bits := _bits_stored(dataset, pixels)) <= 8:
        least = -(1 << bits - 1) if np.issubdtype(pixels.dtype, np.signedinteger) else 0
        low, high = min(low, least), max(high, least + (1 << bits) - 1)
    return np.arange(low, high + 1) if high - low < _MOST_SHADES else None


def _looked_up(
    pixels: NDArray[Any], every: NDArray[np.int64] | None, shades: Callable[[_Values], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Send each value there is through the pipeline once; the frame is then one look-up."""
    table = None if every is None else shades(every.astype(np.float64))
    picture: NDArray[np.uint8] | None = None
    for band in _bands(pixels):
        if table is None or every is None:
            shown = shades(pixels[band].astype(np.float64))
        else:
            shown = table.take(np.subtract(pixels[band], every[0], dtype=np.intp), axis=0)
        if picture is None:
            picture = np.empty((*pixels.shape, *shown.shape[2:]), np.uint8)
        picture[band] = shown
    assert picture is not None
    return picture


def _eight_bits(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    full = (1 << _bits_stored(dataset, pixels)) - 1
    if full == 255 and pixels.dtype == np.uint8:
        return pixels.copy()
    picture = np.empty(pixels.shape, np.uint8)
    for band in _bands(pixels):
        picture[band] = np.floor(np.clip(pixels[band] / full, 0, 1) * 255 + 0.5)
    return picture


def _modality(dataset: Dataset, index: int, *, signed: bool) -> _Step:
    """Give the way from stored values to those a window is written for."""
    if (lut := _lut(dataset, "ModalityLUTSequence", signed=signed)) is not None:
        return lut
    shift = _group(dataset, index, "PixelValueTransformationSequence", "RescaleSlope")
    # A slope of 0 would paint all black: its writer meant that there is none.
    slope = _number(shift, "RescaleSlope") or 1.0
    intercept = _number(shift, "RescaleIntercept") or 0.0
    return lambda values: values * slope + intercept


def _voi(dataset: Dataset, index: int, *, signed: bool) -> _Step | None:
    """Give the way from there to light, 0 to 1: the first VOI LUT, else the first window; None where there is none."""
    if (lut := _lut(dataset, "VOILUTSequence", signed=signed)) is not None:
        full = max((1 << lut.bits) - 1, int(lut.table.max()))
        return lambda values: lut(values) / full
    shown = _group(dataset, index, "FrameVOILUTSequence", "WindowWidth")
    centre, width = _number(shown, "WindowCenter"), _number(shown, "WindowWidth")
    if centre is None or width is None:
        return None
    function = _FUNCTIONS.get(str(shown.get("VOILUTFunction")).upper(), "LINEAR")
    window = Window(centre, width, function)
    return window if window.valid else None


def _stretching(values: NDArray[Any], modality: _Step) -> _Step:
    """Give the way that spreads values from the least to the greatest over all shades."""
    ends: list[float] = []
    for band in _bands(values):
        seen = modality(values[band].astype(np.float64))
        seen = seen[np.isfinite(seen)]
        ends += [float(seen.min()), float(seen.max())] if seen.size else []
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    # Halves: the difference of two huge numbers may not be a number.
    span = high / 2 - low / 2
    if not span > 0:
        return np.zeros_like
    return lambda light: np.clip((light / 2 - low / 2) / span, 0, 1)


# --- where the numbers lie


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    from pydicom.sequence import Sequence as Items

    items = dataset.get(keyword)
    return items if isinstance(items, Items) else ()


def _group(dataset: Dataset, index: int, macro: str, keyword: str) -> Dataset:
    """Give what holds a macro's attributes for a frame: its own functional group, the shared one, or the data set."""
    groups = (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0))
    for sequence, i in groups:
        for group in _items(dataset, sequence)[i : i + 1]:
            for found in _items(group, macro)[:1]:
                if keyword in found:
                    return found
    return dataset


def _number(dataset: Dataset, keyword: str) -> float | None:
    """Give the first value of an attribute, None unless it is a number."""
    try:
        value = dataset.get(keyword)
        number = float(value[0] if isinstance(value, MutableSequence) else value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None  # empty, or not a number: as good as absent
    return number if isfinite(number) else None


def _bits_stored(dataset: Dataset, pixels: NDArray[Any]) -> int:
    cell = 8 * pixels.dtype.itemsize
    bits = _number(dataset, "BitsStored") or cell
    return int(bits) if 1 <= bits <= cell else cell


def _profile(dataset: Dataset) -> bytes:
    """Give the ICC profile of its colours (PS3.3 C.11.15); of a slide that of its first optical path."""
    for holder in (dataset, *_items(dataset, "OpticalPathSequence")[:1]):
        if profile := holder.get("ICCProfile"):
            return bytes(profile)
    return b""


@dataclass(frozen=True, slots=True)
class _Lut:
    """A look-up table: input values from `first` on; those beyond take the nearest entry (PS3.3 C.11.1.1)."""

    first: int
    bits: int
    table: NDArray[np.uint16]

    def __call__(self, values: _Values) -> _Values:
        return self.entries(values).astype(np.float64)

    def entries(self, values: _Values) -> NDArray[np.uint16]:
        place = np.clip(np.rint(np.nan_to_num(values)) - self.first, 0, len(self.table) - 1)
        found: NDArray[np.uint16] = self.table.take(place.astype(np.intp))
        return found


def _lut(dataset: Dataset, sequence: str, *, signed: bool) -> _Lut | None:
    for item in _items(dataset, sequence)[:1]:
        return _table(item, "LUTDescriptor", "LUTData", big=_big_endian(dataset), signed=signed)
    return None


def _big_endian(dataset: Dataset) -> bool:
    return dataset.original_encoding[1] is False  # pydicom keeps OW as it was written


def _table(
    item: Dataset, descriptor: str, data: str, *, big: bool, signed: bool, segmented: bool = False
) -> _Lut | None:
    """Read a LUT and its descriptor: entries, first value mapped, bits an entry (PS3.3 C.11.1.1, C.7.6.3.1.5)."""
    try:
        entries, first, bits = (int(n) for n in item[descriptor].value)
        value = item[data].value
        entries = entries or 1 << 16  # 16 bits cannot say 65536
        if isinstance(value, bytes):
            # Entries of 8 bits lie in bytes or in words: the length tells (PS3.3 C.7.6.3.1.5).
            wide = bits > 8 if segmented else len(value) >= 2 * entries
            kind = (">u2" if big else "<u2") if wide else "u1"
            raw = np.frombuffer(value, kind, len(value) // np.dtype(kind).itemsize)
        else:
            raw = np.atleast_1d(np.asarray(value, np.int64)).astype(np.uint16)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None  # not a LUT: as good as absent
    if signed and first >= 1 << 15:
        first -= 1 << 16  # written as unsigned, meant as the pixels are
    table = _expanded(raw, entries) if segmented else raw[:entries].astype(np.uint16)
    return _Lut(first, min(max(bits, 1), 16), table) if len(table) else None


def _expanded(segments: NDArray[Any], entries: int) -> NDArray[np.uint16]:
    """Expand a segmented table, never beyond its entries (PS3.3 C.7.9.2)."""
    table: list[int] = []
    word = segments.itemsize

    def copied(at: int, most: int, *, indirect: bool) -> None:
        while most and at + 2 < len(segments) and len(table) < entries:
            kind, count = int(segments[at]), int(segments[at + 1])
            at += 2
            if kind == 0:  # discrete
                table.extend(segments[at : at + count].tolist())
                at += count
            elif kind == 1 and table:  # linear, from the entry before
                table.extend(np.rint(np.linspace(table[-1], segments[at], count + 1)[1:]).astype(int).tolist())
                at += 1
            elif kind == 2 and indirect:  # segments again, from a byte on; never indirect ones
                pointer = segments[at : at + 4 // word].tobytes()
                low, high = np.frombuffer(pointer.ljust(4, b"\0"), segments.dtype if word == 2 else "<u2").tolist()
                copied((low | high << 16) // word, count, indirect=False)
                at += 4 // word
            else:
                return
            most -= 1

    copied(0, -1, indirect=True)
    return np.array(table[:entries], np.uint16)


def _palette(dataset: Dataset, *, signed: bool) -> Callable[[_Values], NDArray[np.uint8]] | None:
    """Give the way from indices to RGB; None when the data set has no whole palette (PS3.3 C.7.9)."""
    segmented = "RedPaletteColorLookupTableData" not in dataset
    prefix = "Segmented" if segmented else ""
    luts: list[_Lut] = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        lut = _table(
            dataset,
            f"{name}Descriptor",
            f"{prefix}{name}Data",
            big=_big_endian(dataset),
            signed=signed,
            segmented=segmented,
        )
        if lut is None:
            return None
        luts.append(lut)
    # Some writers put 8-bit entries into 16 bits without scaling them: nothing then is above 255.
    shift = 8 if max(int(lut.table.max()) for lut in luts) > 255 else 0
    return lambda values: np.stack([(lut.entries(values) >> shift).astype(np.uint8) for lut in luts], axis=-1)
