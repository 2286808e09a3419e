"""The server as clients see it: real processes, real sockets, real files."""

import asyncio
import gzip
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.encaps import get_frame

import multiframe
from multiframe.demo import real_files
from multiframe.testing import Layout, cine
from tests.serving import OCTETS, Server, command, serving, wait_kept
from tests.test_nativexml import alike, model, read

FRAMES = 60


class Served:
    """The facts of one file, and where its frames are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.instance = multiframe.open(path)
        h = self.instance.header
        self.study, self.series, self.uid = h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid
        self.url = f"dicom-web/studies/{self.study}/series/{self.series}/instances/{self.uid}"

    def frame(self, number: int) -> bytes:
        (frame,) = self.instance.encoded([number - 1])
        return frame.data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    cine(folder / "no-name-that-says-DICOM", frames=FRAMES)
    cine(folder / "basic.dcm", frames=7, rows=96, columns=128, layout=Layout(table="basic", fragments=3), seed=1)
    cine(folder / "native.dcm", frames=5, rows=96, columns=128, syntax="1.2.840.10008.1.2.1", seed=2)
    (folder / "real0.dcm").write_bytes(real_files()[0].read_bytes())
    source = pydicom.data.get_testdata_file("SC_rgb_small_odd_big_endian.dcm", read=False)
    (folder / "big-endian.dcm").write_bytes(Path(str(source)).read_bytes())
    (folder / "notes.txt").write_text("not DICOM")
    return folder


@pytest.fixture(scope="module")
def big(folder):
    return Served(folder / "no-name-that-says-DICOM")


def parts_of(response: httpx.Response) -> list[tuple[str, bytes]]:
    """Take a multipart body apart as cornerstone does: by its first line, and ``Content-Type:`` in this very case."""
    boundary = response.content.split(b"\r\n", 1)[0]
    assert boundary.startswith(b"--")
    pieces = response.content.split(boundary)
    assert pieces[0] == b""
    assert pieces[-1] == b"--\r\n"
    parts = []
    for piece in pieces[1:-1]:
        head, _, body = piece.partition(b"\r\n\r\n")
        found = re.search(rb"Content-Type: (.*)", head)
        assert found
        assert body.endswith(b"\r\n")
        parts.append((found[1].strip().decode(), body[:-2]))
    return parts


def test_files_are_found_by_content(server, folder):
    status = server.wait_scanned()
    assert status["failed"] == 0
    studies = server.get("dicom-web/studies").json()
    found = {s["0020000D"]["Value"][0] for s in studies}
    for path in folder.iterdir():
        if path.suffix != ".txt":
            assert Served(path).study in found


@pytest.mark.parametrize("number", [1, 2, FRAMES // 2, FRAMES])
def test_a_frame_is_the_frame(server, big, number):
    answer = server.get(f"{big.url}/frames/{number}", accept=OCTETS)
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    assert int(answer.headers["content-length"]) == len(answer.content)
    ((kind, body),) = parts_of(answer)
    assert kind == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.50"
    assert body == big.frame(number)


@pytest.mark.parametrize("name", ["basic.dcm", "native.dcm", "real0.dcm"])
def test_a_list_comes_in_the_order_asked(server, folder, name):
    served = Served(folder / name)
    n = len(served.instance)
    numbers = [n, 1, 3]
    answer = server.get(f"{served.url}/frames/{'%2C'.join(map(str, numbers))}", accept=OCTETS)
    assert [body for _, body in parts_of(answer)] == [served.frame(k) for k in numbers]


def test_every_frame_equals_pydicoms(server, folder):
    served = Served(folder / "real0.dcm")
    dataset = pydicom.dcmread(served.path)
    for k in range(int(dataset.NumberOfFrames)):
        ((_, body),) = parts_of(server.get(f"{served.url}/frames/{k + 1}", accept=OCTETS))
        assert body == get_frame(dataset.PixelData, k, number_of_frames=int(dataset.NumberOfFrames))


def test_two_files_of_one_instance_are_never_mixed(tmp_path):
    """The two real cines carry one SOP Instance UID, 120 frames here and 30 there: the first is served."""
    one, two = real_files()
    (tmp_path / "a").write_bytes(one.read_bytes())
    (tmp_path / "b").write_bytes(two.read_bytes())
    for paths, path in [([tmp_path / "a", tmp_path / "b"], one), ([tmp_path / "b"], two)]:
        served = Served(path)
        with serving(paths, cache=tmp_path / "cache") as server:
            for number in (1, len(served.instance)):
                ((_, body),) = parts_of(server.get(f"{served.url}/frames/{number}", accept=OCTETS))
                assert body == served.frame(number)


def test_big_endian_leaves_as_little(server, folder):
    served = Served(folder / "big-endian.dcm")
    ((kind, body),) = parts_of(server.get(f"{served.url}/frames/1", accept=OCTETS))
    assert kind == "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    assert body == served.frame(1)


def test_one_frame_alone(server, big):
    answer = server.get(f"{big.url}/frames/5", accept="image/jpeg")
    assert answer.headers["content-type"] == "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50"
    assert answer.content == big.frame(5)


def test_head_is_get_without_its_body(server, big):
    url = f"{big.url}/frames/5"
    get = server.get(url, accept=OCTETS)
    head = server.client.head(url, headers={"accept": OCTETS})
    differing = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in differing} == {
        k: v for k, v in get.headers.items() if k not in differing
    }
    assert head.content == b""


def test_what_goes_on_goes_on_with_the_same_or_not_at_all(server, big):
    url = f"{big.url}/frames/9"
    whole = server.get(url, accept=OCTETS)
    etag = whole.headers["etag"]
    for named in (etag, f'"x", {etag}', "*"):
        rest = server.get(url, accept=OCTETS, range="bytes=9-", if_match=named)
        assert (rest.status_code, rest.content) == (206, whole.content[9:])
    for named in ('"x"', f"W/{etag}"):
        for method in ("GET", "HEAD"):
            headers = {"accept": OCTETS, "range": "bytes=9-", "if-match": named}
            refused = server.client.request(method, url, headers=headers)
            assert (refused.status_code, refused.headers["etag"]) == (412, etag)
    assert refused.headers["content-type"] == "application/json"


@pytest.mark.parametrize("accept", [OCTETS, "image/jpeg"])
def test_ranges_are_slices_of_the_same_bytes(server, big, accept):
    url = f"{big.url}/frames/9"
    whole = server.get(url, accept=accept)
    size = len(whole.content)
    for first, last in [(0, 0), (0, 65535), (65536, size - 1), (size - 5, size + 100)]:
        part = server.get(url, accept=accept, range=f"bytes={first}-{last}")
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{min(last, size - 1)}/{size}"
        assert part.content == whole.content[first : last + 1]
        assert part.headers["etag"] == whole.headers["etag"]
    beyond = server.get(url, accept=accept, range=f"bytes={size}-")
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{size}"
    assert (beyond.json()["error"], str(size) in beyond.json()["message"]) == ("RangeNotSatisfiable", True)
    assert "immutable" not in beyond.headers.get("cache-control", "")
    stale = server.get(url, accept=accept, range="bytes=0-9", if_range='"other"')
    assert stale.status_code == 200
    assert stale.content == whole.content
    same = server.get(url, accept=accept, if_none_match=whole.headers["etag"])
    assert same.status_code == 304
    assert same.content == b""


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("frames/0", OCTETS, 404),
        (f"frames/{FRAMES + 1}", OCTETS, 404),
        ("frames/1,1", OCTETS, 400),
        ("frames/x", OCTETS, 400),
        ("frames/1,", OCTETS, 400),
        ("frames/-1", OCTETS, 400),
        ("frames/1-", OCTETS, 400),
        ("frames/3-2", OCTETS, 400),
        ("frames/1-2-3", OCTETS, 400),
        ("frames/1-3,2", OCTETS, 400),
        ("frames/1-99999999999", OCTETS, 400),
        (f"frames/2-{FRAMES + 1}", OCTETS, 404),
        ("frames/" + ",".join(["1-60"] * 9), OCTETS, 400),
        ("frames/" + ",".join(["1"] * 5000), OCTETS, 400),
        ("frames/1", "multipart/related; type=image/jls; transfer-syntax=1.2.840.10008.1.2.4.81", 406),
        ("frames/1", "application/dicom+json", 406),
        ("frames/1,2", "image/jpeg", 406),
        ("metadata", "text/xml", 406),
        ("nothing", OCTETS, 404),
    ],
)
def test_refusals_say_what_is_wrong(server, big, path, accept, status):
    answer = server.get(f"{big.url}/{path}", accept=accept)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "message", "request"}


def test_an_instance_of_another_study_is_not_found(server, big):
    wrong = big.url.replace(big.study, "1.2.3.4")
    assert server.get(f"{wrong}/frames/1", accept=OCTETS).status_code == 404
    assert server.get(f"{wrong}/metadata").status_code == 404
    assert server.get("dicom-web/studies/1.2.3.4/metadata").status_code == 404


def test_metadata_is_what_pydicom_says(server, folder):
    for path in folder.glob("real*.dcm"):
        served = Served(path)
        expected = pydicom.dcmread(path, stop_before_pixels=True).to_json_dict()
        for url in (served.url, served.url.rsplit("/instances", 1)[0], f"dicom-web/studies/{served.study}"):
            answer = server.get(f"{url}/metadata", accept="application/dicom+json")
            assert answer.headers["content-type"] == "application/dicom+json"
            (got,) = answer.json()
            assert set(got) == {k for k in expected if not k.startswith("0002")} | {"7FE00010"}
            assert got["7FE00010"]["BulkDataURI"] == f"{server.url}{served.url}/bulkdata/7FE00010"
            for tag in ("00100010", "00280008", "00280010", "00280004", "0020000D"):
                assert got[tag] == expected[tag]


def test_metadata_in_xml_says_what_json_says(server, big):
    told = [model(one) for one in server.get(f"{big.url}/metadata").json()]
    alone = server.get(f"{big.url}/metadata", accept="application/dicom+xml")
    assert alone.headers["content-type"] == "application/dicom+xml"
    assert alike([read(ET.fromstring(alone.content))], told)
    series = big.url.rsplit("/instances", 1)[0]
    for url in (big.url, series):
        answer = server.get(f"{url}/metadata", accept='multipart/related; type="application/dicom+xml"')
        assert answer.headers["content-type"].startswith('multipart/related; type="application/dicom+xml"; boundary=')
        ((content_type, text),) = parts_of(answer)
        assert content_type == "application/dicom+xml"
        assert alike([read(ET.fromstring(text))], told)
    assert server.get(f"{series}/metadata", accept="application/dicom+xml").status_code == 406


def test_metadata_is_compressed_when_asked(server, big):
    with server.client.stream("GET", f"{big.url}/metadata", headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(raw))[0]["00280008"]["Value"] == [FRAMES]


def test_metadata_answers_to_plain_json_as_epad_asks(server, big):
    url = big.url.rsplit("/instances", 1)[0]
    answer = server.get(f"{url}/metadata", accept="application/json, text/plain, */*")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1:5173", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
    ],
)
def test_cors(server, big, origin, allowed):
    url = f"{big.url}/frames/1"
    answer = server.get(url, accept=OCTETS, origin=origin)
    assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
    preflight = server.client.options(
        url,
        headers={"origin": origin, "access-control-request-method": "GET", "access-control-request-headers": "accept"},
    )
    assert (preflight.status_code == 200) is allowed
    if allowed:
        assert "content-range" in answer.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "", "127.0.0.1.evil.example", "[::1", "192.168.1.9"]
)
def test_foreign_names_are_refused(server, host):
    answer = server.get("dicom-web/studies", host=host)
    assert answer.status_code == (400 if host in ("", "[::1") else 421)  # what is no name is malformed (RFC 9112 3.2)
    assert answer.status_code == 400 or "--allow-host" in answer.json()["message"]


def test_facts_for_the_viewer(server, big):
    server.get(f"{big.url}/frames/{FRAMES}", accept=OCTETS)
    facts = server.get(f"api/instances/{big.uid}").json()
    assert facts["size"] == big.path.stat().st_size
    assert facts["frames"] == FRAMES


def test_the_second_start_walks_nothing(folder, tmp_path):
    served = Served(folder / "no-name-that-says-DICOM")
    with serving([folder], cache=tmp_path) as server:
        first = server.get(f"{served.url}/frames/1", accept=OCTETS)
        wait_kept(tmp_path, served.uid)
    with serving([folder], cache=tmp_path) as server:
        facts = server.get(f"api/instances/{served.uid}").json()
        assert facts["complete"], "the index was kept"
        assert facts["origin"] == "scan"
        again = server.get(f"{served.url}/frames/1", accept=OCTETS)
        assert again.headers["etag"] == first.headers["etag"]
        assert again.content == first.content
        assert server.wait_scanned()["registered"] == 0


def test_a_changed_file_never_gives_old_bytes(tmp_path):
    path = tmp_path / "a" / "cine.dcm"
    path.parent.mkdir()
    cine(path, frames=9, rows=96, columns=128)
    before = Served(path)
    old = [before.frame(k) for k in range(1, 10)]
    with serving([path], cache=tmp_path / "cache") as server:
        assert parts_of(server.get(f"{before.url}/frames/3", accept=OCTETS))[0][1] == old[2]
        # the same SOP Instance, other bytes: what lies there now is what is given
        data = bytearray(path.read_bytes())
        at = multiframe.open(path).index[2].start
        data[at + 400 : at + 404] = b"\x01\x02\x03\x04"
        path.write_bytes(data)
        now = Served(path)
        assert parts_of(server.get(f"{now.url}/frames/3", accept=OCTETS))[0][1] == now.frame(3) != old[2]
        held = server.get(f"{now.url}/frames/3", accept=OCTETS).headers["etag"]
        os.utime(path)
        for method in ("GET", "HEAD"):
            answer = server.client.request(
                method, f"{now.url}/frames/3", headers={"accept": OCTETS, "if-none-match": held}
            )
            assert answer.status_code == 200, "another state of the file: what the client holds may be old"
            assert answer.headers["etag"] != held
        # cut: the frames that are there are given, the others are an error
        os.truncate(path, at + 100)
        assert parts_of(server.get(f"{now.url}/frames/2", accept=OCTETS))[0][1] == old[1]
        lost = server.get(f"{now.url}/frames/3", accept=OCTETS)
        assert lost.status_code == 500
        assert lost.json()["error"] == "TruncatedError"
        # and whole again, as a file is that was still being copied
        path.write_bytes(data)
        assert parts_of(server.get(f"{now.url}/frames/3", accept=OCTETS))[0][1] == Served(path).frame(3)
        # another instance in its place
        cine(path, frames=4, rows=96, columns=128, seed=9)
        assert server.get(f"{now.url}/frames/1", accept=OCTETS).status_code == 404
        # gone
        path.unlink()
        other = "dicom-web/instances"
        (listed,) = server.get(other).json()
        study, series, uid = (listed[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
        url = f"dicom-web/studies/{study}/series/{series}/instances/{uid}/frames/1"
        gone = server.get(url, accept=OCTETS)
        assert gone.status_code == 404
        assert str(path) not in gone.text
        # away for a moment only
        assert server.get(other).json() == [listed]
        cine(path, frames=4, rows=96, columns=128, seed=9)
        assert server.get(url, accept=OCTETS).status_code == 200


def test_it_answers_while_it_still_reads(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    data = (cine_bytes := folder / "0")
    cine(data, frames=1, rows=96, columns=128)
    body = cine_bytes.read_bytes()
    for i in range(1, 1500):
        (folder / str(i)).write_bytes(body)
    begun = time.monotonic()
    with serving([folder], cache=tmp_path / "cache", wait=False) as server:
        assert server.get("dicom-web/studies").status_code in (200, 204)  # nothing may have been read yet
        answered = time.monotonic() - begun
        scanning = server.get("api/status").json()
    assert answered < 20, scanning  # a hang, not a timing: the benchmark has those


def test_several_workers_give_the_same_bytes(folder, tmp_path):
    served = Served(folder / "no-name-that-says-DICOM")
    with serving([folder], "--workers", "3", cache=tmp_path) as server:
        answers = set()
        for _ in range(12):
            answer = httpx.get(f"{server.url}{served.url}/frames/7", headers={"accept": OCTETS})
            answers.add((answer.headers["etag"], answer.content))
        assert len(answers) == 1


def test_a_worker_that_dies_is_replaced(folder, tmp_path):
    with serving([folder], cache=tmp_path) as server:
        first = server.worker()
        first.kill()
        first.wait(10)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{server.url}api/status", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.05)
        assert server.worker().pid != first.pid


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nobody_is_left_behind(folder, tmp_path, how):
    import psutil

    with command("serve", folder, "--port", "0", cache=tmp_path) as (process, _):
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(how)
        process.wait(20)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGKILL: -9}[how]
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_a_port_in_use_is_said(folder, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "multiframe", "serve", str(folder), "--port", port, "--cache", str(tmp_path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_the_database_holds_no_pixels(folder, tmp_path):
    with serving([folder], cache=tmp_path):
        pass
    (database,) = (tmp_path / "multiframe").glob("catalog-*.sqlite")
    assert database.stat().st_mode & 0o077 == 0 or database.parent.stat().st_mode & 0o077 == 0
    with sqlite3.connect(database) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    assert database.stat().st_size < 2_000_000


async def _greedy(url: str, accept: str, clients: int) -> list[tuple[int, int]]:
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def one(i: int) -> tuple[int, int]:
            answer = await client.get(f"{url}/frames/{1 + i % FRAMES}", headers={"accept": accept})
            return answer.status_code, len(answer.content)

        return await asyncio.gather(*(one(i) for i in range(clients)))


def test_64_clients_share_one_budget(folder, big, tmp_path):
    """1 MiB for everybody: whole frames for all 64, in turn, and the server no larger than before by more than that."""
    with serving([folder], "--memory", "1MiB", cache=tmp_path) as server:
        server.get(f"{big.url}/frames/1", accept=OCTETS)
        idle = server.rss()
        answers = asyncio.run(_greedy(server.url + big.url, OCTETS, 64))
        assert {status for status, _ in answers} == {200}
        assert server.rss() - idle < 40 << 20


def test_clients_that_do_not_read_are_waited_for_and_then_others_refused(folder, big, tmp_path):
    """A budget of one answer, and one client who does not take it: the next waits, then is told to come back."""
    with serving([folder], "--memory", "100KiB", "--memory-wait", "2", cache=tmp_path) as server:
        url = httpx.URL(server.url)
        server.get(f"{big.url}/frames/{FRAMES}", accept=OCTETS)  # all are found: the answer takes all of the budget
        many = ",".join(map(str, range(1, FRAMES + 1)))
        request = f"GET /{big.url}/frames/{many} HTTP/1.1\r\nHost: localhost\r\nAccept: {OCTETS}\r\n\r\n"
        with socket.create_connection((url.host, url.port)) as idler:
            idler.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idler.sendall(request.encode())
            idler.recv(1024)
            refused = server.get(f"{big.url}/frames/1", accept=OCTETS)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) > 0
        # and once that client is gone there is room again
        assert server.get(f"{big.url}/frames/1", accept=OCTETS).status_code == 200


def test_a_sparse_giant_serves_its_last_frame_in_little_memory(tmp_path):
    """20 GB that take no room: 8 MB fragments of which only the ends are written."""
    small = tmp_path / "small"
    cine(small, frames=2400, rows=96, columns=128)
    path, step, frames = tmp_path / "giant" / "giant.dcm", 8 << 20, 2400
    path.parent.mkdir()
    header = multiframe.open(small).header
    small.unlink()
    prefix = header.raw + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0"
    with open(path, "wb") as f:
        f.write(prefix)
        at = len(prefix)
        for k in range(frames):
            f.seek(at)
            f.write(b"\xfe\xff\x00\xe0" + (step - 8).to_bytes(4, "little") + b"\xff\xd8\xff\xe0" + k.to_bytes(4, "big"))
            f.seek(at + step - 2)
            f.write(b"\xff\xd9")
            at += step
        f.write(b"\xfe\xff\xdd\xe0\0\0\0\0")
    assert path.stat().st_size > 20e9
    served = Served(path)
    with serving([path.parent], cache=tmp_path / "cache") as server:
        idle = server.rss()
        with server.client.stream("GET", f"{served.url}/frames/{frames}", headers={"accept": OCTETS}) as answer:
            peak, size, head = 0, 0, b""
            for chunk in answer.iter_raw():
                head = head or chunk[:300]
                size += len(chunk)
                peak = max(peak, server.rss())
        assert answer.status_code == 200
        assert size == int(answer.headers["content-length"])
        assert b"\xff\xd8\xff\xe0" + (frames - 1).to_bytes(4, "big") in head
        assert peak - idle < 150 << 20
        # a frame of 8 MiB in a budget of 64 KiB
    with serving([path.parent], "--memory", "64KiB", cache=tmp_path / "cache") as server:
        answer = server.get(f"{served.url}/frames/2", accept=OCTETS)
        ((_, body),) = parts_of(answer)
        assert len(body) == step - 8
        assert np.frombuffer(body, np.uint8).sum() == 0xFF + 0xD8 + 0xFF + 0xE0 + 1 + 0xFF + 0xD9


def test_the_page_is_there(server):
    page = server.get("")
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for script in re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page.text):
        assert server.get(script).status_code == 200


def test_first_frame_does_not_wait_for_the_walk(folder, tmp_path):
    """An index that is not complete serves; it is completed behind the answer."""
    instance = multiframe.open(folder / "no-name-that-says-DICOM")
    instance.grow(0)
    assert instance.known is not None


_: type[Server] = Server
