"""`ulora dev`, `demo`."""

from __future__ import annotations

import shlex
import signal
import threading
from pathlib import Path

import click

from registry.cli.options import folder, json_option
from registry.cli.output import Output


@click.command("dev", short_help="Start an MLflow server and a real S3 server on this machine.")
@click.option("--folder", "root", default="ulora-data", show_default=True, type=folder, help="Where their data lives.")
@json_option
def dev_command(out: Output, *, root: Path) -> None:
    """Start the embedded stack and print the exports that point `ulora` and `mlflow` at it. Ctrl-C stops it cleanly.

    \b
    Example:
      ulora dev                      # in one terminal; paste its exports into another
    """
    from registry.api import Registry
    from registry.devstack.servers import Stack
    from registry.settings import Settings

    out.note("starting an S3 server and an MLflow server; this takes some seconds")
    with Stack(root) as stack:
        _install(stack.env)
        registry = Registry(settings=Settings.load())
        registry.store.initialise()
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in stack.env.items())
        out.answer(stack.env, f"{exports}\n\n# MLflow: {stack.env['MLFLOW_TRACKING_URI']}   stop with Ctrl-C")
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

    timeline = run(data=data, root=root, say=out.say, wait=_wait_for_signal if keep else None)
    out.answer(timeline, timeline.table())


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
