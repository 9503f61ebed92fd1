"""E-values: direct products over events, how often they reject what is true, and how soon what is false."""

import math
import random
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.trials.evalues import (
    RATIOS,
    ArmEvents,
    Cusum,
    EValue,
    Rate,
    against_bound,
    between_arms,
    cusum,
    ood_auroc,
)

ALPHA = 0.05
RUNS = 400
MOST = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
"""False alarms of so many runs, with three standard errors."""


def theta(share: float, ratio: float) -> float:
    return share * ratio / (share * ratio + 1 - share)


def products(events: Iterator[bool], true: float, others: list[float]) -> Iterator[float]:
    """The e-value after each event, multiplied event by event."""
    terms = [1.0] * len(others)
    for event in events:
        terms = [
            term * (other / true if event else (1 - other) / (1 - true))
            for term, other in zip(terms, others, strict=True)
        ]
        yield sum(terms) / len(terms)


def alternatives(bound: float) -> list[float]:
    return [p if (p := bound * ratio) < 1 else p / (1 - bound + p) for ratio in RATIOS]


EVENTS = st.lists(st.booleans(), min_size=1, max_size=60)


@given(EVENTS, st.sampled_from([0.01, 0.1, 0.5, 0.9]), st.sampled_from([1.0, 1.5, 0.5]))
def test_two_arms_are_a_product_over_events(events: list[bool], share: float, allowed: float) -> None:
    others = [theta(share, allowed * ratio) for ratio in RATIOS]
    *_, direct = products(iter(events), theta(share, allowed), others)
    found = between_arms([ArmEvents(sum(events), len(events), share)], allowed)
    assert found.e == pytest.approx(direct, rel=1e-9)
    assert (found.x, found.n) == (sum(events), len(events))


@given(EVENTS, EVENTS)
def test_stages_are_multiplied_within_each_ratio(first: list[bool], second: list[bool]) -> None:
    direct = 0.0
    for ratio in RATIOS:
        term = 1.0
        for events, share in ((first, 0.1), (second, 0.5)):
            *_, product = products(iter(events), share, [theta(share, ratio)])
            term *= product
        direct += term / len(RATIOS)
    stages = [ArmEvents(sum(events), len(events), share) for events, share in ((first, 0.1), (second, 0.5))]
    assert between_arms(stages).e == pytest.approx(direct, rel=1e-9)
    assert between_arms(stages[::-1]) == between_arms(stages)


@given(EVENTS, st.sampled_from([0.001, 0.05, 0.5, 0.9]))
def test_a_bound_is_a_product_over_units(events: list[bool], bound: float) -> None:
    *_, direct = products(iter(events), bound, alternatives(bound))
    assert against_bound(Rate(sum(events), len(events)), bound).e == pytest.approx(direct, rel=1e-9)


def test_nothing_is_evidence_of_nothing() -> None:
    assert between_arms([]) == EValue(0.0, 0, 0)
    assert between_arms([ArmEvents(0, 0, 0.1)]).log_e == 0
    assert against_bound(Rate(0, 0), 0.1).log_e == 0
    assert ood_auroc(Rate(0, 0), Rate(0, 0), 0.85).log_e == 0
    assert cusum([], 0.1) == Cusum(0.0, 0.0, 0, 0)


def test_a_bound_that_no_rate_exceeds_has_no_evidence() -> None:
    assert against_bound(Rate(50, 50), 1.0).log_e == 0


def test_huge_evidence_is_a_number() -> None:
    huge = between_arms([ArmEvents(60_000, 60_000, 0.01)])
    assert huge.e == math.inf
    assert math.isfinite(huge.log_e)
    assert huge.rejects(1e-300)


@pytest.mark.parametrize("wrong", [(5, 4, 0.1), (-1, 4, 0.1), (1, 4, 0.0), (1, 4, 1.0), (1, 4, math.nan)])
def test_impossible_counts_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match=r"count|share"):
        ArmEvents(*wrong)


def test_impossible_bounds_are_refused() -> None:
    for ask in (
        lambda: Rate(3, 2),
        lambda: against_bound(Rate(1, 2), 0.0),
        lambda: against_bound(Rate(1, 2), math.nan),
        lambda: between_arms([], 0.0),
        lambda: ood_auroc(Rate(1, 2), Rate(1, 2), 1.0),
    ):
        with pytest.raises(ValueError, match=r"count|rate|ratio|AUROC"):
            ask()


def test_the_same_counts_give_the_same_bits() -> None:
    """These are for ever: a decision that was stored is computed again by them."""
    assert between_arms([ArmEvents(30, 200, 0.1), ArmEvents(40, 90, 0.5)], 1.05).log_e.hex() == "-0x1.18a0cf000900dp+1"
    assert against_bound(Rate(12, 1000), 0.005).log_e.hex() == "0x1.23a3ed280706cp+1"
    assert ood_auroc(Rate(60, 100), Rate(20, 500), 0.85).log_e.hex() == "0x1.4d2e496b050c7p+4"
    assert cusum([Rate(2, 100), Rate(9, 100)], 0.02).log_m.hex() == "0x1.52c990e5d28a4p+2"


def false_alarms(run: Callable[[random.Random], Iterator[float]], runs: int = RUNS) -> float:
    """In how many runs an e-value ever reaches 1 / α."""
    return sum(max(run(random.Random(seed))) >= 1 / ALPHA for seed in range(runs)) / runs


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_equal_arms_are_rarely_rejected(share: float) -> None:
    others = [theta(share, ratio) for ratio in RATIOS]

    def run(draw: random.Random) -> Iterator[float]:
        return products((draw.random() < share for _ in range(500)), share, others)

    assert false_alarms(run) <= MOST


def test_equal_arms_are_rarely_rejected_over_stages() -> None:
    def run(draw: random.Random) -> Iterator[float]:
        stages = [ArmEvents(0, 0, share) for share in (0.1, 0.5, 0.9)]
        for number, stage in enumerate(stages):
            x = 0
            for n in range(1, 61):
                x += draw.random() < stage.share
                if n % 6 == 0:
                    stages[number] = ArmEvents(x, n, stage.share)
                    yield between_arms(stages).e

    assert false_alarms(run, 200) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 200)


def test_a_rate_at_its_bound_is_rarely_rejected() -> None:
    def run(draw: random.Random) -> Iterator[float]:
        return products((draw.random() < 0.05 for _ in range(500)), 0.05, alternatives(0.05))

    assert false_alarms(run) <= MOST


def bound_array(x: np.ndarray, n: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The e-values of counts against several bounds, [counts, bounds]."""
    others = np.array([alternatives(bound) for bound in bounds])
    terms = x[:, None, None] * np.log(others / bounds[:, None])
    terms = terms + (n - x)[:, None, None] * np.log((1 - others) / (1 - bounds[:, None]))
    return np.exp(terms).mean(axis=2)


def flag_array(missed: np.ndarray, alarmed: np.ndarray, n: np.ndarray, allowed: float) -> np.ndarray:
    """The e-values of the counts of missed and alarmed images."""
    steps = np.linspace(0, allowed, 101)
    return (bound_array(missed, n, steps[1:]) * bound_array(alarmed, n, allowed - steps[:-1])).min(axis=1)


def test_a_flag_is_judged_by_the_worst_division() -> None:
    counts = np.array([[30, 4, 60], [60, 20, 100], [0, 0, 10], [5, 100, 100]])
    direct = flag_array(counts[:, 0], counts[:, 1], counts[:, 2], 2 * (1 - 0.85))
    for (missed, alarmed, n), expected in zip(counts.tolist(), direct, strict=True):
        assert ood_auroc(Rate(missed, n), Rate(alarmed, n), 0.85).e == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("missed", [0.0, 0.05, 0.15, 0.3])
def test_a_flag_at_its_bound_is_rarely_rejected(missed: float) -> None:
    draw, n = np.random.default_rng(1), np.arange(20, 401, 20)
    rejected = 0
    for _ in range(RUNS):
        x, y = (np.cumsum(draw.binomial(20, rate, n.size)) for rate in (missed, 0.3 - missed))
        rejected += flag_array(x, y, n, 0.3).max() >= 1 / ALPHA
    assert rejected / RUNS <= MOST


def test_the_least_of_all_divisions_is_not_missed() -> None:
    """The e-value for the true rates is at least the one that is told, wherever these are within what is allowed."""
    missed, alarmed = Rate(70, 100), Rate(40, 400)
    told = ood_auroc(missed, alarmed, 0.85).log_e
    for step in range(1, 1000):
        part = 0.3 * step / 1000
        assert told <= against_bound(missed, part).log_e + against_bound(alarmed, 0.3 - part).log_e + 1e-9


def test_a_flag_that_misses_most_is_found() -> None:
    assert ood_auroc(Rate(70, 100), Rate(20, 400), 0.85).rejects(0.02)
    assert not ood_auroc(Rate(20, 100), Rate(20, 400), 0.85).rejects(0.02)


@pytest.mark.parametrize(
    ("share", "stable", "canary", "expected"),
    [(0.1, 0.02, 0.04, 5800), (0.1, 0.005, 0.02, 3400), (0.1, 0.001, 0.05, 550), (0.5, 0.02, 0.04, 2060)],
)
def test_what_is_worse_is_found_as_soon_as_expected(share: float, stable: float, canary: float, expected: int) -> None:
    """The median number of requests, from other simulations of the same formula, within a quarter."""

    def requests(draw: random.Random) -> float:
        of_canary, of_any = share * canary, share * canary + (1 - share) * stable
        total = 0.0
        events = (draw.random() < of_canary / of_any for _ in range(10_000))
        for value in products(events, share, [theta(share, ratio) for ratio in RATIOS]):
            total += 1 + math.floor(math.log(1 - draw.random()) / math.log1p(-of_any))
            if value >= 1 / ALPHA:
                break
        return total

    assert median(requests(random.Random(f"run {seed}")) for seed in range(300)) == pytest.approx(expected, rel=0.25)


def test_a_cusum_seldom_alarms_by_chance() -> None:
    run_length, lengths = 40, []
    for seed in range(120):
        draw = random.Random(seed)
        log_ms, steps = [0.0] * len(RATIOS), 0
        while math.fsum(map(math.exp, log_ms)) / len(RATIOS) < run_length:
            steps += 1
            one = Rate(sum(draw.random() < 0.1 for _ in range(20)), 20)
            log_ms = [
                max(0.0, log_m) + one.x * math.log(p / 0.1) + (20 - one.x) * math.log((1 - p) / 0.9)
                for log_m, p in zip(log_ms, alternatives(0.1), strict=True)
            ]
        lengths.append(steps)
    mean = math.fsum(lengths) / len(lengths)
    spread = math.sqrt(math.fsum((length - mean) ** 2 for length in lengths)) / len(lengths)
    assert mean >= run_length - 3 * spread


@settings(max_examples=30)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_a_cusum_is_the_mean_of_those_of_the_alternatives(counts: list[int]) -> None:
    ms, highest = [1.0] * len(RATIOS), 1.0
    for x in counts:
        ms = [
            max(1.0, m) * (p / 0.1) ** x * ((1 - p) / 0.9) ** (20 - x)
            for m, p in zip(ms, alternatives(0.1), strict=True)
        ]
        highest = max(highest, sum(ms) / len(ms))
    found = cusum([Rate(x, 20) for x in counts], 0.1)
    assert found.log_m == pytest.approx(math.log(sum(ms) / len(ms)), rel=1e-9, abs=1e-9)
    assert found.highest == pytest.approx(math.log(highest), rel=1e-9, abs=1e-9)


def test_a_long_good_time_does_not_hide_a_bad_one() -> None:
    good, bad = [Rate(2, 100)] * 500, [Rate(12, 100)] * 4
    assert cusum(good + bad, 0.04).alarms(1000)
    assert not cusum(good, 0.04).alarms(1000)
    assert not against_bound(Rate(1048, 50_400), 0.04).rejects(0.001)
