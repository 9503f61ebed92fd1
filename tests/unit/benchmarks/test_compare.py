"""How two versions compare, as a table for people and as a run."""

import json

from benchmarks.compare import ComparedVersions, content_of
from registry.evidence.differences import MetricDifference, metric_differences
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import BenchmarkRun, Evidence, Measurement, Metric
from registry.usecases.diff import MeasuredBy

ROWS = (
    MetricDifference("latency_ms_p50", None, 10.0, 9.0, -1.0),
    MetricDifference("accuracy", "low", 0.9, 0.95, 0.05, -0.01, 0.11, 100, 9, 4),
    MetricDifference("ood_auroc", "low", 0.97, None),
)
BY = MeasuredBy("cpu", "torch-fp32")
FOUND = ComparedVersions("v1.0.0", "v2.0.0", ROWS, images=100, won=9, lost=4, by=BY)


def test_what_was_compared_image_by_image_comes_first() -> None:
    header, first, *_ = FOUND.text().splitlines()
    assert header.split()[:4] == ["METRIC", "TARGET", "v1.0.0", "v2.0.0"]
    assert first.split() == ["accuracy", "low", "0.900", "0.950", "+0.050", "-0.010", "to", "+0.110", "100", "9/4"]
    assert FOUND.text().endswith("of 100 images, 9 got the right label only from v2.0.0, 4 only from v1.0.0")


def test_without_answers_the_way_to_have_some_is_named() -> None:
    assert "--data measures what is missing" in ComparedVersions("v1.0.0", "v2.0.0", (), 0, 0, 0, BY).text()


def test_its_run_holds_the_numbers_the_table_and_the_plot() -> None:
    content = content_of(FOUND)
    expected = {"difference/accuracy.low": 0.05, "newer_only/accuracy.low": 9, "older_only/accuracy.low": 4, "won": 9}
    assert expected.items() <= content.metrics.items()
    assert "difference/ood_auroc.low" not in content.metrics
    assert content.params["ulora.runtime"] == "torch-fp32"
    assert set(content.files) == {"differences.png", "differences.table.json"}
    table = json.loads(content.files["differences.table.json"])
    assert dict(zip(table["columns"], table["data"][1], strict=True))["pairs"] == 100


def test_discordant_images_are_counted_for_each_target() -> None:
    def outcomes(right: str) -> list[ImageOutcome]:
        return [
            ImageOutcome(image=f"{number:064x}", target="low", label="a", answered_label="a" if each == "1" else "b")
            for number, each in enumerate(right)
        ]

    run = BenchmarkRun(
        "accuracy", "digits", "v1.0.0", "a" * 64, "cpu", "torch-fp32", "2026-11-21T12:00:00Z", 1.0, {}, "tester"
    )
    answers = {"1" * 64: outcomes("110100"), "2" * 64: outcomes("111010")}
    older, newer = (
        Evidence.of(
            Measurement((Metric.proportion("accuracy", right, 6, target="low"),), "d" * 64, "images", 6), run, digest
        )
        for right, digest in zip((3, 4), answers, strict=True)
    )
    (found,) = metric_differences([older], [newer], lambda one: answers[str(one.outcomes)])
    assert (found.pairs, found.newer_only, found.older_only) == (6, 2, 1)
