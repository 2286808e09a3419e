"""Part 10 files as they leave: the same object in each wrapping, told by pydicom and by our own index."""

import io
import uuid
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from struct import pack
from typing import Any

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

from multiframe.codec import PixelSpec, codec_for
from multiframe.errors import FormatError, FragmentError, MultiframeError, TruncatedError
from multiframe.frameindex import FrameIndex, frozen
from multiframe.header import LongHeader
from multiframe.instance import Instance, open_instance
from multiframe.part10 import (
    Decoding,
    Fragments,
    Singles,
    can_hold,
    decoded,
    derived_uid,
    frame_number,
    legacy,
    stored,
    syntax_given,
)
from multiframe.ranges import ByteRange
from multiframe.rope import Made, Rope
from multiframe.source import FileSource, run
from multiframe.syntaxes import TransferSyntax
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


def test_odd_frames_are_padded() -> None:
    data = bytes(range(100))
    index = FrameIndex("scan", starts=frozen([8, 19, 30]), stops=frozen([11, 22, 35]), firsts=frozen([0, 2, 3]))
    rope = Rope([Fragments(index)])
    out = b"".join(run(rope.read(ByteRange(0, rope.size)), Memory(data)))
    assert out == item(data[8:11] + data[19:22]) + item(data[30:35] + b"\0")


def test_a_long_file_costs_memory_for_offsets_alone() -> None:
    n = 200_000
    starts = frozen(np.arange(2 * n, dtype=np.uint64) * 30 + 8)
    index = FrameIndex("scan", starts=starts, stops=frozen(starts + np.uint64(20)), firsts=frozen(np.arange(n + 1) * 2))
    rope = Rope([Fragments(index)])
    assert rope.size == n * (40 + 8)
    plan = rope.read(ByteRange(rope.size - 60, rope.size))
    assert sum(asked.stop - asked.start for asked in next(plan)) < 100  # a piece of it is laid out, not all


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


# ------------------------------------------------------------------------------------------------ decoded


def _native(data: bytes, spec: PixelSpec, syntax: TransferSyntax) -> bytes:
    return codec_for(syntax).decode(data, spec, syntax).tobytes()


def decoding(instance: Instance) -> Decoding:
    spec, syntax = instance.spec, instance.syntax
    after = replace(spec, photometric="RGB", planar=False) if spec.samples > 1 else spec
    index = instance.index

    def frame(i: int) -> Made:
        return Made(index.parts(i), after.frame_bits // 8, partial(_native, spec=spec, syntax=syntax), f"decode {i}")

    return Decoding(after, frame)


@pytest.mark.parametrize(
    "name",
    ["emri_small_RLE.dcm", "emri_small_jpeg_ls_lossless.dcm", "JPEG-LL.dcm", "examples_ybr_color.dcm", "JPEG2000.dcm"],
)
def test_decoded_frames_leave_as_native_ones(name: str) -> None:
    path = Path(str(get_testdata_file(name, read=False)))
    instance = open_instance(path)
    plan = decoded(instance.header, instance.index, instance.stat.size, decoding(instance))
    rope = run(plan, instance.source)
    data = whole(rope, instance)
    assert len(data) == rope.size
    sound_meta(data)
    before, after = read(path.read_bytes()), read(data)
    assert after.file_meta.TransferSyntaxUID == EXPLICIT
    changed = ("PhotometricInterpretation", "PlanarConfiguration", "LossyImageCompression")
    assert told(after, without=changed) == told(before, without=changed)
    assert after.get("LossyImageCompression", "00") == ("01" if instance.syntax.lossy else "00")
    again = open_instance(Memory(data))
    assert len(again) == len(instance)
    for i in range(len(instance)):
        np.testing.assert_array_equal(again.pixels(i), instance.pixels(i))
    for start, stop in ((0, 10), (rope.size // 2, rope.size // 2 + 5000), (rope.size - 3, rope.size)):
        assert b"".join(run(rope.read(ByteRange(start, stop)), instance.source)) == data[start:stop]


def test_a_piece_of_a_decoded_frame_is_of_the_frame_made_before() -> None:
    instance = open_instance(Path(str(get_testdata_file("emri_small_RLE.dcm", read=False))))
    rope = run(decoded(instance.header, instance.index, instance.stat.size, decoding(instance)), instance.source)
    at = rope.size - 3000
    ((first, _),) = rope.within(ByteRange(at, at + 10))
    ((second, _),) = rope.within(ByteRange(at + 10, at + 20))
    assert first is second
    assert rope.heavy >= instance.spec.frame_bits // 8


def test_what_native_values_hold() -> None:
    assert can_hold(PixelSpec(512, 512), 1000)
    assert not can_hold(PixelSpec(1024, 1024), 4096)
    assert not can_hold(PixelSpec(3, 3, bits_allocated=1, bits_stored=1), 8)


# ------------------------------------------------------------------------------------------------ one frame alone


def singles(instance: Instance, **how: Any) -> Singles:
    return Singles(instance.header, instance.index, len(instance), **how)


def enhanced(groups: int, *, defined: bool) -> Dataset:
    """What an enhanced multi-frame object says of its frames."""
    d = Dataset()
    items = []
    for k in range(groups):
        position = Dataset()
        position.ImagePositionPatient = [0, 0, k]
        item_of = Dataset()
        item_of.PlanePositionSequence = Sequence([position])
        item_of.is_undefined_length_sequence_item = not defined
        items.append(item_of)
    d.PerFrameFunctionalGroupsSequence = Sequence(items)
    d["PerFrameFunctionalGroupsSequence"].is_undefined_length = not defined
    d.ConcatenationUID = "1.2.3"
    d.StartTrim = 2
    d.FrameIncrementPointer = [0x00181065, 0x00540080]
    d.FrameTimeVector = list(range(groups))
    d.SliceVector = [7 + k for k in range(groups)]
    d.add(DataElement(0x60000010, "US", 8))
    d.add(DataElement(0x60000015, "IS", groups))
    d.add(DataElement(0x60003000, "OW", bytes(8 * groups)))
    d.add(DataElement(0x60020010, "US", 8))
    d.InstanceNumber = 77
    return d


@pytest.mark.parametrize("syntax", [JPEG, EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("defined", [True, False])
def test_a_frame_alone(syntax: str, defined: bool) -> None:
    random = Random(3)
    n = 5
    contents = [files.jpeg(random).data if syntax == JPEG else random.randbytes(64) for _ in range(n)]
    layout = Layout(table="extended") if syntax == JPEG else None
    extra = enhanced(n, defined=defined)
    data = part10(contents, rows=8, columns=8, syntax=syntax, extra=extra, layout=layout)
    instance = open_instance(Memory(data))
    before = told(read(data))
    for i in (3, 0, n - 1):
        rope = singles(instance).rope(i)
        out = whole(rope, instance)
        assert len(out) == rope.size
        sound_meta(out)
        after = read(out)
        assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
        assert after.SOPInstanceUID == derived_uid(instance.header.sop_instance_uid, i + 1)
        assert frame_number(after.SOPInstanceUID) == i + 1 == after.InstanceNumber
        assert after.SeriesInstanceUID == derived_uid(instance.header.sop_instance_uid, 0)
        assert after.NumberOfFrames == 1
        (groups,) = after.PerFrameFunctionalGroupsSequence
        assert groups.PlanePositionSequence[0].ImagePositionPatient == [0, 0, i]
        assert (after.FrameTimeVector, after.SliceVector) == (i, 7 + i)
        (source,) = after.ConversionSourceAttributesSequence
        assert source.ReferencedSOPInstanceUID == instance.header.sop_instance_uid
        assert source.ReferencedFrameNumber == i + 1
        assert "ConcatenationUID" not in after
        assert "StartTrim" not in after
        assert 0x60003000 not in after
        assert after[0x60020010].value == 8
        assert "ExtendedOffsetTable" not in after
        again = open_instance(Memory(out))
        assert len(again) == 1
        assert frames(again) == [frames(instance)[i]]
        # All else is as it was.
        same = {tag: value for tag, value in told(after).items() if before.get(tag) == value}
        assert len(same) >= len(before) - 14


def test_frames_of_single_bits_alone() -> None:
    packed = [bytes([0b10110100, 1]), bytes([0b01001011, 0]), bytes([0xFF, 1])]
    number = sum(int.from_bytes(p, "little") << 9 * k for k, p in enumerate(packed))
    data = part10(
        [number.to_bytes(4, "little")], rows=3, columns=3, bits_allocated=1, bits_stored=1, number_of_frames=3
    )
    instance = open_instance(Memory(data))
    assert len(instance) == 3
    for i, bits in enumerate(packed):
        assert read(whole(singles(instance).rope(i), instance)).PixelData == bits


def test_a_frame_alone_decoded() -> None:
    instance = open_instance(Path(str(get_testdata_file("emri_small_RLE.dcm", read=False))))
    out = whole(singles(instance, decoding=decoding(instance)).rope(4), instance)
    after = read(out)
    assert after.file_meta.TransferSyntaxUID == EXPLICIT
    np.testing.assert_array_equal(after.pixel_array, instance.pixels(4))


def test_groups_that_are_not_as_many_as_frames_are_refused() -> None:
    data = part10([bytes(64)] * 3, rows=8, columns=8, extra=enhanced(2, defined=True))
    with pytest.raises(FormatError, match="for 2 frames"):
        singles(open_instance(Memory(data)))


def test_frames_of_many_groups_are_found_without_looking_into_them() -> None:
    n = 3000
    data = part10([bytes(1)] * n, rows=1, columns=1, extra=enhanced(n, defined=True))
    instance = open_instance(Memory(data))
    each = singles(instance)
    assert read(whole(each.rope(n - 1), instance)).PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[
        0
    ].ImagePositionPatient == [0, 0, n - 1]
    assert each.rope(0).etag != each.rope(1).etag


@pytest.mark.parametrize("defined", [True, False])
def test_a_long_header_is_not_held(defined: bool) -> None:
    n = 5000
    data = part10([bytes(2)] * n, rows=1, columns=2, extra=enhanced(n, defined=defined))
    instance = open_instance(Memory(data))
    short = instance.header
    asked: list[int] = []

    def part(start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return data[start:stop]

    long = LongHeader(
        short.size, part, syntax=short.syntax, dataset_at=short.dataset_at, pixel_data=short.pixel_data,
        values=short.values,
    )  # fmt: skip
    expected, found = singles(instance), Singles(long, instance.index, n)
    assert max(asked) <= 1 << 20
    assert sum(asked) <= 4 * short.size
    for i in (0, 1234, n - 1):
        rope = found.rope(i)
        assert rope.parts == expected.rope(i).parts
        positions = read(whole(rope, instance)).PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
        assert positions[0].ImagePositionPatient == [0, 0, i]


@given(st.text("0123456789.", min_size=1, max_size=64), st.integers(0, 2**24 - 1))
def test_derived_uids(uid: str, number: int) -> None:
    made_uid = derived_uid(uid, number)
    assert len(made_uid) <= 64
    assert UID(made_uid).is_valid
    assert frame_number(made_uid) == number
    assert derived_uid(uid + "1", number) != made_uid
    whole_number = int(made_uid.removeprefix("2.25."))
    assert uuid.UUID(int=whole_number).version == 8
    assert uuid.UUID(int=whole_number).variant == uuid.RFC_4122


def test_native_pixels_are_the_same_in_both(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(part10([bytes(64)] * 3, rows=8, columns=8))
    instance = open_instance(path)
    assert isinstance(instance.source, FileSource)
    assert as_legacy(instance) == as_stored(instance) == path.read_bytes()
    assert UID(syntax_given(instance.header).uid) == EXPLICIT
