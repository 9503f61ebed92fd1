"""What reports consist of, before it is known whether they become a page or Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReportTable:
    """A table: a name of one word, its title, the names of columns, and rows."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ReportSection:
    """A part of a report under a title. What is empty is left out.

    Attributes:
        facts: names and values, one below the other.
        lines: sentences, each a point of a list.
        tables, plots: `plots` are SVG, which Markdown leaves out: the tables say the same in numbers.
        texts: whole texts of others, by title, shown as they are.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    tables: tuple[ReportTable, ...] = ()
    plots: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.facts or self.lines or self.tables or self.plots or self.texts)


def shortened(table: ReportTable, rows: int) -> ReportTable:
    """A table with so many rows at most, and one more that says how many there are besides."""
    left = len(table.rows) - rows
    if left <= 0:
        return table
    last = (f"… and {left:,} more", *[""] * (len(table.header) - 1))
    return ReportTable(table.name, table.title, table.header, (*table.rows[:rows], last))
