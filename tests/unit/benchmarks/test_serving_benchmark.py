"""Each part of the serving benchmark runs on the tiny backbone, with real servers. No test judges the figures."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.comparison import Budget
from benchmarks.serving.command import PARTS, TableResult, main

MUST_BE_ZERO = {"requests through swaps that failed", "answers that are not their version's"}
BUDGETS = {"throughput": 1, "overload": 5, "swaps": 3, "flips": 2, "propagation": 2, "cold-start": 1}


@pytest.mark.acceptance
@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_and_judges_its_budgets(part: str) -> None:
    result = measured(part)
    assert len(result["budgets"]) == BUDGETS[part]
    assert result["met"] == all(budget["met"] for budget in result["budgets"])
    assert all(name.startswith(f"{part}: ") for name in result["figures"])
    assert [budget for budget in result["budgets"] if budget["what"] in MUST_BE_ZERO and not budget["met"]] == []


def test_the_table_is_one_for_the_page() -> None:
    found = TableResult("serving", {}, figures={"a: b": {"c": 1}}, budgets=[Budget("x", 2.0, "at most", 1.0, "ms")])
    assert (
        found.text()
        == '| what | figure | budget |\n|---|---|---|\n| x | 2 ms (at most 1) | **not met** |\n| a: b | {"c": 1} | |'
    )


def measured(part: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["--quick", "--size", "tiny", "--only", part, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return dict(json.loads(done.stdout))
