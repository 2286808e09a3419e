"""h2: 300 frames of 100 kB over a line of 50 ms, by HTTP/2 on one connection and by HTTP/1.1 on six.

One `multiframe serve --tls-self-signed` answers both; Debian's h2load asks, through a proxy that delays every byte by
half a round trip each way and limits nothing else (`python -m benchmarks.h2 PORT MS` is that proxy). Connecting
and the TLS handshake are part of the time. Windows are those of Chromium. It must not know how frames are read.
"""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import httpx
import uvloop

from benchmarks import load_report, machine
from benchmarks.first_frame import ACCEPT, Cine, read_cine, say
from benchmarks.report import rows
from benchmarks.server import Server, compiled
from multiframe.testing import cine

FRAMES, ROWS, COLUMNS = 300, 560, 656
"""Frames of about 100 kB."""

ROUND_TRIP_MS = 50

WAYS = {
    "HTTP/1.1, 6 connections": ("--h1", "-c6", "-m1"),
    "HTTP/2, 32 streams": ("-c1", "-m32"),
    "HTTP/2, 100 streams": ("-c1", "-m100"),
}

WINDOWS = ("-w", "23", "-W", "24")
"""8 MiB for a stream, 16 MiB for a connection; Chromium's are 6 and 15 MiB."""

type Figures = dict[str, Any]


class _Delayed(asyncio.Protocol):
    """One end of a connection: what comes in leaves at the other end half a round trip later."""

    def __init__(self, delay: float, upstream: int | None) -> None:
        self._delay, self._upstream = delay, upstream
        self._loop = asyncio.get_running_loop()
        self.other: _Delayed | None = None
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        if self._upstream is not None:
            self._loop.create_task(self._connect(self._upstream))

    async def _connect(self, port: int) -> None:
        await asyncio.sleep(2 * self._delay)  # the handshake of TCP crosses the line too
        _, other = await self._loop.create_connection(lambda: _Delayed(self._delay, None), "127.0.0.1", port)
        self.other, other.other = other, self
        for data in self._early:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self._loop.call_later(self._delay, self.other.write, data)

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self._loop.call_later(self._delay, self.other.close)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


async def _proxy(port: int, milliseconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Delayed(milliseconds / 2000, port), "127.0.0.1", 0, backlog=256)
    print(f"Serving https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await server.serve_forever()


@contextmanager
def multiframe_server(file: Cine) -> Iterator[Server]:
    with TemporaryDirectory(prefix="multiframe-bench-") as cache:
        options = ("--port", "0", "--cache", cache, "--tls-self-signed")
        with Server([sys.executable, "-m", "multiframe", "serve", str(file.path), *options]) as server:
            with httpx.Client(http2=True, verify=False) as client:  # noqa: S501
                listed = f"{server.url}/dicom-web/instances?SOPInstanceUID={file.uid}"
                while file.uid not in client.get(listed).text:
                    sleep(0.01)
                for number in (1, FRAMES):
                    answer = client.get(f"{server.url}{file.url}/frames/{number}", headers={"accept": ACCEPT})
                    if answer.http_version != "HTTP/2" or file.frame(number) not in answer.content:
                        raise RuntimeError(f"not frame {number}, or not HTTP/2")
            server.settle()
            yield server


def ask(proxy: Server, file: Cine, way: Sequence[str]) -> float:
    """Ask for every frame once; seconds."""
    with TemporaryDirectory(prefix="multiframe-bench-") as folder:
        addresses = Path(folder, "addresses")
        addresses.write_text("".join(f"{proxy.url}{file.url}/frames/{n}\n" for n in range(1, FRAMES + 1)))
        done = subprocess.run(
            ["h2load", f"-n{FRAMES}", *way, *WINDOWS, "-H", f"accept: {ACCEPT}", "-i", str(addresses)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    took = re.search(r"finished in ([0-9.]+)(ms|s)", done.stdout)
    if took is None or f"{FRAMES} succeeded" not in done.stdout:
        raise RuntimeError(done.stdout)
    return float(took[1]) / (1000 if took[2] == "ms" else 1)


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write h2.json, .md and .svg into `out`."""
    if not shutil.which("h2load"):
        say("h2 left out: install nghttp2-client")
        return
    repeats = 2 if quick else 7
    before = machine.load()
    with TemporaryDirectory(prefix="multiframe-bench-") as folder, compiled():
        path = Path(folder, "cine.dcm")
        cine(path, frames=FRAMES, rows=ROWS, columns=COLUMNS)
        file = read_cine(path)
        with multiframe_server(file) as server:
            line = [sys.executable, "-m", "benchmarks.h2", server.url.rpartition(":")[2], str(ROUND_TRIP_MS)]
            runs = []
            with Server(line) as proxy:
                for turn in range(repeats):
                    say(f"repeat {turn + 1} of {repeats}, load {machine.load()}")
                    names = list(WAYS)[:: 1 if turn % 2 else -1]
                    runs.append({name: ask(proxy, file, WAYS[name]) for name in names})
            peak = server.peak
    first = next(iter(WAYS))
    results = {
        name: {"seconds": median(r[name] for r in runs), "faster": median(r[first] / r[name] for r in runs)}
        for name in WAYS
    }
    facts = {
        "benchmark": "h2", "machine": machine.facts(), "load": [before, machine.load()], "repeats": repeats,
        "frames": FRAMES, "frame_size": file.size // FRAMES, "round_trip_ms": ROUND_TRIP_MS, "rss_peak": peak,
        "results": results,
    }  # fmt: skip
    load_report.save(out, facts)
    told = [(name, f"{r['seconds']:.2f} s", f"{r['faster']:.1f}") for name, r in results.items()]
    text = (
        f"{load_report.head(facts)}\n\n{FRAMES} frames of {facts['frame_size'] / 1e3:.0f} kB, {ROUND_TRIP_MS} ms there "
        f"and back; × says how much faster than HTTP/1.1 in the same repeat. Memory of all processes at most "
        f"{peak / 1e6:.0f} MB.\n\n{rows('way|all frames|×', told)}\n"
    )
    (out / "h2.md").write_text(text)
    short = {name.replace(", ", "\n"): r["seconds"] for name, r in results.items()}
    load_report.bars(out / "h2.svg", (f"{FRAMES} frames at {ROUND_TRIP_MS} ms, seconds", short), width=5.5)
    print(text)


if __name__ == "__main__":
    asyncio.run(_proxy(int(sys.argv[1]), float(sys.argv[2])), loop_factory=uvloop.new_event_loop)
