"""What works in an environment with the wheel and the packages of one extra only: without torch, and what fits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from registry.api import Registry
from tests.support.built_wheel import CHECKOUT, build_wheel, environment_with
from tests.support.registries import create, open_registry

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_with(wheel, frozenset(), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def serve(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment_with(wheel, frozenset({"serve"}), tmp_path_factory.mktemp("serve"))


@pytest.fixture
def released(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two versions, the second one stable in production, and the settings of them."""
    registry = open_registry(tmp_path / "publisher", store_url, model)
    registry.store.initialise()
    for name in ("v1.0.0", "v1.1.0"):
        create(registry, name, tmp_path)
        registry.promote(name, "production")
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    return registry


def ulora(python: Path, cwd: Path, *words: object) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-m", "registry", *words]
    return subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_plain_wheel_rolls_back(plain: Path, released: Registry, tmp_path: Path) -> None:
    for words in (["--version"], ["status"], ["list"], ["show", "v1.0.0"], ["history"], ["verify", "v1.0.0"]):
        done = ulora(plain, tmp_path, *words)
        assert done.returncode == 0, (words, done.stderr)
    assert ulora(plain, tmp_path, "rollback", "--reason", "a test").returncode == 0
    assert released.history()[0].live() == ("v1.0.0",)
    missing = ulora(plain, tmp_path, "serve")
    assert missing.returncode == 2
    assert "ulora-registry[" in missing.stderr


def test_the_plain_wheel_begins(plain: Path, store_url: str, tmp_path: Path) -> None:
    done = ulora(plain, tmp_path, "init", "--store", store_url, "--policy", "aads")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "policy.yaml").read_bytes() == (CHECKOUT / "registry/evidence/aads_policy.yaml").read_bytes()


def test_a_follower_needs_no_torch(serve: Path, released: Registry, tmp_path: Path) -> None:
    assert subprocess.run([serve, "-c", "import torch"], cwd=tmp_path, capture_output=True, check=False).returncode == 1
    done = ulora(serve, tmp_path, "follow", "production", "--into", tmp_path / "served", "--once")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "served" / "current" / "version.json").is_file()
    refused = ulora(serve, tmp_path, "serve", "--port", "0")
    assert refused.returncode == 2
    assert "torch" in refused.stderr or "ulora-registry[dino]" in refused.stderr


def test_a_replica_loads_no_code_that_fits() -> None:
    code = "import sys, adapters.answer.loading, registry.serving.http; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "adapters.bank" in loaded
    never = re.compile(r"(adapters\.(fitting|importing|demo)|benchmarks|sklearn|matplotlib|mlflow)(\.|$)")
    assert [name for name in loaded if never.match(name)] == []


def test_the_file_for_conda_names_what_exists() -> None:
    text = (CHECKOUT / "conda.yaml").read_text()
    assert "name: ulora-registry" in text
    assert (CHECKOUT / re.search(r"-c (\S+)", text)[1]).is_file()  # type: ignore[index]
    extras = Requirement(f"ulora-registry{re.search(r'-e [.](.*)', text)[1]}").extras  # type: ignore[index]
    assert extras == {"all"}
