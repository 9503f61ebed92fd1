"""`ulora audit`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.completers import complete_channels, complete_versions
from registry.cli.options import dry_run_option, options_as, registry_options
from registry.cli.output import Output, facts, megabytes, place
from registry.cli.signals import sigterm_interrupts
from registry.formats.counts import counted
from registry.store.refusals import each_by_itself
from registry.usecases.audit_options import parse_time

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.usecases.audit import Audited
    from registry.usecases.audit_options import AuditOptions

_SHOWN = 20


def _time(context: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:
    return parse_time(text) if text is not None else None


@click.command("audit", short_help="One archive that proves what was served, verified without this package.")
@click.argument("version", required=False, shell_complete=complete_versions)
@click.option(
    "-c", "--channel", metavar="NAME", help="What this channel served instead.", shell_complete=complete_channels
)
@click.option("--since", metavar="TIME", callback=_time, help="From then on, e.g. 2026-11-01. With --channel.")
@click.option("--until", metavar="TIME", callback=_time, help="Before then. With --channel.")
@click.option("--with-weights", is_flag=True, help="Also the files of these versions.")
@click.option("--out", "path", type=click.Path(path_type=Path), metavar="FILE", help="Where. [audit-SUBJECT.zip here]")
@dry_run_option
@registry_options
@options_as("registry.usecases.audit_options:AuditOptions")
@each_by_itself()
def audit_command(registry: Registry, out: Output, *, options: AuditOptions, path: Path | None, dry_run: bool) -> None:
    """Put everything that proves what VERSION was, or what a channel served, into one archive: records, verdicts,
    policies, decisions, approvals, ticks, evidence, outcomes, manifests and signatures, as the exact bytes stored.

    `verify.py` in it checks the rest with Python alone, without this package and without the network:

    \b
      python3 -m zipfile -e audit-v5.5.4-dinov3.zip audit/
      python3 -I audit/verify.py audit-v5.5.4-dinov3.zip --key release.pub.pem

    If documents are missing or damaged, the archive is written all the same and says so, and the exit status is 6 (7
    if they only may not be read). The same state of the store gives the same bytes.

    \b
    Examples:
      ulora audit v5.5.4-dinov3
      ulora audit --channel production --since 2026-11-01 --until 2026-12-01 --out november.zip
      ulora audit v5.5.4-dinov3 --with-weights --dry-run
    """
    path = path or Path(f"audit-{options.version or options.channel}.zip")
    with sigterm_interrupts():
        out.say(place(registry))
        found = registry.audit(path, options, dry_run=dry_run, say=out.say)
        out.answer(found, _text(found, path, dry_run))
    if found.problem:
        raise found.problem


def _text(found: Audited, path: Path, dry_run: bool) -> str:
    named = [*found.missing.items(), *found.damaged.items()]
    bad = [f"{key}: {why}" for key, why in named[:_SHOWN]]
    more = [f"… and {len(named) - _SHOWN} more"] if len(named) > _SHOWN else []
    logs = ", ".join(f"{name} {first} to {last}" for name, (first, last) in found.channels.items())
    told = facts(
        {
            "archive": f"{path}, {'not written' if dry_run else found.sha256}",
            "holds": f"{counted(found.files, 'file')}, {megabytes(found.size)}",
            "records": logs or "none",
            "versions": ", ".join(found.versions),
            "verify.py": found.verify_sha256,
        }
    )
    return "\n".join([told, *bad, *more])
