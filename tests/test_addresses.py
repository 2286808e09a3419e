"""What an address takes, by its own word: each method that Allow names is answered, and no other one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount

from multiframe.catalog import Catalog
from multiframe.settings import Settings
from multiframe.web.addresses import METHODS, Address
from multiframe.web.lookup import COUNTED, DICOMWEB
from tests.test_doors import Asked, Place, address

NOT_HERE = Place("1.1", "1.2", "1.3")


@pytest.fixture(params=[{}, {"store": "store"}, {"store": "store", "allow_delete": True}], ids=len)
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Asked]:
    knobs: dict[str, Any] = dict(request.param)
    if "store" in knobs:
        knobs["store"] = str(tmp_path / "store")
    ohif = tmp_path / "ohif"
    ohif.mkdir()
    (ohif / "index.html").write_text("<html></html>")
    (ohif / "app.js").write_text("1")
    catalog = Catalog(tmp_path / "catalog.sqlite")
    with Asked(catalog, Settings(ohif=str(ohif), **knobs)) as one:
        yield one
    catalog.close()


def allowed(asked: Asked, path: str) -> set[str]:
    answer = asked.request("OPTIONS", path)
    assert answer.status_code == 204
    assert not answer.content
    named = re.split(r",\s*", answer.headers["allow"])
    assert len(named) == len(set(named))
    return set(named)


def test_allow_is_true_of_every_address(asked: Asked) -> None:
    routes = asked.app.routes
    assert all(isinstance(route, Address | Mount) for route in routes)
    paths = {address(route.path, NOT_HERE) for route in routes if isinstance(route, Address)} | {"/app.js"}
    assert len(paths) > 40
    for path in sorted(paths):
        allow = allowed(asked, path)
        assert ("GET" in allow) == ("HEAD" in allow), path
        for method in METHODS:
            answer = asked.request(method, path)
            if method in allow:
                assert answer.status_code not in (405, 501), (method, path)
            else:
                assert answer.status_code == 405, (method, path)
                assert set(answer.headers["allow"].split(", ")) == allow
        assert asked.request("BREW", path).status_code == 501


def test_what_changes_something_is_named_where_it_is_asked_for(asked: Asked) -> None:
    settings: Settings = asked.app.state.settings
    study = "/studies/1.2"
    for root in (DICOMWEB, COUNTED):
        changes = {"POST"} if settings.store and root == DICOMWEB else set()
        assert allowed(asked, f"{root}/studies") - {"GET", "HEAD", "OPTIONS"} == changes
        changes |= {"DELETE"} if settings.allow_delete and root == DICOMWEB else set()
        assert allowed(asked, root + study) - {"GET", "HEAD", "OPTIONS"} == changes
        assert allowed(asked, f"{root}{study}/metadata") == {"GET", "HEAD", "OPTIONS"}


def test_where_there_is_nothing_no_method_is_taken(asked: Asked) -> None:
    for method in METHODS:
        for path in ("/nothing", f"{DICOMWEB}/nothing"):
            assert asked.request(method, path).status_code == 404
