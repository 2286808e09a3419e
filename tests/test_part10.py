"""Part 10 files as they leave: the same object in each wrapping, told by pydicom and by our own index."""

import io
import warnings
from pathlib import Path
from random import Random
from struct import pack

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.uid import UID

from multiframe.errors import FormatError, FragmentError, MultiframeError, TruncatedError
from multiframe.frameindex import FrameIndex, frozen
from multiframe.instance import Instance, open_instance
from multiframe.part10 import Fragments, legacy, stored, syntax_given
from multiframe.ranges import ByteRange
from multiframe.rope import Rope
from multiframe.source import FileSource, run
from multiframe.testing import Layout, part10
from tests import files
from tests.files import BIG_ENDIAN, ENCAPSULATED, EXPLICIT, IMPLICIT, JPEG, RLE, Memory, any_file, item, made

DEFLATED_SET = "1.2.840.10008.1.2.1.99"


def whole(rope: Rope, instance: Instance) -> bytes:
    return b"".join(run(rope.read(ByteRange(0, rope.size)), instance.source))


def as_stored(instance: Instance) -> bytes:
    return whole(run(stored(instance.header, instance.stat.size), instance.source), instance)


def as_legacy(instance: Instance) -> bytes:
    return whole(run(legacy(instance.header, instance.index, instance.stat.size), instance.source), instance)


def frames(instance: Instance) -> list[bytes]:
    return [frame.data for frame in instance.encoded(range(len(instance)))]


def read(data: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(io.BytesIO(data))


def told(dataset: Dataset, *, without: tuple[str, ...] = ()) -> dict[str, object]:
    """Attributes as one compares them: values, not how they were encoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out: dict[str, object] = {}
        for one in dataset:
            if one.tag.element == 0 or one.keyword in (*without, "PixelData"):
                continue
            out[str(one.tag)] = [told(i) for i in one.value] if one.VR == "SQ" else one.value
        return out


def sound_meta(data: bytes) -> None:
    """The File Meta Information is as long as it says, and preamble and prefix are there."""
    assert data[128:132] == b"DICM"
    meta = read(data).file_meta
    assert data[132:136] == b"\2\0\0\0"
    # What follows so many bytes is of another group.
    at = 144 + meta.FileMetaInformationGroupLength
    assert data[at : at + 2] != b"\2\0"
    assert data[132:at].count(b"UI") >= 3


# ------------------------------------------------------------------------------------------------ as it lies


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "CT_small.dcm", "JPEG2000.dcm", "emri_small_RLE.dcm"])
def test_what_lies_well_leaves_byte_for_byte(name: str) -> None:
    path = Path(str(get_testdata_file(name, read=False)))
    assert as_stored(open_instance(path)) == path.read_bytes()


REAL = [
    "MR_small_implicit.dcm", "rtplan.dcm", "rtdose.dcm", "MR_small_bigendian.dcm", "ExplVR_BigEnd.dcm",
    "emri_small_big_endian.dcm", "liver_expb_1frame.dcm", "SC_rgb_expb_16bit_2frame.dcm",
    "SC_rgb_expb_32bit_2frame.dcm", "SC_rgb_expb_2frame.dcm", "image_dfl.dcm", "nested_priv_SQ.dcm", "priv_SQ.dcm",
    "meta_missing_tsyntax.dcm", "ExplVR_LitEndNoMeta.dcm", "UN_sequence.dcm", "reportsi.dcm", "waveform_ecg.dcm",
    "color3d_jpeg_baseline.dcm",
]  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_files_leave_as_explicit_little_endian(name: str) -> None:
    path = Path(str(get_testdata_file(name, read=False)))
    instance = open_instance(path)
    data = as_stored(instance)
    sound_meta(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = dcmread(path, force=True)
    after = read(data)
    assert after.file_meta.TransferSyntaxUID == syntax_given(instance.header).uid
    assert told(after) == told(before)
    if "PixelData" in before and instance.syntax.little:
        assert after.PixelData == before.PixelData
    if "PixelData" in before and "Rows" in before:
        assert frames(open_instance(Memory(data))) == frames(instance)
        np.testing.assert_array_equal(after.pixel_array, before.pixel_array)


def many_vrs() -> Dataset:
    """A value of every VR, at the top and inside of sequences, and what is ambiguous in implicit VR."""
    inner = Dataset()
    inner.PixelRepresentation = 1
    inner.SmallestImagePixelValue = -5
    inner.CodeValue = "inner"
    outer = Dataset()
    outer.SmallestImagePixelValue = 60000
    outer.PurposeOfReferenceCodeSequence = Sequence([inner, Dataset()])
    outer.ReferencedFrameNumber = [1, 2]
    d = Dataset()
    d.ImageType = ["ORIGINAL", "PRIMARY"]
    d.SpecificCharacterSet = "ISO_IR 100"
    d.PatientAge = "031Y"
    d.FrameIncrementPointer = 0x00181063
    d.FrameTime = "33.3"
    d.SmallestImagePixelValue = 7
    d.ReferencedImageSequence = Sequence([outer])
    d.SourceImageSequence = Sequence([])
    d.RecommendedDisplayFrameRate = 30
    d.RegionLocationMinX0 = 2**31 + 5
    d.ReferencePixelX0 = -7
    d.PhysicalDeltaX = 0.125
    d.VectorGridData = pack("<3f", 1, 2, 3)
    d.TrackPointIndexList = pack("<2I", 1, 70000)
    d.PixelPaddingValue = 3
    d.LongCodeValue = "uc"
    d.URNCodeValue = "urn:x"
    d.StrainAdditionalInformation = "ut " * 30000
    d.add(DataElement(0x00189999, "UN", b"abcd"))
    d.add(DataElement(0x00191001, "UN", b"private"))
    d.add(DataElement(0x00190010, "LO", "OURS"))
    d.add(DataElement(0xFFFCFFFC, "OB", bytes(10)))
    return d


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG_ENDIAN, DEFLATED_SET])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_every_vr_survives_a_new_encoding(syntax: str, bits: int) -> None:
    n = 4 * 4 * bits // 8
    pixels = [bytes(range(k, k + n)) if n < 200 else bytes(n) for k in range(3)]
    extra = many_vrs()
    if syntax == BIG_ENDIAN:  # pydicom turns no words of binary values round: neither here nor there
        del extra.VectorGridData, extra.TrackPointIndexList
    data = part10(pixels, rows=4, columns=4, bits_allocated=bits, syntax=syntax, extra=extra)
    instance = open_instance(Memory(data))
    out = as_stored(instance)
    sound_meta(out)
    after = read(out)
    assert told(after) == told(read(data))
    assert after["ReferencedImageSequence"][0].PurposeOfReferenceCodeSequence[0].SmallestImagePixelValue == -5
    assert frames(open_instance(Memory(out))) == frames(instance)
    assert after["DataSetTrailingPadding"].value == bytes(10)


def test_words_of_big_endian_are_turned_round() -> None:
    head = files.head(BIG_ENDIAN, frames=None, extra=b"".join((
        files.element(0x00660016, b"OF", pack(">2f", 1.5, -2), syntax=BIG_ENDIAN),
        files.element(0x00701101, b"SS", pack(">2h", -1, 258), syntax=BIG_ENDIAN),
    )))  # fmt: skip
    head = head.replace(pack(">HH2sH", 0x0066, 0x0016, b"OF", 8), pack(">HH2s2xI", 0x0066, 0x0016, b"OF", 8))
    data = head + files.element(0x7FE00010, b"OW", bytes(range(64)), syntax=BIG_ENDIAN)
    out = as_stored(open_instance(Memory(data)))
    assert pack("<2f", 1.5, -2) in out
    assert pack("<2h", -1, 258) in out
    assert out.endswith(bytes(i ^ 1 for i in range(64)))


def test_a_long_value_of_a_short_vr_becomes_unknown() -> None:
    data = files.head(IMPLICIT, frames=None, extra=files.element(0x00400280, b"ST", b"x" * 70000, syntax=IMPLICIT))
    out = as_stored(open_instance(Memory(data + files.element(0x7FE00010, b"OW", bytes(64), syntax=IMPLICIT))))
    at = out.index(pack("<HH", 0x0040, 0x0280))
    assert out[at + 4 : at + 12] == b"UN\0\0" + pack("<I", 70000)
    assert len(read(out).PixelData) == 64


def test_a_native_file_that_ends_too_soon_is_not_written_anew() -> None:
    data = part10([bytes(64)] * 3, rows=8, columns=8, syntax=IMPLICIT)
    instance = open_instance(Memory(data[:-70]))
    with pytest.raises(TruncatedError):
        as_stored(instance)
    whole_file = part10([bytes(64)] * 3, rows=8, columns=8)[:-70]
    assert as_stored(open_instance(Memory(whole_file))) == whole_file  # as it lies


# ------------------------------------------------------------------------------------------------ one fragment a frame


@pytest.mark.parametrize("table", ["none", "basic", "extended"])
@pytest.mark.parametrize("fragments", [1, 3, (1, 4, 2, 1)])
def test_legacy_has_one_fragment_a_frame_and_no_table(table, fragments) -> None:
    random = Random(5)
    contents = [files.jpeg(random).data for _ in range(4)]
    extra = Dataset()
    extra.add(DataElement(0xFFFCFFFC, "OB", bytes(6)))
    data = part10(
        contents, rows=8, columns=8, syntax=JPEG, layout=Layout(table=table, fragments=fragments), extra=extra
    )
    out = as_legacy(open_instance(Memory(data)))
    sound_meta(out)
    before, after = read(data), read(out)
    assert told(after) == told(before, without=("ExtendedOffsetTable", "ExtendedOffsetTableLengths"))
    assert after["DataSetTrailingPadding"].value == bytes(6)
    assert after.PixelData[:8] == item(b"")
    found = list(pydicom.encaps.generate_fragments(after.PixelData[8:]))
    assert found == [c + b"\0" * (len(c) % 2) for c in contents]
    assert frames(open_instance(Memory(out))) == frames(open_instance(Memory(data)))


@given(st.randoms(use_true_random=False))
def test_legacy_of_any_layout_has_the_frames_of_the_file(random: Random) -> None:
    file = any_file(random, syntaxes=ENCAPSULATED)
    try:
        instance = file.open()
        index = instance.index
        expected = frames(instance)
        out = as_legacy(instance)
    except MultiframeError:
        return  # damaged: what is said of that is told elsewhere
    assert not index.damage
    again = open_instance(Memory(out))
    assert [f + b"\0" * (len(f) % 2) for f in expected] == frames(again), file.how
    assert again.index.fragments == len(again.index) == len(index)
    assert again.header.extended_table is None
    assert (again.header.declared_frames or 1) == len(index)


@given(st.randoms(use_true_random=False), st.data())
def test_any_range_of_a_wrapping_is_that_slice_of_the_whole(random: Random, data: st.DataObject) -> None:
    file = any_file(random)
    try:
        instance = file.open()
        rope = run(legacy(instance.header, instance.index, instance.stat.size), instance.source)
    except MultiframeError:
        return
    everything = whole(rope, instance)
    assert len(everything) == rope.size
    start = data.draw(st.integers(0, rope.size))
    stop = data.draw(st.integers(start, rope.size))
    assert b"".join(run(rope.read(ByteRange(start, stop)), instance.source)) == everything[start:stop]


def test_the_entity_tag_tells_wrappings_and_contents_apart() -> None:
    first = made(RLE, [[b"ab", b"cd"], [b"ef"]]).open()
    header = first.header
    one = FrameIndex("scan", starts=frozen([8, 18, 28]), stops=frozen([10, 20, 30]), firsts=frozen([0, 2, 3]))
    two = FrameIndex("scan", starts=frozen([8, 18, 28]), stops=frozen([10, 20, 30]), firsts=frozen([0, 1, 3]))
    ropes = [run(legacy(header, index, first.stat.size), first.source) for index in (one, two)]
    ropes += [run(stored(header, first.stat.size), first.source), run(stored(header, 30, identity="x"), first.source)]
    assert len({rope.etag for rope in ropes}) == 4


def test_damage_is_said_before_the_first_byte() -> None:
    data = part10([b"\xff\xd8ab\xff\xd9"] * 3, rows=8, columns=8, syntax=JPEG)
    instance = open_instance(Memory(data[:-20]))
    with pytest.raises(FormatError):
        as_legacy(instance)
    assert as_stored(instance) == data[:-20]


def test_a_frame_longer_than_an_item_is_refused() -> None:
    n = 1 << 31
    index = FrameIndex(
        "scan", starts=frozen([8, 16 + n, 24 + 2 * n]), stops=frozen([8 + n, 16 + 2 * n, 26 + 2 * n]),
        firsts=frozen([0, 3]),
    )  # fmt: skip
    with pytest.raises(FragmentError, match="index 0"):
        Fragments(index)
    shorter = FrameIndex("scan", starts=index.starts[:1], stops=index.stops[:1], firsts=frozen([0, 1]))
    assert Fragments(shorter).size == n + 8


def test_a_long_file_costs_memory_for_offsets_alone() -> None:
    n = 200_000
    starts = frozen(np.arange(2 * n, dtype=np.uint64) * 30 + 8)
    index = FrameIndex("scan", starts=starts, stops=frozen(starts + np.uint64(20)), firsts=frozen(np.arange(n + 1) * 2))
    rope = Rope([Fragments(index)])
    assert rope.size == n * (40 + 8)
    plan = rope.read(ByteRange(rope.size - 60, rope.size))
    assert len(next(plan)) == 3  # a piece of it is laid out, not all


def test_what_is_read_to_lay_a_file_out(tmp_path: Path) -> None:
    data = made(JPEG, [[files.jpeg(Random(1)).data * 2] for _ in range(50)]).data
    source = Memory(data)
    instance = open_instance(source)
    assert instance.index.complete
    before = source.bytes_read
    run(legacy(instance.header, instance.index, instance.stat.size), source)
    assert source.bytes_read - before <= 64  # what closes the Items
    run(stored(instance.header, instance.stat.size), source)
    assert source.bytes_read - before <= 64


def test_native_pixels_are_the_same_in_both(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(part10([bytes(64)] * 3, rows=8, columns=8))
    instance = open_instance(path)
    assert isinstance(instance.source, FileSource)
    assert as_legacy(instance) == as_stored(instance) == path.read_bytes()
    assert UID(syntax_given(instance.header).uid) == EXPLICIT
