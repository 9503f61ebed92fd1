"""What finds out whether a line of a checklist is so, for one version in one channel. Each reads the store only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, Literal

from registry.catalog.version_id import VersionId
from registry.channels.record import Record
from registry.errors import IntegrityError, NotFound
from registry.evidence.check_lines import check_summary
from registry.evidence.metrics import METRICS, benchmark_of
from registry.evidence.results import Evidence
from registry.evidence.verdict import Check, Verdict
from registry.formats.counts import counted
from registry.names import VersionName
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.object_info import ObjectInfo
from registry.store.storage import list_folder
from registry.usecases.check_results import DEPLOYED, STORED
from registry.usecases.judge import judge
from registry.usecases.pages import verdict_of
from registry.usecases.verify import verify_or_stop
from registry.usecases.version_report import read_decision, replaced_in
from registry.versions.bindings import Binding
from registry.wiring import Wiring

State = Literal["passed", "failed", "not yet", "ticked", "not ticked"]
DAY, WEEK = timedelta(days=1), timedelta(days=7)
_MAX_DECISIONS = 200
"""Newest decisions about a channel that are looked through for alerts."""
_EPOCH = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class CheckedLine:
    """What was found, in one line."""

    state: State
    said: str

    @classmethod
    def of(cls, holds: bool, said: str, otherwise: State = "failed") -> CheckedLine:
        """Passed, or something else."""
        return cls("passed" if holds else otherwise, said)


@dataclass(frozen=True)
class CheckedRelease:
    """The version and the channel that a checklist is about. What several lines need is read once."""

    wiring: Wiring
    binding: Binding
    channel: str

    @property
    def name(self) -> str:
        """The version's name."""
        return self.binding.version

    @cached_property
    def records(self) -> Sequence[Record]:
        """The channel's records, newest first."""
        return self.wiring.channel(self.channel).history()

    @cached_property
    def baseline(self) -> str:
        """The version that this one replaced, or would; empty without one."""
        return replaced_in(self.records, VersionId.of(self.binding))

    @cached_property
    def evidence(self) -> list[Evidence]:
        """What was measured of the version's content, newest first."""
        return self.evidence_of(self.binding)

    @cached_property
    def verdict(self) -> Verdict:
        """What the gates of the channel say now."""
        return judge(self.wiring, self.name, self.channel)

    @cached_property
    def now(self) -> datetime:
        """By the store's clock."""
        return self.wiring.store.now()

    @cached_property
    def decisions(self) -> dict[str, dict[str, Any] | None]:
        """The newest decisions of the guard about the channel, by digest; None for one that can't be read."""
        listed = islice(list_folder(self.wiring.store, layout.decision(self.wiring.model, self.channel)), 20_000)
        newest = sorted(listed, key=_modified, reverse=True)[:_MAX_DECISIONS]
        digests = [layout.stem(info.key) for info in newest]

        def read(sha256: str) -> dict[str, Any] | None:
            try:
                return read_decision(self.wiring, self.channel, sha256)
            except (NotFound, IntegrityError):
                return None

        return dict(zip(digests, in_parallel(read, digests), strict=True))

    @property
    def trial(self) -> list[Record]:
        """The records of the version's newest trial, oldest first, with the one that ended it."""
        began: str | None = None
        found: list[Record] = []
        for record in self.records:
            trial = record.running_trial or record.baking
            is_ours = record.canary is not None and VersionId.of(record.canary) == VersionId.of(self.binding)
            if is_ours and trial and began in (None, trial.id):
                began = trial.id
                found.append(record)
        if not found:
            return []
        ended = [record for record in self.records if record.generation == found[0].generation + 1]
        return [*reversed(found), *ended]

    @property
    def is_stable(self) -> bool:
        """Whether the channel serves it as stable."""
        return bool(self.records) and _is_stable(self.records[0], self.binding)

    def evidence_of(self, binding: Binding) -> list[Evidence]:
        """What was measured of a version's content, newest first."""
        known = self.wiring.ledger.evidence(VersionName.parse(binding.version))
        return [one for one in reversed(known) if one.content_sha256 == binding.content_sha256]


# --- before, during --------------------------------------------------------------------------------------------------


def baseline_version(about: CheckedRelease) -> CheckedLine:
    """A version is stable that this one replaces."""
    said = f"{about.baseline} in {about.channel}" if about.baseline else f"{about.channel} served no version before it"
    return CheckedLine.of(bool(about.baseline), said, "not yet")


def baseline_metrics(about: CheckedRelease) -> CheckedLine:
    """That version was measured."""
    if not about.baseline:
        return CheckedLine("not yet", "there is no version to compare with")
    measured = about.evidence_of(about.wiring.bindings.get(VersionName.parse(about.baseline)))
    names = sorted({one.benchmark for one in measured} - {STORED, DEPLOYED})
    return CheckedLine.of(bool(names), f"{about.baseline}: {', '.join(names) or 'nothing was measured'}", "not yet")


def daily_version(about: CheckedRelease) -> CheckedLine:
    """From the baseline to this version, no day passed without a version."""
    if not about.baseline:
        return CheckedLine("not yet", "there is no version to begin the count with")
    listed = about.wiring.store.list(layout.versions(about.wiring.model))
    made = {layout.stem(info.key): info.modified for info in listed if info.modified}
    begin, end = made.get(about.baseline), made.get(about.name)
    if begin is None or end is None or begin > end:
        return CheckedLine("not yet", f"{about.name} was not made after {about.baseline}")
    times = sorted(when for when in made.values() if begin <= when <= end)
    longest = max((later - earlier for earlier, later in pairwise(times)), default=timedelta())
    said = f"{counted(len(times), 'version')} from {about.baseline} on; the longest time without one: {_words(longest)}"
    return CheckedLine.of(longest <= DAY, said)


def unit_tests(about: CheckedRelease) -> CheckedLine:
    """The team's own tests passed."""
    return _metric(about, STORED, "version_tests_team")


def no_alert(about: CheckedRelease) -> CheckedLine:
    """The guard neither went back from this version nor asked for a person."""
    bad = []
    for sha256, decision in about.decisions.items():
        if decision is None:
            return CheckedLine("failed", f"decision {sha256[:12]} can't be read: nobody knows what it says")
        if _tried(decision) == about.name and decision.get("action") in ("rollback", "alert"):
            bad.append(f"{decision.get('action')} by decision {sha256[:12]}")
    none = f"{counted(len(about.decisions), 'decision')} of the guard in {about.channel}, none against it"
    if not about.decisions:
        none = f"the guard has decided nothing in {about.channel}; that one runs is not known here"
    return CheckedLine.of(not bad, "; ".join(bad[:3]) or none)


def performance(about: CheckedRelease) -> CheckedLine:
    """The gates' rules on times and memory are met."""
    asked = [each for each in about.verdict.checks if benchmark_of(each.metric) in ("latency", "memory")]
    return _checks(asked, "the policy asks nothing of times and memory")


# --- before deploying ------------------------------------------------------------------------------------------------


def verified(about: CheckedRelease) -> CheckedLine:
    """The store holds every file."""
    found = verify_or_stop(about.wiring, about.name)
    bad = "; ".join(f"{each.path}: {each.problem}" for each in found.bad[:3])
    return CheckedLine.of(found.ok, bad or f"{counted(found.files, 'file')} in the store, by its checksums")


def tests(about: CheckedRelease) -> CheckedLine:
    """The newest tests all passed."""
    return _metric(about, STORED, "version_tests")


def benchmarks(about: CheckedRelease) -> CheckedLine:
    """Every metric that the gates ask for was measured."""
    asked = [each for each in about.verdict.checks if each.metric in _MEASURED]
    missing = sorted({each.metric for each in asked if each.n is None and each.outcome != "pass"})
    if missing:
        return CheckedLine("not yet", f"not measured: {', '.join(missing[:5])}" + " …" * (len(missing) > 5))
    names = sorted({one.benchmark for one in about.evidence} - {STORED, DEPLOYED})
    return CheckedLine.of(bool(names), f"measured: {', '.join(names) or 'nothing'}", "not yet")


def rollback_tried(about: CheckedRelease) -> CheckedLine:
    """The newest drill passed."""
    return _metric(about, STORED, "version_tests_drill")


# --- deploying, after it ---------------------------------------------------------------------------------------------


def canary(about: CheckedRelease) -> CheckedLine:
    """The version's trial began small."""
    if not about.trial:
        return CheckedLine("not yet", f"no trial of it in {about.channel}")
    first = about.trial[0]
    small = first.canary is not None and first.canary.weight <= 10  # 0 in a shadow trial, in which stable answers all
    return CheckedLine.of(small, f"generation {first.generation}: {first.trial_share}")


def watched_a_day(about: CheckedRelease) -> CheckedLine:
    """The trial lasted a day before the version got everything."""
    if not about.trial:
        return CheckedLine("not yet", f"no trial of it in {about.channel}")
    last = about.trial[-1]
    is_over = last.canary is None
    lasted = (_when(last) if is_over else about.now) - _when(about.trial[0])
    said = f"{'it was' if is_over else 'it is'} on trial for {_words(lasted)}"
    return CheckedLine.of(lasted >= DAY, said, "failed" if is_over else "not yet")


def metrics(about: CheckedRelease) -> CheckedLine:
    """It came into the channel by a verdict that passed, or would come into it now."""
    entered = [record for record in about.records if record.judged == about.name]
    verdict = verdict_of(about.wiring, entered[0]) if entered else about.verdict
    if verdict is None or verdict.version != about.name:
        return CheckedLine("failed", "the verdict that it came in by is missing or damaged")
    said = check_summary(verdict) + (f"; overruled by force: {verdict.forced}" if verdict.forced else "")
    return CheckedLine.of(verdict.outcome == "pass", said)


def steps(about: CheckedRelease) -> CheckedLine:
    """The trial went by 50% to 100%."""
    if not about.trial:
        return CheckedLine("not yet", f"no trial of it in {about.channel}")
    weights = [record.canary.weight for record in about.trial if record.canary]
    is_full = about.trial[-1].canary is None and _is_stable(about.trial[-1], about.binding)
    said = ", ".join(f"{weight:g}%" for weight in weights) + (", 100%" if is_full else "")
    if not is_full:
        return CheckedLine("not yet", said)
    return CheckedLine.of(any(50 <= weight < 100 for weight in weights), said)


def full_traffic(about: CheckedRelease) -> CheckedLine:
    """It is stable, and nothing is tried beside it."""
    head = about.records[0] if about.records else None
    if head is None or not about.is_stable:
        return CheckedLine(
            "not yet", f"{about.channel} serves {head.stable.version if head and head.stable else 'nothing'}"
        )
    beside = f"{head.canary.version} is on trial beside it" if head.canary else f"since {_since(about).when}"
    return CheckedLine.of(head.canary is None, f"stable in {about.channel}, {beside}")


def watched_a_week(about: CheckedRelease) -> CheckedLine:
    """It has been stable for a week."""
    if not about.is_stable:
        return CheckedLine("not yet", f"it is not stable in {about.channel}")
    lasted = about.now - _when(_since(about))
    return CheckedLine.of(lasted >= WEEK, f"stable for {_words(lasted)}", "not yet")


# --- parts -----------------------------------------------------------------------------------------------------------

_MEASURED = frozenset(metric for name, found in METRICS.items() if name not in (STORED, DEPLOYED) for metric in found)


def _metric(about: CheckedRelease, benchmark: str, name: str) -> CheckedLine:
    """Whether the newest evidence that has a share of passed checks says that all did."""
    for one in about.evidence:
        if one.benchmark == benchmark and (metric := one.metric(name)):
            return CheckedLine.of(metric.value == 1, f"{name} {metric.value:g} of 1, {one.timestamp}")
    return CheckedLine("not yet", f"{name} was not recorded")


def _checks(asked: Sequence[Check], nothing: str) -> CheckedLine:
    bad = [each for each in asked if each.outcome != "pass"]
    if not bad:
        return CheckedLine("passed", f"{counted(len(asked), 'rule')} met" if asked else nothing)
    return CheckedLine.of(False, "; ".join(each.reason for each in bad[:3])[:1000])


def _is_stable(record: Record, binding: Binding) -> bool:
    return record.stable is not None and VersionId.of(record.stable) == VersionId.of(binding)


def _since(about: CheckedRelease) -> Record:
    """The record by which it became stable."""
    since = about.records[0]
    for record in about.records:
        if not _is_stable(record, about.binding):
            break
        since = record
    return since


def _when(record: Record) -> datetime:
    found = datetime.fromisoformat(record.when)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _tried(decision: Mapping[str, Any]) -> object:
    """The version that a decision is about; whoever writes decisions may write anything."""
    facts = decision.get("facts")
    record = facts.get("record") if isinstance(facts, dict) else None
    return record.get("canary") or record.get("stable") if isinstance(record, dict) else None


def _modified(info: ObjectInfo) -> datetime:
    return info.modified or _EPOCH


def _words(time: timedelta) -> str:
    hours = time.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
