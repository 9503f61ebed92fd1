"""Heads that need no training of the backbone: multinomial logistic regression on its features."""

from __future__ import annotations

import torch
from torch.nn import functional

from adapters.answer.features import Tap
from adapters.answer.heads import Features, FusionHead, Head, LinearHead

FUSED_LAYERS = 4
"""Layers that a fusion head looks at, as in the system whose layout it comes from."""


def linear_head(features: torch.Tensor, classes: torch.Tensor, labels: tuple[str, ...], tap: Tap) -> LinearHead:
    """A linear head, fitted.

    Args:
        features: [N, width], taken at `tap`.
        classes: [N].
    """
    return LinearHead(labels, tap, *regress(features, classes, len(labels)))


def regress(features: torch.Tensor, classes: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logistic regression with a little weight decay on standardised features, folded into one layer.

    Returns:
        weight [count, width] and bias [count].
    """
    mean, scale = features.mean(dim=0), features.std(dim=0, correction=0) + 1e-6
    inputs = (features - mean) / scale
    weight = torch.zeros(count, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(functional.linear(inputs, weight, bias), classes)
        value = value + 1e-3 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    folded = weight.detach() / scale
    return folded, bias.detach() - folded @ mean


def head_taps(kind: str, depth: int) -> tuple[Tap, ...]:
    """Where a head of a recipe takes its features: after the last block, or after four, evenly spread."""
    if kind != "fusion":
        return (Tap(depth, kind),)
    layers = min(FUSED_LAYERS, depth)
    return tuple(Tap(round(depth * (number + 1) / layers), "tokens") for number in range(layers))


def starting_head(features: Features, classes: torch.Tensor, labels: tuple[str, ...], taps: tuple[Tap, ...]) -> Head:
    """The best head that there is before the LoRA changes anything; a fusion starts as the mean of its layers.

    Args:
        features: per tap [N, width].
        classes: [N].
    """
    if len(taps) == 1:
        return linear_head(features[taps[0]], classes, labels, taps[0])
    width = features[taps[0]].shape[1]
    blank = FusionHead(
        labels,
        taps,
        tuple((torch.eye(width), torch.zeros(width)) for _ in taps),
        torch.zeros(len(taps)),
        (torch.ones(width), torch.zeros(width)),
        (torch.zeros(len(labels), width), torch.zeros(len(labels))),
    )
    embedding = blank(features).embedding
    classifier = regress(embedding, classes, len(labels))
    return FusionHead(labels, taps, blank.projections, blank.scale_logits, blank.norm, classifier)


def with_tensors(head: Head, tensors: dict[str, torch.Tensor]) -> Head:
    """A head of the same form with other tensors, named as in its file."""
    if isinstance(head, LinearHead):
        return LinearHead(head.labels, head.tap, tensors["weight"], tensors["bias"])
    assert isinstance(head, FusionHead)  # noqa: S101  there are two kinds
    return FusionHead(
        head.labels,
        head.taps,
        tuple((tensors[f"projections.{n}.weight"], tensors[f"projections.{n}.bias"]) for n in range(len(head.taps))),
        tensors["scale_logits"],
        (tensors["norm.weight"], tensors["norm.bias"]),
        (tensors["classifier.weight"], tensors["classifier.bias"]),
        head.eps,
    )
