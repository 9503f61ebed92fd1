"""Texts for people. What the store says was written by anybody: it is cut, has no control characters, and no page and
no plot takes any of it for marks."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import escape

MAX_TEXT = 400
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#|!&~$:+\-.=])")
_HASH = 12


def plain(text: str, limit: int = MAX_TEXT) -> str:
    """One line without control characters, cut to `limit`."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def markdown(text: str, limit: int = MAX_TEXT) -> str:
    """The same as Markdown that shows nothing but the text."""
    return _MARKS.sub(r"\\\1", plain(text, limit))


def label(text: str, limit: int = 60) -> str:
    """The same for a plot, where a few HTML tags would count."""
    return escape(plain(text, limit), quote=False)


def digest(sha256: str) -> str:
    """The beginning of a digest, as commands show it; a dash for none."""
    return sha256[:_HASH] or "–"


def moment(when: str | None) -> datetime | None:
    """A record's time in UTC; None if it says none."""
    try:
        found = datetime.fromisoformat(when or "")
    except ValueError:
        return None
    try:
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        return None


def when_text(when: str | None) -> str:
    """A record's time for people: `2026-11-21 12:00:00 UTC`."""
    found = moment(when)
    return f"{found:%Y-%m-%d %H:%M:%S} UTC" if found else plain(when or "–", 40)


def duration(seconds: float) -> str:
    """`350 ms`, `12 s`, `5 min`, `3 h`, `2 d`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / size:.{1 if seconds < 10 else 0}f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "–" if share is None else f"{100 * share:.3g}%"


def megabytes(size: int) -> str:
    """Bytes as megabytes."""
    return f"{size / 1e6:,.1f} MB"
