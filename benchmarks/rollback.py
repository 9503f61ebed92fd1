"""How long a rollback takes: `python -m benchmarks.rollback`.

Processes: `ulora rollback` from its start until the log has moved, beside a process that sets an MLflow alias, until
the server has answered; and what else teams do: copy a version's folder into `current/`, or assign a stage by GTO.
In process: `Registry.rollback` beside the raw three calls of boto3, and their requests, counted at the level of HTTP.
The drill: a replica answers requests while `ulora rollback` is run, and the times of what happens are told.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import click

from benchmarks.baselines.folder_copy import copy_into_current
from benchmarks.baselines.gto_stage import PACKAGE as GTO
from benchmarks.baselines.gto_stage import GtoStages
from benchmarks.baselines.programs import RivalPackages, not_installed, run_python
from benchmarks.baselines.raw_s3 import RawLog, raw_client
from benchmarks.comparison import Budget, Times, option_json, run, say, timed
from benchmarks.counting import CountingProxy
from benchmarks.empty_versions import CHANNEL, bind_empty, pointer_to, serve, version_names
from benchmarks.flat_result import FlatResult, Size, option_effort, option_packages, option_rounds_of, rounds_of
from benchmarks.rollback_drill import Drill, drill
from benchmarks.serving.stage import ServingStage, on_stage
from benchmarks.turns import TimedTurn, take_timed_turns
from registry.api import Registry
from registry.errors import LoadFailed
from registry.machine.cores import usable_cores
from registry.machine.programs import DEVNULL, PIPE, start
from registry.settings import Settings
from registry.versions.pointer import Pointer

MODEL = "bench-rollback"
LIMIT_ALIAS, LIMIT_IMPORT, ROUND_TRIPS = 0.33, 0.1, 3
VERSION_BYTES: Mapping[Size, int] = {"full": 52_000_000, "tiny": 500_000}
"""Of the version's folder that is copied: a tenth of the public release of July 2026."""
IN_PROCESS_ROUNDS = 10
"""Rollbacks in process for each round of processes."""
_LOOK = 0.01
"""Seconds between two looks at the log: rarely enough to leave the cores to the process that is timed."""
_TIMEOUT = 120.0

OURS, ALIAS, COPY, STAGE = "ulora rollback", "MLflow alias", "folder copy", "gto assign"
PYTHON, IMPORT = "python", "python, import registry"
IN_PROCESS, RAW, ALIAS_IN_PROCESS = "rollback in process", "raw boto3: LIST, GET, PUT", "MLflow alias in process"
ROUNDS = 15

EXAMPLES = """
\b
Examples:
  python -m benchmarks.rollback                       some minutes; needs the extra `demo`
  python -m benchmarks.rollback --packages DIR        with gto, of `pip install --target DIR gto`
  python -m benchmarks.rollback --size tiny --json    a look at whether it runs
"""


@dataclass(frozen=True)
class RollbackEffort:
    """What is measured, and how often."""

    size: Size = "full"
    rounds: int = ROUNDS
    packages: Path | None = None


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_effort
@option_rounds_of(ROUNDS)
@option_packages
@option_json
def main(*, size: Size, rounds: int | None, packages: Path | None, as_json: bool) -> None:
    """A rollback: as a process, in process, and with a replica that follows; beside MLflow's alias and others."""
    options = RollbackEffort(size, rounds_of(rounds, size, ROUNDS), packages)
    run(lambda: rollback(options), threads=usable_cores(), as_json=as_json)


def rollback(options: RollbackEffort | None = None) -> FlatResult:
    """Measure on servers of its own.

    Raises:
        LoadFailed: a program that is measured failed.
    """
    options = options or RollbackEffort()
    with on_stage(with_mlflow=True) as stage:
        say("two versions, in the store and in MLflow")
        rig = RollbackRig.made(stage)
        processes = take_timed_turns(_processes(rig, stage, options), options.rounds, saying="processes")
        say("in process")
        calls = take_timed_turns(_calls(rig), options.rounds * IN_PROCESS_ROUNDS)
        requests = {name: rig.requests_of(name) for name in (IN_PROCESS, RAW)}
        told = drill(stage, rounds=2 if options.size == "tiny" else 5)
    return _result(options, {**processes, **calls}, requests, told)


@dataclass
class RollbackRig:
    """A channel with two versions, and the same in MLflow and in raw calls. `turn`: of the alias."""

    stage: ServingStage
    registry: Registry
    pointers: tuple[Pointer, Pointer]
    turn: int = 0

    @classmethod
    def made(cls, stage: ServingStage) -> RollbackRig:
        """Make the versions."""
        from mlflow import MlflowClient

        registry = Registry(settings=Settings.load(model=MODEL))
        names = version_names(2)
        bind_empty(registry, names)
        first, second = (pointer_to(registry, name) for name in names)
        serve(registry, first)
        client = MlflowClient()
        client.create_registered_model(MODEL)
        for name in names:
            client.create_model_version(MODEL, f"{registry.settings.store}/{name}", await_creation_for=0)
        return cls(stage, registry, (first, second))

    def prepare(self) -> int:
        """Make the newer version stable, above the older one; returns the generation."""
        return serve(self.registry, self.pointers[1])

    def next_number(self) -> str:
        """The version in MLflow whose turn it is; each call is a turn."""
        self.turn += 1
        return str(self.turn % 2 + 1)

    def roll_back_by_process(self) -> float:
        """Milliseconds from the start of `ulora rollback` until the log has moved."""
        generation = self.prepare()
        log = self.registry.channel(CHANNEL)
        words = ["-m", "registry", "rollback", "--model", MODEL, "--channel", CHANNEL, "--no-mirror", "--wait", "0"]
        began = time.perf_counter()
        with start([sys.executable, *words], stdout=DEVNULL, stderr=PIPE, text=True, env=self.stage.env) as process:
            while log.next(generation) is None:
                if process.poll() or time.perf_counter() - began > _TIMEOUT:
                    process.kill()
                    raise LoadFailed(f"ulora rollback failed: {process.stderr.read()[-300:] if process.stderr else ''}")
                time.sleep(_LOOK)
            return (time.perf_counter() - began) * 1e3

    def set_alias_by_process(self) -> float:
        """Milliseconds from the start of a process until MLflow has set the alias."""
        words = ["-m", "benchmarks.baselines.mlflow_set_alias", MODEL, self.next_number()]
        began = time.perf_counter()
        with start([sys.executable, *words], stdout=PIPE, text=True, env=self.stage.env) as process:
            said = process.stdout.readline() if process.stdout else ""
            took = time.perf_counter() - began
        if said.strip() != "set":
            raise LoadFailed(f"the process that sets an alias ended with exit status {process.returncode}")
        return took * 1e3

    def roll_back(self, registry: Registry | None = None) -> float:
        """Milliseconds of `Registry.rollback`."""
        self.prepare()
        return timed(lambda: (registry or self.registry).rollback(CHANNEL))

    def requests_of(self, name: str) -> int:
        """The requests of one rollback after another, ours or the raw one, counted by a proxy."""
        with CountingProxy(self.stage.stack.s3.url) as proxy:
            if name == RAW:
                log = self._raw_log(proxy.url, "counted/")
                proxy.take()
                log.roll_back()
            else:
                settings = replace(self.registry.settings, endpoint_url=proxy.url)
                self.roll_back(Registry(settings=settings))
            return len(proxy.take().requests)

    def raw_log(self) -> RawLog:
        """The raw calls, with a body of the size of ours."""
        return self._raw_log(None, "raw/")

    def _raw_log(self, endpoint_url: str | None, prefix: str) -> RawLog:
        head = self.registry.channel(CHANNEL).head()
        body = head.to_bytes() if head else b"{}"
        return RawLog(raw_client(endpoint_url), self.stage.stack.s3.bucket, prefix, body)


def _processes(rig: RollbackRig, stage: ServingStage, options: RollbackEffort) -> dict[str, TimedTurn]:
    """The contenders that are processes, and the folder's copy, which needs none."""
    version, current = stage.folder / "version", stage.folder / "current"
    version.mkdir()
    for number in range(8):
        (version / f"{number}.safetensors").write_bytes(bytes(VERSION_BYTES[options.size] // 8))
    packages = RivalPackages(options.packages)
    turns: dict[str, TimedTurn] = {
        OURS: rig.roll_back_by_process,
        ALIAS: rig.set_alias_by_process,
        COPY: lambda: timed(lambda: copy_into_current(version, current)),
        PYTHON: lambda: timed(lambda: run_python(["-c", "pass"])),
        IMPORT: lambda: timed(lambda: run_python(["-c", "import registry"])),
    }
    if packages.has(GTO) and packages.program("git"):
        stages = GtoStages(stage.folder / "gto", packages)
        turns[STAGE] = lambda: timed(stages.assign)
    return turns


def _calls(rig: RollbackRig) -> dict[str, TimedTurn]:
    """The contenders that are calls in this process."""
    from mlflow import MlflowClient

    client, log = MlflowClient(), rig.raw_log()
    return {
        IN_PROCESS: rig.roll_back,
        RAW: lambda: timed(log.roll_back),
        ALIAS_IN_PROCESS: lambda: timed(lambda: client.set_registered_model_alias(MODEL, CHANNEL, rig.next_number())),
    }


def _result(
    options: RollbackEffort, times: Mapping[str, Times], requests: Mapping[str, int], told: Drill
) -> FlatResult:
    ours, imported = times[OURS], _difference(times[IMPORT], times[PYTHON])
    figures = {
        "rollback in process / raw boto3": times[IN_PROCESS].over(times[RAW]),
        "MLflow alias in process / rollback in process": times[ALIAS_IN_PROCESS].over(times[IN_PROCESS]),
        "folder copy / ulora rollback": times[COPY].over(ours),
        "gto assign / ulora rollback": times[STAGE].over(ours) if STAGE in times else not_installed(GTO),
        "requests of the raw calls": requests[RAW],
        "drill, ms": told.document(),
    }
    budgets = [
        Budget("ulora rollback, process / MLflow alias, process", ours.over(times[ALIAS]), "at most", LIMIT_ALIAS),
        Budget("import registry over bare Python", imported, "at most", LIMIT_IMPORT, "s"),
        Budget("rollback in process", requests[IN_PROCESS], "at most", ROUND_TRIPS, "requests"),
    ]
    metrics = {
        "rollback_over_mlflow_alias": budgets[0].value,
        "import_registry_seconds": imported,
        "rollback_requests": requests[IN_PROCESS],
        "rollback_over_raw_s3": times[IN_PROCESS].over(times[RAW]),
        "rollback_ms": ours.median,
        "rollback_in_process_ms": times[IN_PROCESS].median,
        "folder_copy_over_rollback": times[COPY].over(ours),
        **told.metrics(),
    }
    setting = {"size": options.size, "rounds": options.rounds, "copied folder, MB": VERSION_BYTES[options.size] / 1e6}
    return FlatResult("rollback", setting, times=times, figures=figures, budgets=budgets, metrics=metrics)


def _difference(one: Times, other: Times) -> float:
    """The median over the rounds of the difference, in seconds."""
    return median(mine - its for mine, its in zip(one.rounds, other.rounds, strict=True)) / 1e3


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.rollback")
