"""Run one shard: list its files, fix the plan, and compute the parts that are not there yet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from registry.errors import BadInput
from registry.progress import OpenProgress, ignore, open_no_progress
from registry.serving.batch.folder import BatchFolder, list_digest
from registry.serving.batch.inputs import BatchInput
from registry.serving.batch.options import PredictOptions, shard_of
from registry.serving.batch.plan import BatchPlan, make_plan
from registry.serving.batch.reading import InputFile
from registry.serving.batch.rows import RowPredictor
from registry.serving.batch.run import WrittenPart, compute_parts
from registry.serving.loaders import Loaded
from registry.versions.pointer import Pointer


@dataclass(frozen=True)
class Predicted:
    """What a run did, or with `dry_run` would do.

    Attributes:
        version, manifest_sha256: what answered.
        shard, inputs, parts: which share of the files this is, how many files it has, and in how many parts.
        finished: the parts that were there before.
        rows, outcomes: the rows that were written now, all and by outcome.
        seconds: for these, without the listing and the load.
        shards: how many files each shard has, the first one first; only for a dry run, which counts all.
    """

    version: str
    manifest_sha256: str
    folder: Path
    shard: str
    inputs: int
    parts: int
    finished: int
    rows: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    shards: tuple[int, ...] = ()


@dataclass(frozen=True)
class ShardJob:
    """What a shard is run with.

    Attributes:
        model: whose version answers.
        text, source: the input as it was given, and opened.
        find: the version of a new run; it is given the plan of this shard or of another one, if the folder has any.
        load: loads the version of a plan.
    """

    model: str
    text: str
    source: BatchInput
    folder: BatchFolder
    options: PredictOptions
    find: Callable[[BatchPlan | None], Pointer]
    load: Callable[[BatchPlan], Loaded]


def plan_shard(job: ShardJob) -> Predicted:
    """What `run_shard` would do, and how many files each shard has. Writes nothing. Its plan's errors are raised."""
    listing = _Listing(job.source, job.options)
    plan = _plan(job, listing.digest)
    shards = tuple(listing.counts[number + 1] for number in range(job.options.shard.count if listing.counts else 0))
    return _result(plan, job.folder, len(_finished(plan, job.folder)), shards=shards)


def run_shard(
    job: ShardJob, tell: Callable[[WrittenPart], None] = ignore, progress: OpenProgress = open_no_progress
) -> Predicted:
    """Compute and write the parts of a shard that are not there; see `registry.usecases.predict.predict_files`."""
    folder, listing = job.folder, _Listing(job.source, job.options)
    with folder.locked():
        plan = _plan(job, listing.digest if folder.plan() else partial(listing.keep, folder))
        if folder.plan() is None:
            folder.keep_plan(plan)
        finished = _finished(plan, folder)
        if len(finished) == plan.parts:
            return _result(plan, folder, len(finished))
        predictor = RowPredictor(job.load(plan), plan.manifest_sha256)
        began, outcomes = time.monotonic(), Counter[str]()
        with progress(plan.inputs - sum(map(plan.rows_of, finished))) as done:
            for part in compute_parts(plan, folder, job.source, predictor, done):
                outcomes.update(part.outcomes)
                tell(part)
        return _result(plan, folder, len(finished), outcomes, time.monotonic() - began)


@dataclass
class _Listing:
    """The files of an input that are in a shard, and how many each shard has, once they were listed."""

    source: BatchInput
    options: PredictOptions
    counts: Counter[int] = field(default_factory=Counter)

    def digest(self) -> tuple[int, str]:
        """List them; how many, and the digest of the list."""
        return self._not_empty(list_digest(self._files()))

    def keep(self, folder: BatchFolder) -> tuple[int, str]:
        """The same, and keep the list."""
        return self._not_empty(folder.keep_list(self._files()))

    def _files(self) -> Iterator[InputFile]:
        shard = self.options.shard
        for file in self.source.files():
            number = shard_of(file.path, shard.count)
            self.counts[number] += 1
            if number == shard.number:
                yield file

    def _not_empty(self, listed: tuple[int, str]) -> tuple[int, str]:
        if not self.counts:
            raise BadInput("the input has no images", hint="names end in .jpg, .jpeg, .png, .bmp or .webp")
        return listed


def _plan(job: ShardJob, list_files: Callable[[], tuple[int, str]]) -> BatchPlan:
    """The plan of this run: the kept one of its shard, if there is one and this run is the same.

    Raises:
        BadInput: the folder has another run, or `as_planned` is asked for and it has none.
    """
    options, kept, others = job.options, job.folder.plan(), job.folder.other_plans()
    if kept is None and options.as_planned:
        raise BadInput(f"no run of shard {options.shard} began in {job.folder.path}", hint="leave --as-planned out")
    if kept is None and job.folder.has_parts():
        raise BadInput(f"{job.folder.path} has parts of shard {options.shard}, but no plan", hint="give another --out")
    pointer = job.find(kept or next(iter(others), None))
    listed = (kept.inputs, kept.inputs_sha256) if kept and options.as_planned else list_files()
    plan = make_plan(options, job.model, pointer, (job.text, job.source.kind), listed)
    if kept:
        plan.check_same(kept)
    for other in others:
        plan.check_other_shard(other)
    return kept or plan


def _finished(plan: BatchPlan, folder: BatchFolder) -> set[int]:
    return {part for part in folder.finished(plan.output) if part < plan.parts}


def _result(
    plan: BatchPlan, folder: BatchFolder, before: int, outcomes: Counter[str] | None = None, seconds: float = 0.0,
    *, shards: tuple[int, ...] = (),
) -> Predicted:  # fmt: skip
    found = dict(sorted((outcomes or Counter()).items()))
    return Predicted(
        version=plan.version, manifest_sha256=plan.manifest_sha256, folder=folder.path,
        shard=f"{plan.shard}/{plan.shards}", inputs=plan.inputs, parts=plan.parts, finished=before,
        rows=sum(found.values()), outcomes=found, seconds=round(seconds, 3), shards=shards,
    )  # fmt: skip
