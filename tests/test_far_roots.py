"""Archives that lie elsewhere: buckets and lists of addresses are scanned, served, and seen to change."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from multiframe.catalog import Catalog, Search
from multiframe.errors import SourceError
from multiframe.listing import same_object
from multiframe.places import path_of, root_of, scope_of
from tests.far import FarServer, Fault
from tests.serving import serving
from tests.test_catalog import US, counts, dicom, uids
from tests.test_object_stores import Store, enter, moto

__all__ = ["moto"]  # a fixture


@pytest.fixture
def store(moto: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    return enter(moto, monkeypatch)


@pytest.fixture
def catalog(tmp_path: Path, new_database: Callable[[Path], Path | str]) -> Iterator[Catalog]:
    opened = Catalog(new_database(tmp_path / "cache"))
    yield opened
    opened.close()


def test_a_bucket_is_scanned_and_seen_to_change(store: Store, catalog: Catalog, kind: str) -> None:
    archive = f"archive-{kind}"
    for n in range(5):
        store.put(archive, f"2026/sub/{n} ü?.dcm", dicom(f"1.2.3.{n}", PatientName="Old"))
    store.put(archive, "2026/cine", US.read_bytes())
    store.put(archive, "2026/notes.txt", b"no DICOM")
    store.put(archive, "2026-other/a.dcm", dicom("1.9"))
    roots = [f"s3://{archive}/2026/"]
    assert counts(catalog.scan(roots)) == {"found": 7, "registered": 6, "ignored": 1}
    assert counts(catalog.scan(roots)) == {"found": 7, "unchanged": 7}
    (cine,) = [found.instance for found in catalog.search(Search("instance", conditions={"Modality": "US"}))]
    instance = catalog.instance(cine)
    assert len(instance.complete()) == 30
    catalog.keep_index(instance)
    assert next(iter(catalog.instance("1.2.3.3").encoded([0]))).data == b"abcd"

    store.put(archive, "2026/sub/0 ü?.dcm", dicom("1.2.3.0", PatientName="Newer"))
    store.client.delete_object(Bucket=archive, Key="2026/sub/1 ü?.dcm")
    copied = {"Bucket": archive, "Key": "2026/cine"}
    store.client.copy_object(Bucket=archive, Key="2026/moved", CopySource=copied)
    store.client.delete_object(**copied)
    assert counts(catalog.scan(roots)) == {"found": 6, "registered": 2, "unchanged": 4, "vanished": 1}
    catalog._forget(cine)
    assert catalog.instance(cine).known is not None  # what was known of its frames moved with it
    assert "1.2.3.1" not in uids(catalog)
    assert counts(catalog.scan([f"s3://{archive}/2026/moved"])) == {"found": 1, "unchanged": 1}  # an object itself


def test_what_cannot_be_listed_now_is_not_forgotten(
    store: Store, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("kept", "a.dcm", dicom())
    catalog.scan(["s3://kept"])
    assert counts(catalog.scan(["s3://nowhere"])) == {"failed": 1}
    store.client.create_bucket(Bucket="empty")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert counts(catalog.scan(["s3://kept"])) == {"failed": 1}
    assert uids(catalog) == ["1.2.3.4"]


def test_a_list_of_addresses(catalog: Catalog) -> None:
    listed = b"# ours\n\na.dcm\nsub/b.dcm\nnowhere.dcm\n../secret.dcm\nsub/../../secret.dcm\n/secret.dcm\n"
    listed += b"http://127.0.0.1:1/x.dcm\ns3://archive/x\nfile:///etc/passwd\na.dcm?secret\n"
    files = {"/d/list.txt": listed, "/d/a.dcm": dicom("1.2.1"), "/d/sub/b.dcm": dicom("1.2.2"), "/secret.dcm": dicom()}
    with FarServer(files) as far:
        root = far.url("/d/list.txt")
        assert counts(catalog.scan([root])) == {"found": 3, "registered": 2, "failed": 1}
        assert far.paths["/secret.dcm"].requests == 0
        assert uids(catalog) == ["1.2.1", "1.2.2"]
        assert counts(catalog.scan([root])) == {"found": 3, "unchanged": 2, "failed": 1}
        far.files["/d/a.dcm"] = dicom("1.2.1", PatientName="Other")
        far.files["/d/list.txt"] = b"a.dcm\n"
        del far.files["/d/sub/b.dcm"]
        assert counts(catalog.scan([root])) == {"found": 1, "registered": 1, "vanished": 1}
        far.faults["/d/list.txt"] = Fault(status=404)
        assert counts(catalog.scan([root])) == {"failed": 1}
        assert uids(catalog) == ["1.2.1"]


def test_headers_alone_are_read_and_many_at_once(catalog: Catalog) -> None:
    files = {f"/d/{n}.dcm": dicom(f"1.2.{n}") + bytes(500_000) for n in range(64)}
    files["/d/list.txt"] = "\n".join(f"{n}.dcm" for n in range(64)).encode()
    with FarServer(files, rtt=0.05) as far:
        catalog.scan([far.url("/d/list.txt")])
        assert far.requests <= 64 + 2
        assert far.bytes_sent < 64 * 70_000 + 20_000
    assert len(uids(catalog)) == 64


def test_it_is_served(store: Store, tmp_path: Path) -> None:
    store.put("served", "cine", US.read_bytes())
    store.put("served", "gone", dicom())
    with serving(["s3://served"], cache=tmp_path / "cache") as server:
        (cine,) = server.get("dicom-web/instances?Modality=US").json()
        study, series, uid = (cine[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
        path = f"dicom-web/studies/{study}/series/{series}/instances/{uid}"
        frame = server.get(f"{path}/frames/7")
        assert frame.status_code == 200
        assert server.get(f"{path}/frames/7", If_None_Match=frame.headers["etag"]).status_code == 304
        assert server.get(f"{path}/metadata").json()[0]["00280008"]["Value"] == [30]
        store.client.delete_object(Bucket="served", Key="gone")
        assert server.get("dicom-web/studies/1.2.3/series/1.2.3.1/instances/1.2.3.4/frames/1").status_code == 404
        store.put("served", "cine", US.read_bytes()[:-2])
        assert server.get(f"{path}/frames/7", If_None_Match=frame.headers["etag"]).status_code == 200


@pytest.mark.parametrize(
    "named",
    [
        "ftp://example.org/x",
        "https://example.org/x?signature=secret",
        "https://me:secret@example.org/",
        "s3://",
        "s3:///x",
    ],
)
def test_what_is_no_root_is_said_without_secrets(named: str) -> None:
    with pytest.raises(SourceError, match="not a root") as caught:
        root_of(named)
    assert "secret" not in str(caught.value)


def test_places(tmp_path: Path) -> None:
    assert root_of("S3://Bucket/a/") == b"s3://Bucket/a"
    assert scope_of(b"https://h/d/list.txt") == b"https://h/d"
    assert path_of(tmp_path / "a://b") == str(tmp_path / "a://b").encode().replace(b"//", b"/")
    assert same_object(("etag", '"a"', "", 4), ("etag", "a", "v7", 4))
    assert not same_object(("etag", '"a"', "", 4), ("etag", '"a"', "", 5))
    assert not same_object(("modified", "", 7, 4), ("modified", "", 8, 4))
