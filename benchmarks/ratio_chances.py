"""How often the default policy's rules on ratios of times pass a version: `python -m benchmarks.ratio_chances`.

A simulation with the interval and the comparison that are used in earnest, where a measurement that decides nothing is
followed by another one of as many rounds. A version that is slower by a factor has the
times of an equal one times that factor, and so its ratio and interval: each run tells of every factor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import click
import numpy as np

from benchmarks.ratios import ratio_metrics
from registry.evidence.looks import compare_look
from registry.evidence.policy import load_policy
from registry.evidence.results import Metric
from registry.evidence.rule import Rule
from registry.evidence.verdict import Outcome

RUNS = 1000
LOOKS = 3
"""Measurements of one version in the table."""
FACTORS = (1.0, 1.10, 1.25)
"""True ratios in the table."""
_LOAD_LASTS, _LOAD = 0.9, 0.1
"""Load that both versions feel: its correlation from round to round, and its step, in units of the logarithm."""
_NOISE, _SLOW, _LASTS = 0.12, 0.04, 0.7
"""Of each answer: its noise, the share of slow answers, and how much of `lasting` noise stays for the next round."""

EXAMPLES = """
\b
Examples:
  python -m benchmarks.ratio_chances
  python -m benchmarks.ratio_chances --runs 200 --json
"""


@dataclass(frozen=True)
class Noise:
    """Runs of so many rounds; `lasts` is the correlation of a version's own noise from round to round."""

    rounds: int
    lasts: float = 0.0

    def __str__(self) -> str:
        own = f", each version's own noise lasts ({self.lasts:g} from round to round)" if self.lasts else ""
        return f"{self.rounds} rounds{own}"


NOISES = (Noise(300), Noise(600), Noise(300, _LASTS))


@dataclass(frozen=True)
class RatioChance:
    """How often versions with these true ratios pass a rule by 1, 2, … `LOOKS` simulated measurements, in `runs`."""

    rule: str
    noise: str
    runs: int
    passes: dict[float, tuple[float, ...]]


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", type=click.IntRange(10, 100_000), default=RUNS, show_default=True, help="Runs of each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a Markdown table.")
def main(*, runs: int, as_json: bool) -> None:
    """How often the default policy's rules on ratios of times pass a version, by how slow it is in truth."""
    found = list(chances(runs))
    click.echo(json.dumps([asdict(one) for one in found], indent=2) if as_json else "\n".join(table(found)))


def chances(runs: int = RUNS, noises: Sequence[Noise] = NOISES) -> Iterator[RatioChance]:
    """The chances of each rule on a ratio, whatever number of rounds it asks."""
    measured = {noise: list(simulated(noise, runs)) for noise in noises}
    for rule in load_policy().channels["production"].by_suffix["ood"]:
        for noise, every in measured.items() if rule.is_ratio else ():
            of_rule = [metric for metrics in every for metric in metrics if metric.name == rule.metric]
            passes = {factor: _shares(rule, of_rule, factor) for factor in FACTORS}
            yield RatioChance(str(rule), str(noise), runs, passes)


def simulated(noise: Noise, runs: int, seed: int = 0) -> Iterator[list[Metric]]:
    """The ratios of two versions that are equally fast, as they are measured, `runs` times."""
    random = np.random.default_rng([seed, noise.rounds])
    shape = (runs, noise.rounds)
    load = _lasting(random.normal(0, _LOAD, shape), _LOAD_LASTS)
    times, others = (_answers(random, shape, noise.lasts) for _ in range(2))
    factor = np.exp(load)
    for number in range(runs):
        yield ratio_metrics(factor[number] * times[number], factor[number] * others[number], number)


def table(found: Sequence[RatioChance]) -> list[str]:
    """The chances as a Markdown table: a row for each rule and noise, a column for each true ratio."""
    heads = ["as fast", *(f"{100 * (factor - 1):.0f}% slower" for factor in FACTORS[1:])]
    rows = [f"| `{one.rule}`, {one.noise} | " + " | ".join(map(_cell, one.passes.values())) + " |" for one in found]
    return [
        "| passes by 1, 2, 3 measurements, if V is in truth | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
        *rows,
    ]


def _answers(random: np.random.Generator, shape: tuple[int, int], lasts: float) -> np.ndarray:
    """The times of a version without the load: noise, and some slow answers."""
    own = _lasting(random.normal(0, _NOISE * np.sqrt(1 - lasts**2), shape), lasts)
    slow = (random.random(shape) < _SLOW) * random.exponential(1.0, shape)
    return np.asarray(np.exp(own) * (1 + slow))


def _lasting(steps: np.ndarray, lasts: float) -> np.ndarray:
    """A series of each run in which a share of each value stays for the next round, [runs, rounds]."""
    values = steps.copy()
    for number in range(1, values.shape[1]):
        values[:, number] += lasts * values[:, number - 1]
    return values


def _cell(shares: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:.0f}%" for share in shares)


def _shares(rule: Rule, measured: Sequence[Metric], factor: float) -> tuple[float, ...]:
    """How often a version passes by 1, 2, … measurements; those of a run are its own and the next runs'."""
    told = [[_outcome(rule, one, factor, look) for one in measured] for look in range(1, LOOKS + 1)]
    decided = [
        _first_decision([told[look][run - len(measured) + look] for look in range(LOOKS)])
        for run in range(len(measured))
    ]
    return tuple(
        sum(look is not None and look < most for look in decided) / len(measured) for most in range(1, LOOKS + 1)
    )


def _first_decision(outcomes: Sequence[Outcome]) -> int | None:
    """Which measurement lets the version pass; None if none does, or one before it refuses."""
    first = next((look for look, outcome in enumerate(outcomes) if outcome != "inconclusive"), None)
    return first if first is not None and outcomes[first] == "pass" else None


def _outcome(rule: Rule, metric: Metric, factor: float, look: int) -> Outcome:
    ends = {name: factor * (getattr(metric, name) or 0.0) for name in ("value", "low", "high")}
    return compare_look(rule, metric.model_copy(update=ends), look).outcome


if __name__ == "__main__":
    main()
