"""The tags that ulora sets in MLflow: their names, and which values they get."""

from __future__ import annotations

import math
from collections.abc import Mapping

from registry.versions.manifest import Manifest

# Of a registered version. The first four identify it; its LoggedModel has those but the manifest's.
STORE = "ulora.store"
"""`s3://BUCKET/PREFIX` of the store that the version is in; of a registered model: whose channels it shows."""
VERSION = "ulora.version"
CONTENT = "ulora.content_sha256"
MANIFEST = "ulora.manifest_sha256"
FAMILY = "ulora.family"
METRIC = "ulora.metric."
"""With a metric's name: its value over all targets."""
VERDICT = "ulora.verdict."
"""With a channel's name: the outcome and the digest of the last verdict."""
REQUEST = "ulora.request."
"""With a channel's name: the state of a request, or its answer; also of a registered model."""
HINT = "ulora.hint"
"""On a version to which somebody moved a mirrored alias by hand: how to request a promotion."""

# Of a run that records evidence, beside `VERSION`.
EVIDENCE = "ulora.evidence_sha256"
BENCHMARK = "ulora.benchmark"

# Of a registered model.
MANAGED = "ulora.managed"
MIRRORED = "ulora.mirrored."
"""With a channel's name: the version number that the mirror last set the channel's alias to."""


def of_version(manifest: Manifest, manifest_sha256: str, store: str) -> dict[str, str]:
    """The tags that a version of a store is registered with."""
    return {
        STORE: store,
        VERSION: manifest.version,
        CONTENT: manifest.content_sha256,
        MANIFEST: manifest_sha256,
        FAMILY: manifest.backbone.family if manifest.backbone else "none",
    }


def of_metrics(metrics: Mapping[str, float]) -> dict[str, str]:
    """The metrics over all targets as tags. Those of one target, e.g. `accuracy.tomato`, are only on the LoggedModel:
    MLflow's list of versions shows every tag, and writing one is slow."""
    return {METRIC + name: f"{value:.6g}" for name, value in finite(metrics).items() if "." not in name}


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without NaN and infinity, which MLflow can't store."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
