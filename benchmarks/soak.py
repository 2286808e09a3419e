"""soak: an hour of mixed load; memory, descriptors, threads and latency have to stay as they were.

``make soak`` runs it, ``MINUTES=15`` for less. It asks for all that viewers ask for, leaves in the middle of answers,
stores, and looks on. It passes or fails, unlike a benchmark: what grows is a leak. It knows the command and its
addresses. It must not know how anything is done.
"""

import argparse
import json
import random
import socket
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil
from matplotlib.figure import Figure

from benchmarks import machine
from benchmarks.server import Server
from multiframe.syntaxes import EXPLICIT_LE
from multiframe.testing import cine

FRAMES, CLIENTS, PAUSE = 150, 6, 0.03
STORED = 24
"""Instances that are stored, over and over: an archive that grows is no leak."""

ALLOWED = {"rss": 0.06, "descriptors": 0.05, "threads": 0.05, "latency": 0.5}
"""The part of its median by which each may rise over the run, as its slope has it."""

LEAST = {"rss": 8e6, "descriptors": 4, "threads": 2, "latency": 1.0}
"""What it may rise in any case: bytes, numbers, milliseconds."""

UNITS = {"rss": (1e-6, "resident memory, MB"), "descriptors": (1, "file descriptors"), "threads": (1, "threads"),
         "latency": (1, "one frame, median, ms")}  # fmt: skip

WARM_UP = 0.25
"""The part of the run that is not looked at: caches fill, processes are started when they are first needed."""


class Sample(NamedTuple):
    """What was seen at one moment, over all processes of the server."""

    minutes: float
    rss: float
    descriptors: float
    threads: float
    latency: float
    latency_p99: float
    asked: int


class Load:
    """Clients that ask for one thing after the other, and what they were answered."""

    def __init__(self, url: str, instances: Sequence[str], uploads: Sequence[bytes]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._instances = instances
        self._uploads = uploads
        self._lock = threading.Lock()
        self._latencies: list[float] = []
        self.answers: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.ended = threading.Event()

    def run(self, seed: int) -> None:
        """Be one of them until the end."""
        chance = random.Random(seed)
        kinds = {
            self.frame: 50, self.part: 5, self.listed: 8, self.metadata: 6, self.search: 8, self.rendered: 5,
            self.transcoded: 5, self.file: 2, self.refused: 3, self.left: 6, self.store: 2,
        }  # fmt: skip
        connection = HTTPConnection(self._host, self._port, timeout=60)
        while not self.ended.wait(chance.uniform(0, 2 * PAUSE)):
            (kind,) = chance.choices(list(kinds), list(kinds.values()))
            try:
                status: int | str = kind(connection, chance)
            except (OSError, HTTPException) as error:
                connection.close()
                status = type(error).__name__
            good = {"refused": (404,), "left": (0,)}.get(kind.__name__, (200, 204, 206))
            with self._lock:
                self.answers[kind.__name__] += 1
                if status not in good and status != 503:  # memory is short now and then, and that is said
                    self.bad[f"{kind.__name__}: {status}"] += 1
                if status == 503:
                    self.answers["503"] += 1
        connection.close()

    def taken(self) -> list[float]:
        """Give the latencies of single frames since it was asked last, in ms."""
        with self._lock:
            taken, self._latencies = self._latencies, []
        return taken

    def _one(self, chance: random.Random) -> str:
        return chance.choice(self._instances)

    def _ask(self, connection: HTTPConnection, path: str, method: str = "GET", body: Any = None, **headers: str) -> int:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        while answer.read(1 << 16):
            pass
        return answer.status

    def frame(self, connection: HTTPConnection, chance: random.Random) -> int:
        begun = perf_counter()
        status = self._ask(connection, f"{self._one(chance)}/frames/{chance.randint(1, FRAMES)}")
        with self._lock:
            self._latencies.append(1e3 * (perf_counter() - begun))
        return status

    def part(self, connection: HTTPConnection, chance: random.Random) -> int:
        path = f"{self._one(chance)}/frames/{chance.randint(1, FRAMES)}"
        return self._ask(connection, path, Range=f"bytes={chance.randint(0, 999)}-")

    def listed(self, connection: HTTPConnection, chance: random.Random) -> int:
        first = chance.randint(1, FRAMES - 30)
        return self._ask(connection, f"{self._one(chance)}/frames/{first}-{first + chance.randint(1, 30)}")

    def metadata(self, connection: HTTPConnection, chance: random.Random) -> int:
        path = self._one(chance) if chance.random() < 0.7 else self._one(chance).partition("/series/")[0]
        return self._ask(connection, f"{path}/metadata", Accept_Encoding=chance.choice(["zstd", "gzip", "identity"]))

    def search(self, connection: HTTPConnection, chance: random.Random) -> int:
        query = chance.choice(["PatientName=*", "ModalitiesInStudy=US", "StudyDate=20000101-", "limit=3&offset=1", ""])
        return self._ask(connection, f"/dicom-web/{chance.choice(['studies', 'series', 'instances'])}?{query}")

    def rendered(self, connection: HTTPConnection, chance: random.Random) -> int:
        how = chance.choice(["rendered", "rendered?viewport=200,200", "thumbnail"])
        return self._ask(connection, f"{self._one(chance)}/frames/{chance.randint(1, FRAMES)}/{how}")

    def transcoded(self, connection: HTTPConnection, chance: random.Random) -> int:
        kinds = {EXPLICIT_LE: "application/octet-stream", "1.2.840.10008.1.2.4.201": "image/jphc",
                 "1.2.840.10008.1.2.4.80": "image/jls"}  # fmt: skip
        syntax = chance.choice(list(kinds))
        accept = f'multipart/related; type="{kinds[syntax]}"; transfer-syntax={syntax}'
        return self._ask(connection, f"{self._one(chance)}/frames/{chance.randint(1, FRAMES)}", Accept=accept)

    def file(self, connection: HTTPConnection, chance: random.Random) -> int:
        return self._ask(connection, self._one(chance), Accept="application/dicom; transfer-syntax=*")

    def refused(self, connection: HTTPConnection, chance: random.Random) -> int:
        path = chance.choice(["/frames/9999", "/nothing", "/bulkdata/7FE00010"])
        return self._ask(connection, self._one(chance).replace("/instances/", "/instances/9") + path)

    def left(self, connection: HTTPConnection, chance: random.Random) -> int:
        """Ask for much, read a little, and hang up; now and then before a word was said."""
        path = self._one(chance) + chance.choice([f"/frames/1-{FRAMES}", "/metadata", "", "/frames/7/rendered"])
        with socket.create_connection((self._host, self._port), timeout=30) as client:
            if chance.random() < 0.9:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                if chance.random() < 0.8:
                    client.recv(chance.randint(1, 60_000))
        return 0

    def store(self, connection: HTTPConnection, chance: random.Random) -> int:
        body = chance.choice(self._uploads)
        return self._ask(connection, "/dicom-web/studies", "POST", body, Content_Type="application/dicom")


def look(pid: int, load: Load, begun: float) -> Sample:
    """Look at all processes of the server."""
    rss = descriptors = threads = 0.0
    parent = psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        try:
            with process.oneshot():
                memory, files, many = process.memory_info().rss, process.num_fds(), process.num_threads()
        except psutil.NoSuchProcess:
            continue
        rss, descriptors, threads = rss + memory, descriptors + files, threads + many
    taken = load.taken()
    p99 = quantiles(taken, n=100)[98] if len(taken) > 2 else 0.0
    minutes = (monotonic() - begun) / 60
    return Sample(minutes, rss, descriptors, threads, median(taken or [0.0]), p99, sum(load.answers.values()))


def rise(samples: Sequence[Sample], what: str) -> tuple[float, float]:
    """Give the median, and by how much it rose over these samples: the median slope of all pairs (Theil and Sen)."""
    some = samples[:: max(1, len(samples) // 200)]
    values = [(s.minutes, getattr(s, what)) for s in some]
    slopes = [(b - a) / (t - u) for i, (u, a) in enumerate(values) for t, b in values[i + 1 :] if t > u]
    return median(v for _, v in values), median(slopes) * (values[-1][0] - values[0][0])


def verdict(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Say of each whether it stayed as it was, once warm."""
    warm = [s for s in samples if s.minutes >= WARM_UP * samples[-1].minutes]
    out = {}
    for what, part in ALLOWED.items():
        middle, risen = rise(warm, what)
        bound = max(part * middle, LEAST[what])
        out[what] = {"median": middle, "risen": risen, "bound": bound, "flat": risen <= bound}
    return out


def draw(path: Path, samples: Sequence[Sample], told: dict[str, dict[str, Any]]) -> None:
    figure = Figure(figsize=(8, 9), layout="constrained")
    axes = figure.subplots(len(UNITS), 1, sharex=True)
    start = WARM_UP * samples[-1].minutes
    for axis, (what, (scale, label)) in zip(axes, UNITS.items(), strict=True):
        axis.plot([s.minutes for s in samples], [scale * getattr(s, what) for s in samples], linewidth=1)
        risen, middle = told[what]["risen"], told[what]["median"]
        ends = [scale * (middle - risen / 2), scale * (middle + risen / 2)]
        axis.plot([start, samples[-1].minutes], ends, linestyle="--", color="black")
        axis.set_title(f"{label}: {scale * risen:+.3g} ({'flat' if told[what]['flat'] else 'NOT FLAT'})", loc="left")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    figure.savefig(path)


def soak(out: Path, minutes: float, folder: Path) -> bool:
    """Load a server for so long; write soak.json and soak.svg, and say whether all stayed flat."""
    data = folder / "data"
    data.mkdir()
    cine(data / "jpeg.dcm", frames=FRAMES, rows=480, columns=640, seed=1)
    cine(data / "small.dcm", frames=FRAMES, rows=96, columns=128, seed=2)
    cine(data / "native.dcm", frames=FRAMES, rows=240, columns=320, seed=3, syntax=EXPLICIT_LE)
    uploads = []
    for n in range(STORED):
        cine(folder / "upload.dcm", frames=40, rows=240, columns=320, seed=100 + n)
        uploads.append((folder / "upload.dcm").read_bytes())
    options = ["--port", "0", "--workers", "2", "--store", str(folder / "store"), "--cache", str(folder / "cache")]
    (folder / "store").mkdir()
    log = ["--access-log", str(folder / "access.log")]
    with Server([sys.executable, "-m", "multiframe", "serve", str(data), *options, *log]) as server:
        load = Load(server.url, found(server.url), uploads)
        begun = monotonic()
        clients = [threading.Thread(target=load.run, args=(seed,), daemon=True) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        samples: list[Sample] = []
        period = min(5.0, minutes * 60 / 60)
        while monotonic() - begun < 60 * minutes:
            load.ended.wait(period)
            server.check()
            samples.append(look(server.pid, load, begun))
            if sys.stderr.isatty():
                print(f"\r{samples[-1].minutes:5.1f} min, {samples[-1].asked:,} requests, "
                      f"{samples[-1].rss / 1e6:.0f} MB", end="", file=sys.stderr, flush=True)  # fmt: skip
        load.ended.set()
        for client in clients:
            client.join(60)
        if sys.stderr.isatty():
            print(file=sys.stderr)
        numbers = metrics(server.url)
    told = verdict(samples)
    draw(out / "soak.svg", samples, told)
    asked = dict(load.answers)
    facts = {"benchmark": "soak", "machine": machine.facts(), "minutes": minutes, "verdict": told, "answers": asked,
             "bad": dict(load.bad), "metrics": numbers, "samples": [s._asdict() for s in samples]}  # fmt: skip
    (out / "soak.json").write_text(json.dumps(facts, indent=1))
    for what, one in told.items():
        scale, label = UNITS[what]
        print(f"{label}: median {scale * one['median']:.4g}, {scale * one['risen']:+.3g} over the run, "
              f"{scale * one['bound']:.3g} allowed: {'flat' if one['flat'] else 'NOT FLAT'}")  # fmt: skip
    print(f"{sum(asked.values()):,} requests: {asked}; unexpected: {dict(load.bad) or 'none'}")
    lines = (folder / "access.log").read_text().count("\n")
    print(f"{lines:,} lines in the access log, {out / 'soak.svg'}")
    return not load.bad and all(one["flat"] for one in told.values())


def found(url: str) -> list[str]:
    """Wait until all files are listed; give the paths of their instances."""
    parts = urlsplit(url)
    while True:
        connection = HTTPConnection(parts.hostname or "", parts.port)
        connection.request("GET", "/dicom-web/instances", headers={"Accept": "application/dicom+json"})
        listed = json.loads(connection.getresponse().read() or b"[]")
        connection.close()
        if len(listed) == 3:
            return [urlsplit(one["00081190"]["Value"][0]).path for one in listed]


def metrics(url: str) -> dict[str, float]:
    """Read the numbers without labels."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#") and "{" not in line}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "build")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="multiframe-soak-") as folder:
        flat = soak(asked.out, asked.minutes, Path(folder))
    sys.exit(0 if flat else 1)


if __name__ == "__main__":
    main()
