"""`ulora diff`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_versions
from registry.cli.options import registry_options
from registry.cli.output import Output, facts, table
from registry.evidence.number_text import number
from registry.formats.counts import counted

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.evidence.differences import MetricDifference
    from registry.usecases.diff import VersionDiff
    from registry.versions.changes import FileChange, ManifestChanges

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command("diff", short_help="What is different in another version, what it answers, how it measures.")
@click.argument("older", metavar="OLDER", shell_complete=complete_versions)
@click.argument("newer", metavar="NEWER", shell_complete=complete_versions)
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(min=0), metavar="N", help="Lines of each part."
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with the images."
)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The folder of the images, for --html.")
@registry_options
def diff_command(
    registry: Registry, out: Output, *, older: str, newer: str, limit: int, html: Path | None, data: Path | None
) -> None:
    """Compare two versions: components and files, metrics, and the images for which they answer different labels.

    A difference between metrics has a 95% interval where `ulora measure` kept what both answered for the same images.

    \b
    Examples:
      ulora diff v5.5.3-performance v5.5.4-dinov3
      ulora diff v5.5.3-performance v5.5.4-dinov3 --html diff.html --data images/
      ulora diff v5.5.3-performance v5.5.4-dinov3 --json | jq '.images[] | select(.right == "older")'
    """
    if data and not html:
        raise click.UsageError("--data is for --html")
    found = registry.diff(older, newer)
    if html:
        from registry.cli.diff_page import write_page

        shown = write_page(html, found, data)
        out.note(f"{html} shows {counted(shown, 'image')}")
    out.answer(found, "\n\n".join(_parts(found, limit)))


def _parts(found: VersionDiff, limit: int) -> Iterator[str]:
    yield f"{found.older} -> {found.newer}"
    yield from filter(None, (_manifest_text(found.manifest, limit), _metrics_text(found), _images_text(found, limit)))


def _manifest_text(changed: ManifestChanges, limit: int) -> str:
    told = facts({name: f"{before or '-'} -> {after or '-'}" for name, (before, after) in changed.facts.items()})
    components = [
        f"{_SIGNS[each.change]} {each.name}" + _what_changed(each.weights, each.requires) * (each.change == "changed")
        for each in changed.components
    ]
    files = [_file_text(each) for each in changed.files[:limit]]
    more = len(changed.files) - len(files)
    title = f"files: {counted(len(changed.files), 'file')} differ, {changed.unchanged_files} are the same"
    rows = [*([f"components: {len(components)} differ", *components] if components else []), title, *files]
    return "\n".join([*([told] if told else []), *rows, *([f"  … and {more} more"] if more else [])])


def _what_changed(weights: bool, requires: tuple[str, ...]) -> str:
    parts = [*(["other weights"] if weights else []), *([f"other {', '.join(requires)}"] if requires else [])]
    return f" ({'; '.join(parts)})" if parts else ""


def _file_text(file: FileChange) -> str:
    sizes = " -> ".join(f"{size:,}" for size in (file.before, file.after) if size is not None)
    return f"{_SIGNS[file.change]} {file.path} ({sizes} bytes)"


def _metrics_text(found: VersionDiff) -> str:
    if not found.metrics:
        return "metrics: neither was measured; `ulora measure VERSION --data DIR` does"
    rows = [
        (
            f"{each.metric} ({each.target})" if each.target else each.metric,
            _value(each.older),
            _value(each.newer),
            _change(each),
        )
        for each in found.metrics
    ]
    return table(("METRIC", found.older, found.newer, "DIFFERENCE"), rows)


def _value(value: float | None) -> str:
    return "-" if value is None else number(value)


def _change(each: MetricDifference) -> str:
    if each.difference is None:
        return each.note or "-"
    text = f"{each.difference:+.3f}"
    if each.low is None or each.high is None:
        return text
    return f"{text} (95% CI {each.low:+.3f} to {each.high:+.3f}, on the same {counted(each.pairs, 'image')})"


def _images_text(found: VersionDiff, limit: int) -> str:
    if not found.compared:
        return (
            "images: what both answered for each image is not known; `ulora measure VERSION --only accuracy` of both, "
            "with the same --data, keeps it"
        )
    lost = sum(each.right == "older" for each in found.images)
    won = sum(each.right == "newer" for each in found.images)
    title = (
        f"images: other labels for {len(found.images)} of {counted(found.compared, 'image')}: {won} right only now, "
        f"{lost} right only before"
    )
    rows = [
        (each.right, each.target or "-", each.label or "-", each.older or "-", each.newer or "-", each.image[:16])
        for each in found.images[:limit]
    ]
    header = ("RIGHT", "TARGET", "LABEL", found.older, found.newer, "IMAGE")
    more = f"… and {len(found.images) - len(rows)} more; " if len(found.images) > len(rows) else ""
    shown = f"{more}`ulora diff {found.older} {found.newer} --html FILE --data DIR` shows the images"
    return "\n".join([title, *([table(header, rows), shown] if rows else [])])
