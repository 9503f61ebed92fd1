"""Which values the fields of PEFT's `adapter_config.json` may have, whatever the backbone and the weights are.

This module imports neither torch nor PEFT, because `ulora create` uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from registry.errors import BadWeights

MAX_RANK = 1024
MAX_PATTERNS = 10_000
MAX_PATTERN = 2000
"""Bounds of each field: how many names or patterns, and how many characters each."""


def check_values(document: Mapping[str, Any], path: str) -> None:
    """Check the types and the sizes of the fields that are used.

    Args:
        path: its file, for messages.

    Raises:
        BadWeights: when a rank or an alpha is no such number, or the names of modules are none, too many or too long.
    """
    _check_rank(document.get("r"), path)
    _check_number("lora_alpha", document.get("lora_alpha"), path)
    for name in ("use_rslora", "use_dora"):
        if not isinstance(document.get(name, False), bool | None):
            raise BadWeights(f"{path}: {name} is {str(document[name])[:40]!r}, neither true nor false")
    for rank in _pattern(document, "rank_pattern", path).values():
        _check_rank(rank, path)
    for alpha in _pattern(document, "alpha_pattern", path).values():
        _check_number("alpha_pattern", alpha, path)
    _check_layers(document.get("layers_to_transform"), path)
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        _check_names(name, document.get(name), path)
    if not document.get("target_modules"):
        raise BadWeights(f"{path}: target_modules names no module")


def _check_rank(rank: object, path: str) -> None:
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= MAX_RANK:
        raise BadWeights(f"{path}: r is {str(rank)[:40]!r}, not a rank of at most {MAX_RANK}")


def _check_number(name: str, value: object, path: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
        raise BadWeights(f"{path}: {name} is {str(value)[:40]!r}, not a number of reasonable size")


def _check_layers(layers: object, path: str) -> None:
    numbers = layers if isinstance(layers, list) else [0 if layers is None else layers]
    if len(numbers) > MAX_PATTERNS or not all(type(number) is int for number in numbers):
        raise BadWeights(f"{path}: layers_to_transform is not a list of numbers")


def _check_names(field: str, value: object, path: str) -> None:
    """Check names of modules; a single string is a regular expression."""
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list) or len(names) > MAX_PATTERNS or not all(isinstance(name, str) for name in names):
        raise BadWeights(f"{path}: {field} is not a list of names")
    _check_lengths(field, names, path)


def _pattern(document: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
    pattern = document.get(name) or {}
    if not isinstance(pattern, dict) or len(pattern) > MAX_PATTERNS:
        raise BadWeights(f"{path}: {name} is not an object of numbers")
    _check_lengths(name, pattern, path)
    return pattern


def _check_lengths(field: str, patterns: Iterable[str], path: str) -> None:
    longest = max(patterns, key=len, default="")
    if len(longest) > MAX_PATTERN:
        raise BadWeights(f"{path}: {field} {longest[:60]!r} is longer than {MAX_PATTERN} characters")
