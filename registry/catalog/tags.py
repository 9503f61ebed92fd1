"""The tags that ulora sets in MLflow: their names, and which values they get.

What identifies a version is on its LoggedModel, which is the source of the registered version. The registered version
has at most six short tags, for people: they decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from registry.versions.manifest import Manifest

# Of a LoggedModel: what identifies the version. Earlier releases set the same on the registered version, and not all of
# them on the LoggedModel.
STORE = "ulora.store"
"""`s3://BUCKET/PREFIX` of the store that the version is in; of a registered model: whose channels it shows, and that
with `#` and the store's id, where it has one."""
VERSION = "ulora.version"
CONTENT = "ulora.content_sha256"
MANIFEST = "ulora.manifest_sha256"
IDENTITY = (STORE, VERSION, CONTENT, MANIFEST)

REFUSED = "ulora.refused"
"""Of a LoggedModel: why it is not what its other tags say. `reconcile` sets it, and then it is no version."""

# Of a registered version, for people.
NAME = "version"
FAMILY = "family"
CHANNEL = "channel"
WITHDRAWN = "withdrawn"
VERDICT = "verdict"
FORCED = "forced"
TRIAL = "ulora.trial"
"""The channel and share of a trial: `production 10%`, `production shadow 100%`."""
REQUESTED = "request"
SHORT = (NAME, FAMILY, CHANNEL, WITHDRAWN, VERDICT, FORCED, TRIAL, REQUESTED)
MAX_SHORT = 6

# Of a registered version, while a request is decided.
REQUEST = "ulora.request."
"""With what is asked for: the claim of a reconciler; of a registered model the answer to what asked for no version of
ours."""

CLAIMED = "tak"
"""How such a claim begins: `taking`, `taken`."""

OLD = "ulora."
"""How the tags begin that earlier releases set on a registered version, and `TRIAL`."""

# Of a run.
EVIDENCE = "ulora.evidence_sha256"
BENCHMARK = "ulora.benchmark"
TRIAL_ID = "ulora.trial_id"
"""Of the run that shows a report of a trial: the trial's id; and the digest of the report:"""
REPORT = "ulora.report_sha256"
SUMMARY = "ulora.summary"
"""Of the run that shows a version as a whole: the digest of its manifest."""

# Of a registered model.
MANAGED = "ulora.managed"
MIRRORED = "ulora.mirrored."
"""With a channel's name: the version number that the mirror last set the channel's alias to."""


def is_claim(name: str, value: str) -> bool:
    """Whether a tag of a registered version says that a reconciler is deciding on a request."""
    return name.startswith(REQUEST) and value.startswith(("taking ", "taken "))


def identity(manifest: Manifest, manifest_sha256: str, store: str) -> dict[str, str]:
    """The tags of the LoggedModel of a version of a store."""
    return {
        STORE: store,
        VERSION: manifest.version,
        CONTENT: manifest.content_sha256,
        MANIFEST: manifest_sha256,
    }


def family(manifest: Manifest) -> str:
    """The family of a version's backbone, `none` if it has none."""
    return manifest.backbone.family if manifest.backbone else "none"


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without NaN and infinity, which MLflow can't store."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
