"""`multiframe register`: the catalog of a server, filled before it is started, or beside it."""

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from multiframe.cli.faults import FILE, SURROUNDINGS
from multiframe.cli.serving import find, kept, roots_of
from multiframe.cli.terminal import complain, files, progress

__all__ = ["register"]

_NAMED = 20  # files that could not be read


def register(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders and URLs.", show_default=False)],
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the catalog lies. Default: the user's cache folder.")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="MULTIFRAME_DATABASE", show_envvar=False, help="Or a database, as of serve."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, max=64, help="Processes that read; 0: one a core.")] = 0,
) -> None:
    """Read headers into a catalog, as a server would that serves the same paths: before its start, or beside it.

    Only what is new or has changed is opened, and what is gone is forgotten. It may be interrupted, and takes up where
    it was. Files that look like DICOM and cannot be read are named at the end.

        multiframe register /srv/archive --database postgresql://db.example.org/multiframe
    """
    from contextlib import closing

    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    from multiframe.catalog import Catalog, ScanStatus
    from multiframe.settings import Settings

    find(paths)
    roots = roots_of(paths, Settings())
    _, beside = kept(roots, cache)
    shown = "{task.fields[status].found:,} files met, {task.fields[status].registered:,} instances read"
    columns = SpinnerColumn(), TextColumn(shown), TimeElapsedColumn()
    stopped = threading.Event()
    failed = 0

    def name(path: bytes, why: str) -> None:
        where = os.fsdecode(path)
        complain(why if where in why else f"{where}: {why}")

    def failing(path: bytes, why: str) -> None:
        nonlocal failed
        failed += 1
        if failed <= _NAMED:
            name(path, why)

    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    with closing(Catalog(database or beside)) as catalog, progress(*columns) as bar:
        task = bar.add_task("registering", total=None, status=ScanStatus())
        status = catalog.scan(
            roots,
            processes=jobs or len(os.sched_getaffinity(0)),
            progress=lambda status: bar.update(task, status=status),
            stop=stopped.is_set,
            failing=failing,
        )
        unread = 0
        for unread, (path, why) in enumerate(() if stopped.is_set() else catalog.problems(roots), 1):
            if unread <= _NAMED:
                name(path, why)
    signal.signal(signal.SIGINT, before)
    if (others := max(0, unread - _NAMED) + max(0, failed - _NAMED)) > 0:
        complain(f"and {others:,} others")
    told = {"read": status.registered, "unchanged": status.unchanged, "could not be read": status.failed,
            "left out": status.ignored, "gone": status.vanished}  # fmt: skip
    parts = ", ".join(f"{count:,} {what}" for what, count in told.items() if count)
    typer.echo(f"{files(status.found)}: {parts or 'nothing'}", err=True)
    if stopped.is_set():
        raise KeyboardInterrupt
    raise typer.Exit(SURROUNDINGS if failed else FILE if unread else 0)
