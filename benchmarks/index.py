"""index: time and bytes to know all frames, and to the first random one, beside pydicom, highdicom and wsidicom.

The files are synthetic (index_files.py): no, a Basic or an Extended Offset Table; 1, 3 or 20 fragments a frame;
frames of 185 kB and 2 kB; 100 to 100,000 of them. One file at a time is made, read by all in turn, and removed. Each
measurement is a child of this process by itself, the second of two calls there: the modules are loaded, the file is in
the page cache, and nobody has kept anything of it. Every answer is compared with what was written. It must not know how
frames are found.
"""

import gc
import json
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks import index_report, machine
from benchmarks.index_files import Made, Plan, Table, made
from benchmarks.index_readers import Reader, readers, walk_multiframe, walk_pydicom

type Figures = dict[str, Any]
type Ask = Callable[[Made, int], object]
"""Given the file and which frame."""

FAR, NEAR, TILE = 185_000, 2_000, 20_000
TABLES: tuple[Table, ...] = ("none", "basic", "extended")
LONGEST = 60
"""Seconds after which a reader is given up."""


def plans(*, quick: bool) -> list[Plan]:
    """Say which files."""
    far, near, few = (
        ((100, 400), (100, 2_000), 100) if quick else ((100, 1_000, 8_000), (100, 1_000, 10_000, 100_000), 1_000)
    )
    found = [Plan(n, FAR, table) for table in TABLES for n in far]
    found += [Plan(n, NEAR, table) for table in TABLES for n in near]
    # An Extended Offset Table wants one fragment a frame (PS3.3 C.7.6.3.1.8).
    found += [Plan(few, FAR, table, pieces) for pieces in (3, 20) for table in TABLES[:2]]
    found += [Plan(10 * few, NEAR * pieces, table, pieces) for pieces in (3, 20) for table in TABLES[:2]]
    return found + [Plan(10 * few, TILE, table, slide=True) for table in TABLES]


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write index.json, .md and .svg into `out`."""
    repeats = 3 if quick else 5
    load = [machine.load()]
    warnings.simplefilter("ignore")  # forks and odd files are on purpose
    those = readers()
    say(", ".join(f"{r.name} {r.version}" for r in those))
    results = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="multiframe-bench-")))
        for slide in (False, True):
            file = stack.enter_context(made(Plan(4, NEAR, slide=slide), folder))
            for _, _, ask in _tasks(those, file.plan):
                _quietly(ask, file)
        gc.collect()
        gc.freeze()
        for plan in plans(quick=quick):
            say(f"{plan.name}, load {machine.load()}")
            with made(plan, folder) as file:
                results.append(measure(file, those, repeats))
    load.append(machine.load())
    facts = {
        "benchmark": "index", "machine": machine.facts(), "load": load, "repeats": repeats,
        "versions": {r.name: r.version for r in those},
    }  # fmt: skip
    (out / "index.json").write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    (out / "index.md").write_text(index_report.table(facts, results))
    index_report.plot(results, out / "index.svg")
    print(index_report.table(facts, results))


def _tasks(those: Sequence[Reader], plan: Plan) -> list[tuple[str, str, Ask]]:
    """Say who is asked for what."""
    found: list[tuple[str, str, Ask]] = []
    for reader in those:
        found.append((reader.name, "index", lambda file, _, r=reader: r.index(file.path)))
        found.append((reader.name, "frame", lambda file, i, r=reader: r.frame(file.path, i)))
    if plan.table == "none":
        found.append(("multiframe", "walk", lambda file, _: walk_multiframe(file)))
        found.append(("pydicom", "walk", lambda file, _: walk_pydicom(file)))
    return found


def measure(file: Made, those: Sequence[Reader], repeats: int) -> Figures:
    """Ask every reader for everything, by turns, and compare the answers with what was written."""
    plan = file.plan
    tasks = _tasks(those, plan)
    taken: dict[tuple[str, str], list[Figures]] = {(name, task): [] for name, task, _ in tasks}
    chance = random.Random(plan.frames)
    for turn in range(repeats):
        wanted = chance.randrange(plan.frames)
        right = {"index": plan.frames, "frame": file.frame(wanted), "walk": plan.frames * plan.fragments}
        for name, task, ask in tasks[turn % len(tasks) :] + tasks[: turn % len(tasks)]:
            before = taken[name, task]
            if not before or "error" not in before[0]:  # who cannot do it will not be able to the next time either
                before.append(_in_child(ask, file, wanted, right[task]))
    out: Figures = {
        "frames": plan.frames, "frame_size": plan.frame_size, "table": plan.table, "fragments": plan.fragments,
        "slide": plan.slide, "size": file.size, "readers": {},
    }  # fmt: skip
    wrong = {
        task: runs[0] for (name, task), runs in taken.items() if name == "multiframe" and runs[0]["answer"] != "right"
    }
    if wrong:
        raise RuntimeError(f"{plan.name}: multiframe's own answers are not right, no figure means anything: {wrong}")
    for (name, task), runs in taken.items():
        out["readers"].setdefault(name, {})[task] = _summary(runs, taken["multiframe", task])
    return out


def _summary(runs: Sequence[Figures], ours: Sequence[Figures]) -> Figures:
    """Give medians over the repeats, and how many times ours was faster in the same repeat."""
    if "error" in runs[0]:
        return {"error": runs[0]["error"]}
    ratio = median(r["ms"] / o["ms"] for r, o in zip(runs, ours, strict=True))
    return {
        "ms": round(median(r["ms"] for r in runs), 3), "ratio": round(ratio, 2), "answer": runs[0]["answer"],
        "read": round(median(r["read"] for r in runs)), "reads": round(median(r["reads"] for r in runs)),
    }  # fmt: skip


def _in_child(ask: Ask, file: Made, wanted: int, right: object) -> Figures:
    """Do it in a process of its own, which knows nothing of what was read before."""
    into, out = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(LONGEST)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)  # what they log is not asked for
        os.write(out, json.dumps(_measured(ask, file, wanted, right)).encode())
        os._exit(0)
    os.close(out)
    with open(into, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    if not told:
        return {"error": f"gave up after {LONGEST} s", "answer": ""}
    figures: Figures = json.loads(told)
    return figures


def _measured(ask: Ask, file: Made, wanted: int, right: object) -> Figures:
    # Nobody keeps anything between two calls. But a child's first touch of what it shares with its parent copies it,
    # and that is not what is measured: so the second call is.
    _quietly(ask, file, wanted)
    before = _read_so_far()
    begun = perf_counter()
    try:
        found = ask(file, wanted)
    except Exception as error:
        return {"error": type(error).__name__, "answer": str(error)}
    took = perf_counter() - begun
    after = _read_so_far()
    looking = _read_so_far()  # what it takes to look is counted, too
    items = file.plan.frames * file.plan.fragments
    figures: Figures = {"ms": 1e3 * took}
    figures["answer"] = "right" if found == right else "fragments" if found == items else "wrong"
    figures |= {name: 2 * b - a - c for name, a, b, c in zip(("read", "reads"), before, after, looking, strict=True)}
    return figures


def _read_so_far() -> tuple[int, int]:
    """Bytes and calls of all reads of this process, from the page cache too (Linux)."""
    with open("/proc/self/io", "rb") as file:
        numbers = [int(line.split()[1]) for line in file.read().splitlines()]
    return numbers[0], numbers[2]


def _quietly(ask: Ask, file: Made, wanted: int = 1) -> None:
    """Let a reader load what it loads late."""
    with suppress(Exception):  # it will say so again when it is measured
        ask(file, wanted)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
