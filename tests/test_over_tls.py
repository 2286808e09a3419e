"""HTTP/2 over TLS and HTTP/1.1 beside it: the same answers, from the same processes."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import multiframe
from multiframe.errors import SourceError
from multiframe.web.over_tls import Certificate, _as_granian_needs_it, check, self_signed
from multiframe.web.sockets import LONGEST_HEAD
from multiframe.web.tokens import line_of, new_token
from tests.serving import OCTETS, Server, address_of, command, serving

FRAMES = 40

GET = {
    "type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "http_version": "2",
    "server": ("127.0.0.1", "443"),
}  # fmt: skip


@pytest.fixture(scope="module")
def url(path: Path) -> str:
    return address_of(path)


@pytest.fixture(scope="module")
def server(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache = tmp_path_factory.mktemp("cache")
    with serving([path], "--tls-self-signed", cache=cache, http2=True, verify=_trusting(cache)) as server:
        yield server


def _trusting(cache: Path) -> ssl.SSLContext:
    """Trust the certificate that the server is about to make: the next one in the same folder is the same."""
    made = self_signed(_folder(cache), ("localhost", "127.0.0.1", "[::1]"))
    return ssl.create_default_context(cafile=str(made.cert))


def _folder(cache: Path) -> Path:
    folder = cache / "multiframe"
    folder.mkdir(exist_ok=True)
    return folder


def test_both_protocols_give_the_same(server: Server, path: Path, url: str) -> None:
    with httpx.Client(base_url=server.url, verify=False) as plain:  # noqa: S501
        for number in (1, 2, FRAMES, 2):
            two = server.get(f"{url}/frames/{number}", accept="image/jpeg")
            one = plain.get(f"{url}/frames/{number}", headers={"accept": "image/jpeg"})
            assert (two.http_version, one.http_version) == ("HTTP/2", "HTTP/1.1")
            assert two.content == one.content == next(multiframe.open(path).encoded([number - 1])).data
            assert two.headers["etag"] == one.headers["etag"]
            assert int(two.headers["content-length"]) == len(two.content)
        many = ",".join(map(str, range(1, FRAMES + 1)))
        two = server.get(f"{url}/frames/{many}", accept=OCTETS)
        one = plain.get(f"{url}/frames/{many}", headers={"accept": OCTETS})
        assert two.content == one.content
        part = server.get(f"{url}/frames/2", accept="image/jpeg", range="bytes=10-19")
        assert (part.status_code, len(part.content)) == (206, 10)
        head = server.client.head(f"{url}/frames/2")
        assert (head.content, int(head.headers["content-length"]) > 1000) == (b"", True)
        assert server.get("dicom-web/studies", host="evil.example").status_code in (400, 421)
        assert server.get(f"{url}/frames/0").json()["error"] == "FrameNotFound"


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
@pytest.mark.parametrize(("option", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_curl(server: Server, url: str, option: str, version: str) -> None:
    told = subprocess.run(
        ["curl", "--silent", "--insecure", option, "--output", "/dev/null",
         "--write-out", "%{http_version} %{http_code}", f"{server.url}{url}/frames/3"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == f"{version} 200"


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
@pytest.mark.parametrize("option", ["--http2", "--http1.1"])
def test_who_is_refused_while_sending_is_told_why(tmp_path: Path, option: str) -> None:
    """Reset at the end of an answer, curl threw away two of three."""
    token = new_token()
    (tmp_path / "tokens").write_text(line_of(token, "ward-7", ["store"], ["*"], None))
    large = tmp_path / "large"
    large.write_bytes(bytes(10 << 20))
    small = tmp_path / "small"
    small.write_bytes(bytes(4 << 20))
    store = ("--store", str(tmp_path / "store"), "--tokens", str(tmp_path / "tokens"), "--max-upload", "5MB")
    with serving([], *store, "--tls-self-signed", cache=tmp_path, wait=False, verify=False) as server:
        shown = ("--header", f"Authorization: Bearer {token}")
        parts = ("--header", "Content-Type: multipart/related; boundary=b; type=application/dicom")
        other = (*shown, "--header", "Content-Type: a/b")
        for headers, body, status in ((parts, large, 401), ((*shown, *parts), large, 413), (other, small, 415)):
            for _ in range(7):
                told = subprocess.run(
                    ["curl", "--silent", "--insecure", option, *headers, "--header", "Expect:", "--data-binary",
                     f"@{body}", "--write-out", "%{http_code}", f"{server.url}dicom-web/studies"],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                assert (told.returncode, told.stdout[-3:]) == (0, str(status))
                assert json.loads(told.stdout[:-3])["message"]


@pytest.mark.parametrize("http2", [True, False])
def test_a_head_that_is_too_long_is_told_so(server: Server, http2: bool) -> None:
    with httpx.Client(base_url=server.url, http2=http2, verify=False) as client:  # noqa: S501
        for size in (LONGEST_HEAD, 70_000, 90_000):
            long = client.get("dicom-web/studies", headers={"x-long": "a" * size})
            assert (long.status_code, long.json()["error"]) == (431, "HeadTooLong")
        assert client.get("dicom-web/studies", headers={"x-long": "a" * 60_000}).status_code == 200
        answer = client.get(f"dicom-web/studies?{'a' * 40_000}", headers={"x-long": "a" * 40_000})
        assert (answer.status_code, answer.json()["error"]) == (431, "HeadTooLong")


def test_what_is_refused_and_never_ends_is_answered_all_the_same() -> None:
    left = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 415, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async def run() -> None:
        sent: list[Any] = []

        async def receive() -> Any:
            nonlocal left
            await asyncio.sleep(0)
            left += 1
            return {"type": "http.request", "body": bytes(1 << 16), "more_body": True}

        async def send(message: Any) -> None:
            sent.append((message, left))

        await _as_granian_needs_it(app, {}, set(), 0.1)({**GET, "method": "POST"}, receive, send)
        assert [message["type"] for message, _ in sent] == ["http.response.start", "http.response.body"]
        assert sent[0][1] > 1

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_thousand_frames_at_once(server: Server, url: str) -> None:
    async def ask() -> list[int]:
        async with httpx.AsyncClient(base_url=server.url, http2=True, verify=False, timeout=60) as client:  # noqa: S501
            await client.get(f"{url}/frames/1")
            answers = await asyncio.gather(*(client.get(f"{url}/frames/{1 + i % FRAMES}") for i in range(1000)))
            return [answer.status_code for answer in answers]

    idle = server.rss()
    assert set(asyncio.run(ask())) == {200}
    assert server.rss() - idle < 128 << 20


def test_a_client_that_leaves_ends_the_reading() -> None:
    """Granian's ``send`` never waits: without the pauses nobody would see the disconnect."""
    sent: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            sent.append(b"x")
            await send({"type": "http.response.body", "body": bytearray(10), "more_body": True})

    async def run() -> None:
        async def receive() -> Any:
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            assert type(message["body"]) is bytes

        await _as_granian_needs_it(app, {}, set(), 10)({**GET}, receive, send)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert len(sent) < 10


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nobody_is_left_behind(path: Path, tmp_path: Path, how: signal.Signals) -> None:
    with command("serve", path, "--port", "0", "--tls-self-signed", "--workers", "2", cache=tmp_path) as (process, _):
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        process.wait(20)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGKILL: -9}[how]
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_a_worker_that_dies_is_replaced(path: Path, url: str, tmp_path: Path) -> None:
    with serving([path], "--tls-self-signed", cache=tmp_path, verify=False, http2=True) as server:
        first = server.worker()
        first.kill()
        first.wait(10)
        deadline = time.monotonic() + 60
        status = 0
        while status != 200 and time.monotonic() < deadline:
            try:
                with httpx.Client(base_url=server.url, http2=True, verify=False, timeout=5) as client:  # noqa: S501
                    status = client.get(f"{url}/frames/1").status_code
            except httpx.HTTPError:
                time.sleep(0.05)
        assert status == 200


def test_a_certificate_for_trying_is_kept_while_it_is_good(tmp_path: Path) -> None:
    made = self_signed(tmp_path, ("localhost", "127.0.0.1"))
    check(made)
    assert made.key.stat().st_mode & 0o077 == 0
    first = made.cert.read_bytes()
    assert self_signed(tmp_path, ("localhost",)).cert.read_bytes() == first
    assert self_signed(tmp_path, ("localhost", "images.example.org")).cert.read_bytes() != first


def test_certificates_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    made = self_signed(tmp_path, ("localhost",))
    (tmp_path / "other").mkdir()
    other = self_signed(tmp_path / "other", ("localhost",))
    junk, missing = tmp_path / "junk.pem", tmp_path / "missing.pem"
    junk.write_bytes(os.urandom(100))
    for certificate in (
        Certificate(made.cert, other.key), Certificate(junk, made.key), Certificate(made.cert, junk),
        Certificate(missing, made.key), Certificate(made.cert, missing),
    ):  # fmt: skip
        with pytest.raises(SourceError):
            check(certificate)
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key(made.key.read_bytes(), None)
    old = tmp_path / "old.pem"
    old.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption()))
    with pytest.raises(SourceError, match="openssl pkcs8"):
        check(Certificate(made.cert, old))
    locked = tmp_path / "locked.pem"
    locked.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")))
    with pytest.raises(SourceError):
        check(Certificate(made.cert, locked))


def test_old_tls_and_plain_http_are_refused(server: Server, url: str) -> None:
    where = httpx.URL(server.url)
    for version, good in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")  # ours would not even try
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
        with socket.create_connection((where.host, where.port), timeout=15) as plain:
            if good:
                with context.wrap_socket(plain) as s:
                    assert s.version() == "TLSv1.2"
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    context.wrap_socket(plain)
    with socket.create_connection((where.host, where.port), timeout=15) as plain:
        plain.sendall(f"GET /{url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := plain.recv(1 << 16):
                answer += data
        assert b"HTTP" not in answer
        assert len(answer) < 16, "an alert at most"
