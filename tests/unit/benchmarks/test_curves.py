"""Curves: the same steps for every version, and the values that their definitions say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.fitting.ood_metrics import ScoreCounts
from benchmarks.curves import COVERAGES, RATES, percentiles, right_by_coverage, roc, totals, true_by_false_rate

scores = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20).map(np.array)


def test_the_surest_answers_come_first() -> None:
    curve = right_by_coverage([0.1, 0.9, 0.5, 0.7], [False, True, False, True])
    assert list(curve) == list(COVERAGES)
    assert (curve[25], curve[50], curve[75], curve[100]) == (1.0, 1.0, pytest.approx(2 / 3), 0.5)
    assert right_by_coverage([], []) == {}


@given(scores, scores)
def test_the_area_below_the_curve_is_the_auroc(inside: np.ndarray, outside: np.ndarray) -> None:
    false, true = roc(inside, outside)
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    assert area == pytest.approx(float(ScoreCounts.of(inside, outside).auroc))


@given(scores, scores)
def test_a_rate_is_reached_with_at_most_so_many_false(inside: np.ndarray, outside: np.ndarray) -> None:
    curve = true_by_false_rate(inside, outside)
    assert list(curve) == list(RATES)
    for percent, value in curve.items():
        allowed = [t for t in [-1.0, *outside, *inside] if (outside <= t).mean() <= percent / 100]
        assert value == pytest.approx(max((inside <= t).mean() for t in allowed))


def test_percentiles_rise_and_totals_add_up() -> None:
    curve = percentiles(np.arange(101.0))
    assert (curve[1], curve[51], curve[99]) == (1.0, 51.0, 99.0)
    assert totals([1.0, 3.0, 2.0]) == {1: 3.0, 2: 5.0, 3: 6.0}
