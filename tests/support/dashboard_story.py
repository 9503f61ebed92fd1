"""Two weeks of a model with a trial in progress, as the dashboard shows them, on a real store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from registry.api import Registry
from registry.channels.channel import Channel, PromoteOptions, RollbackOptions
from registry.evidence.outcomes import ImageOutcome, packed
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.formats.canonical import sha256
from registry.names import VersionName
from registry.usecases.options import CanaryOptions
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
    for number, name in enumerate((OLD, STABLE, BAD, CANARY)):
        _bind(registry, name, number)
        _measure(registry, name, images, number)
        registry.promote(name, "staging", reason="weekly release")
        if name in (OLD, STABLE):
            registry.promote(name, "production", reason="weekly release")
        if name == BAD:
            registry.promote(BAD, "production", PromoteOptions(force=True), reason="the field needs it today")
            registry.rollback(options=RollbackOptions(leave=BAD), reason=EVIL)
    registry.canary.start(CANARY, options=CanaryOptions(percent=10, plan="default"), reason="try it on the farm")
    return DashboardStory(registry, _watched(registry, keys), folder / "images")


def channel_of(registry: Registry) -> Channel:
    """The log of production."""
    return registry.channel("production")


def _watched(registry: Registry, keys: int) -> Fleet:
    """Three replicas that have counted the trial for some minutes."""
    head = channel_of(registry).head()
    assert head and head.stable
    fleet = Fleet(now=datetime.now(UTC) - timedelta(seconds=200))
    fleet.begin(head)
    for _ in range(20):
        fleet.ask(head, keys // 20, Rates(wrong=0.03, flagged=0.05, milliseconds=58), Rates(wrong=0.04, flagged=0.04))
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
