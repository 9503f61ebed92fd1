"""Judge a version by the policy and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from registry.channels.record import Record
from registry.errors import IntegrityError
from registry.evidence.approvals import Approval
from registry.evidence.basis import Basis, NotedOutcomes
from registry.evidence.candidate import Candidate
from registry.evidence.gates import GateInputs
from registry.evidence.policy import Policy, load_policy
from registry.evidence.results import Evidence
from registry.evidence.verdict import Verdict
from registry.evidence.verdict_inputs import MAX_NAMED, MAX_UNREAD, MEANING, RecordName, VerdictInputs
from registry.machine import clock
from registry.machine.provenance import release
from registry.names import VersionName
from registry.versions.pointer import Pointer
from registry.wiring import Wiring


def judge(wiring: Wiring, version: str, channel: str) -> Verdict:
    """Judge by the policy whether a channel may take a version; see `Registry.judge`."""
    return basis_of(wiring, version, channel).judge()


def basis_of(wiring: Wiring, version: str, channel: str) -> Basis:
    """What the store holds now about a version and a channel, and the policy in force."""
    policy = load_policy(wiring.settings.policy)
    binding = wiring.bindings.get(VersionName.parse(version))
    candidate = Candidate.of(wiring.bindings.manifest(binding.pointer))
    head = wiring.channel(channel).head()
    stable = stable_pointer(policy, channel, candidate, head)
    compared = _compared(wiring, stable, candidate) if stable else None
    required, (measured, unread) = policy.required_channel(channel), _measured(wiring, candidate)
    theirs = _measured(wiring, compared)[0] if compared else ()
    asks_ratio = any(rule.is_ratio for rule in policy.rules_for(channel, candidate.version, candidate.flavor))
    outcomes = NotedOutcomes(wiring.ledger.outcomes, [*measured, *theirs])
    inputs = GateInputs(
        channel,
        candidate,
        measured,
        past=wiring.ledger.past(wiring.channel(required), candidate.version) if required else None,
        withdrawn=head is not None and version in head.withdrawn,
        stable=compared,
        stable_evidence=theirs,
        approvals=_approvals(wiring, candidate, channel) if policy.approvals(channel) else (),
        unread=unread if asks_ratio else (),
        outcomes=outcomes,
    )
    names = _names(inputs, binding.pointer, head)
    return Basis(policy, inputs, outcomes, names, clock.timestamp(), wiring.settings.who)


def stable_pointer(policy: Policy, channel: str, candidate: Candidate, head: Record | None) -> Pointer | None:
    """The stable version that a candidate is compared with, if the policy compares; `head` is the newest record."""
    if head is None or head.stable is None or head.stable.version == str(candidate.version):
        return None
    rules = policy.rules_for(channel, candidate.version, candidate.flavor)
    return head.stable if any(rule.is_relative or rule.is_ratio for rule in rules) else None


def unreadable(stable: Pointer, candidate: Candidate) -> Candidate:
    """A stable version whose manifest can't be read: nothing was measured of it."""
    return Candidate(
        candidate.model, VersionName.parse(stable.version), content_sha256="", targets=candidate.targets,
        manifest_sha256=stable.manifest_sha256,
    )  # fmt: skip


def _compared(wiring: Wiring, stable: Pointer, candidate: Candidate) -> Candidate:
    """The stable version. One that can't be read counts as not measured."""
    try:
        return Candidate.of(wiring.bindings.manifest(stable))
    except IntegrityError:
        return unreadable(stable, candidate)


def _measured(wiring: Wiring, candidate: Candidate) -> tuple[tuple[Evidence, ...], tuple[str, ...]]:
    """What was measured of a version's content, newest first, and the keys of evidence that could not be read."""
    kept = wiring.ledger.kept_evidence(candidate.version)
    found = sorted(kept.found.values(), key=lambda one: one.order, reverse=True)
    ours = tuple(one for one in found if one.content_sha256 == candidate.content_sha256)
    return ours[:MAX_NAMED], kept.unread[:MAX_UNREAD]


def _approvals(wiring: Wiring, candidate: Candidate, channel: str) -> tuple[Approval, ...]:
    """Who said yes to the version's content for the channel, newest first."""
    about = (channel, candidate.content_sha256)
    found = [one for one in wiring.ledger.approvals(candidate.version) if (one.channel, one.content_sha256) == about]
    return tuple(sorted(found, key=lambda one: (one.when, one.sha256), reverse=True))[:MAX_NAMED]


def _names(inputs: GateInputs, version: Pointer, head: Record | None) -> VerdictInputs:
    """The names of what a verdict is made from. Those of the outcomes are not known yet."""
    unread: dict[str, Any] = {"unread": tuple(inputs.unread)} if inputs.unread else {}
    past, is_read = inputs.past, inputs.stable is not None and inputs.stable.content_sha256 != ""
    return VerdictInputs(
        release=release(),
        meaning=MEANING,
        manifest=version.manifest_sha256,
        head=RecordName(generation=head.generation, sha256=head.sha256) if head else None,
        past=RecordName(generation=past.generation, sha256=past.record_sha256) if past else None,
        past_head=past.head if past else None,
        stable_manifest=head.stable.manifest_sha256 if is_read and head and head.stable else None,
        evidence=_digests(inputs.evidence),
        stable_evidence=_digests(inputs.stable_evidence),
        approvals=_digests(inputs.approvals),
        **unread,
    )


def _digests(documents: Iterable[Evidence | Approval]) -> tuple[str, ...]:
    return tuple(document.sha256 for document in documents)
