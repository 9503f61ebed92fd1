"""The API's return values: frozen dataclasses, which the command line prints as text or JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from registry.channels.trial_status import TrialStatus
from registry.formats.html import HtmlTable

if TYPE_CHECKING:
    from registry.channels.channel import Rollback
    from registry.channels.record import Record
    from registry.evidence.verdict import Verdict
    from registry.serving.fleet import Replica
    from registry.serving.proof import ProofState
    from registry.versions.manifest import Manifest


@dataclass(frozen=True)
class Created(HtmlTable):
    """A version that was created, or that existed already with the same content.

    Attributes:
        is_new: False if the name had this content already.
        files: how many files it has; `size` their bytes; `uploaded` the bytes that were sent.
        catalog_number: the version's number in MLflow, None if MLflow was left out.
        brought_back: whether it had been forgotten.
        is_unchanged: nothing was created, because `version`, the newest of its flavor, has this content.
        assumed: of an import: what no file of the source states and was assumed, in words.
    """

    model: str
    version: str
    content_sha256: str
    is_new: bool
    files: int
    size: int
    uploaded: int
    catalog_number: int | None = None
    brought_back: bool = False
    is_unchanged: bool = False
    assumed: tuple[str, ...] = ()

    @classmethod
    def unchanged(cls, manifest: Manifest) -> Self:
        """Nothing was created: the version with this manifest has the content."""
        return replace(cls.of(manifest, is_new=False), is_unchanged=True)

    @classmethod
    def of(cls, manifest: Manifest, *, is_new: bool, uploaded: int = 0, catalog_number: int | None = None) -> Self:
        """The result for a version with this manifest."""
        return cls(
            model=manifest.model,
            version=manifest.version,
            content_sha256=manifest.content_sha256,
            is_new=is_new,
            files=len(manifest.files),
            size=manifest.size,
            uploaded=uploaded,
            catalog_number=catalog_number,
        )


@dataclass(frozen=True)
class Listed(HtmlTable):
    """One line of a list of versions. `size` is in bytes; `problem` says why a version can't be read."""

    version: str
    description: str
    timestamp: str
    files: int
    size: int
    channels: tuple[str, ...]
    withdrawn_from: tuple[str, ...]
    catalog_number: int | None
    evidence: tuple[str, ...]
    problem: str = ""
    forgotten: bool = False

    @classmethod
    def unreadable(cls, version: str, problem: str) -> Self:
        """A version that can't be read: only its name is known."""
        return cls(version, f"can't be read: {problem}", "", 0, 0, (), (), None, (), problem)


@dataclass(frozen=True)
class Change(HtmlTable):
    """What a promotion, a trial or a rollback did to a channel.

    Attributes:
        action: `promote`, `rollback`, `canary`, `advance` or `abort`, done or (with `changed` False) only planned;
            `none` if there is nothing to do.
        changed: whether the log moved.
        version: what the channel serves now; `previous` what it served before.
        canary: the version on trial beside it, empty if there is none; `share` of how much of the traffic.
        verdict: the verdict that allowed it, None for a rollback.
        manifest_sha256: the digest of the manifest of `version`, empty if the channel serves none.
        broken_chain: why the record that this one follows does not continue the log; empty if it does, or was not
            looked at, as in `Registry.rollback`.
        notes: what else the caller should know, e.g. that MLflow was down.
    """

    model: str
    channel: str
    action: str
    changed: bool
    version: str
    previous: str | None
    generation: int
    who: str
    when: str
    reason: str = ""
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()
    manifest_sha256: str = ""
    broken_chain: str = ""
    canary: str = ""
    share: str = ""

    @classmethod
    def of(
        cls, record: Record, before: Record | None, *, changed: bool, verdict: Verdict | None = None,
        notes: tuple[str, ...] = (),
    ) -> Self:  # fmt: skip
        """The change that `record` is, from the record before it."""
        left_out = f"not taken over, as the record would have been too large: {', '.join(record.left_out)}"
        return cls(
            model=record.model,
            channel=record.channel,
            action=record.action,
            changed=changed,
            version=record.stable.version if record.stable else "",
            previous=before.stable.version if before and before.stable else None,
            generation=record.generation,
            who=record.who,
            when=record.when,
            reason=record.reason,
            verdict=verdict,
            notes=(*([left_out] if record.left_out else ()), *notes),
            manifest_sha256=record.stable.manifest_sha256 if record.stable else "",
            canary=record.canary.version if record.canary else "",
            share=record.trial_share,
        )

    def on_broken_chain(self, problem: str) -> Self:
        """The same change, after a record that does not continue the log; the same if `problem` is empty."""
        if not problem:
            return self
        note = (
            f"the log of {self.channel} is broken below this record: {problem}; replicas that followed it before stay "
            "where they were until they are restarted; see `ulora history`"
        )
        return replace(self, broken_chain=problem, notes=(note, *self.notes))

    def with_notes(self, notes: Iterable[str]) -> Self:
        """The same change, with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    @classmethod
    def unneeded(cls, head: Record, note: str) -> Self:
        """Nothing to do: the channel serves what it should already."""
        return replace(cls.of(head, head, changed=False, notes=(note,)), action="none")

    @classmethod
    def of_rollback(cls, done: Rollback, *, changed: bool) -> Self:
        """What a rollback did, or with `changed` False would do."""
        record = done.record
        if not done.changed:
            note = f"already done by {record.who}: {record.action}, {record.when}"
            return replace(cls.unneeded(record, note), previous=done.left or None)
        return replace(cls.of(record, None, changed=changed), previous=done.left or None)


@dataclass(frozen=True)
class ReplicaStatus:
    """What a replica last reported. `age` is in seconds, by the store's clock.

    `proof` says how the digests that it reported compare with the version's manifest; see `registry.serving.proof`.
    `manifest_sha256` and `weights_sha256` are these digests, empty where it does not tell.
    """

    id: str
    version: str
    generation: int
    state: str
    rollback_ready: bool
    age: float
    error: str = ""
    loading: str = ""
    proof: ProofState = "not told"
    manifest_sha256: str = ""
    weights_sha256: str = ""

    @classmethod
    def of(cls, replica: Replica, proof: ProofState) -> Self:
        """The status in a replica's heartbeat; `silent` if the heartbeat is old, `unreadable` if it can't be read."""
        said = replica.heartbeat
        return cls(
            id=said.id,
            version=said.version,
            generation=said.generation,
            state="silent" if replica.silent else said.state,
            rollback_ready=said.rollback_ready,
            age=round(replica.age, 1),
            error=said.error,
            loading=said.loading,
            proof=proof,
            manifest_sha256=said.manifest_sha256,
            weights_sha256=said.weights_sha256,
        )


@dataclass(frozen=True)
class Followers:
    """The replicas that serve a change of a channel (or a later one) after a wait, and those that do not yet.

    Replicas whose heartbeats are old are in neither.
    """

    followed: tuple[ReplicaStatus, ...]
    behind: tuple[ReplicaStatus, ...]


@dataclass(frozen=True)
class ChannelStatus:
    """What a channel serves.

    Attributes:
        rollback_target: where a rollback goes.
        overruled: the rules that the newest change overruled; empty if it was not forced.
        decision: digest of the guard's decision that made the newest change; empty if a person did.
        refused: whether the `problem` is only that its newest record may not be read: it may be whole.
    """

    channel: str
    generation: int
    stable: str | None
    canary: str | None
    canary_weight: float | None
    rollback_target: str | None
    withdrawn: tuple[str, ...]
    action: str | None
    who: str | None
    when: str | None
    reason: str
    replicas: tuple[ReplicaStatus, ...] = ()
    problem: str = ""
    who_verified: bool = False
    overruled: str = ""
    trial: TrialStatus | None = None
    decision: str = ""
    refused: bool = False

    @classmethod
    def of(cls, channel: str, head: Record | None, replicas: tuple[ReplicaStatus, ...], problem: str = "") -> Self:
        """What a channel's newest record says; None for an empty log, or one with a `problem`."""
        return cls(
            channel=channel,
            generation=head.generation if head else 0,
            stable=head.stable.version if head and head.stable else None,
            canary=head.canary.version if head and head.canary else None,
            canary_weight=head.canary.weight if head and head.canary else None,
            rollback_target=next((pointer.version for pointer in head.rollback_targets()), None) if head else None,
            withdrawn=head.withdrawn if head else (),
            action=head.action if head else None,
            who=head.who if head else None,
            when=head.when if head else None,
            reason=head.reason if head else "",
            replicas=replicas,
            problem=problem,
            who_verified=head.who_verified if head else False,
            trial=TrialStatus.of(head) if head else None,
            decision=(head.decision or "") if head else "",
        )


@dataclass(frozen=True)
class ProbeStatus:
    """When this machine last tested whether the store honours conditional writes, UTC, ISO 8601, and what it found."""

    when: str
    honoured: bool


@dataclass(frozen=True)
class Status(HtmlTable):
    """What every channel of a model serves. `probed` is None where this machine has never tested the store."""

    model: str
    store: str
    channels: tuple[ChannelStatus, ...]
    probed: ProbeStatus | None = None


@dataclass(frozen=True)
class Signed(HtmlTable):
    """A signature on a version's manifest.

    Attributes:
        key: fingerprint of the public key: sha256 of its PEM form, in hex, as the signature names it.
        signature_sha256: names the signature in the store; empty for one that was only planned.
        is_new: False if this key had signed it already.
    """

    model: str
    version: str
    manifest_sha256: str
    key: str
    signature_sha256: str
    is_new: bool


@dataclass(frozen=True)
class Reconciled(HtmlTable):
    """What `reconcile` did to MLflow, or would do.

    Attributes:
        damaged: versions and channels that could not be read from the store, and why.
        refused: those of which something may not be read, and what; what MLflow shows of them is not changed.
        requests: what was requested there, and the results.
        failed: versions that MLflow did not take, and why.
    """

    logged: tuple[str, ...]
    changes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True)
class SettingValue:
    """A setting: its value as text, and its source: an option, a variable, FILE:LINE, or `default`."""

    name: str
    value: str
    source: str
    meaning: str


@dataclass(frozen=True)
class Finding:
    """One line of `doctor`: `level` is `ok`, `warning` or `error`; `fix` what to run."""

    subject: str
    level: str
    detail: str
    fix: str = ""
