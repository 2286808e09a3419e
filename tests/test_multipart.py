"""Bodies in parts: whatever pieces they come in, the parts are the same; what is wrong is said, and little is held."""

import email
import email.policy
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multiframe.web.multipart import Begun, Ended, Malformed, MultipartReader


def read(body, boundary="b", cuts=()):
    reader = MultipartReader(boundary)
    parts = []
    whole = False
    for start, stop in zip((0, *cuts), (*cuts, len(body)), strict=True):
        for event in reader.feed((bytes, bytearray)[start % 2](body[start:stop])):
            if isinstance(event, Begun):
                parts.append((dict(event.headers), bytearray()))
                whole = False
            elif isinstance(event, Ended):
                assert not whole
                whole = True
            else:
                parts[-1][1].extend(event)
    reader.end()
    assert whole or not parts
    return [(headers, bytes(data)) for headers, data in parts]


def written(parts, boundary="b", preamble=b"", epilogue=b"", padding=b""):
    body = preamble
    for k, (head, data) in enumerate(parts):
        body += (b"\r\n" if k or preamble else b"") + b"--" + boundary.encode() + padding + b"\r\n"
        body += head + b"\r\n" + data
    return body + b"\r\n--" + boundary.encode() + b"--" + epilogue


# Bytes that look like delimiters, and all others.
NASTY = st.lists(
    st.sampled_from([b"\r\n--b", b"\r\n--bb", b"\r\n--", b"--b--", b"\r", b"\n", b"-", b"b", b"\r\n\r\n", b"x" * 9])
    | st.binary(max_size=9)
).map(b"".join)


def harmless(data: bytes) -> bool:
    """Whether no line of it is a delimiter, by RFC 2046 itself."""
    lines = (b"\r\n" + data + b"\r\n").split(b"\r\n")
    return not any(
        line.startswith(b"--b") and (line[3:].startswith(b"--") or not line[3:].strip(b" \t")) for line in lines
    )


@given(
    parts=st.lists(NASTY.filter(harmless), min_size=1, max_size=4),
    preamble=st.sampled_from([b"", b"a preamble", b"\r\nlines\r\n--not b"]),
    padding=st.sampled_from([b"", b" \t "]),
    data=st.data(),
)
def test_however_a_body_is_cut_its_parts_are_the_same(parts, preamble, padding, data):
    heads = [b"Content-Type: application/dicom\r\nX-%d: y\r\n" % k for k in range(len(parts))]
    body = written(list(zip(heads, parts, strict=True)), "b", preamble, b"\r\nepilogue\r\n--b\r\n", padding)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    expected = [({"content-type": "application/dicom", f"x-{k}": "y"}, part) for k, part in enumerate(parts)]
    assert read(body, cuts=cuts) == expected
    assert read(body, cuts=range(1, len(body))) == expected


@given(st.lists(st.text("abc \n", max_size=30), min_size=1, max_size=3))
def test_the_standard_library_reads_the_same_parts(texts):
    texts = [text.replace("\n", "\r\n") for text in texts]
    body = written([(b"Content-Type: text/plain\r\n", t.encode()) for t in texts], "frontier")
    message = email.message_from_bytes(
        b"Content-Type: multipart/related; boundary=frontier\r\n\r\n" + body, policy=email.policy.HTTP
    )
    theirs = [bytes(part.get_payload(decode=True)).replace(b"\r\n", b"\n") for part in message.iter_parts()]
    assert [data.replace(b"\r\n", b"\n") for _, data in read(body, "frontier")] == theirs


@given(body=st.binary(max_size=300) | NASTY, data=st.data())
@example(body=b"--b\r\n\r\n\r\n--b--", data=None)
@example(body=b"--b\r\n\r\n--b--", data=None)
def test_any_bytes_are_parts_or_malformed_however_they_are_cut(body, data):
    def told(cuts):
        try:
            return read(body, cuts=cuts)
        except Malformed:
            return None

    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=9))) if data else range(1, len(body))
    assert told(cuts) == told(())


def test_a_nested_boundary_that_begins_like_ours_is_content():
    inner = b"--bb\r\n\r\nx\r\n--bb--"
    assert read(written([(b"Content-Type: multipart/mixed; boundary=bb\r\n", inner)]))[0][1] == inner


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no delimiter at all",
        b"--b\r\nContent-Type: a/b\r\n\r\nhalf",
        b"--b\r\nContent-Type: a/b\r\n\r\nhalf\r\n--b",
        b"--b\r\nno colon\r\n\r\n\r\n--b--",
        b"--b\r\n: no name\r\n\r\n\r\n--b--",
        b"--b\r\nA: 1\r\nA: 2\r\n\r\n\r\n--b--",
        b"--b\r\nA: a\0b\r\n\r\n\r\n--b--",
        b"--b\r\nA b: c\r\n\r\n\r\n--b--",
        b"--b" + b" " * 100 + b"\r\n\r\n\r\n--b--",
        b"--b\r\nA: " + b"x" * 20_000 + b"\r\n\r\n\r\n--b--",
        b"x" * 70_000 + b"\r\n--b\r\n\r\n\r\n--b--",
        b"--b\r\n\r\n\r\n--b--" + b"x" * 70_000,
        b"--b\r\nContent-Type: a/b\r\n--b--",
    ],
)
def test_what_is_no_such_body_is_said_to_be_none(body):
    for cuts in ((), range(1, min(len(body), 25_000))):
        with pytest.raises(Malformed):
            read(body, cuts=cuts)


@pytest.mark.parametrize("body", [b"", b"--a\r\n\r\nx\r\n--a--", b"--a\r\n\r\n" + b"x" * 70_000 + b"\r\n--a--"])
def test_of_another_boundary_than_was_named_it_is_said(body):
    with pytest.raises(Malformed, match="the boundary that Content-Type names"):
        read(body)


@pytest.mark.parametrize("boundary", ["", "x" * 71, "tab\t", "ends ", "umlaut ä", "new\r\nline"])
def test_what_is_no_boundary(boundary):
    with pytest.raises(Malformed):
        MultipartReader(boundary)


def test_folded_headers_and_none():
    assert read(b"--b\r\nA: 1\r\n  2\r\nB:\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--") == [
        ({"a": "1  2", "b": ""}, b"x"),
        ({}, b"y"),
    ]


def test_memory_does_not_grow_with_a_part():
    reader = MultipartReader("b")
    list(reader.feed(b"--b\r\n\r\n"))
    piece = b"\r\n--" + bytes(65_532)
    tracemalloc.start()
    try:
        got = sum(len(e) for _ in range(500) for e in reader.feed(piece) if isinstance(e, memoryview))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got > 499 * len(piece)
    assert peak < 4 * len(piece)
