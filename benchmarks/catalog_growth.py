"""What MLflow costs with 10,000 versions of a model / with 10: `python -m benchmarks.catalog_growth`.

A model for each number of versions, in one store and on one MLflow server, on SQLite or on PostgreSQL: the part of
`create` that is MLflow's, what `list` and `reconcile` ask where nothing changed, and what MLflow's own pages ask, in
turns. The versions are in the store and in MLflow as `create` leaves them; no channel serves one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.catalog_versions import fill
from benchmarks.comparison import Times, option_json, run, say, timed
from benchmarks.flat_result import FlatResult, Size, option_effort, option_rounds_of, rounds_of
from benchmarks.serving.stage import ServingStage, on_stage
from benchmarks.synthetic import MODULES, make_backbone, write_bundle
from benchmarks.turns import TimedTurn, take_timed_turns
from registry.answers import Reconciled
from registry.api import Registry
from registry.devstack.mlflow_server import MlflowServer
from registry.errors import BadInput, UloraError
from registry.machine.cores import usable_cores
from registry.names import VersionName
from registry.settings import Settings
from registry.usecases.mirror import log_version, show_version

SIZES: Mapping[Size, tuple[int, ...]] = {"full": (10, 1000, 10_000), "tiny": (10, 40)}
CREATE, LIST, RECONCILE, QUICK = OURS = (
    "create, its part in MLflow", "numbers for list", "reconcile, nothing changed", "reconcile, quick round",
)  # fmt: skip
THEIRS = ("page of versions", "search of models", "a registered model", "a version", "page of runs", "set alias")
"""What MLflow's own pages ask, and what is set there by hand."""
ROUNDS = 5
_PAGE = 25

EXAMPLES = """
\b
Examples:
  python -m benchmarks.catalog_growth                    10 to 10,000 versions on SQLite: about an hour
  python -m benchmarks.catalog_growth --backend-store-uri postgresql+psycopg://… --json
  python -m benchmarks.catalog_growth --size tiny        a look at whether it runs
"""


@dataclass(frozen=True)
class GrowthOptions:
    """Which numbers of versions are measured, how often, and on which database of MLflow's; SQLite if none is given."""

    size: Size = "full"
    rounds: int = ROUNDS
    versions: tuple[int, ...] = ()
    database: str = ""

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
    "--backend-store-uri", "database", default="", metavar="URL",
    help="An empty database for MLflow, as postgresql+psycopg://USER:PASSWORD@HOST/NAME; SQLite if left out.",
)  # fmt: skip
@click.option(
    "--versions", type=click.IntRange(2, 10_000), multiple=True, help="A number of versions; give at least two."
)
@option_rounds_of(ROUNDS)
@option_json
def main(*, size: Size, database: str, versions: tuple[int, ...], rounds: int | None, as_json: bool) -> None:
    """What create, list, reconcile and MLflow's own pages cost with many versions / with few."""
    options = GrowthOptions(size, rounds_of(rounds, size, ROUNDS), versions, database)
    run(lambda: catalog_growth(options), threads=usable_cores(), as_json=as_json)


def catalog_growth(options: GrowthOptions | None = None) -> FlatResult:
    """Measure on servers of its own.

    Raises:
        BadInput: fewer than two numbers of versions.
        CatalogUnreachable: MLflow does not start, as where the database is away or its driver is not installed.
    """
    options = options or GrowthOptions()
    counts = options.counts
    with on_stage() as stage, _mlflow(stage.folder / "mlflow", options.database) as server:
        turns: dict[str, TimedTurn] = {}
        for count in counts:
            turns |= _Model(stage, server, count).turns()
        times = take_timed_turns(turns, options.rounds, saying="questions")
    return _result(options, counts, times)


@contextmanager
def _mlflow(folder: Path, database: str) -> Iterator[MlflowServer]:
    """An MLflow server, which this process talks to until the stage ends."""
    server = _MlflowOn(folder, database) if database else MlflowServer(folder)
    say(f"starting MLflow on {_kind(database)}")
    try:
        os.environ.update(server.start().env)
        yield server
    finally:
        server.kill()


class _MlflowOn(MlflowServer):
    """An MLflow server on a database that is there, such as PostgreSQL."""

    def __init__(self, folder: Path, database: str) -> None:
        super().__init__(folder)
        self._database = database

    @property
    def backend_store_uri(self) -> str:
        """The database's address."""
        return self._database


class _Model:
    """A model with so many versions, and what is asked of it."""

    def __init__(self, stage: ServingStage, server: MlflowServer, count: int) -> None:
        from mlflow import MlflowClient

        self._count, self._created, self._aliased = count, 0, 0
        self._registry = Registry(settings=Settings.load(model=f"bench-{count}"))
        self._bundle = stage.folder / f"bundle-{count}"
        self._backbone = make_backbone(stage.folder / "backbones", "tiny")
        self._registry.add_backbone(str(self._backbone.folder), name=self._backbone.ref.name)
        fill(self._registry, server.backend_store_uri, count)
        self._client = MlflowClient(server.url, server.url)

    def turns(self) -> dict[str, TimedTurn]:
        """All that is timed, by its name."""
        model, client = self._registry.model, self._client
        experiment = client.get_experiment_by_name(model).experiment_id
        ours = (self.create, self.list, self.reconcile, self.quick_round)
        asked = (
            lambda: client.search_model_versions(f"name = '{model}'", max_results=_PAGE),
            lambda: client.search_registered_models(f"name = '{model}'", max_results=_PAGE),
            lambda: client.get_registered_model(model),
            lambda: client.get_model_version(model, str(self._count)),
            lambda: client.search_runs([experiment], max_results=100),
            self._set_alias,
        )
        theirs = (lambda ask=ask: timed(ask) for ask in asked)
        return {_named(what, self._count): turn for what, turn in zip((*OURS, *THEIRS), (*ours, *theirs), strict=True)}

    def create(self) -> float:
        """Milliseconds to log one more version, which is in the store, in MLflow; without its upload to the store."""
        self._created += 1
        name = f"v2.{self._created}.0"
        shutil.rmtree(self._bundle, ignore_errors=True)
        write_bundle(
            self._bundle,
            self._backbone,
            targets=("apple",),
            modules=MODULES["q,v"]["dinov2"],
            rank=4,
            seed=self._created,
        )
        self._registry.create(name, self._bundle, offline=True)
        binding = self._registry.bindings.get(VersionName.parse(name))
        took = timed(lambda: log_version(self._registry.wiring, binding, None))
        show_version(self._registry.wiring, binding)
        return took

    def list(self) -> float:
        """Milliseconds in which a new process learns the number in MLflow of each version."""
        catalog = self._registry.catalog
        catalog.look_again()
        return timed(lambda: catalog.registered(self._registry.model))

    def reconcile(self) -> float:
        """Milliseconds of a round that finds nothing to do."""
        done: list[Reconciled] = []
        took = timed(lambda: done.append(self._registry.reconcile()))
        if done[0].logged or done[0].changes or done[0].failed:
            raise UloraError(f"reconcile found something to do: {done[0]}")
        return took

    def quick_round(self) -> float:
        """Milliseconds of one of the rounds between, with `--watch`."""
        return timed(self._registry.reconciler().reconcile_quickly)

    def _set_alias(self) -> None:
        self._aliased += 1
        number = str(self._count - self._aliased % 2)
        self._client.set_registered_model_alias(self._registry.model, "by-hand", number)


def _kind(database: str) -> str:
    return database.partition(":")[0].partition("+")[0] or "sqlite"


def _named(what: str, count: int) -> str:
    return f"{what}, {count} versions"


def _result(options: GrowthOptions, counts: tuple[int, ...], times: Mapping[str, Times]) -> FlatResult:
    few, most = counts[0], counts[-1]
    curves = {
        what: {str(count): times[_named(what, count)].over(times[_named(what, few)]) for count in counts[1:]}
        for what in (*OURS, *THEIRS)
    }
    metrics = {f"{_short(what)}_growth": curve[str(most)] for what, curve in curves.items()}
    setting = {
        "size": options.size, "catalog": _kind(options.database), "versions": ",".join(map(str, counts)),
        "rounds": options.rounds,
    }  # fmt: skip
    figures = {f"{what}: cost / at {few} versions": curve for what, curve in curves.items()}
    return FlatResult("catalog_growth", setting, times=times, figures=figures, metrics=metrics)


def _short(what: str) -> str:
    return what.partition(",")[0].replace(" ", "_") + ("_quick" if what == QUICK else "")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.catalog_growth")
