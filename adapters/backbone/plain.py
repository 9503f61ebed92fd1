"""What others wrote, walked through once before anybody uses it: bounded, without cycles, of plain values only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from registry.formats import canonical

MAX_DEPTH = 64
MAX_NODES = 10_000_000
"""Of a tree in which a part that is referred to twice counts twice. The largest release has 1.7 million numbers."""
MAX_INTEGER = 2**64

Leaf = Callable[[str, Any], Any]
"""Takes the dotted name and the value of something else than JSON has; returns what to put there, or refuses it."""


def refuse(name: str, value: Any) -> Any:
    """The leaf that takes nothing.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name[:80]!a} is a {type(value).__name__}")


def plain(content: Any, leaf: Leaf = refuse) -> Any:
    """A copy of a tree that consists of dictionaries, lists and JSON's values, but for what `leaf` makes of the rest.

    Tuples become lists and sets sorted lists. Keys are texts and whole numbers. Floats that JSON does not have become
    the texts `nan`, `inf` and `-inf`.

    Raises:
        ValueError: it is too deep (a cycle is that too) or too large, has a whole number or a text that can't be
            stored, two keys that are the same text, or a leaf is refused.
    """
    return _Walk(leaf, MAX_NODES)(content, "", 0)


@dataclass
class _Walk:
    leaf: Leaf
    left: int

    def __call__(self, value: Any, name: str, depth: int) -> Any:
        if isinstance(value, str):
            return _text(value, name)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            if abs(value) >= MAX_INTEGER:
                raise ValueError(f"{name[:80]!a} is a number of more than 64 bits")
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if not isinstance(value, dict | list | tuple | set | frozenset):
            return self.leaf(name, value)
        self.left -= len(value) + 1
        if depth >= MAX_DEPTH or self.left < 0:
            raise ValueError(f"{name[:80]!a} is nested too deep, or one of too many values")
        if isinstance(value, dict):
            return self._dictionary(value, name, depth)
        if type(value) is list and set(map(type, value)) == {float} and math.isfinite(sum(value)):
            return value  # a row of a table: files hold millions of such numbers
        items = [self(item, f"{name}.{number}".lstrip("."), depth + 1) for number, item in enumerate(value)]
        return _sorted(items, name) if isinstance(value, set | frozenset) else items

    def _dictionary(self, value: dict[Any, Any], name: str, depth: int) -> dict[Any, Any]:
        names = {key: _text(str(key), name) for key in value}
        if len(set(names.values())) < len(names):
            raise ValueError(f"{name[:80]!a} has two keys that are the same text")
        return {
            key if type(key) is int else text: self(value[key], f"{name}.{text}".lstrip("."), depth + 1)
            for key, text in names.items()
        }


def _text(text: str, name: str) -> str:
    if not canonical.is_text(text):
        raise ValueError(f"{name[:80]!a} has half a letter (a lone surrogate), which can't be stored")
    return text


def _sorted(items: Iterable[Any], name: str) -> list[Any]:
    """In an order that does not change from run to run."""
    try:
        return sorted(items, key=json.dumps)
    except TypeError as error:
        raise ValueError(f"{name[:80]!a} is a set of what has no order") from error
