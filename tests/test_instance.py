"""Instances against pydicom: every file of its wheel and of pydicom-data, frame by frame."""

import asyncio
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import UID

import multiframe
from multiframe import FileSource, FrameIndex, MultiframeError, indexing
from multiframe.errors import FormatError, NoPixelData, NotDicom, SourceChanged, TruncatedError
from multiframe.instance import Instance
from multiframe.memory import MemoryBudget
from tests.corpus import corpus
from tests.files import IMPLICIT, JPEG, Memory, made

# No frames to be had, by anybody.
WITHOUT: dict[str, tuple[type[MultiframeError], str]] = {
    "meta_missing_tsyntax.dcm": (FormatError, "Rows, Columns"),
    "MR_truncated.dcm": (TruncatedError, "ends inside Pixel Data, behind 0 whole frames"),
    "nested_priv_SQ.dcm": (FormatError, "Rows, Columns"),
    "rtplan_truncated.dcm": (TruncatedError, "ends inside"),
}


def names(kind: str) -> list[str]:
    """Files by what they are: `frames`, `refused`."""
    return [name for name, path in corpus().items() if _kind(path) == kind]


@cache
def _kind(path: Path) -> str:
    try:
        next(multiframe.open(path).encoded([0]))
    except MultiframeError:
        return "refused"
    return "frames"


@cache
def theirs(path: Path) -> tuple[Dataset, tuple[bytes, ...]]:
    """The data set and its frames, as pydicom and NumPy find them."""
    if path.name == "emri_small_jpeg_2k_lossless_too_short.dcm":  # pydicom needs the delimiter that is cut off
        path = corpus()["emri_small_jpeg_2k_lossless.dcm"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = dcmread(path, force=True)
        # Without File Meta pydicom takes it for implicit.
        syntax = data.file_meta.TransferSyntaxUID = UID(data.file_meta.get("TransferSyntaxUID", IMPLICIT))
        try:
            n = int(data.get("NumberOfFrames") or 1)
        except (TypeError, ValueError):
            n = 15  # badVR.dcm: "1A"
        value = data.PixelData if "PixelData" in data else data.get("FloatPixelData") or data.DoubleFloatPixelData
        if syntax.is_compressed:
            return data, tuple(generate_frames(value, number_of_frames=n))
    allocated = data.BitsAllocated
    samples = 2 if data.PhotometricInterpretation == "YBR_FULL_422" else data.SamplesPerPixel
    cells = data.Rows * data.Columns * samples
    if allocated == 1:
        bits = np.unpackbits(np.frombuffer(value, np.uint8), bitorder="little")
        return data, tuple(
            np.packbits(bits[i * cells : (i + 1) * cells], bitorder="little").tobytes() for i in range(n)
        )
    little = np.frombuffer(value, np.uint8)
    if not syntax.is_little_endian:
        word = 2 if allocated == 8 and data["PixelData"].VR == "OW" else allocated // 8
        little = little[: len(little) // word * word].reshape(-1, word)[:, ::-1].reshape(-1)
    size = cells * allocated // 8
    return data, tuple(little[i * size : (i + 1) * size].tobytes() for i in range(n))


def encoded(instance: Instance, i: int) -> bytes:
    return next(instance.encoded([i])).data


@pytest.mark.parametrize("name", names("frames"))
def test_every_frame_is_the_one_pydicom_finds(name):
    path = corpus()[name]
    instance = multiframe.open(path)
    data, expected = theirs(path)
    assert len(instance) == len(expected)
    frames = list(instance.encoded(range(len(expected))))
    assert [f.data for f in frames] == list(expected)
    assert [f.index for f in frames] == list(range(len(expected)))
    syntax = data.file_meta.TransferSyntaxUID
    assert {f.syntax.uid for f in frames} == {str(syntax) if syntax.is_compressed else "1.2.840.10008.1.2.1"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert instance.header.sop_instance_uid == data.get("SOPInstanceUID", "")
        assert instance.dataset.get("SOPInstanceUID") == data.get("SOPInstanceUID")
    assert instance.index.complete
    assert instance.index.damage is None


@pytest.mark.parametrize("name", [name for name in names("frames") if len(multiframe.open(corpus()[name])) > 1])
def test_a_part_of_the_index_gives_what_the_whole_gives(name, monkeypatch):
    monkeypatch.setattr(indexing, "_FIRST_ITEMS", 2)
    path = corpus()[name]
    _, expected = theirs(path)
    for i in range(len(expected)):
        assert encoded(multiframe.open(path), i) == expected[i]
    stepwise = multiframe.open(path)
    for i in range(len(expected)):
        stepwise.grow(i)
        assert encoded(stepwise, i) == expected[i]
    backwards = multiframe.open(path)
    assert [encoded(backwards, i) for i in reversed(range(len(expected)))] == list(expected[::-1])


@pytest.mark.parametrize("name", names("refused"))
def test_what_is_refused_is_refused_with_a_reason(name):
    path = corpus()[name]
    with pytest.raises(MultiframeError) as caught:
        next(multiframe.open(path).encoded([0]))
    error = caught.value
    if name in WITHOUT:
        kind, message = WITHOUT[name]
        assert type(error) is kind
        assert message in str(error)
    elif isinstance(error, NoPixelData):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = dcmread(path, force=True)
        assert not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(data.dir())
    else:
        assert type(error) is NotDicom
        with path.open("rb") as file:
            assert file.read(132)[128:] != b"DICM"


def test_there_are_files_of_both_kinds():
    assert set(WITHOUT) <= set(names("refused"))
    assert sum(len(multiframe.open(corpus()[name])) > 1 for name in names("frames")) > 20


def test_async_twins_give_the_same():
    path = corpus()["color3d_jpeg_baseline.dcm"]
    _, expected = theirs(path)

    async def main() -> list[bytes]:
        return [frame.data async for frame in multiframe.open(path).encoded_async([100, 3, 3, 119])]

    assert asyncio.run(main()) == [expected[i] for i in (100, 3, 3, 119)]


def test_many_threads_walk_once(monkeypatch):
    walks = []
    index_frames = indexing.index_frames

    def counted(*args, **how):
        walks.append(how["until"])
        return index_frames(*args, **how)

    monkeypatch.setattr("multiframe.instance.index_frames", counted)
    path = corpus()["color3d_jpeg_baseline.dcm"]
    _, expected = theirs(path)
    instance = multiframe.open(path)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: encoded(instance, 119), range(16)))
    assert got == [expected[119]] * 16
    assert walks == [119]


@pytest.mark.parametrize("far", [False, True])
def test_an_index_that_was_handed_in_unproven_is_proven_before_it_is_called_complete(far):
    source = Memory(made(JPEG, [[b"\xff\xd8\xff\xda\0\2ab\xff\xd9"]] * 3).data)
    source.far = far  # type: ignore[attr-defined]
    opened = multiframe.open(source, proof="whole")
    whole = opened.index
    own = FrameIndex(
        "basic", proof="own", starts=whole.starts[::2], stops=whole.stops[::2], firsts=whole.firsts[:3]
    )  # fmt: skip
    instance = Instance(source, opened.stat, opened.header, index=own)
    assert len(instance) == 2
    index = instance.complete()
    assert (len(index), index.proof) == (3, "whole")
    assert instance.index is index


def test_walks_enter_the_budget_and_leave_it():
    budget = MemoryBudget(1 << 20)
    instance = multiframe.instance.open_instance(corpus()["color3d_jpeg_baseline.dcm"], budget=budget)
    assert isinstance(instance.index, FrameIndex)
    assert budget.held == 0
    assert budget.peak > 0


def test_frames_of_a_changed_object_are_not_given():
    source = Memory(made(JPEG, [[b"\xff\xd8\xff\xda\0\2ab\xff\xd9"]] * 3).data)
    instance = multiframe.open(source)
    next(instance.encoded([0]))
    source.identity = (2,)
    with pytest.raises(SourceChanged):
        next(instance.encoded([1]))
    with pytest.raises(SourceChanged):
        multiframe.open(FileSource(corpus()["CT_small.dcm"])).source.read_ranges([], identity=(1,))


def test_a_rope_needs_the_place_of_the_frame():
    instance = multiframe.open(corpus()["CT_small.dcm"])
    with pytest.raises(LookupError):
        instance.rope(0)
    instance.grow(0)
    rope = instance.rope(0)
    assert (rope.size, rope.etag) == (len(encoded(instance, 0)), instance.rope(0).etag)
