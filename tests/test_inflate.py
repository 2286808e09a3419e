"""A deflated data set, read as if it had not been deflated: exact, bounded, and never from a file that changed."""

import asyncio
import gzip
import os
import threading
import tracemalloc
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from multiframe import inflate
from multiframe.dicomjson import attributes
from multiframe.errors import FormatError, MultiframeError, SourceChanged, SourceError, TruncatedError
from multiframe.header import Deflated, read_header
from multiframe.inflate import Inflated, inflated
from multiframe.instance import Instance
from multiframe.ranges import ByteRange
from multiframe.source import ByteSource, FileSource, ObjectStat, run
from multiframe.syntaxes import EXPLICIT_LE, syntax_of
from multiframe.testing import part10
from tests.corpus import corpus
from tests.files import Memory, element

DEFLATED = "1.2.840.10008.1.2.1.99"


def opened(source: ByteSource) -> Instance:
    """An instance of a file that may be deflated."""
    stat = source.stat()
    try:
        header = run(read_header(), source, identity=stat.identity)
    except Deflated:
        source = inflated(source)
        stat = source.stat()
        header = replace(run(read_header(), source, identity=stat.identity), syntax=syntax_of(DEFLATED))
    return Instance(source, stat, header)


def noise(n: int = 5, size: int = 6 * 7 * 2) -> list[bytes]:
    random = Random(n)
    return [random.randbytes(size) for _ in range(n)]


def file_of(frames: list[bytes], syntax: str = DEFLATED) -> bytes:
    return part10(frames, rows=6, columns=7, bits_allocated=16, syntax=syntax)


def split(file: bytes) -> tuple[bytes, bytes]:
    """File Meta Information, and the data set inflated."""
    at = 144 + int.from_bytes(file[140:144], "little")
    return file[:at], zlib.decompressobj(-15).decompress(file[at:])


def encoded(instance: Instance) -> list[bytes | type[MultiframeError]]:
    found: list[bytes | type[MultiframeError]] = []
    for i in range(instance.header.declared_frames or 1):
        try:
            found.append(next(instance.encoded([i])).data)
        except MultiframeError as error:
            found.append(type(error))
    return found


def squeezed(data: bytes, wbits: int) -> bytes:
    stream = zlib.compressobj(wbits=wbits)
    return stream.compress(data) + stream.flush()


# ---------------------------------------------------------------------------------------------------------- exactly


def test_frames_are_exact_and_the_syntax_is_said_plainly():
    frames = noise()
    instance = opened(Memory(file_of(frames)))
    assert encoded(instance) == frames
    assert (instance.index.origin, len(instance)) == ("native", 5)
    assert instance.syntax.uid == DEFLATED
    assert instance.syntax.deflated
    assert instance.frame_syntax.uid == EXPLICIT_LE
    assert instance.pixels(3).tobytes() == frames[3]


def test_attributes_are_those_of_the_file_not_deflated():
    deflated, plain = (opened(Memory(file_of(noise(), syntax))) for syntax in (DEFLATED, EXPLICIT_LE))
    ours, theirs = (attributes(i.header) for i in (deflated, plain))
    assert {k for k in ours if ours[k] != theirs[k]} <= {"00080018", "0020000D", "0020000E"}  # its UIDs tell the syntax
    assert deflated.dataset.Rows == 6
    assert deflated.dataset.file_meta.TransferSyntaxUID == EXPLICIT_LE  # as what `header.raw` holds is written
    meta = deflated.header.raw[: deflated.header.dataset_at]
    assert deflated.dataset.file_meta.FileMetaInformationGroupLength == len(meta) - 144


def test_the_inflated_file_is_a_file():
    import io

    source = inflated(Memory(file_of(noise())))
    (data,) = source.read_ranges([ByteRange(0, source.stat().size)]).buffers
    assert dcmread(io.BytesIO(bytes(data))).PixelData == b"".join(noise())


@pytest.mark.filterwarnings("ignore")
def test_real_files_give_what_pydicom_gives():
    names = [name for name, path in corpus().items() if DEFLATED.encode() in path.read_bytes()[:400]]
    assert names
    for name in names:
        instance = opened(FileSource(corpus()[name]))
        assert encoded(instance) == [dcmread(corpus()[name]).PixelData]


@pytest.mark.parametrize(
    "wrapped", [lambda b: squeezed(b, -15), lambda b: squeezed(b, 15), gzip.compress], ids=["raw", "zlib", "gzip"]
)
@pytest.mark.parametrize("after", [b"", b"\0", bytes(700), b"rubbish\0"])
def test_however_the_stream_is_wrapped_and_padded(wrapped, after):
    meta, body = split(file_of(noise()))
    assert encoded(opened(Memory(meta + wrapped(body) + after))) == noise()


def test_a_stream_of_stored_blocks_is_read():
    meta, body = split(file_of(noise()))
    stream = zlib.compressobj(0, wbits=-15)
    assert encoded(opened(Memory(meta + stream.compress(body) + stream.flush()))) == noise()


def test_nothing_is_touched_of_a_meta_that_is_odd():
    meta, body = split(file_of(noise()))
    without = meta[:132] + meta[144:]  # no group length
    assert encoded(opened(Memory(without + squeezed(body, -15)))) == noise()
    private = element(0x00020102, b"OB", b"private!")
    assert encoded(opened(Memory(meta + private + squeezed(body, -15)))) == noise()


# ------------------------------------------------------------------------------------------------------- cut, damaged


def test_a_stream_that_is_cut_gives_the_frames_before_the_cut():
    frames = noise(400)
    file = file_of(frames)
    for stop in range(len(file) - 20_000, len(file) - 8, 1999):
        found = encoded(opened(Memory(file[:stop])))
        served = sum(isinstance(f, bytes) for f in found)
        assert 100 < served < 400
        assert found == frames[:served] + [TruncatedError] * (400 - served)


@pytest.mark.parametrize("eighth", range(1, 8))
def test_nothing_is_given_of_a_stream_that_is_damaged(eighth):
    meta, body = split(file_of(noise(4000, 84)))
    stream = squeezed(body, -15)
    at = len(stream) * eighth // 8
    source = inflated(Memory(meta + stream[:at] + b"\xff" * 32 + stream[at:]))
    with pytest.raises(FormatError, match="damaged") as caught:
        source.stat()
    assert caught.value.offset is not None


@pytest.mark.parametrize("body", [b"\x07" * 40, b"\x08\0\x18\0UI\4\x001.2\0", b"\x1f\x8b" + bytes(40)])
def test_what_is_no_stream_is_an_error(body):
    meta, _ = split(file_of(noise()))
    with pytest.raises(FormatError):
        inflated(Memory(meta + body)).stat()


def test_no_stream_at_all_is_a_file_that_ends():
    meta, _ = split(file_of(noise()))
    source = inflated(Memory(meta))
    header = run(read_header(), source)
    assert header.pixel_data is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=4))
def test_damage_raises_nothing_else(at, change):
    file = bytearray(file_of(noise(2, 900)))
    at %= len(file)
    file[at : at + len(change)] = change
    with suppress(MultiframeError):
        encoded(opened(Memory(bytes(file))))


# ------------------------------------------------------------------------------------------------------------ bounded


def bomb(size: int) -> bytes:
    meta, _ = split(file_of(noise()))
    return meta + squeezed(element(0x7FE00010, b"OW", bytes(size)), -15)


def test_a_bomb_is_refused_by_size_and_by_ratio(monkeypatch):
    with pytest.raises(FormatError, match="more than 1000000 bytes"):
        inflated(Memory(bomb(1_100_000)), limit=1_000_000).stat()
    monkeypatch.setattr(inflate, "_ALWAYS", 1 << 20)
    small = bomb(5 << 20)
    with pytest.raises(FormatError, match=f"more than {200 * len(small)} bytes"):
        inflated(Memory(small)).stat()
    assert inflated(Memory(small), ratio=2000).stat().size > 5 << 20


def test_a_black_picture_is_no_bomb():
    assert inflated(Memory(bomb(8 << 20))).stat().size > 8 << 20


def test_memory_stays_flat(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bomb(60 << 20))
    tracemalloc.start()
    try:
        source = inflated(FileSource(path), folder=tmp_path)
        assert source.stat().size > 60 << 20
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_no_name_is_left_in_the_folder(tmp_path):
    source = inflated(Memory(file_of(noise())), folder=tmp_path)
    source.stat()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said():
    with pytest.raises(SourceError, match="no room"):
        inflated(Memory(file_of(noise())), folder="/nowhere/at/all").stat()


def test_only_so_many_files_are_open_at_a_time(monkeypatch):
    monkeypatch.setattr(inflate, "_OPEN", 3)
    instances = [opened(Memory(file_of(noise(i)), (i,))) for i in range(1, 12)]
    spooled = [i.source for i in instances if isinstance(i.source, Inflated) and i.source._spool is not None]
    assert len(spooled) == 3
    for n, instance in enumerate(instances, 1):
        assert encoded(instance) == noise(n)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors where Linux lists them")
def test_no_descriptor_is_left():
    before = descriptors()
    for _ in range(5):
        source = inflated(Memory(file_of(noise())))
        source.stat()
        del source
        with suppress(FormatError):
            inflated(Memory(bomb(1000)), limit=900).stat()
    assert descriptors() == before


# -------------------------------------------------------------------------------------------------- once, and the same


class Watched(Memory):
    """Says how often it was read from the beginning."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.passes = 0

    def read_ranges(self, ranges, /, *, identity=None):
        self.passes += any(r.start == 0 for r in ranges)
        return super().read_ranges(ranges, identity=identity)


def test_many_readers_at_once_inflate_once():
    source = Watched(file_of(noise(50)))
    shared = inflated(source)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(bytes(shared.read_ranges([ByteRange(0, 1 << 20)]).buffers[0])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert source.passes == 1


def test_async_readers_are_given_the_same():
    frames = noise()
    instance = opened(Memory(file_of(frames)))

    async def main() -> list[bytes]:
        return [frame.data async for frame in instance.encoded_async(range(5))]

    assert asyncio.run(main()) == frames


def test_the_source_keeps_to_the_protocol():
    source = inflated(Memory(file_of(noise()), (7,)))
    assert isinstance(source, ByteSource)
    stat = source.stat()
    assert stat.identity == (7,)
    asked = [ByteRange(5, 9), ByteRange(0, 3), ByteRange(stat.size - 2, stat.size + 9), ByteRange(3, 3)]
    reply = source.read_ranges(asked, identity=(7,))
    (whole,) = source.read_ranges([ByteRange(0, stat.size)]).buffers
    assert list(reply.buffers) == [whole[a:b] for a, b in asked]
    assert reply.stat == stat
    assert source.read_ranges([]).buffers == []
    with pytest.raises(SourceChanged):
        source.read_ranges(asked, identity=(8,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "deflated.dcm"
    path.write_bytes(file_of(noise()))
    return path


def test_an_original_that_changed_is_noticed(path):
    instance = opened(FileSource(path))
    assert encoded(instance) == noise()
    path.write_bytes(file_of(noise(6)))
    with pytest.raises(SourceChanged):
        next(instance.encoded([0]))
    assert encoded(opened(FileSource(path))) == noise(6)


def test_who_asks_for_no_identity_is_given_what_is_there_now(path):
    source = inflated(FileSource(path))
    before = source.stat()
    path.write_bytes(file_of(noise(6)))
    assert source.stat() != before
    assert source.read_ranges([ByteRange(0, 4)]).stat == source.stat()


def test_an_original_that_is_gone_is_noticed(path):
    source = inflated(FileSource(path))
    source.stat()
    path.unlink()
    with pytest.raises(SourceError):
        source.stat()


class Shrinking(Memory):
    """Says that it is longer than it is."""

    def stat(self) -> ObjectStat:
        return ObjectStat(len(self.data) + 5_000_000, self.identity)


def test_a_source_that_is_shorter_than_it_says_is_noticed():
    meta, body = split(file_of(noise()))
    cut = squeezed(body, -15)[:-9]
    with pytest.raises(TruncatedError):
        inflated(Shrinking(meta + cut)).stat()
