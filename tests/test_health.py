"""Health, readiness and metrics: right over several processes, also when one of them is killed."""

import asyncio
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from multiframe import errors
from multiframe.catalog import Catalog
from multiframe.memory import ByteCache, MemoryBudget
from multiframe.settings import Settings
from multiframe.testing import Layout, cine
from multiframe.web import gauges as room
from multiframe.web.app import STATUS, create_app
from multiframe.web.asked import ENDPOINTS
from multiframe.web.gauges import BUCKETS, METRICS, Gauges, shared
from multiframe.web.health import Readiness
from tests.far import FarServer, Fault
from tests.serving import Server, serving

DOCS = Path(__file__).resolve().parents[1] / "docs"


def names() -> list[str]:
    return [f"multiframe_{m.name}{'_total' if m.kind == 'counter' else ''}" for m in METRICS]


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of an exposition, by name and labels."""
    found = {}
    for family in parse(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, "a series is told once"
            found[key] = sample.value
    return found


def value(samples: dict[Any, float], name: str, **labels: str) -> float:
    return sum(v for (n, own), v in samples.items() if n == name and labels.items() <= dict(own).items())


def until(check: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


# ---------------------------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("health")
    cine(folder / "a.dcm", frames=20, rows=96, columns=128)
    path = folder / "b.dcm"
    cine(path, frames=20, rows=96, columns=128, layout=Layout(table="basic"), seed=2)
    table = b"\xfe\xff\x00\xe0\x50\0\0\0"
    before, _, after = path.read_bytes().partition(table)
    path.write_bytes(before + table + b"\0\0\0\0\7\0\0\0" + after[8:])  # the second frame is not there
    return folder


def addresses(server: Server) -> list[str]:
    found = server.get("dicom-web/instances", accept="application/dicom+json").json()
    return sorted(one["00081190"]["Value"][0] for one in found)


def fresh(server: Server, path: str) -> httpx.Response:
    """Ask by a connection of its own: any of the processes answers."""
    return httpx.get(f"{server.url}{path}")


def test_numbers_are_those_of_all_processes_and_outlive_one_that_is_killed(folder: Path, tmp_path: Path) -> None:
    with serving([folder], "--workers", "2", cache=tmp_path) as server:
        urls = addresses(server)
        sent, asked = 0, 0
        for n in range(1, 21):
            for url in urls:
                answer = httpx.get(f"{url}/frames/{n}")
                assert answer.status_code == 200
                sent, asked = sent + len(answer.content), asked + 1
        assert httpx.get(f"{urls[0]}/frames/1-5").status_code == 200
        assert httpx.get(f"{urls[0]}/frames/21").status_code == 404

        def told() -> dict[Any, float]:
            answer = fresh(server, "metrics")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=")
            return read(answer.text)

        def holds(samples: dict[Any, float]) -> None:
            assert value(samples, "multiframe_requests_total", endpoint="frames", status="200") == asked + 1
            assert value(samples, "multiframe_requests_total", endpoint="frames", status="404") == 1
            assert value(samples, "multiframe_errors_total", kind="FrameNotFound") == 1
            assert value(samples, "multiframe_frames_sent_total") == asked + 5
            assert value(samples, "multiframe_sent_bytes_total", endpoint="frames") > sent
            assert value(samples, "multiframe_request_seconds_count", endpoint="frames") == asked + 2

        holds(told())
        until(lambda: value(told(), "multiframe_indexes_total") >= 2)
        samples = told()
        assert value(samples, "multiframe_indexes_total", repaired="yes") >= 1
        assert value(samples, "multiframe_workers") == 2
        assert value(samples, "multiframe_worker_starts_total") == 2
        assert value(samples, "multiframe_scan_files", what="registered") == 2
        assert value(samples, "multiframe_memory_limit_bytes") == 64 << 20
        assert value(samples, "multiframe_resident_bytes") > 50e6
        assert fresh(server, "readyz").json()["ready"] is True
        server.worker().send_signal(signal.SIGKILL)
        until(lambda: value(told(), "multiframe_worker_starts_total") == 3)
        holds(told())
        until(lambda: value(told(), "multiframe_workers") == 2)
        assert not re.search(
            r"[0-9]+\.[0-9]+\.[0-9]+", "".join(re.findall(r'"([^"]*)"', fresh(server, "metrics").text))
        )


def test_both_formats_are_what_their_parsers_take_and_every_metric_is_there(folder: Path, tmp_path: Path) -> None:
    with serving([folder], cache=tmp_path) as server:
        server.get("nowhere")
        text = server.get("metrics").text
        families = {family.name: family for family in parse(text)}
        openmetrics = server.get("metrics", accept="application/openmetrics-text; version=1.0.0")
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert {f.name for f in parse_openmetrics(openmetrics.text)} == set(families)
    for metric in METRICS:
        family = families[f"multiframe_{metric.name}"]
        assert family.type == metric.kind
        assert family.documentation == metric.help
        assert {label for s in family.samples for label in s.labels} - {"le"} <= set(metric.labels)
    for line in text.splitlines():  # as promtool has it: help before type before samples, each a line of its own
        assert re.fullmatch(r"# (HELP|TYPE) multiframe_\w+ .+|multiframe_\w+(\{.*\})? \S+", line), line


def test_health_answers_and_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    with serving([folder], cache=tmp_path) as server:
        for path in ("healthz", "readyz", "metrics"):
            answer = server.get(path)
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
            assert server.client.head(f"/{path}").status_code == 200
        assert server.get("healthz").text == "ok\n"


# ----------------------------------------------------------------------------------------------------- readiness


class Database:
    """A catalog whose database may be away, or hang."""

    def __init__(self) -> None:
        self.error: Exception = errors.InstanceNotFound("0")
        self.hang = threading.Event()
        self.hang.set()
        self.asked = 0

    def instance(self, _: str) -> None:
        self.asked += 1
        self.hang.wait(10)
        raise self.error


def found(readiness: Readiness) -> dict[str, str]:
    return {name: wrong for name, wrong in asyncio.run(readiness.found()).items() if wrong}


def test_what_is_not_ready_is_named_and_no_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, store, database = tmp_path / "DOE^JANE", tmp_path / "store", Database()
    store.mkdir()
    gone.mkdir()
    gauges = Gauges(workers=1)
    readiness = Readiness(database, gauges, [str(tmp_path), str(gone)], store)  # type: ignore[arg-type]
    assert found(readiness) == {}
    gone.rmdir()
    assert found(readiness) == {"roots": "of 2 roots these cannot be read: 2"}
    gone.mkdir()
    store.rmdir()
    database.error = errors.CatalogUnavailable("postgresql://user:secret@host/x is away")
    monkeypatch.setattr(room, "_STALE", -1.0)
    assert found(readiness) == {
        "store": "the store cannot be written",
        "catalog": "the database does not answer",
        "workers": "0 of 1 processes are alive",
    }


def test_roots_that_are_far_have_to_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with FarServer({"/a.dcm": b"any", "/b.dcm": b"any"}) as far:
        roots = [far.url("/a.dcm") + "?secret", str(tmp_path), far.url("/b.dcm"), "s3://bucket/x"]
        readiness = Readiness(Database(), Gauges(), roots)  # type: ignore[arg-type]
        assert found(readiness) == {"roots": "of 4 roots these cannot be read: 4"}
        asked = far.requests
        far.faults["/b.dcm"] = Fault(status=503)
        assert found(readiness) == {"roots": "of 4 roots these cannot be read: 4"}  # as it was a moment ago
        assert far.requests == asked
        monkeypatch.setattr("multiframe.web.health._KEPT", -1.0)
        assert found(readiness) == {"roots": "of 4 roots these cannot be read: 3, 4"}
        far.faults["/b.dcm"] = Fault()
        assert found(readiness) == {"roots": "of 4 roots these cannot be read: 4"}


def test_what_hangs_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiframe.web.health._PATIENCE", 0.05)
    database = Database()
    database.hang.clear()
    readiness = Readiness(database, Gauges())  # type: ignore[arg-type]

    async def several() -> list[dict[str, str]]:
        told = [await readiness.found() for _ in range(5)]
        database.hang.set()
        await asyncio.sleep(0.1)
        return [*told, await readiness.found()]

    *before, after = asyncio.run(several())
    assert [one["catalog"] for one in before] == ["gave no answer within 0.05 s"] * 5
    assert after["catalog"] == ""
    assert database.asked == 2


def test_a_server_that_is_not_ready_says_503(folder: Path, tmp_path: Path) -> None:
    async def ask() -> tuple[int, dict[str, Any]]:
        with closing(Catalog(tmp_path / "catalog.sqlite")) as catalog:
            app = create_app(catalog, Settings(), roots=[str(tmp_path / "gone")])
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                answer = await client.get("/readyz")
        return answer.status_code, answer.json()

    status, told = asyncio.run(ask())
    assert status == 503
    assert told["ready"] is False
    assert told["checks"]["catalog"] == told["checks"]["workers"] == "ok"
    assert "gone" not in told["checks"]["roots"]


# -------------------------------------------------------------------------------------------------------- gauges


def test_a_row_is_taken_over_and_gauges_are_those_of_the_living(monkeypatch: pytest.MonkeyPatch) -> None:
    file = shared(3)
    try:
        first, second = Gauges(file, 0, workers=2), Gauges(file, 1, workers=2)
        for one in (first, second):
            one.add("frames_sent", n=5)
            one.set("memory_held_bytes", to=7)
        assert (first.sum("frames_sent"), first.sum("memory_held_bytes")) == (10, 14)
        again = Gauges(file, 0, workers=2)  # in place of the first one
        again.add("frames_sent")
        assert (second.sum("frames_sent"), second.sum("memory_held_bytes")) == (11, 7)
        assert second.sum("worker_starts") == 3
        second.end()
        assert again.alive() == [0]
        assert (again.sum("frames_sent"), again.sum("memory_held_bytes")) == (11, 0)
    finally:
        os.close(file)


def test_threads_lose_no_count() -> None:
    gauges = Gauges()

    def count() -> None:
        for _ in range(5000):
            gauges.add("indexes", "scan", "no")

    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(0.005)
    assert gauges.sum("indexes", "scan", "no") == 20_000


@given(st.lists(st.floats(0, 200) | st.sampled_from(BUCKETS), max_size=30))
def test_a_histogram_counts_each_in_every_bucket_that_holds_it(times: list[float]) -> None:
    gauges = Gauges()
    for seconds in times:
        gauges.answered("frames", 200, seconds, 10, 1)
    (family,) = [f for f in gauges.families() if f.name == "multiframe_request_seconds"]
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    for bound in BUCKETS if times else ():
        assert buckets[str(bound)] == sum(seconds <= bound for seconds in times)
    assert buckets.get("+Inf", 0) == len(times)


def test_labels_are_known_beforehand() -> None:
    gauges = Gauges()
    gauges.answered("frames", 299, 0.1, 1, 0)  # a status nobody gives
    assert gauges.sum("requests", "frames", "other") == 1
    with pytest.raises(KeyError):
        gauges.add("errors", "Whatever")
    assert sum(len(metric.series) * metric.width for metric in METRICS) < 2000


def test_every_status_and_error_that_is_given_has_a_name_here() -> None:
    assert set(STATUS.values()) <= set(room.STATUSES)
    assert {kind.__name__ for kind in STATUS} <= set(room.ERRORS)


def test_a_cache_counts_what_it_finds() -> None:
    cache = ByteCache[str, bytes](MemoryBudget(1000), share=0.5)
    cache.put("a", b"x", size=40)
    assert [cache.get(key) for key in "aab"] == [b"x", b"x", None]
    assert (cache.hits, cache.misses, cache.held) == (2, 1, 40)


# ------------------------------------------------------------------------------------------------------ the docs


def test_the_reference_names_every_metric_endpoint_and_check() -> None:
    text = (DOCS / "reference" / "watching.md").read_text()
    told = re.findall(r"^\| `(multiframe_\w+)` \| (\w+) \| ([^|]*) \|", text, re.M)
    assert [name for name, _, _ in told] == names()
    for (_, kind, labels), metric in zip(told, METRICS, strict=True):
        assert kind == metric.kind
        assert re.findall(r"`(\w+)`", labels) == list(metric.labels)
    assert all(f"`{endpoint}`" in text for endpoint in ENDPOINTS)
    assert all(f"| `{check}` |" in text for check in Readiness(Database(), Gauges())._checks)  # type: ignore[arg-type]


def test_alerts_of_the_how_to_are_about_metrics_there_are() -> None:
    text = (DOCS / "how-to" / "watch-it.md").read_text()
    asked = set(re.findall(r"multiframe_[a-z_]+(?=[\[{ ])", "\n".join(re.findall(r"expr: (.*)", text))))
    assert asked
    assert {name.removesuffix("_bucket") for name in asked} <= set(names())
