"""Say before a measurement which images the gates will miss: fewer than a rule's `min_n` can never pass."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from registry.evidence.candidate import Candidate
from registry.evidence.metrics import METRICS, benchmark_of
from registry.evidence.policy import Policy
from registry.evidence.rule import Rule
from registry.names import CHANNELS, VersionName

Kind: TypeAlias = Literal["test", "far", "near"]
"""Test images; out-of-distribution images that show none of the targets; those that are like them."""

_MEANING = "these rules can't be met with these images, whatever is fitted (docs/policy.md says how to ask for less):"


class DataReport(Protocol):
    """What the gates need to know of test data; `adapters.fitting.data_report.DataReport` is one."""

    @property
    def far(self) -> int: ...
    @property
    def near(self) -> int: ...
    @property
    def test_share(self) -> Mapping[str, float | None]: ...
    def images(self, split: str) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class Shortage:
    """Too few images for a rule.

    Attributes:
        channel: whose rule it is.
        metric: what is measured on the images.
        images: their kind.
        target: of whose images there are too few; None for those of all targets together.
        n: how many there are.
        needs: how many the rule needs.
        whole: how many images of the target would be enough where a share of them becomes test images, else None.
    """

    channel: str
    metric: str
    images: Kind
    target: str | None
    n: int
    needs: int
    whole: int | None = None

    def __str__(self) -> str:
        asked = f"and {self.channel} needs {self.needs:,} for {self.metric}"
        if self.images == "far":
            return (
                f"_ood/far has {_count(self.n, 'image')}, {asked}: put images there that show none of the targets, "
                "or make some with `ulora data check DIR --ood-from photos`"
            )
        if self.images == "near":
            there = "there is" if self.n == 1 else "there are"
            return (
                f"{there} {_count(self.n, 'near image')} for {self.target or 'the targets'}, "
                f"{asked}: put images that look like the target's and are not into _ood/near, or add another target"
            )
        whose = f"{self.target} has" if self.target else "there are"
        enough = f"about {self.whole:,} images of it in all would be enough, or " if self.whole else ""
        of = f" of {self.target}" if self.target else ""
        return f"{whose} {_count(self.n, 'test image')}, {asked}: {enough}{self.needs - self.n:,} more in test{of}"


def shortages(policy: Policy, report: DataReport, candidate: Candidate, only: Collection[str] = ()) -> list[Shortage]:
    """Too few images for the rules of the channels: of each kind and target the largest number that is asked.

    Args:
        candidate: the version; or what it will be, see `future_version`.
        only: the benchmarks that will run; all when empty.
    """
    worst: dict[tuple[Kind, str | None], Shortage] = {}
    for channel in CHANNELS:
        for rule in policy.rules_for(channel, candidate.version, candidate.flavor):
            if only and benchmark_of(rule.metric) not in only:
                continue
            for found in _of_rule(channel, rule, report, candidate.targets):
                place = (found.images, found.target)
                if place not in worst or found.needs > worst[place].needs:
                    worst[place] = found
    return list(worst.values())


def future_version(targets: Collection[str], flavor: str) -> Candidate:
    """A version that has no name yet: rules of suffixes are not asked."""
    return Candidate("", VersionName(0, 0, 0), content_sha256="", targets=tuple(sorted(targets)), flavor=flavor)


def summary(found: Iterable[Shortage]) -> list[str]:
    """A sentence for each shortage, below one that says what they mean; empty if there are none."""
    sentences = [str(one) for one in found]
    return sentences and [_MEANING, *sentences]


def in_short(found: Iterable[Shortage]) -> list[str]:
    """One sentence for each channel that needs more images, as short as it can be; empty if there are none."""
    by_channel: dict[str, dict[tuple[str, Kind, int], list[Shortage]]] = {}
    for one in found:
        by_channel.setdefault(one.channel, {}).setdefault((one.metric, one.images, one.needs), []).append(one)
    return [
        f"{channel} needs more images, whatever is fitted (`ulora data check` says what to add): "
        + "; ".join(_needs(*needed, rows) for needed, rows in rules.items())
        for channel, rules in by_channel.items()
    ]


def _needs(metric: str, images: Kind, needs: int, rows: Sequence[Shortage]) -> str:
    there = ", ".join(f"{row.target} has {row.n:,}" if row.target else f"there are {row.n:,}" for row in rows)
    return f"{metric} {_count(needs, f'{images} image')} ({there})"


def _of_rule(channel: str, rule: Rule, report: DataReport, targets: Sequence[str]) -> Iterator[Shortage]:
    needs, test = max(rule.min_n, 1), report.images("test")
    total = sum(test.get(target, 0) for target in targets)
    for kind in _kinds_of(rule.metric):
        if kind == "far":
            numbers: dict[str | None, int] = {None: report.far}
        elif rule.per == "all":
            numbers = {None: total if kind == "test" else report.near or total * (len(targets) > 1)}
        elif kind == "test":
            numbers = {target: test.get(target, 0) for target in targets}
        else:
            numbers = {target: report.near or total - test.get(target, 0) for target in targets}
        for target, n in numbers.items():
            if n < needs:
                share = report.test_share.get(target) if target and kind == "test" else None
                whole = math.ceil(needs / share) if share else None
                yield Shortage(channel, rule.metric, kind, target, n, needs, whole)


def _kinds_of(metric: str) -> tuple[Kind, ...]:
    """The kinds of images that a metric's number of samples depends on."""
    if metric in (*METRICS["accuracy"], *METRICS["routing"], "ood_false_alarm_rate"):
        return ("test",)
    if metric not in METRICS["ood"]:
        return ()
    kind: Kind = "near" if metric.startswith("ood_near_") else "far"
    return (kind,) if metric.endswith("_detection_rate") else ("test", kind)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
