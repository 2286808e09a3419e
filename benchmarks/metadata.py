"""metadata: DICOM JSON of 1,000 to 100,000 frames with functional groups, over HTTP; pydicom beside it."""

import http.client
import json
import os
import statistics
import subprocess
import sys
import zlib
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

import zstandard
from pydicom import Dataset

from benchmarks import machine
from benchmarks.report import rows
from benchmarks.server import Server, compiled
from multiframe.syntaxes import syntax_of
from multiframe.testing.files import file_meta

type Figures = dict[str, Any]

UIDS = "1.2.3", "1.2.3.4", "1.2.3.4.5"
RLE = "1.2.840.10008.1.2.5"
_LONG = (b"SQ", b"OB")
_CODINGS = ("identity", "gzip", "zstd")

# What a child does: make the JSON once, and say how long that took and how much memory it grew by.
_LIBRARY = {
    "multiframe": """
from multiframe.dicomjson import metadata
instance = multiframe.open(path)
n = sum(map(len, metadata(instance.header)))""",
    "pydicom": """
n = len(pydicom.dcmread(path, stop_before_pixels=True).to_json())""",
}
_CHILD = """
import json, re, sys, time, pydicom, multiframe, multiframe.dicomjson
path = sys.argv[1]
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # rusage's is inherited
before = peak()
begun, cpu = time.perf_counter(), time.process_time(){work}
grown = peak() - before
print(json.dumps({{"s": time.perf_counter() - begun, "cpu_s": time.process_time() - cpu, "grown": 1024 * grown}}))
"""


def element(tag: int, vr: bytes, value: bytes, *, undefined: bool = False) -> bytes:
    value += b" " * (len(value) % 2)
    length = 0xFFFFFFFF if undefined else len(value)
    form = "<HH2s2xI" if vr in _LONG else "<HH2sH"
    return pack(form, tag >> 16, tag & 0xFFFF, vr, length) + value


def sequence(tag: int, items: list[bytes], undefined: bool) -> bytes:
    if not undefined:
        return element(tag, b"SQ", b"".join(b"\xfe\xff\x00\xe0" + pack("<I", len(one)) + one for one in items))
    open_item, end = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"
    whole = b"".join(open_item + one + end for one in items) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return element(tag, b"SQ", whole, undefined=True)


def groups(i: int, undefined: bool) -> bytes:
    """Functional groups as an Enhanced MR writes them: some 360 bytes, most of them alike from frame to frame."""
    content = (
        element(0x00189074, b"DT", b"20260101%06d.0" % (i % 1_000_000))
        + element(0x00189151, b"DT", b"20260101%06d.5" % (i % 1_000_000))
        + element(0x00189220, b"FD", pack("<d", 20.5))
        + element(0x00209056, b"SH", b"1")
        + element(0x00209057, b"UL", pack("<I", i + 1))
        + element(0x00209157, b"UL", pack("<2I", 1, i + 1))
    )
    measures = element(0x00180050, b"DS", b"1.5") + element(0x00280030, b"DS", b"0.5\\0.5")
    values = (
        element(0x00281052, b"DS", b"0") + element(0x00281053, b"DS", b"%d" % (1 + i % 9))
        + element(0x00281054, b"LO", b"US")
    )  # fmt: skip
    inside = (
        (0x00189114, element(0x00189082, b"FD", pack("<d", 10 + i % 7))),
        (0x00209111, content),
        (0x00209113, element(0x00200032, b"DS", b"-120.5\\-99.25\\%d.125" % i)),
        (0x00209116, element(0x00200037, b"DS", b"1\\0\\0\\0\\1\\0")),
        (0x00289110, measures),
        (0x00289145, values),
    )
    return b"".join(sequence(tag, [one], undefined) for tag, one in inside)


def make(path: Path, frames: int, undefined: bool) -> int:
    """Write a file of tiny frames; gives the bytes of its header."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4.1", UIDS[2]
    one = pack("<H", 8)
    header = file_meta(data, syntax_of(RLE)) + b"".join((
        element(0x00080005, b"CS", b"ISO_IR 192"), element(0x00080016, b"UI", b"1.2.840.10008.5.1.4.1.1.4.1\0"),
        element(0x00080018, b"UI", b"1.2.3.4.5\0"), element(0x00080060, b"CS", b"MR"),
        element(0x00100010, b"PN", b"Long^Header"), element(0x0020000D, b"UI", b"1.2.3\0"),
        element(0x0020000E, b"UI", b"1.2.3.4\0"), element(0x00280002, b"US", pack("<H", 1)),
        element(0x00280004, b"CS", b"MONOCHROME2"), element(0x00280008, b"IS", b"%d" % frames),
        element(0x00280010, b"US", one), element(0x00280011, b"US", one), element(0x00280100, b"US", one),
        element(0x00280101, b"US", one), element(0x00280102, b"US", pack("<H", 7)),
        element(0x00280103, b"US", pack("<H", 0)),
        sequence(0x52009230, [groups(i, undefined) for i in range(frames)], undefined),
    ))  # fmt: skip
    frame = pack("<16I", 1, 64, *[0] * 14) + b"\x07" + bytes(9)
    fragments = b"\xfe\xff\x00\xe0\0\0\0\0" + (b"\xfe\xff\x00\xe0" + pack("<I", len(frame)) + frame) * frames
    whole = fragments + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(header + element(0x7FE00010, b"OB", whole, undefined=True))
    return len(header)


def ask(server: Server, path: str, coding: str) -> tuple[float, float, bytes]:
    """Give milliseconds to the first byte of the body, seconds to the last, and the body."""
    client = http.client.HTTPConnection(urlsplit(server.url).netloc)
    try:
        begun = perf_counter()
        client.request("GET", path, headers={"Accept-Encoding": coding, "Accept": "application/dicom+json"})
        answer = client.getresponse()
        first = answer.read(1)
        first_ms = 1000 * (perf_counter() - begun)
        body = first + answer.read()
        seconds = perf_counter() - begun
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
        return first_ms, seconds, body
    finally:
        client.close()


def processor(server: Server) -> float:
    """Give the processor seconds its processes have taken so far."""
    processes = [server._parent, *server._parent.children(recursive=True)]
    return float(sum(sum(p.cpu_times()[:2]) for p in processes))


def plain(body: bytes, coding: str) -> bytes:
    if coding == "gzip":
        return zlib.decompress(body, wbits=31)
    return zstandard.ZstdDecompressor().decompressobj().decompress(body) if coding == "zstd" else body


def served(path: Path, frames: int, repeats: int) -> Figures:
    study, series, uid = UIDS
    url = f"/dicom-web/studies/{study}/series/{series}/instances/{uid}/metadata"
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(repeats):
        with TemporaryDirectory(prefix="multiframe-bench-") as cache:
            command = [sys.executable, "-m", "multiframe", "serve", str(path), "--port", "0", "--cache", cache]
            with Server(command) as server:
                client = http.client.HTTPConnection(urlsplit(server.url).netloc)
                while True:
                    client.request("GET", "/api/status")
                    status = json.loads(client.getresponse().read())
                    if status["found"] and not status["scanning"]:
                        break
                    sleep(0.02)
                client.close()
                idle = server.memory()
                server.peak = 0
                for coding in _CODINGS:
                    cpu = processor(server)
                    first_ms, seconds, body = ask(server, url, coding)
                    note(f"{coding}_cpu_s", processor(server) - cpu)
                    note(f"{coding}_first_ms", first_ms)
                    note(f"{coding}_s", seconds)
                    note(f"{coding}_bytes", len(body))
                    items = plain(body, coding).count(b'"00209113"')
                    if items != frames:
                        raise RuntimeError(f"{items} Items instead of {frames}")
                note("grown", server.peak - idle)
                for name in ("window", "again"):
                    _, seconds, body = ask(server, f"{url}?frames={frames - 99}-{frames}", "identity")
                    note(f"{name}_ms", 1000 * seconds)
                    if body.count(b'"00209113"') != 100:
                        raise RuntimeError("not the window asked for")
    return {name: statistics.median(values) for name, values in found.items()}


def library(path: Path, name: str) -> Figures:
    """Make the JSON in a process of its own."""
    work = _CHILD.format(work=_LIBRARY[name])
    done = subprocess.run([sys.executable, "-c", work, os.fspath(path)], capture_output=True, text=True, check=True)
    told: Figures = json.loads(done.stdout)
    return told


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write metadata.json and .md into `out`."""
    repeats = 1 if quick else 3
    load = [machine.load()]
    results = []
    with TemporaryDirectory(prefix="multiframe-bench-") as folder, compiled():
        for frames, undefined in [(1_000, False), (10_000, False)] + [(100_000, u) for u in (False, True) if not quick]:
            path = Path(folder) / "long.dcm"
            size = make(path, frames, undefined)
            print(f"{frames:,} frames, header of {size:,} bytes, load {machine.load()}", file=sys.stderr, flush=True)
            result: Figures = {"frames": frames, "undefined": undefined, "header": size}
            result["multiframe"] = library(path, "multiframe")
            result["pydicom"] = library(path, "pydicom") if frames <= 10_000 else None
            result["served"] = served(path, frames, repeats)
            results.append(result)
            path.unlink()
    load.append(machine.load())
    facts = {"benchmark": "metadata", "machine": machine.facts(), "load": load, "repeats": repeats}
    (out / "metadata.json").write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    (out / "metadata.md").write_text(told(facts, results))
    print(told(facts, results))


def told(facts: Figures, results: list[Figures]) -> str:
    """Write the figures for people."""
    m, (before, after) = facts["machine"], facts["load"]
    http_rows, library_rows = [], []
    for r in results:
        s, ours, theirs = r["served"], r["multiframe"], r["pydicom"]
        name = f"{r['frames']:,}{', undefined lengths' if r['undefined'] else ''}"
        coded = [(f"{s[f'{c}_first_ms']:.0f} ms", f"{s[f'{c}_s']:.2f} s ({s[f'{c}_cpu_s']:.2f})") for c in _CODINGS]
        http_rows.append((
            name, f"{r['header'] / 1e6:.1f} MB", f"{s['identity_bytes'] / 1e6:.1f} MB",
            *(cell for pair in coded for cell in pair),
            f"{s['zstd_bytes'] / 1e3:,.0f} kB", f"{s['grown'] / 1e6:.0f} MB",
            f"{s['window_ms']:.0f} ms", f"{s['again_ms']:.0f} ms",
        ))  # fmt: skip
        cells = [f"{x['s']:.2f} s ({x['cpu_s']:.2f})" if x else "" for x in (ours, theirs)]
        memory = [f"{x['grown'] / 1e6:.0f} MB" if x else "" for x in (ours, theirs)]
        library_rows.append((name, cells[0], memory[0], cells[1], memory[1]))
    parts = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, Python {m['python']}; load average "
        f"{before} before, {after} after. Medians of {facts['repeats']} repeats.",
        "**Over HTTP**, a new server each repeat: the whole metadata, to the first byte of "
        "the body and to the last, in each coding, with the server's processor time in brackets; by how much its "
        "processes grew; and a window of the last 100 frames, the first time (all Items are found) and again.",
        rows(
            "frames|header|JSON|first byte|all|gzip first|gzip all|zstd first|zstd all|zstd size|grown|window|again",
            http_rows,
        ),
        "**The library alone**, opened and written once in a new process, the header held; processor time in brackets, "
        "and by how much it grew.",
        rows("frames|multiframe|grown|pydicom|grown", library_rows),
    ]
    return "\n\n".join(parts) + "\n"
