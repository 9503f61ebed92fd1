"""Judge a version by the policy and what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence

from registry.channels.record import Record
from registry.errors import IntegrityError
from registry.evidence.gates import Candidate, GateInputs, ReadOutcomes
from registry.evidence.gates import judge as judge_by_policy
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.policy import load_policy
from registry.evidence.results import Evidence
from registry.evidence.verdict import Verdict
from registry.machine import clock
from registry.names import VersionName
from registry.wiring import Wiring


def judge(wiring: Wiring, version: str, channel: str) -> Verdict:
    """Judge by the policy whether a channel may take a version; see `Registry.judge`."""
    policy = load_policy(wiring.settings.policy)
    candidate = Candidate.of(wiring.manifest(version))
    head = wiring.channel(channel).head()
    is_relative = any(rule.is_relative for rule in policy.rules_for(channel, candidate.version, candidate.flavor))
    compared = _stable_candidate(wiring, candidate, head) if is_relative else None
    required = policy.required_channel(channel)
    inputs = GateInputs(
        channel,
        candidate,
        wiring.ledger.evidence(candidate.version),
        past=wiring.ledger.past(wiring.channel(required), candidate.version) if required else None,
        withdrawn=head is not None and version in head.withdrawn,
        stable=compared,
        stable_evidence=wiring.ledger.evidence(compared.version) if compared else (),
        approvals=wiring.ledger.approvals(candidate.version) if policy.approvals(channel) else (),
        outcomes=_read_once(wiring.ledger.outcomes),
    )
    timestamp = clock.timestamp()
    return judge_by_policy(policy, inputs, timestamp=timestamp, who=wiring.settings.who)


def _read_once(read: ReadOutcomes) -> ReadOutcomes:
    """Several rules look at the same measurement."""
    found: dict[str, Sequence[ImageOutcome]] = {}

    def outcomes(evidence: Evidence) -> Sequence[ImageOutcome]:
        if evidence.sha256 not in found:
            found[evidence.sha256] = read(evidence)
        return found[evidence.sha256]

    return outcomes


def _stable_candidate(wiring: Wiring, candidate: Candidate, head: Record | None) -> Candidate | None:
    """The stable version that a candidate is compared with. One that can't be read counts as not measured."""
    if head is None or head.stable is None or head.stable.version == str(candidate.version):
        return None
    try:
        return Candidate.of(wiring.bindings.manifest(head.stable))
    except IntegrityError:
        name = VersionName.parse(head.stable.version)
        return Candidate(wiring.model, name, content_sha256="", targets=candidate.targets)
