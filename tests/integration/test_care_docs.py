"""The page on care: its commands run as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from registry.api import Registry
from tests.support.commands import ulora
from tests.support.registering import register
from tests.support.registries import flip_a_byte, open_registry, small_bundle

PAGE = Path(__file__).parents[2] / "docs" / "care.md"
WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def registry(store_url: str, tracking_uri: str, model: str, tmp_path: Path, monkeypatch) -> Registry:
    """One version of `bundle/`, in MLflow and in staging."""
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    for name, value in {"MODEL": model, "POLICY": registry.settings.policy, "CACHE": registry.settings.cache}.items():
        monkeypatch.setenv(f"ULORA_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    registry.store.initialise()
    registry.create("v1.0.0", small_bundle(tmp_path / "bundle"), offline=True)
    register(registry, "v1.0.0")
    registry.promote("v1.0.0", "staging")
    return registry


def test_the_commands_on_the_page_run_as_written(registry: Registry) -> None:
    looking, repairing, asking = re.findall(r"<!-- run by .*?-->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    told = run(looking)
    assert "MLflow shows what is true" in told
    assert "documents: evidence, verdicts and notes" in told
    flip_a_byte(registry, "v1.0.0", WEIGHTS)
    told = run(repairing)
    assert f"would put bundle/{WEIGHTS} there" in told
    assert f"{WEIGHTS} was corrupt, is good now" in told
    assert registry.verify("v1.0.0", read_data=True).ok
    assert "request of v1.0.0 for production: promoted" in run(asking)
    assert registry.history()[0].action == "promote"


def run(block: str) -> str:
    """Run a block line by line in this process, each `ulora` with the status that the line asks for."""
    script, said = "", ""
    for line in block.splitlines():
        command, _, asked = line.partition(" || test $? = ")
        words = shlex.split(command, comments=True)
        if script or words[:1] == ["python"]:
            script += f"{line}\n"
        elif words:
            done = ulora(*words[1:])
            assert done.code == int(shlex.split(asked, comments=True)[0] if asked else 0), done
            said += done.out
        if line == "PY":
            exec("\n".join(script.splitlines()[1:-1]), {})
            script = ""
    return said
