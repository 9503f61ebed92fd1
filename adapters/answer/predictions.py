"""The answer of a version for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from registry.formats.html import HtmlTable

Outcome: TypeAlias = Literal["answer", "review", "router_uncertain", "no_adapter", "corrupt_image"]
"""`answer`: take the label. `review`: the image is unlike those of its label, or the numbers are not finite; a person
should look at it. `router_uncertain`: no target was likely enough. `no_adapter`: the version has none for the target.
`corrupt_image`: the image could not be read."""


@dataclass(frozen=True)
class Prediction(HtmlTable):
    """The answer for one image.

    Attributes:
        version: the version that answered.
        target: the target (crop) that the caller named or the router chose; None if neither.
        label: the label (disease), None unless an adapter answered.
        confidence: the label's probability, 0 without a label.
        ood_score: distance to the label's training images in units of its threshold, None without label or detector.
        is_ood: whether `ood_score` is above 1.
        outcome: the kind of answer.
        target_confidence: the router's probability of the target, 1 if the caller named it.
        probabilities: of all labels of the target.
        detail: why there is no label, for people.
        blocks_used: how many blocks of the backbone were computed with the adapter, 0 without a label.
    """

    version: str
    target: str | None
    label: str | None
    confidence: float
    ood_score: float | None
    is_ood: bool
    outcome: Outcome
    target_confidence: float
    probabilities: dict[str, float] = field(default_factory=dict, repr=False)
    detail: str = ""
    blocks_used: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return {**vars(self), "probabilities": dict(self.probabilities)}  # a tenth of the time that `asdict` takes

    def __str__(self) -> str:
        if self.label is None:
            return f"{self.outcome} ({self.detail or self.target}) by {self.version}"
        score = "no OOD score" if self.ood_score is None else f"OOD {self.ood_score:.2f} of 1"
        return f"{self.target} {self.label} {self.confidence:.3f}, {score}: {self.outcome} by {self.version}"
