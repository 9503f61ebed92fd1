"""What a run is: its inputs, its version and its shard, fixed before the first row is written."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError

from registry.errors import BadInput
from registry.formats.document import Document, Sha256, first_problem
from registry.serving.batch.inputs import InputKind
from registry.serving.batch.options import MAX_SHARDS, PartFormat, PredictOptions, Shard
from registry.versions.pointer import Pointer


class BatchPlan(Document):
    """The plan of one shard. It is written once, and every later run of this shard follows it.

    Attributes:
        model, version, manifest_sha256: what answers.
        channel: whose version that was; empty if it was named.
        input, kind: where the files are, as it was given.
        inputs, inputs_sha256: how many files this shard has, and the digest of their list.
        target: of all files that the input names none for.
        part_rows, output: rows of a part, and its format.
        device, runtime, max_pixels: how the version computes.
    """

    LIMIT: ClassVar[int] = 64 * 1024

    format: Literal[1]
    model: str = Field(max_length=100)
    version: str = Field(max_length=120)
    manifest_sha256: Sha256
    channel: str = Field(max_length=64)
    input: str = Field(max_length=8192)
    kind: InputKind
    inputs: int = Field(ge=0)
    inputs_sha256: Sha256
    shard: int = Field(ge=1, le=MAX_SHARDS)
    shards: int = Field(ge=1, le=MAX_SHARDS)
    target: str | None = Field(max_length=200)
    part_rows: int = Field(ge=1, le=1_000_000)
    output: PartFormat
    device: str = Field(max_length=100)
    runtime: str | None = Field(max_length=100)
    max_pixels: int | None

    @property
    def pointer(self) -> Pointer:
        """The version, as a channel names it."""
        return Pointer(version=self.version, manifest_sha256=self.manifest_sha256)

    @property
    def parts(self) -> int:
        """How many parts there will be."""
        return -(-self.inputs // self.part_rows)

    def rows_of(self, part: int) -> int:
        """How many rows a part has; the first part is 0."""
        return min(self.part_rows, self.inputs - part * self.part_rows)

    def check_other_shard(self, other: BatchPlan) -> None:
        """Check that another shard in the same folder is one of the same run.

        Raises:
            BadInput: it has other shards, another input or version, or another way to compute or to write.
        """
        own = set(type(self).model_fields) - {*_OF_A_SHARD, "channel"}
        self._check_equal(other, own, f"shard {other.shard}/{other.shards} in this folder")

    def check_same(self, other: BatchPlan) -> None:
        """Check that a later run of this shard has the same plan.

        Raises:
            BadInput: it has not.
        """
        self._check_equal(other, set(type(self).model_fields) - {"channel"}, "the run that began in this folder")

    def _check_equal(self, other: BatchPlan, names: set[str], whose: str) -> None:
        for name in [each for each in type(self).model_fields if each in names]:  # in the order that people know
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours == theirs:
                continue
            hint = "give another folder as --out for another run, or what this one began with"
            if name in ("inputs", "inputs_sha256"):
                counts = f"{other.inputs} then, {self.inputs} now"
                raise BadInput(
                    f"the files of {self.input[:200]} are others than when the run in this folder began: {counts}",
                    hint="--as-planned goes on with those of then; give another folder as --out for those of now",
                )
            raise BadInput(f"{_WORDS.get(name, name)} is {ours}, but {whose} has {theirs}", hint=hint)


_OF_A_SHARD = ("inputs", "inputs_sha256", "shard")
"""What differs between the shards of one run."""
_WORDS = {
    "input": "the input", "kind": "the kind of the input", "shards": "the number of shards", "output": "--format",
    "part_rows": "--part-rows", "version": "the version", "manifest_sha256": "the manifest of the version",
    "target": "--target", "device": "--device", "runtime": "--runtime", "max_pixels": "--max-pixels",
}  # fmt: skip


def make_plan(
    options: PredictOptions, model: str, pointer: Pointer, source: tuple[str, InputKind], listed: tuple[int, str]
) -> BatchPlan:
    """The plan of a run.

    Args:
        source: the input as it was given, and its kind.
        listed: how many files the shard has, and the digest of their list.

    Raises:
        BadInput: a text of it is too long.
    """
    shard: Shard = options.shard
    plan = _checked(
        format=1, model=model, version=pointer.version, manifest_sha256=pointer.manifest_sha256,
        channel="" if options.version else options.channel, input=source[0], kind=source[1], inputs=listed[0],
        inputs_sha256=listed[1], shard=shard.number, shards=shard.count, target=options.target,
        part_rows=options.part_rows, output=options.format, device=options.device, runtime=options.runtime,
        max_pixels=options.max_pixels,
    )  # fmt: skip
    plan.to_bytes()
    return plan


def _checked(**fields: Any) -> BatchPlan:
    try:
        return BatchPlan(**fields)
    except ValidationError as error:
        raise BadInput(f"this can't be kept as a plan: {first_problem(error)}") from error
