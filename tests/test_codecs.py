"""The codecs against pydicom's, against encoders, against liars and against damage."""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.encoders.native import _encode_segment
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import pixel_array

from multiframe.codec import Codec, Encoder, PixelSpec, encoded_spec, encoder_for, rewriter_for
from multiframe.codecs import _headers
from multiframe.codecs._pixels import rgb, ybr_full
from multiframe.codecs.jpeg import JpegCodec
from multiframe.codecs.jpeg2000 import Jpeg2000Codec
from multiframe.codecs.jpegls import JpegLsCodec
from multiframe.codecs.jpegxl import JpegXlCodec
from multiframe.codecs.native import NativeCodec
from multiframe.codecs.rle import RleCodec
from multiframe.errors import CodecMissing, DecodeError, EncodeError
from multiframe.syntaxes import EXPLICIT_LE, syntax_of

ic: Any = imagecodecs  # its types promise any buffer where bytes come

CODECS: list[Codec] = [JpegCodec(), JpegLsCodec(), Jpeg2000Codec(), JpegXlCodec(), RleCodec(), NativeCodec()]
BY_UID = {uid: codec for codec in CODECS for uid in codec.decodes}
JPEG, JPEG_12, JPEG_LOSSLESS, JPEG_LS = (f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 70, 80))
J2K, J2K_LOSSY, JXL, JXL_JPEG, JXL_LOSSY = (f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 110, 111, 112))
HTJ2K, HTJ2K_LOSSY = (f"1.2.840.10008.1.2.4.{n}" for n in (201, 203))
RLE, ENCAPSULATED, DEFLATED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98", "1.2.840.10008.1.2.8.1"


def decode(frame: Any, spec: PixelSpec, uid: str) -> NDArray[Any]:
    pixels = BY_UID[uid].decode(frame, spec, syntax_of(uid))
    assert pixels.shape == spec.shape
    assert pixels.dtype == spec.dtype
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    return pixels


def grey(bits: int, signed: bool = False, shape: tuple[int, int] = (33, 47), seed: int = 0) -> NDArray[Any]:
    """Smooth with some noise: what both predictors and wavelets have to work at."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    light = np.clip((np.sin(5 * x) + np.cos(3 * y) + 2) / 4 + rng.normal(0, 0.02, shape), 0, 1)
    values = np.round(light * ((1 << bits) - 1)).astype(np.int64) - (1 << bits - 1 if signed else 0)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}")


def colour(shape: tuple[int, int] = (33, 47), dtype: str = "u1") -> NDArray[Any]:
    bits = 8 * np.dtype(dtype).itemsize
    return np.stack([grey(bits, shape=shape, seed=s)[:, ::step] for s, step in ((1, 1), (2, -1), (3, 1))], axis=-1)


def spec_for(pixels: NDArray[Any], stored: int | None = None, **more: Any) -> PixelSpec:
    bits = 8 * pixels.dtype.itemsize
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    more = {"photometric": "MONOCHROME2" if samples == 1 else "RGB", "signed": pixels.dtype.kind == "i"} | more
    return PixelSpec(pixels.shape[0], pixels.shape[1], samples, bits_allocated=bits, bits_stored=stored or bits, **more)


# --- real files: pydicom is the oracle


def _real_files() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package, folder in (("pydicom", "data/test_files"), ("data_store", "data")):
        spec = find_spec(package)
        if spec and spec.origin:
            for path in sorted((Path(spec.origin).parent / folder).rglob("*")):
                if path.is_file() and path.suffix in (".dcm", ""):
                    found.setdefault(path.name, path)
    return found


FILES = _real_files()
_NOT_FOR_PYDICOM = {  # damaged, or beyond its decoders
    "JPEG-lossy.dcm",
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "MR_truncated.dcm",
    "badVR.dcm",
    "meta_missing_tsyntax.dcm",
    "nested_priv_SQ.dcm",
}


@cache
def _read(path: Path) -> Dataset | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(path)
        except Exception:
            return None
    return dataset if {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(dataset.dir()) else None


WITH_PIXELS = [n for n, p in FILES.items() if n not in _NOT_FOR_PYDICOM and _read(p) is not None]


def spec_of(dataset: Dataset) -> PixelSpec:
    return PixelSpec(
        dataset.Rows,
        dataset.Columns,
        dataset.SamplesPerPixel,
        dataset.PhotometricInterpretation,
        dataset.BitsAllocated,
        dataset.get("BitsStored", dataset.BitsAllocated),
        bool(dataset.get("PixelRepresentation", 0)),
        bool(dataset.get("PlanarConfiguration", 0)),
    )


def frame_of(dataset: Dataset, index: int) -> bytes:
    """One frame as the library hands it to a codec: native ones little endian, single bits at a byte's border."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        return get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames", 1)))
    element = dataset["PixelData"]
    data, bits = np.frombuffer(element.value, np.uint8), spec_of(dataset).frame_bits
    if not syntax.is_little_endian:
        cell = max(dataset.BitsAllocated // 8, 2 if element.VR == "OW" and dataset.BitsAllocated == 8 else 1)
        data = data.reshape(-1, cell)[:, ::-1].reshape(-1)
    if bits % 8:
        return np.packbits(np.unpackbits(data, bitorder="little")[index * bits :][:bits], bitorder="little").tobytes()
    return data[index * bits // 8 : (index + 1) * bits // 8].tobytes()


@pytest.mark.parametrize("name", WITH_PIXELS)
def test_as_pydicom_decodes(name):
    dataset = _read(FILES[name])
    assert dataset is not None
    uid = str(dataset.file_meta.TransferSyntaxUID)
    for index in {0, int(dataset.get("NumberOfFrames", None) or 1) - 1}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Pillow stands on libjpeg-turbo as we do; libjpeg's own upsampling of colour differs by more than rounding.
            plugin = "pillow" if uid == JPEG else ""
            expected = pixel_array(dataset, index=index, decoding_plugin=plugin)
        got = decode(frame_of(dataset, index), spec_of(dataset), uid)
        tolerance = 2 if uid in (JPEG, JPEG_12) else 0
        assert np.abs(got.astype(np.int64) - expected).max() <= tolerance


def test_files_beyond_pydicom():
    dataset = _read(FILES["JPEG-lossy.dcm"])
    assert dataset is not None
    got = decode(frame_of(dataset, 0), spec_of(dataset), JPEG_12)
    # The same picture, written so that pydicom's decoders can read it.
    twin = _read(FILES["JPGExtended.dcm"])
    assert twin is not None
    assert np.array_equal(got, decode(frame_of(twin, 0), spec_of(twin), JPEG_12))


def test_enough_real_files():
    assert len(WITH_PIXELS) >= 100
    seen = {str(d.file_meta.TransferSyntaxUID) for d in (_read(FILES[n]) for n in WITH_PIXELS) if d is not None}
    assert seen >= {JPEG, JPEG_12, JPEG_LOSSLESS, JPEG_LS, J2K, J2K_LOSSY, RLE, EXPLICIT_LE}


# --- round trips


@given(bits=st.integers(2, 16), predictor=st.integers(1, 7), seed=st.integers(0, 99), pad=st.booleans())
@settings(max_examples=25, deadline=None)
def test_jpeg_lossless(bits, predictor, seed, pad):
    pixels = grey(bits, seed=seed)
    frame = ic.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)
    assert np.array_equal(decode(frame + b"\0" * pad, spec_for(pixels, bits), JPEG_LOSSLESS), pixels)


@given(bits=st.integers(2, 16), signed=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_jpeg_ls(bits, signed, seed):
    pixels = grey(bits, signed, seed=seed)
    stored = pixels.view(f"u{pixels.itemsize}") & ((1 << bits) - 1)
    frame = ic.jpegls_encode(stored, bitspersample=bits)
    assert np.array_equal(decode(frame, spec_for(pixels, bits), JPEG_LS), pixels)


@given(bits=st.integers(1, 24), signed=st.booleans(), seed=st.integers(0, 99), lossy_label=st.booleans())
@settings(max_examples=25, deadline=None)
def test_jpeg2000(bits, signed, seed, lossy_label):
    pixels = grey(bits, signed, seed=seed)
    frame = ic.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k", bitspersample=bits)
    assert np.array_equal(decode(frame, spec_for(pixels, bits), J2K_LOSSY if lossy_label else J2K), pixels)


@given(bits=st.integers(1, 32), signed=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_htj2k(bits, signed, seed):
    pixels = grey(bits, signed, seed=seed)
    frame = ic.htj2k_encode(pixels, reversible=True, bitspersample=bits)
    assert np.array_equal(decode(frame, spec_for(pixels, bits), HTJ2K), pixels)


@given(bits=st.integers(8, 16), signed=st.booleans(), seed=st.integers(0, 99), told=st.booleans())
@settings(max_examples=25, deadline=None)
def test_jpeg_xl(bits, signed, seed, told):
    pixels = grey(bits, signed, seed=seed)
    stored = pixels.view(f"u{pixels.itemsize}") & ((1 << bits) - 1)
    frame = ic.jpegxl_encode(stored, lossless=True, bitspersample=bits if told else None)
    assert np.array_equal(decode(frame, spec_for(pixels, bits), JXL), pixels)


@given(cell=st.sampled_from([1, 2, 4]), signed=st.booleans(), samples=st.sampled_from([1, 3]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_rle(cell, signed, samples, seed):
    rng = np.random.default_rng(seed)
    shape = (9, 14) if samples == 1 else (9, 14, samples)
    # Long runs and noise side by side.
    pixels = (rng.integers(0, 1 << 8 * cell, shape) * (rng.random(shape) < 0.5)).astype(f"u{cell}")
    spec = spec_for(pixels)
    frame = rle_frame(pixels)
    assert np.array_equal(decode(frame, spec, RLE), pixels)
    if signed and samples == 1:
        assert np.array_equal(decode(frame, spec_for(pixels.view(f"i{cell}")), RLE), pixels.view(f"i{cell}"))


def rle_frame(pixels: NDArray[Any]) -> bytes:
    """Encode as PS3.5 G.3 says, a row at a time, by pydicom's packer."""
    columns = pixels.shape[1]
    cells = pixels.view(np.uint8).reshape(*pixels.shape[:2], -1, pixels.itemsize)[..., ::-1]
    planes = cells.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    segments = [bytes(_encode_segment(plane.tobytes(), columns)) for plane in planes]
    offsets = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)


@pytest.mark.parametrize("uid", [EXPLICIT_LE, ENCAPSULATED, DEFLATED])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_native_colour(uid, planar, dtype):
    pixels = colour((5, 7), dtype)
    raw = (pixels.transpose(2, 0, 1) if planar else pixels).tobytes()
    assert np.array_equal(decode(_packed(raw, uid), spec_for(pixels, planar=planar), uid), pixels)


@pytest.mark.parametrize("uid", [EXPLICIT_LE, ENCAPSULATED, DEFLATED])
def test_native_other(uid):
    bits = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1]], "u1")
    spec = PixelSpec(2, 5, bits_allocated=1, bits_stored=1)
    assert np.array_equal(decode(_packed(np.packbits(bits, bitorder="little").tobytes(), uid), spec, uid), bits)
    for dtype in ("f4", "f8"):
        floats = np.linspace(-1e30, 1e30, 6).astype(dtype).reshape(2, 3)
        spec = PixelSpec(2, 3, bits_allocated=8 * floats.itemsize, bits_stored=8 * floats.itemsize, kind="float")
        assert np.array_equal(decode(_packed(floats.tobytes(), uid), spec, uid), floats)
    # Y1 Y2 B R of two pixels: red, then a brighter red (PS3.3 C.7.6.3.1.2).
    spec = PixelSpec(1, 2, 3, "YBR_FULL_422")
    assert decode(_packed(bytes([76, 90, 84, 255]), uid), spec, uid).tolist() == [[[254, 0, 0], [255, 14, 12]]]


def _packed(raw: bytes, uid: str) -> bytes:
    if uid == DEFLATED:
        deflater = zlib.compressobj(wbits=-15)
        raw = deflater.compress(raw) + deflater.flush()
    return raw + b"\0" * (len(raw) % 2)


def test_native_leaves_its_input_alone():
    data = bytearray(b"\xff\xff" * 6)
    spec = PixelSpec(2, 3, bits_allocated=16, bits_stored=12, signed=True)
    assert decode(data, spec, EXPLICIT_LE).tolist() == [[-1] * 3] * 2
    assert data == b"\xff\xff" * 6


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: memoryview(b"x" + b)[1:]])
@pytest.mark.parametrize("uid", [JPEG_LOSSLESS, JPEG_LS, J2K, HTJ2K, JXL, RLE, EXPLICIT_LE])
def test_any_buffer(uid, kind):
    frame, spec, pixels = SEEDS[uid]()
    assert np.array_equal(decode(kind(frame), spec, uid), pixels)


# --- colour


@pytest.mark.parametrize("uid", [JPEG_LOSSLESS, JPEG_LS, J2K, HTJ2K, JXL])
def test_lossless_colour(uid):
    pixels = colour()
    encoders: dict[str, Callable[[], bytes]] = {
        JPEG_LOSSLESS: lambda: ic.jpeg8_encode(pixels, lossless=True, predictor=1),
        JPEG_LS: lambda: ic.jpegls_encode(pixels),
        J2K: lambda: ic.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="jp2"),
        HTJ2K: lambda: ic.htj2k_encode(pixels, reversible=True, rgb=True),
        JXL: lambda: ic.jpegxl_encode(pixels, lossless=True),
    }
    assert np.array_equal(decode(encoders[uid](), spec_for(pixels), uid), pixels)


def test_jpeg_says_its_colours():
    pixels = colour()
    ybr = ic.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="YCBCR", subsampling="444")
    rgb = ic.jpeg8_encode(pixels, level=95, colorspace="RGB", outcolorspace="RGB")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    jfif = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    bare = ybr[:2] + ybr[2 + 2 + struct.unpack_from(">H", ybr, 4)[0] :] if ybr[2:4] == b"\xff\xe0" else ybr
    for frame, photometric in (
        (bare, "YBR_FULL_422"),
        (bare, "YBR_PARTIAL_422"),  # a label of old ultrasound devices on common JPEG
        (bare[:2] + jfif + bare[2:], "RGB"),
        (bare[:2] + adobe + b"\x01" + bare[2:], "RGB"),
        (rgb, "RGB"),
    ):
        got = decode(frame, spec_for(pixels, photometric=photometric), JPEG)
        assert np.abs(got.astype(int) - pixels).mean() < 4, photometric
    # Named R, G, B: whatever the data set says.
    at = _headers.jpeg(rgb).at
    named = bytearray(rgb)
    scan = rgb.index(b"\xff\xda")
    for i, name in enumerate(b"RGB"):
        named[at + 10 + 3 * i] = named[scan + 5 + 2 * i] = name
    assert np.abs(decode(named, spec_for(pixels, photometric="YBR_FULL"), JPEG).astype(int) - pixels).mean() < 4


def test_colours_are_turned_round_as_pydicom_does_it():
    """Ours brings no pydicom into a process that decodes; and a band of rows at a time takes less memory."""
    every = np.arange(0, 256, 3, dtype="u1")
    colours = np.stack(np.meshgrid(every, every, every, indexing="ij"), -1).reshape(86, -1, 3)
    spec = PixelSpec(*colours.shape, "YBR_FULL")
    assert np.array_equal(rgb(colours.copy(), spec, "YBR_FULL"), convert_color_space(colours, "YBR_FULL", "RGB"))
    assert np.array_equal(ybr_full(colours.copy()), convert_color_space(colours, "RGB", "YBR_FULL"))


def test_lossless_jpeg_in_ybr_is_converted():
    from pydicom.pixels.processing import convert_color_space

    ybr = colour()
    frame = ic.jpeg8_encode(ybr, lossless=True, predictor=1, colorspace="RGB", outcolorspace="RGB")
    expected = convert_color_space(ybr, "YBR_FULL", "RGB")
    spec = spec_for(ybr, photometric="YBR_FULL")
    at, scan = _headers.jpeg(frame).at, frame.index(b"\xff\xda")
    plain = bytearray(frame)
    for i in range(3):
        plain[at + 10 + 3 * i] = plain[scan + 5 + 2 * i] = i + 1
    assert np.array_equal(decode(plain, spec, JPEG_LOSSLESS), expected)
    assert np.array_equal(decode(ic.jpegls_encode(ybr), spec, JPEG_LS), expected)
    assert np.array_equal(decode(rle_frame(ybr), spec, RLE), expected)
    assert np.array_equal(decode(ybr.tobytes(), spec, EXPLICIT_LE), expected)


def test_retired_colours_are_refused():
    pixels = colour()
    for photometric in ("HSV", "CMYK", "YBR_PARTIAL_420"):
        with pytest.raises(DecodeError, match=photometric):
            decode(pixels.tobytes(), spec_for(pixels, photometric=photometric), EXPLICIT_LE)
    deep = colour(dtype="u2")
    with pytest.raises(DecodeError, match="8 bits"):
        decode(deep.tobytes(), spec_for(deep, photometric="YBR_FULL"), EXPLICIT_LE)
    with pytest.raises(DecodeError, match="not told"):
        decode(ic.jpegxl_encode(pixels, lossless=True), spec_for(pixels, photometric="YBR_FULL"), JXL)


def test_jpeg_xl_of_a_jpeg():
    pixels = colour((40, 48))
    spec = spec_for(pixels, photometric="YBR_FULL_422")
    jpeg = ic.jpeg8_encode(pixels, level=90, colorspace="RGB", outcolorspace="YCBCR")
    for container in (False, True):
        got = decode(ic.jpegxl_encode_jpeg(jpeg, usecontainer=container), spec, JXL_JPEG)
        assert np.abs(got.astype(int) - decode(jpeg, spec, JPEG)).mean() < 1
    lossy = decode(ic.jpegxl_encode(pixels, distance=1.0), spec_for(pixels, photometric="XYB"), JXL_LOSSY)
    assert np.abs(lossy.astype(int) - pixels).mean() < 6


def test_lossy_htj2k_is_clamped_not_wrapped():
    """OpenJPH wraps what overshoots; where OpenJPEG's error is small, ours must be."""
    rng = np.random.default_rng(0)
    pixels = np.where(rng.random((64, 64, 3)) < 0.5, 0, 255).astype(np.uint8)
    frame = ic.htj2k_encode(pixels, level=0.05, reversible=False, rgb=True)
    got = decode(frame, spec_for(pixels, photometric="YBR_ICT"), HTJ2K_LOSSY)
    assert np.array_equal(got, ic.jpeg2k_decode(frame))
    assert np.abs(got.astype(int) - pixels).max() < 128


# --- lies and damage


def _seed(encode: Callable[[NDArray[Any]], bytes], pixels: NDArray[Any], **more: Any) -> Callable[[], Any]:
    return lambda: (encode(pixels), spec_for(pixels, **more), pixels)


SEEDS: dict[str, Callable[[], tuple[bytes, PixelSpec, NDArray[Any]]]] = {
    JPEG: _seed(lambda a: ic.jpeg8_encode(a, level=80), colour(), photometric="YBR_FULL"),
    JPEG_12: _seed(lambda a: ic.jpeg8_encode(a, level=80, bitspersample=12), grey(12)),
    JPEG_LOSSLESS: _seed(lambda a: ic.jpeg8_encode(a, lossless=True, predictor=1, bitspersample=12), grey(12)),
    JPEG_LS: _seed(ic.jpegls_encode, grey(16)),
    J2K: _seed(lambda a: ic.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"), grey(16)),
    HTJ2K: _seed(lambda a: ic.htj2k_encode(a, reversible=True), grey(16)),
    HTJ2K_LOSSY: _seed(lambda a: ic.htj2k_encode(a, level=0.01, reversible=False, rgb=True), colour()),
    JXL: _seed(lambda a: ic.jpegxl_encode(a, lossless=True), colour()),
    JXL_JPEG: _seed(
        lambda a: ic.jpegxl_encode_jpeg(ic.jpeg8_encode(a, level=80)), colour(), photometric="YBR_FULL_422"
    ),
    JXL_LOSSY: _seed(lambda a: ic.jpegxl_encode(a, distance=1.0), grey(8)),
    RLE: _seed(rle_frame, grey(16)),
    DEFLATED: _seed(lambda a: _packed(a.tobytes(), DEFLATED), grey(16)),
}
SEEDS[EXPLICIT_LE] = _seed(lambda a: a.tobytes(), grey(16))


@pytest.mark.parametrize("uid", SEEDS)
def test_lies_about_the_picture_are_refused(uid):
    frame, spec, _ = SEEDS[uid]()
    decode(frame, spec, uid)
    told = {f: getattr(spec, f) for f in ("rows", "columns", "samples", "bits_allocated", "bits_stored", "photometric")}
    lies: list[dict[str, Any]] = [
        {"rows": spec.rows + 1},
        {"columns": spec.columns - 1},
        {"rows": 0xFFFF, "columns": 0xFFFF},
    ]
    lies.append({"samples": 4 - spec.samples, "photometric": "RGB" if spec.samples == 1 else "MONOCHROME2"})
    if spec.bits_allocated == 16:
        lies.append({"bits_allocated": 8, "bits_stored": 8})
    lies += [{"bits_allocated": 12}, {"bits_stored": 99}]
    for lie in lies:
        with pytest.raises(DecodeError):
            decode(frame, PixelSpec(**(told | lie)), uid)


@pytest.mark.parametrize("uid", SEEDS)
def test_cut_frames_are_refused(uid):
    frame, spec, _ = SEEDS[uid]()
    for part in (0, 1, 2, 3, 20, 64, len(frame) // 2, len(frame) - 4):
        with pytest.raises(DecodeError) as caught:
            decode(frame[:part], spec, uid)
        assert not caught.value.__cause__


@pytest.mark.parametrize("uid", SEEDS)
def test_another_codestream_is_refused(uid):
    _, spec, _ = SEEDS[uid]()
    for other, seed in SEEDS.items():
        families = {syntax_of(other).family, syntax_of(uid).family}
        if len(families) == 2:
            with pytest.raises(DecodeError):
                decode(seed()[0], spec, uid)


def test_a_deflate_bomb_is_not_inflated():
    bomb = zlib.compressobj(9, wbits=-15)
    frame = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(256)) + bomb.flush()
    with pytest.raises(DecodeError, match=r"34 bytes, the data set says 32"):
        decode(frame, PixelSpec(4, 8), DEFLATED)


def test_jpegxl_header():
    for shape in ((1, 1), (8, 8), (256, 256), (9, 300), (300, 9), (64, 128), (75, 100), (600, 5), (20, 24)):
        for pixels in (grey(8, shape=shape), grey(12, shape=shape), colour(shape)):
            for container in (False, True):
                frame = ic.jpegxl_encode(pixels, lossless=True, usecontainer=container)
                header = _headers.jpegxl(frame)
                assert (header.rows, header.columns) == shape
                assert header.precision == 8 * pixels.itemsize
    alpha = ic.jpegxl_encode(np.zeros((8, 8, 4), "u1"), lossless=True)
    with pytest.raises(DecodeError, match="extra channels"):
        _headers.jpegxl(alpha)
    with pytest.raises(DecodeError, match="float"):
        _headers.jpegxl(ic.jpegxl_encode(np.zeros((8, 8), "f4"), lossless=True))


def test_codestreams_of_unequal_components_are_refused():
    frame = bytearray(ic.jpeg2k_encode(colour(), level=0, codecformat="j2k"))
    frame[46] = 2  # XRsiz of the second component
    with pytest.raises(DecodeError, match="differ"):
        decode(frame, spec_for(colour()), J2K)


def test_what_openjpeg_cannot_do_exactly_is_refused():
    pixels = grey(30)
    with pytest.raises(DecodeError, match="not decoded exactly"):
        decode(ic.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=30), spec_for(pixels, 30), J2K)


def test_a_missing_library_is_an_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    frame, spec, _ = SEEDS[JPEG_LS]()
    with pytest.raises(CodecMissing, match="pip install imagecodecs"):
        decode(frame, spec, JPEG_LS)


def test_importing_a_codec_imports_no_library():
    code = "import sys, multiframe.codecs.jpeg, multiframe.codecs.native; sys.exit('imagecodecs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- fuzz: in a process of its own, for what crashes is native code


def test_damage_within_a_jpeg_is_not_told_of() -> None:
    """As docs/reference/syntaxes.md has it: if the library comes to tell, that page is wrong."""
    spec = PixelSpec(rows=64, columns=64)
    frame = bytearray(ic.jpeg8_encode(np.random.default_rng(1).integers(0, 256, (64, 64), dtype="u1")))
    good, begin = decode(bytes(frame), spec, JPEG), frame.index(b"\xff\xda") + 10
    for at in range(begin + 50, begin + 100):
        if 0xFF in frame[at - 1 : at + 2]:
            continue  # what would become, or be, a marker
        damaged = frame.copy()
        damaged[at] ^= 1
        assert (decode(bytes(damaged), spec, JPEG) != good).any()


def test_damage_never_crashes():
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.test_codecs", "200", "1"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-500:] + run.stderr[-2000:]


def mutated(frame: bytes, rng: random.Random) -> bytes:
    broken = bytearray(frame)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        # Headers are small: half of the damage goes there.
        at = rng.randrange(min(len(broken), 120) if rng.random() < 0.5 else len(broken))
        match rng.randrange(5):
            case 0:
                broken[at] = rng.randrange(256)
            case 1:
                broken[at] ^= 1 << rng.randrange(8)
            case 2:
                del broken[at : at + rng.randrange(1, 9)]
            case 3:
                broken[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                broken[at : at + 2] = rng.choice((b"\0\0", b"\xff\xff", b"\x7f\xff", b"\x80\0", b"\xff\xd9"))
        if not broken:
            return b""
    return bytes(broken)


def fuzz(uid: str, count: int, seed: int) -> None:
    frame, spec, _ = SEEDS[uid]()
    decoded, slowest = 0, 0.0
    print(f"{uid}: ", end="", flush=True)
    for i in range(count):
        broken = mutated(frame, random.Random(f"{uid} {seed} {i}"))
        start = time.perf_counter()
        try:
            decode(broken, spec, uid)
            decoded += 1
        except DecodeError:
            pass
        slowest = max(slowest, time.perf_counter() - start)
    print(f"{count} mutations, {decoded} decoded, slowest {slowest:.3f} s", flush=True)
    assert slowest < 20


if __name__ == "__main__":  # python -m tests.test_codecs COUNT SEED [UID ...]
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    for fuzzed in sys.argv[3:] or SEEDS:
        fuzz(fuzzed, int(sys.argv[1]), int(sys.argv[2]))


# --- what is encoded


ENCODERS = [(uid, codec) for codec in CODECS if isinstance(codec, Encoder) for uid in sorted(codec.encodes)]
PYDICOM_READS = (JPEG_LOSSLESS, JPEG_LS, J2K, HTJ2K, "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.57", RLE)


@pytest.mark.parametrize("uid", PYDICOM_READS)
@pytest.mark.parametrize(
    ("bits", "signed", "samples"), [(8, False, 1), (8, False, 3), (12, False, 1), (12, True, 1), (16, True, 1)]
)
def test_pydicom_decodes_what_we_encode(uid, bits, signed, samples):
    """Its decoders are other libraries (pylibjpeg's), and it knows where signs sit."""
    pixels = grey(bits, signed) if samples == 1 else colour()
    spec = spec_for(pixels, bits)
    syntax = syntax_of(uid)
    dataset = Dataset()
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = uid
    after = encoded_spec(spec, syntax)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = spec.rows, spec.columns, samples
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = spec.bits_allocated, bits, bits - 1
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = int(signed), after.photometric
    if samples > 1:
        dataset.PlanarConfiguration = int(after.planar)
    encoder = BY_UID[uid]
    assert isinstance(encoder, Encoder)
    dataset.PixelData = encapsulate([encoder.encode(pixels, spec, syntax)])
    np.testing.assert_array_equal(pixel_array(dataset), pixels)


@pytest.mark.parametrize("uid", [J2K, HTJ2K])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_a_picture_as_high_and_wide_as_it_has_samples(uid, photometric):
    """By plane or by pixel: the shape of the array does not tell."""
    pixels = np.arange(27, dtype="u1").reshape(3, 3, 3)
    spec, syntax = PixelSpec(3, 3, 3, photometric), syntax_of(uid)
    encoder = BY_UID[uid]
    assert isinstance(encoder, Encoder)
    data = encoder.encode(pixels, spec, syntax)
    after = replace(encoded_spec(spec, syntax), photometric="YBR_RCT")  # colours as they are in there
    np.testing.assert_array_equal(BY_UID[uid].decode(data, after, syntax), pixels)


@given(
    st.sampled_from(ENCODERS), st.integers(1, 32), st.booleans(), st.sampled_from((1, 3)),
    st.integers(1, 70), st.integers(1, 70), st.integers(0, 3), st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_what_is_encoded_comes_back_or_is_refused(pair, bits, signed, samples, rows, columns, seed, planar):
    uid, codec = pair
    allocated = next(cell for cell in (8, 16, 32) if cell >= bits)
    photometric = "MONOCHROME2" if samples == 1 else "RGB"
    spec = PixelSpec(rows, columns, samples, photometric, allocated, bits, signed, planar)
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    kinds = [np.full(spec.shape, high - 1), np.full(spec.shape, low)]
    rng = np.random.default_rng(seed)
    kinds += [rng.integers(low, high, spec.shape), rng.integers(low, low + 2, spec.shape)]
    pixels = kinds[seed].astype(spec.dtype)
    syntax = syntax_of(uid)
    if codec.holds(spec, syntax):
        again = codec.decode(codec.encode(pixels, spec, syntax), encoded_spec(spec, syntax), syntax)
        np.testing.assert_array_equal(again, pixels)
    else:
        with pytest.raises(EncodeError, match="choose another"):
            codec.encode(pixels, spec, syntax)


@pytest.mark.parametrize(("uid", "codec"), [(u, c) for u, c in ENCODERS if c.name != "native"])
def test_samples_beyond_bits_stored_are_not_lost_in_silence(uid, codec):
    pixels = grey(12)
    pixels[3, 4] = 0x1FFF
    with pytest.raises(EncodeError, match="exceed Bits Stored"):
        codec.encode(pixels, spec_for(pixels, 12), syntax_of(uid))


@pytest.mark.parametrize("uid", [JPEG_LS, J2K, HTJ2K, RLE])
def test_colours_are_left_as_they_are(uid):
    """YBR_FULL stays YBR_FULL, and the codestream says nothing else of itself."""
    pixels, codec, syntax = colour(), BY_UID[uid], syntax_of(uid)
    assert isinstance(codec, Encoder)
    spec = spec_for(pixels, photometric="YBR_FULL")
    data = codec.encode(pixels, spec, syntax)
    assert encoded_spec(spec, syntax).photometric == "YBR_FULL"
    np.testing.assert_array_equal(codec.decode(data, replace(spec, photometric="YBR_RCT"), syntax), pixels)
    shown = codec.decode(data, spec, syntax)
    np.testing.assert_array_equal(shown, convert_color_space(pixels, "YBR_FULL", "RGB"))


def test_htj2k_is_in_the_order_and_with_the_marks_that_rpcl_asks_for():
    """PS3.5 10.18: progression RPCL, TLM, the lowest resolution of 64 pixels at most."""
    pixels = grey(12, shape=(300, 500))
    data = Jpeg2000Codec().encode(pixels, spec_for(pixels, 12), syntax_of("1.2.840.10008.1.2.4.202"))
    cod = data.index(b"\xff\x52")
    levels = data[cod + 9]
    assert data[cod + 5] == 2  # RPCL
    assert 500 / 2**levels <= 64
    assert b"\xff\x55" in data[: data.index(b"\xff\x90")]  # TLM
    assert data.count(b"\xff\x90\x00\x0a") == levels + 1  # a tile-part a resolution
    assert data[40:43] == bytes([0, 1, 11])  # one component of 12 bits, without sign


def test_jpeg_is_rewritten_as_jpeg_xl_and_back():
    source, target = syntax_of(JPEG), syntax_of(JXL_JPEG)
    rewriter = rewriter_for(source, target)
    assert rewriter is not None
    assert rewriter_for(target, source) is None
    frame, spec, _ = SEEDS[JPEG]()
    data = rewriter.rewrite(frame, spec, source, target)
    assert ic.jpegxl_decode_jpeg(data) == frame
    assert np.abs(decode(data, spec, JXL_JPEG).astype(int) - decode(frame, spec, JPEG)).max() <= 3
    with pytest.raises(DecodeError, match="nothing is decoded"):
        rewriter.rewrite(frame, replace(spec, rows=spec.rows + 1), source, target)
    with pytest.raises(EncodeError):
        rewriter.rewrite(frame[:-200], spec, source, target)


def test_jpeg_baseline_is_rewritten_as_extended_and_nothing_else_changes():
    source, target = syntax_of(JPEG), syntax_of("1.2.840.10008.1.2.4.51")
    rewriter = rewriter_for(source, target)
    assert rewriter is not None
    frame, spec, _ = SEEDS[JPEG]()
    data = rewriter.rewrite(frame, spec, source, target)
    at = frame.index(b"\xff\xc0")
    assert data[-(len(frame) - at - 2) :] == frame[at + 2 :]
    assert data.startswith(frame[:at])
    assert len(data) - len(frame) == (16 if spec.samples == 3 else 0)
    assert (decode(data, spec, target.uid) == decode(frame, spec, JPEG)).all()
    with pytest.raises(DecodeError, match="nothing is decoded"):
        rewriter.rewrite(frame, replace(spec, rows=spec.rows + 1), source, target)
    with pytest.raises(DecodeError, match="EOI"):
        rewriter.rewrite(frame[:-200], spec, source, target)
    with pytest.raises(EncodeError, match="SOF1"):
        rewriter.rewrite(data, spec, source, target)


def test_a_codec_that_only_decodes_is_one():
    with pytest.raises(CodecMissing, match="encodes"):
        encoder_for(syntax_of(J2K_LOSSY))
    assert {encoder_for(syntax_of(uid)).name for uid, _ in ENCODERS} == {c.name for c in CODECS}
