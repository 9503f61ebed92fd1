"""`ulora dev`, `demo`."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.options import folder, json_option
from registry.cli.output import Output, table

if TYPE_CHECKING:
    from registry.devstack.demo_environment import DemoEnvironment
    from registry.devstack.demo_result import DemoResult

_LIVE_SECONDS = 10.0
_WATCH_SECONDS = 5.0


@click.command("dev", short_help="Start an MLflow server and a real S3 server on this machine.")
@click.option("--folder", "root", default="ulora-data", show_default=True, type=folder, help="Where their data lives.")
@json_option
def dev_command(out: Output, *, root: Path) -> None:
    """Start the embedded stack and print the exports that point `ulora` and `mlflow` at it. Ctrl-C stops it cleanly.

    Meanwhile it does for its model what `ulora reconcile --watch` does: MLflow follows the log, and promotions that are
    asked for in the MLflow UI are answered.

    \b
    Example:
      ulora dev                      # in one terminal; paste its exports into another
    """
    from registry.api import Registry
    from registry.catalog.watch import Pace, Watch
    from registry.devstack.stack import Stack
    from registry.settings import Settings

    out.note("starting an S3 server and an MLflow server; this takes some seconds")
    with Stack(root) as stack:
        _install(stack.env)
        registry = Registry(settings=Settings.load())
        registry.store.initialise()
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in stack.env.items())
        out.answer(stack.env, f"{exports}\n\n# MLflow: {stack.env['MLFLOW_TRACKING_URI']}   stop with Ctrl-C")
        with Watch(registry.reconciler(), Pace(_WATCH_SECONDS), done=lambda reconciled: None):
            _wait_for_signal()
    out.note("stopped; the data stays in " + str(root))


@click.command("demo", short_help="The whole story on real images, in under three minutes.")
@click.option("--data", type=folder, metavar="DIR", help="Your own images, crop/disease/*.jpg, instead of the demo's.")
@click.option("--keep", is_flag=True, help="Leave everything up at the end, until Ctrl-C.")
@click.option("--folder", "root", type=folder, help="Where its data lives; a temporary folder by default.")
@json_option
def demo_command(out: Output, *, data: Path | None, keep: bool, root: Path | None) -> None:
    """Create, measure, gate, promote, serve and roll back two real versions on an embedded stack, under steady load.

    The MLflow server is killed in the middle; the rollback works all the same.

    \b
    Examples:
      ulora demo
      ulora demo --keep
      ulora demo --data images/
    """
    from registry.devstack.demo import run

    def finish(demo: DemoEnvironment, result: DemoResult) -> None:
        out.answer(result, _result_text(result))
        if keep:
            out.say(demo.addresses())
            _wait_for_signal()

    with _interrupted_once():
        run(screen=_Screen(out), finish=finish, data=data, root=root)


class _Screen:
    """Lines that stay, and one at the bottom that is drawn again and again; without a terminal, now and then."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._is_terminal = sys.stderr.isatty()
        self._lock = threading.Lock()
        self._live = ""
        self._printed = time.monotonic()

    def say(self, text: str) -> None:
        with self._lock:
            self._draw("")
            self._out.say(text)
            sys.stdout.flush()
            self._draw(self._live)

    def live(self, text: str) -> None:
        with self._lock:
            self._live = text
            self._draw(text)
            if text and not self._is_terminal and time.monotonic() - self._printed > _LIVE_SECONDS:
                self._printed = time.monotonic()
                self._out.say(f"          … {text}")
                sys.stdout.flush()

    def _draw(self, text: str) -> None:
        if self._is_terminal and not self._out.as_json:
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r{text[: width - 1]}\x1b[K")
            sys.stderr.flush()


def _result_text(result: DemoResult) -> str:
    header = ("SECONDS", "ACT", "VERSION", "REQUESTS", "FAILED", "EVENT")
    rows = [
        (f"{event.seconds:.1f}", event.act, event.version, event.requests, event.failures, event.event)
        for event in result.events
    ]
    seconds = ", ".join(f"act {number + 1} {took:.0f} s" for number, took in enumerate(result.act_seconds.values()))
    versions = ", ".join(f"{version} {count}" for version, count in sorted(result.versions.items()))
    total = f"{result.requests} requests, {result.failures} failed; answered by {versions}"
    return f"\n{table(header, rows)}\n\n{total}\n{seconds}"


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Ctrl-C or SIGTERM interrupts what runs; a second one does not disturb the tidying up."""
    signals = (signal.SIGINT, signal.SIGTERM)

    def interrupt(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(each, interrupt) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def _install(variables: dict[str, str]) -> None:
    import os

    os.environ.update(variables)


def _wait_for_signal() -> None:
    """Return when Ctrl-C or SIGTERM asks to stop."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        while not stop.wait(3600):
            pass
    except KeyboardInterrupt:
        click.echo("", err=True)
