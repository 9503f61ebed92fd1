"""The accuracy of labels when the target is given, per target and over all."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.calibration import BINS, Answers, calibration_error
from benchmarks.curves import right_by_coverage
from benchmarks.inputs import Data, Image, Model, Progress, batches, left_out, name_of, test_images
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import Measurement, Metric
from registry.evidence.stats import Interval, mean_interval, wilson

NO_ANSWER = "(none)"
"""Stands for a missing label."""


def accuracy(model: Model, data: Data, *, seed: int = 0, progress: Progress | None = None) -> Measurement:
    """`accuracy` with Wilson intervals, `balanced_accuracy` and `macro_f1` with those of `mean_interval`, and `ece`,
    the calibration error of what was answered.

    Every test image is given with its true target. A label that the version does not know, or a missing answer, is
    wrong. The aggregates are over all images: for `balanced_accuracy` and `macro_f1` each label of each target is a
    class.

    Raises:
        BadInput: when there is no test image of any of the version's targets.
    """
    images = test_images(model, data)
    outcomes: list[ImageOutcome] = []
    for batch in batches(images, progress):
        predictions = model.predict([image.read() for image in batch], target=[image.target for image in batch])
        outcomes += [outcome_of(image, prediction) for image, prediction in zip(batch, predictions, strict=True)]
    answers = [outcome.answered_label or NO_ANSWER for outcome in outcomes]
    pairs = [
        (image.target, f"{image.target}/{_composed(image.label)}", f"{image.target}/{answer}")
        for image, answer in zip(images, answers, strict=True)
    ]
    metrics = [*scores([(truth, answer) for _, truth, answer in pairs], None), calibration_error(outcomes, None, seed)]
    for target in model.targets:
        mine = [(truth, answer) for of, truth, answer in pairs if of == target]
        own = [outcome for outcome in outcomes if outcome.target == target]
        metrics += [*scores(mine, target), calibration_error(own, target, seed)] if mine else []
    known = {target: set(map(_composed, labels)) for target, labels in model.labels.items()}
    unknown = sum(_composed(image.label) not in known[image.target] for image in images)
    return Measurement(
        metrics=tuple(metrics),
        data_sha256=data.digest("test"),
        data_name=name_of(data),
        data_n=len(images),
        plot=_plot([(truth, answer) for _, truth, answer in pairs]),
        plots={"reliability": _reliability(outcomes)},
        curves={
            "accuracy_by_coverage": right_by_coverage(
                [outcome.probability or 0.0 for outcome in outcomes], [truth == answer for _, truth, answer in pairs]
            )
        },
        outcomes=tuple(outcomes),
        notes=left_out(model, data) | ({"images_with_labels_unknown_to_the_version": unknown} if unknown else {}),
    )


def scores(pairs: Sequence[tuple[str, str]], target: str | None) -> list[Metric]:
    """The three metrics of some (truth, answer) pairs."""
    tally = Counter(pairs)
    right = sum(count for (truth, answer), count in tally.items() if truth == answer)
    return [
        Metric.proportion("accuracy", right, len(pairs), target=target),
        _balanced_accuracy(tally, target),
        _macro_f1(tally, target),
    ]


def outcome_of(image: Image, prediction: Any) -> ImageOutcome:
    """What is kept of an answer."""
    return ImageOutcome(
        image=image.sha256,
        target=image.target,
        label=_composed(image.label),
        answered_label=_composed(prediction.label) if prediction.label else None,
        probability=prediction.confidence if prediction.label else None,
        ood_score=prediction.ood_score,
        is_ood=None if prediction.ood_score is None else prediction.is_ood,
        blocks=prediction.blocks_used,
    )


def _composed(label: str) -> str:
    """A label in Unicode's composed form: a version may have been fitted on a system that decomposes folders' names."""
    return unicodedata.normalize("NFC", label)


def _balanced_accuracy(tally: Counter[tuple[str, str]], target: str | None) -> Metric:
    """The mean recall of the classes that occur."""
    counts = _totals(tally, 0)
    recalls = [tally[name, name] / count for name, count in counts.items()]
    intervals = [wilson(tally[name, name], count) for name, count in counts.items()]
    around = mean_interval(recalls, intervals, list(counts.values()))
    return _mean("balanced_accuracy", recalls, around, tally.total(), target)


def _macro_f1(tally: Counter[tuple[str, str]], target: str | None) -> Metric:
    """The mean F1 of the classes that occur or are answered.

    With J = hits / (hits + errors) of a class, F1 = 2 J / (1 + J); its interval is Wilson's of J, transformed: K. F. Y.
    Lam, V. Gopal and J. Qian, "Confidence intervals for the F1 score: a comparison of four methods", arXiv:2309.14621
    (2023). An error lowers the F1 of two classes, so the variance of the sum is at most twice the sum of variances.
    """
    truths, answers = _totals(tally, 0), _totals(tally, 1)
    values, intervals = [], []
    for name in sorted(truths | answers):
        hits, union = tally[name, name], truths[name] + answers[name] - tally[name, name]
        around = wilson(hits, union)
        values.append(_f1(hits / union))
        intervals.append(Interval(_f1(around.low), _f1(around.high)))
    around = mean_interval(values, intervals, list(truths.values()), dependence=2.0)
    return _mean("macro_f1", values, around, tally.total(), target)


def _f1(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)


def _mean(name: str, values: Sequence[float], around: Interval, n: int, target: str | None) -> Metric:
    return Metric.of(name, math.fsum(values) / len(values), n=n, low=around.low, high=around.high, target=target)


def _totals(tally: Counter[tuple[str, str]], place: int) -> Counter[str]:
    """The counts by true class (0) or by answered class (1)."""
    totals: Counter[str] = Counter()
    for pair, count in tally.items():
        totals[pair[place]] += count
    return totals


def _plot(pairs: Sequence[tuple[str, str]]) -> bytes:
    names = sorted({name for pair in pairs for name in pair})
    place = {name: index for index, name in enumerate(names)}
    counts: np.ndarray = np.zeros((len(names), len(names)), dtype=int)
    for truth, answer in pairs:
        counts[place[truth], place[answer]] += 1
    right = np.trace(counts) / counts.sum()
    return plots.confusion(counts, names, f"accuracy {right:.3f}, n={counts.sum()}")


def _reliability(outcomes: Sequence[ImageOutcome]) -> bytes:
    answers = Answers.of(outcomes)
    counts = np.bincount(answers.bins, minlength=BINS)
    used = counts > 0
    probability, right = (
        np.bincount(answers.bins, values, minlength=BINS)[used] / counts[used]
        for values in (answers.probability, answers.right)
    )
    return plots.reliability(probability, right, f"calibration, n={counts.sum()}")
