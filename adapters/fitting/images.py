"""The images that a target is fitted to: which ones, in which order, with which classes; decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from adapters.answer.heads import MAX_LABELS, read_labels
from adapters.backbone.preprocess import Preprocessing
from adapters.fitting.data import ImageFolder, LabelledImage
from registry.errors import BadInput, BadManifest

LabelsOf: TypeAlias = Callable[[LabelledImage], str]
"""Which label an image is trained with."""


def own_label(image: LabelledImage) -> str:
    """The label that the image's folder gives it."""
    return image.label


@dataclass(frozen=True)
class Chosen:
    """The images of one target by split, in the order of their digests: the same whatever the files are called.

    Attributes:
        labels: those of training images, sorted. Images with another label are not in `splits`.
        splits: split -> images.
        classes: split -> [N], positions in `labels`.
    """

    target: str
    labels: tuple[str, ...]
    splits: Mapping[str, tuple[LabelledImage, ...]]
    classes: Mapping[str, torch.Tensor]


def choose_images(data: ImageFolder, targets: Sequence[str], labels_of: LabelsOf) -> dict[str, Chosen]:
    """The images of each target.

    Raises:
        BadInput: a target is not in the data, or can't be trained; the message names all of them.
    """
    unknown = sorted(set(targets) - set(data.targets))
    if unknown or not targets:
        raise BadInput(
            f"the data has no target {unknown[0][:80]!r}" if unknown else "there is no target to fit",
            hint=f"it has {', '.join(data.targets)}",
        )
    chosen = {target: _choose(data, target, labels_of) for target in sorted(set(targets))}
    problems = [f"{target} has {problem}" for target, one in chosen.items() if (problem := _problem(one))]
    if problems:
        sound = [target for target in chosen if not _problem(chosen[target])]
        leave_out = f", or leave it out: --targets {','.join(sound)}" if sound else ""
        takes = "a target takes two labels, two training images of at least one of them, and validation images"
        raise BadInput("; ".join(problems), hint=f"{takes}{leave_out}")
    return chosen


def decode(preprocessing: Preprocessing, images: Sequence[LabelledImage]) -> torch.Tensor:
    """The squares of some images, [N, H, W, 3] uint8.

    Raises:
        BadImage: a file is not what it was when the folder was looked at.
    """
    side = preprocessing.crop
    squares = np.empty((len(images), side, side, 3), np.uint8)
    for row, image in enumerate(images):
        squares[row] = preprocessing.square(image.path)
    return torch.from_numpy(squares)


def _choose(data: ImageFolder, target: str, labels_of: LabelsOf) -> Chosen:
    of_target = {
        split: sorted((image for image in data.split(split) if image.target == target), key=lambda one: one.sha256)
        for split in ("train", "val", "test")
    }
    labels = tuple(sorted({labels_of(image) for image in of_target["train"]}))
    known = {split: tuple(one for one in images if labels_of(one) in labels) for split, images in of_target.items()}
    classes = {
        split: torch.tensor([labels.index(labels_of(image)) for image in images], dtype=torch.long)
        for split, images in known.items()
    }
    return Chosen(target, labels, known, classes)


def _problem(chosen: Chosen) -> str:
    if not 2 <= len(chosen.labels) <= MAX_LABELS:
        return f"{len(chosen.labels)} labels with training images"
    if odd := [label for label in chosen.labels if not _is_label(label)]:
        return f"a label that is empty or too long: {odd[0][:40]!r}…"
    if int(chosen.classes["train"].bincount().max()) < 2:
        return "one training image only of every label, so that nothing is known of how images of a label differ"
    return "" if chosen.splits["val"] else "no validation image"


def _is_label(label: str) -> bool:
    """Whether who reads the bundle will take it."""
    try:
        read_labels({"labels": [label]}, "")
    except BadManifest:
        return False
    return True
