"""What there is: the versions of a model, what its channels serve, and the replicas."""

from __future__ import annotations

from dataclasses import replace

from registry.answers import ChannelStatus, Listed, ProbeStatus, Status
from registry.catalog.version_id import VersionId
from registry.channels.readable_log import ReadableLog, read_log
from registry.channels.record import Record
from registry.errors import (
    BadSetting,
    IntegrityError,
    MissingDependency,
    StoreDenied,
    StoreUnreachable,
    Unreachable,
    first_line,
)
from registry.names import CHANNELS, VersionName
from registry.parallel import in_parallel
from registry.progress import Say
from registry.store.refusals import Refusals, each_by_itself
from registry.usecases.pages import forced
from registry.usecases.replicas import replica_statuses
from registry.wiring import Wiring


@each_by_itself()
def versions(wiring: Wiring, *, mlflow: bool, say: Say) -> list[Listed]:
    """All versions in the order of their names; see `Registry.versions`."""
    heads = _heads(wiring, say)
    numbers = _catalog_numbers(wiring, say) if mlflow else {}
    forgotten = set(wiring.forgotten.versions())

    refusals = Refusals()

    def describe(name: VersionName) -> Listed:
        try:
            pointer = wiring.bindings.get(name).pointer
            manifest = wiring.bindings.manifest(pointer)
        except (IntegrityError, StoreDenied) as error:
            refusals.note(error)
            return Listed.unreadable(str(name), str(error))
        return Listed(
            version=str(name),
            description=manifest.description,
            timestamp=manifest.timestamp,
            files=len(manifest.files),
            size=manifest.size,
            channels=tuple(channel for channel, head in heads.items() if str(name) in head.live()),
            withdrawn_from=tuple(channel for channel, head in heads.items() if str(name) in head.withdrawn),
            catalog_number=numbers.get(VersionId.of(pointer)),
            evidence=wiring.ledger.benchmarks(name),
            forgotten=str(name) in forgotten,
        )

    names = wiring.bindings.existing_names()
    found = in_parallel(describe, names)
    refusals.check(len(names))
    return found


@each_by_itself()
def status(wiring: Wiring) -> Status:
    """What every channel serves; see `Registry.status`."""

    refusals = Refusals()

    def described(name: str) -> ChannelStatus:
        try:
            return channel_status(wiring, name)
        except (IntegrityError, StoreDenied) as error:
            refusals.note(error)
            found = ChannelStatus.of(name, None, (), problem=str(error))
            return replace(found, refused=isinstance(error, StoreDenied))

    channels = tuple(in_parallel(described, CHANNELS))
    refusals.check(len(CHANNELS))
    if all(channel.stable is None and not channel.problem for channel in channels):
        wiring.store.check_holds(wiring.model)
    return Status(wiring.model, wiring.settings.store, channels, _last_probe(wiring))


def channel_status(wiring: Wiring, channel: str) -> ChannelStatus:
    """What one channel serves.

    Raises:
        IntegrityError, StoreDenied: its newest record can't be read.
    """
    head = wiring.channel(channel).head()
    reported = replica_statuses(wiring, channel, head)
    return replace(ChannelStatus.of(channel, head, reported), overruled=_overruled(wiring, head))


def history(wiring: Wiring, channel: str, limit: int | None) -> list[Record]:
    """The records of a channel, newest first; see `Registry.history`."""
    records = wiring.channel(channel).history(limit)
    if not records:
        wiring.store.check_holds(wiring.model)
    return records


@each_by_itself()
def readable_history(wiring: Wiring, channel: str, limit: int | None) -> ReadableLog:
    """The log of a channel without the records that may not be read.

    Raises:
        BadManifest, BrokenChain: see `Registry.history`.
    """
    log = read_log(wiring.channel(channel), limit)
    if not log.entries:
        wiring.store.check_holds(wiring.model)
    return log


def _overruled(wiring: Wiring, head: Record | None) -> str:
    """What the newest change overruled; empty where this identity may not read it, as not all may read verdicts."""
    try:
        return "".join(forced(wiring, [head] if head else []).values())
    except (StoreDenied, StoreUnreachable):
        return ""


def _last_probe(wiring: Wiring) -> ProbeStatus | None:
    found = wiring.last_probe.find()
    return ProbeStatus(found.when.isoformat(timespec="seconds"), found.honoured) if found else None


def _heads(wiring: Wiring, say: Say) -> dict[str, Record]:
    """The newest records by channel. A channel that is empty or can't be read is left out; the latter is said."""
    heads: dict[str, Record] = {}
    for channel in CHANNELS:
        try:
            head = wiring.channel(channel).head()
        except (IntegrityError, StoreDenied) as error:
            say(f"what {channel} serves is left out: {error}")
            continue
        if head:
            heads[channel] = head
    return heads


def _catalog_numbers(wiring: Wiring, say: Say) -> dict[VersionId, int]:
    """MLflow's numbers of this store's versions; empty when it does not answer, which is said."""
    if wiring.settings.tracking_uri is None:
        say("MLflow's numbers are left out: no tracking server is set (MLFLOW_TRACKING_URI)")
        return {}
    try:
        wiring.catalog.ping()
        return {each: found.number for each, found in wiring.catalog.registered(wiring.model).items()}
    except (Unreachable, MissingDependency, BadSetting) as error:
        say(f"MLflow's numbers are left out: {first_line(error)}")
        return {}
