"""A folder of labelled images, split into train, validation and test the same way each time it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adapters.preprocess import read_image
from registry import canonical
from registry.errors import BadImage, BadInput
from registry.names import check_target

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
OOD_FOLDER = "_ood"
_PERCENT = {"train": 70, "val": 14, "test": 16}


@dataclass(frozen=True)
class LabelledImage:
    """One image file: its target (crop), its label (disease) and the sha256 of its bytes."""

    path: Path
    target: str
    label: str
    sha256: str


@dataclass(frozen=True)
class Skipped:
    """An image file that is not used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class _Scan:
    splits: dict[str, tuple[LabelledImage, ...]]
    skipped: tuple[Skipped, ...]


class ImageFolder:
    """Images below `root/<target>/<label>/` or `root/<target>/{train,val,test}/<label>/`, and `root/_ood/{far,near}/`.

    The first layout is split by the sha256 of each file: 70% train, 14% validation, 16% test, whatever the files are
    called and whatever is added later. Damaged images, and images whose bytes were met before (so that no test image
    is a training image), are left out and listed in `skipped`.
    """

    def __init__(self, root: Path | str) -> None:
        """Look at the folder; files are read on first use.

        Raises:
            BadInput: it does not exist, holds no target, or a target's name is not allowed.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise BadInput(f"{self.root} is not a folder", hint="give a folder of images: DIR/crop/disease/*.jpg")
        self.targets = tuple(check_target(folder.name) for folder in _folders(self.root))
        if not self.targets:
            raise BadInput(f"{self.root} has no target folder", hint="the layout is DIR/crop/disease/*.jpg")

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The files that are not used."""
        return self._scan.skipped

    def split(self, name: str) -> tuple[LabelledImage, ...]:
        """The images of `train`, `val` or `test`, of all targets, sorted by path.

        Raises:
            BadInput: there is no such split, or the folder holds no usable image.
        """
        if name not in SPLITS:
            raise BadInput(f"{name!r} is no split", hint=f"one of {', '.join(SPLITS)}")
        if not any(self._scan.splits.values()):
            raise BadInput(
                f"{self.root} holds no usable image ({len(self.skipped)} files were skipped)",
                hint=f"the layout is DIR/crop/disease/*, files ending in {', '.join(SUFFIXES)}",
            )
        return self._scan.splits[name]

    def labels(self, target: str) -> tuple[str, ...]:
        """The labels of a target's training images, sorted."""
        return tuple(sorted({image.label for image in self.split("train") if image.target == target}))

    def ood(self, kind: str) -> tuple[Path, ...]:
        """The out-of-distribution images of a kind, `far` or `near`, sorted; empty when there are none."""
        return tuple(path for path in _files(self.root / OOD_FOLDER / kind) if _problem(path.read_bytes()) is None)

    def digest(self, name: str) -> str:
        """The sha256 of what a split, or a kind of out-of-distribution images, consists of."""
        if name in SPLITS:
            rows = [[image.target, image.label, image.sha256] for image in self.split(name)]
        else:
            rows = [[canonical.sha256(path.read_bytes())] for path in self.ood(name)]
        return canonical.digest(sorted(rows))

    @cached_property
    def _scan(self) -> _Scan:
        splits: dict[str, list[LabelledImage]] = {name: [] for name in SPLITS}
        skipped: list[Skipped] = []
        seen: dict[str, Path] = {}
        for split, target, label, path in self._candidates():
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            reason = f"the same image as {seen[sha256]}" if sha256 in seen else _problem(data)
            if reason is not None:
                skipped.append(Skipped(path, reason))
                continue
            seen[sha256] = path
            splits[split or _split_of(sha256)].append(LabelledImage(path, target, label, sha256))
        return _Scan({name: tuple(images) for name, images in splits.items()}, tuple(skipped))

    def _candidates(self) -> Iterator[tuple[str | None, str, str, Path]]:
        """(split or None, target, label, file); all training images first, so that they are the ones met before."""
        fixed = [target for target in self.targets if _is_split(self.root / target)]
        for split in SPLITS:
            for target in fixed:
                yield from ((split, target, *file) for file in _labelled(self.root / target / split))
        for target in self.targets:
            if target not in fixed:
                yield from ((None, target, *file) for file in _labelled(self.root / target))


def _is_split(folder: Path) -> bool:
    names = {child.name for child in _folders(folder)}
    return "train" in names and names <= set(SPLITS)


def _labelled(folder: Path) -> Iterator[tuple[str, Path]]:
    for child in _folders(folder):
        yield from ((child.name, path) for path in _files(child))


def _folders(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] not in "._")


def _files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _split_of(sha256: str) -> str:
    position = int(sha256[:8], 16) % 100
    for name, percent in _PERCENT.items():
        if position < percent:
            return name
        position -= percent
    raise AssertionError("the percentages add up to 100")


def _problem(data: bytes) -> str | None:
    try:
        read_image(data)
    except BadImage as error:
        return str(error)
    return None
