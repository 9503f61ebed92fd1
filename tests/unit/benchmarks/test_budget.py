"""The budget's table, its page and the check against a baseline: what they say of results that are made up."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import residents, scale
from benchmarks.budget import check, page, run
from benchmarks.budget.__main__ import PAGE
from benchmarks.budget.__main__ import main as budget
from benchmarks.budget.baseline import decide, judge_lines, read_baseline, worsening, write_baseline
from benchmarks.budget.conditions import code_digest
from benchmarks.budget.lines import BudgetLine, as_markdown, as_text, lines_of, ratios_of
from benchmarks.budget.measuring import MeasuredRow, MeasureHow, measure_row
from benchmarks.budget.page import BEGIN, END, with_table
from benchmarks.budget.rows import ROWS, BudgetRow, ShownBudget, rows_named
from benchmarks.comparison import Times
from benchmarks.footprint import Footprint
from registry.errors import BadInput

SCALE_RIVALS = (scale.ALIAS, scale.ALIAS_READ)
ROW = BudgetRow("mixed", "mixed", (), (), (ShownBudget("batch", "ours", ("PEFT", "gone"), "a known reason"),))
TIMES = {
    "ours": {"median_ms": 2.0, "q25_ms": 1.5, "q75_ms": 2.5, "least_ms": 1.0, "n": 7},
    "PEFT": {"median_ms": 4.0, "q25_ms": 4.0, "q75_ms": 4.0, "least_ms": 4.0, "n": 7},
}


def budget_of(value: float | None, **more: Any) -> dict[str, Any]:
    met = value is not None and value <= 1.1
    return {"what": "batch / single", "value": value, "unit": "x", "bound": "at most", "limit": 1.1, "met": met, **more}


def measured(*budgets: dict[str, Any], name: str = "mixed") -> MeasuredRow:
    result = {"benchmark": name, "machine": {}, "times": TIMES, "figures": {"seen": [3, 4]}, "budgets": [*budgets]}
    return MeasuredRow(name, "measured", 1.0, result)


def printed(row: BudgetRow, value: float = 1.0) -> list[str]:
    """A command that prints a result with every budget of a row's full run."""
    budgets = [budget_of(value, what=f"{one.begins} so") for one in row.expected(quick=False)]
    return ["-c", f"print({json.dumps(dict(measured(*budgets).result))!r})"]


def line(value: float, *, bound: str = "at most", row: str = "mixed", unit: str = "x") -> BudgetLine:
    return BudgetLine(row, "batch / single", value, unit, bound, 1.1, True)


def test_a_line_says_ours_rivals_budget_number_and_spread() -> None:
    (found,) = lines_of(ROW, measured(budget_of(1.05)))
    assert found.cells() == [
        "mixed: batch / single", "2 ms", "PEFT 4 ms", "1.05 x", "at most 1.1", "met", "7", "1.5 to 2.5 ms",
    ]  # fmt: skip
    assert found.reason == ""


@pytest.mark.parametrize(
    ("ours", "rival", "shown"),
    [
        ("publish: ours", "publish: raw boto3", "raw boto3"),
        ("flip of a replica", "PEFT: set_adapter", "PEFT: set_adapter"),
        ("a: tiny: ours, seconds", "a: tiny: MLflow, seconds", "MLflow, seconds"),
        ("a: log moved, median and worst in ms", "a: alias set, median and worst in ms", "alias set"),
    ],
)
def test_a_rival_is_named_without_what_both_were_measured_of(ours: str, rival: str, shown: str) -> None:
    row = BudgetRow("mixed", "mixed", (), (), (ShownBudget("batch", ours, (rival,)),))
    one = measured(budget_of(1.0))
    result = {**one.result, "times": {}, "figures": {rival: [4.0, 5.0]}}
    (found,) = lines_of(row, MeasuredRow("mixed", "measured", 1.0, result))
    assert found.rivals.removesuffix(" ms") == f"{shown} 4"


def test_a_missed_budget_shows_its_reason_or_a_place_for_it() -> None:
    known, unknown = (
        as_markdown(lines_of(row, measured(budget_of(2.0)))) for row in (ROW, BudgetRow("mixed", "mixed", (), ()))
    )
    assert "| **not met**: a known reason |" in known
    assert "| **not met**: the reason is not known yet |" in unknown


@pytest.mark.parametrize("state", ["failed", "interrupted", "not run"])
def test_each_budget_of_an_unmeasured_row_has_a_line(state: Any) -> None:
    row = BudgetRow("mixed", "mixed", (), (), (ShownBudget("one"), ShownBudget("two"), ShownBudget("v", run="quick")))
    lines = lines_of(row, MeasuredRow("mixed", state, why="no S3" if state == "failed" else ""))
    assert [(one.what, one.met, one.verdict) for one in lines] == [
        ("one", None, "not measured"),
        ("two", None, "not measured"),
    ]
    assert state in as_text(lines)
    assert f"**not measured**: {state}" in as_markdown(lines)


def test_a_budget_that_is_not_reported_any_more_has_a_line() -> None:
    row = BudgetRow("mixed", "mixed", (), (), (ShownBudget("batch"), ShownBudget("gone"), ShownBudget("v", run="full")))
    lines = lines_of(row, measured(budget_of(1.0)), quick=True)
    assert [(one.what, one.verdict) for one in lines] == [("batch / single", "met"), ("gone", "not reported")]
    assert "| mixed: gone |  |  |  |  | **not reported**: its command ran and said nothing of it |" in as_markdown(
        lines
    )
    assert not run.BudgetRun([], "", quick=True).failures


@pytest.mark.parametrize("command", [[budget], [check.main], [check.main, "--update"]], ids=["run", "check", "update"])
def test_a_budget_that_is_not_reported_any_more_fails(
    command: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "baseline.json"
    write_baseline([line(1.0, row="flip")], "a test", path)
    before = path.read_bytes()
    monkeypatch.setattr(check, "BASELINE", path)
    result = json.dumps(dict(measured(budget_of(1.0, what="q,v: mixed batch / single batch")).result))
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: ["-c", f"print({result!r})"])
    done = CliRunner().invoke(command[0], ["--only", "mixed", *command[1:]])
    assert done.exit_code == 1
    assert "FAILED   mixed: all-linear: mixed: not reported" in done.output
    assert path.read_bytes() == before


def test_a_figure_that_is_no_number_is_missed_and_stays_json() -> None:
    (found,) = lines_of(ROW, measured(budget_of(None)))
    assert (found.met, math.isnan(found.value)) == (False, True)
    assert json.loads(json.dumps(found.document(), allow_nan=False))["value"] is None


def test_text_stays_inside_its_cell() -> None:
    row = as_markdown([BudgetLine("mixed", "a | b\nc", reason="d | e")]).splitlines()[-1]
    assert row.startswith("| mixed: a \\| b c |")
    assert row.replace("\\|", "").count("|") == 9


@given(st.text(), st.text(), st.text(alphabet="abc|\n"))
def test_the_page_changes_between_its_markers_only(before: str, after: str, table: str) -> None:
    if any(mark in text for mark in (BEGIN, END) for text in (before, after)):
        return
    once = with_table(f"{before}{BEGIN}\nan earlier table\n{END}{after}", table)
    assert once == f"{before}{BEGIN}\n{table}\n{END}{after}"
    assert with_table(once, table) == once


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{END}"], ids=["none", "one", "turned", "3"])
def test_a_page_without_markers_is_left_alone(text: str, tmp_path: Path) -> None:
    written = tmp_path / "page.md"
    written.write_text(text)
    with pytest.raises(BadInput, match="no place for the table"):
        page.write_table(written, [], "")
    assert written.read_text() == text


def test_the_page_has_a_place_for_the_table_and_names_each_row() -> None:
    text = PAGE.read_text("utf-8")
    assert with_table(text, "x") != text
    assert [row.name for row in ROWS if f"`{row.name}`" not in text] == []


RATIOS = st.floats(0.001, 1000)


@given(RATIOS, RATIOS, st.floats(0, 3), st.sampled_from(["at most", "at least"]))
def test_a_figure_is_worse_only_beyond_its_tolerance(value: float, before: float, tolerance: float, bound: str) -> None:
    outcome = decide(worsening(value, before, bound), tolerance)
    worse_by = value / before if bound == "at most" else before / value
    if abs(worse_by - 1 - tolerance) > 1e-9:
        assert (outcome == "worse") == (worse_by > 1 + tolerance)
    assert decide(worsening(before, before, bound), tolerance) == "as good"
    assert decide(worsening(value, before, bound), math.inf) != "worse"


@given(RATIOS, RATIOS, st.floats(0, 3))
def test_the_two_bounds_mirror_each_other(value: float, before: float, tolerance: float) -> None:
    assert worsening(value, before, "at most") == worsening(before, value, "at least")


@pytest.mark.parametrize(
    ("value", "before", "bound", "change"),
    [(1.5, 1.0, "at most", 0.5), (0.5, 1.0, "at least", 1.0), (0, 0, "at most", 0.0), (1, 0, "at most", math.inf)],
)
def test_worsening_is_a_share_of_the_better_figure(value: float, before: float, bound: str, change: float) -> None:
    assert worsening(value, before, bound) == change


def test_what_is_no_number_is_worse() -> None:
    assert decide(worsening(math.nan, 1.0, "at most"), 10.0) == "worse"


def test_the_check_names_what_is_worse_new_and_missing() -> None:
    tolerance = next(row.tolerance for row in ROWS if row.name == "mixed")
    lines = [line(1 + tolerance + 0.1), line(1.0, row="flip", unit="tensors"), line(3.0, row="loading", unit="ms")]
    before = {"mixed: batch / single": 1.0, "mixed: gone": 2.0, "scale: of a row that is not run": 1.0}
    judged = {one.key: one for one in judge_lines(lines, before)}
    assert {key: one.outcome for key, one in judged.items()} == {
        "mixed: batch / single": "worse",
        "flip: batch / single": "new",
        "mixed: gone": "missing",
    }
    assert "60% worse (tolerance 50%)" in judged["mixed: batch / single"].sentence()
    assert [one.is_bad for one in judged.values()] == [True, False, True]


def test_a_row_may_name_figures_that_the_check_compares_too() -> None:
    row = BudgetRow("mixed", "mixed", (), (), ratios=(("rival / ours", "at least"), ("gone", "at most")))
    one = measured(budget_of(1.0))
    result = {**one.result, "figures": {"rival / ours": 38.0}}
    (found,) = ratios_of(row, MeasuredRow("mixed", "measured", 1.0, result))
    assert (found.what, found.value, found.bound) == ("rival / ours", 38.0, "at least")
    (judged,) = judge_lines([found], {"mixed: rival / ours": 100.0})
    assert (judged.outcome, judged.change) == ("worse", pytest.approx(100 / 38 - 1))


def test_counts_have_no_tolerance() -> None:
    (found,) = judge_lines([line(4, unit="requests")], {"mixed: batch / single": 3.0})
    assert (found.outcome, found.tolerance) == ("worse", 0.0)


def test_a_baseline_keeps_rows_that_were_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline([line(1.0), line(2.0, row="scale"), line(math.nan, row="flip")], "first", path)
    write_baseline([line(3.0)], "second", path)
    assert read_baseline(path) == {"mixed: batch / single": 3.0, "scale: batch / single": 2.0}


@pytest.mark.parametrize("text", ["", "[]", '{"figures": {"a": "b"}}', '{"figures": {}}'])
def test_a_damaged_baseline_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BadInput, match=r"baseline|another format"):
        read_baseline(tmp_path / "b.json")


def test_the_committed_baseline_is_of_rows_that_exist() -> None:
    figures = read_baseline()
    assert {key.partition(": ")[0] for key in figures} <= {row.name for row in ROWS}
    assert all(math.isfinite(value) and value >= 0 for value in figures.values())


def test_every_row_says_which_budgets_it_must_report() -> None:
    assert [row.name for row in ROWS if not row.expected(quick=False)] == []
    assert [row.name for row in ROWS if row.quick is not None and not row.expected(quick=True)] == []
    for row in ROWS:
        begins = [one.begins for one in row.shown]
        assert len(set(begins)) == len(begins)


def test_the_commands_name_their_budgets_as_the_rows_do() -> None:
    """Those whose arithmetic stands alone; the others are run."""
    budgets = {
        "residents": residents.result_of(dict.fromkeys(residents.COUNTS, Footprint(*[1] * 6)), 1, {}).budgets,
        "scale": scale._result(
            scale.ScaleOptions(),
            (10, 10_000),
            {scale._named(what, n): Times((1.0,)) for what in (*scale.OURS, *SCALE_RIVALS) for n in (10, 10_000)},
        ).budgets,
    }
    for name, found in budgets.items():
        (row,) = rows_named((name,), quick=False)
        result = {"benchmark": name, "times": {}, "figures": {}, "budgets": [one.document() for one in found]}
        lines = lines_of(row, MeasuredRow(name, "measured", result=result))
        assert not any(one.is_lost for one in lines)
        assert all(row.shown_for(one.what).begins != one.what for one in lines), "each is listed"


def test_rows_are_chosen_by_name_in_their_own_order() -> None:
    assert [row.name for row in rows_named(("scale", "rollback"), quick=True)] == ["rollback", "scale"]
    assert rows_named((), quick=False) == list(ROWS)
    assert {row.quick is None for row in rows_named((), quick=True)} == {False}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_rows_command_takes_its_arguments(row: BudgetRow, tmp_path: Path) -> None:
    import importlib

    name = f"benchmarks.{row.module}" + (".command" if row.module == "serving" else "")
    command = importlib.import_module(name).main
    for how in (MeasureHow(packages=tmp_path), MeasureHow(quick=True, packages=tmp_path)):
        words = how.words(row)
        assert words[:2] == ["-m", f"benchmarks.{row.module}"]
        command.make_context("x", words[2:], resilient_parsing=False)


@pytest.mark.acceptance
def test_a_failing_command_is_a_failed_row(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    done = measure_row(BudgetRow("mixed", "mixed", ("--no-such-option",), None), MeasureHow())
    assert (done.state, done.result) == ("failed", {})
    assert "exit status 2" in done.why
    assert "No such option" in capfd.readouterr().err


@pytest.mark.parametrize("printed", ["no JSON", "{}", "[]", '{"times": 1}'])
def test_output_that_is_no_result_is_a_failed_row(
    printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: ["-c", f"print({printed!r})"])
    assert measure_row(ROW, MeasureHow()).state == "failed"


def test_an_interrupted_row_ends_the_run_and_the_rest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def words(self: MeasureHow, row: BudgetRow) -> list[str]:
        return ["-c", "raise SystemExit(130)"] if row.name == "loading" else printed(row)

    monkeypatch.setattr(MeasureHow, "words", words)
    kept = tmp_path / "kept.json"
    done = run.run_budget(run.BudgetOptions(("mixed", "loading", "residents"), keep=kept))
    assert [one.state for one in done.measured] == ["measured", "interrupted", "not run"]
    assert done.was_interrupted
    assert [*run.kept_rows(kept, MeasureHow())] == ["mixed"]
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: printed(row))
    again = run.run_budget(run.BudgetOptions(("mixed", "loading", "residents"), keep=kept, resume=True))
    assert [one.state for one in again.measured] == ["measured"] * 3
    assert again.document()["met"] is True


@pytest.mark.parametrize("changed", ["code", "processor", "number of cores", "quota", "set of libraries"])
def test_rows_of_another_code_or_machine_are_not_used(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: printed(row))
    kept = tmp_path / "kept.json"
    run.run_budget(run.BudgetOptions(("mixed",), keep=kept))
    assert [*run.kept_rows(kept, MeasureHow())] == ["mixed"]
    document = json.loads(kept.read_text())
    document["conditions"][changed] = "another"
    kept.write_text(json.dumps(document))
    assert run.kept_rows(kept, MeasureHow()) == {}
    assert f"measured with another {changed}: all of it is measured again" in capsys.readouterr().err
    del document["conditions"]
    kept.write_text(json.dumps(document))
    assert run.kept_rows(kept, MeasureHow()) == {}, "of an earlier release"


def test_rows_of_other_sizes_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: printed(row))
    kept = tmp_path / "kept.json"
    run.run_budget(run.BudgetOptions(("mixed", "residents"), keep=kept))
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: printed(row, 2.0 if row.name == "mixed" else 1.0))
    assert [*run.kept_rows(kept, MeasureHow())] == ["residents"]
    assert "other sizes or rivals of mixed" in capsys.readouterr().err


def test_the_code_is_known_by_every_file(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    digests = [code_digest(tmp_path)]
    for name, body in (("a.py", "x = 1"), ("b.py", ""), ("b.py", "x"), ("notes.md", "x")):
        (tmp_path / "registry" / name).write_text(body)
        digests.append(code_digest(tmp_path))
    assert len(set(digests)) == 4
    assert digests[-1] == digests[-2]


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [{}], "quick": false}', '{"rows": [], "quick": true}'])
def test_a_damaged_or_other_kept_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(text)
    with pytest.raises(BadInput, match="no rows to go on from"):
        run.kept_rows(tmp_path / "kept.json", MeasureHow())


@pytest.mark.parametrize("command", [budget, check.main])
def test_the_commands_have_examples_in_their_help(command: Any) -> None:
    said = CliRunner().invoke(command, ["--help"]).output
    assert "python -m benchmarks.budget" in said
    assert {"--only", "--json", "--packages"} <= set(said.split())


@pytest.mark.parametrize(("figure", "code"), [(1.0, 0), (100.0, 1)], ids=["as good", "worse"])
def test_the_check_fails_beyond_the_tolerance(
    figure: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "baseline.json"
    write_baseline([replace(line(1.0), what="q,v: mixed so")], "a test", path)
    monkeypatch.setattr(check, "BASELINE", path)
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: printed(row, figure))
    done = CliRunner().invoke(check.main, ["--only", "mixed"])
    assert done.exit_code == code
    assert ("FAILED   mixed: q,v: mixed so" in done.stdout) == bool(code)


def test_an_update_says_what_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "baseline.json"
    old, kept = replace(line(9.0), what="q,v: mixed so"), line(1.0, row="flip")
    write_baseline([old, kept], "a test", path)
    monkeypatch.setattr(check, "BASELINE", path)
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: printed(row))
    done = CliRunner().invoke(check.main, ["--only", "mixed", "--update"])
    assert done.exit_code == 0
    assert "1 figures are new, 1 have changed, 1 of rows that were not run are kept" in done.stderr
    assert "FAILED" not in done.output
    assert read_baseline(path) == {
        "flip: batch / single": 1.0,
        "mixed: all-linear: mixed so": 1.0,
        "mixed: q,v: mixed so": 1.0,
    }


def test_write_puts_the_table_into_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "page.md"
    written.write_text(f"# A page\n\n{BEGIN}\nan earlier table\n{END}\n\nThe end.\n")
    monkeypatch.setattr(MeasureHow, "words", lambda self, row: printed(row, 2.0 if row.name == "flip" else 1.0))
    monkeypatch.setattr("benchmarks.budget.__main__.PAGE", written)
    done = CliRunner().invoke(budget, ["--write"])
    assert done.exit_code == 0
    assert "met          mixed: q,v: mixed so: 1 x (at most 1.1)" in done.stdout
    text = written.read_text()
    assert text.startswith("# A page\n\n")
    assert text.endswith("\n\nThe end.\n")
    assert "Measured on 20" in text
    assert "an earlier table" not in text
    assert all(f"| {row.name}: {one.begins.strip()} so |" in text for row in ROWS for one in row.expected(quick=False))
    assert "Minutes: rollback 0." in text


@pytest.mark.parametrize(
    ("met", "scale", "said"),
    [(True, 1.0, "met"), (True, 0.25, "met at 0.25 of the load"), (None, 0.25, "not measured")],
)
def test_a_budget_met_at_a_smaller_load_says_so(met: bool | None, scale: float, said: str) -> None:
    assert BudgetLine("swaps", "failed requests", 0.0, "requests", met=met, scale=scale).verdict == said


@pytest.mark.parametrize("part", [["--quick"], ["--only", "mixed"]], ids=["quick", "only"])
def test_a_part_of_the_budget_is_not_written_into_the_page(part: list[str]) -> None:
    before = PAGE.read_bytes()
    done = CliRunner().invoke(budget, [*part, "--write"])
    assert (done.exit_code, "--write takes all rows" in done.stderr) == (2, True)
    assert PAGE.read_bytes() == before
