"""No byte of a near file is read twice, however much of it is in doubt; and what is kept is what was read."""

import os
from random import Random
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiframe.encapsulation import encapsulate, follow_items
from multiframe.errors import SourceChanged
from multiframe.instance import open_instance
from multiframe.keeping import Kept
from multiframe.ranges import ByteRange, ItemChain
from multiframe.source import KEPT, FileSource
from multiframe.testing import CountingSource
from tests.files import J2K, JPEG, Frame, Memory, cut, jpeg, made

SIZES = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 3000), st.just(20_000), st.just(70_000)), max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    SIZES,
    st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 9000)), max_size=12),
    st.sampled_from((0, 3000, KEPT)),
    st.sampled_from((16, 240)),
    st.booleans(),
    st.booleans(),
)
def test_it_answers_as_the_file_does(tmp_path_factory, sizes, places, limit, head, delimited, local):
    random = Random(len(sizes))
    data = bytes(8) + encapsulate([random.randbytes(n) for n in sizes])
    data = data if delimited else data[:-8]
    path = tmp_path_factory.getbasetemp() / "kept"
    path.write_bytes(data)
    source = FileSource(path) if local else Memory(data)
    kept = Kept(source, limit=limit)
    identity = source.stat().identity
    at = 8
    for n in (1, 3, 16, 64):
        chain = ItemChain(at, len(data), n, head, sparse=n == 16)
        answer = kept.read_items(chain, identity=identity)
        plain = follow_items(lambda data, size, at: data[at : at + size], data, chain)
        # Records at the end of the file may be filled up with zeros.
        assert answer.ljust(len(plain), b"\0") == plain.ljust(len(answer), b"\0")
        at += sum(8 + int.from_bytes(answer[i + 12 : i + 16], "little") for i in range(0, len(answer) - 15, 16 + head))
        wanted = [ByteRange(start, start + size) for start, size in places]
        assert [bytes(b) for b in kept.read_ranges(wanted, identity=identity).buffers] == [data[a:b] for a, b in wanted]
        assert kept.held <= limit
        if at > len(data):
            break


def in_doubt(megabytes, pieces, random):
    """A file whose frames end in more padding than an end mark is looked for in, and whose number tells nothing."""
    body = b"\xff\x93" + random.randbytes(4000).replace(b"\xff", b"\x7f")
    size = b"\xff\x51" + pack(">H", 40) + bytes(38)
    tile = b"\xff\x90" + pack(">HHIBB", 10, 0, 12 + len(body), 0, 1)
    parts = cut(Frame(b"\xff\x4f" + size + tile + body + b"\xff\xd9" + bytes(10)), pieces, random)
    return made(J2K, [parts] * max(1, int(megabytes * (1 << 20)) // 4100), frames="7")


@pytest.fixture
def preads(monkeypatch):
    """Bytes that `os.pread` has answered, and how often."""
    count = [0, 0]
    pread = os.pread

    def counting(fd, size, at):
        data = pread(fd, size, at)
        count[0] += len(data)
        count[1] += 1
        return data

    monkeypatch.setattr(os, "pread", counting)
    return count


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("megabytes", [0.05, 0.4, 3.0])
def test_a_file_in_doubt_is_read_once(tmp_path, preads, megabytes, pieces):
    file = in_doubt(megabytes, pieces, Random(1))
    path = tmp_path / "doubt.dcm"
    path.write_bytes(file.data)
    index = open_instance(path).index
    assert len(index) == len(file.frames)
    assert preads[0] <= 1.01 * len(file.data)
    counting = CountingSource(Memory(file.data))
    assert len(open_instance(counting).index) == len(index)
    assert counting.bytes_read <= len(file.data)


def test_a_large_file_in_doubt_from_the_first_is_read_little_more_than_once(tmp_path, preads):
    file = in_doubt(12, 2, Random(2))
    path = tmp_path / "doubt.dcm"
    path.write_bytes(file.data)
    index = open_instance(path).index
    assert len(index) == len(file.frames)
    assert preads[0] <= 1.05 * len(file.data)


def test_a_small_file_is_read_by_one_read(tmp_path, preads):
    file = made(JPEG, [[jpeg(Random(k), hostile=False).data.ljust(400, b"\0")] for k in range(30)])
    path = tmp_path / "small.dcm"
    path.write_bytes(file.data)
    instance = open_instance(path)
    before = preads[1]
    assert len(instance.index) == 30
    assert preads[1] == before
    assert preads[0] == len(file.data)


def test_a_file_that_changed_since_it_was_opened_is_noticed(tmp_path):
    file = made(JPEG, [[jpeg(Random(k), hostile=False).data.ljust(400, b"\0")] for k in range(30)])
    path = tmp_path / "small.dcm"
    path.write_bytes(file.data)
    instance = open_instance(path)
    path.write_bytes(file.data + b"\0")
    with pytest.raises(SourceChanged):
        _ = instance.index


@pytest.mark.parametrize(("pieces", "some"), [(1, 200_000), (1, 2000), (3, 90_000)])
@pytest.mark.parametrize("declared", [None, "0", "7"])
def test_more_frames_than_declared_are_told_without_reading_their_pixels(preads, tmp_path, pieces, some, declared):
    random = Random(3)
    frames = [jpeg(random, hostile=False, more=bytes(some)) for _ in range(-(-(5 << 20) // some))]
    file = made(JPEG, [cut(frame, pieces, random) for frame in frames], frames=declared)
    path = tmp_path / "more.dcm"
    path.write_bytes(file.data)
    instance = open_instance(path)
    assert instance.index.sizes.tolist() == [len(frame) for frame in file.frames]
    assert preads[0] <= len(file.data) * (1 if some == 2000 else 0.05)
    for i in (0, len(file.frames) // 2, len(file.frames) - 1):
        (frame,) = instance.encoded([i])
        assert frame.data == file.frames[i]


def test_fewer_frames_than_declared_are_looked_at_to_their_ends(preads, tmp_path):
    random = Random(4)
    frames = [jpeg(random, hostile=False, more=bytes(200_000)).data for _ in range(30)]
    # Two frames in one fragment, as a length that swallows an Item makes them.
    swallowed = frames[3] + b"\0" * (len(frames[3]) % 2) + b"\xfe\xff\x00\xe0" + pack("<I", len(frames[4])) + frames[4]
    file = made(JPEG, [[f] for f in (*frames[:3], swallowed, *frames[5:])], frames="30")
    path = tmp_path / "fewer.dcm"
    path.write_bytes(file.data)
    index = open_instance(path).index
    assert len(index) == 3
    assert index.damage is not None
