"""The parts of a loaded version and of a data folder that benchmarks use, as protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from registry.errors import BadInput

BATCH = 64
"""How many images are given to a version at once."""

Progress = Callable[[int, int], None]
"""Called with (done, total) in images or repetitions."""

Item = TypeVar("Item")


class File(Protocol):
    """An image file; `adapters.fitting.image_folder.ImageFile` is one. `read` gives the bytes that have the sha256, or
    raises `ImageChanged`: evidence says of no other bytes what was computed."""

    @property
    def path(self) -> Path: ...
    @property
    def sha256(self) -> str: ...
    def read(self) -> bytes: ...


class Image(File, Protocol):
    """A test image; `adapters.fitting.image_folder.LabelledImage` is one."""

    @property
    def target(self) -> str: ...
    @property
    def label(self) -> str: ...


class Data(Protocol):
    """Test data; `adapters.fitting.image_folder.ImageFolder` is one."""

    @property
    def root(self) -> Path: ...
    def split(self, name: str) -> Sequence[Image]: ...
    def ood(self, kind: str) -> Sequence[File]: ...
    def digest(self, name: str) -> str: ...


class Model(Protocol):
    """A version that answers; `adapters.answer.loaded.LoadedVersion` is one."""

    @property
    def targets(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def memory(self) -> Mapping[str, int]: ...
    @property
    def device(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    def predict(self, images: list[Any], *, target: str | list[str | None] | None = None) -> Sequence[Any]: ...
    def route(self, images: Sequence[Any]) -> Sequence[tuple[str, float]]: ...
    def ood_scores(self, images: Sequence[Any], target: str) -> Sequence[float]: ...


def test_images(model: Model, data: Data) -> list[Image]:
    """The test images of the version's targets.

    Raises:
        BadInput: when there are none.
    """
    images = [image for image in data.split("test") if image.target in model.targets]
    if not images:
        raise BadInput(
            f"{data.root} has no test image of {', '.join(model.targets)}",
            hint="the folders' names must be the version's targets",
        )
    return images


def left_out(model: Model, data: Data) -> dict[str, str | int | float]:
    """A note on test images of targets that the version does not have, empty if there are none."""
    others = sum(image.target not in model.targets for image in data.split("test"))
    return {"images_of_other_targets_left_out": others} if others else {}


def name_of(data: Data) -> str:
    """The name of the test data."""
    return f"{data.root.resolve().name}, test"


def batches(items: Sequence[Item], progress: Progress | None) -> Iterator[Sequence[Item]]:
    """The items in batches; `progress` is called after each."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
        if progress:
            progress(min(start + BATCH, len(items)), len(items))


def sample(items: Sequence[Item], most: int, seed: int) -> list[Item]:
    """All items, or `most` of them drawn without replacement, in their order."""
    if len(items) <= most:
        return list(items)
    drawn = np.random.default_rng(seed).choice(len(items), size=most, replace=False)
    return [items[index] for index in sorted(drawn)]
