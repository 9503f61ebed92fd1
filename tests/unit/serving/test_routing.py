"""Which version answers a request: the same on every replica, from the record and the key alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.serving.routing import Serving
from registry.trials.split import unit_of
from tests.support.echo_releases import Echo
from tests.support.trials import pointer_to, record_of, serving_of, trial_record

STABLE, CANARY = Echo("v1.0.0", "", b"1"), Echo("v2.0.0", "", b"2")
SPLIT, SHADOW = trial_record("split", 10), trial_record("shadow", 25)
KEYS = [f"user-{number}" for number in range(4000)]


@given(st.text(min_size=1))
def test_every_replica_chooses_the_same_for_a_key(key: str) -> None:
    here, there = (serving_of(SPLIT, STABLE, CANARY).choose(key, request) for request in ("a", "b"))
    assert here == there
    assert here.sticky
    assert here.unit == unit_of(SPLIT.trial.salt, key)


def test_the_canary_answers_its_share_of_the_keys() -> None:
    serving = serving_of(SPLIT, STABLE, CANARY)
    routes = [serving.choose(key) for key in KEYS]
    assert sum(route.arm == "canary" for route in routes) == pytest.approx(400, abs=80)
    for route in routes:
        assert (route.version, route.manifest_sha256) == {
            "canary": ("v2.0.0", pointer_to("v2.0.0").manifest_sha256),
            "stable": ("v1.0.0", pointer_to("v1.0.0").manifest_sha256),
        }[route.arm]
        assert (route.arm, route.left_out) == (route.counts_for, "")


def test_without_a_key_the_request_decides() -> None:
    serving = serving_of(SPLIT, STABLE, CANARY)
    arms = {serving.choose(None, f"request-{number}").arm for number in range(500)}
    assert arms == {"stable", "canary"}
    assert serving.choose("", "request-1") == serving.choose(None, "request-1")
    assert not serving.choose(None, "request-1").sticky
    assert len({serving.choose(None).unit for _ in range(20)}) > 1


def test_in_a_shadow_trial_stable_answers_all() -> None:
    serving = serving_of(SHADOW, STABLE, CANARY)
    routes = [serving.choose(key) for key in KEYS]
    assert {(route.arm, route.version) for route in routes} == {("stable", "v1.0.0")}
    assert sum(route.shadow is CANARY for route in routes) == pytest.approx(1000, abs=120)
    assert {(route.shadow is None, route.left_out) for route in routes} == {(True, "not_shadowed"), (False, "")}


@pytest.mark.parametrize("record", [SPLIT, SHADOW])
def test_without_its_canary_a_replica_is_left_out(record: object) -> None:
    serving = serving_of(record, STABLE, None)  # type: ignore[arg-type]
    assert {(serving.choose(key).version, serving.choose(key).left_out) for key in KEYS[:200]} == {
        ("v1.0.0", "without_canary")
    }
    assert serving.forced("canary") is None


def test_without_a_trial_units_are_those_of_the_generation() -> None:
    route = serving_of(record_of(), STABLE, None).choose("user")
    assert (route.stage.trial, route.stage.generation, route.left_out) == ("", 7, "")
    assert route.unit == unit_of("generation-7", "user")


def test_a_trial_of_an_unknown_kind_is_served_by_stable() -> None:
    trial = SPLIT.trial.model_copy(update={"kind": "interleaved"})
    serving = serving_of(SPLIT.model_copy(update={"trial": trial}), STABLE, None)
    assert {serving.choose(key).left_out for key in KEYS[:50]} == {""}
    assert serving.stage.trial == ""


def test_a_chosen_version_is_left_out() -> None:
    serving = serving_of(SPLIT, STABLE, CANARY)
    for route, version in ((serving.forced("canary"), "v2.0.0"), (serving.forced("stable"), "v1.0.0")):
        assert (route.version, route.arm, route.left_out, route.sticky) == (version, "named", "forced", False)
    assert Serving(SPLIT, STABLE, "").described.stage is None
