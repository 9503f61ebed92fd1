"""What docs/deploy.md says of the files in `deploy/`: users, read-only roots, probes, times, rights, pins."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from registry.cli.main import cli
from tests.support.deploy_files import (
    DEPLOY,
    KSERVE,
    Document,
    base_documents,
    compose,
    compose_container,
    documents,
    env_example,
    image,
    instructions,
    pod_containers,
    pod_specs,
)  # fmt: skip
from tests.support.pages import ROOT

POLICIES = ROOT / "docs" / "policies"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").iterdir()), *sorted((DEPLOY / "github").iterdir())]
SHA = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


def pods() -> dict[str, Document]:
    """All pods: those of the base, and KServe's."""
    (service,) = documents(KSERVE)
    return {**pod_specs(base_documents()), "kserve": service["spec"]["predictor"]}


# --- commands --------------------------------------------------------------------------------------------------------


def parse(words: list[str]) -> click.Context:
    """Parse a command line with the real parser, without running it.

    Raises:
        UsageError: there is no such command or option, or an argument is missing or invalid.
    """
    context = cli.make_context("ulora", list(words))
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
    return context


def workflow_scripts(file: Path) -> Iterator[str]:
    """The scripts of a workflow."""
    (workflow,) = documents(file)
    yield from (step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step)


def ulora_lines(script: str) -> Iterator[list[str]]:
    """The command lines of `ulora` in a shell's script, also inside of `$(…)` and pipelines."""
    without_quoted_programs = re.sub(r"jq -r '[^']*'", "jq", script.replace("\\\n", " "))
    for line in re.split(r"[\n;|(]", without_quoted_programs):
        words = shlex.split(line.strip().rstrip(")"), comments=True) if "ulora " in line else []
        if "ulora" in words:
            words = words[words.index("ulora") + 1 :]
            yield list(_before_redirections(words))


def _before_redirections(words: list[str]) -> Iterator[str]:
    for word in words:
        if re.fullmatch(r"\d?[<>].*|&&", word):
            return
        yield word


@cache
def all_commands() -> dict[str, list[str]]:
    """Every command line of `ulora` in the image, the manifests and the workflows."""
    found = {"image": list(image().container("image").command)}
    for name, service in compose()["services"].items():
        if "command" in service:
            found[f"compose {name}"] = list(compose_container(name).command)
    for name, pod in pods().items():
        for container in pod_containers(pod, base_documents()):
            found[f"{name} {container.name}"] = list(container.command)
    commands = {name: words[1:] for name, words in found.items() if words[0] == "ulora"}
    for file in WORKFLOWS:
        for script in workflow_scripts(file):
            commands |= {f"{file.name}: {' '.join(words)}": words for words in ulora_lines(script)}
    return commands


@pytest.mark.parametrize("words", all_commands().values(), ids=all_commands().keys())
def test_every_command_line_is_one_of_ulora(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version_tests").mkdir()
    monkeypatch.chdir(tmp_path)
    parse([word.replace("$version", "v1.0.0").replace("$live", "v1.0.0") for word in words])


def test_the_workflows_have_commands_of_ulora() -> None:
    of_workflows = [name.partition(":")[0] for name in all_commands() if ".yml:" in name]
    assert {name: of_workflows.count(name) for name in of_workflows} == {
        "version-test.yml": 2,
        "evidence-comment.yml": 3,
    }


@pytest.mark.parametrize("words", ["serve --prot 1", "serve-all", "show", "guard run --every never"])
def test_a_command_line_that_ulora_does_not_have_is_found(words: str) -> None:
    with pytest.raises(click.UsageError):
        parse(words.split())


# --- users, folders and times ----------------------------------------------------------------------------------------


def test_what_is_copied_into_a_build_exists_and_is_not_ignored() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        word for name, text in instructions() if name == "COPY" and "--from" not in text for word in text.split()[:-1]
    ]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / each).exists() for each in copied)


def test_the_image_keeps_to_the_constraints_and_has_no_root() -> None:
    runs = [text for name, text in instructions() if name == "RUN"]
    assert all(
        "--constraint constraints.txt" in command for text in runs for command in re.findall(r"pip wheel[^&]*", text)
    )
    assert all("--no-index" in command for text in runs for command in re.findall(r"pip install[^&]*", text))
    assert image().user > 0
    assert image().group > 0
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert {"cyclonedx-bom", "psycopg", "psycopg-binary"} <= set(pinned)


def test_every_pod_is_restricted() -> None:
    for name, pod in pods().items():
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["seccompProfile"]) == (True, {"type": "RuntimeDefault"}), name
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (image().user,) * 3, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }, name  # fmt: skip
            assert {"requests", "limits"} == set(container["resources"]), name
            assert all("limits" in each for each in [container["resources"]])
            mounted = {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")}
            assert mounted <= {"/tmp", "/var/cache/ulora", "/mnt/models"}, name


def test_our_services_in_compose_are_hardened() -> None:
    services = compose()["services"]
    ours = [name for name, service in services.items() if service["image"].startswith("ulora")]
    assert sorted(ours) == ["guard", "init", "mlflow", "reconcile", "replica-1", "replica-2"]
    for name in ours:
        service = services[name]
        assert (service["read_only"], service["cap_drop"], service["init"]) == (True, ["ALL"], True)
        assert service["user"] == f"{image().user}:{image().group}"
        assert set(compose_container(name).writable) <= {"/tmp", image().env["ULORA_CACHE"]}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_compose_asks_for_no_variable_that_the_example_lacks() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose" / "compose.yaml").read_text()))
    assert asked == set(env_example())


def test_a_replica_ends_by_itself_before_it_is_killed() -> None:
    replicas = [compose_container("replica-1"), compose_container("replica-2")]
    (replica,) = pod_containers(pods()["ulora-replica"], base_documents())
    for container in (*replicas, replica):
        said = parse(list(container.command[1:])).params
        assert container.grace == 35
        assert 2 * said["drain"] < said["grace"] < container.grace


def test_probes_are_not_taken_for_each_other() -> None:
    container = pods()["ulora-replica"]["containers"][0]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert "/health/live" in " ".join(image().check)
    assert image().check == compose_container("replica-1").check == compose_container("replica-2").check


def named(kind: str, name: str) -> Document:
    """A resource of the base."""
    (found,) = [each for each in base_documents() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def test_selectors_choose_the_pods_that_they_are_for() -> None:
    deployment = named("Deployment", "ulora-replica")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    budget = named("PodDisruptionBudget", "ulora-replica")["spec"]["selector"]["matchLabels"]
    for selector in (named("Service", "ulora-replica")["spec"]["selector"], budget):
        assert selector.items() <= labels.items()
    scaled = named("HorizontalPodAutoscaler", "ulora-replica")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", "ulora-replica")
    assert "replicas" not in deployment["spec"], "each rollout would undo what the autoscaler has done"
    assert named("Deployment", "ulora-guard")["spec"]["replicas"] == 1


def test_who_may_ask_replicas_reaches_the_server_of_kserve() -> None:
    (service,), (policy,) = documents(KSERVE), documents(KSERVE.with_name("networkpolicy.yaml"))
    assert policy["metadata"] == {name: service["metadata"][name] for name in ("name", "namespace")}
    selector = policy["spec"]["podSelector"]["matchLabels"]
    assert selector == {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
    (allowed,) = policy["spec"]["ingress"]
    (server,) = [each for each in service["spec"]["predictor"]["containers"] if each["name"] == "kserve-container"]
    assert [each["port"] for each in allowed["ports"]] == [each["containerPort"] for each in server["ports"]]
    assert allowed["from"] == named("NetworkPolicy", "ulora-replica")["spec"]["ingress"][0]["from"]


# --- rights ----------------------------------------------------------------------------------------------------------


def test_every_pod_has_an_account_of_its_own_with_a_policy() -> None:
    found = base_documents()
    accounts = {each["metadata"]["name"]: each for each in found if each["kind"] == "ServiceAccount"}
    used = {name: pod["serviceAccountName"] for name, pod in pods().items()}
    assert used.pop("kserve") == "ulora-replica"
    assert {name: name for name in accounts} == used
    for account in accounts.values():
        assert (POLICIES / account["metadata"]["annotations"]["ulora/policy"]).is_file()
    (kustomization,) = documents(DEPLOY / "kubernetes" / "overlays" / "aws" / "kustomization.yaml")
    roles = documents(DEPLOY / "kubernetes" / "overlays" / "aws" / "roles.yaml")
    arns = {each["metadata"]["name"]: each["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] for each in roles}
    assert {name: arn.rpartition("/")[2] for name, arn in arns.items()} == {name: name for name in accounts}
    assert kustomization["images"][0]["name"] == image_name()


def image_name() -> str:
    (name,) = {c["image"].partition(":")[0] for pod in pod_specs(base_documents()).values() for c in pod["containers"]}
    return str(name)


def test_the_verifier_writes_notes_of_its_commands_only() -> None:
    statements = json.loads((POLICIES / "verifier.json").read_text())["Statement"]
    reads = {"s3:ListBucket", "s3:GetObject"}
    writing = [statement for statement in statements if not set(statement["Action"]) <= reads]
    assert [(statement["Action"], statement["Resource"]) for statement in writing] == [
        (["s3:PutObject"], ["arn:aws:s3:::BUCKET/PREFIX/models/MODEL/operations/*"])
    ]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_has_few_rights_and_pinned_actions(file: Path) -> None:
    (workflow,) = documents(file)
    top = workflow["permissions"]
    assert set(top) <= {"contents", "id-token"}
    assert top.get("contents", "read") == "read"
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert "uses" not in step or SHA.fullmatch(step["uses"]), step
    for used, version in re.findall(r"uses: (\S+)(?: # (\S+))?", file.read_text()):
        assert re.fullmatch(r"v\d+\.\d+\.\d+", version), f"{used} has no version beside its commit"
