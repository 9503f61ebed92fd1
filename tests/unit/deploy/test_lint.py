"""The files in `deploy/` and the workflows, by checkers that others keep: what is not valid does not start."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support.deploy_files import (
    BASE,
    COMPOSE,
    DOCKERFILE,
    KSERVE,
    OVERLAYS,
    PROMETHEUS,
    Document,
    base_documents,
    compose,
    documents,
)  # fmt: skip
from tests.support.pages import ROOT
from tests.support.run_ulora import ulora

WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").iterdir()), *sorted((ROOT / "deploy" / "github").iterdir())]


def tool(name: str, *words: object) -> None:
    """Run a checker of this environment, or one of the machine; it must find nothing."""
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile() -> None:
    tool("hadolint", "--failure-threshold", "style", DOCKERFILE)


@pytest.mark.acceptance
def test_the_compose_file() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


@pytest.mark.acceptance
def test_the_workflows_follow_their_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    tool("check-jsonschema", "--builtin-schema", "custom.github-workflows-require-timeout", *WORKFLOWS)


def test_the_workflows_are_safe() -> None:
    tool("zizmor", "--offline", "--no-config", "--strict-collection", *WORKFLOWS)


def test_the_workflows_pass_actionlint() -> None:
    tool("actionlint", *WORKFLOWS)


def test_the_configuration_of_prometheus() -> None:
    tool("promtool", "check", "config", PROMETHEUS / "prometheus.yml")


def test_the_alerts_are_those_of_the_default_policy() -> None:
    printed = ulora("policy", "prometheus").out
    assert (PROMETHEUS / "ulora-alerts.yaml").read_text() == printed


def test_prometheus_scrapes_what_compose_starts() -> None:
    (config,) = documents(PROMETHEUS / "prometheus.yml")
    targets = {
        target for job in config["scrape_configs"] for group in job["static_configs"] for target in group["targets"]
    }
    services = compose()["services"]
    assert targets == {f"{name}:8000" for name in services if services[name].get("command", [""])[0] == "serve"}


def test_grafana_finds_its_files_and_prometheus() -> None:
    services = compose()["services"]
    mounts = dict(each.split(":")[1::-1] for each in services["grafana"]["volumes"])
    (providers,) = documents(*(COMPOSE.parent / mounts["/etc/grafana/provisioning/dashboards"]).iterdir())
    (sources,) = documents(*(COMPOSE.parent / mounts["/etc/grafana/provisioning/datasources"]).iterdir())
    folder = COMPOSE.parent / mounts[providers["providers"][0]["options"]["path"]]
    shown = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    assert [each["uid"] for each in shown] == ["ulora-replica"]
    (source,) = sources["datasources"]
    assert source["type"] == shown[0]["templating"]["list"][0]["query"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services


# --- Kubernetes ------------------------------------------------------------------------------------------------------


@cache
def rendered(overlay: Path) -> list[Document]:
    """What `kubectl apply -k` would apply."""
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def inference_pod() -> Document:
    """KServe's own resource has no schema here: what Kubernetes makes of its predictor is a pod."""
    (service,) = documents(KSERVE)
    spec = {name: value for name, value in service["spec"]["predictor"].items() if name != "minReplicas"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": service["metadata"]["name"]}, "spec": spec}


def validate(document: Document) -> None:
    kubernetes_validate.validate(document, "1.37", strict=True)


def test_every_document_of_the_base_is_valid() -> None:
    for document in [*base_documents(), inference_pod(), *documents(KSERVE.with_name("networkpolicy.yaml"))]:
        validate(document)


@pytest.mark.acceptance
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_overlay_renders_to_valid_documents(overlay: Path) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, which has kustomize in it, is not installed")
    found = rendered(overlay)
    for document in found:
        validate(document)
    names = {(each["kind"], each["metadata"]["name"]) for each in found}
    assert {(each["kind"], each["metadata"]["name"]) for each in base_documents()} <= names
    assert {each["metadata"].get("namespace", "ulora") for each in found} == {"ulora"}


def test_a_document_that_is_wrong_is_found() -> None:
    (service,) = [each for each in base_documents() if each["kind"] == "Service"]
    with pytest.raises(kubernetes_validate.ValidationError):
        validate({**service, "spec": {**service["spec"], "prots": []}})


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_patch_names_what_the_base_has(overlay: Path) -> None:
    (kustomization,) = documents(overlay / "kustomization.yaml")
    assert (overlay / kustomization["resources"][0]).resolve() == BASE
    base = {(each["kind"], each["metadata"]["name"]): each for each in base_documents()}
    for patch in documents(*(overlay / each["path"] for each in kustomization["patches"])):
        patched = base[patch["kind"], patch["metadata"]["name"]]
        assert patch["metadata"]["namespace"] == "ulora"
        assert set(containers(patch)) <= set(containers(patched)), patch


def containers(document: Any) -> Iterator[str]:
    """The names of all containers in a document."""
    if isinstance(document, dict):
        yield from (each["name"] for each in document.get("containers", ()))
        document = list(document.values())
    if isinstance(document, list):
        for each in document:
            yield from containers(each)
