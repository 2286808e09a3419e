"""Side by side with pydicom over every file that ships with it: each frame equal, or an error from us. Never a third.

The oracle is pydicom's reading of the elements, and for encapsulated frames its `generate_frames`. Where pydicom is the
wrong one, or has nothing to say, the table below names the reason.
"""

import warnings
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from multiframe.errors import FormatError, MultiframeError, NoPixelData, NotDicom, TruncatedError
from multiframe.instance import Instance
from multiframe.source import FileSource
from tests.corpus import corpus
from tests.test_inflate import opened

BIG_ENDIAN = "1.2.840.10008.1.2.2"
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

type Frames = list[bytes | type[MultiframeError]]

# What is not simply equal, and why.
ODD: dict[str, tuple[Frames | type[MultiframeError], str]] = {
    "MR_truncated.dcm": ([TruncatedError], "cut in its only frame; pydicom gives the shorter value"),
    "meta_missing_tsyntax.dcm": (FormatError, "has no Rows and Columns: pydicom cannot tell a frame either"),
    "nested_priv_SQ.dcm": (FormatError, "has no Rows and Columns"),
    "rtplan_truncated.dcm": (TruncatedError, "cut inside its last sequence; it never had pixels"),
}

# pydicom has nothing to say of these, for reasons that have nothing to do with where their frames lie.
OURS = {
    "badVR.dcm": "its Number of Frames is '1A', for which pydicom raises ValueError",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "cut in the delimiter behind its last frame: pydicom drops all",
}


def theirs(path: Path) -> list[bytes]:
    """All frames as pydicom has them, native ones in little endian."""
    data = dcmread(path, force=True)
    name = next((name for name in PIXELS if name in data), None)
    if name is None:
        raise LookupError
    syntax = UID(data.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2") if hasattr(data, "file_meta") else "")
    count = int(data.get("NumberOfFrames") or 1)
    if data[name].is_undefined_length:
        return list(generate_frames(data[name].value, number_of_frames=count))
    return _native(data, name, count, big=syntax == BIG_ENDIAN)


def _native(data: Dataset, name: str, count: int, *, big: bool) -> list[bytes]:
    value, cells = data[name].value, data.Rows * data.Columns
    samples = 2 if data.get("PhotometricInterpretation") == "YBR_FULL_422" else data.get("SamplesPerPixel", 1)
    bits = cells * samples * data.BitsAllocated
    if bits % 8:
        stream, mask = int.from_bytes(value, "little"), (1 << bits) - 1
        return [(stream >> k * bits & mask).to_bytes(-(-bits // 8), "little") for k in range(count)]
    if big:
        word = data.BitsAllocated // 8 if data.BitsAllocated > 8 else 2 if data[name].VR == "OW" else 1
        value += bytes(-len(value) % word)
        value = b"".join(value[i : i + word][::-1] for i in range(0, len(value), word))
    size = bits // 8
    return [value[k * size : (k + 1) * size] for k in range(count)]


def ours(instance: Instance) -> Frames:
    """Each frame found or promised: its bytes, or the kind of error."""
    found: Frames = []
    for i in range(max(len(instance.index), instance.index.declared or 1)):
        try:
            found.append(next(instance.encoded([i])).data)
        except MultiframeError as error:
            found.append(type(error))
    return found


def has_pixels(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return any(name in dcmread(path, force=True) for name in PIXELS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(corpus()))
def test_every_frame_is_pydicoms_or_an_error(name):
    path = corpus()[name]
    expected, _ = ODD.get(name, (None, ""))
    if isinstance(expected, type):
        with pytest.raises(expected):
            ours(opened(FileSource(path)))
        return
    if name not in OURS and expected is None and not has_pixels(path):
        with pytest.raises((NoPixelData, NotDicom)):
            ours(opened(FileSource(path)))
        return
    found = ours(opened(FileSource(path)))
    assert found == (proven(name) if name in OURS else expected or theirs(path))


def proven(name: str) -> list[bytes]:
    """The frames of the files that only we read."""
    path = corpus()[name]
    if name == "badVR.dcm":
        value = dcmread(path).PixelData
        return [value[i : i + 400] for i in range(0, 6000, 400)]  # 10 x 10 samples of 32 bits
    return theirs(path.with_name("emri_small_jpeg_2k_lossless.dcm"))


def test_the_table_names_files_that_are_there():
    assert set(ODD) | set(OURS) <= set(corpus())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["OT-PAL-8-face.dcm", "SC_rgb_jpeg.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm"])
def test_the_attributes_of_an_odd_header_are_pydicoms(name):
    instance = opened(FileSource(corpus()[name]))
    data = dcmread(corpus()[name], force=True)
    assert (instance.dataset.Rows, instance.dataset.SOPInstanceUID) == (data.Rows, data.SOPInstanceUID)
    assert instance.header.sop_instance_uid == data.SOPInstanceUID
    assert (instance.spec.rows, instance.spec.columns) == (data.Rows, data.Columns)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["OT-PAL-8-face.dcm", "SC_rgb_jpeg.dcm", "image_dfl.dcm"])
def test_the_pixels_of_an_odd_header_can_be_decoded(name):
    assert opened(FileSource(corpus()[name])).pixels(0).size > 10_000
