"""The demo's files are there whole, or not at all."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest

from multiframe import demo, settings, testing
from multiframe.errors import SourceError


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    def cine(file, **options):
        return testing.cine(file, rows=96, columns=128, **options)

    monkeypatch.setattr(demo, "cine", cine)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("12 B", 12),
        ("1.5GB", 1_500_000_000),
        ("1.1 gb", 1_100_000_000),
        ("100MB", 100_000_000),
        (" 2 kB ", 2000),
        ("1KiB", 1024),
        ("0.5GiB", 1 << 29),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes_are_read(text, size):
    assert settings.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "0.1", "-1MB", "1,5GB", "1e9", "5 apples", "1.GB", "nan", "٣MB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match=r"is not a size.*as in 1\.5GB"):
        settings.parse_size(text)


def test_sizes_are_written():
    sizes = [1, 999, 1000, 999_500, 185_000, 1_500_000_000, 2_250_000_000_000]
    assert list(map(settings.format_size, sizes)) == ["1 B", "999 B", "1 kB", "1 MB", "185 kB", "1.5 GB", "2.25 TB"]


def test_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert demo.default_directory() == tmp_path / "multiframe" / "demo"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert demo.default_directory() == Path.home() / ".cache" / "multiframe" / "demo"


def test_made_once(tmp_path):
    told: list[tuple[int, int]] = []
    folder = tmp_path / "new" / "folder"
    path, *real = demo.prepare(folder, 400_000, progress=lambda *so_far: told.append(so_far))
    assert real == demo.real_files()[:1], "one of the two that carry the same UID"
    data = pydicom.dcmread(path, stop_before_pixels=True)
    assert told[-1] == (data.NumberOfFrames, data.NumberOfFrames)
    size = path.stat().st_size
    assert size == pytest.approx(400_000, rel=0.02)  # a whole frame is 3 % of so small a file
    assert path.name == f"cine-v1-400000-{data.NumberOfFrames}frames-{size}bytes.dcm"
    assert names(folder) == [path.name]

    before = path.stat()
    assert demo.prepare(folder, 400_000, progress=lambda *_: pytest.fail("made again"))[0] == path
    assert path.stat() == before
    assert demo.prepare(folder, 200_000)[0] != path
    assert len(names(folder)) == 2


def test_damaged_is_made_again(tmp_path):
    path = demo.prepare(tmp_path, 200_000)[0]
    whole = path.read_bytes()
    os.truncate(path, 1000)
    assert demo.prepare(tmp_path, 200_000)[0] == path
    assert path.read_bytes() == whole
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interrupted_leaves_nothing(tmp_path, error):
    def stop(done, _):
        assert names(tmp_path) == [f".cine-{os.getpid()}.part"]
        if done == 5:
            raise error

    with pytest.raises(error):
        demo.prepare(tmp_path, 200_000, progress=stop)
    assert names(tmp_path) == []


def test_terminated_leaves_nothing(tmp_path):
    def stop(done, _):
        if done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as leaving:
        demo.prepare(tmp_path, 200_000, progress=stop)
    assert leaving.value.code == 143
    assert names(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_a_killed_process_left_goes(tmp_path):
    script = "import sys, pathlib; from multiframe.demo import prepare; prepare(pathlib.Path(sys.argv[1]), 10**9)"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) as process:
        while not names(tmp_path):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    (left,) = names(tmp_path)
    assert left == f".cine-{process.pid}.part"
    path = demo.prepare(tmp_path, 200_000)[0]
    assert names(tmp_path) == [path.name]


def test_two_at_once_take_turns(tmp_path):
    """The second waits, and finds the first one's file."""
    script = (
        "import sys, pathlib; from multiframe.demo import prepare; print(prepare(pathlib.Path(sys.argv[1]), 2 * 10**5))"
    )
    processes = []

    def start(done, _):
        if done == 1:
            command = [sys.executable, "-c", script, str(tmp_path)]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert names(tmp_path) == [f".cine-{os.getpid()}.part"]
        time.sleep(0.04)

    path = demo.prepare(tmp_path, 2 * 10**5, progress=start)[0]
    (process,) = processes
    output, _ = process.communicate(timeout=60)
    assert str(path) in output
    assert names(tmp_path) == [path.name]


def test_no_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_400_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SourceError) as refusal:
        demo.prepare(tmp_path, 1_500_000_000)
    assert str(refusal.value) == (
        f"{tmp_path}: the demo's cine needs 1.55 GB, 1.4 GB are free; "
        "make room, ask for a smaller --size, or name another folder with --dir"
    )
    assert names(tmp_path) == []


def test_disk_full_while_writing(tmp_path, monkeypatch):
    def cine(file, **_):
        file.write(b"something")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "cine", cine)
    with pytest.raises(SourceError, match=r"No space left on device.*--dir"):
        demo.prepare(tmp_path, 200_000)
    assert names(tmp_path) == []


def test_no_folder_there(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceError, match=r"cannot be kept there.*--dir"):
        demo.prepare(tmp_path / "file" / "folder", 200_000)


def test_real_files():
    found = demo.real_files()
    assert [path.name for path in found] == ["color3d_jpeg_baseline.dcm", "examples_ybr_color.dcm"]
    assert [pydicom.dcmread(path, stop_before_pixels=True).NumberOfFrames for path in found] == [120, 30]


def test_real_files_that_are_not_there(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    assert demo.real_files() == []
