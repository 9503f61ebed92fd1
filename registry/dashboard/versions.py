"""The versions of a model, what was measured of them, and two of them side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry.answers import Listed
from registry.api import Registry
from registry.errors import StoreUnreachable, UloraError
from registry.evidence.check_lines import named
from registry.evidence.results import Evidence, Metric, newest
from registry.evidence.verdict import Check
from registry.names import is_version_name
from registry.parallel import in_parallel
from registry.usecases.diff import VersionDiff

MAX_SHOWN = 200
"""Versions that are shown, the newest by name."""
MAX_MEASURED = 60
"""Versions of which what was measured is read, the newest by name."""
Place = tuple[str, str | None]
"""A metric's name and target."""
Metrics = Mapping[Place, Metric]


@dataclass(frozen=True)
class VersionsView:
    """The newest versions, last by name first; `left_out` older ones are not shown."""

    versions: tuple[Listed, ...]
    left_out: int


@dataclass(frozen=True)
class VersionFilter:
    """Which versions are shown. Empty fields ask nothing."""

    words: str = ""
    channels: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    forgotten: bool = False

    def takes(self, listed: Listed) -> bool:
        """Whether a version is shown."""
        said = f"{listed.version} {listed.description}".lower()
        return (
            all(word in said for word in self.words.lower().split())
            and (not self.channels or bool({*self.channels} & {*listed.channels}))
            and {*self.benchmarks} <= {*listed.evidence}
            and (self.forgotten or not listed.forgotten)
        )


@dataclass(frozen=True)
class ShownBound:
    """What a gate asks of a metric.

    Attributes:
        kind: `goal`: the measured value has to meet it; `gate`: the end of its interval; `stable`: it comes from
            stable's value.
    """

    kind: str
    value: float
    said: str


@dataclass(frozen=True)
class MetricRow:
    """A metric of two versions, and of stable if that is a third one, with what the gates ask of the newer one."""

    name: str
    unit: str
    older: Metric | None
    newer: Metric | None
    stable: Metric | None
    bounds: tuple[ShownBound, ...]


@dataclass(frozen=True)
class VersionComparison:
    """Two versions side by side.

    Attributes:
        stable: the version that production serves; empty if none, or if it is one of the two.
    """

    diff: VersionDiff
    rows: tuple[MetricRow, ...]
    stable: str
    note: str


def read_versions(registry: Registry) -> VersionsView:
    """The versions, without asking MLflow."""
    found = registry.versions(mlflow=False)[::-1]
    return VersionsView(tuple(found[:MAX_SHOWN]), max(0, len(found) - MAX_SHOWN))


def measured(registry: Registry, versions: Sequence[Listed]) -> dict[str, dict[Place, Metric]]:
    """The newest metrics of the newest versions, by version."""
    names = [each.version for each in versions if each.evidence and not each.problem][:MAX_MEASURED]
    return dict(zip(names, in_parallel(lambda name: newest_metrics(_evidence(registry, name)), names), strict=True))


def newest_metrics(evidence: Iterable[Evidence]) -> dict[Place, Metric]:
    """The newest number of each metric, whatever computed it."""
    found = sorted(newest(evidence).values(), key=lambda one: one.order)
    return {(metric.name, metric.target): metric for one in found for metric in one.metrics}


def read_comparison(registry: Registry, older: str, newer: str) -> VersionComparison:
    """Two versions side by side, with what production's gates ask of the newer one.

    Raises:
        VersionNotFound, IntegrityError, StoreUnreachable, StoreDenied: see `Registry.diff`.
    """
    found = registry.diff(older, newer)
    status = next((each for each in registry.status().channels if each.channel == "production"), None)
    stable = status.stable if status and status.stable not in (None, older, newer) else None
    before, after = (newest_metrics(_evidence(registry, name)) for name in (older, newer))
    baseline = newest_metrics(_evidence(registry, stable)) if stable else {}
    try:
        checks, note = registry.judge(newer, "production").checks, ""
    except StoreUnreachable:
        raise
    except UloraError as error:
        checks, note = (), f"what the gates ask is left out: {error}"
    rows = rows_of(before, after, baseline, bounds_of(checks))
    return VersionComparison(found, tuple(rows), stable or "", note)


def rows_of(
    older: Metrics, newer: Metrics, stable: Metrics, bounds: Mapping[Place, Sequence[ShownBound]]
) -> list[MetricRow]:
    """The metrics of two versions by name and target. Those of stable alone are left out."""
    places = sorted({*older, *newer}, key=lambda place: (place[0], place[1] or ""))
    return [
        MetricRow(
            named(*place), _unit(older.get(place) or newer.get(place)), older.get(place), newer.get(place),
            stable.get(place), tuple(bounds.get(place, ())),
        )
        for place in places
    ]  # fmt: skip


def bounds_of(checks: Iterable[Check]) -> dict[Place, list[ShownBound]]:
    """What gates ask, by metric and target."""
    found: dict[Place, list[ShownBound]] = {}
    for check in checks:
        if check.bound is None:
            continue
        is_relative = any(check.rule.get(name) is not None for name in ("max_increase", "max_decrease"))
        kind = "stable" if is_relative else "gate" if check.rule.get("judge") == "bound" else "goal"
        sign = "<=" if any(check.rule.get(name) is not None for name in ("max", "max_increase")) else ">="
        place = (check.metric, check.target)
        found.setdefault(place, []).append(ShownBound(kind, check.bound, f"{sign} {check.bound:.4g}"))
    return found


def _unit(metric: Metric | None) -> str:
    return metric.shown_unit.strip() if metric else ""


def _evidence(registry: Registry, version: str) -> list[Evidence]:
    if not is_version_name(version):
        return []
    manifest = registry.manifest(version)
    return [one for one in registry.evidence(version) if one.content_sha256 == manifest.content_sha256]
