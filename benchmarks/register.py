"""register: the headers of 10,000 files into a new catalog, beside a loop of pydicom's dcmread over the same files.

Two archives: one-frame CT files as a scanner wrote them, with private elements, and ultrasound cines. Each is made of
one real file under new UIDs, numbers and names; all lie in the page cache.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from tests.postgres import PostgreSQL

from benchmarks import machine
from benchmarks.report import rows
from benchmarks.server import compiled
from multiframe.catalog import Catalog

type Figures = dict[str, Any]

ARCHIVES = {"CT, one frame": "CT_small.dcm", "US cine": "examples_ybr_color.dcm"}
EACH = 50  # instances of a series


def make(folder: Path, name: str, count: int) -> int:
    """Write an archive; gives the bytes of one header."""
    data = pydicom.dcmread(str(get_testdata_file(name, read=False)))
    for n in range(count):
        series = n // EACH
        data.StudyInstanceUID, data.SeriesInstanceUID = f"1.2.{series // 2}", f"1.2.{series // 2}.{series % 2}"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.{series // 2}.{series % 2}.{n}"
        data.InstanceNumber, data.PatientID, data.PatientName = n % EACH + 1, f"P{series // 2}", f"Doe^{series // 2}"
        place = folder / f"{series:05}" / f"{n:06}.dcm"
        place.parent.mkdir(exist_ok=True)
        data.save_as(place)
    os.sync()  # or what is timed next would be disturbed by gigabytes on their way to the disk
    return len(pydicom.dcmread(place, stop_before_pixels=True))


def loop(folder: Path) -> None:
    for path in sorted(folder.rglob("*.dcm")):
        pydicom.dcmread(path, stop_before_pixels=True)


def scan(folder: Path, database: str, processes: int, count: int) -> None:
    catalog = Catalog(database)
    assert catalog.scan([folder], processes=processes).registered == count
    catalog.close()


def seconds(work: Callable[..., object], *arguments: object) -> float:
    begun = perf_counter()
    work(*arguments)
    return perf_counter() - begun


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write register.json and .md into `out`."""
    with compiled():
        subprocess.run([sys.executable, "-c", "import multiframe.reading"], check=True)  # the first start compiles
        _run(out, quick=quick)


def _run(out: Path, *, quick: bool) -> None:
    count, repeats = (500, 1) if quick else (10_000, 3)
    cores = len(os.sched_getaffinity(0))
    load, results = [machine.load()], []
    server = PostgreSQL()
    try:
        for told, name in ARCHIVES.items():
            with TemporaryDirectory(prefix="multiframe-bench-") as named:
                files = Path(named) / "files"
                files.mkdir()
                elements = make(files, name, count)
                taken: dict[str, list[float]] = {"dcmread": [], "one": [], "SQLite": [], "PostgreSQL": [], "again": []}
                for n in range(repeats):
                    fresh = f"{named}/{n}.sqlite"
                    taken["dcmread"].append(seconds(loop, files))
                    taken["one"].append(seconds(scan, files, f"{named}/one{n}.sqlite", 1, count))
                    taken["SQLite"].append(seconds(scan, files, fresh, cores, count))
                    taken["PostgreSQL"].append(seconds(scan, files, server.fresh(), cores, count))
                    again = Catalog(fresh)
                    taken["again"].append(seconds(again.scan, [files]))
                    again.close()
                    print(f"{told}: { ({k: round(v[-1], 2) for k, v in taken.items()}) }", file=sys.stderr, flush=True)
                results.append({"archive": told, "elements": elements, "files": count, "seconds": taken})
    finally:
        server.close()
    load.append(machine.load())
    facts = {"benchmark": "register", "machine": machine.facts(), "load": load, "repeats": repeats, "processes": cores}
    (out / "register.json").write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    (out / "register.md").write_text(report(facts, results))
    print(report(facts, results))


def report(facts: Figures, results: list[Figures]) -> str:
    """Write the figures for people; ratios are taken within a repeat."""
    m, (before, after) = facts["machine"], facts["load"]
    cells = []
    for r in results:
        taken = r["seconds"]
        row = [r["archive"], f"{r['files']:,}", str(r["elements"]), f"{statistics.median(taken['dcmread']):.1f} s"]
        for name in ("one", "SQLite", "PostgreSQL", "again"):
            ratio = statistics.median(a / b for a, b in zip(taken["dcmread"], taken[name], strict=True))
            row += [f"{statistics.median(taken[name]):.1f} s", f"{ratio:.2f}"]
        cells.append(row)
    parts = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, Python {m['python']}; load average "
        f"{before} before, {after} after. Medians of {facts['repeats']} repeats; × is how many times faster than the "
        f"loop of `dcmread(stop_before_pixels=True)` in the same repeat. {facts['processes']} processes read, "
        "but in *one*.",
        rows("archive|files|elements|dcmread|one|×|SQLite|×|PostgreSQL|×|unchanged|×", cells),
    ]
    return "\n\n".join(parts) + "\n"
