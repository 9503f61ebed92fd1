"""Numbers as people read them: three decimals, unless two that differ would then look equal."""

from __future__ import annotations

END_DIGITS = 12
"""Significant digits of the ends of intervals in verdicts. The last ones of a double differ between machines, as their
mathematical libraries do, and a verdict has the same bytes wherever it is computed again."""
ALL_DIGITS = 17
"""So many leave a double as it is."""


def significant(value: float, digits: int = END_DIGITS) -> float:
    """A number rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


def number(value: float, beside: float | None = None) -> str:
    """Three decimals, four digits from 10 on, six from 1000 on; also six where it would look like the one beside it."""
    text = _short(value)
    return exact(value) if beside is not None and value != beside and text == _short(beside) else text


def exact(value: float) -> str:
    """A number that people chose, as they wrote it, to six digits."""
    return f"{value:.6g}"


def bound_text(bound: float, value: float | None, *, is_relative: bool) -> str:
    """A bound beside the value that it is for: exactly, or short if it was computed from another version's value."""
    return number(bound, value) if is_relative else exact(bound)


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}" if abs(value) < 1000 else exact(value)


def points(share: float) -> str:
    """A difference between shares, in percentage points: `0.5 points`."""
    shown = f"{100 * share:g}"
    return f"{shown} point" if shown == "1" else f"{shown} points"
