"""The commands that the documentation shows are run, and its page of commands is the commands' own help."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from registry.cli.reference import page
from tests.bundles import write_bundle
from tests.images import write_images

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workplace(tmp_path: Path, store_url: str, tracking_uri: str, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README's examples name, and an initialised store."""
    write_bundle(tmp_path / "bundle", family="dinov2")
    write_bundle(tmp_path / "bundle-dinov3", family="dinov3")
    write_images(tmp_path / "images")
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
