"""Contenders take turns, a ratio is taken within rounds, and a budget is met by its figure."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import comparison
from benchmarks.comparison import Budget, Result, Times, quartiles, take_turns
from registry.errors import BadInput, UloraError

FIGURES = st.floats(0.001, 1000)


@given(FIGURES, FIGURES)
def test_a_budget_is_met_by_its_figure_and_nothing_else(value: float, limit: float) -> None:
    assert Budget("a", value, "at most", limit).met == (value <= limit)
    assert Budget("a", value, "at least", limit).met == (value >= limit)


@pytest.mark.parametrize("bound", ["at most", "at least"])
def test_a_figure_that_is_no_number_meets_no_budget(bound: str) -> None:
    assert not Budget("a", float("nan"), bound, 1.0).met  # type: ignore[arg-type]


def test_each_contender_runs_once_a_round_and_the_order_moves_on() -> None:
    ran: list[str] = []
    times = take_turns({name: lambda name=name: ran.append(name) for name in "abc"}, 3, warm_up=1)  # type: ignore[misc]
    assert "".join(ran) == "abcbcacababc"
    assert [(name, len(taken.rounds)) for name, taken in times.items()] == [("a", 3), ("b", 3), ("c", 3)]


def test_a_ratio_is_taken_within_rounds() -> None:
    """A machine that gets slower by the round changes no ratio."""
    ours, theirs = Times((2.0, 20.0, 200.0)), Times((1.0, 10.0, 100.0))
    assert ours.over(theirs) == 2
    assert theirs.over(ours) == 0.5


def test_the_median_and_the_quartiles_are_those_of_the_rounds() -> None:
    document = Times((5.0, 1.0, 3.0, 2.0, 4.0)).document()
    assert document == {"median_ms": 3, "q25_ms": 2, "q75_ms": 4, "least_ms": 1, "n": 5}
    assert quartiles([7.0]) == (7.0, 7.0)


RESULT = Result(
    benchmark="example",
    setting={"size": "small"},
    times={"ours": Times((1.0, 2.0))},
    figures={"share": 0.123456789, "table": {"a": 1}},
    budgets=[Budget("fast", 1.0, "at most", 2.0), Budget("many", 1.0, "at least", 2.0)],
)


def test_a_result_is_met_when_all_its_budgets_are() -> None:
    document = RESULT.document()
    assert [budget["met"] for budget in document["budgets"]] == [True, False]
    assert document["met"] is False
    assert Result("example", {}, budgets=RESULT.budgets[:1]).document()["met"] is True
    assert document["machine"]["cpus"] == os.cpu_count()


def test_people_read_every_time_figure_and_budget() -> None:
    text = RESULT.text()
    assert "ours" in text
    assert "0.12346" in text
    assert '{"a": 1}' in text
    assert "met     fast: 1 x (at most 2)" in text
    assert "NOT MET many: 1 x (at least 2)" in text


def _run(fails: BaseException | None, as_json: bool) -> tuple[int, str, str]:
    import click

    def measure() -> Result:
        if fails:
            raise fails
        return RESULT

    @click.command()
    def command() -> None:
        comparison.run(measure, threads=1, as_json=as_json)

    done = CliRunner().invoke(command)
    return done.exit_code, done.stdout, done.stderr


def test_a_command_prints_json_when_json_is_asked_for() -> None:
    code, out, _ = _run(None, as_json=True)
    assert (code, json.loads(out)["benchmark"]) == (0, "example")


def test_an_error_of_ours_keeps_its_exit_code() -> None:
    error: UloraError = BadInput("no", hint="yes")
    assert _run(error, as_json=False) == (2, "", "Error: no\nHint: yes\n")


def test_an_interruption_is_no_failure() -> None:
    assert _run(KeyboardInterrupt(), as_json=False) == (130, "", "interrupted\n")


def test_an_interrupted_command_deletes_its_temporary_folder(tmp_path: Path) -> None:
    def measure() -> Result:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        comparison.run(measure, threads=1, as_json=False)
    assert (ended.value.code, list(tmp_path.iterdir())) == (130, [])


WAITS = """
import sys, tempfile, threading
from benchmarks import comparison

def measure():
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        print("ready", flush=True)
        threading.Event().wait()

comparison.run(measure, threads=1, as_json=False)
"""


@pytest.mark.acceptance
def test_a_terminated_command_deletes_its_temporary_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
    assert (process.returncode, list(tmp_path.iterdir())) == (143, [])


def test_torchs_threads_are_as_before_when_a_command_is_done() -> None:
    import torch

    before, during = torch.get_num_threads(), []

    def measure() -> Result:
        during.append(torch.get_num_threads())
        return RESULT

    comparison.run(measure, threads=before + 1, as_json=True)
    assert (during, torch.get_num_threads()) == ([before + 1], before)
