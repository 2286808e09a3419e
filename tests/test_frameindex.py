"""Where frames lie: each frame given is the original frame of that number, or there is a `MultiframeError`."""

import os
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from random import Random
from struct import pack

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multiframe import indexing
from multiframe.codestream import evidence
from multiframe.errors import (
    FormatError,
    FragmentError,
    FrameNotFound,
    MultiframeError,
    NoPixelData,
    NotFramewise,
    OffsetTableError,
    TruncatedError,
)
from multiframe.instance import Instance, open_instance
from multiframe.ranges import ByteRange
from tests import fuzz_index
from tests.files import (
    BIG_ENDIAN,
    DEFLATED,
    ENCAPSULATED,
    END,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    J2K,
    JPEG,
    JPEG_LS,
    JXL,
    RLE,
    TABLES,
    UNCOMPRESSED,
    Frame,
    Made,
    Memory,
    any_file,
    cut,
    element,
    frame_of,
    head,
    item,
    jpeg,
    jpeg2000,
    made,
)  # fmt: skip

EOI = b"\xff\xd9"
ENDED = (JPEG, JPEG_LS, J2K)
VIDEO = "1.2.840.10008.1.2.4.102"


def simple(i: int, size: int = 40) -> bytes:
    """A JPEG codestream that names its number."""
    filler = i.to_bytes(3) + bytes(size)
    return b"\xff\xd8\xff\xda\0\2" + filler.replace(b"\xff", b"\xfe") + b"\0" * ((len(filler) + 1) % 2 + 1) + EOI


def frames_of(instance: Instance) -> list[bytes | type[MultiframeError]]:
    """Each frame there is or should be: its bytes, or the kind of error."""
    found: list[bytes | type[MultiframeError]] = []
    for i in range(max(len(instance.index), instance.index.declared or 1)):
        try:
            found.append(next(instance.encoded([i])).data)
        except MultiframeError as error:
            found.append(type(error))
    return found


def frames_alone(file: Made, n: int) -> list[bytes | type[MultiframeError]]:
    """Each frame, from an instance opened for it alone."""
    found: list[bytes | type[MultiframeError]] = []
    for i in range(n):
        try:
            found.append(next(file.open().encoded([i])).data)
        except MultiframeError as error:
            found.append(type(error))
    return found


# --------------------------------------------------------------------------------------------- layouts, one by one


@pytest.mark.parametrize("syntax", ENCAPSULATED)
@pytest.mark.parametrize("table", TABLES)
def test_one_fragment_a_frame_is_found_whatever_the_table_says(syntax, table):
    random = Random(7)
    file = made(syntax, [cut(frame_of(syntax, random), 1, random) for _ in range(9)], table=table, random=random)
    instance = file.open()
    if table == "shifted" and syntax == DEFLATED:
        pytest.skip("with one fragment a frame it says nothing in particular")
    assert frames_of(instance) == file.frames
    origin = {"none": "scan", "basic": "basic", "extended": "extended", "unpadded": "extended"}.get(table, "scan")
    assert (instance.index.origin, instance.index.repaired) == (origin, origin == "scan" and table != "none")
    assert instance.index.complete
    assert instance.index.proof == "whole"


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LS, J2K, UNCOMPRESSED])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("declared", ["right", None, "0", "3", "12", "27"])
def test_several_fragments_a_frame_are_found_whatever_else_is_wrong(syntax, table, declared):
    random = Random(3)
    delimiter = table not in ("none", "basic", "zero")
    frames: list[list[bytes]] = []
    while len(frames) < 9:
        frame = frame_of(syntax, random)
        if frame.data.endswith(EOI) or syntax == UNCOMPRESSED:
            frames.append(cut(Frame(frame.data), 3, random))
    file = made(syntax, frames, table=table, frames=declared, delimiter=delimiter, random=random)
    instance = file.open()
    if syntax == UNCOMPRESSED and table in ("shuffled", "origin") and declared != "right":
        with pytest.raises(OffsetTableError, match="no Basic Offset Table"):
            frames_of(instance)
        return
    got = frames_of(instance)
    assert got[:9] == file.frames
    assert [type(g) for g in got[9:]] == [type] * (len(got) - 9)
    assert instance.index.declared == (
        int(declared) or None if declared and declared != "right" else 9 if declared else None
    )


@pytest.mark.parametrize("syntax", [JXL, RLE])
@pytest.mark.parametrize("table", ["basic", "none"])
def test_frames_with_a_mark_at_the_beginning_only_may_be_in_fragments(syntax, table):
    frames = [frame_of(syntax, Random(i)).data for i in range(4)]
    frames = [f + b"\0" * (len(f) % 2) for f in frames]
    file = made(
        syntax, [[f[:66], f[66:80], f[80:]] if syntax == RLE else [f[:8], f[8:12], f[12:]] for f in frames], table=table
    )
    assert frames_of(file.open()) == file.frames


def test_a_thumbnail_that_ends_and_begins_where_fragments_do_is_no_frame():
    thumbnail = b"\xff\xd8\xff\xda\0\2ab" + EOI
    two = thumbnail + thumbnail
    frame = b"\xff\xd8\xff\xe1" + pack(">H", 2 + len(two)) + two + b"\xff\xda\0\2cd" + EOI
    border = 6 + len(thumbnail)
    pieces = [frame[:border], frame[border:]]
    assert pieces[0].endswith(EOI)
    assert pieces[1].startswith(b"\xff\xd8\xff")
    for declared in ("right", "4", None, "1"):
        file = made(JPEG, [pieces, pieces], frames=declared)
        assert frames_of(file.open())[:2] == file.frames
        assert frames_alone(file, 2) == file.frames


def test_a_start_mark_cut_in_two_is_found():
    frame = simple(1)
    file = made(JPEG, [[frame[:2], frame[2:]], [simple(2)]])
    assert frames_of(file.open()) == file.frames


def test_frames_without_end_marks_are_found_by_where_they_begin():
    frames = [[simple(i)[:-2]] for i in range(4)]
    for file in (made(JPEG, frames), made(JPEG, [[f[:8], f[8:]] for (f,) in frames[:3]] + [[simple(9)]])):
        assert frames_of(file.open()) == file.frames


@pytest.mark.parametrize("behind", [b"", bytes(64), b"\xff" * 30, element(0x7FE10010, b"LO", b"PRIVATE ")])
def test_a_delimiter_is_one_by_what_lies_behind_it(behind):
    """Without an end mark before it nothing else shows that the last frame is whole: in place of an Item it cuts it."""
    frame = simple(1)[:-2]
    whole = made(JPEG, [[simple(0)], [frame]], junk=behind)
    assert frames_of(whole.open()) == whole.frames
    lying = replace(whole, data=whole.data.replace(END, END + frame[4:] + END))
    assert frames_of(lying.open()) == [simple(0), FragmentError]


@pytest.mark.parametrize("padding", [b"\0\0", b"\xff\xff", bytes(40), b"\xff" * 30 + b"\0\0"])
def test_padding_behind_the_end_belongs_to_the_frame(padding):
    for pieces in (1, 2):
        frames = [cut(Frame(simple(i) + padding), pieces, Random(i)) for i in range(3)]
        file = made(JPEG, frames, delimiter=False)
        assert frames_of(file.open()) == file.frames


def test_a_delimiter_behind_rle_is_one_by_what_lies_behind_it_where_their_number_does_not_bear_it_out():
    random = Random(3)
    frames = [cut(frame_of(RLE, random), 1, random) for _ in range(3)]
    few = made(RLE, frames[:2], frames="3")
    assert frames_of(few.open()) == [*few.frames, FragmentError]
    whole = made(RLE, frames)
    middle = frames[1][0]
    data = whole.data.replace(item(middle), item(middle[:70]) + END + middle[78:])
    assert frames_of(replace(whole, data=data).open()) == [whole.frames[0], FragmentError, FragmentError]


def test_a_length_that_swallows_a_fragment_is_not_believed_where_the_grammar_breaks_and_nothing_follows():
    """A comment in the header holds an end mark, and behind it where another codestream seems to begin."""
    plain = bytes.fromhex("ff4f ff51 0028") + bytes(38) + bytes.fromhex("ff52 000c") + bytes(10)
    begun = plain + bytes.fromhex("ff5c 0006 00000000 ff64 0030 ffd9")
    rest = plain[:44] + bytes.fromhex("ff90 000a 0000 00000011 00 01 ff93 fe12fe ffd9 00")
    tile = bytes.fromhex("ff90 000a 0000 00000000 00 01 ff93 010203 ffd9")
    whole = made(J2K, [[plain + tile], [begun, rest]], delimiter=False, junk=bytes(64))
    assert frames_of(whole.open()) == whole.frames
    lying = whole.data.replace(item(begun), item(begun, len(begun) + 8 + len(rest)))
    assert frames_of(replace(whole, data=lying).open()) == [whole.frames[0], FragmentError]


def test_several_frames_in_one_fragment_are_refused():
    for n in (2, 40):
        file = made(JPEG, [[b"".join(simple(i) for i in range(k, k + 2))] for k in range(0, n, 2)], frames=str(n))
        assert set(frames_of(file.open())) == {FragmentError}
        assert set(frames_alone(file, n)) == {FragmentError}


def test_an_end_mark_without_another_frame_behind_it_is_a_doubt():
    file = made(JPEG, [[simple(0)], [b"neither mark nor padding"], [simple(2)], [simple(3)]], frames="2")
    assert frames_of(file.open()) == [simple(0), FragmentError]


def test_one_broken_frame_does_not_cost_the_others():
    broken = b"\0\0" + simple(1)[2:]
    file = made(JPEG, [[simple(0)], [broken], [simple(2)]])
    assert frames_of(file.open()) == file.frames


def test_rle_in_two_fragments_is_found_by_its_headers_and_its_data():
    random = Random(2)
    frames = [cut(frame_of(RLE, random), 1, random) for _ in range(3)]
    middle = frames[1][0]
    frames[1] = [middle[:70], middle[70:]]
    file = made(RLE, frames)
    assert frames_of(file.open()) == file.frames
    assert frames_of(made(RLE, frames, frames="4").open())[1:] == [FragmentError] * 3


def test_the_first_item_may_be_a_fragment_already():
    frames = [simple(i) for i in range(3)]
    data = head(JPEG, frames="3") + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF) + b"".join(map(item, frames))
    assert frames_of(open_instance(Memory(data))) == frames


def test_more_than_declared_are_all_there_fewer_are_named():
    frames = [[simple(i)] for i in range(5)]
    many = made(JPEG, frames, frames="3").open()
    assert (len(many), many.index.declared) == (5, 3)
    few = made(JPEG, frames, frames="7").open()
    assert frames_of(few) == [simple(i) for i in range(5)] + [FragmentError] * 2
    with pytest.raises(FrameNotFound):
        next(few.encoded([7]))


@pytest.mark.parametrize("i", [-1, 3, 10**30])
def test_frames_there_cannot_be_are_not_found(i):
    for file in (made(JPEG, [[simple(k)] for k in range(3)]), native(EXPLICIT, 8, 3)):
        instance = file.open()
        with pytest.raises(FrameNotFound, match=r"has 3|no frame"):
            next(instance.encoded([i]))


def test_video_is_a_stream():
    file = made(VIDEO, [[b"\0\0\1\xb3" + bytes(50)], [bytes(20)]], frames="100")
    index = file.open().index
    assert (index.kind, len(index), index.fragments) == ("stream", 1, 2)
    with pytest.raises(NotFramewise):
        next(file.open().encoded([0]))


def test_unmarked_codestreams_are_not_counted_as_frames():
    file = made(JPEG, [[b"not a JPEG at all"], [b"and this is none"]])
    assert set(frames_of(file.open())) == {FragmentError}


def test_an_empty_item_may_be_a_frame_or_not_so_nothing_behind_it_is_given():
    file = made(JPEG, [[simple(0)], [b""], [simple(2)]])
    assert frames_of(file.open()) == [simple(0), FragmentError, FragmentError]
    file = made(JPEG, [[simple(0), b""], [b"", simple(1)]])
    assert frames_of(file.open()) == file.frames


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", TruncatedError), (ITEM, TruncatedError), (ITEM + b"\xff\0\0\0ab", TruncatedError),
        (b"no Item here", FragmentError), (item(b""), TruncatedError),
        (item(b"") + ITEM + b"\xff\0\0\0", TruncatedError),
        (item(b"") + b"no Item here", FragmentError), (item(b"\0\0\0"), TruncatedError),
    ],
)  # fmt: skip
def test_no_item_no_frame(value, error):
    data = head(JPEG, frames="1") + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF) + value
    with pytest.raises(error) as caught:
        next(open_instance(Memory(data)).encoded([0]))
    assert isinstance(caught.value, FormatError)
    assert caught.value.offset is not None


def test_no_pixel_data_is_said():
    with pytest.raises(NoPixelData):
        _ = open_instance(Memory(head(JPEG, frames="1"))).index


def test_absurd_numbers_of_items_or_frames_take_no_memory(monkeypatch):
    monkeypatch.setattr(indexing, "MAX_FRAGMENTS", 1000)
    with pytest.raises(FragmentError, match="refused"):
        _ = made(JPEG, [[b""] * 5000]).open().index
    for syntax in (JPEG, JXL):
        file = made(syntax, [[simple(0)]], frames="999999999999")
        assert len(file.open().index) <= 1


def test_where_two_witnesses_contradict_what_was_given_nothing_more_is_given():
    """A comment behind the pixels imitates a border; only walking the whole codestream shows it."""
    trap = b"\xff\xda\0\2cd" + b"\xff\xfe\0\x10" + b"xx" + b"\xff\xd9"
    frame = b"\xff\xd8" + trap, b"\xff\xd8\xff\xda\0\2" + b"\xff\xd9"
    file = made(JPEG, [[*frame], *[[simple(i)] for i in range(60)]])
    instance = file.open()
    instance.grow(0)
    assert instance.known is not None
    assert not instance.known.complete
    with pytest.raises(FragmentError):
        list(instance.encoded(range(61)))
    for i in range(61):
        with pytest.raises(FragmentError):
            next(instance.encoded([i]))


# ------------------------------------------------------------------------------------------------------- searching

LONG = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@LONG
@given(st.randoms(use_true_random=False), st.sampled_from(ENCAPSULATED), st.sampled_from((0, 1, 2)))
def test_no_layout_gives_a_wrong_frame(random, syntax, step):
    assert fuzz_index.wrong_frame(any_file(random, syntaxes=[syntax]), step=step) == ""


@LONG
@given(st.randoms(use_true_random=False), st.sampled_from((0, 1, 2)))
def test_no_mutation_gives_a_wrong_frame(random, step):
    assert fuzz_index.wrong_frame(fuzz_index.mutated(any_file(random), random), step=step, loosely=True) == ""


def test_a_few_thousand_files_right_and_wrong():
    assert fuzz_index.run(2000) == ""


@pytest.mark.long
@pytest.mark.parametrize("part", range(5))  # each well under the time after which a test is taken to hang
def test_very_many_files_right_and_wrong(part):
    assert fuzz_index.run(20_000, seed=10_000 + 20_000 * part) == ""  # python -m tests.fuzz_index takes any count


@pytest.mark.parametrize("syntax", ENCAPSULATED)
@pytest.mark.parametrize("table", ["none", "basic", "unpadded"])
def test_cut_anywhere(syntax, table):
    random = Random(4)
    pieces = 1 if syntax in (DEFLATED, RLE) or table == "unpadded" else 2
    frames = [f for f in (frame_of(syntax, random) for _ in range(40)) if f.data.endswith(EOI) or syntax not in ENDED]
    file = made(syntax, [cut(f, pieces, random) for f in frames[:4]], table=table)
    if syntax != JXL or pieces == 1:
        assert frames_of(file.open()) == file.frames
    borders = [file.pixels_at, file.pixels_at + 8 + 16 * (table == "basic")]
    for frame in file.fragments:
        for fragment in frame:
            borders.append(borders[-1] + 8 + len(fragment))
    near = {b + d for b in borders for d in range(-9, 10)} | set(random.sample(range(len(file.data)), 30))
    for stop in sorted(near):
        short = replace(file, data=file.data[:stop], how=f"{file.how} cut at {stop}")
        for step in (0, 1) if stop in borders else (stop % 2,):
            assert fuzz_index.wrong_frame(short, step=step) == ""
    last = open_instance(Memory(file.data[: borders[-1] - 1]))  # the frames before are all there
    got = frames_of(last)
    assert isinstance(got[3], type)
    if syntax not in (JXL, DEFLATED):  # there, what is cut off could have told more
        assert got == [*file.frames[:3], TruncatedError]


# ---------------------------------------------------------------------------------------------------------- native


def native(
    syntax: str, allocated: int, n: int, *, rows: int = 3, columns: int = 5, declared: str | None = None
) -> Made:
    random = Random(allocated)
    bits = rows * columns * allocated
    values = [random.randbytes(-(-bits // 8)) for _ in range(n)]
    if bits % 8:
        values = [v[:-1] + bytes([v[-1] & ((1 << bits % 8) - 1)]) for v in values]
        every = sum(int.from_bytes(v, "little") << (i * bits) for i, v in enumerate(values))
        stored = every.to_bytes(-(-n * bits // 8), "little")
    else:
        stored = b"".join(values)
    stored += b"\0" * (len(stored) % 2)
    if syntax == BIG_ENDIAN and allocated > 8:
        stored = np.frombuffer(stored, f"<u{allocated // 8}").astype(f">u{allocated // 8}").tobytes()
    before = head(syntax, frames=declared or str(n), rows=rows, columns=columns, allocated=allocated)
    vr = b"OW" if allocated > 8 or syntax == IMPLICIT else b"OB"
    data = before + element(0x7FE00010, vr, stored, syntax=syntax)
    return Made(syntax, data, values, [], len(data) - len(stored), f"{syntax} {allocated=} {n=}")


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("allocated", [1, 8, 16, 32, 64])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_native_frames(syntax, allocated, n):
    file = native(syntax, allocated, n)
    instance = file.open()
    assert frames_of(instance) == file.frames
    assert (instance.index.origin, instance.index.fragments) == ("native", 0)
    shifts = [i * 15 * allocated % 8 for i in range(n)]
    assert [instance.index.bit_shift(i) for i in range(n)] == shifts
    for stop in range(file.pixels_at, len(file.data)):
        short = open_instance(Memory(file.data[:stop]))
        there = min(n, 8 * (stop - file.pixels_at) // (15 * allocated))
        assert frames_of(short) == file.frames[:there] + [TruncatedError] * (n - there)


@pytest.mark.parametrize(("declared", "expected"), [("3", 4), ("4", 4), ("5", 4), ("0", 4), ("1", 4)])
def test_whole_native_frames_are_counted(declared, expected):
    file = native(EXPLICIT, 16, 4, declared=declared)
    got = frames_of(file.open())
    assert got[:expected] == file.frames
    assert set(got[expected:]) <= {FragmentError}


def test_native_frames_of_another_size_than_the_header_says_are_refused():
    """As YBR_FULL_422 that is not subsampled, or a pad byte behind every frame."""
    for n, real, said in ((4, 30, 20), (1, 30, 20), (3, 16, 15), (2, 8, 10), (3, 12, 24), (5, 40, 20)):
        stored = bytes(n * real) + b"\0" * (n * real % 2)
        data = head(EXPLICIT, frames=str(n), rows=1, columns=said) + element(0x7FE00010, b"OB", stored)
        assert frames_of(open_instance(Memory(data))) == [FragmentError] * n
    ones = head(EXPLICIT, frames="3", rows=3, columns=3, allocated=1) + element(0x7FE00010, b"OB", bytes(6))
    assert frames_of(open_instance(Memory(ones))) == [FragmentError] * 3


def test_more_bytes_behind_native_frames_are_junk():
    file = native(EXPLICIT, 8, 4)  # 4 frames of 15 bytes
    data = file.data.replace(pack("<I", 60), pack("<I", 66)) + bytes(6)
    assert frames_of(open_instance(Memory(data))) == file.frames


# ------------------------------------------------------------------------------------------------------------ cost


def test_the_first_frame_does_not_wait_for_the_walk():
    source = Memory(made(JPEG, [[simple(i, 20_000)] for i in range(500)]).data)
    instance = open_instance(source)
    assert next(instance.encoded([0])).data == simple(0, 20_000)
    assert source.bytes_read < 200_000
    assert source.requests < 30
    assert instance.known is not None
    assert not instance.known.complete
    assert instance.known.proof == "own"


def test_a_whole_index_reads_little_of_large_fragments_and_windows_of_small_ones():
    source = Memory(made(JPEG, [[simple(i, 185_000)] for i in range(100)]).data)
    open_instance(source, budget=None).index  # noqa: B018
    assert source.bytes_read - 65_536 <= 0.01 * len(source.data)
    source = Memory(made(JPEG, [[simple(i, 1000)] for i in range(6000)]).data)
    assert len(open_instance(source).index) == 6000
    assert source.bytes_read < 1.2 * len(source.data)
    assert source.requests < 100


def test_frames_found_once_are_not_looked_for_again():
    source = Memory(made(JPEG, [[simple(i, 3000)] for i in range(400)]).data)
    instance = open_instance(source)
    for i in (0, 50, 390):
        instance.grow(i)
    before = source.requests
    instance.grow(200)
    assert source.requests == before
    instance.grow(None)
    alone = open_instance(Memory(source.data))
    alone.grow(None)
    assert source.bytes_read < len(source.data) * 1.5
    assert instance.index.starts.tolist() == alone.index.starts.tolist()


def test_no_more_than_one_pass_over_a_file_in_doubt():
    frames = [[simple(i, 60_000)[:30_000], simple(i, 60_000)[30_000:]] for i in range(40)]
    for declared in ("39", None, "41"):
        source = Memory(made(JPEG, frames, frames=declared).data)
        assert len(open_instance(source).index) == 40
        assert source.bytes_read < 1.1 * len(source.data)


def test_headers_with_profiles_cost_one_more_read_each():
    profile = b"\xff\xe2" + pack(">H", 3002) + bytes(3000)
    frames = [[b"\xff\xd8" + profile + simple(i, 5000)[2:]] for i in range(40)]
    source = Memory(made(JPEG, frames).data)
    assert frames_of(open_instance(source)) == [f for (f,) in frames]
    instance = open_instance(source)
    source.requests = 0
    instance.grow(None)
    assert source.requests < 40 * 3


def test_a_sparse_file_of_20_gb_without_a_table(tmp_path):
    path = tmp_path / "huge.dcm"
    length, n = 200 << 20, 110
    before = head(JPEG, frames=str(n)) + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF) + item(b"")
    with path.open("wb") as file:
        file.write(before)
        for i in range(n):
            at = len(before) + i * (length + 8)
            file.seek(at)
            file.write(ITEM + pack("<I", length) + b"\xff\xd8\xff\xda\0\2" + i.to_bytes(2))
            file.seek(at + 8 + length - 2)
            file.write(EOI)
        file.write(b"\xfe\xff\xdd\xe0\0\0\0\0")
        assert file.tell() > 20 << 30
    tracemalloc.start()
    try:
        instance = open_instance(path)
        part = instance.grow(n - 1).parts(n - 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    start = len(before) + (n - 1) * (length + 8) + 8
    assert [(p.start, p.stop) for p in part] == [(start, start + length)]
    assert instance.index[0] == ByteRange(len(before) + 8, len(before) + 8 + length)
    assert peak < 4 << 20
    assert os.stat(path).st_blocks * 512 < 10 << 20


def test_an_index_is_a_sequence():
    index = made(JPEG, [[simple(i)] for i in range(4)]).open().index
    assert list(index) == index[:] == [index[i] for i in range(4)]
    assert index[1] in index
    assert index[2:0:-1] == [index[2], index[1]]
    with pytest.raises(IndexError):
        index[4]


def test_errors_name_table_and_fragment():
    pieces = [cut(frame_of(JXL, Random(1)), 2, Random(1)) for _ in range(3)]
    file = made(JXL, pieces, table="random", frames="4", random=Random(1))
    with pytest.raises(OffsetTableError, match=r"fragment 0 .*at byte") as caught:
        next(file.open().encoded([0]))
    assert caught.value.offset == file.pixels_at + 8 + 12


def test_hostile_headers_end():
    """Endless marker segments, one fragment after the other: read once, not once for each."""
    comments = b"\xff\xfe\0\x02" * 2000
    source = Memory(made(JPEG, [[b"\xff\xd8" + comments] for _ in range(60)]).data)
    assert set(frames_of(open_instance(source))) <= {FragmentError, TruncatedError}
    assert source.bytes_read < 4 * len(source.data)


def test_jpeg_maker_makes_jpeg():
    """The tests' own frames have a grammar that the walk agrees with."""
    for seed in range(50):
        frame = jpeg(Random(seed))
        file = made(JPEG, [[frame.data + b"\0" * (len(frame.data) % 2)]] * 2, frames="5")
        assert len(file.open().index) == 2


def test_what_begins_like_a_codestream_and_goes_on_like_none_is_in_doubt() -> None:
    """The end mark before it is hidden by padding: the border between two frames would go unseen."""
    small = b"\xff\xd8\xff\xda\0\2ab\xff\xd9"
    first = b"\xff\xd8\xff\xda\0\2" + bytes([1]) * 40 + b"\xff\xd9" + bytes(10)
    second = [b"\xff\xd8\xff\xe1" + pack(">H", 2 + 2 * len(small)) + small, small, b"\xff\xda\0\2cd\xff\xd9"]
    file = made(JPEG, [[first], second])
    at = file.data.index(pack("<I", len(small)) + small)
    lying = replace(file, data=file.data[:at] + pack("<I", len(small) + 12) + file.data[at + 4 :])
    for i, frame in enumerate(file.frames):
        with suppress(MultiframeError):
            assert next(lying.open().encoded([i])).data == frame


def test_a_last_frame_without_an_end_is_missed_whatever_number_of_frames_says() -> None:
    whole = jpeg(Random(1), hostile=False).data
    whole += bytes(len(whole) % 2)
    cut = jpeg(Random(2), hostile=False, end=False).data
    file = made(JPEG, [[whole], [whole], [cut + bytes(len(cut) % 2)]], frames=None, delimiter=False)
    index = file.open().index
    assert len(index) == 2
    assert index.damage is not None
    assert index.damage.kind == "cut"


def test_a_first_fragment_too_short_to_begin_like_anything() -> None:
    whole = jpeg2000(Random(1)).data
    whole += bytes(len(whole) % 2)
    file = made(J2K, [[whole[:4], whole[4:10], whole[10:]]])
    assert next(file.open().encoded([0])).data == whole


def test_a_file_that_ends_too_soon_is_not_read_whole() -> None:
    frames = [simple(i, 100_000) for i in range(40)]
    file = made(JPEG, [[f] for f in frames])
    source = Memory(file.data[: len(file.data) // 2])
    index = open_instance(source).index
    assert [next(open_instance(source).encoded([i])).data for i in range(3)] == frames[:3]
    assert index.damage is not None
    assert index.damage.kind == "cut"
    assert len(index) >= 18
    source.bytes_read = 0
    assert len(open_instance(source)) == len(index)
    assert source.bytes_read < 0.1 * len(source.data)


def test_a_first_fragment_taken_for_the_table_is_no_part_of_the_first_frame() -> None:
    """Without the Item of the table the first fragment stands in its place, and what follows is half a frame."""
    whole = jpeg2000(Random(1)).data
    whole += bytes(len(whole) % 2)
    other = jpeg2000(Random(2)).data
    other += bytes(len(other) % 2)
    file = made(J2K, [[whole[:10], whole[10:]], [other]])
    lost = replace(file, data=file.data[: file.pixels_at] + file.data[file.pixels_at + 8 :])
    for i, frame in enumerate(file.frames):
        with suppress(MultiframeError):
            assert next(lost.open().encoded([i])).data == frame


def test_items_without_a_transfer_syntax_are_no_native_pixels() -> None:
    file = made(JPEG, [[b"\xff\xd8\xff\xda\0\2" + bytes(200) + b"\xff\xd9"]] * 2)
    data = file.data.replace(b"\2\0\x10\0UI", b"\2\0\x11\0UI").replace(
        b"OB\0\0\xff\xff\xff\xff", b"OB\0\0\xff\xff\xff\x7f"
    )
    with pytest.raises(FormatError, match="names no Transfer Syntax"):
        replace(file, data=data).open()


def test_a_native_value_that_ends_nowhere_is_not_believed() -> None:
    """Neither what its frames need nor what is there: the first Item of what is no native value is damaged, too."""
    lying = head(EXPLICIT, frames="4", rows=3, columns=5) + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\x7f" + bytes(200)
    assert frames_of(open_instance(Memory(lying))) == [FragmentError] * 4


def test_few_and_many_fragments_end_alike() -> None:
    tails = np.random.default_rng(1).choice(np.array([0x00, 0xFF, 0xD9, 7], np.uint8), (5000, 8))
    length, head = np.full(1, 99, np.uint64), np.zeros((1, 64), np.uint8)
    many = evidence("jpeg", head.repeat(5000, 0), tails, length.repeat(5000))
    few = [evidence("jpeg", head, tail.reshape(1, 8), length) for tail in tails]
    assert many is not None
    assert 0 < many.ends.sum() < 5000
    assert many.ends.tolist() == [bool(one.ends[0]) for one in few if one]


def test_a_last_length_that_ends_a_few_bytes_before_the_file_does_is_not_believed() -> None:
    file = made(JPEG, [[jpeg(Random(k), hostile=False).data.ljust(300, b"\0")] for k in range(3)], delimiter=False)
    data = bytearray(file.data)
    at = len(data) - 2 * 308  # the second frame's Item takes in the third, all but four bytes of its padding
    data[at + 4 : at + 8] = pack("<I", 300 + 308 - 4)
    index = open_instance(Memory(bytes(data))).index
    assert len(index) == 1
    assert index.damage is not None


def test_as_many_fragments_as_frames_refute_columns_that_lie() -> None:
    frames = [[bytes([k]) * 64] for k in range(34)]
    file = made(UNCOMPRESSED, frames, delimiter=False)
    assert len(file.open().index) == 34
    wrong = file.data.replace(pack("<HH2sHH", 0x28, 0x11, b"US", 2, 8), pack("<HH2sHH", 0x28, 0x11, b"US", 2, 136))
    assert wrong != file.data
    assert len(open_instance(Memory(wrong)).index) == 0
