"""`ulora reconcile`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.options import dry_run_option, options_as, registry_options
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


@dataclass(frozen=True)
class _Webhooks:
    """Where webhooks of MLflow come in; with no port they do not."""

    webhook_host: str
    webhook_port: int | None
    webhook_secret_file: Path | None

    def check(self, watch: bool) -> None:
        """Raises: BadInput: the options do not go together."""
        if (self.webhook_port is None) != (self.webhook_secret_file is None):
            raise BadInput(
                "--webhook-port and --webhook-secret-file go together",
                hint="the secret is the one that the webhook in MLflow has: anybody could send an unsigned one",
            )
        if self.webhook_port is not None and not watch:
            raise BadInput("a webhook wakes --watch", hint="add --watch")


@click.command("reconcile", short_help="Make MLflow show what the store says; answer requests made there.")
@click.option("--adopt", is_flag=True, help="Take stages and aliases from versions that others registered.")
@click.option("--watch", is_flag=True, help="Repeat it until Ctrl-C, also through outages of MLflow and S3.")
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help="Time between two rounds. [default: 10]"
)
@click.option(
    "--webhook-port", type=click.IntRange(0, 65535), metavar="PORT",
    help="Let webhooks of MLflow wake --watch early; 0 takes any free port.",
)  # fmt: skip
@click.option("--webhook-host", default="127.0.0.1", show_default=True, metavar="HOST", help="Where they are taken.")
@click.option(
    "--webhook-secret-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="The secret of the webhook in MLflow; a line for each, while one replaces another.",
)  # fmt: skip
@dry_run_option
@registry_options
@options_as(_Webhooks, "webhooks")
def reconcile_command(
    registry: Registry, out: Output, *, adopt: bool, watch: bool, every: float | None, dry_run: bool,
    webhooks: _Webhooks,
) -> None:  # fmt: skip
    """Log versions and evidence that MLflow lacks, answer requests, and set stages and aliases to what channels serve.

    In the MLflow UI, a promotion is requested by setting the alias request-staging or request-production on a version.
    The gates judge it once, and it is promoted or refused; the top of the version's page says why it was refused. The
    alias request-rollback on the version that production serves rolls back from it, on an earlier one to it. Who
    requested it is unknown, and the record says so.

    A version that MLflow does not take is named, with exit 8, and the others are put right.

    Versions that were not registered by ulora are left alone, unless --adopt.

    With --webhook-port, a signed webhook of MLflow to http://HOST:PORT/mlflow begins the next round at once. It is a
    hint only: what is done follows from what MLflow and the store say then. See docs/mlflow.md.

    \b
    Examples:
      ulora reconcile --dry-run
      ulora reconcile --watch --every 10
      ulora reconcile --watch --every 60 --webhook-port 8470 --webhook-secret-file webhook.secret
    """
    if every is not None and not watch:
        raise BadInput("--every says how often to --watch")
    if watch and dry_run:
        raise BadInput("--watch acts, --dry-run does not: give one of them")
    webhooks.check(watch)
    if watch:
        _watch(registry, out, every or 10.0, webhooks, adopt=adopt)
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
            f"MLflow did not take {len(done.failed)} of the changes, and shows all else: {'; '.join(done.failed[:3])}",
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


def _watch(registry: Registry, out: Output, every: float, webhooks: _Webhooks, *, adopt: bool) -> None:
    """Reconcile until Ctrl-C or SIGTERM."""
    if registry.settings.tracking_uri is None:
        raise BadSetting("no MLflow tracking server is set", hint="set MLFLOW_TRACKING_URI or pass --tracking-uri")
    from registry.catalog.watch import LoopControl, reconcile_repeatedly

    control, lines = LoopControl(every), _NewLines(out)
    with stopping(control.end), _listening(webhooks, registry.model, control.wake.set, out):
        out.event({"watching": registry.model}, f"watching {registry.model}; Ctrl-C stops it")
        reconcile_repeatedly(registry.reconciler(adopt=adopt), control, lines.done, lines.failed)
    out.note("stopped")


@contextmanager
def _listening(webhooks: _Webhooks, model: str, wake: Callable[[], None], out: Output) -> Iterator[None]:
    """Let webhooks wake, if there is a port for them.

    Raises:
        BadSetting: the secrets can't be read, or the port is in use.
    """
    if webhooks.webhook_port is None or webhooks.webhook_secret_file is None:
        yield
        return
    from registry.catalog.webhook_listener import PATH, WebhookListener, WebhookUse
    from registry.catalog.webhook_signature import Deliveries, read_secrets
    from registry.serving.listening import listen

    deliveries = Deliveries(read_secrets(webhooks.webhook_secret_file))
    listener = listen(webhooks.webhook_host, webhooks.webhook_port, "--webhook-port or --webhook-host")
    use = WebhookUse(model, wake, lambda reason: out.note(f"a webhook was refused: {reason}"))
    with WebhookListener(listener, deliveries, use):
        host = f"[{webhooks.webhook_host}]" if ":" in webhooks.webhook_host else webhooks.webhook_host
        url = f"http://{host}:{listener.getsockname()[1]}{PATH}"
        out.event({"webhooks": url}, f"webhooks of MLflow are taken at {url}")
        yield
