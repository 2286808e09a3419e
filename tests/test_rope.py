"""Ropes: any part of any rope is that part of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiframe.errors import TruncatedError
from multiframe.ranges import ByteRange
from multiframe.rope import Made, Rope, Stored
from multiframe.source import run
from tests.files import Memory

DATA = np.random.default_rng(1).bytes(400)


def plain(a: int, n: int) -> Stored:
    return Stored(a, a + n)


def words(word: int, origin: int, a: int, n: int) -> Stored:
    return Stored(origin + a, origin + a + n, word=word, origin=origin)


def bits(a: int, shift: int, n: int) -> Stored:
    return Stored(a, a + -(-(shift + n) // 8), shift=shift, bits=n)


STORED = st.one_of(
    st.builds(plain, st.integers(0, 99), st.integers(0, 99)),
    st.builds(words, st.sampled_from((2, 4, 8)), st.integers(0, 9), st.integers(0, 99), st.integers(0, 99)),
    st.builds(bits, st.integers(0, 99), st.integers(0, 7), st.integers(1, 300)),
)


def backwards(data: bytes) -> bytes:
    return data[::-1]


MADE = st.lists(STORED, max_size=3).map(
    lambda sources: Made(tuple(sources), sum(s.size for s in sources), backwards, "backwards")
)


def value(part: bytes | Stored | Made) -> bytes:
    """What a part is, worked out in another way."""
    if isinstance(part, bytes):
        return part
    if isinstance(part, Made):
        return b"".join(value(s) for s in part.sources)[::-1]
    if part.bits >= 0:
        every = np.unpackbits(np.frombuffer(DATA, np.uint8), bitorder="little")
        first = 8 * part.start + part.shift
        return np.packbits(every[first : first + part.bits], bitorder="little").tobytes()
    tail = DATA[part.origin :]
    whole = tail[: len(tail) // part.word * part.word]
    turned = np.frombuffer(whole, f">u{part.word}").astype(f"<u{part.word}").tobytes() if part.word > 1 else whole
    return turned[part.start - part.origin : part.stop - part.origin]


def read(rope: Rope, start: int, stop: int) -> bytes:
    return b"".join(run(rope.read(ByteRange(start, stop)), Memory(DATA)))


@given(st.lists(st.one_of(st.binary(max_size=20), STORED, MADE), max_size=5), st.data())
def test_any_slice_of_any_rope_is_that_slice_of_the_whole(parts, data):
    rope = Rope(parts)
    whole = b"".join(value(p) for p in parts)
    assert rope.size == len(whole)
    start = data.draw(st.integers(0, rope.size))
    stop = data.draw(st.integers(start, rope.size + 3))
    assert read(rope, start, stop) == whole[start:stop]


@given(st.lists(st.lists(st.one_of(st.binary(max_size=20), STORED, MADE), max_size=3), max_size=4), st.data())
def test_a_rope_can_be_a_part_of_another(groups, data):
    rope = Rope([b"<", *[Rope(group) for group in groups], b">"])
    whole = b"<" + b"".join(value(p) for group in groups for p in group) + b">"
    start = data.draw(st.integers(0, rope.size))
    stop = data.draw(st.integers(start, rope.size))
    assert read(rope, start, stop) == whole[start:stop]
    assert rope.etag != Rope([b"<", *[Rope([*group, b"!"]) for group in groups], b"!>"]).etag


@given(STORED, st.integers(0, 99))
def test_no_more_is_read_than_is_needed(part, start):
    start = min(start, part.size)
    plan = Rope([part]).read(ByteRange(start, min(start + 3, part.size)))
    try:
        asked = next(plan)
    except StopIteration:
        return
    assert sum(a.stop - a.start for a in asked) <= 3 + 2 * part.word + (part.bits >= 0)


def test_a_short_source_is_an_error_with_its_offset():
    for part in (plain(390, 20), words(2, 390, 0, 20), bits(390, 3, 160)):
        with pytest.raises(TruncatedError) as caught:
            read(Rope([part]), 0, part.size)
        assert caught.value.offset == 400


def test_an_odd_last_word_of_the_file_is_turned_round_in_zeros():
    rope = Rope([Stored(399, 400, word=2, origin=399)])
    assert read(rope, 0, 1) == b"\0"


@given(
    st.lists(st.one_of(st.binary(max_size=4), STORED), max_size=3),
    st.lists(st.one_of(st.binary(max_size=4), STORED), max_size=3),
)
def test_etags_differ_where_ropes_do(a, b):
    one, other = Rope(a, identity="x"), Rope(b, identity="x")
    assert (one.etag == other.etag) == (one.parts == other.parts)
    assert one.etag == Rope(a, identity="x").etag
    assert one.etag != Rope(a, identity="y").etag
    made = [
        Rope([Made((Stored(0, 4),), 4, make, key)]).etag for make, key in ((backwards, "a"), (bytes, "a"), (bytes, "b"))
    ]
    assert made[0] == made[1] != made[2]  # what it does is said by its key
    assert one.etag[0] == one.etag[-1] == '"'
