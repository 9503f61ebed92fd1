"""Write the table into a page, between two markers."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.budget.lines import BudgetLine, as_markdown
from registry.errors import BadInput
from registry.machine import provenance
from registry.machine.cores import usable_cores
from registry.machine.hardware import this_machine

BEGIN, END = "<!-- budget: written by `make bench ARGS=--write` -->", "<!-- budget: end -->"


def write_table(page: Path, lines: Sequence[BudgetLine], about: str) -> None:
    """Replace what is between the markers of a page.

    Args:
        about: a sentence on when and where it was measured.

    Raises:
        BadInput: the page does not have each marker once, in order.
    """
    old = page.read_text("utf-8")
    new = with_table(old, f"{about}\n\n{as_markdown(lines)}")
    scratch = page.with_name(f"{page.name}.new")
    scratch.write_text(new, "utf-8")
    scratch.replace(page)


def with_table(text: str, table: str) -> str:
    """A page's text with another table.

    Raises:
        BadInput: it does not have each marker once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise BadInput("the page has no place for the table", hint=f"it needs the lines {BEGIN} and {END}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def about_this_run(load: float, seconds: Mapping[str, float], how: str) -> str:
    """When and where: date, machine, load before it began, versions, and how long each row took.

    Args:
        seconds: by row; 0 of one that was not measured.
    """
    minutes = sum(seconds.values()) / 60
    each = ", ".join(f"{name} {taken / 60:.1f}" for name, taken in seconds.items() if taken)
    libraries = ", ".join(f"{name} {version}" for name, version in provenance.libraries().items())
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} in {minutes:.0f} minutes{how}, on {this_machine().cpu}, "
        f"{usable_cores()} cores, load {load:.1f} before it began; {platform.system()}, "
        f"Python {platform.python_version()}, {libraries}. "
        f"Minutes: {each or 'none'}."
    )


def load_now() -> float:
    """The load of the last minute."""
    return os.getloadavg()[0]
