"""A stage: a head, its detector, and the probability from which a row may leave there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from adapters.answer.heads import Features, Head
from adapters.answer.ood import Detector
from adapters.backbone.features import FeatureSpec


@dataclass(frozen=True)
class Answer:
    """The result of one row.

    Attributes:
        logits: [classes].
        score, flag: the OOD score and flag; None and False without a detector.
        blocks: how many blocks the row passed.
    """

    logits: torch.Tensor
    score: float | None
    flag: bool
    blocks: int


@dataclass(frozen=True)
class Stage:
    """A head with its detector, if it has one.

    Attributes:
        threshold: the smallest probability of the label at which a row leaves here; 0 for the last stage.
    """

    head: Head
    detector: Detector | None = None
    threshold: float = 0.0

    @cached_property
    def feature_specs(self) -> frozenset[FeatureSpec]:
        """The features that it takes."""
        return frozenset(self.head.feature_specs) | frozenset(self.detector.feature_specs if self.detector else ())

    @cached_property
    def block(self) -> int:
        """The block after which all its features are available."""
        return max(spec.block for spec in self.feature_specs)

    def answer(self, features: Features) -> tuple[list[int], list[Answer]]:
        """The positions of the rows that leave here, and their answers."""
        output = self.head(features)
        leaves = ~(output.logits.softmax(dim=1).amax(dim=1) < self.threshold)  # a row with NaN leaves too
        leaving = torch.nonzero(leaves).flatten()
        if len(leaving) == 0:
            return [], []
        output = output if len(leaving) == len(leaves) else output.only(leaving)
        scores: list[float | None] = [None] * len(leaving)
        flags = [False] * len(leaving)
        if self.detector:
            scores, flags = (found.tolist() for found in self.detector(output))
        answers = [Answer(*row, self.block) for row in zip(output.logits, scores, flags, strict=True)]
        return leaving.tolist(), answers
