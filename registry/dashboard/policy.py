"""The rules of the channels, and what each version would need to pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.answers import Listed
from registry.api import Registry
from registry.errors import StoreUnreachable, UloraError, first_line
from registry.evidence.check_lines import check_cells, check_summary
from registry.evidence.guard_rules import Bands
from registry.evidence.policy import Policy, load_policy
from registry.evidence.rule import Rule
from registry.evidence.verdict import Verdict
from registry.formats.counts import counted
from registry.names import CHANNELS
from registry.parallel import in_parallel

MAX_JUDGED = 20
"""Versions that are judged, the newest by name."""


@dataclass(frozen=True)
class ShownRule:
    """One line of the policy: for which versions it is, what it asks, and why."""

    channel: str
    versions: str
    asks: str
    why: str


@dataclass(frozen=True)
class PolicyView:
    """The policy in words: `rules` of the channels, `bands` of the guard, `plans` of trials by name."""

    digest: str
    rules: tuple[ShownRule, ...]
    bands: tuple[str, ...]
    plans: tuple[tuple[str, str], ...]
    horizon: str


@dataclass(frozen=True)
class NeededByVersion:
    """What a version would need to be taken by a channel.

    Attributes:
        outcome: of the gates now; empty where that can't be told, and `problem` says why.
        needs: what does not pass, in words.
        checks: what, value, asked, status, why.
    """

    version: str
    outcome: str
    summary: str
    needs: tuple[str, ...]
    checks: tuple[tuple[str, str, str, str, str], ...]
    problem: str = ""


def read_policy(registry: Registry) -> PolicyView:
    """The policy in force here. Raises: BadPolicy: it can't be read."""
    return view_of(load_policy(registry.settings.policy))


def view_of(policy: Policy) -> PolicyView:
    """A policy in words."""
    trials = policy.trial_policy()
    bands = [
        f"{each} (alpha {policy.alpha_of(each.first):.3g})" if each.first.family else str(each)
        for each in Bands.of(policy.guard_rules())
    ]
    plans = tuple((name, str(plan)) for name, plan in (trials.plans or {}).items())
    return PolicyView(policy.digest, tuple(_rules(policy)), tuple(bands), plans, str(trials.horizon))


def read_needed(registry: Registry, versions: Sequence[Listed], channel: str) -> tuple[NeededByVersion, ...]:
    """What the newest versions would need for a channel. Nothing is written.

    Raises:
        StoreUnreachable: the store does not answer.
    """
    names = [each.version for each in versions if not (each.problem or each.forgotten)][:MAX_JUDGED]

    def judge(name: str) -> NeededByVersion:
        try:
            return needed_of(registry.judge(name, channel))
        except StoreUnreachable:
            raise
        except UloraError as error:
            return NeededByVersion(name, "", "", (), (), first_line(error))

    return tuple(in_parallel(judge, names))


def needed_of(verdict: Verdict) -> NeededByVersion:
    """What a verdict asks for."""
    refused = tuple(check.reason for check in verdict.refusals)
    return NeededByVersion(
        str(verdict.version), verdict.outcome, check_summary(verdict), refused, tuple(check_cells(verdict))
    )


def _rules(policy: Policy) -> Iterator[ShownRule]:
    for name in CHANNELS:
        channel = policy.channels[name]
        if channel.requires:
            yield ShownRule(name, "all", f"stable in {channel.requires} before", "")
        if channel.approvals:
            people = counted(channel.approvals, "person", "people")
            yield ShownRule(name, "all", f"approved by {people}", "")
        for window in channel.freeze:
            yield ShownRule(name, "all", f"nothing from {window.begin} to {window.to}", window.why)
        yield from (_rule(name, "all", rule) for rule in channel.defaults)
        for suffix, rules in channel.by_suffix.items():
            yield from (_rule(name, f"suffix {suffix}", rule) for rule in rules)
        for flavor, rules in channel.by_flavor.items():
            yield from (_rule(name, f"flavor {flavor}", rule) for rule in rules)


def _rule(channel: str, versions: str, rule: Rule) -> ShownRule:
    least = f", at least {counted(rule.min_n, 'sample')}" if rule.min_n else ""
    return ShownRule(channel, versions, f"{rule}{least}", rule.why)
