"""The drill: promote a version in a scratch channel, roll it back, and look whether the channel is where it should be.

Nobody follows a scratch channel. Its log stays, as records are never deleted; 30 days after it last moved it holds no
version any more.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from registry.channels.channel import RollbackOptions
from registry.channels.committed import told
from registry.errors import BrokenChain, CheckFailed
from registry.evidence.results import Metric
from registry.names import VersionName
from registry.progress import Say
from registry.usecases.check_results import CheckPassed, CheckSkipped
from registry.usecases.promote import promote
from registry.usecases.rollback import rollback
from registry.versions.manifest import Manifest
from registry.wiring import Wiring

_REASON = "ulora test --drill"


@dataclass(frozen=True)
class DrillPlan:
    """What a drill does: makes `fallback` stable in a channel of its own, then `version`, then rolls back."""

    channel: str
    fallback: str
    version: str

    def __str__(self) -> str:
        return f"{self.fallback}, then {self.version}, in the scratch channel {self.channel}"


def plan_drill(wiring: Wiring, manifest: Manifest) -> DrillPlan:
    """What a drill of a version does: it goes back to what production would go back to, if that is known.

    Raises:
        CheckSkipped: there is no other version.
    """
    forgotten = set(wiring.forgotten.versions())
    usable = [name for name in _candidates(wiring, manifest) if name != manifest.version and name not in forgotten]
    if not usable:
        raise CheckSkipped("there is no other version to go back to")
    return DrillPlan(f"drill-test-{secrets.token_hex(4)}", usable[0], manifest.version)


def run_drill(wiring: Wiring, plan: DrillPlan, say: Say) -> CheckPassed:
    """Carry out a drill.

    Raises:
        CheckFailed: the channel is not where the rollback should have left it.
        BrokenChain: its log is not whole.
        GateRefused, ChannelMoved, MissingBlob, StoreDenied, …: see `Registry.promote` and `Registry.rollback`.
    """
    try:
        for version in (plan.fallback, plan.version):
            promote(wiring, version, plan.channel, reason=_REASON)
        began = time.perf_counter()
        leave = RollbackOptions(leave=plan.version)
        rollback(wiring, plan.channel, leave, reason=_REASON, only=(), dry_run=False)
        seconds = time.perf_counter() - began
        _check_end(wiring, plan)
    except BaseException:
        say(
            f"the drill ended half-way: the scratch channel {plan.channel} stays as it is; nothing follows it, and 30 "
            "days from now it holds no version any more"
        )
        raise
    finally:
        told()  # that a scratch channel moved is nothing that the end of the command has to tell
    metric = Metric.of("drill_seconds", round(seconds, 4), n=1, unit="s")
    return CheckPassed(f"rolled back to {plan.fallback} in {seconds:.2f} s, in {plan.channel}", metrics=(metric,))


def _candidates(wiring: Wiring, manifest: Manifest) -> list[str]:
    """The versions that a drill may go back to, best first: those of production, then the nearest earlier ones."""
    head = wiring.channel("production").head()
    pointers = (*((head.stable,) if head and head.stable else ()), *(head.stack if head else ()))
    this, names = VersionName.parse(manifest.version), wiring.bindings.names()
    served = [pointer.version for pointer in pointers if pointer.version in map(str, names)]
    earlier = sorted((name for name in names if name < this), reverse=True)
    later = sorted(name for name in names if name > this)
    return [*served, *map(str, [*earlier, *later])]


def _check_end(wiring: Wiring, plan: DrillPlan) -> None:
    records = wiring.channel(plan.channel).history(None)  # the whole chain is verified
    head = records[0]
    if head.live() != (plan.fallback,) or plan.version not in head.withdrawn:
        raise CheckFailed(f"after the rollback {plan.channel} serves {', '.join(head.live()) or 'nothing'}")
    if len(records) != 3:
        raise BrokenChain(f"{plan.channel} has {len(records)} records, and the drill wrote 3")
