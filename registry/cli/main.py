"""The group of all commands, loaded one by one when used, and the one place where errors become exit codes."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

import click

from registry.channels.committed import CommitWatch, watched_commits
from registry.cli.output import complain, fail, to_stderr
from registry.cli.signals import lost_interrupts
from registry.errors import DISK_FULL, BadInput, DiskFull, UloraError, first_line, without_header_value
from registry.machine.programs import drop_relative_search_paths

INTERRUPTED = 130
_COMPLETE = "_ULORA_COMPLETE"
"""Set by a shell that asks for completions."""

_INTERRUPT_HINT = "run the same command again: it is safe, and what was done is kept"
_CHANGED_HINT = "the channel may have changed: `ulora status` shows what it serves; look before you change it again"
_SECTIONS = {
    "Everyday": (
        "create", "list", "show", "diff", "measure", "test", "promote", "rollback", "status", "history", "verify",
        "report", "checklist", "audit", "sign", "approve", "restore", "switch", "serve", "follow", "predict", "apply",
    ),
    "Trials": ("canary", "guard", "feedback"),
    "Care": ("store", "backbone", "policy", "reconcile", "doctor", "rollback-script", "config"),
    "Start": ("init", "demo", "dev", "dashboard", "data", "fit", "completion"),
}  # fmt: skip
"""The commands. Each is in the module of its name, with underscores for dashes, as `NAME_command`."""


class _Commands(click.Group):
    """Imports a command's module when the command is used, so that `ulora rollback` loads nothing it does not need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in _SECTIONS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"registry.cli.{name}"), f"{name}_command")
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.list_commands(ctx))
            if not near:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {' or '.join(near)}?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in _SECTIONS.items():
            with formatter.section(title):
                commands = ((name, self.get_command(ctx, name)) for name in names)
                formatter.write_dl([(name, command.get_short_help_str(80)) for name, command in commands if command])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"\n{EXIT_STATUS}\n")


HELP_OPTIONS = ["-h", "--help"]
_SHORTEST = """No store is set here. To begin:
  ulora demo     everything on real images, in some minutes: pip install 'ulora-registry[demo]'
  ulora dev      an S3 server and an MLflow server on this machine, from the same extra
  ulora init     with a bucket of your own: writes ulora.toml, and says what to run next

`ulora --help` lists all commands."""
EXIT_STATUS = """Exit status:
  0 done; 1 failed; 2 usage; 3 gate refused; 4 channel moved, name taken, or not
  now; 5 not found; 6 integrity; 7 unreachable or outcome unknown; 8 done in the
  store, but MLflow lacks it; 130 interrupted"""


def _print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from registry.machine.build import version_line

        click.echo(f"ulora, version {version_line()}")
        context.exit()


@click.command(cls=_Commands, context_settings={"help_option_names": HELP_OPTIONS, "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version, and the commit that it was built from.",
)  # fmt: skip
def cli() -> None:
    """Version management for LoRA adapters on DINO backbones: create, measure, promote by gates, roll back in a second.

    \b
    When a release is bad:
      ulora status                          what is live, and where a rollback would go
      ulora rollback --reason "error rate"  go back; needs S3 only, MLflow may be down
      ulora verify v5.5.3-performance --read-data

    \b
    A release:
      ulora create v5.5.4-dinov3 --from bundle/ --description "DINOv3 backbone"
      ulora measure v5.5.4-dinov3 --data images/
      ulora promote v5.5.4-dinov3 --channel staging
      ulora promote v5.5.4-dinov3 --channel production
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented code."""
    drop_relative_search_paths()
    words = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in words
    if _COMPLETE in os.environ:
        cli.main(words, prog_name="ulora")
    with watched_commits() as watch, lost_interrupts() as lost:
        _run(words, as_json, watch, lost)
    sys.exit(0)


def _run(words: list[str], as_json: bool, watch: CommitWatch, lost: Sequence[object]) -> None:
    """Run the command line; errors become exit codes. After an interrupt that was lost, an error may be untrue."""
    try:
        # Not by `cli.main`, which exits with 1 when the reader of the output has closed the pipe.
        with cli.make_context("ulora", list(words)) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except UloraError as error:
        if lost:
            _stop(as_json, watch)
        fail(error, as_json, watch.known)
    except click.exceptions.NoArgsIsHelpError as error:
        to_stderr(error.format_message() if (error.ctx and error.ctx.parent) or _has_store() else _SHORTEST)
        sys.exit(BadInput.exit_code)
    except click.UsageError as error:
        fail(_usage(error), as_json)
    except (KeyboardInterrupt, click.Abort):
        _stop(as_json, watch)
    except BrokenPipeError:
        # Only help is printed by others than `Output`: `ulora --help | head -1` is not a failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        _fail_unexpectedly(error, as_json, watch.known)


def _has_store() -> bool:
    """Whether something says which store is meant; a settings file with a mistake in it is one, too."""
    from registry.settings import find, read_file

    try:
        return bool(find("store", None, read_file())[0])
    except UloraError:
        return True


def _stop(as_json: bool, watch: CommitWatch) -> NoReturn:
    """Say that the command was interrupted, and what had become of a record by then. A rollback that was made is not to
    be made again: it would go back to one version more."""
    known, hint = watch.known, _CHANGED_HINT if watch.is_sent else _INTERRUPT_HINT
    said = f"{known}; interrupted" if known else "interrupted"
    document = {"error": "Interrupted", "message": said, "hint": hint}
    if not as_json and known:
        complain(f"note: {known}")
    to_stderr(json.dumps(document) if as_json else f"interrupted\nhint: {hint}")
    sys.exit(INTERRUPTED)


def _usage(error: click.UsageError) -> BadInput:
    path = error.ctx.command_path if error.ctx else "ulora"
    return BadInput(error.format_message(), hint=f"`{path} --help` shows how")


def _fail_unexpectedly(error: Exception, as_json: bool, known: str) -> NoReturn:
    if os.environ.get("ULORA_DEBUG"):
        to_stderr(without_header_value(traceback.format_exc().rstrip()))
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        place = error.filename or "a file"
        full = DiskFull(f"no space left while writing {place}", hint="free some disk space and run it again")
        fail(full, as_json, known)
    message = f"unexpected {type(error).__name__}: {first_line(error)}"
    fail(UloraError(message, hint="ULORA_DEBUG=1 shows the traceback; please report it"), as_json, known)
