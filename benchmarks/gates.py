"""How often a gate passes a version, by its true share and the number of images: `python -m benchmarks.gates`.

No simulation: for each number of right answers that there can be the gate itself is asked, and the binomial
probabilities of those that pass are added up.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import click

from registry.evidence.candidate import Candidate
from registry.evidence.gates import GateInputs, judge
from registry.evidence.paired_stats import PairedCounts, lowest_difference
from registry.evidence.policy import ChannelPolicy, Policy, load_policy
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.evidence.rule import Rule
from registry.names import VersionName

PAIRED = (0.01, 0.02, 0.03, 0.05)
"""Shares of images that only one of two versions gets right."""
SIZES = (100, 300, 1000)
"""Numbers of images."""
TARGETS = (1, 3, 8, 20)
"""Numbers of targets that must all pass."""
_TRUE = {"accuracy": (0.93, 0.94, 0.95, 0.97, 0.98, 0.99), "ood_false_alarm_rate": (0.09, 0.08, 0.06, 0.04, 0.03, 0.02)}
"""True shares in the table, the worst first."""
_N_OF_TARGETS = 300
_SURE = "confidence"
_CONTENT, _DATA, _TIME = "c" * 64, "d" * 64, "2026-11-30T00:00:00Z"

EXAMPLES = """
\b
Examples:
  python -m benchmarks.gates
  python -m benchmarks.gates --json | jq '.[] | select(.n == 300)'
"""


@dataclass(frozen=True)
class Chance:
    """How often versions of a true share pass a rule on `n` images of a target; of several targets, all of them."""

    rule: str
    n: int
    true: float
    passes: float
    of_targets: dict[int, float]


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a Markdown table.")
def main(*, as_json: bool) -> None:
    """How often the default policy's rules on shares pass a version, by what it is in truth."""
    found = list(chances())
    click.echo(json.dumps([asdict(one) for one in found], indent=2) if as_json else "\n".join(table(found)))


def chances(sizes: Sequence[int] = SIZES) -> Iterator[Chance]:
    """The chances of the default policy's rules on accuracies and false alarms, whatever number of images they ask."""
    for rule in load_policy().channels["production"].defaults:
        for n in sizes if rule.metric in _TRUE and not rule.is_relative else ():
            passing = passing_counts(rule.model_copy(update={"min_n": 0}), n)
            for true in _TRUE[rule.metric]:
                passes = pass_probability(passing, n, true)
                yield Chance(str(rule), n, true, passes, {number: passes**number for number in TARGETS})


def passing_counts(rule: Rule, n: int) -> list[int]:
    """The numbers of `n` images with which a rule on a share passes."""
    staging, production = ChannelPolicy(), ChannelPolicy(defaults=(rule.model_copy(update={"per": "all"}),))
    policy = Policy(format=1, channels={"staging": staging, "production": production})
    candidate = Candidate("m", VersionName.parse("v1.0.0"), _CONTENT, ("t",))
    return [
        count
        for count in range(n + 1)
        if judge(
            policy, GateInputs("production", candidate, [_evidence(rule.metric, count, n)]), timestamp=_TIME, who="m"
        ).allows
    ]


def pass_probability(passing: Sequence[int], n: int, true: float) -> float:
    """The probability that a binomial number of `n` with this share is one of those that pass."""
    return math.fsum(_binomial(count, n, true) for count in passing)


def table(found: Sequence[Chance]) -> list[str]:
    """The chances as Markdown tables: a row for each rule and n, a column for each true share."""
    of_one = [line for metric in _TRUE for line in _table_of(metric, found)]
    return [*of_one, *_table_of_targets(found), "", *_table_of_pairs()]


def paired_pass_probability(rule: Rule, n: int, newer_only: float, older_only: float) -> float:
    """The probability that `judge: paired` passes a version, by the shares that only one of two gets right."""
    total, share = 0.0, newer_only / (1 - older_only)
    for older in _likely(n, older_only):
        for newer in _likely(n - older, share):
            if lowest_difference(PairedCounts(newer, older, n), rule.one_sided) >= -rule.margin:
                total += _binomial(older, n, older_only) * _binomial(newer, n - older, share)
    return total


def _likely(n: int, p: float) -> range:
    """The counts that a binomial number has with any probability worth adding up."""
    middle, width = n * p, 10 + 8 * math.sqrt(n * p * (1 - p))
    return range(max(0, math.floor(middle - width)), min(n, math.ceil(middle + width)) + 1)


def _table_of_pairs(sizes: Sequence[int] = SIZES) -> Iterator[str]:
    rules = [rule for rule in load_policy().channels["production"].defaults if rule.judge == "paired"]
    yield "| passes, if so many images are answered differently | " + _cells(f"{100 * share:g}%" for share in PAIRED)
    yield "|---" * (len(PAIRED) + 1) + "|"
    for rule in rules:
        for n in sizes:
            for what, drop in (("no drop", 0.0), (f"a drop of {rule.margin:g}", rule.margin)):
                shares = [((share - drop) / 2, (share + drop) / 2) for share in PAIRED]
                passes = [paired_pass_probability(rule, n, *each) if each[0] >= 0 else None for each in shares]
                cells = _cells("" if one is None else f"{100 * one:.0f}%" for one in passes)
                yield f"| `{rule}`, n = {n}, {what} | {cells}"


def _table_of(metric: str, found: Sequence[Chance]) -> Iterator[str]:
    rows: dict[str, list[float]] = {}
    for one in found:
        if one.rule.startswith(f"{metric} "):
            rows.setdefault(f"`{one.rule}`, n = {one.n}", []).append(one.passes)
    yield f"| passes, if the true {metric} is | " + _cells(f"{true:g}" for true in _TRUE[metric])
    yield "|---" * (len(_TRUE[metric]) + 1) + "|"
    yield from (f"| {name} | " + _cells(f"{100 * passes:.0f}%" for passes in row) for name, row in rows.items())
    yield ""


def _table_of_targets(found: Sequence[Chance]) -> Iterator[str]:
    metric, *_ = _TRUE
    shown = [one for one in found if one.n == _N_OF_TARGETS and one.rule.startswith(f"{metric} ") and _SURE in one.rule]
    yield f"| all of so many targets pass, with n = {_N_OF_TARGETS} each, if the true {metric} of each is | " + _cells(
        f"{one.true:g}" for one in shown
    )
    yield "|---" * (len(shown) + 1) + "|"
    for number in TARGETS:
        yield f"| {number} | " + _cells(f"{100 * one.of_targets[number]:.0f}%" for one in shown)


def _cells(cells: Iterable[str]) -> str:
    return " | ".join(cells) + " |"


def _binomial(count: int, n: int, p: float) -> float:
    if p == 0:
        return float(count == 0)
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return math.exp(ways + count * math.log(p) + (n - count) * math.log1p(-p))


def _evidence(metric: str, count: int, n: int) -> Evidence:
    run = BenchmarkRun(
        benchmark="gates", model="m", version="v1.0.0", content_sha256=_CONTENT, device="cpu", runtime="none",
        timestamp=_TIME, seconds=0.0, libraries={}, who="m",
    )  # fmt: skip
    return Evidence.of(Measurement((Metric.proportion(metric, count, n),), _DATA, "none", n), run)


if __name__ == "__main__":
    main()
