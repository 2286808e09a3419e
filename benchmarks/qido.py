"""qido: pages of searches over 1,000,000 instances in SQLite and in PostgreSQL, over HTTP; and one server beside two.

The catalog is filled row by row, as a scan would have filled it, with no file behind it: no search looks at a file.
"""

import json
import os
import random
import sqlite3
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import batched
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import psycopg
import sqlalchemy as sa
from tests.postgres import PostgreSQL

from benchmarks import machine
from benchmarks.client import Client
from benchmarks.report import rows
from benchmarks.server import Server, compiled
from multiframe.catalog import Catalog
from multiframe.levels import beside, columns_of, lines_of, text_of
from multiframe.schema import instances, objects, patterns, series, studies

type Figures = dict[str, Any]

SERIES, EACH = 2, 20  # of a study, of a series
STARTS = 5
FAMILIES = ["Doe", "Smith", "Müller", "Yamada", "O'Brien", "García", "Nguyen", "Kowalski", "Rossi", "Johansson"]
GIVEN = ["Anna", "Bob", "Carla", "Dmitri", "Eve", "Felix", "Grace", "Hiro", "Iris", "Jörg", "Kim", "Lena", "Xaver"]
FIELDS = "includefield=00081030%2C00080060%2C00080090%2C00100030"  # as OHIF asks


def searches(total: int) -> dict[str, str]:
    """What is asked for, by what it is called; `{n}` is a number that differs from one question to the next."""
    page, s = "limit=101", total // (SERIES * EACH)
    return {
        "worklist": f"/studies?{page}&offset=0&fuzzymatching=false&{FIELDS}",
        "worklist, page 3": f"/studies?{page}&offset=202&{FIELDS}",
        f"worklist, offset {s * 24 // 25:,}": f"/studies?{page}&offset={s * 24 // 25}&{FIELDS}",
        "PatientID": f"/studies?{page}&PatientID=P{{n}}",
        "PatientID=P12*": f"/studies?{page}&PatientID=P12*",
        "AccessionNumber": f"/studies?{page}&AccessionNumber=A{{n}}",
        "PatientName=Müller*": f"/studies?{page}&PatientName=M%C3%BCller*",
        "PatientName=*x*": f"/studies?{page}&PatientName=*x*",
        "PatientName=*{n}*": f"/studies?{page}&PatientName=*{{n}}*",
        "PatientName=*nobody*": f"/studies?{page}&PatientName=*nobody*",
        "fuzzy PatientName": f"/studies?{page}&fuzzymatching=true&PatientName=muller%20{{n}}",
        "StudyDate, a week": f"/studies?{page}&StudyDate=20230102-20230108",
        "ModalitiesInStudy=XA": f"/studies?{page}&ModalitiesInStudy=XA",
        "ModalitiesInStudy=OT, rare": f"/studies?{page}&ModalitiesInStudy=OT",
        "StudyDescription=*heart*": f"/studies?{page}&StudyDescription=*heart*",
        "series of a study": "/studies/1.2.{n}/series",
        "instances of a series": "/studies/1.2.{n}/series/1.2.{n}.1/instances",
        "instances": f"/instances?{page}",
        f"instances, offset {total // 2:,}": f"/instances?{page}&offset={total // 2}",
        f"instances, offset {total * 99 // 100:,}": f"/instances?{page}&offset={total * 99 // 100}",
        "SOPInstanceUID": "/instances?SOPInstanceUID=1.2.{n}.1.7",
        "series, Modality=OT": f"/series?{page}&Modality=OT",
        "instances, Rows=512": f"/instances?{page}&Rows=512",
    }


# ---------------------------------------------------------------------------------------------------- the catalog


def text(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def told(total: int) -> Iterator[tuple[sa.Table, dict[str, Any]]]:
    """Rows of all tables: each before those that point to it."""
    chance = random.Random(5)
    for s in range(total // (SERIES * EACH)):
        study = f"1.2.{s}"
        name = f"{chance.choice(FAMILIES)}{s % 997}^{chance.choice(GIVEN)}"
        patient = {
            "0020000D": text("UI", study), "00100010": text("PN", {"Alphabetic": name}),
            "00100020": text("LO", f"P{s}"),
            "00080020": text("DA", f"20{s * 7919 % 26:02}{s % 12 + 1:02}{s % 28 + 1:02}"),
            "00080030": text("TM", f"{s % 24:02}{s % 60:02}00"), "00080050": text("SH", f"A{s}"),
            "00080090": text("PN", {"Alphabetic": "House^Gregory"}), "00100030": text("DA", "19500101"),
            "00100040": text("CS", "F"), "00200010": text("SH", str(s)),
            "00081030": text("LO", chance.choice(["Echo", "Angio", "CT heart", "Follow-up"])),
        }  # fmt: skip
        has: dict[str, Any] = {"n_series": SERIES, "n_instances": SERIES * EACH}
        kinds = ["OT" if s % 1000 == 0 else chance.choice(["US", "XA", "CT", "MR"]) for _ in range(SERIES)]
        has["modalities"] = "\\".join(dict.fromkeys(kinds))
        yield studies, {"study": study, **has, **columns_of("study", patient)}
        for r, modality in enumerate(kinds):
            uid = f"{study}.{r}"
            of_series = {"00080060": text("CS", modality), "0020000E": text("UI", uid), "00200011": text("IS", r + 1),
                         "0008103E": text("LO", "4 chambers"), "00080070": text("LO", "Maker")}  # fmt: skip
            row = {"study": study, "series": uid, "instances": EACH, **columns_of("series", of_series)}
            yield series, row
            like: dict[str, str] = {}
            for i in range(EACH):
                instance = f"{uid}.{i}"
                path = f"/nowhere/{s // 1000}/{s}/{r}/{i}.dcm".encode()
                yield objects, {"path": path, "size": 700_000, "identity": f"[1,{s},{i},7,8]"}
                of_instance = {
                    "00080016": text("UI", "1.2.840.10008.5.1.4.1.1.3.1"), "00080018": text("UI", instance),
                    "00080008": text("CS", "ORIGINAL", "PRIMARY"), "00200013": text("IS", i + 1),
                    "00280008": text("IS", 60), "00280010": text("US", 480), "00280011": text("US", 640),
                    "00280100": text("US", 8), "0008002A": text("DT", f"20260101{s % 24:02}{i:02}00"),
                }  # fmt: skip
                row = {
                    "study": study, "series": uid, "instance": instance, "path": path,
                    "syntax": "1.2.840.10008.1.2.4.50", "facts": '{"dataset_at":350,"pixel_data":null,"values":{}}',
                    "header_size": 1800, "header": b"\x78" * 700, "pattern": None,
                    **columns_of("instance", of_instance),
                }  # fmt: skip
                if like:  # as the first of its series, but for some values
                    own = text_of(beside(lines_of(row["attributes"]), like).values())
                    row |= {"attributes": own, "facts": "", "header": b"\x78" * 80, "pattern": s}
                else:
                    like = lines_of(row["attributes"])
                    whole = {name: row[name] for name in ("study", "series", "header", "attributes", "facts")}
                    yield patterns, {**whole, "number": s}
                yield instances, row


def fill(database: str, total: int) -> float:
    """Fill a catalog; gives the seconds that took."""
    begun = perf_counter()
    catalog = Catalog(database)
    for some in batched(told(total), 20_000):
        waiting: dict[sa.Table, list[dict[str, Any]]] = {
            table: [] for table in (studies, series, patterns, objects, instances)
        }
        for table, row in some:
            waiting[table].append(row)
        with catalog._database.transaction(write=True) as connection:
            for table, given in waiting.items():
                if not given:
                    continue
                if connection.dialect.name == "postgresql":
                    _copy(connection, table, given)
                else:
                    connection.execute(sa.insert(table), given)
    # What either does by itself, some time after.
    catalog.close()
    if database.startswith("postgresql"):
        with psycopg.connect(database, autocommit=True) as direct:
            direct.execute("VACUUM ANALYZE")
    else:
        with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as file:
            file.execute("ANALYZE")
    took = perf_counter() - begun
    os.sync()  # or what is timed next would wait for gigabytes on their way to the disk
    return took


def _copy(connection: sa.Connection, table: sa.Table, given: Sequence[dict[str, Any]]) -> None:
    names = list(given[0])
    quoted = ", ".join(f'"{name}"' for name in names)
    with connection.connection.cursor() as cursor, cursor.copy(f"COPY {table.name} ({quoted}) FROM STDIN") as copy:
        for row in given:
            copy.write_row([row[name] for name in names])


# ---------------------------------------------------------------------------------------------------- measuring


def command(database: str, empty: Path, cache: Path) -> list[str]:
    os.environ["MULTIFRAME_DATABASE"] = database
    return [sys.executable, "-m", "multiframe", "serve", str(empty), "--port", "0", "--cache", str(cache)]


def ask(client: Client, path: str, total: int, repeats: int) -> Figures:
    chance = random.Random(path)
    took, answer = [], None
    for _ in range(repeats):
        n = chance.randrange(total // (SERIES * EACH))
        answer = client.get("/dicom-web" + path.replace("{n}", str(n)), "application/dicom+json")
        if answer.status not in (200, 204):
            raise RuntimeError(f"{path}: {answer.status} {answer.body[:200]!r}")
        took.append(1000 * answer.seconds)
    assert answer is not None
    took.sort()
    found = len(json.loads(answer.body)) if answer.body else 0
    return {
        "best_ms": took[0],
        "p50_ms": statistics.median(took),
        "p95_ms": took[int(0.95 * len(took))],
        "found": found,
    }


def asked(database: str, total: int, repeats: int, folder: Path) -> Figures:
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    starts = []
    for _ in range(STARTS):
        with Server(command(database, empty, folder / "cache")) as server, Client(server.url) as client:
            begun = perf_counter()
            client.get("/dicom-web/studies?limit=101", "application/dicom+json")
            starts.append((server.seconds, perf_counter() - begun))
    started, first = sorted(starts)[STARTS // 2]
    with Server(command(database, empty, folder / "cache")) as server, Client(server.url) as client:
        server.settle()
        found = {name: ask(client, path, total, repeats) for name, path in searches(total).items()}
        return {"start_s": started, "first_s": first, "searches": found, "rss": server.memory()}


def together(database: str, total: int, seconds: float, folder: Path, servers: int) -> float:
    """Pages a second that so many servers on one database give to eight clients, all asking for other patients."""
    page = "/dicom-web/studies?limit=25&PatientID=P{}*"
    done = [0] * 8
    with ExitStack() as stack:
        urls = [
            stack.enter_context(Server(command(database, folder / "empty", folder / f"cache{n}"))).url
            for n in range(servers)
        ]
        end = perf_counter() + seconds

        def one(i: int) -> None:
            chance = random.Random(i)
            with Client(urls[i % servers]) as client:
                while perf_counter() < end:
                    answer = client.get(page.format(chance.randrange(10, 100)), "application/dicom+json")
                    done[i] += answer.status == 200

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(done))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(done) / seconds


def run(out: Path, *, quick: bool = False) -> None:
    """Measure, and write qido.json and .md into `out`."""
    total, repeats = (20_000, 5) if quick else (1_000_000, 31)
    load, before = [machine.load()], dict(os.environ)
    results: Figures = {}
    server = PostgreSQL("shared_buffers=1GB", "effective_cache_size=4GB", "random_page_cost=1.1", "max_wal_size=4GB")
    try:
        with TemporaryDirectory(prefix="multiframe-bench-") as named, compiled():
            folder = Path(named)
            for kind, database in (("SQLite", f"sqlite:///{folder}/catalog.sqlite"), ("PostgreSQL", server.url())):
                filled = fill(database, total)
                print(
                    f"{kind}: {total:,} instances in {filled:.0f} s, load {machine.load()}", file=sys.stderr, flush=True
                )
                results[kind] = asked(database, total, repeats, folder)
            seconds = 2 if quick else 10
            results["servers"] = [together(server.url(), total, seconds, folder, n) for n in (1, 2)]
    finally:
        server.close()
        os.environ.clear()
        os.environ.update(before)
    load.append(machine.load())
    facts = {"benchmark": "qido", "machine": machine.facts(), "load": load, "repeats": repeats, "instances": total}
    (out / "qido.json").write_text(json.dumps(facts | {"results": results}, indent=1) + "\n")
    (out / "qido.md").write_text(report(facts, results))
    print(report(facts, results))


def report(facts: Figures, results: Figures) -> str:
    """Write the figures for people."""
    m, (before, after) = facts["machine"], facts["load"]
    one, two = results["servers"]
    kinds = ("SQLite", "PostgreSQL")
    cells = []
    for name in results["SQLite"]["searches"]:
        figures = [results[kind]["searches"][name] for kind in kinds]
        times = [f"{f[p]:.1f} ms" for f in figures for p in ("best_ms", "p50_ms", "p95_ms")]
        cells.append((name, str(figures[0]["found"]), *times))
    first = ", ".join(
        f"{kind} {results[kind]['start_s']:.2f} s + {1000 * results[kind]['first_s']:.0f} ms" for kind in kinds
    )
    parts = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, Python {m['python']}; load average "
        f"{before} before, {after} after. {facts['instances']:,} instances in series of {EACH}, {SERIES} a study; "
        f"{facts['repeats']} questions each, over one kept connection.",
        rows("search|found|SQLite best|p50|p95|PostgreSQL best|p50|p95", cells),
        f"From the start of the command to the first page, the median of {STARTS}: {first}.",
        f"Eight clients asking for pages of 25: one server {one:.0f} pages a second, two on the same PostgreSQL "
        f"{two:.0f}: {two / one:.2f} ×.",
    ]
    return "\n\n".join(parts) + "\n"
