"""The commands that the documentation shows are run, and its page of commands is the commands' own help."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from adapters.demo import write_peft_folder
from registry.cli.reference import page
from tests.bundles import write_bundle
from tests.images import write_images

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workplace(tmp_path: Path, store_url: str, tracking_uri: str, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README's examples name, and an initialised store."""
    write_bundle(tmp_path / "bundle", family="dinov2")
    write_bundle(tmp_path / "bundle-dinov3", family="dinov3")
    write_images(tmp_path / "images", splits=("train", "val", "test"))
    write_peft_folder(tmp_path / "bundle", "low", tmp_path / "peft")
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    _shell("ulora store init", tmp_path)
    return tmp_path


def test_the_readme_s_release_and_rollback_run_as_written(workplace: Path) -> None:
    blocks = re.findall(r"<!-- run by .*?-->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    output = _shell(blocks[0], workplace)
    assert "production went from v5.5.4-dinov3 to v5.5.3-performance by rollback" in output
    assert "MLflow shows what is true" in output


def test_mlflow_run_measures_as_ulora_measure_does(workplace: Path, model: str, tracking_uri: str) -> None:
    _shell("ulora create v5.5.4-dinov3 --from bundle-dinov3/", workplace)
    (command,) = re.findall(r"^mlflow run .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    here = command.replace("mlflow run .", f"mlflow run {ROOT}").replace("data=images", f"data={workplace / 'images'}")
    _shell(here.replace("-P version", f"-P model={model} -P version"), workplace)
    by_run = json.loads(_shell("ulora show v5.5.4-dinov3 --json", workplace))["evidence"]
    by_command = json.loads(_shell("ulora measure v5.5.4-dinov3 --only ood --data images --json", workplace))
    assert [one["metrics"] for one in by_run] == [one["metrics"] for one in by_command]
    runs = MlflowClient(tracking_uri).search_runs(["0"], f"params.model = '{model}'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert "ood_auroc" in runs[0].data.metrics, "the result belongs into the run that `mlflow run` opened"


def test_the_page_of_commands_is_their_help() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == page(), "python -m registry.cli.reference > docs/commands.md"


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def _shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
