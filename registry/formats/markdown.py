"""Markdown from texts of people and servers, of which it makes nothing but text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from registry.formats.report_parts import ReportSection
from registry.formats.visible_text import visible, visible_lines

_MAX_TEXT = 500
_MARKS = re.compile(r"([\\`*{}\[\]<>#|!&~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+=](?![\w.]))")
"""What may begin or end a mark. An underscore inside of a word does neither (CommonMark 0.31.2, 6.2)."""
_NUMBER = re.compile(r"^([0-9]{1,9})([.)])(?=\s|$)")
"""What begins a numbered list (CommonMark 0.31.2, 5.2)."""
_TICKS = re.compile(r"`{3,}")


def markdown_text(text: str) -> str:
    """A text of people or servers on one line, of which Markdown makes nothing."""
    line = visible(" ".join(text.split()))
    line = line if len(line) <= _MAX_TEXT else f"{line[: _MAX_TEXT - 1]}…"
    return _NUMBER.sub(r"\1\\\2", _MARKS.sub(r"\\\1", line))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; `head` is taken as it is."""
    lines = [head, ["---"] * len(head), *([markdown_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_block(text: str) -> str:
    """A whole text as a block that nothing in it can end."""
    fence = "`" * (1 + max((len(found) for found in _TICKS.findall(text)), default=2))
    return f"{fence}text\n{visible_lines(text.rstrip())}\n{fence}"


def sections_markdown(title: str, sections: Iterable[ReportSection]) -> str:
    """A document of sections."""
    parts = [f"# {markdown_text(title)}", *(part for each in sections if not each.is_empty for part in _parts(each))]
    return "\n\n".join(parts) + "\n"


def _parts(section: ReportSection) -> Iterator[str]:
    yield f"## {markdown_text(section.title)}"
    if section.facts:
        yield markdown_table(("", ""), [(name, said) for name, said in section.facts.items() if said])
    if section.lines:
        yield "\n".join(f"- {markdown_text(line)}" for line in section.lines)
    for table in section.tables:
        if table.title:
            yield f"### {markdown_text(table.title)}"
        yield markdown_table([markdown_text(name) for name in table.header], table.rows)
    for title, text in section.texts.items():
        yield f"### {markdown_text(title)}"
        yield markdown_block(text)
