"""Compare two versions on the images that both answered: how often only one of them is right, and what follows.

A metric can be compared so if each image has or has not an event (right, flagged), or if it is an area under scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from registry.evidence.outcomes import ImageOutcome, Kind, by_image
from registry.evidence.paired_stats import (
    PairedCounts,
    area_difference,
    highest_difference,
    lowest_difference,
    n_that_decides_pairs,
)


@dataclass(frozen=True)
class ImageEvent:
    """What counts for a metric, and on which images."""

    kind: Kind
    has: Callable[[ImageOutcome], bool | None]


def _is_right(outcome: ImageOutcome) -> bool:
    return outcome.answered_label is not None and outcome.answered_label == outcome.label


def _is_routed_right(outcome: ImageOutcome) -> bool:
    return outcome.answered_target == outcome.target


def _is_flagged(outcome: ImageOutcome) -> bool | None:
    return outcome.is_ood


EVENTS: Mapping[str, ImageEvent] = {
    "accuracy": ImageEvent("test", _is_right),
    "crop_routing_accuracy": ImageEvent("test", _is_routed_right),
    "crop_routing_recall": ImageEvent("test", _is_routed_right),
    "ood_detection_rate": ImageEvent("far", _is_flagged),
    "ood_near_detection_rate": ImageEvent("near", _is_flagged),
    "ood_false_alarm_rate": ImageEvent("test", _is_flagged),
}
AREAS: Mapping[str, Kind] = {"ood_auroc": "far", "ood_near_auroc": "near"}
"""Areas, and the images that should score higher than the test images."""
PAIRED_METRICS = frozenset({*EVENTS, *AREAS})


@dataclass(frozen=True)
class Difference:
    """How a metric of a newer version differs from an older one's, on the same images.

    Attributes:
        value: the newer one's less the older one's.
        end: the end of its one-sided interval on the bad side.
        n: images that both answered; of an area those of the smaller class.
        wanted_n: how many would decide, if the same share of them differed; None if none would, or it is not known.
    """

    value: float
    end: float
    n: int
    wanted_n: int | None = None


@dataclass(frozen=True)
class CompareOptions:
    """What is asked of a difference.

    Attributes:
        margin: how much worse is still allowed, 0 or more.
        wants_more: whether more of the metric is better.
        confidence: one-sided.
    """

    margin: float
    wants_more: bool = True
    confidence: float = 0.95


def compare(
    metric: str,
    target: str | None,
    newer: Sequence[ImageOutcome],
    older: Sequence[ImageOutcome],
    options: CompareOptions,
) -> Difference | None:
    """The difference of a metric on the images of a target (None: of all); None if no image was answered by both.

    Args:
        metric: one of `PAIRED_METRICS`.
    """
    both = _both(target, newer, older)
    if metric in AREAS:
        return _compare_areas(AREAS[metric], both, options)
    counts = count_pairs(EVENTS[metric], both)
    if counts.n == 0:
        return None
    if options.wants_more:
        end, worse = lowest_difference(counts, options.confidence), counts
    else:
        end = highest_difference(counts, options.confidence)
        worse = PairedCounts(counts.older_only, counts.newer_only, counts.n)
    return Difference(counts.difference, end, counts.n, n_that_decides_pairs(worse, options.margin, options.confidence))


def discordant(
    metric: str, target: str | None, newer: Sequence[ImageOutcome], older: Sequence[ImageOutcome]
) -> PairedCounts | None:
    """On how many images of a target (None: of all) only one version has the event; None for an area."""
    return count_pairs(EVENTS[metric], _both(target, newer, older)) if metric in EVENTS else None


def _both(
    target: str | None, newer: Sequence[ImageOutcome], older: Sequence[ImageOutcome]
) -> list[tuple[ImageOutcome, ImageOutcome]]:
    """What both answered, image by image: (newer, older) each."""
    ours, theirs = by_image(newer), by_image(older)
    return [(ours[key], theirs[key]) for key in ours if key in theirs and target in (None, key[1])]


def count_pairs(event: ImageEvent, both: Sequence[tuple[ImageOutcome, ImageOutcome]]) -> PairedCounts:
    """How often only one of two versions has an event; images about which one of them says nothing are left out."""
    found = [(event.has(one), event.has(other)) for one, other in both if one.kind == event.kind]
    told = [(one, other) for one, other in found if one is not None and other is not None]
    newer_only = sum(one and not other for one, other in told)
    return PairedCounts(newer_only, sum(other and not one for one, other in told), len(told))


def _compare_areas(
    kind: Kind, both: Sequence[tuple[ImageOutcome, ImageOutcome]], options: CompareOptions
) -> Difference | None:
    scored = [pair for pair in both if None not in (pair[0].ood_score, pair[1].ood_score)]
    newer, older = (
        (_scores("test", [pair[place] for pair in scored]), _scores(kind, [pair[place] for pair in scored]))
        for place in (0, 1)
    )
    n = min(len(newer[0]), len(newer[1]))
    if n < 2:
        return None
    if options.wants_more:
        return Difference(*area_difference(newer, older, options.confidence), n)
    value, end = area_difference(older, newer, options.confidence)
    return Difference(-value, -end, n)


def _scores(kind: Kind, outcomes: Sequence[ImageOutcome]) -> list[float]:
    return [one.ood_score for one in outcomes if one.kind == kind and one.ood_score is not None]
