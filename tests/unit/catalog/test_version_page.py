"""What a version's page says: short tags, failing rules first, numbers with their intervals."""

from __future__ import annotations

from registry.catalog.standing import Standing, standing
from registry.catalog.version_id import VersionId
from registry.catalog.version_page import VersionPage, number
from registry.channels.record import Author, ChannelPosition, Record, promoted, rolled_back, trial_started
from registry.channels.trial import StartTrial
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.evidence.verdict import Check, Verdict
from registry.versions.manifest import Component, Manifest
from registry.versions.pointer import Pointer

V1, V2 = (Pointer(version=name, manifest_sha256=digit * 64) for name, digit in (("v1.0.0", "1"), ("v1.1.0", "2")))


def log() -> list[Record]:
    """Production went to V1, to V2, and back; newest first."""
    records: list[Record] = []
    for step in (V1, V2, None):
        position = ChannelPosition("m", "production", records[0] if records else None)
        author = Author("ana", "weekly" if step else "errors doubled")
        records.insert(0, promoted(position, step, author, "0" * 64) if step else rolled_back(position, author))
    return records


def verdict(forced: str = "") -> Verdict:
    checks = (
        Check(metric="past", rule={}, outcome="pass", reason="was stable in staging"),
        Check(
            metric="accuracy",
            rule={"min": 0.9},
            target="potato",
            outcome="inconclusive",
            bound=0.9,
            reason="only 43 samples",
        ),
        Check(metric="accuracy", rule={"max_decrease": 0.1}, target="potato", outcome="inconclusive", reason="measure"),
        Check(metric="accuracy", rule={}, target="tomato", outcome="fail", reason="accuracy of tomato is .85 | low"),
    )
    return Verdict(
        format=1, model="m", version="v1.1.0", content_sha256="0" * 64, channel="production", outcome="fail",
        checks=checks, policy="0" * 64, timestamp="2026-11-30T03:00:00+00:00", who="ana", forced=forced,
    )  # fmt: skip


def measured(runtime: str, value: float) -> Evidence:
    run = BenchmarkRun("latency", "m", "v1.1.0", "0" * 64, "cpu", runtime, "2026-11-30T03:00:00+00:00", 1.0, {}, "ana")
    metrics = (
        Metric.of("latency_ms_p95", value, n=200, low=value - 1, high=value + 1, unit="ms"),
        Metric.proportion("accuracy", 34, 40, target="potato"),
        Metric.of("odd", float("nan"), n=1),
    )
    return Evidence.of(Measurement(metrics, "d" * 64, "fields", 200), run)


def page(forced: str = "", standings: tuple[Standing, ...] = ()) -> VersionPage:
    manifest = Manifest.make(
        model="m", version="v1.1.0", flavor="empty", backbone=None, files=[], components={"a": Component()},
        timestamp="2026-11-21T12:00:00Z",
    )  # fmt: skip
    return VersionPage(manifest, standings, (verdict(forced),), (measured("openvino", 9.0), measured("torch-fp32", 50)))


def test_the_log_says_what_each_version_is_and_since_when() -> None:
    records = log()
    served, left = (standing("production", records, VersionId.of(each)) for each in (V1, V2))
    assert served is not None
    assert left is not None
    assert (served.role, served.record, served.promoted) == ("stable", records[0], records[2])
    assert (left.role, left.record, left.promoted) == ("withdrawn", records[0], records[1])
    assert standing("production", records, VersionId("v9.9.9", "9" * 64)) is None


def test_part_of_a_log_claims_no_beginning() -> None:
    served = standing("production", log()[1:2], VersionId.of(V2))
    assert served is not None
    assert (served.role, served.record, served.promoted) == ("stable", None, None)


def test_tags_are_few_and_short() -> None:
    left = standing("production", log(), VersionId.of(V2))
    assert left is not None
    others = (Standing("staging", "stable"), Standing("staging", "trial", share="10%"))
    shown = page("it is needed", (left, *others)).short_tags()
    assert list(shown) == ["version", "family", "channel", "withdrawn", "verdict", "forced"]
    assert shown["verdict"] == "production fail"


def test_a_trial_is_shown_with_its_channel_and_share() -> None:
    records = log()
    channel = ChannelPosition("m", "production", records[0])
    begun = trial_started(channel, V2, Author("ana"), "f" * 64, StartTrial("shadow", 25))
    tried = standing("production", [begun, *records], VersionId.of(V2))
    assert tried is not None
    assert (tried.role, tried.record) == ("trial", begun)
    shown = page(standings=(tried,))
    assert shown.short_tags()["ulora.trial"] == "production shadow 25%"
    assert "| production&nbsp; | **trial** (shadow 25%): generation" in shown.table()


def test_failing_rules_come_first_and_fit_a_table() -> None:
    lines = page().table().splitlines()
    first = next(place for place, line in enumerate(lines) if "gates of production" in line)
    assert lines[first : first + 4] == [
        "| gates of production&nbsp; | **fail**: 3 of 4 rules not met |",
        "| accuracy (tomato)&nbsp; | **FAIL** .85 \\| low |",
        "| accuracy (potato)&nbsp; | **TOO FEW** only 43 samples |",
        "| accuracy (potato)&nbsp; | **UNDECIDED** measure |",
    ]


def test_a_forced_or_withdrawn_version_says_so_and_why() -> None:
    left = standing("production", log(), VersionId.of(V2))
    assert left is not None
    notices = {title: text for title, text in page("it is needed", (left,)).notices().items() if text}
    assert notices["Withdrawn from production"].endswith("by ana: errors doubled")
    assert "it is needed; 3 rules were not met" in notices["Forced into production"]


def test_versions_are_compared_by_one_runtime() -> None:
    assert page().metrics() == {"latency_ms_p95": 50}


def test_numbers_are_shown_with_interval_and_samples() -> None:
    assert number(Metric.proportion("accuracy", 29, 34)) == "0.853 (95% CI 0.699-0.936, n=34)"
    assert number(Metric.of("latency_ms_p95", 59.134, n=200, low=57.13, high=61.13, unit="ms")).startswith(
        "59.13 ms (95"
    )
    assert number(Metric.of("latency_ratio_p50", 1.02, n=600, unit="ratio")) == "1.020 (n=600)"
    assert number(Metric.of("odd", float("nan"), n=1)) == "not a number"


def test_a_page_that_says_something_else_has_another_mark() -> None:
    assert page().mark == page().mark
    assert page().mark != page("it is needed").mark
