"""`ulora feedback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.options import channel_option, dry_run_option, options_as, registry_options
from registry.cli.output import Output, place, table
from registry.cli.signals import sigterm_interrupts
from registry.errors import UloraError

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.usecases.feedback import FeedbackOptions, LabelsTaken

_MEANINGS = {
    "taken": "count",
    "repeated": "had this label before, in this file",
    "contradictory": "had another label before, in this file; the first counts",
    "late": "of answers of more than 30 days ago",
    "left_out": "of answers that no trial counts",
    "unknown": "no receipt of this channel under this fleet key",
    "invalid": "no receipt, or no label",
}


@click.command("feedback", short_help="Count true labels of a file, by the receipts of answers.")
@click.argument("labels", type=click.Path(path_type=Path))
@channel_option("production")
@click.option(
    "--fleet-key-file", type=click.Path(path_type=Path), metavar="FILE",
    help="The keys that the replicas sign receipts with. [ULORA_FLEET_KEY]",
)  # fmt: skip
@dry_run_option
@registry_options
@options_as("registry.usecases.feedback:FeedbackOptions")
def feedback_command(registry: Registry, out: Output, *, labels: Path, channel: str, options: FeedbackOptions) -> None:
    """Count the true labels of LABELS, a CSV file with the columns request_id (that of an answer) and label.

    The label is a class, or _ood for none of them. The labels go straight into the store; no replica is asked. Taking
    a file again, or labels that a replica got too, counts nothing twice, so after an interruption run it again.

    It fails (exit 1) if the file has labels and none of them counts.

    \b
    Examples:
      ulora feedback labels.csv --fleet-key-file fleet.keys
      ulora feedback labels.csv --dry-run --json
    """
    out.say(place(registry))
    with sigterm_interrupts():
        done = registry.canary.feedback(
            labels, channel, options, progress=lambda total: out.progress(total, "labels"), say=out.note
        )
    out.answer(done, _text(done, options.dry_run))
    if done.rows and not done.taken:
        raise UloraError(f"no label of {labels} counts", hint="the table says why; are key and channel the right ones?")


def _text(done: LabelsTaken, dry_run: bool) -> str:
    rows = [(name.replace("_", " "), f"{getattr(done, name):,}", meaning) for name, meaning in _MEANINGS.items()]
    where = "nothing was written" if dry_run or not done.objects else f"written to {', '.join(done.objects)}"
    return f"{table(('LABELS', 'ROWS', ''), rows)}\n{done.rows:,} rows; {where}"
