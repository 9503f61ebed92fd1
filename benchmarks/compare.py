"""Compare two versions on the images that both answered, and show it in MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.parameters import CompareParameters
from benchmarks.version_pair import VersionPair
from registry import usecases
from registry.api import Registry
from registry.errors import CatalogRefused, CatalogUnreachable, NotInMlflow, VersionNotFound, first_line
from registry.evidence.differences import MetricDifference
from registry.evidence.number_text import number
from registry.evidence.results import Evidence
from registry.formats.counts import counted
from registry.names import VersionName
from registry.progress import Say
from registry.usecases.diff import MeasuredBy

if TYPE_CHECKING:
    from registry.catalog.run_writer import RunContent

MAX_PLOTTED = 60
_COLUMNS = (
    "metric", "target", "older", "newer", "difference", "low", "high", "pairs", "newer_only", "older_only", "note",
)  # fmt: skip


@dataclass(frozen=True)
class ComparedVersions:
    """How two versions compare.

    Attributes:
        rows: their metrics and the differences.
        images: test images whose labels both answered.
        won, lost: images whose label only the newer, or only the older one answered right.
        by: what computed the answers of both.
    """

    older: str
    newer: str
    rows: tuple[MetricDifference, ...]
    images: int
    won: int
    lost: int
    by: MeasuredBy

    def as_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def text(self) -> str:
        """A report for people: a row for each metric that was compared image by image, then the others."""
        from registry.cli.output import table

        rows = sorted(self.rows, key=lambda row: row.low is None)
        header = (
            "METRIC",
            "TARGET",
            self.older,
            self.newer,
            "DIFFERENCE",
            "95% INTERVAL",
            "IMAGES",
            "ONLY NEW/OLD",
        )
        shown = table(header, [_cells(row) for row in rows])
        return f"{shown}\n\nby {self.by.runtime or 'any runtime'} on {self.by.device}: {self.sentence}"

    @property
    def sentence(self) -> str:
        """The labels, in one sentence."""
        if not self.images:
            return "no image is known whose label both answered; --data measures what is missing"
        return (
            f"of {counted(self.images, 'image')}, {self.won} got the right label only from {self.newer}, "
            f"{self.lost} only from {self.older}"
        )


def compare_versions(
    parameters: CompareParameters, *, say: Say, on_done: Callable[[Evidence], None]
) -> ComparedVersions:
    """Compare two versions; with data, measure first what is missing for that.

    Args:
        on_done: called with each new evidence.

    Raises:
        UloraError: a parameter is invalid, or a measurement fails.
        NotInMlflow: they were compared, but MLflow did not take it.
    """
    options = parameters.options()
    registry = Registry(parameters.on.checked_model())
    began = int(time.time() * 1000)
    pair = VersionPair(registry, parameters.older, parameters.newer)
    if options.data or registry.settings.data:
        by = pair.measure_missing(options, say, on_done)
    else:
        by = pair.known_by(options)
    say(pair.sentence(by))
    diff = usecases.diff.diff(registry.wiring, parameters.older, parameters.newer, by)
    right = [image.right for image in diff.images]
    found = ComparedVersions(
        diff.older, diff.newer, diff.metrics, diff.compared, right.count("newer"), right.count("older"), by
    )
    if registry.settings.tracking_uri:
        _record(registry, found, began)
    else:
        say("MLFLOW_TRACKING_URI is not set: the result is only printed")
    return found


def _record(registry: Registry, found: ComparedVersions, began: int) -> None:
    """Show it in MLflow.

    Raises:
        NotInMlflow: MLflow does not take it; what was measured is in the store.
    """
    from registry.catalog.run_writer import ResultRun

    title = f"{found.newer} against {found.older}"
    tags = {"ulora.older": found.older, "ulora.newer": found.newer}
    run = ResultRun("compare", title, content_of(found), who=registry.settings.who, began=began, tags=tags)
    bindings = [registry.bindings.get(VersionName.parse(name)) for name in (found.older, found.newer)]
    try:
        registry.catalog.record_result(bindings, run)
    except (CatalogUnreachable, CatalogRefused, VersionNotFound) as error:
        said = f"the two are compared, but MLflow does not show it: {first_line(error)}"
        hint = "run it again; where a version is missing in MLflow, `ulora reconcile` before"
        raise NotInMlflow(said, hint=hint, answer=found) from error


def content_of(found: ComparedVersions) -> RunContent:
    """What the run of a comparison shows."""
    from benchmarks import charts
    from registry.catalog.run_writer import RunContent
    from registry.catalog.tables import table

    with_interval = [row for row in found.rows if row.low is not None]
    drawn = {
        _key(row): (row.difference, row.low, row.high)
        for row in with_interval[:MAX_PLOTTED]
        if row.difference is not None and row.low is not None and row.high is not None
    }
    cells = [[getattr(row, column) for column in _COLUMNS] for row in found.rows]
    files = {"differences.table.json": table(_COLUMNS, cells)}
    if drawn:
        files["differences.png"] = charts.differences(drawn, f"{found.newer} against {found.older}")
    counts = {"images": found.images, "won": found.won, "lost": found.lost}
    return RunContent(
        params={
            "ulora.older": found.older,
            "ulora.newer": found.newer,
            "ulora.device": found.by.device,
            "ulora.runtime": found.by.runtime,
        },
        metrics={**counts, **dict(_metrics(found))},
        files=files,
    )


def _metrics(found: ComparedVersions) -> Iterator[tuple[str, float]]:
    """The numbers of each row, in groups of their own."""
    for row in found.rows:
        values: Mapping[str, float | None] = {
            "older": row.older, "newer": row.newer, "difference": row.difference, "low": row.low, "high": row.high,
            "pairs": row.pairs or None, "newer_only": row.newer_only, "older_only": row.older_only,
        }  # fmt: skip
        yield from ((f"{group}/{_key(row)}", float(value)) for group, value in values.items() if value is not None)


def _key(row: MetricDifference) -> str:
    return f"{row.metric}.{row.target}" if row.target else row.metric


def _cells(row: MetricDifference) -> tuple[str, ...]:
    value = [("-" if each is None else number(each)) for each in (row.older, row.newer)]
    difference = row.note or "-" if row.difference is None else f"{row.difference:+.3f}"
    around = "-" if row.low is None or row.high is None else f"{row.low:+.3f} to {row.high:+.3f}"
    only = "-" if row.newer_only is None else f"{row.newer_only}/{row.older_only}"
    return (row.metric, row.target or "all", *value, difference, around, str(row.pairs or "-"), only)
