"""`mlflow run .` finds an entry point for every benchmark, and passes what it was given."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
BENCHMARKS = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][
    "ulora.benchmarks"
]


@pytest.fixture(scope="module")
def project():
    from mlflow.projects._project_spec import load_project

    return load_project(str(PROJECT))


def test_the_project_has_one_entry_point_per_benchmark(project) -> None:
    assert set(project._entry_points) == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_entry_point_passes_its_parameters_quoted(project, tmp_path: Path, name: str) -> None:
    given = {"version": "v5.5.4-dinov3", "data": "a folder; rm -rf x"}
    command = project.get_entry_point(name).compute_command(given, storage_dir=str(tmp_path))
    assert shlex.split(command) == [
        *["python", "-m", "benchmarks", name, "--version", "v5.5.4-dinov3", "--model", ""],
        *["--data", "a folder; rm -rf x", "--rename", "", "--device", "cpu", "--runtime", ""],
        *(["--against", ""] if name == "latency" else []),
    ]


def test_the_version_must_be_given(project, tmp_path: Path) -> None:
    from mlflow.exceptions import ExecutionException

    with pytest.raises(ExecutionException, match="version"):
        project.get_entry_point("ood").compute_command({}, storage_dir=str(tmp_path))


def test_the_environment_is_the_pinned_one(project) -> None:
    text = (PROJECT / "conda.yaml").read_text("utf-8")
    assert project.env_config_path == str(PROJECT / "conda.yaml")
    assert "-c constraints.txt" in text
    assert "-e .[all]" in text
