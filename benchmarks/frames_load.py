"""frames-load: random frames over 64 connections, beside nginx giving the same bytes as ranges of a file; and Orthanc.

Debian's wrk asks; Debian's nginx answers with sendfile and as many worker processes as `multiframe serve` has. Both are
asked by turns. Orthanc, which reads the whole file for each frame, is asked over one connection, and so are we then.
Before a clock runs, frames are compared with the file. It must not know how any of them reads.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

from benchmarks import load_report, machine
from benchmarks.client import Client
from benchmarks.first_frame import ACCEPT, Cine, ideal_server, read_cine, say, warm_up
from benchmarks.server import Server, compiled
from multiframe.demo import default_directory, prepare

CONNECTIONS = 64
SIZE = 500_000_000
ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
"""Where Debian's package orthanc-dicomweb puts its plug-in."""

type Figures = dict[str, Any]


@contextmanager
def multiframe_server(file: Cine, workers: int) -> Iterator[Server]:
    with TemporaryDirectory(prefix="multiframe-bench-") as cache:
        options = ("--port", "0", "--cache", cache, "--workers", str(workers))
        with Server([sys.executable, "-m", "multiframe", "serve", str(file.path), *options]) as server:
            with Client(server.url) as client:
                listed = f"/dicom-web/instances?SOPInstanceUID={file.uid}"
                while file.uid.encode() not in client.get(listed, "application/dicom+json").body:
                    sleep(0.01)
                file.ask(client, len(file.frames))
            server.settle()
            yield server


@contextmanager
def nginx_server(file: Cine, workers: int) -> Iterator[Server]:
    """Serve the folder of the file as Debian's nginx does, but for its log."""
    with TemporaryDirectory(prefix="multiframe-bench-") as folder:
        port = _free_port()
        user = "user root;" if os.getuid() == 0 else ""
        places = "".join(
            f"{kind}_temp_path {folder}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        Path(folder, "nginx.conf").write_text(f"""
            {user} worker_processes {workers}; daemon off; pid {folder}/pid;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; {places}
                server {{ listen 127.0.0.1:{port} backlog=2048; root "{file.path.parent}"; }}
            }}
        """)
        line = f"echo Serving http://127.0.0.1:{port}/; exec nginx -p {folder} -e {folder}/error.log -c nginx.conf"
        with Server(["/bin/sh", "-c", line]) as server:
            _wait_for(port)
            yield server


@contextmanager
def orthanc_server(file: Cine) -> Iterator[Server]:
    """Give the file to Orthanc, with its DICOMweb plug-in."""
    with TemporaryDirectory(prefix="multiframe-bench-") as folder:
        port = _free_port()
        facts = {
            "HttpPort": port, "DicomServerEnabled": False, "StorageDirectory": folder, "IndexDirectory": folder,
            "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [str(ORTHANC_PLUGIN)],
            "DicomWeb": {"Enable": True},
        }  # fmt: skip
        config = Path(folder, "orthanc.json")
        config.write_text(json.dumps(facts))
        line = f"echo Serving http://127.0.0.1:{port}/; exec Orthanc {config} >{folder}/log 2>&1"
        with Server(["/bin/sh", "-c", line]) as server:
            _wait_for(port)
            with file.path.open("rb") as data:
                request = urllib.request.Request(f"{server.url}/instances", data.read(), method="POST")
            urllib.request.urlopen(request, timeout=300).close()
            yield server


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for(port: int, seconds: float = 30) -> None:
    deadline = perf_counter() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if perf_counter() > deadline:
                raise
            sleep(0.02)


def load(server: Server, lines: Sequence[str], seconds: int, seed: int) -> Figures:
    """Load a server for so long; wrk's figures, and the processor time the server took for one answer."""
    with TemporaryDirectory(prefix="multiframe-bench-") as folder:
        requests = Path(folder, "requests")
        requests.write_text("\n".join(lines) + "\n")
        script = str(Path(__file__).with_name("load.lua"))
        before = server.busy()
        done = subprocess.run(
            ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", script, server.url, "--",
             str(requests), str(seed)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        busy = server.busy() - before
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} of {found['answers']} requests failed")
    server.memory()
    return {
        "per_second": found["answers"] / found["seconds"],
        "cpu_us": 1e6 * busy / found["answers"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "rss_peak": server.peak,
    }


def beside_nginx(file: Cine, workers: int, seconds: int, repeats: int) -> list[dict[str, Figures]]:
    ours = [f"{file.url}/frames/{n}\tAccept\t{ACCEPT}" for n in range(1, len(file.frames) + 1)]
    theirs = [f"/{file.path.name}\tRange\tbytes={start}-{start + size - 1}" for start, size in file.frames]
    out = []
    with ExitStack() as stack:
        servers = {
            "nginx": stack.enter_context(nginx_server(file, workers)),
            "multiframe": stack.enter_context(multiframe_server(file, workers)),
        }
        if workers == 1:
            servers["ideal"] = stack.enter_context(ideal_server(file))
        with Client(servers["multiframe"].url) as client:
            for number in (1, len(file.frames) // 2, len(file.frames)):
                file.ask(client, number)
        for name in servers:  # the way is known, and pages are there
            load(servers[name], theirs if name == "nginx" else ours, 1, 0)
        for turn in range(repeats):
            say(f"{workers} workers, repeat {turn + 1} of {repeats}, load {machine.load()}")
            names = list(servers)[:: 1 if turn % 2 else -1]
            out.append({n: load(servers[n], theirs if n == "nginx" else ours, seconds, turn) for n in names})
    return out


def beside_orthanc(file: Cine, asked: int) -> Figures | None:
    if not shutil.which("Orthanc") or not ORTHANC_PLUGIN.exists():
        say("Orthanc left out: install orthanc and orthanc-dicomweb")
        return None
    chance = random.Random(1)
    numbers = [chance.randint(1, len(file.frames)) for _ in range(asked)]
    with orthanc_server(file) as orthanc, multiframe_server(file, 1) as ours:
        with Client(orthanc.url) as client:
            theirs = [client.get(f"{file.url}/frames/{n}", ACCEPT) for n in numbers]
            if any(a.status != 200 or file.frame(n) not in a.body for a, n in zip(theirs, numbers, strict=True)):
                raise RuntimeError("Orthanc gives other frames")
        with Client(ours.url) as client:
            mine = [file.ask(client, n).seconds for n in numbers * 20]
        return {
            "orthanc_ms": 1e3 * median(a.seconds for a in theirs),
            "multiframe_ms": 1e3 * median(mine),
            "ratio": median(a.seconds for a in theirs) / median(mine),
            "orthanc_rss": orthanc.peak,
            "multiframe_rss": ours.peak,
        }


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write frames-load.json, .md and .svg into `out`."""
    missing = [name for name in ("wrk", "nginx") if not shutil.which(name)]
    if missing:
        say(f"frames-load left out: install {' and '.join(missing)}")
        return
    repeats, seconds, asked = (2, 1, 2) if quick else (7, 4, 9)
    before = machine.load()
    file = read_cine(prepare(default_directory(), SIZE // 10 if quick else SIZE)[0])
    warm_up(file)
    with compiled():
        runs = {workers: beside_nginx(file, workers, seconds, repeats) for workers in (1, 2)}
        orthanc = beside_orthanc(file, asked)
    results = {str(workers): summary(done) for workers, done in runs.items()}
    facts = {
        "benchmark": "frames-load", "machine": machine.facts(), "load": [before, machine.load()], "repeats": repeats,
        "seconds": seconds, "connections": CONNECTIONS, "size": file.size, "frames": len(file.frames),
    }  # fmt: skip
    load_report.write(out, facts | {"results": results, "orthanc": orthanc})


def summary(runs: Sequence[dict[str, Figures]]) -> Figures:
    """Give medians over the repeats, and ratios to nginx within a repeat."""
    out: Figures = {name: {key: median(r[name][key] for r in runs) for key in runs[0][name]} for name in runs[0]}
    for name in out:
        out[name]["ratio"] = median(r[name]["per_second"] / r["nginx"]["per_second"] for r in runs)
        out[name]["cpu_ratio"] = median(r[name]["cpu_us"] / r["nginx"]["cpu_us"] for r in runs)
        out[name]["p99_to_p50"] = median(r[name]["p99_ms"] / r[name]["p50_ms"] for r in runs)
        out[name]["rss_largest"] = max(r[name]["rss_peak"] for r in runs)
    return out
