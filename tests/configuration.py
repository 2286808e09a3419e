"""The reference of options, made from the command itself: `tools/configuration` writes it, a test compares."""

from enum import StrEnum
from pathlib import Path
from typing import Any

import typer.main

from multiframe import cli

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "configuration.md"
COMMAND: Any = typer.main.get_command(cli.app)
SERVE = COMMAND.commands["serve"]
KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
MARK = "<!-- what follows is written by tools/configuration -->\n"


def options() -> list[Any]:
    """The options of `serve`, by heading, as its help has them."""
    return [one for one in SERVE.params if one.name not in ("config", "help")]


def flag(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{option.metavar}`"
    name = str(max(option.opts, key=len))
    if getattr(option, "is_flag", False):
        return f"`{name}`, `--no-{name[2:]}`"
    kind = option.type_descriptor.annotation
    takes = option.metavar or ("|".join(kind) if issubclass(kind, StrEnum) else KINDS[kind])
    return f"`{name} {takes}`".replace("|", "\\|")


def toml(option: Any) -> str:
    """How its default would be written down, or an example of what may be."""
    default = option.default
    if option.nargs == -1 or getattr(option, "multiple", False):
        return "[...]"
    if default is None or callable(default):
        return '"..."'
    if isinstance(default, bool):
        return str(default).lower()
    return f'"{default}"' if isinstance(default, str) else str(default)


def table() -> str:
    lines = []
    heading = ""
    for option in options():
        named = getattr(option, "rich_help_panel", None) or "What is served"
        if named != heading:
            heading = named
            lines += [f"\n## {heading}\n", "| flag | environment | TOML | |", "|---|---|---|---|"]
        text = " ".join((option.help or "").split()).replace("|", "\\|")
        variable = f"MULTIFRAME_{option.name.upper()}"
        lines.append(f"| {flag(option)} | `{variable}` | `{option.name} = {toml(option)}` | {text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    head = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(head + MARK + table())
