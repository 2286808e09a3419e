"""What is said of viewers is what was measured and read, layout by layout."""

from dataclasses import replace
from typing import Any

import pytest

from multiframe.forecast import CLIENTS, Facts, forecast
from multiframe.syntaxes import SYNTAXES, syntax_of

JPEG, RLE, HTJ2K, JXL, JPEG_LS = (f"1.2.840.10008.1.2.{n}" for n in ("4.50", "5", "4.201", "4.110", "4.80"))
CINE = Facts(size=50_000_000, syntax=syntax_of(JPEG), frames=270, rows=768, columns=1024, samples=3)


def verdicts(**changes: Any) -> dict[str, str]:
    if "syntax" in changes:
        changes["syntax"] = syntax_of(changes["syntax"])
    return {told.client: told.verdict for told in forecast(replace(CINE, **changes))}


def test_one_fragment_a_frame_and_no_table_is_good_for_all() -> None:
    assert verdicts() == dict.fromkeys(CLIENTS, "good")


@pytest.mark.parametrize(
    ("changes", "client", "verdict"),
    [
        ({"fewest": 4, "most": 4}, "natural", "wrong pictures"),  # measured
        ({"fewest": 4, "most": 4}, "legacy", "slow"),
        ({"fewest": 4, "most": 4, "syntax": RLE}, "legacy", "wrong pictures"),
        ({"fewest": 4, "most": 4, "basic": True}, "natural", "good"),  # measured
        ({"fewest": 4, "most": 4, "basic": True}, "legacy", "slow"),
        ({"fewest": 4, "most": 4}, "dwv", "good"),
        ({"fewest": 1, "most": 4}, "dwv", "wrong pictures"),
        ({"extended": True}, "legacy", "does not open"),  # measured
        ({"extended": True}, "natural", "good"),  # measured
        ({"basic": True}, "legacy", "good"),  # measured
        ({"basic": True, "syntax": JPEG_LS, "size": 200_000_000}, "legacy", "memory"),
        ({"basic": True, "table_wrong": True}, "legacy", "wrong pictures"),
        ({"basic": True, "table_wrong": True}, "natural", "wrong pictures"),
        ({"basic": True, "table_wrong": True}, "pydicom", "wrong pictures"),
        ({"extended": True, "fewest": 2, "most": 2}, "pydicom", "wrong pictures"),
        ({"fewest": 2, "most": 2, "syntax": RLE}, "pydicom", "wrong pictures"),
        ({"counted": False}, "pydicom", "wrong pictures"),
        ({"size": 100_000_000}, "natural", "slow"),
        ({"size": 1_500_000_000}, "legacy", "memory"),  # measured
        ({"size": 1_500_000_000}, "natural", "memory"),  # measured
        ({"size": 2_250_000_000}, "legacy", "does not open"),  # measured
        ({"size": 2_250_000_000}, "natural", "does not open"),  # measured
        ({"size": 2_250_000_000}, "frames", "good"),
        ({"frames": 8090}, "frames", "memory"),  # measured
        ({"frames": 8090, "samples": 1}, "frames", "good"),  # measured
        ({"frames": 2000, "syntax": HTJ2K}, "frames", "memory"),  # measured
        ({"frames": 100, "syntax": HTJ2K}, "frames", "good"),
        ({"syntax": HTJ2K}, "slim", "does not open"),
        ({"syntax": JXL}, "frames", "does not open"),
        ({"cut": True}, "natural", "wrong pictures"),
        ({"cut": True}, "pydicom", "wrong pictures"),
        ({"cut": True}, "frames", "wrong pictures"),
        ({"cut": True, "size": 2_250_000_000}, "natural", "does not open"),
        ({"stream": True}, "frames", "does not open"),
        ({"syntax": "1.2.840.10008.1.2.1.99"}, "frames", "slow"),
    ],
    ids=str,
)
def test_forecast(changes: dict[str, Any], client: str, verdict: str) -> None:
    assert verdicts(**changes)[client] == verdict


def test_the_worst_is_said() -> None:
    """Wrong pictures are worse than late ones, and what does not open shows none."""
    assert verdicts(size=600_000_000, fewest=4, most=4)["natural"] == "wrong pictures"
    assert verdicts(size=3 << 30, fewest=4, most=4)["natural"] == "does not open"


def test_whoever_has_a_problem_has_a_reason_and_a_remedy() -> None:
    for uid in SYNTAXES:
        for layout in ({}, {"fewest": 2, "most": 5}, {"basic": True, "table_wrong": True}, {"extended": True}):
            for size in (10, 600_000_000, 5 << 30):
                for told in forecast(replace(CINE, size=size, syntax=syntax_of(uid), **layout)):
                    assert told.client in CLIENTS
                    assert told.why
                    assert told.verdict == "good" or told.remedy


def test_nothing_is_said_of_a_file_without_frames() -> None:
    assert forecast(replace(CINE, frames=0)) == []
