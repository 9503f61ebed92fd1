"""The images that one target is fitted to: which ones, in which order, with which classes, and decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adapters.answer.heads import MAX_LABELS, read_labels
from adapters.backbone.preprocess import Preprocessing
from adapters.fitting.data_report import why_unfit
from adapters.fitting.image_folder import ImageFolder, LabelledImage
from registry.errors import BadInput, BadManifest


@dataclass(frozen=True)
class TargetImages:
    """The images of one target by split, ordered by digest, so that file names do not matter.

    Attributes:
        labels: the labels of training images, sorted. Images with other labels are not in `splits`.
        splits: split -> images.
        classes: split -> [N], positions in `labels`.
    """

    target: str
    labels: tuple[str, ...]
    splits: Mapping[str, tuple[LabelledImage, ...]]
    classes: Mapping[str, torch.Tensor]


def choose_images(data: ImageFolder, targets: Sequence[str]) -> dict[str, TargetImages]:
    """The images of each target.

    Raises:
        BadInput: when a target is not in the data, or can't be trained; the message names all such targets.
    """
    unknown = sorted(set(targets) - set(data.targets))
    if unknown or not targets:
        raise BadInput(
            f"the data has no target {unknown[0][:80]!r}" if unknown else "there is no target to fit",
            hint=f"it has {', '.join(data.targets)}",
        )
    chosen = {target: _choose(data, target) for target in sorted(set(targets))}
    problems = [f"{target} has {problem}" for target, one in chosen.items() if (problem := _problem(one))]
    if problems:
        sound = [target for target in chosen if not _problem(chosen[target])]
        leave_out = f", or leave it out: --targets {','.join(sound)}" if sound else ""
        takes = "a target needs two labels, two training images of at least one of them, and validation images"
        raise BadInput("; ".join(problems), hint=f"{takes}{leave_out}")
    return chosen


def decode(preprocessing: Preprocessing, images: Sequence[LabelledImage]) -> torch.Tensor:
    """The squares of some images, [N, H, W, 3] uint8.

    Raises:
        ImageChanged: when a file has changed since the folder was read.
    """
    side = preprocessing.crop
    squares = np.empty((len(images), side, side, 3), np.uint8)
    for row, image in enumerate(images):
        squares[row] = preprocessing.square(image.read())
    return torch.from_numpy(squares)


def _choose(data: ImageFolder, target: str) -> TargetImages:
    of_target = {
        split: sorted((image for image in data.split(split) if image.target == target), key=lambda one: one.sha256)
        for split in ("train", "val", "test")
    }
    labels = tuple(sorted({image.label for image in of_target["train"]}))
    known = {split: tuple(one for one in images if one.label in labels) for split, images in of_target.items()}
    classes = {
        split: torch.tensor([labels.index(image.label) for image in images], dtype=torch.long)
        for split, images in known.items()
    }
    return TargetImages(target, labels, known, classes)


def _problem(chosen: TargetImages) -> str:
    if len(chosen.labels) > MAX_LABELS:
        return f"{len(chosen.labels)} labels with training images"
    if odd := [label for label in chosen.labels if not _is_label(label)]:
        return f"a label that is empty or too long: {odd[0][:40]!r}…"
    counts = {split: Counter(classes.tolist()) for split, classes in chosen.classes.items()}
    return why_unfit({label: {split: n[row] for split, n in counts.items()} for row, label in enumerate(chosen.labels)})


def _is_label(label: str) -> bool:
    """Whether readers of the bundle accept the label."""
    try:
        read_labels({"labels": [label]}, "")
    except BadManifest:
        return False
    return True
