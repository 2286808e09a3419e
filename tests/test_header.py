"""Headers: what is read, how much, and what is refused."""

from contextlib import suppress
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiframe.errors import FormatError, MultiframeError, NoPixelData, NotDicom, TruncatedError, UnknownSyntax
from multiframe.header import Deflated, Header, read_header
from multiframe.source import run
from tests.files import BIG_ENDIAN, END, EXPLICIT, IMPLICIT, JPEG, Memory, element, head, item, made

PIXELS = element(0x7FE00010, b"OW", bytes(64))


def header_of(data: bytes, **how) -> Header:
    return run(read_header(**how), Memory(data))


def frames(text: str | None) -> int | None:
    return header_of(head(EXPLICIT, frames=text) + PIXELS).declared_frames


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3), (" 3 ", 3), ("0012", 12), (None, None), ("", None), ("0", None), ("-3", None), ("1_0", None),
        ("3.0", 3), ("3\\4", None), ("+3", 3), ("3.5", None), ("+-3", None), ("0.0", None),
        ("²", None), ("9" * 12, 10**12 - 1), ("9" * 5000, None), ("1A", None),
    ],
)  # fmt: skip
def test_number_of_frames_as_written(text, expected):
    if text == "²":
        data = head(EXPLICIT, frames="3").replace(b"IS\2\x003 ", b"IS\2\0\xb2 ") + PIXELS
        assert header_of(data).declared_frames is expected
    else:
        assert frames(text) == expected


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_what_pixels_are_is_read_in_every_syntax(syntax):
    data = head(syntax, frames="2", rows=300, columns=5, allocated=16) + element(
        0x7FE00010, b"OW", bytes(6000), syntax=syntax
    )
    header = header_of(data)
    spec = header.spec
    assert (spec.rows, spec.columns, spec.bits_allocated, spec.samples, spec.photometric) == (
        300,
        5,
        16,
        1,
        "MONOCHROME2",
    )
    assert (header.declared_frames, header.sop_instance_uid) == (2, "1.2.3")
    assert (header.pixels.start, header.pixels.stop) == (len(data) - 6000, len(data))
    assert header.raw == data[: header.pixels.at]


@given(st.integers(1, 3000), st.integers(0, 2000))
def test_a_header_is_the_same_however_little_is_read_at_first(first_read, filler):
    private = element(0x00291010, b"OB", bytes(2 * filler))
    data = made(JPEG, [[b"\xff\xd8\xff\xda\0\2ab\xff\xd9"]]).data.replace(
        element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF), private + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF)
    )
    source = Memory(data)
    header = run(read_header(first_read=first_read), source)
    assert header == header_of(data)
    assert source.bytes_read <= len(data)


def test_reads_no_more_than_twice_the_header():
    data = head(EXPLICIT, frames="1", extra=element(0x00291010, b"OB", bytes(100_000))) + PIXELS + bytes(1 << 20)
    source = Memory(data)
    run(read_header(first_read=4096), source)
    assert source.bytes_read < 250_000
    assert source.requests < 9


def test_an_icon_with_pixel_data_of_its_own_is_not_the_image():
    for inner in (
        element(0x7FE00010, b"OB", item(b"") + item(b"\xff\xd8\xff\xd9") + END, length=0xFFFFFFFF),
        element(0x7FE00010, b"OW", bytes(8)),
    ):
        for icon in (
            element(0x00880200, b"SQ", item(inner)),
            element(0x00880200, b"SQ", item(inner + b"\xfe\xff\x0d\xe0\0\0\0\0", 0xFFFFFFFF) + END, length=0xFFFFFFFF),
        ):
            data = head(EXPLICIT, frames="1", extra=icon) + PIXELS
            assert header_of(data).pixels.at == len(data) - len(PIXELS)
            assert header_of(data, first_read=10).pixels.at == len(data) - len(PIXELS)


def test_private_data_that_looks_like_items_is_stepped_over():
    decoy = element(0x00291010, b"OB", element(0x7FE00010, b"OB", item(b"") + END, length=0xFFFFFFFF))
    data = head(EXPLICIT, frames="1", extra=decoy) + PIXELS
    assert header_of(data).pixels.at == len(data) - len(PIXELS)


META = head(EXPLICIT, frames=None)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", NotDicom, "no DICM"),
        (bytes(500), NotDicom, "no DICM"),
        (META[:131], NotDicom, "no DICM"),
        (META[:140], TruncatedError, "File Meta"),
        (META[:143], TruncatedError, "File Meta"),
        (META.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0") + PIXELS, UnknownSyntax, "is not known"),
        (META.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4 ") + PIXELS, UnknownSyntax, "is not known"),
        (bytes(128) + b"DICM" + b"\x08\0\x18\0rubbish, and no element", FormatError, "no Transfer Syntax"),
        (head("1.2.840.10008.1.2.1.99", frames=None), Deflated, "one deflate stream"),
        (META + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF), FormatError, "undefined length"),
        (head(JPEG, frames="1") + PIXELS, FormatError, "defined length"),
        (META + element(0x00081140, b"SQ", item(b"", 0xFFFFFFFF), length=0xFFFFFFFF), TruncatedError, "a sequence"),
        (META + element(0x00291010, b"OB", b"", length=1000), TruncatedError, "ends inside"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(data, error, message):
    with pytest.raises(error, match=message) as caught:
        header_of(data)
    assert type(caught.value) is error
    if isinstance(caught.value, FormatError) and error is not NotDicom:
        assert caught.value.offset is not None


def test_a_header_without_end_is_refused():
    with pytest.raises(FormatError, match="longer than 2000 bytes"):
        header_of(META + element(0x00291010, b"OB", b"", length=0xFFFFFF00) + bytes(5000), max_header=2000)


def test_a_data_set_without_pixels_is_a_header_all_the_same():
    header = header_of(META)
    assert header.pixel_data is None
    with pytest.raises(NoPixelData):
        _ = header.pixels


@pytest.mark.parametrize(("rows", "allocated"), [(0, 8), (8, 0), (8, 7), (8, 72)])
def test_absurd_pixels_are_refused(rows, allocated):
    header = header_of(head(EXPLICIT, frames=None, rows=rows, allocated=allocated) + PIXELS)
    with pytest.raises(FormatError):
        _ = header.spec


@given(st.integers(0, 400), st.binary(max_size=8), st.integers(1, 200))
def test_mutated_headers_raise_nothing_else(at, change, first_read):
    data = bytearray(head(EXPLICIT, frames="1", extra=element(0x00880200, b"SQ", item(META[300:]))) + PIXELS)
    data[at : at + len(change)] = change
    try:
        header = header_of(bytes(data), first_read=first_read)
        assert header.raw == data[: len(header.raw)]
        _ = header.spec
    except MultiframeError:
        pass


@given(st.binary(max_size=300))
def test_random_bytes_behind_the_preamble_raise_nothing_else(data):
    uid = element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
    for meta in (b"", uid, element(0x00020000, b"UL", pack("<I", len(uid))) + uid):
        with suppress(MultiframeError):
            header_of(bytes(128) + b"DICM" + meta + data)


# ------------------------------------------------------------------------------------------- what real files get wrong

ICON = element(0x00280010, b"US", b"\2\0") + element(0x00280011, b"US", b"\2\0") + element(0x7FE00010, b"OW", b"icon")


def naked(syntax: str) -> bytes:
    """A data set without preamble and File Meta Information."""
    data = head(syntax, frames="1") + element(0x7FE00010, b"OW", bytes(range(64)), syntax=syntax)
    return data[data.index(b"\0\x08" if syntax == BIG_ENDIAN else b"\x08\0\x18", 140) :]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("first_read", [1, 65_536])
def test_without_preamble_and_meta_the_elements_tell(syntax, first_read):
    data = naked(syntax)
    header = header_of(data, first_read=first_read)
    assert (header.syntax.uid, header.explicit, header.dataset_at) == (syntax, syntax != IMPLICIT, 0)
    assert (header.pixels.start, header.pixels.stop) == (len(data) - 64, len(data))
    assert header.spec.rows == 8


@pytest.mark.parametrize("before", [b"", b"DICM"])
def test_without_preamble_the_meta_is_found(before):
    data = before + head(IMPLICIT, frames="1")[132:] + element(0x7FE00010, b"OW", bytes(64), syntax=IMPLICIT)
    assert header_of(data).syntax.uid == IMPLICIT


def test_a_prefix_in_a_value_is_none():
    data = naked(EXPLICIT)
    lead = element(0x00080008, b"CS", b"A" * (128 - 8) + b"DICM")
    assert (lead + data)[128:132] == b"DICM"
    assert header_of(lead + data).syntax.uid == EXPLICIT


def test_encapsulated_pixels_without_transfer_syntax_are_refused():
    data = naked(EXPLICIT)
    at = data.index(b"\xe0\x7f")
    with pytest.raises(FormatError, match="undefined length"):
        header_of(data[:at] + element(0x7FE00010, b"OB", item(b"") + item(b"abcd") + END, length=0xFFFFFFFF))


@pytest.mark.parametrize("data", [b"\x08\0" + bytes(500), b"\x08\0\x18\0UI" * 50, bytes(range(256)), b"DICX" * 90])
def test_what_only_begins_like_a_data_set_is_none(data):
    with pytest.raises(NotDicom):
        header_of(data)


@pytest.mark.parametrize(("label", "fact"), [(EXPLICIT, IMPLICIT), (JPEG, IMPLICIT), (IMPLICIT, EXPLICIT)])
@pytest.mark.parametrize("first_read", [1, 65_536])
def test_how_elements_are_written_is_believed_of_them(label, fact, first_read):
    meta = head(label, frames=None)
    meta = meta[: 144 + int.from_bytes(meta[140:144], "little")]
    length = 0xFFFFFFFF if label == JPEG else None
    value = item(b"") + item(b"\xff\xd8\xff\xd9") + END if label == JPEG else bytes(64)
    data = meta + naked(fact)[: -64 - (8 if fact == IMPLICIT else 12)]
    data += element(0x7FE00010, b"OW", value, syntax=fact, length=length)
    header = header_of(data, first_read=first_read)
    assert (header.syntax.uid, header.explicit, header.spec.rows) == (label, fact != IMPLICIT, 8)


def test_an_item_of_no_sequence_is_stepped_over():
    lost = element(0x00185020, b"SQ", b"") + item(element(0x00186012, b"US", b"\1\0") + ICON)
    data = head(EXPLICIT, frames="1", extra=lost) + PIXELS
    assert header_of(data).spec.rows == 8
    assert header_of(data).pixels.at == len(data) - len(PIXELS)


def test_what_an_item_of_no_sequence_spills_is_never_taken_for_the_image():
    empty = element(0x0055040E, b"SQ", b"") + item(b"")
    harmless = element(0x00080032, b"TM", b"0810")
    data = head(EXPLICIT, frames="1", extra=empty + harmless) + PIXELS
    assert header_of(data).pixels.at == len(data) - len(PIXELS)
    frames = element(0x7FE00010, b"OB", item(b"") + item(b"\xff\xd8\xff\xd9") + END, length=0xFFFFFFFF)
    for doubtful in (
        head(EXPLICIT, frames="1", extra=empty + ICON) + PIXELS,  # Rows twice
        head(EXPLICIT, frames="1", extra=empty + ICON[-16:]) + PIXELS,  # Pixel Data twice
        head(JPEG, frames="1", extra=empty + harmless) + frames,  # whose frames?
    ):
        with pytest.raises(FormatError, match="outside of any sequence"):
            header_of(doubtful)


def test_encapsulated_pixel_data_of_defined_length_is_read_where_it_holds_items():
    value = item(b"") + item(b"\xff\xd8\xff\xd9") + END
    for first_read in (1, 65_536):
        header = header_of(head(JPEG, frames="1") + element(0x7FE00010, b"OB", value), first_read=first_read)
        assert header.pixels.stop == -1
