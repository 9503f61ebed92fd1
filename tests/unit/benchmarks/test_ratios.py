"""Two versions in one run: their ratios, the intervals, and in which order they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import latency, ratios
from benchmarks.ratios import ratio_metrics
from registry.evidence.results import Metric
from tests.unit.benchmarks.predictors import Album, Picture, Player


@dataclass(frozen=True)
class Noted(Player):
    """A version that notes its name in a list when it answers."""

    name: str = ""
    said: list[tuple[str, bytes]] = field(default_factory=list)

    def predict(self, images: Sequence[Any], *, target: Any = None) -> list[Any]:
        self.said.append((self.name, images[0]))
        return []


@pytest.fixture
def album(tmp_path: Path) -> Album:
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(f"{number}".encode())
    return Album(tmp_path, tuple(Picture(tmp_path / f"{number}", "low", "zero") for number in range(3)))


def by_name(times: np.ndarray, others: np.ndarray) -> dict[str, Metric]:
    return {metric.name: metric for metric in ratio_metrics(times, others, 0)}


def test_versions_answer_the_same_image_in_turns(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MIN_ROUNDS", 60)
    monkeypatch.setattr(latency, "MAX_ROUNDS", 60)
    said: list[tuple[str, bytes]] = []
    one, other = (Noted({"low": ["zero"]}, name=name, said=said) for name in "ab")
    measured = latency.latency(one, album, against=other)
    rounds = said[2 * latency.WARM_UP : 2 * latency.WARM_UP + 120]
    assert [name for name, _ in rounds] == ["a", "b", "b", "a"] * 30
    assert [image for _, image in rounds[::2]] == [image for _, image in rounds[1::2]]
    found = {metric.name: metric for metric in measured.metrics}
    assert {found[f"latency_ratio_{name}"].n for name in ("p50", "p95")} == {60}
    assert measured.machine is not None
    assert measured.notes["batch"] == 1


def test_one_version_alone_has_no_ratios(album: Album) -> None:
    measured = latency.latency(Noted({"low": ["zero"]}), album)
    assert not any(metric.name.startswith("latency_ratio") for metric in measured.metrics)


def test_a_version_twice_as_slow_has_the_ratio_two() -> None:
    times = np.random.default_rng(0).lognormal(size=200)
    for metric in by_name(2 * times, times).values():
        assert (metric.value, metric.low, metric.high) == (pytest.approx(2), pytest.approx(2), pytest.approx(2))


def test_load_that_both_feel_is_not_in_the_median() -> None:
    random = np.random.default_rng(0)
    load = np.where(np.arange(300) // 50 % 2, 10.0, 1.0)
    times, others = (load * random.lognormal(0, 0.05, 300) for _ in range(2))
    found = by_name(1.5 * times, others)["latency_ratio_p50"]
    assert found.low is not None
    assert found.high is not None
    assert 1.4 < found.low < 1.5 < found.high < 1.6


def test_a_slow_tail_is_seen_in_the_upper_percentile_only() -> None:
    times = np.random.default_rng(0).lognormal(0, 0.05, 600)
    slow = np.where(np.arange(600) % 10 == 0, 3 * times, times)
    found = by_name(slow, times)
    assert found["latency_ratio_p50"].value == pytest.approx(1)
    assert (found["latency_ratio_p95"].value or 0) > 2


@given(st.lists(st.tuples(st.floats(1e-3, 1e4), st.floats(1e-3, 1e4)), min_size=1, max_size=30))
def test_every_ratio_is_within_its_interval(pairs: list[tuple[float, float]]) -> None:
    for metric in ratio_metrics(*np.array(pairs).T, 0):
        assert metric.low is not None
        assert metric.value is not None
        assert metric.high is not None
        assert 0 < metric.low <= metric.value <= metric.high


def test_the_same_times_give_the_same_interval() -> None:
    times, others = np.random.default_rng(0).lognormal(size=(2, 80))
    assert ratio_metrics(times, others, 0) == ratio_metrics(times, others, 0)


def simulated(random: np.random.Generator, rounds: int, slower: float) -> list[Metric]:
    """A run with load in bursts that both versions feel, noise in each answer, and some slow answers."""
    load, bursts = 0.0, np.empty(rounds)
    for number in range(rounds):
        load = 0.9 * load + random.normal(0, 0.1)
        bursts[number] = load

    def times() -> np.ndarray:
        slow = (random.random(rounds) < 0.04) * random.exponential(1.0, rounds)
        return np.asarray(np.exp(bursts + random.normal(0, 0.12, rounds)) * (1 + slow))

    return ratio_metrics(slower * times(), times(), int(random.integers(2**31)))


@pytest.mark.acceptance
@pytest.mark.parametrize(("metric", "most", "bad"), [(0, 1.10, 1.10), (1, 1.25, 1.25)], ids=["p50", "p95"])
def test_the_default_rules_tell_a_slower_version(
    metric: int, most: float, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/policy.md says: of 40 runs about one of a version that is as slow as the bound passes."""
    monkeypatch.setattr(ratios, "RESAMPLES", 200)
    random = np.random.default_rng(0)
    ends = {slower: [simulated(random, 300, slower)[metric].high or 0 for _ in range(40)] for slower in (1.0, bad)}
    assert sum(high <= most for high in ends[1.0]) >= 30
    assert sum(high <= most for high in ends[bad]) <= 7
