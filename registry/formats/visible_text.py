"""Texts of other people, of which a reader sees what is there."""

from __future__ import annotations

import re
import unicodedata

_MARKED = re.compile(r"[^ -~]")
_JOINERS = "\u200c\u200d"
"""They join and part letters, as in Persian and Hindi, and the parts of an emoji."""
_FIRST_JOINED = 0x590
"""No letter below it, such as those of Latin, Greek and Cyrillic, looks otherwise beside a joiner."""


def visible(text: str) -> str:
    """A text without control characters, except line ends, and without those that turn what follows around.

    Spaces of all kinds become plain ones; joiners stay behind the letters that need them.
    """
    return "\n".join(line if line.isprintable() else _MARKED.sub(_shown, line) for line in text.split("\n"))


def visible_lines(text: str) -> str:
    """The same of a text of several lines, whatever ends them; its tabs become spaces."""
    return visible("\n".join(text.expandtabs(4).splitlines()))


def _shown(found: re.Match[str]) -> str:
    letter, before = found[0], found.string[max(0, found.start() - 1) : found.start()]
    if letter.isprintable() or (letter in _JOINERS and _is_joined(before)):
        return letter
    return " " if unicodedata.category(letter) == "Zs" else "\ufffd"


def _is_joined(before: str) -> bool:
    """Whether a joiner has a meaning behind this letter, if it is one."""
    return bool(before) and ord(before) >= _FIRST_JOINED and before.isprintable()
