"""The numbers of a benchmark of the software, as MLflow takes them."""

import re
from posixpath import normpath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import charts
from benchmarks.comparison import Budget, Result, Times
from benchmarks.software import DRILL, SoftwareParameters, SoftwareResult
from benchmarks.software_run import RESULT, content_of

PNG = b"\x89PNG"


def result(**more: Any) -> SoftwareResult:
    measured = Result(
        "scale", {"size": "tiny"}, {"promote, 10 versions": Times((1.0, 2.0, 3.0))},
        {"bytes": 5, "why": "text"}, [Budget("promote / at 10", 1.5, "at most", 1.2)],
    )  # fmt: skip
    return SoftwareResult(measured.document() | more)


def test_every_number_of_a_result_is_a_metric() -> None:
    assert result().metrics() == {
        "met": 0.0, "bytes": 5.0, "budget/promote / at 10": 1.5, "limit/promote / at 10": 1.2,
        "median_ms/promote_ 10 versions": 2.0, "low_ms/promote_ 10 versions": 1.5, "high_ms/promote_ 10 versions": 2.5,
    }  # fmt: skip


def test_metrics_at_several_numbers_are_a_curve_with_these_steps() -> None:
    found = result(metrics={"promote_ms_at_40": 2.0, "promote_ms_at_10": 1.0, "alone_at_7": 3.0, "growth": 2.0})
    assert found.curves() == {"promote_ms": {10: 1.0, 40: 2.0}}
    content = content_of(SoftwareParameters("scale", "tiny"), found)
    assert set(content.files) == {RESULT, "scale_growth.png"}
    assert content.files["scale_growth.png"].startswith(PNG)
    assert content.params["ulora.size"] == "tiny"
    assert "machine.cpus" in content.params


def test_a_drill_has_a_timeline_and_its_rounds_as_steps() -> None:
    found = result(figures={DRILL: {"rounds": [[100.0, 120.0, 300.0], [90.0, 110.0, 310.0]]}})
    assert found.curves()["drill_round_moved_ms"] == {0: 100.0, 1: 90.0}
    content = content_of(SoftwareParameters("rollback"), found)
    assert content.files["rollback_timeline.png"].startswith(PNG)


def test_the_report_for_people_names_what_is_not_met() -> None:
    assert result().text().startswith("NOT MET promote / at 10: 1.5 x (at most 1.2)")


@given(st.dictionaries(st.text(min_size=1, max_size=300), st.floats() | st.booleans() | st.text(), max_size=5))
def test_any_figure_gets_a_name_that_mlflow_takes(figures: dict[str, Any]) -> None:
    names = result(figures=figures).metrics()
    assert all(re.fullmatch(r"[\w .:/-]{1,250}", name) and normpath(name) == name for name in names)


@pytest.mark.parametrize("rows", [1, 40])
def test_differences_are_drawn_with_their_intervals(rows: int) -> None:
    drawn = charts.differences({f"accuracy.{row}": (0.0, -0.1 * row, 0.1) for row in range(rows)}, "B against A")
    assert drawn.startswith(PNG)
