"""The catalog: what was read once is not read again, and what is not there any more is not given."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from struct import pack
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from multiframe import catalog as room
from multiframe import database, gleaning, reading, records, schema, searching
from multiframe.catalog import Catalog, Level, ScanStatus, Search
from multiframe.dicomjson import attributes
from multiframe.errors import InstanceNotFound, MultiframeError, SourceChanged, SourceError, SourceNotFound
from multiframe.gleaning import Gleaner
from multiframe.header import read_header
from multiframe.levels import shared_out
from multiframe.matching import Like, wildcard
from multiframe.memory import MemoryBudget
from multiframe.migrations import REVISIONS
from multiframe.records import lies_there
from multiframe.settings import MIB, Settings
from multiframe.source import FileSource, run
from tests.test_dicomjson import element

US = Path(str(get_testdata_file("examples_ybr_color.dcm", read=False)))
CLASS = "1.2.840.10008.5.1.4.1.1.3.1"

VRS = {
    "SpecificCharacterSet": (0x00080005, "CS"), "SOPClassUID": (0x00080016, "UI"), "SOPInstanceUID": (0x00080018, "UI"),
    "StudyDate": (0x00080020, "DA"), "StudyTime": (0x00080030, "TM"), "AccessionNumber": (0x00080050, "SH"),
    "Modality": (0x00080060, "CS"), "ReferringPhysicianName": (0x00080090, "PN"),
    "StudyDescription": (0x00081030, "LO"), "SeriesDescription": (0x0008103E, "LO"), "PatientName": (0x00100010, "PN"),
    "PatientID": (0x00100020, "LO"), "PatientBirthDate": (0x00100030, "DA"), "PatientComments": (0x00104000, "LT"),
    "StudyInstanceUID": (0x0020000D, "UI"), "SeriesInstanceUID": (0x0020000E, "UI"), "StudyID": (0x00200010, "SH"),
    "SeriesNumber": (0x00200011, "IS"), "InstanceNumber": (0x00200013, "IS"), "NumberOfFrames": (0x00280008, "IS"),
    "Rows": (0x00280010, "US"), "Columns": (0x00280011, "US"),
    "ImageComments": (0x00204000, "LT"),
}  # fmt: skip


def dicom(uid: str = "1.2.3.4", blob: bytes = b"", **values: str | int) -> bytes:
    """A small file: 2 x 2 pixels, 8 bit; `blob` is a private element that makes its header long."""
    told: dict[str, str | int] = {"SOPClassUID": CLASS, "SOPInstanceUID": uid, "StudyInstanceUID": "1.2.3"}
    told |= {"SeriesInstanceUID": "1.2.3.1", "Rows": 2, "Columns": 2}
    told |= values
    head = b""
    for name, value in sorted(told.items(), key=lambda pair: VRS[pair[0]][0]):
        tag, vr = VRS[name]
        raw = pack("<H", value) if isinstance(value, int) else value.encode()
        head += element(tag, vr, raw + b" " * (len(raw) % 2))
    pixels = element(0x00280100, "US", b"\x08\0") + (element(0x00291010, "OB", blob) if blob else b"")
    meta = element(0x00020010, "UI", b"1.2.840.10008.1.2.1\0")
    return b"\0" * 128 + b"DICM" + meta + head + pixels + element(0x7FE00010, "OB", b"abcd")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


only_sqlite = pytest.mark.parametrize("kind", ["sqlite"], indirect=True, scope="session")


@pytest.fixture
def place(tmp_path: Path, new_database: Callable[[Path], Path | str]) -> Path | str:
    """The test's database."""
    return new_database(tmp_path / "cache")


@pytest.fixture
def make(place: Path | str) -> Iterator[Callable[..., Catalog]]:
    """Opens the test's catalog, any number of times."""
    opened: list[Catalog] = []

    def opener(**options) -> Catalog:
        opened.append(Catalog(place, **options))
        return opened[-1]

    yield opener
    for catalog in opened:
        catalog.close()


@pytest.fixture
def catalog(make: Callable[..., Catalog]) -> Catalog:
    return make()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all files that were opened to be read."""
    names: list[str] = []
    really = os.open

    def counting(path, *rest, **more) -> int:
        names.append(os.path.basename(os.fsdecode(path)))
        return really(path, *rest, **more)

    monkeypatch.setattr(os, "open", counting)
    return names


def uids(catalog: Catalog) -> list[str]:
    return sorted(found.instance for found in catalog.search(Search("instance")))


def problems(catalog: Catalog) -> dict[str, str]:
    with catalog._database._engine.connect() as connection:
        rows = connection.execute(sa.select(schema.objects.c.path, schema.objects.c.problem)).all()
    return {os.path.basename(os.fsdecode(path)): problem for path, problem in rows if problem}


def counts(status: ScanStatus) -> dict[str, int]:
    names = ("found", "registered", "unchanged", "ignored", "failed", "vanished")
    return {name: n for name in names if (n := getattr(status, name))}


# ---------------------------------------------------------------------------------------------------------------
# Scanning


def test_real_files(catalog: Catalog, opened: list[str]) -> None:
    roots = [Path(str(find_spec(name).origin)).parent for name in ("pydicom.data", "data_store")]  # type: ignore[union-attr]
    said: list[ScanStatus] = []
    status = catalog.scan(roots, progress=said.append)
    assert status.registered > 150
    assert status.found == status.registered + status.ignored + status.failed <= len(opened)
    assert said[0].running
    assert said[-1] == status == catalog.status()

    for uid in uids(catalog):
        instance = catalog.instance(uid)
        fresh = run(read_header(), instance.source)
        if instance.syntax.deflated:  # its source is the inflated bytes
            fresh = replace(fresh, syntax=instance.syntax)
        else:
            assert isinstance(instance.source, FileSource)
        assert instance.header == fresh
        assert instance.stat == instance.source.stat()

    opened.clear()
    again = catalog.scan(roots)
    assert counts(again) == {"found": status.found, "unchanged": status.found}
    assert opened == []


def test_a_changed_file_is_read_anew_and_a_vanished_one_forgotten(
    catalog: Catalog, files: Path, opened: list[str]
) -> None:
    for name in "abc":
        (files / name).write_bytes(dicom(f"1.2.3.{ord(name)}", PatientName="Old"))
    catalog.scan([files])
    opened.clear()
    (files / "a").unlink()
    (files / "b").write_bytes(dicom("1.2.3.98", PatientName="New", StudyInstanceUID="1.2.4"))
    (files / "d").write_bytes(dicom("1.2.3.100"))
    assert counts(catalog.scan([files])) == {"found": 3, "registered": 2, "unchanged": 1, "vanished": 1}
    assert opened == ["b", "d"]
    assert uids(catalog) == ["1.2.3.100", "1.2.3.98", "1.2.3.99"]
    (study,) = catalog.search(Search("study", conditions={"PatientName": "new"}))
    assert (study.study, study.study_instances) == ("1.2.4", 1)
    for name in "bcd":
        (files / name).unlink()
    assert counts(catalog.scan([files])) == {"vanished": 3}
    assert catalog.search(Search("study")) == []
    assert catalog.search(Search("series")) == []


def test_many_files_that_are_gone_are_forgotten_together(catalog: Catalog, files: Path) -> None:
    """A transaction for each would let a list be wrong for minutes."""
    for n in range(60):
        (files / str(n)).write_bytes(dicom(f"1.2.3.{n}"))
    catalog.scan([files])
    for n in range(50):
        (files / str(n)).unlink()
    written, transaction = [], catalog._database.transaction

    def counted(**how):
        written.append(how.get("write", False))
        return transaction(**how)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(catalog._database, "transaction", counted)
        catalog.scan([files / str(n) for n in range(50)], whole=False)  # as they are heard of
    assert sum(written) <= 2
    assert len(uids(catalog)) == 10


def test_a_moved_file_stays_to_be_had(catalog: Catalog, files: Path) -> None:
    (files / "z").write_bytes(dicom())
    catalog.scan([files])
    (files / "z").rename(files / "a")
    assert counts(catalog.scan([files])) == {"found": 1, "registered": 1}  # took the place of the one that is gone
    assert catalog.instance("1.2.3.4").source.stat()
    assert counts(catalog.scan([files])) == {"found": 1, "unchanged": 1}


def test_the_first_file_of_an_instance_counts_until_it_is_gone(
    catalog: Catalog, files: Path, opened: list[str]
) -> None:
    for name in ("a", "b", "sub/c"):
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).write_bytes(dicom())
    assert counts(catalog.scan([files])) == {"found": 3, "registered": 1, "ignored": 2}
    assert problems(catalog) == dict.fromkeys("bc", "a second file of instance 1.2.3.4")
    assert catalog.instance("1.2.3.4").source.path.name == "a"  # type: ignore[attr-defined]
    opened.clear()
    (files / "a").unlink()
    assert counts(catalog.scan([files])) == {"found": 2, "registered": 1, "ignored": 1, "unchanged": 2, "vanished": 1}
    assert sorted(opened) == ["b", "c"]
    assert catalog.instance("1.2.3.4").source.path.name == "b"  # type: ignore[attr-defined]


def test_hostile_files(catalog: Catalog, files: Path, tmp_path: Path, opened: list[str]) -> None:
    whole = US.read_bytes()
    (files / "empty").touch()
    (files / "garbage").write_bytes(bytes(range(256)) * 300)
    (files / "garbage-inside").write_bytes(whole[:400] + bytes(range(256)) * 300)
    (files / "cut").write_bytes(whole[:701])
    (files / "no-uids").write_bytes(dicom("", PatientName="Somebody"))
    (files / "bad-uid").write_bytes(dicom("1.2/../3"))
    (files / "no-syntax").write_bytes(whole.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.9.9.9.99", 1))
    os.mkfifo(files / "fifo")
    (files / "loop").symlink_to(files)
    (files / "dangling").symlink_to("nowhere")
    (tmp_path / "secret").write_bytes(dicom("1.6.6.6"))
    (files / "way-out").symlink_to(tmp_path / "secret")
    names = [b"\xff\xfe.dcm", b"new\nline", "日本 %_'\";--".encode(), b"a" * 255]
    for i, name in enumerate(names):
        Path(os.fsdecode(os.fsencode(files) + b"/" + name)).write_bytes(dicom(f"1.2.3.4.{i}"))
    status = catalog.scan([files])
    assert counts(status) == {"found": 11, "registered": 4, "ignored": 4, "failed": 3}
    assert problems(catalog).keys() == {p.name for p in files.iterdir() if p.is_file() and not p.is_symlink()} - {
        os.fsdecode(name) for name in names
    }
    assert "Somebody" not in str(problems(catalog))
    for i in range(4):
        assert len(catalog.instance(f"1.2.3.4.{i}")) == 1
    opened.clear()
    assert counts(catalog.scan([files])) == {"found": 11, "unchanged": 11}
    assert opened == []


def test_a_link_given_by_name_is_followed(catalog: Catalog, files: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(files)
    (files / "a").write_bytes(dicom())
    assert counts(catalog.scan([tmp_path / "link", files, files / "a"])) == {"found": 1, "registered": 1}


def test_what_cannot_be_read_now_is_tried_again_and_nothing_is_forgotten(
    catalog: Catalog, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "sub").mkdir()
    (files / "sub" / "a").write_bytes(dicom("1.2.3.1"))
    (files / "b").write_bytes(dicom("1.2.3.2"))
    really_list, really_open = os.listdir, os.open

    def forbidden(really: Callable, name: str) -> Callable:
        def call(path, *rest, **more):
            if os.path.basename(os.fsdecode(path)) == name:
                raise PermissionError(13, "Permission denied")
            return really(path, *rest, **more)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", forbidden(really_open, "b"))
        assert counts(catalog.scan([files])) == {"found": 2, "registered": 1, "failed": 1}
    assert counts(catalog.scan([files])) == {"found": 2, "registered": 1, "unchanged": 1}
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", forbidden(really_list, "sub"))
        assert counts(catalog.scan([files])) == {"found": 1, "unchanged": 1, "failed": 1}
    assert uids(catalog) == ["1.2.3.1", "1.2.3.2"]


def test_a_fault_of_ours_costs_one_file(catalog: Catalog, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        (files / str(i)).write_bytes(dicom(f"1.2.3.{i}"))
    really = attributes

    def faulty(header):
        if header.sop_instance_uid == "1.2.3.0":
            raise ZeroDivisionError("with a patient's name in it")
        return really(header)

    monkeypatch.setattr(gleaning, "attributes", faulty)
    assert counts(catalog.scan([files])) == {"found": 3, "registered": 2, "failed": 1}
    assert problems(catalog) == {"0": "internal error: ZeroDivisionError"}


def test_a_stopped_scan_forgets_nothing_and_is_taken_up(catalog: Catalog, files: Path, opened: list[str]) -> None:
    for i in range(5):
        (files / str(i)).write_bytes(dicom(f"1.2.3.{i}"))
    catalog.scan([files])
    (files / "0").unlink()
    (files / "4").write_bytes(dicom("1.2.3.44"))
    opened.clear()
    answers = iter([False, False, True])
    assert counts(catalog.scan([files], stop=lambda: next(answers))) == {"found": 2, "unchanged": 2}
    assert not catalog.status().running
    assert len(uids(catalog)) == 5
    assert counts(catalog.scan([files])) == {"found": 4, "registered": 1, "unchanged": 3, "vanished": 1}
    assert opened == ["4"]


def test_headers_of_a_series_are_kept_beside_one_of_them(make: Callable[..., Catalog], files: Path) -> None:
    catalog, blob = make(), random.Random(5).randbytes(5000)
    whole = {}
    for n in range(8):
        names = {"SeriesInstanceUID": f"1.2.3.{n // 4}", "InstanceNumber": "12345678"[: n % 4 + 1]}
        whole[f"1.2.3.{n}"] = dicom(f"1.2.3.{n}", blob, **names)
        (files / str(n)).write_bytes(whole[f"1.2.3.{n}"])

    def kept() -> tuple[int, list[int]]:
        with catalog._database.transaction() as connection:
            size = sa.func.length(schema.instances.c.header)
            sizes = connection.execute(sa.select(size).order_by(schema.instances.c.instance)).scalars().all()
            return connection.scalar(sa.select(sa.func.count()).select_from(schema.patterns)) or 0, [*sizes]

    def all_given(uids: list[str]) -> bool:
        catalog = make()
        return all(whole[uid].startswith(catalog.instance(uid).header.raw) for uid in uids)

    assert catalog.scan([files]).registered == 8
    patterns, sizes = kept()
    assert patterns == 2
    assert [size > 5000 for size in sizes] == [n % 4 == 0 for n in range(8)]
    assert sum(sizes[1:4]) < 1500
    assert all_given(list(whole))
    for n in (0, 4, 5, 6):  # those that the others are like, too
        (files / str(n)).unlink()
    catalog.scan([files])
    assert kept()[0] == 2
    assert all_given(["1.2.3.1", "1.2.3.7"])
    whole["1.2.3.7"] = dicom("1.2.3.7", blob, SeriesInstanceUID="1.2.3.1", InstanceNumber="77")
    (files / "7").write_bytes(whole["1.2.3.7"])
    catalog.scan([files])
    assert kept()[0] == 1  # of the last that was kept beside it, another is known
    assert all_given(["1.2.3.1", "1.2.3.7"])
    for n in (1, 2, 3):
        (files / str(n)).unlink()
    catalog.scan([files])
    assert kept()[0] == 0


def test_attributes_kept_beside_others_are_told_in_full(make: Callable[..., Catalog], files: Path) -> None:
    values: list[dict[str, Any]] = [
        {"ImageComments": "one", "InstanceNumber": "1"},
        {"ImageComments": "one", "InstanceNumber": "2"},
        {"ImageComments": "two", "InstanceNumber": "3", "NumberOfFrames": "1"},  # which was not there
        {"InstanceNumber": "4"},  # and one that is not
        {"InstanceNumber": "5", "ImageComments": ""},
    ]
    for n, named in enumerate(values):
        (files / str(n)).write_bytes(dicom(f"1.2.3.{n}", b"", **named))
    one = make()
    one.scan([files])
    with one._database.transaction() as connection:
        told = connection.execute(sa.select(schema.instances.c.attributes, schema.instances.c.pattern)).all()
    assert [row.pattern is None for row in told].count(False) >= 2
    assert all(len(row.attributes) < 200 for row in told if row.pattern is not None)
    found = one.search(Search("instance"))
    assert [json.loads(match.attributes[2]) for match in found] == [
        shared_out(attributes(run(read_header(), FileSource(files / str(n)))))["instance"] for n in range(5)
    ]
    for comment, numbers in {"one": [1, 2], "two": [3], "t*": [3], "": [4, 5]}.items():
        query = Search("instance", conditions={"00204000": comment} if comment else {"00204000": '""'})
        assert [n + 1 for n in range(5) if f"1.2.3.{n}" in {m.instance for m in one.search(query)}] == numbers, comment


def test_only_what_lies_below_the_roots_is_scanned(catalog: Catalog, tmp_path: Path) -> None:
    for i, name in enumerate(["a", "a-b", "a0"]):  # neighbours in the order of bytes
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(dicom(f"1.2.3.{i}"))
    catalog.scan([tmp_path / name for name in ("a", "a-b", "a0")])
    for name in ("a", "a-b", "a0"):
        (tmp_path / name / "f").unlink()
    assert counts(catalog.scan([tmp_path / "a"])) == {"vanished": 1}
    assert uids(catalog) == ["1.2.3.1", "1.2.3.2"]


def test_queries_see_files_while_the_scan_runs(
    make: Callable[..., Catalog], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiframe.scanning._BATCH_FILES", 200)
    catalog, other = make(), make()
    for i in range(450):
        (files / f"{i:04}").write_bytes(dicom(f"1.2.3.{i}"))
    seen: list[tuple[bool, int]] = []
    catalog.scan([files], progress=lambda _: seen.append((other.status().running, len(uids(other)))))
    assert len(seen) >= 3
    assert all(running for running, _ in seen[:-1])
    assert 0 < seen[0][1] < 450
    assert seen[-1] == (False, 450)


SCANNER = """
import sys, time
from pathlib import Path
from multiframe.catalog import Catalog

def progress(status):
    print(status.registered, flush=True)
    time.sleep(float(sys.argv[3]))

Catalog(sys.argv[1]).scan([Path(sys.argv[2])], progress=progress)
"""


@contextmanager
def scanner(place: Path | str, files: Path, pause: float) -> Iterator[subprocess.Popen[str]]:
    arguments = [str(place), str(files), str(pause)]
    process = subprocess.Popen([sys.executable, "-c", SCANNER, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_scan_is_taken_up(
    make: Callable[..., Catalog], files: Path, place: Path | str, opened: list[str]
) -> None:
    for i in range(1200):
        (files / f"{i:04}").write_bytes(dicom(f"1.2.3.{i}"))
    with scanner(place, files, 60) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
    catalog = make()
    assert catalog.status().running  # nobody has said otherwise, as yet
    there = len(uids(catalog))
    assert 0 < there < 1200
    opened.clear()
    assert counts(catalog.scan([files])) == {"found": 1200, "registered": 1200 - there, "unchanged": there}
    assert len(opened) == 1200 - there
    assert not catalog.status().running
    assert len(uids(catalog)) == 1200


def test_a_scan_that_says_nothing_is_taken_for_dead(
    catalog: Catalog, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "a").write_bytes(dicom())
    seen: list[bool] = []

    def late(_: ScanStatus) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(room, "_STALE", -1.0)
            seen.append(catalog.status().running)

    catalog.scan([files], progress=late)
    assert not any(seen)


def test_one_process_scans_while_another_reads_and_writes_indexes(
    make: Callable[..., Catalog], files: Path, place: Path | str
) -> None:
    for i in range(450):
        (files / f"{i:04}").write_bytes(dicom(f"1.2.3.{i}"))
    catalog = make()
    done: set[str] = set()
    with scanner(place, files, 0.05) as process:
        while process.poll() is None:
            for uid in uids(catalog)[:40]:
                instance = catalog.instance(uid)
                assert len(instance.index) == 1
                catalog.keep_index(instance)
                done.add(uid)
        assert process.returncode == 0
    assert len(uids(catalog)) == 450
    assert len(done) >= 40
    again = make()
    assert all(again.instance(uid).known is not None for uid in done)


def test_many_processes_read_as_one_does(
    make: Callable[..., Catalog], files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reading, "_ENOUGH", 10)
    monkeypatch.setattr(reading, "_CHUNK", 10)
    for n in range(120):
        (files / f"{n:03}").write_bytes(b"no DICOM" if n % 10 == 7 else dicom(f"1.2.3.{n}", PatientID=str(n % 3)))
    (files / "unreadable").mkdir()
    one = make()
    assert counts(one.scan([files], processes=2)) == {"found": 120, "registered": 108, "ignored": 12}
    other = Catalog(tmp_path / "other.sqlite")
    other.scan([files])
    assert one.search(Search("instance")) == other.search(Search("instance"))
    other.close()


def test_what_others_say_is_taken_in_as_many_pieces_as_it_comes(
    make: Callable[..., Catalog], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_ENOUGH", 10)
    monkeypatch.setattr(reading, "_CHUNK", 4)
    asked: list[int] = []
    ask, left = reading._Process.ask, reading._Process.taken_back

    def counted(self: reading._Process, chunk: Sequence[reading.Asked]) -> None:
        asked.append(len(chunk))
        ask(self, chunk)

    def taken_back(self: reading._Process) -> Sequence[reading.Asked]:
        chunk = left(self)
        asked.append(-len(chunk))
        return chunk

    monkeypatch.setattr(reading._Process, "ask", counted)
    monkeypatch.setattr(reading._Process, "taken_back", taken_back)
    start = reading.Reader._start

    def started(self: reading.Reader) -> None:  # and there, before it has anything to do
        start(self)
        while not all(process.ready for process in self._others or ()):
            list(self._answered())

    monkeypatch.setattr(reading.Reader, "_start", started)
    chance = random.Random(5)
    for n in range(60):  # what is kept of them does not fit into a pipe
        value = chance.randbytes(200_000)
        (files / f"{n:02}").write_bytes(dicom(f"1.2.3.{n}", value, SeriesInstanceUID=f"1.2.{n}"))
    catalog = make()
    assert counts(catalog.scan([files], processes=2)) == {"found": 60, "registered": 60}
    assert sum(n for n in asked if n > 0) == 50
    assert any(n < 0 for n in asked)  # this process helped
    for n in range(60):
        assert (files / f"{n:02}").read_bytes().startswith(catalog.instance(f"1.2.3.{n}").header.raw)


def test_without_room_for_another_process_this_one_reads(
    catalog: Catalog, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "full")

    monkeypatch.setattr(reading, "_ENOUGH", 10)
    monkeypatch.setattr("subprocess.Popen", full)
    for n in range(30):
        (files / str(n)).write_bytes(dicom(f"1.2.3.{n}"))
    assert counts(catalog.scan([files], processes=3)) == {"found": 30, "registered": 30}


def test_a_place_is_told_from_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "a" / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a" / "b" / "link").symlink_to("file")
    names = (
        "a/b/file",
        "link/b/file",
        "a/b/link",
        "a/b/none",
        "none/file",
        "a/b/file/x",
        "a//b",
        "a/b/",
        "a/./b",
        "link",
    )
    for name in (*names, "a/../a/b", "a/" + "x" * 300):
        path = os.fsencode(tmp_path) + b"/" + name.encode()
        assert lies_there(path) == (os.path.realpath(path) == path), name
    assert not lies_there(os.fsencode(tmp_path / "a" / "loop"))  # a link all the same


def test_what_is_read_quickly_lies_where_it_is_said_to_and_is_what_it_was(tmp_path: Path) -> None:
    """A file whose beginning is read in one go is read by the long way, or not at all, once anything is not as told."""
    settings, budget, gleaner = Settings(), MemoryBudget(1 << 20), Gleaner()
    real, elsewhere = tmp_path / "real", tmp_path / "elsewhere"
    for folder in (real, elsewhere):
        folder.mkdir()
        for n in range(3):
            (folder / f"{n}").write_bytes(dicom(f"1.2.3.{n}"))
    paths = [os.fsencode(real / f"{n}") for n in range(3)]
    stats = [FileSource(os.fsdecode(path)).stat() for path in paths]

    def read(n: int) -> records.Record:
        return records.read_record(paths[n], stats[n], settings, budget, gleaner)

    assert read(0).uid == "1.2.3.0"
    size = min(gleaner.reach, stats[1].size)
    assert size
    assert records._beginning(paths[1], stats[1], size) == (real / "1").read_bytes()[:size]
    assert read(1).uid == "1.2.3.1"
    (real / "1").write_bytes(dicom("1.2.3.9"))
    with pytest.raises(SourceChanged):
        read(1)
    stats[1] = FileSource(real / "1").stat()
    (tmp_path / "moved").mkdir()
    (real / "1").rename(tmp_path / "moved" / "1")
    (real / "1").symlink_to(tmp_path / "moved" / "1")  # the very same file, by a link
    stats[1] = FileSource(real / "1").stat()
    assert records._beginning(paths[1], stats[1], size) is None
    with pytest.raises(SourceNotFound, match="link"):
        read(1)
    real.rename(tmp_path / "really")
    real.symlink_to(tmp_path / "really")
    stats[2] = FileSource(real / "2").stat()
    assert records._beginning(paths[2], stats[2], size) is None
    with pytest.raises(SourceNotFound, match="link"):
        read(2)
    assert budget.held == 0


def test_a_process_that_is_killed_costs_no_file(catalog: Catalog, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_ENOUGH", 10)
    monkeypatch.setattr(reading, "_CHUNK", 10)
    for n in range(300):
        (files / f"{n:03}").write_bytes(dicom(f"1.2.3.{n}"))
    killed: list[int] = []

    def kill(_: ScanStatus) -> None:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # dead already
                if "multiframe.reading" in child.cmdline():
                    child.kill()
                    killed.append(child.pid)

    monkeypatch.setattr("multiframe.scanning._BATCH_FILES", 20)
    assert counts(catalog.scan([files], processes=2, progress=kill)) == {"found": 300, "registered": 300}
    assert killed


def test_a_lost_database_is_made_again(new_database: Callable[[Path], Path | str], files: Path, tmp_path: Path) -> None:
    for n in range(40):
        values = {"StudyInstanceUID": f"1.{n % 7}", "SeriesInstanceUID": f"1.{n % 7}.{n % 2}", "Modality": "US"}
        (files / f"{n:02}").write_bytes(dicom(f"1.2.3.{n}", b"", PatientName=f"Doe^{n % 7}", **values))
    found, indexes = [], []
    for name in ("first", "second"):  # another database, for the first is lost
        catalog = Catalog(new_database(tmp_path / name))
        catalog.scan([files])
        found.append(catalog.search(Search("instance", classes=True)))
        indexes.append([catalog.instance(one.instance).index.parts(0) for one in found[-1]])
        catalog.close()
    assert len(found[0]) == 40
    assert found[0] == found[1]
    assert indexes[0] == indexes[1]


# ---------------------------------------------------------------------------------------------------------------
# Instances


def test_an_instance_is_one_and_found_without_a_database(catalog: Catalog, files: Path, opened: list[str]) -> None:
    (files / "a").write_bytes(dicom())
    catalog.scan([files])
    opened.clear()
    assert catalog.cached("1.2.3.4") is None
    with ThreadPoolExecutor(8) as pool:
        given_out = set(pool.map(lambda _: id(catalog.instance("1.2.3.4")), range(40)))
    assert len(given_out) == 1
    kept = catalog._database
    catalog._database = None  # type: ignore[assignment]
    instance = catalog.cached("1.2.3.4", study="1.2.3", series="1.2.3.1")
    assert instance is not None
    assert catalog.cached("1.2.3.4", study="1.2.4") is None
    assert catalog.cached("1.2.3.4", series="1.2.4") is None
    assert opened == []
    catalog._database = kept


@pytest.mark.parametrize(
    "wrong", [{"study": "1.2.9"}, {"series": "1.2.9"}, {"study": "1.2.3", "series": "1.2.9"}], ids=str
)
def test_an_instance_of_another_study_is_not_found(catalog: Catalog, files: Path, wrong: dict[str, str]) -> None:
    (files / "a").write_bytes(dicom())
    catalog.scan([files])
    with pytest.raises(InstanceNotFound):
        catalog.instance("1.2.3.4", **wrong)
    assert catalog.instance("1.2.3.4", study="1.2.3", series="1.2.3.1")._known is None
    with pytest.raises(InstanceNotFound, match=r"no instance 1\.2\.9, or"):
        catalog.instance("1.2.9")
    with pytest.raises(InstanceNotFound, match="of that UID"):
        catalog.instance("Doe^John\n")


def test_an_index_is_kept_with_the_file_it_is_of(make: Callable[..., Catalog], files: Path) -> None:
    (files / "a").write_bytes(US.read_bytes())
    catalog = make()
    catalog.scan([files])
    (uid,) = uids(catalog)
    instance = catalog.instance(uid)
    instance.grow(3)
    catalog.keep_index(instance)
    before = catalog.budget.held
    assert make().instance(uid).known is None  # a part is not kept
    whole = instance.index
    catalog.keep_index(instance)
    assert catalog.budget.held > before
    kept = make().instance(uid).known
    assert kept is not None
    assert [kept.parts(i) for i in range(30)] == [whole.parts(i) for i in range(30)]

    (files / "a").write_bytes(US.read_bytes())
    fresh = catalog.refresh(uid)
    assert fresh is not instance
    assert fresh.known is None
    catalog.keep_index(instance)  # of the file that was: not of the one that is
    assert make().instance(uid).known is None
    assert catalog.cached(uid) is fresh


def test_an_index_of_another_version_is_no_index(catalog: Catalog, files: Path) -> None:
    (files / "a").write_bytes(dicom())
    catalog.scan([files])
    with catalog._database.transaction(write=True) as connection:
        connection.execute(sa.update(schema.instances).values(frame_index=b"rubbish"))
    assert catalog.instance("1.2.3.4").known is None


def test_refresh(catalog: Catalog, files: Path) -> None:
    path = files / "a"
    path.write_bytes(dicom(PatientName="Old"))
    catalog.scan([files])
    old = catalog.instance("1.2.3.4")
    assert catalog.refresh("1.2.3.4").stat == old.stat  # nothing has changed: no harm done

    path.write_bytes(dicom(PatientName="Newer"))
    with pytest.raises(SourceChanged):
        next(iter(old.encoded([0])))
    new = catalog.refresh("1.2.3.4")
    assert next(iter(new.encoded([0]))).data == b"abcd"
    assert catalog.instance("1.2.3.4") is new
    assert "Newer" in catalog.search(Search("study"))[0].attributes[0]

    path.write_bytes(dicom("1.2.3.5"))  # another instance in the same place
    with pytest.raises(InstanceNotFound):
        catalog.refresh("1.2.3.4")
    assert uids(catalog) == ["1.2.3.5"]

    path.write_bytes(b"no DICOM at all")
    with pytest.raises(InstanceNotFound):
        catalog.refresh("1.2.3.5")
    assert uids(catalog) == []
    assert counts(catalog.scan([files])) == {"found": 1, "unchanged": 1}

    path.write_bytes(dicom("1.2.3.6"))
    catalog.scan([files])
    path.unlink()
    with pytest.raises(SourceNotFound):
        catalog.refresh("1.2.3.6")
    with pytest.raises(InstanceNotFound):
        catalog.refresh("1.2.3.6")


def test_a_long_header_stays_in_its_file(make: Callable[..., Catalog], files: Path) -> None:
    noise = os.urandom(2 * MIB)
    (files / "a").write_bytes(dicom(blob=noise))
    (files / "b").write_bytes(dicom("1.2.3.5", blob=bytes(5 * MIB)))
    catalog = make()
    catalog.scan([files])
    with catalog._database.transaction() as connection:
        kept = sa.func.sum(sa.func.coalesce(sa.func.length(schema.instances.c.header), 0))
        assert connection.execute(sa.select(kept)).scalar_one() < MIB
    header, read = catalog.instance("1.2.3.4").header, run(read_header(), FileSource(files / "a"))
    assert noise in header.raw
    assert header.held < 10_000
    for name in ("raw", "size", "syntax", "dataset_at", "pixel_data", "values", "explicit", "declared_frames"):
        assert getattr(header, name) == getattr(read, name)
    assert header.sop_instance_uid == "1.2.3.4"
    assert header.part(5, 2_000_000) == read.raw[5:2_000_000]
    small = make(budget=MemoryBudget(MIB))  # not even for a moment is it held
    assert small.instance("1.2.3.5").header.series_instance_uid
    (files / "a").write_bytes(dicom(blob=noise))
    with pytest.raises(SourceChanged):
        make().instance("1.2.3.4")


def test_memory_held_is_within_the_share(make: Callable[..., Catalog], files: Path) -> None:
    for i in range(40):
        (files / f"{i:02}").write_bytes(dicom(f"1.2.3.{i}", blob=bytes(50_000)))
    catalog = make(budget=MemoryBudget(MIB), settings=Settings(cache_share=0.5))
    catalog.scan([files])
    for uid in uids(catalog):
        catalog.instance(uid)
    assert 300_000 < catalog.budget.held <= MIB // 2
    with catalog.budget.acquire(MIB, timeout=1):  # what is only kept makes way
        assert catalog.cached("1.2.3.39") is None


def test_series_instances_come_in_order(catalog: Catalog, files: Path) -> None:
    places = [("10", "2"), ("2", "10"), ("2", "9"), ("10", "1"), ("2", ""), ("", "1")]
    for i, (series, number) in enumerate(places):
        content = dicom(
            f"1.2.3.{i}", SeriesNumber=series, InstanceNumber=number, SeriesInstanceUID=f"1.2.{series or 99}"
        )
        (files / str(i)).write_bytes(content)
    catalog.scan([files])
    assert catalog.series_instances("1.2.3") == [f"1.2.3.{i}" for i in (2, 1, 4, 3, 0, 5)]
    assert catalog.series_instances("1.2.3", "1.2.10") == ["1.2.3.3", "1.2.3.0"]
    assert catalog.series_instances("1.2.9") == []


# ---------------------------------------------------------------------------------------------------------------
# Searching


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], Path | str]) -> Iterator[Catalog]:
    folder = tmp_path_factory.mktemp("hospital")
    studies = [
        {"StudyInstanceUID": "1.1", "StudyDate": "20260105", "StudyTime": "093000", "PatientName": "Müller^Anna^^",
         "PatientID": "A_1", "AccessionNumber": "100%", "StudyDescription": "Echo", "PatientBirthDate": "19500101"},
        {"StudyInstanceUID": "1.2", "StudyDate": "20260315", "StudyTime": "1015", "PatientName": "MÜLLER^Bob",
         "PatientID": "AB1", "AccessionNumber": "100", "ReferringPhysicianName": "House^G"},
        {"StudyInstanceUID": "1.3", "StudyDate": "20251231", "StudyTime": "235959.5",
         "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう", "PatientID": "a_1", "StudyDescription": "echo!"},
        {"StudyInstanceUID": "1.4"},
    ]  # fmt: skip
    series = [("1.1", "US"), ("1.1", "SR"), ("1.2", "US"), ("1.3", "CT"), ("1.4", "")]
    for n in range(15):
        study, modality = series[n // 3]
        number = n // 3 if study == "1.1" else 0
        values = next(values for values in studies if values["StudyInstanceUID"] == study)
        values |= {"Modality": modality, "SeriesInstanceUID": f"{study}.{number}", "SeriesNumber": str(number)}
        values |= {"InstanceNumber": str(n % 3 + 1), "NumberOfFrames": str(n % 3 * 10 + 10)}
        (folder / f"{n:03}").write_bytes(dicom(f"9.{n + 1}", b"", SpecificCharacterSet="ISO_IR 192", **values))
    with_database = Catalog(new_database(tmp_path_factory.mktemp("cache")))
    with_database.scan([folder])
    yield with_database
    with_database.close()


@pytest.mark.parametrize(
    ("conditions", "studies"),
    [
        ({}, "1.2 1.1 1.3 1.4"),
        ({"StudyInstanceUID": r"1.3\1.1"}, "1.1 1.3"),
        ({"StudyInstanceUID": "1.3,1.1, 1.9"}, "1.1 1.3"),
        ({"StudyDate": "20260105"}, "1.1"),
        ({"StudyDate": "20260105-20260315"}, "1.2 1.1"),
        ({"StudyDate": "20260105-"}, "1.2 1.1"),
        ({"StudyDate": "-20260105"}, "1.1 1.3"),
        ({"StudyDate": ""}, "1.2 1.1 1.3 1.4"),
        ({"StudyTime": "0930"}, "1.1"),
        ({"StudyTime": "09"}, "1.1"),
        ({"StudyTime": "101500"}, "1.2"),
        ({"StudyTime": "0930-1015"}, "1.2 1.1"),
        ({"StudyTime": "235959.4-"}, "1.3"),
        ({"StudyTime": "-0929"}, ""),
        ({"PatientName": "müller^anna"}, "1.1"),
        ({"PatientName": "Müller*"}, "1.2 1.1"),
        ({"PatientName": "müller"}, ""),
        ({"PatientName": "*TAROU"}, "1.3"),
        ({"PatientName": "山田*"}, "1.3"),
        ({"PatientName": "やまだ^たろう"}, "1.3"),
        ({"PatientName": "*"}, "1.2 1.1 1.3 1.4"),
        ({"PatientName": "m?ller^bob"}, "1.2"),
        ({"ReferringPhysicianName": "house*"}, "1.2"),
        ({"PatientID": "A_1"}, "1.1"),
        ({"PatientID": "A_*"}, "1.1"),
        ({"PatientID": "A?1"}, "1.2 1.1"),
        ({"PatientID": "' OR 1=1 --"}, ""),
        ({"AccessionNumber": "100%"}, "1.1"),
        ({"AccessionNumber": "100*"}, "1.2 1.1"),
        ({"AccessionNumber": "%"}, ""),
        ({"StudyDescription": "echo*"}, "1.3"),
        ({"StudyDescription": "*!"}, "1.3"),
        ({"PatientBirthDate": "19500101"}, "1.1"),
        ({"ModalitiesInStudy": "US"}, "1.2 1.1"),
        ({"ModalitiesInStudy": "SR"}, "1.1"),
        ({"ModalitiesInStudy": r"CT\SR"}, "1.1 1.3"),
        ({"ModalitiesInStudy": "C*,SR"}, "1.1 1.3"),
        ({"ModalitiesInStudy": ",", "StudyInstanceUID": "1.1"}, ""),
        ({"ModalitiesInStudy": "US", "PatientName": "*anna*", "StudyDate": "2026010?"}, None),
        ({"StudyDate": "2026-01-05"}, None),
        ({"StudyDate": "-"}, None),
        ({"StudyTime": "9:30"}, None),
        ({"PatientID": "*" * 2000 + "x"}, None),
        ({"StudyInstanceUID": "1," * 501}, None),
    ],
)
def test_studies_that_match(hospital: Catalog, conditions: dict[str, str], studies: str | None) -> None:
    query = Search("study", conditions=conditions)
    if studies is None:
        with pytest.raises(ValueError, match="matched by"):
            hospital.search(query)
    else:
        assert " ".join(found.study for found in hospital.search(query)) == studies


@pytest.mark.parametrize(
    ("conditions", "instances"),
    [
        ({"Modality": "CT"}, "9.10 9.11 9.12"),
        ({"Modality": "US", "StudyDate": "20260105"}, "9.1 9.2 9.3"),
        ({"SeriesNumber": "1"}, "9.4 9.5 9.6"),
        ({"InstanceNumber": "2", "ModalitiesInStudy": "SR"}, "9.2 9.5"),
        ({"NumberOfFrames": "30", "SeriesInstanceUID": "1.3.0"}, "9.12"),
        ({"SOPInstanceUID": "9.12,9.1", "Rows": "2", "Columns": "2", "SOPClassUID": CLASS}, "9.1 9.12"),
        ({"Rows": "3"}, ""),
    ],
)
def test_instances_that_match(hospital: Catalog, conditions: dict[str, str], instances: str) -> None:
    assert " ".join(f.instance for f in hospital.search(Search("instance", conditions=conditions))) == instances
    with pytest.raises(ValueError, match="InstanceNumber is matched by a number"):
        hospital.search(Search("instance", conditions={"InstanceNumber": "1-2"}))


def test_levels_limits_and_counts(hospital: Catalog) -> None:
    everything = [f.instance for f in hospital.search(Search("instance"))]
    paged = [f.instance for at in range(0, 20, 4) for f in hospital.search(Search("instance", limit=4, offset=at))]
    assert everything == paged
    assert len(set(everything)) == 15
    (study,) = hospital.search(Search("study", study="1.1"))
    assert (study.modalities, study.study_series, study.study_instances) == (("SR", "US"), 2, 6)
    assert len(study.attributes) == 1
    first, second = hospital.search(Search("series", study="1.1"))
    assert (first.series, second.series) == ("1.1.0", "1.1.1")
    assert (first.series_instances, first.study_instances, len(first.attributes)) == (3, 6, 2)
    found = hospital.search(Search("instance", study="1.1", series="1.1.1"))
    assert [f.instance for f in found] == ["9.4", "9.5", "9.6"]
    told = [json.loads(text) for text in found[0].attributes]
    assert told[0]["00100010"]["Value"] == [{"Alphabetic": "Müller^Anna^^"}]
    assert told[1]["00080060"]["Value"] == ["SR"]
    assert told[2]["00280008"]["Value"] == [10]
    assert hospital.search(Search("series", study="1.9")) == []


@pytest.mark.parametrize("level", ["study", "series", "instance"])
@pytest.mark.parametrize(
    "conditions", [{}, {"PatientName": "*mü*"}, {"StudyDate": "20251231-"}, {"StudyInstanceUID": "1.1,1.2"}]
)
def test_what_is_left_out_is_skipped_by_counts(
    hospital: Catalog, monkeypatch: pytest.MonkeyPatch, level: Level, conditions: dict[str, str]
) -> None:
    everything = hospital.search(Search(level, conditions=conditions))
    monkeypatch.setattr(searching, "_MANY", 0)
    for at, most in product(range(len(everything) + 3), (1, 3)):
        query = Search(level, conditions=conditions, limit=most, offset=at)
        assert hospital.search(query) == everything[at : at + most]
        behind = min(5, max(0, len(everything) - at - most))
        assert hospital.remaining(query, 5) == behind
        assert hospital.page(query, 5) == (everything[at : at + most], behind)
    only = Search(level, conditions=conditions, only=frozenset(["1.1", "1.4"]), offset=1)
    assert hospital.search(only) == [f for f in everything if f.study in ("1.1", "1.4")][1:]


def days_kept(catalog: Catalog) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """What is kept of days, and what the studies say."""
    d, t = schema.days.c, schema.studies.c
    said = sa.select(t.study_date, sa.func.count(), sa.func.sum(t.n_series), sa.func.sum(t.n_instances))
    kept = sa.select(d.study_date, d.n_studies, d.n_series, d.n_instances).where(d.n_studies + d.n_instances != 0)
    with catalog._database.transaction() as connection:
        return (
            sorted(map(tuple, connection.execute(kept))),
            sorted(map(tuple, connection.execute(said.group_by(t.study_date)))),
        )


def test_what_is_kept_of_days_is_what_their_studies_have(catalog: Catalog, files: Path) -> None:
    chance = random.Random(7)
    dates = ["20260101", "20260102", ""]
    for _ in range(6):
        for n in range(12):
            path = files / str(n)
            if chance.random() < 0.3:
                path.unlink(missing_ok=True)
            elif chance.random() < 0.5:
                study = f"1.{chance.randrange(5)}"
                named = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.{chance.randrange(2)}"}
                named |= {"StudyDate": chance.choice(dates), "Modality": chance.choice(["US", "CT"])}
                path.write_bytes(dicom(f"1.9.{n}", b"", **named))
        catalog.scan([files])
        kept, said = days_kept(catalog)
        assert kept == said != []
        for found in catalog.search(Search("study")):
            series = catalog.search(Search("series", study=found.study))
            modalities = {json.loads(one.attributes[1])["00080060"]["Value"][0] for one in series}
            assert found.modalities == tuple(sorted(modalities))


def test_tables_that_were_dropped_are_made_again(make: Callable[..., Catalog], place: Path | str) -> None:
    make()
    engine = bare(place)
    with engine.begin() as connection:
        schema.schema.drop_all(connection)
        connection.execute(sa.text("DROP TABLE alembic_version"))
    engine.dispose()
    assert days_kept(make()) == ([], [])


def test_values_too_long_for_an_index_are_cut(catalog: Catalog, files: Path) -> None:
    chance = random.Random(3)
    long = "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(330))
    keys = ("PatientName", "PatientID", "AccessionNumber", "StudyDescription", "ReferringPhysicianName", "StudyID")
    values = dict.fromkeys(keys, long)
    (files / "a").write_bytes(dicom("1.2.3", b"", SpecificCharacterSet="ISO_IR 192", **values))
    assert counts(catalog.scan([files])) == {"found": 1, "registered": 1}
    for key in keys:
        (found,) = catalog.search(Search("study", conditions={key: f"{long[:40]}*"}))
        assert long in found.attributes[0]


def fnmatches(pattern: str, text: str) -> bool:
    """What ``*`` and ``?`` mean (PS3.4 C.2.2.2.4), brackets being nothing special."""
    return bool(re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL))


@given(st.text(alphabet="aA*?%_![]\\é", min_size=1, max_size=6), st.text(alphabet="aA%_![]\\é", max_size=6))
def test_wildcards_mean_what_they_say(pattern: str, text: str) -> None:
    engine = sa.create_engine("sqlite://")
    sa.event.listen(engine, "connect", database.on_connect)
    with engine.connect() as connection:
        column = sa.literal(text)
        found = connection.execute(sa.select(searching._is(column, Like((pattern,))))).scalar()
    engine.dispose()
    assert bool(found) == fnmatches(pattern, text) == wildcard(pattern, text)


# ---------------------------------------------------------------------------------------------------------------
# The database


@only_sqlite
def test_nobody_else_may_read_it(catalog: Catalog, files: Path, tmp_path: Path) -> None:
    (files / "a").write_bytes(dicom())
    catalog.scan([files])
    for path in (tmp_path / "cache").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


@only_sqlite
def test_a_damaged_database_says_so(make: Callable[..., Catalog], tmp_path: Path, files: Path) -> None:
    (tmp_path / "cache").mkdir()
    path = tmp_path / "cache" / "catalog.sqlite"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(SourceError, match=r"catalog\.sqlite: the catalog is damaged .* delete the file"):
        make()
    path.unlink()
    (files / "a").write_bytes(dicom(PatientName="Somebody"))
    catalog = make()
    catalog.scan([files])
    catalog.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(SourceError, match="damaged") as caught:
        make().search(Search("instance"))
    assert "Somebody" not in str(caught.value)


@only_sqlite
def test_a_newer_or_foreign_database_is_left_alone(make: Callable[..., Catalog], tmp_path: Path) -> None:
    catalog = make()
    with catalog._database.transaction(write=True) as connection:
        connection.execute(sa.update(database._version).values(version_num="9999"))
    catalog.close()
    with pytest.raises(SourceError, match="newer version"):
        make()
    engine = sa.create_engine(f"sqlite:///{tmp_path}/other.sqlite")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE recipes (id INTEGER)"))
    engine.dispose()
    with pytest.raises(SourceError, match="not a catalog"):
        Catalog(tmp_path / "other.sqlite")
    with pytest.raises(SourceError, match="cannot be kept here"):
        Catalog(tmp_path / "other.sqlite" / "catalog")


def test_a_url_names_a_database_too(tmp_path: Path, files: Path) -> None:
    (files / "a").write_bytes(dicom())
    catalog = Catalog(f"sqlite:///{tmp_path}/by-url.sqlite")
    catalog.scan([files])
    assert uids(catalog) == ["1.2.3.4"]
    catalog.close()


def test_a_busy_database_is_waited_for(
    make: Callable[..., Catalog], monkeypatch: pytest.MonkeyPatch, files: Path
) -> None:
    monkeypatch.setattr(database, "BUSY", 0.2)
    (files / "a").write_bytes(dicom())
    one, other = make(), make()
    one.scan([files])
    instance = other.instance("1.2.3.4")
    instance.grow(None)
    begun = threading.Event()
    with one._database.transaction(write=True):
        assert one.status().registered == 1  # readers do not wait
        with pytest.raises(SourceError, match="busy"):
            other.keep_index(instance)

        def wait() -> None:
            begun.set()
            other.keep_index(instance)

        waiting = threading.Thread(target=wait)
        waiting.start()
        begun.wait()
    waiting.join()
    assert make().instance("1.2.3.4").known is not None


def test_the_migrations_lead_to_the_tables_declared(tmp_path: Path, new_database: Callable[[Path], Path | str]) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from multiframe.migrations.upgrade import configured, downgrade, upgrade

    place = new_database(tmp_path)
    engine = bare(place)
    with engine.begin() as connection:
        scripts = ScriptDirectory.from_config(configured(connection))
        assert tuple(step.revision for step in reversed(list(scripts.walk_revisions()))) == REVISIONS
        upgrade(connection)
        context = MigrationContext.configure(connection)
        declared = sa.MetaData()
        for table in schema.schema.tables.values():
            copy = table.to_metadata(declared)
            if connection.dialect.name != "sqlite":  # there rows of instances point to nothing
                for key in [*copy.foreign_key_constraints] if copy.name == "instances" else ():
                    copy.constraints.remove(key)
        assert compare_metadata(context, declared) == []
        migrated = shape(connection)
        downgrade(connection, "base")
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
        upgrade(connection)
    engine.dispose()
    catalog = Catalog(place)
    fresh = Catalog(new_database(tmp_path / "fresh"))
    with catalog._database._engine.connect() as one, fresh._database._engine.connect() as other:
        assert shape(one) == shape(other) == migrated
    catalog.close()
    fresh.close()


def bare(place: Path | str) -> sa.Engine:
    """The database without anything of ours around it."""
    url = str(place).replace("postgresql:", "postgresql+psycopg:") if isinstance(place, str) else f"sqlite:///{place}"
    return sa.create_engine(url)


def shape(connection: sa.Connection) -> dict[str, object]:
    inspector = sa.inspect(connection)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted((i["name"] or "", tuple(i["column_names"])) for i in inspector.get_indexes(table)),
            sorted((tuple(f["constrained_columns"]), f["referred_table"]) for f in inspector.get_foreign_keys(table)),
        )
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def test_an_older_database_is_brought_up_to_date(make: Callable[..., Catalog], monkeypatch: pytest.MonkeyPatch) -> None:
    make().close()
    monkeypatch.setattr(database, "REVISIONS", (*REVISIONS, "next"))
    called: list[str] = []
    monkeypatch.setattr("multiframe.migrations.upgrade.upgrade", lambda connection: called.append("upgrade"))
    make()
    assert called == ["upgrade"]


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_a_catalog_of_an_older_schema_is_taken_over(
    make: Callable[..., Catalog], files: Path, place: Path | str, opened: list[str], revision: str
) -> None:
    from multiframe.migrations.upgrade import downgrade

    for n in range(3):
        named = {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 192", "Modality": "US"}
        (files / str(n)).write_bytes(dicom(f"1.2.3.{n}", b"", **named))
    before = make()
    before.scan([files])
    told = before.search(Search("instance"))
    instance = before.instance("1.2.3.0")
    instance.grow(None)
    before.keep_index(instance)
    engine = bare(place)
    with engine.begin() as connection:
        downgrade(connection, revision)
    engine.dispose()

    catalog = make()
    (study,) = catalog.search(Search("study", conditions={"PatientName": "müller*", "ModalitiesInStudy": "US"}))
    assert (study.study_series, study.study_instances) == (1, 3)
    assert catalog.search(Search("instance")) == told
    if revision >= "0003":  # before, identities began with a device: here none had one
        assert all(catalog.instance(f"1.2.3.{n}").header.sop_instance_uid == f"1.2.3.{n}" for n in range(3))
    assert catalog.instance("1.2.3.0").known is not None
    assert catalog.remaining(Search("instance", limit=1), 10) == 2
    opened.clear()
    if revision == "0001":  # what was not kept has to be read
        assert catalog.search(Search("study", conditions={"PatientName": "muller"}, fuzzy=True)) == []
        assert counts(catalog.scan([files])) == {"found": 3, "registered": 3}
        assert opened == ["0", "1", "2"]
    elif revision == "0002":
        assert counts(catalog.scan([files]))["found"] == 3
    else:
        assert counts(catalog.scan([files])) == {"found": 3, "unchanged": 3}
    (study,) = catalog.search(Search("study", conditions={"PatientName": "muller"}, fuzzy=True))
    assert (study.study_series, study.study_instances) == (1, 3)
    assert counts(catalog.scan([files])) == {"found": 3, "unchanged": 3}
    (files / "0").unlink()
    catalog.scan([files])
    assert days_kept(catalog) == ([("", 1, 1, 2)], [("", 1, 1, 2)])


def test_alembic_is_not_imported_for_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from multiframe.catalog import Catalog\n"
        "for _ in range(2): Catalog(pathlib.Path(sys.argv[1])).close()\n"
        "assert not {'alembic', 'pydicom', 'starlette'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "catalog.sqlite")], check=True)


def test_a_process_that_reads_near_headers_loads_little() -> None:
    code = (
        "import sys, multiframe.reading\n"
        "assert not {'numpy', 'asyncio', 'ssl', 'pydicom', 'obstore'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_processes_may_open_it_at_once(place: Path | str) -> None:
    code = "import sys; from multiframe.catalog import Catalog; Catalog(sys.argv[1]).status()"
    command = [sys.executable, "-c", code, str(place)]
    started = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]


def test_many_values_are_asked_for_whatever_is_in_them(catalog: Catalog) -> None:
    odd = [b'a"b\\', b"{a,b}", b"\xff\0'", b"NULL", b" "]
    rows = [{"path": path, "size": 1, "identity": f"i{n}", "problem": None} for n, path in enumerate(odd)]
    with catalog._database.transaction(write=True) as connection:
        database.insert(connection, schema.objects, rows)
        insides = ['a"b\\', "{a,b}", "it's\\x", "NULL", ""]
        for n, text in enumerate(insides):
            where = schema.objects.c.path == odd[n]
            connection.execute(sa.update(schema.objects).where(where).values(identity=text))
    o = schema.objects.c
    with catalog._database.transaction() as connection:
        assert sorted(row.path for row in database.among(connection, sa.select(o.path), o.path, odd)) == sorted(odd)
        found = database.among(connection, sa.select(o.identity), o.identity, insides)
        assert sorted(row.identity for row in found) == sorted(insides)


def test_every_error_is_ours(catalog: Catalog) -> None:
    with pytest.raises(MultiframeError), catalog._database.transaction() as connection:
        connection.execute(sa.text("SELECT nothing FROM nowhere"))
