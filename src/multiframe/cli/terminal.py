"""What all verbs print beside their results, to stderr: warnings, complaints, how far they are.

It must not know what a verb does. Rich is imported when progress is shown, not before: ``--help`` is quick.
"""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["complain", "files", "progress", "shown", "warn"]


def shown(path: str) -> str:
    """Give a path as it can be printed, whatever bytes it has."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def warn(message: str) -> None:
    """Say what somebody should know who asked for it."""
    typer.secho(f"warning: {message}", fg="yellow", err=True)


def complain(message: str) -> None:
    """Say what went wrong."""
    typer.secho(f"multiframe: {shown(message)}", fg="red", err=True)


def files(count: int) -> str:
    """Count files in words.

    Examples
    --------
    >>> files(1), files(1200)
    ('1 file', '1,200 files')
    """
    return f"{count:,} file{'s' * (count != 1)}"


def progress(*columns: "ProgressColumn") -> "Progress":
    """Make a bar that is seen at a terminal only, and gone when all is done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True, highlight=False, markup=False)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
