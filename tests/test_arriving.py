"""Frames of instances that are still arriving: by any process, as soon as they are whole, and no trace if they fail."""

import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from multiframe.catalog import Catalog
from multiframe.instance import open_instance
from multiframe.settings import Settings
from multiframe.storing import Upload
from multiframe.web import arriving
from tests.serving import serving
from tests.test_doors import Asked
from tests.test_storing import SERIES, STUDY, instance
from tests.test_stow import HEAD

UID = f"{SERIES}.1"
ADDRESS = f"dicom-web/studies/{STUDY}/series/{SERIES}/instances/{UID}"
JPEGS = {"accept": "image/jpeg"}


@pytest.fixture
def data():
    return instance(1, size=90_000, frames=3)


def frame(data, n, tmp_path):
    (tmp_path / "whole").write_bytes(data)
    (found,) = open_instance(tmp_path / "whole").encoded([n - 1])
    return found.data


@pytest.fixture
def some(data, tmp_path):
    """As much as holds one frame and a part of the next."""
    (tmp_path / "whole").write_bytes(data)
    return open_instance(tmp_path / "whole").index[0].stop + 5_000


def test_frames_of_what_is_arriving_are_given_by_any_process(tmp_path, data, some):
    """One connection sends, others ask, each perhaps of another process."""
    wanted = [frame(data, n, tmp_path) for n in (1, 2, 3)]
    head = b"--frontier\r\nContent-Type: application/dicom\r\n\r\n"
    with serving([], "--store", str(tmp_path / "store"), "--workers", "2", cache=tmp_path / "cache",
                 wait=False) as server:  # fmt: skip
        parts = urlsplit(server.url)

        def sending():
            s = socket.create_connection((parts.hostname, parts.port), 20)
            s.sendall((HEAD + "Transfer-Encoding: chunked\n\n").replace("\n", "\r\n").encode())
            return s

        def send(s, piece):
            s.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))

        def soon(path, status=200):
            deadline = time.monotonic() + 60
            while (answer := server.client.get(path, headers=JPEGS)).status_code != status:
                assert time.monotonic() < deadline, answer.text
                time.sleep(0.02)
            return answer

        with sending() as s:
            send(s, head + data[:some])
            answer = soon(f"{ADDRESS}/frames/1")
            assert answer.content == wanted[0]
            assert answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers
            told = server.get(f"{ADDRESS}/metadata")
            assert told.json()[0]["00080018"]["Value"] == [UID]
            assert (told.headers["cache-control"], told.headers.get("etag")) == ("no-store", None)
            assert server.get("dicom-web/instances").status_code == 204
            waited = []
            asker = threading.Thread(target=lambda: waited.append(server.get(f"{ADDRESS}/frames/2,1")))
            asker.start()
            time.sleep(0.2)
            send(s, data[some:])
            asker.join()
            assert waited[0].headers["content-type"].startswith("multipart/related")
            assert waited[0].content.index(wanted[1]) < waited[0].content.index(wanted[0])
            send(s, b"\r\n--frontier--\r\n")
            s.sendall(b"0\r\n\r\n")
            assert s.recv(1000).startswith(b"HTTP/1.1 200 ")
        stored = server.client.get(f"{ADDRESS}/frames/3", headers=JPEGS)
        assert stored.content == wanted[2]
        assert stored.headers["etag"]

        other = instance(2, size=90_000)
        with sending() as s:
            send(s, head + other[:-9_000])
            soon(f"{ADDRESS[:-1]}2/frames/1")
        soon(f"{ADDRESS[:-1]}2/frames/1", 404)  # it has failed: as if it had never been there
        assert server.get(f"{ADDRESS[:-1]}2/metadata").status_code == 404


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.setattr(arriving, "WAIT", 0.3)
    catalog = Catalog(tmp_path / "catalog.sqlite")
    with Asked(catalog, Settings(store=str(tmp_path / "store"))) as client:
        yield client.app, client
    catalog.close()


@pytest.fixture
def upload(app):
    upload = Upload(app[0].state.store)
    yield upload
    upload.close()


def test_a_frame_that_does_not_come_is_503(app, upload, data, some):
    client = app[1]
    one = upload.begin()
    assert client.get(f"{ADDRESS}/frames/1", headers=JPEGS).status_code == 404
    one.write([data[:some]])
    assert client.get(f"{ADDRESS}/frames/1", headers=JPEGS).status_code == 200
    answer = client.get(f"{ADDRESS}/frames/3", headers=JPEGS)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert client.get(f"{ADDRESS}/frames/4", headers=JPEGS).status_code == 404
    assert client.get(f"{ADDRESS}/frames/1", headers={"accept": "text/html"}).status_code in (400, 406)
    assert client.get(ADDRESS.replace(SERIES, f"{SERIES}.5", 1) + "/frames/1").status_code == 404
    assert client.request("HEAD", f"{ADDRESS}/frames/1", headers=JPEGS).status_code == 200


def test_every_frame_is_the_right_one_however_the_file_grows(app, upload, data, tmp_path):
    client = app[1]
    wanted = [frame(data, n, tmp_path) for n in (1, 2, 3)]
    one = upload.begin()
    given = set()
    for at in range(0, len(data), 9_001):
        one.write([data[at : at + 9_001]])
        for n in (1, 2, 3):
            with pytest.MonkeyPatch.context() as m:
                m.setattr(arriving, "WAIT", 0)
                answer = client.get(f"{ADDRESS}/frames/{n}", headers=JPEGS)
            if answer.status_code == 200:
                assert answer.content == wanted[n - 1]
                given.add((n, at))
            else:
                assert answer.status_code in (404, 503)
    assert {n for n, _ in given} == {1, 2, 3}
    assert min(at for n, at in given if n == 1) < min(at for n, at in given if n == 3)


def test_what_nobody_receives_any_more_is_not_given(app, upload, data):
    import os

    one = upload.begin()
    one.write([data])
    assert app[1].get(f"{ADDRESS}/frames/1", headers=JPEGS).status_code == 200
    lock, upload._lock = upload._lock, os.open("/dev/null", os.O_RDONLY)
    os.close(lock)  # as when its process is killed
    assert app[1].get(f"{ADDRESS}/frames/1", headers=JPEGS).status_code == 404


def test_memory_of_what_arrives_is_given_back(app, data):
    budget = app[0].state.budget
    before = budget.held
    for n in range(20):
        upload = Upload(app[0].state.store)
        one = upload.begin()
        one.write([instance(n, size=60_000)])
        app[1].get(f"{ADDRESS[:-1]}{n}/frames/1", headers=JPEGS)
        upload.close()
    assert budget.held - before < 20 * 4096
