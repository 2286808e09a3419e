"""What ``multiframe info`` and ``multiframe check`` say, for people and for machines.

It knows terminals: widths, colours, what an encoding can write. It must not know how facts and findings are found.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multiframe.check import SEVERITIES, Checked, Finding
from multiframe.elements import Walk
from multiframe.forecast import CLIENTS, Facts, forecast
from multiframe.frameindex import FrameIndex
from multiframe.header import Header
from multiframe.inflate import Inflated
from multiframe.instance import Instance
from multiframe.testing import CountingSource

__all__ = ["facts_of", "findings_as_json", "shown", "sparkline", "tell_facts", "tell_findings"]

_FRAME_TIME, _FRAME_TIME_VECTOR, _CINE_RATE, _DISPLAY_RATE = 0x00181063, 0x00181065, 0x00180040, 0x00082144
_ITEMS = 0xFFFE0000
_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-~=+*#"
_COLOURS = {
    "error": "red", "warning": "yellow", "note": "cyan", "good": "green", "slow": "yellow", "memory": "yellow",
    "wrong pictures": "red", "does not open": "red",
}  # fmt: skip
_TABLES = {
    "none": "none", "missing": "not even an Item for it", "empty": "empty", "proven": "true",
    "wrong": "wrong, and not believed", "unread": "not empty, as it must be beside an Extended one",
    "unknown": "unknown",
}  # fmt: skip


def facts_of(instance: Instance, source: str, counted: CountingSource) -> dict[str, Any]:
    """Gather all that ``info`` tells; nothing is read but the header and the index.

    Parameters
    ----------
    instance : Instance
        Opened from `counted`.
    source : str
        What it was opened by; of a URL the query is left out.
    """
    index, spec = instance.index, instance.spec
    sizes, tables = index.sizes, _tables(instance.header, index)
    per_frame = np.diff(index.firsts.astype(np.int64))
    fewest, most = (int(per_frame.min()), int(per_frame.max())) if len(per_frame) else (0, 0)
    syntax, size = instance.syntax, instance.stat.size
    if isinstance(instance.source, Inflated):  # that is larger than the file
        size = counted.stat().size
    layout = Facts(
        size=size, syntax=syntax, frames=len(index), rows=spec.rows, columns=spec.columns,
        samples=spec.samples, stream=index.kind == "stream", fewest=fewest, most=most,
        basic=tables["basic"] in ("proven", "wrong", "unread"), extended=tables["extended"] != "none",
        table_wrong="wrong" in tables.values(), counted=(index.declared or 1) == len(index),
        cut=index.damage is not None and index.damage.kind == "cut",
    )  # fmt: skip
    return {
        "source": source.partition("?")[0] if "://" in source else source,
        "size": size,
        "syntax": {"uid": syntax.uid, "name": syntax.name},
        "sop_class_uid": instance.header.sop_class_uid,
        "sop_instance_uid": instance.header.sop_instance_uid,
        "frames": len(index),
        "declared_frames": index.declared,
        "rows": spec.rows,
        "columns": spec.columns,
        "samples": spec.samples,
        "photometric": spec.photometric,
        "bits_allocated": spec.bits_allocated,
        "bits_stored": spec.bits_stored,
        "kind": index.kind,
        "duration": _duration(instance.header, len(index)) if index.kind == "frames" else None,
        "origin": index.origin,
        "proof": index.proof,
        "repaired": index.repaired,
        "complete": index.complete and index.damage is None,
        "damage": str(index.damage.error()) if index.damage else None,
        "fragments": index.fragments,
        "fragments_per_frame": {"fewest": fewest, "most": most} if fewest else None,
        "frame_bytes": {
            "smallest": int(sizes.min()), "median": int(np.median(sizes)), "largest": int(sizes.max()),
        } if len(sizes) else None,
        "tables": tables,
        "forecast": [told._asdict() for told in forecast(layout)],
        "requests": counted.requests,
        "bytes_read": counted.bytes_read,
    }  # fmt: skip


def _tables(header: Header, index: FrameIndex) -> dict[str, str]:
    """Say of both offset tables whether they are there, and whether the Items bear them out."""
    extended = "none"
    if header.extended_table is not None:
        extended = "proven" if index.origin == "extended" else "wrong" if index.fragments else "unknown"
    if index.native is not None:
        return {"basic": "none", "extended": extended}
    if not index.fragments:
        return {"basic": "unknown", "extended": extended}
    held = int(index.starts[0]) - header.pixels.start - 16  # what lies between the first two Items
    if held < 0:
        basic = "missing"
    elif not held or (index.origin == "scan" and not index.repaired):  # an Item without a value lies there
        basic = "empty"
    elif index.origin == "basic":
        basic = "proven"
    else:
        basic = "unread" if index.origin == "extended" else "wrong"
    return {"basic": basic, "extended": extended}


def _duration(header: Header, frames: int) -> float | None:
    """Seconds that a cine lasts, if it says how fast it goes (PS3.3 C.7.6.5)."""
    told = _numbers(header)
    if vector := told.get(_FRAME_TIME_VECTOR):
        seconds = sum(vector[:frames]) / 1000
    elif (time := told.get(_FRAME_TIME)) and time[0] > 0:
        seconds = frames * time[0] / 1000
    else:
        rates = (told.get(tag, [0.0])[0] for tag in (_CINE_RATE, _DISPLAY_RATE))
        rate = next((rate for rate in rates if rate > 0), 0.0)
        seconds = frames / rate if rate else 0.0
    return round(seconds, 3) if 0 < seconds < 1e9 else None


def _numbers(header: Header) -> dict[int, list[float]]:
    """Read the attributes that say how fast a cine goes."""
    wanted = (_FRAME_TIME, _FRAME_TIME_VECTOR, _CINE_RATE, _DISPLAY_RATE)
    found: dict[int, list[float]] = {}
    explicit, little = header.explicit, header.syntax.little
    raw, walk = header.raw, Walk(header.dataset_at, explicit=explicit, little=little, descend=False, strays=True)
    while walk.at < len(raw) and (element := walk.step(raw)) is not None:
        if not element.depth and max(wanted) < element.tag < _ITEMS:
            break
        if element.tag in wanted and not element.depth and element.stop > element.start:
            value = raw[element.start : element.stop].decode("latin-1")
            try:
                numbers = [float(part) for part in value.strip(" \0").split("\\")]
            except ValueError:
                continue
            found[element.tag] = [number for number in numbers if 0 <= number < 1e12]
    return {tag: numbers for tag, numbers in found.items() if numbers}


def sparkline(values: Sequence[float] | NDArray[np.int64], width: int, *, blocks: str = _BLOCKS) -> str:
    """Draw values as a line of blocks, the smallest lowest, the largest highest.

    Where there are more values than columns, each column shows the largest of its values.

    Examples
    --------
    >>> sparkline([1, 2, 4, 8], 10), sparkline([1, 8, 4, 4], 2), sparkline([1, 2, 4, 8], 10, blocks="_.-~=+*#")
    ('▁▂▄█', '█▁', '_.~#')
    """
    values = np.asarray(values, float)
    if not len(values) or width < 1:
        return ""
    edges = np.linspace(0, len(values), min(width, len(values)) + 1).astype(int)
    tops = np.maximum.reduceat(values, edges[:-1])
    low, high = float(tops.min()), float(tops.max())
    steps = np.rint((tops - low) / ((high - low) or 1.0) * (len(blocks) - 1)).astype(int)
    return "".join(blocks[step] for step in steps)


def _writes(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def shown(text: str) -> str:
    r"""Give a path as stdout can write it, whatever bytes it has.

    Examples
    --------
    >>> shown("cine.dcm"), len(shown("\udcff.dcm"))
    ('cine.dcm', 5)
    """
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)


def tell_facts(facts: dict[str, Any], index: FrameIndex) -> None:
    """Print what ``info`` tells a person."""
    console = Console(highlight=False, markup=False)
    told = {"native": "by counting", "scan": "from the Items", "basic": "Basic Offset Table, proven",
            "extended": "Extended Offset Table, proven"}[facts["origin"]]  # fmt: skip
    if facts["repaired"]:
        told += "; the file's own table is wrong and was not believed"
    rows = {
        "file": shown(facts["source"]),
        "size": f"{facts['size']:,} bytes",
        "syntax": f"{facts['syntax']['name']} ({facts['syntax']['uid']})",
        "picture": f"{facts['columns']} x {facts['rows']}, {shown(facts['photometric'])}, "
        f"{facts['bits_stored']} of {facts['bits_allocated']} bits",
        "frames": _frames(facts),
        "fragments": _fragments(facts),
        "tables": ", ".join(f"{name.title()}: {_TABLES[state]}" for name, state in facts["tables"].items()),
        "found": told,
    }
    if facts["frame_bytes"]:
        rows["bytes"] = "{smallest:,} to {largest:,} a frame, half of them up to {median:,}".format_map(
            facts["frame_bytes"]
        )
        blocks = _BLOCKS if _writes(console.encoding, _BLOCKS) else _ASCII
        if facts["frame_bytes"]["smallest"] < facts["frame_bytes"]["largest"]:
            rows[""] = sparkline(index.sizes, max(8, console.width - 14), blocks=blocks)
    rows["cost"] = (
        f"{facts['requests']:,} reads, {facts['bytes_read']:,} bytes "
        f"({_share(facts['bytes_read'], facts['size'])} of the file)"
    )
    if facts["damage"]:
        rows["damage"] = facts["damage"]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    _tell_forecast(facts["forecast"], console)


def _frames(facts: dict[str, Any]) -> str:
    if facts["kind"] == "stream":
        return f"video: one stream of {facts['fragments']:,} fragments"
    declared = facts["declared_frames"]
    wrong = f" (Number of Frames says {declared:,})" if declared and declared != facts["frames"] else ""
    lasts = f", {facts['duration']:,.1f} s" if facts["duration"] else ""
    return f"{facts['frames']:,}{wrong}{lasts}"


def _fragments(facts: dict[str, Any]) -> str:
    each = facts["fragments_per_frame"]
    if not facts["fragments"] or not each:
        return f"{facts['fragments']:,}" if facts["fragments"] else "none: native"
    if each["fewest"] == each["most"]:
        return f"{facts['fragments']:,}, {each['most']:,} a frame"
    return f"{facts['fragments']:,}, {each['fewest']:,} to {each['most']:,} a frame"


def _tell_forecast(told: Iterable[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("given to", ratio=3, overflow="fold")
    table.add_column("it is", no_wrap=True)
    table.add_column("because", ratio=5, overflow="fold")
    for one in told:
        why = f"{one['why']} ({one['basis']})" + (f". Remedy: {one['remedy']}" if one["remedy"] else "")
        table.add_row(CLIENTS[one["client"]], Text(one["verdict"], _COLOURS[one["verdict"]]), why)
    if table.row_count:
        console.print()
        console.print(table)


def findings_as_json(checked: Checked, error: str | None) -> dict[str, Any]:
    """Give what ``check --json`` says of one file."""
    return {"source": checked.source, "findings": [f._asdict() for f in checked.findings], "error": error}


def tell_findings(checked: Checked, console: Console) -> None:
    """Print what ``check`` tells a person of one file."""
    console.print(Text.assemble((shown(checked.source), "bold"), f": {_counted(checked.findings)}"), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in checked.findings:
        where = "" if finding.offset is None else f"at {finding.offset:,}"
        what = finding.message
        if finding.code != "dciodvfy":  # it says a hundred things, all with the same remedy
            what += f" ({finding.clause}). Remedy: {finding.remedy}"
        table.add_row(Text(f"  {finding.severity}", _COLOURS[finding.severity]), finding.code, where, what)
    if checked.findings:
        console.print(table)


def _counted(findings: Sequence[Finding]) -> str:
    severities = [finding.severity for finding in findings]
    told = [f"{n:,} {severity}{'s' if n > 1 else ''}" for severity in SEVERITIES if (n := severities.count(severity))]
    return ", ".join(told) or "nothing found"


def _share(part: int, whole: int) -> str:
    """Write a part in per cent: two digits that tell, and none behind the point where there are more before it."""
    percent = 100 * part / max(1, whole)
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
