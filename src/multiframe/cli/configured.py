"""A verb whose options may stand in the environment or in a file, too.

What is written down is read by `multiframe.config`; here it is given to the parser, as if it had been typed. It must
not know which options there are: it asks the verb.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import typer.core

if TYPE_CHECKING:
    from multiframe.config import Kind

__all__ = ["Configured", "configure"]


class Configured(typer.core.TyperCommand):
    """A command whose options may stand in the environment or in a file, too: see `configure`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse; of a wrong value that was written down, say where."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            name = error.param.name if error.param else ""
            said = ctx.meta.get("said", {}).get(name)
            if said and getattr(ctx.get_parameter_source(name), "name", "") == "DEFAULT_MAP":
                error.param_hint = said.where
            raise

    def names(self) -> dict[str, "Kind"]:
        """Give the options that may be written down, and what each takes."""
        return {
            one.name: "list" if one.nargs == -1 or getattr(one, "multiple", False)
            else "switch" if getattr(one, "is_flag", False) else "value"
            for one in self.params if one.name not in ("config", "help")
        }  # fmt: skip


def configure(ctx: typer.Context, file: Path | None) -> Path | None:
    """Fill in what the command line does not say: from the environment, then from the file."""
    from multiframe.config import from_environment, from_file

    command: Any = ctx.command
    known = command.names()
    try:
        written = from_file(file, known) if file else {}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        said = {**written, **from_environment(os.environ, known)}
    except ValueError as error:
        variable, _, wrong = str(error).partition(": ")
        raise typer.BadParameter(wrong, param_hint=variable) from None
    ctx.meta["said"] = said
    ctx.default_map = {name: one.value for name, one in said.items()}
    return file
