"""MLflow's own command line in this process, as a person types it."""

from __future__ import annotations

from dataclasses import dataclass

from click.testing import CliRunner

# Before any test runs: another thread that imports parts of MLflow at the same time would see them half imported.
from mlflow.cli import cli


@dataclass(frozen=True)
class MlflowDone:
    """What a command did: the status that it would exit with, and what it printed."""

    code: int
    text: str


def mlflow_command(*words: object) -> MlflowDone:
    """Run `mlflow` with these words. An exception other than a click one, which would print a traceback, is raised."""
    done = CliRunner().invoke(cli, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return MlflowDone(done.exit_code, done.output)
