"""Pixels -> the 8-bit picture the standard says is seen: Modality LUT, VOI, polarity, palette; and PNG of it.

It knows the greyscale pipeline (PS3.4 N.2.1) and which functional group holds its numbers for a frame. It must not
know how pixels were decoded or who asks. Wrong numbers in a data set (a slope of 0, a window without width,
half a LUT) give a picture without that step, never an exception: the rest of the picture is still right.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

__all__ = ["displayed", "png"]

type _Values = NDArray[np.float64]
type _Step = Callable[[_Values], _Values]

_MOST_SHADES = 1 << 16
_STEEPEST = 60.0  # e**60 is far beyond 8 bits and far within a float


def displayed(pixels: NDArray[Any], dataset: Dataset, index: int) -> NDArray[np.uint8]:
    """Make the 8-bit picture of a frame.

    Grey: Modality LUT or rescale, then the first VOI LUT, else the first window, else from the darkest to the
    brightest value there is (for 8 bits or fewer: to the whole range, lest a cine flicker); MONOCHROME1 inverted.
    Colour: the palette, or RGB brought to 8 bits.

    Parameters
    ----------
    pixels : ndarray
        One frame as a codec gives it: ``(rows, columns)``, or ``(rows, columns, 3)`` as RGB.
    dataset : Dataset
        The instance's; Pixel Data is not needed.
    index : int
        Which frame it is: 0-based, for the functional groups.

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
    if pixels.ndim == 3:
        return _eight_bits(pixels, dataset)
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    signed = bool(np.issubdtype(pixels.dtype, np.signedinteger))
    if photometric == "PALETTE COLOR" and (palette := _palette(dataset, signed=signed)):
        return _each_value(pixels, dataset, palette)
    steps = _steps(dataset, index, signed=signed)
    if photometric == "MONOCHROME1":
        steps.append(lambda light: 1 - light)

    def shades(values: _Values) -> NDArray[np.uint8]:
        for step in steps:
            values = step(values)
        return np.floor(np.nan_to_num(values) * 255 + 0.5).astype(np.uint8)

    return _each_value(pixels, dataset, shades)


def png(picture: NDArray[np.uint8]) -> bytes:
    """Write a picture as PNG; the same picture gives the same bytes.

    Examples
    --------
    >>> png(np.zeros((2, 2), "u1"))[1:4]
    b'PNG'
    """
    from PIL import Image

    written = BytesIO()
    Image.fromarray(picture).save(written, "PNG")
    return written.getvalue()


def _each_value(
    pixels: NDArray[Any], dataset: Dataset, shades: Callable[[_Values], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    """Send each value there is through the pipeline once; the frame is then one look-up."""
    # Absurd numbers in a data set overflow; what comes of it is clipped, and nobody can act on a warning.
    with np.errstate(all="ignore"):
        if np.issubdtype(pixels.dtype, np.integer) and pixels.dtype.itemsize <= 4:
            low, high = int(pixels.min()), int(pixels.max())
            if (bits := _bits_stored(dataset, pixels)) <= 8:
                least = -(1 << bits - 1) if np.issubdtype(pixels.dtype, np.signedinteger) else 0
                low, high = min(low, least), max(high, least + (1 << bits) - 1)
            if high - low < _MOST_SHADES:
                table = shades(np.arange(low, high + 1, dtype=np.float64))
                picture: NDArray[np.uint8] = table.take(np.subtract(pixels, low, dtype=np.intp), axis=0)
                return picture
        return shades(pixels.astype(np.float64))


def _eight_bits(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    full = (1 << _bits_stored(dataset, pixels)) - 1
    if full == 255 and pixels.dtype == np.uint8:
        return pixels.copy()
    light: _Values = np.clip(pixels / full, 0, 1)
    shades: _Values = np.floor(light * 255 + 0.5)
    return shades.astype(np.uint8)


def _steps(dataset: Dataset, index: int, *, signed: bool) -> list[_Step]:
    """Give the way from stored values to light, 0 to 1."""
    steps: list[_Step] = []
    shift = _group(dataset, index, "PixelValueTransformationSequence", "RescaleSlope")
    if (lut := _lut(dataset, "ModalityLUTSequence", signed=signed)) is not None:
        steps.append(lut)
    else:
        # A slope of 0 would paint all black: its writer meant that there is none.
        slope = _number(shift, "RescaleSlope") or 1.0
        intercept = _number(shift, "RescaleIntercept") or 0.0
        steps.append(lambda values: values * slope + intercept)

    if (lut := _lut(dataset, "VOILUTSequence", signed=signed)) is not None:
        full = max((1 << lut.bits) - 1, int(lut.table.max()))
        return [*steps, lut, lambda values: values / full]
    window = _group(dataset, index, "FrameVOILUTSequence", "WindowWidth")
    return [*steps, _window(window) or _stretched]


def _window(dataset: Dataset) -> _Step | None:
    """Give the first window as a step, None when it is none (PS3.3 C.11.2.1.2, C.11.2.1.3)."""
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        return partial(_sigmoid, centre=centre, width=width)
    if function == "LINEAR_EXACT":
        return partial(_linear, centre=centre, width=width)
    return partial(_linear, centre=centre - 0.5, width=width - 1)


def _linear(values: _Values, *, centre: float, width: float) -> _Values:
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _sigmoid(values: _Values, *, centre: float, width: float) -> _Values:
    return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -_STEEPEST, _STEEPEST)))


def _stretched(values: _Values) -> _Values:
    """Spread values from the least to the greatest over all shades."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    # Halves: the difference of two huge numbers may not be a number.
    span = high / 2 - low / 2
    return np.clip((values / 2 - low / 2) / span, 0, 1) if span > 0 else np.zeros_like(values)


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
