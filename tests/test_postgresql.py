"""One catalog in a real PostgreSQL: many write to it, it goes away and comes back, and its password stays secret."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
import sqlalchemy as sa

from multiframe import schema
from multiframe.catalog import Catalog, Search
from multiframe.database import insert
from multiframe.errors import CatalogUnavailable, InstanceNotFound
from tests.postgres import PASSWORD, PostgreSQL
from tests.serving import Server, command, serving
from tests.test_catalog import SCANNER, dicom


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.fresh()


@pytest.fixture
def catalogs(url: str) -> Iterator[Callable[[], Catalog]]:
    """Opens the test's catalog, as another server would."""
    opened: list[Catalog] = []

    def another() -> Catalog:
        opened.append(Catalog(url))
        return opened[-1]

    yield another
    for catalog in opened:
        catalog.close()


def test_a_user_who_may_no_more_than_is_said(postgresql: PostgreSQL, url: str, files: Path) -> None:
    """What docs/how-to/many-servers.md has the administrator give."""
    (files / "one").write_bytes(dicom("1.2.3.4"))
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            f"CREATE ROLE plain LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{PASSWORD}'",
            "CREATE SCHEMA AUTHORIZATION plain",
        ):
            connection.execute(statement.encode())
    catalog = Catalog(postgresql.url("plain").replace("//multiframe:", "//plain:"))
    try:
        catalog.scan([files])
        assert [found.instance for found in catalog.search(Search("instance"))] == ["1.2.3.4"]
    finally:
        catalog.close()


def test_many_scan_the_same_files_at_once(url: str, files: Path, catalogs: Callable[[], Catalog]) -> None:
    for n in range(300):
        values = {"StudyInstanceUID": f"1.{n % 7}", "SeriesInstanceUID": f"1.{n % 7}.1"}
        (files / f"{n:03}").write_bytes(dicom(f"1.2.3.{n % 290}", b"", **values))  # ten are second files of others
    arguments = [sys.executable, "-c", SCANNER, url, str(files), "0"]
    started = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sum(int(lines[-1]) for lines in said) == 290  # each was registered once, by whichever came first
    catalog = catalogs()
    assert len(catalog.search(Search("instance"))) == 290
    assert sum(found.study_instances for found in catalog.search(Search("study"))) == 290
    with catalog._database.transaction() as connection:
        seconds = sa.select(sa.func.count()).where(schema.objects.c.duplicate_of.is_not(None))
        assert connection.execute(seconds).scalar_one() == 10


def test_what_is_copied_arrives_as_it_was_and_what_is_refused_tells_no_value(
    catalogs: Callable[[], Catalog],
) -> None:
    database = catalogs()._database
    texts = ("\\N", "", None, "a\tb\nc\rd", "\\.", '{"é":"\\\\x"}')
    rows = [
        {"path": b"/\\x41\0\xff" + bytes([n]), "size": 2**40 + n, "identity": f"[{n}]", "problem": text}
        for n, text in enumerate(texts)
    ]
    with database.transaction(write=True) as connection:
        insert(connection, schema.objects, rows)
    o = schema.objects.c
    with database.transaction() as connection:
        there = connection.execute(sa.select(o.path, o.size, o.identity, o.problem).order_by(o.size)).mappings().all()
    assert [dict(row) for row in there] == rows
    with pytest.raises(CatalogUnavailable, match="23505") as refused, database.transaction(write=True) as connection:
        insert(connection, schema.objects, [rows[0] | {"path": b"/secret", "problem": "secret"}] * 2)
    assert "secret" not in str(refused.value)

    def cut_off() -> None:
        with database.transaction(write=True) as connection:
            os.kill(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one(), signal.SIGTERM)
            time.sleep(0.2)
            insert(connection, schema.objects, [rows[0] | {"path": b"/secret"}])

    with pytest.raises(CatalogUnavailable):
        cut_off()
    with database.transaction(write=True) as connection:  # the next one has another connection
        insert(connection, schema.objects, [rows[0] | {"path": b"/open"}])
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.objects)) == len(rows) + 1


def test_what_one_server_does_the_others_see(files: Path, catalogs: Callable[[], Catalog]) -> None:
    one, other = catalogs(), catalogs()
    (files / "a").write_bytes(dicom(PatientName="Old"))
    assert one.add({files / "a": None}) == [None]
    held = other.instance("1.2.3.4")
    held.grow(None)
    other.keep_index(held)
    assert catalogs().instance("1.2.3.4").known is not None

    (files / "a").write_bytes(dicom(PatientName="Newer"))
    fresh = one.refresh("1.2.3.4")
    assert fresh.stat != held.stat
    other.keep_index(held)  # of the file that was: it does not take the place of what one has written
    assert catalogs().instance("1.2.3.4").known is None
    assert other.refresh("1.2.3.4").stat == fresh.stat
    assert one.add({files / "a": None}) == [None]  # again, as it is: nothing comes twice
    assert len(one.search(Search("instance"))) == 1

    (files / "a").rename(files / "b")
    assert one.add({files / "b": None}) == [None]
    assert other.refresh("1.2.3.4").source.stat() == one.instance("1.2.3.4").source.stat()
    one.remove([files / "b"])
    with pytest.raises(InstanceNotFound):
        other.refresh("1.2.3.4")


def test_a_reader_sees_one_state(files: Path, catalogs: Callable[[], Catalog]) -> None:
    """Between finding and telling, a study may go: a search must not fall over it."""
    one, other = catalogs(), catalogs()
    places = [files / str(n) for n in range(40)]
    for n, path in enumerate(places):
        path.write_bytes(dicom(f"1.2.{n}", b"", StudyInstanceUID=f"1.{n}", SeriesInstanceUID=f"1.{n}.1"))
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            one.add(dict.fromkeys(places))
            one.remove(places)

    busy = threading.Thread(target=come_and_go)
    busy.start()
    try:
        seen = {len(other.search(Search("instance"))) for _ in range(60)}
    finally:
        ended.set()
        busy.join()
    assert seen <= {0, 40}


def test_a_writer_that_was_killed_leaves_no_lock(url: str, catalogs: Callable[[], Catalog], files: Path) -> None:
    code = (
        "import sys, time; from multiframe.catalog import Catalog\n"
        "with Catalog(sys.argv[1])._database.transaction(write=True): print('writing', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    writer.kill()
    writer.communicate()
    (files / "a").write_bytes(dicom())
    assert catalogs().add({files / "a": None}) == [None]


def test_only_one_scans_the_same_roots(catalogs: Callable[[], Catalog]) -> None:
    one, other = catalogs(), catalogs()
    with one.claim(["/a", "/b"]) as mine, other.claim(["/b", "/a"]) as theirs, other.claim(["/a"]) as another:
        assert (mine, theirs, another) == (True, False, True)
    with other.claim(["/a", "/b"]) as now:
        assert now


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("postgresql://multiframe:secret@/nowhere?host=/nonexistent", "does not answer"),
        ("postgresql://multiframe:secret@127.0.0.1:1/nowhere", "does not answer"),
        ("postgresql://multiframe:secret@host:port/x", "not a URL"),
        ("mysql://multiframe:secret@host/x", "write postgresql://"),
        ("postgresql://multiframe:secret@/x?nonsense=secret", "nonsense"),
    ],
)
def test_what_cannot_be_reached_is_said_without_the_password(named: str, said: str) -> None:
    with pytest.raises(CatalogUnavailable, match=said) as caught:
        Catalog(named)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_foreign_or_newer_database_is_left_alone(url: str, catalogs: Callable[[], Catalog]) -> None:
    catalog = catalogs()
    with catalog._database.transaction(write=True) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CatalogUnavailable, match="newer version"):
        catalogs()
    with catalog._database.transaction(write=True) as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))
    with pytest.raises(CatalogUnavailable, match="not a catalog"):
        catalogs()


def test_the_database_goes_and_comes_back(
    postgresql: PostgreSQL, url: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        (files / str(n)).write_bytes(dicom(f"1.2.3.{n}", PatientName="Somebody"))
    monkeypatch.setenv("MULTIFRAME_DATABASE", url)
    frame = "dicom-web/studies/1.2.3/series/1.2.3.1/instances/1.2.3.{}/frames/1"
    with serving([files], "--workers", "2", cache=tmp_path / "cache") as server:
        for process in psutil.Process(server.process.pid).children(recursive=True):
            assert PASSWORD not in " ".join(process.cmdline())
        assert len(server.get("dicom-web/studies").json()) == 1
        in_memory = [server.get(frame.format(0)).status_code for _ in range(8)]  # in that of both workers
        assert set(in_memory) == {200}
        postgresql.stop()
        try:
            for path in ("dicom-web/studies", frame.format(2)):
                away = server.get(path)
                assert away.status_code == 503, away.text
                assert int(away.headers["retry-after"]) > 0
                assert away.json()["error"] == "CatalogUnavailable"
                assert "database" in away.json()["message"]
                assert PASSWORD not in away.text
            assert server.get(frame.format(0)).status_code == 200  # what is in memory asks no database
        finally:
            postgresql.start()
        assert len(server.get("dicom-web/studies").json()) == 1
        assert server.get(frame.format(2)).status_code == 200
        workers = [p for p in psutil.Process(server.process.pid).children() if "worker" in p.cmdline()]
        assert len(workers) == 2
        server.process.terminate()
        _, said = server.process.communicate(timeout=20)
        assert "the database does not answer" in said
        assert PASSWORD not in said
        assert "Somebody" not in said


def test_it_says_what_is_wrong_before_it_serves(tmp_path: Path, files: Path) -> None:
    url = "postgresql://multiframe:secret@/nowhere?host=/nonexistent"
    with (
        pytest.raises(RuntimeError, match="does not answer") as caught,
        command("serve", files, "--port", "0", "--database", url, "--database-wait", "1", cache=tmp_path / "cache"),
    ):
        pass
    assert "secret" not in str(caught.value)
    assert "waiting for the database, 1 s at most" in str(caught.value)


def test_a_server_that_starts_before_its_database_waits_for_it(
    postgresql: PostgreSQL, url: str, files: Path, tmp_path: Path
) -> None:
    (files / "a").write_bytes(dicom())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-m", "multiframe", "serve", str(files), "--port", str(port), "--database", url]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    postgresql.stop()
    try:
        server = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        assert server.stderr is not None
        assert server.stdout is not None
        assert "waiting for the database, 60 s at most" in (said := server.stderr.readline())
        assert PASSWORD not in said
        at = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{at}/healthz").status_code == 200
        ready = httpx.get(f"{at}/readyz")
        assert (ready.status_code, ready.json()["checks"]["catalog"]) == (503, "the database does not answer")
        away = httpx.get(f"{at}/dicom-web/studies")
        assert (away.status_code, away.json()["error"]) == (503, "CatalogUnavailable")
    finally:
        postgresql.start()
    assert server.stdout.readline() == f"Serving {at}/\n"
    assert httpx.get(f"{at}/readyz").json()["checks"]["catalog"] == "ok"
    deadline = time.monotonic() + 60
    while httpx.get(f"{at}/dicom-web/studies").status_code != 200:  # the scan has met the database, too
        assert time.monotonic() < deadline
        time.sleep(0.2)
    server.terminate()
    assert "the database answers" in server.communicate(timeout=60)[1]
    assert server.returncode == 0


def soon(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pids(server: Server) -> set[int]:
    return {p.pid for p in server.workers()}


def test_workers_that_are_started_again_while_the_database_is_away_wait_for_it(
    postgresql: PostgreSQL, url: str, files: Path, tmp_path: Path
) -> None:
    """However short a start waits, and however often workers may die: it is no start of the server, and no death."""
    (files / "a").write_bytes(dicom())
    options = ("--workers", "3", "--database", url, "--database-wait", "0")
    with serving([files], *options, cache=tmp_path / "cache") as server:
        postgresql.stop()
        try:
            before = pids(server)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            soon(lambda: len(pids(server) - before) == 3)
            instead = pids(server) - before
            for _ in range(20):
                away = server.get("dicom-web/studies")
                assert (away.status_code, away.json()["error"]) == (503, "CatalogUnavailable")
                assert server.get("healthz").status_code == 200
                time.sleep(0.1)
            assert server.process.poll() is None
            assert pids(server) == instead, "each waits, and is not started again and again"
        finally:
            postgresql.start()
        for _ in range(10):
            assert httpx.get(f"{server.url}dicom-web/studies").status_code == 200
        soon(lambda: server.get("readyz").status_code == 200)
        assert pids(server) == instead
        assert server.end().count("the database answers") <= 3
        assert server.process.returncode == 0


def test_a_renewal_waits_for_workers_that_wait_for_the_database(
    postgresql: PostgreSQL, url: str, files: Path, tmp_path: Path
) -> None:
    (files / "a").write_bytes(dicom())
    with serving([files], "--workers", "2", "--database", url, cache=tmp_path / "cache") as server:
        before = pids(server)
        postgresql.stop()
        try:
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            soon(lambda: len(pids(server) - before) == 2)
            instead = pids(server) - before
            server.process.send_signal(signal.SIGHUP)
            time.sleep(1)
            assert pids(server) == instead
        finally:
            postgresql.start()
        soon(lambda: len(pids(server)) == 2 and instead.isdisjoint(pids(server)))
        assert server.get("dicom-web/studies").status_code == 200
        assert "not reloaded" not in server.end()
        assert server.process.returncode == 0


@pytest.mark.long
def test_many_workers_wait_for_the_database_and_their_server_ends_once(
    postgresql: PostgreSQL, url: str, files: Path, tmp_path: Path
) -> None:
    (files / "a").write_bytes(dicom())
    options = ("--workers", "3", "--database", url)
    postgresql.stop()
    started = False
    try:
        with (
            pytest.raises(RuntimeError, match="not started, for the reason above"),
            serving([files], *options, "--database-wait", "1", cache=tmp_path / "cache"),
        ):
            started = True
        assert not started
        waiting = threading.Timer(2, postgresql.start)
        waiting.start()
        with serving([files], *options, cache=tmp_path / "cache") as server:
            soon(lambda: server.get("readyz").status_code == 200)  # it serves with the first, is ready with all
            assert len(pids(server)) == 3
    finally:
        waiting.join()


@pytest.mark.long
def test_a_renewal_while_the_database_is_away_leaves_those_that_know_something(
    postgresql: PostgreSQL, url: str, files: Path, tmp_path: Path
) -> None:
    (files / "a").write_bytes(dicom())
    options = ("--workers", "2", "--database", url, "--database-wait", "1")
    with serving([files], *options, cache=tmp_path / "cache") as server:
        first = pids(server)
        server.process.send_signal(signal.SIGHUP)  # those that take over can answer, both of them
        soon(lambda: len(pids(server)) == 2 and first.isdisjoint(pids(server)))
        before = pids(server)
        postgresql.stop()
        try:
            server.process.send_signal(signal.SIGHUP)
            soon(lambda: len(pids(server)) == 4)
            soon(lambda: pids(server) == before)
            assert server.get("healthz").status_code == 200
        finally:
            postgresql.start()
        server.process.send_signal(signal.SIGHUP)
        soon(lambda: len(pids(server)) == 2 and before.isdisjoint(pids(server)))
        assert server.get("dicom-web/studies").status_code == 200
        assert server.end().count("not reloaded") == 1
        assert server.process.returncode == 0
