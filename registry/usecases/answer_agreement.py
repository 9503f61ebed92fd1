"""Whether two answers to one image agree: one computed here, and one of a replica on another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TOLERANCE = 0.05
"""How far probabilities and scores may differ; of scores above 1 in proportion. Processors and runtimes round
differently."""
DECISIONS = ("target", "label", "outcome", "is_ood")


def disagreement(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """What two answers disagree in; empty if they agree.

    A decision that differs while all numbers are within the tolerance was too close to call, which is no disagreement.
    """
    numbers, others = dict(_numbers(here)), dict(_numbers(there))
    far = [name for name in numbers | others if not _is_near(numbers.get(name), others.get(name))]
    if numbers and not far:
        return ""
    for name in (*DECISIONS, *far):
        mine, theirs = ({**answer, **found}.get(name) for answer, found in ((here, numbers), (there, others)))
        if name in far or mine != theirs:
            return f"{name} is {theirs!r}, here {mine!r}"[:300]
    return ""


def _numbers(answer: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of an answer by name, those of its probabilities included."""
    probabilities = answer.get("probabilities")
    inner = probabilities if isinstance(probabilities, Mapping) else {}
    for name, value in (*answer.items(), *((f"probability of {label}", value) for label, value in inner.items())):
        if isinstance(value, float):
            yield name, value


def _is_near(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= TOLERANCE * max(1.0, abs(one))
