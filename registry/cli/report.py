"""`ulora report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import folder, registry_options
from registry.cli.output import Output
from registry.errors import BadInput, disk_errors
from registry.formats.own_file import IsOwn, check_own, is_markdown_report, is_page, write_own_text
from registry.store.refusals import each_by_itself

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.usecases.version_report import VersionReport

_ELSEWHERE = "give another --out PATH"


@click.command("report", short_help="One page about a version: what it is, what was measured, who approved it.")
@click.argument("version", shell_complete=complete_versions)
@click.option(
    "--out", "place", type=folder, metavar="PATH", help="FILE.html, FILE.md, or a folder for both. [Markdown here]"
)
@registry_options
@each_by_itself()
def report_command(registry: Registry, out: Output, *, version: str, place: Path | None) -> None:
    """Report VERSION: what it is, where it stands, what changed, what was measured with its intervals, the gates, its
    trials, what the guard did, who approved it, and its history. It is read from the store; MLflow may be down.

    The page needs no other file, and nothing from the network. The Markdown says the same without the plots.
    `ulora promote` leaves both among the version's artifacts in MLflow. What can't be read is named at the end.

    \b
    Examples:
      ulora report v5.5.4-dinov3
      ulora report v5.5.4-dinov3 --out report.html
      ulora report v5.5.4-dinov3 --json | jq '.verdicts[].outcome'
    """
    kinds = _kinds(place, version)
    for path in kinds:
        check_own(path, _is_own(path), hint=_ELSEWHERE)
    found = registry.report(version)
    written = [_write(path, found) for path in kinds]
    text = "\n".join(f"wrote {path}" for path in written) if written else _text(Path("report.md"), found)
    out.answer(found, text)


def _kinds(place: Path | None, version: str) -> list[Path]:
    """The files to write.

    Raises:
        BadInput: it is neither a page, nor Markdown, nor a folder.
    """
    if place is None:
        return []
    with disk_errors(place, hint=_ELSEWHERE):
        is_folder = place.is_dir()
    if is_folder:
        return [place / f"report-{version}{suffix}" for suffix in (".html", ".md")]
    if place.suffix.lower() in (".html", ".md"):
        return [place]
    raise BadInput(f"{place} is neither a folder nor FILE.html or FILE.md", hint=_ELSEWHERE)


def _write(path: Path, found: VersionReport) -> Path:
    return write_own_text(path, _text(path, found), _is_own(path), hint=_ELSEWHERE)


def _is_own(path: Path) -> IsOwn:
    return is_page if path.suffix.lower() == ".html" else is_markdown_report


def _text(path: Path, found: VersionReport) -> str:
    from registry.usecases.version_report_page import markdown, page

    return page(found) if path.suffix.lower() == ".html" else markdown(found)
