"""Options by flag, environment and file: one check of each value, one order, and no name that is silently ignored."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from multiframe import cli, errors
from multiframe.cli import serving
from multiframe.config import BESIDE, from_environment, from_file
from multiframe.settings import Settings
from multiframe.testing import cine
from tests import configuration
from tests.serving import command

Start = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Run `serve` up to where it would begin: its exit code, what it says, and what it was given in the end."""
    given: dict[str, Any] = {}

    def serve(paths: list[Path], host: str, port: int, workers: int, cache: Path | None = None, **rest: Any) -> None:
        given.update(paths=[str(path) for path in paths], host=host, port=port, workers=workers, cache=cache)
        given.update(database=rest["database"])
        given.update(dataclasses.asdict(rest["settings"]))

    monkeypatch.setattr(serving, "run", serve)

    def run(*arguments: object, **environment: str) -> tuple[int, str, dict[str, Any]]:
        given.clear()
        done = CliRunner().invoke(cli.app, ["serve", *map(str, arguments)], env={**environment, "COLUMNS": "300"})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output, dict(given)

    return run


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "multiframe.toml"
    path.write_text(text)
    return path


def test_a_flag_goes_before_the_environment_and_that_before_the_file(start: Start, tmp_path: Path) -> None:
    file = toml(tmp_path, "port = 1\nworkers = 2\nmemory_wait = 3\n")
    code, _, given = start(tmp_path, "--config", file, "--port", "11", MULTIFRAME_PORT="12", MULTIFRAME_WORKERS="13")
    assert code == 0
    assert (given["port"], given["workers"], given["memory_wait"], given["page_limit"]) == (11, 13, 3.0, 1000)


EXAMPLES: dict[str, tuple[object, str, object]] = {
    # in TOML, in the environment, what comes of it; the others are numbers or plain text
    "allow_origins": (["https://a.example", "https://b.example/"], "https://a.example https://b.example",
                      ("https://a.example", "https://b.example")),
    "hosts": (["images"], "images", (*Settings().hosts, "images")),
    "trusted_proxies": (["10.0.0.0/8"], "10.0.0.0/8", ("10.0.0.0/8",)),
    "public_url": ("https://images.example.org/", "https://images.example.org", "https://images.example.org"),
    "memory": ("32MiB", "33554432", 32 << 20),
    "max_decode": ("1MB", "1000kB", 1_000_000),
    "piece": ("1MiB", "1048576", 1 << 20),
    "first_read": ("1MiB", "1048576", 1 << 20),
    "max_header": (1 << 20, "1MiB", 1 << 20),
    "cache_share": (0.25, ".25", 0.25),
    "memory_wait": (7, "7", 7.0),
    "shutdown_timeout": (7, "7", 7.0),
    "watch": (False, "0", False),
    "database_wait": (5, "5", 5.0),
    "rescan": (60, "60", 60.0),
    "page_limit": (7, "7", 7),
    "decoders": (7, "7", 7),
    "layout_rs": ("legacy", "legacy", "legacy"),
    "layout_uri": ("stored", "stored", "stored"),
    "wado_uri_default": ("jpeg", "jpeg", "jpeg"),
    "strict_accept": (True, "1", True),
    "virtual_series": (True, "true", True),
    "revalidate": (True, "yes", True),
    "patience": (7, "7", 7.0),
    "connections": (7, "7", 7),
    "tokens": ("/etc/tokens", "/etc/tokens", "/etc/tokens"),
    "oidc_issuer": ("https://id.example.org", "https://id.example.org", "https://id.example.org"),
    "oidc_audience": ("images", "images", "images"),
    "oidc_keys": ("https://id.example.org/keys", "https://id.example.org/keys", "https://id.example.org/keys"),
    "oidc_leeway": (5, "5", 5.0),
    "anonymous": (True, "on", True),
    "allow_delete": (True, "1", True),
    "max_spool": ("1GB", "1000000000", 10**9),
    "max_upload": ("1GB", "1000000000", 10**9),
    "access_log": ("off", "off", "off"),
    "traces": (True, "1", True),
    "log_format": ("json", "json", "json"),
}  # fmt: skip
"""Of fields of Settings; one that is missing here is looked for by the test, too."""


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Settings) if f.name not in ("ohif", "store", "spool")]
)
def test_every_setting_by_file_and_by_environment(start: Start, tmp_path: Path, name: str) -> None:
    if name not in EXAMPLES:
        pytest.fail(f"give an example of {name} in EXAMPLES")
    written, variable, wanted = EXAMPLES[name]
    assert wanted != getattr(Settings(), name)
    file = toml(tmp_path, f"paths = [{json.dumps(str(tmp_path))}]\n{name} = {json.dumps(written)}\n")
    for code, said, given in (
        start("--config", file),
        start(MULTIFRAME_CONFIG=str(file)),
        start(tmp_path, **{f"MULTIFRAME_{name.upper()}": variable}),
    ):
        assert code == 0, said
        assert given["paths"] == [str(tmp_path)]
        assert given[name] == wanted


def test_a_switch_can_be_taken_back(start: Start, tmp_path: Path) -> None:
    file = toml(tmp_path, "revalidate = true")
    assert start(tmp_path, "--config", file, "--no-revalidate")[2]["revalidate"] is False
    assert start(tmp_path, "--config", file, MULTIFRAME_REVALIDATE="0")[2]["revalidate"] is False
    assert start(tmp_path, "--config", file, MULTIFRAME_REVALIDATE="")[2]["revalidate"] is True


def test_a_store_is_served_too_and_paths_are_not_needed_then(start: Start, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    for code, said, given in (
        start("--config", toml(tmp_path, f"store = {json.dumps(store)}")),
        start(MULTIFRAME_STORE=store),
        start("--store", store),
    ):
        assert code == 0, said
        assert given["store"] == store
        assert given["paths"] == []
    assert "--store" in start()[1]


def test_paths_with_spaces_in_the_environment(start: Start, tmp_path: Path) -> None:
    (spaced := tmp_path / "old cines").mkdir()
    assert start(MULTIFRAME_PATHS=f'{tmp_path} "{spaced}"')[2]["paths"] == [str(tmp_path), str(spaced)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prt = 1", ["prt", "'port'"]),
        ("public-url = 'https://a.example'", ["'public_url'"]),
        ("[serve]\nport = 1", ["'serve'"]),
        ("port = 99999", ["port in ", "multiframe.toml", "65535"]),
        ("port = 'many'", ["port in "]),
        ("port = true", ["port in ", "one value"]),
        ("port = [1]", ["port in ", "not a list"]),
        ("memory = 'lots'", ["memory in ", "not a size"]),
        ("layout_rs = 'round'", ["layout_rs in ", "legacy"]),
        ("allow_origins = 'https://a.example'", ["allow_origins in ", "a list"]),
        ("port = ", ["no TOML"]),
        ("port = 1\nport = 2", ["no TOML"]),
        ("config = 'other.toml'", ["'config'"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(start: Start, tmp_path: Path, text: str, says: list[str]) -> None:
    code, said, given = start(tmp_path, "--config", toml(tmp_path, text))
    assert code == 2, said
    assert not given
    for word in says:
        assert word in " ".join(re.sub(r"[│\n]", "", said).split())


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("MULTIFRAME_PRT", "1", "'MULTIFRAME_PORT'"),
        ("MULTIFRAME_PRT", "1", "value for MULTIFRAME_PRT: there"),
        ("MULTIFRAME_PORT", "many", "MULTIFRAME_PORT"),
        ("MULTIFRAME_PATHS", "'unclosed", "MULTIFRAME_PATHS"),
        ("MULTIFRAME_NOTHING_LIKE_IT", "1", "no such setting"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(start: Start, variable: str, value: str, says: str) -> None:
    code, said, _ = start("/", **{variable: value})
    assert code == 2
    assert says in said


def test_a_file_that_is_not_there_or_not_readable(tmp_path: Path) -> None:
    with pytest.raises(errors.SourceNotFound, match="--config"):
        from_file(tmp_path / "nothing", {})
    with pytest.raises(errors.SourceError, match="--config"):
        from_file(tmp_path, {})
    (tmp_path / "latin").write_bytes(b"# \xe9\n")
    with pytest.raises(ValueError, match="no TOML"):
        from_file(tmp_path / "latin", {})


def test_variables_that_are_not_ours_are_left_alone() -> None:
    assert from_environment(dict.fromkeys(BESIDE, "1") | {"PATH": "/bin", "MULTIFRAMES": "1"}, {}) == {}


def test_no_path_at_all_is_said(start: Start) -> None:
    code, said, _ = start()
    assert code == 2
    assert "PATH" in said


def test_the_server_itself_does_as_the_file_says(tmp_path: Path) -> None:
    cine(tmp_path / "cine.dcm", frames=2, rows=96, columns=128)
    file = toml(tmp_path, f'paths = ["{tmp_path}/cine.dcm"]\nport = 0\nstrict_accept = true\nhosts = ["images"]\n')
    with command("serve", "--config", file, cache=tmp_path / "cache") as (_, url):
        answer = httpx.get(f"{url}dicom-web/studies", headers={"host": "images"})
        assert answer.status_code in (200, 204)
        assert httpx.get(f"{url}dicom-web/studies", headers={"host": "other"}).status_code == 421


def test_headings_of_the_help_hold_every_option() -> None:
    for option in configuration.options():
        if option.param_type_name == "option":
            assert option.rich_help_panel, f"{option.name}: under which heading does it stand?"
