"""What was measured of two versions, side by side.

Metrics have intervals of their differences where both answered the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from registry.evidence.metrics import RATIOS, benchmark_of
from registry.evidence.outcomes import ImageOutcome, by_image
from registry.evidence.paired import PAIRED_METRICS, CompareOptions, compare, discordant
from registry.evidence.results import Evidence, Metric, newest
from registry.evidence.stats import CONFIDENCE

_ONE_SIDED = (1 + CONFIDENCE) / 2


@dataclass(frozen=True)
class MetricDifference:
    """A metric of two versions.

    Attributes:
        older, newer: its values, None where it was not measured, or is not a number.
        difference: `newer` less `older`, None where one is missing or they were measured on different data.
        low, high: the 95% interval of the difference on the same images; None where that is not known.
        pairs: how many images that is; 0 where it is not known.
        newer_only, older_only: on how many of them only one version is right, routes right, or flags the image; None
            where that is not known, and of areas.
        note: why there is no difference; empty otherwise.
    """

    metric: str
    target: str | None
    older: float | None
    newer: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    newer_only: int | None = None
    older_only: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Disagreement:
    """An image for which two versions answered different labels. A label of None means that there was no
    answer.

    Attributes:
        image: the sha256 of its file.
        right: which one is right: `older`, `newer` or `neither`.
    """

    image: str
    target: str | None
    label: str | None
    older: str | None
    newer: str | None
    right: str


def metric_differences(
    older: Iterable[Evidence],
    newer: Iterable[Evidence],
    outcomes: Callable[[Evidence], Sequence[ImageOutcome]],
) -> Iterator[MetricDifference]:
    """The metrics of both versions, by their newest measurements of each benchmark, device and runtime."""
    before, after = newest(older), newest(newer)
    for place in sorted({*before, *after}):
        one, other = before.get(place), after.get(place)
        yield from _of_benchmark(one, other, outcomes)


def disagreements(older: Sequence[ImageOutcome], newer: Sequence[ImageOutcome]) -> list[Disagreement]:
    """The test images for which two versions answered different labels; those that the newer one lost come first."""
    before = by_image(older)
    found = [
        Disagreement(one.image, one.target, one.label, other.answered_label, one.answered_label, _right(other, one))
        for key, one in by_image(newer).items()
        if (other := before.get(key)) and one.label is not None and one.answered_label != other.answered_label
    ]
    order = ("older", "newer", "neither")
    return sorted(found, key=lambda one: (order.index(one.right), one.target or "", one.label or "", one.image))


def _of_benchmark(
    older: Evidence | None, newer: Evidence | None, outcomes: Callable[[Evidence], Sequence[ImageOutcome]]
) -> Iterator[MetricDifference]:
    before, after = _metrics(older), _metrics(newer)
    is_same = bool(older and newer and older.data.sha256 == newer.data.sha256)
    answers = (outcomes(older), outcomes(newer)) if is_same and older and newer else ((), ())
    for name, target in sorted({*before, *after}, key=lambda key: (key[0], key[1] or "")):
        one, other = before.get((name, target)), after.get((name, target))
        values = (one.value if one else None, other.value if other else None)
        if values[0] is None or values[1] is None:
            yield MetricDifference(name, target, *values)
        elif benchmark_of(name) == "latency":
            yield MetricDifference(name, target, *values, note=_note_on_time(name))
        elif not is_same:
            yield MetricDifference(name, target, *values, note="measured on different data")
        else:
            yield _paired(MetricDifference(name, target, *values, values[1] - values[0]), *answers)


def _note_on_time(name: str) -> str:
    """Why two times, or two ratios, are not subtracted."""
    if name in RATIOS:
        return "each against the version that it was measured with"
    return "times of different runs: `ulora measure NEWER --only latency --against OLDER` compares them"


def _paired(found: MetricDifference, older: Sequence[ImageOutcome], newer: Sequence[ImageOutcome]) -> MetricDifference:
    """With the interval of the difference, where it can be told from the answers for the same images."""
    is_pooled = found.target is None and found.metric.startswith("ood_")  # an image has several scores then
    if found.metric not in PAIRED_METRICS or is_pooled:
        return found
    low = compare(found.metric, found.target, newer, older, CompareOptions(0.0, True, _ONE_SIDED))
    back = compare(found.metric, found.target, older, newer, CompareOptions(0.0, True, _ONE_SIDED))
    if low is None or back is None:
        return found
    found = replace(found, low=low.end, high=-back.end, pairs=low.n)
    counts = discordant(found.metric, found.target, newer, older)
    return replace(found, newer_only=counts.newer_only, older_only=counts.older_only) if counts else found


def _metrics(evidence: Evidence | None) -> dict[tuple[str, str | None], Metric]:
    return {(metric.name, metric.target): metric for metric in evidence.metrics} if evidence else {}


def _right(older: ImageOutcome, newer: ImageOutcome) -> str:
    if newer.answered_label == newer.label:
        return "newer"
    return "older" if older.answered_label == newer.label else "neither"
