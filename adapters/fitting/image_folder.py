"""A folder of labelled images, split into train, validation and test in the same way each time it is read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from adapters.backbone.images import decoded, read_file
from adapters.fitting.folder_layout import LAYOUTS, SPLITS, LabelFolder, Layout, read_layout
from adapters.fitting.folder_names import read_names
from adapters.fitting.folder_tree import OOD_FOLDER, SUFFIXES, image_files, read_tree, readable, unicode_name
from registry.errors import BadImage, BadInput, ImageChanged, no_folder
from registry.formats import canonical
from registry.formats.counts import counted

_PERCENT = {"train": 70, "val": 14, "test": 16}
TEST_SHARE = _PERCENT["test"] / 100
"""Of the images of a folder that is not split."""


@dataclass(frozen=True)
class ImageFile:
    """An image file and the sha256 of its bytes, as they were when its folder was read."""

    path: Path
    sha256: str

    def read(self) -> bytes:
        """Its bytes: those that were hashed, or none. Whatever computes on a folder's images gets them here, so that
        it says of no other image what it computed.

        Raises:
            ImageChanged: when the file has other bytes now, or can't be read any more.
        """
        try:
            data, why = read_file(self.path), "has changed"
        except BadImage as error:
            data, why = b"", f"can't be read any more ({error})"
        if canonical.sha256(data) != self.sha256:
            raise ImageChanged(
                f"{unicode_name(self.path)} {why} since its folder was read",
                hint="nothing computed from it was kept: run it again when nothing writes to the folder",
            )
        return data


@dataclass(frozen=True)
class LabelledImage(ImageFile):
    """An image file with its target (crop) and its label (disease)."""

    target: str
    label: str


LabelsOf: TypeAlias = Callable[[LabelledImage], str]
"""The label to use for an image."""

Skip: TypeAlias = Literal["damaged", "copy", "leak", "contradiction"]
"""Why a file is not used: it is not a valid image (`damaged`); or the same bytes were found before, in the same split
(`copy`), in another split (`leak`: it would be judged by what it was trained on), or with another target or label
(`contradiction`)."""


@dataclass(frozen=True)
class Skipped:
    """An image file that is not used, and the reason, for programs (`kind`) and for people; the target that it would
    be of."""

    path: Path
    kind: Skip
    reason: str
    target: str


@dataclass(frozen=True)
class _Scan:
    splits: dict[str, tuple[LabelledImage, ...]]
    skipped: tuple[Skipped, ...]


class ImageFolder:
    """Labelled images in one of the layouts of `adapters.fitting.folder_layout`, and `root/_ood/{far,near}/`.

    Images that are not split by folders are split by the sha256 of each file: 70% train, 14% validation, 16% test,
    whatever the names of the files and however many are added later. Damaged images and images with the same bytes as
    an earlier one (so that no test image is a training image) are not used and listed in `skipped`. Files with other
    suffixes are counted in `ignored`, those of operating systems in `system_files`.
    """

    def __init__(self, root: Path | str, rename: Path | None = None) -> None:
        """Find out what the folders mean; images are read on first use.

        Args:
            rename: a file of names; see `adapters.fitting.folder_names`.

        Raises:
            BadInput: when the folder does not exist, can't be read, or is laid out in no known way; or the file of
                names is invalid.
        """
        self.root = Path(root)
        with readable(self.root):
            if not self.root.is_dir():
                raise BadInput(no_folder(unicode_name(root)), hint=f"give a folder of images: {LAYOUTS}")
        names = {} if rename is None else read_names(rename)
        self._tree = read_tree(self.root)
        self.layout: Layout = read_layout(self.root, self._tree, names)
        self.targets = self.layout.targets
        self._ood: dict[str, tuple[ImageFile, ...]] = {}

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

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many files have a suffix that is not read here, by suffix, e.g. `.tif`."""
        return self._tree.ignored

    @property
    def system_files(self) -> int:
        """How many files and folders are the operating system's, e.g. `.DS_Store`."""
        return self._tree.system

    def relative(self, path: Path) -> str:
        """The path of a file inside the folder; bytes that are not UTF-8 become replacement characters."""
        return unicode_name(path.relative_to(self.root).as_posix())

    def split(self, name: str) -> tuple[LabelledImage, ...]:
        """The images of `train`, `val` or `test`, of all targets, sorted by path.

        Raises:
            BadInput: when there is no such split, or the folder has no usable image.
        """
        if name not in SPLITS:
            raise BadInput(f"{name!r} is not a split", hint=f"one of {', '.join(SPLITS)}")
        if not any(self._scan.splits.values()):
            raise BadInput(
                f"{self.root} holds no usable image (skipped: {counted(len(self.skipped), 'file')})",
                hint=f"the layout is {LAYOUTS}; files end in {', '.join(SUFFIXES)}",
            )
        return self._scan.splits[name]

    def labels(self, target: str) -> tuple[str, ...]:
        """The labels of a target's training images, sorted."""
        return tuple(sorted({image.label for image in self.split("train") if image.target == target}))

    def ood(self, kind: str) -> tuple[ImageFile, ...]:
        """The out-of-distribution images of a kind, `far` or `near`, sorted; empty if there are none."""
        if kind not in self._ood:
            self._ood[kind] = tuple(valid_images(image_files(self.root / OOD_FOLDER / kind)))
        return self._ood[kind]

    def digest(self, name: str) -> str:
        """The sha256 of the content of a split, or of a kind of out-of-distribution images."""
        if name in SPLITS:
            rows = [[image.target, image.label, image.sha256] for image in self.split(name)]
        else:
            rows = [[image.sha256] for image in self.ood(name)]
        return canonical.digest(sorted(rows))

    @cached_property
    def _scan(self) -> _Scan:
        splits: dict[str, list[LabelledImage]] = {name: [] for name in SPLITS}
        skipped: list[Skipped] = []
        seen: dict[str, tuple[Path, LabelFolder]] = {}
        # Training images come first, so that of equal files they are kept.
        for folder, path in ((each, path) for each in self.layout.folders for path in each.files):
            sha256, problem = _digest_of(path)
            if problem:
                skipped.append(Skipped(path, "damaged", problem, folder.target))
                continue
            if sha256 in seen:
                first, known = seen[sha256]
                reason = f"the same image as {first}"
                skipped.append(Skipped(path, _kind_of_copy(folder, known), reason, folder.target))
                continue
            seen[sha256] = (path, folder)
            image = LabelledImage(path, sha256, folder.target, folder.label)
            splits[folder.split or _split_of(sha256)].append(image)
        return _Scan({name: tuple(images) for name, images in splits.items()}, tuple(skipped))


def valid_images(files: Iterable[Path]) -> Iterator[ImageFile]:
    """Those of some files that are valid images."""
    for path in files:
        sha256, problem = _digest_of(path)
        if not problem:
            yield ImageFile(path, sha256)


def _kind_of_copy(folder: LabelFolder, first: LabelFolder) -> Skip:
    if (folder.target, folder.label) != (first.target, first.label):
        return "contradiction"
    return "copy" if folder.split == first.split else "leak"


def _split_of(sha256: str) -> str:
    position = int(sha256[:8], 16) % 100
    for name, percent in _PERCENT.items():
        if position < percent:
            return name
        position -= percent
    raise AssertionError("the percentages add up to 100")


class _Digest(NamedTuple):
    """The sha256 of an image's bytes, or the reason why it is not valid, as a sentence."""

    sha256: str
    problem: str


def _digest_of(path: Path) -> _Digest:
    try:
        data = read_file(path)
        with decoded(data):
            return _Digest(canonical.sha256(data), "")
    except BadImage as error:
        return _Digest("", str(error))
