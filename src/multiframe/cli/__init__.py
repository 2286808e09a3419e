"""The ``multiframe`` command: parses, calls one public function a verb, and says how it went.

A verb is one function in a room of its own, and one row in `VERBS`; what it shares with others lies in `options`,
`serving`, `terminal` and `faults`. Results go to stdout, everything else to stderr. A room imports what is heavy when
its verb is called: ``--help`` is quick.
"""

import inspect
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from multiframe.cli import check, demo, doctor, frame, index, info, register, serve, token
from multiframe.cli.configured import Configured
from multiframe.cli.faults import INTERRUPTED, leave, run

__all__ = ["app", "main"]


class Verb(NamedTuple):
    """A function that is a verb, and how its arguments are parsed, where that is different."""

    run: Callable[..., None]
    parsed: dict[str, Any] = {}  # noqa: RUF012  # none changes it


VERBS = (
    Verb(serve.serve, {"cls": Configured}),
    Verb(doctor.doctor, {"context_settings": {"allow_extra_args": True, "ignore_unknown_options": True}}),
    Verb(register.register),
    Verb(demo.demo),
    Verb(token.token),
    Verb(info.info),
    Verb(check.check),
    Verb(frame.frame),
    Verb(index.index),
)
"""In the order in which the help lists them."""


def _flowing(text: str | None) -> str:
    """Join the lines of each paragraph, for a terminal of any width; what is indented stays as it is."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else " ".join(p.split("\n")) for p in paragraphs)


app = typer.Typer(
    name="multiframe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=_flowing("""Compressed multiframe DICOM, frame by frame.

    Finds every frame of an ultrasound cine, an angiogram, a tomosynthesis or a slide without reading its pixels, and
    serves them to unmodified DICOMweb viewers from the files as they lie.

    Exit codes: 0 good, 1 the file is at fault, 2 the call, 3 the surroundings (disk, port, a missing codec),
    130 interrupted."""),
)
for _verb in VERBS:
    app.command(help=_flowing(_verb.run.__doc__), **_verb.parsed)(_verb.run)


def _version(wanted: bool) -> None:
    if wanted:
        from multiframe import __version__

        print(f"multiframe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


def main() -> NoReturn:
    """Be the ``multiframe`` command."""
    # Whoever reads our output may leave, as `head` does: then we end as every Unix command does, without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    code = run(lambda: app(standalone_mode=True))
    if code == INTERRUPTED:
        leave()
    sys.exit(code)
