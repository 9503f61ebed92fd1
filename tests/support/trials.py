"""Trials in the channels of tests, and what replicas have counted in them."""

from __future__ import annotations

from typing import Any

from registry.channels.channel import Channel
from registry.channels.record import ChannelPosition, Record, aborted, trial_advanced, trial_started
from registry.channels.trial import StartTrial, TrialKind
from registry.serving.loaders import Loaded
from registry.serving.routing import Serving
from registry.store import layout
from registry.trials.merge import MergedStage, merged
from registry.trials.observations import Observations
from registry.versions.pointer import Pointer
from tests.support.echo_releases import TESTER, Shop


def pointer_to(name: str) -> Pointer:
    """A pointer to a version that no store has."""
    return Pointer(version=name, manifest_sha256=name.encode().hex().ljust(64, "0")[:64])


def record_of(stable: str = "v1.0.0", **fields: Any) -> Record:
    """A record that no store has."""
    document = {
        "format": 1, "model": "m", "channel": "production", "generation": 7, "action": "promote",
        "stable": pointer_to(stable).model_dump(), "who": "a test", "when": "2026-01-01T00:00:00Z", "nonce": "0" * 32,
        "previous": "0" * 64,
    }  # fmt: skip
    return Record.model_validate_json(Record(**{**document, **fields}).model_dump_json())


def trial_record(kind: TrialKind, percent: float, canary: str = "v2.0.0") -> Record:
    """A record that begins a trial of a canary beside v1.0.0."""
    position = ChannelPosition("m", "production", record_of())
    return trial_started(position, pointer_to(canary), TESTER, None, StartTrial(kind, percent))


def serving_of(record: Record, stable: Loaded, canary: Loaded | None) -> Serving:
    """A replica that serves a record."""
    return Serving(record, stable, "2026-01-01T00:00:00Z", canary)


def start_trial(shop: Shop, name: str, kind: TrialKind = "split", percent: float = 50) -> Record:
    """Begin a trial in production."""
    log = shop.channel()
    record = trial_started(_position(shop, log), shop.pointer(name), TESTER, None, StartTrial(kind, percent))
    log.commit(record)
    return record


def advance_trial(shop: Shop, percent: float) -> Record:
    """Give the canary a larger share."""
    log = shop.channel()
    record = trial_advanced(_position(shop, log), TESTER, percent)
    log.commit(record)
    return record


def abort_trial(shop: Shop) -> Record:
    """End the trial."""
    log = shop.channel()
    record = aborted(_position(shop, log), TESTER)
    log.commit(record)
    return record


def observed(shop: Shop, channel: str = "production") -> list[Observations]:
    """The observations in the store."""
    keys = [info.key for info in shop.store.list(layout.observations(shop.model, channel))]
    return [Observations.parse(shop.store.get(key).body, key) for key in keys]


def stage_in_store(shop: Shop, generation: int) -> MergedStage | None:
    """What all replicas have counted in a stage."""
    return next((stage for key, stage in merged(observed(shop)).items() if key.generation == generation), None)


def _position(shop: Shop, log: Channel) -> ChannelPosition:
    return ChannelPosition(shop.model, log.name, log.head())
