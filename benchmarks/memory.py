"""The memory that each adapter takes."""

from __future__ import annotations

import resource
import sys

from benchmarks import plots
from benchmarks.curves import totals
from benchmarks.inputs import Data, Model, Progress
from registry.evidence.results import Measurement, Metric
from registry.formats import canonical

MB = 1_000_000
"""Bytes of a megabyte."""


def memory(model: Model, data: Data, *, seed: int = 0, progress: Progress | None = None) -> Measurement:
    """`adapter_memory_mb` per target: LoRA weights, head and OOD detector; the backbone is shared and not counted.

    The aggregate is the largest adapter; `adapters_memory_mb_total` is the sum. The data is not used.
    """
    sizes = {target: size / MB for target, size in model.memory.items()}
    if progress:
        progress(len(sizes), len(sizes))
    metrics = [Metric.of("adapter_memory_mb", size, n=1, target=target, unit="MB") for target, size in sizes.items()]
    metrics.append(Metric.of("adapter_memory_mb", max(sizes.values(), default=None), n=len(sizes), unit="MB"))
    metrics.append(Metric.of("adapters_memory_mb_total", sum(sizes.values()), n=len(sizes), unit="MB"))
    return Measurement(
        metrics=tuple(metrics),
        data_sha256=canonical.sha256(b""),
        data_name="none",
        data_n=0,
        plot=plots.bars(sizes, "MB", "memory of each adapter"),
        curves={"memory_mb_by_adapters": totals(list(sizes.values()))},
        notes={"process_peak_rss_mb": round(_peak_rss() / MB, 1)},
    )


def _peak_rss() -> int:
    """Bytes; the system counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
