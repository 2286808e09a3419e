"""The ``multiframe`` command: parses, calls one public function a verb, and says how it went.

Results go to stdout, everything else to stderr. Frame *numbers* count from 1 here; the library's *indexes* from 0: they
are crossed in `_index`. Heavy rooms are imported by the verb that needs them: ``--help`` is quick.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from multiframe import errors

__all__ = ["main"]

FILE, CALL, SURROUNDINGS, INTERRUPTED = 1, 2, 3, 130

EXIT: dict[type[BaseException], int] = {
    errors.FrameNotFound: CALL,
    errors.SourceNotFound: CALL,
    errors.CodecMissing: SURROUNDINGS,
    errors.SourceError: SURROUNDINGS,
    errors.OverBudget: SURROUNDINGS,
    errors.MultiframeError: FILE,
    errors.InstanceNotFound: CALL,
    KeyboardInterrupt: INTERRUPTED,
    OSError: SURROUNDINGS,
}
"""Which error is whose fault; the nearest class counts."""

app = typer.Typer(
    name="multiframe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Compressed multiframe DICOM, frame by frame.

    Finds every frame of an ultrasound cine, an angiogram, a tomosynthesis or a slide without reading its pixels, and
    serves them to unmodified DICOMweb viewers from the files as they lie.

    Exit codes: 0 good, 1 the file is at fault, 2 the call, 3 the surroundings (disk, port, a missing codec),
    130 interrupted.""",
)


class As(StrEnum):
    """In which form a frame is given."""

    encoded = "encoded"
    png = "png"
    npy = "npy"


def _size(text: str) -> int:
    from multiframe.settings import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


File = Annotated[str, typer.Argument(metavar="FILE", help="A DICOM file.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")]
Host = Annotated[
    str, typer.Option(help="Address to bind. Anything but loopback lets others in: there are no locks yet.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to bind; 0: any that is free.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Processes that answer.")]
Memory = Annotated[
    int,
    typer.Option(
        parser=_size, metavar="SIZE", help="Most memory held for requests, all workers together, as in 64MiB."
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where headers and indexes are kept. Default: the user's cache folder."),
]
Origins = Annotated[
    list[str] | None,
    typer.Option("--allow-origin", metavar="ORIGIN", help="An origin whose pages may read from here; may be repeated."),
]
PublicUrl = Annotated[
    str | None, typer.Option("--public-url", metavar="URL", help="How clients reach this server, behind a proxy.")
]


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


@app.command()
def serve(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files and folders to serve.", show_default=False)
    ],
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Workers = 1,
    memory: Memory = "64MiB",  # type: ignore[assignment]  # typer parses it
    cache: Cache = None,
    allow_origin: Origins = None,
    public_url: PublicUrl = None,
) -> None:
    """Serve files and folders by DICOMweb, with a viewer.

    DICOM files are found by what is in them, not by their names; only headers are read, and only once: what is
    unchanged at the next start is not opened. Prints one line, `Serving http://HOST:PORT/`, when it answers.

        multiframe serve ~/cines --port 8080
    """
    for path in paths:
        if not path.exists():
            raise errors.SourceNotFound(f"{path}: no such file or folder")
    _serve(paths, host, port, workers, memory, cache, allow_origin, public_url)


def _serve(
    paths: list[Path], host: str, port: int, workers: int, memory: int, cache: Path | None,
    allow_origin: list[str] | None, public_url: str | None,
) -> NoReturn:  # fmt: skip
    from multiframe.settings import LEAST_MEMORY, Settings, cache_folder
    from multiframe.web.serve import Served
    from multiframe.web.serve import serve as run

    origins = tuple(o.rstrip("/") for o in allow_origin or ())
    _check_urls([o for o in origins if o != "*"], "--allow-origin")
    _check_urls([public_url] if public_url else [], "--public-url")
    if "*" in origins:
        _warn("--allow-origin '*': any page a user opens may read everything that is served")
    if host not in ("127.0.0.1", "::1", "localhost"):
        _warn(f"bound to {host}: whoever reaches this machine can read everything; there is no authentication yet")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a client that leaves must not end the server
    roots = [path.resolve() for path in paths]
    name = hashlib.sha256("\0".join(sorted(map(str, roots))).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    folder = cache or cache_folder(os.environ)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # headers hold patients' names
    if cache is None:
        folder.chmod(0o700)
    if memory < LEAST_MEMORY * workers:
        raise typer.BadParameter(
            f"{memory:,} bytes are too few: {LEAST_MEMORY:,} a worker at least", param_hint="--memory"
        )
    settings = Settings(memory=memory, allow_origins=origins, public_url=public_url.rstrip("/") if public_url else None)
    served = Served(roots, folder / f"catalog-{name}.sqlite", host, port, workers)
    ended = run(served, settings, ready=lambda url: print(f"Serving {url}", flush=True))
    raise typer.Exit(INTERRUPTED if ended == signal.SIGINT else 0)


def _check_urls(urls: list[str], option: str) -> None:
    from urllib.parse import urlsplit

    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise typer.BadParameter(f"{url!r} is not like https://images.example.org", param_hint=option)


@app.command()
def demo(
    size: Annotated[
        int, typer.Option(parser=_size, metavar="SIZE", help="Bytes of the synthetic cine, as in 1.5GB.")
    ] = "500MB",  # type: ignore[assignment]  # typer parses it
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where it is kept. Default: the user's cache folder.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Workers = 1,
    memory: Memory = "64MiB",  # type: ignore[assignment]
) -> None:
    r"""Show it: write a synthetic ultrasound cine, serve it, and print where to look.

    The cine is JPEG Baseline without an offset table, the layout that crashes viewers; each frame carries its number.
    It is made once and used again. Real cines join it when `multiframe\[demo]` is installed.
    """
    from rich.console import Console
    from rich.progress import Progress

    from multiframe.demo import default_directory, prepare
    from multiframe.settings import format_size

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"writing a cine of {format_size(size)}, if it is not there yet", highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("writing the cine", total=None)
        files = prepare(
            directory or default_directory(),
            size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _serve(files, host, port, workers, memory, None, None, None)


@app.command()
def info(file: File, as_json: AsJson = False) -> None:
    """Tell what a file is: syntax, frames, how they were found and what that cost.

    multiframe info cine.dcm --json
    """
    from multiframe.instance import open_instance, source_of
    from multiframe.testing import CountingSource

    counted = CountingSource(source_of(file))
    instance = open_instance(counted)
    index, spec = instance.index, instance.spec
    facts: dict[str, Any] = {
        "source": file,
        "size": instance.stat.size,
        "syntax": {"uid": instance.syntax.uid, "name": instance.syntax.name},
        "sop_class_uid": instance.header.sop_class_uid,
        "sop_instance_uid": instance.header.sop_instance_uid,
        "frames": len(index),
        "declared_frames": index.declared,
        "rows": spec.rows,
        "columns": spec.columns,
        "samples": spec.samples,
        "photometric": spec.photometric,
        "bits_allocated": spec.bits_allocated,
        "bits_stored": spec.bits_stored,
        "kind": index.kind,
        "origin": index.origin,
        "proof": index.proof,
        "repaired": index.repaired,
        "complete": index.complete and index.damage is None,
        "damage": str(index.damage.error()) if index.damage else None,
        "fragments": index.fragments,
        "requests": counted.requests,
        "bytes_read": counted.bytes_read,
    }
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _tell(facts)
    if index.damage and not len(index):
        raise index.damage.error()


def _tell(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    told = {"native": "by counting", "scan": "from the Items", "basic": "Basic Offset Table, proven",
            "extended": "Extended Offset Table, proven"}[facts["origin"]]  # fmt: skip
    if facts["repaired"]:
        told += "; the file's own table is wrong and was not believed"
    declared = facts["declared_frames"]
    frames = f"{facts['frames']:,}" + (
        f" (Number of Frames says {declared:,})" if declared != facts["frames"] and declared else ""
    )
    rows = {
        "file": facts["source"],
        "size": f"{facts['size']:,} bytes",
        "syntax": f"{facts['syntax']['name']} ({facts['syntax']['uid']})",
        "picture": f"{facts['columns']} x {facts['rows']}, {facts['photometric']}, "
        f"{facts['bits_stored']} of {facts['bits_allocated']} bits",
        "frames": frames if facts["kind"] == "frames" else f"video: one stream of {facts['fragments']:,} fragments",
        "fragments": f"{facts['fragments']:,}" if facts["fragments"] else "none: native",
        "found": told,
        "cost": f"{facts['requests']:,} reads, {facts['bytes_read']:,} bytes "
        f"({100 * facts['bytes_read'] / max(1, facts['size']):.2g} % of the file)",
    }
    if facts["damage"]:
        rows["damage"] = facts["damage"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    Console(highlight=False, markup=False).print(table)


@app.command()
def frame(
    file: File,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Which frame, counted from 1.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where to; '-' or nothing: stdout.")
    ] = None,
    form: Annotated[
        As, typer.Option("--as", help="encoded: as stored; png: as displayed, 8 bit; npy: the decoded pixels.")
    ] = As.encoded,
) -> None:
    """Take one frame out of a file.

    multiframe frame cine.dcm 42 --as png -o frame42.png
    """
    from multiframe.instance import open_instance

    instance = open_instance(file)
    if output is not None and output.exists() and output.samefile(file):
        raise typer.BadParameter("that is the file the frame comes from: it would be lost", param_hint="-o")
    index = _index(number)
    try:
        instance.grow(index).require(index)
    except errors.FrameNotFound:
        count = len(instance)
        raise errors.FrameNotFound(f"there is no frame {number}: the file has {count:,}, counted from 1") from None
    if form is As.encoded:
        (encoded,) = instance.encoded([index])
        data = encoded.data
    elif form is As.png:
        from multiframe.render import displayed, png

        data = png(displayed(instance.pixels(index), instance.dataset, index))
    else:
        import io

        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, instance.pixels(index), allow_pickle=False)
        data = buffer.getvalue()
    if output is None or str(output) == "-":
        if sys.stdout.isatty():
            raise typer.BadParameter("a frame is no text: name a file with -o, or pipe it on", param_hint="-o")
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        _write(output, data)


def _index(number: int) -> int:
    """Turn a frame number, from 1, into an index, from 0."""
    if number < 1:
        raise errors.FrameNotFound(f"there is no frame {number}: frames are counted from 1")
    return number - 1


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; what is no regular file, such as a pipe or a device, is written into."""
    path = path.resolve()  # a link stays one, and what it leads to is replaced
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _warn(message: str) -> None:
    typer.secho(f"warning: {message}", fg="yellow", err=True)


def _told(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, errors.MultiframeError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return str(error)


def _run(run: Callable[[], None]) -> int:
    try:
        run()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else CALL
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("MULTIFRAME_TRACEBACK"):
            raise
        code = next((EXIT[c] for c in type(error).__mro__ if c in EXIT), None)
        if code is None:
            message = f"{type(error).__name__}: {error} (a fault of multiframe's; MULTIFRAME_TRACEBACK=1 shows where)"
            code = SURROUNDINGS
        else:
            message = _told(error)
        typer.secho(f"multiframe: {message}", fg="red", err=True)
        return code
    return 0


def main() -> NoReturn:
    """Be the ``multiframe`` command."""
    # Whoever reads our output may leave, as `head` does: then we end as every Unix command does, without a word.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(_run(lambda: app(standalone_mode=True)))
