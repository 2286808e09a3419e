"""Following Items: the same answer however the bytes are read, and the same Items as pydicom finds."""

import io
from struct import pack

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import generate_fragments, parse_basic_offsets, parse_fragments

from multiframe import encapsulation
from multiframe.encapsulation import END_OF_ITEMS, Items, encapsulate, follow_items, read_table, records
from multiframe.errors import FragmentError
from multiframe.ranges import ItemChain
from tests.files import ITEM, item

LEAD = b"12345678"
FRAGMENTS = st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 20_000).map(bytes)), max_size=12)
TAILS = st.sampled_from(
    (END_OF_ITEMS, b"", b"junk that is no Item", ITEM, ITEM + b"\xff\xff\xff\xff", ITEM + b"\x50\0\0\0abc", b"xy")
)


def slowly(data: bytes, at: int) -> tuple[list[tuple[int, int]], str, int]:
    """What the Items are, found in the plainest way."""
    found: list[tuple[int, int]] = []
    while True:
        if len(data) - at < 8:
            return found, "eof", at
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 8] == END_OF_ITEMS:
            return found, "delimiter", at
        if data[at : at + 4] != ITEM or length == 0xFFFFFFFF:
            return found, "junk", at
        if at + 8 + length > len(data):
            return found, "cut", at
        found.append((at, length))
        at += 8 + length


def follow(data: bytes, limit: int, head: int) -> list[Items]:
    """Follow to the end, `limit` Items at a time."""
    at, parts = len(LEAD), []
    while True:
        chain = ItemChain(at, len(data), limit, head)
        parts.append(records(follow_items(lambda a, b: data[a:b], chain), chain))
        if parts[-1].end != "more":
            return parts
        assert parts[-1].next_at > at
        at = parts[-1].next_at


@given(FRAGMENTS, TAILS, st.integers(1, 20), st.sampled_from((16, 64, 200)), st.sampled_from((300, 5000, 1 << 18)))
def test_items_are_the_same_however_they_are_read(fragments, tail, limit, head, window):
    data = LEAD + b"".join(item(f) for f in fragments) + tail
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encapsulation, "_WINDOW", window)
        parts = follow(data, limit, head)
    found, end, next_at = slowly(data, len(LEAD))
    at = np.concatenate([p.at for p in parts]).tolist()
    length = np.concatenate([p.length for p in parts]).tolist()
    assert list(zip(at, length, strict=True)) == found
    assert (parts[-1].end, parts[-1].next_at) == (end, next_at)
    for part in parts:
        for a, h in zip(part.at.tolist(), part.head, strict=True):
            assert h.tobytes() == data[a + 8 : a + 8 + head].ljust(head, b"\0")
        last_known = len(part.at) + (part.end in ("delimiter", "eof", "junk"))
        for a, t in list(zip([*part.at.tolist(), part.next_at], part.tail, strict=True))[:last_known]:
            assert t.tobytes() == data[a - 8 : a]


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9))
def test_pydicom_reads_what_is_written(fragments):
    value = encapsulate(fragments, first_of=range(len(fragments)))
    padded = [f + b"\0" * (len(f) % 2) for f in fragments]
    assert list(generate_fragments(value[12 + 4 * len(fragments) - 4 :])) == padded
    buffer = io.BytesIO(value)
    offsets = parse_basic_offsets(buffer)
    count, at = parse_fragments(buffer)
    assert count == len(fragments)
    chain = ItemChain(8, len(value) + 8, 1000)
    items = records(follow_items(lambda a, b: (LEAD + value)[a:b], chain), chain)
    assert items.length.tolist() == [4 * len(fragments), *map(len, padded)]
    assert (items.at[1:] - np.uint64(8)).tolist() == at
    assert offsets == [a - at[0] for a in at]


def test_the_table_beyond_4_gib_is_refused():
    with pytest.raises(FragmentError, match="4 GiB"):
        encapsulate([b"ab"], table=[1 << 32])


def test_tables_have_two_widths():
    assert read_table(pack("<2I", 0, 2**32 - 1), width=4).tolist() == [0, 2**32 - 1]
    assert read_table(pack("<2Q", 0, 2**63), width=8).tolist() == [0, 2**63]


class Reads:
    def __init__(self, data: bytes) -> None:
        self.data, self.count, self.bytes = data, 0, 0

    def __call__(self, start: int, stop: int) -> bytes:
        self.count += 1
        self.bytes += stop - start
        return self.data[start:stop]


def test_far_items_cost_a_small_read_each_near_ones_share_windows():
    for length, count, most_reads, most_share in ((20_000, 100, 110, 0.01), (500, 4000, 30, 1.1)):
        data = LEAD + item(bytes(length)) * count + END_OF_ITEMS
        read = Reads(data)
        chain = ItemChain(8, len(data), 10_000)
        assert len(records(follow_items(read, chain), chain).at) == count
        assert read.count <= most_reads
        assert read.bytes <= most_share * len(data)
