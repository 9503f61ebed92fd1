"""Versions without files, and what was measured of them, for tests of gates on a store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from registry.evidence.outcomes import ImageOutcome, packed
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.formats.canonical import sha256
from registry.versions.manifest import Component, Manifest

TARGET = "low"


def manifest_of(model: str, version: str, targets: Sequence[str] = (TARGET,)) -> Manifest:
    """A manifest with adapters that have no files; each version has other content."""
    names = [*(f"adapters/{target}" for target in targets), version.replace(".", "-")]
    return Manifest.make(
        model=model, version=version, flavor="empty", backbone=None, files=[],
        components={name: Component() for name in names}, timestamp="2026-11-21T12:00:00Z",
    )  # fmt: skip


def answers(right: Sequence[bool]) -> bytes:
    """What a version answered for the images 0, 1, 2 …: rightly or not."""
    images = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(len(right))]
    return packed(
        [
            ImageOutcome(image=image, target=TARGET, label="a", answered_label="a" if is_right else "b")
            for image, is_right in zip(images, right, strict=True)
        ]
    )


def accuracy_of(
    manifest: Manifest, right: Sequence[bool], timestamp: str = "2026-11-21T13:00:00+00:00", *, kept: bool = True
) -> tuple[Evidence, bytes]:
    """Evidence of a version's accuracy, and the outcomes that it names; without them unless they are `kept`."""
    stored = answers(right) if kept else b""
    metrics = [Metric.proportion("accuracy", sum(right), len(right), target=target) for target in (None, TARGET)]
    run = BenchmarkRun(
        benchmark="accuracy", model=manifest.model, version=manifest.version, content_sha256=manifest.content_sha256,
        device="cpu", runtime="torch-fp32", timestamp=timestamp, seconds=1.0, libraries={}, who="measurer",
    )  # fmt: skip
    measurement = Measurement(tuple(metrics), "d" * 64, "leaves", len(right))
    return Evidence.of(measurement, run, sha256(stored) if stored else ""), stored
