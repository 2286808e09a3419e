"""Many walkers on one chain: whatever they meet and in whatever order, the chain is that of one walker."""

from __future__ import annotations

from random import Random
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiframe.encapsulation import follow_items
from multiframe.ranges import ByteRange, ItemChain
from multiframe.walkers import Walkers
from tests.files import END, ITEM, item


def alone(data: bytes, chain: ItemChain) -> bytes:
    """What a single walker gives."""
    return padded(follow_items(lambda _, size, at: data[at : at + size], None, chain), chain)


def padded(records: bytes, chain: ItemChain) -> bytes:
    """Make the last record, of what the file ends in, as long as the others."""
    return records + bytes(-len(records) % chain.record if len(records) % chain.record >= 16 else 0)


def together(data: bytes, chain: ItemChain, random: Random, *, hints=(), width: int = 8, limit: int = 1 << 30):
    """What many give, answered in any order; and how many bytes and questions that took."""
    walkers = Walkers(chain, hints=hints, width=width)
    waiting: list[ByteRange] = []
    out: list[bytes] = []
    asked = cost = 0
    while not walkers.done:
        new = walkers.asks()
        assert len(set(new) | set(waiting)) == len(new) + len(waiting), "asked twice"
        waiting += new
        assert len(waiting) <= width
        assert waiting, "nothing is asked, and the end was not reached"
        wanted = waiting.pop(random.randrange(len(waiting)))
        assert 0 <= wanted.start <= wanted.stop
        piece = data[slice(*wanted)]
        asked, cost = asked + 1, cost + len(piece)
        walkers.answer(wanted, piece)
        if walkers.ready(limit):
            out.append(walkers.take(limit))
    while rest := walkers.take(limit):
        out.append(rest)
    return padded(b"".join(out), chain), asked, cost


def file_of(random: Random, *, count: int, longest: int, hostile: bool) -> bytes:
    """Items, with what looks like Items inside of them."""
    out = [bytes(random.randrange(8, 40))]
    for _ in range(count):
        value = bytearray(random.randbytes(random.randrange(longest)))
        for _ in range(random.randrange(4) if hostile else 0):
            at = random.randrange(len(value) + 1)
            value[at:at] = ITEM + pack("<I", random.choice((0, 2, 4, 10, longest, random.randrange(4 * longest))))
        out.append(item(bytes(value)))
    ending = random.choice((END, b"", b"\xfe\xff\xdd\xe0", random.randbytes(12), item(b"", 1 << 20), ITEM))
    return b"".join([*out, ending])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), near=st.sampled_from([0, 1 << 40]))
def test_the_chain_is_that_of_a_single_walker(seed: int, near: int) -> None:
    random = Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        # Files of a few kilobytes that are treated like gigabytes.
        for name, value in {"_NEAR": near, "_LEAST": 16, "_MOST": 48, "_WORTH_SPLITTING": 2, "_WINDOW": 200}.items():
            patch.setattr(f"multiframe.walkers.{name}", value)
        patch.setattr("multiframe.walkers._APART", random.choice((0, 100)))
        patch.setattr("multiframe.walkers._AHEAD", random.choice((0, 1000, 1 << 20)))
        count = random.choice((0, 1, 3, 40, 150))
        data = file_of(random, count=count, longest=random.choice((1, 20, 200)), hostile=random.random() < 0.7)
        start = data.find(ITEM)
        start = max(start, 8)
        chain = ItemChain(start, len(data), 1 << 30, random.choice((16, 64)))
        right = alone(data, chain)
        hints = [random.randrange(len(data)) for _ in range(random.choice((0, 0, 20)))]
        if random.random() < 0.2:
            hints += [i for i in range(len(data)) if data.startswith(ITEM, i)]
        limit = random.choice((1, 7, 1 << 30))
        got, _, _ = together(data, chain, random, hints=hints, width=random.choice((1, 4, 60)), limit=limit)
        assert got == right


def far(lengths: list[int]) -> tuple[bytes, ItemChain]:
    data = bytes(64) + b"".join(item(bytes(n)) for n in lengths) + END
    return data, ItemChain(64, len(data), 1 << 30)


def test_few_bytes_and_few_rounds_where_items_are_large() -> None:
    random = Random(1)
    data, chain = far([2 * random.randrange(90_000, 95_000) for _ in range(400)])
    got, asked, cost = together(data, chain, random, width=64)
    assert got == alone(data, chain)
    assert cost < 0.06 * len(data)
    assert asked < 600


def test_small_items_are_read_in_windows_and_nothing_twice() -> None:
    data, chain = far([1000] * 5000)
    got, asked, cost = together(data, chain, Random(1))
    assert got == alone(data, chain)
    assert cost < 1.1 * len(data)
    assert asked < 60


def test_a_true_table_saves_the_search() -> None:
    data, chain = far([200_000] * 100)
    hints = [64 + 200_008 * i for i in range(100)]
    got, asked, cost = together(data, chain, Random(1), hints=hints, width=32)
    assert got == alone(data, chain)
    assert asked <= 103
    assert cost < 100 * 64


def test_a_lying_table_costs_but_does_not_mislead() -> None:
    data, chain = far([20_000] * 100)
    hints = [64 + 20_008 * i + 4 for i in range(100)]
    got, _, _ = together(data, chain, Random(1), hints=hints, width=32)
    assert got == alone(data, chain)


def test_a_payload_that_is_a_chain_of_items_itself() -> None:
    inner = b"".join(item(bytes(100)) for _ in range(200))
    data = bytes(64) + b"".join(item(inner) for _ in range(20)) + END
    chain = ItemChain(64, len(data), 1 << 30)
    got, _, _ = together(data, chain, Random(3), width=16)
    assert got == alone(data, chain)
