"""Deleting: only where it is asked for, only what is stored, all of it, and written down."""

import json
from pathlib import Path

import pytest

from multiframe.settings import Settings
from multiframe.web import delete
from multiframe.web.tokens import line_of, new_token
from tests.test_doors import Asked
from tests.test_storing import SERIES, STUDY, catalogued, instance, put

ADDRESS = f"/dicom-web/studies/{STUDY}"


@pytest.fixture
def asked(catalog, tmp_path):
    with Asked(catalog, Settings(store=str(tmp_path / "store"), allow_delete=True)) as asked:
        put(asked.app.state.store, *(instance(n) for n in (1, 2, 3)), instance(4, study=f"{STUDY}.9"))
        yield asked


def test_an_instance_a_series_and_a_study(asked, catalog, monkeypatch):
    store = asked.app.state.store
    told: list[dict] = []
    monkeypatch.setattr(delete, "audit", lambda event, **facts: told.append({"event": event, **facts}))
    frame = f"{ADDRESS}/series/{SERIES}/instances/{SERIES}.1/frames/1"
    assert asked.get(frame, headers={"accept": "image/jpeg"}).status_code == 200
    answer = asked.request("DELETE", f"{ADDRESS}/series/{SERIES}/instances/{SERIES}.1")
    assert (answer.status_code, answer.content, answer.headers["cache-control"]) == (204, b"", "no-store")
    assert asked.get(frame, headers={"accept": "image/jpeg"}).status_code == 404
    assert catalogued(catalog) == {f"{SERIES}.{n}" for n in (2, 3, 4)}
    assert not Path(store.shelf.where(f"{SERIES}.1")).exists()
    assert asked.request("DELETE", f"{ADDRESS}/series/{SERIES}/instances/{SERIES}.1").status_code == 404
    assert asked.request("DELETE", f"{ADDRESS}/series/{SERIES}").status_code == 204
    assert asked.request("DELETE", f"{ADDRESS}.9").status_code == 204
    assert catalogued(catalog) == set()
    assert list(store.shelf.folder.rglob("*.dcm")) == []
    assert catalog.scan([store.shelf.folder]).registered == 0
    assert [one["instance"] for one in told] == [f"{SERIES}.{n}" for n in (1, 2, 3, 4)]
    assert all(one["event"] == "deleted" and "who" in one for one in told)


@pytest.fixture
def elsewhere(catalog, tmp_path):
    """Has a file be served that is not of the store; gives where it lies."""
    folder = tmp_path / "served"
    folder.mkdir()

    def serve(data):
        (folder / "x").write_bytes(data)
        catalog.scan([folder])
        return folder / "x"

    return serve


def test_what_lies_elsewhere_is_not_deleted_nor_anything_with_it(asked, catalog, elsewhere):
    place = elsewhere(instance(5))
    answer = asked.request("DELETE", ADDRESS)
    assert answer.status_code == 409
    assert f"{SERIES}.5" in answer.json()["message"]
    assert place.exists()
    assert len(catalogued(catalog)) == 5


def test_what_would_come_back_by_another_file_is_not_deleted(asked, catalog, elsewhere):
    elsewhere(instance(2))
    answer = asked.request("DELETE", ADDRESS)
    assert (answer.status_code, "elsewhere" in answer.json()["message"]) == (409, True)
    assert len(catalogued(catalog)) == 4
    assert asked.request("DELETE", f"{ADDRESS}/series/{SERIES}/instances/{SERIES}.1").status_code == 204


def test_a_condition_that_nothing_meets_deletes_nothing(asked, catalog):
    answer = asked.request("DELETE", ADDRESS, headers={"if-match": '"x"'})
    assert answer.status_code == 412
    assert len(catalogued(catalog)) == 4
    assert asked.request("DELETE", ADDRESS, headers={"if-match": "*"}).status_code == 204


def test_nothing_is_deleted_where_nobody_asked_for_that(catalog, tmp_path):
    for settings in (Settings(), Settings(store=str(tmp_path / "store"))):
        with Asked(catalog, settings) as asked:
            for path in (ADDRESS, f"{ADDRESS}/series/{SERIES}", f"{ADDRESS}/series/{SERIES}/instances/{SERIES}.1"):
                assert asked.request("DELETE", path).status_code == 405
            told = asked.get("/openapi.json").json()["paths"]
            assert not any("delete" in item for item in told.values())


def test_a_token_that_may_store_may_not_delete(catalog, tmp_path):
    tokens = tmp_path / "tokens"
    mine, other = new_token(), new_token()
    tokens.write_text(
        line_of(mine, "a", ["store", "delete"], [STUDY], None) + line_of(other, "b", ["store", "read"], ["*"], None)
    )
    settings = Settings(store=str(tmp_path / "store"), allow_delete=True, tokens=str(tokens))
    with Asked(catalog, settings) as asked:
        put(asked.app.state.store, instance(1), instance(4, study=f"{STUDY}.9"))
        for token, path, status in (
            (other, ADDRESS, 403), (mine, f"{ADDRESS}.9", 403), (mine, ADDRESS, 204),
        ):  # fmt: skip
            answer = asked.request("DELETE", path, headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == status
        assert asked.request("DELETE", f"{ADDRESS}.9").status_code == 401
    assert catalogued(catalog) == {f"{SERIES}.4"}


def test_what_is_stored_is_written_down_too(tmp_path):
    from tests.serving import serving
    from tests.test_stow import PARTS, STUDIES, in_parts

    log = tmp_path / "access.log"
    with serving([], "--store", str(tmp_path / "store"), "--access-log", str(log), "--log-format", "json",
                 cache=tmp_path / "cache", wait=False) as server:  # fmt: skip
        data = instance(6, PatientName="Doe^Jane")
        server.client.post(STUDIES, content=in_parts(data, b"x"), headers={"content-type": PARTS})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (stored,) = [line for line in lines if line.get("event") == "stored"]
    assert (stored["instance"], stored["bytes"]) == (f"{SERIES}.6", len(data))
    assert "Doe" not in log.read_text()
