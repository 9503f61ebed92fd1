"""What is odd about a folder of images, for people to see before they trust what was fitted to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.fitting.data import SPLITS, ImageFolder, LabelledImage

IMBALANCE = 10
"""From how many times more training images of the largest label than of the smallest on there is a warning."""

MAX_NAMES = 100
"""File names of a kind that the report's document lists; it counts them all."""

_SKIPPED = {
    "damaged": "damaged images, skipped",
    "copy": "images that are there twice, the second one skipped",
    "leak": "validation or test images that are training or validation images too, skipped",
    "contradiction": "images that are there under two labels or targets, the second one skipped",
}


@dataclass(frozen=True)
class DataReport:
    """What a fit finds in its data.

    Attributes:
        counts: target -> label -> split -> images that are used.
        skipped: kind (see `adapters.fitting.data.Skip`) -> names of the files, inside the folder.
        ignored: files that are no images by their ending, by ending.
        warnings: what is odd, a sentence each.
    """

    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    skipped: Mapping[str, tuple[str, ...]]
    ignored: Mapping[str, int]
    warnings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON: counts, and the first `MAX_NAMES` names of each kind."""
        return {
            "images": {
                target: {label: dict(n) for label, n in labels.items()} for target, labels in self.counts.items()
            },
            "skipped": {
                kind: {"count": len(names), "files": list(names[:MAX_NAMES])} for kind, names in self.skipped.items()
            },
            "ignored": dict(self.ignored),
            "warnings": list(self.warnings),
        }


def report_on(data: ImageFolder, targets: Sequence[str], labels_of: Callable[[LabelledImage], str]) -> DataReport:
    """Look at the images of some targets.

    Args:
        labels_of: which label an image is trained with.

    Raises:
        BadInput: the folder holds no usable image.
    """
    counts = {target: _counts(data, target, labels_of) for target in targets}
    skipped: dict[str, tuple[str, ...]] = {}
    for kind in _SKIPPED:
        found = (data.relative(file.path) for file in data.skipped if file.kind == kind)
        if names := tuple(sorted(name for name in found if name.partition("/")[0] in targets)):
            skipped[kind] = names
    warnings = [f"{_SKIPPED[kind]}: {len(names)} ({_some(names)})" for kind, names in skipped.items()]
    if data.ignored:
        warnings.append(
            "files with other endings were ignored: " + _some([f"{n} {e}" for e, n in data.ignored.items()])
        )
    for target, labels in counts.items():
        warnings += _oddities(target, labels)
    return DataReport(counts, skipped, data.ignored, tuple(warnings))


def _counts(data: ImageFolder, target: str, labels_of: Callable[[LabelledImage], str]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        for image in data.split(split):
            if image.target == target:
                label = counts.setdefault(labels_of(image), dict.fromkeys(SPLITS, 0))
                label[split] += 1
    return dict(sorted(counts.items()))


def _oddities(target: str, labels: Mapping[str, Mapping[str, int]]) -> list[str]:
    train = {label: n["train"] for label, n in labels.items()}
    untrained = [label for label, n in train.items() if n == 0]
    single = [label for label, n in train.items() if n == 1]
    unchecked = [label for label, n in labels.items() if n["train"] and not n["val"]]
    odd = []
    if untrained:
        odd.append(f"{target}: no training image, so these labels are left out: {_some(untrained)}")
    if single:
        odd.append(f"{target}: one training image only: {_some(single)}")
    if unchecked:
        odd.append(f"{target}: no validation image, so nothing is known of these labels: {_some(unchecked)}")
    trained = {label: n for label, n in train.items() if n}
    if trained and max(trained.values()) >= IMBALANCE * min(trained.values()):
        most, least = max(trained, key=trained.__getitem__), min(trained, key=trained.__getitem__)
        ratio = trained[most] / trained[least]
        odd.append(
            f"{target}: {ratio:.0f} times more training images of {most} ({trained[most]}) than of {least} "
            f"({trained[least]})"
        )
    return odd


def _some(names: Sequence[str], limit: int = 3) -> str:
    """A few names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
