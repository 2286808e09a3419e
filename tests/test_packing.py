"""What is packed in pieces is what is unpacked, whatever differs."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from multiframe.packing import Packer


@given(st.binary(max_size=600), st.lists(st.integers(0, 600), max_size=12), st.binary(min_size=600, max_size=600))
def test_what_is_packed_is_unpacked(like: bytes, cuts: list[int], other: bytes) -> None:
    cuts = sorted({min(cut, len(like)) for cut in cuts})
    holes = list(zip(cuts[::2], cuts[1::2], strict=False))
    packer = Packer(like, holes)
    data = bytearray(like)
    for start, stop in holes:
        data[start:stop] = other[start:stop]
    for one in (like, bytes(data)):
        assert zlib.decompress(packer.packed(one)) == one


def test_a_long_hole_and_what_is_the_same() -> None:
    like = b"as always, " * 9000 + bytes(200_000) + b"and so on, " * 9000
    packer = Packer(like, [(99_000, 299_000)])
    data = like[:99_000] + bytes(range(200)) * 1000 + like[299_000:]
    packed = packer.packed(data)
    assert zlib.decompress(packed) == data
    assert len(packed) < 205_000  # what differs is stored, all else deflated
