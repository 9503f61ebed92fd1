"""`ulora demo`."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.options import folder, json_option
from registry.cli.output import Output, table
from registry.cli.signals import interrupted_once, wait_for_signal
from registry.formats.counts import counted

if TYPE_CHECKING:
    from registry.devstack.demo_environment import DemoEnvironment
    from registry.devstack.demo_result import DemoResult

_LIVE_SECONDS = 10.0


@click.command("demo", short_help="Every step on real images, in three to seven minutes.")
@click.option("--data", type=folder, metavar="DIR", help="Your own images, crop/disease/*.jpg, instead of the demo's.")
@click.option("--keep", is_flag=True, help="Leave everything up at the end, until Ctrl-C.")
@click.option("--folder", "root", type=folder, help="Where its data lives; a temporary folder by default.")
@json_option
def demo_command(out: Output, *, data: Path | None, keep: bool, root: Path | None) -> None:
    """Create, measure, gate, promote, serve and roll back two real versions on an embedded stack, under steady load.

    The second one ships after a trial in the shadow of the first. A bad one gets a tenth of the traffic, and the guard
    ends that by itself; then everybody gets it, and both costs are shown. The MLflow server is killed in the middle;
    the rollback does not need it.

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
            wait_for_signal()

    with interrupted_once():
        run(screen=_Screen(out), finish=finish, data=data, root=root)


class _Screen:
    """Lines that stay, and below them one that is updated; without a terminal it is printed every ten seconds."""

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
    total = f"{counted(result.requests, 'request')}, {result.failures} failed; answered by {versions}"
    then = "Next: your own images; the README goes on with `ulora dev`."
    return f"\n{table(header, rows)}\n\n{total}\n{seconds}\n{then}"
