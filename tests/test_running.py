"""Ending and renewing: what was begun is finished, nobody new is let in, nothing is left behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.serving import address_of, command

FRAMES = 60


@pytest.fixture(scope="module")
def file(path: Path) -> str:
    """The address of the file whole: some megabytes, far more than sockets hold."""
    return address_of(path)


class Slow:
    """A client that has asked, has the first bytes, and takes the others when it is told to."""

    def __init__(self, url: str, path: str, accept: str) -> None:
        self.client = httpx.Client(verify=False, timeout=60)  # noqa: S501 -- certificates made for the test
        asked = self.client.build_request("GET", url + path, headers={"accept": accept})
        self.answer = self.client.send(asked, stream=True)
        assert self.answer.status_code == 200
        self._rest = self.answer.iter_raw(1 << 16)
        self.got = next(self._rest)

    def take_all(self) -> bytes:
        for chunk in self._rest:
            self.got += chunk
            time.sleep(0.0005)
        return self.got


DICOM = "multipart/related; type=application/dicom; transfer-syntax=*"


@contextmanager
def slow(url: str, path: str, accept: str = DICOM) -> Iterator[Slow]:
    client = Slow(url, path, accept)
    try:
        yield client
    finally:
        client.answer.close()
        client.client.close()


def refused(url: str) -> bool:
    where = httpx.URL(url)
    try:
        with socket.create_connection((where.host, where.port), timeout=5):
            return False
    except ConnectionRefusedError:
        return True


def until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def workers(process: subprocess.Popen[str]) -> set[int]:
    found = set()
    for child in family(process):
        with suppress(psutil.NoSuchProcess):  # a zombie is one, too
            if "worker" in child.cmdline():
                found.add(child.pid)
    return found


TLS = [pytest.param((), id="http"), pytest.param(("--tls-self-signed",), id="tls")]


@pytest.mark.parametrize("tls", TLS)
def test_what_is_under_way_is_finished_and_nobody_new_is_let_in(
    path: Path, file: str, tmp_path: Path, tls: tuple[str, ...]
) -> None:
    with command("serve", path, "--port", "0", "--workers", "2", *tls, cache=tmp_path) as (process, url):
        whole = httpx.get(url + file, headers={"accept": DICOM}, verify=False, timeout=60).content  # noqa: S501
        assert len(whole) > path.stat().st_size > 4 << 20
        children = family(process)
        with slow(url, file) as first, slow(url, file) as second:
            process.send_signal(signal.SIGTERM)
            until(lambda: refused(url))
            assert process.poll() is None
            assert first.take_all() == whole
            assert process.poll() is None, "the other one is not done"
            assert second.take_all() == whole
        assert process.wait(15) == 0
    assert psutil.wait_procs(children, 5)[1] == []


@pytest.mark.parametrize("tls", TLS)
def test_who_takes_too_long_is_left(path: Path, file: str, tmp_path: Path, tls: tuple[str, ...]) -> None:
    """By a server that ends as it should: the parent had to kill nobody, and the answer is in the log."""
    options, log = ("--shutdown-timeout", "1", *tls), tmp_path / "access.log"
    with command("serve", path, "--port", "0", "--access-log", log, *options, cache=tmp_path) as (process, url):
        children = family(process)
        with slow(url, file) as client:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert '"ended":"broken off"' in log.read_text()
            with pytest.raises(httpx.HTTPError):
                client.take_all()
    assert psutil.wait_procs(children, 5)[1] == []


class Sender:
    """A client that stores one instance, as slowly as it is told to."""

    def __init__(self, url: str, data: bytes) -> None:
        where = httpx.URL(url)
        self._socket = socket.create_connection((where.host, where.port or 0), timeout=30)
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        self._socket.sendall(f"{head}Content-Type: application/dicom\r\n\r\n".encode())
        self.data = data

    def send(self, start: int, stop: int | None = None) -> None:
        self._socket.sendall(self.data[start:stop])

    def status(self) -> int:
        """The status of the answer; 0: the connection was closed without one."""
        with self._socket:
            try:
                line = self._socket.makefile("rb").readline()
            except OSError:
                return 0
        return int(line.split()[1]) if line else 0


def test_an_upload_under_way_is_stored_or_leaves_no_trace(path: Path, tmp_path: Path) -> None:
    store, data = tmp_path / "store", path.read_bytes()
    options = ("--store", store, "--port", "0", "--shutdown-timeout")
    with command("serve", *options, "30", cache=tmp_path) as (process, url):
        sender = Sender(url, data)
        sender.send(0, 100_000)
        until(lambda: list((store / ".multiframe-incoming").rglob("*~*")))
        process.send_signal(signal.SIGTERM)
        until(lambda: refused(url))
        sender.send(100_000)
        assert sender.status() == 200
        assert process.wait(15) == 0
    (kept,) = store.rglob("*.dcm")
    assert kept.read_bytes() == data
    kept.unlink()
    with command("serve", *options, "1", cache=tmp_path) as (process, url):
        sender = Sender(url, data)
        sender.send(0, 100_000)
        until(lambda: list((store / ".multiframe-incoming").rglob("*~*")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert sender.status() != 200
    assert not [p for p in store.rglob("*") if p.is_file()]
    assert not list((store / ".multiframe-incoming").iterdir())


def test_a_second_signal_ends_it_at_once(path: Path, file: str, tmp_path: Path) -> None:
    options = ("--shutdown-timeout", "600")
    with command("serve", path, "--port", "0", *options, cache=tmp_path) as (process, url):
        children = family(process)
        with slow(url, file):
            process.send_signal(signal.SIGTERM)
            until(lambda: refused(url))
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert psutil.wait_procs(children, 5)[1] == []


@pytest.mark.parametrize("tls", [TLS[0], pytest.param(("--tls-self-signed",), id="tls", marks=pytest.mark.long)])
def test_a_renewal_is_not_noticed(path: Path, file: str, tmp_path: Path, tls: tuple[str, ...]) -> None:
    """Other workers take over: answers under way are finished by those that began them, no request is lost."""
    with command("serve", path, "--port", "0", "--workers", "2", *tls, cache=tmp_path) as (process, url):
        whole = httpx.get(url + file, headers={"accept": DICOM}, verify=False, timeout=60).content  # noqa: S501
        before = workers(process)
        statuses, stop = [], threading.Event()

        def ask() -> None:
            while not stop.is_set():
                statuses.append(httpx.get(url + "api/status", verify=False).status_code)  # noqa: S501

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            with slow(url, file) as client:
                process.send_signal(signal.SIGHUP)

                def fresh() -> set[int]:
                    return workers(process) - before

                until(lambda: len(fresh()) == 2)
                time.sleep(0.5)
                assert client.take_all() == whole
            until(lambda: not any(psutil.pid_exists(pid) for pid in before))
        finally:
            stop.set()
            asking.join(20)
        assert set(statuses) == {200}
        assert process.poll() is None


def test_a_certificate_that_is_no_more_stops_no_server(path: Path, tmp_path: Path) -> None:
    from multiframe.web.over_tls import self_signed

    made = self_signed(tmp_path, ("localhost",))
    options = ("--tls-cert", str(made.cert), "--tls-key", str(made.key))
    with command("serve", path, "--port", "0", *options, cache=tmp_path) as (process, url):
        before = workers(process)
        assert httpx.get(url + "api/status", verify=False).status_code == 200  # noqa: S501
        good = made.key.read_bytes()
        made.key.write_text("no key")
        process.send_signal(signal.SIGHUP)
        until(lambda: workers(process) - before)
        until(lambda: workers(process) == before)
        assert httpx.get(url + "api/status", verify=False).status_code == 200  # noqa: S501
        made.key.write_bytes(good)
        process.send_signal(signal.SIGHUP)
        until(lambda: before.isdisjoint(workers(process)))
        assert httpx.get(url + "api/status", verify=False).status_code == 200  # noqa: S501


def test_a_service_manager_is_told_and_an_idle_connection_keeps_nobody(path: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(30)
        with subprocess.Popen(
            [sys.executable, "-m", "multiframe", "serve", path, "--port", "0"], stdout=subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "XDG_CACHE_HOME": str(tmp_path)},
        ) as process:  # fmt: skip
            try:
                assert told.recv(100) == b"READY=1"
                assert process.stdout is not None
                url = process.stdout.readline().split()[1].decode()
                with httpx.Client() as client:
                    assert client.get(url + "api/status").status_code == 200
                    process.send_signal(signal.SIGTERM)
                    assert told.recv(100) == b"STOPPING=1"
                    assert process.wait(20) == 0
            finally:
                process.kill()


def test_the_parent_is_little_and_a_signal_that_comes_at_any_time_ends_it(path: Path, tmp_path: Path) -> None:
    """It begins anew without what parsed the command line; also who interrupts just then is heard."""
    with command("serve", path, "--port", "0", cache=tmp_path) as (process, _):
        assert psutil.Process(process.pid).memory_info().rss < 26 << 20
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    for wait in (0.2, 0.3, 0.4, 0.5, 0.6):
        options = [path, "--port", "0", "--cache", tmp_path]
        started = subprocess.Popen(
            [sys.executable, "-m", "multiframe", "serve", *map(str, options)], stderr=subprocess.PIPE, text=True
        )
        time.sleep(wait)
        started.send_signal(signal.SIGTERM)
        _, said = started.communicate(timeout=30)
        assert started.returncode in (0, -signal.SIGTERM), said  # the second: before there was anybody to hear it
        assert "Traceback" not in said


def test_who_was_killed_starts_again_at_once(path: Path, tmp_path: Path) -> None:
    """A worker that was only beginning outlives its parent for a moment, has the port, and ends without complaint."""
    with command("serve", path, "--port", "0", "--workers", "1", cache=tmp_path) as (process, url):
        port = str(httpx.URL(url).port)
        (before,) = workers(process)
        psutil.Process(before).kill()
        until(lambda: workers(process) - {before})
        process.kill()
        with command("serve", path, "--port", port, cache=tmp_path) as (_, again):
            assert httpx.get(f"{again}readyz", timeout=60).status_code in (200, 503)
        said = process.communicate(timeout=60)[1]
    assert "starting another" in said
    assert "unforeseen" not in said
