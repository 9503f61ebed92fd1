"""What the scheduler asks of a version: to read an image and to answer rows, whether or not its flavor offers that."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from registry.errors import BadInput
from registry.serving.loaders import AdoptsRows, Loaded, LoadedForBatches, Prediction, PreparedRow, SharesPasses


@dataclass(frozen=True)
class UnreadRow:
    """An image for a version that reads and answers one at a time."""

    image: Any
    target: str | None
    nbytes: int
    answer: None = None


def takes_batches(loaded: Loaded) -> TypeGuard[LoadedForBatches]:
    """Whether a version answers rows together."""
    return hasattr(loaded, "answer_rows")


def prepare(loaded: Loaded, image: Any, target: Any) -> PreparedRow:
    """Read one image.

    Raises:
        TypeError, BadInput: see `Loaded.predict`.
    """
    if takes_batches(loaded):
        return loaded.prepare(image, target)
    return UnreadRow(image, target, nbytes_of(image))


def adopt(loaded: Loaded, row: PreparedRow) -> PreparedRow | None:
    """The row that another version has prepared, for this one; None if this one has to read the image itself."""
    return loaded.adopt(row) if isinstance(loaded, AdoptsRows) else None


def group_of(loaded: Loaded, row: PreparedRow) -> Hashable:
    """Rows with an equal group can be answered together. One whose version can't say what it runs on stands alone."""
    if not takes_batches(loaded):
        return id(row)
    try:
        group = type(loaded), loaded.runs_on if isinstance(loaded, SharesPasses) else None
        hash(group)
    except Exception:
        return id(row)
    return group


def answers(loaded: Loaded, rows: Sequence[Any]) -> list[Prediction]:
    """Answer rows of one group; `loaded` is the version of any of them.

    Raises:
        RuntimeError: there are more or fewer answers than rows.
    """
    if takes_batches(loaded):
        answered = list(loaded.answer_rows(rows))
    else:
        answered = [loaded.predict(row.image, target=row.target) for row in rows]
    count = sum(answer is not None for answer in answered)
    if not count == len(answered) == len(rows):
        raise RuntimeError(f"{loaded.version} gave {count} answers for {len(rows)} images")
    return answered


def nbytes_of(image: Any) -> int:
    """Bytes of memory of an image as it was given; 0 where it is not known."""
    if isinstance(image, bytes | bytearray):
        return len(image)
    size = getattr(image, "nbytes", 0)
    return size if isinstance(size, int) else 0


def as_list(images: Any) -> list[Any] | None:
    """Several images as a list; None for one image."""
    # Arrays of images have four dimensions; numpy is not needed here otherwise.
    return list(images) if isinstance(images, list | tuple) or getattr(images, "ndim", None) == 4 else None


def targets_of(images: list[Any], target: Any) -> list[Any]:
    """The target of each image.

    Raises:
        BadInput: there are more or fewer targets than images.
    """
    if not isinstance(target, list | tuple):
        return [target] * len(images)
    if len(target) != len(images):
        raise BadInput(
            f"{len(images)} images but {len(target)} targets",
            hint="give one target for all, or one for each image",
        )
    return list(target)
