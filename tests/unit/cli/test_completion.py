"""What a shell completes, in no more time than a person waits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from registry.cli import completers
from registry.cli.main import cli
from registry.names import CHANNELS
from registry.plugins import BENCHMARKS, installed
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import complains, ulora


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
    monkeypatch.setattr(completers, "_SECONDS", 300.0)
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, "v1.0.0", "v1.1.0-dinov3", "v2.0.0")
    context = click.Context(cli)
    context.params = {"model": model}
    found = completers.complete_versions(context, click.Argument(["version"]), "v1")
    assert [item.value for item in found] == ["v1.0.0", "v1.1.0-dinov3"]
    context.params = {"model": "other"}
    assert completers.complete_versions(context, click.Argument(["version"]), "v1") == []


def test_a_store_that_hangs_is_not_waited_for(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completers, "_SECONDS", 0.0)
    assert completers.complete_versions(click.Context(cli), click.Argument(["version"]), "") == []


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


@pytest.mark.parametrize(
    ("shell", "variables", "file"),
    [
        ("bash", {"XDG_DATA_HOME": "data"}, "data/bash-completion/completions/ulora"),
        ("bash", {"BASH_COMPLETION_USER_DIR": "own"}, "own/completions/ulora"),
        ("fish", {"XDG_CONFIG_HOME": "config"}, "config/fish/completions/ulora.fish"),
        ("zsh", {"ZDOTDIR": "z"}, "z/.zfunc/_ulora"),
        ("zsh", {}, ".zfunc/_ulora"),
    ],
)
def test_the_script_is_installed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str, variables: dict[str, str], file: str
) -> None:
    for name in ("BASH_COMPLETION_USER_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**variables, "HOME": ""}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    path = tmp_path / file
    assert ulora("completion", shell, "--install", "--dry-run").out.startswith(f"would write {path}\n")
    assert not path.exists()
    for _ in range(2):
        assert ulora("completion", shell, "--install", "--json").document["file"] == str(path)
    assert path.read_text() == ulora("completion", shell).out
    assert ulora("completion", shell, "--uninstall").out == f"removed {path}\n"
    assert ulora("completion", shell, "--uninstall").out == f"there is no {path}\n"
    path.write_text("mine")
    for change in ("--install", "--uninstall"):
        complains(ulora("completion", shell, change), 2, "is not what `ulora completion` writes")
    assert path.read_text() == "mine"


def test_the_shell_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert "complete --no-files --command ulora" in ulora("completion").out
    monkeypatch.setenv("SHELL", "/bin/csh")
    complains(ulora("completion"), 2, "which shell? SHELL is csh")


def test_bash_takes_the_script(tmp_path: Path) -> None:
    (tmp_path / "ulora.bash").write_text(ulora("completion", "bash").out)
    done = subprocess.run(
        ["bash", "-euc", f"source {tmp_path / 'ulora.bash'}; complete -p ulora"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-F _ulora_completion ulora" in done.stdout
