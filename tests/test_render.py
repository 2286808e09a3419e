"""Pictures: against pydicom where it is right, against the standard's formulas, against absurd numbers."""

from __future__ import annotations

import io
import tracemalloc
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import UID

import multiframe
from multiframe.codec import PixelSpec
from multiframe.codecs.jpeg2000 import Jpeg2000Codec
from multiframe.errors import FormatError
from multiframe.header import LongHeader
from multiframe.picture import Viewport, fitted, write
from multiframe.render import Facts, Function, Presentation, Window, displayed, draw, representative
from multiframe.syntaxes import TransferSyntax, syntax_of
from multiframe.testing import cine
from multiframe.testing.numbercode import read_number


def read(name: str) -> Dataset:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str | Path)
    return dcmread(path)


def real_path(name: str) -> str:
    return str(get_testdata_file(name, download=False, read=False))


def pixels_of(dataset: Dataset, index: int = 0) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: NDArray[Any] = pixel_array(dataset, index=index)
    return found.astype(found.dtype.newbyteorder("="))


def item(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


RAMP = np.arange(-1000, 1000, dtype="i2").reshape(40, 50)


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_bigendian.dcm",
        "MR-SIEMENS-DICOM-WithOverlays.dcm",
        "RG1_UNCR.dcm",
        "mlut_18.dcm",
        "vlut_04.dcm",
        "693_UNCR.dcm",
    ],
)
def test_grey_as_pydicom(name):
    dataset = read(name)
    pixels = pixels_of(dataset)
    values = apply_modality_lut(pixels, dataset).astype(np.float64)
    if dataset.get("VOILUTSequence"):
        bits = dataset.VOILUTSequence[0].LUTDescriptor[2]
        light = apply_voi_lut(values.astype(np.int64), dataset) / (2**bits - 1)
    elif "WindowWidth" in dataset:
        seen = apply_voi_lut(values, dataset)
        # pydicom spreads the window over what the stored bits can hold: take that apart.
        full = 2**dataset.BitsStored
        ends = np.array([-full / 2, full / 2 - 1] if dataset.PixelRepresentation else [0, full - 1])
        if dataset.get("ModalityLUTSequence"):
            ends = np.array([0, 2.0 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1])
        elif "RescaleSlope" in dataset:
            ends = ends * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        light = (seen - ends[0]) / (ends[1] - ends[0])
    else:
        light = (values - values.min()) / (values.max() - values.min())
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        light = 1 - light
    del dataset.PixelData
    picture = displayed(pixels, dataset, 0)
    assert picture.shape == pixels.shape
    assert np.abs(picture - light * 255).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("name", ["OBXXXX1A.dcm", "gdcm-US-ALOKA-16.dcm", "examples_palette.dcm"])
def test_palette_as_pydicom(name):
    dataset = read(name)
    pixels = pixels_of(dataset)
    expected = apply_color_lut(pixels, dataset)
    if expected.dtype == np.uint16:
        expected = expected >> 8
    picture = displayed(pixels, dataset, 0)
    assert picture.shape == (*pixels.shape, 3)
    assert np.array_equal(picture, expected)


@pytest.mark.parametrize(
    ("little", "big"),
    [("gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"), ("emri_small.dcm", "emri_small_big_endian.dcm")],
)
def test_byte_order_does_not_show(little, big):
    first, second = (displayed(pixels_of(d), d, 0) for d in (read(little), read(big)))
    assert np.array_equal(first, second)


def test_colour():
    rgb = np.arange(24, dtype="u1").reshape(2, 4, 3)
    picture = displayed(rgb, item(BitsStored=8), 0)
    assert np.array_equal(picture, rgb)
    assert not np.shares_memory(picture, rgb)
    deep = np.array([[[0, 65535, 32768]]], "u2")
    assert displayed(deep, item(BitsStored=16), 0).tolist() == [[[0, 255, 128]]]
    assert displayed(deep >> 4, item(BitsStored=12), 0).tolist() == [[[0, 255, 128]]]
    assert displayed(np.array([[[0, 2**32 - 1, 2**31]]], "u4"), Dataset(), 0).tolist() == [[[0, 255, 128]]]


def test_windows():
    def at(value: int, **more: Any) -> int:
        return int(displayed(RAMP, item(WindowCenter=0, WindowWidth=100, **more), 0).reshape(-1)[value + 1000])

    # PS3.3 C.11.2.1.2: x <= c - 0.5 - (w-1)/2 is black, x > c - 0.5 + (w-1)/2 is white.
    assert [at(-50), at(0), at(49), at(50)] == [0, round((0.5 / 99 + 0.5) * 255), 255, 255]
    assert at(-49) == round((-48.5 / 99 + 0.5) * 255)
    # C.11.2.1.3.2: from c - w/2 to c + w/2.
    assert [at(-50, VOILUTFunction="LINEAR_EXACT"), at(0, VOILUTFunction="LINEAR_EXACT")] == [0, 128]
    # C.11.2.1.3.1: never quite black.
    assert at(25, VOILUTFunction="SIGMOID") == round(255 / (1 + np.exp(-1)))
    assert at(-1000, VOILUTFunction="SIGMOID") == 0
    # A width of 1 is a step at the centre; the first of several windows counts.
    step = displayed(RAMP, item(WindowCenter=["10", "500"], WindowWidth=["1", "300"]), 0).reshape(-1)
    assert step[1009] == 0
    assert step[1010] == 255


def test_monochrome1_is_inverted():
    facts = item(WindowCenter=0, WindowWidth=100)
    picture = displayed(RAMP, facts, 0)
    facts.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(displayed(RAMP, facts, 0), 255 - picture.astype(int))


def test_functional_groups():
    enhanced = item(RescaleSlope=7, WindowCenter=3, WindowWidth=9)
    shared = item(PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=5)])
    shared.FrameVOILUTSequence = [item(WindowCenter=0, WindowWidth=100)]
    enhanced.SharedFunctionalGroupsSequence = [shared]
    enhanced.PerFrameFunctionalGroupsSequence = [
        item(FrameVOILUTSequence=[item(WindowCenter=400, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")]),
        Dataset(),
        item(PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=0)]),
    ]

    def like(slope: float, intercept: float, centre: float, width: float, function: str = "LINEAR") -> NDArray[Any]:
        window = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
        return displayed(RAMP, item(RescaleSlope=slope, RescaleIntercept=intercept, **window), 0)

    assert np.array_equal(displayed(RAMP, enhanced, 0), like(2, 5, 400, 1000, "LINEAR_EXACT"))
    assert np.array_equal(displayed(RAMP, enhanced, 1), like(2, 5, 0, 100))
    assert np.array_equal(displayed(RAMP, enhanced, 2), like(1, 0, 0, 100))
    assert np.array_equal(displayed(RAMP, enhanced, 99), like(2, 5, 0, 100))


def test_without_a_window():
    assert displayed(np.array([[300, 400, 500]], "u2"), Dataset(), 0).tolist() == [[0, 128, 255]]
    # 8 bits: as they are, or each frame of a cine would have a brightness of its own.
    assert displayed(np.array([[30, 40, 50]], "u1"), item(BitsStored=8), 0).tolist() == [[30, 40, 50]]
    assert displayed(np.array([[-128, 0, 127]], "i1"), item(BitsStored=8), 0).tolist() == [[0, 128, 255]]
    assert displayed(np.array([[0, 1]], "u1"), item(BitsStored=1), 0).tolist() == [[0, 255]]
    assert displayed(np.array([[7, 7]], "u2"), Dataset(), 0).tolist() == [[0, 0]]
    assert displayed(np.array([[0.0, 0.5, 1.0]], "f4"), Dataset(), 0).tolist() == [[0, 128, 255]]
    assert displayed(np.zeros((0, 4), "u2"), Dataset(), 0).shape == (0, 4)
    wide = np.array([[0, 1 << 30, (1 << 31)]], "u4")
    assert displayed(wide, Dataset(), 0).tolist() == [[0, 128, 255]]
    assert displayed(np.array([[0, 1 << 63]], "u8"), Dataset(), 0).tolist() == [[0, 255]]


def lut(first: int, bits: int, data: Any, vr: str = "US", entries: int | None = None) -> Dataset:
    made = Dataset()
    made.add_new("LUTDescriptor", "US", [len(data) if entries is None else entries, first & 0xFFFF, bits])
    made.add_new("LUTData", vr, data)
    return made


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "RG1_UNCR.dcm"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_asked_for_as_pydicom(name: str, function: Function) -> None:
    dataset = read(name)
    pixels = pixels_of(dataset)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    values = apply_modality_lut(pixels, dataset).astype(np.float64)
    centre, width = float(np.median(values)), float(np.ptp(values)) / 3
    picture = displayed(pixels, dataset, 0, window=Window(centre, width, function))
    # For pydicom the window is the data set's own; what it spreads light over are the ends of what can be stored.
    asked = item(
        WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, PhotometricInterpretation="MONOCHROME2"
    )
    asked.BitsStored, asked.PixelRepresentation = 16, 0
    light = apply_voi_lut(values, asked, prefer_lut=False) / 65535
    assert np.abs(picture - (1 - light if inverted else light) * 255).max() <= 0.5 + 1e-6


def test_a_window_asked_for_goes_before_everything_but_colour():
    window = Window(0, 100, "LINEAR_EXACT")
    plain = displayed(RAMP, Dataset(), 0, window=window)
    assert np.array_equal(plain, displayed(RAMP, item(WindowCenter=5, WindowWidth=9), 0, window=window))
    assert np.array_equal(plain, displayed(RAMP, item(VOILUTSequence=[lut(0, 8, [0, 255])]), 0, window=window))
    assert np.array_equal(plain, displayed(RAMP - 7, item(RescaleSlope=1, RescaleIntercept=7), 0, window=window))
    words = dict.fromkeys(("Red", "Green", "Blue"), bytes([5, 250]))
    painted = displayed(np.array([[0, 1]], "u1"), palette(0, 8, words, 2), 0, window=window)
    assert painted[0, :, 0].tolist() == [5, 250]
    rgb = np.arange(24, dtype="u1").reshape(2, 4, 3)
    assert np.array_equal(displayed(rgb, item(BitsStored=8), 0, window=window), rgb)
    assert Window(0, 1).valid
    assert not Window(0, 0.9).valid
    assert Window(0, 0.9, "SIGMOID").valid


def test_bands_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    frames = [
        (rng.integers(0, 4096, (33, 50), dtype="u2"), item(BitsStored=12)),
        (rng.normal(size=(33, 50)).astype("f4"), Dataset()),
        (rng.integers(0, 1 << 30, (33, 50), dtype="u4"), Dataset()),
        (rng.integers(0, 4096, (33, 50, 3), dtype="u2"), item(BitsStored=12)),
    ]
    whole = [displayed(pixels, facts, 0) for pixels, facts in frames]
    monkeypatch.setattr("multiframe.render._BAND", 300)
    for (pixels, facts), expected in zip(frames, whole, strict=True):
        assert np.array_equal(displayed(pixels, facts, 0), expected)


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_a_large_frame_costs_little_more_than_its_picture(kind):
    pixels = np.random.default_rng(0).integers(0, 60_000, (2048, 2048), dtype="u2").astype(kind)
    tracemalloc.start()
    try:
        picture = displayed(pixels, Dataset(), 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # In one piece it would be eight bytes a value at the least: 32 MiB.
    assert peak < picture.nbytes + (12 << 20)


def test_colour_profiles_of_data_sets():
    spec = PixelSpec(4, 4, 3, "RGB", 8, 8)
    data = bytes(range(48))
    native = syntax_of("1.2.840.10008.1.2.1")
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    def shown(profile: bytes | None, wanted: Any, *, slide: bool = False) -> Image.Image:
        holder = item() if profile is None else item(ICCProfile=profile + bytes(len(profile) % 2))
        dataset = item(OpticalPathSequence=[holder]) if slide else holder
        dataset.BitsStored, dataset.PhotometricInterpretation = 8, "RGB"
        facts = Facts(written(dataset), explicit=True, little=True)
        return Image.open(io.BytesIO(draw(data, spec, native, facts, Presentation("image/png", profile=wanted))))

    for slide in (False, True):
        assert "icc_profile" not in shown(made, "no", slide=slide).info
        assert shown(made, "yes", slide=slide).info["icc_profile"].startswith(made)
        assert np.abs(np.asarray(shown(made, "srgb", slide=slide)).reshape(-1).astype(int) - range(48)).max() <= 1
    for wanted in ("yes", "srgb"):
        assert "icc_profile" not in shown(None, wanted).info
    with pytest.raises(FormatError, match="ICC profile"):
        shown(b"none", "srgb")


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_the_facts_of_a_frame_are_its_own(tmp_path, syntax, undefined):
    enhanced = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(enhanced, keyword, "1.2.3")
    enhanced.Rows, enhanced.Columns, enhanced.SamplesPerPixel, enhanced.NumberOfFrames = 128, 128, 1, 5
    enhanced.BitsAllocated, enhanced.BitsStored, enhanced.HighBit, enhanced.PixelRepresentation = 16, 16, 15, 1
    enhanced.PhotometricInterpretation = "MONOCHROME2"
    order = ">" if syntax.endswith(".2.2") else "<"
    ramp = np.arange(128 * 128, dtype=f"{order}i2")
    enhanced.add_new("PixelData", "OW", np.stack([ramp] * 5).tobytes())
    enhanced.file_meta = FileMetaDataset()
    enhanced.file_meta.TransferSyntaxUID = UID(syntax)
    shared = item(PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=-1024)])
    enhanced.SharedFunctionalGroupsSequence = [shared]
    enhanced.PerFrameFunctionalGroupsSequence = [
        item(FrameVOILUTSequence=[item(WindowCenter=1000 * i, WindowWidth=500 + i)]) for i in range(4)
    ]
    for element in (enhanced["PerFrameFunctionalGroupsSequence"], enhanced["SharedFunctionalGroupsSequence"]):
        element.is_undefined_length = undefined
        for group in element.value:
            group.is_undefined_length_sequence_item = undefined
            for inner in group:
                inner.is_undefined_length = undefined
    enhanced.save_as(tmp_path / "it", enforce_file_format=True)
    instance = multiframe.open(tmp_path / "it")
    seen = []
    for i in range(5):
        facts = Facts.of(instance.header, i).dataset()
        picture = displayed(instance.pixels(i), facts, 0)
        assert np.array_equal(picture, displayed(instance.pixels(i), instance.dataset, i))
        seen.append(picture.mean())
    assert len(set(seen)) == 5  # the fifth has no group of its own: stretched


def test_a_long_header_is_not_read_whole(tmp_path):
    """What is shown lies in the first and the wanted group: the thousands between are looked at in windows."""
    enhanced = dcmread(real_path("CT_small.dcm"))
    enhanced.NumberOfFrames = 3000
    enhanced.PerFrameFunctionalGroupsSequence = [
        item(FrameVOILUTSequence=[item(WindowCenter=i, WindowWidth=500, WindowCenterWidthExplanation="x" * 50)])
        for i in range(3000)
    ]
    enhanced.RepresentativeFrameNumber = 7
    enhanced.save_as(tmp_path / "it")
    whole = multiframe.open(tmp_path / "it").header
    asked: list[int] = []

    def read(start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return whole.raw[start:stop]

    facts = {name: getattr(whole, name) for name in ("syntax", "dataset_at", "pixel_data", "values")}
    long = LongHeader(whole.size, read, **facts)
    assert representative(long, 3000) == 6
    assert sum(asked) < 1 << 17
    for i in (0, 2999):
        assert Facts.of(long, i) == Facts.of(whole, i)
        (group,) = Facts.of(long, i).dataset().PerFrameFunctionalGroupsSequence
        assert group.FrameVOILUTSequence[0].WindowCenter == i
    assert max(asked) < whole.size
    assert max(asked) <= 256 << 10


def test_drawn_frames_are_the_right_ones(tmp_path):
    cine(tmp_path / "it", frames=12)
    instance = multiframe.open(tmp_path / "it")
    wanted = Presentation("image/jpeg", Viewport(256, 256))
    for i in (0, 6, 11):
        (frame,) = instance.encoded([i])
        drawn = draw(frame.data, instance.spec, frame.syntax, Facts.of(instance.header, i), wanted)
        picture = np.asarray(Image.open(io.BytesIO(drawn)))
        assert picture.shape == (192, 256, 3)
        assert read_number(picture) == i + 1


def big(bits: int, samples: int = 1) -> NDArray[Any]:
    y, x = np.mgrid[0:517, 0:1031]
    wave = (np.sin(x / 31) * np.cos(y / 17) + 1) / 2
    wave = np.stack([np.roll(wave, 50 * k, axis=1) for k in range(samples)], axis=-1) if samples > 1 else wave
    noise = np.random.default_rng(0).random(wave.shape) / 200
    return ((wave * 0.9 + noise) * (2**bits - 1)).astype("u1" if bits == 8 else "u2")


VIEWPORTS = [
    Viewport(64, 64),
    Viewport(100, 30, 500.5, 100, 400.25, 130, mirrored=True),
    Viewport(900, 900),
    Viewport(),
]


@pytest.mark.parametrize("viewport", VIEWPORTS)
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"])
@pytest.mark.parametrize(("bits", "samples"), [(12, 1), (8, 3)])
def test_a_smaller_decoding_does_not_show(syntax, bits, samples, viewport, monkeypatch):
    pixels = big(bits, samples)
    encode = (
        imagecodecs.htj2k_encode if syntax.endswith("201") else partial(imagecodecs.jpeg2k_encode, codecformat="j2k")
    )
    data = encode(pixels, reversible=True)
    spec = PixelSpec(517, 1031, samples, "RGB" if samples > 1 else "MONOCHROME2", 8 if bits == 8 else 16, bits)
    window = Window(2048, 3000) if bits == 12 else None
    shown = item(BitsStored=bits, PhotometricInterpretation=spec.photometric)
    facts = Facts(written(shown), explicit=True, little=True)
    wanted = Presentation("image/png", viewport, window)
    taken: list[int] = []
    small = Jpeg2000Codec.reduced

    def reduced(self: Jpeg2000Codec, data: bytes, spec: PixelSpec, syntax: TransferSyntax, level: int) -> Any:
        taken.append(level)
        return small(self, data, spec, syntax, level)

    monkeypatch.setattr(Jpeg2000Codec, "reduced", reduced)
    picture = np.asarray(Image.open(io.BytesIO(draw(data, spec, syntax_of(syntax), facts, wanted)))).astype(int)
    assert taken == {64: [3], 100: [1]}.get(viewport.width or 0, [])
    expected = fitted(displayed(pixels, shown, 0, window=window), viewport)
    assert picture.shape == expected.shape
    # A wavelet's mean is another one; but half a pixel beside it would be five times as much.
    assert np.abs(picture - expected).mean() < 3
    assert np.abs(picture - expected).max() < 16


def test_indices_and_unknown_ranges_are_decoded_whole(monkeypatch):
    def reduced(*_: Any) -> None:
        raise AssertionError("a smaller decoding would show")

    monkeypatch.setattr(Jpeg2000Codec, "reduced", reduced)
    pixels = big(12)
    data = imagecodecs.htj2k_encode(pixels)
    for photometric in ("MONOCHROME2", "PALETTE COLOR"):
        spec = PixelSpec(517, 1031, 1, photometric, 16, 12)
        facts = Facts(written(item(BitsStored=12, PhotometricInterpretation=photometric)), explicit=True, little=True)
        draw(data, spec, syntax_of("1.2.840.10008.1.2.4.201"), facts, Presentation(viewport=Viewport(32, 32)))


def written(dataset: Dataset) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = False, True
    write_dataset(out, dataset)
    return out.getvalue()


def test_luts():
    dark = item(ModalityLUTSequence=[lut(-2, 16, [0, 100, 200, 300])], WindowCenter=150.5, WindowWidth=301)
    stored = np.array([[-5, -2, -1, 0, 1, 9]], "i2")
    assert displayed(stored, dark, 0).tolist() == [[0, 0, 85, 170, 255, 255]]
    for data, vr, entries in (
        ([0, 1023, 511], "US", None),
        (np.array([0, 1023, 511], "<u2").tobytes(), "OW", 3),
    ):
        shown = item(VOILUTSequence=[lut(10, 10, data, vr, entries)], RescaleSlope=10, RescaleIntercept=0)
        assert displayed(np.array([[0, 1, 2]], "u2"), shown, 0).tolist() == [[0, 0, 127]]
    # Bits that are too few for the entries: the entries are right.
    assert displayed(np.array([[0, 1]], "u2"), item(VOILUTSequence=[lut(0, 8, [0, 4095])]), 0).tolist() == [[0, 255]]


def palette(first: int, bits: int, data: dict[str, bytes], entries: int, segmented: bool = False) -> Dataset:
    made = item(PhotometricInterpretation="PALETTE COLOR")
    for colour, table in data.items():
        name = f"{colour}PaletteColorLookupTable"
        made.add_new(f"{name}Descriptor", "US", [entries, first, bits])
        made.add_new(f"{'Segmented' if segmented else ''}{name}Data", "OW", table)
    return made


def test_palettes():
    indices = np.array([[0, 5, 6, 7, 200]], "u1")
    expected = [[[1, 0, 9], [1, 0, 9], [2, 128, 9], [3, 255, 9], [3, 255, 9]]]
    deep = {"Red": [1, 2, 3], "Green": [0, 128, 255], "Blue": [9, 9, 9]}
    for scale in (256, 1):  # 8 bits in 16, scaled or not
        words = {c: (np.array(t, "<u2") * scale).tobytes() for c, t in deep.items()}
        assert displayed(indices, palette(5, 16, words, 3), 0).tolist() == expected
    octets = {c: bytes(t) + b"\0" for c, t in deep.items()}
    assert displayed(indices, palette(5, 8, octets, 3), 0).tolist() == expected
    # 65536 entries cannot be said in 16 bits; values beyond 8 bits with entries of 8.
    full = bytes(range(256)) * 256
    whole = displayed(np.array([[0, 255, 256, 65535]], "u2"), palette(0, 8, dict.fromkeys(deep, full), 0), 0)
    assert whole[..., 0].tolist() == [[0, 255, 0, 255]]


def test_segmented_palettes():
    # PS3.3 C.7.9.2: discrete 0 10; linear to 40 in 3; discrete again and linear again, by reference to byte 0.
    for kind, bits, scale in (("<u2", 16, 256), ("u1", 8, 1)):
        parts = [0, 2, 0, 10 * scale, 1, 3, 40 * scale, 2, 2, *([0, 0] if bits == 16 else [0, 0, 0, 0])]
        data = np.array(parts, kind).tobytes()
        shown = palette(0, bits, dict.fromkeys(("Red", "Green", "Blue"), data), 10, segmented=True)
        picture = displayed(np.arange(10, dtype="u1").reshape(1, 10), shown, 0)
        assert picture[0, :, 0].tolist() == [0, 10, 20, 30, 40, 0, 10, 20, 30, 40]
    # Pointers count bytes, also where entries are words.
    data = np.array([0, 1, 2560, 0, 2, 5120, 7680, 2, 1, 6, 0], "<u2").tobytes()
    shown = palette(0, 16, dict.fromkeys(("Red", "Green", "Blue"), data), 5, segmented=True)
    assert displayed(np.arange(5, dtype="u1").reshape(1, 5), shown, 0)[0, :, 1].tolist() == [10, 20, 30, 20, 30]


def test_broken_palettes_show_grey():
    grey = np.array([[0, 255]], "u1")
    for shown in (
        item(PhotometricInterpretation="PALETTE COLOR"),
        palette(0, 16, {"Red": b"\0\0"}, 1),
        palette(0, 16, dict.fromkeys(("Red", "Green", "Blue"), b""), 1),
        palette(0, 8, dict.fromkeys(("Red", "Green", "Blue"), b"\1\5\7\0"), 4, segmented=True),
        palette(0, 16, dict.fromkeys(("Red", "Green", "Blue"), b"\2\0\xff\xff\0\0\0\0"), 4, segmented=True),
    ):
        assert displayed(grey, shown, 0).tolist() == [[0, 255]]


ABSURD = st.sampled_from(["0", "-1", "1e300", "-1e300", "1e-300", "1", "0.3", "400", "", "1e308", "-1e308"])


@given(
    slope=ABSURD,
    intercept=ABSURD,
    centre=ABSURD,
    width=ABSURD,
    function=st.sampled_from(["", "LINEAR", "LINEAR_EXACT", "SIGMOID", "OTHER"]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"]),
    kind=st.sampled_from(["i2", "u1", "u4", "f4", "f8"]),
    bits=st.sampled_from([0, 1, 8, 12, 16, 99]),
)
@settings(max_examples=300, deadline=None)
def test_absurd_numbers(slope, intercept, centre, width, function, photometric, kind, bits):
    absurd = item(RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=centre, WindowWidth=width)
    absurd.VOILUTFunction, absurd.PhotometricInterpretation, absurd.BitsStored = function, photometric, bits
    pixels = RAMP.astype(kind)
    if kind[0] == "f":
        pixels[0, :4] = [np.nan, np.inf, -np.inf, 0]
    picture = displayed(pixels, absurd, 0)
    assert picture.dtype == np.uint8
    assert picture.shape == RAMP.shape


def test_a_slope_of_nothing_does_not_erase():
    facts = item(RescaleSlope=0, RescaleIntercept=0, WindowCenter=0, WindowWidth=100)
    assert displayed(RAMP, facts, 0).max() == 255


def test_not_what_it_should_be():
    odd = Dataset()
    odd.add_new("VOILUTSequence", "OB", b"no sequence")
    odd.VOILUTFunction = "LINEAR"
    odd.add_new("SharedFunctionalGroupsSequence", "SQ", Sequence([]))
    odd.ModalityLUTSequence = [item(LUTDescriptor=[3, 0, 16])]
    assert displayed(RAMP, odd, 0)[0, 0] == 0


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    written = write(picture, "image/png")
    assert written == write(picture.copy(), "image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(written))), picture)
