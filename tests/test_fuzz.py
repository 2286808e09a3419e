"""The fuzz, in short: known seeds, and a new one each time. ``python -m tests.fuzz_index`` is the long one."""

import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random, SystemRandom
from struct import pack

import pytest

from multiframe.errors import SourceChanged
from multiframe.frameindex import FrameIndex
from multiframe.instance import open_instance
from multiframe.ranges import ByteRange
from multiframe.source import Identity, ObjectStat, Reply
from tests import fuzz_index
from tests.files import END, JPEG, element, head, item


@pytest.fixture
def new_seed():
    """A seed that no run before had; a finding names it, and ``--case`` takes it."""
    return SystemRandom().randrange(1 << 40)


def test_mutations_of_structure_give_right_frames_or_errors():
    assert fuzz_index.run(3000) == ""


def test_new_mutations_of_structure_too(new_seed):
    assert fuzz_index.run(2000, new_seed) == ""


def test_any_bytes_changed_give_frames_or_errors(new_seed):
    assert fuzz_index.run(4000, any_bytes=True) == ""
    assert fuzz_index.run(4000, new_seed, any_bytes=True) == ""


@pytest.mark.long
@pytest.mark.parametrize("part", range(12))  # each well under the time after which a test is taken to hang
def test_very_many_mutations(new_seed, part):
    assert fuzz_index.run(25_000, new_seed, any_bytes=part > 3) == ""


# ------------------------------------------------------------------------------------- the fuzz itself has to be right


@pytest.mark.parametrize(
    "case",
    [
        *("20262514:1", "20268631:9", "20304811:6", "20330004:4"),
        *("300097215:6", "300109606:13", "300109868:9", "300182080:9", "300253606:10", "300018754:15"),
        *("300397516:7", "300432131:7"),
    ],
)
def test_what_a_long_run_once_found(case):
    """Headers that lead astray over lengths that lie; what these cases are changes with the makers of files."""
    seed, k = map(int, case.split(":"))
    (seen,) = fuzz_index.structured(seed, range(k, k + 1))
    assert not seen.finding


def test_one_frame_given_for_another_is_found(monkeypatch):
    parts = FrameIndex.parts
    monkeypatch.setattr(FrameIndex, "parts", lambda self, i: parts(self, max(0, i - 1)))
    found = fuzz_index.run(500)
    assert re.match(r"case \d+:\d+: frame [1-9]", found)


def test_what_is_no_error_of_ours_is_found(monkeypatch):
    def broken(self, i):
        raise IndexError("nobody expects it")

    monkeypatch.setattr(FrameIndex, "parts", broken)
    assert "IndexError at test_fuzz.py" in fuzz_index.run(500)
    assert "IndexError at test_fuzz.py" in fuzz_index.run(500, any_bytes=True)


def test_an_endless_walk_is_found(monkeypatch):
    def endless(*_, **__):
        while True:
            yield [ByteRange(0, 1)]

    monkeypatch.setattr("multiframe.instance.index_frames", endless)
    assert "Endless" in fuzz_index.run(16)


def test_a_fuzz_that_sees_no_frames_says_so(monkeypatch):
    monkeypatch.setattr(fuzz_index, "mutated", lambda file, random: replace(file, data=b"nothing"))
    assert "proves nothing" in fuzz_index.run(1000)


def test_a_case_is_the_same_every_time():
    def cases(numbers):
        return [seen.given for seen in fuzz_index.structured(3, numbers)]

    every = cases(range(fuzz_index.EACH))
    assert sum(every)
    assert [cases(range(k, k + 1))[0] for k in range(fuzz_index.EACH)] == every


def test_the_command(monkeypatch, capsys, tmp_path):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["fuzz_index", *arguments])
        monkeypatch.setattr(fuzz_index, "prepare", lambda: None)  # it is for a process of its own
        monkeypatch.setattr(signal, "setitimer", lambda *_: None)
        return fuzz_index.main()

    assert command("--case", "3:1") == 0
    assert "nothing found" in capsys.readouterr().out
    log = tmp_path / "log"
    assert command("--count", "160", "--seed", "5", "--log", str(log)) == 0
    assert re.fullmatch(
        r"160 mutations from seed 5 on, \d+ gave frames: 0 findings, \d+ MiB resident\n", log.read_text()
    )


# ------------------------------------------------------------------------------------------------------ beyond 4 GiB


class Sparse:
    """A file of which only some pieces are there; zeros are between them."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.size = 0

    def write(self, data: bytes) -> None:
        self.pieces.append((self.size, data))
        self.size += len(data)

    def stat(self) -> ObjectStat:
        return ObjectStat(self.size, (1,))

    def read_ranges(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        if identity not in (None, (1,)):
            raise SourceChanged("replaced")
        return Reply([self._read(*r) for r in ranges], self.stat())

    async def read_ranges_async(self, ranges: Sequence[ByteRange], /, *, identity: Identity | None = None) -> Reply:
        return self.read_ranges(ranges, identity=identity)

    def _read(self, start: int, stop: int) -> bytes:
        out = bytearray(max(0, min(stop, self.size) - start))
        for at, data in self.pieces:
            a, b = max(at, start), min(at + len(data), stop)
            if a < b:
                out[a - start : b - start] = data[a - at : b - at]
        return bytes(out)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("table", ["none", "wrapped", "extended", "extended wrapped", "unpadded"])
def test_frames_beyond_4_gib_are_found_whatever_the_table_says(seed, table):
    random = Random(seed)
    n, pieces = random.randint(3, 9), 1 if table == "unpadded" else random.randint(1, 3)
    begin, end = b"\xff\xd8\xff\xda\0\2ab", b"\xff\xd9"
    lengths = [[2 * random.randint(100, 1 << 30) for _ in range(pieces)] for _ in range(n)]
    lengths[0][0] |= 1 << 31  # so that the second frame or third begins beyond what 32 bits can say
    lengths[1][0] |= 1 << 31
    true = [sum(8 + k for frame in lengths[:i] for k in frame) for i in range(n)]
    said = [t % 2**32 for t in true] if "wrapped" in table else true
    extended = b""
    if table.startswith("extended") or table == "unpadded":
        whole = [sum(frame) - (table == "unpadded") for frame in lengths]
        for tag, numbers in ((0x7FE00001, said), (0x7FE00002, whole)):
            extended += element(tag, b"OV", b"".join(pack("<Q", k) for k in numbers))
    source = Sparse()
    source.write(head(JPEG, frames=str(n), extra=extended) + element(0x7FE00010, b"OB", b"", length=0xFFFFFFFF))
    source.write(item(b"".join(pack("<I", k) for k in said) if table == "wrapped" else b""))
    expected: list[list[tuple[int, int]]] = []
    for frame in lengths:
        expected.append([])
        for k, length in enumerate(frame):
            source.write(item(b"", length))
            expected[-1].append((source.size, source.size + length))
            source.pieces.append((source.size, begin if k == 0 else b""))
            source.size += length
            source.pieces.append((source.size - 2, end if k == pieces - 1 else b""))
    source.write(END)
    index = open_instance(source).index
    assert [[(p.start, p.stop) for p in index.parts(i)] for i in range(n)] == expected
    alone = open_instance(source)
    alone.grow(n - 1)
    assert alone.known is not None
    assert [(p.start, p.stop) for p in alone.known.parts(n - 1)] == expected[-1]
