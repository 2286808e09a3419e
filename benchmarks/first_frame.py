"""first-frame: first frame, random frames and memory against file size, beside an ideal server in the same run.

The files are synthetic JPEG Baseline cines without an offset table, 100 MB to 1.5 GB, made once; one of 60 frames is
the base. `multiframe serve` starts anew for each repeat with an empty cache folder, an ideal server (ideal.py) beside
it, and what is asked of one is asked of the other before the next thing is. Every answer is compared with the file. It
must not know how frames are found: the server is the command, the library is what it exports.
"""

import io
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from struct import unpack
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.encaps import get_frame

import multiframe
from benchmarks import machine, report
from benchmarks.client import Answer, Client
from benchmarks.server import Server, compiled
from multiframe.demo import default_directory, prepare
from multiframe.errors import SourceError
from multiframe.instance import open_instance
from multiframe.source import FileSource
from multiframe.testing import JPEG_BASELINE, CountingSource, cine

ACCEPT = "multipart/related; type=application/octet-stream; transfer-syntax=*"
"""What cornerstone3D sends."""

SIZES = (100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 1_500_000_000)
BASE_FRAMES = 60
CONNECTIONS = 6
"""As many as a browser opens to one host over HTTP/1.1."""

type Figures = dict[str, Any]


class Cine(NamedTuple):
    """A file under test and what is true of it: every answer is compared with that."""

    path: Path
    size: int
    uid: str
    url: str
    frames: list[tuple[int, int]]
    metadata: str

    def frame(self, number: int) -> bytes:
        start, size = self.frames[number - 1]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def ask(self, client: Client, number: int) -> Answer:
        """Ask for a frame; a wrong one ends the benchmark, for then no figure means anything."""
        answer = client.get(f"{self.url}/frames/{number}", ACCEPT)
        head, _, rest = answer.body.partition(b"\r\n\r\n")
        boundary, _, _ = head.partition(b"\r\n")
        if answer.status != 200 or rest != self.frame(number) + b"\r\n" + boundary + b"--\r\n":
            raise RuntimeError(f"{self.path.name}: status {answer.status}, and not frame {number}")
        return answer


def read_cine(path: Path) -> Cine:
    """Find the frames by walking Items (PS3.5 A.4) with no code of the library's."""
    frames = []
    with path.open("rb") as file:
        data = pydicom.dcmread(file, stop_before_pixels=True)
        at = file.tell() + 12  # behind the head of Pixel Data
        while True:
            file.seek(at)
            tag, length = unpack("<II", file.read(8))
            if tag != 0xE000FFFE:
                break
            frames.append((at + 8, length))
            at += 8 + length
    study, series, uid = data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID
    url = f"/dicom-web/studies/{study}/series/{series}/instances/{uid}"
    if frames[0][1] or len(frames) != data.NumberOfFrames + 1:  # the first Item is the table: empty
        raise ValueError(f"{path.name} is not a cine of one fragment a frame and no table")
    return Cine(path, path.stat().st_size, uid, url, frames[1:], f"[{data.to_json()}]")


@contextmanager
def cines(sizes: Sequence[int]) -> Iterator[list[Cine]]:
    """Give the files, the base first; made where they are not there, left out where the disk is short."""
    with TemporaryDirectory(prefix="multiframe-bench-") as folder:
        base = Path(folder) / "base.dcm"
        cine(base, frames=BASE_FRAMES)
        found = [read_cine(base)]
        for size in sizes:
            try:
                found.append(read_cine(prepare(default_directory(), size)[0]))
            except SourceError as error:
                say(f"{size / 1e6:.0f} MB left out: {error}")
        yield found


# ---------------------------------------------------------------------------------------------------------------
# Measuring


@contextmanager
def multiframe_server(file: Cine) -> Iterator[Server]:
    """Serve one file with nothing kept from before; ready when the file is listed."""
    with TemporaryDirectory(prefix="multiframe-bench-") as cache:
        serve = ("-m", "multiframe", "serve", str(file.path), "--port", "0", "--cache", cache)
        with Server([sys.executable, *serve]) as server:
            with Client(server.url) as client:
                listed = f"/dicom-web/instances?SOPInstanceUID={file.uid}"
                while file.uid.encode() not in client.get(listed, "application/dicom+json").body:
                    sleep(0.01)
            yield server


@contextmanager
def ideal_server(file: Cine) -> Iterator[Server]:
    with TemporaryDirectory(prefix="multiframe-bench-") as folder:
        facts = Path(folder) / "facts.json"
        told = {"file": str(file.path), "frames": file.frames, "metadata": file.metadata}
        facts.write_text(json.dumps(told | {"syntax": JPEG_BASELINE, "media_type": "application/octet-stream"}))
        with Server([sys.executable, "-m", "benchmarks.ideal", str(facts)]) as server:
            yield server


SERVERS = {"multiframe": multiframe_server, "ideal": ideal_server}


def measure(file: Cine, jumps: int, turn: int) -> dict[str, Figures]:
    """Measure one file once: both servers new, each step on one and then on the other, who is first by turns."""
    chance = random.Random(turn)
    numbers = [chance.randint(1, len(file.frames)) for _ in range(2 * jumps)]
    names = list(SERVERS) if turn % 2 else list(SERVERS)[::-1]
    out: dict[str, Figures] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(SERVERS[name](file)) for name in names}
        clients: dict[str, Client] = {}
        for name in names:
            servers[name].settle()
            idle = servers[name].memory()
            begun = perf_counter()
            client = clients[name] = stack.enter_context(Client(servers[name].url))
            metadata = client.get(f"{file.url}/metadata", "application/dicom+json")
            before = perf_counter() - begun
            frame = file.ask(client, 1)
            cold = [1e3 * file.ask(client, n).seconds for n in numbers[:jumps]]
            out[name] = {
                "rss_idle": idle,
                "start_ms": 1e3 * servers[name].seconds,
                "first_ms": 1e3 * (before + frame.seconds),
                "frame_ms": 1e3 * frame.seconds,
                "first_received": metadata.received + frame.received,
                "cold_p50_ms": float(np.percentile(cold, 50)),
                "cold_p95_ms": float(np.percentile(cold, 95)),
                "cold_next_ms": cold[0],
            }
            servers[name].settle()  # what one still does behind its answers is not to slow the other
        warm: dict[str, list[float]] = {name: [] for name in names}
        for i, number in enumerate(numbers[jumps:]):
            for name in names if i % 2 else names[::-1]:
                warm[name].append(1e3 * file.ask(clients[name], number).seconds)
        for name in names:
            out[name]["warm_p50_ms"] = float(np.percentile(warm[name], 50))
            out[name]["warm_p95_ms"] = float(np.percentile(warm[name], 95))
            out[name]["burst_fps"] = burst(servers[name], file, numbers)
            out[name]["rss_after"] = servers[name].memory()
            out[name]["rss_peak"] = servers[name].peak
    return out


def burst(server: Server, file: Cine, numbers: Sequence[int]) -> float:
    """Ask over as many connections as a browser has; frames a second."""

    def fetch(some: Sequence[int]) -> None:
        with Client(server.url) as client:
            for number in some:
                client.get(f"{file.url}/frames/{number}", ACCEPT)

    begun = perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(fetch, (numbers[i::CONNECTIONS] for i in range(CONNECTIONS))))
    return len(numbers) / (perf_counter() - begun)


def last_first(file: Cine) -> Figures:
    """Ask a new server for its last frame first: there is no way to it but through all Items."""
    with multiframe_server(file) as server, Client(server.url) as client:
        server.settle()
        client.get(f"{file.url}/metadata", "application/dicom+json")
        return {"last_ms": 1e3 * file.ask(client, len(file.frames)).seconds}


def middle_frame(file: Cine) -> Figures:
    """Take the middle frame out of the file without a server: open, find, read; multiframe and pydicom."""
    middle = len(file.frames) // 2

    def by_multiframe() -> bytes:
        (frame,) = multiframe.open(file.path).encoded([middle])
        return frame.data

    def by_pydicom() -> bytes:
        with file.path.open("rb") as opened:
            data = pydicom.dcmread(opened, stop_before_pixels=True)
            opened.seek(12, io.SEEK_CUR)  # the head of Pixel Data
            return get_frame(opened, middle, number_of_frames=data.NumberOfFrames)

    out = {}
    ways: Mapping[str, Callable[[], bytes]] = {"multiframe": by_multiframe, "pydicom": by_pydicom}
    for name, way in ways.items():
        begun = perf_counter()
        data = way()
        out[f"{name}_ms"] = 1e3 * (perf_counter() - begun)
        if data != file.frame(middle + 1):
            raise RuntimeError(f"{file.path.name}: not frame {middle + 1}, says {name}")
    return out


def read_cost(file: Cine) -> Figures:
    """Count the bytes that header, first frame and the whole index take of the file: the library's steps, no clock."""
    source = CountingSource(FileSource(file.path))
    instance = open_instance(source)
    list(instance.encoded([0]))
    first = source.bytes_read
    source.reset()
    instance.grow(None)
    return {"read_first": first, "read_index": source.bytes_read}


def warm_up(file: Cine) -> None:
    """Bring the file into the page cache: the disk is not what is measured."""
    with file.path.open("rb") as opened:
        while opened.read(1 << 20):
            pass


# ---------------------------------------------------------------------------------------------------------------
# The whole of it


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write first-frame.json, .md and .svg into `out`."""
    sizes = (20_000_000, 50_000_000) if quick else SIZES
    repeats, jumps = (2, 50) if quick else (5, 200)
    load = [machine.load()]
    with compiled(), cines(sizes) as files:
        measure(files[0], 10, 0)  # modules are compiled by the first start
        runs: list[list[dict[str, Figures]]] = [[] for _ in files]
        for turn in range(repeats):
            for file, done in zip(files, runs, strict=True):
                say(f"repeat {turn + 1} of {repeats}: {file.size / 1e6:.0f} MB, load {machine.load()}")
                warm_up(file)
                figures = measure(file, jumps, turn)
                figures["multiframe"] |= last_first(file)
                figures["library"] = middle_frame(file)
                done.append(figures)
        results = [
            {"size": file.size, "frames": len(file.frames)} | read_cost(file) | summary(done)
            for file, done in zip(files, runs, strict=True)
        ]
    load.append(machine.load())
    facts = {"benchmark": "first-frame", "machine": machine.facts(), "load": load, "repeats": repeats, "jumps": jumps}
    (out / "first-frame.json").write_text(json.dumps(facts | {"results": _rounded(results)}, indent=1) + "\n")
    (out / "first-frame.md").write_text(report.table(facts, results))
    report.plot(results, out / "first-frame.svg")
    print(report.table(facts, results))


def summary(runs: Sequence[dict[str, Figures]]) -> Figures:
    """Give medians over the repeats, and of each latency the ratio to the ideal server's in the same repeat."""
    out: Figures = {name: {key: median(r[name][key] for r in runs) for key in runs[0][name]} for name in runs[0]}
    shared = [key for key in runs[0]["ideal"] if key.endswith("_ms")]
    out["ratio"] = {key[:-3]: median(r["multiframe"][key] / r["ideal"][key] for r in runs) for key in shared}
    out["rss_largest"] = max(r["multiframe"]["rss_peak"] for r in runs)
    return out


def _rounded(value: Any) -> Any:
    """Keep three decimals: the rest is noise."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 3) if isinstance(value, float) else value


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
