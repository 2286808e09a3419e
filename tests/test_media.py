"""Accept, Range and multipart: what clients really send, and what RFC 9110 says of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiframe.errors import NotAcceptable
from multiframe.ranges import ByteRange
from multiframe.rope import Stored
from multiframe.syntaxes import EXPLICIT_LE, syntax_of
from multiframe.web.media import (
    Choice,
    RangeNotSatisfiable,
    choose_frames,
    etag_matches,
    multipart,
    parse_accept,
    parse_range,
)

JPEG = syntax_of("1.2.840.10008.1.2.4.50")
JLS = syntax_of("1.2.840.10008.1.2.4.80")
NATIVE = syntax_of(EXPLICIT_LE)

OCTETS = Choice(multipart=True, media_type="application/octet-stream")

ACCEPTED = [
    # cornerstone3D and Slim, OHIF with and without omitQuotationForMultipartRequest
    ("multipart/related; type=application/octet-stream; transfer-syntax=*", JPEG, OCTETS),
    ('multipart/related; type="application/octet-stream"; transfer-syntax="*"', JPEG, OCTETS),
    # OHIF with requestTransferSyntaxUID: the parameter comes twice
    (
        'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; transfer-syntax="*"',
        JLS,
        Choice(multipart=True, media_type="image/jls"),
    ),
    # dcmjs dicomweb-client names no syntax at all
    ('multipart/related; type="application/octet-stream"', JPEG, OCTETS),
    # dicomweb-client (Python)
    ('multipart/related; type="*/*"', JPEG, Choice(multipart=True, media_type="image/jpeg")),
    ("multipart/related; type=image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50", JPEG, Choice(True, "image/jpeg")),
    ("image/jpeg", JPEG, Choice(multipart=False, media_type="image/jpeg")),
    ("application/octet-stream; transfer-syntax=*", NATIVE, Choice(False, "application/octet-stream")),
    ("*/*", JPEG, Choice(multipart=True, media_type="image/jpeg")),
    ("", NATIVE, OCTETS),
    ("multipart/related; type=image/png; q=1, application/octet-stream; q=0.1", JPEG, Choice(False, OCTETS.media_type)),
    ("multipart/related; type=image/dicom+jpeg", JPEG, Choice(multipart=True, media_type="image/dicom+jpeg")),
]


@pytest.mark.parametrize(("header", "syntax", "choice"), ACCEPTED)
def test_what_clients_accept_is_given(header, syntax, choice):
    assert choose_frames(parse_accept(header), syntax, count=1) == choice


@pytest.mark.parametrize(
    ("header", "syntax"),
    [
        ("multipart/related; type=image/jls; transfer-syntax=1.2.840.10008.1.2.4.80", JPEG),
        ("multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1", JPEG),
        ("image/png", JPEG),
        ("application/dicom+json", JPEG),
        ("*/*; q=0", JPEG),
        ("nonsense", JPEG),
    ],
)
def test_what_cannot_be_given_is_refused(header, syntax):
    if header == "nonsense":  # what cannot be understood says nothing, so anything goes
        assert choose_frames(parse_accept(header), syntax, count=1).multipart
        return
    with pytest.raises(NotAcceptable):
        choose_frames(parse_accept(header), syntax, count=1)


def test_several_frames_never_go_as_one_body():
    with pytest.raises(NotAcceptable):
        choose_frames(parse_accept("image/jpeg"), JPEG, count=2)


@given(st.text(max_size=200))
def test_any_text_is_an_accept_header(text):
    for entry in parse_accept(text):
        assert 0 <= entry.q <= 1


@given(st.binary(max_size=60), st.integers(0, 70), st.integers(0, 70))
def test_a_range_is_the_slice_it_says(body, first, last):
    try:
        part = parse_range(f"bytes={first}-{last}", len(body))
    except RangeNotSatisfiable:
        assert first >= len(body)
        return
    if part is None:
        assert last < first
    else:
        assert body[part.start : part.stop] == body[first : last + 1]


@given(st.binary(min_size=1, max_size=60), st.integers(1, 70))
def test_a_suffix_range_is_the_end(body, n):
    part = parse_range(f"bytes=-{n}", len(body))
    assert part is not None
    assert body[part.start : part.stop] == body[-n:]


@given(st.text(max_size=40), st.integers(0, 100))
def test_any_text_is_a_range_header(text, size):
    try:
        part = parse_range(text, size)
    except RangeNotSatisfiable:
        return
    assert part is None or 0 <= part.start < part.stop <= size


def test_several_ranges_are_answered_whole():
    assert parse_range("bytes=0-1,4-5", 10) is None


def test_if_none_match():
    assert etag_matches('W/"x", "y"', '"x"')
    assert not etag_matches('"z"', '"x"')


def test_equal_parts_make_equal_bodies():
    parts = [("image/jpeg; transfer-syntax=1.2", [Stored(10, 20), Stored(28, 30)])]
    one, boundary = multipart(parts, identity="a")
    two, _ = multipart(parts, identity="a")
    other, other_boundary = multipart(parts, identity="b")
    assert (one.etag, one.size) == (two.etag, two.size)
    assert one.etag != other.etag
    assert boundary != other_boundary
    assert len(boundary) <= 70  # RFC 2046 5.1.1
    assert one.size == sum(len(p) if isinstance(p, bytes) else p.size for p in one.parts)


def test_a_range_of_a_rope_starts_where_it_should():
    rope, boundary = multipart([("image/jpeg", [Stored(100, 200)])], identity="a")
    plan = rope.read(ByteRange(0, 4))
    with pytest.raises(StopIteration) as done:
        next(plan)
    assert b"".join(done.value.value) == f"--{boundary}"[:4].encode()
