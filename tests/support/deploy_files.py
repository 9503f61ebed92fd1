"""What the files in `deploy/` say of containers: read by the tests that lint them, and by those that run them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tests.support.container_process import Container
from tests.support.pages import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
COMPOSE_ENV = DEPLOY / "compose" / "env.example"
BASE = DEPLOY / "kubernetes" / "base"
OVERLAYS = sorted((DEPLOY / "kubernetes" / "overlays").iterdir())
KSERVE = DEPLOY / "kserve" / "inferenceservice.yaml"
PROMETHEUS = DEPLOY / "compose" / "prometheus"

OF_OTHERS = {"s3": ("weed",), "prometheus": ("prometheus",)}
"""Services whose images are not ours, and the programs that these start."""

Document = dict[str, Any]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C, where PyYAML has it: ten times faster."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::[-?]([^}]*))?\}")


@dataclass(frozen=True)
class Image:
    """What the last stage of the Dockerfile says of a container."""

    env: Mapping[str, str]
    user: int
    group: int
    folder: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    check: tuple[str, ...]

    def container(self, name: str) -> Container:
        """A container of it as an engine starts it without a word more."""
        return Container(
            name, self.entrypoint + self.command, self.env, self.user, self.group, folder=self.folder, check=self.check
        )


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their texts, in order."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines()) if word
    ]


def image() -> Image:
    """What the image says."""
    found = instructions()
    last = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    said = dict(found[last:])
    user, _, group = said["USER"].partition(":")
    return Image(
        env=dict(word.split("=", 1) for word in shlex.split(said["ENV"])),
        user=int(user),
        group=int(group),
        folder=said["WORKDIR"],
        entrypoint=tuple(json.loads(said["ENTRYPOINT"])),
        command=tuple(json.loads(said["CMD"])),
        check=tuple(json.loads(said["HEALTHCHECK"].partition("CMD ")[2])),
    )


# --- compose ---------------------------------------------------------------------------------------------------------


def compose(env: Mapping[str, str] | None = None) -> Document:
    """The compose file with its variables filled in: those of `env.example`, or others."""
    known = {**env_example(), **(env or {})}

    def variable(found: re.Match[str]) -> str:
        return known.get(found[1]) or (found[2] if ":-" in found[0] else "")

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: fill(each) for name, each in node.items()}
        if isinstance(node, list):
            return [fill(each) for each in node]
        return _VARIABLE.sub(variable, node) if isinstance(node, str) else node

    return fill(yaml.load(COMPOSE.read_text(), Loader=_LOADER))  # type: ignore[no-any-return]


def env_example() -> dict[str, str]:
    """The variables of `env.example`."""
    lines = [line for line in COMPOSE_ENV.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def compose_container(name: str, env: Mapping[str, str] | None = None) -> Container:
    """A service of the compose file that has a command; here its root is read-only, also where it could be written."""
    service = compose(env)["services"][name]
    ours = image()
    is_ours = name not in OF_OTHERS
    user, _, group = service.get("user", f"{ours.user}:{ours.group}").partition(":")
    entrypoint = OF_OTHERS.get(name, ours.entrypoint)
    return Container(
        name=name,
        command=(*service.get("entrypoint", entrypoint), *service["command"]),
        env={**(ours.env if is_ours else {"PATH": ours.env["PATH"]}), **_mapping(service.get("environment"))},
        user=int(user),
        group=int(group),
        writable=_compose_volumes(name, service),
        read_only=dict(_compose_read_only(service)),
        folder=ours.folder if is_ours else "/",
        check=tuple(service.get("healthcheck", {}).get("test", ())[1:]),
        grace=float(service.get("stop_grace_period", "10s").removesuffix("s")),
    )


def _compose_volumes(name: str, service: Document) -> dict[str, str]:
    temporary = {each.partition(":")[0]: f"{name}-tmp" for each in service.get("tmpfs", ["/tmp"])}
    named = [each.split(":") for each in service.get("volumes", ()) if not each.startswith(".")]
    return temporary | {inside: volume for volume, inside in named}


def _compose_read_only(service: Document) -> Iterator[tuple[str, Path]]:
    for each in service.get("volumes", ()):
        outside, inside, *how = each.split(":")
        if outside.startswith("."):
            assert how == ["ro"]
            yield inside, (COMPOSE.parent / outside).resolve()


def _mapping(env: Any) -> dict[str, str]:
    return {name: str(value) for name, value in (env or {}).items()}


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def documents(*files: Path) -> list[Document]:
    """All documents of YAML files."""
    return [each for file in files for each in yaml.load_all(file.read_text(), Loader=_LOADER) if each]


def base_documents() -> list[Document]:
    """The resources of the base, as its kustomization lists them."""
    (listed,) = documents(BASE / "kustomization.yaml")
    return documents(*(BASE / name for name in listed["resources"]))


def pod_specs(found: list[Document]) -> dict[str, Document]:
    """The pods of deployments and cron jobs, by the name of what makes them."""
    pods = {}
    for each in found:
        if each["kind"] == "Deployment":
            pods[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
        elif each["kind"] == "CronJob":
            pods[each["metadata"]["name"]] = each["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return pods


def pod_containers(pod: Document, found: list[Document]) -> list[Container]:
    """The containers of a pod, first those that run before the others."""
    maps = {each["metadata"]["name"]: each["data"] for each in found if each["kind"] == "ConfigMap"}
    return [_of_pod(pod, each, maps) for each in (*pod.get("initContainers", ()), *pod["containers"])]


def _of_pod(pod: Document, said: Document, maps: Mapping[str, Mapping[str, str]]) -> Container:
    ours, security = image(), pod["securityContext"]
    env = dict(ours.env)
    for source in said.get("envFrom", ()):
        env |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else {}
    env |= {each["name"]: each["value"] for each in said.get("env", ()) if "value" in each}
    assert said["securityContext"]["readOnlyRootFilesystem"]
    container = Container(
        name=said["name"],
        # As Kubernetes has it: a command alone leaves out the image's arguments too.
        command=(*said.get("command", ours.entrypoint), *said.get("args", () if "command" in said else ours.command)),
        env=env,
        user=security["runAsUser"],
        group=security["runAsGroup"],
        folder=said.get("workingDir", ours.folder),
        grace=float(pod["terminationGracePeriodSeconds"]),
    )
    mounts = [(each["mountPath"], each["name"], each.get("readOnly", False)) for each in said["volumeMounts"]]
    assert all("emptyDir" in volume for volume in pod["volumes"])
    return replace(
        container,
        writable={path: name for path, name, is_read_only in mounts if not is_read_only},
        read_only={path: name for path, name, is_read_only in mounts if is_read_only},
    )
