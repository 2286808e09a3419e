"""Headers: what is read, how much, and what is refused."""

from contextlib import suppress
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiframe.errors import FormatError, MultiframeError, NoPixelData, NotDicom, TruncatedError, UnknownSyntax
from multiframe.header import Header, read_header
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
        ("3.0", None), ("3\\4", None), ("+3", None), ("²", None), ("9" * 12, 10**12 - 1),
        ("9" * 5000, None), ("1A", None),
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
        (bytes(128) + b"DICM" + element(0x00080018, b"UI", b"1\0"), FormatError, "no Transfer Syntax"),
        (head("1.2.840.10008.1.2.1.99", frames=None), FormatError, "deflated"),
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
