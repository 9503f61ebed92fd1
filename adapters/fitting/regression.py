"""Fit heads by multinomial logistic regression on features."""

from __future__ import annotations

import torch
from torch.nn import functional

from adapters.answer.heads import Features, FusionHead, Head, LinearHead
from adapters.backbone.features import FeatureSpec

FUSED_LAYERS = 4
"""How many layers a fusion head uses, as in the layout that it comes from."""


def linear_head(
    features: torch.Tensor, classes: torch.Tensor, labels: tuple[str, ...], spec: FeatureSpec
) -> LinearHead:
    """Fit a linear head.

    Args:
        features: [N, width], as `spec` describes them.
        classes: [N].
    """
    return LinearHead(labels, spec, *regress(features, classes, len(labels)))


def regress(features: torch.Tensor, classes: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logistic regression with a small weight decay on standardised features, folded into one layer.

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


def head_feature_specs(kind: str, depth: int) -> tuple[FeatureSpec, ...]:
    """The features of a recipe's head: after the last block, or after four evenly spaced blocks."""
    if kind != "fusion":
        return (FeatureSpec(depth, kind),)
    layers = min(FUSED_LAYERS, depth)
    return tuple(FeatureSpec(round(depth * (number + 1) / layers), "tokens") for number in range(layers))


def starting_head(
    features: Features, classes: torch.Tensor, labels: tuple[str, ...], specs: tuple[FeatureSpec, ...]
) -> Head:
    """The head that fits best before the LoRA is trained; a fusion starts as the mean of its layers.

    Args:
        features: [N, width] for each spec.
        classes: [N].
    """
    if len(specs) == 1:
        return linear_head(features[specs[0]], classes, labels, specs[0])
    width = features[specs[0]].shape[1]
    blank = FusionHead(
        labels,
        specs,
        tuple((torch.eye(width), torch.zeros(width)) for _ in specs),
        torch.zeros(len(specs)),
        (torch.ones(width), torch.zeros(width)),
        (torch.zeros(len(labels), width), torch.zeros(len(labels))),
    )
    embedding = blank(features).embedding
    classifier = regress(embedding, classes, len(labels))
    return FusionHead(labels, specs, blank.projections, blank.scale_logits, blank.norm, classifier)


def with_tensors(head: Head, tensors: dict[str, torch.Tensor]) -> Head:
    """A head of the same kind with other tensors, named as in its file."""
    if isinstance(head, LinearHead):
        return LinearHead(head.labels, head.feature_spec, tensors["weight"], tensors["bias"])
    assert isinstance(head, FusionHead)  # noqa: S101  there are two kinds
    return FusionHead(
        head.labels,
        head.feature_specs,
        tuple(
            (tensors[f"projections.{n}.weight"], tensors[f"projections.{n}.bias"])
            for n in range(len(head.feature_specs))
        ),
        tensors["scale_logits"],
        (tensors["norm.weight"], tensors["norm.bias"]),
        (tensors["classifier.weight"], tensors["classifier.bias"]),
        head.eps,
    )
