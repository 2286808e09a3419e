"""The documentation names all there is, its links lead somewhere, and its Python runs.

What is added to the code and not to the reference turns this red, and so does what the reference says wrongly.
"""

import contextlib
import dataclasses
import inspect
import io
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from starlette.routing import Mount, Route
from typer.testing import CliRunner

import multiframe
from multiframe import cli, errors
from multiframe.catalog import KEYS, Catalog
from multiframe.cli.faults import EXIT
from multiframe.codec import codec_for
from multiframe.demo import prepare
from multiframe.errors import CodecMissing
from multiframe.instance import Instance
from multiframe.settings import Settings
from multiframe.syntaxes import EXPLICIT_LE, SYNTAXES, syntax_of
from multiframe.testing import cine
from multiframe.web import app
from multiframe.web.app import STATUS, create_app
from tests import configuration

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
RUNNABLE = [*sorted((DOCS / "tutorial").glob("*.md")), DOCS / "how-to/use-in-python.md",
            DOCS / "how-to/check-an-archive.md", DOCS / "reference/library.md",
            DOCS / "reference/settings-and-errors.md", DOCS / "reference/testing.md"]  # fmt: skip


def reference(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text()


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in a text."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def names(text: str) -> set[str]:
    """What stands in code spans in the first column of a table."""
    return {span for row in rows(text) for span in re.findall(r"`([^`]+)`", row[0])}


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"there is no section {title!r}"
    return found[1]


# ---------------------------------------------------------------------------------------------------- the reference


def verbs() -> dict[str, object]:
    command = typer.main.get_command(cli.app)
    return dict(command.commands)  # type: ignore[attr-defined]  # it is a group


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_and_option_of_the_command(verb: str) -> None:
    text = section(reference("command"), verb)
    told = {option for span in names(text) for option in re.findall(r"--?[a-z][a-z-]*", span)}
    wanted = set()
    for parameter in verbs()[verb].params:  # type: ignore[attr-defined]
        if parameter.param_type_name == "option":
            wanted.update(parameter.opts)
        else:
            assert (parameter.metavar or parameter.name.upper()) in text
    wanted -= {"--help", "-h"}
    if verb == "serve":
        told |= {option for one in configuration.options() for option in one.opts if option.startswith("--")}
    assert told == wanted


def test_every_option_of_the_server_by_its_three_names() -> None:
    head, _, table = configuration.PAGE.read_text().partition(configuration.MARK)
    assert table == configuration.table(), "tools/configuration writes it anew"
    assert head
    assert {field.name for field in dataclasses.fields(Settings)} <= {one.name for one in configuration.options()}


def test_the_options_of_all_verbs() -> None:
    command = typer.main.get_command(cli.app)
    head = reference("command").partition("## ")[0]
    for parameter in command.params:
        assert set(parameter.opts) <= names(head)
    assert {"--help", "-h"} <= names(head)
    assert {f"`{verb}`" for verb in verbs()} == {c[1:].partition("]")[0] for c, _ in rows(head) if c[0] == "["}


def test_defaults_of_options_are_those_of_the_code() -> None:
    for verb, command in verbs().items():
        for row in rows(section(reference("command"), verb)):
            for parameter in command.params:  # type: ignore[attr-defined]
                named = set(re.findall(r"--?[a-z][a-z-]*", row[0]))
                if len(row) == 3 and named & set(parameter.opts) and (value := re.fullmatch(r"`([^`]+)`", row[1])):
                    assert str(parameter.default) == value[1], f"{verb} {row[0]}"


def test_every_key_of_info(tmp_path: Path) -> None:
    cine(tmp_path / "cine.dcm", frames=2, rows=96, columns=128)
    done = CliRunner().invoke(cli.app, ["info", str(tmp_path / "cine.dcm"), "--json"])
    assert names(section(reference("command"), "info")) - {"--json"} == set(json.loads(done.stdout))


def test_every_exit_code() -> None:
    told = {row[0] for row in rows(section(reference("command"), "Exit codes"))} - {"code", "---"}
    assert told == {"0"} | {str(code) for code in EXIT.values()}


def test_every_setting_and_its_default() -> None:
    told = {row[0].strip("`"): row for row in rows(section(reference("settings-and-errors"), "Settings"))}
    fields = dataclasses.fields(Settings)
    assert {field.name for field in fields} == set(told) - {"field", "---"}
    for field in fields:
        default = told[field.name][2]
        if isinstance(field.default, tuple) or field.default is None:
            assert re.findall(r"`([^`]+)`", default) == list(field.default or ())
        else:
            assert default.split()[0] == str(field.default)


def test_every_error_its_status_and_its_exit_code() -> None:
    text = section(reference("settings-and-errors"), "Errors")
    told = {row[0].strip("`"): row[1:3] for row in rows(text)}
    assert set(told) - {"error", "---"} == set(errors.__all__)
    for name in errors.__all__:
        kind = getattr(errors, name)
        status = next(STATUS[c] for c in kind.__mro__ if c in STATUS)
        code = next(EXIT[c] for c in kind.__mro__ if c in EXIT)
        assert told[name] == [str(status), str(code)], name
        assert re.search(rf"[─·] {name}\b|^ +{name}\b", text, re.M), f"{name} is not in the tree"


def test_every_error_of_the_server_alone() -> None:
    told = {
        row[0].strip("`"): row[1]
        for row in rows(section(reference("settings-and-errors"), "Errors of the server alone"))
    }
    there = {kind.__name__: str(status) for kind, status in STATUS.items() if kind.__module__ != errors.__name__}
    for path in Path(inspect.getfile(app)).parent.glob("*.py"):  # what is said where no exception is
        there |= {name: code for code, name in re.findall(r'_refuse\((\d+), "(\w+)"', path.read_text())}
    there |= {"HTTPError": "404, 405, 501", "MisdirectedRequest": "421"}
    assert {name: code for name, code in told.items() if name not in ("error", "---")} == there


def test_every_route(tmp_path: Path) -> None:
    said = set(re.findall(r"^    GET (\S+)$", reference("dicomweb"), re.M))
    catalog = Catalog(tmp_path / "catalog.sqlite")
    own = {
        route.path
        for route in create_app(catalog).routes
        if isinstance(route, Route | Mount) and not route.path.startswith("/dicom-web") and route.path.strip("/")
    }
    catalog.close()
    assert said == {row.path.replace(":path}", "}") for row in app.ROUTES} | own
    changed = set(re.findall(r"^    (POST|DELETE) (\S+)$", reference("dicomweb"), re.M))
    assert changed == {(method, row.path) for row in app.CHANGING for method in row.methods}


def test_every_status() -> None:
    told = {code for row in rows(section(reference("dicomweb"), "Statuses")) for code in row[0].split(", ")}
    assert {str(status) for status in STATUS.values()} <= told


def test_every_search_key() -> None:
    found = {
        row[0].strip("`"): row[1:] for row in rows(section(reference("dicomweb"), "Search (QIDO-RS, PS3.18 10.6)"))
    }
    for keyword, key in KEYS.items():
        assert found.get(keyword) == [f"`{key.tag}`", key.level, key.kind], keyword


def test_every_public_name() -> None:
    titles = re.findall(r"^## (.+)$", reference("library"), re.M)
    assert sorted(titles) == sorted(multiframe.__all__)
    for title in titles:
        text = section(reference("library"), title)
        assert f"`{title}" in text, f"{title}: its signature"
        assert "```python" in text, f"{title}: an example"


@pytest.mark.parametrize("kind", [Instance, multiframe.FrameIndex], ids=lambda kind: kind.__name__)
def test_every_member(kind: type) -> None:
    text = section(reference("library"), kind.__name__)
    members = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}
    members |= {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    members -= {"count", "index", "native", "native_frames"} if kind is multiframe.FrameIndex else set()
    assert [name for name in sorted(members) if not re.search(rf"`{name}\b", text)] == []


def test_every_transfer_syntax_and_what_is_done_with_it() -> None:
    told = {row[0].strip("`"): row[1:] for row in rows(reference("syntaxes"))}
    assert set(told) - {"UID", "---"} == set(SYNTAXES)
    for uid, syntax in SYNTAXES.items():
        name, media_type, served, decoded = told[uid]
        assert (name, media_type) == (syntax.name, f"`{syntax.media_type}`")
        given = syntax.family != "video"
        assert (served != "no") == given, uid
        try:
            codec_for(syntax_of(EXPLICIT_LE) if syntax.family == "native" else syntax)
            assert (decoded == "yes") == given, uid
        except CodecMissing:
            assert decoded == "no", uid


# ---------------------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_on_the_map() -> None:
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in
              re.findall(r"\]\(([^)\s]+)\)", (DOCS / "README.md").read_text())}  # fmt: skip
    pages = {page for page in DOCS.rglob("*.md") if page.parent.name != "decisions"} - {DOCS / "README.md"}
    assert pages - linked == set()


# ---------------------------------------------------------------------------------------------------- the house

PACKAGE = ROOT / "src" / "multiframe"
FLOORS = {
    contract["containers"][0]: [re.findall(r"\w+", layer) for layer in contract["layers"]]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    if contract["type"] == "layers"
}


@pytest.mark.parametrize("inside", ["", "cli", "web", "check", "codecs", "testing"])
def test_every_room_has_its_row_and_the_rows_have_the_order_of_the_floors(inside: str) -> None:
    text = section((DOCS / "explanation" / "the-house.md").read_text() + "\n", "Rooms")
    table = dict(
        zip(["", *re.findall(r"^### (\w+)$", text, re.M)], re.split(r"^### .*\n", text, flags=re.M), strict=True)
    )
    told = [
        span.rstrip("/") for row in rows(table[inside]) for cell in row[:-1] for span in re.findall(r"`([^`]+)`", cell)
    ]
    entries = (
        entry for entry in (PACKAGE / inside).iterdir() if entry.suffix == ".py" or (entry / "__init__.py").exists()
    )
    assert sorted(told) == sorted({entry.stem for entry in entries} - {"__init__", "__main__"})
    floor = {room: n for n, layer in enumerate(FLOORS.get(f"multiframe.{inside}".rstrip("."), [])) for room in layer}
    if floor:
        assert told == sorted(told, key=floor.__getitem__)


# ---------------------------------------------------------------------------------------------------- examples


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cine that the examples are about."""
    path = tmp_path_factory.mktemp("docs") / "cine.dcm"
    cine(path, frames=300, rows=96, columns=128)
    return path


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_python_in_the_pages_runs(page: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cines").mkdir()
    (tmp_path / "cines" / "cine.dcm").symlink_to(file)
    if page.stem in ("library", "testing", "check-an-archive"):
        cine(tmp_path / "cine.dcm", frames=120, rows=96, columns=128)
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S))
    assert blocks
    scope: dict[str, object] = {"__name__": "__docs__"}
    out = io.StringIO()
    for block in blocks:
        lines = text[: block.start(1)].count("\n")  # so that a traceback names the line of the page
        code = compile("\n" * lines + block[1], str(page), "exec")
        with contextlib.redirect_stdout(out):
            exec(code, scope)  # noqa: S102  # our own pages
    if page.stem == "first-cine":
        assert out.getvalue().splitlines()[-1] == "270"


@pytest.mark.long
def test_the_tutorial_shows_what_info_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path / "cines", 100_000_000)
    monkeypatch.chdir(tmp_path)
    [file] = Path("cines").glob("*.dcm")
    printed = CliRunner().invoke(cli.app, ["info", str(file)], env={"COLUMNS": "80"}).output.splitlines()
    shown = section((DOCS / "tutorial" / "first-cine.md").read_text(), "3. Ask the file")
    block = shown.partition("    $ multiframe info cines/*.dcm\n")[2].partition("\n\n")[0]
    assert textwrap.dedent(block).splitlines() == [line.rstrip() for line in printed[: len(block.splitlines())]]
