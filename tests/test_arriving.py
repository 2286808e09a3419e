"""Frames of instances that are still arriving: by any process, as soon as they are whole, and no trace if they fail."""

import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from multiframe.catalog import Catalog
from multiframe.instance import open_instance
from multiframe.settings import Settings
from multiframe.storing import Upload
from multiframe.testing import cine
from multiframe.web import arriving
from tests.serving import address_of, serving
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


NO_STORE = "no-store", None, None
"""Cache-Control, ETag and Last-Modified of what can still fail."""


def kept_by(answer):
    return tuple(answer.headers.get(name) for name in ("cache-control", "etag", "last-modified"))


def stored(app, upload, one):
    one.finish()
    upload.keep()
    assert one.refusal is None


@pytest.fixture(scope="module")
def drawable(tmp_path_factory):
    """A file of which pictures can be made, how much of it holds one frame, and its address."""
    path = tmp_path_factory.mktemp("cine") / "cine.dcm"
    cine(path, frames=3, rows=512, columns=512)
    return path.read_bytes(), open_instance(path).index[0].stop + 5_000, address_of(path)


PNG = {"accept": "image/png"}
PARTS_OF_PNG = {"accept": "multipart/related; type=image/png"}


@pytest.mark.parametrize("below", [
    "frames/1/rendered", "frames/1/rendered?window=100,200,linear", "frames/1/thumbnail", "rendered", "thumbnail",
])  # fmt: skip
def test_pictures_of_what_is_arriving_are_those_of_what_is_stored(app, upload, drawable, below):
    """Of the first frame alone until others are there."""
    (data, some, address), client, one = drawable, app[1], upload.begin()
    one.write([data[:some]])
    early = client.get(f"{address}/{below}", headers=PNG)
    assert (early.status_code, early.headers["content-type"]) == (200, "image/png"), early.text
    assert kept_by(early) == NO_STORE
    assert client.request("HEAD", f"{address}/{below}", headers=PNG).status_code == 200
    one.write([data[some:]])
    late = client.get(f"{address}/{below}", headers=PNG)
    stored(app, upload, one)
    there = client.get(f"{address}/{below}", headers=PNG)
    assert there.headers["etag"]
    assert late.content == there.content
    if "frames/1/" not in below:
        there = client.get(f"{address}/frames/1/{below}", headers=PNG)
    assert early.content == there.content


def test_many_pictures_wait_for_the_last_of_them(app, upload, drawable):
    (data, some, address), client, one = drawable, app[1], upload.begin()
    one.write([data[:some]])
    for below in ("rendered", "frames/1,2/rendered", "frames/2/thumbnail"):
        answer = client.get(f"{address}/{below}", headers=PNG if "thumb" in below else PARTS_OF_PNG)
        assert (answer.status_code, answer.json()["error"]) == (503, "NotYet")
        assert answer.headers["retry-after"]
    assert client.get(f"{address}/frames/9/rendered", headers=PNG).status_code == 404
    assert client.get(f"{address}/rendered", headers={"accept": "text/html"}).status_code == 406
    assert client.get(f"{address}/rendered?window=1", headers=PNG).status_code == 400
    one.write([data[some:]])
    pictures = [client.get(f"{address}/frames/{n}/rendered", headers=PNG).content for n in (1, 2, 3)]
    for below in ("rendered", "frames/1,2,3/rendered"):
        answer = client.get(f"{address}/{below}", headers=PARTS_OF_PNG)
        assert answer.headers["content-type"].startswith("multipart/related")
        assert kept_by(answer) == NO_STORE
        boundary = answer.headers["content-type"].partition("boundary=")[2].partition(";")[0].strip('"')
        parts = answer.content.split(f"--{boundary}".encode())[1:-1]
        assert [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts] == pictures


def test_values_of_the_header_are_given_and_what_is_of_all_of_it_waits(app, upload, data, some):
    client, one = app[1], upload.begin()
    one.write([data[:some]])
    text = client.get(f"{ADDRESS}/metadata").text
    value = client.get(f"{ADDRESS}/bulkdata/00280010")
    assert kept_by(value) == NO_STORE
    assert client.get(f"{ADDRESS}/bulkdata/00991099").status_code == 404
    assert client.get(f"{ADDRESS}/bulkdata/nothing").status_code == 400
    assert client.get(f"{ADDRESS}/bulkdata/00280010", headers={"accept": "text/html"}).status_code == 406
    whole = {"": "application/dicom; transfer-syntax=*", "/frames/1.dcm": "application/dicom; transfer-syntax=*",
             "/bulkdata": "multipart/related", "/pixeldata": "*/*", "/bulkdata/7FE00010": "*/*"}  # fmt: skip
    for below, accept in whole.items():
        answer = client.get(f"{ADDRESS}{below}", headers={"accept": accept})
        assert (answer.status_code, answer.json()["error"]) == (503, "NotYet"), below
        assert answer.headers["retry-after"]
    one.write([data[some:]])
    stored(app, upload, one)
    assert client.get(f"{ADDRESS}/metadata").text == text
    assert client.get(f"{ADDRESS}/bulkdata/00280010").content == value.content
    for below, accept in whole.items():
        answer = client.get(f"{ADDRESS}{below}", headers={"accept": accept})
        assert (answer.status_code, bool(answer.headers["etag"])) == (200, True), below


def test_who_waits_for_all_of_it_is_given_it_once_it_is_stored(app, upload, data, some, monkeypatch):
    monkeypatch.setattr(arriving, "WAIT", 30)
    client, one = app[1], upload.begin()
    one.write([data[:some]])
    answers = []
    headers = {"accept": "application/dicom; transfer-syntax=*"}
    asking = threading.Thread(target=lambda: answers.append(client.get(ADDRESS, headers=headers)))
    asking.start()
    time.sleep(0.3)
    assert not answers
    one.write([data[some:]])
    stored(app, upload, one)
    asking.join(30)
    assert (answers[0].status_code, answers[0].content) == (200, data)
    assert answers[0].headers["etag"]


def test_what_has_no_picture_says_so_while_it_is_arriving(app, upload):
    from pydicom.data import get_testdata_file
    from pydicom.filereader import dcmread

    path = Path(str(get_testdata_file("test-SR.dcm", read=False)))
    h = dcmread(path, stop_before_pixels=True)
    address = f"dicom-web/studies/{h.StudyInstanceUID}/series/{h.SeriesInstanceUID}/instances/{h.SOPInstanceUID}"
    upload.begin().write([path.read_bytes(), bytes(100_000)])
    client = app[1]
    assert client.get(f"{address}/metadata").status_code in (200, 404)
    for below in ("rendered", "thumbnail", "frames/1/rendered"):
        assert client.get(f"{address}/{below}", headers=PNG).status_code in (404, 406)


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
