"""stow: instances of 1 to 500 MB stored over HTTP, beside `cp` and fsync of the same bytes."""

import json
import os
import re
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from benchmarks import machine
from benchmarks.report import rows
from benchmarks.server import Server, compiled
from multiframe.testing import cine

type Figures = dict[str, Any]

_SIZES = ((500_000_000, 1), (50_000_000, 4), (5_000_000, 40), (1_000_000, 100))
_BOUNDARY = b"0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1"  # as long as those of clients
_BEGIN, _END = b"--%b\r\nContent-Type: application/dicom\r\n\r\n" % _BOUNDARY, b"\r\n"
_LAST = b"--%b--" % _BOUNDARY


def store(url: str, path: Path, count: int, first: int) -> float:
    """Send a file so many times, each a part of one request with a UID of its own; gives seconds."""
    at, text = _uid(path)
    size = path.stat().st_size
    parts = urlsplit(url)
    length = count * (len(_BEGIN) + size + len(_END)) + len(_LAST)
    begun = perf_counter()
    with socket.create_connection((parts.hostname, parts.port)) as s, path.open("rb") as file:
        s.sendall(
            f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
            f'Content-Type: multipart/related; type="application/dicom"; boundary={_BOUNDARY.decode()}\r\n\r\n'.encode()
        )
        for n in range(count):
            uid = text[:-8] + b"%08d" % (first + n)
            file.seek(0)
            s.sendall(_BEGIN + file.read(at) + uid)
            s.sendfile(file, at + len(uid))
            s.sendall(_END)
        s.sendall(_LAST)
        answer = s.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]
    return perf_counter() - begun


def _uid(path: Path) -> tuple[int, bytes]:
    """Give where the SOP Instance UID lies, and what it is."""
    with path.open("rb") as file:
        head = file.read(4096)
    found = re.search(rb"\x08\x00\x18\x00UI..([0-9.]+)", head, re.S)
    assert found
    return found.start(1), found[1]


def copied(path: Path, folder: Path, count: int) -> float:
    """Copy a file so many times by `cp`, and sync each; gives seconds."""
    begun = perf_counter()
    for n in range(count):
        target = folder / str(n)
        subprocess.run(["cp", path, target], check=True)
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return perf_counter() - begun


def measured(folder: Path, size: int, count: int, repeats: int) -> Figures:
    source, copies = folder / "cine.dcm", folder / "copies"
    cine(source, size=size) if size >= 10_000_000 else cine(source, frames=max(1, size // 185_000))
    size = source.stat().st_size
    taken: dict[str, list[float]] = {"stow": [], "cp": []}
    with Server([sys.executable, "-m", "multiframe", "serve", "--store", str(folder / "store"), "--port", "0",
                 "--cache", str(folder / "cache")]) as server:  # fmt: skip
        store(server.url, source, 1, 0)  # the first imports what it needs
        idle = server.memory()
        for n in range(repeats):
            copies.mkdir()
            taken["cp"].append(copied(source, copies, count))
            for copy in copies.iterdir():
                copy.unlink()
            copies.rmdir()
            cpu = server.busy()
            taken["stow"].append(store(server.url, source, count, 1 + n * count))
            cpu = server.busy() - cpu
        grown = server.peak - idle
    ratios = [c / s for c, s in zip(taken["cp"], taken["stow"], strict=True)]
    total = size * count
    for path in (folder / "store").rglob("*.dcm"):
        path.unlink()
    source.unlink()
    return {
        "size": size, "count": count, "cpu_s": cpu, "grown": grown, "ratio": statistics.median(ratios),
        "ratios": [round(r, 2) for r in ratios],
        **{f"{name}_mb_s": total / statistics.median(s) / 1e6 for name, s in taken.items()},
    }  # fmt: skip


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write stow.json and .md into `out`."""
    repeats = 1 if quick else 5
    load = [machine.load()]
    results = []
    with TemporaryDirectory(prefix="multiframe-bench-") as folder, compiled():
        for size, count in _SIZES[quick:]:
            print(f"{count} of {size:,} bytes, load {machine.load()}", file=sys.stderr, flush=True)
            results.append(measured(Path(folder), size, count, repeats))
    load.append(machine.load())
    facts = {"benchmark": "stow", "machine": machine.facts(), "load": load, "repeats": repeats}
    (out / "stow.json").write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    (out / "stow.md").write_text(told(facts, results))
    print(told(facts, results))


def told(facts: Figures, results: list[Figures]) -> str:
    """Write the figures for people."""
    m, (before, after) = facts["machine"], facts["load"]
    lines = [
        (
            f"{r['count']} × {r['size'] / 1e6:,.1f} MB", f"{r['stow_mb_s']:,.0f} MB/s", f"{r['cp_mb_s']:,.0f} MB/s",
            f"{r['ratio']:.2f} ({min(r['ratios'])} to {max(r['ratios'])})", f"{r['cpu_s']:.2f} s",
            f"{r['grown'] / 1e6:.0f} MB",
        )
        for r in results
    ]  # fmt: skip
    head = "one request|STOW|`cp` + fsync|ratio|server’s CPU|server grew by"
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, Python {m['python']}; load average "
        f"{before} before, {after} after. Medians of {facts['repeats']} repeats, by turns.\n\n{rows(head, lines)}\n"
    )
