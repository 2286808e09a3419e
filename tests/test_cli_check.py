"""`multiframe info` and `multiframe check` as a user meets them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydicom import Dataset
from rich.cells import cell_len

from multiframe.telling import sparkline
from multiframe.testing import Layout, cine, part10
from tests import commands
from tests.files import JPEG, jpeg
from tests.test_check import FRAMES, PADDED, file, tabled

FORECAST = {"client", "verdict", "why", "remedy", "basis"}


def of(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return of(commands.run(*arguments, env={"COLUMNS": "100", "PYTHONUTF8": "1", **(env or {})}))


def call(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return of(commands.call(*arguments, env={"COLUMNS": "100", **(env or {})}))


def told(path: Path) -> dict[str, Any]:
    return dict(json.loads(call("info", path, "--json").stdout))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.dcm").write_bytes(file())
    (tmp_path / "padded.dcm").write_bytes(file() + bytes(64))
    (tmp_path / "table").write_bytes(tabled(basic_table=(0,) * 5))
    (tmp_path / "notes.txt").write_text("no DICOM")
    return tmp_path


# ------------------------------------------------------------------------------------------------------------ check


def test_findings_for_people(folder: Path) -> None:
    done = run("check", folder, "--no-dciodvfy")
    assert done.returncode == 1
    assert "good.dcm: nothing found" in done.stdout
    assert "table: 1 error" in done.stdout
    assert "bot-zero" in done.stdout
    assert "notes.txt" not in done.stdout
    assert "\x1b" not in done.stdout + done.stderr, "colours and progress only on a terminal"
    assert done.stderr == "3 files checked, 1 failed\n"


def test_findings_for_machines(folder: Path) -> None:
    done = run("check", folder, folder / "nowhere", "--no-dciodvfy", "--json", "--jobs", 2)
    assert done.returncode == 2
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["source"]).name for line in lines] == ["good.dcm", "padded.dcm", "table", "nowhere"]
    assert all(set(line) == {"source", "findings", "error"} for line in lines)
    (finding,) = lines[2]["findings"]
    assert set(finding) == {"code", "severity", "message", "clause", "offset", "remedy"}
    assert (finding["code"], finding["severity"], finding["clause"]) == ("bot-zero", "error", "PS3.5 A.4")
    assert lines[3]["findings"] == []
    assert "no such file" in lines[3]["error"]
    assert "no such file" in done.stderr


@pytest.mark.parametrize(
    ("name", "fail_on", "code"),
    [
        ("good.dcm", "note", 0), ("padded.dcm", "error", 0), ("padded.dcm", "warning", 1), ("padded.dcm", "note", 1),
        ("table", "error", 1), ("table", "never", 0), ("notes.txt", "error", 1), ("notes.txt", "never", 0),
        ("nowhere", "never", 2), ("table", "bad", 2),
    ],
)  # fmt: skip
def test_exit_codes(folder: Path, name: str, fail_on: str, code: int) -> None:
    assert call("check", folder / name, "--no-dciodvfy", "--fail-on", fail_on).returncode == code


def test_one_file_that_cannot_be_read_keeps_none_from_being_checked(folder: Path) -> None:
    done = call("check", "/dev/null", folder / "table", "--no-dciodvfy", "--fail-on", "never")
    assert done.returncode == 3
    assert "not a regular file" in done.stderr
    assert "bot-zero" in done.stdout


def test_all_frames(tmp_path: Path) -> None:
    odd = FRAMES[4].replace(b"\x08\0\x08\0\x08\1", b"\x08\0\x10\0\x08\1")
    (tmp_path / "a.dcm").write_bytes(file([*FRAMES[:4], odd]))
    assert call("check", tmp_path, "--no-dciodvfy").returncode == 0
    done = call("check", tmp_path, "--no-dciodvfy", "--all-frames")
    assert done.returncode == 1
    assert "codestream-size" in done.stdout


def test_no_patient_is_told(tmp_path: Path) -> None:
    extra = Dataset()
    extra.PatientName = "Zaphod^Beeblebrox"
    extra.PatientSex = "ZAPHOD"
    (tmp_path / "a.dcm").write_bytes(file(extra=extra))
    for options in ([], ["--json"]):
        done = call("check", tmp_path, *options)
        assert "zaphod" not in (done.stdout + done.stderr).casefold()


def test_names_that_cannot_be_printed(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\x1b[31m.dcm")
    Path(os.fsdecode(path)).write_bytes(tabled(basic_table=(0,) * 5))
    for env in ({}, {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}):
        for options in ([], ["--json"]):
            done = run("check", tmp_path, "--no-dciodvfy", *options, env=env)
            assert done.returncode == 1, done.stderr
            assert "bot-zero" in done.stdout
            assert "\x1b" not in done.stdout


def test_it_can_be_interrupted(tmp_path: Path) -> None:
    data = file()
    for n in range(3000):
        (tmp_path / f"{n}").write_bytes(data)
    arguments = [sys.executable, "-m", "multiframe", "check", str(tmp_path), "--no-dciodvfy"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors


# ------------------------------------------------------------------------------------------------------------- info


def test_info_tells_tables_fragments_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    sizes = sorted(map(len, PADDED))
    offsets = [sum(8 + len(f) for f in PADDED[:k]) for k in range(5)]
    layouts: list[tuple[dict[str, Any], str, str]] = [
        ({}, "empty", "none"),
        ({"table": "basic"}, "proven", "none"),
        ({"table": "extended"}, "empty", "proven"),
        ({"basic_table": (0,) * 5}, "wrong", "none"),
        ({"table": "extended", "basic_table": tuple(offsets)}, "unread", "proven"),
        ({"extended_table": (tuple(o + 4 for o in offsets), tuple(map(len, PADDED)))}, "empty", "wrong"),
    ]
    for layout, basic, extended in layouts:
        path.write_bytes(tabled(**layout))
        facts = told(path)
        assert facts["tables"] == {"basic": basic, "extended": extended}, layout
        assert facts["fragments_per_frame"] == {"fewest": 1, "most": 1}
        assert facts["frame_bytes"] == {"smallest": sizes[0], "median": sizes[2], "largest": sizes[-1]}
    path.write_bytes(tabled(fragments=(1, 2, 1, 3, 1)))
    assert told(path)["fragments_per_frame"] == {"fewest": 1, "most": 3}
    assert "1 to 3 a frame" in call("info", path).stdout


def test_info_forecasts(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(tabled(fragments=3))
    facts = told(path)
    assert all(set(one) == FORECAST for one in facts["forecast"])
    assert {one["client"]: one["verdict"] for one in facts["forecast"]}["natural"] == "wrong pictures"
    done = call("info", path)
    assert "wrong pictures" in done.stdout
    assert "Remedy" in done.stdout
    assert "\x1b" not in done.stdout


def test_info_of_native_video_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(part10([bytes(64)] * 3, rows=8, columns=8))
    facts = told(path)
    assert facts["frame_bytes"] == {"smallest": 64, "median": 64, "largest": 64}
    assert facts["fragments_per_frame"] is None
    assert "none: native" in call("info", path).stdout
    path.write_bytes(part10([bytes(60)], rows=8, columns=8, syntax="1.2.840.10008.1.2.4.102"))
    facts = told(path)
    assert (facts["frame_bytes"], facts["kind"]) == (None, "stream")
    assert "video" in call("info", path).stdout
    path.write_bytes(file()[:-60])
    assert told(path)["complete"] is False
    assert "damage" in call("info", path).stdout
    path.write_bytes(part10([bytes(64)] * 3, rows=8, columns=8, syntax="1.2.840.10008.1.2.1.99"))
    facts = told(path)
    assert facts["syntax"]["uid"] == "1.2.840.10008.1.2.1.99"
    assert facts["size"] == path.stat().st_size
    assert facts["frames"] == 3


@pytest.mark.parametrize(
    ("keyword", "value", "seconds"),
    [
        ("FrameTime", "40", 0.2), ("CineRate", "10", 0.5), ("RecommendedDisplayFrameRate", "5", 1.0),
        ("FrameTimeVector", ["0", "10", "20", "30", "40"], 0.1), ("FrameTime", "0", None), ("CineRate", "0", None),
        ("Manufacturer", "none", None),
    ],
)  # fmt: skip
def test_duration(tmp_path: Path, keyword: str, value: object, seconds: float | None) -> None:
    extra = Dataset()
    setattr(extra, keyword, value)
    (tmp_path / "a.dcm").write_bytes(file(extra=extra))
    assert told(tmp_path / "a.dcm")["duration"] == seconds


def test_info_reads_nothing_but_header_and_items(tmp_path: Path) -> None:
    cine(tmp_path / "cine.dcm", frames=60, rows=768, columns=1024)
    facts = told(tmp_path / "cine.dcm")
    assert facts["bytes_read"] < facts["size"] / 20


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_sparkline_fits_and_is_written_in_any_encoding(tmp_path: Path, columns: int) -> None:
    frames = [jpeg(Random(n), hostile=False).data for n in range(300)]
    (tmp_path / "a.dcm").write_bytes(part10(frames, rows=8, columns=8, syntax=JPEG, layout=Layout()))
    lines = call("info", tmp_path / "a.dcm", env={"COLUMNS": str(columns)}).stdout.splitlines()
    (line,) = [line for line in lines if "▁" in line or "█" in line]
    assert "█" in line
    assert columns / 2 < cell_len(line.rstrip()) <= columns
    env = {"COLUMNS": str(columns), "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = run("info", tmp_path / "a.dcm", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "#" in done.stdout


def test_a_sparkline_of_nothing_and_of_equals() -> None:
    assert sparkline([], 10) == ""
    assert sparkline([1, 2], 0) == ""
    assert sparkline([5, 5, 5], 2) == "▁▁"
