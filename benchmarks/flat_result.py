"""A result whose ratios have short names too, as MLflow's metrics need them; and the options of the commands with one.

The commands are `benchmarks.rollback`, `benchmarks.scale` and `benchmarks.transfer`. Their names of metrics and of
options stay: entry points of `mlflow run` and recorded runs use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from benchmarks.comparison import Result

Size = Literal["full", "tiny"]
TINY_ROUNDS = 2


@dataclass(frozen=True)
class FlatResult(Result):
    """A result with flat metrics.

    Attributes:
        metrics: short name -> number; ratios and counts, and seconds where a timeline is asked for.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As JSON. A metric that has no number is left out."""
        known = {name: float(f"{value:.5g}") for name, value in self.metrics.items() if math.isfinite(value)}
        return super().document() | {"metrics": known}


def option_effort(command: Callable[..., None]) -> Callable[..., None]:
    """The option `--size` of these commands: how much is measured."""
    text = "How much is measured; tiny shows in seconds whether it runs."
    return click.option("--size", type=click.Choice(["full", "tiny"]), default="full", show_default=True, help=text)(
        command
    )


def option_rounds_of(full: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option `--rounds` of these commands; it is None where it is not given, see `rounds_of`."""
    text = f"How often each contender runs and is timed: {full}, or {TINY_ROUNDS} with --size tiny."
    return click.option("--rounds", type=click.IntRange(1, 10_000), default=None, help=text)


def rounds_of(given: int | None, size: Size, full: int) -> int:
    """How many rounds are meant."""
    return given or (TINY_ROUNDS if size == "tiny" else full)


def option_packages(command: Callable[..., None]) -> Callable[..., None]:
    """The option `--packages` of these commands: where rivals are installed."""
    text = "Folder of rivals' packages, of `pip install --target DIR`; without it those that are installed here."
    kind = click.Path(path_type=Path, exists=True, file_okay=False)
    return click.option("--packages", type=kind, help=text)(command)
