"""What a replica counts: by version, with bounded labels, in buckets that tell the policy's bounds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from registry.evidence.policy import load_policy
from registry.names import CHANNELS, VersionName
from registry.serving.observer import RowOutcome, SettledRow
from registry.serving.routing import Route
from registry.serving.tally import ARMS, OTHER, OUTCOMES, ROWS, SECONDS, STABLE, Distribution, Tally
from tests.support.echo_releases import Echo


@dataclass(frozen=True)
class Answer:
    version: str
    target: str | None
    outcome: str = "answer"


def answered(answer: Answer, arm: Any = STABLE) -> SettledRow:
    return SettledRow(Route(Echo(answer.version, "", b""), "", arm), RowOutcome(answer))


def test_buckets_contain_every_latency_bound_of_the_policy() -> None:
    policy = load_policy()
    rules = [
        rule
        for channel in CHANNELS
        for suffix in ("", "-performance", "-ood", "-router")
        for rule in policy.rules_for(channel, VersionName.parse(f"v1.0.0{suffix}"))
        if rule.metric.startswith("latency_ms")
    ]
    bounds = {rule.max / 1000 for rule in rules if rule.max is not None}
    assert bounds >= {0.15, 0.2}
    assert bounds <= set(SECONDS)
    assert list(SECONDS) == sorted(SECONDS)


@given(st.lists(st.floats(0, 20)))
def test_buckets_count_what_is_at_most_their_bound(values: list[float]) -> None:
    distribution = Distribution(SECONDS)
    for value in values:
        distribution.add(value)
    assert dict(distribution.cumulative()) == {
        bound: sum(value <= bound for value in values) for bound in (*SECONDS, float("inf"))
    }
    assert distribution.count == len(values)


def test_a_version_has_zero_counts_from_when_it_came() -> None:
    tally = Tally()
    tally.version_came("v1.0.0", ("low", "mid"))
    counts = tally.versions["v1.0.0"]
    assert counts.requests == {(STABLE, 200): 0}
    assert counts.durations[STABLE].count == 0
    assert dict(counts.predictions) == {
        (STABLE, target, outcome): 0 for target in ("low", "mid", "") for outcome in OUTCOMES
    }


def test_what_left_memory_is_counted_no_more() -> None:
    tally = Tally()
    tally.version_came("v1.0.0", ("low",))
    tally.version_left("v1.0.0")
    tally.settled([answered(Answer("v1.0.0", "low"))])
    tally.request_answered("v1.0.0", 200, 0.1)
    assert set(tally.versions) == {""}
    assert tally.versions[""].requests[STABLE, 200] == 1


def test_targets_and_outcomes_are_those_that_are_known() -> None:
    tally = Tally()
    tally.version_came("v1.0.0", ("low",))
    odd = (Answer("v1.0.0", "a client's text"), Answer("v1.0.0", None), Answer("v1.0.0", "low", "odd"))
    tally.settled([answered(one) for one in odd])
    counted = {labels: count for labels, count in tally.versions["v1.0.0"].predictions.items() if count}
    assert counted == {(STABLE, "", "answer"): 2, (STABLE, "low", OTHER): 1}


def test_each_arm_of_a_version_has_its_own_counts() -> None:
    tally = Tally()
    tally.version_came("v1.0.0", ("low",))
    for arm in ARMS:
        tally.settled([answered(Answer("v1.0.0", "low"), arm)])
        tally.request_answered("v1.0.0", 200, 0.1, arm)
        tally.label_came("v1.0.0", arm, "taken")
    tally.request_answered("v1.0.0", 200, 0.1, "a client's text")
    counts = tally.versions["v1.0.0"]
    assert [counts.predictions[arm, "low", "answer"] for arm in ARMS] == [1, 1, 1]
    assert [counts.requests[arm, 200] for arm in ARMS] == [2, 1, 1]
    assert counts.feedback == {(arm, "taken"): 1 for arm in ARMS}


def test_what_a_canary_was_not_asked_is_counted() -> None:
    tally = Tally()
    tally.settled([replace(answered(Answer("v1.0.0", "low")), was_shed=True), answered(Answer("v1.0.0", "low"))])
    assert tally.shed == 1


def test_threads_lose_no_count() -> None:
    tally = Tally()
    tally.version_came("v1.0.0", ("low",))

    def count(_: int) -> None:
        tally.batch_taken([0.001, 0.002])
        tally.batch_computed(0.01)
        tally.settled([answered(Answer("v1.0.0", "low"))])
        tally.request_answered("v1.0.0", 200, 0.1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(2000)))
    counts = tally.versions["v1.0.0"]
    assert counts.predictions[STABLE, "low", "answer"] == counts.requests[STABLE, 200] == 2000
    assert (tally.batches.count, tally.queued.count, tally.computed.count) == (2000, 4000, 2000)
    assert tally.batches.sum == 4000


def test_the_largest_batch_has_a_bucket() -> None:
    assert ROWS[-1] == 1024
