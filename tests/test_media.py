"""Accept, Range and multipart: what clients really send, and what RFC 9110 says of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiframe.codec import PixelSpec
from multiframe.errors import NotAcceptable
from multiframe.ranges import ByteRange
from multiframe.rope import Stored
from multiframe.syntaxes import EXPLICIT_LE, SYNTAXES, syntax_of
from multiframe.transcode import targets
from multiframe.web.media import (
    Choice,
    MixedAccept,
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

LOSSLESS = syntax_of("1.2.840.10008.1.2.4.90")
JPEG_LOSSLESS = syntax_of("1.2.840.10008.1.2.4.70")
COLOUR = PixelSpec(480, 640, 3, "YBR_FULL_422")
GREY = PixelSpec(512, 512, bits_allocated=16, bits_stored=12)

OCTET = "application/octet-stream"
ANY = "multipart/related; type=application/octet-stream; transfer-syntax=*"
UID = "1.2.840.10008.1.2.4."
RLE = "1.2.840.10008.1.2.5"
TWICE = 'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; transfer-syntax="*"'

# What is stored, the Accept header; in parts, media type, Transfer Syntax of the answer; None: 406; "mixed": 400.
NEGOTIATED = [
    # cornerstone3D and Slim, OHIF with and without omitQuotationForMultipartRequest: as stored
    (JPEG, ANY, (True, OCTET, JPEG)),
    (LOSSLESS, ANY, (True, OCTET, LOSSLESS)),
    (NATIVE, ANY, (True, OCTET, NATIVE)),
    (JPEG, 'multipart/related; type="application/octet-stream"; transfer-syntax="*"', (True, OCTET, JPEG)),
    # OHIF with requestTransferSyntaxUID: the parameter comes twice, and what is named can be made
    (JLS, TWICE, (True, "image/jls", JLS)),
    (JPEG, TWICE, (True, "image/jls", JLS)),
    (NATIVE, f'multipart/related; type="image/jp2"; transfer-syntax="{UID}90"; transfer-syntax="*"',
     (True, "image/jp2", LOSSLESS)),
    # dcmjs dicomweb-client names no syntax at all: decoded, but for what was lossy already
    (JPEG, 'multipart/related; type="application/octet-stream"', (True, OCTET, JPEG)),
    (LOSSLESS, 'multipart/related; type="application/octet-stream"', (True, OCTET, NATIVE)),
    # dicomweb-client (Python)
    (JPEG, 'multipart/related; type="*/*"', (True, "image/jpeg", JPEG)),
    (LOSSLESS, 'multipart/related; type="*/*"', (True, OCTET, NATIVE)),
    (JPEG, f"multipart/related; type=image/jpeg; transfer-syntax={UID}50", (True, "image/jpeg", JPEG)),
    # wsidicom relies on 406 for what it asks by name
    (LOSSLESS, f"multipart/related; type=image/jpeg; transfer-syntax={UID}50", None),
    (JPEG, f"multipart/related; type=image/jp2; transfer-syntax={UID}91", None),
    # without a syntax: as stored where the media type is that of the stored frames, else the media type's own (8.7.3.5)
    (JPEG, "image/jpeg", (False, "image/jpeg", JPEG)),
    (NATIVE, "image/jpeg", (False, "image/jpeg", JPEG_LOSSLESS)),
    (NATIVE, "image/jls", (False, "image/jls", JLS)),
    (NATIVE, "image/jxl", (False, "image/jxl", syntax_of(UID + "110"))),
    (JPEG, f"image/jxl; transfer-syntax={UID}111", (False, "image/jxl", syntax_of(UID + "111"))),
    (NATIVE, f"image/jxl; transfer-syntax={UID}111", None),
    (NATIVE, "multipart/related; type=image/jphc", (True, "image/jphc", syntax_of(UID + "201"))),
    (NATIVE, f"image/jphc; transfer-syntax={UID}202", (False, "image/jphc", syntax_of(UID + "202"))),
    (JPEG, "image/*", (False, "image/jpeg", JPEG)),
    (JPEG, f"application/octet-stream; transfer-syntax={EXPLICIT_LE}", (False, OCTET, NATIVE)),
    (JPEG, f"multipart/related; type=application/octet-stream; transfer-syntax={UID}80", (True, OCTET, JLS)),
    (NATIVE, "application/octet-stream; transfer-syntax=*", (False, OCTET, NATIVE)),
    # implicit and big endian never leave
    (NATIVE, "application/octet-stream; transfer-syntax=1.2.840.10008.1.2", None),
    (NATIVE, "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.2", None),
    # several syntaxes: what is stored goes first
    (JPEG, f"image/jpeg; transfer-syntax={UID}70; transfer-syntax={UID}50", (False, "image/jpeg", JPEG)),
    (JPEG, f"{OCTET}; transfer-syntax={UID}80; transfer-syntax={UID}90", (False, OCTET, JLS)),
    # wildcards, nothing, and what cannot be understood
    (JPEG, "*/*", (True, "image/jpeg", JPEG)),
    (NATIVE, "", (True, OCTET, NATIVE)),
    (JPEG, "nonsense", (True, "image/jpeg", JPEG)),
    (JPEG, "multipart/related", (True, "image/jpeg", JPEG)),
    (JPEG, "multipart/related; type=image/dicom+jpeg", (True, "image/dicom+jpeg", JPEG)),
    # weights and specificity (RFC 9110 12.5.1)
    (JPEG, "multipart/related; type=image/x-other; q=1, application/octet-stream; q=0.1", (False, OCTET, JPEG)),
    (JPEG, "image/jls; q=0.5, image/jpeg; q=0.9", (False, "image/jpeg", JPEG)),
    (JPEG, "image/jpeg; q=0.5, image/jls; q=0.9", (False, "image/jls", JLS)),
    (JPEG, "image/*; q=0.9, image/jpeg; q=0.1, image/jls; q=0.2", (False, "image/dicom-rle", syntax_of(RLE))),
    (JPEG, f"image/jls, image/jls; transfer-syntax={UID}80; q=0", None),
    (JPEG, "*/*; q=0", None),
    (JPEG, "*/*, multipart/related; type=image/jpeg; q=0", None),
    # rendered media types
    (JPEG, "image/png", None),
    (JPEG, "image/png, application/octet-stream", "mixed"),
    (JPEG, "multipart/related; type=image/jls, text/html", "mixed"),
    (JPEG, "image/avif,image/webp,image/apng,image/*,*/*;q=0.8", (False, "image/jpeg", JPEG)),
    (JPEG, "application/dicom+json", None),
    (JPEG, "application/dicom", None),
]  # fmt: skip


def negotiated(header, stored, *, count=1, spec=None):
    spec = spec or (COLOUR if stored is JPEG else GREY)
    accept = parse_accept(header)
    return choose_frames(accept, targets(spec, stored), count=count, decode=stored.encapsulated and not stored.lossy)


@pytest.mark.parametrize(("stored", "header", "answer"), NEGOTIATED)
def test_what_clients_accept(stored, header, answer):
    if answer is None:
        with pytest.raises(NotAcceptable, match=r"can be given as .*transfer-syntax=.*rendered"):
            negotiated(header, stored)
    elif answer == "mixed":
        with pytest.raises(MixedAccept, match="ask for one kind"):
            negotiated(header, stored)
    else:
        assert negotiated(header, stored) == Choice(*answer)


def test_several_frames_never_go_as_one_body():
    with pytest.raises(NotAcceptable, match="multipart/related"):
        negotiated("image/jpeg", JPEG, count=2)
    assert negotiated("image/jpeg, multipart/related; type=image/jls; q=0.1", JPEG, count=2).media_type == "image/jls"


def test_what_no_codec_reads_is_given_as_stored_or_not_at_all():
    stored = syntax_of(UID + "92")
    assert negotiated("multipart/related; type=application/octet-stream", stored).syntax == stored
    with pytest.raises(NotAcceptable):
        negotiated(f"{OCTET}; transfer-syntax={EXPLICIT_LE}", stored)


TYPES = st.sampled_from(["*/*", "image/*", "application/*", "multipart/related", "multipart/*", OCTET, "image/jpeg",
    "image/jls", "image/jp2", "image/jphc", "image/jxl", "image/dicom-rle", "image/dicom+jpeg", "image/png",
    "text/html", "application/dicom", "image/x-other"])  # fmt: skip
PARAMETERS = st.one_of(
    st.sampled_from([*SYNTAXES, "*", "1.2.3"]).map(lambda uid: f"transfer-syntax={uid}"),
    st.sampled_from([*SYNTAXES, "*"]).map(lambda uid: f'Transfer-Syntax="{uid}"'),
    TYPES.map(lambda name: f'type="{name}"'),
    st.sampled_from(["q=0", "q=0.5", "q=1", "q=0.001", "q=x", "charset=utf-8", "boundary=b"]),
)
ENTRIES = st.builds(lambda name, more: "; ".join([name, *more]), TYPES, st.lists(PARAMETERS, max_size=4))
STORED_AS = st.sampled_from([s for s in SYNTAXES.values() if s.family != "video" and s.little and s.explicit])


@given(st.lists(ENTRIES, max_size=5).map(", ".join), STORED_AS, st.sampled_from((COLOUR, GREY)), st.integers(1, 3))
def test_negotiation_is_total(header, stored, spec, count):
    """A form that can be given and that some entry takes, 400 or 406; never anything else."""
    entries = parse_accept(header)
    try:
        choice = negotiated(header, stored, count=count, spec=spec)
    except (NotAcceptable, MixedAccept):
        return
    assert choice.syntax in targets(spec, stored)
    assert choice.multipart or count == 1
    if not entries:
        return
    taking = [
        e for e in entries
        if e.q > 0 and (e.type.startswith("multipart") or e.type == "*/*") == choice.multipart
        and (not e.values("transfer-syntax") or {"*", choice.syntax.uid} & set(e.values("transfer-syntax")))
    ]  # fmt: skip
    assert taking
    if not choice.syntax.lossy and stored.lossy:
        assert choice.syntax.uid in header or "image/" in header  # nothing is decoded that nobody asked to be


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
