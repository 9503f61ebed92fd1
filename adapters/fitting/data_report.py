"""A report on a folder of images: counts, skipped files, and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.fitting.folder_layout import SPLITS, Layout, Why
from adapters.fitting.image_folder import TEST_SHARE, ImageFolder

IMBALANCE = 10
"""A warning is given if the largest label has at least this many times the training images of the smallest."""

MAX_NAMES = 100
"""How many file names of a kind the report lists; it counts them all."""

_LEFT_OUT: Mapping[Why, str] = {
    "loose": "images that lie beside the folders of labels, not in one, left out",
    "deeper": "images in folders inside those of labels, left out",
    "underscore": "images in folders that begin with _, left out",
    "named": "images that the file of names leaves out",
}
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
        names: folder -> target/label, where a rule or a file of names made them of other names.
        left_out: folder inside the data -> number of images in it that are not read, as they are in a wrong place.
        system_files: number of files and folders of operating systems.
        unfit: target -> why it can't be fitted.
        far, near: number of out-of-distribution images.
        test_share: of the images of each target that is not split by folders; of others None.
    """

    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    skipped: Mapping[str, tuple[str, ...]]
    ignored: Mapping[str, int]
    warnings: tuple[str, ...]
    names: Mapping[str, str]
    left_out: Mapping[str, int]
    system_files: int
    unfit: Mapping[str, str]
    far: int
    near: int
    test_share: Mapping[str, float | None]

    def images(self, split: str) -> dict[str, int]:
        """The number of images of each target in a split."""
        return {target: sum(n[split] for n in labels.values()) for target, labels in self.counts.items()}

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
            "names": dict(self.names),
            "left_out": dict(self.left_out),
            "system_files": self.system_files,
            "ood": {"far": self.far, "near": self.near},
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
        found = (data.relative(file.path) for file in data.skipped if file.kind == kind and file.target in targets)
        if names := tuple(sorted(found)):
            skipped[kind] = names
    warnings = [*_layout_warnings(data.layout)]
    warnings += [f"{_SKIPPED[kind]}: {len(names)} ({_some(names)})" for kind, names in skipped.items()]
    if data.ignored:
        warnings.append(
            "files with other endings were ignored: " + _some([f"{n} {e}" for e, n in data.ignored.items()])
        )
    for target, labels in counts.items():
        warnings += _warnings(target, labels)
    unsplit = {folder.target for folder in data.layout.folders if folder.split is None}
    return DataReport(
        counts=counts,
        skipped=skipped,
        ignored=data.ignored,
        warnings=tuple(map(_one_line, warnings)),
        names=data.layout.renamed,
        left_out={folder: images for folder, images, _ in data.layout.left_out},
        system_files=data.system_files,
        unfit={target: why for target, labels in counts.items() if (why := why_unfit(labels))},
        far=len(data.ood("far")),
        near=len(data.ood("near")),
        test_share={target: TEST_SHARE if target in unsplit else None for target in targets},
    )


def why_unfit(labels: Mapping[str, Mapping[str, int]]) -> str:
    """What keeps a target from being fitted, given label -> split -> number of images; empty if nothing does."""
    trained = {label: n for label, n in labels.items() if n["train"]}
    if len(trained) < 2:
        return f"{len(trained)} {'label' if len(trained) == 1 else 'labels'} with training images"
    if max(n["train"] for n in trained.values()) < 2:
        return "only one training image of every label"
    return "" if any(n["val"] for n in trained.values()) else "no validation image"


def _layout_warnings(layout: Layout) -> Iterator[str]:
    for why, text in _LEFT_OUT.items():
        found = [(folder, images) for folder, images, reason in layout.left_out if reason == why]
        if found:
            total = sum(images for _, images in found)
            yield f"{text}: {total} ({_some([f'{images} in {folder}' for folder, images in found])})"
    if layout.splits:
        yield "read as splits: " + ", ".join(f"{name} as {split}" for name, split in layout.splits.items())
    if layout.renamed:
        shown = [f"{folder} as {meaning}" for folder, meaning in layout.renamed.items()]
        yield f"folders read as target/label: {_some(shown, 10)}"
    for target, crops in layout.merged.items():
        yield f"{' and '.join(crops)} are one target, {target}"
    if layout.unused_names:
        yield f"the file of names has folders without images here: {_some(layout.unused_names)}"


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


def _one_line(sentence: str) -> str:
    """A sentence without the line ends that names in it may have: each would begin a line of its own."""
    return "\N{REPLACEMENT CHARACTER}".join(sentence.splitlines())


def _some(names: Sequence[str], limit: int = 3) -> str:
    """A few names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
