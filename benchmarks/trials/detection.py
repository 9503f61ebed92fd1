"""Detection: after how many units a version that is worse is found, by ours and by others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np

from benchmarks.serving.outcome import Found
from benchmarks.trials.effort import TrialEffort
from benchmarks.trials.judging import ACCURACY, ERRORS, LATENCY, MAX_RATIO
from benchmarks.trials.rivals import RIVALS, ArmTotals, Judge
from registry.trials.evalues import ArmEvents, Rate, between_arms
from registry.trials.latency import EVEN, TrialHour, latency_evidence
from registry.trials.quantiles import quantile

LOOKS_UNTIL_GIVEN_UP = 400
DISCORDANT = 0.015
"""Of a shadow trial: the share of images that each version alone gets wrong while they are equally good."""


@dataclass(frozen=True)
class Worse:
    """A canary that is worse than stable.

    Attributes:
        stable, canary: the rate of the event.
        share: of the units that the canary answers.
        look: units between two looks.
        is_shadow: whether both see every unit.
    """

    name: str
    stable: float
    canary: float
    share: float
    alpha: float
    look: int
    is_shadow: bool = False


CASES = (
    *(
        Worse(f"errors {100 * low:g}% -> {100 * high:g}%, {100 * share:g}% canary", low, high, share, ERRORS / 2, look)
        for share, look in ((0.1, 200), (0.5, 100))
        for low, high in ((0.02, 0.04), (0.005, 0.02))
    ),
    *(
        Worse(
            f"accuracy -{drop}, {kind}", 0.045, 0.045 + drop / 100, share, ACCURACY / 3, look // drop, kind == "shadow"
        )
        for drop in (1, 3)
        for kind, share, look in (("10% canary", 0.1, 900), ("50/50 split", 0.5, 300), ("shadow", 0.5, 60))
    ),
)
SLOWER = 1.2
_REQUESTS_A_WINDOW = 60


def detection(effort: TrialEffort) -> Found:
    """The median number of units until each is found; of accuracy units are labelled ones."""
    found = {case.name: of_case(case, effort) for case in CASES}
    return Found({**found, **{f"+20% latency, {share:.0%} canary": _latency(share, effort) for share in (0.1, 0.5)}})


def of_case(case: Worse, effort: TrialEffort) -> Mapping[str, Any]:
    """The median numbers of units until each finds what is worse; infinity where it mostly does not."""
    if case.is_shadow:
        return {"alpha": case.alpha, "ours": _median(effort, lambda draw: _shadow(case, draw))}
    every = [_split(case, np.random.default_rng([effort.seed, number])) for number in range(effort.runs)]
    return {"alpha": case.alpha, **{name: statistics.median(one[name] for one in every) for name in every[0]}}


def _split(case: Worse, draw: np.random.Generator) -> dict[str, float]:
    """Units until each finds it. Flagger's threshold is one for errors, and is left out elsewhere."""
    judges: dict[str, Judge] = {
        "ours": lambda looks: between_arms([_events(looks[-1], case)]).rejects(case.alpha),
        **{name: judge for name, judge in RIVALS.items() if name != "Flagger" or case.alpha == ERRORS / 2},
    }
    found = dict.fromkeys(judges, math.inf)
    looks: list[ArmTotals] = []
    for look in islice(_totals(case, draw), LOOKS_UNTIL_GIVEN_UP):
        looks.append(look)
        for name, judge in judges.items():
            if found[name] == math.inf and judge(looks):
                found[name] = len(looks) * case.look
        if math.inf not in found.values():
            break
    return found


def _totals(case: Worse, draw: np.random.Generator) -> Iterator[ArmTotals]:
    one = ArmTotals(0, 0, 0, 0)
    while True:
        n = int(draw.binomial(case.look, case.share))
        one = ArmTotals(
            one.canary_x + int(draw.binomial(n, case.canary)),
            one.canary_n + n,
            one.stable_x + int(draw.binomial(case.look - n, case.stable)),
            one.stable_n + case.look - n,
        )
        yield one


def _events(look: ArmTotals, case: Worse) -> ArmEvents:
    return ArmEvents(look.canary_x, look.canary_x + look.stable_x, case.share)


def _shadow(case: Worse, draw: np.random.Generator) -> float:
    """Labelled images until ours finds it: those that the canary alone gets wrong are more by what it is worse."""
    alone = DISCORDANT + case.canary - case.stable
    steps = draw.multinomial(case.look, [alone, DISCORDANT, 1 - alone - DISCORDANT], LOOKS_UNTIL_GIVEN_UP)
    for number, (x, other) in enumerate(np.cumsum(steps[:, :2], axis=0).tolist(), start=1):
        if between_arms([ArmEvents(x, x + other, 0.5)]).rejects(case.alpha):
            return number * case.look
    return math.inf


def _latency(share: float, effort: TrialEffort) -> Mapping[str, Any]:
    windows = _median(effort, lambda draw: _slow_windows(share, draw))
    return {"ours, windows of 10 s of one replica": windows, "requests": windows * _REQUESTS_A_WINDOW}


def _slow_windows(share: float, draw: np.random.Generator) -> float:
    alpha = TrialHour(1, 0).alpha(LATENCY / 2)
    signs = accumulate((_is_slower(share, draw) for _ in range(LOOKS_UNTIL_GIVEN_UP)), initial=0)
    for n, x in enumerate(signs):
        if latency_evidence(Rate(x, n)).rejects(alpha):
            return n
    return math.inf


def _is_slower(share: float, draw: np.random.Generator) -> bool:
    """Whether the canary is over the bound in one window; the load is in both arms, and so in no ratio."""
    n = int(_REQUESTS_A_WINDOW * share)
    canary, stable = (np.sort(draw.lognormal(0, 0.25, count)).tolist() for count in (n, _REQUESTS_A_WINDOW - n))
    percent = 0.95 if min(len(canary), len(stable)) >= 20 else EVEN
    return SLOWER * quantile(canary, percent) > MAX_RATIO * quantile(stable, percent)


def _median(effort: TrialEffort, run: Callable[[np.random.Generator], float]) -> float:
    return statistics.median(run(np.random.default_rng([effort.seed, number])) for number in range(effort.runs))
