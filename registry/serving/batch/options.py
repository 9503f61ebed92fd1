"""What is answered, by which version, and how it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from registry.errors import BadInput
from registry.formats.canonical import sha256
from registry.serving.loaders import LoadOptions

PartFormat = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[PartFormat, ...] = ("jsonl", "csv", "parquet")
MAX_SHARDS = 100_000
_SHARD = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,5})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """One of several shares of the inputs: the `number`-th, from 1 on, of `count`."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        """Raises: BadInput: there is no such shard."""
        if not 1 <= self.number <= self.count <= MAX_SHARDS:
            raise BadInput(f"there is no shard {self}", hint=f"1/8 to 8/8, for example; at most {MAX_SHARDS} shards")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """A shard as people write it, `3/8`.

        Raises:
            BadInput: it has another form, or there is no such shard.
        """
        match = _SHARD.fullmatch(text)
        if match is None:
            raise BadInput(f"{text[:40]!r} is not a shard", hint="for example 3/8: the third of eight")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def shard_of(path: str, count: int) -> int:
    """The number of the shard that an input is in: the first 8 bytes of its path's sha256, modulo `count`, and 1. By
    its path alone, so each is in one, whatever others there are."""
    if count == 1:
        return 1
    return int(sha256(path.encode("utf-8", "surrogatepass"))[:16], 16) % count + 1


@dataclass(frozen=True)
class PredictOptions(LoadOptions):
    """What is answered, by which version, and how it is written.

    Attributes:
        version: None for what `channel` serves when the first run begins.
        target: the target of all images that the input names none for; None lets the version choose.
        shard: only this share of the inputs.
        format: of the parts.
        part_rows: images of a part, which is written at once: what a run that is killed has to compute again.
        as_planned: go on with the list of inputs that the first run made, without looking for others.
    """

    version: str | None = None
    channel: str = "production"
    target: str | None = None
    shard: Shard = Shard()
    format: PartFormat = "jsonl"
    part_rows: int = 1000
    as_planned: bool = False

    def __post_init__(self) -> None:
        """Raises: BadInput: there is no such format, or a part would have no rows, or too many."""
        if self.format not in FORMATS:
            raise BadInput(f"{str(self.format)[:40]!r} is not a format", hint=f"one of {', '.join(FORMATS)}")
        if not 1 <= self.part_rows <= 1_000_000:
            raise BadInput(f"a part can't have {self.part_rows} rows", hint="1 to 1,000,000")
