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


def follow(data: bytes, limit: int, head: int, *, most: int = 1 << 30, stop: int | None = None) -> list[Items]:
    """Follow to `stop`, `limit` Items at a time; no read gives more than `most` bytes."""
    at, parts = len(LEAD), []
    while True:
        chain = ItemChain(at, len(data) if stop is None else stop, limit, head)
        answer = follow_items(lambda _, n, at: data[at : at + min(n, most)], None, chain)
        assert len(answer) <= limit * chain.record
        parts.append(records(answer, chain))
        if parts[-1].end != "more":
            return parts
        assert parts[-1].next_at > at
        at = parts[-1].next_at


@given(
    FRAGMENTS, TAILS, st.integers(1, 20), st.sampled_from((16, 64, 200)), st.sampled_from((300, 5000, 1 << 20)),
    st.sampled_from((1, 7, 25, 100, 1000, 1 << 20)), st.sampled_from((b"", bytes(300), item(b"more") * 40)),
)  # fmt: skip
def test_items_are_the_same_however_they_are_read(fragments, tail, limit, head, window, most, beyond):
    data = LEAD + b"".join(item(f) for f in fragments) + tail
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encapsulation, "_FIRST_WINDOW", window)
        patch.setattr(encapsulation, "_WINDOW", 2 * window)
        parts = follow(data + beyond, limit, head, most=most, stop=len(data))
    found, end, next_at = slowly(data, len(LEAD))
    at = np.concatenate([p.at for p in parts]).tolist()
    length = np.concatenate([p.length for p in parts]).tolist()
    assert list(zip(at, length, strict=True)) == found
    assert (parts[-1].end, parts[-1].next_at) == (end, next_at)
    for part in parts:
        for a, h in zip(part.at.tolist(), part.head, strict=True):
            assert h.tobytes() == data[a + 8 : a + 8 + head].ljust(head, b"\0")[:head]
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
    items = records(follow_items(lambda _, n, at: (LEAD + value)[at : at + n], None, chain), chain)
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

    def __call__(self, _: None, size: int, at: int) -> bytes:
        self.count += 1
        self.bytes += size
        return self.data[at : at + size]


def test_far_items_cost_a_small_read_each_near_ones_share_windows():
    for length, count, most_reads, most_share in ((20_000, 100, 110, 0.01), (500, 4000, 30, 1.1)):
        data = LEAD + item(bytes(length)) * count + END_OF_ITEMS
        read = Reads(data)
        chain = ItemChain(8, len(data), 10_000)
        assert len(records(follow_items(read, None, chain), chain).at) == count
        assert read.count <= most_reads
        assert read.bytes <= most_share * len(data)


def test_one_near_item_among_far_ones_is_not_worth_a_window():
    data = LEAD + (item(bytes(100)) + item(bytes(100_000))) * 200 + END_OF_ITEMS
    read = Reads(data)
    chain = ItemChain(8, len(data), 10_000)
    assert len(records(follow_items(read, None, chain), chain).at) == 400
    assert read.bytes <= 0.05 * len(data)


def test_items_lead_from_far_to_near_and_back():
    data = LEAD + (item(bytes(20_000)) * 300 + item(bytes(50)) * 20_000) * 2 + END_OF_ITEMS
    read = Reads(data)
    chain = ItemChain(8, len(data), 1 << 20)
    assert len(records(follow_items(read, None, chain), chain).at) == 2 * 20_300
    assert read.count <= 2 * (300 + 4 * 128 + 10)


def test_junk_that_hops_on_and_on_is_met_once():
    zeros = LEAD + item(b"") + bytes(1 << 20)
    read = Reads(zeros)
    chain = ItemChain(8, len(zeros), 1 << 20)
    answer = follow_items(read, None, chain)
    assert len(answer) == 2 * chain.record
    assert records(answer, chain).end == "junk"
    assert read.count <= 3


def test_a_file_that_becomes_shorter_ends():
    data = LEAD + item(bytes(50_000)) * 3
    for cut in (8, 12, 20, 50_020, 60_000):
        chain = ItemChain(8, len(data), 100)
        items = records(follow_items(lambda _, n, at, cut=cut: data[:cut][at : at + n], None, chain), chain)  # type: ignore[misc]
        assert len(items.at) <= 2
