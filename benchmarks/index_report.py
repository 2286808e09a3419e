"""How index's figures are told: tables in Markdown, and a plot. It must not know how they were taken."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.report import GREY, IDEAL, LIGHT, OURS, STYLE, rows

type Figures = dict[str, Any]

COLORS = {"multiframe": OURS, "pydicom": IDEAL, "highdicom": GREY, "wsidicom": LIGHT}


def table(facts: Figures, results: Sequence[Figures]) -> str:
    """Write the figures for people."""
    m, (before, after) = facts["machine"], facts["load"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    names = [name for name in facts["versions"] if name != "multiframe"]
    cines = [r for r in results if not r["slide"]]
    others = [name for name in names if name != "wsidicom"]
    parts = [
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, Python {m['python']}; load average "
        f"{before} before, {after} after. {versions}. Medians of {facts['repeats']} repeats; × says how many times "
        "longer than multiframe it took in the same repeat. *Read*: bytes read of the file, and in how many reads.",
        "**All frames found.** With a table pydicom, highdicom and wsidicom believe it and multiframe proves it.",
        _compared(cines, others, "index"),
        "**First random frame**: open, find it, read its bytes.",
        _compared(cines, others, "frame"),
        "**The walk alone**, from Item to Item of an open file: `follow_items` and `pydicom.encaps.parse_fragments`.",
        _compared([r for r in cines if r["table"] == "none"], ["pydicom"], "walk"),
        "**Whole slide images**, the only ones wsidicom opens: all frames found, then the first random one.",
        _compared([r for r in results if r["slide"]], names, "index"),
        _compared([r for r in results if r["slide"]], names, "frame"),
        "*fragments*: it counted fragments, and cannot tell the frames without reading them. *wrong*: other bytes than "
        "those of that frame, without an error.",
    ]
    return "\n\n".join(parts) + "\n"


def _compared(results: Sequence[Figures], others: Sequence[str], task: str) -> str:
    """One row a file: ours, then each of the others with its ratio."""
    head = ["frames", "size", "fragments", "table", "multiframe", "read"]
    for name in others:
        head += [name, "×", "read"]
    lines = []
    for r in results:
        line = [f"{r['frames']:,}", size(r["size"]), f"{r['fragments']}", r["table"]]
        for name in ("multiframe", *others):
            found = r["readers"].get(name, {}).get(task, {"error": "—"})
            if "error" in found:
                line += [found["error"], "", ""]
                continue
            note = "" if found["answer"] == "right" else f" *{found['answer']}*"
            line.append(f"{found['ms']:,.1f} ms{note}")
            if name != "multiframe":
                line.append(f"{found['ratio']:.1f}")
            line.append(f"{size(found['read'])} in {found['reads']:,}")
        lines.append(line)
    return rows("|".join(head), lines)


def size(size: float) -> str:
    """Say a number of bytes."""
    for unit, most in (("B", 1e3), ("kB", 1e6), ("MB", 1e9)):
        if size < most:
            value = size / (most / 1e3)
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"


def plot(results: Sequence[Figures], path: Path) -> None:
    """Draw times and bytes against the number of frames, no table, one fragment a frame."""
    plain = [r for r in results if r["table"] == "none" and r["fragments"] == 1 and not r["slide"]]
    large = [r for r in plain if r["frame_size"] > 100_000]
    small = [r for r in plain if r["frame_size"] < 100_000]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.2), layout=ConstrainedLayoutEngine(wspace=0.06))
        panels = figure.subplots(1, 4)
        _panel(panels[0], "All frames, 185 kB each, ms", large, lambda r, found: found["index"]["ms"])
        _panel(panels[1], "All frames, 2 kB each, ms", small, lambda r, found: found["index"]["ms"])
        _panel(panels[2], "First random, 185 kB, ms", large, lambda r, found: found["frame"]["ms"])
        _panel(
            panels[3], "Read of the file, 185 kB, %", large, lambda r, found: 100 * found["index"]["read"] / r["size"]
        )
        panels[0].legend(frameon=False, loc="upper left", handlelength=1.6, borderaxespad=0.2)
        dated = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(path, metadata=dated, dpi=110)


def _panel(axes: Axes, title: str, results: Sequence[Figures], value: Callable[[Figures, Figures], float]) -> None:
    for name, color in COLORS.items():
        seen = [
            (r["frames"], value(r, r["readers"][name]))
            for r in results
            if "ms" in r["readers"].get(name, {}).get("index", {})
        ]
        if seen:
            axes.loglog(*zip(*seen, strict=True), "o-", color=color, label=name)
    axes.set_title(title)
    axes.set_xlabel("frames")
