"""Evidence of ratios to another version, made up, for tests of gates on a store."""

from __future__ import annotations

from registry.evidence.results import BenchmarkRun, ComparedVersion, Evidence, Measurement, Metric
from registry.versions.manifest import Manifest


def ratio_of(manifest: Manifest, other: Manifest, value: float, hour: int, n: int = 300) -> Evidence:
    """Evidence of `latency_ratio_p50` with an interval of 3% on either side."""
    metric = Metric.of("latency_ratio_p50", value, n=n, low=value / 1.03, high=value * 1.03, unit="ratio")
    metric = metric.model_copy(update={"freedom": 5.0})
    run = BenchmarkRun(
        benchmark="latency", model=manifest.model, version=manifest.version, content_sha256=manifest.content_sha256,
        device="cpu", runtime="torch-fp32", timestamp=f"2026-11-21T{hour:02}:00:00+00:00", seconds=1.0, libraries={},
        who="measurer", against=ComparedVersion(version=other.version, manifest_sha256=other.sha256),
    )  # fmt: skip
    return Evidence.of(Measurement((metric,), "d" * 64, "leaves", 100), run)
