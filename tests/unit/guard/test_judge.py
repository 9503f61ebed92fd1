"""What the guard concludes of a trial, from records, observations and heartbeats alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.channels.record import Record, aborted, trial_started
from registry.channels.trial import StartTrial
from registry.evidence.policy import Policy, parse_policy
from registry.guard.counting import facts_of
from registry.guard.decision import Decision
from registry.guard.finding import GuardFinding
from registry.guard.judge import FLAP_SECONDS
from registry.guard.replay import replay_decision
from registry.trials.observations import WINDOW_SECONDS, TrialStage, Window
from registry.trials.recorder import Counted
from registry.usecases.observed import ChannelLook, SeenObject
from tests.support.watched_trials import (
    AUTHOR,
    GOOD,
    NOW,
    Fleet,
    Rates,
    advanced,
    at,
    heartbeat,
    pointer,
    policy,
    started,
)

POLICY = policy()
ERRORS_TEXT = "\n    - {metric: error_rate, max: 0.005, severity: rollback}\n"
ERRORS = policy(ERRORS_TEXT)
BAD = Rates(error=0.2)


def decided(look: ChannelLook, rules: Policy = POLICY) -> Decision:
    facts = facts_of(look, rules)
    assert facts
    return Decision.of(facts)


def asked(
    records: list[Record],
    keys: int = 3000,
    canary: Rates = GOOD,
    stable: Rates = GOOD,
    fleet: Fleet | None = None,
) -> tuple[Fleet, ChannelLook]:
    fleet = fleet or Fleet()
    fleet.begin(records[-1])
    fleet.ask(records[-1], keys, canary, stable)
    return fleet, fleet.look(records)


def stage_of(fleet: Fleet) -> TrialStage:
    return fleet.observations()[0].stages[0].stage


def finding(decision: Decision, about: str) -> GuardFinding:
    (found,) = [each for each in decision.findings if each.about.startswith(about)]
    return found


def test_a_version_with_errors_goes_back() -> None:
    _, look = asked(started(), canary=BAD)
    decision = decided(look, ERRORS)
    assert (decision.outcome, decision.action, decision.to) == ("fail", "rollback", "v1.0.0")
    broken = finding(decision, "error_rate")
    assert broken.log_e is not None
    assert broken.log_e > 3
    assert (broken.outcome, broken.is_told) == ("fail", True)
    assert broken.alpha == pytest.approx(0.8 * 0.02)
    assert broken.value == pytest.approx(0.2, abs=0.05)


def test_a_good_version_advances_by_its_plan() -> None:
    _, look = asked(started())
    decision = decided(look)
    assert (decision.outcome, decision.action, decision.to) == ("pass", "advance", "50")


@pytest.mark.parametrize(
    ("age", "keys", "action"), [(3599.0, 3000, "none"), (3600.0, 3000, "advance"), (3600.0, 300, "none")]
)
def test_a_step_takes_its_time_and_units(age: float, keys: int, action: str) -> None:
    records = started()
    fleet, _ = asked(records, keys)
    assert decided(fleet.look(records, ages={2: age}), ERRORS).action == action


def test_without_a_plan_people_advance_it() -> None:
    _, look = asked(started(plan=None))
    assert decided(look).action == "none"
    _, look = asked(started(plan="no-such"))
    assert (decided(look).action, decided(look).reasons) == ("alert", ("the policy has no plan no-such",))


def test_the_guard_ends_no_shadow_trial_by_itself() -> None:
    _, look = asked(started(100, kind="shadow"))
    assert (decided(look).outcome, decided(look).action) == ("pass", "none")


def test_a_frozen_channel_does_not_advance() -> None:
    _, look = asked(started())
    window = "[{from: 2026-11-01T00:00:00Z, to: 2027-01-01T00:00:00Z}]"
    gates = parse_policy(f"format: 1\nchannels: {{staging: {{}}, production: {{freeze: {window}}}}}\n".encode())
    frozen = ERRORS.model_copy(update={"channels": gates.channels})
    assert decided(look, frozen).action == "hold"


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["split", "shadow"])
def test_a_version_that_answers_worse_than_stable_goes_back(kind: str) -> None:
    rule = policy("\n    - {metric: accuracy, min_ratio: 0.99, severity: rollback}\n")
    percent = 50.0 if kind == "split" else 100.0
    _, look = asked(started(percent, kind=kind), 6000, Rates(wrong=0.10), Rates(wrong=0.03))
    decision = decided(look, rule)
    assert (decision.outcome, decision.action) == ("fail", "rollback")
    worse = finding(decision, "accuracy")
    assert worse.value == pytest.approx(0.90 / 0.97, abs=0.01)
    assert worse.stable == pytest.approx(0.97, abs=0.01)


def test_a_significant_but_small_difference_is_no_harm() -> None:
    rule = policy("\n    - {metric: accuracy, min_ratio: 0.9, severity: rollback}\n")
    _, look = asked(started(50), 6000, Rates(wrong=0.10), Rates(wrong=0.03))
    decision = decided(look, rule)
    assert decision.outcome == "pass"
    assert finding(decision, "accuracy").reason.endswith(": surely worse than stable, but within the bound")


def test_min_effect_is_asked_beyond_the_bound() -> None:
    rules = "\n    - {metric: error_rate, max: 0.005, min_effect: 0.3, severity: rollback}\n"
    _, look = asked(started(), canary=BAD)
    decision = decided(look, policy(rules))
    assert decision.outcome == "pass"
    assert finding(decision, "error_rate").reason.endswith(": significant, but not by 0.3 beyond the bound")


def test_a_deeper_bound_is_tested_where_the_milder_one_is_broken() -> None:
    rules = """
    - {metric: accuracy, min: 0.80, severity: rollback}
    - {metric: accuracy, min: 0.95, severity: warn}
    """
    _, look = asked(started(50), 4000, Rates(wrong=0.1))
    decision = decided(look, policy(rules))
    assert decision.outcome == "pass"
    warned = finding(decision, "accuracy >= 0.95")
    assert (warned.outcome, warned.is_told, warned.value) == ("pass", True, pytest.approx(0.9, abs=0.01))
    assert not finding(decision, "accuracy >= 0.8,").is_told
    _, look = asked(started(50), 4000, Rates(wrong=0.3))
    assert decided(look, policy(rules)).action == "rollback"
    _, look = asked(started(50), 4000)
    assert finding(decided(look, policy(rules)), "accuracy >= 0.8,").reason.endswith("the milder bound is not broken")


def test_a_rule_that_is_only_tried_is_shown_and_nothing_follows() -> None:
    rules = "\n    - {metric: error_rate, max: 0.005, severity: rollback, dry_run: true}\n"
    _, look = asked(started(), canary=BAD)
    decision = decided(look, policy(rules))
    assert (decision.outcome, decision.action) == ("pass", "advance")
    assert finding(decision, "error_rate").outcome == "fail"


def test_the_ood_flag_is_judged_from_labels() -> None:
    rules = policy("\n    - {metric: ood_auroc, min: 0.85, severity: rollback}\n")
    records = started(50)
    fleet, look = asked(records)
    assert decided(look, rules).outcome == "hold"
    fleet.ask_for_ood(records[-1], 800, Rates(missed=0.6), Rates(missed=0.05))
    assert decided(fleet.look(records), rules).outcome == "fail"


def test_memory_is_no_matter_of_chance() -> None:
    records = started()
    fleet, _ = asked(records)
    stage = stage_of(fleet)
    for megabytes, outcome in ((24.0, "pass"), (26.0, "pass"), (29.0, "hold")):
        fleet.recorders["b"].memory(stage, "canary", megabytes)
        decision = decided(fleet.look(records))
        assert decision.outcome == outcome
        assert finding(decision, "adapter_memory_mb <= 25").is_told == (megabytes > 25)
        assert finding(decision, "adapter_memory_mb <= 28").reason.endswith(
            "hold" if megabytes > 28 else ": within the bound"
        )


def test_slow_windows_count_within_one_replica() -> None:
    rules = policy(
        "\n    - {metric: latency_ratio_p95, max: 1.1, severity: rollback}\n"
        "    - {metric: latency_ms_p95, max: 220, severity: rollback}\n"
    )
    records = started(50)
    slow = over_time(records, Rates(milliseconds=100), Rates(milliseconds=50))
    decision = decided(slow, rules)
    assert (decision.outcome, finding(decision, "latency_ratio_p95").outcome) == ("fail", "fail")
    assert finding(decision, "latency_ratio_p95").value == pytest.approx(2.0, rel=0.01)
    assert finding(decision, "latency_ms_p95").outcome == "pass"
    same = over_time(records, Rates(milliseconds=300), Rates(milliseconds=300))
    assert decided(same, rules).outcome == "pass"


def test_a_clock_that_is_off_by_an_hour_changes_nothing() -> None:
    rules = policy("\n    - {metric: latency_ratio_p95, max: 1.1, severity: rollback}\n")
    records, rates = started(50), (Rates(milliseconds=100), Rates(milliseconds=50))
    right = decided(over_time(records, *rates), rules)
    wrong = decided(over_time(records, *rates, clocks={"a": 3600.0, "b": -3600.0}), rules)
    assert right.facts.signs == wrong.facts.signs
    assert wrong.action == "rollback"


def over_time(
    records: list[Record], canary: Rates, stable: Rates, windows: int = 30, clocks: Mapping[str, float] | None = None
) -> ChannelLook:
    """As many windows of ten seconds, in which all replicas answer for either arm."""
    fleet = Fleet(clocks=clocks or {}, now=NOW - timedelta(seconds=10 * windows + 10))
    fleet.begin(records[-1])
    for _ in range(windows):
        fleet.ask(records[-1], 120, canary, stable, labels=False)
        fleet.now += timedelta(seconds=10)
    fleet.now = NOW
    return fleet.look(records, ages={2: 3000.0})


# --- no data, broken data --------------------------------------------------------------------------------------------


def test_no_data_holds_and_never_passes() -> None:
    fleet = Fleet()
    records = started()
    fleet.begin(records[-1])
    decision = decided(fleet.look(records), ERRORS)
    assert (decision.outcome, decision.action) == ("hold", "hold")
    assert "nobody asked v2.0.0" in finding(decision, "error_rate").reason


def test_what_is_missing_may_count_as_zero() -> None:
    rules = "\n    - {metric: accuracy, min: 0.9, severity: warn}\n"
    rules += "    - {metric: error_rate, max: 0.005, severity: rollback, missing: zero}\n"
    fleet, records = Fleet(), started()
    fleet.begin(records[-1])
    assert decided(fleet.look(records), policy(rules)).outcome == "pass"


def test_an_unreadable_observation_holds() -> None:
    _, look = asked(started())
    odd = SeenObject("odd", 1.0, None, "not JSON")
    decision = decided(replace(look, observations=(*look.observations, odd)), ERRORS)
    assert (decision.outcome, decision.action) == ("hold", "hold")
    assert "odd" in finding(decision, "heartbeats or observations").reason


def test_more_replicas_than_are_read_hold_and_say_what_to_do() -> None:
    _, look = asked(started())
    decision = decided(replace(look, left_out=7), ERRORS)
    assert (decision.outcome, decision.action) == ("hold", "hold")
    said = finding(decision, "more replicas have counted")
    assert said.is_told
    assert said.reason == "7 beyond the newest 2,000: advance the trial, end it, or start it again"
    assert not decision.facts.fleet.unread.count


def test_a_replica_that_does_not_write_its_observations_holds() -> None:
    _, look = asked(started())
    mute = SeenObject("mute", 1.0, heartbeat("mute", 2))
    for heartbeats, name in (
        ((*look.heartbeats, mute), "mute"),
        ((SeenObject("a", 1.0, heartbeat("a", 2, observations_problem="denied")), *look.heartbeats[1:]), "a"),
    ):
        decision = decided(replace(look, heartbeats=heartbeats), ERRORS)
        assert decision.outcome == "hold"
        assert finding(decision, "replicas without fresh").reason == f"1: {name}"


def test_without_live_replicas_nothing_goes_on() -> None:
    fleet, look = asked(started())
    fleet.ages = dict.fromkeys(fleet.names, 60.0)
    decision = decided(fleet.look([*reversed(look.records), look.head]), ERRORS)
    assert decision.reasons == ("no replica has a fresh heartbeat",)


def test_another_trial_than_the_records_is_not_counted() -> None:
    records, others = started(), started(20)
    _, look = asked(others, canary=BAD)
    told = replace(look, head=records[-1], records=tuple(reversed(records[:-1])))
    decision = decided(told, ERRORS)
    assert decision.outcome == "hold"
    assert decision.facts.fleet.contradicting.count == 3


def test_arms_without_their_shares_are_broken_and_not_compared() -> None:
    records = started(50)
    fleet, _ = asked(records, 4000, Rates(wrong=0.1), Rates())
    stage = stage_of(fleet)
    for unit in range(8000):
        fleet.recorders["a"].record(stage, "canary", unit, Counted("answer"))
    decision = decided(fleet.look(records))
    assert (decision.outcome, decision.action) == ("broken", "alert")
    assert finding(decision, "accuracy >= 0.99 x stable").outcome == "broken"


def test_a_failure_counts_more_than_a_broken_trial() -> None:
    records = started(50)
    fleet, _ = asked(records, 2000)
    stage = stage_of(fleet)
    for unit in range(8000):
        fleet.recorders["a"].record(stage, "canary", unit, Counted("500", error=True))
    assert decided(fleet.look(records), ERRORS).outcome == "fail"


def test_a_trial_that_waits_too_long_is_left_to_people() -> None:
    records = started()
    fleet, _ = asked(records, 300)
    day = 86_400.0
    assert decided(fleet.look(records, ages={2: 3 * day}), ERRORS).action == "none"
    late = decided(fleet.look(records, ages={2: 3 * day + 3601}), ERRORS)
    assert (late.outcome, late.action) == ("pass", "alert")
    assert "a person has to decide" in late.reasons[-1]


# --- breakers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "failing", "action"),
    [(1, 1, "rollback"), (2, 1, "none"), (3, 2, "rollback"), (10, 2, "rollback"), (11, 2, "none"), (11, 3, "rollback")],
)
def test_enough_replicas_have_to_agree_on_a_failure(replicas: int, failing: int, action: str) -> None:
    fleet, records = Fleet(tuple(f"r{number}" for number in range(replicas))), started(plan=None)
    fleet.begin(records[-1])
    stage = stage_of(fleet)
    for name in fleet.names[:failing]:
        fleet.recorders[name].failed(stage, "canary", "load_failed")
    decision = decided(fleet.look(records), policy(" "))
    assert decision.action == action
    assert finding(decision, "load_failed").is_told


def test_what_hostile_replicas_write_stays_bounded() -> None:
    names = tuple(f"{number:02}-{'x' * 117}" for number in range(30))
    fleet, records = Fleet(names), advanced(started(50), 100)
    fleet.begin(records[-1])
    stage = stage_of(fleet)
    for name in names:
        fleet.recorders[name].failed(stage, "stable", "not_finite")
    look = fleet.look(records)
    document = look.observations[0].document
    assert document
    window = Window(at=int(NOW.timestamp()) // 10 - 2, n=5, asked=5, errors=10**9)
    arm = document.stages[0].arms["stable"]
    arm = arm.model_copy(update={"windows": (window,), "failures": {f"kind-{number}": 1 for number in range(20)}})
    odd = document.model_copy(update={"stages": (document.stages[0].model_copy(update={"arms": {"stable": arm}}),)})
    decision = decided(replace(look, observations=(SeenObject(names[0], 1.0, odd), *look.observations[1:])), ERRORS)
    assert decision.action == "rollback"
    assert [each.kind for each in decision.facts.breakers] == ["not_finite"]
    assert replay_decision(Decision.parse(decision.to_bytes(), "a decision")).equal


def test_replicas_that_are_gone_do_not_vote() -> None:
    fleet, records = Fleet(), started(plan=None)
    fleet.begin(records[-1])
    stage = stage_of(fleet)
    for name in ("a", "b"):
        fleet.recorders[name].failed(stage, "canary", "digest_mismatch")
    fleet.ages["b"] = 100.0
    assert decided(fleet.look(records), policy(" ")).action == "none"


def test_heartbeats_that_cannot_be_read_count_as_voters() -> None:
    fleet, records = Fleet(), started(plan=None)
    fleet.begin(records[-1])
    fleet.recorders["a"].failed(stage_of(fleet), "canary", "digest_mismatch")
    look = fleet.look(records)
    first, *others = look.heartbeats
    unread = [replace(seen, document=None, problem="refused") for seen in others]
    decision = decided(replace(look, heartbeats=(first, *unread)), policy(" "))
    assert (decision.outcome, decision.action) == ("hold", "hold")
    assert finding(decision, "digest_mismatch").reason == "1 of 3 live replicas: a"


def test_the_only_host_that_can_be_read_is_not_all() -> None:
    fleet, records = crash_looping(("one",))
    look = fleet.look(records)
    hidden = [replace(seen, document=None, problem="refused") for seen in look.heartbeats if seen.id in fleet.names]
    others = [seen for seen in look.heartbeats if seen.id not in fleet.names]
    decision = decided(replace(look, heartbeats=(*hidden, *others)), policy(" "))
    assert decision.action == "hold"
    assert finding(decision, "crash_loop").reason == "1 of 4 live replicas: one"


def crash_looping(hosts: tuple[str, ...], deaths: int = 3) -> tuple[Fleet, list[Record]]:
    """A fleet and, on these hosts, processes that live for 20 s, one after the other; the last one still does."""
    fleet, records = Fleet(), started(plan=None)
    fleet.begin(records[-1])
    for host in hosts:
        for number in range(deaths + 1):
            lived_on(fleet, f"{host}-{number}", host, last=1.0 + 40 * number, seconds=20.0)
    return fleet, records


def lived_on(fleet: Fleet, name: str, host: str, *, last: float, seconds: float) -> None:
    began = (NOW - timedelta(seconds=seconds)).isoformat()
    fleet.heartbeats[name] = heartbeat(name, 1, host=host, newest=2, started=began)
    fleet.ages[name] = last


def test_processes_that_die_again_and_again_are_a_crash_loop() -> None:
    fleet, records = crash_looping(("one", "two"))
    assert decided(fleet.look(records), policy(" ")).reasons == ("crash_loop, the version's fault",)
    younger = fleet.look(records, ages={2: 100.0})
    assert decided(younger, policy(" ")).facts.breakers == ()
    fleet, records = crash_looping(("one", "two"), deaths=2)
    assert decided(fleet.look(records), policy(" ")).facts.breakers == ()


@pytest.mark.parametrize("back", [(), ("r0",), ("r0", "r1", "r2", "r3")])
def test_an_outage_of_the_network_is_no_crash_loop(back: tuple[str, ...]) -> None:
    """Replicas of one host that are silent, some of which are heard of again, or new beside them."""
    fleet, records = Fleet(("r0",)), started(plan=None)
    fleet.begin(records[-1])
    for number in range(5):
        name = f"r{number}"
        last = 2.0 if name in back else 60.0 + 3 * number
        lived_on(fleet, name, "box", last=last, seconds=600.0)
    assert decided(fleet.look(records), policy(" ")).facts.breakers == ()
    lived_on(fleet, "new", "box", last=1.0, seconds=30.0)
    assert decided(fleet.look(records), policy(" ")).facts.breakers == ()


def test_silent_hosts_keep_one_from_deciding_alone() -> None:
    fleet, records = crash_looping(("one",))
    fleet.ages |= dict.fromkeys(fleet.names, 60.0)
    assert decided(fleet.look(records), policy(" ")).action == "hold"
    for name in fleet.names:
        del fleet.heartbeats[name]
    fleet.names = ()
    assert decided(fleet.look(records), policy(" ")).action == "rollback"
    fleet, records = Fleet(), started(plan=None)
    fleet.begin(records[-1])
    fleet.recorders["a"].failed(stage_of(fleet), "canary", "load_failed")
    fleet.ages |= {"b": 60.0, "c": 60.0}
    assert decided(fleet.look(records), policy(" ")).action == "none"


# --- after the trial, and once more ----------------------------------------------------------------------------------


def baking(canary: Rates, windows: int = 60) -> tuple[Fleet, list[Record]]:
    records = advanced(started(50), 100)
    fleet = Fleet(now=NOW - timedelta(seconds=10 * windows + 10))
    fleet.begin(records[-1])
    for _ in range(windows):
        fleet.ask(records[-1], 120, stable=canary, labels=False)
        fleet.now += timedelta(seconds=10)
    fleet.now = NOW
    return fleet, records


def test_a_version_that_turns_bad_after_the_trial_goes_back() -> None:
    fleet, records = baking(Rates(error=0.05))
    decision = decided(fleet.look(records), ERRORS)
    assert (decision.action, decision.to, decision.facts.is_baking) == ("rollback", "v1.0.0", True)
    fleet, records = baking(Rates(error=0.004))
    good = decided(fleet.look(records), ERRORS)
    assert (good.outcome, good.action) == ("pass", "none")


def test_labels_that_come_after_the_trial_still_count() -> None:
    records = started(50)
    fleet, _ = asked(records, 4000, Rates(wrong=0.3))
    records = advanced(records, 100)
    fleet.begin(records[-1])
    decision = decided(fleet.look(records))
    assert (decision.action, decision.facts.is_baking) == ("rollback", True)
    assert decision.reasons[0] == "accuracy >= 0.94, else roll back (in its trial)"


def test_a_rule_has_its_alpha_for_both_times_together() -> None:
    records = started(50)
    fleet, _ = asked(records, 1000)
    told = decided(fleet.look(records))
    records = advanced(records, 100)
    fleet.begin(records[-1])
    fleet.ask(records[-1], 1000)
    fleet.now += timedelta(seconds=10)
    for bound, family, sharing in (("accuracy >= 0.94", 0.02, 2), ("error_rate", 0.02, 1)):
        after = [each for each in decided(fleet.look(records)).findings if each.about.startswith(bound)]
        trial, *late = [finding(told, bound).alpha, *(each.alpha for each in after[1:])]
        steps = 7 * 86_400 / WINDOW_SECONDS if bound == "error_rate" else 1  # by which a CUSUM divides it
        assert late in ([], [trial])
        assert after[0].alpha * steps + trial == pytest.approx(family / sharing)


def test_after_the_trial_missing_data_hold_up_nothing() -> None:
    records = advanced(started(50), 100)
    fleet = Fleet()
    fleet.begin(records[-1])
    assert decided(fleet.look(records)).outcome == "pass"


def test_where_no_version_is_left_a_person_is_called() -> None:
    fleet, records = baking(Rates(error=0.05))
    bare = records[-1].model_copy(update={"stack": ()})
    assert decided(fleet.look([*records[:-1], bare]), ERRORS).action == "alert"


def test_the_guard_goes_back_once_in_half_an_hour() -> None:
    records = started()
    back = aborted(at(records[-1]), AUTHOR, decision="d" * 64)
    again = trial_started(at(back), pointer("v3.0.0"), AUTHOR, None, StartTrial("split", 10, "default"))
    fleet, _ = asked([*records, back, again], canary=BAD)
    for age, action in ((FLAP_SECONDS - 1, "alert"), (FLAP_SECONDS, "rollback")):
        assert decided(fleet.look([*records, back, again], ages={3: age}), ERRORS).action == action


# --- the same again --------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    error=st.sampled_from([0.0, 0.01, 0.3]),
    wrong=st.sampled_from([0.0, 0.05, 0.4]),
    percent=st.sampled_from([5.0, 33.33, 50.0]),
    kind=st.sampled_from(["split", "shadow"]),
    order=st.randoms(use_true_random=False),
)
def test_a_decision_is_the_same_again_and_in_any_order(
    error: float, wrong: float, percent: float, kind: str, order: Random
) -> None:
    _, look = asked(started(percent, kind=kind), 400, Rates(error=error, wrong=wrong))
    decision = decided(look)
    kept = Decision.parse(decision.to_bytes(), "a decision")
    assert replay_decision(kept).equal
    observations, heartbeats = list(look.observations), list(look.heartbeats)
    order.shuffle(observations)
    order.shuffle(heartbeats)
    other = replace(look, observations=tuple([*observations, observations[0]]), heartbeats=tuple(heartbeats))
    assert decided(other).to_bytes() == decision.to_bytes()


def test_a_changed_decision_does_not_come_out_again() -> None:
    _, look = asked(started(), canary=BAD)
    decision = decided(look, ERRORS)
    changed = decision.model_copy(update={"action": "none"})
    done = replay_decision(Decision.parse(changed.to_bytes(), "a decision"))
    assert not done.equal
    assert done.differences == ('- action: "none"', '+ action: "rollback"')


def test_a_decision_is_small() -> None:
    records = started()
    for percent in (20, 30, 40, 50, 60):
        records = advanced(records, percent)
    fleet = Fleet(tuple(f"replica-{number}" for number in range(50)))
    for record in records[1:]:
        fleet.begin(record)
        fleet.ask(record, 500)
    assert len(decided(fleet.look(records)).to_bytes()) < 20_000
