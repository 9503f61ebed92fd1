"""`mlflow run . -e NAME` from a clean checkout, for every question: what it measures is in MLflow, where people look.

All tests use one store, one MLflow server, and one model with two versions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.parameters import OF_A_VERSION
from benchmarks.software_run import EXPERIMENT, RESULT
from benchmarks.version_pair import VersionPair
from registry.api import Registry
from registry.devstack.s3_server import S3Server
from registry.devstack.server import environment_without
from registry.usecases.diff import MeasuredBy
from tests.conftest import TrackingServer
from tests.support.bundles import write_bundle
from tests.support.exits import add_exits
from tests.support.pages import ROOT, blocks
from tests.support.random_images import write_images
from tests.support.registries import write_policy

OLDER, NEWER = "v5.5.3-performance", "v5.5.4-dinov3"
BY = MeasuredBy("cpu", "torch-fp32")
BUDGETS = {"rollback": 3, "scale": 3, "transfer": 2, "serving": 2}
METRICS = {
    "rollback": {"rollback_over_mlflow_alias", "import_registry_seconds", "rollback_requests", "drill_log_moved_ms"},
    "scale": {"promote_growth", "rollback_growth", "resolve_growth", "mlflow_alias_growth"},
    "transfer": {"publish_rate_over_raw_put", "next_version_bytes_over_changed", "update_seconds"},
}
NO_SUCH = f"{NEWER}; touch ran"


@dataclass(frozen=True)
class Checkout:
    """A clean checkout of this project, and what its commands need.

    Attributes:
        env: the environment of every command.
    """

    folder: Path
    registry: Registry
    images: Path
    env: Mapping[str, str]
    client: MlflowClient

    @property
    def model(self) -> str:
        """The model's name."""
        return self.registry.model

    def run(self, name: str, given: Mapping[str, str] = MappingProxyType({}), *words: str) -> tuple[int, str, Run]:
        """Run an entry point; its exit code, what it printed on standard error, and the run that MLflow opened."""
        parameters = [word for pair in given.items() for word in ("-P", "=".join(pair))]
        run_name = uuid4().hex
        done = subprocess.run(
            ["mlflow", "run", ".", "-e", name, "--env-manager", "local", "--run-name", run_name, *parameters, *words],
            cwd=self.folder, env=dict(self.env), capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        (opened,) = self.runs("Default", f"tags.`mlflow.runName` = '{run_name}'") or [None]
        return done.returncode, done.stderr, opened

    def measured(self, name: str, **given: str) -> Run:
        """Measure a version by an entry point that must succeed; the run that MLflow opened."""
        code, said, opened = self.run(name, {"model": self.model, "data": str(self.images), **given})
        assert (code, opened.info.status) == (0, "FINISHED"), said
        return opened

    def runs(self, experiment: str, query: str) -> list[Run]:
        """The runs of an experiment, the newest first."""
        found = self.client.get_experiment_by_name(experiment)
        runs = self.client.search_runs([found.experiment_id], query) if found else []
        return [self.client.get_run(run.info.run_id) for run in runs]  # a search leaves out what a run is linked to

    def files(self, run: Run) -> set[str]:
        """The files of a run."""
        return {each.path for each in self.client.list_artifacts(run.info.run_id)}


@pytest.fixture(scope="session")
def checkout(s3: S3Server, mlflow_server: TrackingServer, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The checkout, with two versions that are not measured: the newer one leaves early."""
    folder = tmp_path_factory.mktemp("checkout")
    model = f"model-{uuid4().hex[:12]}"
    bundles, images = tmp_path_factory.mktemp("bundles"), write_images(folder.parent / f"{folder.name}-images", count=3)
    env = {
        **environment_without("AWS_", "ULORA_", "MLFLOW_", "HF_"),
        **s3.env,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": mlflow_server.url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ULORA_CACHE": str(bundles / "cache"),
        "ULORA_MODEL": "another-model",
        "ULORA_POLICY": str(write_policy(bundles)),
        "ULORA_STORE": f"s3://{s3.bucket}/{uuid4().hex}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - env.keys():
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        registry = Registry(model)
        registry.store.initialise()
        registry.create(OLDER, write_bundle(bundles / "older", family="dinov2"))
        newer = write_bundle(bundles / "newer", family="dinov3")
        for target in ("low", "mid", "high"):
            add_exits(newer, target)
        registry.create(NEWER, newer)
    copy_tracked_files(folder)
    return Checkout(folder, registry, images, env, MlflowClient(mlflow_server.url))


def copy_tracked_files(folder: Path) -> None:
    """What a clone would have, with what was changed since the last commit."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)


@pytest.mark.acceptance
def test_memory_of_a_version_is_measured(checkout: Checkout) -> None:
    opened = checkout.measured("memory", version=OLDER)
    (run,) = checkout.runs(checkout.model, f"attributes.run_name = '{OLDER} memory'")
    assert run.info.run_id in opened.data.tags["mlflow.note.content"], "it says where the results are"
    assert run.info.status == "FINISHED"
    assert {"adapter_memory_mb", "n/adapter_memory_mb", "adapter_memory_mb.low"} <= run.data.metrics.keys()
    assert {"memory.png", "evidence.json"} <= checkout.files(run)


@pytest.mark.acceptance
def test_an_unknown_name_is_said_on_one_line_and_ends_the_run(checkout: Checkout) -> None:
    code, said, opened = checkout.run("memory", {"version": NO_SUCH, "data": "$(touch ran)", "unknown": "`touch ran`"})
    (error,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert code != 0
    assert "No such option" in error
    assert opened.info.status == "FAILED"
    assert not list(checkout.folder.rglob("ran")), "a value was run as a command"


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"version": NO_SUCH}, f"{NO_SUCH!r} is not a version name"),
        ({"version": NEWER, "data": "a folder; touch ran"}, "no such folder: a folder; touch ran"),
        ({"version": NEWER, "data": "", "model": "", "help": ""}, "--help goes with no other option"),
    ],
    ids=["version", "data", "help"],
)
def test_every_wrong_value_ends_its_run(checkout: Checkout, given: Mapping[str, str], said: str) -> None:
    code, printed, opened = checkout.run("ood", given)
    assert (code, opened.info.status) == (1, "FAILED")
    assert f"Error: {said}" in printed.splitlines()
    assert not list(checkout.folder.rglob("ran"))


@pytest.mark.acceptance
def test_all_of_a_version_are_runs_below_the_opened_one(checkout: Checkout) -> None:
    """In the model's own experiment MLflow shows them as its children."""
    given = {"version": NEWER, "model": checkout.model, "data": str(checkout.images)}
    code, said, _ = checkout.run("all", given, "--experiment-name", checkout.model)
    assert code == 0, said
    runs = checkout.runs(checkout.model, f"tags.`ulora.version` = '{NEWER}' and tags.`mlflow.parentRunId` != ''")
    names = {run.data.tags["ulora.benchmark"]: run for run in runs}
    assert set(names) == set(OF_A_VERSION)
    parent = checkout.client.get_run(runs[0].data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    assert all(run.info.run_id in parent.data.tags["mlflow.note.content"] for run in runs)
    for name, metric in {"accuracy": "accuracy", "routing": "crop_routing_accuracy", "ood": "ood_auroc"}.items():
        metrics = names[name].data.metrics
        assert metrics[f"low/{metric}"] <= metrics[metric] <= metrics[f"high/{metric}"]
        assert "outcomes.json" in checkout.files(names[name]), "the raw answers"
    assert all(f"{name}.png" in checkout.files(run) for name, run in names.items())


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["accuracy", "routing", "ood", "latency"])
def test_one_question_about_a_version(checkout: Checkout, name: str) -> None:
    opened = checkout.measured(name, version=OLDER)
    (run,) = checkout.runs(checkout.model, f"attributes.run_name = '{OLDER} {name}'")
    assert run.info.run_id in opened.data.tags["mlflow.note.content"]
    assert f"{name}.png" in checkout.files(run)
    (linked,) = run.inputs.model_inputs
    assert checkout.client.get_logged_model(linked.model_id).tags["ulora.version"] == OLDER


@pytest.mark.acceptance
def test_depth_has_the_number_of_blocks_as_its_steps(checkout: Checkout) -> None:
    checkout.measured("depth", version=NEWER)
    (run,) = checkout.runs(checkout.model, f"attributes.run_name = '{NEWER} depth'")
    points = checkout.client.get_metric_history(run.info.run_id, "curves/accuracy_at_blocks")
    assert [point.step for point in points] == [2, 4, 6]
    linked = checkout.client.get_logged_model(run.inputs.model_inputs[0].model_id)
    assert {"depth_accuracy", "curves/accuracy_at_blocks"} <= {metric.key for metric in linked.metrics}, (
        "the version's page"
    )
    assert {"depth_accuracy", "depth_blocks", "depth_accuracy_at_2", "low/depth_accuracy"} <= run.data.metrics.keys()
    assert "depth.png" in checkout.files(run)


@pytest.mark.acceptance
def test_a_comparison_measures_what_is_missing_once(checkout: Checkout) -> None:
    """The command is the one of the page."""
    (block,) = [block for block in blocks(ROOT / "docs" / "compare.md") if block.run_by]
    given = dict(re.findall(r"-P (\w+)=(\S+)", block.text)) | {"model": checkout.model}
    assert (given["older"], given["newer"], given["data"]) == (OLDER, NEWER, "images")
    code, said, _ = checkout.run("compare", given | {"data": str(checkout.images)})
    assert code == 0, said
    (run,) = checkout.runs(checkout.model, f"attributes.run_name = '{NEWER} against {OLDER}'")
    assert VersionPair(checkout.registry, OLDER, NEWER).incomparable(BY) == set(), "it is not measured again"
    metrics, groups = run.data.metrics, ("difference", "low", "high", "pairs", "newer_only", "older_only")
    assert {f"{group}/accuracy.mid" for group in groups} <= metrics.keys()
    only = metrics["newer_only/accuracy"] - metrics["older_only/accuracy"]
    assert only / metrics["pairs/accuracy"] == pytest.approx(metrics["difference/accuracy"])
    assert {"differences.png", "differences.table.json"} <= checkout.files(run)
    linked = [checkout.client.get_logged_model(each.model_id).tags for each in run.inputs.model_inputs]
    assert {tags["ulora.version"] for tags in linked} == {OLDER, NEWER}  # MLflow keeps no order


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("name", "given", "plot"),
    [
        ("rollback", {}, "rollback_timeline.png"),
        ("scale", {}, "scale_growth.png"),
        ("transfer", {}, ""),
        ("serving", {"parts": "flips"}, ""),
    ],
    ids=["rollback", "scale", "transfer", "serving"],
)
def test_a_measurement_of_the_software(checkout: Checkout, name: str, given: Mapping[str, str], plot: str) -> None:
    code, said, opened = checkout.run(name, {"size": "tiny", **given})
    assert (code, opened.info.status) == (0, "FINISHED"), said
    (run,) = [
        run for run in checkout.runs(EXPERIMENT, "") if run.info.run_id in opened.data.tags["mlflow.note.content"]
    ]
    assert run.info.status == "FINISHED"
    assert "met" in run.data.metrics
    assert "machine.cpus" in run.data.params
    assert {RESULT, *filter(None, [plot])} <= checkout.files(run)
    result = json.loads(Path(checkout.client.download_artifacts(run.info.run_id, RESULT)).read_text())
    assert len(result["budgets"]) == BUDGETS[name]
    assert result.get("metrics", {}).keys() >= METRICS.get(name, set())
    exact = {one["what"]: one["value"] for one in result["budgets"] if one["unit"] == "requests"}
    assert exact == ({"rollback in process": 3} if name == "rollback" else {})
    if name == "transfer":
        assert result["metrics"]["next_version_bytes_over_changed"] == 1
    if name == "scale":
        points = checkout.client.get_metric_history(run.info.run_id, "promote_ms")
        assert [point.step for point in points] == [10, 40], "versions"


@pytest.mark.acceptance
def test_an_interrupted_measurement_leaves_nothing(checkout: Checkout, tmp_path: Path) -> None:
    """SIGTERM, as MLflow sends it, reaches the benchmark, which ends its servers and removes its folder."""
    command = [sys.executable, "-m", "benchmarks", "serving", "--size", "tiny", "--parts", "flips"]
    with subprocess.Popen(
        command, cwd=checkout.folder, env={**checkout.env, "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("== flips"))
        assert list(tmp_path.glob("ulora-bench-*")), "it has a folder"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read().splitlines()[-1] == "interrupted"
    assert process.returncode == 130
    assert list(tmp_path.glob("ulora-bench-*")) == []
