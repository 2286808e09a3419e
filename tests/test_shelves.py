"""Stored in a bucket: whole, once, and found again after a crash; moto's S3, and a real one where it can be had."""

import json
import os
import random
import subprocess
import sys
import threading

import pytest

from multiframe import storing
from multiframe.catalog import Catalog
from multiframe.errors import SourceError, StoreError
from multiframe.shelves import Bucket
from multiframe.storing import Store, Upload
from tests.serving import serving
from tests.test_object_stores import TOOLS, enter, moto
from tests.test_object_stores import Store as Server
from tests.test_storing import SERIES, STUDY, catalogued, instance, put
from tests.test_stow import PARTS, STUDIES, in_parts, told

__all__ = ["moto"]  # a fixture

LARGE = 4_000_000  # a file of three such frames is sent in parts


@pytest.fixture
def s3(moto: Server, monkeypatch):
    server = enter(moto, monkeypatch)
    bucket = f"bucket-{random.Random().randrange(10**9)}"
    server.client.create_bucket(Bucket=bucket)
    return server, bucket


@pytest.fixture
def store(s3, catalog, tmp_path):
    return Store(f"s3://{s3[1]}/archive", catalog, spool=tmp_path / "spool")


def objects(s3):
    server, bucket = s3
    found = server.client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {one["Key"]: server.client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found}


def leftovers(s3):
    server, bucket = s3
    return server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


@pytest.mark.parametrize("size", [3_000, LARGE])
def test_an_instance_is_put_there_once(store, catalog, s3, size):
    data = instance(1, size=size)
    assert put(store, data, piece=1 << 20) == [None]
    assert list(objects(s3).values()) == [data]
    assert catalogued(catalog) == {f"{SERIES}.1"}
    assert len(catalog.instance(f"{SERIES}.1").known or ()) == 3
    assert put(store, data, data, piece=1 << 20) == [None, None]
    assert put(store, instance(1, size=size, PatientID="x"), piece=1 << 20) == [storing.DUPLICATE]
    assert list(objects(s3).values()) == [data]
    assert leftovers(s3) == []
    assert list(store.incoming.iterdir()) == []


@pytest.mark.parametrize("size", [3_000, LARGE])
def test_the_object_is_created_on_condition_that_there_is_none(store, s3, size, tmp_path):
    """Who comes between looking and sending wins."""
    data = instance(2, size=size)
    uid = f"{SERIES}.2"
    (tmp_path / "file").write_bytes(data)
    assert store.shelf.put(tmp_path / "file", uid)
    (tmp_path / "other").write_bytes(data[::-1])
    import obstore

    with pytest.MonkeyPatch.context() as m:
        m.setattr(obstore, "head", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))  # it was not there yet
        assert not store.shelf.put(tmp_path / "other", uid)
    assert list(objects(s3).values()) == [data]


def test_more_than_an_object_may_have_is_refused_before_it_is_sent(store, s3, monkeypatch):
    data = instance(2)
    monkeypatch.setattr("multiframe.shelves._MOST", len(data))
    assert put(store, data) == [None]
    assert put(store, instance(3, size=3_100)) == [storing.PROCESSING]
    assert list(objects(s3).values()) == [data]


def test_two_servers_with_one_uid_store_one(s3, tmp_path, monkeypatch):
    # moto looks whether there is an object and puts its own in two steps: of two at once it may take both. So here one
    # waits for the other; the real server, where it can be had, is given both at once.
    sent, one_by_one = Bucket._sent, threading.Lock()

    def in_turn(*args):
        with one_by_one:
            return sent(*args)

    monkeypatch.setattr(Bucket, "_sent", in_turn)
    two_at_once(s3, tmp_path)


def two_at_once(s3, tmp_path):
    catalogs = [Catalog(tmp_path / f"{k}.sqlite") for k in (0, 1)]
    stores = [Store(f"s3://{s3[1]}", c, spool=tmp_path / f"spool{k}") for k, c in enumerate(catalogs)]
    bodies = [instance(3, size=LARGE, PatientID=str(k)) for k in (0, 1)]
    results: list[list] = [[], []]
    threads = [
        threading.Thread(target=lambda r=r, s=s, b=b: r.extend(put(s, b, piece=1 << 20)))
        for r, s, b in zip(results, stores, bodies, strict=True)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    (kept,) = objects(s3).values()
    assert [r[0] for r in results] == [None if b == kept else storing.DUPLICATE for b in bodies]
    for c in catalogs:
        c.close()


def test_a_bucket_that_is_not_there_stores_nothing_and_says_so(catalog, s3, tmp_path):
    store = Store("s3://no-such-bucket-here/x", catalog, spool=tmp_path / "spool")
    assert put(store, instance(), instance(2, size=LARGE), piece=1 << 20) == [storing.PROCESSING] * 2
    assert catalogued(catalog) == set()
    with pytest.raises(StoreError):
        Store("s3://bucket", catalog)


@pytest.mark.parametrize("url", ["gs://archive/x", "az://archive", "https://example.org/x", "s3://"])
def test_nothing_is_stored_in_another_kind_of_object_store(url, catalog, tmp_path):
    """Not by who calls it from Python, either: it would be taken for a bucket of S3."""
    with pytest.raises(StoreError, match="s3://BUCKET"):
        Store(url, catalog, spool=tmp_path / "spool")


def test_an_orphan_is_catalogued_at_the_next_start(store, catalog, s3, tmp_path, monkeypatch):
    def killed(files):
        raise SourceError("the database is gone")

    monkeypatch.setattr(catalog, "add", killed)
    upload = Upload(store)
    arriving = upload.begin()
    arriving.write([instance(4)])
    arriving.finish()
    upload.keep()
    assert arriving.refusal is not None
    os.close(upload._lock)  # as when its process is killed
    monkeypatch.undo()
    for name, value in s3[0].environment.items():
        monkeypatch.setenv(name, value)
    assert len(objects(s3)) == 1
    assert store.sweep() == 1
    assert catalogued(catalog) == {f"{SERIES}.4"}
    assert len(objects(s3)) == 1
    assert list(store.incoming.iterdir()) == []
    assert put(store, instance(4)) == [None]


def test_the_spool_is_bounded(s3, catalog, tmp_path):
    store = Store(f"s3://{s3[1]}", catalog, spool=tmp_path / "spool", room=50_000)
    first = Upload(store)
    first.begin().write([instance(1, size=30_000)])
    assert put(store, instance(2)) == [storing.OUT_OF_RESOURCES]
    first.close()
    assert put(store, instance(2)) == [None]


def test_a_server_over_a_bucket(s3, tmp_path):
    url = f"s3://{s3[1]}/archive"
    options = ["--store", url, "--spool", str(tmp_path / "spool")]
    data = instance(5, size=100_000)
    with serving([], *options, cache=tmp_path / "cache", wait=False) as server:
        answer = server.client.post(STUDIES, content=in_parts(data), headers={"content-type": PARTS})
        assert server.get("readyz").status_code == 200
        assert (answer.status_code, told(answer, "00081199")) == (200, [(f"{SERIES}.5", None)])
        frame = f"{STUDIES}/{STUDY}/series/{SERIES}/instances/{SERIES}.5/frames/2"
        assert server.client.get(frame, headers={"accept": "image/jpeg"}).content in data
    assert list(objects(s3).values()) == [data]


@pytest.mark.long
def test_a_real_object_store(tmp_path, monkeypatch):
    process = subprocess.Popen([sys.executable, TOOLS / "s3-server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    assert process.stdout
    assert process.stderr
    try:
        line = process.stdout.readline()
        if not line:
            pytest.skip(process.stderr.read().decode().strip() or "s3-server said nothing")
        facts = json.loads(line)
        server = enter(Server(facts["endpoint"], facts["access_key"], facts["secret_key"]), monkeypatch)
        server.client.create_bucket(Bucket="archive")
        catalog = Catalog(tmp_path / "catalog.sqlite")
        store = Store("s3://archive/x", catalog, spool=tmp_path / "spool")
        for size in (3_000, LARGE):
            test_an_instance_is_put_there_once(store, catalog, (server, "archive"), size)
            server.client.delete_object(Bucket="archive", Key=next(iter(objects((server, "archive")))))
            catalog.remove([store.shelf.where(f"{SERIES}.1")])
            test_the_object_is_created_on_condition_that_there_is_none(store, (server, "archive"), size, tmp_path)
            server.client.delete_object(Bucket="archive", Key=next(iter(objects((server, "archive")))))
        catalog.close()
        server.client.create_bucket(Bucket="race")
        two_at_once((server, "race"), tmp_path)
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        process.stderr.close()
