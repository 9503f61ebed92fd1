"""Two weeks of a model with a trial in progress, as the dashboard shows them, on a real store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from registry.api import Registry
from registry.channels.record import Author, ChannelPosition, Record, promoted, rolled_back, trial_started
from registry.channels.trial import StartTrial
from registry.evidence.outcomes import ImageOutcome, packed
from registry.evidence.policy import load_policy
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.formats.canonical import sha256
from registry.integrity.operations import Operation
from registry.names import VersionName
from registry.versions.manifest import Component, Manifest
from tests.support.registries import open_registry
from tests.support.watched_trials import Fleet, Rates

TARGETS = ("potato", "tomato")
OLD, STABLE, BAD, CANARY = "v5.5.2", "v5.5.3-performance", "v5.5.4", "v5.5.5-dinov3"
EVIL = "<img src=x onerror=alert(1)> ![x](http://127.0.0.1:9/x) **bold**"
"""A reason that would be more than text on a careless page."""
POLICY = """\
format: 1
channels:
  staging:
    defaults:
      - {metric: accuracy, per: target}
  production:
    requires: staging
    defaults:
      - {metric: accuracy, min: 0.95, per: target, min_n: 100, why: one weak target must not hide behind strong ones}
      - {metric: accuracy, min: 0.91, judge: bound, per: target}
      - {metric: accuracy, max_decrease: 0.03, judge: paired, per: target}
      - {metric: crop_routing_accuracy, min: 0.98, min_n: 300}
      - {metric: latency_ms_p95, max: 200, min_n: 50}
      - {metric: adapter_memory_mb, max: 25, per: target}
"""
_WRONG = {OLD: (9, 8), STABLE: (6, 5), BAD: (24, 13), CANARY: (4, 5)}
"""How many of 200 images of each target a version answers wrongly."""
_COSTS = {OLD: (64.0, 11.2), STABLE: (48.5, 9.6), BAD: (49.2, 9.7), CANARY: (71.3, 14.1)}
_WHEN = "2026-11-{day:02}T09:00:00+00:00"


@dataclass(frozen=True)
class DashboardStory:
    """The model, the replicas of its trial, and the folder of its test images."""

    registry: Registry
    fleet: Fleet
    images: Path


def tell(folder: Path, store: str, model: str, *, keys: int = 4000, tracking_uri: str | None = None) -> DashboardStory:
    """Make it all: STABLE in production, BAD forced and rolled back with EVIL as reason, CANARY on trial at 10%."""
    registry = open_registry(folder, store, model, who="ana@lab", tracking_uri=tracking_uri)
    (folder / "policy.yaml").write_text(POLICY)
    registry.store.initialise()
    images = _write_images(folder / "images")
    told = _Teller(registry)
    for number, (name, days) in enumerate({OLD: 13.0, STABLE: 9.0, BAD: 5.0, CANARY: 1.4}.items()):
        _bind(registry, name, number)
        _measure(registry, name, images, number)
        told.promote(name, "staging", days, "weekly release")
        if name in (OLD, STABLE):
            told.promote(name, "production", days - 0.7, "weekly release")
        if name == BAD:
            told.promote(BAD, "production", days - 0.7, "the field needs it today", force=True)
            told.commit("production", days - 1.9, EVIL, rolled_back)
    start = StartTrial("split", 10, "default")
    told.judged(CANARY, "production", 1.1, "try it on the farm", partial(trial_started, start=start))
    _note_operations(registry)
    return DashboardStory(registry, _watched(registry, keys), folder / "images")


@dataclass(frozen=True)
class _Teller:
    """Writes records as the commands do, of some days ago."""

    registry: Registry

    def promote(self, name: str, channel: str, days: float, reason: str, *, force: bool = False) -> None:
        self.judged(name, channel, days, reason, promoted, force=force)

    def judged(
        self, name: str, channel: str, days: float, reason: str, make: Callable[..., Record], *, force: bool = False
    ) -> None:
        verdict = self.registry.judge(name, channel)
        assert verdict.outcome == "pass" or force, verdict.refusals
        ledger = self.registry.wiring.ledger
        digest = ledger.add_verdict(
            verdict.force(reason) if force else verdict, load_policy(self.registry.settings.policy)
        )
        binding = self.registry.bindings.get(VersionName.parse(name))
        record = self.commit(
            channel, days, reason, lambda position, author: make(position, binding.pointer, author, digest)
        )
        if record.action == "promote":
            ledger.add_pass(record, binding.content_sha256)

    def commit(self, channel: str, days: float, reason: str, make: Callable[..., Record]) -> Record:
        log = self.registry.channel(channel)
        position = ChannelPosition(self.registry.model, channel, log.head())
        when = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
        record = make(position, Author("ana@lab", reason)).model_copy(update={"when": when})
        log.commit(record)
        return record


def _note_operations(registry: Registry) -> None:
    """How commands ended, as they note it themselves."""
    ends = [
        ("promote", 0, ""),
        ("promote", 0, ""),
        ("promote", 3, "GateRefused"),
        ("promote", 0, ""),
        ("rollback", 0, ""),
    ]
    ends += [
        ("restore", 0, ""),
        ("restore", 1, "DiskFull"),
        ("switch", 0, ""),
        ("verify", 0, ""),
        ("verify", 6, "CorruptBlob"),
    ]
    for number, (command, code, error) in enumerate(ends):
        started = datetime.now(UTC) - timedelta(days=12 - number)
        registry.wiring.operations.add(
            Operation(
                format=1,
                model=registry.model,
                command=command,
                started=started.isoformat(),
                seconds=0.4 + 0.3 * number,
                exit_code=code,
                error=error,
                who="ana@lab",
            )
        )


def _watched(registry: Registry, keys: int) -> Fleet:
    """Three replicas that have answered for some days, and counted the trial for some minutes."""
    head, before = registry.history("production", 2)
    assert head.stable
    fleet = Fleet()
    for days in range(5, 0, -1):
        fleet.now = datetime.now(UTC) - timedelta(days=days)
        fleet.ask(before, keys // 20, stable=Rates(flagged=0.02 + 0.005 * days), labels=False)
    fleet.now = datetime.now(UTC) - timedelta(seconds=200)
    fleet.begin(head)
    for _ in range(20):
        fleet.ask(head, keys // 20, Rates(wrong=0.03, flagged=0.05, milliseconds=47), Rates(wrong=0.04, flagged=0.04))
        fleet.now += timedelta(seconds=10)
    for name, said in fleet.heartbeats.items():
        now = {"manifest_sha256": head.stable.manifest_sha256, "version": head.stable.version}
        fleet.heartbeats[name] = said.model_copy(update={**now, "when": fleet.now.isoformat()})
    fleet.write(registry)
    return fleet


def _write_images(folder: Path) -> list[str]:
    """Test images of both targets; their digests in order."""
    random, found = np.random.default_rng(0), list[str]()
    for number in range(60):
        path = folder / TARGETS[number % 2] / "test" / "sick" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = (60 + 3 * number, 140, 60) if number % 2 else (150, 110 + number, 60)
        pixels = np.clip(random.normal(colour, 22, (48, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        found.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def _bind(registry: Registry, name: str, number: int) -> None:
    manifest = Manifest.make(
        model=registry.model, version=name, flavor="empty", backbone=None, files=[],
        components={f"adapters/{target}": Component() for target in TARGETS} | {f"part-{number}": Component()},
        timestamp=_WHEN.format(day=10 + 3 * number), description=f"Release {name}: see the change log of the farm.",
    )  # fmt: skip
    registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))


def _measure(registry: Registry, name: str, images: list[str], number: int) -> None:
    content = registry.bindings.get(VersionName.parse(name)).content_sha256
    outcomes = [
        one for target, wrong in zip(TARGETS, _WRONG[name], strict=True) for one in _answers(target, wrong, images)
    ]
    latency, memory = _COSTS[name]
    right = {target: 200 - wrong for target, wrong in zip(TARGETS, _WRONG[name], strict=True)}
    results: dict[str, list[Metric]] = {
        "accuracy": [
            Metric.proportion("accuracy", sum(right.values()), 400),
            *(Metric.proportion("accuracy", right[target], 200, target=target) for target in TARGETS),
        ],
        "routing": [Metric.proportion("crop_routing_accuracy", 396, 400)],
        "latency": [Metric.of("latency_ms_p95", latency, n=200, low=latency - 2, high=latency + 3, unit="ms")],
        "memory": [Metric.of("adapter_memory_mb", memory, n=1, target=target, unit="MB") for target in TARGETS],
    }
    for benchmark, metrics in results.items():
        run = BenchmarkRun(
            benchmark, registry.model, name, content, "cpu", "torch-fp32", _WHEN.format(day=11 + 3 * number), 42.0,
            {"torch": "2.13.0"}, "ana@lab",
        )  # fmt: skip
        stored = packed(outcomes) if benchmark == "accuracy" else b""
        measurement = Measurement(tuple(metrics), "d" * 64, "fields-2026", 400)
        registry.wiring.ledger.add(Evidence.of(measurement, run, sha256(stored) if stored else ""), stored)


def _answers(target: str, wrong: int, images: list[str]) -> list[ImageOutcome]:
    """What a version answered to 200 images of a target; the first thirty are those of the folder."""
    files = images[TARGETS.index(target) :: 2]
    digests = [
        *files,
        *(hashlib.sha256(f"{target}{number}".encode()).hexdigest() for number in range(200 - len(files))),
    ]
    return [
        ImageOutcome(image=image, target=target, label="sick", answered_label="healthy" if place < wrong else "sick")
        for place, image in enumerate(digests)
    ]
