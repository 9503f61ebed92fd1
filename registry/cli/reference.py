"""The help of every command as one page, docs/commands.md: `python -m registry.cli.reference` prints it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from registry.cli.main import HELP_OPTIONS, cli

_WIDTH = 110
_TITLE = """# Commands

This page is made from the commands' own `--help` by `python -m registry.cli.reference`.
"""


def page() -> str:
    """The page, in Markdown."""
    sections = (f"## {path}\n\n```\n{text}\n```\n" for path, text in _helps(cli, "ulora"))
    return "\n".join([_TITLE, *sections])


def _helps(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command,
        info_name=path.rpartition(" ")[2],
        parent=parent,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=HELP_OPTIONS,
    )
    yield path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner:
                yield from _helps(inner, f"{path} {name}", context)


if __name__ == "__main__":
    click.echo(page(), nl=False)
