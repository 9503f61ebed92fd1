"""`ulora doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.options import registry_options
from registry.cli.output import Output
from registry.errors import UloraError

if TYPE_CHECKING:
    from registry.answers import Finding
    from registry.api import Registry


@click.command("doctor", short_help="Check the store, the channels, MLflow and this machine.")
@click.option("--read-data", is_flag=True, help="Read all bytes of what is live and of the rollback target: daily.")
@registry_options
def doctor_command(registry: Registry, out: Output, *, read_data: bool) -> None:
    """Check the store, the channels, what is live and where a rollback goes, MLflow, the replicas and this machine.

    The exit status is 1 if anything is wrong. Each finding says what to run. Conditional writes are tried below
    `probe/`. Nothing else is changed, except that temporary folders of killed processes are removed.

    \b
    Examples:
      ulora doctor --json | jq '.[] | select(.level != "ok")'
      ulora doctor --read-data              # once a day, e.g. by cron
    """
    from registry.doctor import examine

    findings = examine(registry, read_data=read_data)
    lines = [f"{found.level:<8} {found.subject}: {found.detail}" + _to_do(found) for found in findings]
    out.answer(findings, "\n".join(lines))
    wrong = [found.subject for found in findings if found.level == "error"]
    if wrong:
        raise UloraError(f"something is wrong with: {', '.join(wrong)}", hint="the list above says what to run")


def _to_do(found: Finding) -> str:
    return f"\n         to do: {found.fix}" if found.fix else ""
