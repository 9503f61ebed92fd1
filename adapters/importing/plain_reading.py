"""What a source's own code computes on top of the backbone: its fusion and its detector, read straight from its files.

It shares no computing with `adapters.answer`: plain formulas in float64, detectors image by image. Every formula is
that of the source's system; see `adapters.importing.layout_phases` and `layout_release`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from adapters.importing.layout_release import DEFAULT_LAYERS, DEFAULT_NEIGHBOURS, LAYER_NORM_EPS
from adapters.importing.layouts import FUSION, META, OOD_COMPONENTS, OOD_STATE, RELEASE, AdapterFolder
from adapters.importing.peft_reading import Tokens
from adapters.importing.untrusted_files import by_class, read_json, read_pickle, read_state

Raw = tuple[float, float, bool]
"""Of one image: the raw score, the threshold of its class, and whether the class has statistics at all."""


def embedding_of(adapter: AdapterFolder, tokens: Tokens, width: int) -> torch.Tensor:
    """What the classifier takes, [N, width]: a fusion of layers, the CLS token, or CLS and the mean of the patches."""
    if (adapter.folder / FUSION).is_file():
        return _fused(adapter, tokens)
    return tokens.pooled("cls" if width == tokens.last.shape[-1] else "cls+mean")


def scores_of(
    adapter: AdapterFolder,
    labels: Sequence[str],
    thresholds: Sequence[float],
    embedding: torch.Tensor,
    logits: torch.Tensor,
) -> list[Raw]:
    """The raw score of each image.

    Args:
        thresholds: one per class of the layout with phases, which states them in several forms.
        embedding, logits: [N, width] and [N, classes], float64.
    """
    judge = (_release_judge if adapter.layout == RELEASE else _phase_judge)(adapter, labels, thresholds)
    classes = logits.argmax(dim=1).tolist()
    return [judge(*row) for row in zip(embedding, logits, classes, strict=True)]


Judge = Callable[[torch.Tensor, torch.Tensor, int], Raw]
"""Of one image: its embedding [width], its logits [classes] and the number of its class."""


def _fused(adapter: AdapterFolder, tokens: Tokens) -> torch.Tensor:
    state = {name: tensor.double() for name, tensor in read_state(adapter.folder / FUSION).items()}
    stated = adapter.meta.get("fusion") or {}
    logits = state["scale_logits"]
    shares = logits.softmax(dim=0) if stated.get("gating", "softmax") == "softmax" else logits * 0 + 1 / len(logits)
    layers = list(stated.get("layers", DEFAULT_LAYERS))
    total = torch.zeros(())
    for number, share in enumerate(shares):
        layer = layers[min(number, len(layers) - 1)]
        mean = tokens.states[max(0, min(layer, len(tokens.states) - 1))].mean(dim=1)
        weight, bias = (state[f"projections.{number}.{name}"] for name in ("weight", "bias"))
        total = total + share * (mean @ weight.T + bias)
    centred = total - total.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1, keepdim=True)
    return centred / (variance + LAYER_NORM_EPS).sqrt() * state["norm.weight"] + state["norm.bias"]


def _phase_judge(adapter: AdapterFolder, labels: Sequence[str], thresholds: Sequence[float]) -> Judge:
    saved = read_pickle(adapter.folder / OOD_COMPONENTS)
    shared = saved.get("mahalanobis")
    if shared is not None:
        means = _table(shared["mean"]).reshape(-1, _table(shared["mean"]).shape[-1])
        inverse = _table(shared["inv_covariance"]) if "inv_covariance" in shared else None
        precision = torch.linalg.pinv(_table(shared["covariance"])) if inverse is None else inverse

        def distance(embedding: torch.Tensor, logits: torch.Tensor, number: int) -> Raw:
            centred = embedding - means[number if len(means) > 1 else 0]
            return max(0.0, float(centred @ precision @ centred)) ** 0.5, thresholds[number], True

        return distance
    stds = by_class(saved["class_stds" if "class_stds" in saved else "class_std"], labels, OOD_COMPONENTS)
    prototypes = _table(saved["prototypes"])

    def squared(embedding: torch.Tensor, logits: torch.Tensor, number: int) -> Raw:
        variance = torch.ones(()).double()
        if number in stds:
            variance = _table(stds[number]).square().expand(prototypes.shape[1])
            variance = variance + max(1e-6, 1e-4 * float(variance.mean()))
        return float(((embedding - prototypes[number]).square() / variance).sum()), thresholds[number], True

    return squared


def _release_judge(adapter: AdapterFolder, labels: Sequence[str], thresholds: Sequence[float]) -> Judge:
    state: Mapping[str, Any] = read_json(adapter.folder / META)[OOD_STATE]
    stats = by_class(state["class_stats"], labels, META)
    method = state.get("primary_score_method", "ensemble")
    temperature = max(float(state.get("energy_temperature", 1.0)), 1e-3)
    beta = state.get("radial_beta") if state.get("radial_l2_enabled", True) is not False else None

    def judge(embedding: torch.Tensor, logits: torch.Tensor, number: int) -> Raw:
        mine = stats.get(number)
        if mine is None or (method == "knn" and not mine.get("knn_bank")):
            return 0.0, 1.0, False
        energy = -temperature * float(torch.logsumexp(logits / temperature, dim=0))
        if method == "energy":
            return energy, float(mine["energy_threshold"]), True
        feature = embedding if beta is None else beta * embedding / max(float(embedding.norm()), 1e-8)
        if method == "knn":
            distances = sorted((_table(mine["knn_bank"]) - feature).norm(dim=1).tolist())
            nearest = distances[: int(mine.get("knn_k", DEFAULT_NEIGHBOURS))]
            return sum(nearest) / len(nearest), float(mine["knn_threshold"]), True
        distance = (
            float(((feature - _table(mine["mean"]).reshape(-1)).square() / _table(mine["var"]).reshape(-1)).sum())
            ** 0.5
        )
        z = [_z(distance, mine, "mahalanobis"), _z(energy, mine, "energy")]
        return 0.6 * z[0] + 0.4 * z[1], float(mine["threshold"]), True

    return judge


def _z(value: float, stats: Mapping[str, Any], name: str) -> float:
    return (value - float(stats[f"{name}_mu"])) / max(float(stats[f"{name}_sigma"]), 1e-6)


def _table(value: Any) -> torch.Tensor:
    return value.double() if torch.is_tensor(value) else torch.tensor(value, dtype=torch.float64)
