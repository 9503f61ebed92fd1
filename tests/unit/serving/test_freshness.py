"""How old what a replica knows of the log is, and what that means for it."""

from __future__ import annotations

from registry.errors import BrokenChain, StoreUnreachable
from registry.serving.freshness import Freshness

UNREACHABLE = StoreUnreachable("the store does not answer")


def fresh(stale_after: float = 3600, max_staleness: float | None = None) -> Freshness:
    return Freshness("production", stale_after, max_staleness, lambda: None)


def test_without_the_store_a_replica_stays_ready() -> None:
    freshness = fresh(stale_after=-1)
    freshness.note_unread(UNREACHABLE)
    assert freshness.state == "stale"
    assert "the log can't be read since 20" in freshness.problem


def test_a_limit_that_is_given_makes_it_unready() -> None:
    assert fresh(max_staleness=-1).state == "not ready"
    assert fresh(max_staleness=3600).state == "serving"


def test_a_start_without_the_store_is_stale_at_once() -> None:
    freshness = fresh()
    freshness.begin_without_store(5.0, "started from a file", UNREACHABLE)
    assert freshness.state == "stale"
    assert freshness.age >= 5
    freshness.note_unread(UNREACHABLE)
    assert freshness.problem.endswith("the store does not answer; started from a file")

    assert freshness.note_read()
    assert (freshness.state, freshness.problem) == ("serving", "")
    assert not freshness.note_read()


def test_the_age_at_the_start_counts_for_the_limit() -> None:
    freshness = fresh(max_staleness=1000)
    freshness.begin_without_store(1001.0, "started from a file", UNREACHABLE)
    assert freshness.state == "not ready"


def test_a_log_that_contradicts_the_start_leaves_it_stale() -> None:
    freshness = fresh()
    freshness.begin_without_store(5.0, "started from a file", UNREACHABLE)
    freshness.note_broken(BrokenChain("regressed"))
    assert freshness.state == "stale"
    assert freshness.problem == "regressed; started from a file"
