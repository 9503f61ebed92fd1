"""What brings a channel to what a file wants, as pure functions, and how the file is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.channels.record import (
    Author,
    ChannelPosition,
    Record,
    aborted,
    promoted,
    rolled_back,
    trial_advanced,
    trial_started,
)
from registry.channels.trial import StartTrial
from registry.errors import BadInput, UloraError
from registry.formats import canonical
from registry.usecases.apply_steps import ApplyStep, ChannelPlan, plan_channel
from registry.usecases.wanted_channels import WantedChannel, WantedTrial, parse_wanted, read_wanted
from registry.versions.pointer import Pointer

ME = Author("me@here", "because")
VERSIONS = ("v1.0.0", "v2.0.0", "v3.0.0")


def pointer(name: str) -> Pointer:
    return Pointer(version=name, manifest_sha256=canonical.sha256(name.encode()))


def at(head: Record | None) -> ChannelPosition:
    return ChannelPosition("m", "production", head)


def serving(*names: str) -> Record | None:
    """The record after these versions were promoted, one after the other."""
    head = None
    for name in names:
        head = promoted(at(head), pointer(name), ME, None)
    return head


def trying(start: StartTrial) -> Record:
    """v3 on trial beside v2, which replaced v1."""
    return trial_started(at(serving("v1.0.0", "v2.0.0")), pointer("v3.0.0"), ME, "a" * 64, start)


def wanted(stable: str, canary: str | None = None, **trial: Any) -> WantedChannel:
    return WantedChannel(
        stable=stable, canary=WantedTrial(version=canary, **(trial or {"percent": 10.0})) if canary else None
    )


def planned(head: Record | None, want: WantedChannel, *, allow_back: bool = True) -> ChannelPlan:
    return plan_channel("production", head, want, allow_back=allow_back)


def steps(head: Record | None, want: WantedChannel) -> list[tuple[str, str, float]]:
    plan = planned(head, want)
    assert not plan.held
    return [(step.action, step.version, step.percent) for step in plan.steps]


def test_an_empty_channel_is_promoted_to_then_tries() -> None:
    assert steps(None, wanted("v1.0.0", "v2.0.0")) == [("promote", "v1.0.0", 0), ("canary", "v2.0.0", 0)]


def test_a_channel_as_wanted_needs_nothing() -> None:
    assert steps(serving("v1.0.0", "v2.0.0"), wanted("v2.0.0")) == []
    assert steps(trying(StartTrial("split", 10)), wanted("v2.0.0", "v3.0.0")) == []
    shadow = trying(StartTrial("shadow", 25, "default"))
    assert steps(shadow, wanted("v2.0.0", "v3.0.0", shadow=True, percent=25.0, plan="default")) == []


def test_a_new_version_is_promoted() -> None:
    assert steps(serving("v1.0.0", "v2.0.0"), wanted("v3.0.0")) == [("promote", "v3.0.0", 0)]


def test_a_running_trial_grows_and_is_never_made_smaller() -> None:
    head = trying(StartTrial("split", 10))
    assert steps(head, wanted("v2.0.0", "v3.0.0", percent=50.0)) == [("advance", "v3.0.0", 50)]
    plan = planned(head, wanted("v2.0.0", "v3.0.0", percent=5.0))
    assert (plan.steps, plan.held, plan.note) == ((), "", "v3.0.0 has 10% already")


def test_a_running_trial_becomes_stable_as_it_is() -> None:
    head = trying(StartTrial("split", 10))
    assert steps(head, wanted("v3.0.0")) == [("advance", "v3.0.0", 100)]
    assert steps(head, wanted("v3.0.0", "v1.0.0")) == [("advance", "v3.0.0", 100), ("canary", "v1.0.0", 0)]


def test_a_trial_of_another_kind_or_plan_is_held() -> None:
    for want in (
        wanted("v2.0.0", "v3.0.0", shadow=True),
        wanted("v2.0.0", "v3.0.0", percent=10.0, plan="slow"),
    ):
        assert "a new trial" in planned(trying(StartTrial("split", 10)), want).held
    assert "a new trial" in planned(trying(StartTrial("shadow", 25)), wanted("v2.0.0", "v3.0.0", shadow=True)).held


def test_steps_back_are_held_unless_they_are_allowed() -> None:
    for head, want, action in (
        (serving("v1.0.0", "v2.0.0"), wanted("v1.0.0"), "rollback"),
        (trying(StartTrial("split", 10)), wanted("v2.0.0"), "abort"),
    ):
        assert steps(head, want)[0][0] == action
        plan = planned(head, want, allow_back=False)
        assert "--allow-back" in plan.held
        assert not plan.steps


def test_a_version_that_was_rolled_back_is_not_promoted_again() -> None:
    back = rolled_back(at(serving("v1.0.0", "v2.0.0")), ME)
    assert "v2.0.0 was rolled back here" in planned(back, wanted("v2.0.0")).held
    ended = aborted(at(trying(StartTrial("split", 10))), ME)
    assert "v3.0.0 was rolled back here" in planned(ended, wanted("v2.0.0", "v3.0.0")).held


def test_a_version_that_its_trial_made_stable_is_not_left() -> None:
    shipped = trial_advanced(at(trying(StartTrial("split", 10))), ME, 100)
    assert "say `stable: v3.0.0`" in planned(shipped, wanted("v2.0.0", "v3.0.0")).held


def test_a_trial_of_another_version_ends_first() -> None:
    head = trying(StartTrial("split", 10))
    assert steps(head, wanted("v2.0.0", "v1.0.0")) == [("abort", "v3.0.0", 0), ("canary", "v1.0.0", 0)]
    assert steps(head, wanted("v1.0.0")) == [("abort", "v3.0.0", 0), ("rollback", "v1.0.0", 0)]


def test_what_a_rollback_withdraws_is_not_tried_after_it() -> None:
    plan = planned(serving("v1.0.0", "v2.0.0", "v3.0.0"), wanted("v1.0.0", "v2.0.0"))
    assert "withdraws v2.0.0" in plan.held
    assert not plan.steps


RULES: dict[str, Callable[[ChannelPosition, ApplyStep, WantedChannel], Record]] = {
    "promote": lambda position, step, _: promoted(position, pointer(step.version), ME, None),
    "rollback": lambda position, step, _: rolled_back(position, ME, step.version),
    "abort": lambda position, _, __: aborted(position, ME),
    "advance": lambda position, step, _: trial_advanced(position, ME, step.percent),
    "canary": lambda position, step, want: trial_started(
        position, pointer(step.version), ME, "a" * 64, want.canary.start if want.canary else StartTrial("split", 1)
    ),
}
"""The rule of records that each step is taken by."""


def taken(head: Record | None, plan: ChannelPlan, want: WantedChannel) -> Record | None:
    """The channel after the steps of a plan."""
    for step in plan.steps:
        head = RULES[step.action](at(head), step, want)
    return head


wishes = st.builds(
    lambda stable, other, percent, shadow: wanted(
        stable, other if other != stable else None, percent=percent, shadow=shadow
    ),
    st.sampled_from(VERSIONS),
    st.sampled_from((None, *VERSIONS)),
    st.sampled_from((5.0, 10.0, 50.0)),
    st.booleans(),
)


@given(st.lists(wishes, min_size=1, max_size=8), st.booleans())
def test_the_steps_are_possible_and_reach_what_is_wanted(files: list[WantedChannel], allow_back: bool) -> None:
    head: Record | None = None
    for want in files:
        plan = plan_channel("production", head, want, allow_back=allow_back)
        head = taken(head, plan, want)
        if plan.held:
            assert not plan.steps
            continue
        assert head
        assert head.live() == tuple(filter(None, (want.stable, want.canary and want.canary.version)))
        again = plan_channel("production", head, want, allow_back=False)
        assert (again.steps, again.held) == ((), "")


FILE = b"""format: 1
model: leaves
channels:
  production:
    stable: v5.5.3-performance
    canary: {version: v5.5.4-dinov3, percent: 10}
"""


def test_a_file_is_read() -> None:
    read = parse_wanted(FILE)
    assert read.channels["production"].canary == WantedTrial(version="v5.5.4-dinov3", percent=10)
    read.check_model("leaves")
    with pytest.raises(BadInput, match="the file is for the model 'leaves'"):
        read.check_model("fruit")


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        (b"format: 1", b"format: 2", "line 1: format"),
        (b"format: 1", b"format: true", "line 1: format"),
        (b"production:", b"prod:", "no channel is called 'prod'"),
        (b"stable: v5.5.3-performance", b"stable: 5.5", "line 5"),
        (b"stable:", b"stabel:", "line 5"),
        (b"percent: 10", b"percent: 100", "100% is not a share"),
        (b"percent: 10", b"percent: ten", "line 6"),
        (b", percent: 10", b"", "how many of the keys"),
        (b"v5.5.4-dinov3", b"v5.5.3-performance", "beside itself"),
        (b"channels:\n", b"channels: &a\n", "anchors"),
        (b"model: leaves", b"model: [" + b"[" * 50, "levels deep"),
        (FILE, b"", "it is empty"),
        (FILE, b"format: 1\nchannels: {}\n", "channels"),
        (FILE, b"# " + b"x" * 70_000, "bytes"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(was: bytes, now: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_wanted(FILE.replace(was, now), "channels.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.yaml can't be read"):
        read_wanted(tmp_path / "nowhere.yaml")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_wanted(data)
    except UloraError as error:
        assert error.hint  # noqa: PT017
