"""Measure a version: run benchmarks, keep the evidence in the store, then show it in MLflow."""

from __future__ import annotations

from collections.abc import Callable

from registry.catalog.runs import EvidenceRun
from registry.evidence.measure import find_benchmarks, open_data
from registry.evidence.measure import measure as run_benchmark
from registry.evidence.results import Evidence
from registry.usecases.options import MeasureOptions
from registry.usecases.serve import load
from registry.wiring import Wiring


def measure(
    wiring: Wiring, version: str, options: MeasureOptions | None, *, offline: bool, on_done: Callable[[Evidence], None]
) -> list[Evidence]:
    """Run benchmarks on a version; see `Registry.measure`."""
    options = options or MeasureOptions()
    benchmarks = find_benchmarks(options.only)
    manifest = wiring.manifest(version)
    images = open_data(manifest.flavor, options.data or wiring.settings.data)
    if not offline:
        wiring.catalog.ping()
    loaded = load(wiring, version, device=options.device, runtime=options.runtime)
    kept = []
    for name, benchmark in benchmarks.items():
        evidence, plot = run_benchmark(name, benchmark, manifest, loaded, images, who=wiring.settings.who)
        wiring.ledger.add(evidence)
        if not offline:
            wiring.catalog.record_evidence(wiring.bindings.get(manifest.name), EvidenceRun.of(evidence, plot))
        kept.append(evidence)
        on_done(evidence)
    return kept
