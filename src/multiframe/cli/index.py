"""`multiframe index`: where the frames of many files lie, and that written beside them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from multiframe import errors
from multiframe.cli.faults import SURROUNDINGS, judged
from multiframe.cli.options import AsJsonLines, Sources
from multiframe.cli.terminal import complain, files, progress, shown

__all__ = ["index"]


def index(
    sources: Sources,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the index file of the one SRC is written."),
    ] = None,
    beside: Annotated[bool, typer.Option("--beside", help="Write NAME.frames beside each file NAME.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="How many files are read at once.")] = 4,
    force: Annotated[bool, typer.Option("--force", help="Write anew what is fresh already.")] = False,
    as_json: AsJsonLines = False,
) -> None:
    """Find every frame of files and folders, and keep where they lie in index files.

    An index file holds where each frame lies, in three bytes a frame or so, and what the file is like, so that it is
    used only for that very content. A file beside which one lies is opened, and served, without a walk over its Items.
    In folders DICOM files are found by what is in them. Without -o and --beside nothing is written.

        multiframe index ~/cines --beside
    """
    if str(output) == "-":
        raise typer.BadParameter(
            "an index file is written whole and renamed, and stdout tells what was found: name a file", param_hint="-o"
        )
    if output and beside:
        raise typer.BadParameter("either -o or --beside", param_hint="-o")
    if output and (len(sources) > 1 or Path(sources[0]).is_dir()):
        raise typer.BadParameter("one file has room for the index of one SRC; for more, --beside", param_hint="-o")
    if beside and any("://" in source for source in sources):
        raise typer.BadParameter("nothing can be written beside a URL; -o names a local file", param_hint="--beside")
    tasks, unlisted = _index_tasks(sources, output, beside)
    outcomes: list[_Outcome] = []
    worst = SURROUNDINGS if unlisted else 0
    with progress() as bar:
        for outcome in bar.track(_at_once(tasks, jobs, force), total=len(tasks), description="finding frames"):
            outcomes.append(outcome)
            if as_json and outcome.told:
                print(json.dumps(outcome.told), flush=True)
            if outcome.problem:
                complain(outcome.problem)
            worst = max(worst, outcome.code)
    for folder in unlisted:
        complain(f"{folder}: the folder cannot be listed")
    states = [outcome.told["state"] if outcome.told else "other" for outcome in outcomes]
    if not as_json:
        _tell_indexed(outcomes)
    told = [f"{states.count(state):,} {state}" for state in ("found", "written", "fresh") if state in states]
    told += [f"{states.count('failed') + len(unlisted):,} failed"]
    other = f"; {states.count('other'):,} without frames, passed over" if "other" in states else ""
    typer.echo(f"{files(len(outcomes))}: {', '.join(told)}{other}", err=True)
    raise typer.Exit(worst)


class _Task(NamedTuple):
    """A file to be indexed: where to, and whether somebody asked for it or it lay in a folder."""

    source: str
    output: Path | None
    named: bool


class _Outcome(NamedTuple):
    """What came of it, as it is told to machines; with a problem, whose fault it is. All empty: no frames there."""

    told: dict[str, Any] | None = None
    code: int = 0
    problem: str = ""


def _index_tasks(sources: list[str], output: Path | None, beside: bool) -> tuple[list[_Task], list[str]]:
    """List the files to be indexed, each once, and the folders that cannot be listed."""
    from multiframe import folders
    from multiframe.indexfile import SUFFIX

    tasks: dict[str, _Task] = {}
    unlisted: list[bytes] = []
    for source in sources:
        found = [source]
        folder = "://" not in source and Path(source).is_dir()
        if folder:
            root = os.fsencode(os.path.realpath(source))
            paths = (os.fsdecode(path) for path, _ in folders.files([root], unlisted.append))
            found = [path for path in paths if not path.endswith(SUFFIX)]
        for path in found:
            where = Path(path + SUFFIX) if beside else output
            place = path if "://" in path else os.path.realpath(path)
            if place not in tasks or not folder:
                tasks[place] = _Task(path, where, not folder)
    return list(tasks.values()), [os.fsdecode(folder) for folder in unlisted]


def _at_once(tasks: list[_Task], jobs: int, force: bool) -> Iterator[_Outcome]:
    """Index files, some at once, in their order.

    By threads: it is waiting for the disk or the net that takes long, and eight of them are seven times as fast at
    0.5 ms a read. Processes gain nothing when all is in memory either: they start too slowly (measured).
    """
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(jobs)
    try:
        yield from pool.map(lambda task: _index_one(task, force), tasks)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _index_one(task: _Task, force: bool) -> _Outcome:
    from multiframe.saving import Unplaced, index_file

    try:
        return _Outcome(index_file(task.source, task.output, force=force)._asdict())
    except Exception as error:
        if isinstance(error, errors.NotDicom | errors.NoPixelData | Unplaced) and not task.named:
            return _Outcome()  # in a folder lies all sorts of things
        if os.environ.get("MULTIFRAME_TRACEBACK"):
            raise
        code, message = judged(error)
        source = task.source.partition("?")[0] if "://" in task.source else task.source
        told = {"source": source, "state": "failed", "error": message}
        return _Outcome(told, code, message if source in message else f"{source}: {message}")


def _tell_indexed(outcomes: list[_Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("file", overflow="fold")
    for name in ("frames", "fragments", "index file"):
        table.add_column(name, justify="right")
    table.add_column("")
    for found in (outcome.told for outcome in outcomes if outcome.told and not outcome.problem):
        size = "" if found["index_bytes"] is None else f"{found['index_bytes']:,} bytes"
        frames = "video" if found["kind"] == "stream" else f"{found['frames']:,}"
        told = ["" if found["state"] == "found" else found["state"], "" if found["complete"] else "damaged",
                "its table is wrong" if found["repaired"] else ""]  # fmt: skip
        table.add_row(shown(found["source"]), frames, f"{found['fragments']:,}", size, ", ".join(filter(None, told)))
    if table.row_count:
        Console(highlight=False, markup=False).print(table)
