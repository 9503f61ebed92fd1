"""A batch of rows, each with an adapter and heads of its own, in one pass through the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from adapters.answer.features import Tap
from adapters.answer.heads import Features, Head
from adapters.answer.ood import Detector
from adapters.bank.bank import Slot
from adapters.runtimes.runtimes import Pass, Runtime


@dataclass(frozen=True)
class Answer:
    """What a row got: logits [classes]; the OOD score and flag, None and False without a detector; blocks it took."""

    logits: torch.Tensor
    score: float | None
    flag: bool
    blocks: int


@dataclass(frozen=True)
class Stage:
    """A head, its detector if it has one, and how sure it must be for a row to leave here.

    Attributes:
        threshold: the least probability of the label at which a row leaves; 0 for the last stage, where all do.
    """

    head: Head
    detector: Detector | None = None
    threshold: float = 0.0

    @cached_property
    def taps(self) -> frozenset[Tap]:
        """The features that it takes."""
        return frozenset(self.head.taps) | frozenset(self.detector.taps if self.detector else ())

    @cached_property
    def block(self) -> int:
        """The block at which all its features are there."""
        return max(tap.block for tap in self.taps)

    def answer(self, features: Features) -> tuple[list[int], list[Answer]]:
        """The rows of which it is sure enough, by their positions, and what they get."""
        seen = self.head(features)
        sure = ~(seen.logits.softmax(dim=1).amax(dim=1) < self.threshold)  # what is no number goes no further
        leaving = torch.nonzero(sure).flatten()
        if len(leaving) == 0:
            return [], []
        seen = seen if len(leaving) == len(sure) else seen.only(leaving)
        scores: list[float | None] = [None] * len(leaving)
        flags = [False] * len(leaving)
        if self.detector:
            scores, flags = (found.tolist() for found in self.detector(seen))
        answers = [Answer(*row, self.block) for row in zip(seen.logits, scores, flags, strict=True)]
        return leaving.tolist(), answers


class Asked(Protocol):
    """What answers a row: an adapter in the bank (None for the backbone alone), and its stages, the earliest first."""

    @property
    def slot(self) -> Slot | None: ...
    @property
    def stages(self) -> tuple[Stage, ...]: ...


@torch.no_grad()
def answer(runtime: Runtime, pixels: torch.Tensor, asked: Sequence[Asked]) -> list[Answer]:
    """Answer a batch: one pass, from which each row leaves at the first of its stages that is sure enough.

    Args:
        pixels: [N, 3, H, W] float32, normalised.
        asked: who answers each row.
    """
    order = _by_page(asked)
    batch = _Batch([asked[row] for row in order])
    walk = runtime.start(pixels[order], [asked[row].slot for row in order])
    for block in sorted(batch.tap_blocks()):
        walk.advance(block)
        batch.collect(walk)
        if staying := batch.let_go(block):
            walk.keep(torch.tensor(staying, device=pixels.device))
        if not batch.rows:
            break
    answers = {row: batch.answers[position] for position, row in enumerate(order)}
    return [answers[row] for row in range(len(asked))]


def _by_page(asked: Sequence[Asked]) -> list[int]:
    """The rows, those whose adapters are in one page of the bank beside each other: nothing is copied to bring them
    together at every linear module then."""
    pages: dict[int, list[int]] = {}
    for row, one in enumerate(asked):
        pages.setdefault(id(one.slot.page) if one.slot else 0, []).append(row)
    return [row for rows in pages.values() for row in rows]


class _Batch:
    """The rows of a pass: who is still in it, what was seen of them, what they got."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self._asked = asked
        self.rows = list(range(len(asked)))
        self.answers: dict[int, Answer] = {}
        self._features: dict[Tap, dict[int, torch.Tensor]] = {}

    def tap_blocks(self) -> set[int]:
        """The blocks at which features are taken."""
        return {tap.block for tap in self._taps()}

    def collect(self, walk: Pass) -> None:
        """Take the features that somebody needs from here."""
        for tap in self._taps():
            if tap.block == walk.block:
                pooled = walk.pooled(tap.pooling, tap.norm)
                self._features.setdefault(tap, {}).update(zip(self.rows, pooled, strict=True))

    def let_go(self, block: int) -> list[int]:
        """Answer the rows that leave at this block; the positions of those that go on, none if all do or none does."""
        for one, members in self._groups():
            for stage in one.stages:
                if stage.block == block:
                    members = self._answer(stage, members)  # noqa: PLW2901  a later stage asks those who are left
        staying = [position for position, row in enumerate(self.rows) if row not in self.answers]
        nobody_left = len(staying) == len(self.rows)
        self.rows = [self.rows[position] for position in staying]
        return [] if nobody_left else staying

    def _answer(self, stage: Stage, rows: list[int]) -> list[int]:
        """Answer the rows of which a stage is sure enough; the others."""
        if not rows:
            return []
        features = {tap: torch.stack([self._features[tap][row] for row in rows]) for tap in stage.taps}
        leaving, answers = stage.answer(features)
        self.answers |= {rows[position]: one for position, one in zip(leaving, answers, strict=True)}
        return [row for row in rows if row not in self.answers]

    def _groups(self) -> list[tuple[Asked, list[int]]]:
        """The rows that are left, by who answers them."""
        groups: dict[int, list[int]] = {}
        for row in self.rows:
            groups.setdefault(id(self._asked[row]), []).append(row)
        return [(self._asked[members[0]], members) for members in groups.values()]

    def _taps(self) -> set[Tap]:
        return {tap for row in self.rows for stage in self._asked[row].stages for tap in stage.taps}
