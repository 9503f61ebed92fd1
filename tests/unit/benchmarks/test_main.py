"""`python -m benchmarks`: what MLflow passes on is checked, with the exit codes of `ulora`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import line, main
from benchmarks.parameters import OF_A_VERSION, MeasuringParameters, VersionParameters
from benchmarks.software import SoftwareParameters
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
        (["ood", "--version", "v1.0.0", "--help", ""], "--help goes with no other option"),
        (["ood", "--version", "v1.0.0", "x"], "unexpected extra argument"),
        (["--version", "v1.0.0"], "No such option"),
        (["fly"], "No such command 'fly'"),
        (["ood", "--version", "1.0"], "'1.0' is not a version name"),
        (["ood", "--version", "v1.0.0\nv2.0.0"], "is not a version name"),
        (["ood", "--version", "v1.0.0", "--model", "a/b"], "'a/b' is not a model's name"),
        (["ood", "--version", "v1.0.0", "--device", "cpu; rm"], "'cpu; rm' is not a device"),
        (["ood", "--version", "v1.0.0", "--runtime", "int8; rm"], "'int8; rm' is not a runtime"),
        (["latency", "--version", "v1.0.0", "--against", "1.0"], "'1.0' is not a version name"),
        (["ood", "--version", "v1.0.0", "--data", "no\nfolder"], "no such folder: no folder"),
        (["ood", "--version", "v1.0.0", "--rename", "$(x)"], "there is no file '$(x)'"),
        (["ood", "--version", "v1.0.0"], "no store is set"),
        (["ood", "--version", "v1.0.0", "--data", "", "--model", "", "--device", ""], "no store is set"),
        (["all", "--version", "v1.0.0", "--device", "-"], "'-' is not a device"),
        (["compare", "--older", "v1.0.0"], "Missing option '--newer'"),
        (["compare", "--older", "v1.0.0", "--newer", "v1.0.0"], "older and newer are both v1.0.0"),
        (["compare", "--older", "v1.0.0", "--newer", "--data"], "'--data' is not a version name"),
        (["scale", "--size", "huge"], "Invalid value for '--size'"),
        (["scale", "--parts", "flips"], "scale has no part 'flips'"),
        (["serving", "--parts", "flips; rm"], "serving has no part 'flips; rm'"),
        (["rollback", "--version", "v1.0.0"], "No such option"),
    ],
)
def test_an_invalid_parameter_exits_with_2_and_one_line(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, said in result.output, result.stdout) == (2, True, "")
    error, *hints = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert [hint[:6] for hint in hints] in ([], ["Hint: "])


def test_an_empty_parameter_is_one_not_given(tmp_path: Path) -> None:
    (tmp_path / "names.toml").touch()
    on = MeasuringParameters(data=str(tmp_path), rename=str(tmp_path / "names.toml"))
    given = VersionParameters("ood", "v1.0.0", on).options()
    assert (given.only, given.data, given.rename, given.device) == (("ood",), tmp_path, tmp_path / "names.toml", "cpu")
    empty = VersionParameters("all", "v1.0.0").options()
    assert (empty.only, empty.data, empty.rename, empty.runtime) == (OF_A_VERSION, None, None, None)


def test_the_size_tiny_of_serving_is_quick_too() -> None:
    words = SoftwareParameters("serving", "tiny", "flips, swaps").command()
    assert " ".join(words) == "benchmarks.serving --size tiny --quick --only flips --only swaps --json"
    assert SoftwareParameters("scale", "full").command() == ["benchmarks.scale", "--json"]


def test_a_dead_tracking_server_is_found_out_before_measuring(
    monkeypatch: pytest.MonkeyPatch, dead_address: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_address)
    result = CliRunner().invoke(main, ["scale", "--size", "tiny"])
    assert (result.exit_code, "does not answer" in result.stderr, result.stdout) == (7, True, "")


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
