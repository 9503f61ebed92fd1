"""From merged units to counts: shares stay right with any number of keys, requests of a key, and stages."""

import random
from collections.abc import Iterable

import pytest

from registry.trials.counts import events_between, folded, rate_of
from registry.trials.evalues import against_bound
from registry.trials.merge import MergedArm, MergedStage, merged
from registry.trials.observations import TrialStage
from registry.trials.recorder import Counted, Recorder
from registry.trials.sample_ratio import sample_ratio
from registry.trials.split import is_canary, unit_of
from registry.trials.units import Units

TRIAL = "0123456789abcdef" * 2


def stage_of(weight: float = 10.0, generation: int = 2, kind: str = "split", **units: Iterable[int]) -> MergedStage:
    """A merged stage with these units, by `ARM_EVENT`."""
    stage = TrialStage(generation, "v1.0.0", "v2.0.0", TRIAL, kind, weight)
    arms = {
        arm: MergedArm(
            "v", {event.partition("_")[2]: Units.of(found) for event, found in units.items() if arm in event}
        )
        for arm in ("stable", "canary")
    }
    return MergedStage(stage, arms, ("a",))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [3_000, 60_000])
def test_shares_of_units_are_right_with_any_number_of_keys(number: int) -> None:
    """Also where so many keys fill all units of both arms, or nearly."""
    for weight in (10.0, 90.0):
        arms: dict[bool, set[int]] = {True: set(), False: set()}
        for key in map(str, range(number)):
            arms[is_canary(TRIAL, key, weight)].add(unit_of(TRIAL, key))
        (counts,) = events_between([stage_of(weight, canary_asked=arms[True], stable_asked=arms[False])], "asked")
        assert not sample_ratio(counts).is_broken_at_the_end
        assert counts.n > 0.6 * number


def test_all_units_fold_into_the_arms_share() -> None:
    every = Units.of(range(65_536))
    assert folded(every, 0.1) == round(0.1 * 65_536)
    assert folded(every, 1.0) == 65_536
    assert folded(Units(), 0.1) == 0
    assert folded(Units.of([0, 1, 2]), 0.5) == 2
    assert folded(Units.of([0, 65_535]), 1e-9) == 1


def test_a_unit_counts_in_its_first_stage_only() -> None:
    first = stage_of(10, 2, canary_error=[1000], stable_error=[30_000, 60_000])
    second = stage_of(50, 3, canary_error=[1000, 30_000, 10_000], stable_error=[60_000, 20_000])
    counts = events_between([first, second], "error")
    assert [(one.x, one.n, one.share) for one in counts] == [(1, 3, 0.1), (1, 2, 0.5)]


def test_a_shadow_trial_counts_what_only_one_got_wrong() -> None:
    stage = stage_of(
        100, 2, "shadow",
        canary_labelled=range(10), stable_labelled=range(9), canary_wrong=[1, 2, 3, 9], stable_wrong=[3, 4],
    )  # fmt: skip
    (counts,) = events_between([stage], "wrong")
    assert (counts.x, counts.n, counts.share) == (2, 3, 0.5)


def test_without_a_canary_there_is_nothing_to_compare() -> None:
    stage = MergedStage(TrialStage(4, "v1.0.0"), {"stable": MergedArm("v1.0.0")}, ("a",))
    with pytest.raises(ValueError, match="no canary runs in generation 4"):
        events_between([stage], "error")


def test_a_rate_takes_each_unit_once_in_a_trial() -> None:
    first = MergedArm("v", {"asked": Units.of([1, 2]), "first_error": Units.of([1])})
    second = MergedArm("v", {"asked": Units.of([1, 2, 3, 4]), "first_error": Units.of([2, 3])})
    rate = rate_of([first, second], "error")
    assert (rate.x, rate.n) == (2, 4)


def test_keys_that_ask_often_do_not_raise_a_rate() -> None:
    """Of 200 keys that ask 50 times at 0.4% errors, 18% get one; the bound of 0.5% is for requests."""
    stage, draw = TrialStage(2, "v1.0.0", "v2.0.0", TRIAL, "split", 50.0), random.Random(4)
    recorders = [Recorder(name, "host") for name in "abc"]
    for _ in range(50):
        for unit in range(200):
            error = draw.random() < 0.004
            draw.choice(recorders).record(stage, "canary", unit, Counted("x", error=error))
    (found,) = merged([recorder.document() for recorder in recorders]).values()
    canary = found.arms["canary"]
    assert len(canary.of("error")) > 20
    assert rate_of([canary], "error").n == 200
    assert not against_bound(rate_of([canary], "error"), 0.005).rejects(0.05)
