"""Object stores: S3 by moto, and S3 by a real server.

moto's server is a mock: it is written to look like S3, and shows what we send and how we take what S3 documents. The
test marked ``long`` does the same with Ceph's RADOS Gateway, a server that people run (``tools/s3-server`` starts it).
Google's and Azure's stores are not tested.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto.server import ThreadedMotoServer

from multiframe.errors import SourceChanged, SourceError, SourceNotFound
from multiframe.ranges import ByteRange
from multiframe.remote import RemoteSource
from tests.far import FarServer

DATA = bytes((i * i >> 3) % 251 for i in range(300_000))
SIZE = len(DATA)
WANTED = [ByteRange(3, 9), ByteRange(SIZE - 5, SIZE + 9), ByteRange(SIZE, SIZE + 9), ByteRange(7, 7),
          *(ByteRange(i * 1000, i * 1000 + 100) for i in range(100))]  # fmt: skip
TOOL = Path(__file__).parents[1] / "tools" / "s3-server"


class Store:
    """An S3 server: where it is, its keys, and a client of another make."""

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


def enter(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
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


def everything(store: Store) -> None:
    """What a server must do for us, whoever made it."""
    store.put("archive", "2026/cine.dcm", DATA)
    for url in ("s3://archive/2026/cine.dcm", store.presigned("archive", "2026/cine.dcm")):
        source = RemoteSource(url, retries=1)
        stat = source.stat()
        assert stat.size == SIZE
        assert stat.identity[0] == "etag"
        expected = [DATA[a:b] for a, b in WANTED]
        reply = source.read_ranges(WANTED, identity=stat.identity)
        assert [bytes(b) for b in reply.buffers] == expected
        assert reply.stat == stat
        reply = asyncio.run(source.read_ranges_async(WANTED, identity=stat.identity))
        assert [bytes(b) for b in reply.buffers] == expected

        store.put("archive", "2026/cine.dcm", DATA[::-1])
        for wanted in (WANTED, [], [ByteRange(SIZE, SIZE + 1)]):
            with pytest.raises(SourceChanged):
                source.read_ranges(wanted, identity=stat.identity)
        assert source.stat().identity != stat.identity
        store.put("archive", "2026/cine.dcm", DATA)

    store.put("archive", "empty", b"")
    assert RemoteSource("s3://archive/empty").stat().size == 0
    assert RemoteSource(store.presigned("archive", "empty")).stat().size == 0

    for key in ("with space", "plus+", "per%20cent", "ümlaut", "a=b&c", "tilde~(1)"):
        store.put("archive", key, key.encode())
        for url in (f"s3://archive/{key}", store.presigned("archive", key)):
            found = RemoteSource(url).read_ranges([ByteRange(0, 100)]).buffers[0]
            assert bytes(found) == key.encode()

    for url in ("s3://archive/nothing", "s3://no-such-bucket/nothing", store.presigned("archive", "nothing")):
        with pytest.raises(SourceNotFound):
            RemoteSource(url).read_ranges(WANTED)


def test_s3_by_a_mock(store):
    everything(store)


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


@pytest.fixture(scope="module")
def ceph() -> Iterator[Store]:
    process = subprocess.Popen(
        [sys.executable, TOOL, "--install"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line:
            pytest.skip(process.stderr.read().decode().strip() or "s3-server said nothing")
        store = Store(**json.loads(line))
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
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
        process.stderr.close()


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
