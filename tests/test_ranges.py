"""Grouping ranges."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from multiframe.ranges import ByteRange, ItemChain, coalesce

RANGES = st.lists(st.builds(lambda a, n: ByteRange(a, a + n), st.integers(0, 300), st.integers(0, 60)), max_size=12)


@given(RANGES, st.integers(0, 40), st.integers(1, 200))
def test_every_range_lies_in_exactly_one_group_and_groups_stay_apart(ranges, max_gap, max_size):
    groups = coalesce(ranges, max_gap=max_gap, max_size=max_size)
    assert sorted(m for g in groups for m in g.members) == list(range(len(ranges)))
    for span, members in groups:
        assert span == ByteRange(min(ranges[m].start for m in members), max(ranges[m].stop for m in members))
        assert span.size <= max_size or len(members) == 1 or all(ranges[m] == ranges[members[0]] for m in members)
        ordered = sorted(ranges[m] for m in members)
        reached = ordered[0].stop
        for r in ordered[1:]:
            assert r.start - reached <= max_gap
            reached = max(reached, r.stop)
    assert [g.span.start for g in groups] == sorted(g.span.start for g in groups)


@given(RANGES, st.integers(0, 40))
def test_near_ranges_are_read_at_once(ranges, max_gap):
    groups = coalesce(ranges, max_gap=max_gap, max_size=10_000)
    for a, b in pairwise(groups):
        assert b.span.start - a.span.stop > max_gap


def test_a_record_is_what_the_chain_says():
    assert ItemChain(0, 100, 5).record == 32
    assert ItemChain(0, 100, 5, 100).record == 116
