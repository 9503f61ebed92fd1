"""`ulora completion`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from registry.cli import completion_script
from registry.cli.completion_script import SHELLS
from registry.cli.options import dry_run_option, json_option
from registry.cli.output import Output
from registry.errors import BadInput


@click.command("completion", short_help="Complete commands, versions and channels in the shell.")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--install", is_flag=True, help="Write the script where the shell finds it.")
@click.option("--uninstall", is_flag=True, help="Remove what --install wrote.")
@dry_run_option
@json_option
def completion_command(out: Output, *, shell: str | None, install: bool, uninstall: bool, dry_run: bool) -> None:
    """Print the script that completes commands, options, versions, channels and benchmarks; or install it.

    The shell is that of SHELL when left out. Only the one file that is named is written; no file of yours is changed.

    \b
    Examples:
      ulora completion bash --install
      ulora completion zsh > ~/.zfunc/_ulora
      ulora completion --uninstall
    """
    if install and uninstall:
        raise BadInput("--install and --uninstall exclude each other", hint="choose one")
    shell = shell or _own_shell()
    if install or uninstall:
        _change(out, shell, install=install, dry_run=dry_run)
        return
    text = _script(shell)
    out.answer({"shell": shell, "script": text}, text.rstrip("\n"))


def _change(out: Output, shell: str, *, install: bool, dry_run: bool) -> None:
    file = completion_script.script_file(shell)
    was_there = completion_script.is_ours(file)
    if not dry_run:
        if install:
            completion_script.install(file, _script(shell))
        else:
            completion_script.uninstall(file)
    did = "would write" if dry_run else "wrote"
    if not install:
        did = ("would remove" if dry_run else "removed") if was_there else "there is no"
    text = f"{did} {file}"
    if install:
        text += f"\n{completion_script.note_for(shell, file)}"
    changed = not dry_run and (install or was_there)
    out.answer({"shell": shell, "file": file, "changed": changed}, text)


def _script(shell: str) -> str:
    from registry.cli.main import cli

    return completion_script.script(cli, shell)


def _own_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise BadInput(f"which shell? SHELL is {name or 'not set'}", hint=f"say {', '.join(SHELLS)}")
    return name
