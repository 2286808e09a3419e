"""The command as a user meets it: real processes, exit codes, nothing but results on stdout."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import multiframe
from multiframe import cli
from multiframe.demo import real_files
from multiframe.errors import SourceNotFound
from multiframe.testing import cine, read_number
from tests.commands import call, run
from tests.serving import command, serving

FRAMES = 12


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "cine.dcm"
    cine(path, frames=FRAMES, rows=192, columns=256)
    return path


def test_version() -> None:
    assert run("--version").stdout.decode().strip() == f"multiframe {multiframe.__version__}"


@pytest.mark.parametrize("verb", ["serve", "demo", "info", "frame", "index"])
def test_help_is_worth_reading(verb: str) -> None:
    done = call(verb, "--help", env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert done.returncode == 0
    assert len(done.stdout.decode().split()) > 40
    assert verb in call("--help").stdout.decode()


def test_help_waits_for_nothing_heavy() -> None:
    script = "import sys, multiframe.cli as c; c.app(['serve', '-h'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert {"multiframe", "typer"} <= loaded
    assert loaded.isdisjoint(
        {"numpy", "pydicom", "imagecodecs", "starlette", "uvicorn", "sqlalchemy", "PIL", "asyncio"}
    )


def test_info_for_machines(file: Path) -> None:
    done = run("info", file, "--json")
    assert done.returncode == 0
    told = json.loads(done.stdout)
    wanted = {
        "source": str(file), "size": file.stat().st_size, "frames": FRAMES, "declared_frames": FRAMES, "rows": 192,
        "columns": 256, "origin": "scan", "proof": "whole", "repaired": False, "complete": True, "fragments": FRAMES,
        "syntax": {"uid": "1.2.840.10008.1.2.4.50", "name": "JPEG Baseline (Process 1)"},
    }  # fmt: skip
    assert {k: told[k] for k in wanted} == wanted
    assert told["requests"] > 0
    assert told["bytes_read"] > 0


def test_info_for_people(file: Path) -> None:
    done = run("info", file)
    assert done.returncode == 0
    assert "JPEG Baseline" in done.stdout.decode()
    assert b"\x1b[" not in done.stdout, "colours only on a terminal"


def test_a_frame_as_stored(file: Path, tmp_path: Path) -> None:
    (expected,) = multiframe.open(file).encoded([6])
    assert run("frame", file, 7).stdout == expected.data
    out = tmp_path / "seven.jpg"
    done = run("frame", file, 7, "-o", out)
    assert (done.returncode, done.stdout) == (0, b"")
    assert out.read_bytes() == expected.data
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_no_file_is_written_into(file: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    assert run("frame", file, 1, "-o", link).returncode == 0
    assert link.is_symlink()
    assert target.stat().st_size > 1000
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        assert run("frame", file, 1, "-o", pipe).returncode == 0
        assert reader.communicate(timeout=20)[0] == target.read_bytes()
    assert pipe.is_fifo()


def test_a_frame_as_displayed_and_as_pixels(file: Path) -> None:
    picture = np.asarray(Image.open(io.BytesIO(call("frame", file, FRAMES, "--as", "png").stdout)))
    assert picture.dtype == np.uint8
    assert read_number(picture) == FRAMES
    pixels = np.load(io.BytesIO(call("frame", file, FRAMES, "--as", "npy").stdout))
    assert np.array_equal(pixels, multiframe.open(file).pixels(FRAMES - 1))


def test_a_part_of_a_frame_as_jpeg(file: Path) -> None:
    asked = ("--as", "jpeg", "--viewport", "200,200", "--quality", "95", "--window", "40,400,linear")
    picture = Image.open(io.BytesIO(call("frame", file, 2, *asked).stdout))
    assert (picture.format, max(picture.size)) == ("JPEG", 200)
    assert read_number(np.asarray(picture.resize((1024, 768)))) == 2


def test_real_frames_are_displayed() -> None:
    for path in real_files():
        picture = Image.open(io.BytesIO(call("frame", path, 3, "--as", "png").stdout))
        assert picture.mode == "RGB"
        assert picture.size[0] > 100


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["info", "{nowhere}"], 2, "no such file"),
        (["info", "{folder}"], 2, "folder"),
        (["frame", "{folder}", "1"], 2, "folder"),
        (["index", "{file}", "-o", "-"], 2, "name a file"),
        (["info", "{text}"], 1, "not a DICOM file"),
        (["info", "{cut}"], 1, "ends inside"),
        (["frame", "{cut}", "1"], 1, "ends inside"),
        (["frame", "{file}", "99"], 2, "no frame"),
        (["frame", "{file}", "0"], 2, "no frame 0"),
        (["frame", "{file}", "x"], 2, "NUMBER"),
        (["frame", "{file}", "1", "--as", "gif"], 2, "gif"),
        (["frame", "{file}", "1", "--as", "png", "--viewport", "0,9"], 2, "viewport"),
        (["frame", "{file}", "1", "--window", "1,2,linear"], 2, "--as png"),
        (["frame", "{file}", "1", "-o", "/proc/no/where"], 3, "/proc/no"),
        (["info", "https://example.org/a.dcm?secret=1"], 3, "example.org/a.dcm: "),
        (["serve", "{nowhere}"], 2, "no such file or folder"),
        (["serve", "{file}", "--memory", "lots"], 2, "not a size"),
        (["serve", "{file}", "--allow-origin", "localhost"], 2, "allow-origin"),
        (["serve", "--store", "gs://archive/x", "--spool", "{folder}"], 2, "stored at gs://"),
        (["serve", "--store", "az://archive", "--spool", "{folder}"], 2, "stored at az://"),
        (["serve", "--store", "https://example.org/x?secret=1", "--spool", "{folder}"], 2, "stored at https://"),
        (["serve", "--store", "s3://", "--spool", "{folder}"], 3, "s3://BUCKET"),
        (["serve", "{file}", "--trusted-proxy", "proxy.example.org"], 2, "trusted-proxy"),
        (["serve", "{file}", "--host", "203.0.113.7", "--anonymous"], 3, "203.0.113.7"),
        (["serve", "{file}", "--memory", "1KiB"], 2, "too few"),
        (["serve", "{file}", "--port", "0", "--cache", "{damaged}"], 3, "delete the file"),
        (["frame", "{file}", "1", "-o", "{file}"], 2, "lost"),
        (["demo", "--size", "-1"], 2, "size"),
        (["nonsense"], 2, "nonsense"),
        ([], 2, "Usage"),
    ],
)
def test_exit_codes_tell(file: Path, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    (tmp_path / "text").write_text("no DICOM " * 50)
    (tmp_path / "cut").write_bytes(file.read_bytes()[:700])
    places = {"file": file, "nowhere": tmp_path / "nowhere", "text": tmp_path / "text", "cut": tmp_path / "cut"}
    names = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / f"catalog-{names}.sqlite").write_bytes(b"no database " * 1000)
    places["damaged"] = tmp_path / "damaged"
    places["folder"] = tmp_path
    # What begins to serve starts processes, and says where its log goes: that is for a process of its own.
    how = run if "serve" in arguments else call
    done = how(*(a.format(**places) for a in arguments), env={"NO_COLOR": "1", "XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == code, done.stderr
    assert says in (done.stderr + done.stdout).decode()
    assert "secret" not in done.stderr.decode()


def test_a_reader_that_leaves_is_no_fault(file: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m multiframe info {file} --json | head -c 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 128 + signal.SIGPIPE)
    assert done.stderr == b""


def test_the_demo_is_made_once_and_served(tmp_path: Path) -> None:
    for _ in range(2):
        with command("demo", "--size", "3MB", "--dir", tmp_path / "d", "--port", "0", cache=tmp_path) as (process, url):
            assert url.startswith("http://127.0.0.1:")
            (path,) = (tmp_path / "d").glob("*.dcm")
            made = path.stat().st_mtime_ns
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
    assert path.stat().st_mtime_ns == made


def test_an_interrupted_demo_leaves_nothing_half(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "multiframe", "demo", "--size", "2GB", "--dir", str(tmp_path), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".cine*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert out == b""
    assert [p.name for p in tmp_path.iterdir() if not re.fullmatch(r"\.lock.*|.*\.lock", p.name)] == []


def test_register_names_what_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    cine(folder / "good.dcm", frames=3, rows=96, columns=128)
    (folder / "notes.txt").write_text("no DICOM, and nobody need worry")
    for n in range(22):
        (folder / f"cut{n:02}.dcm").write_bytes((folder / "good.dcm").read_bytes()[:300])
    environment = {"MULTIFRAME_DATABASE": f"sqlite:///{tmp_path}/catalog.sqlite"}
    for told in "22 could not be read", "24 unchanged":
        done = CliRunner().invoke(cli.app, ["register", str(folder)], env=environment)
        assert done.exit_code == 1
        *named, others, summary = done.stderr.splitlines()
        assert [line.partition(": ")[2].partition(": ")[0] for line in named] == [
            str(folder / f"cut{n:02}.dcm") for n in range(20)
        ]
        assert others == "multiframe: and 2 others"
        assert told in summary
        assert "notes.txt" not in done.stderr


def test_register_names_folders_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    for _ in range(20):  # longer than a path may be, for root, too
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    done = CliRunner().invoke(cli.app, ["register", str(tmp_path / "deep"), "--cache", str(tmp_path / "cache")])
    assert done.exit_code == 3
    assert str(tmp_path / "deep") in done.stderr
    assert "cannot be listed" in done.stderr
    assert "1 could not be read" in done.stderr


def test_register_fills_the_catalog_that_serve_takes(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    cine(folder / "a", frames=2, rows=96, columns=128)
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for told in ("1 file: 1 read", "1 file: 1 unchanged"):
        done = CliRunner().invoke(cli.app, ["register", str(folder)], env=environment)
        assert done.exit_code == 0
        assert told in done.output
    with serving([folder], cache=tmp_path / "cache") as server:
        assert server.wait_scanned()["registered"] == 0
        assert len(server.get("dicom-web/studies").json()) == 1
    lost = CliRunner().invoke(cli.app, ["register", str(tmp_path / "nowhere")], env=environment)
    assert isinstance(lost.exception, SourceNotFound)
