"""Compare contenders that run in turns, and check budgets: what the benchmarks of speed and memory share.

Absolute times depend on the load of the machine. So contenders run one after the other in every round, in an order that
rotates, and a ratio is the median over the rounds of the ratio within a round. Both sides of a ratio have then run on
the same machine under the same load.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import click

from benchmarks.__main__ import report as say_error
from registry.errors import UloraError

INTERRUPTED, TERMINATED = 130, 143

Turn = Callable[[], object]
"""One run of a contender; its result is kept in memory until the time is taken."""


@dataclass(frozen=True)
class Times:
    """The milliseconds of a contender in each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.rounds)

    @property
    def mean(self) -> float:
        """Milliseconds; for rounds that do different work."""
        return statistics.fmean(self.rounds)

    def over(self, other: Times) -> float:
        """The median over the rounds of the ratio to the other's time."""
        return statistics.median(mine / its for mine, its in zip(self.rounds, other.rounds, strict=True))

    def document(self) -> dict[str, float]:
        """As JSON: the median, the quartiles, the minimum."""
        low, high = quartiles(self.rounds)
        marks = {"median_ms": self.median, "q25_ms": low, "q75_ms": high, "least_ms": min(self.rounds)}
        return {name: round(value, 4) for name, value in marks.items()} | {"n": len(self.rounds)}


@dataclass(frozen=True)
class Budget:
    """A figure and its limit: `at most` or `at least`."""

    what: str
    value: float
    bound: Literal["at most", "at least"]
    limit: float
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the figure is within the limit; NaN is not."""
        return self.value <= self.limit if self.bound == "at most" else self.value >= self.limit

    def document(self) -> dict[str, Any]:
        """As JSON."""
        known = {"what": self.what, "value": round(self.value, 5), "unit": self.unit}
        return known | {"bound": self.bound, "limit": self.limit, "met": self.met}

    def line(self) -> str:
        """A line for people."""
        verdict = "met    " if self.met else "NOT MET"
        return f"{verdict} {self.what}: {self.value:.4g} {self.unit} ({self.bound} {self.limit:g})"


@dataclass(frozen=True)
class Result:
    """The result of a benchmark.

    Attributes:
        benchmark: its name.
        setting: what was measured and how.
        times: contender -> its times.
        figures: other results, as JSON.
        budgets: the figures that have a limit.
    """

    benchmark: str
    setting: Mapping[str, Any]
    times: Mapping[str, Times] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    budgets: Sequence[Budget] = ()

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "benchmark": self.benchmark,
            "setting": dict(self.setting),
            "machine": machine(),
            "times": {name: times.document() for name, times in self.times.items()},
            "figures": dict(self.figures),
            "budgets": [budget.document() for budget in self.budgets],
            "met": all(budget.met for budget in self.budgets),
        }

    def text(self) -> str:
        """A report for people."""
        lines = [f"{self.benchmark}: {', '.join(f'{name} {value}' for name, value in self.setting.items())}"]
        lines += [f"on {', '.join(f'{name} {value}' for name, value in machine().items())}", ""]
        for name, times in self.times.items():
            low, high = quartiles(times.rounds)
            lines.append(f"{name:<44} {times.median:>10.3f} ms   [{low:.3f}, {high:.3f}]   n={len(times.rounds)}")
        lines += [f"{name:<44} {_shown(value)}" for name, value in self.figures.items()]
        return "\n".join([*lines, "", *(budget.line() for budget in self.budgets)])


def take_turns(contenders: Mapping[str, Turn], rounds: int, *, warm_up: int = 1) -> dict[str, Times]:
    """Run contenders in turns.

    Args:
        contenders: name -> one run.
        rounds: how often each runs and is timed.
        warm_up: how often each runs before.

    Returns:
        Name -> its times, in the order of `contenders`.
    """
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took = timed(contenders[name])
            if number >= warm_up:
                times[name].append(took)
    return {name: Times(tuple(rounds)) for name, rounds in times.items()}


def timed(turn: Turn) -> float:
    """Milliseconds of one turn."""
    start = time.perf_counter_ns()
    kept = turn()
    took = time.perf_counter_ns() - start
    del kept
    return took / 1e6


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and the upper quartile; of a single value, the value itself."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def machine() -> dict[str, str | int | float]:
    """Properties of the machine that the results depend on."""
    known: dict[str, str | int | float] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2),
    }
    torch = sys.modules.get("torch")
    return known | ({"torch": torch.__version__, "threads": torch.get_num_threads()} if torch else {})


def option_json(command: Callable[..., None]) -> Callable[..., None]:
    """The option `--json` of all commands."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def option_threads(command: Callable[..., None]) -> Callable[..., None]:
    """The option `--threads` of all commands."""
    most = click.IntRange(1, 1024)
    return click.option(
        "--threads", type=most, default=os.cpu_count() or 1, show_default=True, help="Torch's threads."
    )(command)


def option_rounds(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option `--rounds` of all commands."""
    text = "How often each contender runs and is timed."
    return click.option("--rounds", type=click.IntRange(1, 100_000), default=default, show_default=True, help=text)


def option_size(choices: Sequence[str], default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option `--size` of all commands."""
    text = "The backbone's architecture; its weights are random."
    return click.option("--size", type=click.Choice(list(choices)), default=default, show_default=True, help=text)


def run(measure: Callable[[], Result], *, threads: int, as_json: bool) -> None:
    """Run a command: measure, print, and exit.

    Temporary folders are deleted in any case: Ctrl-C and SIGTERM raise exceptions.

    Raises:
        SystemExit: with the exit codes of `ulora`: that of a `UloraError`, 130 interrupted, 143 terminated. A budget
            that is not met is not an error.
    """
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        result = measure()
    except UloraError as error:
        say_error(error, as_json)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        raise SystemExit(INTERRUPTED) from None
    else:
        click.echo(json.dumps(result.document()) if as_json else result.text())
    finally:
        signal.signal(signal.SIGTERM, before)
        torch.set_num_threads(usual)


def say(what: str) -> None:
    """Print what is going on to standard error."""
    click.echo(what, err=True)


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
