"""The benchmarks of this software: how each is run, and the numbers in its result."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.errors import BadInput

SIZES = ("tiny", "full")
"""tiny shows within seconds or minutes whether it runs, and meets no budget."""
DRILL, DRILL_EVENTS = "drill, ms", ("moved", "answered", "ended")
"""The figure of `benchmarks.rollback` that holds the rounds of its drill, and the events in each."""
_MAX_SHOWN, _MAX_KEY = 40, 250
_NOT_IN_A_KEY = re.compile(r"[^\w .:/-]+")
_STEP = re.compile(r"(.+)_at_(\d{1,9})")


@dataclass(frozen=True)
class Software:
    """A benchmark of this software.

    Attributes:
        module: run as `python -m`; it takes `--json`.
        about: one line.
        tiny: its options for the size `tiny`.
        parts: what `--only` takes; empty if it has no parts.
    """

    module: str
    about: str
    tiny: tuple[str, ...] = ("--size", "tiny")
    parts: tuple[str, ...] = ()


SOFTWARE: Mapping[str, Software] = {
    "rollback": Software("benchmarks.rollback", "A drill: how long a rollback takes, and whether requests fail."),
    "scale": Software("benchmarks.scale", "What commands cost at 10 to 10,000 versions."),
    "transfer": Software("benchmarks.transfer", "Publishing a release, and the cold start of a replica."),
    "serving": Software(
        "benchmarks.serving",
        "A replica under load.",
        tiny=("--size", "tiny", "--quick"),
        parts=("throughput", "overload", "swaps", "flips", "propagation", "cold-start"),
    ),
}


@dataclass(frozen=True)
class SoftwareParameters:
    """What is measured.

    Attributes:
        size: one of `SIZES`.
        parts: by commas; all if empty.
    """

    name: str
    size: str = "full"
    parts: str = ""

    def command(self) -> list[str]:
        """The words after `python -m`.

        Raises:
            BadInput: it has no such part.
        """
        software = SOFTWARE[self.name]
        wanted = [part.strip() for part in self.parts.split(",") if part.strip()]
        for part in wanted:
            if part not in software.parts:
                known = ", ".join(software.parts)
                hint = f"there are: {known}" if known else "leave --parts out"
                raise BadInput(f"{self.name} has no part {part[:_MAX_SHOWN]!r}", hint=hint)
        only = [word for part in wanted for word in ("--only", part)]
        return [software.module, *(software.tiny if self.size == "tiny" else ()), *only, "--json"]


@dataclass(frozen=True)
class SoftwareResult:
    """What a benchmark printed.

    Attributes:
        document: its JSON object.
    """

    document: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As it was printed."""
        return dict(self.document)

    def text(self) -> str:
        """A report for people: the budgets, then the metrics."""
        verdicts = {True: "met    ", False: "NOT MET"}
        rows = [
            f"{verdicts[bool(one['met'])]} {one['what']}: {one['value']:.4g} {one['unit']} "
            f"({one['bound']} {one['limit']:g})"
            for one in self.document.get("budgets", ())
        ]
        return "\n".join([*rows, *(f"{name:<44} {value:.5g}" for name, value in self.metrics().items())])

    def metrics(self) -> dict[str, float]:
        """All its numbers by names that MLflow takes."""
        return {mlflow_key(name): value for name, value in self._numbers()}

    def curves(self) -> dict[str, dict[int, float]]:
        """The numbers whose names end in `_at_N`, by N: the steps, e.g. numbers of versions; and those of a drill, by
        its rounds.
        """
        found: dict[str, dict[int, float]] = {
            f"drill_round_{name}_ms": dict(enumerate(values)) for name, values in self.drill().items()
        }
        for name, value in self.metrics().items():
            if match := _STEP.fullmatch(name):
                found.setdefault(match[1], {})[int(match[2])] = value
        return {name: dict(sorted(points.items())) for name, points in found.items() if len(points) > 1}

    def drill(self) -> dict[str, list[float]]:
        """The milliseconds of each event in each round of a rollback drill; empty for other benchmarks."""
        told = self.document.get("figures", {}).get(DRILL)
        rounds = told.get("rounds", []) if isinstance(told, dict) else []
        return {name: [float(one[place]) for one in rounds] for place, name in enumerate(DRILL_EVENTS) if rounds}

    def _numbers(self) -> Iterator[tuple[str, float]]:
        yield "met", float(bool(self.document.get("met")))
        yield from _finite(self.document.get("metrics", {}))
        yield from _finite(self.document.get("figures", {}))
        for one in self.document.get("budgets", ()):
            yield f"budget/{one['what']}", float(one["value"])
            yield f"limit/{one['what']}", float(one["limit"])
        for name, times in self.document.get("times", {}).items():
            yield f"median_ms/{name}", float(times["median_ms"])
            yield f"low_ms/{name}", float(times["q25_ms"])
            yield f"high_ms/{name}", float(times["q75_ms"])


def mlflow_key(name: str) -> str:
    """A name as MLflow takes it: letters, digits and `_ .:/-`, at most 250, and it must read as a path to a file."""
    parts = _NOT_IN_A_KEY.sub("_", name)[:_MAX_KEY].split("/")
    return "/".join(part for part in parts if part.strip(".")) or "_"


def _finite(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
