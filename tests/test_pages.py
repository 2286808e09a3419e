"""OHIF at /ohif: an unchanged build of it is found, configured, allowed to run, and kept from all else."""

import asyncio
import gzip
import json
import re
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from typer.testing import CliRunner

from multiframe import cli
from multiframe.settings import Settings
from multiframe.web import pages

PAGE = (
    '<!doctype html><script>window.PUBLIC_URL="/"</script><script src="/app.bundle.0123456789abcdef.js"></script>'
    '<script defer src="/app-config.js"></script>'
)
SCRIPT = b"console.log('ohif')" * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "ohif"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(PAGE)
    (folder / "app-config.js").write_text("window.config = {stock: true}")
    (folder / "app.bundle.0123456789abcdef.js").write_bytes(SCRIPT)
    (folder / "app.bundle.0123456789abcdef.js.gz").write_bytes(gzip.compress(SCRIPT))
    (folder / "assets" / "logo.png").write_bytes(b"png")
    (tmp_path / "secret.txt").write_text("no")
    return folder


def get(folder: Path | None, path: str, **headers: str) -> httpx.Response:
    app = Starlette(routes=pages.routes(str(folder) if folder else None))
    app.state.settings = Settings()

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            return await client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/ohif", "/ohif/", "/ohif/viewer?StudyInstanceUIDs=1.2", "/ohif/a/b/c"])
def test_each_address_of_ohif_is_its_page(folder: Path, path: str) -> None:
    answer = get(folder, path)
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["cache-control"] == "no-cache"
    # the inline script may run because its very bytes are named
    assert re.search(r"script-src 'self' 'sha256-[\w+/]{43}=' 'unsafe-eval'", answer.headers["content-security-policy"])


def test_its_configuration_is_ours_and_names_this_server(folder: Path) -> None:
    answer = get(folder, "/app-config.js")
    config = json.loads(re.match(r"window\.config = (.*?\n});\n", answer.text, re.S)[1])  # type: ignore[index]
    source = config["dataSources"][0]["configuration"]
    assert config["routerBasename"] == "/ohif"
    assert config["maxCacheSize"] == 1 << 30
    assert source["qidoRoot"] == "http://127.0.0.1:8080/dicom-web/ohif"
    assert source["wadoRoot"] == "http://127.0.0.1:8080/dicom-web/ohif"
    assert source["wadoUriRoot"] == "http://127.0.0.1:8080/wado"
    assert answer.headers["content-type"].startswith("text/javascript")


def test_its_files_lie_where_it_asks_for_them(folder: Path) -> None:
    plain = get(folder, "/app.bundle.0123456789abcdef.js", accept_encoding="identity")
    packed = get(folder, "/app.bundle.0123456789abcdef.js", accept_encoding="gzip")
    assert plain.content == packed.content == SCRIPT
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(SCRIPT)
    for answer in (plain, packed):
        assert answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["vary"] == "Accept-Encoding"
        assert "immutable" in answer.headers["cache-control"]
    logo = get(folder, "/assets/logo.png")
    assert (logo.content, logo.headers["cache-control"]) == (b"png", "no-cache")


def test_nothing_else_is_there(folder: Path) -> None:
    assert get(folder, "/%2e%2e/secret.txt").status_code == 404
    assert get(folder, "/nothing.js").status_code == 404
    assert get(None, "/app-config.js").status_code == 404


@pytest.mark.skipif(pages.viewer_folder() is None, reason="the viewer is not built")
def test_the_viewer_stays_at_the_root_and_may_do_no_more(folder: Path) -> None:
    beside, alone = get(folder, "/"), get(None, "/")
    assert beside.text == alone.text != PAGE
    assert beside.headers["content-security-policy"] == alone.headers["content-security-policy"]
    assert "'unsafe-eval'" not in beside.headers["content-security-policy"]


def test_the_command_says_how_to_get_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["serve", str(tmp_path), "--ohif-dir", str(tmp_path / "none")])
    assert done.exit_code
    assert "npm pack @ohif/app" in str(done.exception)
