"""The report of a trial as a page, as plots, as text, and as a run of MLflow."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from registry.cli.canary_text import report_text
from registry.evidence.trial_differences import LabelPairs
from registry.evidence.trial_figures import TimePoint
from registry.evidence.trial_report import TrialEnd, TrialReport
from registry.usecases.trial_page import page
from registry.usecases.trial_plots import plots
from registry.usecases.trial_run import run_of
from registry.usecases.trial_tables import evidence, tables_of
from tests.support.watched_trials import Fleet, Rates, advanced, reported, started

HOSTILE = "<script>alert(1)</script>\" onload='x' &amp;"
SEEN = Rates(wrong=0.05, flagged=0.1)


@pytest.fixture(autouse=True)
def the_same_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The salt decides by chance who sees the canary."""
    monkeypatch.setattr(secrets, "token_hex", lambda size: "5" * 2 * size)


@pytest.fixture
def split() -> TrialReport:
    records = advanced(started(10), 50)
    return reported(Fleet().asked(records, 1000, SEEN, SEEN), records)


@pytest.fixture
def shadow() -> TrialReport:
    records = started(100, kind="shadow")
    return reported(Fleet().asked(records, 1000, SEEN, SEEN), records)


class Tags(HTMLParser):
    """The tags of a page, and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_text_of_strangers_can_not_become_markup(shadow: TrialReport) -> None:
    hostile = replace(
        shadow,
        trial=replace(shadow.trial, end=TrialEnd(3, HOSTILE, HOSTILE, HOSTILE, HOSTILE)),
        labels=LabelPairs(0, 2, ((HOSTILE, HOSTILE, 2),)),
        arms={name: replace(arm, version=HOSTILE, counters={HOSTILE: 1}) for name, arm in shadow.arms.items()},
        notes=(HOSTILE,),
    )
    read = Tags(page(hostile))
    assert "script" not in read.tags
    assert not read.attributes & {"onload", "src", "href"}
    assert HOSTILE in read.text


def test_a_page_holds_the_verdict_the_plots_and_the_tables(split: TrialReport) -> None:
    read = Tags(page(split))
    assert read.tags.count("svg") == 3
    assert split.verdict.outcome in read.text
    assert all(table.title in read.text for table in tables_of(split))
    assert all(cell in read.text for table in tables_of(split) for row in table.rows for cell in row)


def test_a_page_loads_nothing_from_elsewhere(split: TrialReport) -> None:
    links = re.findall(r"https?://[^\"'\s<]*", page(split))
    assert {*links} == {"http://www.w3.org/2000/svg"}  # a name, and no address


def test_a_report_without_counts_is_a_page_too() -> None:
    found = reported(Fleet(), started())
    assert plots(found) == {}
    assert "no replica has counted anything yet" in page(found)


def test_plots_are_drawings_within_their_frame(split: TrialReport) -> None:
    for svg in plots(split).values():
        drawing = ElementTree.fromstring(svg)
        _, _, width, height = map(float, drawing.attrib["viewBox"].split())
        for line in drawing.iter("{http://www.w3.org/2000/svg}line"):
            assert 0 <= float(line.attrib["x1"]) <= width
            assert 0 <= float(line.attrib["y2"]) <= height


def test_a_gap_in_time_is_a_gap_in_the_line(split: TrialReport) -> None:
    def lines(*times: int) -> int:
        series = tuple(TimePoint(at, 10.0) for at in times)
        arms = {name: replace(arm, series=series if name == "canary" else ()) for name, arm in split.arms.items()}
        return plots(replace(split, arms=arms)).get("compute.svg", "").count("<polyline")

    assert lines(0) == 0
    assert lines(0, 10, 20) == 1
    assert lines(0, 10, 50, 60) == 2
    assert lines(0, 10, 50) == 1


def test_times_of_nothing_are_drawn_too(split: TrialReport) -> None:
    series = (TimePoint(0, 0.0), TimePoint(10, 0.0))
    arms = {name: replace(arm, series=series) for name, arm in split.arms.items()}
    assert "compute.svg" in plots(replace(split, arms=arms))


def test_the_text_says_the_verdict_first(split: TrialReport, shadow: TrialReport) -> None:
    assert report_text(split).splitlines()[0] == "verdict: keep running"
    assert "Whether each arm has its share" in report_text(split)
    assert "The same images, seen by both" in report_text(shadow)
    assert "Whether each arm" not in report_text(shadow)


def test_large_evidence_is_a_power_of_ten() -> None:
    assert [evidence(log) for log in (0.0, 3.0, -2.0, 46.05, 20_000.0)] == ["1", "20.1", "0.135", "10^20", "10^8686"]


def test_a_run_shows_figures_plots_page_and_tables(split: TrialReport) -> None:
    run = run_of(split, "ann")
    metrics, files = run.content.metrics, run.content.files
    assert metrics["canary/wrong_rate"] == split.arms["canary"].rates["wrong"].value
    assert metrics["low/wrong_rate"] < metrics["difference/wrong_rate"] < metrics["high/wrong_rate"]
    assert {"rates.svg", "differences.svg", "compute.svg", "report.html", "versions.table.json"} < {*files}
    assert json.loads(files["report.json"])["verdict"]["outcome"] == run.tags["ulora.verdict"]
    assert run.tags["ulora.trial_id"] == split.trial.id
    assert run.tags[run.once] == split.sha256
    assert {*run.content.curves} == {"stable/compute_p95_over_seconds", "canary/compute_p95_over_seconds"}
