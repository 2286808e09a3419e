"""A bucket that is slow, busy, hangs or hangs up, and a spool that is full: clear reasons, nothing lost, nothing left.

Between us and moto stands a proxy that misbehaves; all else is real.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from multiframe import shelves, storing
from multiframe.catalog import Catalog
from multiframe.errors import CatalogUnavailable, StoreError
from multiframe.settings import Settings
from multiframe.storing import Store, Upload
from multiframe.web import app
from tests.serving import address_of, serving
from tests.test_doors import Asked
from tests.test_faults import OUT_OF_RESOURCES, fill, frame, nothing_leaks, post, reason, small_disk
from tests.test_object_stores import Store as Bucket
from tests.test_object_stores import enter, moto
from tests.test_shelves import leftovers, objects
from tests.test_storing import SERIES, STUDY, catalogued, instance, put
from tests.test_stow import STUDIES

__all__ = ["moto"]  # a fixture

FRAMES = 80
SIZES = [3_000, 2_000_000]  # of three frames: the second is looked for before it is sent


class Proxy(ThreadingHTTPServer):
    """Passes requests on; `fault` says what becomes of those that write, and of how many (`times`).

    ``busy``: 503; ``at once``: 503 before the body has come; ``refused``: 403; ``conflict``: 409, as when two write at
    once; ``cut``: half the body is taken;
    ``unanswered``: it is passed on, and the answer is not; ``held``: nothing goes on until `free` is set.
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.there = urlsplit(endpoint).netloc
        self.fault, self.times, self.reads = "", 1_000_000, False
        self.free = threading.Event()
        self.writes = 0

    def meet(self, method: str) -> str:
        if method != "PUT" and not self.reads:
            return ""
        self.writes += 1
        if not self.fault or self.times <= 0:
            return ""
        self.times -= 1
        return self.fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: it is meant to fail."""


class _Passing(BaseHTTPRequestHandler):
    server: Proxy

    def _pass(self) -> None:
        self.close_connection = True
        fault = self.server.meet(self.command)
        size = int(self.headers.get("content-length", 0))
        if fault == "at once":
            self._answer(503)
            return
        if fault == "cut":
            self.rfile.read(size // 2)
            return
        body = self.rfile.read(size)
        if fault in (statuses := {"busy": 503, "refused": 403, "conflict": 409}):
            self._answer(statuses[fault])
            return
        if fault == "held":
            self.server.free.wait(60)
        far = HTTPConnection(self.server.there, timeout=30)
        far.request(self.command, self.path, body, dict(self.headers))
        answer = far.getresponse()
        got = answer.read()
        far.close()
        if fault != "unanswered":
            self._answer(answer.status, got, answer.getheaders())

    def _answer(self, status: int, body: bytes = b"<Error><Code>SlowDown</Code></Error>", headers: list = []) -> None:  # noqa: B006
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = {name.lower(): value for name, value in headers}.get("content-length", "0")
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _pass

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def s3(moto: Bucket, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[Bucket, str]:
    server, bucket = enter(moto, monkeypatch), f"faults-{abs(hash(request.node.name))}"
    server.client.create_bucket(Bucket=bucket)
    return server, bucket


@pytest.fixture
def proxy(s3: tuple[Bucket, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with Proxy(s3[0].environment["AWS_ENDPOINT_URL"]) as proxy:
        threading.Thread(target=proxy.serve_forever, args=[0.01]).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        yield proxy
        proxy.free.set()
        proxy.shutdown()


@pytest.fixture
def store(
    proxy: Proxy, s3: tuple[Bucket, str], catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    monkeypatch.setattr("multiframe.shelves.random.uniform", lambda a, b: 0.01)
    return Store(f"s3://{s3[1]}/archive", catalog, spool=tmp_path / "spool")


def is_clean(store: Store, s3: tuple[Bucket, str]) -> bool:
    return not list(store.incoming.iterdir()) and not leftovers(s3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("busy", storing.OUT_OF_RESOURCES),
        ("at once", storing.OUT_OF_RESOURCES),
        ("refused", storing.PROCESSING),
        ("conflict", storing.PROCESSING),
        ("cut", storing.PROCESSING),
    ],
)
def test_what_the_bucket_does_not_take_is_refused_and_leaves_nothing(
    store: Store, s3: tuple[Bucket, str], proxy: Proxy, catalog: Catalog, fault: str, told: int, size: int
) -> None:
    data = instance(1, size=size)
    proxy.fault = fault
    assert put(store, data, piece=1 << 20) == [told]
    assert proxy.writes == (1 if fault == "refused" else 4), "what cannot succeed is not tried again"
    assert objects(s3) == {}
    assert catalogued(catalog) == set()
    assert is_clean(store, s3)
    proxy.fault = ""
    assert put(store, data, piece=1 << 20) == [None]
    assert list(objects(s3).values()) == [data]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fault", ["busy", "at once", "conflict", "cut", "unanswered"])
def test_what_passes_is_not_noticed(
    store: Store, s3: tuple[Bucket, str], proxy: Proxy, catalog: Catalog, fault: str, size: int
) -> None:
    """Where the object was created and the answer was lost, it lies there when it is tried again: it is the same."""
    data = instance(1, size=size)
    proxy.fault, proxy.times = fault, 2
    assert put(store, data, piece=1 << 20) == [None]
    assert list(objects(s3).values()) == [data]
    assert catalogued(catalog) == {f"{SERIES}.1"}
    assert is_clean(store, s3)


def test_what_the_bucket_does_not_delete_is_still_there(
    store: Store, s3: tuple[Bucket, str], proxy: Proxy, catalog: Catalog
) -> None:
    assert put(store, instance(1)) == [None]
    proxy.fault, proxy.reads = "refused", True
    with pytest.raises(StoreError, match="does not delete"):
        list(store.delete(STUDY))
    assert catalogued(catalog) == {f"{SERIES}.1"}
    proxy.fault = ""
    assert list(store.delete(STUDY)) == [f"{SERIES}.1"]
    assert (objects(s3), catalogued(catalog)) == ({}, set())


def test_one_that_hangs_is_given_up(
    store: Store, s3: tuple[Bucket, str], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "_PATIENCE", 0.3)
    proxy.fault = "held"  # until this test lets it go
    assert put(store, instance(1)) == [storing.PROCESSING]
    assert is_clean(store, s3)
    proxy.fault = ""
    proxy.free.set()
    assert put(store, instance(1)) == [None]


def test_a_catalog_that_is_away_behind_the_bucket(
    store: Store, s3: tuple[Bucket, str], catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken away again, another server may have been told that it is there; who sends it again has it."""

    def away(files: object) -> None:
        raise CatalogUnavailable("it does not answer")

    with monkeypatch.context() as m:
        m.setattr(catalog, "add", away)
        assert put(store, instance(1)) == [storing.PROCESSING]
    assert is_clean(store, s3)
    assert len(objects(s3)) == 1
    assert put(store, instance(1)) == [None]
    assert catalogued(catalog) == {f"{SERIES}.1"}


def test_others_are_served_while_the_bucket_hangs(
    s3: tuple[Bucket, str], proxy: Proxy, path: Path, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    options = ["--store", f"s3://{s3[1]}", "--spool", str(spool), "--memory", "16MiB"]
    with serving([path], *options, cache=tmp_path / "cache") as server:
        url = address_of(path)
        frame(server, url)
        assert post(server, instance(100)).status_code == 200
        answers: list[httpx.Response] = []

        def store(n: int) -> None:
            with httpx.Client(base_url=server.url, timeout=60, headers={"content-type": "application/dicom"}) as client:
                answers.append(client.post(STUDIES, content=instance(n, size=100_000)))

        def begin(numbers: range) -> list[threading.Thread]:
            threads = [threading.Thread(target=store, args=[n]) for n in numbers]
            for thread in threads:
                thread.start()
            return threads

        for thread in begin(range(20, 28)):  # threads that store, and stay
            thread.join()
        answers.clear()
        with nothing_leaks(server):
            proxy.fault, proxy.writes = "held", 0
            threads = begin(range(10))
            deadline = time.monotonic() + 60
            while proxy.writes < 4:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert frame(server, url, 2).status_code == 200
            assert server.get("dicom-web/instances").status_code == 200
            assert answers == []  # they still wait: nobody has waited for them
            proxy.fault = ""
            proxy.free.set()
            for thread in threads:
                thread.join()
            assert [answer.status_code for answer in answers] == [200] * 10
            assert not list((spool / ".multiframe-incoming").iterdir())


def test_a_spool_that_is_full(s3: tuple[Bucket, str], path: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with (
        small_disk(spool, "3m"),
        serving([], "--store", f"s3://{s3[1]}", "--spool", str(spool), cache=tmp_path / "cache", wait=False) as server,
    ):
        assert post(server, instance(1)).status_code == 200
        with nothing_leaks(server):
            assert reason(post(server, path.read_bytes())) == OUT_OF_RESOURCES
            ballast = fill(spool)
            assert reason(post(server, instance(2))) == OUT_OF_RESOURCES
            assert not list((spool / ".multiframe-incoming").iterdir())
            ballast.unlink()
            assert post(server, instance(2)).status_code == 200
    assert len(objects(s3)) == 2


def test_a_start_waits_for_no_bucket_and_finishes_what_a_crash_left_once_it_is_back(
    s3: tuple[Bucket, str], proxy: Proxy, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_SWEPT", 0.1)
    monkeypatch.setattr(app, "_SWEPT_AGAIN", 0.05)
    url, spool = f"s3://{s3[1]}", tmp_path / "spool"
    store = Store(url, catalog, spool=spool)
    upload = Upload(store)
    arriving = upload.begin()
    arriving.write([instance(1)])
    arriving.finish()
    with monkeypatch.context() as m:
        m.setattr(catalog, "add", lambda files: (_ for _ in ()).throw(KeyboardInterrupt))  # as when it is killed there
        with pytest.raises(KeyboardInterrupt):
            upload.keep()
    upload._lock, lock = -1, upload._lock
    os.close(lock)
    proxy.fault, proxy.reads = "held", True
    with Asked(catalog, Settings(store=url, spool=str(spool))) as client:
        assert client.get("/dicom-web/instances").status_code == 204
        assert list(store.incoming.iterdir())
        proxy.fault = ""
        proxy.free.set()
        deadline = time.monotonic() + 20
        while list(store.incoming.iterdir()):
            assert time.monotonic() < deadline
            client._runner.run(asyncio.sleep(0.02))
        assert len(client.get("/dicom-web/instances").json()) == 1
