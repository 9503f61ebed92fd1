"""A version's report as one HTML page that needs no other file, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from registry.catalog.artifact_names import REPORT
from registry.formats.html_page import badge, sections_page
from registry.formats.markdown import sections_markdown
from registry.usecases.version_report import VersionReport, report
from registry.usecases.version_report_sections import overruled, sections_of, title_of
from registry.wiring import Wiring

PAGE, MARKDOWN = REPORT, "report.md"
"""The files' names among a version's artifacts in MLflow."""
_COLOURS: Mapping[str, str] = {"stable": "#1b7f3b", "trial": "#d1722c", "withdrawn": "#b00020"}
_OTHER, _FORCED = "#4a6fa5", "#b00020"


def page(found: VersionReport) -> str:
    """The page."""
    role = next((each.role for each in found.standings[::-1]), "")  # production is the last of the channels
    mark = badge(role, _COLOURS.get(role, _OTHER)) if role else ""
    if any(overruled(found, each.channel) for each in found.standings):
        mark += f" {badge('by force', _FORCED)}"
    return sections_page(title_of(found), sections_of(found), mark)


def markdown(found: VersionReport) -> str:
    """The same as Markdown, without the plots."""
    return sections_markdown(title_of(found), sections_of(found))


def report_files(wiring: Wiring, version: str, limit: int | None = None) -> dict[str, bytes]:
    """The files of a version's report, by name. The errors are those of `Registry.report`."""
    found = report(wiring, version, limit)
    return {name: text.encode("utf-8", "replace") for name, text in ((PAGE, page(found)), (MARKDOWN, markdown(found)))}
