"""What is written down of requests: all of them, with ids, and nothing of a patient, a token or a query."""

import asyncio
import json
import logging
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import dcmread

import multiframe
from multiframe.testing import cine
from multiframe.web.access import ACTIONS, Access
from multiframe.web.asked import ENDPOINTS, asked_of
from multiframe.web.doors import ACCESS
from multiframe.web.gauges import Gauges
from multiframe.web.journal import REQUEST, Journal, audit, audit_to, line_of, log_to, request_id
from multiframe.web.witness import Witness, failed
from multiframe.web.workers import Workers
from tests.serving import Server, serving

SECRET = "ZAPHOD^BEEBLEBROX"
UID = re.compile(r"[0-9.]{1,64}")
SANE = "9f1c9b0e-6a0f-4b43-9be1-0f6e1b3c5a11"


class Kept(Journal):
    """A journal that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.lost = 0

    def write(self, *lines: str) -> None:
        self.lines += lines

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


# ---------------------------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("access") / SECRET
    folder.mkdir()
    path = folder / f"{SECRET}.dcm"
    cine(path, frames=160, rows=480, columns=640)
    dataset = dcmread(path)
    dataset.PatientName = SECRET
    dataset.save_as(path)
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def server(folder: Path, tmp_path: Path, log: Path) -> Iterator[Server]:
    with serving([folder], "--access-log", str(log), cache=tmp_path) as server:
        yield server


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if line.get("endpoint", "own") != "own"]


def address(folder: Path) -> str:
    header = multiframe.open(next(folder.glob("*.dcm"))).header
    return (
        f"dicom-web/studies/{header.study_instance_uid}/series/{header.series_instance_uid}"
        f"/instances/{header.sop_instance_uid}"
    )


def test_each_request_is_written_down_with_what_was_sent(folder: Path, server: Server, log: Path) -> None:
    url = address(folder)
    asked = [
        ("GET", f"{url}/frames/3", "frames", "3"), ("GET", f"{url}/frames/4", "frames", "4"),
        ("HEAD", f"{url}/frames/4", "frames", "4"), ("GET", f"{url}/frames/1-3,9", "frames", "1-3,9"),
        ("GET", f"{url}/frames/4000", "frames", "4000"), ("GET", f"{url}/frames/2/rendered", "rendered", "2"),
        ("GET", f"{url}/metadata", "metadata", None), ("GET", url, "retrieve", None),
        ("GET", "dicom-web/studies?limit=1", "search", None), ("GET", "nowhere", "page", None),
        ("DELETE", f"{url}/frames/1", "delete", "1"),
    ]  # fmt: skip
    answers = [server.client.request(method, path) for method, path, _, _ in asked]
    answers.append(server.get("", host="evil.example"))
    server.end()
    told = lines_of(log)
    assert len(told) == len(answers)
    for line, answer, (method, _, endpoint, frames) in zip(
        told, answers, [*asked, ("GET", "", "page", None)], strict=True
    ):
        assert line["request"] == answer.headers["x-request-id"]
        assert (line["method"], line["status"], line["endpoint"]) == (method, answer.status_code, endpoint)
        assert line.get("frames") == frames
        assert line["bytes"] == len(answer.content) if "content-encoding" not in answer.headers else line["bytes"]
        assert (line["client"], line["ended"]) == ("127.0.0.1", "whole")
        assert line["seconds"] > 0
        if url.startswith("dicom-web/studies/") and endpoint in ("frames", "rendered", "metadata", "retrieve"):
            uids = url.split("/")[2::2]
            assert [line["study"], line["series"], line["instance"]] == uids
        if answer.status_code >= 400 and method != "HEAD":
            assert answer.json()["request"] == line["request"]
            assert answer.json()["error"] == line["error"]
    assert len({line["request"] for line in told}) == len(told)
    assert [line["action"] for line in told][:6] == ["read"] * 5 + ["render"]


@pytest.mark.parametrize("sent", [b"\x16\x03\x01 no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n"])
def test_what_is_no_request_is_refused_as_all_else_and_written_down(server: Server, log: Path, sent: bytes) -> None:
    host, port = server.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=15) as client:
        client.sendall(sent + SECRET.encode())
        answer = b""
        while data := client.recv(1 << 16):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in head
    assert set(json.loads(body)) >= {"error", "message"}
    server.end()
    assert SECRET not in log.read_text()
    (told,) = [line for line in map(json.loads, log.read_text().splitlines()) if line.get("event") == "turned away"]
    assert (told["status"], told["error"], told["client"]) == (400, "NotHttp", "127.0.0.1")


def test_a_client_that_leaves_is_told_of_and_so_is_what_it_got(folder: Path, server: Server, log: Path) -> None:
    host, port = server.url.split("/")[2].split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(f"GET /{address(folder)}/frames/1-160 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        client.recv(1000)
    whole = len(server.get(f"{address(folder)}/frames/1-160").content)
    for _ in range(200):
        gone = [line for line in lines_of(log) if line["ended"] != "whole"]
        if gone:
            break
        threading.Event().wait(0.05)
    (line,) = gone
    assert (line["status"], line["ended"], line["frames"]) == (200, "client left", "1-160")
    assert 0 < line["bytes"] < whole


def test_who_is_too_slow_is_told_of_as_broken_off_by_us(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "slow"
    options = ["--access-log", str(log), "--patience", "1", "--store", str(tmp_path / "store")]
    with serving([folder], *options, cache=tmp_path) as server, socket.socket() as reader, socket.socket() as sender:
        host, port = server.url.split("/")[2].split(":")
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        reader.sendall(f"GET /{address(folder)}/frames/1-160 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        sender.connect((host, int(port)))
        head = "POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/dicom\r\n"
        sender.sendall(f"{head}Content-Length: 5000\r\n\r\nx".encode())
        for _ in range(200):
            told = [line for line in lines_of(log) if line["ended"] != "whole"]
            if len(told) == 2:
                break
            threading.Event().wait(0.05)
        samples = server.get("metrics").text
    assert {(line["endpoint"], line["status"], line["ended"], line["error"]) for line in told} == {
        ("frames", 200, "broken off", "TooSlow"),
        ("store", 408, "broken off", "TooSlow"),
    }
    assert 'multiframe_broken_off_total{by="server"} 2.0' in samples
    assert 'multiframe_errors_total{kind="TooSlow"} 2.0' in samples


def test_nothing_of_a_patient_a_token_or_a_query_is_written(folder: Path, tmp_path: Path, log: Path) -> None:
    """Whatever is asked, and however; also where what is read does not exist, or cannot be read."""
    url = address(folder)
    broken = tmp_path / f"broken-{SECRET}"
    broken.mkdir()
    path = broken / f"{SECRET}.dcm"
    cine(path, frames=3, rows=96, columns=128)
    with serving([folder, broken], "--access-log", str(log), cache=tmp_path) as server:
        os.truncate(path, path.stat().st_size // 2)
        other = address_of_second(server, url)
        paths = [
            f"dicom-web/studies?PatientName={SECRET}", f"dicom-web/studies?{SECRET}=1", f"dicom-web/studies/{SECRET}",
            f"{url}/frames/{SECRET}", f"{url}/frames/1?accept={SECRET}", f"{url}/metadata?token={SECRET}",
            f"{url}/bulkdata/{SECRET}", f"dicom-web/studies/{SECRET}/series/{SECRET}/instances/{SECRET}/frames/1",
            f"{SECRET}", f"wado?requestType=WADO&studyUID={SECRET}&objectUID={SECRET}&frameNumber={SECRET}",
            f"api/instances/{SECRET}", f"{other}/frames/3", f"{other}/frames/3/rendered", other,
        ]  # fmt: skip
        for path_ in paths:
            server.get(path_, authorization=f"Bearer {SECRET}", x_request_id=SECRET, traceparent=SECRET,
                       accept=f"image/{SECRET}", user_agent=SECRET, referer=f"https://viewer/{SECRET}")  # fmt: skip
        server.client.request(SECRET.replace("^", ""), url)
        server.client.post(url, content=SECRET)
        path.unlink()
        server.get(f"{other}/frames/1")
        said = server.end()
    told = lines_of(log)
    assert len(told) == len(paths) - 1 + 2 + 1  # without our viewer's, and uvicorn refuses odd methods
    for text in (log.read_text(), said):
        for word in (SECRET, *SECRET.split("^"), SECRET.replace("^", "%5E")):
            assert word.casefold() not in text.casefold()


def address_of_second(server: Server, first: str) -> str:
    found = server.get("dicom-web/instances", accept="application/dicom+json").json()
    urls = [one["00081190"]["Value"][0].removeprefix(server.url) for one in found]
    (other,) = set(urls) - {first}
    return str(other)


def test_ids_of_others_are_taken_where_they_are_sane(server: Server, log: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = f"00-{trace}-00f067aa0bb902b7-01"
    assert server.get("dicom-web/studies", x_request_id=SANE).headers["x-request-id"] == SANE
    assert server.get("dicom-web/studies", traceparent=parent).headers["x-request-id"] == trace
    assert server.get("nowhere", traceparent=parent, x_request_id=SANE).json()["request"] == SANE
    for hostile in ("short", "a" * 65, "DOE^JANE-0123", "../../etc/passwd", "a1b2c3d4 e5f6", f"{SANE}\tx", ""):
        answer = server.get("nowhere", x_request_id=hostile)
        assert answer.headers["x-request-id"] == answer.json()["request"] != hostile
    server.end()
    assert [line["request"] for line in lines_of(log)][:3] == [SANE, trace, SANE]


def test_what_is_stored_is_told_of_with_who_sent_it(folder: Path, tmp_path: Path, log: Path) -> None:
    (tmp_path / "store").mkdir()
    cine(tmp_path / "sent", frames=2, rows=96, columns=128, seed=5)
    body = (tmp_path / "sent").read_bytes()
    sent = {"content-type": "application/dicom"}
    store = str(tmp_path / "store")
    with serving([], "--store", store, "--access-log", str(log), cache=tmp_path, wait=False) as server:
        assert server.client.post("dicom-web/studies", content=body, headers=sent).status_code == 200
        assert server.client.post("dicom-web/studies", content=b"x" * 500, headers=sent).status_code == 409
        samples = server.get("metrics").text
    told = [json.loads(line) for line in log.read_text().splitlines()]
    stored, answered, refused = told[:3]
    assert (stored["event"], stored["bytes"], stored["who"]) == ("stored", len(body), None)
    assert stored["instance"] == multiframe.open(tmp_path / "sent").header.sop_instance_uid
    assert stored["request"] == answered["request"]
    assert (answered["endpoint"], answered["received"]) == ("store", len(body))
    assert (refused["event"], refused["reason"]) == ("refused", "C000")
    assert "reason" not in stored
    assert 'multiframe_stored_total{what="stored"} 1.0' in samples
    assert 'multiframe_stored_total{what="refused"} 1.0' in samples


@pytest.mark.parametrize("form", ["auto", "text", "json"])
def test_a_terminal_is_told_in_words_unless_asked_otherwise(folder: Path, tmp_path: Path, form: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "multiframe", "serve", str(folder), "--port", "0", "--log-format", form]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, text=True, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        while httpx.get(f"{url}{address(folder)}/frames/3").status_code != 200:
            pass  # it is still being found
        process.terminate()
        said = b""
        while True:
            try:
                said += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    lines = [line for line in said.decode().splitlines() if "frames" in line and "127.0.0.1" in line]
    assert lines
    if form == "json":
        assert json.loads(lines[-1])["endpoint"] == "frames"
    else:
        assert re.search(
            r"\d\d:\d\d:\d\d 200 GET frames [0-9.]+ 3 [0-9,]+ B [0-9.]+ ms 127.0.0.1 - whole \[", lines[-1]
        )


def test_off_is_off_and_a_log_that_cannot_be_written_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    with serving([folder], "--access-log", "off", cache=tmp_path) as server:
        server.get(f"{address(folder)}/frames/3")
        assert "access" not in server.end()
    done = subprocess.run(
        [sys.executable, "-m", "multiframe", "serve", str(folder), "--access-log", str(tmp_path / "no" / "log")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_a_reader_who_does_not_read_stops_nobody(folder: Path, tmp_path: Path) -> None:
    """Far more lines than a pipe holds, and nobody at its other end."""
    with serving([folder], cache=tmp_path) as server:
        url = address(folder)
        answers = [server.get(f"{url}/frames/{1 + n % 40}").status_code for n in range(400)]
        assert answers == [200] * 400
        said = server.end()
    told = [json.loads(line) for line in said.splitlines()]
    assert len([line for line in told if line.get("endpoint") == "frames"]) == 400, "what had to wait was not lost"


# ------------------------------------------------------------------------------------------------- the journal


def test_lines_that_nobody_reads_are_kept_in_bounds_and_counted_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    before = os.dup(2)
    try:
        os.dup2(theirs, 2)
        journal = Journal()
    finally:
        os.dup2(before, 2)
        os.close(before)
    os.close(theirs)
    for n in range(20_000):
        journal.write(f"{n:0100}")
    assert 0 < journal.lost < 20_000
    assert journal._held <= 1 << 20
    said = b""
    os.set_blocking(ours, False)
    while True:
        try:
            said += os.read(ours, 1 << 16)
        except BlockingIOError:
            if not journal._waiting:
                break
            journal.flush()
    numbers = list(map(int, said.split()))
    assert numbers == list(range(20_000 - journal.lost))
    journal.close()
    os.close(ours)


def test_a_log_that_was_renamed_is_begun_anew(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "log"))
    journal.write("one")
    (tmp_path / "log").rename(tmp_path / "log.1")
    journal._looked = 0  # a second later
    journal.write("two")
    journal.close()
    assert (tmp_path / "log.1").read_text() == "one\n"
    assert (tmp_path / "log").read_text() == "two\n"
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0


def test_a_full_disk_is_counted_and_raises_nothing() -> None:
    journal = Journal("/dev/full")
    journal.write("one")
    assert journal.lost == 1
    journal.close()


def test_lines_that_come_together_are_one_write_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No write is longer than what a pipe takes whole, but of one long line."""
    written: list[bytes] = []
    write = os.write

    def counted(file: int, data: bytes) -> int:
        written.append(data)
        return write(file, data)

    monkeypatch.setattr(os, "write", counted)
    journal = Journal(str(tmp_path / "log"))
    lines = [f"{n:0300}" for n in range(40)] + ["long" * 2000, "last"]
    journal.write(*lines)
    journal.close()
    assert (tmp_path / "log").read_text().splitlines() == lines
    assert len(written) == 6
    assert all(data.endswith(b"\n") and (len(data) <= 4096 or data.count(b"\n") == 1) for data in written)
    journal = Journal("/dev/full")
    journal.write("one", "two", "three")
    assert journal.lost == 3
    journal.close()


def test_many_processes_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = "import sys; from multiframe.web.journal import Journal; j = Journal(sys.argv[1])\n" + (
        "for n in range(2000): j.write(sys.argv[2] * 300)"
    )
    several = [subprocess.Popen([sys.executable, "-c", script, str(path), word]) for word in "abc"]
    assert [process.wait(60) for process in several] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert sorted(set(lines)) == [word * 300 for word in "abc"]
    assert len(lines) == 6000


def test_of_an_exception_its_class_and_place_are_told_not_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    def raising() -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise OSError(2, "no such file", f"/data/{SECRET}.dcm") from error

    try:
        raising()
    except OSError:
        logging.getLogger("multiframe.test").exception("unforeseen")
    (record,) = caplog.records
    token = REQUEST.set(SANE)
    try:
        told, text = json.loads(line_of(record, "json")), line_of(record, "text")
    finally:
        REQUEST.reset(token)
    assert told["error"] == "FileNotFoundError/KeyError"
    assert told["where"][-1].endswith(" raising")
    assert told["request"] == SANE
    assert SANE in text
    assert "raising" in text
    assert SECRET not in json.dumps(told) + text


def test_what_is_said_for_people_cannot_begin_a_line_of_its_own() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "a\nWARNING forged\x1b[2J", (), None)
    assert "\n" not in line_of(record, "text")
    assert "\x1b" not in line_of(record, "text")
    assert len(line_of(record, "json").splitlines()) == 1


def test_what_nobody_catches_is_logged_and_quotes_nothing() -> None:
    script = (
        "from multiframe.web.journal import *; import threading\n"
        "log_to(Journal(), 'json'); catch_all()\n"
        f"thread = threading.Thread(target=lambda: int('{SECRET}')); thread.start(); thread.join()\n"
        f"raise ValueError('{SECRET}')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["error"] for line in told] == ["ValueError", "ValueError"]
    assert SECRET not in done.stderr


def test_audit_goes_where_accesses_go(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "log"))
    logger = logging.getLogger("multiframe.audit")
    try:
        audit_to(journal, "json")
        audit("stored", instance="1.2.3", bytes=17)
    finally:
        logger.handlers, logger.propagate = [], True
    told = json.loads((tmp_path / "log").read_text())
    assert (told["event"], told["instance"], told["bytes"]) == ("stored", "1.2.3", 17)
    journal.close()


# -------------------------------------------------------------------------------------- the middleware by itself


def asking(
    app: Callable[..., Any], journal: Journal, gauges: Gauges | None = None, trusted: tuple[str, ...] = (), **scope: Any
) -> None:
    async def send(message: dict[str, Any]) -> None:
        pass

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"12345", "more_body": False}

    whole = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "client": ("1.2.3.4", 5)}
    witness = Witness(app, gauges or Gauges(), journal, trusted=trusted)
    asyncio.run(witness({**whole, **scope}, receive, send))  # type: ignore[arg-type]


async def good(scope: Any, receive: Any, send: Any) -> None:
    scope[ACCESS] = Access('some"body', ACTIONS, None)
    while scope["method"] == "POST":
        if not (await receive()).get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"123", "more_body": True})
    await send({"type": "http.response.body", "body": b"45"})


def test_who_asked_and_what_came_in_are_told() -> None:
    journal, gauges = Kept(), Gauges()
    asking(good, journal, gauges, method="POST", path="/dicom-web/studies")
    (line,) = journal.told
    assert (line["who"], line["endpoint"], line["received"], line["bytes"]) == ('some"body', "store", 5, 5)
    assert gauges.sum("received_bytes", "store") == 5


def test_an_error_nobody_foresaw_is_told_without_its_words() -> None:
    async def bad(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError(SECRET)

    journal, gauges = Kept(), Gauges()
    asking(bad, journal, gauges)
    (line,) = journal.told
    assert (line["error"], line["ended"]) == ("ZeroDivisionError", "broken off")
    assert gauges.sum("errors", "other") == 1
    assert gauges.sum("broken_off", "server") == 1
    assert SECRET not in journal.lines[0]


def test_the_client_is_whom_a_trusted_proxy_names_and_nothing_but_an_address() -> None:
    for said, trusted, wanted in [
        (b"203.0.113.9", ("1.2.3.0/24",), "203.0.113.9"),
        (b"203.0.113.9", (), "1.2.3.4"),
        (SECRET.encode(), ("1.2.3.4",), "1.2.3.4"),
    ]:
        journal = Kept()
        asking(good, journal, trusted=trusted, headers=[(b"x-forwarded-for", said)])
        assert journal.told[0]["client"] == wanted


texts = st.text(max_size=30) | st.sampled_from(
    ["studies", "series", "instances", "frames", "1.2", "dicom-web", "ohif", "wado", "metadata", "1-3,5", "api", ""]
)


@given(st.lists(texts, max_size=10), st.text(max_size=60), st.sampled_from(["GET", "HEAD", "POST", "DELETE", "BREW"]))
@example(["dicom-web", "studies", "1", "series", "2", "instances", "3", "frames", "9" * 11], "", "GET")
@example(["dicom-web", "studies", "1\n", "metadata"], "", "GET")
def test_only_uids_and_numbers_are_left_of_an_address(words: list[str], query: str, method: str) -> None:
    path, raw = "/" + "/".join(words), query.encode("utf-8", "replace")
    asked, frames = asked_of(method, path, raw)
    assert asked.endpoint in ENDPOINTS
    assert all(not uid or UID.fullmatch(uid) for uid in asked[1:])
    assert re.fullmatch(r"[0-9,-]*(\.\.\.)?", frames)
    journal = Kept()
    asking(good, journal, method=method, path=path, query_string=raw)
    (line,) = journal.told  # it is JSON, and one line
    assert "\n" not in journal.lines[0]
    assert line["endpoint"] == asked.endpoint


@given(st.lists(st.tuples(st.sampled_from([b"x-request-id", b"traceparent"]), st.binary(max_size=80)), max_size=3))
def test_an_id_is_hex_digits_and_dashes_whatever_is_sent(headers: list[tuple[bytes, bytes]]) -> None:
    assert re.fullmatch(r"[0-9A-Fa-f-]{8,64}", request_id(headers))


# ------------------------------------------------------------------------------------- ids go where the work goes


def told_id(_: bytes) -> bytes:
    logging.getLogger("multiframe.test").warning("at work")
    return REQUEST.get().encode()


def test_the_id_is_known_in_threads_and_in_processes_that_work(capfd: pytest.CaptureFixture[str]) -> None:
    log_to(Journal(), "json")
    try:
        workers = Workers(1)

        async def work() -> tuple[str, bytes]:
            REQUEST.set(SANE)
            return await asyncio.to_thread(REQUEST.get), await workers.run(told_id, b"")

        assert asyncio.run(work()) == (SANE, SANE.encode())
        workers.close()
    finally:
        logging.getLogger().handlers.clear()
        log_to_text()
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "at work" in line]
    assert (line["request"], line["message"]) == (SANE, "at work")


def log_to_text() -> None:
    from multiframe.web import journal

    journal._form = "text"


def test_failed_names_a_class_not_a_message() -> None:
    scope: dict[str, Any] = {}
    failed(scope, ValueError(SECRET))
    assert list(scope.values()) == ["ValueError"]


def test_ids_are_not_mixed_up_over_http2(folder: Path, tmp_path: Path, log: Path) -> None:
    """Many requests at once on one connection, on a server that need not give each a context of its own."""

    async def ask(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, http2=True, verify=False, timeout=30) as client:  # noqa: S501
            paths = [f"{address(folder)}/frames/{n}" if n % 2 else f"{address(folder)}/nothing/{n}" for n in range(200)]
            return await asyncio.gather(*(client.get(path) for path in paths))

    with serving([folder], "--tls-self-signed", "--access-log", str(log), cache=tmp_path, verify=False) as server:
        answers = asyncio.run(ask(server.url))
        server.end()
    told = {line["request"]: line for line in lines_of(log)}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 200
    for answer in answers:
        line = told[answer.headers["x-request-id"]]
        assert line["status"] == answer.status_code
        if answer.status_code == 404:
            assert answer.json()["request"] == line["request"]
