"""Match the patterns of a PEFT configuration with the names of modules, whoever wrote them.

Names are compared here. A regular expression is matched in a process of its own that is killed at a deadline: it could
take for ever, and while it is matched no other thread of its process runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from adapters.bank import match_patterns
from adapters.bank.match_patterns import Match, is_literal, match, regular_expressions
from registry.errors import BadWeights, LoadFailed, UloraError
from registry.machine.programs import ask_module

MATCH_SECONDS = 10.0
"""For all patterns of a configuration. Honest ones take a tenth of a second, most of it the start of a process."""
MAX_COMPARISONS = 300_000
"""Of names in this process: twice those of a rank and an alpha for each module of the largest known backbone."""
MAX_QUESTION = 1024 * 1024
"""Bytes of a configuration's patterns and the names together; those of the largest known backbone take a tenth."""
CACHED_ANSWERS = 64
"""The adapters of a version usually have the same patterns, and then need one process."""

_HINT = "write names of modules: a list in target_modules, whole names in rank_pattern and alpha_pattern"


def match_modules(patterns: Mapping[str, Any], names: Sequence[str], path: str) -> list[Match]:
    """What a configuration's patterns say about each module, exactly as PEFT would.

    Args:
        patterns: see `adapters.bank.match_patterns.patterns_of`.
        path: the configuration's file, for messages.

    Raises:
        BadWeights: when a pattern is not a regular expression, or matching them takes too long or too much memory.
        LoadFailed: when no process can be started.
    """
    keys = len(patterns["rank_pattern"]) + len(patterns["alpha_pattern"])
    if is_literal(patterns) and keys * len(names) <= MAX_COMPARISONS:
        return match(patterns, names)
    question = json.dumps({"patterns": patterns, "names": list(names)}).encode()
    if len(question) > MAX_QUESTION:
        raise BadWeights(f"{path}: its patterns are longer than {MAX_QUESTION} bytes", hint=_HINT)
    try:
        answer = _ask(question)
    except TimeoutError as error:
        problem = f"can't be matched with the names of modules within {MATCH_SECONDS:g} s"
        raise BadWeights(f"{path}: {_shown(patterns)} {problem}", hint=_HINT) from error
    except OSError as error:
        raise LoadFailed(f"{path}: no process can be started to match its patterns: {error}") from error
    except (UloraError, ValueError) as error:
        problem = f"can't be matched with the names of modules: {error}"[:400]
        raise BadWeights(f"{path}: {_shown(patterns)} {problem}", hint=_HINT) from error
    if "invalid" in answer:
        field, text, reason = answer["invalid"]
        raise BadWeights(f"{path}: {field} {text!r} is not a regular expression: {reason}", hint=_HINT)
    return _checked(answer.get("matches"), patterns, len(names), path)


@lru_cache(maxsize=CACHED_ANSWERS)
def _ask(question: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ask_module(match_patterns.__name__, question, seconds=MATCH_SECONDS))
    return answer


def _checked(matches: Any, patterns: Mapping[str, Any], count: int, path: str) -> list[Match]:
    """The answer, which comes from a process that read what anybody may have written."""
    sizes = [len(patterns[name]) for name in ("rank_pattern", "alpha_pattern")]
    if not isinstance(matches, list) or len(matches) != count or not all(_is_match(one, sizes) for one in matches):
        raise BadWeights(f"{path}: {_shown(patterns)} gave an answer that makes no sense", hint=_HINT)
    return [(is_target, rank, alpha) for is_target, rank, alpha in matches]


def _is_match(one: Any, sizes: Sequence[int]) -> bool:
    if not isinstance(one, list) or len(one) != 3 or type(one[0]) is not bool:
        return False
    pairs = zip(one[1:], sizes, strict=True)
    return all(number is None or (type(number) is int and 0 <= number < size) for number, size in pairs)


def _shown(patterns: Mapping[str, Any]) -> str:
    """The first regular expression of each field."""
    found = {field: texts for field, texts in regular_expressions(patterns).items() if texts}
    shown = ", ".join(
        f"{field} {texts[0][:60]!r}" + (f" and {len(texts) - 1} more" if len(texts) > 1 else "")
        for field, texts in found.items()
    )
    return shown or "its many names"
