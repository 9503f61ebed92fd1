"""`python -m benchmarks`: what MLflow passes on is checked, with the exit codes of `ulora`."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from benchmarks.__main__ import Parameters, line, main
from registry.evidence.results import Metric


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory) -> None:
    for name in ("ULORA_STORE", "ULORA_MODEL", "ULORA_CONFIG", "ULORA_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ood"], "Missing option '--version'"),
        (["ood", "--version", "v1.0.0", "--foo", "1"], "No such option"),
        (["--version", "v1.0.0"], "Missing argument"),
        (["ood", "--version", "1.0"], "'1.0' is not a version name"),
        (["ood", "--version", "v1.0.0", "--model", "a/b"], "'a/b' is not a model's name"),
        (["ood", "--version", "v1.0.0", "--device", "cpu; rm"], "'cpu; rm' is not a device"),
        (["ood", "--version", "v1.0.0", "--runtime", "int8; rm"], "'int8; rm' is not a runtime"),
        (["latency", "--version", "v1.0.0", "--against", "1.0"], "'1.0' is not a version name"),
        (["ood", "--version", "v1.0.0"], "no store is set"),
        (["ood", "--version", "v1.0.0", "--data", "", "--model", "", "--device", ""], "no store is set"),
    ],
)
def test_an_invalid_parameter_exits_with_2(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, said in result.output, result.stdout) == (2, True, "")


def test_every_entry_point_of_mlflow_hands_on_every_parameter() -> None:
    project = yaml.safe_load((Path(__file__).parents[3] / "MLproject").read_text("utf-8"))
    known = {field.name for field in dataclasses.fields(Parameters)} - {"name"}
    for name, entry in project["entry_points"].items():
        taken = known if name == "latency" else known - {"against"}
        assert set(entry["parameters"]) == taken, name
        assert all(f"--{each} {{{each}}}" in entry["command"] for each in taken), name


def test_an_empty_parameter_is_one_not_given() -> None:
    given = Parameters("ood", "v1.0.0", data="images", rename="names.toml").options()
    assert (given.data, given.rename, given.device) == (Path("images"), Path("names.toml"), "cpu")
    assert Parameters("ood", "v1.0.0").options().rename is None


def test_errors_are_json_when_json_is_asked_for() -> None:
    result = CliRunner().invoke(main, ["ood", "--version", "nonsense", "--json"])
    assert json.loads(result.stderr).keys() == {"error", "message", "hint"}


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (
            Metric.proportion("accuracy", 97, 100, target="low"),
            "accuracy (low): 0.970 (95% CI 0.915-0.990, n=100)",
        ),
        (Metric.of("latency_ms_mean", 3.25, n=50, unit="ms"), "latency_ms_mean: 3.250 ms (n=50)"),
        (Metric.of("ood_auroc", float("nan"), n=0), "ood_auroc: not a number (n=0)"),
    ],
)
def test_a_metric_is_one_line(metric: Metric, text: str) -> None:
    assert line(metric) == text
