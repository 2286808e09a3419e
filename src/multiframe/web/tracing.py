"""Spans for OpenTelemetry, where they are wanted: a request, and inside it catalog, index, read, work.

Without `start` a span is nothing, and costs as much. Attributes are UIDs, numbers and names of ours; of an error only
its class is told. It is the only room that knows OpenTelemetry, which is an extra: ``multiframe[otel]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from multiframe.errors import SourceError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span
    from starlette.types import Scope

__all__ = ["check", "on", "request_span", "span", "start", "stop"]

_NOTHING: AbstractContextManager[Any] = nullcontext()
_provider: TracerProvider | None = None
_tracer: Any = None


def check() -> None:
    """Make sure that what is needed is installed.

    Raises
    ------
    SourceError
        It is not.
    """
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise SourceError("--traces needs OpenTelemetry: pip install 'multiframe[otel]'")


def start(processor: SpanProcessor | None = None) -> None:
    """Begin to make spans.

    Parameters
    ----------
    processor : SpanProcessor, optional
        What becomes of them; by default they are sent by OTLP over HTTP, as the variables ``OTEL_...`` say.
    """
    global _provider, _tracer
    check()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    if processor is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        processor = BatchSpanProcessor(OTLPSpanExporter())
    named = Resource({"service.name": "multiframe"}).merge(Resource.create())  # OTEL_SERVICE_NAME goes before
    _provider = TracerProvider(resource=named)
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("multiframe")


def stop() -> None:
    """Send what is left, and make no more."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


def on() -> bool:
    """Tell whether spans are made."""
    return _tracer is not None


def span(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """Give a span inside the current one, to be entered.

    Examples
    --------
    >>> with span("read", bytes=17) as made:
    ...     print(made)
    None
    """
    return _NOTHING if _tracer is None else _made(name, {f"multiframe.{k}": v for k, v in attributes.items()})


def request_span(scope: Scope, name: str) -> AbstractContextManager[Any]:
    """Give the span of a request, inside the one its ``traceparent`` names."""
    if _tracer is None:
        return _NOTHING
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carried = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k == b"traceparent"}
    inside = TraceContextTextMapPropagator().extract(carried)
    return _made("request", {"multiframe.request": name}, context=inside, kind=SpanKind.SERVER)


@contextmanager
def _made(name: str, attributes: dict[str, str | int], **more: Any) -> Iterator[Span]:
    # What an error says may quote a value or a path: neither its words nor its traceback are sent.
    silent = {"record_exception": False, "set_status_on_exception": False}
    with _tracer.start_as_current_span(name, attributes=attributes, **silent, **more) as made:
        try:
            yield made
        except BaseException as error:
            made.set_attribute("error.type", type(error).__name__)
            raise
