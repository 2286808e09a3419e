"""How first-frame's figures are told: tables in Markdown, and a plot. It must not know how they were taken."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

type Figures = dict[str, Any]


def table(facts: Figures, results: Sequence[Figures]) -> str:
    """Write the figures for people."""
    m, (before, after) = facts["machine"], facts["load"]
    base = results[0]["multiframe"]["first_ms"]
    first, jumps, memory, library = [], [], [], []
    for r in results:
        ours, ideal, ratio, size = r["multiframe"], r["ideal"], r["ratio"], _size(r["size"])
        first.append((
            size, f"{r['frames']:,}", _ms(ours["first_ms"]), _ms(ideal["first_ms"]), _x(ratio["first"]),
            _x(ours["first_ms"] / base), _ms(ours["frame_ms"]), _x(ratio["frame"]),
            _kb(ours["first_received"]), _kb(r["read_first"]), _kb(r["read_index"]),
        ))  # fmt: skip
        jumps.append((
            size, _ms(ours["cold_next_ms"]),
            _ms(ours["cold_p50_ms"]), _x(ratio["cold_p50"]), _ms(ours["cold_p95_ms"]), _x(ratio["cold_p95"]),
            _ms(ours["warm_p50_ms"]), _x(ratio["warm_p50"]), _ms(ours["warm_p95_ms"]), _x(ratio["warm_p95"]),
            _ms(ideal["warm_p50_ms"]), _ms(ideal["warm_p95_ms"]), _ms(ours["last_ms"]),
        ))  # fmt: skip
        memory.append((
            size, _mb(ours["rss_idle"]), _mb(ours["rss_peak"]), _mb(r["rss_largest"]), _mb(ideal["rss_peak"]),
            f"{ours['burst_fps']:.0f} /s", f"{ideal['burst_fps']:.0f} /s",
        ))  # fmt: skip
        library.append((size, _ms(r["library"]["multiframe_ms"]), _ms(r["library"]["pydicom_ms"])))
    parts = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, Python {m['python']}; load average "
        f"{before} before, {after} after. Medians of {facts['repeats']} repeats; × is the ratio to the ideal server in "
        "the same repeat.",
        "**First frame**, index cold: connect, metadata, frame 1. *Read*: bytes the library reads of the file for it; "
        "*index*: for all frames, which is done behind the answer.",
        rows("file|frames|first frame|ideal|×|÷ 60 frames|frame alone|×|received|read|index", first),
        f"**Random frames**, {facts['jumps']} a repeat: *cold* follows the first frame at once, while the index is "
        "being completed, and *second* is the first of them. *Last first*: a new server is asked for its last frame "
        "before any other.",
        rows("file|second|cold p50|×|cold p95|×|warm p50|×|warm p95|×|ideal p50|ideal p95|last first", jumps),
        "**Memory**: resident bytes of all server processes together, what they share counted in each. *Burst*: frames "
        "a second over six connections.",
        rows("file|idle|peak|largest peak|ideal peak|burst|ideal burst", memory),
        "**No server**: open the file, find its middle frame, read it.",
        rows("file|multiframe|pydicom", library),
    ]
    return "\n\n".join(parts) + "\n"


def rows(head: str, cells: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown; `head` has its names between bars."""
    names = head.split("|")
    aligned = ["---", *["---:"] * (len(names) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, aligned, *cells))


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size > 999e6 else f"{size / 1e6:.0f} MB"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"


def _kb(value: float) -> str:
    return f"{value / 1e3:,.0f} kB"


def _mb(value: float) -> str:
    return f"{value / 1e6:.0f} MB"


def _x(value: float) -> str:
    return f"{value:.2f}"


OURS, LIGHT, IDEAL, GREY = "#0b6e99", "#7fb8d1", "#d9822b", "#6b7280"

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "multiframe",  # the same figures give the same file
    "font.family": "DejaVu Sans",  # Matplotlib brings it
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "xtick.color": "#374151",
    "ytick.color": "#374151",
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


def plot(results: Sequence[Figures], path: Path) -> None:
    """Draw first frame, random frames and memory against file size; the suffix of `path` says as what."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.4), layout=ConstrainedLayoutEngine(wspace=0.06))
        first, jump, memory = figure.subplots(1, 3)
        _panel(
            first, "First frame, ms", results,
            ("multiframe, index cold", OURS, "o-", [r["multiframe"]["first_ms"] for r in results]),
            ("ideal server", IDEAL, "o-", [r["ideal"]["first_ms"] for r in results]),
        )  # fmt: skip
        _panel(
            jump, "Random frame, × ideal server", results,
            ("multiframe, index cold at first", LIGHT, "o-", [r["ratio"]["cold_p50"] for r in results]),
            ("multiframe, index warm", OURS, "o-", [r["ratio"]["warm_p50"] for r in results]),
            ("ideal server", IDEAL, "-", [1.0 for _ in results]),
        )  # fmt: skip
        _panel(
            memory, "Peak memory, all processes, MB", results,
            ("multiframe", OURS, "o-", [r["multiframe"]["rss_peak"] / 1e6 for r in results]),
            ("ideal server", IDEAL, "o-", [r["ideal"]["rss_peak"] / 1e6 for r in results]),
        )  # fmt: skip
        dated = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=dated, dpi=110)


def _panel(axes: Axes, title: str, results: Sequence[Figures], *lines: tuple[str, str, str, list[float]]) -> None:
    sizes = [r["size"] / 1e6 for r in results]
    for label, color, style, values in lines:
        axes.plot(sizes, values, style, color=color, label=label, clip_on=False)
    axes.set_title(title)
    axes.set_xlabel("file size, MB")
    axes.set_xlim(0, 1.02 * max(sizes))
    axes.set_ylim(0, 1.5 * max(max(values) for *_, values in lines))
    axes.legend(frameon=False, loc="upper left", handlelength=1.6, borderaxespad=0.2)
