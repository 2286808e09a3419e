"""STOW-RS as clients see it: real processes, real sockets; what is answered, and what is there afterwards."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import xml.etree.ElementTree as ET
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset

from multiframe import storing
from multiframe.settings import Settings
from tests.serving import Server, serving
from tests.test_clients import HERE, needs_npm
from tests.test_doors import Asked
from tests.test_storing import SERIES, STUDY, catalogued, instance

STUDIES = "dicom-web/studies"
PARTS = 'multipart/related; type="application/dicom"; boundary=frontier'


class Stored(Server):
    """A server, and the folder it stores in."""

    def __init__(self, process, url, store):
        super().__init__(process, url)
        self.store = store


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    with serving([], "--store", str(folder), "--max-upload", "300MB", cache=tmp_path_factory.mktemp("cache"),
                 wait=False) as server:  # fmt: skip
        stored = Stored(server.process, server.url, folder)
        with stored.client:
            yield stored


def in_parts(*files, kind=b"application/dicom", end=b"\r\n--frontier--\r\n"):
    parts = [b"\r\n--frontier\r\nContent-Type: " + kind + b"\r\n\r\n" + data for data in files]
    return b"".join(parts)[2:] + end


def post(server, content, *, path=STUDIES, content_type=PARTS, **headers):
    headers = {"content-type": content_type} | {k.replace("_", "-"): v for k, v in headers.items()}
    return server.client.post(path, content=content, headers=headers)


def told(answer, tag):
    """The items of a sequence: their UIDs, and the Failure Reasons."""
    items = answer.json().get(tag, {}).get("Value", [])
    return [
        (item.get("00081155", {}).get("Value", [None])[0], item.get("00081197", {}).get("Value", [None])[0])
        for item in items
    ]


def stored(server):
    return sorted(p.name for p in server.store.rglob("*.dcm"))


@pytest.fixture(autouse=True)
def nothing_leaks(request):
    """After each test: no temporary file, and no more descriptors than before."""
    if "server" not in request.fixturenames:
        yield
        return
    server = request.getfixturevalue("server")
    server.get("api/status")
    before = server.worker().num_fds()
    yield
    deadline = time.monotonic() + 60
    incoming = server.store / ".multiframe-incoming"
    while list(incoming.iterdir()) or server.worker().num_fds() > before + 2:  # the client's connections
        assert time.monotonic() < deadline, "something was left behind"
        time.sleep(0.02)


def test_instances_in_parts_are_stored_and_told_of(server):
    files = [instance(n, study=f"{STUDY}.1") for n in (11, 12)]
    answer = post(server, in_parts(*files))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.headers["cache-control"] == "no-store"
    assert told(answer, "00081199") == [(f"{SERIES}.11", None), (f"{SERIES}.12", None)]
    assert answer.json()["00081190"]["Value"] == [f"{server.url}{STUDIES}/{STUDY}.1"] == [answer.headers["location"]]
    found = server.get("dicom-web/instances").json()
    assert {f"{SERIES}.11", f"{SERIES}.12"} <= {one["00080018"]["Value"][0] for one in found}
    url = answer.json()["00081199"]["Value"][1]["00081190"]["Value"][0]
    whole = server.client.get(url, headers={"accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'})
    assert files[1] in whole.content
    assert server.client.get(f"{url}/frames/3", headers={"accept": "image/jpeg"}).status_code == 200
    again = post(server, in_parts(*files))
    assert (again.status_code, again.json()) == (200, answer.json())


def test_one_instance_alone_to_its_study(server):
    data = instance(21, study=f"{STUDY}.2")
    answer = post(server, data, path=f"{STUDIES}/{STUDY}.2", content_type="application/dicom")
    assert (answer.status_code, told(answer, "00081199")) == (200, [(f"{SERIES}.21", None)])
    assert answer.headers["location"].endswith(f"/studies/{STUDY}.2/series/{SERIES}/instances/{SERIES}.21")
    assert server.client.get(answer.headers["location"], headers={"accept": "application/dicom"}).content == data
    chunked = post(server, iter([data[:999], data[999:]]), content_type="application/dicom; transfer-syntax=*")
    assert chunked.status_code == 200


def test_some_fail_and_each_is_told_why(server):
    good, other = instance(31, study=f"{STUDY}.3"), instance(32, study=f"{STUDY}.3", SOPClassUID="1.2.3")
    answer = post(server, in_parts(good, b"no DICOM", other, instance(33)), path=f"{STUDIES}/{STUDY}.3")
    assert answer.status_code == 202
    assert told(answer, "00081199") == [(f"{SERIES}.31", None)]
    assert told(answer, "00081198") == [(f"{SERIES}.32", 0x0122), (f"{SERIES}.33", 0xA900)]
    assert told(answer, "0008119A") == [(None, 0xC000)]
    assert "instance 2 of 4 is not stored: not a DICOM file" in answer.headers["warning"]
    assert f"{SERIES}.33.dcm" not in stored(server)


@pytest.mark.parametrize(
    ("part", "kind", "reason"),
    [
        (b"", b"application/dicom", 0xC000),
        (instance(41)[:-30], b"application/dicom", 0xC000),
        (instance(41), b"image/jpeg", 0xC000),
        (in_parts(instance(41)), b'multipart/related; type="application/dicom"; boundary=frontiers', 0xC000),
        (instance(41).replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.99"), b"application/dicom", 0xC122),
        (instance(11, study=f"{STUDY}.4"), b"application/dicom", 0x0111),
        (instance(12, study=f"{STUDY}.1", PatientID="x"), b"application/dicom", 0x0111),
    ],
)
def test_all_fail(server, part, kind, reason):
    post(server, in_parts(*(instance(n, study=f"{STUDY}.1") for n in (11, 12))))
    before = stored(server)
    answer = post(server, in_parts(part.replace(b"--frontier", b"--frontiers"), kind=kind))
    assert answer.status_code == 409
    assert {reason} == {r for _, r in told(answer, "00081198") + told(answer, "0008119A")}
    assert stored(server) == before


def test_an_answer_in_xml(server):
    answer = post(server, in_parts(instance(51), b"x"), accept="application/dicom+xml")
    assert answer.headers["content-type"].startswith("application/dicom+xml")
    tree = ET.fromstring(answer.content)
    ns = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    assert tree.tag == f"{ns}NativeDicomModel"
    found = {e.get("keyword"): [v.text for v in e.iter(f"{ns}Value")] for e in tree.findall(f"{ns}DicomAttribute")}
    assert f"{SERIES}.51" in found["ReferencedSOPSequence"]
    assert found["OtherFailuresSequence"] == [str(0xC000)]


GOOD = in_parts(instance(61))


@pytest.mark.parametrize(
    ("status", "content", "headers"),
    [
        (400, GOOD, {"content_type": 'multipart/related; type="application/dicom"'}),
        (400, GOOD, {"content_type": PARTS.replace("frontier", "another")}),
        (400, GOOD, {"content_type": PARTS.replace("frontier", "x" * 71)}),
        (400, GOOD[:-60], {}),
        (400, GOOD[: -len(b"--\r\n")], {}),
        (400, b"", {}),
        (400, b"--frontier--\r\n", {}),
        (400, b"--frontier\r\nbad\0header\r\n\r\nx\r\n--frontier--", {}),
        (400, b"--frontier\r\nA: " + b"x" * 100_000, {}),
        (406, GOOD, {"accept": "text/html"}),
        (415, GOOD, {"content_type": "multipart/form-data; boundary=frontier"}),
        (415, GOOD, {"content_type": 'multipart/related; type="application/dicom+xml"; boundary=frontier'}),
        (415, GOOD, {"content_type": "application/octet-stream"}),
        (415, GOOD, {"content_type": ""}),
        (415, GOOD, {"content_encoding": "gzip"}),
    ],
)
def test_what_cannot_be_stored_at_all(server, status, content, headers):
    before = stored(server)
    answer = post(server, content, **headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["message"]
    assert stored(server) == before


def ask(server, head, body=b"", *, close=False, until=b"\r\n\r\n"):
    """What a server answers to bytes; half a body where the connection closes."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), 10) as s:
        s.sendall(head.replace("\n", "\r\n").encode() + body)
        if close:
            return b""
        got = b""
        while until not in got and (more := s.recv(65536)):
            got += more
        return got


HEAD = f"POST /{STUDIES} HTTP/1.1\nHost: localhost\nContent-Type: {PARTS}\n"


def test_a_body_of_no_length_or_too_much_of_it(server):
    assert ask(server, HEAD + "\n").startswith(b"HTTP/1.1 411 ")
    assert ask(server, HEAD + "Content-Length: 1000000000000\n\n").startswith(b"HTTP/1.1 413 ")


def test_a_fault_with_one_instance_is_not_passed_over(catalog, tmp_path, monkeypatch):
    """Though it is noticed while the next ones arrive."""
    finish, finished = storing.Arriving.finish, []

    def faulty(arriving):
        finished.append(arriving)
        if len(finished) == 1:
            raise RuntimeError("unforeseen")
        finish(arriving)

    monkeypatch.setattr(storing.Arriving, "finish", faulty)
    with Asked(catalog, Settings(store=str(tmp_path / "store"))) as asked:
        content = in_parts(*(instance(n) for n in range(81, 89)))
        answer = asked.request("POST", f"/{STUDIES}", content=content, headers={"content-type": PARTS})
        assert answer.status_code == 500
    assert catalogued(catalog) == set()
    assert list((tmp_path / "store").rglob("*.dcm")) == []


def held(server):
    """Bytes of the budget, once what is over has been let go of."""
    time.sleep(1.5)  # it is shown once a second
    return re.findall(r"^multiframe_memory_held_bytes\S* (\S+)", server.get("metrics").text, re.M)


def test_what_a_long_body_holds_is_let_go_of(server):
    before, data = held(server), instance(75, size=1_000_000)
    assert post(server, data, content_type="application/dicom").status_code == 200
    ask(server, f"{HEAD}Content-Length: 3000000\n\n", in_parts(data)[:2_000_000], close=True)
    assert held(server) == before


def test_a_client_that_waits_for_leave_is_told_before_it_sends(server):
    data = in_parts(instance(71))
    expecting = HEAD + f"Expect: 100-continue\nContent-Length: {len(data)}\n\n"
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), 10) as s:
        s.sendall(expecting.replace("\n", "\r\n").encode())
        assert s.recv(100).startswith(b"HTTP/1.1 100 ")
        s.sendall(data)
        assert s.recv(1000).startswith(b"HTTP/1.1 200 ")
    wrong = expecting.replace("application/dicom", "text/plain")
    assert ask(server, wrong).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize("sent", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("length", ["Content-Length: {n}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("content_type", [PARTS, "application/dicom"])
def test_half_an_upload_leaves_nothing(server, sent, length, content_type):
    data = instance(81, size=100_000)
    if content_type == PARTS:
        data = in_parts(instance(82), data)
    head = HEAD.replace(PARTS, content_type) + length.format(n=len(data)) + "\n\n"
    body = data[: int(sent * len(data))]
    if "chunked" in length:
        body = b"%x\r\n" % len(data) + body
    before = stored(server)
    ask(server, head, body, close=True)
    time.sleep(0.05)
    assert stored(server) == before  # and `nothing_leaks`


def test_a_content_length_that_is_too_short_stores_nothing(server):
    data = instance(83)
    answer = ask(server, HEAD.replace(PARTS, "application/dicom") + f"Content-Length: {len(data) - 500}\n\n", data)
    assert answer[:12] in (b"HTTP/1.1 409", b"HTTP/1.1 400")  # the rest is taken for a request, and is none
    assert f"{SERIES}.83.dcm" not in stored(server)


def test_memory_does_not_grow_with_an_instance(server):
    def body(n, size):
        head = instance(n, frames=1)
        at = head.rindex(b"\xff\xd8\xff") - 8  # the one Item of its only frame
        frame = head[at + 8 : head.rindex(b"\xff\xd9")]
        yield in_parts(head[:at] + b"\xfe\xff\x00\xe0" + (len(frame) + size + 2).to_bytes(4, "little") + frame, end=b"")
        for _ in range(size // 1_000_000):
            yield b"\x11" * 1_000_000
        yield b"\xff\xd9\xfe\xff\xdd\xe0\0\0\0\0\r\n--frontier--\r\n"

    def peak_of(n, size):
        with server.peak() as peak:
            answer = post(server, body(n, size))
        assert answer.status_code == 200, answer.text
        return peak[0]

    least, more, most = (peak_of(91 + n, size) for n, size in enumerate((5_000_000, 20_000_000, 80_000_000)))
    assert max(more, most) - least < 8_000_000


def test_nothing_is_taken_where_there_is_no_store(tmp_path):
    (tmp_path / "x").write_bytes(instance())
    with serving([tmp_path / "x"], cache=tmp_path / "cache") as server:
        answer = post(server, in_parts(instance(2)))
        assert answer.status_code == 405
        assert server.client.options(STUDIES, headers={
            "origin": "http://localhost:3000", "access-control-request-method": "POST"}).status_code == 400  # fmt: skip


def test_over_http2_too_and_what_is_broken_off_there_stores_nothing(tmp_path):
    class Gone(Exception):
        pass

    whole = dcmread(BytesIO(instance(122)))
    del whole.PixelData  # any of it that ends with an element is a whole data set, as far as lengths tell
    buffer = BytesIO()
    whole.save_as(buffer)

    def half():
        yield buffer.getvalue()[:-10]
        time.sleep(0.1)
        raise Gone

    with serving([], "--store", str(tmp_path / "store"), "--tls-self-signed", cache=tmp_path / "cache", wait=False,
                 http2=True, verify=False) as server:  # fmt: skip
        answer = post(server, in_parts(instance(121)))
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
        for http2 in (True, False):
            with (
                httpx.Client(base_url=server.url, http2=http2, verify=False) as client,  # noqa: S501
                pytest.raises(Gone),
            ):
                client.post(STUDIES, content=half(), headers={"content-type": "application/dicom"})
        deadline = time.monotonic() + 60
        while list((tmp_path / "store" / ".multiframe-incoming").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert [p.stem for p in (tmp_path / "store").rglob("*.dcm")] == [f"{SERIES}.121"]


def test_a_token_for_one_study_stores_in_no_other(tmp_path):
    from multiframe.web.tokens import line_of, new_token

    token = new_token()
    (tmp_path / "tokens").write_text(line_of(token, "ward-7", ["store"], [f"{STUDY}.6"], None))
    with serving([], "--store", str(tmp_path / "store"), "--tokens", str(tmp_path / "tokens"), cache=tmp_path / "cache",
                 wait=False) as server:  # fmt: skip
        mine, other = instance(111, study=f"{STUDY}.6"), instance(112, study=f"{STUDY}.7")
        assert post(server, in_parts(mine)).status_code == 401
        leave = {"authorization": f"Bearer {token}"}
        answer = post(server, in_parts(mine, other), **leave)
        assert answer.status_code == 202
        assert told(answer, "00081198") == [(f"{SERIES}.112", 0x0124)]
        assert post(server, in_parts(other), path=f"{STUDIES}/{STUDY}.7", **leave).status_code == 403
        assert [p.stem for p in (tmp_path / "store").rglob("*.dcm")] == [f"{SERIES}.111"]


def test_dicomweb_client_stores_and_finds(server):
    client = DICOMwebClient(server.url + "dicom-web")
    datasets = [dcmread(BytesIO(instance(n, study=f"{STUDY}.5"))) for n in (101, 102, 103)]
    answer = client.store_instances(datasets, study_instance_uid=f"{STUDY}.5")
    assert isinstance(answer, Dataset)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        dataset.SOPInstanceUID for dataset in datasets
    ]
    found = client.search_for_instances(study_instance_uid=f"{STUDY}.5")
    assert len(found) == 3
    back = client.retrieve_instance(f"{STUDY}.5", SERIES, f"{SERIES}.102", media_types=(("application/dicom", "*"),))
    assert back == datasets[1]


@needs_npm
@pytest.mark.parametrize("study", [f"{STUDY}.8", "-"])
def test_dcmjs_dicomweb_client_stores_as_ohif_does(server, tmp_path, study):
    files = [tmp_path / str(n) for n in range(2)]
    for n, file in enumerate(files):
        file.write_bytes(instance(131 + n + 10 * (study == "-"), study=f"{STUDY}.8", size=50_000))
    node = Path(__file__).parents[1] / "tools" / "node"
    command = [node, "node", HERE / "store.mjs", f"{server.url}dicom-web", study, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    items = json.loads(done.stdout)["00081199"]["Value"]
    uids = [item["00081155"]["Value"][0] for item in items]
    assert [(server.store / Path(server_place(uid))).read_bytes() for uid in uids] == [f.read_bytes() for f in files]


def server_place(uid):
    return f"{sha256(uid.encode()).hexdigest()[:2]}/{uid}.dcm"


def test_several_processes_and_a_restart(tmp_path):
    files = [instance(n, size=20_000) for n in range(3)]
    store = tmp_path / "store"
    with serving([], "--store", str(store), "--workers", "2", cache=tmp_path / "cache", wait=False) as server:
        for data in files:
            with httpx.Client(base_url=server.url) as client:  # a connection of its own: any of the two answers
                answer = client.post(STUDIES, content=in_parts(data), headers={"content-type": PARTS})
                assert answer.status_code == 200
                uid = answer.json()["00081199"]["Value"][0]["00081155"]["Value"][0]
            with httpx.Client(base_url=server.url) as client:
                url = f"{STUDIES}/{STUDY}/series/{SERIES}/instances/{uid}/frames/1"
                assert client.get(url, headers={"accept": "image/jpeg"}).status_code == 200
    with serving([], "--store", str(store), cache=tmp_path / "other-cache") as server:  # the database is lost
        assert len(server.get("dicom-web/instances").json()) == 3


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_a_hundred_kills_of_a_real_server(tmp_path, seed):
    """Five at a time. Whoever is killed, worker or all: what was acknowledged is there, and nothing half."""
    import random

    chance = random.Random(seed)
    store, cache = tmp_path / "store", tmp_path / "cache"
    files = {n: instance(n, size=200_000) for n in range(40)}
    acknowledged = set()
    for round_ in range(5):
        with serving([], "--store", str(store), cache=cache, wait=False) as server:
            victims = [server.worker()] if round_ % 2 else psutil.Process(server.process.pid).children()
            if not round_ % 2:
                victims.insert(0, psutil.Process(server.process.pid))
            if round_ % 4:  # something is acknowledged, however slow the machine
                assert post(server, in_parts(files[round_])).status_code == 200
                acknowledged.add(round_)
            pid = os.fork()
            if not pid:  # who kills knows nothing of where the upload is
                try:
                    time.sleep(chance.uniform(0, 0.3))
                    for victim in victims:
                        with suppress(ProcessLookupError):  # the scan ends by itself
                            os.kill(victim.pid, signal.SIGKILL)
                finally:
                    os._exit(0)
            with suppress(httpx.HTTPError):  # between two requests nobody notices that another worker answers
                while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    n = chance.choice(list(files))
                    if post(server, in_parts(files[n])).status_code == 200:
                        acknowledged.add(n)
            os.waitpid(pid, 0)
    with serving([], "--store", str(store), cache=cache) as server:
        known = {one["00080018"]["Value"][0] for one in server.get("dicom-web/instances").json()}
        assert {f"{SERIES}.{n}" for n in acknowledged} <= known
        for path in [p for p in store.rglob("*") if p.is_file()]:
            n = int(path.stem.rpartition(".")[2])
            assert path.read_bytes() == files[n]
            assert f"{SERIES}.{n}" in known
    assert len(acknowledged) >= 3
