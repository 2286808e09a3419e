"""What holds for the repository as a whole, whichever file somebody changes next."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import multiframe

ROOT = Path(__file__).resolve().parents[1]

REGISTRY = re.compile(
    r"\b(?:pypi\W(?:org|io)|pythonhosted\Worg|npmjs\W(?:org|com)|registry\Wyarnpkg|deb\Wdebian\Worg"
    r"|(?:archive|ports)\Wubuntu\Wcom|conda\Wanaconda\Worg|proxy\Wgolang|(?:static|index)\Wcrates\Wio)\b"
)
MACHINE = re.compile(r"(?<![\w.}*])(?:/(?:home|Users)/[a-z]\w*|/(?:root|work)/[\w.]|[A-Z]:\\Users)")
INDEX_OPTION = re.compile(r"^(?:--?(?:index-url|extra-index-url|find-links|trusted-host|i|f)\b|registry\s*=)", re.M)
PINNED = re.compile(r"[a-z0-9][a-z0-9._-]*==[0-9][\w.]*(?: ; .+)?")


def tracked() -> list[Path]:
    """Every file that is committed, or would be by `git add --all`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def findings(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """`file:line: match` for every match in the text files among `paths`."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in paths
        if b"\0" not in (data := path.read_bytes())
        for number, line in enumerate(data.decode(errors="replace").splitlines(), 1)
        if (match := pattern.search(line))
    ]


@pytest.mark.parametrize("pattern", [REGISTRY, MACHINE, INDEX_OPTION], ids=["registry", "machine", "index-option"])
def test_no_file_names_a_registry_or_somebodys_machine(pattern: re.Pattern[str]) -> None:
    assert findings(pattern, tracked()) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (REGISTRY, "https://" + "pypi" + ".org/simple"),
        (REGISTRY, "https://registry." + "npmjs" + ".org/vite"),
        (MACHINE, "see /" + "home/ada/cine.dcm"),
        (MACHINE, "'/" + "root/.cache'"),
        (INDEX_OPTION, "--index" + "-url https://example.org"),
    ],
)
def test_those_patterns_do_find(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_requirements_are_pinned(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    pins = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert pins
    assert [line for line in pins if not PINNED.fullmatch(line)] == []


def test_every_requirements_file_has_the_same_pins() -> None:
    def pins(name: str) -> set[str]:
        return {line.split(" ;")[0] for line in (ROOT / name).read_text().splitlines() if PINNED.fullmatch(line)}

    assert pins("requirements.txt") <= pins("requirements-demo.txt") <= pins("requirements-dev.txt")


@pytest.mark.parametrize("folder", ["viewer", "tests/clients"])
def test_package_lock_names_no_host(folder: str) -> None:
    lock = json.loads((ROOT / folder / "package-lock.json").read_text())
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
    assert [name for name, package in lock["packages"].items() if name and "integrity" not in package] == []


def test_public_names_are_few_sorted_and_there() -> None:
    assert multiframe.__all__ == sorted(multiframe.__all__)
    assert len(multiframe.__all__) <= 15
    assert [name for name in multiframe.__all__ if not hasattr(multiframe, name)] == []


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert multiframe.__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
