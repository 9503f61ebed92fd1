"""What `deploy/` has containers run, run as processes: the same commands, variables and users, with a read-only root.

What differs is said here: addresses and ports are those of this test, and credentials stand where an engine or a cloud
gives them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.backbone.locate import TINY
from registry.api import Registry
from registry.devstack.ports import HOST, Ports
from tests.servers.iam import UserServer, read_policy
from tests.support.bundles import png, write_bundle
from tests.support.container_process import Container, Containers, Running, containers  # noqa: F401
from tests.support.deploy_files import (
    BASE, COMPOSE, KSERVE, PROMETHEUS, base_documents, compose, compose_container, documents, image, pod_containers,
    pod_specs,
)  # fmt: skip
from tests.support.echo_releases import wait_until
from tests.support.pages import ROOT, blocks
from tests.support.registries import open_registry

pytestmark = pytest.mark.acceptance

FIRST, SECOND = "v1.0.0", "v1.1.0"
POLICIES = ROOT / "docs" / "policies"
PREFIX = "store"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UserServer]:
    """An S3 server that enforces the policies of its users."""
    server = UserServer(tmp_path / "s3").start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def settings(server: UserServer, model: str) -> dict[str, str]:
    """What every container of Kubernetes is told in the place of the addresses in its ConfigMap."""
    return {"ULORA_STORE": f"s3://{server.bucket}/{PREFIX}", "ULORA_MODEL": model, "AWS_ENDPOINT_URL_S3": server.url}


@pytest.fixture
def released(
    server: UserServer, settings: Mapping[str, str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """A store whose production serves the first of two real versions; seen by its administrator."""
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    registry = open_registry(tmp_path / "admin", settings["ULORA_STORE"], model)
    registry.store.initialise()
    release(registry, tmp_path)
    return registry


def release(registry: Registry, folder: Path) -> None:
    registry.add_backbone(str(TINY / "dinov3-tiny"))
    for seed, version in enumerate((FIRST, SECOND)):
        registry.create(version, write_bundle(folder / version, seed=seed), offline=True)
    registry.promote(FIRST, "production")


def user(server: UserServer, settings: Mapping[str, str], account: str) -> dict[str, str]:
    """The variables of a user of the server who has the policy that a ServiceAccount names, and nothing else."""
    accounts = {each["metadata"]["name"]: each for each in base_documents() if each["kind"] == "ServiceAccount"}
    named = accounts[account]["metadata"]["annotations"]["ulora/policy"]
    names = {"BUCKET": server.bucket, "PREFIX": PREFIX, "MODEL": settings["ULORA_MODEL"]}
    env = server.add_user(account, read_policy(POLICIES / named, names))
    return {name: env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}


# --- the image -------------------------------------------------------------------------------------------------------


def test_a_container_may_write_to_its_volumes_only(containers: Containers) -> None:  # noqa: F811
    tried = "/x /etc/x /opt/ulora/x /var/cache/ulora/x /tmp/x".split()
    script = "import os,sys\nfor path in sys.argv[1:]:\n try: open(path, 'w'); print(path)\n except OSError: pass\nprint(os.getuid(), os.getgid(), os.getgroups())"
    started = replace(
        image().container("probe"), command=("python", "-c", script, *tried), writable=("/var/cache/ulora", "/tmp")
    )
    done = containers.run(started)
    assert done.stdout.split("\n")[:3] == ["/var/cache/ulora/x", "/tmp/x", "10001 10001 []"], done.stderr


def test_the_image_serves_and_says_that_it_is_healthy(
    containers: Containers,
    released: Registry,
    server: UserServer,
    settings: Mapping[str, str],  # noqa: F811
) -> None:
    ports = Ports()
    serving = replace(image().container("image"), writable=("/var/cache/ulora", "/tmp"), grace=35.0)
    serving = serving.at({"8000": str(ports.first)}).having(**settings, **server.env)
    assert containers.check(serving) == 1
    with containers.running(serving) as running:
        wait_for(lambda: answers(f"http://{HOST}:{ports.first}/health/ready"), running)
        assert containers.check(serving) == 0
        assert ask(ports.first)["version"] == FIRST
        assert running.stop() == 0


# --- Kubernetes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pods(
    released: Registry, server: UserServer, settings: Mapping[str, str], tracking_uri: str
) -> dict[str, Container]:
    """The containers of the base, each with the credentials that its ServiceAccount names."""
    found = base_documents()
    pods = {}
    for name, pod in pod_specs(found).items():
        (container,) = pod_containers(pod, found)
        where = {**settings, **user(server, settings, pod["serviceAccountName"])}
        if "MLFLOW_TRACKING_URI" in container.env:
            where["MLFLOW_TRACKING_URI"] = tracking_uri
        pods[name] = container.having(**where)
    return pods


def test_replicas_of_kubernetes_answer_and_drain(
    containers: Containers,
    pods: Mapping[str, Container],
    released: Registry,  # noqa: F811
) -> None:
    ports = Ports(2)
    pod = pod_specs(base_documents())["ulora-replica"]["containers"][0]
    assert pod["ports"] == [{"name": "http", "containerPort": 8000}]
    startup, live, ready = (pod[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness"))
    with ExitStack() as all_of_them:
        started = []
        for number in ports.numbers:
            replica = replace(pods["ulora-replica"], name=f"replica-{number}").at({"8000": str(number)})
            started.append(all_of_them.enter_context(containers.running(replica)))
        for number, running in zip(ports.numbers, started, strict=True):
            at = f"http://{HOST}:{number}"
            wait_for(lambda at=at: answers(at + startup) and answers(at + ready), running)  # type: ignore[misc]
            assert ask(number)["version"] == FIRST
            assert httpx.get(f"{at}/health").json()["note"] == "", "its heartbeats are allowed"
            assert httpx.get(f"{at}/metrics").status_code == 200
        released.promote(SECOND, "production")
        for number, running in zip(ports.numbers, started, strict=True):
            wait_for(lambda number=number: ask(number)["version"] == SECOND, running)  # type: ignore[misc]
        at = f"http://{HOST}:{ports.first}"
        started[0].process.terminate()
        wait_for(lambda: httpx.get(at + ready).status_code == 503, started[0])
        assert answers(at + live), "it is not ready any more, and lives"
        assert ask(ports.first)["version"] == SECOND
        assert started[0].process.wait(started[0].container.grace) == 0
        assert started[1].stop() == 0


def test_what_stands_beside_the_replicas_does_its_work(
    containers: Containers,
    pods: Mapping[str, Container],
    released: Registry,
    model: str,
    tracking_uri: str,  # noqa: F811
) -> None:
    with containers.running(pods["ulora-guard"]) as guard, containers.running(pods["ulora-reconcile"]) as reconcile:
        wait_for(lambda: "watching" in guard.says(), guard)
        wait_for(lambda: aliases(tracking_uri, model) == {"production": FIRST}, reconcile)
        released.promote(SECOND, "production")
        wait_for(lambda: aliases(tracking_uri, model) == {"production": SECOND}, reconcile)
        assert [guard.stop(), reconcile.stop()] == [0, 0], guard.says() + reconcile.says()
        assert "error" not in guard.says().lower()


@pytest.mark.parametrize("name", ["gc", "verify"])
def test_jobs_of_kubernetes_end_with_0(containers: Containers, pods: Mapping[str, Container], name: str) -> None:  # noqa: F811
    done = containers.run(pods[f"ulora-{name}"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_ends_with_6_where_bytes_are_bad(
    containers: Containers,
    pods: Mapping[str, Container],
    released: Registry,  # noqa: F811
) -> None:
    from tests.support.registries import flip_a_byte

    flip_a_byte(released, FIRST, "adapters/low/adapter_model.safetensors")
    verify = pods["ulora-verify"]
    every = replace(verify, command=tuple(word.replace("10%", "100%") for word in verify.command))
    done = containers.run(every)
    assert done.returncode == 6, done.stdout + done.stderr


# --- compose ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(containers: Containers) -> Iterator[int]:  # noqa: F811
    """The port of a PostgreSQL server with the user, the password and the database of the compose file."""
    initdb = shutil.which("initdb")
    if not initdb:
        pytest.skip("PostgreSQL is not installed")
    programs, ports = Path(initdb).resolve().parent, Ports()
    said = compose()["services"]["postgres"]["environment"]
    data = "/var/lib/postgresql/data"
    password = containers.volume("password", 10001) / "password"
    password.write_text(said["POSTGRES_PASSWORD"])
    bare = Container(
        "postgres", (), {"PATH": f"{programs}:/usr/bin:/bin", "LC_ALL": "C"}, 10001, 10001, (data, "/tmp"),
        {"/password": password}, check=tuple(compose()["services"]["postgres"]["healthcheck"]["test"][1:]),
    )  # fmt: skip
    made = containers.run(
        replace(bare, command=(
            "initdb", "-D", data, "-U", said["POSTGRES_USER"], "--auth=scram-sha-256", "--pwfile=/password",
        ))
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    listen = ("-c", f"listen_addresses={HOST}", "-p", str(ports.first), "-k", "", "-c", "fsync=off")
    bare = bare.having(PGPORT=str(ports.first), PGPASSWORD=said["POSTGRES_PASSWORD"])
    with containers.running(replace(bare, command=("postgres", "-D", data, *listen))) as running:
        wait_for(lambda: containers.check(bare) == 0, running)
        words = ("createdb", "-h", HOST, "-U", said["POSTGRES_USER"], said["POSTGRES_DB"])
        made = containers.run(replace(bare, command=words))
        assert made.returncode == 0, made.stderr
        yield ports.first


@pytest.fixture
def store(containers: Containers) -> Iterator[int]:  # noqa: F811
    """The port of the S3 server of the compose file."""
    ports = Ports(5, 10_000)
    parts = {"master": 1, "volume": 2, "filer": 3, "admin": 4}
    others = tuple(f"-{name}.port={ports.first + shift}" for name, shift in parts.items())
    weed = compose_container("s3").at({"8333": str(ports.first), "-ip=s3": f"-ip={HOST}"})
    with containers.running(replace(weed, command=(*weed.command, *others))) as running:
        wait_for(lambda: httpx.get(f"http://{HOST}:{ports.first}").status_code < 500, running)
        yield ports.first
        assert running.stop() == 0, running.says()


def test_everything_in_the_compose_file_runs(
    containers: Containers,
    postgres: int,
    store: int,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    env = {"ULORA_MODEL": model}
    ports = Ports(4)
    mlflow_port, first, second, prometheus_port = ports.numbers
    where = {
        "postgres:5432": f"{HOST}:{postgres}",
        "s3:8333": f"{HOST}:{store}",
        "http://mlflow:5000": f"http://{HOST}:{mlflow_port}",
    }

    def service(name: str, own: Mapping[str, str] | None = None) -> Container:
        return compose_container(name, env).at({**where, **(own or {})})

    init = service("init")
    wait_until(lambda: containers.run(init).returncode == 0)
    for name in init.env:
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, init.env[name])
    release(open_registry(tmp_path / "admin", init.env["ULORA_STORE"], model), tmp_path)

    with ExitStack() as running:
        started: dict[str, Running] = {}

        def start(container: Container, name: str = "") -> Running:
            started[name or container.name] = running.enter_context(containers.running(container))
            return started[name or container.name]

        mlflow = service("mlflow", {"5000": str(mlflow_port)})
        wait_for(lambda at=start(mlflow): containers.check(mlflow) == 0, started["mlflow"])  # type: ignore[misc]
        assert hosts(mlflow_port) == {f"mlflow:{mlflow_port}": 200, "elsewhere": 403}
        for name, number in (("replica-1", first), ("replica-2", second)):
            replica = service(name, {"8000": str(number)})
            start(replica)
            wait_for(lambda: containers.check(replica) == 0, started[name])
            wait_for(lambda: answers(f"http://{HOST}:{number}/health/ready"), started[name])
            assert ask(number)["version"] == FIRST
        for name in ("guard", "reconcile"):
            start(service(name))
        wait_for(lambda: "watching" in started["guard"].says(), started["guard"])
        wait_for(lambda: aliases(f"http://{HOST}:{mlflow_port}", model) == {"production": FIRST}, started["reconcile"])
        if shutil.which("prometheus"):
            start(
                prometheus(
                    prometheus_port,
                    {"replica-1:8000": f"{HOST}:{first}", "replica-2:8000": f"{HOST}:{second}"},
                    tmp_path,
                )
            )
            wait_for(lambda: scraped(prometheus_port) == {"up"}, started["prometheus"])
        for name in reversed(started):
            assert started[name].stop() == 0, started[name].says()


def prometheus(port: int, addresses: Mapping[str, str], folder: Path) -> Container:
    """Prometheus with the files of the compose file, and the addresses of this test in them."""
    said = compose_container("prometheus")
    (inside,) = said.read_only
    assert said.read_only[inside] == PROMETHEUS
    copy = shutil.copytree(PROMETHEUS, folder / "prometheus")
    text = (copy / "prometheus.yml").read_text()
    for old, new in addresses.items():
        assert old in text
        text = text.replace(old, new)
    (copy / "prometheus.yml").write_text(text.replace("scrape_interval: 10s", "scrape_interval: 1s"))
    listen = f"--web.listen-address={HOST}:{port}"
    return replace(said, command=(*said.command, listen), read_only={inside: copy})


def scraped(port: int) -> set[str]:
    """The states of what Prometheus scrapes."""
    data = httpx.get(f"http://{HOST}:{port}/api/v1/targets").json()["data"]
    assert len(data["activeTargets"]) == 2
    rules = httpx.get(f"http://{HOST}:{port}/api/v1/rules").json()["data"]["groups"]
    assert [group["name"] for group in rules] == ["ulora-guard"]
    return {target["health"] for target in data["activeTargets"]}


def hosts(port: int) -> dict[str, int]:
    """What MLflow answers to requests that name these hosts."""
    url = f"http://{HOST}:{port}/api/2.0/mlflow/registered-models/search?max_results=1"
    return {host: httpx.get(url, headers={"Host": host}).status_code for host in (f"mlflow:{port}", "elsewhere")}


# --- what they share -------------------------------------------------------------------------------------------------


def wait_for(condition: Any, running: Running) -> None:
    """Wait until a condition holds, or say what a container that ended before had printed."""

    def holds() -> bool:
        assert not running.ended(), running.says()
        try:
            return bool(condition())
        except httpx.TransportError:
            return False

    wait_until(holds)


def answers(url: str) -> bool:
    """Whether an address answers with 200."""
    return httpx.get(url).status_code == 200


def ask(port: int) -> dict[str, Any]:
    """The answer of a replica to an image."""
    reply = httpx.post(
        f"http://{HOST}:{port}/predict", files={"image": png(0)}, headers={"X-Request-Timeout-Ms": "600000"}
    )
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def aliases(tracking_uri: str, model: str) -> dict[str, str]:
    """The version of each alias of a model, as MLflow shows it."""
    reply = httpx.get(f"{tracking_uri}/api/2.0/mlflow/registered-models/get", params={"name": model}).json()
    found = {each["alias"]: each["version"] for each in reply.get("registered_model", {}).get("aliases", [])}
    shown = {}
    for alias, number in found.items():
        params = {"name": model, "version": number}
        version = httpx.get(f"{tracking_uri}/api/2.0/mlflow/model-versions/get", params=params).json()["model_version"]
        shown[alias] = next(tag["value"] for tag in version["tags"] if tag["key"] == "version")
    return shown
