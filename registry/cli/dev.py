"""`ulora dev`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry.cli.options import folder, json_option
from registry.cli.output import Output
from registry.cli.signals import wait_for_signal

if TYPE_CHECKING:
    from registry.devstack.stack import Stack

_WATCH_SECONDS = 5.0
_LOOK_SECONDS = 1.0


@click.command("dev", short_help="Start an MLflow server and a real S3 server on this machine.")
@click.option(
    "--folder", "root", default="ulora-data", show_default=True, type=folder, help="Where they keep their data."
)
@json_option
def dev_command(out: Output, *, root: Path) -> None:
    """Start both servers; `env.sh` in their folder points `ulora`, MLflow and boto3 at them. Ctrl-C stops them cleanly.

    Ports and keys stay the same when they are started again in that folder. A server that ends is started again. With
    --json the exports of env.sh are printed, the secret key too.

    Meanwhile it runs `ulora reconcile --watch` for its model: MLflow follows the channels, and promotions that are
    requested in the MLflow UI are answered.

    \b
    Example:
      ulora dev                      # in one terminal
      source ulora-data/env.sh       # in another one
    """
    from registry.api import Registry
    from registry.catalog.watch import LoopControl, Watch
    from registry.devstack.keeper import Keeper
    from registry.devstack.stack import Stack
    from registry.settings import Settings

    out.note("starting an S3 server and an MLflow server; this takes up to a minute")
    with Stack(root) as stack:
        os.environ.update(stack.env)
        registry = Registry(settings=Settings.load())
        registry.store.initialise()
        out.answer(stack.env, _answer(stack))
        with Watch(registry.reconciler(), LoopControl(_WATCH_SECONDS), done=lambda reconciled: None):
            wait_for_signal(Keeper(stack.servers, out.note).look, _LOOK_SECONDS)
    out.note("stopped; the data stays in " + str(root))


def _answer(stack: Stack) -> str:
    return (
        f"S3      {stack.s3.url}, bucket {stack.s3.bucket}\n"
        f"MLflow  {stack.mlflow.url}/#/models\n"
        f"in other terminals: source {shlex.quote(str(stack.exports_file))}   stop with Ctrl-C"
    )
