"""A folder of labelled images, split into train, validation and test in the same way each time it is read."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from adapters.backbone.images import MAX_BYTES, decoded
from registry.errors import BadImage, BadInput
from registry.formats import canonical
from registry.names import check_target

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
OOD_FOLDER = "_ood"
_LAYOUTS = "DIR/crop/disease/*.jpg, or DIR/crop/{train,val,test}/disease/*.jpg"
_PERCENT = {"train": 70, "val": 14, "test": 16}


@dataclass(frozen=True)
class LabelledImage:
    """An image file: its target (crop), its label (disease) and the sha256 of its bytes."""

    path: Path
    target: str
    label: str
    sha256: str


LabelsOf: TypeAlias = Callable[[LabelledImage], str]
"""The label to use for an image."""

Skip: TypeAlias = Literal["damaged", "copy", "leak", "contradiction"]
"""Why a file is not used: it is not a valid image (`damaged`); or the same bytes were found before, in the same split
(`copy`), in another split (`leak`: it would be judged by what it was trained on), or with another target or label
(`contradiction`)."""


@dataclass(frozen=True)
class Skipped:
    """An image file that is not used, and the reason, for programs (`kind`) and for people."""

    path: Path
    kind: Skip
    reason: str


class _Location(NamedTuple):
    """The place of a file: split (None in an unsplit folder), target, label."""

    split: str | None
    target: str
    label: str


@dataclass(frozen=True)
class _Scan:
    splits: dict[str, tuple[LabelledImage, ...]]
    skipped: tuple[Skipped, ...]


class ImageFolder:
    """Images below `root/<target>/<label>/` or `root/<target>/{train,val,test}/<label>/`, and `root/_ood/{far,near}/`.

    The first layout is split by the sha256 of each file: 70% train, 14% validation, 16% test, whatever the names of the
    files and however many are added later. Damaged images and images with the same bytes as an earlier one (so that no
    test image is a training image) are not used and listed in `skipped`. Files with other suffixes are counted in
    `ignored`.
    """

    def __init__(self, root: Path | str) -> None:
        """Check the folder; files are read on first use.

        Raises:
            BadInput: when it does not exist, can't be read, has no target, or a target's name is not allowed.
        """
        self.root = Path(root)
        with _readable(self.root):
            if not self.root.is_dir():
                raise BadInput(f"{self.root} is not a folder", hint=f"give a folder of images: {_LAYOUTS}")
        self.targets = tuple(check_target(folder.name) for folder in _folders(self.root))
        if not self.targets:
            raise BadInput(f"{self.root} has no target folder", hint=f"the layout is {_LAYOUTS}")

    def relabelled(self, labels_of: LabelsOf) -> ImageFolder:
        """The same images with other labels than those of their folders."""
        splits = {
            name: tuple(replace(image, label=labels_of(image)) for image in images)
            for name, images in self._scan.splits.items()
        }
        other = copy.copy(self)
        vars(other)["_scan"] = _Scan(splits, self._scan.skipped)
        return other

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The files that are not used."""
        return self._scan.skipped

    @cached_property
    def ignored(self) -> Mapping[str, int]:
        """How many files have a suffix that is not read here, by suffix, e.g. `.tif`."""
        with _readable(self.root):
            endings = Counter(
                _unicode(path.suffix.lower() or path.name)
                for target in self.targets
                for path in (self.root / target).rglob("*")
                if path.suffix.lower() not in SUFFIXES and path.name[0] != "." and path.is_file()
            )
        return dict(sorted(endings.items()))

    def relative(self, path: Path) -> str:
        """The path of a file inside the folder; bytes that are not UTF-8 become replacement characters."""
        return _unicode(path.relative_to(self.root).as_posix())

    def split(self, name: str) -> tuple[LabelledImage, ...]:
        """The images of `train`, `val` or `test`, of all targets, sorted by path.

        Raises:
            BadInput: when there is no such split, the folder has no usable image, a folder can't be read or is in the
                wrong place, or a name is not UTF-8.
        """
        if name not in SPLITS:
            raise BadInput(f"{name!r} is not a split", hint=f"one of {', '.join(SPLITS)}")
        if not any(self._scan.splits.values()):
            raise BadInput(
                f"{self.root} holds no usable image ({len(self.skipped)} files were skipped)",
                hint=f"the layout is {_LAYOUTS}; files end in {', '.join(SUFFIXES)}",
            )
        return self._scan.splits[name]

    def labels(self, target: str) -> tuple[str, ...]:
        """The labels of a target's training images, sorted."""
        return tuple(sorted({image.label for image in self.split("train") if image.target == target}))

    def ood(self, kind: str) -> tuple[Path, ...]:
        """The out-of-distribution images of a kind, `far` or `near`, sorted; empty if there are none."""
        return tuple(path for path in _files(self.root / OOD_FOLDER / kind) if isinstance(_read(path), bytes))

    def digest(self, name: str) -> str:
        """The sha256 of the content of a split, or of a kind of out-of-distribution images."""
        if name in SPLITS:
            rows = [[image.target, image.label, image.sha256] for image in self.split(name)]
        else:
            rows = [[canonical.sha256(path.read_bytes())] for path in self.ood(name)]
        return canonical.digest(sorted(rows))

    @cached_property
    def _scan(self) -> _Scan:
        splits: dict[str, list[LabelledImage]] = {name: [] for name in SPLITS}
        skipped: list[Skipped] = []
        seen: dict[str, tuple[Path, _Location]] = {}
        for path, place in self._candidates():
            data = _read(path)
            if isinstance(data, str):
                skipped.append(Skipped(path, "damaged", data))
                continue
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 in seen:
                first, known = seen[sha256]
                skipped.append(Skipped(path, _kind_of_copy(place, known), f"the same image as {first}"))
                continue
            seen[sha256] = (path, place)
            image = LabelledImage(path, place.target, place.label, sha256)
            splits[place.split or _split_of(sha256)].append(image)
        return _Scan({name: tuple(images) for name, images in splits.items()}, tuple(skipped))

    def _candidates(self) -> Iterator[tuple[Path, _Location]]:
        """All files with their locations; training images come first, so that they are kept of equal files."""
        fixed = [target for target in self.targets if _is_split(self.root / target)]
        for split in SPLITS:
            for target in fixed:
                yield from _labelled(self.root / target / split, split, target)
        for target in self.targets:
            if target not in fixed:
                yield from _labelled(self.root / target, None, target)


def _is_split(folder: Path) -> bool:
    names = {child.name for child in _folders(folder)}
    if not any(_folders(folder / split) for split in names & set(SPLITS)):
        return False
    if odd := sorted(names - set(SPLITS)):
        raise BadInput(
            f"{_unicode(folder / odd[0])} is a folder beside the splits of {folder.name}, but not a split",
            hint=f"the splits are {', '.join(SPLITS)}: rename it, or move it elsewhere",
        )
    return True


def _labelled(folder: Path, split: str | None, target: str) -> Iterator[tuple[Path, _Location]]:
    for child in _folders(folder):
        if _unicode(child.name) != child.name:
            raise BadInput(
                f"the name of {_unicode(child)} is not UTF-8, so it can't be a label", hint="rename the folder"
            )
        images = _files(child)
        if not images and _folders(child):
            raise BadInput(
                f"{child} holds folders where images should be",
                hint=f"the layout is {_LAYOUTS}; the splits are called {', '.join(SPLITS)}",
            )
        yield from ((path, _Location(split, target, child.name)) for path in images)


def _kind_of_copy(place: _Location, first: _Location) -> Skip:
    if (place.target, place.label) != (first.target, first.label):
        return "contradiction"
    return "copy" if place.split == first.split else "leak"


def _folders(folder: Path) -> list[Path]:
    return _children(folder, lambda child: child.name[0] not in "._" and child.is_dir())


def _files(folder: Path) -> list[Path]:
    return _children(folder, lambda child: child.suffix.lower() in SUFFIXES and child.is_file())


def _children(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The sorted children of a folder; empty if there is no such folder."""
    with _readable(folder):
        return sorted(child for child in folder.iterdir() if wanted(child)) if folder.is_dir() else []


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn an OSError while a folder is read into `BadInput`, so that no file is left out silently."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{_unicode(folder)} can't be read: {error.strerror}", hint="make it readable, or move it elsewhere"
        ) from error


def _unicode(name: Path | str) -> str:
    """A name as valid Unicode; bytes that are not UTF-8 become replacement characters."""
    return os.fsencode(name).decode("utf-8", "replace")


def _split_of(sha256: str) -> str:
    position = int(sha256[:8], 16) % 100
    for name, percent in _PERCENT.items():
        if position < percent:
            return name
        position -= percent
    raise AssertionError("the percentages add up to 100")


def _read(path: Path) -> bytes | str:
    """The bytes of a valid image; otherwise the reason why it is not valid, as a sentence."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        with decoded(data):
            return data
    except BadImage as error:
        return str(error)
    except OSError as error:
        return f"it can't be read: {error.strerror}"
