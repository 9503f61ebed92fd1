"""Detectors that other systems trained: their scores and decisions, with the interface of
`adapters.answer.ood.Detector`.

`prototype` belongs to the layout of `models/phase*_…`, `ensemble`, `energy` and `knn` to that of
`continual_sd_lora_adapter`. All use the input of the classifier (the embedding) and its logits. They judge an image by
the statistics of the predicted class, and flag it when the raw score is above that class's threshold.

A raw score that is a distance is reported as raw / threshold; one that may be negative, because it is made of energies,
as 1 + raw - threshold. Either is 1 at the threshold; `score` in the document says which one is used.

Those systems never flag a class without statistics, and neither do these detectors: its score is 0. Values that they
compute but do not decide by (SURE scores, conformal sets) are kept in the component's `source_meta.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from adapters.answer.heads import HeadOutput, check_width, read_labels
from adapters.backbone.features import FeatureSpec
from adapters.bundle import check_shapes
from registry.errors import BadManifest, BadWeights

MAHALANOBIS_WEIGHT, ENERGY_WEIGHT = 0.6, 0.4
"""The weights of the two z values in the ensemble."""

LEAST_SIGMA, LEAST_NORM, LEAST_TEMPERATURE = 1e-6, 1e-8, 1e-3
MAX_NEIGHBOURS = 10_000

RATIO = "raw / threshold"
DIFFERENCE = "1 + raw - threshold"

SHARED, SQUARED = "mahalanobis", "squared-diagonal"
"""The distances of `PrototypeDetector`."""


@dataclass(frozen=True)
class PrototypeDetector:
    """Distance to the images of the class, against a threshold per class: mean + k·std on validation images.

    The distance `mahalanobis` is sqrt((x - m)ᵀ P (x - m)), where m is the mean of all images or of each class.
    `squared-diagonal` is its square with each class's own prototype and variances: earlier code of that system, which
    saved `class_stds` and no `mahalanobis`, compared this with its thresholds.

    Attributes:
        labels: one per class, as in the head.
        distance: `mahalanobis` or `squared-diagonal`.
        centres: [1, inputs] or [classes, inputs].
        precision: the inverse of the covariance, [inputs, inputs]; for `squared-diagonal` [classes, inputs].
        thresholds: [classes].
    """

    labels: tuple[str, ...]
    distance: str
    centres: torch.Tensor
    precision: torch.Tensor
    thresholds: torch.Tensor

    feature_specs: ClassVar[tuple[FeatureSpec, ...]] = ()

    @property
    def inputs(self) -> int:
        """Width of the embeddings."""
        return int(self.centres.shape[1])

    def __call__(self, output: HeadOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N], 1 at the threshold, and flags [N]."""
        classes = output.predicted
        centred = output.embedding - self.centres.expand(len(self.labels), -1)[classes]
        if self.distance == SQUARED:
            raw = (centred.square() * self.precision[classes]).sum(dim=1)
        else:
            raw = ((centred @ self.precision) * centred).sum(dim=1).clamp_min(0).sqrt()
        return raw / self.thresholds[classes], raw > self.thresholds[classes]

    def for_runtime(self, name: str) -> PrototypeDetector:
        """Itself: it has no thresholds per runtime."""
        return self

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""
        known = {"kind": "prototype", "inputs": self.inputs, "labels": list(self.labels)}
        return known | {"distance": self.distance, "score": RATIO}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""
        return {"centres": self.centres, "precision": self.precision, "thresholds": self.thresholds}


@dataclass(frozen=True)
class EnsembleDetector:
    """0.6 times the z value of the diagonal Mahalanobis distance plus 0.4 times that of the energy.

    Attributes:
        labels: one per class, as in the head.
        beta: the length of embeddings after radial normalisation; None leaves them as they are.
        temperature: of the energy.
        means, variances: [classes, inputs].
        mahalanobis_mu, mahalanobis_sigma, energy_mu, energy_sigma, thresholds: [classes].
        calibrated: [classes] bool; whether the class has statistics.
    """

    labels: tuple[str, ...]
    beta: float | None
    temperature: float
    means: torch.Tensor
    variances: torch.Tensor
    mahalanobis_mu: torch.Tensor
    mahalanobis_sigma: torch.Tensor
    energy_mu: torch.Tensor
    energy_sigma: torch.Tensor
    thresholds: torch.Tensor
    calibrated: torch.Tensor

    feature_specs: ClassVar[tuple[FeatureSpec, ...]] = ()

    @property
    def inputs(self) -> int:
        """Width of the embeddings."""
        return int(self.means.shape[1])

    def __call__(self, output: HeadOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N], 1 at the threshold, and flags [N]."""
        classes = output.predicted
        centred = radially_normalised(output.embedding, self.beta) - self.means[classes]
        distance = (centred.square() / self.variances[classes]).sum(dim=1).sqrt()
        distance_z = _z(distance, self.mahalanobis_mu[classes], self.mahalanobis_sigma[classes])
        energy_z = _z(energy(output.logits, self.temperature), self.energy_mu[classes], self.energy_sigma[classes])
        raw = MAHALANOBIS_WEIGHT * distance_z + ENERGY_WEIGHT * energy_z
        return _differences(raw, self.thresholds[classes], self.calibrated[classes])

    def for_runtime(self, name: str) -> EnsembleDetector:
        """Itself: it has no thresholds per runtime."""
        return self

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""
        known = {"kind": "ensemble", "inputs": self.inputs, "labels": list(self.labels)}
        return known | {"radial_beta": self.beta, "energy_temperature": self.temperature, "score": DIFFERENCE}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""
        names = ("means", "variances", "mahalanobis_mu", "mahalanobis_sigma", "energy_mu", "energy_sigma")
        return {name: getattr(self, name) for name in (*names, "thresholds", "calibrated")}


@dataclass(frozen=True)
class EnergyDetector:
    """The energy -T logsumexp(logits / T) (Liu et al. 2020) against a threshold per class.

    Attributes:
        labels: one per class, as in the head.
        temperature: T.
        thresholds: [classes].
        calibrated: [classes] bool; whether the class has statistics.
    """

    labels: tuple[str, ...]
    temperature: float
    thresholds: torch.Tensor
    calibrated: torch.Tensor

    feature_specs: ClassVar[tuple[FeatureSpec, ...]] = ()

    def __call__(self, output: HeadOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N], 1 at the threshold, and flags [N]."""
        classes = output.predicted
        raw = energy(output.logits, self.temperature)
        return _differences(raw, self.thresholds[classes], self.calibrated[classes])

    def for_runtime(self, name: str) -> EnergyDetector:
        """Itself: it has no thresholds per runtime."""
        return self

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""
        known = {"kind": "energy", "labels": list(self.labels)}
        return known | {"energy_temperature": self.temperature, "score": DIFFERENCE}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""
        return {"thresholds": self.thresholds, "calibrated": self.calibrated}


@dataclass(frozen=True)
class KnnDetector:
    """Mean Euclidean distance to the k nearest vectors of the predicted class, against a threshold per class.

    Attributes:
        labels: one per class, as in the head.
        beta: the length of embeddings after radial normalisation; None leaves them as they are.
        bank: [vectors of all classes, inputs], in the order of the classes.
        sizes: [classes] int64, how many vectors each class has; 0 for a class without statistics.
        neighbours: [classes] int64, k; if a class has fewer vectors, all are taken.
        thresholds: [classes].
    """

    labels: tuple[str, ...]
    beta: float | None
    bank: torch.Tensor
    sizes: torch.Tensor
    neighbours: torch.Tensor
    thresholds: torch.Tensor

    feature_specs: ClassVar[tuple[FeatureSpec, ...]] = ()

    @property
    def inputs(self) -> int:
        """Width of the embeddings."""
        return int(self.bank.shape[1])

    def __call__(self, output: HeadOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores [N], 1 at the threshold, and flags [N]."""
        classes = output.predicted
        embedding = radially_normalised(output.embedding, self.beta)
        banks = self.bank.split(self.sizes.tolist())
        raw = torch.zeros(len(classes), device=embedding.device)
        for number in classes.unique().tolist():
            bank = banks[number]
            if len(bank):
                rows = classes == number
                k = min(int(self.neighbours[number]), len(bank))
                raw[rows] = torch.cdist(embedding[rows], bank).topk(k, largest=False).values.mean(dim=1)
        thresholds = self.thresholds[classes]
        calibrated = self.sizes[classes] > 0
        return torch.where(calibrated, raw / thresholds, 0), calibrated & (raw > thresholds)

    def for_runtime(self, name: str) -> KnnDetector:
        """Itself: it has no thresholds per runtime."""
        return self

    def document(self) -> dict[str, Any]:
        """The content of `ood.json`."""
        known = {"kind": "knn", "inputs": self.inputs, "labels": list(self.labels)}
        return known | {"radial_beta": self.beta, "score": RATIO}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The content of `ood.safetensors`."""
        return {name: getattr(self, name) for name in ("bank", "sizes", "neighbours", "thresholds")}


ImportedDetector = PrototypeDetector | EnsembleDetector | EnergyDetector | KnnDetector


def energy(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """[N, classes] -> [N]; higher is less like the training images."""
    return -temperature * (logits / temperature).logsumexp(dim=1)


def radially_normalised(embedding: torch.Tensor, beta: float | None) -> torch.Tensor:
    """Embeddings on the sphere of radius `beta`."""
    if beta is None:
        return embedding
    length: torch.Tensor = embedding.norm(dim=1, keepdim=True)
    return beta * embedding / length.clamp_min(LEAST_NORM)


def _z(values: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return (values - mu) / sigma.clamp_min(LEAST_SIGMA)


def _differences(
    raw: torch.Tensor, thresholds: torch.Tensor, calibrated: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.where(calibrated, 1 + raw - thresholds, 0), calibrated & (raw > thresholds)


def _read_prototype(document: Mapping[str, Any], tensors: dict[str, torch.Tensor], path: str) -> PrototypeDetector:
    labels, inputs = read_labels(document, path), check_width(document, "inputs", path)
    distance = document.get("distance")
    if distance not in (SHARED, SQUARED):
        raise BadManifest(f"{path}: the distance {str(distance)[:40]!r} is not known to this release")
    count = len(labels)
    one = distance == SHARED and len(tensors.get("centres", ())) == 1
    shapes = {"centres": (1 if one else count, inputs), "thresholds": (count,)}
    shapes["precision"] = (inputs, inputs) if distance == SHARED else (count, inputs)
    check_shapes(tensors, shapes, path)
    _check_positive(tensors["thresholds"], "threshold", path)
    return PrototypeDetector(labels, distance, **tensors)


def _read_ensemble(document: Mapping[str, Any], tensors: dict[str, torch.Tensor], path: str) -> EnsembleDetector:
    labels, inputs = read_labels(document, path), check_width(document, "inputs", path)
    names = ("mahalanobis_mu", "mahalanobis_sigma", "energy_mu", "energy_sigma", "thresholds", "calibrated")
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (len(labels),))
    check_shapes(tensors, shapes | dict.fromkeys(("means", "variances"), (len(labels), inputs)), path)
    _check_positive(tensors["variances"], "variance", path)
    beta, temperature = _read_beta(document, path), _read_temperature(document, path)
    return EnsembleDetector(labels, beta, temperature, **tensors | {"calibrated": tensors["calibrated"].bool()})


def _read_energy(document: Mapping[str, Any], tensors: dict[str, torch.Tensor], path: str) -> EnergyDetector:
    labels = read_labels(document, path)
    check_shapes(tensors, {"thresholds": (len(labels),), "calibrated": (len(labels),)}, path)
    temperature = _read_temperature(document, path)
    return EnergyDetector(labels, temperature, tensors["thresholds"], tensors["calibrated"].bool())


def _read_knn(document: Mapping[str, Any], tensors: dict[str, torch.Tensor], path: str) -> KnnDetector:
    labels, inputs = read_labels(document, path), check_width(document, "inputs", path)
    sizes = tensors.get("sizes", torch.zeros(0))
    total = int(sizes.sum())
    vectors: dict[str, tuple[int, ...]] = dict.fromkeys(("sizes", "neighbours", "thresholds"), (len(labels),))
    check_shapes(tensors, vectors | {"bank": (total, inputs)}, path)
    neighbours = tensors["neighbours"]
    if sizes.is_floating_point() or neighbours.is_floating_point() or not bool((sizes >= 0).all()):
        raise BadWeights(f"{path} has sizes or neighbours that are not counts")
    if not bool(((neighbours > 0) & (neighbours <= MAX_NEIGHBOURS)).all()):
        raise BadWeights(f"{path} has a number of neighbours outside 1 to {MAX_NEIGHBOURS}")
    _check_positive(tensors["thresholds"], "threshold", path)
    return KnnDetector(labels, _read_beta(document, path), **tensors)


READERS: Mapping[str, Callable[[Mapping[str, Any], dict[str, torch.Tensor], str], ImportedDetector]] = {
    "prototype": _read_prototype,
    "ensemble": _read_ensemble,
    "energy": _read_energy,
    "knn": _read_knn,
}
"""By `kind` in `ood.json`: make a detector from the document, the tensors of `ood.safetensors` and the path for
messages.
They raise BadManifest or BadWeights when something is malformed."""


def _read_beta(document: Mapping[str, Any], path: str) -> float | None:
    beta = document.get("radial_beta")
    return None if beta is None else _positive(beta, "radial_beta", path)


def _read_temperature(document: Mapping[str, Any], path: str) -> float:
    return _positive(document.get("energy_temperature"), "energy_temperature", path)


def _positive(value: object, name: str, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise BadManifest(f"{path}: {name} is {str(value)[:40]!r}, not a positive number")
    return float(value)


def _check_positive(tensor: torch.Tensor, what: str, path: str) -> None:
    if not bool((tensor > 0).all()):
        raise BadWeights(f"{path} has a {what} that is not positive")
