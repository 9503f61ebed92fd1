"""Pages of HTML that need no other file: style, lists and tables. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from registry.formats.report_parts import ReportSection, ReportTable
from registry.formats.visible_text import visible, visible_lines

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;padding:0 1em;max-width:64em;color:#222}"
    "h1{font-size:1.4em}h2{font-size:1.1em;margin:1.8em 0 .5em}table{border-collapse:collapse;font-size:14px}"
    "td,th{padding:.3em .9em .3em 0;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}"
    "th{font-weight:600;color:#555;font-size:13px}td{font-variant-numeric:tabular-nums}"
    ".verdict{color:#fff;border-radius:.3em;padding:.15em .6em}.scroll{overflow-x:auto}svg{max-width:100%;height:auto}"
    "dt{float:left;clear:left;width:8em;color:#555}dd{margin:0 0 .2em 8em;overflow-wrap:anywhere}"
)
_MORE_STYLE = "h3{font-size:1em;margin:1.2em 0 .4em}pre{white-space:pre-wrap;background:#f6f6f6;padding:.8em}"


BEGIN = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    '<meta name="generator" content="ulora-registry">'
)
"""How each page begins, by which it is known."""


def html_page(title: str, body: str, style: str = "") -> str:
    """A whole page. `title` is text; `body` is HTML. It has no invisible characters, whoever wrote them."""
    return f"{BEGIN}<title>{escape(visible(title))}</title><style>{_STYLE}{style}</style>{visible_lines(body)}</html>\n"


def badge(word: str, colour: str) -> str:
    """A word on a coloured ground."""
    return f'<span class="verdict" style="background:{colour}">{escape(word)}</span>'


def bullets(sentences: Iterable[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def fact_list(facts: Mapping[str, str]) -> str:
    """Names and values, one below the other; empty values are left out."""
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    return f"<dl>{said}</dl>"


def html_table(found: ReportTable, heading: str = "h2") -> str:
    """A table under its title."""
    head = "".join(f"<th>{escape(name)}</th>" for name in found.header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in found.rows)
    title = f"<{heading}>{escape(found.title)}</{heading}>" if found.title else ""
    return f'{title}<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def sections_page(title: str, sections: Iterable[ReportSection], mark: str = "") -> str:
    """A page of sections; `mark` is HTML before the title."""
    parts = "".join(_section(section) for section in sections if not section.is_empty)
    return html_page(title, f"<h1>{mark}{' ' if mark else ''}{escape(title)}</h1>{parts}", _MORE_STYLE)


def _section(section: ReportSection) -> str:
    texts = "".join(f"<h3>{escape(title)}</h3><pre>{escape(text)}</pre>" for title, text in section.texts.items())
    return (
        f"<h2>{escape(section.title)}</h2>"
        + (fact_list(section.facts) if section.facts else "")
        + (bullets(section.lines) if section.lines else "")
        + "".join(section.plots)
        + "".join(html_table(each, "h3") for each in section.tables)
        + texts
    )
