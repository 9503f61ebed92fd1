"""Show results as HTML tables, which notebooks use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from html import escape

_MAX_ROWS = 100
_MAX_TEXT = 1000


class HtmlTable:
    """A dataclass or pydantic model that notebooks show as a table with a row for each field."""

    def _repr_html_(self) -> str:
        return f"<b>{escape(type(self).__name__)}</b>{_table(_fields(self).items())}"


def _fields(value: object) -> dict[str, object]:
    """The fields of a dataclass or pydantic model by name; empty for anything else."""
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return {name: getattr(value, name) for name in getattr(type(value), "model_fields", ())}


def _table(rows: Iterable[tuple[str, object]]) -> str:
    return _body(f"<th>{escape(str(name))}</th><td>{_cell(value)}</td>" for name, value in rows)


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        return _table(value.items())
    if isinstance(value, list | tuple):
        return _records(value) if value and _fields(value[0]) else escape(", ".join(map(str, value))[:_MAX_TEXT])
    return _table(_fields(value).items()) if _fields(value) else escape(str(value)[:_MAX_TEXT])


def _records(values: Iterable[object]) -> str:
    """A table with a row for each of several equal things."""
    rows = [_fields(value) for value in values]
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    return _body([head, *("".join(f"<td>{_cell(value)}</td>" for value in row.values()) for row in rows)])


def _body(rows: Iterable[str]) -> str:
    all_rows = list(rows)
    more = [f"<td>… and {len(all_rows) - _MAX_ROWS} more</td>"] if len(all_rows) > _MAX_ROWS else []
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in [*all_rows[:_MAX_ROWS], *more])}</table>"
