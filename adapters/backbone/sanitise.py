"""Check untrusted content once before it is used: bounded in size, without cycles, plain values only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from registry.formats import canonical

MAX_DEPTH = 64
MAX_NODES = 10_000_000
"""An object that is referenced twice counts twice. The largest known release has 1.7 million numbers."""
MAX_INTEGER = 2**64

LeafCheck = Callable[[str, Any], Any]
"""Takes the dotted name and the value of something that is not a JSON type; returns its replacement or raises."""

_SCALARS = (str, int, float, type(None))
MAX_SORTED = 16 * 1024**2
"""Characters of all values of a set."""
_NAME = 200
"""Characters of a value's name, which messages show."""


def reject(name: str, value: Any) -> Any:
    """Reject every value that is not a JSON type.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name[:80]!a} is a {type(value).__name__}")


def sanitise(content: Any, leaf: LeafCheck = reject) -> Any:
    """Copy a tree into dictionaries, lists and JSON values; `leaf` replaces or rejects everything else.

    Tuples become lists, sets become sorted lists. Keys are strings and integers. Floats that JSON does not have become
    the strings `nan`, `inf` and `-inf`.

    Raises:
        ValueError: when it is too deep (a cycle, for example) or too large, has an integer or a string that can't be
            stored, has two keys that are the same string, or `leaf` rejects a value.
    """
    return _Walk(leaf, MAX_NODES)(content, "", 0)


@dataclass
class _Walk:
    leaf: LeafCheck
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
            raise ValueError(f"{name[:80]!a} is nested too deep, or there are too many values")
        if isinstance(value, dict):
            return self._dictionary(value, name, depth)
        if type(value) is list and set(map(type, value)) == {float} and math.isfinite(sum(value)):
            return value  # fast path for tables of numbers: files contain millions of them
        items = [self(item, _below(name, number), depth + 1) for number, item in enumerate(value)]
        return _sorted(items, name) if isinstance(value, set | frozenset) else items

    def _dictionary(self, value: dict[Any, Any], name: str, depth: int) -> dict[Any, Any]:
        if not all(isinstance(key, _SCALARS) for key in value):
            raise ValueError(f"{name[:80]!a} has a key that is neither a text nor a number")
        names = {key: _text(str(key), name) for key in value}
        if len(set(names.values())) < len(names):
            raise ValueError(f"{name[:80]!a} has two keys that are the same string")
        return {
            key if type(key) is int else text: self(value[key], _below(name, text), depth + 1)
            for key, text in names.items()
        }


def _below(name: str, part: object) -> str:
    """The name of a value inside of another; cut, because a name in a file may have millions of letters."""
    return f"{name}.{str(part)[:_NAME]}".lstrip(".")[:_NAME]


def _characters(value: Any) -> int:
    """The characters of a text, or of all texts in a list and in lists in it."""
    return sum(map(_characters, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 1


def _text(text: str, name: str) -> str:
    if not canonical.is_text(text):
        raise ValueError(f"{name[:80]!a} has a lone surrogate, which can't be stored")
    return text


def _sorted(items: Iterable[Any], name: str) -> list[Any]:
    """The items in an order that is the same in every run."""
    items = list(items)
    if _characters(items) > MAX_SORTED:  # each time that it is there: many references to one text are small in a file
        raise ValueError(f"{name[:80]!a} is a set of more than {MAX_SORTED} characters")
    try:
        return sorted(items, key=json.dumps)
    except TypeError as error:
        raise ValueError(f"{name[:80]!a} is a set of values that can't be sorted") from error
