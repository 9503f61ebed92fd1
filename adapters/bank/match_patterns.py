"""Which modules PEFT's patterns match, as PEFT itself would say.

A pattern may be a regular expression that anybody wrote, and one that takes for ever holds the interpreter's lock for
ever. So `adapters.bank.module_patterns` runs this module as a program, in a process that can be killed. It starts in a
few hundredths of a second because it imports the standard library only; keep it so.

A document of patterns has the fields of PEFT's configuration, but of `rank_pattern` and `alpha_pattern` the keys only,
in their order. The rules are those of `check_target_module_exists` and `get_pattern_key` in PEFT 0.21.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

ALL_LINEAR: Final = "all-linear"
MAX_SECONDS: Final = 60
"""Of processor time: this process ends even if the one that started it was killed and can't end it."""
MAX_MEMORY: Final = 1 << 30
"""Bytes of address space; a bare interpreter takes a hundredth of it."""

_VALUES = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
_PLAIN = re.compile(r"[\w.-]+")

NameTest = Callable[[str], object]
"""Whether the name of a module matches; any true value says yes."""
Match = tuple[bool, int | None, int | None]
"""Of one module: whether it is a target, and the numbers of the rank and the alpha pattern that count for it."""


class InvalidPattern(Exception):
    """A pattern that is not a regular expression: its field, its text, and why."""


def patterns_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The patterns of an `adapter_config.json` whose fields have the right types."""
    keys = {name: list(document.get(name) or {}) for name in ("rank_pattern", "alpha_pattern")}
    return {name: document.get(name) for name in _VALUES} | keys


class _Expression:
    """A regular expression that is compiled when it is first needed; its methods raise InvalidPattern."""

    def __init__(self, expression: str, text: str, field: str) -> None:
        self._expression, self._text, self._field = expression, text, field

    def fullmatch(self, name: str) -> re.Match[str] | None:
        """Whether it matches a whole name."""
        return self._compiled.fullmatch(name)

    def match(self, name: str) -> re.Match[str] | None:
        """Whether it matches the beginning of a name."""
        return self._compiled.match(name)

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        try:
            return re.compile(self._expression)
        except (re.error, OverflowError, RecursionError, MemoryError) as error:
            reason = str(error)[:200] or type(error).__name__
            raise InvalidPattern(self._field, self._text[:80], reason) from error


def is_literal(patterns: Mapping[str, Any]) -> bool:
    """Whether no pattern needs a regular expression: all of them are names of modules, or ends of names."""
    return not any(regular_expressions(patterns).values())


def regular_expressions(patterns: Mapping[str, Any]) -> dict[str, list[str]]:
    """Field -> those of its patterns that need a regular expression."""
    layers = patterns["layers_pattern"] or []
    found = {
        name: [patterns[name]]
        for name in ("target_modules", "exclude_modules")
        if isinstance(patterns[name], str) and patterns[name] and not _is_all_linear(name, patterns[name])
    }
    found["layers_pattern"] = [layers] if isinstance(layers, str) else list(layers)
    for name in ("rank_pattern", "alpha_pattern"):
        found[name] = [key for key in patterns[name] if not _PLAIN.fullmatch(key)]
    return found


def match(patterns: Mapping[str, Any], names: Sequence[str]) -> list[Match]:
    """What the patterns say about each module. As in PEFT, a pattern that is not needed for an answer is not looked at.

    Raises:
        InvalidPattern: one is not a regular expression.
    """
    is_target = _target_test(patterns)
    ranks, alphas = ([_key_test(key, name) for key in patterns[name]] for name in ("rank_pattern", "alpha_pattern"))
    return [
        (True, _first(ranks, name), _first(alphas, name)) if is_target(name) else (False, None, None) for name in names
    ]


def _target_test(patterns: Mapping[str, Any]) -> Callable[[str], bool]:
    targets = patterns["target_modules"]
    is_excluded = _name_test(patterns["exclude_modules"], "exclude_modules")
    if isinstance(targets, str):
        is_all = _is_all_linear("target_modules", targets)
        is_named = (lambda name: True) if is_all else _name_test(targets, "target_modules")
        return lambda name: bool(not is_excluded(name) and is_named(name))
    whole, is_named, is_in_layer = frozenset(targets), _name_test(targets, "target_modules"), _layer_test(patterns)
    return lambda name: bool(not is_excluded(name) and (name in whole or (is_named(name) and is_in_layer(name))))


def _name_test(value: str | Sequence[str] | None, field: str) -> NameTest:
    """A text is a regular expression of the whole name; of a list each entry is a name or the end of one."""
    if isinstance(value, str) and value:
        return _Expression(value, value, field).fullmatch
    ends = frozenset(value or ())
    return lambda name: name in ends or any(name[at + 1 :] in ends for at, letter in enumerate(name) if letter == ".")


def _layer_test(patterns: Mapping[str, Any]) -> NameTest:
    layers, pattern = patterns["layers_to_transform"], patterns["layers_pattern"] or []
    if layers is None or layers == []:
        return lambda name: True
    numbers = frozenset(layers if isinstance(layers, list) else [layers])
    texts = [pattern] if isinstance(pattern, str) else pattern
    tests = [_Expression(rf"(?:^|.*?\.){text}\.(?P<idx>\d+)\.", text, "layers_pattern") for text in texts]
    tests = tests or [_Expression(r".*?\.[^.]*\.(?P<idx>\d+)\.", "", "layers_pattern")]

    def is_in_layer(name: str) -> bool:
        found = next((found for test in tests if (found := test.match(name))), None)
        return found is not None and found["idx"] is not None and int(found["idx"]) in numbers

    return is_in_layer


def _key_test(key: str, field: str) -> NameTest:
    """Whether a key of `rank_pattern` or `alpha_pattern` matches the end of a name, after a dot."""
    if not _PLAIN.fullmatch(key):
        return _Expression(rf"(.*\.)?({key})$", key, field).match

    def is_end(name: str) -> bool:  # a dot of the key is that of a regular expression: it matches any letter
        start = len(name) - len(key)
        begins = start == 0 or (start > 0 and name[start - 1] == ".")
        return begins and all(mine in (".", its) for mine, its in zip(key, name[start:], strict=True))

    return is_end


def _first(tests: Sequence[NameTest], name: str) -> int | None:
    return next((number for number, test in enumerate(tests) if test(name)), None)


def _is_all_linear(field: str, text: str) -> bool:
    return field == "target_modules" and text.lower() == ALL_LINEAR


def main() -> None:
    """Read a question from standard input, and write the answer to standard output, both as JSON."""
    for limit, value in ((resource.RLIMIT_CPU, MAX_SECONDS), (resource.RLIMIT_AS, MAX_MEMORY)):
        with suppress(ValueError, OSError):  # not every system has each limit; the deadline holds everywhere
            resource.setrlimit(limit, (value, value))
    question = json.load(sys.stdin.buffer)
    answer: dict[str, Any]
    try:
        answer = {"matches": match(question["patterns"], question["names"])}
    except InvalidPattern as error:
        answer = {"invalid": error.args}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
