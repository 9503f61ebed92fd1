"""Some weeks of a model, as people look at them in MLflow: measured, promoted, refused, forced, rolled back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots
from registry.api import Registry
from registry.catalog.runs import EvidenceRun
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.names import VersionName
from registry.usecases.options import CreateOptions
from registry.versions.bundle import ReleaseNotes
from tests.support.bundles import write_bundle
from tests.support.mlflow_versions import client
from tests.support.registries import open_registry

TARGETS = ("potato", "tomato")
FIRST, BETTER, WEAK, FORCED = "v5.5.2", "v5.5.3-performance", "v5.5.4-dinov3", "v5.5.5"
POLICY = """\
format: 1
channels:
  staging:
    defaults:
      - {metric: accuracy, per: target}
  production:
    requires: staging
    defaults:
      - {metric: accuracy, min: 0.90, per: target, min_n: 100}
      - {metric: crop_routing_accuracy, min: 0.95, min_n: 100}
      - {metric: latency_ms_p95, max: 200, min_n: 50}
"""
_RIGHT = {FIRST: (188, 190), BETTER: (194, 192), WEAK: (171, 41), FORCED: (174, 189)}
"""How many images of each target a version answers right, of 200; the weak one has only 43 of the second target."""


@dataclass(frozen=True)
class Story:
    """The model, and MLflow's own client."""

    registry: Registry
    mlflow: Any


def tell(folder: Path, store: str, model: str, tracking_uri: str) -> Story:
    """Make it all, on a real store and a real MLflow server.

    * production goes FIRST, BETTER, FORCED (by force), and is rolled back to BETTER;
    * WEAK is asked for in MLflow, and refused.
    """
    registry = open_registry(folder, store, model, tracking_uri=tracking_uri, who="ana@lab")
    (folder / "policy.yaml").write_text(POLICY)
    registry.store.initialise()
    parent = None
    for seed, name in enumerate(_RIGHT):
        notes = ReleaseNotes(description=f"Release {name}: see the change log of the farm.")
        options = CreateOptions(parent=parent, release_notes=notes)
        registry.create(name, write_bundle(folder / name, seed=seed, targets=TARGETS), options)
        measure(registry, name)
        registry.promote(name, "staging", reason="weekly release")
        if name in (FIRST, BETTER):
            registry.promote(name, "production", reason="weekly release")
        parent = name
    story = Story(registry, client(registry))
    ask(story, WEAK, "production")
    registry.reconcile()
    registry.promote(FORCED, "production", PromoteOptions(force=True), reason="the field needs it today")
    registry.rollback(options=RollbackOptions(leave=FORCED), reason="errors doubled on tomato")
    registry.reconcile()
    return story


def ask(story: Story, version: str, asks: str) -> None:
    """What a person does in the UI: set the alias of a request."""
    number = list(_RIGHT).index(version) + 1
    story.mlflow.set_registered_model_alias(story.registry.model, f"request-{asks}", str(number))


def measure(registry: Registry, name: str) -> None:
    """Record evidence as `ulora measure` does, with plots, of images that nobody has to look at."""
    binding = registry.bindings.get(VersionName.parse(name))
    for seconds, (benchmark, metrics, plot) in enumerate(_results(name)):
        run = BenchmarkRun(
            benchmark, registry.model, name, binding.content_sha256, "cpu", "torch-fp32",
            f"2026-11-2{seconds}T09:00:00+00:00", 42.0 + seconds, {"torch": "2.13.0"}, "ana@lab",
        )  # fmt: skip
        measurement = Measurement(metrics, "d" * 64, "fields-2026", 400, plot)
        evidence = Evidence.of(measurement, run)
        registry.wiring.ledger.add(evidence)
        registry.catalog.record_evidence(binding, EvidenceRun.of(evidence, measurement))


def _results(name: str) -> list[tuple[str, tuple[Metric, ...], bytes]]:
    right = dict(zip(TARGETS, _RIGHT[name], strict=True))
    images = {target: 43 if (name, target) == (WEAK, "tomato") else 200 for target in TARGETS}
    total, every = sum(right.values()), sum(images.values())
    accuracy = [Metric.proportion("accuracy", right[target], images[target], target=target) for target in TARGETS]
    counts = np.array([[right["potato"], images["potato"] - right["potato"]], [3, right["tomato"]]])
    milliseconds = np.random.default_rng(len(name)).normal(50, 5, 200)
    p95 = float(np.percentile(milliseconds, 95))
    return [
        ("accuracy", (Metric.proportion("accuracy", total, every), *accuracy), plots.confusion(counts, TARGETS, name)),
        (
            "latency",
            (Metric.of("latency_ms_p95", p95, n=200, low=p95 - 2, high=p95 + 2, unit="ms"),),
            plots.latency_ecdf(milliseconds, {"p95": p95}, name),
        ),
        (
            "routing",
            (Metric.proportion("crop_routing_accuracy", every - 4, every),),
            plots.bars({target: 1.0 for target in TARGETS}, "recall", name),
        ),
    ]
