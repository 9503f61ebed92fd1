"""What a shell completes, in no more time than a person waits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from registry.cli import completion
from registry.cli.main import cli
from registry.names import CHANNELS
from registry.plugins import BENCHMARKS, installed
from tests.support.registries import bind, open_registry


def completed(*words: str, **env: str) -> list[str]:
    """What bash is told for the last of these words."""
    asked = {"_ULORA_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["ulora", *words])}
    done = subprocess.run(
        [sys.executable, "-m", "registry"], capture_output=True, text=True, check=False,
        env={**os.environ, **asked, "COMP_CWORD": str(len(words)), **env},
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_channels_and_benchmarks_are_completed() -> None:
    assert completed("rollback", "-c", "p") == ["production"]
    assert completed("measure", "v1.0.0", "--only", "accuracy,r") == ["accuracy,routing"]


def test_nothing_is_said_where_there_is_no_store() -> None:
    assert completed("show", "v") == []
    assert completed("show", "v", ULORA_STORE="nonsense") == []


def test_versions_are_those_of_the_store(
    store_url: str, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_SECONDS", 300.0)
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, "v1.0.0", "v1.1.0-dinov3", "v2.0.0")
    context = click.Context(cli)
    context.params = {"model": model}
    found = completion.complete_versions(context, click.Argument(["version"]), "v1")
    assert [item.value for item in found] == ["v1.0.0", "v1.1.0-dinov3"]
    context.params = {"model": "other"}
    assert completion.complete_versions(context, click.Argument(["version"]), "v1") == []


def test_a_store_that_hangs_is_not_waited_for(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_SECONDS", 0.0)
    assert completion.complete_versions(click.Context(cli), click.Argument(["version"]), "") == []


def test_every_version_and_channel_can_be_completed() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        inner = [command.commands[each] for each in command.commands] if isinstance(command, click.Group) else [command]
        for each in inner:
            for parameter in each.params if each else []:
                if parameter.name in ("version", "versions", "parent", "channel") and each.name != "create":
                    assert parameter._custom_shell_complete is not None, (name, parameter.name)
    assert {"accuracy", "ood"} <= set(installed(BENCHMARKS))
    assert CHANNELS == ("staging", "production")
