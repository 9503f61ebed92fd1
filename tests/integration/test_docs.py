"""The commands on the pages of the documentation run as written, page by page; see `tests/support/pages.py`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest
from _pytest.mark import ParameterSet
from mlflow import MlflowClient

from adapters.demo import write_peft_folder
from registry.api import Registry
from registry.cli.reference import page as commands_page
from tests.servers.warm_ulora import warm_ulora
from tests.support.bundles import png, write_bundle
from tests.support.coloured_images import write_unsplit
from tests.support.other_adapter_layouts import write_phase
from tests.support.pages import GENERATED, ROOT, Block, blocks, name_of, pages
from tests.support.random_images import write_images
from tests.support.registries import flip_a_byte, write_policy

V3, V4 = "v5.5.3-performance", "v5.5.4-dinov3"
FIRST_TIME = ("README.md",)
"""Pages whose reader has nothing but images yet.

All others find a policy that asks nothing, and releases in production."""
LONGEST = ("README.md", "docs/mlflow.md", "docs/compare.md", "docs/runbook.md")
STANDS_IN = {
    "facebook/dinov2-base": "dinov2-tiny",
    "--port 8000": "--port 0",
    "--webhook-port 8470": "--webhook-port 0",
}
"""What is replaced on a page: what needs the network, and a port that may be taken."""
PROJECT = {
    "project/src/pipeline.py": "print('plants')\n",
    "project/config/adapter_spec.json": '{"threshold_factor": 2.0}\n',
    "project/requirements.txt": "torch\n",
    "checks/version_tests/test_v5_5_4_dinov3.py": "def test_it(loaded): assert loaded.version\n",
    "checks/version_tests/test_v5.5.3-performance.py": "raise SystemExit\n",
}
SETTINGS = {
    "an S3 server that does not answer": {"ULORA_S3_ENDPOINT": "{dead}"},
    "an MLflow server that does not answer": {"MLFLOW_TRACKING_URI": "{dead}"},
    "a copy in copies/ and ULORA_STORE at a new place": {"ULORA_STORE": "{store}-new"},
}
"""Variables of a block, by the condition that its page names."""
SHOWN = "versions and channels shown in MLflow"
DAMAGE = f"a flipped byte of {V3} in the store"
"""Conditions that come true before the block."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH with an `ulora` that starts quickly."""
    with warm_ulora(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("files")
    write_bundle(folder / "bundle", family="dinov2")
    write_bundle(folder / "bundle-dinov3", family="dinov3")
    write_bundle(folder / "bundle-next", family="dinov2", seed=1)
    write_images(folder / "images", splits=("train", "val", "test"))
    write_peft_folder(folder / "bundle", "low", folder / "peft")
    write_phase(folder / "backups" / "v5.5.1" / "models" / "phase3_conec_lora_adapter", crop_name="tomato")
    write_phase(folder / "backups" / "v5.4.0" / "models" / "phase3_conec_lora_adapter")
    write_policy(folder)
    (folder / "leaf.jpg").write_bytes(png(0))
    for path, text in PROJECT.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def newcomer(
    tmp_path: Path, store_url: str, tracking_uri: str, model: str, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An initialised store, as `ulora dev` has one, and in the current folder nothing but images that a user brings."""
    write_unsplit(tmp_path / "images", count=40)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OTHER_STORE", f"{store_url}-other")
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    run("ulora store init")
    return tmp_path


@pytest.fixture
def workplace(newcomer: Path, files: Path) -> Path:
    """The same with all files that the pages name."""
    shutil.rmtree(newcomer / "images")
    shutil.copytree(files, newcomer, dirs_exist_ok=True)
    return newcomer


@pytest.fixture
def released(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with a policy that asks nothing, a release in production, and the one before where a rollback goes."""
    monkeypatch.setenv("ULORA_POLICY", str(workplace / "policy.yaml"))
    run(
        f"""
        ulora create {V3} --from bundle/ --offline
        ulora create {V4} --from bundle-dinov3/ --offline
        ulora create v5.5.4-dinov2 --from bundle-next/ --offline
        ulora promote {V3} --channel production
        ulora promote {V4} --channel production
        ulora store copy {V3} --to copies/
        """,
        {"MLFLOW_TRACKING_URI": ""},
    )
    return workplace


def pages_to_run() -> list[ParameterSet]:
    """Every page with commands, those that take longest first."""
    found = [page for page in pages() if any(block.is_run_here for block in blocks(page))]
    return [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.first] if name_of(page) in LONGEST else [])
        for page in found
    ]


@pytest.mark.acceptance
@pytest.mark.parametrize("page", pages_to_run())
def test_what_a_page_shows_runs_as_written(
    page: Path, request: pytest.FixtureRequest, model: str, dead_address: str
) -> None:
    name = name_of(page)
    request.getfixturevalue("newcomer" if name in FIRST_TIME else "released")
    address = "http://localhost:8000"
    with ExitStack() as servers:
        for block in filter(lambda block: block.is_run_here, blocks(page)):
            settings = settings_for(block, model, dead_address)
            text = block.text.replace("aads-ulora", model).replace("http://localhost:8000", address)
            for shown, used in STANDS_IN.items():
                text = text.replace(shown, used)
            if block.is_server:
                address = servers.enter_context(serving(text))
            elif block.language == "python":
                exec(compile(text, str(block), "exec"), {"image": "leaf.jpg", "request_id": "user-7"})
            else:
                run(text, settings)
    AFTER.get(name, lambda registry: None)(Registry(model))


def settings_for(block: Block, model: str, dead: str) -> Mapping[str, str]:
    """The variables of a block under its condition, which is made true."""
    if block.condition == DAMAGE:
        flip_a_byte(Registry(model), V3, "adapters/low/adapter_model.safetensors")
    if block.condition == SHOWN:
        run("ulora reconcile")
    if block.condition in ("", DAMAGE, SHOWN):
        return {}
    return {
        name: value.format(store=os.environ["ULORA_STORE"], dead=dead)
        for name, value in SETTINGS[block.condition].items()
    }


def after_the_readme(registry: Registry) -> None:
    assert [record.action for record in registry.history()] == ["rollback", "promote", "promote"]
    assert registry.history()[0].live() == (V3,)


def after_care(registry: Registry) -> None:
    assert registry.verify(V3, read_data=True).ok, "the repair did not help"
    assert registry.history()[0].reason.startswith("asked for in MLflow"), "the request was not promoted"


def after_the_copy(registry: Registry) -> None:
    other = Registry(registry.model, store=os.environ["OTHER_STORE"])
    assert other.verify(V4, read_data=True).ok


AFTER: dict[str, Callable[[Registry], None]] = {
    "README.md": after_the_readme,
    "docs/care.md": after_care,
    "docs/store.md": after_the_copy,
}
"""What must be true when all blocks of a page have run."""


@pytest.mark.acceptance
def test_what_backup_py_did_has_a_command_that_runs(released: Path) -> None:
    rows = re.findall(r"\| `(ulora [^`]+)` \|$", (ROOT / "docs" / "coming-from-backup.md").read_text(), re.MULTILINE)
    assert len(rows) == 13
    run("\n".join(rows))
    assert (released / "current" / "config" / "adapter_spec.json").is_file()
    assert (released / "deployed" / "current" / "version.json").is_file()


@pytest.mark.acceptance
def test_mlflow_run_measures_as_ulora_measure_does(workplace: Path, model: str, tracking_uri: str) -> None:
    run(f"ulora create {V4} --from bundle-dinov3/")
    (block,) = [block for block in blocks(ROOT / "docs" / "benchmarks.md") if block.run_by]
    here = block.text.replace("mlflow run .", f"mlflow run {ROOT}").replace(
        "data=images", f"data={workplace / 'images'}"
    )
    run(here.replace("-P version", f"-P model={model} -P version"))
    by_run = json.loads(run(f"ulora show {V4} --json"))["evidence"]
    by_command = json.loads(run(f"ulora measure {V4} --only ood --data images --json"))
    assert [one["metrics"] for one in by_run] == [one["metrics"] for one in by_command]
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(model).experiment_id
    found = client.search_runs([experiment], f"attributes.run_name = '{V4} ood'", order_by=["attributes.end_time"])
    assert ["ood_auroc" in run.data.metrics for run in found] == [True, True], "by `mlflow run`, then by the command"
    (opened,) = client.search_runs(["0"], f"params.model = '{model}'")
    assert opened.info.status == "FINISHED"
    assert found[0].info.run_id in opened.data.tags["mlflow.note.content"], "it says where the results are"


def test_the_page_of_commands_is_their_help() -> None:
    assert GENERATED.read_text() == commands_page(), "python -m registry.cli.reference > docs/commands.md"


def run(script: str, settings: Mapping[str, str] = MappingProxyType({})) -> str:
    """Run commands in this folder, as a shell that stops at the first failure; what they print."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-xc", script],
        env={**os.environ, **settings}, capture_output=True, text=True, timeout=1000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def serving(script: str) -> Iterator[str]:
    """Run a command that serves, and give the address that it prints; at the end it is stopped and must end with 0."""
    with subprocess.Popen(["bash", "-c", f"exec {script.strip()}"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            announced = re.search(r"http://\S+", process.stdout.readline())
            assert announced, "it ended without an address"
            yield announced[0]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
