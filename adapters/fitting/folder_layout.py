"""How a folder of images is laid out: which folders hold the images of which split, target and label.

Recognised, each with `train`, `val` and `test` or without (`valid`, `validation`, `training` and `testing` are read as
one of them, in any letter case):

    tomato/blight/*.jpg              tomato/train/blight/*.jpg        train/tomato/blight/*.jpg
    Tomato___Late_blight/*.jpg       train/Tomato___Late_blight/*.jpg

Nothing is guessed: images that lie loose above these folders, or deeper, are left out and counted; folders whose name
says no crop are refused, until a file of names says what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from adapters.fitting.folder_names import (
    CLASS_SEPARATOR,
    Meaning,
    Names,
    Proposal,
    class_meaning,
    composed,
    guess_meaning,
    valid_target,
)
from adapters.fitting.folder_tree import FolderTree, Parts, unicode_name
from registry.errors import BadInput

SPLITS = ("train", "val", "test")
LAYOUTS = "DIR/crop/disease/*.jpg, DIR/crop/{train,val,test}/disease/*.jpg, or the same with Crop___disease"
_SPLIT_NAMES = {
    **{split: split for split in SPLITS},
    "training": "train", "valid": "val", "validation": "val", "testing": "test",
}  # fmt: skip
_SHOWN, _SEARCHED = 3, 200

Why: TypeAlias = Literal["loose", "deeper", "underscore", "named"]
"""Why the images of a folder are left out: they are not in a folder of a label; they are in a folder inside one; the
name of a folder on the way begins with `_`; or the file of names says so."""


@dataclass(frozen=True)
class LabelFolder:
    """A folder whose images have one split (None where they are not split), target and label."""

    path: Path
    split: str | None
    target: str
    label: str
    files: tuple[Path, ...]


class LeftOut(NamedTuple):
    """A folder inside the data whose images are not used, how many they are, and why."""

    folder: str
    images: int
    why: Why


@dataclass(frozen=True)
class Layout:
    """A folder of images, as it is read.

    Attributes:
        folders: training images first, then by path.
        left_out: folders with images that are not used, by name.
        renamed: folder, by its path without the split -> target/label, where these are not its names.
        merged: target -> names of crops that are all read as it, where there are several.
        splits: name of a folder -> the split that it is read as, where that is another name.
        unused_names: folders in the file of names that hold no image here.
    """

    folders: tuple[LabelFolder, ...]
    left_out: tuple[LeftOut, ...]
    renamed: Mapping[str, str]
    merged: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, str]
    unused_names: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, sorted."""
        return tuple(sorted({folder.target for folder in self.folders}))


class _Place(NamedTuple):
    """A folder with images: its place in the tree, and its path without the split (`key`)."""

    parts: Parts
    split: str | None
    key: Parts

    @property
    def name(self) -> str:
        return composed("/".join(self.key))


def read_layout(root: Path, tree: FolderTree, names: Names) -> Layout:
    """Find out what the folders mean.

    Args:
        names: what a file of names says; it goes before the rule.

    Raises:
        BadInput: when no folder holds images in a place where they are read, a folder beside splits is no split, a
            name says no crop or is not UTF-8, or the images seem to be in a folder further down.
    """
    return _Reading(root, tree, names).layout()


def proposals(root: Path, tree: FolderTree) -> list[Proposal]:
    """What a file of names for a folder should have: every folder that holds images, what it is by the rule, and a
    guess where no rule says it.

    Raises:
        BadInput: when a folder beside splits is no split, or a name is not UTF-8.
    """
    reading = _Reading(root, tree, {})
    return [
        Proposal(name, *reading.proposal(place))
        for name, place in sorted({place.name: place for place in reading.places if place.key}.items())
    ]


class _Reading:
    def __init__(self, root: Path, tree: FolderTree, names: Names, *, looks_inside: bool = True) -> None:
        self.root, self.tree, self.names, self.looks_inside = root, tree, names, looks_inside
        self._splits: dict[Parts, bool] = {}
        self.filled = [parts for parts, files in tree.images.items() if files]
        self.places = sorted(map(self._place, self.filled), key=_order)
        self.with_folders = {place.key[0] for place in self.places if len(place.key) > 1}
        """The names at the top that have folders with images in them."""

    def layout(self) -> Layout:
        """The layout; see `read_layout`."""
        meanings = [(place, self.meaning(place)) for place in self.places]
        used = [(place, meaning) for place, meaning in meanings if isinstance(meaning, Meaning)]
        self._check_not_further_down(used)
        self._check_all_named([place for place, meaning in meanings if meaning is None])
        if not used:
            raise self._nothing_found()
        return Layout(
            folders=tuple(self._folder(place, meaning) for place, meaning in used),
            left_out=tuple(self._left_out([(place, why) for place, why in meanings if isinstance(why, str)])),
            renamed={place.name: str(found) for place, found in used if _is_renamed(place, found)},
            merged=_merged([(place, found) for place, found in used if place.name not in self.names]),
            splits=self._other_split_names(),
            unused_names=tuple(sorted(self.names.keys() - {place.name for place in self.places})),
        )

    def meaning(self, place: _Place) -> Meaning | Why | None:
        """What the images of a folder show, or why they are left out; None where its name does not say it."""
        if place.name in self.names:
            return self.names[place.name] or "named"
        match place.key:
            case ():
                return "loose"
            case (crop_and_disease,) if CLASS_SEPARATOR in crop_and_disease:
                return class_meaning(crop_and_disease)
            case (crop,):
                return "loose" if crop in self.with_folders else None
            case (crop, disease) if CLASS_SEPARATOR not in crop:
                target = valid_target(crop)
                return Meaning(target, composed(disease)) if target else None
        return "deeper"

    def proposal(self, place: _Place) -> tuple[Meaning | None, Meaning | None]:
        """What a folder shows by the rule, and a guess where no rule says it; neither for one that is left out."""
        meaning = self.meaning(place)
        if isinstance(meaning, Meaning):
            own = self._crop_of_its_own(place, meaning)
            return (None, own) if own else (meaning, None)
        is_unnamed = meaning is None and len(place.key) == 1
        return None, guess_meaning(place.key[0], self.root.resolve().name) if is_unnamed else None

    def _crop_of_its_own(self, place: _Place, meaning: Meaning) -> Meaning | None:
        """What a `Crop___disease` folder means inside a folder with another name than the crop."""
        own = class_meaning(place.key[-1]) if len(place.key) == 2 and place.name not in self.names else None
        return own if own and own.target != meaning.target else None

    def _place(self, parts: Parts) -> _Place:
        _check_unicode(self.root, parts)
        for depth in (0, 1):
            if len(parts) > depth and self._is_split(parts[:depth]):
                around, name, rest = parts[:depth], parts[depth], parts[depth + 1 :]
                if (split := split_named(name)) is None:
                    raise self._not_a_split(around, name)
                return _Place(parts, split, around + rest)
        return _Place(parts, None, parts)

    def _is_split(self, around: Parts) -> bool:
        """Whether the folders in a folder are splits."""
        if around not in self._splits:
            self._splits[around] = self._find_splits(around)
        return self._splits[around]

    def _find_splits(self, around: Parts) -> bool:
        """One is called so and holds folders with images; or, at the top, all are called so."""
        depth = len(around)
        inner = [parts for parts in self.filled if parts[:depth] == around and len(parts) > depth]
        named = [parts for parts in inner if split_named(parts[depth])]
        return any(len(parts) > depth + 1 for parts in named) or (bool(named) and named == inner and not around)

    def _folder(self, place: _Place, meaning: Meaning) -> LabelFolder:
        path = self.root.joinpath(*place.parts)
        return LabelFolder(path, place.split, meaning.target, meaning.label, self.tree.images[place.parts])

    def _left_out(self, places: list[tuple[_Place, Why]]) -> Iterator[LeftOut]:
        for place, why in places:
            yield LeftOut("/".join(place.parts) or ".", len(self.tree.images[place.parts]), why)
        for parts, files in sorted(self.tree.marked.items()):
            if files:
                yield LeftOut(unicode_name("/".join(parts)), len(files), "underscore")

    def _other_split_names(self) -> dict[str, str]:
        found = {(place.parts[0], place.split) for place in self.places if place.split and self._is_split(())}
        found |= {(place.parts[1], place.split) for place in self.places if place.split and not self._is_split(())}
        return {name: split for name, split in sorted(found) if split and name != split}

    # --- refusals ----------------------------------------------------------------------------------------------------

    def _not_a_split(self, around: Parts, name: str) -> BadInput:
        folder = self.root.joinpath(*around)
        return BadInput(
            f"{folder / name} is a folder beside the splits of {folder.name}, but not a split",
            hint=f"the splits are {', '.join(SPLITS)}: rename it, or move it elsewhere",
        )

    def _check_not_further_down(self, used: list[tuple[_Place, Meaning]]) -> None:
        """Refuse to take a folder around `Crop___disease` folders for a crop."""
        for place, meaning in used:
            if self._crop_of_its_own(place, meaning):
                raise BadInput(
                    f"{self.root} holds no crops: {self.root / place.key[0]} has folders such as {place.key[1]}",
                    hint=f"give {self._inner_folders() or self.root / place.key[0]}",
                )

    def _check_all_named(self, unnamed: list[_Place]) -> None:
        found = list(dict.fromkeys(place.name for place in unnamed))
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise BadInput(
                f"{self.root}: these folders hold images, but their names do not say of which crop: "
                f"{', '.join(found[:_SHOWN])}{more}",
                hint=f"`ulora data check {self.root} --rename names.toml` writes a file that says it, to be corrected; "
                f"or the layout is {LAYOUTS}",
            )

    def _nothing_found(self) -> BadInput:
        if inner := self._inner_folders():
            return BadInput(
                f"{self.root} has no target folder with images", hint=f"the images are further down: {inner}"
            )
        count = sum(len(self.tree.images[parts]) for parts in self.filled)
        loose = f"; {count} images lie elsewhere" if count else ""
        return BadInput(f"{self.root} has no target folder with images{loose}", hint=f"the layout is {LAYOUTS}")

    def _inner_folders(self) -> str:
        """The folders inside that can be read by themselves, as far up as possible."""
        found: list[Parts] = []
        folders = {parts[:depth] for parts in self.filled for depth in (1, 2, 3)} if self.looks_inside else set()
        for parts in sorted(folders, key=lambda each: (len(each), each))[:_SEARCHED]:
            if parts and not any(parts[: len(outer)] == outer for outer in found):
                try:
                    _Reading(self.root.joinpath(*parts), self.tree.below(parts), {}, looks_inside=False).layout()
                except BadInput:
                    continue
                found.append(parts)
        return " or ".join(str(self.root.joinpath(*parts)) for parts in found[:_SHOWN])


def split_named(name: str) -> str | None:
    """The split that a folder's name means, or None."""
    return _SPLIT_NAMES.get(name.lower())


def _order(place: _Place) -> tuple[int, Parts]:
    return (SPLITS.index(place.split) if place.split else len(SPLITS), place.parts)


def _is_renamed(place: _Place, meaning: Meaning) -> bool:
    return str(meaning) != place.name


def _merged(used: list[tuple[_Place, Meaning]]) -> dict[str, tuple[str, ...]]:
    crops: dict[str, set[str]] = {}
    for place, meaning in used:
        crop = place.key[0].partition(CLASS_SEPARATOR)[0] if len(place.key) < 3 else place.key[0]
        crops.setdefault(meaning.target, set()).add(composed(crop))
    return {target: tuple(sorted(names)) for target, names in sorted(crops.items()) if len(names) > 1}


def _check_unicode(root: Path, parts: Parts) -> None:
    for depth, name in enumerate(parts, start=1):
        if unicode_name(name) != name:
            raise BadInput(
                f"the name of {unicode_name(root.joinpath(*parts[:depth]))} is not UTF-8, so it can't be a label",
                hint="rename the folder",
            )
