"""Files are written whole or not at all; and `multiframe index`, as a user meets it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from multiframe import cli, saving
from multiframe.errors import FormatError, SourceError, TruncatedError
from multiframe.frameindex import FrameIndex
from multiframe.indexfile import SUFFIX, load
from multiframe.instance import Instance, open_instance
from multiframe.saving import index_file, save_index, write_whole
from multiframe.testing import Layout, cine, part10
from tests.commands import call
from tests.files import JPEG, jpeg, made

FRAMES = 12


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cine.dcm"
    cine(path, frames=FRAMES, rows=96, columns=128)
    return path


def index_of(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


# ------------------------------------------------------------------------------------------------------ whole or not


def test_a_file_is_replaced_with_its_permissions(tmp_path):
    path = tmp_path / "out"
    write_whole(path, b"one")
    mask = os.umask(0o022)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    path.chmod(0o640)
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    write_whole(link, b"data")
    assert link.is_symlink()
    assert target.read_bytes() == b"data"


def test_a_name_as_long_as_can_be(tmp_path):
    path = tmp_path / ("n" * 255)
    write_whole(path, b"data")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["fsync", "fchmod", "replace"])
def test_what_fails_leaves_all_as_it_was(tmp_path, monkeypatch, fails):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if fails == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_is_killed_leaves_the_old_or_the_new(tmp_path):
    path = tmp_path / "out"
    olds = [bytes([n]) * 3_000_000 for n in (1, 2)]
    path.write_bytes(olds[0])
    code = """
import sys
from pathlib import Path
from multiframe.saving import write_whole
print("on", flush=True)
while True:
    for n in (1, 2):
        write_whole(Path(sys.argv[1]), bytes([n]) * 3_000_000)
"""
    for round_ in range(5):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.02 + 0.013 * round_)
            process.send_signal(signal.SIGKILL)
        assert path.read_bytes() in olds
    left = [p for p in tmp_path.iterdir() if p != path]
    assert all(p.name.startswith(".multiframe-") and p.name.endswith(".tmp") for p in left)


# ------------------------------------------------------------------------------------------------------ save_index


def test_beside_the_file(file):
    written = save_index(open_instance(file))
    assert written == index_of(file)
    index, content = load(written.read_bytes())
    whole = open_instance(file).index
    assert [index.parts(i) for i in range(FRAMES)] == [whole.parts(i) for i in range(FRAMES)]
    assert content is not None
    assert content.identity == open_instance(file).stat.identity


def test_an_index_in_parts_is_completed_and_proven(file, monkeypatch):
    instance = open_instance(file)
    instance.grow(2)
    assert len(load(save_index(instance).read_bytes())[0]) == FRAMES
    own = FrameIndex("scan", proof="own", complete=True)
    doubtful = Instance(instance.source, instance.stat, instance.header, index=own)
    assert len(load(save_index(doubtful).read_bytes())[0]) == FRAMES


def test_without_a_file_a_path_is_needed(tmp_path):
    instance = made(JPEG, [[jpeg(Random(1)).data]]).open()
    with pytest.raises(SourceError, match="give a path"):
        save_index(instance)
    assert save_index(instance, tmp_path / "a.frames").exists()


def test_no_other_file_is_overwritten(file, tmp_path):
    before = file.read_bytes()
    other = tmp_path / "notes.txt"
    other.write_bytes(b"remember the milk")
    for target in (file, other):
        with pytest.raises(SourceError, match="not overwritten"):
            save_index(open_instance(file), target)
    assert file.read_bytes() == before
    assert other.read_bytes() == b"remember the milk"
    index_of(file).write_bytes(b"\x1f\x8b of a damaged one")
    save_index(open_instance(file))
    index_of(file).write_bytes(b"")
    save_index(open_instance(file))


def test_what_cannot_be_written_is_an_error(file, tmp_path):
    with pytest.raises(SourceError, match="nowhere"):
        save_index(open_instance(file), tmp_path / "nowhere" / "a.frames")


def test_frames_of_a_deflated_data_set_have_no_place(tmp_path):
    path = tmp_path / "deflated.dcm"
    path.write_bytes(part10([bytes(64), bytes(64)], rows=8, columns=8, syntax="1.2.840.10008.1.2.1.99"))
    assert index_file(str(path)).frames == 2
    with pytest.raises(FormatError, match="deflated"):
        save_index(open_instance(path), index_of(path))
    assert not index_of(path).exists()


def test_a_fresh_one_is_left_and_force_writes_it_anew(file, monkeypatch):
    out = index_of(file)
    assert index_file(str(file)).state == "found"
    assert not out.exists()
    assert index_file(str(file), out).state == "written"
    first = out.stat().st_ino
    again = index_file(str(file), out)
    assert (again.state, again.frames, again.index_bytes) == ("fresh", FRAMES, out.stat().st_size)
    assert out.stat().st_ino == first
    assert index_file(str(file), out, force=True).state == "written"
    assert out.stat().st_ino != first
    os.utime(file)  # another identity, the same content
    assert index_file(str(file), out).state == "fresh"
    file.write_bytes(file.read_bytes() + b"\0\0")
    assert index_file(str(file), out).state == "written"
    out.write_bytes(b"\x1f\x8b damaged")
    assert index_file(str(file), out).state == "written"
    assert index_file(str(file), out).state == "fresh"


def test_not_one_frame_is_an_error(tmp_path):
    path = tmp_path / "cut.dcm"
    data = part10([b"\xff\xd8" + bytes(400)], rows=8, columns=8, syntax=JPEG, layout=Layout(delimiter=False))
    path.write_bytes(data[:-300])
    with pytest.raises((TruncatedError, FormatError)):
        index_file(str(path), index_of(path))
    assert not index_of(path).exists()


# ------------------------------------------------------------------------------------------------------ the command


def run(*arguments: object) -> tuple[int, str, str]:
    """The command as `main` runs it, exit codes and all."""
    done = call(*arguments)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def folder(tmp_path: Path, file: Path) -> Path:
    """A folder with two cines, a damaged one, and what else lies about."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    file.rename(folder / "a.dcm")
    cine(folder / "below" / "b", frames=3, rows=96, columns=128)
    (folder / "notes.txt").write_text("not DICOM")
    return folder


def test_a_folder_beside(folder):
    code, out, err = run("index", folder, "--beside", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert (code, [(Path(t["source"]).name, t["state"], t["frames"]) for t in told]) == (
        0, [("a.dcm", "written", FRAMES), ("b", "written", 3)])  # fmt: skip
    assert err == "3 files: 2 written, 0 failed; 1 without frames, passed over\n"
    names = sorted(p.name for p in folder.rglob("*") if p.is_file())
    assert names == ["a.dcm", "a.dcm.frames", "b", "b.frames", "notes.txt"]
    code, out, err = run("index", folder, "--beside", "--jobs", 1)
    assert (code, err) == (0, "3 files: 2 fresh, 0 failed; 1 without frames, passed over\n")
    assert "fresh" in out
    assert run("index", folder, folder / "a.dcm", "--beside", "--force")[2].startswith("3 files: 2 written")


def test_without_a_place_nothing_is_written(folder):
    code, out, err = run("index", folder)
    assert code == 0
    assert str(FRAMES) in out
    assert "2 found" in err
    assert not list(folder.rglob("*.frames"))


def test_one_file_where_it_is_wanted(folder, tmp_path):
    target = tmp_path / "there.idx"
    assert run("index", folder / "a.dcm", "-o", target)[0] == 0
    assert len(load(target.read_bytes())[0]) == FRAMES


def test_each_failure_is_one_line_and_the_others_go_on(folder, tmp_path):
    cut = folder / "cut.dcm"
    cut.write_bytes((folder / "a.dcm").read_bytes()[:300])
    code, out, err = run("index", folder, folder / "notes.txt", "--beside")
    lines = err.splitlines()
    assert code == 1
    assert len(lines) == 3
    assert lines[0].startswith(f"multiframe: {cut}: ")
    assert lines[1].startswith(f"multiframe: {folder / 'notes.txt'}: not a DICOM file: no DICM at byte 128")
    assert "2 written, 2 failed" in lines[2]
    code, out, _ = run("index", folder, "--json")
    assert code == 1
    assert [t["error"][:8] for line in out.splitlines() if (t := json.loads(line))["state"] == "failed"] == ["the file"]


def test_the_worst_failure_is_the_exit_code(folder):
    nowhere = folder / "nowhere.dcm"
    code, _, err = run("index", folder / "notes.txt", nowhere)
    assert (code, err.splitlines()[1]) == (2, f"multiframe: {nowhere}: no such file")
    (folder / "a.dcm.frames").mkdir()
    assert run("index", folder / "a.dcm", nowhere, "--beside")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{file}", "-o", "{out}", "--beside"], "either -o or --beside"),
        (["{file}", "{file}", "-o", "{out}"], "one SRC"),
        (["{folder}", "-o", "{out}"], "one SRC"),
        (["https://images.example.org/cine.dcm", "--beside"], "beside a URL"),
        (["s3://bucket/cine.dcm", "{file}", "--beside"], "beside a URL"),
        ([], "Missing argument"),
        (["{file}", "--jobs", "0"], "--jobs"),
    ],
)
def test_calls_that_make_no_sense(folder, tmp_path, arguments, says):
    values = {"file": folder / "a.dcm", "folder": folder, "out": tmp_path / "out.frames"}
    code, out, err = run("index", *[a.format(**values) for a in arguments])
    assert (code, out) == (2, "")
    assert says in err
    assert not list(tmp_path.rglob("*.frames"))


def test_the_file_itself_is_not_overwritten(folder):
    file = folder / "a.dcm"
    before = file.read_bytes()
    code, _, err = run("index", file, "-o", file)
    assert code != 0
    assert "not overwritten" in err
    assert file.read_bytes() == before


def test_the_query_of_a_url_is_shown_to_nobody(monkeypatch):
    def broken(place: str, output: Path | None, *, force: bool) -> None:
        raise FormatError("it is broken")

    monkeypatch.setattr(saving, "index_file", broken)
    done = CliRunner().invoke(cli.app, ["index", "https://images.example.org/cine.dcm?signature=secret", "--json"])
    assert done.exit_code == 1
    assert "https://images.example.org/cine.dcm" in done.output
    assert "secret" not in done.output


def test_names_that_are_no_text(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # a name that is long is folded anywhere
    strange = folder / os.fsdecode(b"Stra\xdfe.dcm")
    (folder / "a.dcm").rename(strange)
    for arguments in ([], ["--json"], ["--beside"]):
        code, out, _ = run("index", folder, *arguments)
        assert code == 0
        assert "Stra" in out
