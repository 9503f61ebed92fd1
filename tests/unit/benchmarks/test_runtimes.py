"""The comparison of runtimes runs them for real, and says plainly whether the budget is met."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from adapters.backbone.families import FAMILIES
from adapters.runtimes.interface import REFERENCE
from benchmarks.runtimes import BUDGET, CONFIGS, RuntimeResult, main, summary


@pytest.fixture(autouse=True)
def _keep_threads() -> object:
    """The command sets torch's threads for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", ["dinov2", "dinov3"])
def test_it_compares_each_runtime_with_the_reference_in_one_run(family: str) -> None:
    arguments = ["--size", "tiny", "--family", family, "--rounds", "2", "--only", "torch-int8", "--json"]
    report = json.loads(CliRunner().invoke(main, arguments, catch_exceptions=False).output)
    assert [row["runtime"] for row in report["runtimes"]] == [REFERENCE, "torch-int8"]
    reference, narrow = report["runtimes"]
    assert reference["ratio"] == 1
    assert 0.995 <= narrow["cosine"] < reference["cosine"]
    assert report["basis"].startswith("speed only")
    assert narrow["ms"] > 0
    assert report["best"] == "torch-int8"
    assert report["met"] == (report["ratio"] >= BUDGET)


def test_people_get_a_line_for_each_runtime_and_the_verdict() -> None:
    lines = CliRunner().invoke(main, ["--size", "tiny", "--rounds", "1", "--only", "torch-bf16"]).output.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [REFERENCE, "torch-bf16"]
    assert lines[-2].startswith("speed only: random weights")
    assert lines[-1].startswith("fastest: torch-bf16 at ")


def test_a_runtime_of_another_name_is_refused() -> None:
    result = CliRunner().invoke(main, ["--only", "abacus"])
    assert result.exit_code == 2
    assert "abacus is not a runtime" in result.output


@pytest.mark.parametrize(("ratio", "met"), [(BUDGET, True), (BUDGET - 0.01, False)])
def test_the_fastest_runtime_of_the_same_function_counts(ratio: float, met: bool) -> None:
    rows = [
        RuntimeResult(REFERENCE, 100.0, 1.0, 1.0, same_function=True),
        RuntimeResult("openvino-int8", 30.0, ratio, 0.9995, same_function=True),
        RuntimeResult("torch-int8", 10.0, 10.0, 0.9, same_function=False),
        RuntimeResult("openvino-bf16", detail="this processor does not multiply bfloat16"),
    ]
    report = summary(rows)
    assert (report["best"], report["ratio"], report["met"]) == ("openvino-int8", ratio, met)


def test_where_all_compute_something_else_no_budget_is_met() -> None:
    report = summary(
        [RuntimeResult(REFERENCE, 100.0, 1.0, 1.0, same_function=True), RuntimeResult("torch-int8", 10.0, 10.0, 0.9)]
    )
    assert (report["best"], report["met"]) == (None, False)


@pytest.mark.parametrize("family", ["dinov2", "dinov3"])
def test_the_timed_architecture_is_a_real_vit_b(family: str) -> None:
    with torch.device("meta"):
        model = FAMILIES[family].new_model(dict(CONFIGS[family]))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(86e6, rel=0.01)
