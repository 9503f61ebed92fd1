"""`ulora reconcile`, `doctor`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from registry.cli.options import dry_run_option, registry_options
from registry.cli.output import Output
from registry.errors import BadInput, BadSetting, CorruptBlob, UloraError

if TYPE_CHECKING:
    from registry.answers import Finding, Reconciled
    from registry.api import Registry

_LEFT, _DAMAGED = _STANDING = ("left alone", "damaged in the store")
"""How lines begin that every round would say again."""


@click.command("reconcile", short_help="Make MLflow show what is true; answer requests made there.")
@click.option("--adopt", is_flag=True, help="Take stages and aliases from versions that others registered.")
@click.option("--watch", is_flag=True, help="Do it again and again until Ctrl-C, through outages of MLflow and S3.")
@click.option("--every", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help="Between two looks. [default: 10]")
@dry_run_option
@registry_options
def reconcile_command(
    registry: Registry, out: Output, *, adopt: bool, watch: bool, every: float | None, dry_run: bool
) -> None:
    """Log versions and evidence that MLflow lacks, answer requests, and put stages and aliases to what channels serve.

    A person asks for a promotion in the MLflow UI by setting the alias request-staging or request-production on a
    version. It is judged by the gates, promoted or refused, once; the tag ulora.request.<channel> of the version says
    which, and why. The record says that nobody knows who asked.

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
    out.answer(done, "\n".join(_told(done, "would " if dry_run else "")) or "MLflow shows what is true; nothing to do")
    if done.damaged:
        raise CorruptBlob(
            f"{len(done.damaged)} damaged: {'; '.join(done.damaged[:3])}", hint="run `ulora verify --all`"
        )


def _told(done: Reconciled, would: str = "") -> list[str]:
    lines = [f"{would}log {version} in MLflow" for version in done.logged]
    lines += [f"request of {request}" for request in done.requests]
    lines += [f"{would}set {change}" for change in done.changes]
    lines += [f"{_LEFT}: {skipped}" for skipped in done.skipped]
    return lines + [f"{_DAMAGED}: {damaged}" for damaged in done.damaged]


class _News:
    """Says of many rounds what is new; with --json one object a line."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._standing: set[str] = set()
        self._is_down = False

    def done(self, found: Reconciled) -> None:
        if self._is_down:
            self._say("it works again")
        self._is_down = False
        for line in _told(found):
            if line not in self._standing:
                self._say(line)
        self._standing = {line for line in _told(found) if line.startswith(_STANDING)}

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
    from registry.catalog.watch import Pace, keep_reconciled

    pace, news = Pace(every), _News(out)
    with _stopping(pace.end):
        out.event({"watching": registry.model}, f"watching {registry.model}; Ctrl-C stops it")
        keep_reconciled(registry.reconciler(adopt=adopt), pace, news.done, news.failed)
    out.note("stopped")


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM call `stop`; a second one interrupts at once."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def handle(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.default_int_handler)
        stop()

    before = [signal.signal(each, handle) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


@click.command("doctor", short_help="Look for trouble before it finds you.")
@click.option("--read-data", is_flag=True, help="Read all bytes of what is live and of the rollback target: daily.")
@registry_options
def doctor_command(registry: Registry, out: Output, *, read_data: bool) -> None:
    """Check the store, the channels, what is live and where a rollback goes, MLflow, the replicas and this machine.

    Exits with 1 if anything is wrong. Each finding says what to run. Nothing is changed, except that temporary folders
    of killed processes are removed.

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
