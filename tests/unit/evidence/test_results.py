"""Evidence: reading, writing, bounds, and which is the newest."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadManifest
from registry.evidence.results import Evidence, Measurement, Metric, newest
from registry.formats import canonical
from tests.unit.evidence.samples import evidence


def test_evidence_reads_back_as_the_same_bytes() -> None:
    made = evidence("accuracy", Metric.proportion("accuracy", 97, 100, target="low"))
    read = Evidence.parse(made.to_bytes(), "evidence")
    assert read.to_bytes() == made.to_bytes()
    assert read.sha256 == made.sha256 == canonical.sha256(made.to_bytes())
    assert read.metric("accuracy", "low") == made.metric("accuracy", "low")


def test_a_field_from_a_later_release_is_kept() -> None:
    document = json.loads(evidence("accuracy").to_bytes()) | {"energy_joules": 3.5}
    assert b'"energy_joules":3.5' in Evidence.parse(canonical.encode(document), "evidence").to_bytes()


@given(st.floats(allow_nan=True, allow_infinity=True) | st.none())
def test_nan_and_infinity_are_stored_as_no_value(value: float | None) -> None:
    made = evidence("accuracy", Metric.of("accuracy", value, n=3))
    read = Evidence.parse(made.to_bytes(), "evidence").metric("accuracy")
    assert read is not None
    assert read.value == (value if value is not None and abs(value) < float("inf") else None)


def test_a_proportion_of_nothing_has_no_value() -> None:
    assert Metric.proportion("accuracy", 0, 0).value is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"metrics": [{"name": "Bad Name", "value": 1.0, "n": 1}]},
        {"metrics": [{"name": "a", "value": 1.0, "n": 1}] * 2},
        {"metrics": [{"name": "a", "value": "1", "n": 1}]},
        {"metrics": [{"name": "a", "value": 1.0, "n": -1}]},
        {"metrics": [{"name": "a", "value": 1.0, "n": 1, "target": "../x"}]},
        {"content_sha256": "abc"},
        {"version": "5.5"},
        {"model": "a/b"},
        {"timestamp": "yesterday"},
        {"timestamp": "2026-11-21T10:00:00+01:00"},
        {"timestamp": "2026-11-21T10:00:00"},
        {"seconds": -1.0},
        {"data": {"name": "digits", "sha256": "0", "n": 1}},
    ],
)
def test_evidence_that_breaks_the_format_is_refused(change: dict[str, object]) -> None:
    document = json.loads(evidence("accuracy").to_bytes()) | change
    with pytest.raises(BadManifest):
        Evidence.parse(canonical.encode(document), "evidence")


@given(st.binary(max_size=200))
def test_junk_is_refused_as_a_bad_document(junk: bytes) -> None:
    with pytest.raises(BadManifest):
        Evidence.parse(junk, "evidence")


def test_evidence_has_a_largest_size() -> None:
    with pytest.raises(BadManifest, match="bytes"):
        Evidence.parse(b" " * (Evidence.LIMIT + 1), "evidence")


def test_the_measurement_is_kept_whole() -> None:
    metrics = (Metric.of("ood_auroc", 0.99, n=5),)
    measurement = Measurement(metrics, "a" * 64, "digits", 7, plot=b"png", notes={"ood_far": 24})
    kept = evidence("ood", measurement=measurement)
    assert (kept.metrics, kept.data.sha256, kept.data.name, kept.data.n) == (metrics, "a" * 64, "digits", 7)
    assert kept.notes == {"ood_far": 24}


@given(st.permutations(range(4)))
def test_the_newest_counts_for_each_benchmark_device_and_runtime(order: list[int]) -> None:
    all_of_them = [
        evidence("accuracy", timestamp="2026-11-21T10:00:00Z"),
        evidence("accuracy", timestamp="2026-11-21T10:00:00.5+00:00"),
        evidence("accuracy", timestamp="2026-11-20T23:00:00Z", device="cuda:0"),
        evidence("latency", timestamp="2026-11-19T10:00:00Z"),
    ]
    found = newest(all_of_them[index] for index in order)
    assert found == {
        ("accuracy", "cpu", "torch-fp32"): all_of_them[1],
        ("accuracy", "cuda:0", "torch-fp32"): all_of_them[2],
        ("latency", "cpu", "torch-fp32"): all_of_them[3],
    }
