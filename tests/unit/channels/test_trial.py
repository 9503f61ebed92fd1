"""The rules of trials as pure functions, and what releases without trials make of their records."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.channels.record import (
    Author,
    Canary,
    ChannelPosition,
    Record,
    aborted,
    partly_rolled_back,
    promoted,
    rolled_back,
    trial_advanced,
    trial_started,
)
from registry.channels.trial import StartTrial, Trial
from registry.errors import BadInput, NotFound, NotNow
from registry.formats import canonical
from registry.versions.pointer import Pointer

ME = Author("me@here", "because")
VERDICT, DECISION = "a" * 64, "d" * 64
TEN = StartTrial("split", 10)
SHADOW = StartTrial("shadow", 25)


def pointer(name: str) -> Pointer:
    return Pointer(version=name, manifest_sha256=canonical.sha256(name.encode()))


def at(head: Record | None) -> ChannelPosition:
    """The channel, as another process reads its newest record."""
    return ChannelPosition("m", "production", head and Record.parse(head.to_bytes(), "record"))


def serving(*names: str) -> ChannelPosition:
    """A channel to which these versions were promoted, one after the other."""
    head = None
    for name in names:
        head = promoted(at(head), pointer(name), ME, None)
    return at(head)


def on_trial(start: StartTrial = TEN) -> ChannelPosition:
    """v3 on trial beside v2, which replaced v1."""
    return at(trial_started(serving("v1.0.0", "v2.0.0"), pointer("v3.0.0"), ME, VERDICT, start))


def begun(start: StartTrial = TEN) -> tuple[Record, Canary, Trial]:
    """The record of `on_trial`, its canary and its trial."""
    record = on_trial(start).head
    assert record
    assert record.canary
    assert record.trial
    return record, record.canary, record.trial


def stack(record: Record) -> list[str]:
    return [each.version for each in record.stack]


def test_a_split_trial_gives_the_canary_its_share() -> None:
    record, canary, trial = begun()
    assert (record.action, record.generation, record.verdict) == ("canary", 3, VERDICT)
    assert (record.live(), canary.weight, stack(record)) == (("v2.0.0", "v3.0.0"), 10.0, ["v1.0.0"])
    assert (trial.kind, trial.started_generation, trial.plan, trial.salt) == ("split", 3, None, trial.id)
    assert (record.running_trial, record.trial_share) == (trial, "10%")
    assert record.baking is None


def test_two_trials_split_the_keys_differently() -> None:
    assert begun()[2].salt != begun()[2].salt


def test_a_shadow_trial_gives_the_canary_no_key() -> None:
    record, canary, trial = begun(StartTrial("shadow", 25, plan="quick"))
    assert (canary.weight, trial.shadow_percent, trial.plan) == (0, 25, "quick")
    assert record.trial_share == "shadow 25%"


@pytest.mark.parametrize(
    ("kind", "percent"),
    [("split", 0), ("split", 100), ("split", 99.999), ("split", 0.001), ("split", -1), ("split", 10.123),
     ("split", float("nan")), ("split", float("inf")), ("shadow", 0), ("shadow", 100.01), ("shadow", 100.1)],
)  # fmt: skip
def test_a_share_outside_of_its_bounds_is_bad_input(kind: str, percent: float) -> None:
    with pytest.raises(BadInput, match="not a share"):
        StartTrial(kind, percent)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "percent"), [("split", 0.01), ("split", 99.99), ("shadow", 100), ("shadow", 12.34)])
def test_shares_up_to_their_bounds_are_taken(kind: str, percent: float) -> None:
    assert StartTrial(kind, percent).percent == percent  # type: ignore[arg-type]


def test_the_name_of_a_plan_may_not_be_empty() -> None:
    with pytest.raises(BadInput, match="plan is empty"):
        StartTrial("split", 10, plan=" ")


def test_a_trial_needs_a_stable_version() -> None:
    with pytest.raises(NotNow, match="serves no version") as refused:
        trial_started(at(None), pointer("v1.0.0"), ME, None, TEN)
    assert "ulora promote v1.0.0" in refused.value.hint


def test_stable_is_not_tried_beside_itself() -> None:
    with pytest.raises(BadInput, match="is stable"):
        trial_started(serving("v1.0.0"), pointer("v1.0.0"), ME, None, TEN)


def test_there_is_one_trial_at_a_time() -> None:
    with pytest.raises(NotNow, match=r"v3\.0\.0 is on trial in production \(10%\)") as refused:
        trial_started(on_trial(), pointer("v4.0.0"), ME, None, TEN)
    assert "ulora canary abort" in refused.value.hint


def test_a_promotion_during_a_trial_names_both_ways_on() -> None:
    with pytest.raises(NotNow, match=r"shadow 25%") as refused:
        promoted(on_trial(SHADOW), pointer("v4.0.0"), ME, None)
    assert "`ulora canary advance --to 100 --channel production`" in refused.value.hint
    assert "`ulora canary abort --channel production`" in refused.value.hint


def test_a_trial_takes_a_version_back_from_the_withdrawn() -> None:
    back = rolled_back(serving("v1.0.0", "v2.0.0"), ME)
    record = trial_started(at(back), pointer("v2.0.0"), ME, VERDICT, TEN)
    assert record.withdrawn == ()
    assert aborted(at(record), ME).withdrawn == ("v2.0.0",)


def test_a_version_on_trial_is_no_rollback_target() -> None:
    record = trial_started(serving("v1.0.0", "v2.0.0"), pointer("v1.0.0"), ME, VERDICT, TEN)
    assert record.rollback_targets() == ()
    assert stack(trial_advanced(at(record), ME, 100)) == ["v2.0.0"]
    assert stack(aborted(at(record), ME)) == []


def test_each_advance_is_another_stage_of_the_same_trial() -> None:
    first, _, trial = begun()
    second = trial_advanced(at(first), ME, 50, DECISION)
    assert (second.action, second.generation, second.running_trial) == ("advance", 4, trial)
    assert second.trial_share == "50%"
    assert (second.verdict, second.decision, second.baking) == (VERDICT, DECISION, None)
    third = trial_advanced(at(second), ME, 75.5)
    assert (third.decision, third.trial_share) == (None, "75.5%")


@pytest.mark.parametrize("start", [TEN, SHADOW])
def test_at_100_the_canary_is_promoted_and_bakes(start: StartTrial) -> None:
    before, _, trial = begun(start)
    done = trial_advanced(at(before), ME, 100)
    assert (done.live(), stack(done), done.verdict) == (("v3.0.0",), ["v2.0.0", "v1.0.0"], VERDICT)
    assert done.stable == pointer("v3.0.0")
    assert (done.running_trial, done.baking) == (None, trial)
    assert rolled_back(at(done), ME, decision=DECISION).decision == DECISION


@pytest.mark.parametrize("percent", [10, 9.99, 0, 100.5, -5])
def test_a_share_only_grows(percent: float) -> None:
    with pytest.raises(BadInput):
        trial_advanced(on_trial(), ME, percent)


def test_a_shadow_trial_has_no_share_to_raise() -> None:
    with pytest.raises(BadInput, match="answers nobody"):
        trial_advanced(on_trial(SHADOW), ME, 50)


@pytest.mark.parametrize("change", [lambda place: trial_advanced(place, ME, 50), lambda place: aborted(place, ME)])
def test_without_a_canary_there_is_nothing_to_change(change: Callable[[ChannelPosition], Record]) -> None:
    for place in (at(None), serving("v1.0.0")):
        with pytest.raises(NotFound, match="no canary"):
            change(place)


def test_a_kind_of_a_newer_release_is_read_and_ended_only() -> None:
    head, _, trial = begun()
    newer = head.model_copy(update={"trial": trial.model_copy(update={"kind": "bandit"})})
    with pytest.raises(NotNow, match="bandit"):
        trial_advanced(at(newer), ME, 50)
    assert aborted(at(newer), ME).live() == ("v2.0.0",)


def test_the_fields_of_a_trial_end_with_it() -> None:
    place = on_trial()
    ends = (aborted(place, ME), rolled_back(place, ME))
    promotion = promoted(at(trial_advanced(place, ME, 100, DECISION)), pointer("v4.0.0"), ME, None)
    part = partly_rolled_back(at(trial_advanced(place, ME, 100, DECISION)), pointer("v4.0.0"), ME)
    for record in (*ends, promotion, part):
        assert not {"trial", "decision", "canary"} & canonical.decode(record.to_bytes(), "record").keys()


def test_unknown_fields_of_a_trial_are_kept_while_it_runs() -> None:
    head, _, trial = begun()
    newer = head.model_copy(update={"trial": trial.model_copy(update={"region": "eu"})})
    for percent in (50, 100):
        record = canonical.decode(trial_advanced(at(newer), ME, percent).to_bytes(), "record")
        assert record["trial"]["region"] == "eu"


def of_older_release(record: Record, before: Record | None) -> Record:
    """The record that a release without trials writes for the same change: it copies on what it does not know."""
    document = canonical.decode(record.to_bytes(), "record")
    known = {} if before is None else canonical.decode(before.to_bytes(), "record")
    copied = {name: known[name] for name in ("trial", "decision") if name in known}
    return Record.parse(canonical.encode({**document, **copied}), "record")


steps = st.lists(st.tuples(st.sampled_from(("start", "advance", "promote", "abort", "rollback")), st.booleans()))


@given(steps=steps, kind=st.sampled_from(("split", "shadow")))
def test_a_copied_trial_never_runs_and_never_bakes(steps: list[tuple[str, bool]], kind: str) -> None:
    """Whoever of an older and of this release ends a trial, only its own records say that it runs or bakes."""
    head: Record | None = serving("v1.0.0", "v2.0.0").head
    running = baking = None
    start = StartTrial(kind, 10)  # type: ignore[arg-type]
    changes: dict[str, Callable[[ChannelPosition], Record]] = {
        "start": lambda place: trial_started(place, pointer("v3.0.0"), ME, VERDICT, start),
        "advance": lambda place: trial_advanced(place, ME, 100 if kind == "shadow" or running_wide(place) else 50),
        "promote": lambda place: promoted(place, pointer("v4.0.0"), ME, VERDICT),
        "abort": lambda place: aborted(place, ME),
        "rollback": lambda place: rolled_back(place, ME),
    }
    for step, is_older in steps:
        try:
            record = changes[step](at(head))
        except (BadInput, NotFound, NotNow):
            continue
        knows_trials = not is_older or step in ("start", "advance")
        head = record if knows_trials else of_older_release(record, head)
        if step == "start":
            running, baking = record.trial, None
        elif step == "advance" and record.canary is None:
            running, baking = None, running
        elif step != "advance":
            running = baking = None
        assert (head.running_trial, head.baking) == (running, baking)


def running_wide(place: ChannelPosition) -> bool:
    """Whether the canary has half of the keys already."""
    return bool(place.head and place.head.canary and place.head.canary.weight >= 50)
