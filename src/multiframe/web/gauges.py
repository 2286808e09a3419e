"""Numbers that all server processes keep together, and how Prometheus reads them.

Every number has its place, known beforehand, in a piece of memory that the processes share: each worker has a row of
its own, and whoever is asked gives the sums. A worker that is started in place of one that died goes on in its row, so
that no count falls; what is only true of a living process is given only of rows that are alive (decision 0022). It must
not know what a request is. No label holds what a client has written.
"""

import mmap
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from multiframe import errors
from multiframe.web.asked import ENDPOINTS

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

__all__ = ["METRICS", "Gauges", "Metric", "shared"]

type Kind = Literal["counter", "gauge", "histogram"]

STATUSES: Final = (
    200, 202, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 405, 406, 408, 409, 411, 412, 413, 415, 416, 421, 422,
    429, 431, 499, 500, 501, 502, 503, 504, 507,
)  # fmt: skip

ERRORS: Final = (
    *errors.__all__, "BadRequest", "NotThere", "TooMuch", "MisdirectedRequest", "HTTPError", "Unauthenticated",
    "Forbidden", "Unverifiable", "LengthRequired", "UnsupportedMedia", "RangeNotSatisfiable", "PreconditionFailed",
    "NotYet", "Stalled", "TooSlow", "other",
)  # fmt: skip
"""Kinds of error that are told by name; ``other`` is one nobody foresaw."""

ORIGINS: Final = ("native", "extended", "basic", "scan")

BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of the histograms, in seconds."""

_STALE = 10.0
"""Seconds after which a worker that gives no sign is not counted as alive."""


class Metric(NamedTuple):
    """A number, or one for each of a set of labels that is known beforehand.

    Attributes
    ----------
    name : str
        Without the ``multiframe_`` before it and the ``_total`` behind it.
    kind : str
        ``counter``, ``gauge`` (of what is alive) or ``histogram`` (of seconds).
    help : str
        What it counts.
    labels : mapping of str to sequence of str
        Each label's values.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, Sequence[str]] = {}

    @property
    def series(self) -> Sequence[tuple[str, ...]]:
        """All sets of values, in order."""
        found: list[tuple[str, ...]] = [()]
        for values in self.labels.values():
            found = [(*before, value) for before in found for value in values]
        return found

    @property
    def width(self) -> int:
        """Places that one of them takes."""
        return len(BUCKETS) + 2 if self.kind == "histogram" else 1


_BY_ENDPOINT: Final = {"endpoint": ENDPOINTS}
_CACHES: Final = {"cache": ("instances", "encoded")}

METRICS: Final = (
    Metric("requests", "counter", "Requests answered, by what they asked for and the status of the answer.",
           _BY_ENDPOINT | {"status": (*map(str, STATUSES), "other")}),
    Metric("request_seconds", "histogram", "Seconds from a request to the end of its answer.", _BY_ENDPOINT),
    Metric("requests_open", "gauge", "Requests that are being answered."),
    Metric("broken_off", "counter", "Answers that did not come to their end, by who left off.",
           {"by": ("client", "server")}),
    Metric("sent_bytes", "counter", "Bytes of bodies sent.", _BY_ENDPOINT),
    Metric("received_bytes", "counter", "Bytes of bodies received.", _BY_ENDPOINT),
    Metric("frames_sent", "counter", "Frames in answers, as stored or made anew."),
    Metric("stored", "counter", "Instances sent here, by what became of them.", {"what": ("stored", "refused")}),
    Metric("errors", "counter", "Requests refused or broken off, by kind of error.", {"kind": ERRORS}),
    Metric("memory_limit_bytes", "gauge", "Bytes that may be held for requests and caches."),
    Metric("memory_held_bytes", "gauge", "Bytes that are held for requests and caches."),
    Metric("memory_waiting", "gauge", "Requests that wait for memory."),
    Metric("cache_held_bytes", "gauge", "Bytes of it that are kept for later.", _CACHES),
    Metric("cache_hits", "counter", "Times something was found in a cache.", _CACHES),
    Metric("cache_misses", "counter", "Times something was not.", _CACHES),
    Metric("indexes", "counter", "Frame indexes completed: how frames were told apart, and if a table was wrong.",
           {"origin": ORIGINS, "repaired": ("no", "yes")}),
    Metric("index_failures", "counter", "Frame indexes that could not be completed."),
    Metric("index_waiting", "gauge", "Instances whose index waits to be completed, or is being."),
    Metric("decoders", "gauge", "Processes that decode, encode and render."),
    Metric("decoders_waiting", "gauge", "Pieces of work for them that have a turn, or wait for one."),
    Metric("workers", "gauge", "Processes that answer and are alive."),
    Metric("worker_starts", "counter", "Processes that answer and were started, the first ones included."),
    Metric("resident_bytes", "gauge", "Resident memory of the processes that answer; pages they share count in each."),
    Metric("open_files", "gauge", "File descriptors these processes have open."),
    Metric("log_lines_lost", "counter", "Lines that could not be written to the log."),
    Metric("scan_running", "gauge", "Whether folders are being scanned."),
    Metric("scan_files", "gauge", "Files the last scan has seen, by what became of them.",
           {"what": ("found", "registered", "failed")}),
)  # fmt: skip
"""All there are."""

_BEAT, _FIRST = 0, 1  # places of a row: when it was last alive, in seconds of the system's monotonic clock


def _places() -> tuple[dict[tuple[str, ...], int], int]:
    places, at = {}, _FIRST
    for metric in METRICS:
        for values in metric.series:
            places[metric.name, *values] = at
            at += metric.width
    return places, at


_PLACES, _WIDTH = _places()
_GAUGES: Final = [_PLACES[m.name, *values] for m in METRICS if m.kind == "gauge" for values in m.series]


def shared(rows: int) -> int:
    """Make the memory for so many processes; give its file descriptor, for children to inherit."""
    file = os.memfd_create("gauges")
    os.ftruncate(file, rows * _WIDTH * 8)
    os.set_inheritable(file, True)
    return file


class Gauges:
    """The row of one process, and the sums of all.

    Parameters
    ----------
    file : int, optional
        Of `shared`; None: there is only this process.
    row : int
        Which one is ours.
    workers : int
        How many processes there should be.

    Attributes
    ----------
    open : int
        Requests that this process is answering; `beat` shows it to the others.

    Examples
    --------
    >>> gauges = Gauges()
    >>> gauges.add("frames_sent", n=3)
    >>> gauges.add("errors", "FrameNotFound")
    >>> gauges.sum("frames_sent"), gauges.sum("errors", "FrameNotFound")
    (3.0, 1.0)
    """

    def __init__(self, file: int | None = None, row: int = 0, *, workers: int = 1) -> None:
        size = _WIDTH * 8 if file is None else os.fstat(file).st_size
        self._map = mmap.mmap(-1 if file is None else file, size)
        self._cells = memoryview(self._map).cast("d")
        self._base = row * _WIDTH
        self._lock = threading.Lock()
        self.workers = workers
        self.open = 0
        self._before: dict[tuple[str, ...], float] = {}
        for place in _GAUGES:
            self._cells[self._base + place] = 0
        self.add("worker_starts")
        self.beat()

    def add(self, name: str, *labels: str, n: float = 1) -> None:
        """Count."""
        at = self._base + _PLACES[name, *labels]
        with self._lock:
            self._cells[at] += n

    def set(self, name: str, *labels: str, to: float) -> None:
        """Say how much there is now."""
        self._cells[self._base + _PLACES[name, *labels]] = to

    def follow(self, name: str, *labels: str, to: float) -> None:
        """Count what somebody else in this process has counted up to `to`."""
        self.add(name, *labels, n=to - self._before.get((name, *labels), 0))
        self._before[name, *labels] = to

    def answered(self, endpoint: str, status: int, seconds: float, size: int, frames: int) -> None:
        """Count an answer: one call, for there are many."""
        cells, base = self._cells, self._base
        timed = base + _PLACES["request_seconds", endpoint]
        with self._lock:
            cells[base + _STATUS[endpoint].get(status, _OTHER[endpoint])] += 1
            cells[timed + bisect_left(BUCKETS, seconds)] += 1
            cells[timed + _SUM] += seconds
            cells[base + _SENT[endpoint]] += size
            if frames:
                cells[base + _FRAMES] += frames

    def beat(self) -> None:
        """Say that this process is alive."""
        self.set("requests_open", to=self.open)
        self._cells[self._base + _BEAT] = time.monotonic()

    def end(self) -> None:
        """Say that this process ends."""
        self._cells[self._base + _BEAT] = 0

    @property
    def _rows(self) -> range:
        return range(len(self._cells) // _WIDTH)

    def alive(self) -> list[int]:
        """Give the rows of processes that have given a sign lately."""
        since = time.monotonic() - _STALE
        return [k for k in self._rows if self._cells[k * _WIDTH + _BEAT] > since]

    def sum(self, name: str, *labels: str) -> float:
        """Give a counter or a gauge, summed over the processes."""
        metric = next(m for m in METRICS if m.name == name)
        return self._sums(metric, self.alive(), labels)[0]

    def _sums(self, metric: Metric, alive: Iterable[int], labels: tuple[str, ...]) -> list[float]:
        at = _PLACES[metric.name, *labels]
        rows = alive if metric.kind == "gauge" else self._rows
        return [sum(self._cells[k * _WIDTH + at + i] for k in rows) for i in range(metric.width)]

    def families(self, known: Callable[[], Mapping[tuple[str, ...], float]] = dict) -> Iterator["Family"]:
        """Give all of it as prometheus_client has it.

        Series that were never counted are left out where there are many.

        Parameters
        ----------
        known : callable
            Gives what is not kept here, by name and labels.
        """
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        alive, told = self.alive(), known()
        for metric in METRICS:
            name, labels = f"multiframe_{metric.name}", list(metric.labels)
            if metric.kind == "histogram":
                timed = HistogramMetricFamily(name, metric.help, labels=labels)
                for values in metric.series:
                    *counts, total = self._sums(metric, alive, values)
                    if any(counts):
                        bounds = [*map(str, BUCKETS), "+Inf"]
                        timed.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total)
                yield timed
                continue
            family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
                name, metric.help, labels=labels
            )
            for values in metric.series:
                (value,) = self._sums(metric, alive, values)
                value = told.get((metric.name, *values), value)
                if value or len(metric.series) < 20:
                    family.add_metric(values, value)
            yield family


_STATUS: Final = {a: {s: _PLACES["requests", a, str(s)] for s in STATUSES} for a in ENDPOINTS}
_OTHER: Final = {a: _PLACES["requests", a, "other"] for a in ENDPOINTS}
_SENT: Final = {a: _PLACES["sent_bytes", a] for a in ENDPOINTS}
_FRAMES: Final = _PLACES["frames_sent",]
_SUM: Final = len(BUCKETS) + 1
