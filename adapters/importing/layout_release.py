"""The layout of `continual_sd_lora_adapter/`: a fusion of several layers and per-class statistics for its detectors.

The computation of that system: `fusion.layers` are indices of transformers' hidden states (0: the embeddings), clamped
to the existing ones, before the final layer norm; each is the mean of all tokens (CLS, registers, patches); a gating
other than `softmax` weights all layers equally.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from adapters.answer.heads import FusionHead
from adapters.answer.ood_imported import (
    LEAST_TEMPERATURE,
    MAX_NEIGHBOURS,
    EnergyDetector,
    EnsembleDetector,
    ImportedDetector,
    KnnDetector,
)
from adapters.backbone.features import FeatureSpec
from adapters.importing.layouts import CLASSIFIER, FUSION, META, OOD_STATE, AdapterFolder
from adapters.importing.untrusted_files import as_number, as_tensor, by_class, read_json, read_state
from registry.errors import BadBundle, BadWeights

LAYER_NORM_EPS = 1e-5
DEFAULT_LAYERS = (2, 5, 8, 11)
DEFAULT_NEIGHBOURS = 10
_TABLES = ("mean", "var", "knn_bank")
_NOT_MADE = "nothing was created"


def read_fusion(
    adapter: AdapterFolder, labels: tuple[str, ...], classifier: tuple[torch.Tensor, torch.Tensor], depth: int
) -> FusionHead:
    """Read the head in `fusion.pth` and the classifier on it.

    Raises:
        BadBundle, BadWeights: when a file is malformed, or they do not fit each other.
    """
    path = adapter.folder / FUSION
    state = {name: tensor.float() for name, tensor in read_state(path).items()}
    try:
        logits, norm = state.pop("scale_logits"), (state.pop("norm.weight"), state.pop("norm.bias"))
        count = len(state) // 2
        projections = tuple(
            (state.pop(f"projections.{n}.weight"), state.pop(f"projections.{n}.bias")) for n in range(count)
        )
    except (KeyError, TypeError) as error:
        raise BadWeights(f"{path} is a fusion without {error}", hint=_NOT_MADE) from error
    if state or not projections or logits.shape != (count,):
        raise BadWeights(f"{path} is not a fusion of {count} layers: {sorted(state)[:3]}", hint=_NOT_MADE)
    width = norm[0].shape[0] if norm[0].ndim == 1 else 0
    if classifier[0].shape[1] != width:
        raise BadBundle(
            f"{path} gives features {width} wide, but {CLASSIFIER} takes {classifier[0].shape[1]}", hint=_NOT_MADE
        )
    stated = _stated(adapter.meta, "fusion", str(adapter.folder / META))
    if stated.get("gating", "softmax") != "softmax":
        logits = torch.zeros_like(logits)
    return FusionHead(
        labels, _feature_specs(adapter, stated, count, depth), projections, logits, norm, classifier, LAYER_NORM_EPS
    )


def read_detector(
    adapter: AdapterFolder, labels: tuple[str, ...], inputs: int
) -> tuple[ImportedDetector | None, dict[str, torch.Tensor], dict[str, Any], list[str]]:
    """Read the detector in `adapter_meta.json`.

    Returns:
        The detector, None without statistics; tables of numbers that are not in it, by dotted names; the file's other
        fields; notes for people.

    Raises:
        BadBundle: when the statistics are malformed or do not fit the classifier.
    """
    path = str(adapter.folder / META)
    meta = read_json(adapter.folder / META)
    state = _stated(meta, OOD_STATE, path)
    stats = _stated(state, "class_stats", path)
    if not stats:
        return None, {}, meta, [f"{META} has no ood_state.class_stats: no image will be flagged"]
    _check_no_react(state, path)
    method = state.get("primary_score_method", "ensemble")
    if not isinstance(method, str) or method not in METHODS:
        raise BadBundle(f"{path}: primary_score_method {str(method)[:40]!r} is not one of {', '.join(METHODS)}")
    statistics = _Statistics.of(state, labels, inputs, path)
    make, used = METHODS[method]
    unused = {
        f"class_stats.{labels[number]}.{name}": table
        for (number, name), table in statistics.tables.items()
        if name not in used
    }
    numbers = {key: {name: v for name, v in fields.items() if name not in _TABLES} for key, fields in stats.items()}
    missing = ", ".join(statistics.missing)[:200]
    notes = [f"{META} has no statistics for {missing}: they will never be flagged"] if missing else []
    return make(statistics), unused, meta | {OOD_STATE: dict(state) | {"class_stats": numbers}}, notes


@dataclass(frozen=True)
class _Statistics:
    """The statistics of the classes; errors name the file and the class.

    Attributes:
        labels: one per class.
        inputs: the width of the embeddings.
        state: `ood_state`.
        by_class: the statistics of each class that has some, by number.
        tables: their tables of numbers, by the class's number and the table's name.
        path: the file.
    """

    labels: tuple[str, ...]
    inputs: int
    state: Mapping[str, Any]
    by_class: Mapping[int, Mapping[str, Any]]
    tables: Mapping[tuple[int, str], torch.Tensor]
    path: str

    @classmethod
    def of(cls, state: Mapping[str, Any], labels: tuple[str, ...], inputs: int, path: str) -> _Statistics:
        """Read `ood_state`, in which classes are named by numbers or labels."""
        stats = by_class(state["class_stats"], labels, f"{path}: class_stats")
        tables: dict[tuple[int, str], torch.Tensor] = {}
        for number, fields in stats.items():
            if not isinstance(fields, Mapping):
                raise BadBundle(f"{path}: class_stats of {labels[number]} is not an object", hint=_NOT_MADE)
            for name in _TABLES:
                if fields.get(name):
                    tables[number, name] = as_tensor(fields[name], f"{path}: {name} of {labels[number]}")
        return cls(labels, inputs, state, stats, tables, path)

    @property
    def missing(self) -> tuple[str, ...]:
        """The classes without statistics."""
        return tuple(label for number, label in enumerate(self.labels) if number not in self.by_class)

    @property
    def calibrated(self) -> torch.Tensor:
        return torch.tensor([number in self.by_class for number in range(len(self.labels))])

    @property
    def temperature(self) -> float:
        value = as_number(self.state.get("energy_temperature", 1.0), f"{self.path}: energy_temperature")
        return max(value, LEAST_TEMPERATURE)

    @property
    def beta(self) -> float | None:
        value = self.state.get("radial_beta")
        if value is None or self.state.get("radial_l2_enabled", True) is False:
            return None
        beta = as_number(value, f"{self.path}: radial_beta")
        if beta <= 0:
            raise BadBundle(f"{self.path}: radial_beta is {beta:g}, not a radius", hint=_NOT_MADE)
        return beta

    def numbers(self, name: str, absent: float) -> torch.Tensor:
        """One number per class; `absent` for a class without statistics."""
        return torch.tensor(
            [
                as_number(self.by_class[number].get(name), f"{self.path}: {name} of {label}")
                if number in self.by_class
                else absent
                for number, label in enumerate(self.labels)
            ]
        )

    def vectors(self, name: str, absent: float) -> torch.Tensor:
        """[classes, inputs]."""
        return torch.stack(
            [
                self.table(number, name).reshape(-1) if number in self.by_class else torch.full((self.inputs,), absent)
                for number in range(len(self.labels))
            ]
        )

    def table(self, number: int, name: str) -> torch.Tensor:
        """[rows, inputs]."""
        table = self.tables.get((number, name))
        table = torch.zeros(0) if table is None else table
        shape = tuple(table.shape)
        if shape[-1:] != (self.inputs,) or len(shape) != (2 if name == "knn_bank" else 1):
            raise BadBundle(
                f"{self.path}: {name} of {self.labels[number]} has the shape {shape}, "
                f"but the classifier takes {self.inputs}",
                hint=_NOT_MADE,
            )
        return table


def _ensemble(statistics: _Statistics) -> EnsembleDetector:
    variances = statistics.vectors("var", 1.0)
    if not bool((variances > 0).all()):
        raise BadBundle(f"{statistics.path} has a variance that is not positive", hint=_NOT_MADE)
    return EnsembleDetector(
        labels=statistics.labels,
        beta=statistics.beta,
        temperature=statistics.temperature,
        means=statistics.vectors("mean", 0.0),
        variances=variances,
        mahalanobis_mu=statistics.numbers("mahalanobis_mu", 0.0),
        mahalanobis_sigma=statistics.numbers("mahalanobis_sigma", 1.0),
        energy_mu=statistics.numbers("energy_mu", 0.0),
        energy_sigma=statistics.numbers("energy_sigma", 1.0),
        thresholds=statistics.numbers("threshold", 0.0),
        calibrated=statistics.calibrated,
    )


def _energy(statistics: _Statistics) -> EnergyDetector:
    thresholds = statistics.numbers("energy_threshold", 0.0)
    return EnergyDetector(statistics.labels, statistics.temperature, thresholds, statistics.calibrated)


def _knn(statistics: _Statistics) -> KnnDetector:
    banks = [
        statistics.table(number, "knn_bank") if number in statistics.by_class else torch.zeros(0, statistics.inputs)
        for number in range(len(statistics.labels))
    ]
    neighbours = [
        as_number(fields.get("knn_k", DEFAULT_NEIGHBOURS), f"{statistics.path}: knn_k of {statistics.labels[number]}")
        if (fields := statistics.by_class.get(number)) is not None
        else DEFAULT_NEIGHBOURS
        for number in range(len(banks))
    ]
    thresholds = statistics.numbers("knn_threshold", 1.0)
    if not bool((thresholds > 0).all()) or not all(0 < k <= MAX_NEIGHBOURS and k == int(k) for k in neighbours):
        raise BadBundle(f"{statistics.path} has a knn_threshold or knn_k that is not positive", hint=_NOT_MADE)
    return KnnDetector(
        labels=statistics.labels,
        beta=statistics.beta,
        bank=torch.cat(banks),
        sizes=torch.tensor([len(bank) for bank in banks]),
        neighbours=torch.tensor([int(k) for k in neighbours]),
        thresholds=thresholds,
    )


METHODS: Mapping[str, tuple[Callable[[_Statistics], ImportedDetector], tuple[str, ...]]] = {
    "ensemble": (_ensemble, ("mean", "var")),
    "energy": (_energy, ()),
    "knn": (_knn, ("knn_bank",)),
}
"""By `primary_score_method`: the function that makes the detector, and the tables that it uses."""


def _feature_specs(
    adapter: AdapterFolder, stated: Mapping[str, Any], count: int, depth: int
) -> tuple[FeatureSpec, ...]:
    layers = stated.get("layers", DEFAULT_LAYERS)
    if not isinstance(layers, list | tuple) or not layers or not all(type(layer) is int for layer in layers):
        raise BadBundle(f"{adapter.folder / META}: fusion.layers is not a list of numbers", hint=_NOT_MADE)
    padded = [*layers, *[layers[-1]] * count][:count]
    return tuple(FeatureSpec(max(0, min(layer, depth)), "tokens", norm=False) for layer in padded)


def _stated(document: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    """An object inside a document, empty if it is missing."""
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadBundle(f"{path}: {name} is not an object", hint=_NOT_MADE)
    return value


def _check_no_react(state: Mapping[str, Any], path: str) -> None:
    """Refuse ReAct, which clips embeddings before they are scored: the scores would differ without it."""
    if state.get("react_enabled") is True and state.get("react_apply_during_inference", True) is not False:
        raise BadBundle(f"{path}: ood_state enables ReAct, which this release does not support", hint=_NOT_MADE)
