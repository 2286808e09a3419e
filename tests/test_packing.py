"""Bytes kept beside others that they are like are given back as they were."""

from hypothesis import given
from hypothesis import strategies as st

from multiframe.packing import Difference, Run, whole, without

PIECES = st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 200)), max_size=8)


@given(st.binary(min_size=600, max_size=600), PIECES, st.lists(st.integers(0, 900), max_size=12))
def test_what_is_kept_beside_others_is_whole(
    like: bytes, pieces: list[tuple[bytes, int, int]], cuts: list[int]
) -> None:
    data, same = b"", list[Run]()
    for own, start, size in pieces:
        data += own
        same.append((len(data), len(data) + size, start - len(data)))
        data += like[start : start + size]
    cuts = sorted({min(cut, len(data)) for cut in cuts})
    holes = list(zip(cuts[::2], cuts[1::2], strict=False))
    difference = Difference(len(data), without(same, holes))
    assert whole(difference.of(data), like) == data
    other = bytearray(data)
    for start, stop in holes:
        other[start:stop] = bytes(byte ^ 0x55 for byte in other[start:stop])
    for start, stop in _own(len(data), same):
        other[start:stop] = bytes(byte ^ 0x33 for byte in other[start:stop])
    assert whole(difference.of(bytes(other)), like) == other


def _own(size: int, same: list[Run]) -> list[tuple[int, int]]:
    return list(zip([0, *(stop for _, stop, _ in same)], [*(start for start, _, _ in same), size], strict=True))


def test_what_is_the_same_takes_no_room() -> None:
    like = bytes(range(256)) * 200
    data = like[:20_000] + b"own" + like[20_003:]
    kept = Difference(len(data), without([(0, len(data), 0)], [(20_000, 20_003)])).of(data)
    assert whole(kept, like) == data
    assert len(kept) < 40
