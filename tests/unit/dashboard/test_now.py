"""What needs a look, and the figures of a trial."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from functools import cache

from registry.answers import ChannelStatus, ReplicaStatus, Status
from registry.channels.trial_status import TrialStatus
from registry.dashboard.figures.trial import compute_figure, differences_figure, evidence_figure
from registry.dashboard.now import ShownTrial, alerts, evidence_bars, replicas_in_order, waits_for
from registry.evidence.trial_report import TrialReport
from tests.support.watched_trials import NOW, Fleet, Rates, policy, reported, started

RECORDS = started(10)


@cache
def report(wrong: float = 0.0) -> TrialReport:
    return reported(Fleet().asked(RECORDS, 8000, Rates(wrong=wrong)), RECORDS)


def channel(*replicas: ReplicaStatus, **more: object) -> ChannelStatus:
    found = ChannelStatus.of("production", RECORDS[-1], replicas)
    return replace(found, **more)  # type: ignore[arg-type]


def replica(name: str, generation: int = 2, state: str = "serving", **more: object) -> ReplicaStatus:
    found = ReplicaStatus(name, "v1.0.0", generation, state, rollback_ready=True, age=1.0, proof="ok")
    return replace(found, **more)  # type: ignore[arg-type]


def said(status: ChannelStatus, trial: ShownTrial | None = None) -> list[tuple[str, str]]:
    found = alerts(Status("m", "s3://b", (status,)), {"production": trial} if trial else {})
    return [(each.level, each.said) for each in found]


def test_a_fleet_that_is_in_order_needs_no_look() -> None:
    assert said(channel(replica("a"), replica("b"))) == []


def test_a_channel_that_can_not_go_back_says_so() -> None:
    ((level, text),) = said(channel(replica("a"), canary=None))
    assert (level, text.partition(":")[0]) == ("info", "a rollback has nowhere to go")
    assert said(channel(replica("a"), canary=None, rollback_target="v0.9.0")) == []


def test_what_needs_a_look_is_told_errors_first() -> None:
    found = said(
        channel(
            replica("a", generation=1), replica("b", state="silent"), replica("c", proof="differs"),
            replica("d", error="no space left"), overruled="accuracy of tomato",
        )
    )  # fmt: skip
    assert [level for level, _ in found] == ["error", "warning", "warning", "warning", "info"]
    text = " ".join(each for _, each in found)
    for part in ("other weights in memory than were released: c", "accuracy of tomato", "silent", "d: no space", "a"):
        assert part in text
    assert said(channel(problem="it is damaged"))[0] == ("error", "its newest record can't be read: it is damaged")


def test_replicas_that_need_a_look_come_first() -> None:
    found = channel(replica("a"), replica("b", generation=1), replica("c", error="broken"))
    assert [each.id for each in replicas_in_order(found)] == ["b", "c", "a"]


def test_the_evidence_has_what_it_needs_to_decide() -> None:
    bars = {bar.about: bar for bar in evidence_bars(report(wrong=0.3))}
    wrong = bars["wrong, of labelled"]
    assert wrong.is_worse
    assert wrong.worse > wrong.enough == -math.log10(report().events["wrong"].looks.alpha)
    assert not bars["errors"].is_worse
    figure = evidence_figure(list(bars.values()))
    bar, marks = figure.data
    assert dict(zip(bar.y, bar.x, strict=True))["wrong, of labelled"] == min(8.0, wrong.worse)
    assert dict(zip(marks.y, marks.x, strict=True))["wrong, of labelled"] == wrong.enough


def test_a_trial_that_speaks_against_its_version_is_told() -> None:
    status = TrialStatus.of(RECORDS[-1])
    assert status
    found = said(channel(replica("a")), ShownTrial(status, report(wrong=0.3), "", ""))
    assert found[0][0] == "warning"
    assert "speaks against v2.0.0" in found[0][1]


def test_the_differences_are_in_points_with_their_intervals() -> None:
    figure = differences_figure(report(wrong=0.3))
    difference = report(wrong=0.3).events["wrong"].difference
    assert figure is not None
    assert difference is not None
    (points,) = figure.data
    assert dict(zip(points.y, points.x, strict=True))["wrong, of labelled"] == 100 * difference.value
    assert "margin 1" in figure.layout.xaxis.title.text


def test_both_versions_have_a_line_of_compute_time() -> None:
    figure = compute_figure(report())
    assert figure is not None
    assert [line.name for line in figure.data] == ["stable v1.0.0", "canary v2.0.0"]
    empty = Fleet()
    empty.begin(RECORDS[-1])
    nothing = reported(empty, RECORDS)
    assert compute_figure(nothing) is None
    assert differences_figure(nothing) is None


def test_what_the_next_step_waits_for_is_said() -> None:
    status = TrialStatus.of(RECORDS[-1])
    assert status
    status = replace(status, since=NOW.isoformat())
    text = waits_for(status, report(), policy(), NOW + timedelta(minutes=30))
    assert text.startswith("50% follows after 1h at 10%: 30 min so far, ")
    assert text.endswith(" of 100 units")
    assert waits_for(replace(status, plan=None), report(), policy(), NOW).startswith("a person")
    assert "watched on" in waits_for(replace(status, is_baking=True), report(), policy(), NOW)
