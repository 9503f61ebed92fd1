"""Commands and options that messages and hints name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import registry
from registry.cli.main import cli

ROOT = Path(registry.__file__).parents[1]
SOURCES = [path for part in ("registry", "adapters", "benchmarks") for path in sorted((ROOT / part).rglob("*.py"))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUOTED = re.compile(r"`(ulora [^`\n]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHERS = {
    "--artifacts-destination", "--backend-store-uri", "--force-reinstall", "--no-deps", "--profile", "--env-manager",
    "--help", "--version", "--host", "--port", "--endpoint",
}  # fmt: skip
"""Options of other programs that messages name."""


def command_of(words: list[str]) -> click.Command | None:
    """The command that a line names; None if there is no such command."""
    command: click.Command | None = cli
    context = click.Context(cli)
    for word in words:
        if not isinstance(command, click.Group):
            break
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        command = command.get_command(context, word)
        if command is None:
            return None
    return command


def options_of(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def every_option() -> set[str]:
    context = click.Context(cli)

    def below(command: click.Command) -> Iterator[str]:
        yield from options_of(command)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                if inner:
                    yield from below(inner)

    return set(below(cli))


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_that_is_named_takes_the_options_beside_it(path: Path) -> None:
    # Python joins texts that follow each other: a command may be written over two lines.
    text = re.sub(r'"\n\s+f?"', "", path.read_text("utf-8"))
    wrong = []
    for line in QUOTED.findall(text):
        words = re.sub(r"\{[^}]*\}", "X", line).split()[1:]
        command = command_of(words)
        if command is None or not set(OPTION.findall(" ".join(words))) <= options_of(command):
            wrong.append(line)
    assert wrong == []


def options_of_benchmarks() -> set[str]:
    """What the benchmarks' own commands take: each is a program of its own."""
    sources = [path.read_text("utf-8") for path in SOURCES if "benchmarks" in path.relative_to(ROOT).parts]
    return {name for text in sources for name in re.findall(r'click\.option\(\s*"(--[a-z][a-z-]*)', text)}


def test_every_option_that_a_hint_names_is_one_of_some_command() -> None:
    known = every_option() | OTHERS | options_of_benchmarks()
    named = {
        (path.name, option)
        for path in SOURCES
        if path.parent.name not in ("devstack", "machine", "breakglass")
        for hint in re.findall(r'hint=\(?f?"([^"]*)"', path.read_text("utf-8"))
        for option in OPTION.findall(hint)
    }
    assert len(named) > 20
    assert {(name, option) for name, option in named if option not in known} == set()
