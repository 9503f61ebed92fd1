"""Is this image like those that the adapter was trained on? Mahalanobis distance to the predicted class.

The covariance is shared by the classes and shrunk (Ledoit and Wolf 2004), the features l2-normalised; see Lee et al.,
"A Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018. Which block the features are taken after,
and how they are pooled, is chosen on validation images; no test image and no image from `_ood` has a say. Each class
has a threshold of its own, from held-out images: training images lie closer to their class than new ones, so that
thresholds from them raise more false alarms than were asked for.

Detectors of other kinds come with imported adapters: `adapters.answer.ood_imported`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch.nn import functional

from adapters.answer.features import Tap
from adapters.answer.heads import Features, Seen, check_width, read_labels
from adapters.bundle import OOD, BundleFiles, check_shapes
from adapters.fitting import tap_choice
from registry.errors import BadInput, BadManifest, BadWeights

FALSE_ALARM_RATE = 0.03
"""The share of in-distribution images that may be flagged, unless a fit asks for another."""

MIN_HELD_OUT = 300
"""Held-out images of a target below which its thresholds come with a warning."""

MIN_ALARMS = 10
"""Held-out images of a class that its threshold must flag for the threshold to rest on that class alone."""

SHRINKAGE = 20
"""How many images the median distance of all classes counts as, beside a class's own."""

_NOTHING = 1e-12
"""A sum of squares that is rounding alone, of features of length 1."""

_RUNTIME = re.compile(r"thresholds@([a-z0-9][a-z0-9.-]{0,39})")


class Detector(Protocol):
    """What tells images of something else from images of the target, given what the head made of them."""

    @property
    def labels(self) -> tuple[str, ...]:
        """One per class, as in the head."""

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The features that it takes; none if it looks at `embedding` and `logits` alone."""

    def __call__(self, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N], 1 at the threshold and more when less like the predicted class; flags [N], true above it."""

    def for_runtime(self, name: str) -> Detector:
        """The detector with that runtime's own thresholds; itself if it has none."""

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""


@dataclass(frozen=True)
class Mahalanobis:
    """Mahalanobis distance to the predicted class, in units of that class's threshold.

    Attributes:
        labels: one per class, as in the head.
        tap: the features that it takes.
        means: [classes, inputs] of l2-normalised features.
        whitening: [inputs, inputs], W with W Wᵀ = the inverse of the shared covariance.
        thresholds: [classes], in distances, for the reference runtime.
        false_alarm_rate: what the thresholds were calibrated for.
        calibration: on what: the split, the number of images in all and per label, how the tap was chosen, warnings;
            and under `runtimes` the same of the other runtimes.
        runtime_thresholds: runtime -> [classes], for runtimes whose features differ a little from the reference's.
        runtime: the runtime whose thresholds are used; None for the reference.
    """

    labels: tuple[str, ...]
    tap: Tap
    means: torch.Tensor
    whitening: torch.Tensor
    thresholds: torch.Tensor
    false_alarm_rate: float
    calibration: Mapping[str, Any] = field(default_factory=dict)
    runtime_thresholds: Mapping[str, torch.Tensor] = field(default_factory=dict)
    runtime: str | None = None

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The features that it takes."""
        return (self.tap,)

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings of the calibration that is used, for people."""
        others = self.calibration.get("runtimes", {})
        return tuple((self.calibration if self.runtime is None else others.get(self.runtime, {})).get("notes", ()))

    def __call__(self, seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N], 1 at the threshold and more when less like the predicted class; flags [N], true above it."""
        predicted = seen.predicted
        thresholds = self.thresholds if self.runtime is None else self.runtime_thresholds[self.runtime]
        scores = distances(seen.features[self.tap], predicted, self.means, self.whitening) / thresholds[predicted]
        return scores, scores > 1

    def for_runtime(self, name: str) -> Mahalanobis:
        """The detector with that runtime's own thresholds; itself if it has none."""
        return replace(self, runtime=name) if name in self.runtime_thresholds else self

    def calibrated_for(self, name: str, held_out: Features, predicted: torch.Tensor) -> Mahalanobis:
        """A copy with thresholds for one more runtime, to the same false-alarm rate.

        Args:
            name: the runtime's.
            held_out: what it makes of images that were in no training batch, with this detector's tap, [N, inputs].
            predicted: [N], the classes that the head gives them in that runtime.

        Raises:
            BadInput: there is no held-out image, or the name can't be that of a runtime.
        """
        if not _RUNTIME.fullmatch(_tensor_name(name)):
            raise BadInput(f"{name[:60]!r} is no name of a runtime")
        values = distances(held_out[self.tap], predicted, self.means, self.whitening)
        thresholds = calibrate(values, predicted, len(self.labels), self.false_alarm_rate)
        record = _record(predicted, self.labels, self.false_alarm_rate)
        runtimes = {**self.calibration.get("runtimes", {}), name: record}
        return replace(
            self,
            runtime_thresholds={**self.runtime_thresholds, name: thresholds},
            calibration={**self.calibration, "runtimes": runtimes},
        )

    def _against_others(self, val: torch.Tensor, predicted: torch.Tensor, others: torch.Tensor) -> tap_choice.Worth:
        inside = distances(val, predicted, self.means, self.whitening) / self.thresholds[predicted]
        return tap_choice.against_others(inside, self._to_each_class(others) / self.thresholds)

    def _to_each_class(self, features: torch.Tensor) -> torch.Tensor:
        """Distances [N, classes]."""
        classes = range(len(self.labels))
        rows = [torch.full((len(features),), number, device=features.device) for number in classes]
        return torch.stack([distances(features, one, self.means, self.whitening) for one in rows], dim=1)

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""
        return {
            "kind": "mahalanobis",
            "features": self.tap.document(),
            "inputs": self.means.shape[1],
            "labels": list(self.labels),
            "false_alarm_rate": self.false_alarm_rate,
            "calibration": dict(self.calibration),
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""
        own = {_tensor_name(name): thresholds for name, thresholds in self.runtime_thresholds.items()}
        return {"means": self.means, "whitening": self.whitening, "thresholds": self.thresholds, **own}


def read_detector(files: BundleFiles, folder: str, hidden_size: int, depth: int, device: str) -> Detector:
    """The detector in a folder of a bundle, on a backbone of this width and so many blocks.

    Raises:
        BadManifest, BadWeights, MissingBlob: a file is missing, malformed, or does not fit the backbone.
    """
    path = f"{folder}/{OOD}"
    document = files.document(f"{path}.json")
    tensors = {name: tensor.to(device) for name, tensor in files.tensors(f"{path}.safetensors").items()}
    kind = document.get("kind")
    if kind == "mahalanobis":
        return _read_mahalanobis(document, tensors, hidden_size, depth, path)
    from adapters.answer.ood_imported import READERS  # which few bundles need

    if not isinstance(kind, str) or kind not in READERS:
        raise BadManifest(f"{path}: a detector of kind {str(kind)[:40]!r} is not known to this release")
    return READERS[kind](document, tensors, path)


def fit_mahalanobis(
    train: Features,
    train_classes: torch.Tensor,
    val: Features,
    val_predicted: torch.Tensor,
    labels: Sequence[str],
    *,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    others: Features | None = None,
    split: str = "val",
) -> Mahalanobis:
    """Fit a detector at each tap that there are features of, and take the one that separates best.

    Given held-out images of the other targets, that is told by the AUROC of this target's images against those; without
    them, by letting each label in turn play the stranger to the others. `adapters.fitting.tap_choice` says why, and how
    a near tie ends. What the detector is worth a benchmark says, on the test split: the value here is the best of
    several.

    Args:
        train: per tap [N, inputs] of training images.
        train_classes: [N].
        val: per tap [M, inputs] of held-out images, which also set the thresholds.
        val_predicted: [M], the classes that the head gives them.
        labels: one per class.
        false_alarm_rate: the share of in-distribution images that may be flagged.
        others: per tap [K, inputs] of the other targets' held-out images, as this target's adapter sees them.
        split: what the held-out images are called in the calibration's record.

    Returns:
        A detector whose `calibration` says how it was chosen and on how many images, with warnings in `notes`.

    Raises:
        BadInput: a label has no training image, there is no held-out image, training features are all the same or not
            finite, `val` or `others` lacks a tap, or the rate is not between 0 and 1.
    """
    if not train or not train.keys() <= val.keys() or (others is not None and not train.keys() <= others.keys()):
        raise BadInput("a detector takes features of the same taps from training, validation and other images")

    def fitted_at(tap: Tap) -> Mahalanobis:
        means, whitening = fit_classes(train[tap], train_classes, len(labels))
        values = distances(val[tap], val_predicted, means, whitening)
        thresholds = calibrate(values, val_predicted, len(labels), false_alarm_rate)
        return Mahalanobis(tuple(labels), tap, means, whitening, thresholds, false_alarm_rate)

    fitted = {tap: fitted_at(tap) for tap in train}
    strangers = 0 if others is None else min(len(others[tap]) for tap in fitted)
    if others is not None and strangers:
        criterion = tap_choice.OTHERS
        worth = {tap: one._against_others(val[tap], val_predicted, others[tap]) for tap, one in fitted.items()}
    else:
        criterion = tap_choice.EACH_LABEL
        worth = {
            tap: tap_choice.against_each_label(one._to_each_class(val[tap]), val_predicted)
            for tap, one in fitted.items()
        }
    calibration = {
        "split": split,
        **_record(val_predicted, labels, false_alarm_rate),
        "choice": tap_choice.record(criterion, worth, len(val_predicted), strangers),
    }
    return replace(fitted[tap_choice.choose(worth)], calibration=calibration)


def distances(
    features: torch.Tensor, classes: torch.Tensor, means: torch.Tensor, whitening: torch.Tensor
) -> torch.Tensor:
    """The Mahalanobis distance of each row to its class: [N, inputs], [N] -> [N]."""
    centred = functional.normalize(features, dim=1) - means[classes]
    return (centred @ whitening).norm(dim=1)


def fit_classes(features: torch.Tensor, classes: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The means of `count` classes and the whitening matrix of their shared covariance, from training features.

    Raises:
        BadInput: a class has no image, or all features of each class are the same or not finite.
    """
    from sklearn.covariance import ledoit_wolf

    normal = functional.normalize(features.double(), dim=1)
    if len(torch.unique(classes)) != count:
        raise BadInput("a label has no training image", hint="remove its folder or add images to it")
    means = torch.stack([normal[classes == number].mean(dim=0) for number in range(count)])
    centred = normal - means[classes]
    if not _NOTHING < float(centred.square().sum()) < math.inf:
        raise BadInput("the training features of each label are all the same, or no numbers", hint="add images")
    covariance, _ = ledoit_wolf(centred.numpy(), assume_centered=True)
    root = torch.linalg.cholesky(torch.from_numpy(covariance))
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=False)
    return means.float(), inverse.T.contiguous().float()


def calibrate(values: torch.Tensor, predicted: torch.Tensor, count: int, rate: float) -> torch.Tensor:
    """A threshold for each of `count` classes, so that about `rate` of new in-distribution images lie above it.

    A class with many images takes the split-conformal quantile of its own (V. Vovk, A. Gammerman and G. Shafer,
    "Algorithmic Learning in a Random World", 2005, chapters 2 and 4). The tail of few images is mostly chance: of fifty
    it is the second farthest, and one odd image would make its class blind. Other classes therefore take a multiple of
    their median distance, which is the split-conformal quantile of distances counted in medians, over all classes
    (normalised conformal prediction: H. Papadopoulos et al., "Regression conformal prediction with nearest neighbours",
    2011). On tiny backbones and digits, with about 70 images per class and 3% asked, that flagged 98.9% of near images
    at 2.6% false alarms, 4.4% in the worst class; quantiles by class flagged 95.7%, at 2.5% and 5.0% (600 random
    splits).

    Args:
        values: [N], distances of images that were in no training batch.
        predicted: [N], what the head makes of them, as in use.

    Raises:
        BadInput: there is no held-out image, or the rate is not between 0 and 1.
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
    """The median of each class, drawn towards that of all the more the fewer images there are; [classes]."""
    overall = everything.median()
    sums = [len(own) * (own.median() if len(own) else overall) + SHRINKAGE * overall for own in each]
    return torch.stack([total / (len(own) + SHRINKAGE) for own, total in zip(each, sums, strict=True)])


def _upper_quantile(values: torch.Tensor, rate: float) -> torch.Tensor:
    # A new value exceeds it with probability at most `rate`, if n allows such a one.
    rank = math.ceil((len(values) + 1) * (1 - rate))
    return values.sort().values[min(rank, len(values)) - 1]


def _record(predicted: torch.Tensor, labels: Sequence[str], rate: float) -> dict[str, Any]:
    """What thresholds rest on, and warnings about it."""
    counts = {label: int((predicted == number).sum()) for number, label in enumerate(labels)}
    n, notes = len(predicted), []
    if n < MIN_HELD_OUT:
        notes.append(f"the OOD thresholds rest on {n} held-out images, fewer than {MIN_HELD_OUT}")
    if (n + 1) * rate < 1:
        notes.append(
            f"{n} held-out images can't promise a false-alarm rate of {rate:g}: the farthest sets the threshold"
        )
    return {"images": n, "images_per_predicted_label": counts, "notes": notes}


def _tensor_name(runtime: str) -> str:
    return f"thresholds@{runtime}"


def _read_mahalanobis(
    document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], hidden_size: int, depth: int, path: str
) -> Mahalanobis:
    labels, tap = read_labels(document, path), Tap.of(document.get("features"), depth, path)
    inputs = check_width(document, "inputs", path, tap.width(hidden_size))
    rate = document.get("false_alarm_rate")
    if not isinstance(rate, float) or not 0 < rate < 1:
        raise BadManifest(f"{path}: false_alarm_rate is {str(rate)[:40]!r}, not a number between 0 and 1")
    runtimes = {match[1]: name for name in tensors if (match := _RUNTIME.fullmatch(name))}
    shapes: dict[str, tuple[int, ...]] = {"means": (len(labels), inputs), "whitening": (inputs, inputs)}
    shapes |= dict.fromkeys(["thresholds", *runtimes.values()], (len(labels),))
    check_shapes(tensors, shapes, path)
    if not all(bool((tensors[name] > 0).all()) for name in ("thresholds", *runtimes.values())):
        raise BadWeights(f"{path} has a threshold that is not positive")
    return Mahalanobis(
        labels,
        tap,
        tensors["means"],
        tensors["whitening"],
        tensors["thresholds"],
        rate,
        _read_calibration(document, path),
        {runtime: tensors[name] for runtime, name in runtimes.items()},
    )


def _read_calibration(document: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    calibration = document.get("calibration", {})
    runtimes = calibration.get("runtimes", {}) if isinstance(calibration, dict) else None
    if not isinstance(runtimes, dict):
        raise BadManifest(f"{path}: calibration is not an object of what the thresholds rest on")
    for record in (calibration, *runtimes.values()):
        notes = record.get("notes", []) if isinstance(record, dict) else None
        if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
            raise BadManifest(f"{path}: calibration is not an object of what the thresholds rest on")
    return dict(calibration)
