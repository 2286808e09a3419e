"""A picture of 8 bits cut, mirrored, scaled and written: a viewport's part of it, as JPEG, PNG or GIF.

It knows rectangles, colour profiles and Pillow. It must not know pixels of other depths, data sets, or who asks. The
same picture and the same wishes give the same bytes, as long as the libraries are the same: `revision` names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from math import log2
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["LARGEST", "MEDIA_TYPES", "QUALITY", "Fitted", "MediaType", "Viewport", "fitted", "revision", "write"]

type MediaType = Literal["image/jpeg", "image/png", "image/gif"]

MEDIA_TYPES: tuple[MediaType, ...] = ("image/jpeg", "image/png", "image/gif")
"""What pictures are written as; the first is the default (PS3.18 8.7.4)."""

QUALITY = 90
"""Of a JPEG, where nobody says."""

LARGEST = 8192
"""Pixels to which a side of a picture may grow."""

_FORMATS: dict[MediaType, str] = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF"}
_DATE = slice(24, 36)  # of an ICC profile's header (ICC.1 7.2.8): when it was made


class Fitted(NamedTuple):
    """What becomes of a picture in a viewport.

    Attributes
    ----------
    box : tuple of float
        The part shown: left, top, right, bottom, in pixels.
    size : tuple of int
        Columns and rows it gets.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Viewport:
    """Where a picture is shown, and which part of it (PS3.18 8.3.5.1.3).

    Attributes
    ----------
    width, height : int or None
        Pixels of the viewport; None: whatever is needed.
    x, y : float
        The top left corner of the part shown, in pixels of the picture.
    columns, rows : float or None
        Its size; None: to the right, to the lower edge. What lies beyond the picture is cut off.
    mirrored, flipped : bool
        Left and right change places; top and bottom do.
    enlarge : bool
        Whether a small picture grows until it fills the viewport.
    """

    width: int | None = None
    height: int | None = None
    x: float = 0.0
    y: float = 0.0
    columns: float | None = None
    rows: float | None = None
    mirrored: bool = False
    flipped: bool = False
    enlarge: bool = True

    def fit(self, columns: int, rows: int) -> Fitted:
        """Fit a picture of that size: as large as can be, its aspect kept.

        Raises
        ------
        ValueError
            The part lies outside of it, or would grow beyond all measure.

        Examples
        --------
        >>> Viewport(256, 256).fit(1024, 768)
        Fitted(box=(0.0, 0.0, 1024.0, 768.0), size=(256, 192))
        >>> Viewport(256, 256, x=1000, y=0, columns=100, rows=12).fit(1024, 768)
        Fitted(box=(1000, 0, 1024.0, 12), size=(256, 128))
        """
        right = float(columns) if self.columns is None else min(self.x + self.columns, float(columns))
        lower = float(rows) if self.rows is None else min(self.y + self.rows, float(rows))
        width, height = right - self.x, lower - self.y
        if not (width > 0 and height > 0):
            raise ValueError(f"the part asked for lies outside of the picture, which has {columns} x {rows} pixels")
        scales = [side / whole for side, whole in ((self.width, width), (self.height, height)) if side is not None]
        scale = min(scales, default=1.0)
        if not self.enlarge:
            scale = min(scale, 1.0)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if scale > 1 and max(size) > LARGEST:
            raise ValueError(f"the picture would have {size[0]} x {size[1]} pixels: {LARGEST} a side are the most")
        return Fitted((self.x, self.y, right, lower), size)


def fitted(picture: NDArray[np.uint8], viewport: Viewport, *, of: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Cut, mirror and scale a picture.

    Parameters
    ----------
    of : tuple of int, optional
        Columns and rows of the picture that this one is a smaller copy of, halved any number of times: the viewport is
        for that one. Its first pixels lie where the whole one's first lie, as wavelets have it.

    Raises
    ------
    ValueError
        As `Viewport.fit`.

    Examples
    --------
    >>> import numpy as np
    >>> fitted(np.array([[1, 2], [3, 4]], "u1"), Viewport(x=0, rows=1, mirrored=True))
    array([[2, 1]], dtype=uint8)
    """
    import numpy as np
    from PIL import Image

    rows, columns = picture.shape[:2]
    box, size = viewport.fit(*(of or (columns, rows)))
    if of is not None and of != (columns, rows):
        step = 2 ** round(log2(max(of) / max(columns, rows)))
        left, top, right, lower = ((edge - 0.5) / step + 0.5 for edge in box)
        box = left, top, right, lower
        # The last edges can lie a little beyond the last pixels' places.
        picture = np.pad(picture, ((0, 1), (0, 1), (0, 0))[: picture.ndim], "edge")
    left, top, right, lower = whole = [round(edge) for edge in box]
    if whole == list(box) and size == (right - left, lower - top):
        shown = picture[top:lower, left:right]  # every pixel as it is
    else:
        # Triangles: no value appears that lies beyond its neighbours', as no ringing around what is bright.
        resized = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, box, reducing_gap=3.0)
        shown = np.asarray(resized)
    return shown[:: -1 if viewport.flipped else 1, :: -1 if viewport.mirrored else 1]


def write(
    picture: NDArray[np.uint8],
    media_type: MediaType,
    *,
    quality: int = QUALITY,
    profile: bytes = b"",
    srgb: bool = False,
) -> bytes:
    """Write a picture.

    Parameters
    ----------
    quality : int
        1 to 100, of a JPEG.
    profile : bytes
        The ICC profile its colours are of; written along where the form has a place for it. Empty: none.
    srgb : bool
        Turn the colours from `profile` into sRGB.

    Raises
    ------
    ValueError
        The profile is damaged, or none of RGB.

    Examples
    --------
    >>> import numpy as np
    >>> write(np.zeros((2, 2), "u1"), "image/png")[1:4]
    b'PNG'
    """
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    if srgb:
        image, profile = _in_srgb(image, profile)
    options: dict[str, object] = {}
    if media_type == "image/jpeg":
        options = {"quality": quality, "subsampling": "4:4:4"}
    if profile and media_type != "image/gif":
        options["icc_profile"] = profile
    written = BytesIO()
    image.save(written, _FORMATS[media_type], **options)
    return written.getvalue()


def _in_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, bytes]:
    from PIL import ImageCms

    # What lcms makes says when it was made: two pictures of one frame would not be the same.
    target = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    target[_DATE] = bytes(12)
    try:
        turned = ImageCms.profileToProfile(image, BytesIO(profile), BytesIO(target))
    except (ImageCms.PyCMSError, OSError):
        raise ValueError("the ICC profile of these pixels is damaged, or is none of RGB") from None
    assert turned is not None
    return turned, bytes(target)


@cache
def revision() -> str:
    """Name what pictures are made with: another version may make other bytes of the same frame.

    Examples
    --------
    >>> revision().split()[0]
    'multiframe'
    """
    from importlib.metadata import version  # here: 3 MB that processes which draw do not need

    return " ".join(f"{name} {version(name)}" for name in ("multiframe", "numpy", "pillow", "imagecodecs"))
