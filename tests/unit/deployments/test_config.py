"""What `-C` may say."""

from __future__ import annotations

from typing import Any

import pytest

from registry.deployments.config import ACTIONS, Promote, RollBack, StartCanary, read_action
from registry.deployments.target import target_help
from registry.errors import BadInput


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"speed": "high"}, ("speed", "it takes expected, force, reason")),
        ({"action": "destroy"}, ("action=destroy is unknown", "promote, canary, advance, abort, rollback")),
        ({"action": ["promote"]}, ("is unknown",)),
        ({"action": "rollback", "to": "v1.0.0"}, ("takes no version",)),
        ({"expected": "soon"}, ("-C expected", "valid integer")),
        ({"expected": -1}, ("-C expected",)),
        ({"expected": 10**30}, ("-C expected",)),
        ({"force": "perhaps"}, ("-C force",)),
        ({"reason": ["a"]}, ("-C reason",)),
        ({"action": "canary", "percent": "many"}, ("-C percent",)),
    ],
)
def test_what_is_unknown_or_invalid_is_refused(config: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as error:
        read_action(config, with_version=True)
    assert [word for word in says if word not in f"{error.value} {error.value.hint}"] == []


@pytest.mark.parametrize("action", ["promote", "canary"])
def test_what_needs_a_version_says_so(action: str) -> None:
    with pytest.raises(BadInput, match="needs a version"):
        read_action({"action": action}, with_version=False)


def test_texts_and_values_mean_the_same() -> None:
    assert read_action({"force": "true", "expected": "3", "reason": "why"}, with_version=True) == Promote(
        force=True, expected=3, reason="why"
    )
    assert read_action(None, with_version=True) == Promote()
    trial = read_action({"action": "canary", "percent": "12.5", "shadow": "no"}, with_version=True)
    assert trial == StartCanary(percent=12.5)
    back = read_action({"action": "rollback", "from": "v2.0.0", "only": "adapters/tomato, router"}, with_version=False)
    assert isinstance(back, RollBack)
    assert (back.leave, back.only) == ("v2.0.0", ("adapters/tomato", "router"))


def test_the_help_names_every_action_and_option() -> None:
    said = target_help()
    assert [name for name in ACTIONS if f"action={name} " not in said] == []
    assert "from" in said
    assert "leave" not in said.partition("-C NAME=VALUE")[2]
