"""What was served when, and its timeline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from registry.channels.record import Author, ChannelPosition, Record, promoted, rolled_back, trial_started
from registry.channels.trial import StartTrial
from registry.dashboard.figures.timeline import timeline_figure
from registry.dashboard.history import ChannelHistory, entry_of, served_at, stretches
from tests.support.watched_trials import pointer

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
NOW = BEGIN + timedelta(days=10)
EVIL = "<b>it</b> was bad"


def told() -> ChannelHistory:
    """v1 from day 0, v2 from day 2, back on day 5, v3 on trial from day 7."""
    records: list[Record] = []

    def add(day: int, make: Any, reason: str = "") -> None:
        position = ChannelPosition("m", "production", records[-1] if records else None)
        when = (BEGIN + timedelta(days=day)).isoformat()
        records.append(make(position, Author("ana", reason)).model_copy(update={"when": when}))

    add(0, lambda position, author: promoted(position, pointer("v1.0.0"), author, None))
    add(2, lambda position, author: promoted(position, pointer("v2.0.0"), author, None))
    add(5, rolled_back, EVIL)
    start = StartTrial("split", 10)
    add(7, lambda position, author: trial_started(position, pointer("v3.0.0"), author, None, start))
    return ChannelHistory("production", tuple(map(entry_of, reversed(records))), is_cut=False)


def test_a_day_has_the_version_that_was_served_then() -> None:
    history = told()
    days = {day: served_at(history, BEGIN + timedelta(days=day, hours=1)).entry for day in (0, 3, 5, 8)}
    assert {day: entry.stable for day, entry in days.items() if entry} == {
        0: "v1.0.0", 3: "v2.0.0", 5: "v1.0.0", 8: "v1.0.0",
    }  # fmt: skip
    on_trial = days[8]
    assert on_trial is not None
    assert (on_trial.canary, on_trial.share, on_trial.who) == ("v3.0.0", "10%", "ana")


def test_before_the_first_record_nothing_or_not_known() -> None:
    history = told()
    before = served_at(history, BEGIN - timedelta(seconds=1))
    assert (before.entry, before.is_known) == (None, True)
    cut = ChannelHistory(history.channel, history.entries[:2], is_cut=True)
    assert not served_at(cut, BEGIN).is_known


def test_stretches_join_what_did_not_change() -> None:
    found = stretches([told()], NOW)
    assert [(each.role, each.version, (each.begin - BEGIN).days, (each.end - BEGIN).days) for each in found] == [
        ("stable", "v1.0.0", 0, 2), ("stable", "v2.0.0", 2, 5), ("stable", "v1.0.0", 5, 10),
        ("canary", "v3.0.0", 7, 10),
    ]  # fmt: skip


def test_a_clock_that_went_back_makes_no_negative_time() -> None:
    history = told()
    entries = tuple(
        each if each.generation != 2 else type(each)(**{**vars(each), "at": BEGIN - timedelta(days=3)})
        for each in history.entries
    )
    found = stretches([ChannelHistory("production", entries, is_cut=False)], NOW)
    assert all(each.end >= each.begin for each in found)


def test_the_timeline_has_a_bar_for_each_stretch_and_no_marks() -> None:
    history = told()
    found = stretches([history], NOW)
    figure = timeline_figure(found, [history], BEGIN)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert sum(len(trace.x) for trace in bars) == len(found)
    hovers = [text for trace in figure.data for text in trace.hovertext]
    assert any("&lt;b&gt;it&lt;/b&gt; was bad" in hover for hover in hovers)
    assert list(figure.layout.yaxis.categoryarray) == ["production trial", "production"]


def test_a_channel_without_changes_has_an_empty_timeline() -> None:
    empty = ChannelHistory("staging", (), is_cut=False)
    assert stretches([empty], NOW) == []
    assert not timeline_figure([], [empty]).data
