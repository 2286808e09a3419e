"""`multiframe demo`: a cine of nobody's, written and served."""

from pathlib import Path
from typing import Annotated

import typer

from multiframe.cli import options, serving
from multiframe.cli.terminal import progress

__all__ = ["demo"]


def demo(
    size: Annotated[
        int, typer.Option(parser=options.size, metavar="SIZE", help="Bytes of the synthetic cine, as in 1.5GB.")
    ] = "500MB",  # type: ignore[assignment]  # typer parses it
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where it is kept. Default: the user's cache folder.")
    ] = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    workers: options.Workers = 1,
    memory: options.Memory = "64MiB",  # type: ignore[assignment]
) -> None:
    r"""Show it: write a synthetic ultrasound cine, serve it, and print where to look.

    The cine is JPEG Baseline without an offset table, the layout that crashes viewers; each frame carries its number.
    It is made once and used again. Real cines join it when `multiframe\[demo]` is installed.
    """
    from multiframe.demo import default_directory, prepare
    from multiframe.settings import Settings, format_size

    with progress() as bar:
        if not bar.console.is_terminal:
            bar.console.print(f"writing a cine of {format_size(size)}, if it is not there yet")
        task = bar.add_task("writing the cine", total=None)
        files = prepare(
            directory or default_directory(),
            size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    # It is nobody's data: let it be shown.
    settings = Settings(memory=memory, anonymous=not serving.is_here(host), access_log="off")
    serving.run(files, host, port, workers, settings=settings)
