"""One forward pass of a batch, in which each row has its own adapter and heads and may leave early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from adapters.answer.stages import Answer, Stage
from adapters.backbone.features import FeatureSpec
from adapters.bank.slots import Slot
from adapters.runtimes.interface import ForwardPass, Runtime


class RowModel(Protocol):
    """What answers a row: an adapter in the bank (None for the backbone alone), and its stages, the earliest first."""

    @property
    def slot(self) -> Slot | None: ...
    @property
    def stages(self) -> tuple[Stage, ...]: ...


@torch.no_grad()
def forward(runtime: Runtime, pixels: torch.Tensor, models: Sequence[RowModel]) -> list[Answer]:
    """Answer a batch in one forward pass; each row leaves at the first of its stages that is confident enough.

    Args:
        pixels: [N, 3, H, W] float32, normalised.
        models: what answers each row.
    """
    order = _by_page(models)
    batch = _Batch([models[row] for row in order])
    forward_pass = runtime.start(pixels[order], [models[row].slot for row in order])
    for block in sorted(batch.feature_blocks()):
        forward_pass.advance(block)
        batch.collect(forward_pass)
        if staying := batch.leave(block):
            forward_pass.keep(torch.tensor(staying, device=pixels.device))
        if not batch.rows:
            break
    answers = {row: batch.answers[position] for position, row in enumerate(order)}
    return [answers[row] for row in range(len(models))]


@torch.no_grad()
def features_of(
    runtime: Runtime, pixels: torch.Tensor, slot: Slot | None, specs: Sequence[FeatureSpec]
) -> dict[FeatureSpec, torch.Tensor]:
    """Features [N, width] of a batch in which all rows have the same adapter, or none."""
    forward_pass = runtime.start(pixels, [slot] * len(pixels))
    features = {}
    for spec in sorted(set(specs)):
        forward_pass.advance(spec.block)
        features[spec] = forward_pass.pooled(spec.pooling, spec.norm)
    return features


def _by_page(models: Sequence[RowModel]) -> list[int]:
    """The rows in an order in which adapters of the same page of the bank are adjacent, so that slices suffice."""
    pages: dict[int, list[int]] = {}
    for row, model in enumerate(models):
        pages.setdefault(id(model.slot.page) if model.slot else 0, []).append(row)
    return [row for rows in pages.values() for row in rows]


class _Batch:
    """The rows of a forward pass: the remaining ones, their features, and the answers so far."""

    def __init__(self, models: Sequence[RowModel]) -> None:
        self._models = models
        self.rows = list(range(len(models)))
        self.answers: dict[int, Answer] = {}
        self._features: dict[FeatureSpec, dict[int, torch.Tensor]] = {}

    def feature_blocks(self) -> set[int]:
        """The blocks after which features are taken."""
        return {spec.block for spec in self._feature_specs()}

    def collect(self, forward_pass: ForwardPass) -> None:
        """Take the features that a stage needs from the current block."""
        for spec in self._feature_specs():
            if spec.block == forward_pass.block:
                pooled = forward_pass.pooled(spec.pooling, spec.norm)
                self._features.setdefault(spec, {}).update(zip(self.rows, pooled, strict=True))

    def leave(self, block: int) -> list[int]:
        """Answer the rows that leave at this block.

        Returns:
            The positions of the rows that stay; empty if all stay or none does.
        """
        for model, members in self._groups():
            for stage in model.stages:
                if stage.block == block:
                    members = self._answer(stage, members)  # noqa: PLW2901  the next stage gets those that stay
        staying = [position for position, row in enumerate(self.rows) if row not in self.answers]
        all_stay = len(staying) == len(self.rows)
        self.rows = [self.rows[position] for position in staying]
        return [] if all_stay else staying

    def _answer(self, stage: Stage, rows: list[int]) -> list[int]:
        """Answer the rows that leave at a stage; returns the others."""
        if not rows:
            return []
        features = {spec: torch.stack([self._features[spec][row] for row in rows]) for spec in stage.feature_specs}
        leaving, answers = stage.answer(features)
        self.answers |= {rows[position]: one for position, one in zip(leaving, answers, strict=True)}
        return [row for row in rows if row not in self.answers]

    def _groups(self) -> list[tuple[RowModel, list[int]]]:
        """The remaining rows, grouped by what answers them."""
        groups: dict[int, list[int]] = {}
        for row in self.rows:
            groups.setdefault(id(self._models[row]), []).append(row)
        return [(self._models[members[0]], members) for members in groups.values()]

    def _feature_specs(self) -> set[FeatureSpec]:
        return {spec for row in self.rows for stage in self._models[row].stages for spec in stage.feature_specs}
