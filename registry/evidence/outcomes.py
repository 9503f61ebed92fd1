"""Outcomes: what a version answered for each image of a measurement, so that versions can be compared image by image.

They are kept beside the evidence as JSON lines, compressed with gzip, under the sha256 of the stored bytes.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from pydantic import ConfigDict, Field, ValidationError

from registry.errors import BadManifest
from registry.formats import canonical
from registry.formats.document import DocumentPart, Sha256, first_problem

MAX_OUTCOMES = 300_000
MAX_STORED = canonical.MAX_DOCUMENT
"""Bytes of the largest compressed file that is kept."""
MAX_TEXT = 256 * 1024 * 1024
"""Bytes of the largest text that is decompressed."""
_MAX_LINE = 8 * 1024

Kind = Literal["test", "far", "near"]
"""Test images of the targets; out-of-distribution images, see `benchmarks.ood`."""


class ImageOutcome(DocumentPart):
    """What a version answered for one image. A field that a benchmark does not ask for is None.

    Attributes:
        image: the sha256 of the image file's bytes.
        target: the target that the image shows, or whose detector scored it.
        label: the label that the image shows.
        answered_target: the target that the router chose.
        answered_label: the label that was answered.
        probability: of what was answered.
        ood_score: in units of the threshold that serves; `is_ood` says whether it is above that.
        blocks: how many blocks of the backbone were computed with the adapter.
    """

    # Nothing else is kept in memory of files that whoever measures may fill: they are copied as bytes.
    model_config = ConfigDict(extra="ignore")

    image: Sha256
    kind: Kind = "test"
    target: str | None = Field(default=None, max_length=200)
    label: str | None = Field(default=None, max_length=1000)
    answered_target: str | None = Field(default=None, max_length=200)
    answered_label: str | None = Field(default=None, max_length=1000)
    probability: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    ood_score: float | None = Field(default=None, allow_inf_nan=False)
    is_ood: bool | None = None
    blocks: int | None = Field(default=None, ge=0, le=10_000)


def packed(outcomes: Sequence[ImageOutcome]) -> bytes:
    """The bytes that are stored, equal for equal outcomes; none if there are no outcomes, or more than can be kept."""
    if not 0 < len(outcomes) <= MAX_OUTCOMES:
        return b""
    lines = (canonical.encode(one.model_dump(mode="json", exclude_none=True)) for one in outcomes)
    data = gzip.compress(b"".join(line + b"\n" for line in lines), mtime=0)
    return data if len(data) <= MAX_STORED else b""


def unpacked(data: bytes, what: str) -> tuple[ImageOutcome, ...]:
    """The outcomes in stored bytes; `what` names them in errors.

    Raises:
        BadManifest: they are not compressed JSON lines of outcomes, or too many.
    """
    found: list[ImageOutcome] = []
    try:
        for line in _lines(data, what):
            found.append(ImageOutcome.model_validate_json(line))
            if len(found) > MAX_OUTCOMES:
                raise BadManifest(f"{what} has more than {MAX_OUTCOMES:,} lines")
    except ValidationError as error:
        raise BadManifest(f"{what}, line {len(found) + 1}: {first_problem(error)}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise BadManifest(f"{what} is not a whole gzip file: {error}") from error
    return tuple(found)


def _lines(data: bytes, what: str) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        size = 0
        while line := file.readline(_MAX_LINE + 1):
            size += len(line)
            if len(line) > _MAX_LINE or size > MAX_TEXT:
                raise BadManifest(f"{what} has more text than is read")
            yield line


def by_image(outcomes: Iterable[ImageOutcome]) -> dict[tuple[str, str | None, Kind], ImageOutcome]:
    """The outcomes by image, target and kind; of several for one image the first."""
    found: dict[tuple[str, str | None, Kind], ImageOutcome] = {}
    for one in outcomes:
        found.setdefault((one.image, one.target, one.kind), one)
    return found
