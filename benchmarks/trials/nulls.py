"""False rollbacks: how often a version that is as good as stable is rolled back, by ours and by others."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from benchmarks.comparison import Budget, say
from benchmarks.serving.outcome import Found
from benchmarks.trials.effort import TrialEffort
from benchmarks.trials.judging import verdict
from benchmarks.trials.rivals import RIVALS, ArmTotals
from benchmarks.trials.traffic import NULLS, SimulatedTraffic, Truth, looks
from registry.evidence.stats import wilson

MOST = 0.05
"""The share of false rollbacks that is allowed."""


def nulls(effort: TrialEffort) -> Found:
    """Trials of two equal versions in each kind of traffic, every rate exactly at its bound."""
    figures: dict[str, Any] = {}
    budgets = []
    for traffic in NULLS:
        ended = Counter[str]()
        for number in range(effort.runs):
            ended.update(_one(traffic, effort.seed + number))
        say(f"{traffic.name}: {dict(ended)} of {effort.runs}")
        share = ended["rollback"] / effort.runs
        figures[traffic.name] = {
            "runs": effort.runs,
            "false rollbacks": share,
            "at most, with 95% confidence": wilson(ended["rollback"], effort.runs).high,
            "broken": ended["broken"] / effort.runs,
            **{name: ended[name] / effort.runs for name in RIVALS},
        }
        budgets.append(Budget(f"false rollbacks, {traffic.name}", share, "at most", MOST, "of trials"))
    return Found(figures, budgets)


def _one(traffic: SimulatedTraffic, seed: int) -> list[str]:
    """How a trial ended, by ours, and which rivals have rolled it back by its errors."""
    equal = replace(Truth(), error=Truth.error - traffic.broken / traffic.keys)  # broken clients are a part of the rate
    ours = ""
    fired: set[str] = set()
    totals: list[ArmTotals] = []
    stage = 0
    for look in looks(traffic, equal, equal, seed):
        ours = ours or verdict(look)
        if len(look.stages) != stage:
            totals, stage = [], len(look.stages)
        totals.append(look.errors)
        fired |= {name for name, judge in RIVALS.items() if judge(totals)}
    return [ours, *fired]
