"""Trees that others wrote: what is taken, and what is refused before anybody walks into it."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.backbone import sanitise as module
from adapters.backbone.sanitise import MAX_DEPTH, sanitise

LONE = "\ud800"


def nested(depth: int) -> Any:
    tree: Any = 1
    for _ in range(depth):
        tree = [tree]
    return tree


def cyclic() -> Any:
    tree: list[Any] = []
    tree.append({"again": tree})
    return tree


def doubling() -> Any:
    """2^40 values when it is unfolded, 40 lists as it is."""
    tree: list[Any] = [1]
    for _ in range(40):
        tree = [tree, tree]
    return tree


def test_what_json_has_stays_as_it_is() -> None:
    tree = {"name": "ä", "numbers": [1, 2.5, None, True], 3: {"rows": [[0.5, 1.5], []]}}
    assert sanitise(tree) == tree


def test_numbers_that_json_does_not_have_become_texts() -> None:
    assert sanitise([float("nan"), float("inf"), -float("inf"), 1.0]) == ["nan", "inf", "-inf", 1.0]


def test_sets_have_one_order_whatever_the_hashes_are() -> None:
    assert sanitise({"labels": {"rust", "blight", "healthy"}}) == {"labels": ["blight", "healthy", "rust"]}


def test_the_leaf_check_sees_all_other_values_also_in_sets() -> None:
    asked: list[str] = []
    sanitise({"a": [1j], "b": ({2j},)}, lambda name, value: asked.append(name) or str(value))
    assert asked == ["a.0", "b.0.0"]


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (nested(MAX_DEPTH + 1), "too deep"),
        (nested(900), "too deep"),
        (cyclic(), "too deep"),
        ({5: 1, "5": 2}, "same string"),
        ({LONE: 1}, "lone surrogate"),
        ({"a": [LONE]}, "lone surrogate"),
        ({"a": 10**400}, "64 bits"),
        ({"a": object()}, "'a' is a object"),
    ],
)
def test_what_can_t_be_stored_is_refused(tree: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sanitise(tree)


def test_a_tree_that_unfolds_without_end_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NODES", 10_000)
    with pytest.raises(ValueError, match="too many values"):
        sanitise(doubling())
