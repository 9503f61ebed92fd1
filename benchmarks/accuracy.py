"""The accuracy of labels when the target is given, per target and over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import plots
from benchmarks.bootstrap import resampled_counts
from benchmarks.inputs import Data, Model, Progress, batches, left_out, name_of, test_images
from registry.evidence.results import Measurement, Metric

NO_ANSWER = "(none)"
"""Stands for a missing label."""


def accuracy(model: Model, data: Data, *, seed: int = 0, progress: Progress | None = None) -> Measurement:
    """`accuracy` with Wilson intervals, `balanced_accuracy` and `macro_f1` with bootstrap intervals.

    Every test image is given with its true target. A label that the version does not know, or a missing answer, is
    wrong. The aggregates are over all images: for `balanced_accuracy` and `macro_f1` each label of each target is a
    class.

    Raises:
        BadInput: when there is no test image of any of the version's targets.
    """
    images = test_images(model, data)
    answers: list[str] = []
    for batch in batches(images, progress):
        predictions = model.predict([image.path for image in batch], target=[image.target for image in batch])
        answers += [prediction.label or NO_ANSWER for prediction in predictions]
    pairs = [
        (image.target, f"{image.target}/{image.label}", f"{image.target}/{answer}")
        for image, answer in zip(images, answers, strict=True)
    ]
    metrics = scores([(truth, answer) for _, truth, answer in pairs], None, seed)
    for target in model.targets:
        mine = [(truth, answer) for of, truth, answer in pairs if of == target]
        metrics += scores(mine, target, seed) if mine else []
    unknown = sum(image.label not in model.labels[image.target] for image in images)
    return Measurement(
        metrics=tuple(metrics),
        data_sha256=data.digest("test"),
        data_name=name_of(data),
        data_n=len(images),
        plot=_plot([(truth, answer) for _, truth, answer in pairs]),
        notes=left_out(model, data) | ({"images_with_labels_unknown_to_the_version": unknown} if unknown else {}),
    )


def scores(pairs: Sequence[tuple[str, str]], target: str | None, seed: int) -> list[Metric]:
    """The three metrics of some (truth, answer) pairs."""
    cells = _Cells.of(pairs)
    right = sum(truth == answer for truth, answer in pairs)
    return [
        Metric.proportion("accuracy", right, len(pairs), target=target),
        _resampled("balanced_accuracy", cells, seed, target),
        _resampled("macro_f1", cells, seed, target),
    ]


@dataclass(frozen=True)
class _Cells:
    """The non-empty cells of a confusion matrix, so that hundreds of classes stay fast.

    Attributes:
        counts: [cells].
        truth: [cells, classes], 1 where the cell has that true class.
        answer: [cells, classes], the same for the predicted class.
    """

    counts: np.ndarray
    truth: np.ndarray
    answer: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> _Cells:
        found = Counter(pairs)
        classes = sorted({name for pair in found for name in pair})
        truth = np.array([[pair[0] == name for name in classes] for pair in found], dtype=float)
        answer = np.array([[pair[1] == name for name in classes] for pair in found], dtype=float)
        return cls(np.array(list(found.values())), truth, answer)

    def balanced_accuracy(self, counts: np.ndarray) -> np.ndarray:
        """The mean recall of the classes that occur: [resamples, cells] -> [resamples]."""
        support = counts @ self.truth
        recall = np.divide(self._hits(counts), support, out=np.full_like(support, np.nan), where=support > 0)
        return np.asarray(np.nanmean(recall, axis=1))

    def macro_f1(self, counts: np.ndarray) -> np.ndarray:
        """The mean F1 of the classes that occur or are predicted: [resamples, cells] -> [resamples]."""
        both = counts @ self.truth + counts @ self.answer
        f1 = np.divide(2 * self._hits(counts), both, out=np.full_like(both, np.nan), where=both > 0)
        return np.asarray(np.nanmean(f1, axis=1))

    def _hits(self, counts: np.ndarray) -> np.ndarray:
        return np.asarray(counts @ (self.truth * self.answer))


def _resampled(name: str, cells: _Cells, seed: int, target: str | None) -> Metric:
    statistic = cells.balanced_accuracy if name == "balanced_accuracy" else cells.macro_f1
    around = resampled_counts(cells.counts, statistic, seed)
    value = float(statistic(cells.counts[None, :])[0])
    return Metric.of(name, value, n=int(cells.counts.sum()), low=around.low, high=around.high, target=target)


def _plot(pairs: Sequence[tuple[str, str]]) -> bytes:
    names = sorted({name for pair in pairs for name in pair})
    place = {name: index for index, name in enumerate(names)}
    counts: np.ndarray = np.zeros((len(names), len(names)), dtype=int)
    for truth, answer in pairs:
        counts[place[truth], place[answer]] += 1
    right = np.trace(counts) / counts.sum()
    return plots.confusion(counts, names, f"accuracy {right:.3f}, n={counts.sum()}")
