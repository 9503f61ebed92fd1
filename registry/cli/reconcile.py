"""`ulora reconcile`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry.cli.options import dry_run_option, registry_options
from registry.cli.output import Output
from registry.cli.signals import stopping
from registry.errors import BadInput, BadSetting, CorruptBlob, NotInMlflow, StoreDenied

if TYPE_CHECKING:
    from registry.answers import Reconciled
    from registry.api import Registry

_LEFT, _DAMAGED, _REFUSED, _FAILED = _STANDING = (
    "left alone", "damaged in the store", "may not be read", "not in MLflow",
)  # fmt: skip
"""How lines begin that would be printed in every round."""


@click.command("reconcile", short_help="Make MLflow show what the store says; answer requests made there.")
@click.option("--adopt", is_flag=True, help="Take stages and aliases from versions that others registered.")
@click.option("--watch", is_flag=True, help="Repeat it until Ctrl-C, also through outages of MLflow and S3.")
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help="Time between two rounds. [default: 10]"
)
@dry_run_option
@registry_options
def reconcile_command(
    registry: Registry, out: Output, *, adopt: bool, watch: bool, every: float | None, dry_run: bool
) -> None:
    """Log versions and evidence that MLflow lacks, answer requests, and set stages and aliases to what channels serve.

    In the MLflow UI, a promotion is requested by setting the alias request-staging or request-production on a version.
    The gates judge it once, and it is promoted or refused; the top of the version's page says why it was refused. The
    alias request-rollback on the version that production serves rolls back from it, on an earlier one to it. Who
    requested it is unknown, and the record says so.

    A version that MLflow does not take is named, with exit 8, and the others are put right.

    Versions that were not registered by ulora are left alone, unless --adopt.

    \b
    Examples:
      ulora reconcile --dry-run
      ulora reconcile --watch --every 10
    """
    if every is not None and not watch:
        raise BadInput("--every says how often to --watch")
    if watch and dry_run:
        raise BadInput("--watch acts, --dry-run does not: give one of them")
    if watch:
        _watch(registry, out, every or 10.0, adopt=adopt)
        return
    done = registry.reconcile(adopt=adopt, dry_run=dry_run)
    out.answer(
        done, "\n".join(_lines(done, "would " if dry_run else "")) or "MLflow shows what the store says; nothing to do"
    )
    if done.damaged:
        raise CorruptBlob(
            f"{len(done.damaged)} damaged: {'; '.join(done.damaged[:3])}", hint="run `ulora verify --all`"
        )
    if done.refused:
        raise StoreDenied(
            f"{len(done.refused)} may not be read, and MLflow keeps what it shows of them: "
            f"{'; '.join(done.refused[:3])}",
            hint="run it as somebody who may read them; `ulora verify --all` names all",
        )
    if done.failed:
        raise NotInMlflow(
            f"MLflow did not take {len(done.failed)} of the versions, and has all others: {'; '.join(done.failed[:3])}",
            hint="nothing is wrong with them in the store; mend the reason, then run `ulora reconcile` again",
        )


def _lines(done: Reconciled, would: str = "") -> list[str]:
    lines = [f"{would}log {version} in MLflow" for version in done.logged]
    lines += [f"request of {request}" for request in done.requests]
    lines += [f"{would}set {change}" for change in done.changes]
    lines += [f"{_LEFT}: {skipped}" for skipped in done.skipped]
    lines += [f"{_DAMAGED}: {damaged}" for damaged in done.damaged]
    lines += [f"{_REFUSED}: {refused}" for refused in done.refused]
    return lines + [f"{_FAILED}: {failed}" for failed in done.failed]


class _NewLines:
    """Prints of each round only the lines that are new; with --json one object a line."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._standing: set[str] = set()
        self._is_down = False

    def done(self, found: Reconciled) -> None:
        if self._is_down:
            self._say("it works again")
        self._is_down = False
        for line in _lines(found):
            if line not in self._standing:
                self._say(line)
        self._standing = {line for line in _lines(found) if line.startswith(_STANDING)}

    def failed(self, error: Exception, pause: float) -> None:
        if not self._is_down:
            self._out.note(f"{error}; trying until it works, next in {pause:.0f} s")
        self._is_down = True

    def _say(self, line: str) -> None:
        self._out.event({"reconciled": line}, line)


def _watch(registry: Registry, out: Output, every: float, *, adopt: bool) -> None:
    """Reconcile until Ctrl-C or SIGTERM."""
    if registry.settings.tracking_uri is None:
        raise BadSetting("no MLflow tracking server is set", hint="set MLFLOW_TRACKING_URI or pass --tracking-uri")
    from registry.catalog.watch import LoopControl, reconcile_repeatedly

    control, lines = LoopControl(every), _NewLines(out)
    with stopping(control.end):
        out.event({"watching": registry.model}, f"watching {registry.model}; Ctrl-C stops it")
        reconcile_repeatedly(registry.reconciler(adopt=adopt), control, lines.done, lines.failed)
    out.note("stopped")
