"""Behind a real nginx, by the very files in deploy/nginx: what clients get is what the server sends."""

import gzip
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import zstandard

from multiframe.web.over_tls import self_signed
from tests.serving import OCTETS, Server, address_of, serving

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy" / "nginx"
NAME = "images.example.org"
DICOM = "multipart/related; type=application/dicom; transfer-syntax=*"
FRAMES = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nginx:
    """A running nginx, and clients that ask it by its public name."""

    def __init__(self, folder: Path, port: int, context: ssl.SSLContext) -> None:
        self.folder = folder
        self.port = port
        self.base = f"https://{NAME}:{port}"
        self.clients = {two: httpx.Client(http2=two, verify=context, timeout=60) for two in (False, True)}

    def request(
        self, url: str, method: str = "GET", *, two: bool = True, content: Iterator[bytes] | None = None, **headers: str
    ) -> httpx.Request:
        """Make a request for an address as the server gives it, or a path."""
        parts = urlsplit(url if "://" in url else f"{self.base}/{url}")
        assert f"{parts.scheme}://{parts.netloc}" == self.base, "an address on another server"
        given = {"host": parts.netloc} | {k.replace("_", "-"): v for k, v in headers.items()}
        here = parts._replace(netloc=f"127.0.0.1:{self.port}").geturl()
        named = {"sni_hostname": NAME}
        return self.clients[two].build_request(method, here, headers=given, content=content, extensions=named)

    def get(self, url: str, *, two: bool = True, **headers: str) -> httpx.Response:
        return self.clients[two].send(self.request(url, two=two, content=None, **headers))

    def log(self) -> str:
        return (self.folder / "multiframe.log").read_text()


@contextmanager
def nginx(folder: Path, upstream: str, *, prefix: bool = False) -> Iterator[Nginx]:
    """Run nginx with the examples as they are, but for places and ports."""
    program = subprocess.run([ROOT / "tools" / "nginx"], capture_output=True, text=True, check=True).stdout.strip()
    port = free_port()
    made = self_signed(folder, (NAME, "127.0.0.1"))
    text = (DEPLOY / "multiframe.conf").read_text()
    if prefix:
        at = text.index("    location / {")
        text = text[:at] + f"    include {folder}/prefix.conf;\n}}\n"
        (folder / "prefix.conf").write_text(
            (DEPLOY / "prefix.conf").read_text().replace("/var/log/nginx/", f"{folder}/")
        )
    for old, new in {
        "127.0.0.1:8080": upstream,
        "/var/log/nginx/": f"{folder}/",
        "/etc/ssl/images.pem": str(made.cert),
        "/etc/ssl/images.key": str(made.key),
        "listen 443 ": f"listen 127.0.0.1:{port} ",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "multiframe.conf").write_text(text)
    for name in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
        (folder / name).mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"{directive}_temp_path {folder}/{name};\n"
        for directive, name in (("client_body", "body"), *((n, n) for n in ("proxy", "fastcgi", "uwsgi", "scgi")))
    )
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{\n{temporary} access_log off;\n include {folder}/multiframe.conf;\n}}\n"
    )
    process = subprocess.Popen(
        [program, "-c", folder / "nginx.conf", "-e", folder / "error.log"], stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running = Nginx(folder, port, ssl.create_default_context(cafile=str(made.cert)))
        yield running
        for client in running.clients.values():
            client.close()
    finally:
        process.send_signal(signal.SIGQUIT)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def instance(path: Path) -> str:
    return address_of(path)


@pytest.fixture(scope="module")
def server(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving([path], "--trusted-proxy", "127.0.0.1", cache=tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("nginx"), urlsplit(server.url).netloc) as running:
        yield running


@pytest.mark.parametrize("two", [False, True], ids=["http1", "http2"])
def test_frames_lists_and_files_are_the_same(server: Server, proxy: Nginx, instance: str, two: bool) -> None:
    for path, accept in (
        (f"{instance}/frames/7", OCTETS),
        (f"{instance}/frames/7", "application/octet-stream; transfer-syntax=*"),
        (f"{instance}/frames/1-{FRAMES}", OCTETS),
        (f"{instance}/frames/1-3", "multipart/related; type=application/octet-stream"),  # decoded for it
        (f"{instance}/rendered", "image/jpeg"),
        (instance, DICOM),
        ("dicom-web/studies", "application/dicom+json"),
    ):
        beside = server.get(path, accept=accept)
        through = proxy.get(path, two=two, accept=accept)
        assert through.http_version == ("HTTP/2" if two else "HTTP/1.1")
        assert through.status_code == beside.status_code == 200
        for name in ("content-type", "etag", "content-length", "accept-ranges", "cache-control", "vary"):
            if path != "dicom-web/studies" or name not in ("etag", "content-length"):  # our address is in it
                assert through.headers.get(name) == beside.headers.get(name), name
        if path != "dicom-web/studies":
            assert through.content == beside.content


def test_ranges_and_conditions(server: Server, proxy: Nginx, instance: str) -> None:
    path = f"{instance}/frames/5"
    whole = server.get(path, accept=OCTETS)
    part = proxy.get(path, accept=OCTETS, range="bytes=100-1099")
    assert (part.status_code, part.content) == (206, whole.content[100:1100])
    assert part.headers["content-range"] == f"bytes 100-1099/{len(whole.content)}"
    assert proxy.get(path, accept=OCTETS, range="bytes=99999999-").status_code == 416
    assert proxy.get(path, accept=OCTETS, if_none_match=whole.headers["etag"]).status_code == 304
    stale = proxy.get(path, accept=OCTETS, range="bytes=0-9", if_range='"another"')
    assert (stale.status_code, stale.content) == (200, whole.content)
    head = proxy.clients[True].send(proxy.request(path, "HEAD", accept=OCTETS))
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(whole.content)))


def test_metadata_leaves_compressed_as_the_client_can(server: Server, proxy: Nginx, instance: str) -> None:
    plain = proxy.get(f"{instance}/metadata", accept="application/dicom+json", accept_encoding="identity")
    assert "content-encoding" not in plain.headers
    for coding, unpack in (
        ("gzip", gzip.decompress),
        ("zstd", lambda data: zstandard.ZstdDecompressor().stream_reader(data).read()),
    ):
        request = proxy.request(f"{instance}/metadata", accept="application/dicom+json", accept_encoding=coding)
        answer = proxy.clients[True].send(request, stream=True)
        raw = b"".join(answer.iter_raw())
        answer.close()
        assert answer.headers["content-encoding"] == coding
        assert "accept-encoding" in answer.headers["vary"].lower()
        assert unpack(raw) == plain.content
    frame = proxy.get(f"{instance}/frames/1", accept=OCTETS, accept_encoding="gzip, zstd")
    assert "content-encoding" not in frame.headers


def addresses(answer: httpx.Response) -> set[str]:
    return set(re.findall(r'"(https?://[^"]+)"', answer.text))


def test_addresses_in_answers_lead_back_here(proxy: Nginx, instance: str) -> None:
    listed = addresses(proxy.get("dicom-web/instances", accept="application/dicom+json"))
    assert listed == {f"{proxy.base}/{instance}"}
    found = addresses(proxy.get(f"{instance}/metadata", accept="application/dicom+json"))
    assert found
    for url in (*found, *listed):
        assert url.startswith(f"{proxy.base}/dicom-web/")
        assert proxy.get(url, accept="*/*").status_code == 200


def test_a_client_cannot_say_where_we_are(proxy: Nginx, instance: str) -> None:
    """What it writes of forwarding is overwritten; by another name nobody gets in."""
    answer = proxy.get(
        "dicom-web/instances", accept="application/dicom+json", x_forwarded_host="evil.example",
        forwarded="host=evil.example", x_forwarded_prefix="/evil",
    )  # fmt: skip
    assert addresses(answer) == {f"{proxy.base}/{instance}"}
    with (
        socket.create_connection(("127.0.0.1", proxy.port)) as raw,
        pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"),
    ):
        ssl.create_default_context().wrap_socket(raw, server_hostname="evil.example")


def test_frames_arrive_while_the_list_is_still_sent(proxy: Nginx, instance: str, server: Server) -> None:
    """Nothing of an answer lies in nginx: a client that stops reading stops the server, and memory stays flat."""
    before = server.rss()
    answer = proxy.clients[False].send(proxy.request(instance, two=False, accept=DICOM), stream=True)
    pieces = answer.iter_raw(65536)
    got = next(pieces)
    time.sleep(0.3)
    assert server.rss() - before < 40 << 20
    assert not any((proxy.folder / "proxy").rglob("*")), "nothing on its disk"
    got += b"".join(pieces)
    answer.close()
    assert len(got) == int(answer.headers["content-length"])


def test_its_log_names_no_patient(proxy: Nginx, instance: str) -> None:
    assert proxy.get("dicom-web/studies?PatientName=Lovelace^Ada", accept="application/dicom+json").status_code == 204
    assert proxy.get(f"{instance}/frames/1", accept=OCTETS).status_code == 200
    deadline = time.monotonic() + 60
    while f"/{instance}/frames/1" not in proxy.log():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "/dicom-web/studies 204" in proxy.log()
    assert "Lovelace" not in proxy.log()


def test_an_answer_that_breaks_off_is_seen_to_break_off(path: Path, tmp_path: Path, instance: str) -> None:
    """A file that is cut under way: the client must not take half for the whole, whoever stands between."""
    (folder := tmp_path / "cut").mkdir()
    copy = folder / "cine.dcm"
    copy.write_bytes(path.read_bytes())
    (made := tmp_path / "nginx").mkdir()
    with (
        serving([copy], "--trusted-proxy", "127.0.0.1", cache=tmp_path) as server,
        nginx(made, urlsplit(server.url).netloc) as proxy,
    ):
        for two in (False, True):
            answer = proxy.clients[two].send(proxy.request(instance, two=two, accept=DICOM), stream=True)
            assert answer.status_code == 200
            os.truncate(copy, 100_000)
            with pytest.raises(httpx.HTTPError):
                b"".join(answer.iter_raw())
            answer.close()
            copy.write_bytes(path.read_bytes())


def test_an_upload_passes_through_as_it_comes(path: Path, tmp_path: Path) -> None:
    """More than nginx would take by itself (1 MB), of no length that is known, and nothing of it on nginx's disk."""
    store, data = tmp_path / "store", path.read_bytes()
    (made := tmp_path / "nginx").mkdir()
    with (
        serving([], "--store", str(store), "--trusted-proxy", "127.0.0.1", cache=tmp_path, wait=False) as server,
        nginx(made, urlsplit(server.url).netloc) as proxy,
    ):
        assert len(data) > 4 << 20

        def slowly() -> Iterator[bytes]:
            yield data[: 2 << 20]
            deadline = time.monotonic() + 60
            while not any(p.stat().st_size > 1 << 20 for p in (store / ".multiframe-incoming").rglob("*~*")):
                assert time.monotonic() < deadline, "it does not reach the server before its end has been sent"
                time.sleep(0.02)
            assert not any((proxy.folder / "body").rglob("*"))
            yield data[2 << 20 :]

        request = proxy.request("dicom-web/studies", "POST", content=slowly(), content_type="application/dicom")
        answer = proxy.clients[True].send(request)
        assert answer.status_code == 200, answer.text
        assert answer.json()["00081190"]["Value"][0].startswith(f"{proxy.base}/dicom-web/studies/")
        (kept,) = store.rglob("*.dcm")
        assert kept.read_bytes() == data


def test_below_a_path(server: Server, instance: str, tmp_path: Path) -> None:
    with nginx(tmp_path, urlsplit(server.url).netloc, prefix=True) as proxy:
        listed = addresses(proxy.get("images/dicom-web/instances", accept="application/dicom+json"))
        assert listed == {f"{proxy.base}/images/{instance}"}
        (url,) = listed
        frame = proxy.get(f"{url}/frames/3", accept=OCTETS)
        assert frame.content == server.get(f"{instance}/frames/3", accept=OCTETS).content
        page = proxy.get("images/", accept="text/html")
        script = re.search(r'src="\./(assets/[^"]+)"', page.text)
        assert script
        assert proxy.get(f"images/{script[1]}").status_code == 200
        assert proxy.get("images").headers["location"].endswith("/images/")
