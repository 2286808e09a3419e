"""Spans: a request, and in it what was done for it; nothing of a patient, and nothing at all when they are off."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from multiframe.errors import SourceError
from multiframe.settings import Settings
from multiframe.testing import cine
from multiframe.web import tracing
from tests.test_again import App, using

SECRET = "ZAPHOD^BEEBLEBROX"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0bb902b7-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    tracing.start(SimpleSpanProcessor(kept))
    yield kept
    tracing.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / SECRET
    folder.mkdir()
    cine(folder / "cine.dcm", frames=7, rows=96, columns=128)
    return folder / "cine.dcm"


def taken(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    found = list(spans.get_finished_spans())
    spans.clear()
    return found


def test_a_request_is_a_span_and_what_is_done_for_it_lies_inside(
    path: Path, tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async def use(app: App) -> None:
        answer = await app.get("3-5", traceparent=PARENT)
        found = {span.name: span for span in taken(spans)}
        assert set(found) == {"GET frames", "index", "read"}
        request = found["GET frames"]
        assert request.parent is not None
        assert format(request.parent.trace_id, "032x") == answer.headers["x-request-id"] == TRACE
        assert request.kind is SpanKind.SERVER
        for name in ("index", "read"):
            assert found[name].parent is not None
            assert found[name].parent.span_id == request.context.span_id  # type: ignore[union-attr]
        told = dict(request.attributes or {})
        assert told["http.response.status_code"] == 200
        assert told["http.response.body.size"] == len(answer.content)
        assert (told["multiframe.frames"], told["dicom.instance"]) == ("3-5", app.uid)
        assert (found["read"].attributes or {})["multiframe.bytes"] <= len(answer.content)  # type: ignore[operator]

    using(path, tmp_path, use)


def test_work_is_a_span_too_and_the_short_way_is_one_alone(
    path: Path, tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async def use(app: App) -> None:
        await app.get("3/rendered")
        assert {"GET rendered", "work"} <= {span.name for span in taken(spans)}
        await app.get(1)
        taken(spans)
        before = app.long
        await app.get(2)
        assert app.long == before
        assert [span.name for span in taken(spans)] == ["GET frames"]

    using(path, tmp_path, use)


def test_no_word_of_an_error_or_an_address_is_told(path: Path, tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async def use(app: App) -> None:
        path.unlink()
        await app.get("1-3")
        for ask in (SECRET, f"1?accept={SECRET}"):
            await app.get(ask, authorization=f"Bearer {SECRET}")
        found = taken(spans)
        assert len(found) >= 3
        assert any((span.attributes or {}).get("error.type") == "SourceNotFound" for span in found)
        for span in found:
            assert SECRET not in span.to_json()
            assert not span.events

    using(path, tmp_path, use)


def test_off_there_is_nothing_and_nothing_is_imported(path: Path, tmp_path: Path) -> None:
    assert isinstance(tracing.span("read", bytes=1), nullcontext)
    assert tracing.span("read") is tracing.span("index")
    script = "import sys, multiframe.web.app; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
    using(path, tmp_path, lambda app: asyncio.sleep(0), Settings())


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"pip install 'multiframe\[otel\]'"):
        tracing.start()
