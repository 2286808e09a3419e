"""How frames-load's and h2's figures are told: tables in Markdown, and plots. It must not know how they were taken."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.report import GREY, IDEAL, OURS, STYLE, rows

type Figures = dict[str, Any]

COLORS = {"multiframe": OURS, "nginx": GREY, "ideal": IDEAL}


def write(out: Path, facts: Figures) -> None:
    """Write frames-load.json, .md and .svg."""
    name = facts["benchmark"]
    save(out, facts)
    text = _table(facts)
    (out / f"{name}.md").write_text(text)
    one = facts["results"]["1"]
    bars(
        out / f"{name}.svg",
        ("Random frames a second", {n: r["per_second"] for n, r in one.items()}),
        ("Processor time, µs a frame", {n: r["cpu_us"] for n, r in one.items()}),
        ("p99 ÷ p50", {n: r["p99_to_p50"] for n, r in one.items()}),
    )
    print(text)


def _table(facts: Figures) -> str:
    lines = [
        (
            workers, name, f"{r['per_second']:,.0f}", f"{r['ratio']:.2f}", f"{r['cpu_us']:.0f} µs",
            f"{r['cpu_ratio']:.2f}", f"{r['p50_ms']:.1f} ms", f"{r['p99_ms']:.1f} ms", f"{r['p99_to_p50']:.1f}",
            f"{r['rss_largest'] / 1e6:.0f} MB",
        )
        for workers, servers in facts["results"].items()
        for name, r in servers.items()
    ]  # fmt: skip
    parts = [
        head(facts),
        f"Random frames of a file of {facts['size'] / 1e6:.0f} MB, {facts['frames']:,} frames, "
        f"{facts['connections']} connections, {facts['seconds']} s a repeat; × is the ratio to nginx in the same "
        "repeat, memory the largest sum of all processes.",
        rows("workers|server|frames /s|×|processor, a frame|×|p50|p99|p99 ÷ p50|memory", lines),
    ]
    if o := facts["orthanc"]:
        told = [
            ("Orthanc", f"{o['orthanc_ms']:,.0f} ms", f"{o['orthanc_rss'] / 1e6:,.0f} MB"),
            ("multiframe", f"{o['multiframe_ms']:.2f} ms", f"{o['multiframe_rss'] / 1e6:,.0f} MB"),
            ("ratio", f"{o['ratio']:,.0f}", ""),
        ]
        parts += ["One connection, one random frame after the other:", rows("server|a frame|memory", told)]
    return "\n\n".join(parts) + "\n"


def head(facts: Figures) -> str:
    m, (before, after) = facts["machine"], facts["load"]
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, Python {m['python']}; load average "
        f"{before} before, {after} after. Medians of {facts['repeats']} repeats."
    )


def save(out: Path, facts: Figures) -> None:
    """Write the figures as JSON."""
    (out / f"{facts['benchmark']}.json").write_text(json.dumps(rounded(facts), indent=1) + "\n")


def bars(path: Path, *panels: tuple[str, dict[str, float]], width: float = 3.2) -> None:
    """Draw one panel of bars beside the other."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * len(panels), 2.6), layout=ConstrainedLayoutEngine(wspace=0.06))
        for axes, (title, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            names: Sequence[str] = list(values)
            axes.bar(names, list(values.values()), color=[COLORS.get(n, OURS) for n in names], width=0.6)
            axes.set_title(title)
            axes.tick_params(axis="x", length=0)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def rounded(value: Any) -> Any:
    """Keep three decimals: the rest is noise."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 3) if isinstance(value, float) else value
