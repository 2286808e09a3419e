"""Options that were written down: in the environment, or in a TOML file.

A value is taken as if it had been typed behind its flag, so there is one check of it, the command's. It must not know
which options there are: it is told.
"""

import difflib
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from multiframe.errors import SourceError, SourceNotFound

__all__ = ["BESIDE", "PREFIX", "Kind", "Said", "from_environment", "from_file"]

PREFIX = "MULTIFRAME_"

BESIDE = frozenset({"MULTIFRAME_CONFIG", "MULTIFRAME_TRACEBACK", "MULTIFRAME_NO_VIEWER"})
"""Variables that are no options of the server."""

Kind = Literal["value", "list", "switch"]


class Said(NamedTuple):
    """One value, as if typed, and where it stands: for whoever has to say that it is wrong."""

    value: str | bool | list[str]
    where: str


def from_file(path: Path, known: Mapping[str, Kind]) -> dict[str, Said]:
    """Read a file of options.

    Parameters
    ----------
    path : Path
        TOML 1.0; all keys at the top, none in a table.
    known : mapping
        The names there are, and what each takes.

    Raises
    ------
    SourceNotFound, SourceError
        There is no such file, or it cannot be read.
    ValueError
        It is no TOML, has a key that nobody knows, or a value of a kind that no option takes.
    """
    try:
        text = path.read_bytes().decode()
        said = tomllib.loads(text)
    except FileNotFoundError:
        raise SourceNotFound(f"{path}: no such file: see --config") from None
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}: see --config") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise ValueError(f"{path} is no TOML: {error}") from None
    found = {}
    for name, value in said.items():
        if name not in known:
            raise ValueError(f"{path}: there is no setting {name!r}{_nearest(name, known)}")
        where = f"{name} in {path}"
        found[name] = Said(_typed(value, known[name], where), where)
    return found


def from_environment(environment: Mapping[str, str], known: Mapping[str, Kind]) -> dict[str, Said]:
    """Take options from the environment: ``MULTIFRAME_`` and the name in capitals.

    A list is written as on a command line: words, in quotes where one holds a space. What is empty is not said.

    Raises
    ------
    ValueError
        A variable begins like ours and names no option.

    Examples
    --------
    >>> from_environment({"MULTIFRAME_PORT": "8081"}, {"port": "value"})
    {'port': Said(value='8081', where='MULTIFRAME_PORT')}
    """
    variables = {PREFIX + name.upper(): name for name in known}
    found = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable in BESIDE or not value:
            continue
        if variable not in variables:
            raise ValueError(f"{variable}: there is no such setting{_nearest(variable, variables)}")
        name = variables[variable]
        found[name] = Said(_split(value, variable) if known[name] == "list" else value, variable)
    return found


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name.replace("-", "_"), known, 1, 0.6)
    return f": do you mean {close[0]!r}?" if close else ""


def _split(value: str, variable: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{variable}: {error}") from None


def _typed(value: object, kind: Kind, where: str) -> str | bool | list[str]:
    if kind == "list":
        if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
            return [str(one) for one in value]
        raise ValueError(f'{where}: it is a list, as in ["one", "another"]')
    if kind == "switch" and isinstance(value, bool):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{where}: it takes one value, not {'a list' if isinstance(value, list) else 'that'}")
    return str(value)
