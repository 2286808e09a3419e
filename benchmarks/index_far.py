"""index-far: a file far away over HTTP, 50 ms and 100 Mbit/s: all frames, and open and one frame, beside a download.

The server (tests/far.py) runs in a process of its own and counts requests and bytes. The file has 2,700 frames of 185
kB without a table, varying by 5, 10 and 25 %, then with a Basic and with an Extended one. A download is what its bytes
take at that bandwidth.
Every frame is compared with what was written. It must not know how frames are found.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from tests.far import FarServer

import multiframe
from benchmarks import machine
from benchmarks.index_files import SPREAD, Made, Plan, Table, made
from benchmarks.index_report import size
from benchmarks.report import rows

type Figures = dict[str, Any]

FRAMES, FRAME = 2_700, 185_000
ROUND_TRIP = 0.05
BANDWIDTH = 12_500_000
FILES: tuple[tuple[Table, float], ...] = (
    ("none", SPREAD), ("none", 0.10), ("none", 0.25), ("basic", SPREAD), ("extended", SPREAD),
)  # fmt: skip


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write index-far.json and .md into `out`."""
    repeats, frames = (1, 300) if quick else (3, FRAMES)
    load = [machine.load()]
    results = []
    with TemporaryDirectory(prefix="multiframe-bench-") as folder:
        for table, spread in FILES:
            with made(Plan(frames, FRAME, table, spread=spread), Path(folder)) as file:
                print(f"{file.plan.name}, load {machine.load()}", file=sys.stderr, flush=True)
                results.append(measure(file, repeats))
    load.append(machine.load())
    facts = {
        "benchmark": "index-far", "machine": machine.facts(), "load": load, "repeats": repeats,
        "round_trip_s": ROUND_TRIP, "bandwidth": BANDWIDTH,
    }  # fmt: skip
    (out / "index-far.json").write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    (out / "index-far.md").write_text(told(facts, results))
    print(told(facts, results))


def measure(file: Made, repeats: int) -> Figures:
    """Index it, and take a first, random frame, each over connections of its own."""
    chance = random.Random(0)
    runs: dict[str, list[Figures]] = {"index": [], "frame": [], "random": []}
    for _ in range(repeats):
        wanted = chance.randrange(file.plan.frames)
        with FarServer({"/a.dcm": file.path}, rtt=ROUND_TRIP, bandwidth=BANDWIDTH, process=True) as far:
            url = far.url("/a.dcm")
            asks: dict[str, tuple[Callable[[], object], object]] = {
                "index": (lambda u=url: len(multiframe.open(u).index), file.plan.frames),
                "frame": (lambda u=url: _frame(u, 0), file.frame(0)),
                "random": (lambda u=url, i=wanted: _frame(u, i), file.frame(wanted)),
            }
            for task, (ask, right) in asks.items():
                before, begun = far.state.total, perf_counter()
                if ask() != right:
                    raise RuntimeError(f"{file.plan.name}: {task} is not right, no figure means anything")
                took, after = perf_counter() - begun, far.state.total
                asked = {
                    "seconds": took,
                    "requests": after.requests - before.requests,
                    "bytes": after.bytes_sent - before.bytes_sent,
                }
                runs[task].append(asked)
    out: Figures = {"table": file.plan.table, "spread": file.plan.spread, "frames": file.plan.frames, "size": file.size}
    out["download_s"] = round(file.size / BANDWIDTH, 3)
    for task, those in runs.items():
        out[task] = {key: round(median(r[key] for r in those), 3) for key in those[0]}
    return out


def _frame(url: str, i: int) -> bytes:
    (frame,) = multiframe.open(url).encoded([i])
    return frame.data


def told(facts: Figures, results: list[Figures]) -> str:
    """Write the figures for people."""
    lines = []
    for r in results:
        line = [r["table"], f"{100 * r['spread']:.0f} %", size(r["size"]), f"{r['download_s']:.1f} s"]
        for task in ("index", "frame", "random"):
            f = r[task]
            line += [f"{f['seconds']:.2f} s", f"{f['requests']:.0f}", size(f["bytes"])]
            if task == "index":
                line += [f"1/{r['download_s'] / f['seconds']:.1f}", f"{100 * f['bytes'] / r['size']:.2f} %"]
        lines.append(line)
    head = (
        "table|sizes vary by|file|download|all frames|requests|bytes|of the download|of the file|"
        "first frame|requests|bytes|random frame|requests|bytes"
    )
    before, after = facts["load"]
    return (
        f"{results[0]['frames']:,} frames, {1e3 * ROUND_TRIP:.0f} ms a round trip, {8 * BANDWIDTH / 1e6:.0f} Mbit/s; "
        f"load average {before} before, {after} after; medians of {facts['repeats']} repeats. Each opens the file.\n\n"
        "*First frame*: the one of index 0. With a usable table *all frames* takes it by its shape; each frame is "
        "proven before it is given.\n\n"
        f"{rows(head, lines)}\n"
    )
