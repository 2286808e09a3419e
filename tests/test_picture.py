"""Pictures of 8 bits: cut, mirrored and scaled as numpy does, written so that others read the same."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from multiframe.picture import LARGEST, MEDIA_TYPES, Viewport, fitted, write

PICTURES = [
    np.random.default_rng(0).integers(0, 256, (30, 50), dtype=np.uint8),
    np.random.default_rng(1).integers(0, 256, (30, 50, 3), dtype=np.uint8),
]


@pytest.mark.parametrize("picture", PICTURES)
def test_cut_and_mirrored_as_numpy(picture):
    def shown(**viewport):
        return fitted(picture, Viewport(**viewport))

    assert np.array_equal(shown(), picture)
    assert np.array_equal(shown(width=50, height=30), picture)
    assert np.array_equal(shown(x=7, y=3, columns=20, rows=10), picture[3:13, 7:27])
    assert np.array_equal(shown(x=40, y=25, columns=20, rows=10), picture[25:, 40:])
    assert np.array_equal(shown(mirrored=True), picture[:, ::-1])
    assert np.array_equal(shown(flipped=True), picture[::-1])
    part = shown(x=7, y=3, columns=20, rows=10, mirrored=True, flipped=True)
    assert np.array_equal(part, picture[3:13, 7:27][::-1, ::-1])


@pytest.mark.parametrize("picture", PICTURES)
def test_scaled_pictures_are_means(picture):
    half = fitted(picture, Viewport(25, 15)).astype(float)
    assert half.shape[:2] == (15, 25)
    means = picture.reshape(15, 2, 25, 2, -1).mean((1, 3)).reshape(half.shape)
    assert np.corrcoef(half.ravel(), means.ravel())[0, 1] > 0.9
    # A constant stays what it is, at any scale, to the edges.
    flat = np.full_like(picture, 77)
    for viewport in (Viewport(25, 15), Viewport(13, 13), Viewport(640, 480), Viewport(9, 9, x=0.5, columns=3.25)):
        assert np.unique(fitted(flat, viewport)).tolist() == [77]
    # Mirrored after it was scaled is scaled after it was mirrored.
    assert np.array_equal(fitted(picture, Viewport(25, 15, mirrored=True)), half[:, ::-1])


@given(
    columns=st.integers(1, 3000),
    rows=st.integers(1, 3000),
    width=st.none() | st.integers(1, 4000),
    height=st.none() | st.integers(1, 4000),
    enlarge=st.booleans(),
)
def test_a_picture_fills_its_viewport_and_never_more(columns, rows, width, height, enlarge):
    try:
        box, (w, h) = Viewport(width, height, enlarge=enlarge).fit(columns, rows)
    except ValueError:
        assert rows / columns * (width or 1) > LARGEST or columns / rows * (height or 1) > LARGEST
        return
    assert list(box) == [0, 0, columns, rows]
    assert w <= (width or w)
    assert h <= (height or h)
    if width is None and height is None:
        assert (w, h) == (columns, rows)
    elif enlarge:
        assert w == width or h == height
    else:
        assert w <= columns
        assert h <= rows
    # Its aspect is kept, to the pixel.
    assert abs(w * rows - h * columns) <= max(rows, columns) or min(w, h) == 1


REACH = st.floats(0, 70, allow_subnormal=False)


@given(
    x=REACH,
    y=REACH,
    columns=st.none() | REACH,
    rows=st.none() | REACH,
    width=st.none() | st.integers(1, 90),
    height=st.none() | st.integers(1, 90),
    mirrored=st.booleans(),
    index=st.integers(0, 1),
)
@settings(deadline=None)
def test_any_part(x, y, columns, rows, width, height, mirrored, index):
    viewport = Viewport(width, height, x, y, columns, rows, mirrored)
    picture = PICTURES[index]
    try:
        shown = fitted(picture, viewport)
    except ValueError as error:
        assert "outside" in str(error) or "most" in str(error)  # noqa: PT017
        return
    assert shown.dtype == np.uint8
    assert shown.shape[:2] == viewport.fit(50, 30).size[::-1]
    assert shown.shape[2:] == picture.shape[2:]


@pytest.mark.parametrize("picture", PICTURES)
def test_written_twice_it_is_the_same_and_others_read_it(picture):
    smooth = np.sort(picture, axis=0)
    for media_type in MEDIA_TYPES:
        written = write(smooth, media_type)
        assert written == write(smooth.copy(), media_type)
        read = Image.open(io.BytesIO(written))
        assert Image.MIME[read.format or ""] == media_type
        mode = "RGB" if picture.ndim == 3 else "L"
        pixels = np.asarray(read.convert(mode)).astype(int)
        far = np.abs(pixels - smooth).mean()
        assert far == 0 if media_type == "image/png" or (media_type == "image/gif" and mode == "L") else far < 12
    noise = [len(write(picture, "image/jpeg", quality=quality)) for quality in (1, 50, 100)]
    assert noise == sorted(noise)
    assert noise[0] < noise[-1] / 2


def test_colour_profiles():
    def profile(name: Literal["sRGB", "LAB"]) -> bytes:
        return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()

    picture = PICTURES[1]
    srgb = profile("sRGB")
    for media_type in ("image/jpeg", "image/png"):
        assert Image.open(io.BytesIO(write(picture, media_type, profile=srgb))).info["icc_profile"] == srgb
        assert "icc_profile" not in Image.open(io.BytesIO(write(picture, media_type))).info
    # From sRGB to sRGB nothing moves; and the profile carries no date, so that the bytes are the same tomorrow.
    turned = Image.open(io.BytesIO(write(picture, "image/png", profile=srgb, srgb=True)))
    assert np.abs(np.asarray(turned).astype(int) - picture).max() <= 1
    assert turned.info["icc_profile"][24:36] == bytes(12)
    for broken in (b"no profile", srgb[:200], profile("LAB")):
        with pytest.raises(ValueError, match="ICC profile"):
            write(picture, "image/png", profile=broken, srgb=True)
