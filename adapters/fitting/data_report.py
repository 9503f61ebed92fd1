"""A report on a folder of images: counts, skipped files, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.fitting.image_folder import SPLITS, ImageFolder

IMBALANCE = 10
"""A warning is given if the largest label has at least this many times the training images of the smallest."""

MAX_NAMES = 100
"""How many file names of a kind the report lists; it counts them all."""

_SKIPPED = {
    "damaged": "damaged images, skipped",
    "copy": "duplicate images, the second one skipped",
    "leak": "validation or test images that are also training or validation images, skipped",
    "contradiction": "images with two labels or targets, the second one skipped",
}


@dataclass(frozen=True)
class DataReport:
    """The report on the data of a fit.

    Attributes:
        counts: target -> label -> split -> number of images used.
        skipped: kind (see `adapters.fitting.image_folder.Skip`) -> names of the files, inside the folder.
        ignored: number of files with other suffixes, by suffix.
        warnings: a sentence each.
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


def report_on(data: ImageFolder, targets: Sequence[str]) -> DataReport:
    """Report on the images of some targets.

    Raises:
        BadInput: when the folder has no usable image.
    """
    counts = {target: _counts(data, target) for target in targets}
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
        warnings += _warnings(target, labels)
    return DataReport(counts, skipped, data.ignored, tuple(warnings))


def _counts(data: ImageFolder, target: str) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        for image in data.split(split):
            if image.target == target:
                label = counts.setdefault(image.label, dict.fromkeys(SPLITS, 0))
                label[split] += 1
    return dict(sorted(counts.items()))


def _warnings(target: str, labels: Mapping[str, Mapping[str, int]]) -> list[str]:
    train = {label: n["train"] for label, n in labels.items()}
    untrained = [label for label, n in train.items() if n == 0]
    single = [label for label, n in train.items() if n == 1]
    unchecked = [label for label, n in labels.items() if n["train"] and not n["val"]]
    warnings = []
    if untrained:
        warnings.append(f"{target}: no training image, these labels are left out: {_some(untrained)}")
    if single:
        warnings.append(f"{target}: only one training image: {_some(single)}")
    if unchecked:
        warnings.append(f"{target}: no validation image, these labels are not evaluated: {_some(unchecked)}")
    trained = {label: n for label, n in train.items() if n}
    if trained and max(trained.values()) >= IMBALANCE * min(trained.values()):
        most, least = max(trained, key=trained.__getitem__), min(trained, key=trained.__getitem__)
        ratio = trained[most] / trained[least]
        warnings.append(
            f"{target}: {ratio:.0f} times more training images of {most} ({trained[most]}) than of {least} "
            f"({trained[least]})"
        )
    return warnings


def _some(names: Sequence[str], limit: int = 3) -> str:
    """A few names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
