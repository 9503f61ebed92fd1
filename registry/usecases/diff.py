"""Compare two versions: what is in them, what was measured of them, and what they answer differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.evidence.differences import Disagreement, MetricDifference, disagreements, metric_differences
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import Evidence, newest
from registry.formats.html import HtmlTable
from registry.versions.changes import ManifestChanges, changes
from registry.versions.manifest import Manifest
from registry.wiring import Wiring

_LABELS = "accuracy"
"""The benchmark whose outcomes have labels."""


@dataclass(frozen=True)
class VersionDiff(HtmlTable):
    """How a newer version differs from an older one.

    Attributes:
        compared: images for which the answers of both are known.
        images: those about which they do not agree.
    """

    older: str
    newer: str
    manifest: ManifestChanges
    metrics: tuple[MetricDifference, ...]
    compared: int
    images: tuple[Disagreement, ...]


@dataclass(frozen=True)
class MeasuredBy:
    """What computed some evidence. `runtime`: any if empty."""

    device: str
    runtime: str = ""

    def has_made(self, evidence: Evidence) -> bool:
        """Whether it computed that."""
        return evidence.device == self.device and self.runtime in ("", evidence.runtime)


def diff(wiring: Wiring, older: str, newer: str, by: MeasuredBy | None = None) -> VersionDiff:
    """Compare two versions; see `Registry.diff`.

    Args:
        by: only evidence that this computed; all if None.
    """
    before, after = wiring.manifest(older), wiring.manifest(newer)
    theirs, ours = _evidence(wiring, before, by), _evidence(wiring, after, by)
    pair = _same_images(wiring, theirs, ours)
    shared = {one.image for one in pair[0]} & {one.image for one in pair[1]}
    return VersionDiff(
        older=before.version,
        newer=after.version,
        manifest=changes(before, after),
        metrics=tuple(metric_differences(theirs, ours, wiring.ledger.outcomes)),
        compared=len(shared),
        images=tuple(disagreements(*pair)),
    )


def _evidence(wiring: Wiring, manifest: Manifest, by: MeasuredBy | None) -> list[Evidence]:
    known = wiring.ledger.evidence(manifest.name)
    return [one for one in known if one.content_sha256 == manifest.content_sha256 and (by is None or by.has_made(one))]


def _same_images(
    wiring: Wiring, older: Sequence[Evidence], newer: Sequence[Evidence]
) -> tuple[Sequence[ImageOutcome], Sequence[ImageOutcome]]:
    """What both answered, in their newest measurements by the same device and runtime; empty where there is none."""
    before, after = newest(older), newest(newer)
    shared = [place for place in after if place in before and place[0] == _LABELS]
    for place in sorted(shared, key=lambda each: after[each].order, reverse=True):
        answers = wiring.ledger.outcomes(before[place]), wiring.ledger.outcomes(after[place])
        if all(answers):
            return answers
    return (), ()
