"""Headers that other processes read: each is answered once, whatever becomes of those processes and of the pipes."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from multiframe import reading
from multiframe.errors import SourceError
from multiframe.memory import MemoryBudget
from multiframe.reading import Asked, Reader
from multiframe.records import Record
from multiframe.settings import MIB, Settings
from tests.test_catalog import dicom

SOON = 30.0  # seconds after which nothing comes any more


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Two processes that are there."""
    monkeypatch.setattr(reading, "_ENOUGH", 0)
    monkeypatch.setattr(reading, "_CHUNK", 5)
    with closing(Reader(Settings(), MemoryBudget(64 * MIB), processes=2)) as reader:
        reader._start()
        assert reader._others is not None
        while not reader._others[0].ready:
            reader._others[0].wait()
            assert list(reader._answered()) == []
        yield reader


def signalled(reader: Reader, number: int) -> None:
    assert reader._others is not None
    os.kill(reader._others[0]._child.pid, number)


def asked(folder: Path, count: int) -> list[Asked]:
    for n in range(count):
        (folder / f"{n:03}").write_bytes(dicom(f"1.2.3.{n}"))
    return [Asked(os.fsencode(folder / f"{n:03}"), None, None) for n in range(count)]


def all_once(answers: list[reading.Answer], wanted: list[Asked]) -> bool:
    assert all(isinstance(found, Record) and found.uid for _, found in answers)
    return sorted(path for path, _ in answers) == [one.path for one in wanted]


@pytest.mark.parametrize("when", ["before it is asked", "before it answers", "when it has answered some"])
def test_one_that_is_killed_leaves_its_work_to_this_one(reader: Reader, tmp_path: Path, when: str) -> None:
    wanted = asked(tmp_path, 200)
    assert reader._others is not None
    other = reader._others[0]
    if when != "when it has answered some":
        signalled(reader, signal.SIGSTOP if when == "before it answers" else signal.SIGKILL)
    if when == "before it is asked":
        other._child.wait()
        other.ask(wanted[-5:])
    answers = list(reader.read(wanted[:-5] if when == "before it is asked" else wanted))
    if when == "when it has answered some":
        while other.asked and len(other._come) < 3000:
            other._move(None)
    other._child.kill()
    other._child.wait()
    answers += reader.rest()
    assert all_once(answers, wanted)
    assert reader._others == []
    assert all_once(list(reader.read(wanted)), wanted)


def test_what_it_is_asked_may_be_more_than_a_pipe_holds(reader: Reader, tmp_path: Path) -> None:
    assert reader._others is not None
    other = reader._others[0]
    long = b"/" + b"/".join([b"x" * 250] * 9)
    nowhere = [Asked(long + b"/%05d" % n, None, None) for n in range(1000)]
    signalled(reader, signal.SIGSTOP)
    blocked = threading.Timer(SOON, signalled, (reader, signal.SIGCONT))
    blocked.start()
    for some in range(0, 1000, 50):
        other.ask(nowhere[some : some + 50])
    assert blocked.is_alive()
    blocked.cancel()
    assert len(other._given) > 1_000_000
    signalled(reader, signal.SIGCONT)
    answers = []
    while other.asked:  # it has what was asked last, too: nothing is taken back here
        other.wait()
        answers += other.answers()
    assert [path for path, _ in answers] == [one.path for one in nowhere]
    assert all(isinstance(found, SourceError) for _, found in answers)
    assert not other._given
    assert not other._come
    wanted = asked(tmp_path, 30)
    assert all_once([*reader.read(wanted), *reader.rest()], wanted)


def test_what_was_taken_back_is_answered_once(reader: Reader, tmp_path: Path) -> None:
    wanted = asked(tmp_path, 60)
    signalled(reader, signal.SIGSTOP)
    answers = list(reader.read(wanted))
    rest = reader.rest()
    answers += [next(rest) for _ in range(30)]  # read here, from behind
    signalled(reader, signal.SIGCONT)
    answers += rest
    assert all_once(answers, wanted)
    again = [one for one in wanted if one.path.endswith(b"5")]
    assert all_once([*reader.read(again), *reader.rest()], again)  # what it says of those before is not taken for this
