"""What surrounds a server fails, and comes back: clear errors, no loss, no leak, and no restart.

Real processes, real sockets, a real full disk (a small tmpfs), real limits of the system. Where it takes root to make a
fault, others skip it.
"""

import contextlib
import os
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset

from multiframe.testing import cine, part10
from tests.far import FarServer, Fault
from tests.serving import OCTETS, Server, address_of, command, serving, wait_kept
from tests.test_storing import SERIES
from tests.test_storing import instance as made

ROOT = Path(__file__).resolve().parents[1]
DICOM = "multipart/related; type=application/dicom; transfer-syntax=*"
FRAMES = 80
OUT_OF_RESOURCES = 0xA700


@pytest.fixture(scope="module")
def url(path: Path) -> str:
    return address_of(path)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A disk of its own, of few bytes; gives how it is mounted anew: another size, read-only."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("it takes root to mount a small disk")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    with open(folder / "ballast", "wb", buffering=0) as ballast:
        for size in (65536, 1):
            with contextlib.suppress(OSError):
                while ballast.write(b"\0" * size):
                    pass
    return folder / "ballast"


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def refused(answer: httpx.Response, status: int, error: str) -> None:
    """It is an answer of ours: which error, in words, as JSON, and no path."""
    assert answer.status_code == status, answer.text[:300]
    told = answer.json()
    assert told["error"] == error
    assert len(told["message"]) > 15
    assert "/tmp" not in told["message"]
    assert (status == 503) == ("retry-after" in answer.headers)


def post(server: Server, data: bytes) -> httpx.Response:
    return server.client.post("dicom-web/studies", content=data, headers={"content-type": "application/dicom"})


def reason(answer: httpx.Response) -> int:
    """The Failure Reason of the one instance that was not stored."""
    assert answer.status_code == 409
    told = answer.json()
    (item,) = (told.get("00081198") or told["0008119A"])["Value"]
    return int(item["00081197"]["Value"][0])


@contextmanager
def nothing_leaks(server: Server) -> Iterator[None]:
    """Once the fault is over: the same process, with as many descriptors and threads.

    Give or take a few that are kept for later, such as the last data sets that were inflated. Connections of the
    catalog are not counted: how many are open depends on how many were wanted at once, and their pool has a bound.
    """
    worker = server.worker()
    before = descriptors(worker.pid), worker.num_threads()
    yield
    assert server.worker().pid == worker.pid, "it was not to be restarted"
    until(lambda: descriptors(worker.pid) <= before[0] + 5)
    assert worker.num_threads() <= before[1] + 8, "threads of a pool stay, and are few"


def descriptors(pid: int) -> int:
    """How many a process has, but for those of the catalog."""
    there = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it is closed by now
            there += "/catalog-" not in os.readlink(link)
    return there


def frame(server: Server, url: str, number: int = 3) -> httpx.Response:
    return server.get(f"{url}/frames/{number}", accept=OCTETS)


def listed(server: Server) -> set[str]:
    answer = server.get("dicom-web/instances")
    return {one["00080018"]["Value"][0] for one in answer.json()} if answer.status_code == 200 else set()


# ---------------------------------------------------------------------------------------------------- disks


def test_a_store_that_is_full_and_read_only_and_well_again(path: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with small_disk(store, "3m") as remount, serving([], "--store", str(store), cache=tmp_path, wait=False) as server:
        assert post(server, made(1)).status_code == 200
        with nothing_leaks(server):
            assert reason(post(server, path.read_bytes())) == OUT_OF_RESOURCES  # full while it arrives
            ballast = fill(store)
            assert reason(post(server, made(2))) == OUT_OF_RESOURCES  # full from the first byte on
            assert not list((store / ".multiframe-incoming").iterdir()), "what was refused is gone"
            assert f"{SERIES}.1" in listed(server)
            ballast.unlink()
            assert post(server, made(2)).status_code == 200
            remount("ro")
            refused(post(server, made(3)), 507, "StoreError")
            assert f"{SERIES}.2" in listed(server)
            remount("rw,size=64m")
            assert post(server, made(3)).status_code == 200
            assert post(server, path.read_bytes()).status_code == 200
        assert len(list(store.rglob("*.dcm"))) == len(listed(server)) == 4


def test_a_store_whose_disk_is_gone_and_back(tmp_path: Path) -> None:
    """An empty folder is there meanwhile, as below a mount: nothing is stored there, and nothing is forgotten."""
    store, away = tmp_path / "store", tmp_path / "away"
    options = ["--store", str(store), "--rescan", "0.5"]
    with serving([], *options, cache=tmp_path, wait=False) as server:
        assert post(server, made(1)).status_code == 200
        with nothing_leaks(server):
            store.rename(away)
            store.mkdir()
            time.sleep(2)  # it is looked through now
            refused(post(server, made(2)), 507, "StoreError")
            assert server.get("readyz").status_code == 503
            assert listed(server) == {f"{SERIES}.1"}
            assert list(store.iterdir()) == []
            store.rmdir()
            away.rename(store)
            assert server.get("readyz").status_code == 200
            assert post(server, made(2)).status_code == 200
        assert listed(server) == {f"{SERIES}.1", f"{SERIES}.2"}
    store.rename(away)
    store.mkdir()
    again = subprocess.run(
        [sys.executable, "-m", "multiframe", "serve", *options, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert (again.returncode, "is its disk mounted" in again.stderr) == (3, True)
    assert list(store.iterdir()) == []
    store.rmdir()
    away.rename(store)
    with serving([], *options, cache=tmp_path, wait=False) as server:
        assert listed(server) == {f"{SERIES}.1", f"{SERIES}.2"}


def test_a_cache_that_is_full_costs_no_answer(path: Path, url: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with small_disk(cache, "3m"), serving([path], "--store", str(tmp_path / "store"), cache=cache) as server:
        with nothing_leaks(server):
            ballast = fill(cache)
            first = frame(server, url)
            assert first.status_code == 200
            assert frame(server, url, FRAMES).status_code == 200, "found, though it cannot be kept where"
            assert server.get("dicom-web/studies").status_code == 200
            assert reason(post(server, made(2))) == OUT_OF_RESOURCES
            assert not list((tmp_path / "store").rglob("*.dcm")), "what is not acknowledged is not there"
            ballast.unlink()
            assert post(server, made(2)).status_code == 200
            assert frame(server, url).content == first.content
        server.process.terminate()
        assert "database or disk is full" in server.process.communicate()[1], "the log says why"


@pytest.mark.parametrize("fault", ["full", "ro"])
def test_a_start_on_a_disk_that_cannot_be_written_to(path: Path, tmp_path: Path, fault: str) -> None:
    cache = tmp_path / "cache"
    with small_disk(cache, "1m") as remount:
        fill(cache) if fault == "full" else remount("ro")
        with (
            pytest.raises(RuntimeError, match="full" if fault == "full" else "Read-only"),
            serving([path], cache=cache),
        ):
            pass


def test_no_room_to_inflate(tmp_path: Path) -> None:
    """A deflated data set is inflated into TMPDIR: when that is full, those alone wait who ask for such a file."""
    (folder := tmp_path / "files").mkdir()
    pixels = os.urandom(1 << 20)
    for name, extra in (("first", Dataset()), ("second", Dataset())):
        extra.SOPInstanceUID = f"{SERIES}.{len(name)}"
        data = part10([pixels, pixels], rows=1024, columns=1024, syntax="1.2.840.10008.1.2.1.99", extra=extra)
        (folder / f"{name}.dcm").write_bytes(data)
    cine(folder / "plain.dcm", frames=2, rows=96, columns=128)
    first, second, plain = (address_of(folder / f"{name}.dcm") for name in ("first", "second", "plain"))
    tmp = tmp_path / "tmp"
    with (
        small_disk(tmp, "8m"),
        command("serve", folder, "--port", "0", cache=tmp_path, TMPDIR=str(tmp)) as (process, at),
        Server(process, at) as server,
    ):
        server.wait_scanned()
        assert pixels in frame(server, first, 1).content
        with nothing_leaks(server):
            ballast = fill(tmp)
            refused(frame(server, second, 1), 503, "SourceError")
            assert pixels in frame(server, first, 1).content
            assert frame(server, plain, 1).status_code == 200
            ballast.unlink()
            assert pixels in frame(server, second, 2).content


# ---------------------------------------------------------------------------------------------------- the catalog


def test_a_catalog_that_is_taken_away_is_made_again(path: Path, url: str, tmp_path: Path) -> None:
    """Nothing is lost with it: what was stored lies in the store. All folders are read again at once."""
    with serving([path], "--store", str(tmp_path / "store"), cache=tmp_path) as server:
        assert post(server, made(2)).status_code == 200
        first, all_of_it = frame(server, url), listed(server)
        for file in (tmp_path / "multiframe").glob("catalog-*.sqlite*"):
            file.unlink()
        for _ in range(3):
            assert server.get("dicom-web/instances").status_code in (200, 204), "an empty catalog is no error"
        assert post(server, made(3)).status_code == 200
        assert f"{SERIES}.3" in listed(server)
        until(lambda: listed(server) == all_of_it | {f"{SERIES}.3"})
        assert frame(server, url).content == first.content
        server.process.terminate()
        assert "was taken away" in server.process.communicate()[1]


def test_a_catalog_that_was_copied_while_it_was_written_to(path: Path, url: str, tmp_path: Path) -> None:
    """As the how-to says: a back-up by SQLite is one, a restored catalog is believed, and no header is read again."""
    store = ("--store", str(tmp_path / "store"))
    with serving([path], *store, cache=tmp_path) as server:
        assert post(server, made(1)).status_code == 200
        (database,) = (tmp_path / "multiframe").glob("catalog-*.sqlite")
        live, copy = sqlite3.connect(database), sqlite3.connect(tmp_path / "copy")
        with contextlib.closing(live), contextlib.closing(copy):
            live.backup(copy)
        assert post(server, made(2)).status_code == 200
    for file in (tmp_path / "multiframe").glob("catalog-*"):
        file.unlink()
    (tmp_path / "copy").rename(database)
    with serving([path], *store, cache=tmp_path) as server:
        until(lambda: f"{SERIES}.2" in listed(server))
        assert {f"{SERIES}.1", f"{SERIES}.2"} < listed(server)
        assert server.wait_scanned()["registered"] == 1, "what was stored after the back-up, and nothing else"
        assert frame(server, url).status_code == 200


def test_a_catalog_that_others_keep_busy(path: Path, url: str, tmp_path: Path) -> None:
    with serving([path], "--store", str(tmp_path / "store"), cache=tmp_path) as server:
        first = frame(server, url)
        wait_kept(tmp_path, url.rpartition("/")[2])
        (database,) = (tmp_path / "multiframe").glob("catalog-*.sqlite")
        with nothing_leaks(server), contextlib.closing(sqlite3.connect(database, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert frame(server, url).content == first.content, "readers wait for nobody: it is still busy"
            assert server.get("dicom-web/studies").status_code == 200
            threading.Timer(1, other.rollback).start()
            assert post(server, made(2)).status_code == 200, "a writer waits for its turn"
        assert f"{SERIES}.2" in listed(server)


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("what", ["cut", "replaced", pytest.param("written over", marks=pytest.mark.long)])
def test_a_file_that_changes_while_it_is_sent(path: Path, url: str, tmp_path: Path, what: str) -> None:
    """Whoever gets all of it gets the old file or none: never half of each."""
    (folder := tmp_path / "files").mkdir()
    copy = folder / "cine.dcm"
    copy.write_bytes(path.read_bytes())
    with serving([copy], cache=tmp_path) as server:
        whole = server.get(url, accept=DICOM).content
        with nothing_leaks(server):
            with server.client.stream("GET", url, headers={"accept": DICOM}) as answer:
                pieces = answer.iter_raw(65536)
                got = next(pieces)
                if what == "cut":
                    os.truncate(copy, 1 << 20)
                elif what == "replaced":
                    (folder / "new").write_bytes(path.read_bytes()[:-1000])
                    (folder / "new").rename(copy)
                else:
                    with copy.open("r+b") as file:
                        file.seek(3 << 20)
                        file.write(b"\0" * (2 << 20))
                broken = False
                try:
                    for piece in pieces:
                        got += piece
                except httpx.HTTPError:
                    broken = True
            assert broken
            assert whole.startswith(got)
            copy.write_bytes(path.read_bytes())
            assert frame(server, url).status_code == 200
            assert len(server.get(url, accept=DICOM).content) == len(whole)


def test_an_origin_that_is_away_slow_or_hangs_up(path: Path, url: str, tmp_path: Path) -> None:
    """What is passing is asked for again behind the client's back; else the client is told; others notice nothing."""
    cine(tmp_path / "near.dcm", frames=2, rows=96, columns=128)
    near, place = address_of(tmp_path / "near.dcm"), "/d/cine.dcm"
    with (
        FarServer({place: path}) as far,
        command("serve", far.url(place), tmp_path / "near.dcm", "--port", "0", cache=tmp_path) as (process, at),
        Server(process, at) as server,
    ):
        server.wait_scanned()
        until(lambda: len(listed(server)) == 2)
        frames = {number: frame(server, url, number).content for number in (3, 20)}
        frame(server, near, 1)
        with nothing_leaks(server):
            for fault, status in (
                (Fault(status=503), 502),
                (Fault(status=503, times=2), 200),
                (Fault(status=404), 404),
                (Fault(cut=1000), 502),
                (Fault(cut=1000, cuts=2), 200),
                (Fault(trickle=0.000005), 200),
            ):
                far.faults[place] = fault
                answer = frame(server, url, 20)
                if status == 200:
                    assert (answer.status_code, answer.content) == (200, frames[20])
                else:
                    refused(answer, status, "SourceNotFound" if status == 404 else "SourceError")
                    assert str(far.port) not in answer.text
                assert frame(server, near, 1).status_code == 200
                del far.faults[place]
                assert frame(server, url, 3).content == frames[3]


# ---------------------------------------------------------------------------------------------------- clients


@pytest.mark.parametrize(
    "tls", [pytest.param((), id="http"), pytest.param(("--tls-self-signed",), id="tls", marks=pytest.mark.long)]
)
def test_64_clients_that_vanish_in_the_middle_of_a_frame(
    path: Path, url: str, tmp_path: Path, tls: tuple[str, ...]
) -> None:
    """All memory there is was theirs, and it comes back: nobody after them waits."""
    options = ("--memory", "1MiB", "--memory-wait", "600", *tls)  # longer than the client here waits
    with serving([path], *options, cache=tmp_path, verify=False) as server:
        frame(server, url)
        server.get(url, accept=DICOM)
        worker = server.worker()
        with nothing_leaks(server):
            where = httpx.URL(server.url)
            request = f"GET /{url} HTTP/1.1\r\nHost: localhost\r\nAccept: {DICOM}\r\n\r\n".encode()
            with ExitStack() as open_ones:
                for _ in range(64):
                    client: socket.socket = socket.create_connection((where.host, where.port or 0))
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    # With a reset, as by a machine that was switched off and on: no farewell.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if tls:
                        client = _trusting().wrap_socket(client)
                    open_ones.enter_context(client)
                    client.sendall(request)
                until(lambda: worker.num_fds() > 64)
                time.sleep(0.5)
            spent = sum(worker.cpu_times()[:2])
            assert frame(server, url).status_code == 200
            assert len(server.get(url, accept=DICOM).content) > path.stat().st_size
            # It takes 0.1 s, over TLS 1 s where others keep the machine busy, and 0.06 s of a processor.
            assert sum(worker.cpu_times()[:2]) - spent < 1, "what is for nobody is not read"


def _trusting() -> Any:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_descriptors_that_run_out(path: Path, url: str, tmp_path: Path) -> None:
    """Who has a connection is told to come back; those who come in vain are let go; then all is as before."""
    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'multiframe', *sys.argv[1:]])"
    )
    with command("serve", path, "--port", "0", cache=tmp_path, program=("-c", code)) as (process, at):
        server = Server(process, at)
        with server.client:
            server.wait_scanned()
            first = frame(server, url)
            assert server.get(f"{url}/rendered", accept="image/jpeg").status_code == 200
            with nothing_leaks(server):
                where = httpx.URL(at)
                crowd = [socket.create_connection((where.host, where.port or 0)) for _ in range(80)]
                until(lambda: server.worker().num_fds() >= 63)
                refused(frame(server, url, 10), 503, "SourceError")
                refused(server.get(f"{url}/frames/9/rendered", accept="image/jpeg"), 503, "SourceError")
                for client in crowd:
                    client.close()
                until(lambda: server.worker().num_fds() < 50)
                assert frame(server, url).content == first.content
                assert server.get(f"{url}/frames/9/rendered", accept="image/jpeg").status_code == 200


# ---------------------------------------------------------------------------------------------------- the clock


@pytest.mark.long
def test_a_clock_that_jumps(path: Path, url: str, tmp_path: Path) -> None:
    """A year ahead and back: the same bytes under the same tags, lists, and storing; nobody dies of it."""
    library = subprocess.run([ROOT / "tools" / "faketime"], capture_output=True, text=True, check=True).stdout.strip()
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "FAKETIME_DONT_RESET": "1",
    }  # fmt: skip
    store = ("--store", str(tmp_path / "store"))
    with command("serve", path, "--port", "0", *store, cache=tmp_path, **environment) as (process, at):
        server = Server(process, at)
        with server.client:
            server.wait_scanned()
            first = frame(server, url)
            dates = set()
            with nothing_leaks(server):
                for n, jump in enumerate(("+0", "+370d", "-370d"), 2):
                    clock.write_text(jump)
                    time.sleep(1.1)  # uvicorn's Date is a second old at most
                    again = frame(server, url)
                    assert (again.status_code, again.content) == (200, first.content)
                    assert again.headers["etag"] == first.headers["etag"]
                    assert post(server, made(n)).status_code == 200
                    assert f"{SERIES}.{n}" in listed(server)
                    assert not server.get("api/status").json()["scanning"]
                    dates.add(again.headers["date"].split()[3])
            assert len(dates) == 3, "the clock did jump"
