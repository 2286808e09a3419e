"""What the soak says of what it saw; and, for those with time, that it runs."""

import math
import random
from pathlib import Path

import pytest
from benchmarks import soak
from benchmarks.soak import Sample, verdict


def samples(**rises: float) -> list[Sample]:
    """An hour that begins warm, each figure noisy, and rising by so much of itself."""
    chance = random.Random(1)
    base = {"rss": 300e6, "descriptors": 80, "threads": 25, "latency": 3.0}
    out = []
    for minute in range(61):
        values = {
            what: value * (1 + rises.get(what, 0) * minute / 60) * chance.uniform(0.99, 1.01)
            for what, value in base.items()
        }
        out.append(Sample(minute, **values, latency_p99=9.0, asked=100 * minute))
    return out


def flat(seen: list[Sample]) -> set[str]:
    return {what for what, one in verdict(seen).items() if one["flat"]}


def test_noise_is_flat_and_what_shrinks_too() -> None:
    assert flat(samples()) == flat(samples(rss=-0.5)) == {"rss", "descriptors", "threads", "latency"}


@pytest.mark.parametrize(("what", "rise"), [("rss", 0.2), ("descriptors", 0.2), ("threads", 0.3), ("latency", 2.0)])
def test_what_grows_is_seen(what: str, rise: float) -> None:
    assert flat(samples(**{what: rise})) == {"rss", "descriptors", "threads", "latency"} - {what}


def test_growth_before_it_is_warm_and_single_peaks_are_not() -> None:
    seen = samples()
    warming = [s._replace(rss=s.rss * min(1, 0.5 + s.minutes / 28)) for s in seen]
    peaks = [s._replace(rss=s.rss * (2 if s.asked % 700 == 0 else 1)) for s in seen]
    assert "rss" in flat(warming)
    assert "rss" in flat(peaks)


def test_a_slope_is_what_it_is() -> None:
    middle, risen = soak.rise([Sample(m, 10.0 * m, 0, 0, 0, 0, 0) for m in range(21)], "rss")
    assert math.isclose(middle, 100)
    assert math.isclose(risen, 200)


@pytest.mark.long
def test_it_runs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    soak.soak(tmp_path, 0.3, tmp_path / "data")
    assert (tmp_path / "soak.svg").stat().st_size > 5000
