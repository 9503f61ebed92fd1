"""Bring a version into a channel: check its files, judge it by the gates, commit the record, then leave a rollback
script. Promotions do, and trials (`registry.usecases.canary`)."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from registry.answers import Change
from registry.breakglass.write_script import Script
from registry.catalog.version_id import Named, VersionId
from registry.channels.channel import Channel, PromoteOptions
from registry.channels.record import Author, ChannelPosition, Record, promoted
from registry.errors import BadInput, BrokenChain, ChannelMoved, GateRefused, NotNow, UloraError
from registry.evidence.basis import Basis
from registry.evidence.policy import FreezeWindow, load_policy
from registry.evidence.verdict import Verdict
from registry.integrity.rebound import check_never_rebound, newest_records
from registry.names import CHANNELS, VersionName
from registry.parallel import within
from registry.retention.notes import check_remembered
from registry.store import layout
from registry.usecases.checks import check_loadable, check_servable
from registry.usecases.judge import basis_of
from registry.usecases.mirror import MIRROR_SECONDS, add_report, mirror
from registry.usecases.scripts import script_of
from registry.versions.bindings import Binding
from registry.versions.pointer import Pointer
from registry.wiring import Wiring

SCRIPT_SECONDS = 2.0
"""How long a promotion waits until the rollback script is in the store."""
CONFIRM_SECONDS = 5.0
"""How long a promotion waits to read back what it wrote."""
_SHOWN_REASONS = 3
_MANY_MISSING = 4
"""Checks without a number; those of fewer are named in the refusal, each with its command."""


class Step(Protocol):
    """What a change brings a version to."""

    def unneeded(self, head: Record, version: Pointer) -> str:
        """Why nothing has to be done, as the channel has the version there already; else empty."""

    def record(self, position: ChannelPosition, version: Pointer, author: Author, verdict: str) -> Record:
        """The record that brings it there."""


class _Promotion:
    """The version becomes stable."""

    def unneeded(self, head: Record, version: Pointer) -> str:
        # By both: a record whose name and digest disagree is not unneeded.
        return f"{version.version} is stable in {head.channel} already" if is_same(head.stable, version) else ""

    def record(self, position: ChannelPosition, version: Pointer, author: Author, verdict: str) -> Record:
        return promoted(position, version, author, verdict)


def promote(
    wiring: Wiring,
    version: str,
    channel: str,
    options: PromoteOptions | None = None,
    *,
    reason: str = "",
    dry_run: bool = False,
) -> Change:
    """Make a version stable in a channel; see `Registry.promote`."""
    log = wiring.channel(channel)
    return by_gates(wiring, version, log, _Promotion(), options or PromoteOptions(), reason=reason, dry_run=dry_run)


def by_gates(
    wiring: Wiring, version: str, log: Channel, step: Step, options: PromoteOptions, *, reason: str, dry_run: bool
) -> Change:
    """Bring a version into a channel, if every blob is there and the gates pass.

    Raises:
        The errors of `Registry.promote`, and those of the step's rule.
    """
    check_reasoned(options.force, reason)
    name, channel = VersionName.parse(version), log.name
    head = log.head()
    check_expected(channel, head, options.expected)
    frozen = load_policy(wiring.settings.policy).frozen(channel, datetime.now(UTC))
    binding = wiring.bindings.get(name)
    check_never_rebound(binding, heads(wiring, channel, head))
    if head and (why := step.unneeded(head, binding.pointer)):
        log.check_newest(head)
        return Change.unneeded(head, why)
    broken_chain = check_chain(log, head, force=options.force)
    check_not_frozen(channel, frozen, force=options.force)
    check_usable(wiring, binding)
    basis = basis_of(wiring, version, channel)
    check_not_frozen(channel, basis.freeze, force=options.force)  # it may have begun since
    verdict = _judged(basis, options, reason)
    position = ChannelPosition(wiring.model, channel, head)
    record = step.record(position, binding.pointer, wiring.author(reason), verdict.sha256)
    decided = _Decided(basis, verdict, record, head)
    change = decided.tell() if dry_run else decided.carry_out(wiring, log, binding)
    return change.on_broken_chain(broken_chain)


@dataclass(frozen=True)
class _Decided:
    """A change that was judged, and is not made yet; `head` is the record that it follows."""

    basis: Basis
    verdict: Verdict
    record: Record
    head: Record | None

    def tell(self) -> Change:
        """What would come of it."""
        _check_allowed(self.verdict)
        return self._change(changed=False, notes=self._overruled("would be"))

    def carry_out(self, wiring: Wiring, log: Channel, binding: Binding) -> Change:
        """Keep the verdict, also if it refuses, then commit the record."""
        wiring.check_writable()
        wiring.ledger.add_verdict(self.verdict, self.basis.policy)
        _check_allowed(self.verdict)
        notes = commit(wiring, log, self.record, self.head, binding)
        return self._change(changed=True, notes=(*notes, *self._overruled("was")))

    def _change(self, *, changed: bool, notes: tuple[str, ...]) -> Change:
        return Change.of(self.record, self.head, changed=changed, verdict=self.verdict, notes=notes)

    def _overruled(self, was: str) -> tuple[str, ...]:
        """Notes on what force overrules: a freeze, and gates that refuse."""
        frozen = self.basis.freeze
        freeze = (f"the freeze of {self.record.channel} until {frozen.to} {was} overruled by force",) if frozen else ()
        gates = (f"{_refusal(self.verdict)}; this {was} overruled by force",) if self.verdict.forced else ()
        return (*freeze, *gates)


def commit(wiring: Wiring, log: Channel, record: Record, before: Record | None, binding: Binding) -> tuple[str, ...]:
    """Commit a record about the version of a binding, and what comes after it; return notes for the caller.

    Raises:
        ChannelMoved: another writer was first.
        Overwritten: the store has not kept or protected the record.
    """
    if log.name == "staging" and is_same(record.stable, binding):
        wiring.ledger.add_pass(record, binding.content_sha256)
    log.commit(record)
    return (*_read_back(log, record), *_after(wiring, before, record, binding.version))


def _judged(basis: Basis, options: PromoteOptions, reason: str) -> Verdict:
    verdict = basis.judge()
    return verdict.force(reason) if options.force and not verdict.allows else verdict


def check_usable(wiring: Wiring, binding: Binding) -> None:
    """Refuse a version that was forgotten, or that replicas could not serve or load."""
    check_remembered(wiring.forgotten, binding.version)
    manifest = wiring.bindings.manifest(binding.pointer)
    check_servable(wiring, manifest)
    check_loadable(wiring, manifest)


def check_not_frozen(channel: str, frozen: FreezeWindow | None, *, force: bool) -> None:
    """Raises: NotNow: the channel is frozen, and this change is not forced."""
    if frozen and not force:
        raise NotNow(
            f"{channel} is frozen until {frozen.to}" + (f": {frozen.why}" if frozen.why else "") + "; nothing changed",
            hint="`--force --reason …` does it all the same; a rollback is always possible",
        )


def heads(wiring: Wiring, channel: str, head: Record | None) -> list[Record]:
    """The newest records of the channels that people promote to, and of this one, which is known."""
    others = [name for name in CHANNELS if name != channel]
    return [*([head] if head else ()), *newest_records(wiring.store, wiring.model, others)]


def check_chain(log: Channel, head: Record | None, *, force: bool) -> str:
    """Why the newest record does not continue the log; empty if it does.

    Raises:
        BrokenChain: it does not, and this change is not forced.
    """
    problem = log.broken_link(head) if head else ""
    if problem and not force:
        raise BrokenChain(
            f"the log of {log.name} is broken: {problem}; nothing changed",
            hint=f"see `ulora history --channel {log.name}`; bring the right bytes back, or promote with `--force "
            "--reason …`; a rollback is always possible",
        )
    return problem


def is_same(pointer: Pointer | None, version: Named) -> bool:
    """Whether a channel's pointer is to this very version."""
    return pointer is not None and VersionId.of(pointer) == VersionId.of(version)


def check_reasoned(force: bool, reason: str) -> None:
    """Raises: BadInput: something is forced without a reason."""
    if force and not reason.strip():
        raise BadInput("a forced change needs a reason", hint="add --reason '…'")


def newest_of(log: Channel) -> Record | None:
    """The newest record, whatever the listing shows."""
    head = log.head()
    return head if log.is_newest(head) else log.head()


def check_expected(channel: str, head: Record | None, expected: int | None) -> None:
    """Raises: ChannelMoved: the channel is not at the generation that the caller saw."""
    generation = head.generation if head else 0
    if expected is not None and generation != expected:
        who = f"{head.who} ({head.action}, {head.when})" if head else "nobody"
        raise ChannelMoved(
            f"{channel} is at generation {generation}, not {expected}: last moved by {who}; nothing changed",
            hint=f"look with `ulora history --channel {channel}`, then decide again",
        )


def _refusal(verdict: Verdict) -> str:
    """What the gates of a channel say against a version."""
    refused = verdict.refusals
    more = f"; and {len(refused) - _SHOWN_REASONS} more" if len(refused) > _SHOWN_REASONS else ""
    reasons = "; ".join(check.reason for check in refused[:_SHOWN_REASONS])
    return f"{verdict.channel} refuses {verdict.version} ({verdict.outcome}): {reasons}{more}"


def _check_allowed(verdict: Verdict) -> None:
    if verdict.allows:
        return
    raise GateRefused(
        _refusal(verdict),
        hint=_after_refusal(verdict),
        verdict=verdict,
    )


def _after_refusal(verdict: Verdict) -> str:
    force = "`--force --reason …` overrules the gates; it stays on the record"
    missing = [check for check in verdict.refusals if check.observed is None and "`ulora measure" in check.reason]
    if len(missing) < _MANY_MISSING:
        return force
    return f"`ulora measure {verdict.version} --data DIR` measures all that is missing; {force}"


# --- after the commit: nothing here may look like a failed change, but that its record does not stand -----------------


def _read_back(log: Channel, record: Record) -> tuple[str, ...]:
    """Check that the log kept a record. A note where the store does not say.

    Raises:
        Overwritten: it did not, or the record may have replaced another's.
    """
    try:
        doubt = within(CONFIRM_SECONDS, lambda: log.confirm(record))
    except TimeoutError as error:
        doubt = str(error)
    hint = f"`ulora history --channel {log.name}` shows whether generation {record.generation} stands"
    return (f"the record was written, but could not be read back ({doubt}); {hint}",) if doubt else ()


def _after(wiring: Wiring, before: Record | None, record: Record, version: str) -> tuple[str, ...]:
    """Leave a script that goes back, then update MLflow, `MIRROR_SECONDS` for both; then add the version's report
    there, if it answers. Returns notes for the caller."""
    if record.channel not in CHANNELS:  # MLflow shows no scratch channel, and nobody needs a script for one
        return _forgotten_meanwhile(wiring, version)
    began = time.monotonic()
    scripts: list[Script] = []
    notes: tuple[str, ...] = ()
    if before and before.stable:
        notes = _leave_script(wiring, before.stable, record.channel, scripts)
    seconds = max(0.1, MIRROR_SECONDS - (time.monotonic() - began))
    mirrored = mirror(wiring, scripts, seconds=seconds)
    mirrored = mirrored or add_report(wiring, version)
    return (*notes, *mirrored, *_forgotten_meanwhile(wiring, version))


def _leave_script(wiring: Wiring, stable: Pointer, channel: str, scripts: list[Script]) -> tuple[str, ...]:
    """Write the script that rolls back to the version that was stable into the store, and add it to `scripts`."""

    def leave() -> None:
        script = script_of(wiring, wiring.bindings.manifest(stable), channel)
        wiring.store.create(layout.script(wiring.model, script.version, script.sha256), script.body)
        scripts.append(script)

    try:
        within(SCRIPT_SECONDS, leave)
    except Exception as error:  # the channel has moved: this must not be reported as a failure
        return (f"no rollback script was left ({error}); `ulora rollback-script {stable.version}` writes one",)
    return ()


def _forgotten_meanwhile(wiring: Wiring, version: str) -> tuple[str, ...]:
    """A note if the version was forgotten while it was promoted. Its files stay, as the channel needs it now."""
    with suppress(UloraError):
        if wiring.forgotten.find(version):
            return (f"{version} was forgotten meanwhile: `ulora store remember {version}` takes that back",)
    return ()
