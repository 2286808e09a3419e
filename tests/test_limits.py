"""Clients that take their time, and too much of everything, over raw sockets: none holds the server up.

The server's patience is a second here. Each test leaves as many connections behind as it found: none.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h2.connection
import h2.exceptions
import h2.settings
import httpx
import pytest

from multiframe.testing import cine
from multiframe.web.sockets import LONGEST_HEAD
from tests.serving import Server, address_of, serving

PATIENCE = 1.0
CONNECTIONS = 16


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cine") / "cine.dcm"
    cine(path, frames=60)  # 11 MB: more than any buffer on the way takes
    return path


@pytest.fixture(scope="module")
def url(path: Path) -> str:
    return f"/{address_of(path)}"


@pytest.fixture(scope="module", params=["plain", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(kind: str, path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--patience", str(PATIENCE), "--connections", str(CONNECTIONS), "--memory", "2MiB"]
    options += ["--tls-self-signed"] if kind == "tls" else []
    options += ["--store", str(tmp_path_factory.mktemp("store"))]
    with serving([path], *options, cache=tmp_path_factory.mktemp("cache"), verify=False) as server:
        yield server


def connect(server: Server, *, window: int = 0) -> socket.socket:
    """A connection of a client that keeps at most `window` bytes."""
    url = httpx.URL(server.url)
    plain = socket.socket()
    if window:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    plain.settimeout(15)
    plain.connect((url.host, url.port))
    if url.scheme == "http":
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context.wrap_socket(plain)


def head(method: str, path: str, *lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "")).encode()


def rest(s: socket.socket) -> bytes:
    """What comes until the other end is done: within the socket's timeout it must be."""
    received = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        while data := s.recv(1 << 16):
            received += data
    return received


def drip(s: socket.socket, data: bytes, *, seconds: float = 8 * PATIENCE, pause: float = 0.05) -> float:
    """Send byte by byte until the other end has had enough; gives after how many seconds that was."""
    began = time.monotonic()
    s.setblocking(False)
    try:
        for n in range(int(seconds / pause)):
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
                s.send(data[n % len(data) :][:1])
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                if s.recv(1, socket.MSG_PEEK if not isinstance(s, ssl.SSLSocket) else 0) is not None:
                    break
            time.sleep(pause)
    except OSError:
        pass
    finally:
        s.settimeout(15)
    return time.monotonic() - began


def established(server: Server) -> int:
    port = httpx.URL(server.url).port
    return sum(c.status in ("ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT1") and c.laddr.port == port
               for c in server.worker().net_connections())  # fmt: skip


def asking(server: Server, *, timeout: float = 15) -> httpx.Client:
    return httpx.Client(base_url=server.url, verify=False, timeout=timeout)  # noqa: S501  # it is our own certificate


def served(server: Server, url: str) -> None:
    """Whether others are served meanwhile."""
    with asking(server) as client:
        assert client.get(f"{url}/frames/1").status_code == 200


@pytest.fixture(autouse=True)
def nobody_is_left(server: Server) -> Iterator[None]:
    server.client.close()
    server.client = asking(server)
    yield
    server.client.close()
    server.client = asking(server)
    deadline = time.monotonic() + 10 * PATIENCE
    while established(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert established(server) == 0


def test_who_says_nothing_is_not_waited_for(server: Server, url: str) -> None:
    with connect(server) as s:
        served(server, url)
        assert rest(s).partition(b"\r\n")[0] in (b"", b"HTTP/1.1 408 Request Timeout")


def test_who_does_not_even_shake_hands(server: Server, url: str) -> None:
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port), timeout=15) as s:
        served(server, url)
        assert rest(s) == b""


def test_a_head_that_comes_byte_by_byte(server: Server, url: str) -> None:
    with connect(server) as s:
        seconds = drip(s, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 10_000)
        assert seconds < 5 * PATIENCE
        served(server, url)


def test_a_second_request_that_comes_byte_by_byte(server: Server, url: str) -> None:
    with connect(server) as s:
        s.sendall(head("HEAD", "/openapi.json"))
        assert s.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert drip(s, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 10_000) < 5 * PATIENCE


@pytest.mark.parametrize(
    "more",
    [lambda n: f"X-{n}: {'a' * 50}\r\n".encode(), lambda n: b"a" * 50, lambda n: b"\r\n " + b"a" * 50],
    ids=["many", "long", "folded"],
)
def test_a_head_without_end(server: Server, url: str, more: Callable[[int], bytes]) -> None:
    before = server.rss()
    with connect(server) as s:
        with contextlib.suppress(OSError):
            s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
            for n in range(400_000):
                s.sendall(more(n))
        assert n < 200_000
        answer = rest(s)
        assert answer == b"" or answer.split()[1] in (b"431", b"400")
    assert server.rss() - before < 16 << 20
    served(server, url)


def test_an_address_and_headers_that_are_too_long(server: Server, url: str) -> None:
    for lines in (("/" + "a" * LONGEST_HEAD,), ("/", f"X-Long: {'a' * LONGEST_HEAD}"), ("/", *["X: y"] * 12_000)):
        with connect(server) as s:
            with contextlib.suppress(OSError):
                s.sendall(head("GET", *lines))
            assert rest(s).partition(b"\r\n")[0].split()[1:2] in ([b"431"], [b"400"], [b"414"], [])
    served(server, url)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", ["Content-Length: 1000000000000", "Transfer-Encoding: chunked"])
def test_a_body_that_nobody_wants_is_not_read_without_end(server: Server, url: str, method: str, how: str) -> None:
    before, sent = server.rss(), 0
    with connect(server) as s:
        s.sendall(head(method, f"{url}/frames/1", how))
        piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n" if "chunked" in how else b"x" * 65_536
        ends = time.monotonic() + 10 * PATIENCE
        with contextlib.suppress(OSError):
            while time.monotonic() < ends:
                s.sendall(piece)
                sent += len(piece)
                time.sleep(0.002)
        assert time.monotonic() < ends, f"it was still taken after {sent} bytes"
    assert server.rss() - before < 16 << 20
    served(server, url)


@pytest.mark.parametrize("whole", [False, True], ids=["byte by byte", "and then nothing"])
def test_an_upload_that_hardly_comes_is_given_up_and_leaves_nothing(
    server: Server, path: Path, url: str, whole: bool
) -> None:
    arguments: list[str] = server.process.args  # type: ignore[assignment]
    store = Path(arguments[arguments.index("--store") + 1])
    with connect(server) as s:
        s.sendall(head("POST", "/dicom-web/studies", "Content-Type: application/dicom", "Content-Length: 11000000"))
        s.sendall(path.read_bytes()[:300_000])
        if whole:
            assert rest(s).partition(b"\r\n")[0].split()[1:2] in ([b"408"], [])
        else:
            assert drip(s, b"x" * 1000) < 6 * PATIENCE
        served(server, url)
    deadline = time.monotonic() + 10 * PATIENCE
    while (left := [p for p in store.rglob("*") if p.is_file()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_answers_that_nobody_takes_hold_nothing(server: Server, url: str) -> None:
    """Ten answers of 11 MB, of which nobody takes a byte: together they would hold all memory there is."""
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            s = stack.enter_context(connect(server, window=4096))
            s.sendall(head("GET", url))
        time.sleep(0.3)
        served(server, url)
        deadline = time.monotonic() + 12 * PATIENCE
        while established(server) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert established(server) == 0


def test_an_answer_that_is_taken_byte_by_byte(server: Server, url: str) -> None:
    with connect(server, window=4096) as s:
        s.sendall(head("GET", url))
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while s.recv(1) and time.monotonic() - began < 12 * PATIENCE:
                time.sleep(0.05)
                if not established(server):
                    break
        assert established(server) == 0
    served(server, url)


def test_an_answer_that_is_taken_slowly_is_given_whole(server: Server, path: Path, url: str) -> None:
    """A slow line is no attack: what goes on, goes on, for many times the server's patience."""
    with connect(server, window=65_536) as s:
        s.sendall(head("GET", url, "Connection: close"))
        received, began = 0, time.monotonic()
        while data := s.recv(200_000):
            received += len(data)
            time.sleep(len(data) / 3_000_000)
        assert received > path.stat().st_size
        assert time.monotonic() - began > 3 * PATIENCE


def test_an_answer_over_http2_that_is_never_taken(server: Server, url: str, kind: str) -> None:
    """The connection goes on, and answers what it is asked; only the window of its answers never opens."""
    if kind == "plain":
        pytest.skip("HTTP/2 is spoken over TLS alone")
    where = httpx.URL(server.url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(socket.create_connection((where.host, where.port), timeout=15)) as s:
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
        asked = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", url)]
        for stream in range(1, 20, 2):
            connection.send_headers(stream, asked, end_stream=True)
        s.sendall(connection.data_to_send())

        def talk() -> None:
            with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
                while data := s.recv(1 << 16):
                    connection.receive_data(data)
                    s.sendall(connection.data_to_send())

        talking = threading.Thread(target=talk)
        talking.start()
        time.sleep(0.3)
        for _ in range(3):
            with asking(server, timeout=5 * PATIENCE) as client:  # sooner than waiting for memory is given up
                assert client.get(f"{url}/frames/1").status_code == 200
        assert talking.is_alive()
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_RDWR)
        talking.join()


def test_too_many_ranges(server: Server, url: str) -> None:
    ranges = "bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(8_000))
    with connect(server) as s:
        s.sendall(head("GET", f"{url}/frames/1", f"Range: {ranges}", "Connection: close"))
        answer = rest(s)
    assert answer.split()[1] in (b"200", b"416", b"400", b"431")
    assert len(answer) < 1 << 20


def test_idle_connections_make_room_for_new_ones(server: Server, url: str, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        for n in range(2 * CONNECTIONS + 8):
            s = stack.enter_context(connect(server))
            if n % 2:
                s.sendall(head("HEAD", "/openapi.json"))
        served(server, url)
        deadline = time.monotonic() + 5 * PATIENCE
        while established(server) > CONNECTIONS + 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert established(server) <= CONNECTIONS + 1
