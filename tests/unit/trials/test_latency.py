"""Latencies as signs of windows, hour by hour."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.trials.evalues import Rate
from registry.trials.latency import TrialHour, late_windows, latency_evidence, slower_windows
from registry.trials.merge import MergedArm
from registry.trials.observations import TrialStage, Window
from registry.trials.quantiles import quantile
from registry.trials.recorder import Counted, Recorder

HOUR = TrialHour(1, 1000)


def arm(*windows: Window, replica: str = "a") -> MergedArm:
    return MergedArm("v", windows={replica: windows})


def window(at: int, compute: float, n: int = 50, request: float | None = None, median: float | None = None) -> Window:
    return Window(
        at=at, n=2 * n, asked=n, compute_p50=median, compute_p95=compute, request_p50=request, request_p95=request
    )


def test_windows_are_compared_at_the_same_time_and_replica() -> None:
    stable = arm(window(1000, 10), window(1001, 10), window(1002, 10), window(1004, 10))
    canary = arm(window(1000, 11.5), window(1001, 10.5), window(1003, 99), window(1004, 11))
    signs = slower_windows(canary, stable, 1.1, HOUR)
    assert (signs.x, signs.n) == (1, 2)  # 1004 is a tie, 1003 has nothing beside it
    assert slower_windows(canary, arm(window(1000, 1), replica="b"), 1.1, HOUR).n == 0


def test_windows_with_few_requests_are_compared_by_their_median() -> None:
    stable = arm(window(1000, 10, median=5), window(1001, 10, n=4, median=5))
    canary = arm(window(1000, 99, n=6, median=5.1), window(1001, 99, n=50, median=9))
    signs = slower_windows(canary, stable, 1.1, HOUR)
    assert (signs.x, signs.n) == (0, 1)


def test_a_bound_counts_where_exactly_one_arm_is_late() -> None:
    stable = arm(*(window(1000 + number, 1, request=time) for number, time in enumerate((100, 300, 100, 300))))
    canary = arm(*(window(1000 + number, 1, request=time) for number, time in enumerate((300, 300, 100, 100))))
    signs = late_windows(canary, stable, 220, HOUR)
    assert (signs.x, signs.n) == (1, 2)
    alone = late_windows(canary, None, 220, HOUR)
    assert (alone.x, alone.n) == (2, 4)
    assert late_windows(arm(window(1000, 1), window(1001, 1, n=4, request=300)), None, 220, HOUR).n == 0


def recorded(slow_share: float, units: int, slow_from: int = 0, seed: int = 3) -> MergedArm:
    """An arm as replicas count it, in 60 windows; one unit asks with a share of the requests, and is slow."""
    now, draw = [10_000.0], random.Random(seed)
    recorder, stage = Recorder("a", "host", lambda: now[0]), TrialStage(1, "v1.0.0")
    recorder.begin(stage)
    for _ in range(60):
        for _ in range(6 * units):
            slow = draw.random() < slow_share
            unit, mean = (0, 0.3) if slow else (1 + draw.randrange(units), 0.06)
            took = draw.gauss(mean, 0.008)
            recorder.record(stage, "stable", unit, Counted("answer", compute_seconds=took / 3, request_seconds=took))
        now[0] += 10
    return MergedArm("v", windows={"a": recorder.document().stages[0].arms["stable"].windows})


@pytest.mark.parametrize(("share", "units"), [(0.01, 10), (0.1, 10), (0.1, 60), (0.5, 60)])
def test_one_slow_client_makes_no_version_slow(share: float, units: int) -> None:
    """Both versions are equally fast; the client's key is the canary's, in every window."""
    canary, stable = recorded(share, units), recorded(0.0, 4 * units, seed=4)
    for signs in (late_windows(canary, stable, 220, HOUR), slower_windows(canary, stable, 1.1, HOUR)):
        assert not latency_evidence(signs).rejects(HOUR.alpha(0.01))
    assert late_windows(canary, None, 220, HOUR) == Rate(0, 60)


def test_windows_of_other_hours_do_not_count() -> None:
    stable, canary = arm(window(999, 1), window(1360, 1)), arm(window(999, 2), window(1360, 2))
    assert slower_windows(canary, stable, 1.1, HOUR).n == 0
    assert slower_windows(canary, stable, 1.1, TrialHour(2, 1360)).n == 1


def test_hours_are_counted_from_the_trials_beginning() -> None:
    assert TrialHour.at(10_000.0, 10_000.0) == TrialHour(1, 1000)
    assert TrialHour.at(10_000.0, 13_599.0) == TrialHour(1, 1000)
    assert TrialHour.at(10_000.0, 13_600.0) == TrialHour(2, 1360)
    assert TrialHour.at(10_000.0, 5.0) == TrialHour(1, 1000)


def test_all_hours_together_have_the_whole_alpha() -> None:
    total = math.fsum(TrialHour(number, 0).alpha(0.01) for number in range(1, 10_000))
    assert total == pytest.approx(0.01, rel=1e-3)
    assert total < 0.01


@pytest.mark.parametrize(("slower", "found"), [(1.0, False), (1.3, True)])
def test_a_slower_version_is_found_and_an_equal_one_not(slower: float, found: bool) -> None:
    draw = random.Random(5)

    def times(factor: float) -> list[float]:
        return sorted(factor * load * draw.lognormvariate(0, 0.3) for _ in range(50))

    rows = []
    for number in range(60):
        load = draw.lognormvariate(0, 0.5)
        rows.append(
            (window(1000 + number, quantile(times(slower), 0.95)), window(1000 + number, quantile(times(1), 0.95)))
        )
    canary, stable = (arm(*side) for side in zip(*rows, strict=True))
    assert latency_evidence(slower_windows(canary, stable, 1.1, HOUR)).rejects(HOUR.alpha(0.01)) is found


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.floats(0, 1))
def test_a_quantile_is_within_the_values(values: list[float], share: float) -> None:
    assert min(values) <= quantile(sorted(values), share) <= max(values)


def test_quantiles_are_those_of_the_definition() -> None:
    assert quantile([1.0], 0.95) == 1
    assert quantile([1.0, 2.0, 3.0], 0.5) == 2
    assert quantile([1.0, 2.0], 0.5) == 1.5
    assert quantile([float(value) for value in range(1, 20)], 0.95) == 19
    assert quantile([float(value) for value in range(1, 40)], 0.95) == 38
