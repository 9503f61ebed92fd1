"""Checks of the channels: what is served, where a rollback would go, and the replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

from registry.answers import ChannelStatus, Finding, ReplicaStatus
from registry.api import Registry
from registry.channels.record import Record
from registry.errors import StoreDenied, UloraError
from registry.formats.counts import counted
from registry.integrity.rebound import HINT, BoundNames
from registry.integrity.report import BadFile
from registry.retention.references import holds
from registry.usecases.status import readable_history
from registry.versions.pointer import Pointer

_DAILY = timedelta(hours=24)
_READ = "ulora doctor --read-data, once a day"
_REFUSED = "was it written under a key of its writer's own? Ask them, or read as somebody who may"


def check_channel(name: str) -> Callable[[Registry], Iterator[Finding]]:
    """A channel's log, and whether what it serves and would roll back to is whole and trusted."""

    def check(registry: Registry) -> Iterator[Finding]:
        with suppress(StoreDenied):  # told below, as a record of the log
            if head := registry.channel(name).head():
                yield from _check_served(registry, head)
        log = readable_history(registry.wiring, name, None)
        for refused in log.refused:
            yield Finding(name, "error", f"{refused}; the chain can't be checked over it", _REFUSED)
        if not log.refused:
            chain = f"a chain of {counted(len(log.records), 'record')}, verified"
            yield Finding(name, "ok", chain if log.entries else "empty")
        for problem in BoundNames(registry.bindings).contradictions(log.records):
            yield Finding(name, "error", problem, HINT)

    return check


def check_last_read(registry: Registry) -> Iterator[Finding]:
    """When this machine last read the bytes that production would roll back to: only reading finds a damaged disk."""
    target = _target(registry.channel("production").head())
    if target is None:
        return
    last = registry.wiring.last_reads.find(target.manifest_sha256)
    if last is None:
        yield Finding("rollback target", "warning", f"this machine has never read all of {target.version}", _READ)
        return
    hours = last.age.total_seconds() / 3600
    detail = f"all of {target.version} was read {hours:.0f} h ago"
    if last.bad:
        fix = f"ulora verify {target.version} --read-data --repair DIR"
        yield Finding("rollback target", "error", f"{detail}: {len(last.bad)} bad, e.g. {last.bad[0]}", fix)
    elif last.age > _DAILY:
        yield Finding("rollback target", "warning", detail, _READ)
    else:
        yield Finding("rollback target", "ok", f"{detail}, and is good")


def read_now(registry: Registry) -> Iterator[Finding]:
    """Read all bytes of what production serves and of what it would roll back to."""
    for role, pointer in _roles(registry.channel("production").head()):
        if pointer is not None:
            checked = registry.verify(pointer.version, read_data=True)
            detail = f"all {checked.size / 1e6:.2f} MB of {pointer.version} were read"
            yield _finding(role, detail, checked.bad, f"ulora verify {pointer.version} --read-data --repair DIR")


def check_notes(registry: Registry) -> Iterator[Finding]:
    """Versions that are needed although they were forgotten."""
    forgotten = set(registry.wiring.forgotten.versions())
    whys: dict[str, list[str]] = {}
    for hold in holds(registry.store, registry.model) if forgotten else ():
        if hold.version in forgotten:
            whys.setdefault(hold.version, []).append(hold.why)
    for version, why in whys.items():
        state, fix = _way_back(registry, version)
        yield Finding("notes", "error", f"{version} is {' and '.join(why)}, but forgotten: {state}", fix)


def _way_back(registry: Registry, version: str) -> tuple[str, str]:
    """Whether a forgotten version still has all its files, and what brings it back."""
    try:
        registry.remember(version, dry_run=True)
    except UloraError as error:
        return str(error), error.hint or f"ulora verify {version} --repair DIR"
    return "its files are all there, as long as it is needed", f"ulora store remember {version}"


def check_replicas(registry: Registry) -> Iterator[Finding]:
    """Compare what the replicas last reported with the channels."""
    for channel in registry.status().channels:
        for replica in channel.replicas:
            problems = list(_problems(channel, replica))
            where = f"{replica.version} at generation {replica.generation}: " if replica.version else ""
            detail = where + ("; ".join(problems) or replica.state)
            level, fix = ("warning", "look at its log; `ulora status` again") if problems else ("ok", "")
            yield Finding(f"replica {replica.id}", level, detail, fix)


def _problems(channel: ChannelStatus, replica: ReplicaStatus) -> Iterator[str]:
    if replica.state == "unreadable":
        yield replica.error
        return
    if replica.state == "silent":
        yield f"silent for {replica.age:.0f} s"
    elif replica.state != "serving":
        yield replica.state
    if replica.generation != channel.generation:
        yield f"behind {channel.channel}, which is at {channel.generation}"
    elif channel.rollback_target and not replica.rollback_ready:
        yield f"{channel.rollback_target} is not in its memory: a rollback has to load it first"
    if replica.proof == "differs":
        yield "other weights in memory than the manifest names: restart it"
    if replica.error:
        yield replica.error


def _check_served(registry: Registry, head: Record) -> Iterator[Finding]:
    for role, pointer in _roles(head):
        subject = f"{head.channel} {role}"
        if pointer is None:
            yield Finding(subject, "warning", *_no_target(head))
            continue
        try:
            checked = registry.verify(pointer.version)
        except UloraError as error:
            yield Finding(subject, "error", str(error), error.hint)
            continue
        detail = f"{pointer.version}: every file is there, {counted(checked.files, 'file')}"
        yield _finding(subject, detail, checked.bad, f"ulora verify {pointer.version} --read-data --repair DIR")


def _no_target(head: Record) -> tuple[str, str]:
    """What is wrong, and what to do, where a channel has nothing to roll back to."""
    if head.withdrawn:
        return "there is none: the channel is at its oldest version", "promote another version, so that there is one"
    return "there is none", "promote a second version, so that a rollback has a target"


def _finding(subject: str, detail: str, bad: tuple[BadFile, ...], fix: str) -> Finding:
    if not bad:
        return Finding(subject, "ok", detail)
    if all(each.unusable for each in bad):
        fix = "promote a version whose adapters were converted (docs/importing.md), or roll back"
    problem = "; ".join(
        f"{each.path} {each.problem}" if each.refused else f"{each.path} is {each.problem}" for each in bad[:3]
    )
    return Finding(subject, "error", f"{detail.partition(':')[0]}: {problem}", fix)


def _roles(head: Record | None) -> tuple[tuple[str, Pointer | None], ...]:
    """What a channel serves and would roll back to, by the name of its role."""
    return ("stable", head.stable if head else None), ("rollback target", _target(head))


def _target(head: Record | None) -> Pointer | None:
    return next(iter(head.rollback_targets()), None) if head else None
