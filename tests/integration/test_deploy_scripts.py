"""The scripts of the workflows for a repository of releases, run as on a runner, and the first stage of the image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from registry.api import Registry
from tests.support.bundles import write_bundle
from tests.support.deploy_files import DEPLOY, documents, instructions
from tests.support.pages import ROOT
from tests.support.registries import write_policy

pytestmark = pytest.mark.acceptance

FIRST, SECOND = "v1.0.0", "v1.1.0"


@pytest.fixture
def releases(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The current folder is a repository of releases; production serves the first of two versions."""
    repository = tmp_path / "releases"
    (repository / "version_tests").mkdir(parents=True)
    (repository / "version_tests" / "test_all.py").write_text("def test_it(loaded): assert loaded.version\n")
    settings = {
        "ULORA_MODEL": model,
        "ULORA_CACHE": str(tmp_path / "cache"),
        "ULORA_POLICY": str(write_policy(tmp_path)),
    }
    for name, value in {**settings, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(repository)
    registry = Registry(model)
    registry.store.initialise()
    for seed, version in enumerate((FIRST, SECOND)):
        registry.create(version, write_bundle(tmp_path / version, seed=seed, targets=("low",)), offline=True)
    registry.promote(FIRST, "production")
    return registry


def script(workflow: str, step: str) -> str:
    (document,) = documents(DEPLOY / "github" / workflow)
    (found,) = [each["run"] for job in document["jobs"].values() for each in job["steps"] if each.get("name") == step]
    return str(found)


def run(text: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As a runner does: a shell that stops at the first failure."""
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    return subprocess.run(shell, env={**os.environ, **env}, capture_output=True, text=True, check=False)


def test_a_tag_tests_the_version_that_it_names(releases: Registry) -> None:
    done = run(script("version-test.yml", "Test the version"), VERSION=SECOND)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any("version_tests" in str(each.metrics) for each in releases.evidence(SECOND)), "it is kept as evidence"
    Path("version_tests/test_all.py").write_text("def test_it(loaded): assert not loaded.version\n")
    assert run(script("version-test.yml", "Test the version"), VERSION=SECOND).returncode == 1
    assert run(script("version-test.yml", "Test the version"), VERSION="v9.9.9").returncode == 5


def test_the_comment_has_the_table_of_evidence(releases: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("jq"):
        pytest.skip("jq is not installed")
    monkeypatch.delenv("ULORA_POLICY")
    Path("production.version").write_text(f"{SECOND}\n")
    done = run(script("evidence-comment.yml", "Write the comment"), GITHUB_STEP_SUMMARY="summary.md")
    assert done.returncode == 0, done.stdout + done.stderr
    comment = Path("comment.md").read_text()
    assert comment == Path("summary.md").read_text()
    assert comment.startswith(f"### {SECOND}: production would refuse it\n")
    rows = [line.split(" | ") for line in comment.splitlines() if line.startswith("| ")]
    assert rows[0] == ["| metric", "target", "measured", "images", "|"]
    assert {len(row) for row in rows} == {5}
    checks = releases_checks(releases)
    assert [row[0].removeprefix("| ") for row in rows[1:]] == checks
    assert f"Against {FIRST}, which production serves:" in comment
    assert "adapters/low" in comment.partition("```text")[2], "the files that differ"


def releases_checks(releases: Registry) -> list[str]:
    """The metrics of the checks of the policy that ships."""
    from tests.support.run_ulora import ulora

    return [each["metric"] for each in ulora("show", SECOND, "--json").document["verdicts"]["production"]["checks"]]


@pytest.mark.parametrize("said", ["", "v1.0.0; touch here", "$(touch here)", "--help"])
def test_a_file_that_names_no_version_runs_nothing(releases: Registry, said: str) -> None:
    Path("production.version").write_text(said)
    run(script("evidence-comment.yml", "Write the comment"))
    assert not Path("here").exists()


def test_the_wheel_is_built_from_what_the_image_copies(tmp_path: Path) -> None:
    for name, text in instructions():
        if name == "COPY" and "--from" not in text:
            for word in text.split()[:-1]:
                source = ROOT / word
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, tmp_path / word)
    (build, _) = re.findall(r"pip (wheel [^&]*)", " ".join(text for name, text in instructions() if name == "RUN"))
    words = build.replace("/wheels", str(tmp_path / "wheels")).replace('".[${EXTRAS}]"', ".").split()
    # The packages that it needs are two gigabytes, and those here.
    pip = [sys.executable, "-m", "pip", *words, "--no-deps", "--no-build-isolation"]
    subprocess.run(pip, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name.startswith("ulora_registry-")
