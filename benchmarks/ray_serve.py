"""Replicas on Ray Serve beside plain ones: `python -m benchmarks.ray_serve`.

As many `ulora serve` processes, and as many replicas on a local cluster of Ray, answer the same requests by the same
version, in turns. All of them share the cores of one machine, with the clients, the store, and Ray's own processes:
more replicas than cores add no speed here, and what is compared is what Ray's way to a replica costs.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from statistics import median
from typing import Any

import click

from benchmarks.comparison import Result, option_json, option_rounds, option_size, run, say
from benchmarks.serving.client import LoadJob
from benchmarks.serving.load import RunningLoad, wait_for
from benchmarks.serving.stage import CHANNEL, ModelOnStage, on_stage, replica
from registry.devstack.ports import HOST, Ports
from registry.errors import MissingDependency, install_hint
from registry.machine.cores import usable_cores
from registry.serving.fleet import replicas

COUNTS = (1, 2, 4)
VERSIONS = ("v1.0.0", "v1.0.1")
_CLIENTS = 32
_FOLLOW_SECONDS = 120.0

EXAMPLES = """
\b
Examples:
  python -m benchmarks.ray_serve                       about 10 minutes; needs the extras `demo` and `ray`
  python -m benchmarks.ray_serve --size tiny --json    one replica of each, a short time
"""


@dataclass(frozen=True)
class RayEffort:
    """How much is measured: numbers of replicas, seconds of a load, rounds."""

    counts: tuple[int, ...]
    seconds: float
    rounds: int


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_size(["full", "tiny"], "full")
@option_rounds(3)
@option_json
def main(*, size: str, rounds: int, as_json: bool) -> None:
    """Images a second with 1, 2 and 4 replicas, on Ray Serve and without; seconds from a record to the last of them."""
    effort = RayEffort(COUNTS, 8.0, rounds) if size == "full" else RayEffort((1,), 1.0, 1)
    run(lambda: measure(effort, size), threads=usable_cores(), as_json=as_json)


def measure(effort: RayEffort, size: str) -> Result:
    """Every number of replicas, one after the other."""
    figures: dict[str, Any] = {"cores": usable_cores(), "clients": _CLIENTS}
    with on_stage() as stage:
        model = stage.model("tiny")
        for version in VERSIONS:
            model.create(version)
            model.serve(version)
        with _ray(stage.env | {"ULORA_MODEL": model.name}) as url_port:
            for count in effort.counts:
                with ExitStack() as running:
                    ways = {
                        "ulora serve": running.enter_context(_plain(model, count)),
                        "Ray Serve": running.enter_context(_on_ray(model, count, url_port)),
                    }
                    figures |= _compared(model, count, ways, effort)
    return Result(benchmark="ray_serve", setting={"size": size, "rounds": effort.rounds}, figures=figures)


def _compared(model: ModelOnStage, count: int, ways: Mapping[str, list[int]], effort: RayEffort) -> dict[str, Any]:
    """Images a second of each way, by its ports, in turns; then seconds until all replicas of both have followed."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(effort.rounds):
        for name in sorted(ways, reverse=number % 2 == 0):
            say(f"{count} replicas: {name}, round {number + 1}")
            rates[name].append(_rate(model, ways[name], effort.seconds))
    found: dict[str, Any] = {
        f"{count}: {name}, images a second": round(median(each), 1) for name, each in rates.items()
    }
    shares = [ray / plain for ray, plain in zip(rates["Ray Serve"], rates["ulora serve"], strict=True)]
    found[f"{count}: Ray Serve / ulora serve"] = round(median(shares), 3)
    follows = [_follow(model, VERSIONS[turn % 2], count) for turn in range(2 * effort.rounds)]
    for name in ways:
        found[f"{count}: {name}, record -> last replica, seconds"] = round(median(one[name] for one in follows), 2)
    return found


def _rate(model: ModelOnStage, ports: list[int], seconds: float) -> float:
    """Images a second of all ports together: clients share them evenly, in as many processes on both ways."""
    jobs = [LoadJob(port, model.requests(), clients=max(1, _CLIENTS // len(ports)), seconds=seconds) for port in ports]
    with ExitStack() as ending:
        loads = [RunningLoad(job) for job in jobs]
        for load in loads:
            ending.callback(load.stop)
        return sum(load.result().rate() for load in loads)


def _follow(model: ModelOnStage, version: str, count: int) -> dict[str, float]:
    """Seconds from a record until the last replica of each way says in its heartbeat that it serves by it."""
    generation = model.serve(version).generation
    moved, seconds = time.monotonic(), dict[str, float]()

    def followed() -> bool:
        there: dict[str, int] = {"ulora serve": 0, "Ray Serve": 0}
        for one in replicas(model.registry.store, model.name, CHANNEL):
            if one.heartbeat.generation >= generation:
                there["Ray Serve" if one.heartbeat.pid in _actors() else "ulora serve"] += 1
        for name, number in there.items():
            if number >= count:
                seconds.setdefault(name, time.monotonic() - moved)
        return len(seconds) == 2

    wait_for(followed, _FOLLOW_SECONDS, f"{version} on all replicas", pause=0.02)
    return seconds


def _actors() -> set[int]:
    """The processes of replicas on Ray: they have its name for them."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::"):
                found.add(int(folder.name))
    return found


@contextmanager
def _plain(model: ModelOnStage, count: int) -> Iterator[list[int]]:
    """So many `ulora serve`; yields their ports."""
    with ExitStack() as servers:
        say(f"starting {count} plain replicas")
        names = [f"plain-{count}-{number}" for number in range(count)]
        yield [servers.enter_context(replica(model, name, "--deadline", "600")).port for name in names]


@contextmanager
def _ray(env: Mapping[str, str]) -> Iterator[int]:
    """A local cluster of Ray with Serve, whose processes have these variables; yields the port of its proxy.

    Raises:
        MissingDependency: Ray is not installed.
    """
    ports = Ports()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets need short paths
        own = {
            "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32),
        }  # fmt: skip
        os.environ.update({**env, **own})  # before Ray is imported; `on_stage` puts back what was
        try:
            import ray
            from ray import serve
        except ModuleNotFoundError as error:
            raise MissingDependency("ray is not installed", hint=install_hint("ray")) from error
        say("starting Ray")
        cores = max(COUNTS)  # as many replicas as are asked for find a place, whatever the machine has
        with redirect_stdout(sys.stderr):  # where Ray prints what its own processes complain of, whatever it is told
            ray.init(
                num_cpus=cores, object_store_memory=100 * 1024 * 1024, include_dashboard=False, log_to_driver=False
            )
            try:
                serve.start(http_options={"host": HOST, "port": ports.first})
                yield ports.first
            finally:
                serve.shutdown()
                ray.shutdown()


@contextmanager
def _on_ray(model: ModelOnStage, count: int, port: int) -> Iterator[list[int]]:
    """So many replicas on Ray; yields its proxy's port as often."""
    from ray import serve

    from registry.serving.ray import app

    say(f"starting {count} replicas on Ray")
    arguments = {"min_replicas": count, "max_replicas": count, "deadline": 600}
    serve.run(app(arguments), name=model.name)
    try:
        yield [port] * count
    finally:
        serve.delete(model.name)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.ray_serve")
