"""The commands that the documentation shows are run, and its page of commands is the commands' own help."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
from mlflow import MlflowClient

from adapters.demo import write_peft_folder
from registry.api import Registry
from registry.cli.reference import page as commands_page
from tests.servers.warm import warm_ulora
from tests.support.bundles import write_bundle
from tests.support.foreign import write_phase
from tests.support.images import write_images
from tests.support.registries import flip_a_byte, write_policy

ROOT = Path(__file__).parents[2]
PAGES = ("runbook.md", "rollback.md", "security.md", "tree.md")
PROJECT = {
    "project/src/pipeline.py": "print('plants')\n",
    "project/config/adapter_spec.json": '{"threshold_factor": 2.0}\n',
    "project/requirements.txt": "torch\n",
}
SETTINGS = {
    "": {},
    "with a bundle in bundle/ and images in images/": {},
    "with an S3 server that does not answer": {"ULORA_S3_ENDPOINT": "http://127.0.0.1:9"},
    "with an MLflow server that does not answer": {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
    "with a copy in copies/ and ULORA_STORE at a new place": {"ULORA_STORE": "{store}-new"},
}
"""What surrounds a block, by what its page says of it."""
DAMAGES: dict[str, Callable[[Registry], None]] = {
    "a byte of v5.5.3-performance was flipped in the store": lambda registry: flip_a_byte(
        registry, "v5.5.3-performance", "adapters/low/adapter_model.safetensors"
    ),
}
"""What happens before a block, by what its page says of it."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH with an `ulora` that starts quickly."""
    with warm_ulora(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


@pytest.fixture
def workplace(
    tmp_path: Path, store_url: str, tracking_uri: str, model: str, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with what the examples name, and an initialised store."""
    write_bundle(tmp_path / "bundle", family="dinov2")
    write_bundle(tmp_path / "bundle-dinov3", family="dinov3")
    write_bundle(tmp_path / "bundle-next", family="dinov2", seed=1)
    write_images(tmp_path / "images", splits=("train", "val", "test"))
    write_peft_folder(tmp_path / "bundle", "low", tmp_path / "peft")
    for path, text in PROJECT.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    _shell("ulora store init", tmp_path)
    return tmp_path


@pytest.fixture
def released(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with a policy that asks nothing, a release in production, and the one before where a rollback goes."""
    monkeypatch.setenv("ULORA_POLICY", str(write_policy(workplace)))
    _shell(
        """
        ulora create v5.5.3-performance --from bundle/ --offline
        ulora create v5.5.4-dinov3 --from bundle-dinov3/ --offline
        ulora create v5.5.4-dinov2 --from bundle-next/ --offline
        ulora reconcile
        ulora promote v5.5.3-performance --channel production
        ulora promote v5.5.4-dinov3 --channel production
        ulora store copy v5.5.3-performance --to copies/
        """,
        workplace,
    )
    return workplace


def test_the_readme_s_release_and_rollback_run_as_written(workplace: Path) -> None:
    (block,) = _blocks(ROOT / "README.md")
    output = _shell(block.script, workplace)
    assert "production went from v5.5.4-dinov3 to v5.5.3-performance by rollback" in output
    assert "MLflow shows what is true" in output


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs_as_written(released: Path, page: str, store_url: str, model: str) -> None:
    blocks = _blocks(ROOT / "docs" / page)
    assert blocks
    for block in blocks:
        if block.after:
            DAMAGES[block.after](Registry(model))
        settings = {name: value.format(store=store_url) for name, value in SETTINGS[block.given].items()}
        _shell(block.script, released, settings)


def test_what_backup_py_did_has_a_command_that_runs(released: Path) -> None:
    rows = re.findall(r"\| `(ulora [^`]+)` \|$", (ROOT / "docs" / "coming-from-backup.md").read_text(), re.MULTILINE)
    assert len(rows) == 13
    write_phase(released / "backups" / "v5.4.0" / "models" / "phase3_conec_lora_adapter")
    _shell("\n".join(rows), released)
    assert (released / "current" / "config" / "adapter_spec.json").is_file()
    assert (released / "deployed" / "current" / "version.json").is_file()


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
    assert (ROOT / "docs" / "commands.md").read_text() == commands_page(), (
        "python -m registry.cli.reference > docs/commands.md"
    )


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@dataclass(frozen=True)
class Block:
    """Commands that a page shows, what they find around them (a key of SETTINGS), and what happened before them."""

    script: str
    given: str
    after: str


def _blocks(page: Path) -> list[Block]:
    found = re.findall(
        r"<!-- run by tests/integration/test_docs\.py(.*?) -->\n```sh\n(.*?)```", page.read_text(), re.DOTALL
    )
    return [_block(note.removeprefix(", ").strip(), script) for note, script in found]


def _block(note: str, script: str) -> Block:
    return Block(script, "", note.removeprefix("after ")) if note.startswith("after ") else Block(script, note, "")


def _shell(script: str, folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> str:
    done = subprocess.run(
        ["bash", "-euxc", script],
        cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
