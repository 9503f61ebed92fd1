"""`mlflow run .` finds an entry point for every question, and passes what it was given, as one word each."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import main

PROJECT = Path(__file__).parents[3]
GROUPS = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
OF_A_VERSION = (*GROUPS["ulora.benchmarks"], *GROUPS["ulora.asked"], "all")
OTHERS = ("compare", "rollback", "scale", "transfer", "serving")
HOSTILE = (
    "a folder; touch x", "$(touch x)", "`touch x`", "' ; touch x; '", '" && touch x', "a\ntouch x", "--data", "{x}"
)  # fmt: skip


@pytest.fixture(scope="module")
def project():
    from mlflow.projects._project_spec import load_project

    return load_project(str(PROJECT))


def words_of(project, name: str, given: dict[str, str], folder: Path) -> list[str]:
    """The words that a shell makes of the command of an entry point."""
    command = project.get_entry_point(name).compute_command(given, storage_dir=str(folder))
    return shlex.split(command)


def least(name: str) -> dict[str, str]:
    """What must be given."""
    if name == "compare":
        return {"older": "v1.0.0", "newer": "v2.0.0"}
    return {} if name in OTHERS else {"version": "v5.5.4-dinov3"}


def test_there_is_an_entry_point_for_every_question(project) -> None:
    assert set(project._entry_points) == {*OF_A_VERSION, *OTHERS} == set(main.commands)


@pytest.mark.parametrize("name", [*OF_A_VERSION, *OTHERS])
def test_an_entry_point_hands_on_all_its_parameters(project, tmp_path: Path, name: str) -> None:
    entry = project.get_entry_point(name)
    words = words_of(project, name, least(name), tmp_path)
    assert words[:4] == ["python", "-m", "benchmarks", name]
    known = {option for each in main.commands[name].params if isinstance(each, click.Option) for option in each.opts}
    passed = {f"--{each}" for each in entry.parameters}
    assert set(words[4::2]) == passed
    hidden = {option for each in main.commands[name].params if getattr(each, "hidden", False) for option in each.opts}
    assert passed == known - {"--json"} - hidden


@pytest.mark.parametrize("value", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_a_value_stays_one_word_of_the_shell(project, tmp_path: Path, value: str) -> None:
    words = words_of(project, "ood", {"version": "v1.0.0", "data": value}, tmp_path)
    assert words[words.index("--data") + 1] == value
    command = project.get_entry_point("ood").compute_command(
        {"version": "v1.0.0", "data": value, value: value}, storage_dir=str(tmp_path)
    )
    shown = command.replace("python -m benchmarks", "printf '%s\\0'", 1)
    done = subprocess.run(["bash", "-c", shown], capture_output=True, cwd=tmp_path, check=True)
    assert value in done.stdout.decode().split("\0")
    assert list(tmp_path.iterdir()) == [], "it ran a command"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40))
def test_any_value_is_handed_on_as_it_was_given(value: str) -> None:
    from mlflow.projects._project_spec import load_project

    entry = load_project(str(PROJECT)).get_entry_point("serving")
    words = shlex.split(entry.compute_command({"parts": value}, storage_dir=None))
    assert words[-2:] == ["--parts", value]


def test_the_version_must_be_given(project, tmp_path: Path) -> None:
    from mlflow.exceptions import ExecutionException

    with pytest.raises(ExecutionException, match="version"):
        project.get_entry_point("ood").compute_command({}, storage_dir=str(tmp_path))


def test_the_environment_is_the_pinned_one(project) -> None:
    text = (PROJECT / "conda.yaml").read_text("utf-8")
    assert project.env_config_path == str(PROJECT / "conda.yaml")
    assert "-c constraints.txt" in text
    assert "-e .[all]" in text
