"""What a change of a channel costs with 10,000 versions / with 10: `python -m benchmarks.scale`.

A model for each number of versions, in one store: promote, rollback, and resolve (from a name to its manifest) are
timed in turns, another model first in each round. Beside it MLflow: setting an alias of a registered model with as many
versions. Versions have no files, and are written straight into the store and into MLflow's database: what is measured
depends on their number alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click

from benchmarks.baselines.mlflow_versions import MlflowVersions
from benchmarks.comparison import Budget, Times, option_json, run, say, timed
from benchmarks.empty_versions import CHANNEL, bind_empty, pointer_to, serve, version_names
from benchmarks.flat_result import FlatResult, Size, option_effort, option_rounds_of, rounds_of
from benchmarks.serving.stage import ServingStage, on_stage
from benchmarks.turns import TimedTurn, take_timed_turns
from registry.api import Registry
from registry.errors import BadInput
from registry.machine.cores import usable_cores
from registry.settings import Settings
from registry.versions.pointer import Pointer

SIZES: Mapping[Size, tuple[int, ...]] = {"full": (10, 100, 1000, 10_000), "tiny": (10, 40)}
LIMIT = 1.2
"""A change may cost this many times as much with the most versions as with the fewest."""
PROMOTE, ROLLBACK, RESOLVE = OURS = ("promote", "rollback", "resolve")
ALIAS, ALIAS_READ = "MLflow set alias", "MLflow resolve alias"
_POLICY = "format: 1\nchannels: {staging: {}, production: {}}\n"
"""Asks for no evidence: the gates' own cost depends on the evidence, not on the number of versions."""
ROUNDS = 15

EXAMPLES = """
\b
Examples:
  python -m benchmarks.scale                             10 to 10,000 versions: some minutes; needs the extra `demo`
  python -m benchmarks.scale --versions 10 --versions 1000 --json
  python -m benchmarks.scale --size tiny                 a look at whether it runs
"""


@dataclass(frozen=True)
class ScaleOptions:
    """Which numbers of versions are measured, and how often."""

    size: Size = "full"
    rounds: int = ROUNDS
    versions: tuple[int, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of versions, ascending. Raises BadInput: there is nothing to compare."""
        counts = tuple(sorted({*(self.versions or SIZES[self.size])}))
        if len(counts) < 2:
            raise BadInput("one number of versions can't be compared", hint="--versions 10 --versions 1000")
        return counts


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_effort
@click.option(
    "--versions", type=click.IntRange(2, 10_000), multiple=True, help="A number of versions; give at least two."
)
@option_rounds_of(ROUNDS)
@option_json
def main(*, size: Size, versions: tuple[int, ...], rounds: int | None, as_json: bool) -> None:
    """Promote, rollback and resolve with many versions / with few; beside them MLflow's alias."""
    options = ScaleOptions(size, rounds_of(rounds, size, ROUNDS), versions)
    run(lambda: scale(options), threads=usable_cores(), as_json=as_json)


def scale(options: ScaleOptions | None = None) -> FlatResult:
    """Measure on servers of its own.

    Raises:
        BadInput: fewer than two numbers of versions.
    """
    options = options or ScaleOptions()
    counts = options.counts
    with on_stage(with_mlflow=True) as stage:
        policy = stage.folder / "policy.yaml"
        policy.write_text(_POLICY)
        turns: dict[str, TimedTurn] = {}
        for count in counts:
            say(f"{count} versions in the store and in MLflow")
            turns |= _ours(policy, count) | _mlflow(stage, count)
        times = take_timed_turns(turns, options.rounds, warm_up=2, saying="changes")
    return _result(options, counts, times)


class _Channel:
    """The channel of a model with so many versions, which goes back and forth between the newest two."""

    def __init__(self, policy: Path, count: int) -> None:
        settings = replace(Settings.load(model=f"bench-{count}"), policy=policy, tracking_uri=None)
        self._registry = Registry(settings=settings)
        names = version_names(count)
        bind_empty(self._registry, names)
        self._older, self._newest = (pointer_to(self._registry, name) for name in names[-2:])

    def promote(self) -> float:
        """Milliseconds of a promotion from the second newest version to the newest."""
        self._serve(self._newest, self._older)
        return timed(lambda: self._registry.promote(self._newest.version, CHANNEL))

    def rollback(self) -> float:
        """Milliseconds of a rollback from the newest version to the second newest."""
        self._serve(self._older, self._newest)
        return timed(lambda: self._registry.rollback(CHANNEL))

    def resolve(self) -> float:
        """Milliseconds from a name to its verified manifest."""
        return timed(lambda: self._registry.manifest(self._newest.version))

    def _serve(self, *pointers: Pointer) -> None:
        for pointer in pointers:
            serve(self._registry, pointer)


def _ours(policy: Path, count: int) -> dict[str, TimedTurn]:
    channel = _Channel(policy, count)
    turns: tuple[TimedTurn, ...] = (channel.promote, channel.rollback, channel.resolve)
    return {_named(what, count): turn for what, turn in zip(OURS, turns, strict=True)}


def _mlflow(stage: ServingStage, count: int) -> dict[str, TimedTurn]:
    rival = MlflowVersions(stage.stack.mlflow.folder / "mlflow.db", f"rival-{count}", count)
    return {
        _named(ALIAS, count): lambda: timed(rival.set_alias),
        _named(ALIAS_READ, count): lambda: timed(rival.resolve),
    }


def _named(what: str, count: int) -> str:
    return f"{what}, {count} versions"


def _result(options: ScaleOptions, counts: tuple[int, ...], times: Mapping[str, Times]) -> FlatResult:
    few, most = counts[0], counts[-1]

    def growth(what: str, count: int) -> float:
        return times[_named(what, count)].over(times[_named(what, few)])

    curves = {what: {str(count): growth(what, count) for count in counts[1:]} for what in (*OURS, ALIAS, ALIAS_READ)}
    budgets = [Budget(f"{what} at {most} versions / at {few}", growth(what, most), "at most", LIMIT) for what in OURS]
    metrics = {f"{what}_growth": growth(what, most) for what in OURS}
    metrics |= {"mlflow_alias_growth": growth(ALIAS, most)}
    for count in counts:
        metrics |= {f"{what}_ms_at_{count}": times[_named(what, count)].median for what in OURS}
        metrics[f"mlflow_alias_ms_at_{count}"] = times[_named(ALIAS, count)].median
    setting = {"size": options.size, "versions": ",".join(map(str, counts)), "rounds": options.rounds}
    figures = {f"{what}: cost / at {few} versions": curve for what, curve in curves.items()}
    return FlatResult("scale", setting, times=times, figures=figures, budgets=budgets, metrics=metrics)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.scale")
