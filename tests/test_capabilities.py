"""Retrieve Capabilities: what can be asked, as WADL (PS3.18 8.9, annex H)."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest

from multiframe.catalog import Catalog
from multiframe.settings import Settings
from multiframe.web.capabilities import wadl
from multiframe.web.lookup import COUNTED, DICOMWEB
from tests.test_doors import Asked

WADL = "application/vnd.sun.wadl+xml"
N = "{http://wadl.dev.java.net/2009/02}"


@pytest.fixture(params=[False, True], ids=["reading", "storing"])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Asked]:
    settings = Settings(store=str(tmp_path / "store"), allow_delete=True) if request.param else Settings()
    catalog = Catalog(tmp_path / "catalog.sqlite")
    with Asked(catalog, settings) as asked:
        yield asked
    catalog.close()


def options(asked: Asked, path: str, accept: str = WADL, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asked.request("OPTIONS", path, headers={"accept": accept} | named)


def told(answer: httpx.Response) -> set[tuple[str, str]]:
    """Paths below the service, and methods there."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, WADL)
    application = ET.fromstring(answer.content)
    [resources] = application
    assert resources.attrib["base"] == str(answer.url.copy_with(path=DICOMWEB)).rstrip("/")

    def below(element: ET.Element, path: str) -> Iterator[tuple[str, str]]:
        params = [one.attrib for one in element.findall(f"{N}param")]  # WADL 2.12: of a resource, and before all else
        names = re.findall(r"{(\w+)}", element.get("path", ""))
        assert params == [{"name": name, "style": "template", "required": "true"} for name in names]
        assert [child.tag for child in element][: len(params)] == [f"{N}param"] * len(params)
        for method in element.findall(f"{N}method"):
            request = method.find(f"{N}request")
            assert request is not None
            assert {one.attrib["style"] for one in request.findall(f"{N}param")} <= {"query", "header"}
            assert method.findall(f"{N}response")
            yield path, method.attrib["name"]
        paths = [one.attrib["path"] for one in element.findall(f"{N}resource")]
        assert len(paths) == len(set(paths))
        for one in element.findall(f"{N}resource"):
            yield from below(one, f"{path}/{one.attrib['path']}")

    return set(below(resources, ""))


def test_it_says_what_openapi_says(asked: Asked) -> None:
    paths = asked.get("/openapi.json").json()["paths"]
    whole = told(options(asked, DICOMWEB))
    ours = {path: item for path, item in paths.items() if path.startswith(DICOMWEB)}
    assert whole == {(path.removeprefix(DICOMWEB), method.upper()) for path, item in ours.items() for method in item}
    assert (("/studies", "POST") in whole) == bool(asked.app.state.settings.store)
    slash = options(asked, f"{DICOMWEB}/")  # as 8.9.1 writes the whole service: "/" behind its base
    assert told(slash) == whole
    assert slash.headers["allow"] == "OPTIONS"


def test_of_an_address_it_says_what_is_there_and_below(asked: Asked) -> None:
    whole = told(options(asked, DICOMWEB))
    instance = "/studies/{study}/series/{series}/instances/{instance}"
    for path, template in (
        ("/studies", "/studies"), ("/studies/1.2", "/studies/{study}"),
        ("/studies/1/series/2/instances/3/bulkdata/7FE00010", f"{instance}/bulkdata/{{path}}"),
    ):  # fmt: skip
        answer = options(asked, DICOMWEB + path)
        assert told(answer) == {one for one in whole if one[0] == template or one[0].startswith(f"{template}/")}
        allow = set(answer.headers["allow"].split(", ")) - {"OPTIONS"}
        assert allow == {method for place, method in told(answer) if place == template}


def test_the_form_is_chosen_by_weight_and_addresses_are_those_of_who_asks(asked: Asked) -> None:
    for accept in (f"application/json;q=0.5, {WADL}", f"text/html, {WADL};q=0.2"):
        answer = options(asked, DICOMWEB, accept)
        assert answer.headers["content-type"] == WADL
    assert options(asked, DICOMWEB, f"application/json, {WADL};q=0.5").headers["content-type"] == "application/json"
    assert "Accept" in answer.headers["vary"].split(", ")
    assert answer.headers["cache-control"] == "no-cache"
    assert b'base="http://127.0.0.1/dicom-web"' in options(asked, DICOMWEB, host="127.0.0.1").content


def test_who_does_not_ask_for_it_is_told_allow(asked: Asked) -> None:
    for accept in ("", "*/*", "text/html", f"{WADL};q=0"):
        answer = options(asked, f"{DICOMWEB}/studies", accept)
        assert (answer.status_code, answer.content) == (204, b"")
    assert options(asked, DICOMWEB, "application/json").json() == asked.get("/openapi.json").json()
    assert options(asked, f"{COUNTED}/studies").status_code == 200


def test_what_browsers_ask_before_is_answered_as_ever(asked: Asked) -> None:
    asks = {"origin": "http://localhost:3000", "access_control_request_method": "GET"}
    for accept in (WADL, "*/*"):
        answer = options(asked, f"{DICOMWEB}/studies", accept, **asks)
        assert (answer.status_code, answer.text) == (200, "OK")
        assert "GET" in answer.headers["access-control-allow-methods"]


def test_each_method_says_what_it_takes_and_gives() -> None:
    """All of what a description says of a method: no more, and nothing of what an error would be."""
    content: dict[str, object] = {"application/dicom+json": {}, "application/dicom+xml": {}}
    described = {
        "paths": {
            "/web/studies": {
                "post": {
                    "operationId": "store",
                    "summary": "Store instances",
                    "parameters": [
                        {"name": "limit", "in": "query"},
                        {"name": "x-for", "in": "header", "required": True},
                    ],
                    "requestBody": {"content": {"application/dicom": {}}},
                    "responses": {"200": {"content": content}, "404": {"content": {"application/json": {}}}},
                }
            },
            "/website": {"get": {"operationId": "other", "responses": {"204": {}}}},
        }
    }
    written = wadl(described, "http://a.example", "/web", "/web")
    assert written.startswith(b"<?xml version='1.0' encoding='utf-8'?>")
    [resources] = ET.fromstring(written)
    [resource] = resources
    [method] = resource
    said = [(one.tag.removeprefix(N), dict(one.attrib)) for one in method.iter()]
    assert said == [
        ("method", {"name": "POST", "id": "store"}),
        ("doc", {"title": "Store instances"}),
        ("request", {}),
        ("param", {"name": "limit", "style": "query", "required": "false"}),
        ("param", {"name": "x-for", "style": "header", "required": "true"}),
        ("param", {"name": "Accept", "style": "header"}),
        ("option", {"value": "application/dicom+json"}),
        ("option", {"value": "application/dicom+xml"}),
        ("representation", {"mediaType": "application/dicom"}),
        ("response", {"status": "200"}),
        ("representation", {"mediaType": "application/dicom+json"}),
        ("representation", {"mediaType": "application/dicom+xml"}),
        ("response", {"status": "404"}),
        ("representation", {"mediaType": "application/json"}),
    ]
