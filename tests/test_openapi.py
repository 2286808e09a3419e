"""The description names every address, and a running server answers as it says, whatever Schemathesis thinks of."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from starlette.routing import Route

import multiframe
from multiframe.catalog import KEYS, Catalog
from multiframe.testing import cine
from multiframe.web.app import CHANGING, DICOMWEB, ROUTES, create_app
from multiframe.web.lookup import COUNTED
from multiframe.web.openapi import description
from tests.serving import Server, serving

CHANGES = [(row.path, method) for row in CHANGING for method in row.methods]
TOLD = description([DICOMWEB], [row.path for row in ROUTES], ["/wado", "/wado/"], CHANGES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    cine(folder / "cine", frames=4, rows=96, columns=128)
    return folder


@pytest.fixture(scope="module")
def storing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    with serving(
        [], "--store", str(store), "--allow-delete", cache=tmp_path_factory.mktemp("cache"), wait=False
    ) as server:
        yield server


@schemathesis.serializer("application/dicom", "multipart/related")
def as_bytes(context: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@pytest.mark.parametrize(("path", "method"), CHANGES)
def test_what_is_changed_is_answered_as_it_says(path: str, method: str, storing: Server) -> None:
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(TOLD)))
    responses = TOLD["paths"][DICOMWEB + path][method.lower()]["responses"]

    @hypothesis.given(case=schema[DICOMWEB + path][method].as_strategy())
    @hypothesis.settings(max_examples=30, deadline=None, database=None, derandomize=True,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    def ask(case: schemathesis.Case) -> None:
        answer = case.call(base_url=storing.url.rstrip("/"), timeout=20)
        assert str(answer.status_code) in responses, answer.content[:300]
        assert answer.status_code < 500, answer.content[:300]
        assert answer.status_code not in (200, 202)
        kind = (answer.headers.get("content-type") or [""])[0].partition(";")[0]
        assert kind in responses[str(answer.status_code)].get("content", {""})

    ask()


def test_every_route_parameter_and_key_is_told(server: Server, tmp_path: Path) -> None:
    told = server.get("openapi.json").json()
    assert told["openapi"].startswith("3.1")
    catalog = Catalog(tmp_path / "catalog.sqlite")
    routes = [route.path for route in create_app(catalog).routes if isinstance(route, Route)]
    catalog.close()
    untold = {"/openapi.json", "/", *(root + slash for root in (DICOMWEB, COUNTED) for slash in ("", "/"))}
    assert {re.sub(r":\w+", "", route) for route in routes} - untold == set(told["paths"])
    for path, item in told["paths"].items():
        for method in ("get", "head"):
            named = {p["name"] for p in item[method]["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)", path)), path
            assert {"200", "400", "404", "406", "421", "500", "502", "503"} <= set(item[method]["responses"]), path
    searched = {p["name"] for p in told["paths"]["/dicom-web/instances"]["get"]["parameters"]}
    assert set(KEYS) <= searched
    operations = [item[method]["operationId"] for item in told["paths"].values() for method in item]
    assert len(set(operations)) == len(operations)


def test_a_route_nobody_tells_about_is_an_error() -> None:
    with pytest.raises(LookupError, match="moons"):
        description([DICOMWEB], ["/studies/{study}/moons"], [])


@pytest.mark.parametrize("path", TOLD["paths"])
def test_it_answers_as_it_says(path: str, server: Server, folder: Path) -> None:
    h = multiframe.open(folder / "cine").header
    known = {"study": h.study_instance_uid, "series": h.series_instance_uid, "instance": h.sop_instance_uid,
             "studyUID": h.study_instance_uid, "seriesUID": h.series_instance_uid,
             "objectUID": h.sop_instance_uid}  # fmt: skip
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(TOLD)))
    responses = TOLD["paths"][path]["get"]["responses"]
    seen = set()

    @hypothesis.given(case=schema[path]["GET"].as_strategy(), real=hypothesis.strategies.booleans())
    @hypothesis.settings(max_examples=15, deadline=None, database=None, derandomize=True,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    def ask(case: schemathesis.Case, real: bool) -> None:
        if real:  # strange parameters, but of an object that is there
            for where in (case.path_parameters, case.query):
                where.update({name: value for name, value in known.items() if name in where})
        answer = case.call(base_url=server.url.rstrip("/"), timeout=20)
        seen.add(answer.status_code)
        assert str(answer.status_code) in responses, answer.content[:300]
        assert answer.status_code < 500, answer.content[:300]
        kind = (answer.headers.get("content-type") or [""])[0].partition(";")[0]
        if answer.status_code >= 400 and answer.content:
            assert json.loads(answer.content)["message"]
        elif answer.status_code == 200:
            told = responses["200"]["content"]
            assert kind in told or kind.split("/")[0] + "/*" in told, kind

    ask()
    assert seen
