"""A version's report as a page and as Markdown: text of others stays text, and nothing makes it endless."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from registry.catalog.standing import Standing
from registry.evidence.approvals import Approval
from registry.evidence.differences import MetricDifference
from registry.evidence.results import Evidence, Metric
from registry.evidence.ticks import Tick
from registry.evidence.verdict import Check, Verdict
from registry.formats.markdown import markdown_block
from registry.usecases.diff import VersionDiff
from registry.usecases.version_report import ActedDecision, VersionReport
from registry.usecases.version_report_page import markdown, page
from registry.usecases.version_report_plots import metric_plots
from registry.usecases.version_report_sections import sections_of
from registry.versions.changes import ComponentChange, FileChange, ManifestChanges
from registry.versions.manifest import Component, Manifest
from tests.support.trials import record_of
from tests.unit.evidence.samples import evidence

HOSTILE = "<script>alert(1)</script>\" onload='x' &amp; ``` | [a](http://x.example)"
SVG = "{http://www.w3.org/2000/svg}"
WHEN = "2026-11-21T12:00:00+00:00"


def manifest(**more: object) -> Manifest:
    return Manifest.make(
        model="m", version="v2.0.0", flavor="empty", backbone=None, files=[], components={"adapters/low": Component()},
        timestamp=WHEN, **more,
    )  # fmt: skip


def verdict(*checks: Check, **more: object) -> Verdict:
    return Verdict(
        format=1, model="m", version="v2.0.0", content_sha256="c" * 64, channel="production", outcome="fail",
        checks=checks, policy="d" * 64, timestamp=WHEN, **more,
    )  # fmt: skip


def report(*measured: Evidence, said: str = "fine") -> VersionReport:
    """Of a version about which others said this everywhere."""
    check = Check(metric="accuracy", rule={"metric": "accuracy", "min": 0.9}, observed=0.8, bound=0.9, n=100,
                  outcome="fail", reason=said)  # fmt: skip
    record = record_of("v2.0.0", reason=said, who=said[:200])
    return VersionReport(
        manifest=manifest(description=said, source=said, changes={"why": said}, breaking_changes=(said,)),
        manifest_sha256="a" * 64,
        signatures=(),
        forgotten="",
        before=VersionDiff(
            "v1.0.0", "v2.0.0",
            ManifestChanges(
                (ComponentChange(said, "added", True),), (FileChange(said, "added", None, 3),), 1,
                {"flavor": (said, "x")},
            ),
            (
                MetricDifference("accuracy", said, 0.9, 0.8, -0.1, -0.2, 0.05, 40),
                MetricDifference("accuracy", None, None, 0.8),
            ),
            0, (),
        ),
        evidence=measured,
        verdicts=(verdict(check, forced=said, who=said[:200]),),
        standings=(Standing("production", "stable", record, record),),
        records=(record,),
        trials=(),
        decisions=(
            ActedDecision("production", 7, "e" * 64, "rollback", "v1.0.0", (said,), f"# note\n{said}\n```\nout"),
        ),
        approvals=(Approval(format=1, model="m", version="v2.0.0", content_sha256="c" * 64, channel="production",
                            who=said[:200], when=WHEN, reason=said),),
        ticks=(Tick(format=1, model="m", version="v2.0.0", content_sha256="c" * 64, channel="production",
                    line="team-told", who=said[:200], when=WHEN, reason=said),),
        unread=(said,),
    )  # fmt: skip


class Tags(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


MEASURED = evidence(
    "accuracy", Metric.proportion("accuracy", 80, 100), Metric.proportion("accuracy", 8, 10, target="low"),
    Metric.of("odd", None, n=0),
)  # fmt: skip


def test_text_of_others_is_no_markup_of_a_page() -> None:
    read = Tags(page(report(MEASURED, said=HOSTILE)))
    assert "script" not in read.tags
    assert not read.attributes & {"onload", "src", "href"}
    assert HOSTILE in read.text


def test_text_of_others_is_no_markup_of_markdown() -> None:
    written = markdown(report(MEASURED, said=HOSTILE))
    outside = re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", written)
    assert not re.search(r"(?<!\\)<script", outside)
    assert not re.search(r"(?<!\\)\[a", outside)
    assert "out" not in outside.splitlines(), "a block was ended by what is in it"
    heads = [line for line in outside.splitlines() if line.startswith("#")]
    assert all(line.startswith(("# m v2", "## ", "### ")) for line in heads)


def test_a_block_ends_where_its_text_ends() -> None:
    text = "a\n```\nb\n`````\nc"
    fence = markdown_block(text).splitlines()[0].removesuffix("text")
    assert markdown_block(text).splitlines().count(fence) == 1
    assert len(fence) > 5


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    links = re.findall(r"https?://[^\"'\s<]*", page(report(MEASURED)))
    assert {*links} == {"http://www.w3.org/2000/svg"}  # a name, and no address


def test_both_say_the_same_parts() -> None:
    found = report(MEASURED)
    titles = [section.title for section in sections_of(found) if not section.is_empty]
    assert "Gates of production" in titles
    assert "What the guard did" in titles
    text, written = Tags(page(found)).text, markdown(found)
    assert all(title in text and f"## {title}" in written for title in titles)
    for said in ("0.800", "-0.100 (95% CI -0.200 to +0.050, on the same 40 images)", "v1.0.0", "team-told"):
        assert any(said in each for each in text)
        assert said in written


def test_what_entered_by_force_says_so_at_once() -> None:
    found = report(MEASURED, said="the field needs it")
    said = "by force: 1 of 1 check does not pass"
    assert "by force" in Tags(page(found)).text[:6]
    assert said in Tags(page(found)).text
    assert said in markdown(found)
    allowed = replace(found, verdicts=(found.verdicts[0].model_copy(update={"forced": ""}),))
    assert "by force" not in page(allowed)


def lines(svg: str, kind: str) -> list[ElementTree.Element]:
    return [line for line in ElementTree.fromstring(svg).iter(f"{SVG}line") if line.attrib.get("class") == kind]


def test_a_plot_has_the_bound_of_the_gate_at_its_place() -> None:
    check = Check(metric="accuracy", rule={}, bound=0.9, outcome="fail", reason="")
    (svg,) = metric_plots([MEASURED], [verdict(check)])
    (bound, _) = [float(line.attrib["x1"]) for line in lines(svg, "margin")] * 2
    circles = [float(each.attrib["cx"]) for each in ElementTree.fromstring(svg).iter(f"{SVG}circle")]
    assert len(circles) == 2, "what is not a number has no place"
    assert circles[0] < bound, "0.8 is on the left of 0.9"
    assert metric_plots([MEASURED], []) != metric_plots([MEASURED], [verdict(check)])


@pytest.mark.parametrize(
    "values", [(0.0, 0.0), (1e308, -1e308), (1e12, 1e12), (5e-324, 0.0), (-3.0, 2.0), (1e-9, 1.0000001e-9)]
)
def test_any_numbers_are_drawn_within_the_frame(values: tuple[float, float]) -> None:
    metrics = [Metric.of(f"m{number}", value, n=1, unit="ms") for number, value in enumerate(values)]
    for svg in metric_plots([evidence("latency", *metrics)], []):
        drawing = ElementTree.fromstring(svg)
        _, _, width, height = map(float, drawing.attrib["viewBox"].split())
        for line in drawing.iter(f"{SVG}line"):
            assert 0 <= float(line.attrib["x1"]) <= width
            assert 0 <= float(line.attrib["y2"]) <= height


def test_a_page_of_very_much_is_of_bounded_size() -> None:
    metrics = [Metric.proportion("accuracy", 80, 100, target=f"crop_{number}") for number in range(10_000)]
    large = report(evidence("accuracy", *metrics))
    many = replace(large, records=large.records * 5000, decisions=large.decisions * 5000)
    assert len(page(many)) < 1_000_000
    assert len(markdown(many)) < 500_000
    assert "… and 9,800 more" in page(many)
