"""Run rows as a command does: what is shared by `python -m benchmarks.budget` and its check."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from benchmarks.budget.conditions import conditions, differing
from benchmarks.budget.lines import BudgetLine, lines_of, ratios_of
from benchmarks.budget.measuring import MeasuredRow, MeasureHow, checked, measure_rows
from benchmarks.budget.page import about_this_run, load_now
from benchmarks.budget.rows import ROWS, rows_named
from benchmarks.comparison import machine, say
from registry.errors import BadInput

_BY_NAME = {row.name: row for row in ROWS}
_MAX_KEPT = 64 * 1024 * 1024


@dataclass(frozen=True)
class BudgetOptions:
    """Which rows, and how.

    Attributes:
        only: names of rows; all of the full or quick run if empty.
        keep: a file that holds what was measured, written after each row.
        resume: leave out rows that the file has measured already, under the same conditions.
    """

    only: tuple[str, ...] = ()
    quick: bool = False
    packages: Path | None = None
    keep: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class BudgetRun:
    """A run of rows.

    Attributes:
        about: when and where, a sentence.
    """

    measured: Sequence[MeasuredRow]
    about: str
    quick: bool

    @property
    def lines(self) -> list[BudgetLine]:
        """The table."""
        return [line for one in self.measured for line in lines_of(_BY_NAME[one.name], one, quick=self.quick)]

    @property
    def failures(self) -> list[str]:
        """What went wrong, for people: commands that failed, and budgets that one does not report any more."""
        failed = [f"{one.name}: its command failed" for one in self.measured if one.state == "failed"]
        return failed + [f"{line.row}: {line.what}: not reported" for line in self.lines if line.is_lost]

    @property
    def compared(self) -> list[BudgetLine]:
        """What the check compares: the table, and the figures that only it looks at."""
        return self.lines + [line for one in self.measured for line in ratios_of(_BY_NAME[one.name], one)]

    @property
    def was_interrupted(self) -> bool:
        """Whether rows are left."""
        return any(one.state == "interrupted" for one in self.measured)

    def document(self) -> dict[str, Any]:
        """As JSON. `met`: every budget is, and every row was measured."""
        return {
            "benchmark": "budget", "quick": self.quick, "about": self.about, "machine": machine(),
            "when": datetime.now(UTC).isoformat(timespec="seconds"), "conditions": conditions(),
            "lines": [line.document() for line in self.lines],
            "rows": [one.document() for one in self.measured],
            "met": all(line.met is True for line in self.lines),
        }  # fmt: skip


def run_budget(options: BudgetOptions) -> BudgetRun:
    """Measure rows; keeps what was measured after each.

    Raises:
        BadInput: the file to resume from is damaged, or of the other kind of run.
    """
    rows, load = rows_named(options.only, quick=options.quick), load_now()
    conditions()  # as they are before anything is measured
    how = MeasureHow(options.quick, options.packages)
    done = kept_rows(options.keep, how) if options.resume and options.keep else {}

    def run_of(measured: Sequence[MeasuredRow]) -> BudgetRun:
        by_name = {**done, **{one.name: one for one in measured}}
        ordered = [by_name.get(row.name, MeasuredRow(row.name, "not run")) for row in rows]
        kind = " with tiny sizes, which meet no budget" if options.quick else ""
        return BudgetRun(ordered, about_this_run(load, {one.name: one.seconds for one in ordered}, kind), options.quick)

    def keep(measured: Sequence[MeasuredRow]) -> None:
        if options.keep:
            _write(options.keep, run_of(measured).document())

    with _sigterm_interrupts():
        return run_of(measure_rows([row for row in rows if row.name not in done], how, keep))


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: with the table of what was measured."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def kept_rows(path: Path, how: MeasureHow) -> dict[str, MeasuredRow]:
    """The rows that an earlier run has measured by the same code on the same machine with the same sizes; none if there
    is no such file. It says which rows it leaves out, and why.

    Raises:
        BadInput: the file is something else, or of the other kind of run.
    """
    try:
        document = _kept_document(path)
        if document["quick"] is not how.quick:
            raise ValueError("it is of the full run" if how.quick else "it is of a quick run")
        found = [_kept(row) for row in document["rows"] if row["state"] == "measured" and row["name"] in _BY_NAME]
        changed = differing(document.get("conditions", {}))
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path} holds no rows to go on from: {error}", hint="choose another --keep") from error
    if found and changed:
        say(f"{path} was measured with another {', another '.join(changed)}: all of it is measured again")
        return {}
    others = [one.name for one in found if list(one.words) != how.words(_BY_NAME[one.name])]
    if others:
        say(f"{path} has other sizes or rivals of {', '.join(others)}: measured again")
    return {one.name: one for one in found if one.name not in others}


def _kept_document(path: Path) -> Any:
    if path.stat().st_size > _MAX_KEPT:
        raise ValueError("it is too large")
    return json.loads(path.read_text("utf-8"))


def _kept(row: Mapping[str, Any]) -> MeasuredRow:
    words = tuple(str(word) for word in row.get("words", ()))
    return MeasuredRow(str(row["name"]), "measured", float(row["seconds"]), checked(row["result"]), words=words)


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    scratch.replace(path)


def option_rows(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both commands have."""
    names = click.Choice([row.name for row in ROWS])
    folder = click.Path(path_type=Path, exists=True, file_okay=False)
    for option in (
        click.option("--packages", type=folder, help="Folder of rivals, of `pip install --target DIR …`."),
        click.option("--keep", type=click.Path(path_type=Path, dir_okay=False), help="File for what was measured."),
        click.option(
            "--resume",
            is_flag=True,
            help="Leave out rows that the file of --keep has, if code, machine and sizes are the same.",
        ),
        click.option("--only", type=names, multiple=True, help="Only this row; may be repeated."),
    ):
        command = option(command)
    return command
