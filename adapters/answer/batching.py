"""Answer a batch of images: choose each row's target, and run the rows that fit together in one forward pass.

`prepare` reads an image, in any thread; `answer_rows` computes, and can take rows of several versions and callers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from adapters.answer.components import Components, LoadedComponent
from adapters.answer.forward_pass import forward
from adapters.answer.predictions import Outcome, Prediction
from adapters.answer.stages import Answer
from adapters.backbone.images import ImageLike
from adapters.backbone.preprocess import Preprocessing
from registry.errors import BadImage, BadInput

MAX_BATCH = 64
"""How many images go through the backbone together; longer lists are split into batches of this size."""


class HasComponents(Protocol):
    """A version that is loaded; `adapters.answer.loaded.LoadedVersion` is one."""

    @property
    def version(self) -> str: ...
    @property
    def components(self) -> Components: ...


@dataclass(frozen=True)
class PreparedRow:
    """An image that can be computed, or that already has its answer because it can't be read.

    Attributes:
        version: the version that answers.
        named: the target that the caller named, None for the router to choose.
        square: its pixels, [H, W, 3] uint8; None if it has its answer.
        answer: None if it has to be computed.
    """

    version: HasComponents
    named: str | None
    square: np.ndarray | None
    answer: Prediction | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes while it waits."""
        return 0 if self.square is None else self.square.nbytes


@dataclass(frozen=True)
class _Row:
    """An image of a batch.

    Attributes:
        version: the version that answers.
        named: the target that the caller named, None for the router to choose.
        pixels: [1, 3, H, W].
        target, confidence: the chosen target and its probability.
    """

    version: HasComponents
    named: str | None
    pixels: torch.Tensor
    target: str | None = None
    confidence: float = 1.0

    @property
    def components(self) -> Components:
        return self.version.components

    def with_target(self, target: str, confidence: float) -> _Row:
        return _Row(self.version, self.named, self.pixels, target, confidence)

    def without_label(self, outcome: Outcome, detail: str) -> Prediction:
        return Prediction(
            self.version.version, self.target, None, 0.0, None, False, outcome, self.confidence, {}, detail
        )


def predict_together(
    versions: Sequence[HasComponents], images: Sequence[ImageLike], targets: Sequence[str | None] | None = None
) -> list[Prediction]:
    """Answer each image by its own version, e.g. an image by stable and canary.

    Rows of versions on the same backbone go through it together.

    Args:
        versions, images: of equal length.
        targets: for each image its target, or None for the router to choose; None to route all.

    Raises:
        BadInput: when the lengths differ, or a target is not a string.
    """
    named = [None] * len(images) if targets is None else list(targets)
    if not all(target is None or isinstance(target, str) for target in named):
        raise BadInput("a target must be a name, or None for the router to choose")
    if not len(named) == len(images) == len(versions):
        raise BadInput(
            f"{len(images)} images but {len(named)} targets and {len(versions)} versions",
            hint="give one target, or None, per image",
        )
    answered: list[Prediction] = []
    for start in range(0, len(images), MAX_BATCH):
        part = slice(start, start + MAX_BATCH)
        answered += answer_rows([*map(prepare, versions[part], images[part], named[part])])
    return answered


def prepare(version: HasComponents, image: ImageLike, target: str | None) -> PreparedRow:
    """Read an image as the square that a version takes; one that can't be read gets its answer."""
    try:
        components = version.components
        return PreparedRow(version, target, components.preprocessing.square(image, components.max_pixels))
    except BadImage as error:
        corrupt = Prediction(
            version.version, target, None, 0.0, None, False, "corrupt_image", 0.0, detail=str(error)
        )  # fmt: skip
        return PreparedRow(version, target, None, corrupt)


def adopted(version: HasComponents, row: PreparedRow) -> PreparedRow | None:
    """An image that another version has read, as a row of this one; None if this one reads images otherwise, or the
    image could not be read."""
    own, other = version.components, row.version.components
    is_alike = own.preprocessing == other.preprocessing and own.max_pixels == other.max_pixels
    return replace(row, version=version) if is_alike and row.square is not None else None


def answer_rows(prepared: Sequence[PreparedRow]) -> list[Prediction]:
    """Answer rows of any versions, in order. Those that are on the same backbone go through it together."""
    answered = {number: row.answer for number, row in enumerate(prepared) if row.answer is not None}
    rows = _choose_targets(_with_pixels(prepared))
    answered |= {number: refusal for number, row in rows.items() if (refusal := _refuse(row)) is not None}
    answered |= _predict_rows({number: row for number, row in rows.items() if number not in answered})
    return [answered[number] for number in range(len(prepared))]


def most_likely(labels: Sequence[str], one: Answer) -> tuple[str, float]:
    """The label with the highest probability, and the probability; 0 where the logits are NaN."""
    probabilities = one.logits.softmax(dim=0).nan_to_num(0.0).tolist()
    best = max(range(len(labels)), key=probabilities.__getitem__)
    return labels[best], probabilities[best]


def _with_pixels(prepared: Sequence[PreparedRow]) -> dict[int, _Row]:
    """The rows that have to be computed, by their number, normalised: all those with the same preprocessing at once."""
    groups: dict[tuple[Preprocessing, str], list[tuple[int, np.ndarray]]] = {}
    for number, row in enumerate(prepared):
        if row.square is not None:
            components = row.version.components
            group = groups.setdefault((components.preprocessing, components.runtime.device), [])
            group.append((number, row.square))
    rows: dict[int, _Row] = {}
    for (preprocessing, device), members in groups.items():
        squares = torch.from_numpy(np.stack([square for _, square in members])).to(device)
        for (number, _), pixels in zip(members, preprocessing.normalise(squares).split(1), strict=True):
            rows[number] = _Row(prepared[number].version, prepared[number].named, pixels)
    return rows


def _choose_targets(rows: Mapping[int, _Row]) -> dict[int, _Row]:
    """Each row with its target: the one that the caller named, or the router's choice, or the only target."""
    chosen: dict[int, _Row] = {}
    routed: dict[int, tuple[_Row, LoadedComponent]] = {}
    for number, row in rows.items():
        router, targets = row.components.router, tuple(row.components.adapters)
        if row.named is not None:
            chosen[number] = row.with_target(row.named, 1.0)
        elif router is not None:
            routed[number] = (row, router)
        else:
            chosen[number] = row.with_target(targets[0], 1.0 if len(targets) == 1 else 0.0)
    for number, one in _answer_all(routed).items():
        row, router = routed[number]
        chosen[number] = row.with_target(*most_likely(router.labels, one))
    return chosen


def _refuse(row: _Row) -> Prediction | None:
    """The answer of a row that gets no label before anything is computed; None for a row that may be computed."""
    components, version = row.components, row.version.version
    target = str(row.target)[:80]
    if row.named is None and components.router is None and len(components.adapters) > 1:
        return row.without_label(
            "router_uncertain", f"{version} has no router: name one of {', '.join(components.adapters)}"
        )
    if row.confidence < components.router_threshold:
        return row.without_label("router_uncertain", f"the likeliest target is {target} at {row.confidence:.2f}")
    adapter = components.adapters.get(str(row.target))
    if adapter is None:
        return row.without_label("no_adapter", f"{version} has no adapter for {target}")
    if adapter.last is None:
        return row.without_label("no_adapter", f"the adapter of {version} for {target} has no classifier")
    return None


def _predict_rows(rows: Mapping[int, _Row]) -> dict[int, Prediction]:
    models = {number: (row, row.components.adapters[str(row.target)]) for number, row in rows.items()}
    return {number: _prediction(*models[number], one) for number, one in _answer_all(models).items()}


def _answer_all(models: Mapping[int, tuple[_Row, LoadedComponent]]) -> dict[int, Answer]:
    """Run one forward pass for all rows with the same runtime and image size."""
    groups: dict[tuple[int, torch.Size], list[int]] = {}
    for number, (row, _) in models.items():
        groups.setdefault((id(row.components.runtime), row.pixels.shape), []).append(number)
    answers: dict[int, Answer] = {}
    for members in groups.values():
        runtime = models[members[0]][0].components.runtime
        pixels = torch.cat([models[number][0].pixels for number in members])
        answers |= zip(members, forward(runtime, pixels, [models[number][1] for number in members]), strict=True)
    return answers


def _prediction(row: _Row, adapter: LoadedComponent, one: Answer) -> Prediction:
    if not bool(one.logits.isfinite().all()):
        refusal = row.without_label("review", "the adapter computed numbers that are not finite")
        return replace(refusal, is_ood=True, blocks_used=one.blocks)
    label, confidence = most_likely(adapter.labels, one)
    score = one.score if one.score is not None and math.isfinite(one.score) else None
    is_ood = one.flag or score != one.score
    return Prediction(
        version=row.version.version,
        target=row.target,
        label=label,
        confidence=confidence,
        ood_score=score,
        is_ood=is_ood,
        outcome="review" if is_ood else "answer",
        target_confidence=row.confidence,
        probabilities=dict(zip(adapter.labels, one.logits.softmax(dim=0).tolist(), strict=True)),
        blocks_used=one.blocks,
    )
