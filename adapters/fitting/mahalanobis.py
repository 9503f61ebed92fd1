"""Fit a Mahalanobis detector: class means, shared covariance, and thresholds from held-out images.

The block after which features are taken, and their pooling, are chosen on validation images; test images and images
from `_ood` are not used. Each class has its own threshold, from held-out images: training images are closer to their
class than new ones, so thresholds from them would cause more false alarms than asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from adapters.answer.heads import Features
from adapters.answer.ood import RUNTIME_THRESHOLDS, Mahalanobis, distances, thresholds_name
from adapters.backbone.features import FeatureSpec
from adapters.fitting import feature_choice
from registry.errors import BadInput
from registry.evidence.stats import upper_bound

FALSE_ALARM_RATE = 0.03
"""The default share of in-distribution images that may be flagged."""

MIN_HELD_OUT = 300
"""With fewer held-out images of a target there is a warning about its thresholds."""

MIN_ALARMS = 10
"""A class's threshold rests on that class alone if it flags at least this many of its held-out images."""

SHRINKAGE = 20
"""The weight, in images, of the median distance over all classes against a class's own."""

_NOTHING = 1e-12
"""A sum of squares that is only rounding, for features of length 1."""


@dataclass(frozen=True)
class DetectorData:
    """The features that a detector is fitted to and calibrated on.

    Attributes:
        train: features [N, inputs] of training images, for each candidate.
        train_classes: [N].
        val: features [M, inputs] of held-out images, which also set the thresholds.
        val_predicted: [M], the classes that the head gives them.
        labels: one per class.
        others: features [K, inputs] of the other targets' held-out images, computed with this target's adapter.
    """

    train: Features
    train_classes: torch.Tensor
    val: Features
    val_predicted: torch.Tensor
    labels: Sequence[str]
    others: Features | None = None

    def __post_init__(self) -> None:
        """Check that all candidates are there.

        Raises:
            BadInput: when there is no candidate, or `val` or `others` lacks one.
        """
        for features in (self.val, self.val if self.others is None else self.others):
            if not self.train or not self.train.keys() <= features.keys():
                raise BadInput("a detector needs the same features of training, validation and other images")


def fit_mahalanobis(
    data: DetectorData, *, false_alarm_rate: float = FALSE_ALARM_RATE, split: str = "val"
) -> Mahalanobis:
    """Fit a detector to each candidate of features, and return the one that separates best.

    With held-out images of the other targets, the criterion is the AUROC of this target's images against those. Without
    them, each label in turn is treated as out-of-distribution for the others. `adapters.fitting.feature_choice` says
    why, and how near ties are decided. The criterion's value is the best of several and so too high; a benchmark on the
    test split measures the detector.

    Args:
        false_alarm_rate: the share of in-distribution images that may be flagged.
        split: the name of the held-out images in the calibration's record.

    Returns:
        A detector whose `calibration` says how it was chosen and on how many images, with warnings in `notes`.

    Raises:
        BadInput: when a label has no training image, there is no held-out image, training features are all equal or
            not finite, or the rate is not between 0 and 1.
    """
    fitted = {spec: _fit_at(spec, data, false_alarm_rate) for spec in data.train}
    n_others = 0 if data.others is None else min(len(data.others[spec]) for spec in fitted)
    if data.others is not None and n_others:
        criterion = feature_choice.OTHERS
        scores = {spec: _against_others(one, data, data.others[spec]) for spec, one in fitted.items()}
    else:
        criterion = feature_choice.EACH_LABEL
        scores = {
            spec: feature_choice.against_each_label(_to_each_class(one, data.val[spec]), data.val_predicted)
            for spec, one in fitted.items()
        }
    calibration = {
        "split": split,
        **calibration_record(data.val_predicted, data.labels, false_alarm_rate),
        "choice": feature_choice.record(criterion, scores, len(data.val_predicted), n_others),
    }
    return replace(fitted[feature_choice.choose(scores)], calibration=calibration)


def calibrated_for(detector: Mahalanobis, name: str, held_out: Features, predicted: torch.Tensor) -> Mahalanobis:
    """A copy of a detector with thresholds for one more runtime, for the same false-alarm rate.

    Args:
        name: the runtime's name.
        held_out: the runtime's features of images that were in no training batch, [N, inputs].
        predicted: [N], the classes that the head gives them on that runtime.

    Raises:
        BadInput: when there is no held-out image, or the name is not valid for a runtime.
    """
    if not RUNTIME_THRESHOLDS.fullmatch(thresholds_name(name)):
        raise BadInput(f"{name[:60]!r} is not a valid name of a runtime")
    values = distances(held_out[detector.feature_spec], predicted, detector.means, detector.whitening)
    thresholds = calibrate(values, predicted, len(detector.labels), detector.false_alarm_rate)
    record = calibration_record(predicted, detector.labels, detector.false_alarm_rate)
    runtimes = {**detector.calibration.get("runtimes", {}), name: record}
    return replace(
        detector,
        runtime_thresholds={**detector.runtime_thresholds, name: thresholds},
        calibration={**detector.calibration, "runtimes": runtimes},
    )


def _fit_at(spec: FeatureSpec, data: DetectorData, rate: float) -> Mahalanobis:
    """A detector on one candidate of features."""
    means, whitening = fit_classes(data.train[spec], data.train_classes, len(data.labels))
    values = distances(data.val[spec], data.val_predicted, means, whitening)
    thresholds = calibrate(values, data.val_predicted, len(data.labels), rate)
    return Mahalanobis(tuple(data.labels), spec, means, whitening, thresholds, rate)


def _against_others(one: Mahalanobis, data: DetectorData, others: torch.Tensor) -> feature_choice.SeparationScore:
    val = distances(data.val[one.feature_spec], data.val_predicted, one.means, one.whitening)
    inside = val / one.thresholds[data.val_predicted]
    return feature_choice.against_others(inside, _to_each_class(one, others) / one.thresholds)


def _to_each_class(one: Mahalanobis, features: torch.Tensor) -> torch.Tensor:
    """Distances [N, classes]."""
    rows = [torch.full((len(features),), number, device=features.device) for number in range(len(one.labels))]
    return torch.stack([distances(features, classes, one.means, one.whitening) for classes in rows], dim=1)


def fit_classes(features: torch.Tensor, classes: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The means of `count` classes and the whitening matrix of their shared covariance, from training features.

    Raises:
        BadInput: when a class has no image, or the features of each class are all equal or not finite.
    """
    from sklearn.covariance import ledoit_wolf

    normal = functional.normalize(features.double(), dim=1)
    if len(torch.unique(classes)) != count:
        raise BadInput("a label has no training image", hint="remove its folder or add images to it")
    means = torch.stack([normal[classes == number].mean(dim=0) for number in range(count)])
    centred = normal - means[classes]
    if not _NOTHING < float(centred.square().sum()) < math.inf:
        raise BadInput("the training features of each label are all equal, or not finite", hint="add images")
    covariance, _ = ledoit_wolf(centred.numpy(), assume_centered=True)
    root = torch.linalg.cholesky(torch.from_numpy(covariance))
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=False)
    return means.float(), inverse.T.contiguous().float()


def calibrate(values: torch.Tensor, predicted: torch.Tensor, count: int, rate: float) -> torch.Tensor:
    """A threshold for each of `count` classes, so that about `rate` of new in-distribution images are above it.

    A class with many images takes the split-conformal quantile of its own distances (V. Vovk, A. Gammerman and G.
    Shafer, "Algorithmic Learning in a Random World", 2005, chapters 2 and 4). The tail of few images is mostly chance:
    of fifty it is the second largest distance, and one outlier would make the detector useless for that class. Other
    classes therefore take a multiple of their median distance, which is the split-conformal quantile of distances in
    units of medians, over all classes (normalised conformal prediction: H. Papadopoulos et al., "Regression conformal
    prediction with nearest neighbours", 2011). On tiny backbones and digits, with about 70 images per class and 3%
    asked, this flagged 98.9% of near images at 2.6% false alarms, 4.4% in the worst class; quantiles by class flagged
    95.7%, at 2.5% and 5.0% (600 random splits).

    Args:
        values: [N], distances of images that were in no training batch.
        predicted: [N], the classes that the head gives them.

    Raises:
        BadInput: when there is no held-out image, or the rate is not between 0 and 1.
    """
    if not len(values) or not 0 < rate < 1:
        raise BadInput(f"no threshold for a rate of {rate} from {len(values)} images", hint="add validation images")
    each = [values[predicted == number] for number in range(count)]
    medians = _shrunk_medians(each, values)
    factor = _upper_quantile(values / medians[predicted], rate)
    return torch.stack(
        [
            _upper_quantile(own, rate) if len(own) * rate >= MIN_ALARMS else factor * median
            for own, median in zip(each, medians, strict=True)
        ]
    )


def _shrunk_medians(each: Sequence[torch.Tensor], everything: torch.Tensor) -> torch.Tensor:
    """The median of each class, shrunk towards the median of all the more, the fewer images it has; [classes]."""
    overall = everything.median()
    sums = [len(own) * (own.median() if len(own) else overall) + SHRINKAGE * overall for own in each]
    return torch.stack([total / (len(own) + SHRINKAGE) for own, total in zip(each, sums, strict=True)])


def _upper_quantile(values: torch.Tensor, rate: float) -> torch.Tensor:
    # A new value exceeds it with probability at most `rate`, if n is large enough.
    return values.sort().values[_rank(len(values), rate) - 1]


def _rank(n: int, rate: float) -> int:
    """Which of n ascending distances is the threshold."""
    return min(math.ceil((n + 1) * (1 - rate)), n)


def promised_rate(n: int, rate: float) -> float:
    """The upper bound, with 90% confidence, of the false-alarm rate of thresholds from n held-out images.

    Which rate a split-conformal threshold really has depends on the images that set it: with the k-th smallest of n
    distances it is distributed as Beta(n + 1 - k, k). For 0.03 asked the bound is 0.052 with 100 images, 0.043 with 300
    and 0.037 with 1,000. See V. Vovk, "Conditional validity of inductive conformal predictors", Machine Learning 92
    (2013), 349.

    Args:
        n: at least 1.
        rate: the false-alarm rate that was asked for.
    """
    return upper_bound(n - _rank(n, rate), n, 0.9)


def calibration_record(predicted: torch.Tensor, labels: Sequence[str], rate: float) -> dict[str, Any]:
    """What thresholds are based on, with warnings."""
    counts = {label: int((predicted == number).sum()) for number, label in enumerate(labels)}
    n, notes = len(predicted), []
    based = f"the OOD thresholds rest on {n} held-out images"
    if (n + 1) * rate < 1:
        notes.append(f"{based}, too few for a false-alarm rate of {rate:g}: the largest distance is the threshold")
    elif n < MIN_HELD_OUT:
        notes.append(f"{based}, fewer than {MIN_HELD_OUT}")
    return {"images": n, "images_per_predicted_label": counts, "notes": notes}
