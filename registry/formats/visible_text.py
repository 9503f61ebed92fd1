"""Texts of other people, of which a reader sees what is there."""

from __future__ import annotations


def visible(text: str) -> str:
    """A text without control characters, except line ends, and without those that turn what follows around."""
    return "\n".join(line if line.isprintable() else _line(line) for line in text.split("\n"))


def visible_lines(text: str) -> str:
    """The same of a text of several lines, whatever ends them; its tabs become spaces."""
    return visible("\n".join(text.expandtabs(4).splitlines()))


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
