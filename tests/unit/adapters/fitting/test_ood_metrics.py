"""The measures of separation and AUROC's interval agree with their definitions and with other implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from adapters.fitting.ood_metrics import (
    ScoreCounts,
    aupr_in,
    aupr_out,
    auroc,
    auroc_interval,
    delong_variance,
    fpr_at_95_tpr,
)
from registry.errors import BadInput

MEASURES = (auroc, fpr_at_95_tpr, aupr_in, aupr_out)
scores = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=60)
two_scores = st.lists(st.integers(-6, 6).map(float), min_size=2, max_size=60)


def normal(n: int, m: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of n images inside and m outside."""
    random = np.random.default_rng(seed)
    return random.normal(0, 1, n), random.normal(shift, 1, m)


@given(scores, scores)
def test_auroc_is_sklearns(inside: list[float], outside: list[float]) -> None:
    truth = [0] * len(inside) + [1] * len(outside)
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, inside + outside))


@given(scores, scores)
def test_fpr_at_95_tpr_equals_sklearn_with_inliers_positive(inside: list[float], outside: list[float]) -> None:
    truth = [1] * len(inside) + [0] * len(outside)
    fpr, tpr, _ = roc_curve(truth, [-value for value in inside + outside], drop_intermediate=False)
    assert fpr_at_95_tpr(inside, outside) == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)])


@given(scores, scores)
def test_auprs_equal_the_average_precision_of_sklearn(inside: list[float], outside: list[float]) -> None:
    own = [1] * len(inside) + [0] * len(outside)
    others = [0] * len(inside) + [1] * len(outside)
    everything = inside + outside
    assert aupr_in(inside, outside) == pytest.approx(average_precision_score(own, [-one for one in everything]))
    assert aupr_out(inside, outside) == pytest.approx(average_precision_score(others, everything))


def test_measures_by_hand() -> None:
    assert auroc([1, 2], [3, 4]) == 1.0
    assert auroc([3, 4], [1, 2]) == 0.0
    assert auroc([1], [1]) == 0.5
    inside = [float(value) for value in range(1, 21)]
    assert fpr_at_95_tpr(inside, [19.0, 19.5, 25.0, 30.0]) == 0.25
    assert aupr_in([1, 3], [2]) == pytest.approx((1 + 2 / 3) / 2)
    assert aupr_out([1, 3], [2]) == pytest.approx(1 / 2)


@pytest.mark.parametrize("measure", [*MEASURES, delong_variance, auroc_interval])
@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0], []), ([1.0], [math.nan]), ([[1.0]], [1.0])])
def test_nothing_and_nan_are_refused(measure: Callable[..., object], inside: list[float], outside: list[float]) -> None:
    with pytest.raises(BadInput):
        measure(inside, outside)


@given(scores, scores)
def test_measures_do_not_change_under_a_rising_map(inside: list[float], outside: list[float]) -> None:
    mapped = [[math.exp(value) * 3 - 1 for value in values] for values in (inside, outside)]
    for measure in (*MEASURES, auroc_interval):
        assert measure(*mapped) == pytest.approx(measure(inside, outside))


@given(scores, scores)
def test_swapping_the_kinds_mirrors_auroc_and_swaps_the_auprs(inside: list[float], outside: list[float]) -> None:
    mirrored = [-value for value in outside], [-value for value in inside]
    assert auroc(*mirrored) == pytest.approx(auroc(inside, outside))
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside))
    assert aupr_in(*mirrored) == pytest.approx(aupr_out(inside, outside))
    low, high = auroc_interval(inside, outside)
    assert auroc_interval(outside, inside) == pytest.approx((1 - high, 1 - low))


@given(st.lists(st.tuples(two_scores, two_scores), min_size=1, max_size=4))
def test_a_tally_of_many_rows_measures_each_row_by_itself(samples: list[tuple[list[float], list[float]]]) -> None:
    counts = [[np.bincount(np.array(side, int) + 6, minlength=13) for side in sample] for sample in samples]
    tally = ScoreCounts(np.array([inside for inside, _ in counts]), np.array([outside for _, outside in counts]))
    for row, sample in enumerate(samples):
        assert tally.auroc[row] == pytest.approx(auroc(*sample))
        assert tally.fpr_at_95_tpr[row] == pytest.approx(fpr_at_95_tpr(*sample))
        assert tally.aupr_in[row] == pytest.approx(aupr_in(*sample))
        assert tally.aupr_out[row] == pytest.approx(aupr_out(*sample))


@given(two_scores, two_scores)
def test_delongs_variance_is_that_of_the_structural_components(inside: list[float], outside: list[float]) -> None:
    higher = np.array([[float(o > i) + 0.5 * float(o == i) for o in outside] for i in inside])
    components = higher.mean(axis=1), higher.mean(axis=0)
    expected = sum(np.var(one, ddof=1) / len(one) for one in components)
    assert delong_variance(inside, outside) == pytest.approx(expected, abs=1e-12)


def test_delongs_variance_is_that_of_repeated_samples() -> None:
    samples = [normal(60, 40, 1.5, seed) for seed in range(400)]
    spread = np.var([auroc(*sample) for sample in samples])
    assert np.mean([delong_variance(*sample) for sample in samples]) == pytest.approx(spread, rel=0.15)


def test_delongs_variance_is_unknown_from_one_image() -> None:
    assert math.isnan(delong_variance([1.0], [2.0, 3.0]))


def test_with_overlap_the_interval_is_delong_on_the_logit_scale() -> None:
    inside, outside = normal(300, 200, 1.5)
    area, error = auroc(inside, outside), math.sqrt(delong_variance(inside, outside))
    reach = NormalDist().inv_cdf(0.975) * error / (area * (1 - area))
    ends = [1 / (1 + math.exp(-(math.log(area / (1 - area)) + side * reach))) for side in (-1, 1)]
    assert auroc_interval(inside, outside) == pytest.approx(ends)


@given(scores, scores)
def test_the_interval_holds_auroc_and_lies_within_0_and_1(inside: list[float], outside: list[float]) -> None:
    low, high = auroc_interval(inside, outside)
    assert 0 <= low <= auroc(inside, outside) <= high <= 1
    assert low < high, "no finite sample is certain"


@pytest.mark.parametrize(("n", "m", "low"), [(1, 1, 0.2065), (40, 50, 0.9553), (100, 100, 0.9804), (300, 1000, 0.9958)])
def test_perfectly_separated_scores_are_not_certain_of_it(n: int, m: int, low: float) -> None:
    # By solving (1 - t)² = z² V(t) with another root finder.
    assert auroc_interval([0.0] * n, [1.0] * m) == pytest.approx((low, 1), abs=1e-4)


def test_one_image_out_of_order_does_not_raise_the_lower_end() -> None:
    perfect = auroc_interval([0.0] * 100, [1.0] * 100)
    flawed = auroc_interval([*[0.0] * 99, 2.0], [-1.0, *[1.0] * 99])
    assert flawed[0] < perfect[0]


@pytest.mark.parametrize(("n", "m", "area"), [(100, 100, 0.95), (100, 300, 0.99), (40, 50, 0.9)])
def test_nineteen_of_twenty_intervals_hold_the_true_auroc(n: int, m: int, area: float) -> None:
    shift = NormalDist().inv_cdf(area) * math.sqrt(2)
    held = 0
    for seed in range(300):
        low, high = auroc_interval(*normal(n, m, shift, seed))
        held += low <= area <= high
    assert held >= 0.92 * 300


def test_a_lower_confidence_gives_a_narrower_interval() -> None:
    inside, outside = normal(100, 100, 1)
    low, high = auroc_interval(inside, outside)
    assert low < auroc_interval(inside, outside, 0.5)[0] < auroc_interval(inside, outside, 0.5)[1] < high
