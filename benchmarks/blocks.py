"""The accuracy of a version against the number of the backbone's blocks that are computed.

Exits and their thresholds are the version's own; the images are others than those that its fit chose them by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapters.answer.loaded import LoadedVersion
from benchmarks import charts
from benchmarks.accuracy import outcome_of
from benchmarks.depth_ways import cut_at, exit_blocks, three_ways
from benchmarks.inputs import Data, Image, Progress, batches, left_out, name_of, test_images
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import Measurement, Metric

MAX_PLOTTED = 8
"""How many targets the plot shows."""
CURVE = "accuracy_at_blocks"
_Z = 1.959964
"""Of the normal distribution, for 95%."""


def depth(model: LoadedVersion, data: Data, *, seed: int = 0, progress: Progress | None = None) -> Measurement:
    """`depth_accuracy` and `depth_blocks` (the mean number of blocks) as the version serves; with the suffixes `_full`,
    `_dynamic` and `_static` at full depth, with its exits, and cut at the first exit that is as deep as images left on
    average in its calibration; `depth_accuracy_at_N` if every image left at the exit at block N.

    Per target, and over all images; at a block only over all if every target has an exit there. A version without exits
    has the figures of full depth only. Accuracies have Wilson intervals, numbers of blocks those of a mean.

    Raises:
        BadInput: when there is no test image of any of the version's targets.
    """
    images = test_images(model, data)
    exits = {target: exit_blocks(one.depth) for target, one in model.components.adapters.items()}
    blocks = sorted({block for some in exits.values() for block in some})
    ways = {"": model, **({f"_{name}": one for name, one in three_ways(model).items()} if blocks else {})}
    ways |= {f"_at_{block}": cut_at(model, block) for block in blocks}
    steps = _Steps(len(images) * len(ways), progress)
    found = {name: _Answers.of(way, images, steps) for name, way in ways.items()}
    groups = _groups(images)
    metrics = [
        metric
        for name, answers in found.items()
        for target, rows in groups.items()
        if _is_measured(name, target, exits, groups)
        for metric in answers.metrics(name, target, rows)
    ]
    drawn = _curves(metrics, found, groups)
    return Measurement(
        metrics=tuple(metrics),
        data_sha256=data.digest("test"),
        data_name=name_of(data),
        data_n=len(images),
        plot=_plot(drawn, found),
        curves=drawn,
        outcomes=found[""].outcomes,
        notes=left_out(model, data) | _modes(model),
    )


@dataclass
class _Steps:
    """Counts images over all ways of answering."""

    total: int
    progress: Progress | None
    done: int = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


@dataclass(frozen=True)
class _Answers:
    """What one way of answering answered: outcomes, which are right [N], and how many blocks each took [N]."""

    outcomes: tuple[ImageOutcome, ...]
    right: np.ndarray
    blocks: np.ndarray

    @classmethod
    def of(cls, way: LoadedVersion, images: Sequence[Image], steps: _Steps) -> _Answers:
        outcomes: list[ImageOutcome] = []
        for batch in batches(images, None):
            answers = way.predict([image.read() for image in batch], target=[image.target for image in batch])
            outcomes += [outcome_of(image, answer) for image, answer in zip(batch, answers, strict=True)]
            steps.add(len(batch))
        right = [one.answered_label is not None and one.answered_label == one.label for one in outcomes]
        return cls(tuple(outcomes), np.array(right), np.array([one.blocks or 0 for one in outcomes]))

    def metrics(self, suffix: str, target: str | None, rows: np.ndarray) -> list[Metric]:
        """The accuracy on some rows, and their mean number of blocks unless the suffix says it."""
        right, blocks = self.right[rows], self.blocks[rows]
        found = [Metric.proportion(f"depth_accuracy{suffix}", int(right.sum()), len(right), target=target)]
        if not suffix.startswith("_at_"):
            mean = float(blocks.mean())
            spread = float(blocks.std(ddof=1)) if len(blocks) > 1 else math.nan  # one image says nothing of it
            error = _Z * spread / math.sqrt(len(blocks))
            found.append(
                Metric.of(
                    f"depth_blocks{suffix}", mean, n=len(blocks), low=mean - error, high=mean + error,
                    target=target, unit="blocks",
                )
            )  # fmt: skip
        return found


def _groups(images: Sequence[Image]) -> dict[str | None, np.ndarray]:
    """The rows of all images, and those of each target that has some."""
    targets = np.array([image.target for image in images])
    rows: dict[str | None, np.ndarray] = {None: np.arange(len(images))}
    return rows | {str(target): np.flatnonzero(targets == target) for target in np.unique(targets)}


def _is_measured(
    suffix: str, target: str | None, exits: Mapping[str, tuple[int, ...]], groups: Mapping[str | None, np.ndarray]
) -> bool:
    """Whether a figure says what its name does: not of a target that has no exit there."""
    if suffix in ("", "_full"):
        return True
    block = int(suffix.removeprefix("_at_")) if suffix.startswith("_at_") else None
    of_each = [exits[each] for each in groups if each is not None and target in (None, each)]
    return all(blocks and block in (None, *blocks) for blocks in of_each)


def _curves(
    metrics: Sequence[Metric], found: Mapping[str, _Answers], groups: Mapping[str | None, np.ndarray]
) -> dict[str, dict[int, float]]:
    """The accuracy at each block, and at full depth; the steps are the blocks."""
    full = found.get("_full", found[""])
    drawn: dict[str, dict[int, float]] = {}
    for target, rows in groups.items():
        points = {
            int(metric.name.rpartition("_")[2]): float(metric.value)
            for metric in metrics
            if metric.target == target and metric.name.startswith("depth_accuracy_at_") and metric.value is not None
        }
        points[int(full.blocks[rows].max())] = float(full.right[rows].mean())
        drawn[f"{CURVE}.{target}" if target else CURVE] = dict(sorted(points.items()))
    return drawn


def _plot(drawn: Mapping[str, Mapping[int, float]], found: Mapping[str, _Answers]) -> bytes:
    """The curves, and how the version serves: exits are better than a cut if their point is above the line of all."""
    shown = dict(list(drawn.items())[: MAX_PLOTTED + 1])
    names = {name: name.partition(".")[2] or "all" for name in shown}
    served = found[""]
    marks = {"as it serves": (float(served.blocks.mean()), float(served.right.mean()))}
    title = f"depth, n={len(served.right)}"
    shown_lines = {names[name]: list(points.items()) for name, points in shown.items()}
    return charts.lines(shown_lines, ("blocks computed", "accuracy"), title, marks=marks)


def _modes(model: LoadedVersion) -> dict[str, str | int | float]:
    """What the version serves by, for each target."""
    modes = {target: one.depth.mode if one.depth else "full" for target, one in model.components.adapters.items()}
    without = [target for target, one in model.components.adapters.items() if not one.depth]
    notes: dict[str, str | int | float] = {"modes": ", ".join(f"{target}: {mode}" for target, mode in modes.items())}
    if without:
        notes["without_exits"] = ", ".join(without) + "; `ulora fit --depth dynamic` makes them"
    return notes
