"""The files in deploy/: a unit that systemd finds no fault in, a container file, and examples the server takes.

Neither systemd as the first process nor a container runs here: what they would forbid is tried where that can be done.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main

import multiframe
from multiframe import cli
from multiframe.config import PREFIX, from_environment, from_file
from multiframe.settings import Settings
from multiframe.testing import cine
from tests.serving import Server, command

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
UNIT = DEPLOY / "systemd" / "multiframe.service"
CONTAINER = DEPLOY / "container" / "Containerfile"


def known() -> Mapping[str, Any]:
    group: Any = typer.main.get_command(cli.app)
    names: Mapping[str, Any] = group.commands["serve"].names()
    return names


def test_the_example_of_a_configuration_is_one() -> None:
    said = from_file(DEPLOY / "multiframe.toml", known())
    assert said["cache"].value == "/var/cache/multiframe"
    commented = re.findall(r"^# (\w+ = .+)$", (DEPLOY / "multiframe.toml").read_text(), re.M)
    assert commented
    for line in commented:
        assert set(tomllib.loads(line)) <= set(known())


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, of a program and a user that are here."""
    text = UNIT.read_text()
    path = tmp_path / "multiframe.service"
    path.write_text(text.replace("/opt/multiframe/bin/multiframe", "/bin/true").replace("=multiframe\n", "=daemon\n"))
    return path


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    tool = DEPLOY.parent / "tools" / "systemd-analyze"
    found = subprocess.run([tool], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return subprocess.run(
        [found.stdout.strip(), *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_finds_no_fault_in_the_unit(unit: Path) -> None:
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_is_locked_up_well(unit: Path) -> None:
    done = analyze("security", "--offline=yes", "--threshold=20", "--no-pager", unit)
    assert done.returncode == 0, done.stdout
    exposure = re.search(r"exposure level for multiframe.service: ([\d.]+)", done.stdout)
    assert exposure
    assert float(exposure[1]) <= 2.0


def test_the_unit_gives_more_time_than_the_server_takes() -> None:
    stop = re.search(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text(), re.M)
    assert stop
    assert int(stop[1]) > Settings().shutdown_timeout + 10


_NO_NEW_CODE = 65, 1  # prctl(2): PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, which is inherited


def test_it_works_where_memory_is_never_code_that_was_written(tmp_path: Path) -> None:
    """As MemoryDenyWriteExecute=yes has it: codecs, event loop and TLS ask for no such memory."""
    cine(tmp_path / "cine.dcm", frames=2, rows=96, columns=128)
    h = multiframe.open(tmp_path / "cine.dcm").header
    code = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None)\n"
        f"if libc.prctl(*{_NO_NEW_CODE}, 0, 0, 0): sys.exit(77)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'multiframe', *sys.argv[1:]])"
    )
    if ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) < 0:  # PR_GET_MDWE
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    options = ("--port", "0", "--tls-self-signed")
    with command("serve", tmp_path / "cine.dcm", *options, cache=tmp_path, program=("-c", code)) as (process, url):
        instance = (
            f"dicom-web/studies/{h.study_instance_uid}/series/{h.series_instance_uid}/instances/{h.sop_instance_uid}"
        )
        server = Server(process, url, verify=False)
        with server.client:
            server.wait_scanned()
            for path, accept in (("/frames/1", "multipart/related; type=application/octet-stream"),
                                 ("/rendered", "image/jpeg"), ("/metadata", "application/dicom+json")):  # fmt: skip
                assert server.get(instance + path, accept=accept).status_code == 200


def instructions() -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", CONTAINER.read_text()).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word and word != "#"]


def test_hadolint_finds_no_fault_in_the_container_file() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, CONTAINER], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_container_runs_as_nobody_and_says_how_it_is() -> None:
    last = max(i for i, (word, _) in enumerate(instructions()) if word == "FROM")
    stage = dict(instructions()[last:])
    user, group = stage["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert "/healthz" in stage["HEALTHCHECK"]
    assert json.loads(stage["ENTRYPOINT"]) == ["multiframe", "serve"]
    assert stage["STOPSIGNAL"] == "SIGTERM"
    given = dict(pair.split("=", 1) for pair in stage["ENV"].split())
    said = from_environment({k: v for k, v in given.items() if k.startswith(PREFIX)}, known())
    assert said["paths"].value == ["/data"]
    assert said["cache"].value == json.loads(stage["VOLUME"])[0]
    assert said["port"].value == stage["EXPOSE"]


def test_what_the_container_is_made_of_is_let_in() -> None:
    ignored = (CONTAINER.parent / "Containerfile.dockerignore").read_text().split()
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    assert ignored == ["*", *(f"!{source}" for sources in copied for source in sources)]
    assert os.path.exists(DEPLOY.parent / "requirements.txt")
