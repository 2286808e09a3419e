"""Local files: what changed is noticed, nothing blocks, and the two drivers agree."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from multiframe import source as module
from multiframe.encapsulation import encapsulate
from multiframe.errors import OverBudget, SourceChanged, SourceError, SourceNotFound, TruncatedError
from multiframe.instance import open_instance
from multiframe.memory import MemoryBudget
from multiframe.ranges import ByteRange, ItemChain
from multiframe.source import ByteSource, FileSource, ItemReader, run, run_async
from tests.files import JPEG, Memory, made

WANTED = [ByteRange(3, 9), ByteRange(0, 1), ByteRange(90, 200), ByteRange(500, 600), ByteRange(5, 5)]
DATA = bytes(range(100))
EXPECTED = [DATA[a:b] for a, b in WANTED]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ranges_blocking_and_not(path):
    source = FileSource(path)
    assert isinstance(source, ByteSource)
    assert isinstance(source, ItemReader)
    stat = source.stat()
    assert stat.size == 100
    before = open_descriptors()
    blocking = source.read_ranges(WANTED, identity=stat.identity)
    other = asyncio.run(source.read_ranges_async(WANTED, identity=stat.identity))
    assert [bytes(b) for b in blocking.buffers] == [bytes(b) for b in other.buffers] == EXPECTED
    assert blocking.stat == other.stat == stat
    assert open_descriptors() == before


@pytest.mark.parametrize("change", ["cut", "grown", "replaced", "written", "gone"])
def test_a_changed_file_gives_no_bytes(path, change):
    source = FileSource(path)
    identity = source.stat().identity
    match change:
        case "cut":
            os.truncate(path, 50)
        case "grown":
            path.write_bytes(DATA + b"more")
        case "replaced":
            other = path.with_name("other")
            other.write_bytes(DATA)
            other.replace(path)
        case "written":
            path.write_bytes(DATA)
            os.utime(path, ns=(1, 1))
        case "gone":
            path.unlink()
    error = SourceNotFound if change == "gone" else SourceChanged
    before = open_descriptors()
    with pytest.raises(error):
        source.read_ranges(WANTED, identity=identity)
    with pytest.raises(error):
        asyncio.run(source.read_ranges_async(WANTED, identity=identity))
    with pytest.raises(error):
        source.read_items(ItemChain(8, 100, 1), identity=identity)
    assert open_descriptors() == before


def test_a_file_written_while_it_is_read_is_noticed(path, monkeypatch):
    source = FileSource(path)
    pread = os.pread

    def meanwhile(fd: int, n: int, at: int) -> bytes:
        os.utime(path, ns=(5, 5))
        return pread(fd, n, at)

    monkeypatch.setattr(os, "pread", meanwhile)
    for read in (lambda: source.read_ranges([ByteRange(0, 4)]), lambda: source.read_items(ItemChain(8, 100, 1))):
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChanged, match="while it was read"):
            read()


def test_what_is_no_file_is_an_error_at_once(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for name, error in (
        (fifo, SourceError), (tmp_path, SourceError), (tmp_path / "missing", SourceNotFound), (loop, SourceError),
        ("/dev/null", SourceError), ("zero\0byte", SourceNotFound), ("x" * 5000, SourceError),
        (tmp_path / "missing" / "below", SourceNotFound),
    ):  # fmt: skip
        before = open_descriptors()
        with pytest.raises(error) as caught:
            FileSource(name).read_ranges([ByteRange(0, 1)])
        assert str(caught.value)
        with pytest.raises(error):
            asyncio.run(FileSource(name).read_ranges_async([ByteRange(0, 1)]))
        with pytest.raises(SourceError):
            open_instance(name)
        assert open_descriptors() == before


def test_a_url_is_refused_without_its_query():
    with pytest.raises(SourceError) as caught:
        open_instance("https://example.org/a.dcm?secret=1")
    assert "secret" not in str(caught.value)


def test_absurd_ranges_take_no_memory(path):
    (buffer,) = FileSource(path).read_ranges([ByteRange(50, 1 << 50)]).buffers
    assert bytes(buffer) == DATA[50:]
    (buffer,) = asyncio.run(FileSource(path).read_ranges_async([ByteRange(50, 1 << 50)])).buffers
    assert bytes(buffer) == DATA[50:]


@pytest.mark.parametrize("cached", [0, 1, 7, BlockingIOError(), OSError(95, "not supported")])
def test_a_page_cache_that_holds_only_part_is_not_the_end_of_the_file(path, monkeypatch, cached):
    def preadv(fd: int, buffers: list[bytearray], at: int, flags: int) -> int:
        if isinstance(cached, OSError):
            raise cached
        n = min(cached, len(buffers[0]))
        buffers[0][:n] = os.pread(fd, n, at)
        return n

    monkeypatch.setattr(os, "preadv", preadv)
    reply = asyncio.run(FileSource(path).read_ranges_async(WANTED))
    assert [bytes(b) for b in reply.buffers] == EXPECTED


def test_short_reads_are_finished(path, monkeypatch):
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, min(n, 3), at))
    assert [bytes(b) for b in FileSource(path).read_ranges(WANTED).buffers] == EXPECTED


@pytest.mark.parametrize("cancels", [1, 3])
def test_a_cancelled_read_keeps_its_descriptor_until_the_reader_is_done(path, monkeypatch, cancels):
    entered, leave = threading.Event(), threading.Event()
    seen: list[bool] = []

    def slow(fd: int, start: int, stop: int) -> bytes:
        entered.set()
        leave.wait(30)
        os.fstat(fd)  # closed under us: OSError
        seen.append(True)
        return os.pread(fd, stop - start, start)

    monkeypatch.setattr(module, "_pread", slow)
    monkeypatch.setattr(module, "_NOWAIT", 0)
    before = open_descriptors()

    async def main() -> None:
        inside = open_descriptors()
        task = asyncio.create_task(FileSource(path).read_ranges_async([ByteRange(0, 4)]))
        await asyncio.to_thread(entered.wait, 30)
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not task.done()
        assert open_descriptors() > inside
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == [True]
    assert open_descriptors() == before


def test_items_are_followed_alike_with_and_without_the_shortcut(tmp_path):
    data = bytes(8) + encapsulate([bytes(n) for n in (0, 2, 30_000, 7, 500)] * 3)
    path = tmp_path / "items"
    path.write_bytes(data)

    def plan():
        (short, part, rest) = yield [ItemChain(8, len(data), 4), ByteRange(1, 9), ItemChain(8, len(data), 100, 64)]
        return bytes(short), bytes(part), bytes(rest)

    answers = [
        run(plan(), FileSource(path)),
        run(plan(), Memory(data)),
        asyncio.run(run_async(plan(), FileSource(path))),
    ]
    answers.append(asyncio.run(run_async(plan(), Memory(data))))
    assert answers.count(answers[0]) == 4


def test_both_drivers_enter_the_budget_and_leave_it_clean(path):
    budget = MemoryBudget(1000)

    def plan(error: bool):
        (first,) = yield [ByteRange(0, 60)]
        assert budget.held == 60
        (second,) = yield [ByteRange(60, 100)]
        assert budget.held == 40
        if error:
            raise TruncatedError("on purpose")
        return bytes(first) + bytes(second)

    source = FileSource(path)
    assert run(plan(False), source, budget=budget) == DATA
    assert asyncio.run(run_async(plan(False), source, budget=budget)) == DATA
    for attempt in (
        lambda: run(plan(True), source, budget=budget),
        lambda: asyncio.run(run_async(plan(True), source, budget=budget)),
    ):
        with pytest.raises(TruncatedError):
            attempt()
        assert budget.held == 0
    assert budget.peak == 60


def test_a_driver_that_fails_closes_the_plan(path):
    closed = []

    def plan():
        try:
            yield [ByteRange(0, 1)]
        finally:
            closed.append(True)

    with pytest.raises(SourceChanged):
        run(plan(), FileSource(path), identity=("another",))
    with pytest.raises(SourceChanged):
        asyncio.run(run_async(plan(), FileSource(path), identity=("another",)))
    assert closed == [True, True]


def test_a_budget_that_stays_full_is_an_error(path, monkeypatch):
    budget = MemoryBudget(10)
    monkeypatch.setattr(budget, "acquire", lambda size, timeout: MemoryBudget.acquire(budget, size, timeout=0))

    def plan():
        yield [ByteRange(0, 5)]

    with budget.acquire(8, timeout=0), pytest.raises(OverBudget):
        run(plan(), FileSource(path), budget=budget)
    assert budget.held == 0


def test_an_instance_over_a_file_equals_one_in_memory(tmp_path):
    file = made(JPEG, [[b"\xff\xd8\xff\xda\0\2ab\xff\xd9"], [b"\xff\xd8\xff\xda\0\2cd", b"ef\xff\xd9"]])
    path = tmp_path / "a.dcm"
    path.write_bytes(file.data)
    instance = open_instance(os.fsencode(path).decode())

    async def gather() -> list[bytes]:
        return [frame.data async for frame in open_instance(path).encoded_async([1, 0])]

    assert [f.data for f in instance.encoded([0, 1])] == file.frames
    assert asyncio.run(gather()) == file.frames[::-1]
    path.write_bytes(file.data + b"x")
    with pytest.raises(SourceChanged):
        next(instance.encoded([0]))
