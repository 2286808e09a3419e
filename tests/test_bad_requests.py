"""What comes over a raw socket: whatever it is, the answer is a 4xx or a right one, never a bare 500, never a hang."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import multiframe
from multiframe.testing import cine
from tests.serving import OCTETS, Server, address_of, serving

FRAMES = 12


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cine") / "cine.dcm"
    cine(path, frames=FRAMES, rows=96, columns=128)
    return path


@pytest.fixture(scope="module")
def url(path: Path) -> str:
    return f"/{address_of(path)}"


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request: pytest.FixtureRequest, path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--tls-self-signed"] if request.param == "tls" else []
    with serving([path], *options, cache=tmp_path_factory.mktemp("cache"), verify=False) as server:
        yield server


def connect(server: Server) -> socket.socket:
    url = httpx.URL(server.url)
    plain = socket.create_connection((url.host, url.port), timeout=20)
    if url.scheme == "http":
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context.wrap_socket(plain)


def exchange(server: Server, *pieces: bytes, pause: float = 0) -> bytes:
    """Send, and receive until the other end is done: it must be, within the socket's timeout."""
    received = b""
    with connect(server) as s:
        try:
            for piece in pieces:
                s.sendall(piece)
                time.sleep(pause)
            while data := s.recv(1 << 16):
                received += data
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLError):
            pass  # hung up in the middle of nonsense: that is an answer too
    return received


def status_of(answer: bytes) -> int:
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def request(path: str, *headers: str, method: str = "GET", close: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, *(["Connection: close"] if close else [])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def alive(server: Server, url: str) -> None:
    answer = exchange(server, request(f"{url}/frames/1", f"Accept: {OCTETS}"))
    assert status_of(answer) == 200


@pytest.mark.parametrize(
    "tail",
    [
        "/frames/%00", "/frames/1%00", "/frames/..", "/frames/../../..", "/frames/%2e%2e/1", "/frames/1/..%2f..%2fetc",
        "/frames/" + "1," * 3000, "/frames/1-999999999", "/frames/1,1,1", "/frames/%ff%fe", "/frames/%EF%BC%91",
        "/frames/1;drop", "/frames/0x1", "/frames/+1", "/frames/1e0", "/frames/%2D1", "/nothing", "/frames/",
        "/frames/" + "9" * 5000, "/frames/" + "1-2," * 2000,
    ],
)  # fmt: skip
def test_paths(server: Server, url: str, tail: str) -> None:
    answer = exchange(server, request(url + tail.encode().decode("latin-1")))
    assert 400 <= status_of(answer) < 500, answer[:300]
    alive(server, url)


@pytest.mark.parametrize("uid", ["%00", "..", "%2e%2e", "1.2.3", "a" * 4000, "%2Fetc%2Fpasswd", "*", "'--"])
def test_uids(server: Server, url: str, uid: str) -> None:
    study, _, _ = url.partition("/series/")
    for path in (f"{study}/series/1/instances/{uid}/frames/1", f"/dicom-web/studies/{uid}/metadata", f"/{uid}"):
        answer = exchange(server, request(path))
        assert 400 <= status_of(answer) < 500, answer[:300]


@pytest.mark.parametrize(
    ("header", "statuses"),
    [
        ("Range: bytes=0-1,5-9,3-20", {200}),  # several, overlapping: all of it is given (RFC 9110 14.2)
        ("Range: bytes=" + ",".join(f"{i}-" for i in range(2000)), {200, 400, 431}),
        ("Range: bytes=9-1", {200}),
        ("Range: bytes=-0", {416}),
        ("Range: bytes=99999999999999999999-", {200, 416}),
        ("Range: lines=1-2", {200}),
        ("Range: bytes=a-b", {200}),
        ("If-Range: W/\"x\"\r\nRange: bytes=0-0", {200}),
        ("If-None-Match: " + '"x",' * 2000, {200, 400, 431}),
        ("Accept: " + "a/b;q=0.1," * 2000 + "*/*", {200, 400, 406, 431}),
        ("Accept: " + ";" * 5000, {200, 400, 406}),
        ('Accept: multipart/related; type="', {200, 400, 406}),
        ("Accept: garbage", {200}),
        ("Accept: ;;;,,,;q=x", {200, 400, 406}),
        ("Accept: image/jpeg;q=nan", {200, 400, 406}),
        ("Accept-Encoding: gzip;q=x, \\", {200}),
        ("Content-Length: -1", {400}),
        ("Content-Length: 5\r\nContent-Length: 6", {400}),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", {400, 200}),
        ("Host: evil.example", {400}),  # the second
        ("Origin: \x00", {400, 200}),
        ("X: " + "y" * 200_000, {400, 431, 200}),
    ],
)  # fmt: skip
def test_headers(server: Server, url: str, header: str, statuses: set[int]) -> None:
    answer = exchange(server, request(f"{url}/frames/1", header))
    assert status_of(answer) in statuses | {0}, answer[:300]  # 0: hung up
    alive(server, url)


@pytest.mark.parametrize(
    "junk",
    [
        b"\0" * 1000, b"\r\n" * 1000 + b"\0", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET x:// HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100, b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\nHost localhost\n\n", b"\x16\x03\x01\x02\x00", b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request(server: Server, url: str, junk: bytes) -> None:
    with connect(server) as s:
        s.sendall(junk)
        s.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while data := s.recv(1 << 16):
                received += data
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            pass
    assert status_of(received) == 0 or 400 <= status_of(received) < 506
    assert status_of(received) != 500
    alive(server, url)


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        ("1.0", [], 200), ("1.0", ["localhost"], 200), ("1.0", ["localhost"] * 2, 400), ("1.0", ["evil.example"], 421),
        ("1.1", [], 400), ("1.1", ["localhost"], 200), ("1.1", ["localhost"] * 2, 400), ("1.1", ["evil.example"], 421),
        ("1.1", ["localhost", "127.0.0.1"], 400), ("1.1", ["a b"], 400), ("1.1", ["a@localhost"], 400),
    ],
)  # fmt: skip
def test_a_request_names_one_host(server: Server, version: str, hosts: list[str], status: int) -> None:
    """RFC 9112 3.2; HTTP/1.0 knew none: absolute addresses begin with that of the socket."""
    named = [f"Host: {host}" for host in hosts]
    lines = [f"GET /dicom-web/studies HTTP/{version}", *named, "Connection: close", "", ""]
    answer = exchange(server, "\r\n".join(lines).encode())
    assert int(answer.split(b" ", 2)[1]) == status
    if status == 200 and not hosts:
        [study] = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert study["00081190"]["Value"][0].startswith(f"{server.url}dicom-web/studies/")


@pytest.mark.parametrize(
    ("named", "hosts", "status"),
    [
        ("localhost", ["evil.example"], 200), ("evil.example", ["localhost"], 421), ("localhost", ["localhost"], 200),
        ("a@localhost", ["localhost"], 400), ("localhost", ["localhost"] * 2, 400), ("localhost", [], 400),
    ],
)  # fmt: skip
def test_the_host_of_a_whole_address_counts(server: Server, named: str, hosts: list[str], status: int) -> None:
    """RFC 9112 3.2.2: as proxies are asked, and whatever Host says; there must be one all the same (3.2)."""
    if server.url.startswith("https"):
        pytest.skip("granian gives us no more than Host")
    for address in (f"http://{named}/dicom-web/studies", f"HTTP://{named}/dicom-web/studies?limit=1"):
        lines = [f"GET {address} HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
        answer = exchange(server, "\r\n".join(lines).encode())
        assert int(answer.split(b" ", 2)[1]) == status
        if status == 200:
            [study] = json.loads(answer.partition(b"\r\n\r\n")[2])
            told = httpx.URL(study["00081190"]["Value"][0])
            assert told.host == "localhost"


def test_what_is_answered_without_a_host_is_not_answered_to_others(server: Server, url: str) -> None:
    """The short way of a frame is kept by its headers."""
    for version, status in (("1.0", 200), ("1.1", 400), ("1.0", 200), ("1.1", 400)):
        answer = exchange(server, f"GET {url}/frames/1 HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
        assert int(answer.split(b" ", 2)[1]) == status


def test_a_method_that_is_none(server: Server, url: str) -> None:
    for method in ("FOO", "get", "BREW"):
        answer = exchange(server, request(f"{url}/frames/1", method=method))
        assert status_of(answer) == 501
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "HTTPError"


def test_other_methods(server: Server, url: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECTED"):
        assert status_of(exchange(server, request(f"{url}/frames/1", method=method))) in (400, 404, 405, 501, 0)


def test_pipelined_requests_are_answered_in_order(server: Server, url: str) -> None:
    asked = [request(f"{url}/frames/{n}", "Accept: image/jpeg", close=n == FRAMES) for n in range(1, FRAMES + 1)]
    answer = exchange(server, b"".join(asked))
    for n, frame in enumerate(multiframe.open(_only(server)).encoded(range(FRAMES))):
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert status_of(head) == 200, n
        assert rest.startswith(frame.data)
        answer = rest[len(frame.data) :]
    assert answer == b""


def _only(server: Server) -> str:
    arguments: list[str] = server.process.args  # type: ignore[assignment]
    return arguments[arguments.index("serve") + 1]


def test_a_slow_request_is_waited_for_and_others_meanwhile_answered(server: Server, url: str) -> None:
    whole = request(f"{url}/frames/2", f"Accept: {OCTETS}")
    with connect(server) as slow:
        for at in range(0, len(whole) - 4, 40):
            slow.sendall(whole[at : min(at + 40, len(whole) - 4)])
            if at % 120 == 0:
                alive(server, url)
        slow.sendall(whole[-4:])
        assert slow.recv(12) == b"HTTP/1.1 200"


def test_refusals_say_what_is_wrong_as_json(server: Server, url: str) -> None:
    for tail in ("/frames/0", "/frames/1-999999999", "/nothing", "/frames/x"):
        body = exchange(server, request(url + tail)).partition(b"\r\n\r\n")[2]
        assert set(json.loads(body)) == {"error", "message", "request"}
