"""Every layout: one row for each way in which frames lie in files, right or wrong (PS3.5 8, A.4; PS3.3 C.7.6.3).

The oracle is what was put in: each frame comes back byte for byte, or there is an error that says why not.
"""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from struct import pack

import pytest

import multiframe
from multiframe.errors import FormatError, FragmentError, FrameNotFound, MultiframeError, NotFramewise, TruncatedError
from multiframe.instance import Instance, open_instance
from multiframe.testing import Layout, part10
from tests.files import (
    BIG_ENDIAN,
    COLUMNS,
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
    ODD_TABLES,
    RLE,
    ROWS,
    TABLES,
    UNCOMPRESSED,
    Frame,
    Made,
    Memory,
    cut,
    element,
    frame_of,
    head,
    item,
    made,
)  # fmt: skip

MARKED = (JPEG, JPEG_LS, J2K)
DEFLATED_SET = "1.2.840.10008.1.2.1.99"
UNDEFINED = 0xFFFFFFFF

type Given = list[bytes | type[MultiframeError]]


def given(instance: Instance, n: int) -> Given:
    """The first `n` frames, each its bytes or the kind of error."""
    found: Given = []
    for i in range(n):
        try:
            found.append(next(instance.encoded([i])).data)
        except MultiframeError as error:
            found.append(type(error))
    return found


def frames_of(syntax: str, n: int = 6, *, seed: int = 5) -> list[Frame]:
    """Codestreams that end with their end mark, where they have one."""
    random, found = Random(seed), list[Frame]()
    while len(found) < n:
        frame = frame_of(syntax, random)
        if syntax not in MARKED or frame.data.endswith(b"\xff\xd9"):
            found.append(frame)
    return found


def laid(syntax: str, pieces: Callable[[int], int] = lambda _: 1, n: int = 6, **how: object) -> Made:
    """Frame `i` in `pieces(i)` fragments."""
    random = Random(9)
    fragments = [cut(frame, pieces(i), random) for i, frame in enumerate(frames_of(syntax, n))]
    return made(syntax, fragments, random=random, **how)  # type: ignore[arg-type]


def check(file: Made, *, declared: int | None = None) -> Instance:
    """All frames are those put in, in one go and each from an instance of its own."""
    n = len(file.frames)
    instance = file.open()
    assert given(instance, n) == file.frames
    assert (len(instance), instance.index.damage) == (n, None)
    with pytest.raises(FrameNotFound):
        next(instance.encoded([n]))
    for i in reversed(range(n)):
        assert next(file.open().encoded([i])).data == file.frames[i]
    assert instance.index.declared == (n if declared is None else declared or None)
    return instance


# -------------------------------------------------------------------------------------------------- encapsulated frames


@pytest.mark.parametrize("syntax", ENCAPSULATED)
@pytest.mark.parametrize("table", ["none", "basic", "extended", "unpadded"])
def test_one_fragment_a_frame(syntax, table):  # 2, 3, 4, 12, 14, 18, 19
    instance = check(laid(syntax, table=table))
    assert instance.index.origin == {"none": "scan", "unpadded": "extended"}.get(table, table)
    assert (instance.index.kind, instance.index.repaired) == ("frames", False)


@pytest.mark.parametrize("syntax", [*MARKED, UNCOMPRESSED])
@pytest.mark.parametrize("table", ["none", "basic"])
@pytest.mark.parametrize("pieces", [lambda _: 3, lambda i: 1 + i % 4, lambda i: 20 if i == 2 else 1])
def test_several_fragments_a_frame_fixed_or_varying(syntax, table, pieces):  # 6
    check(laid(syntax, pieces, table=table))


@pytest.mark.parametrize("syntax", [*MARKED, RLE])
@pytest.mark.parametrize("table", [*TABLES, *ODD_TABLES])
def test_a_table_that_lies_is_seen_through(syntax, table):
    check(laid(syntax, (lambda i: 1 + i % 3) if syntax in MARKED else (lambda _: 1), table=table))


@pytest.mark.parametrize("table", ["short", "shuffled", "zero", "random", "origin", "wrapped", "extended shuffled"])
def test_a_table_that_lies_is_said_to_be_repaired(table):
    index = check(laid(JPEG, table=table)).index
    assert (index.origin, index.repaired) == ("scan", True)


@pytest.mark.parametrize("syntax", MARKED)
@pytest.mark.parametrize("at", [0, 1, -1])
def test_fragments_of_no_length_belong_to_no_frame_in_particular(syntax, at):
    random = Random(2)
    fragments = [cut(frame, 2, random) for frame in frames_of(syntax)]
    for pieces in fragments[1:4]:
        pieces.insert(len(pieces) if at < 0 else at, b"")
    check(made(syntax, fragments))


@pytest.mark.parametrize("syntax", MARKED)
@pytest.mark.parametrize("declared", [None, "0", "1", "5", "7", "18", " 6", "6.0", "+6", "1A"])
@pytest.mark.parametrize("pieces", [1, 3])
def test_number_of_frames_wrong_or_absent_with_proven_frames(syntax, declared, pieces):  # 21
    file = laid(syntax, lambda _: pieces, frames=declared)
    instance = file.open()
    assert given(instance, 6) == file.frames
    says = {"5": 5, "7": 7, "18": 18, "1": 1, " 6": 6, "6.0": 6, "+6": 6}.get(declared)
    assert (len(instance), instance.index.declared) == (6, says)
    if says and says > 6:
        with pytest.raises(FragmentError):
            next(instance.encoded([6]))


@pytest.mark.parametrize("syntax", [*MARKED, RLE])
def test_without_delimiter_all_proven_frames_are_there(syntax):  # 5
    file = laid(syntax, delimiter=False)
    assert given(file.open(), 6) == file.frames


@pytest.mark.parametrize("syntax", [*MARKED, RLE])
@pytest.mark.parametrize(
    "junk", [bytes(64), b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0", element(0xFFFAFFFA, b"SQ", b"")]
)
@pytest.mark.parametrize("delimiter", [True, False])
def test_padding_and_elements_behind_pixel_data(syntax, junk, delimiter):  # 7
    if syntax == RLE and not delimiter:
        pytest.skip("RLE has no end mark: nothing shows that its last frame is whole")
    file = laid(syntax, junk=junk, delimiter=delimiter)
    assert given(file.open(), 6) == file.frames


@pytest.mark.parametrize("syntax", MARKED)
@pytest.mark.parametrize("pad", [b"", b"\0", b"\0\0\0\0", b"\xff\xff", bytes(500)])
def test_padding_behind_the_end_mark_is_the_frames(syntax, pad):  # 7
    whole = [frame.data + pad for frame in frames_of(syntax)]
    check(made(syntax, [[data + b"\0" * (len(data) % 2)] for data in whole]))


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LS, J2K, RLE, UNCOMPRESSED])
@pytest.mark.parametrize("table", ["none", "basic", "extended"])
def test_frames_before_a_cut_are_served(syntax, table):
    file = laid(syntax, table=table)
    stops = [file.pixels_at]
    stops.append(stops[0] + 8 + int.from_bytes(file.data[stops[0] + 4 : stops[0] + 8], "little"))
    for frame in file.fragments:
        stops.append(stops[-1] + sum(8 + len(piece) for piece in frame))
    for k in range(1, 6):
        for stop in (
            stops[k + 1] + 3,
            stops[k + 1] + 11,
            (stops[k + 1] + stops[k + 2]) // 2 if k < 5 else stops[-1] - 3,
        ):
            found = given(open_instance(Memory(file.data[:stop])), 6)
            served = sum(isinstance(frame, bytes) for frame in found)
            assert served in (k - 1, k, k + 1)  # where nothing shows that the last is whole it is not given
            assert found == file.frames[:served] + [TruncatedError] * (6 - served)


@pytest.mark.parametrize("syntax", [JPEG, J2K])
def test_a_pixel_data_of_defined_length_is_read_all_the_same(syntax):
    file = laid(syntax)
    at = file.data.index(b"OB\0\0\xff\xff\xff\xff") + 4
    length = pack("<I", len(file.data) - at - 4)
    assert given(open_instance(Memory(file.data[:at] + length + file.data[at + 4 :])), 6) == file.frames


@pytest.mark.parametrize("vr", [b"OW", b"UN", b"OB"])
def test_the_vr_of_encapsulated_pixel_data_means_nothing(vr):  # 1
    file = laid(JPEG, lambda i: 1 + i % 2, table="basic")
    data = file.data.replace(b"\xe0\x7f\x10\0OB", b"\xe0\x7f\x10\0" + vr)
    assert given(open_instance(Memory(data)), 6) == file.frames


def test_encapsulated_frames_without_rows_and_columns_are_found():
    file = laid(JPEG)
    data = file.data.replace(b"\x28\0\x10\0US", b"\x28\0\x34\0US").replace(b"\x28\0\x11\0US", b"\x28\0\x35\0US")
    assert given(open_instance(Memory(data)), 6) == file.frames


# ------------------------------------------------------------------------------------------------------ icons, privates

ICON = b"".join(element(0x00280000 | n, b"US", b"\2\0") for n in (0x10, 0x11))
_NATIVE = ICON + element(0x7FE00010, b"OW", b"icon")
_CODED = ICON + element(0x7FE00010, b"OB", item(b"") + item(b"\xff\xd8\xff\xd9") + END, length=UNDEFINED)
_CLOSED = b"\xfe\xff\x0d\xe0\0\0\0\0"


@pytest.mark.parametrize("syntax", [JPEG, RLE, EXPLICIT])
@pytest.mark.parametrize("inner", [_NATIVE, _CODED], ids=["native", "encapsulated"])
@pytest.mark.parametrize("whole", [True, False], ids=["defined", "undefined"])
def test_an_icon_is_not_the_image(syntax, inner, whole):  # 1
    if whole:
        icon = element(0x00880200, b"SQ", item(inner))
    else:
        icon = element(0x00880200, b"SQ", item(inner + _CLOSED, UNDEFINED) + END, length=UNDEFINED)
    if syntax == EXPLICIT:
        frames = [bytes([i]) * ROWS * COLUMNS for i in range(3)]
        data = head(EXPLICIT, frames="3", extra=icon) + element(0x7FE00010, b"OB", b"".join(frames))
        assert given(open_instance(Memory(data)), 3) == frames
    else:
        check(laid(syntax, private=icon))


@pytest.mark.parametrize(
    "private",
    [
        element(0x00291010, b"OB", item(b"") + item(b"\xff\xd8\xff\xd9") + END),
        element(0x00291010, b"UN", element(0x7FE00010, b"OB", item(b"") + END, length=UNDEFINED)),
        element(0x7FDF1010, b"OB", item(b"") + item(b"rubbish!") + END, length=UNDEFINED),
        element(0x00291010, b"UN", item(element(0x00280010, b"", b"\2\0", syntax=IMPLICIT)) + END, length=UNDEFINED),
    ],
    ids=["items", "pixel data", "fragments", "sequence"],
)
@pytest.mark.parametrize("syntax", [JPEG, J2K])
def test_private_data_that_looks_like_items_is_none(private, syntax):
    check(laid(syntax, private=private))


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LS])
def test_payloads_that_imitate_items_are_payloads(syntax):
    fake = ITEM + pack("<I", 6) + b"\xff\xd8\xff\xd9\0\0"
    whole = [b"\xff\xd8" + b"\xff\xe1" + pack(">H", len(fake) + 2) + fake + f.data[2:] for f in frames_of(syntax)]
    check(made(syntax, [[data + b"\0" * (len(data) % 2)] for data in whole]))


# -------------------------------------------------------------------------------------------------------------- native


def swapped(data: bytes, word: int) -> bytes:
    return b"".join(data[i : i + word][::-1] for i in range(0, len(data), word))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED_SET])
@pytest.mark.parametrize(("bits", "columns"), [(8, 4), (8, 5), (16, 5), (32, 5)])
@pytest.mark.parametrize("n", [1, 3])
def test_native_frames_little_endian(syntax, bits, columns, n):  # 9, 17
    frames = [Random(i).randbytes(3 * columns * bits // 8) for i in range(n)]
    file = part10(frames, rows=3, columns=columns, bits_allocated=bits, syntax=syntax)
    instance = open_instance(Memory(file))
    assert given(instance, n) == frames
    assert instance.index.origin == "native"


def test_a_deflated_data_set_is_said_to_be_one():  # 17
    file = part10([bytes(12)], rows=3, columns=4, syntax=DEFLATED_SET)
    assert open_instance(Memory(file)).syntax.uid == DEFLATED_SET


@pytest.mark.parametrize(("vr", "bits", "word"), [(b"OB", 8, 1), (b"OW", 8, 2), (b"OW", 16, 2), (b"OW", 32, 4)])
@pytest.mark.parametrize("columns", [4, 5])
def test_native_frames_big_endian(vr, bits, word, columns):
    frames = [Random(i).randbytes(3 * columns * bits // 8) for i in range(3)]
    value = b"".join(frames)
    value += b"\0" * (-len(value) % max(word, 2))
    before = head(BIG_ENDIAN, frames="3", rows=3, columns=columns, allocated=bits)
    data = before + element(0x7FE00010, vr, swapped(value, word), syntax=BIG_ENDIAN)
    assert given(open_instance(Memory(data)), 3) == frames


@pytest.mark.parametrize("n", [1, 2, 9])
def test_frames_of_one_bit_may_begin_inside_a_byte(n):  # 10
    size, random = 5 * 7, Random(n)
    numbers = [random.getrandbits(size) for _ in range(n)]
    value = sum(number << (k * size) for k, number in enumerate(numbers)).to_bytes(-(-n * size // 8), "little")
    data = head(EXPLICIT, frames=str(n), rows=5, columns=7, allocated=1)
    data += element(0x7FE00010, b"OB", value + b"\0" * (len(value) % 2))
    instance = open_instance(Memory(data))
    assert given(instance, n) == [number.to_bytes(5, "little") for number in numbers]
    assert [instance.index.bit_shift(k) for k in range(n)] == [k * size % 8 for k in range(n)]


def test_native_ybr_full_422_has_two_bytes_a_pixel():  # 11
    frames = [Random(i).randbytes(6 * 4 * 2) for i in range(3)]
    file = part10(frames, rows=6, columns=4, samples=3, photometric="YBR_FULL_422")
    assert given(open_instance(Memory(file)), 3) == frames


@pytest.mark.parametrize(("tag", "vr", "bits"), [(0x7FE00008, b"OF", 32), (0x7FE00009, b"OD", 64)])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_float_pixel_data(tag, vr, bits, syntax):
    frames = [Random(i).randbytes(ROWS * COLUMNS * bits // 8) for i in range(3)]
    value = b"".join(frames)
    stored = swapped(value, bits // 8) if syntax == BIG_ENDIAN else value
    order = ">" if syntax == BIG_ENDIAN else "<"
    if syntax == IMPLICIT:
        pixels = element(tag, vr, stored, syntax=syntax)
    else:
        pixels = pack(f"{order}HH2s2xI", tag >> 16, tag & 0xFFFF, vr, len(stored)) + stored
    data = head(syntax, frames="3", allocated=bits) + pixels
    assert given(open_instance(Memory(data)), 3) == frames


@pytest.mark.parametrize("declared", [None, "0", "2", "garbage"])
def test_native_frames_beyond_the_declared_are_there(declared):
    frames = [Random(i).randbytes(ROWS * COLUMNS) for i in range(5)]
    data = head(EXPLICIT, frames=declared) + element(0x7FE00010, b"OB", b"".join(frames))
    instance = open_instance(Memory(data))
    assert given(instance, 5) == frames
    assert (len(instance), instance.index.declared) == (5, 2 if declared == "2" else None)


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED_SET])
def test_native_frames_before_a_cut_are_served(syntax):
    frames = [Random(i).randbytes(600) for i in range(300)]
    file = part10(frames, rows=20, columns=30, syntax=syntax)
    found = given(open_instance(Memory(file[: len(file) * 2 // 3])), 300)
    served = sum(isinstance(frame, bytes) for frame in found)
    assert 100 < served < 300
    assert found == frames[:served] + [TruncatedError] * (300 - served)


def test_native_pixel_data_of_unknown_vr_is_read():
    frames = [Random(i).randbytes(ROWS * COLUMNS) for i in range(3)]
    data = head(EXPLICIT, frames="3") + element(0x7FE00010, b"UN", b"".join(frames))
    assert given(open_instance(Memory(data)), 3) == frames


# ---------------------------------------------------------------------------------------------------- refused, by name


@pytest.mark.parametrize(
    "data",
    [
        head(JPEG, frames="1") + element(0x7FE00010, b"OB", bytes(64)),
        head(EXPLICIT, frames="1") + element(0x7FE00010, b"OB", item(b"") + item(bytes(64)) + END, length=UNDEFINED),
        head(JPEG, frames="1") + element(0x7FE00010, b"OB", bytes(64), length=UNDEFINED),
        head(JXL, frames="2") + element(0x7FE00010, b"OB", item(b"") + item(b"abcd") * 3 + END, length=UNDEFINED),
    ],
    ids=["native labelled encapsulated", "Items labelled native", "no Item", "three for two"],
)
def test_what_cannot_be_told_is_an_error_with_its_place(data):
    with pytest.raises(FormatError) as caught:
        next(open_instance(Memory(data)).encoded([0]))
    assert caught.value.offset is not None


@pytest.mark.parametrize("uid", ["100", "100.1", "101", "102", "102.1", "103", "104", "105", "106", "107", "108"])
@pytest.mark.parametrize("fragments", [1, 4])
@pytest.mark.parametrize("table", [(), (0,)])
def test_video_is_one_stream(uid, fragments, table):  # 20
    stream = Random(1).randbytes(4000)
    file = part10(
        [stream], rows=8, columns=8, syntax=f"1.2.840.10008.1.2.4.{uid}", number_of_frames=120,
        layout=Layout(fragments=fragments, basic_table=table),
    )  # fmt: skip
    instance = open_instance(Memory(file))
    assert (instance.index.kind, instance.index.declared) == ("stream", 120)
    assert instance.index.fragments == fragments
    with pytest.raises(NotFramewise):
        next(instance.encoded([0]))


# ----------------------------------------------------------------------------------------------------- beyond 4 GiB


@pytest.mark.parametrize("table", ["none", "wrapped", "extended", "extended wrapped"])
def test_beyond_4_gib(tmp_path, table):  # 12, 16
    """Sparse: each frame is a JPEG header, a hole of 700 MB, and an end."""
    n, size = 8, 700 << 20
    first = [b"\xff\xd8\xff\xda\0\2" + bytes([k + 1]) * 10 for k in range(n)]
    offsets = [k * (8 + size) for k in range(n)]
    extra = b""
    if table.startswith("extended"):
        listed = [o % 2**32 if "wrapped" in table else o for o in offsets]
        extra = element(0x7FE00001, b"OV", pack(f"<{n}Q", *listed))
        extra += element(0x7FE00002, b"OV", pack(f"<{n}Q", *[size] * n))
    basic = pack(f"<{n}I", *[o % 2**32 for o in offsets]) if table == "wrapped" else b""
    before = head(JPEG, frames=str(n), extra=extra) + element(0x7FE00010, b"OB", b"", length=UNDEFINED) + item(basic)
    path: Path = tmp_path / "large.dcm"
    with path.open("wb") as file:
        file.write(before)
        for k in range(n):
            file.seek(len(before) + offsets[k])
            file.write(item(b"", size) + first[k])
            file.seek(len(before) + offsets[k] + 8 + size - 2)
            file.write(b"\xff\xd9")
        file.write(END)
    if os.stat(path).st_blocks * 512 > 64 << 20:
        pytest.skip("this file system has no sparse files")
    instance = multiframe.open(path)
    places = [(r.start, r.stop) for r in instance.index]
    assert places == [(len(before) + o + 8, len(before) + o + 8 + size) for o in offsets]
    assert instance.index.origin == ("extended" if table == "extended" else "scan")


def test_deflated_image_frames_one_fragment_each_odd_ones_padded():  # 18
    instance = check(laid(DEFLATED, n=9))
    assert instance.index.origin == "scan"
