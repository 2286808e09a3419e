"""Retrieve Capabilities: what can be asked, as WADL (PS3.18 8.9, annex H)."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest

from multiframe.catalog import Catalog
from multiframe.settings import Settings
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
        for method in element.findall(f"{N}method"):
            assert method.find(f"{N}request") is not None
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
