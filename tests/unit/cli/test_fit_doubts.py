"""What the table of a fit says against it, in words."""

from __future__ import annotations

from typing import Any

from registry.cli.fit import doubts


def fitted(frozen: float, val: float, test: float | None, flagged: float | None) -> dict[str, Any]:
    return {
        "labels": ["healthy", "rust"], "frozen": {"accuracy": frozen, "images": 20},
        "val": {"accuracy": val, "flagged": 0.0, "images": 20},
        "test": {"accuracy": test, "flagged": flagged, "images": 40}, "false_alarms": {"upper_bound_90": 0.25},
    }  # fmt: skip


def test_a_good_fit_raises_no_doubts() -> None:
    assert list(doubts({"apple": fitted(0.9, 0.9, 0.8, 0.25), "pear": fitted(0.5, 0.9, None, None)})) == []


def test_a_fit_is_told_what_speaks_against_it() -> None:
    worse, guess, alarms = doubts({"apple": fitted(0.9, 0.8, 0.5, 0.4)})
    assert worse == "apple: 0.8000 of its val images are right, without LoRA 0.9000: the fit made it worse"
    assert guess == "apple: 0.5000 of its test images are right, as by guessing among 2 labels"
    assert alarms == "apple: 0.4000 of its test images raise false alarms, more than promised (0.250)"
