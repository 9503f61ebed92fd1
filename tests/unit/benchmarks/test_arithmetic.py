"""The numbers of accuracy, routing, ood and memory, on predictors whose answers are known."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from adapters.fitting.ood_metrics import ScoreCounts, aupr_in, aupr_out, auroc, auroc_interval, fpr_at_95_tpr
from benchmarks.accuracy import accuracy, scores
from benchmarks.bootstrap import RESAMPLES, resampled_separation
from benchmarks.memory import memory
from benchmarks.ood import Scores, ood, pooled
from benchmarks.routing import routing
from registry.errors import BadInput
from registry.evidence.results import Measurement, Metric
from tests.unit.benchmarks.predictors import Album, Player, Shot, pictures

LABELS = {"leaf": ("rust", "mildew"), "fruit": ("rot", "scab")}
COUNTS = {("leaf", "rust"): 30, ("leaf", "mildew"): 10, ("fruit", "rot"): 20, ("fruit", "scab"): 20}
PNG = b"\x89PNG\r\n\x1a\n"


def album(**more: tuple[Path, ...]) -> Album:
    return Album(Path("album"), pictures(COUNTS), **more)


def metric(measurement: Measurement, name: str, target: str | None = None) -> Metric:
    (found,) = [one for one in measurement.metrics if (one.name, one.target) == (name, target)]
    return found


@pytest.mark.parametrize("target", [None, "leaf", "fruit"])
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_a_perfect_predictor_scores_one_everywhere(name: str, target: str | None) -> None:
    found = metric(accuracy(Player(LABELS), album()), name, target)
    assert found.value == 1
    assert found.n == (80 if target is None else 40)
    assert found.high == 1


def test_a_constant_predictor_scores_the_share_of_its_class() -> None:
    found = accuracy(
        Player(LABELS, label_of=lambda path, target: {"leaf": "rust", "fruit": "rot"}[target or ""]), album()
    )
    assert metric(found, "accuracy", "leaf").value == 0.75
    assert metric(found, "accuracy").value == 50 / 80
    assert metric(found, "balanced_accuracy", "leaf").value == 0.5
    assert metric(found, "macro_f1", "leaf").value == pytest.approx((2 * 30 / (30 + 40)) / 2)
    assert metric(found, "balanced_accuracy").value == 0.5


def test_a_refused_answer_and_an_unknown_label_count_as_wrong() -> None:
    more = Album(Path("album"), pictures({("leaf", "rust"): 3, ("leaf", "blight"): 1}))
    silent = accuracy(Player(LABELS, label_of=lambda path, target: None), more)
    assert metric(silent, "accuracy").value == 0
    assert silent.notes["images_with_labels_unknown_to_the_version"] == 1


def test_a_label_in_unicodes_other_form_is_the_same_label() -> None:
    composed, decomposed = (unicodedata.normalize(form, "rouill\u00e9") for form in ("NFC", "NFD"))
    of_old_version = Player({"leaf": [decomposed]}, label_of=lambda path, target: decomposed)
    found = accuracy(of_old_version, Album(Path("album"), pictures({("leaf", composed): 3})))
    assert metric(found, "accuracy").value == 1
    assert found.notes == {}


def test_images_of_unknown_targets_are_left_out_and_counted() -> None:
    found = accuracy(Player({"leaf": LABELS["leaf"]}), album())
    assert (metric(found, "accuracy").n, found.data_n) == (40, 40)
    assert found.notes["images_of_other_targets_left_out"] == 40


@pytest.mark.parametrize("benchmark", [accuracy, routing, ood])
def test_a_folder_without_the_targets_is_refused(benchmark: object) -> None:
    assert callable(benchmark)
    with pytest.raises(BadInput, match="album has no test image of bark"):
        benchmark(Player({"bark": ("a",)}), album())


PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=60)


@pytest.mark.filterwarnings("ignore:A single label:UserWarning", "ignore:y_pred contains:UserWarning")
@given(PAIRS)
def test_balanced_accuracy_and_f1_agree_with_sklearn(pairs: list[tuple[str, str]]) -> None:
    truth, answer = zip(*pairs, strict=True)
    _, balanced, f1 = scores(pairs, None)
    occurring = [index for index, name in enumerate(sorted({*truth, *answer})) if name in truth]
    matrix = confusion_matrix(truth, answer, labels=sorted({*truth, *answer}))[occurring]
    recalls = matrix[range(len(occurring)), occurring] / matrix.sum(axis=1)
    assert balanced.value == pytest.approx(recalls.mean())
    assert f1.value == pytest.approx(f1_score(truth, answer, average="macro"))
    if set(answer) <= set(truth):
        assert balanced.value == pytest.approx(balanced_accuracy_score(truth, answer))


SETS = 400
"""Simulated test sets for each number of images and true value: a share of .97 has a standard error of .009."""


@pytest.mark.parametrize("n", [50, 51, 100, 300])
@pytest.mark.parametrize("true", [0.9, 0.95, 0.99, 0.995])
@pytest.mark.parametrize("shares", [(1, 1, 1), (6, 3, 1)], ids=["balanced", "unbalanced"])
def test_intervals_of_means_over_classes_cover_the_truth(n: int, true: float, shares: tuple[int, ...]) -> None:
    """Bootstrapped ones covered 41% at 51 images and .99: without an error every resample is perfect."""
    counts = np.array([max(1, round(n * share / sum(shares))) for share in shares])
    confusion = np.where(np.eye(3, dtype=bool), true, (1 - true) / 2)
    expected = confusion * counts[:, None]
    true_f1 = float(np.mean(2 * np.diag(expected) / (counts + expected.sum(axis=0))))
    random = np.random.default_rng([n, int(1000 * true), shares[0]])
    drawn = np.stack([random.multinomial(*each, size=SETS) for each in zip(counts, confusion, strict=True)], axis=1)
    covered = np.zeros(2)
    for table in drawn:
        _, balanced, f1 = scores(answers_of(table), None)
        covered += [within(balanced, true), within(f1, true_f1)]
    assert (covered / SETS).min() >= 0.93


def answers_of(table: np.ndarray) -> list[tuple[str, str]]:
    """The pairs of truth and answer that a confusion matrix counts."""
    cells = ((f"{truth}", f"{answer}") for truth in range(3) for answer in range(3))
    return [cell for cell, count in zip(cells, table.ravel(), strict=True) for _ in range(count)]


def within(metric: Metric, true: float) -> bool:
    assert metric.low is not None
    assert metric.high is not None
    return metric.low <= true <= metric.high


def test_a_perfect_score_has_an_interval_as_wide_as_its_images() -> None:
    few, many = (scores([("a", "a"), ("b", "b")] * n, None)[1:] for n in (10, 500))
    for found in (*few, *many):
        assert (found.value, found.high) == (1, 1)
    assert [round(found.low or 0, 3) for found in (*few, *many)] == [0.8, 0.8, 0.995, 0.995]


@given(PAIRS)
def test_intervals_of_means_contain_the_value_within_0_and_1(pairs: list[tuple[str, str]]) -> None:
    for found in scores(pairs, None):
        assert 0 <= (found.low or 0) <= (found.value or 0) <= (found.high or 0) <= 1


def test_a_router_that_always_says_leaf_is_right_for_the_leaves() -> None:
    found = routing(Player(LABELS, target_of=lambda path: "leaf"), album())
    total = metric(found, "crop_routing_accuracy")
    assert (total.value, total.n) == (0.5, 80)
    assert total.low == pytest.approx(0.3930, abs=1e-4)
    assert metric(found, "crop_routing_recall", "leaf").value == 1
    assert metric(found, "crop_routing_recall", "fruit").value == 0


def score_by_name(path: Path, target: str) -> float:
    """0.5 for the target's own images, 2 for far ones, 1.5 for others."""
    return 2.0 if path.name.startswith("far") else 0.5 if path.name.startswith(target) else 1.5


FAR = tuple(Shot(Path(f"far-{number}")) for number in range(50))


MEASURES = ("auroc", "fpr95", "aupr_in", "aupr_out", "detection_rate")


@pytest.mark.acceptance
@pytest.mark.parametrize("target", [None, "leaf", "fruit"])
def test_a_perfect_detector_separates_far_and_near(target: str | None) -> None:
    found = ood(Player(LABELS, score_of=score_by_name), album(far=FAR))
    for kind in ("ood", "ood_near"):
        assert [metric(found, f"{kind}_{name}", target).value for name in MEASURES] == [1, 0, 1, 1, 1]
    assert metric(found, "ood_fpr95", target).n == (40 if target else 50), "each far image counts once"
    assert metric(found, "ood_false_alarm_rate", target).value == 0


def test_pooled_scores_use_each_image_once() -> None:
    plans = {target: {"inside": [Shot(Path(target))], "far": FAR[:5], "near": FAR[5:7]} for target in ("leaf", "fruit")}
    scores = {
        target: Scores(inside=np.array([value]), far=np.full(5, value), near=np.full(2, value))
        for target, value in (("leaf", 1.0), ("fruit", 2.0))
    }
    together = pooled(plans, scores)
    assert together.inside.tolist() == [1, 2]
    assert together.far.tolist() == [1, 2, 1, 2, 1]
    assert together.near.tolist() == [1, 2]


def test_near_and_far_are_measured_apart() -> None:
    """Near images score like the target's own, far ones do not."""
    near = tuple(Shot(Path(f"leaf-{number}-like")) for number in range(30))
    found = ood(Player(LABELS, score_of=score_by_name), album(far=FAR, near=near))
    assert (metric(found, "ood_auroc", "leaf").value, metric(found, "ood_near_auroc", "leaf").value) == (1, 0.5)
    assert (metric(found, "ood_fpr95", "leaf").value, metric(found, "ood_near_fpr95", "leaf").value) == (0, 1)
    assert (metric(found, "ood_auroc", "leaf").n, metric(found, "ood_near_auroc", "leaf").n) == (40, 30)


def noisy(path: Path, target: str) -> float:
    """A repeatable score: those of the target's own images are lower, with an overlap."""
    chance = np.random.default_rng(list(path.name.encode())).normal()
    return float(chance + (0 if path.name.startswith(target) else 1.5))


def test_each_metric_equals_that_of_the_scores() -> None:
    found = ood(Player(LABELS, score_of=noisy), album(far=FAR))
    inside = [noisy(image.path, "leaf") for image in album().test if image.target == "leaf"]
    outside = [noisy(shot.path, "leaf") for shot in FAR]
    for name, measure in (("auroc", auroc), ("fpr95", fpr_at_95_tpr), ("aupr_in", aupr_in), ("aupr_out", aupr_out)):
        one = metric(found, f"ood_{name}", "leaf")
        assert one.value == pytest.approx(measure(inside, outside))
        assert one.low is not None
        assert one.high is not None
        assert 0 <= one.low < one.value < one.high <= 1
    area = metric(found, "ood_auroc", "leaf")
    assert (area.low, area.high) == pytest.approx(auroc_interval(inside, outside))


def test_perfect_separation_is_no_certainty() -> None:
    found = ood(Player(LABELS, score_of=score_by_name), album(far=FAR))
    assert metric(found, "ood_auroc", "leaf").low == pytest.approx(0.9553, abs=1e-3)
    precision = metric(found, "ood_aupr_in", "leaf")
    assert (precision.value, precision.low, precision.high) == (1, None, None), "resamples can't tell"


def test_no_false_positive_among_fifty_images_is_not_certainty() -> None:
    high = metric(ood(Player(LABELS, score_of=score_by_name), album(far=FAR)), "ood_fpr95", "leaf").high
    assert high == pytest.approx(0.0713, abs=1e-3)


def test_a_detector_that_scores_all_the_same_knows_nothing() -> None:
    found = ood(Player(LABELS, score_of=lambda path, target: 1.0), album(far=FAR))
    assert metric(found, "ood_auroc").value == 0.5
    assert metric(found, "ood_fpr95").value == 1


def test_without_far_images_metrics_have_no_value_but_a_reason() -> None:
    found = ood(Player(LABELS, score_of=score_by_name), album())
    assert metric(found, "ood_auroc", "leaf").value is None
    assert metric(found, "ood_near_auroc", "leaf").value == 1
    assert "_ood/far has no image" in str(found.notes["ood_auroc"])


def test_own_near_images_replace_those_of_other_targets() -> None:
    found = ood(Player(LABELS, score_of=score_by_name), album(far=FAR, near=(Shot(Path("leaf-like-1")),)))
    assert metric(found, "ood_near_auroc", "leaf").value == 0.5
    assert metric(found, "ood_near_auroc", "leaf").n == 1


@pytest.mark.parametrize("missing", [float("nan"), None])
def test_a_target_without_a_detector_has_a_reason_and_no_value(missing: float | None) -> None:
    found = ood(Player(LABELS, score_of=lambda path, target: missing if target == "leaf" else 0.5), album(far=FAR))
    for kind in ("ood", "ood_near"):
        for name in MEASURES:
            assert metric(found, f"{kind}_{name}", "leaf").value is None
            assert metric(found, f"{kind}_{name}").value is None, "an aggregate would leave the target out"
            assert metric(found, f"{kind}_{name}", "fruit").value is not None
    assert metric(found, "ood_false_alarm_rate", "leaf").value is None
    assert "no OOD score for images of leaf:" in str(found.notes["ood_near_auroc"])


def test_a_single_target_without_near_images_has_no_near_values() -> None:
    found = ood(Player({"leaf": LABELS["leaf"]}, score_of=score_by_name), album(far=FAR))
    assert metric(found, "ood_near_auroc", "leaf").value is None
    assert "_ood/near has no image" in str(found.notes["ood_near_auroc"])
    assert "ood_auroc" not in found.notes


SCORES = st.lists(st.integers(0, 30), min_size=1, max_size=60)


@given(SCORES, SCORES, st.integers(0, 2**31))
def test_resamples_are_repeatable_and_stay_within_0_and_1(inside: list[int], outside: list[int], seed: int) -> None:
    first, again = (resampled_separation(ScoreCounts.of(inside, outside), seed) for _ in range(2))
    for name in ("fpr95", "aupr_in", "aupr_out"):
        values = getattr(first, name)
        assert np.array_equal(values, getattr(again, name))
        assert len(values) == RESAMPLES
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()


@pytest.mark.parametrize(("name", "measure"), [("fpr95", fpr_at_95_tpr), ("aupr_in", aupr_in), ("aupr_out", aupr_out)])
def test_the_bootstrap_interval_is_scipys(name: str, measure: Callable[..., float]) -> None:
    from scipy.stats import bootstrap

    random = np.random.default_rng(1)
    inside, outside = random.normal(0, 1, 80), random.normal(1.5, 1, 60)
    ours = np.quantile(getattr(resampled_separation(ScoreCounts.of(inside, outside), 0), name), [0.025, 0.975])
    theirs = bootstrap((inside, outside), measure, method="percentile", vectorized=False, n_resamples=1000, rng=2)
    assert ours == pytest.approx(list(theirs.confidence_interval), abs=0.05)


def test_memory_is_per_adapter_and_the_aggregate_is_the_largest() -> None:
    found = memory(Player(LABELS, memory={"leaf": 2_000_000, "fruit": 3_500_000}), album())
    assert metric(found, "adapter_memory_mb", "leaf").value == 2
    assert metric(found, "adapter_memory_mb").value == 3.5
    assert metric(found, "adapters_memory_mb_total").value == 5.5


@pytest.mark.acceptance
@pytest.mark.parametrize("benchmark", [accuracy, routing, ood, memory])
def test_every_benchmark_draws_a_plot_and_reports_progress(benchmark: object) -> None:
    assert callable(benchmark)
    told: list[tuple[int, int]] = []
    player = Player(LABELS, score_of=score_by_name, memory={"leaf": 1})
    found = benchmark(player, album(far=FAR), progress=lambda done, total: told.append((done, total)))
    assert found.plot.startswith(PNG)
    assert told[-1][0] == told[-1][1]
    assert told == sorted(told)


@pytest.mark.acceptance
@settings(max_examples=15)  # each draws a plot
@given(st.dictionaries(st.sampled_from(list(COUNTS)), st.integers(1, 5), min_size=1))
def test_accuracy_counts_every_image_once(counts: dict[tuple[str, str], int]) -> None:
    found = accuracy(Player(LABELS), Album(Path("album"), pictures(counts)))
    per_target = [one.n for one in found.metrics if one.name == "accuracy" and one.target]
    assert sum(per_target) == sum(counts.values()) == metric(found, "accuracy").n
