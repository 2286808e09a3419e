"""A real server for tests: the real command in a process of its own, on a free port."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

import multiframe

OCTETS = "multipart/related; type=application/octet-stream; transfer-syntax=*"
"""Frames as they are stored."""


def address_of(path: Path) -> str:
    """Give the address of a file's instance, below that of the server."""
    h = multiframe.open(path).header
    return f"dicom-web/studies/{h.study_instance_uid}/series/{h.series_instance_uid}/instances/{h.sop_instance_uid}"


class Server:
    """A running ``multiframe serve`` and a client for it."""

    def __init__(self, process: subprocess.Popen[str], url: str, **client: Any) -> None:
        self.process = process
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=60, **client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def wait_scanned(self, seconds: float = 60) -> dict[str, object]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.get("api/status").json()
            if not status["scanning"] and status["found"]:
                return status
            time.sleep(0.02)
        raise TimeoutError("the scan did not end")

    def rss(self) -> int:
        """Resident bytes of the processes that answer: a scan comes and goes when it likes, and is not among them."""
        total = 0
        for worker in self.workers():
            for p in [worker, *worker.children(recursive=True)]:
                try:
                    total += p.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
        return total

    def workers(self) -> list[psutil.Process]:
        return [p for p in psutil.Process(self.process.pid).children() if _is_worker(p)]

    def worker(self) -> psutil.Process:
        for p in self.workers():
            return p
        raise LookupError("no worker")

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """Give, once the block has ended, the most resident bytes its worker had meanwhile."""
        folder, peak = Path(f"/proc/{self.worker().pid}"), [0]
        (folder / "clear_refs").write_text("5")  # proc(5): the peak is that of now
        yield peak
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
        peak[0] = int(line) << 10

    def end(self) -> str:
        """Have it finish all that it has begun, and give what it said: behind an answer some is still to be done."""
        self.process.terminate()
        return self.process.communicate(timeout=60)[1]


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # or it is dead, and nobody has asked how it ended
        return "worker" in process.cmdline()
    return False


def wait_kept(cache: Path, instance: str) -> None:
    """Wait until the catalog of a server has the index of an instance: it is answered from before."""
    (database,) = (cache / "multiframe").glob("catalog-*.sqlite")
    asked = "SELECT count(*) FROM instances WHERE instance = ? AND frame_index IS NOT NULL"
    deadline = time.monotonic() + 60
    with closing(sqlite3.connect(database)) as catalog:
        while not catalog.execute(asked, [instance]).fetchone()[0]:
            assert time.monotonic() < deadline, "the index was not kept"
            time.sleep(0.02)


@contextmanager
def command(
    *arguments: str | os.PathLike[str], cache: Path, program: Sequence[str] = ("-m", "multiframe"), **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command until the block ends; gives the process and the URL it prints."""
    process = subprocess.Popen(
        [sys.executable, *program, *[os.fspath(a) for a in arguments]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"Serving (https?://\S+/)\n", line)
        if not found:
            process.kill()
            raise RuntimeError(f"it said {line!r} and {process.communicate()[1]!r}")
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def serving(
    paths: Sequence[Path | str], *options: str, cache: Path, wait: bool = True, **client: Any
) -> Iterator[Server]:
    """Serve files until the block ends; `client` is how httpx asks."""
    with command("serve", *paths, "--port", "0", *options, cache=cache) as (process, url):
        server = Server(process, url, **client)
        with server.client:
            if wait:
                server.wait_scanned()
            yield server
