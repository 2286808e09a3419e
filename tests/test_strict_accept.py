"""With ``--strict-accept`` a request says which media types it takes, whatever it asks for (PS3.18 8.7.5)."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import multiframe
from multiframe.catalog import Catalog
from multiframe.settings import Settings
from multiframe.testing import cine
from multiframe.web.app import ROUTES
from multiframe.web.lookup import COUNTED, DICOMWEB
from tests.test_doors import Asked, Place, address


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "cine"
    cine(path, frames=2, rows=96, columns=128)
    return path


@pytest.fixture(params=[True, False], ids=["strict", "lenient"])
def asked(request: pytest.FixtureRequest, file: Path, tmp_path: Path) -> Iterator[Asked]:
    catalog = Catalog(tmp_path / "catalog.sqlite")
    catalog.scan([file])
    with Asked(catalog, Settings(strict_accept=request.param, store=str(tmp_path / "store"))) as asked:
        yield asked
    catalog.close()


def refused(answer: httpx.Response) -> bool:
    assert answer.status_code in (200, 206, 406), answer.text[:300]
    return answer.status_code == 406


def test_every_resource(asked: Asked, file: Path) -> None:
    h = multiframe.open(file).header
    place = Place(h.study_instance_uid, h.series_instance_uid, h.sop_instance_uid)
    wado = f"/wado?requestType=WADO&studyUID={place.study}&seriesUID={place.series}&objectUID={place.instance}"
    paths = [root + address(row.path, place) for root in (DICOMWEB, COUNTED) for row in ROUTES]
    strict = asked.app.state.settings.strict_accept
    for path in (*paths, wado):
        assert refused(asked.get(path, headers={"accept": ""})) is strict, path
        assert not refused(asked.get(path, headers={"accept": "*/*"})), path
        assert not refused(asked.get(f"{path}{'&' if '?' in path else '?'}accept=*/*", headers={"accept": ""})), path
    assert not refused(asked.get(f"{wado}&contentType=application/dicom", headers={"accept": ""}))


def test_nothing_is_stored_whose_answer_cannot_be_read(asked: Asked, tmp_path: Path) -> None:
    cine(tmp_path / "other", frames=1, rows=96, columns=128, seed=7)
    headers = {"accept": "", "content-type": "application/dicom"}
    answer = asked.request("POST", f"{DICOMWEB}/studies", content=(tmp_path / "other").read_bytes(), headers=headers)
    strict = asked.app.state.settings.strict_accept
    assert refused(answer) is strict
    assert bool(list(asked.app.state.store.shelf.folder.rglob("*.dcm"))) is not strict


def test_what_is_no_resource_of_dicomweb_is_let_alone(asked: Asked) -> None:
    for path in ("/healthz", "/api/status", "/openapi.json"):
        assert asked.get(path, headers={"accept": ""}).status_code == 200
