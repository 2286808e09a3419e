"""The doctor finds each thing that is broken, says what to do, and gives no secret away."""

import datetime
import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multiframe import cli, doctor
from multiframe.catalog import Catalog
from multiframe.database import look
from multiframe.doctor import Finding, Installation, examine
from multiframe.errors import CatalogUnavailable
from multiframe.settings import Settings
from multiframe.testing import cine
from multiframe.web.over_tls import self_signed
from tests.serving import command

SECRET = "hush-hush-7"


def of(check: str, given: Installation) -> list[Finding]:
    return [finding for finding in examine(given) if finding.check == check]


def one(check: str, given: Installation) -> Finding:
    (finding,) = of(check, given)
    assert bool(finding.remedy) == (finding.state != "good")
    return finding


def installation(tmp_path: Path, **facts: Any) -> Installation:
    usual: dict[str, Any] = {
        "roots": [str(tmp_path)], "cache": tmp_path, "database": tmp_path / "c.sqlite", "port": 0,
    }  # fmt: skip
    return Installation(**(usual | facts))


def told(*arguments: object, **environment: str) -> tuple[int, list[dict[str, str]]]:
    done = CliRunner().invoke(cli.app, ["doctor", "--json", *map(str, arguments)], env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, [json.loads(line) for line in done.output.splitlines()]


def test_a_good_installation_is_told_to_be_good(tmp_path: Path) -> None:
    cine(tmp_path / "cine.dcm", frames=2, rows=96, columns=128)
    (tmp_path / "cache").mkdir(mode=0o700)
    code, findings = told(tmp_path / "cine.dcm", "--cache", tmp_path / "cache", "--port", 0)
    bad = [finding for finding in findings if finding["state"] == "bad"]
    assert (code, bad) == (0, [])
    assert {finding["check"] for finding in findings} == {look.__name__[1:] for look in doctor._LOOKS}
    assert list((tmp_path / "cache").iterdir()) == [], "nothing is changed"


def test_people_are_told_too(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["doctor", str(tmp_path / "nothing"), "--port", "0"])
    assert done.exit_code == 3
    assert any(line.startswith("bad      roots") for line in done.output.splitlines())
    assert "-> mount it" in done.output


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--prt", "1"], {}, "--prt"),
        (["--port", "many"], {}, "--port"),
        (["--public-url", "images"], {}, "https://images.example.org"),
        ([], {"MULTIFRAME_PRT": "1"}, "MULTIFRAME_PORT"),
        (["--config", "/nowhere.toml"], {}, "/nowhere.toml"),
    ],
)
def test_a_wrong_configuration(arguments: list[str], environment: dict[str, str], says: str) -> None:
    code, findings = told(*arguments, **environment)
    first = findings[0]
    assert (code, first["check"], first["state"]) == (2, "configuration", "bad")
    assert says in first["message"]
    assert len(findings) > 8, "the rest is looked at all the same"


def test_roots(tmp_path: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    assert one("roots", installation(tmp_path, roots=[])).state == "warning"
    assert one("roots", installation(tmp_path, roots=[str(empty)])).state == "warning"
    assert one("roots", installation(tmp_path, roots=[str(tmp_path)])).state == "good"
    assert one("roots", installation(tmp_path, roots=[str(tmp_path / "gone")])).state == "bad"


def test_a_far_root_that_does_not_answer_gives_no_secret_away(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound, and not listening: the connection is refused at once
        nobody.bind(("127.0.0.1", 0))
        url = f"http://user:{SECRET}@127.0.0.1:{nobody.getsockname()[1]}/x?signature={SECRET}"
        found = one("roots", installation(tmp_path, roots=[url]))
    assert found.state == "bad"
    assert "http://127.0.0.1/x does not answer" in found.message
    assert SECRET not in str(found)


@contextmanager
def nobody_special(folder: Path) -> Iterator[None]:
    """As a user without rights: the tests may run as root, before whom nothing is locked."""
    if os.geteuid():
        yield
        return
    folder.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_store_that_is_not_there_and_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "logs" / "access"
    given = installation(tmp_path, writes=[str(store)], settings=Settings(access_log=str(log)))
    found = {f.message.partition(" ")[0]: f for f in of("folders", given) if f.state != "good"}
    assert (found[str(store)].state, "mount" in found[str(store)].remedy) == ("warning", True)
    assert (found[str(log)].state, "--access-log" in found[str(log)].remedy) == ("bad", True)
    (store / "00").mkdir(parents=True)
    log.parent.mkdir()
    assert all(
        f.state == "good" or str(tmp_path) not in f.message or "others" in f.message for f in of("folders", given)
    )


@pytest.mark.parametrize(
    "call", [["--store", "s3://archive/x"], ["--allow-delete"], ["--spool", "/tmp/x", "--store", "/tmp/y"]]
)
def test_what_serve_would_not_start_with_is_bad(tmp_path: Path, call: list[str]) -> None:
    code, findings = told(tmp_path, "--cache", tmp_path, *call)
    assert code == 2
    assert [f["check"] for f in findings if f["state"] == "bad"][:1] == ["configuration"]
    assert not any("no path to serve" in f["message"] for f in findings)


def test_a_cache_that_cannot_be_written_to(tmp_path: Path) -> None:
    with nobody_special(tmp_path):
        found = of("folders", installation(tmp_path, cache=Path("/proc/sys")))
    assert found[0].state == "bad"
    assert "/proc/sys" in found[0].message


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((50_000_000, "bad"), (1_000_000_000, "warning"), (50_000_000_000, "good")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert of("folders", installation(tmp_path))[0].state == state


def test_a_cache_that_others_can_read(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert any("chmod 700" in finding.remedy for finding in of("folders", installation(tmp_path)))
    tmp_path.chmod(0o700)
    assert not any(finding.remedy for finding in of("folders", installation(tmp_path)))


def test_the_database_and_its_version(tmp_path: Path) -> None:
    database = tmp_path / "c.sqlite"
    given = installation(tmp_path)
    assert "will be made" in one("database", given).message
    assert not database.exists()
    Catalog(database).close()
    before = database.read_bytes()
    assert "the newest" in one("database", given).message
    assert database.read_bytes() == before
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    found = one("database", given)
    assert (found.state, "0001" in found.message) == ("warning", True)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert one("database", given).state == "bad"
    connection.close()
    database.write_bytes(b"no database at all" * 1000)
    found = one("database", given)
    assert found.state == "bad"
    assert "made anew" in found.remedy


def test_a_database_that_does_not_answer_gives_no_password_away() -> None:
    with pytest.raises(CatalogUnavailable) as said:
        look(f"postgresql://ada:{SECRET}@127.0.0.1:1/x")
    assert SECRET not in str(said.value)
    assert "ada" in str(said.value)


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    found = one("database", installation(tmp_path, database="postgresql://ada@127.0.0.1:1/x"))
    assert (found.state, "start it" in found.remedy) == ("bad", True)


def test_a_port_that_is_taken_by_another_and_by_one_of_ours(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = one("port", installation(tmp_path, port=taken.getsockname()[1]))
        assert (found.state, "--port" in found.remedy) == ("bad", True)
    cine(tmp_path / "cine.dcm", frames=2, rows=96, columns=128)
    with command("serve", tmp_path / "cine.dcm", "--port", "0", cache=tmp_path) as (_, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        assert "a multiframe server answers" in one("port", installation(tmp_path, port=port)).message
    assert one("port", installation(tmp_path, host="203.0.113.7")).state == "bad"


def test_certificates(tmp_path: Path) -> None:
    made = self_signed(tmp_path, ("localhost", "images.example.org"))
    given = installation(tmp_path, certificate=(made.cert, made.key))
    assert one("tls", given).state == "good"
    made.key.chmod(0o644)
    assert any("chmod 600" in finding.remedy for finding in of("tls", given))
    made.key.chmod(0o600)
    other = installation(
        tmp_path, certificate=(made.cert, made.key), settings=Settings(public_url="https://other.example")
    )
    assert any("other.example" in finding.message for finding in of("tls", other))
    made.key.write_text(f"-----BEGIN {SECRET}")
    found = one("tls", given)
    assert found.state == "bad"
    assert SECRET not in str(found)


@pytest.mark.parametrize(("days", "state"), [(100, "good"), (10, "warning"), (-1, "bad")])
def test_how_long_a_certificate_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, state: str) -> None:
    made = self_signed(tmp_path, ("localhost",))  # for 90 days

    class Then(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Then":
            return super().now(tz) + datetime.timedelta(days=90 - days) if days < 90 else super().now(tz)

    monkeypatch.setattr("multiframe.doctor.datetime.datetime", Then)
    assert of("tls", installation(tmp_path, certificate=(made.cert, made.key)))[0].state == state


def test_who_may_come_in(tmp_path: Path) -> None:
    everybody = "0.0.0.0"  # noqa: S104
    assert one("doors", installation(tmp_path)).state == "good"
    assert one("doors", installation(tmp_path, host=everybody)).state == "bad"
    open_to_all = Settings(anonymous=True)
    assert one("doors", installation(tmp_path, host=everybody, settings=open_to_all)).state == "warning"
    (tokens := tmp_path / "tokens").write_text("# nobody\n")
    tokens.chmod(0o600)
    locked = installation(tmp_path, host=everybody, settings=Settings(tokens=str(tokens)))
    assert one("doors", locked).state == "good"
    tokens.chmod(0o644)
    assert "chmod 600" in of("doors", locked)[0].remedy
    tokens.write_text(f"{SECRET} nonsense\n")
    found = one("doors", locked)
    assert found.state == "bad"
    assert SECRET not in str(found)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        keys = f"https://127.0.0.1:{nobody.getsockname()[1]}/keys?secret={SECRET}"
        far = Settings(oidc_issuer="https://id.example.org", oidc_audience="us", oidc_keys=keys)
        found = of("doors", installation(tmp_path, settings=far))[0]
    assert (found.state, "gives no keys" in found.message) == ("bad", True)
    assert SECRET not in str(found)


def test_a_server_for_others_without_tls(tmp_path: Path) -> None:
    assert one("tls", installation(tmp_path, host="0.0.0.0")).state == "warning"  # noqa: S104


def test_a_codec_that_does_not_load_and_a_viewer_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "multiframe.codecs.rle", None)
    found = of("codecs", installation(tmp_path))
    assert found[0].state == "bad"
    assert "rle" in found[0].message
    monkeypatch.setattr("multiframe.web.pages.viewer_folder", lambda: None)
    assert one("viewer", installation(tmp_path)).state == "warning"


def test_too_few_descriptors(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        assert one("descriptors", installation(tmp_path)).state == "bad"
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        assert one("descriptors", installation(tmp_path)).state == "warning"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_memory_than_there_is(tmp_path: Path) -> None:
    assert one("memory", installation(tmp_path, settings=Settings(memory=1 << 50))).state == "warning"
    assert one("memory", installation(tmp_path, settings=Settings(memory=1), workers=4)).state == "bad"


def test_what_cannot_be_looked_at_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Installation) -> Iterator[Any]:
        raise RuntimeError(SECRET)

    fails.__name__ = "_fails"
    monkeypatch.setattr(doctor, "_LOOKS", (fails, *doctor._LOOKS))
    first, second, *_ = examine(installation(tmp_path))
    assert (first.check, first.state, second.check) == ("fails", "bad", "configuration")
    assert SECRET not in str(first)


def test_it_runs_where_hardly_anything_is(tmp_path: Path) -> None:
    """A real process, without a home and with nothing in its environment."""
    done = subprocess.run(
        [sys.executable, "-m", "multiframe", "doctor", "--json"], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HOME": str(tmp_path / "none")}, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert {json.loads(line)["check"] for line in done.stdout.splitlines()} >= {"python", "roots", "memory"}
