"""The report of a trial, from what recorders of replicas have counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from registry.channels.record import Record, aborted
from registry.evidence.trial_report import TrialReport, report_of
from registry.evidence.trial_verdict import TrialVerdict
from registry.formats import canonical
from registry.trials.merge import MergedArm, MergedStage
from registry.trials.observations import FIRST
from registry.trials.recorder import Recorder
from registry.trials.split import UNITS
from registry.trials.stages import stage_of_record
from registry.trials.units import Units
from tests.support.watched_trials import (
    AUTHOR,
    GOOD,
    Fleet,
    Rates,
    advanced,
    at,
    declared,
    reported,
    stages_of,
    started,
    trial_of,
)

WORSE, BETTER = Rates(wrong=0.05), Rates(wrong=0.02)


def asked(records: list[Record], keys: int, canary: Rates = GOOD, stable: Rates = GOOD) -> Fleet:
    """Keys ask one replica."""
    return Fleet(names=("a",)).asked(records, keys, canary, stable)


def counted_arms(
    records: list[Record], stable: Sequence[int], canary: Sequence[int], wrong: Callable[[], bool] = lambda: False
) -> MergedStage:
    """A stage in which these units asked and were labelled."""
    stage = stage_of_record(records[-1])
    assert stage

    def arm(version: str, units: Sequence[int]) -> MergedArm:
        every, mistaken = Units.of(units), Units.of(unit for unit in units if wrong())
        return MergedArm(version, {"asked": every, "labelled": every, "wrong": mistaken, FIRST + "wrong": mistaken})

    return MergedStage(stage, {"stable": arm(stage.stable, stable), "canary": arm(stage.canary, canary)}, ("a",))


def says(found: TrialReport, outcome: str, *reasons: str) -> None:
    """Whether the verdict is this one, with reasons that begin so."""
    assert found.verdict.outcome == outcome, found.verdict
    assert len(found.verdict.reasons) == len(reasons), found.verdict
    for said, expected in zip(found.verdict.reasons, reasons, strict=True):
        assert said.startswith(expected)


def test_a_more_accurate_version_ships() -> None:
    records = started(50)
    found = reported(asked(records, 8000, BETTER, WORSE), records)
    says(found, "ship", "more accurate than stable: accuracy +")
    canary, stable = found.arms["canary"], found.arms["stable"]
    assert (canary.version, stable.version, found.replicas) == ("v2.0.0", "v1.0.0", 1)
    assert canary.asked + stable.asked == pytest.approx(8000, rel=0.07)
    assert canary.requests + stable.requests == 8000
    assert canary.rates["wrong"].value == pytest.approx(0.02, abs=0.006)
    assert canary.rates["wrong"].low < canary.rates["wrong"].value < canary.rates["wrong"].high
    assert found.events["wrong"].looks.log_better > 5


def test_a_faster_version_ships() -> None:
    records = started(50)
    found = reported(asked(records, 8000, Rates(milliseconds=40), Rates(milliseconds=50)), records)
    says(found, "ship", "it computes faster than stable: 0.8 times stable's, slower in 0 of 40 windows")
    assert found.arms["canary"].times == dict.fromkeys(("compute_p50", "compute_p95", "request_p50", "request_p95"), 40)
    assert [point.compute_p95 for point in found.arms["stable"].series] == [50] * 40


def test_a_version_without_a_gain_is_not_shipped() -> None:
    records = started(50)
    says(reported(asked(records, 8000), records), "keep", "no gain: neither 0.5 points of accuracy nor 10% of compute")
    a_little = reported(asked(records, 8000, Rates(milliseconds=47), Rates(milliseconds=50)), records)
    says(a_little, "keep", "no gain")


def test_a_loss_that_is_not_excluded_is_not_shipped() -> None:
    records, rules = started(50), declared(100)
    found = reported(asked(records, 800, Rates(wrong=0.1, milliseconds=40), Rates(wrong=0.1)), records, rules)
    says(found, "keep", "an accuracy 1 point lower than stable's is not excluded: accuracy")


def test_a_version_with_errors_is_not_shipped() -> None:
    records = started(50)
    found = reported(asked(records, 8000, replace(BETTER, error=0.02), replace(WORSE, error=0.02)), records)
    failed = found.arms["canary"].rates["error"]
    says(found, "keep", f"{failed.x} of {failed.n} units got an error, and fewer than 0.1% may")


@pytest.mark.parametrize(
    ("canary", "said"),
    [
        (Rates(wrong=0.3), "less accurate than stable: accuracy -"),
        (Rates(error=0.3), "more errors than stable: +2"),
        (Rates(flagged=0.3), "it flags more images of the classes as OOD than stable: +2"),
        (Rates(milliseconds=90), "it computes 1.8 times as long as stable, in the median of 40 windows"),
    ],
)
def test_a_worse_version_is_found_before_the_horizon(canary: Rates, said: str) -> None:
    records = started(50)
    found = reported(asked(records, 1200, canary, Rates(wrong=0.02)), records)
    assert not found.is_at_horizon
    says(found, "keep", said)


def test_a_loss_within_the_margin_does_not_end_a_trial() -> None:
    records = started(50)
    found = reported(asked(records, 10_000, Rates(wrong=0.0099), GOOD), records, declared(50_000))
    assert found.events["wrong"].looks.is_worse
    says(found, "keep running", "the horizon is not reached: ")


def test_the_flag_is_compared_by_labels() -> None:
    records, fleet = started(50), Fleet()
    fleet.begin(records[-1])
    fleet.ask(records[-1], 400)
    fleet.ask_for_ood(records[-1], 400, Rates(missed=0.5), Rates(missed=0.1))
    found = reported(fleet, records)
    says(found, "keep", "it flags fewer images of something else as OOD than stable: +")
    assert found.arms["canary"].ood_auroc == pytest.approx(0.75, abs=0.01)


def test_a_good_version_runs_on_until_the_horizon() -> None:
    records = started(10)
    found = reported(asked(records, 2000, BETTER, WORSE), records)
    says(
        found, "keep running", f"the horizon is not reached: {found.labelled} of 1,000 labelled units of either version"
    )
    assert 100 < found.labelled < 300


def test_nothing_was_counted_yet() -> None:
    found = reported(Fleet(), started())
    says(found, "keep running", "the horizon is not reached: 0 of 1,000")
    assert "no replica has counted anything yet" in found.notes
    assert found.events["error"].difference is None


def test_an_inconclusive_end_keeps_stable() -> None:
    records = started(10)
    fleet = asked(records, 2000, BETTER, WORSE)
    records = [*records, aborted(at(records[-1]), AUTHOR, "d" * 64)]
    found = reported(fleet, records)
    says(found, "keep", "the trial ended before its horizon: ")
    assert found.trial.end
    assert (found.trial.end.action, found.trial.end.generation, found.trial.end.decision) == ("abort", 3, "d" * 64)


def test_units_that_are_lost_break_a_trial() -> None:
    records = started(50)
    found = reported(asked(records, 8000, replace(BETTER, counted=0.5), WORSE), records)
    assert found.verdict.outcome == "broken"
    assert found.verdict.reasons[0].endswith("should be 50%: the arms are not comparable")
    assert "units that asked in generation 2" in found.verdict.reasons[0]


def test_labels_that_come_back_unevenly_break_a_trial() -> None:
    records = started(50)
    found = reported(asked(records, 8000, replace(BETTER, labelled=0.5), WORSE), records)
    assert [each.event for each in found.shares if each.found.is_broken] == ["labelled"]
    assert found.verdict.outcome == "broken"
    assert "got the label of a class" in found.verdict.reasons[0]


def test_at_the_end_a_smaller_skew_is_enough() -> None:
    records = started(50)
    counted = counted_arms(records, range(0, 2 * 800, 2), range(2000, 2000 + 2 * 665, 2))
    ended = [*records, aborted(at(records[-1]), AUTHOR)]
    assert report_of(trial_of(records), [counted], declared()).verdict.outcome == "keep running"
    assert report_of(trial_of(ended), [counted], declared()).verdict.outcome == "broken"


def test_the_stages_of_a_trial_are_compared_apart() -> None:
    records = started(10)
    fleet = asked(records, 8000, Rates(wrong=0.02), Rates(wrong=0.02))
    records = advanced(records, 50)
    fleet.asked(records[-1:], 8000, Rates(wrong=0.1), Rates(wrong=0.1))
    found = reported(fleet, records)
    assert [(stage.generation, stage.percent) for stage in found.stages] == [(2, 10), (3, 50)]
    canary, stable, wrong = found.arms["canary"], found.arms["stable"], found.events["wrong"].difference
    assert wrong
    assert abs(wrong.value) < 0.01
    assert (canary.rates["wrong"].value or 0) - (stable.rates["wrong"].value or 0) > 0.02  # since its units came later


# --- shadow ----------------------------------------------------------------------------------------------------------


def test_a_shadow_trial_is_judged_by_its_pairs() -> None:
    records = started(100, kind="shadow")
    found = reported(asked(records, 2000, BETTER, WORSE), records)
    says(found, "ship", "more accurate than stable: accuracy +")
    pairs = found.events["wrong"].pairs
    assert pairs
    assert (pairs.canary_only, pairs.stable_only, pairs.n) == (
        pytest.approx(40, abs=3), pytest.approx(100, abs=5), found.labelled,
    )  # fmt: skip
    assert not found.shares
    assert found.labels
    assert (found.labels.equal, found.labels.different) == (2000, 0)


def test_a_worse_shadow_is_found_before_the_horizon() -> None:
    records = started(100, kind="shadow")
    says(
        reported(asked(records, 400, Rates(wrong=0.2), GOOD), records), "keep", "less accurate than stable: accuracy -"
    )


def test_label_pairs_are_counted_over_all_replicas() -> None:
    records, fleet = started(100, kind="shadow"), Fleet()
    fleet.begin(records[-1])
    fleet.ask(records[-1], 30)
    stages = stages_of(records, fleet.observations())
    stages[0].pairs["b"] = {"rust -> rust": 5, "rust -> mildew": 7, "<b> -> -": 2, "other": 1}
    labels = report_of(trial_of(records), stages, declared()).labels
    assert labels
    assert (labels.equal, labels.different) == (25, 10)
    assert labels.most == (("rust", "mildew", 7), ("<b>", "-", 2), ("other", "labels", 1))


# --- the report as a document ----------------------------------------------------------------------------------------


def test_the_same_observations_make_the_same_report() -> None:
    records, fleet = started(10), Fleet()
    fleet.begin(records[-1])
    fleet.ask(records[-1], 300, WORSE)
    told = fleet.observations()
    reports = [
        report_of(trial_of(records), stages_of(records, each), declared())
        for each in (told, [*reversed(told), *told], fleet.observations())
    ]
    assert len({each.sha256 for each in reports}) == 1
    document = json.loads(canonical.encode(reports[0].document()))
    assert document["verdict"]["outcome"] == "keep running"
    assert document["horizon"]["units"] == 1000
    fleet.ask(records[-1], 1)
    assert reported(fleet, records).sha256 != reports[0].sha256


def test_what_to_know_beside_is_noted() -> None:
    records, fleet = started(50), Fleet()
    fleet.begin(records[-1])
    fleet.ask(records[-1], 100)
    stage = stage_of_record(records[-1])
    assert stage
    fleet.recorders["a"].failed(stage, "canary", "load_failed")
    other = replace(stage, weight=20.0)
    fleet.recorders["d"] = Recorder("d", "host")
    fleet.recorders["d"].begin(other)
    fleet.names = ("a", "b", "c", "d")
    notes = reported(fleet, records).notes
    assert "load_failed of v2.0.0 (canary) at 1 replica" in notes
    assert "left out, as they tell of another trial than the records: d" in notes


def test_an_equal_version_ships_as_seldom_as_declared() -> None:
    chance, records = Random(20261201), started(50)

    def verdict() -> TrialVerdict:
        units = chance.sample(range(UNITS), 4000)
        half = sum(chance.random() < 0.5 for _ in units)
        counted = counted_arms(records, units[half:], units[:half], lambda: chance.random() < 0.05)
        return report_of(trial_of(records), [counted], declared()).verdict

    outcomes = [verdict().outcome for _ in range(100)]
    assert outcomes.count("ship") <= 100 * 0.025 + 3 * (100 * 0.025 * 0.975) ** 0.5
    assert outcomes.count("broken") <= 2
