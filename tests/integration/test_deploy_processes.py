"""What `deploy/` has containers run, run as processes: the same commands, variables and users, with a read-only root.

What differs is said here: addresses and ports are those of this test, and credentials stand where an engine or a cloud
gives them.
"""

from __future__ import annotations

import pwd
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.backbone.locate import TINY
from registry.api import Registry
from registry.devstack.ports import HOST, Ports
from tests.servers.iam import UserServer, read_policy
from tests.support.bundles import png, write_bundle
from tests.support.container_process import Container, Containers, Running
from tests.support.deploy_files import (
    KSERVE,
    PROMETHEUS,
    base_documents,
    compose,
    compose_container,
    documents,
    image,
    pod_containers,
    pod_specs,
)
from tests.support.echo_releases import wait_until
from tests.support.pages import ROOT, blocks
from tests.support.registries import flip_a_byte, open_registry

pytestmark = pytest.mark.acceptance

FIRST, SECOND = "v1.0.0", "v1.1.0"
POLICIES = ROOT / "docs" / "policies"
PREFIX = "store"
WRITABLE = {"/var/cache/ulora": "cache", "/tmp": "tmp"}
ENDED_BY_SIGTERM = {0, -signal.SIGTERM, 128 + signal.SIGTERM}
"""How servers of others end when they were told to."""
SECONDS = 60.0
"""A guard against a hang, of a request on a busy machine."""
TRIES_TO_WRITE = """
import os, sys
for path in sys.argv[1:]:
    try:
        open(path, "w")
        print(path)
    except OSError:
        pass
print(os.getuid(), os.getgid(), os.getgroups())
"""


@pytest.fixture
def containers(tmp_path: Path) -> Containers:
    return Containers(tmp_path / "containers")


@pytest.fixture
def server(containers: Containers, tmp_path: Path) -> Iterator[UserServer]:
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


# --- the image -------------------------------------------------------------------------------------------------------


def test_a_container_may_write_to_its_volumes_only(containers: Containers) -> None:
    tried = ("/x", "/etc/x", "/opt/ulora/x", str(ROOT / "x"), "/var/cache/ulora/x", "/tmp/x")
    probe = replace(image().container("probe"), command=("python", "-c", TRIES_TO_WRITE, *tried), writable=WRITABLE)
    done = containers.run(probe)
    assert done.stdout.splitlines() == ["/var/cache/ulora/x", "/tmp/x", "10001 10001 []"], done.stderr


def test_the_image_serves_and_says_that_it_is_healthy(
    containers: Containers, released: Registry, server: UserServer, settings: Mapping[str, str]
) -> None:
    port = (ports := Ports()).first
    serving = replace(image().container("image"), writable=WRITABLE, grace=35.0).at({"8000": str(port)})
    serving = serving.having(**{**server.env, **settings})
    assert containers.check(serving) == 1, "nothing answers yet"
    with containers.running(serving) as running:
        wait_for(running, lambda: answers(port, "/health/ready"))
        assert containers.check(serving) == 0
        assert ask(port)["version"] == FIRST
        assert running.stop() == 0, running.says()
    assert ports.numbers == [port]


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def as_user(server: UserServer, settings: Mapping[str, str], account: str, container: Container) -> Container:
    """A container with the keys of a user who has the policy that a ServiceAccount names, and nothing else."""
    accounts = {each["metadata"]["name"]: each for each in base_documents() if each["kind"] == "ServiceAccount"}
    named = accounts[account]["metadata"]["annotations"]["ulora/policy"]
    names = {"BUCKET": server.bucket, "PREFIX": PREFIX, "MODEL": settings["ULORA_MODEL"]}
    env = server.add_user(account, read_policy(POLICIES / named, names))
    keys = {name: env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    return container.having(**{**settings, **keys})


@pytest.fixture
def pod(released: Registry, server: UserServer, settings: Mapping[str, str]) -> Callable[[str], Container]:
    """The container of a pod of the base, with the credentials that its ServiceAccount names."""

    def find(name: str) -> Container:
        found = base_documents()
        spec = pod_specs(found)[name]
        (container,) = pod_containers(spec, found)
        return as_user(server, settings, spec["serviceAccountName"], container)

    return find


def test_replicas_of_kubernetes_answer_and_drain(
    containers: Containers, pod: Callable[[str], Container], released: Registry
) -> None:
    said = pod_specs(base_documents())["ulora-replica"]["containers"][0]
    assert said["ports"] == [{"name": "http", "containerPort": 8000}]
    startup, live, ready = (said[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness"))
    replica, (first, second) = pod("ulora-replica"), (ports := Ports(2)).numbers
    with ExitStack() as all_of_them:
        started = {}
        for port in ports.numbers:
            volumes = {path: f"{port}-{name}" for path, name in replica.writable.items()}
            own = replace(replica.at({"8000": str(port)}), writable=volumes)
            started[port] = all_of_them.enter_context(containers.running(own))
        for port, running in started.items():
            wait_for(running, lambda port=port: answers(port, startup) and answers(port, ready))
            assert ask(port)["version"] == FIRST
            assert get(port, "/health").json()["note"] == "", "its heartbeats are allowed"
            assert answers(port, "/metrics")
        released.promote(SECOND, "production")
        for port, running in started.items():
            wait_for(running, lambda port=port: ask(port)["version"] == SECOND)
        started[first].process.terminate()
        wait_for(started[first], lambda: get(first, ready).status_code == 503)
        assert answers(first, live), "it is not ready any more, and lives"
        assert ask(first)["version"] == SECOND
        assert started[first].process.wait(replica.grace) == 0
        assert started[second].stop() == 0


def test_the_guard_of_kubernetes_looks(containers: Containers, pod: Callable[[str], Container]) -> None:
    with containers.running(pod("ulora-guard")) as guard:
        wait_for(guard, lambda: f"production: no trial runs; it serves {FIRST}" in guard.says())
        assert guard.stop() == 0, guard.says()


def test_the_reconciler_of_kubernetes_goes_round(
    containers: Containers, pod: Callable[[str], Container], released: Registry, tracking_uri: str
) -> None:
    reconciler = pod("ulora-reconcile")
    assert reconciler.env["MLFLOW_TRACKING_URI"].startswith("http://mlflow.")
    with containers.running(reconciler.having(MLFLOW_TRACKING_URI=tracking_uri)) as running:
        wait_for(running, lambda: production(tracking_uri, released.model) == FIRST)
        released.promote(SECOND, "production")
        wait_for(running, lambda: production(tracking_uri, released.model) == SECOND)
        assert running.stop() == 0, running.says()


@pytest.mark.parametrize("name", ["gc", "verify"])
def test_jobs_of_kubernetes_end_with_0(containers: Containers, pod: Callable[[str], Container], name: str) -> None:
    done = containers.run(pod(f"ulora-{name}"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_ends_with_6_where_bytes_are_bad(
    containers: Containers, pod: Callable[[str], Container], released: Registry
) -> None:
    flip_a_byte(released, FIRST, "adapters/low/adapter_model.safetensors")
    verify = pod("ulora-verify")
    done = containers.run(replace(verify, command=tuple(word.replace("10%", "100%") for word in verify.command)))
    assert done.returncode == 6, done.stdout + done.stderr


# --- KServe ----------------------------------------------------------------------------------------------------------


def test_a_server_of_ones_own_follows_beside_kserve(
    containers: Containers, released: Registry, server: UserServer, settings: Mapping[str, str], tmp_path: Path
) -> None:
    (service,) = documents(KSERVE)
    spec, port = service["spec"]["predictor"], (ports := Ports()).first
    keys = as_user(server, settings, spec["serviceAccountName"], image().container("none"))
    first, serving, follow = (each.at({"8080": str(port)}) for each in pod_containers(spec, base_documents()))
    app = next(block.text for block in blocks(ROOT / "docs" / "adopt.md") if block.run_by)
    (tmp_path / "app.py").write_text(app)
    files = {"/srv/app.py": tmp_path / "app.py", "/srv/backbones": TINY, **serving.read_only}
    done = containers.run(first.having(**keys.env))
    assert done.returncode == 0, done.stdout + done.stderr
    probe = next(each for each in spec["containers"] if "readinessProbe" in each)["readinessProbe"]["httpGet"]["path"]
    with containers.running(replace(serving, read_only=files)) as theirs:
        wait_for(theirs, lambda: answers(port, probe))
        assert ask(port)["version"] == FIRST
        with containers.running(follow.having(**keys.env)) as following:
            released.promote(SECOND, "production")
            wait_for(following, lambda: ask(port)["version"] == SECOND)
            assert following.stop() == 0, following.says()
        assert theirs.stop() in ENDED_BY_SIGTERM, theirs.says()
    assert ports.numbers == [port]


# --- compose ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(containers: Containers) -> Iterator[int]:
    """The port of a PostgreSQL server with the user, the password and the database of the compose file."""
    initdb = shutil.which("initdb")
    if not initdb:
        pytest.skip("PostgreSQL is not installed")
    said, port = compose()["services"]["postgres"], (ports := Ports()).first
    names, data = said["environment"], said["volumes"][0].partition(":")[2]
    user = pwd.getpwnam("postgres")
    (containers.volume("password", user.pw_uid) / "file").write_text(names["POSTGRES_PASSWORD"])
    bare = Container(
        "postgres", (), {"PATH": f"{Path(initdb).resolve().parent}:/usr/bin:/bin", "LC_ALL": "C"},
        user.pw_uid, user.pw_gid,
        {data: "postgres", "/tmp": "postgres-tmp"}, {"/password": "password"},
        check=tuple(said["healthcheck"]["test"][1:]),
    ).having(PGPORT=str(port), PGPASSWORD=names["POSTGRES_PASSWORD"])  # fmt: skip

    def run(*words: str) -> None:
        done = containers.run(replace(bare, command=words))
        assert done.returncode == 0, done.stderr

    run(
        "initdb",
        "-D",
        data,
        "-U",
        names["POSTGRES_USER"],
        "--encoding=UTF8",
        "--auth=scram-sha-256",
        "--pwfile=/password/file",
    )
    listen = ("-c", f"listen_addresses={HOST}", "-p", str(port), "-k", "", "-c", "fsync=off")
    with containers.running(replace(bare, command=("postgres", "-D", data, *listen))) as running:
        wait_for(running, lambda: containers.check(bare) == 0)
        run("createdb", "-h", HOST, "-U", names["POSTGRES_USER"], names["POSTGRES_DB"])
        yield port
    assert ports.numbers == [port]


@pytest.fixture
def store(containers: Containers) -> Iterator[int]:
    """The port of the S3 server of the compose file."""
    port = (ports := Ports(5, 10_000)).first
    others = [f"-{name}.port={port + shift}" for shift, name in enumerate(("master", "volume", "filer", "admin"), 1)]
    weed = compose_container("s3").at({"8333": str(port), "-ip=s3": f"-ip={HOST}"})
    with containers.running(replace(weed, command=(*weed.command, *others))) as running:
        wait_for(running, lambda: get(port, "/").status_code < 500)
        yield port
        assert running.stop() in ENDED_BY_SIGTERM, running.says()
    assert port in ports.numbers


def test_everything_in_the_compose_file_runs(
    containers: Containers, postgres: int, store: int, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_at, first, second, prometheus_at = (ports := Ports(4)).numbers
    where = {"postgres:5432": f"{HOST}:{postgres}", "s3:8333": f"{HOST}:{store}"}
    where["http://mlflow:5000"] = f"http://{HOST}:{mlflow_at}"

    def service(name: str, own: Mapping[str, str] | None = None) -> Container:
        return compose_container(name, {"ULORA_MODEL": model}).at({**where, **(own or {})})

    init = service("init")
    wait_until(lambda: containers.run(init).returncode == 0)
    for name in init.env:
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, init.env[name])
    release(open_registry(tmp_path / "admin", init.env["ULORA_STORE"], model), tmp_path)

    with ExitStack() as all_of_them:
        started: dict[str, Running] = {}

        def start(container: Container, is_ready: Callable[[], bool] | None = None) -> Running:
            running = all_of_them.enter_context(containers.running(container))
            started[container.name] = running
            wait_for(running, is_ready or partial(is_healthy, containers, container))
            return running

        start(service("mlflow", {"5000": str(mlflow_at)}))
        assert hosts(mlflow_at) == {f"mlflow:{mlflow_at}": 200, "elsewhere": 403}
        for name, port in (("replica-1", first), ("replica-2", second)):
            start(service(name, {"8000": str(port)}))
            assert answers(port, "/health/ready")
            assert ask(port)["version"] == FIRST
        start(service("guard"), lambda: f"it serves {FIRST}" in started["guard"].says())
        shown = partial(production, f"http://{HOST}:{mlflow_at}", model)
        start(service("reconcile"), lambda: shown() == FIRST)
        if shutil.which("prometheus"):
            start(prometheus(prometheus_at, (first, second), tmp_path), lambda: scraped(prometheus_at))
        for name in reversed(started):
            ends = ENDED_BY_SIGTERM if name == "mlflow" else {0}
            assert started[name].stop() in ends, started[name].says()
    assert len(ports.numbers) == 4


def is_healthy(containers: Containers, container: Container) -> bool:
    return containers.check(container) == 0


def prometheus(port: int, replicas: tuple[int, int], folder: Path) -> Container:
    """Prometheus with the files of the compose file, and the addresses of this test in them."""
    said = compose_container("prometheus")
    ((inside, outside),) = said.read_only.items()
    assert outside == PROMETHEUS
    copy = shutil.copytree(PROMETHEUS, folder / "prometheus")
    text = (copy / "prometheus.yml").read_text().replace("scrape_interval: 10s", "scrape_interval: 1s")
    for number, replica in enumerate(replicas, 1):
        assert f"replica-{number}:8000" in text
        text = text.replace(f"replica-{number}:8000", f"{HOST}:{replica}")
    (copy / "prometheus.yml").write_text(text)
    return replace(said, command=(*said.command, f"--web.listen-address={HOST}:{port}"), read_only={inside: copy})


def scraped(port: int) -> bool:
    """Whether Prometheus has read the metrics of both replicas, and knows the alerts.

    While it starts it answers everything with 503 and plain text.
    """
    if not answers(port, "/-/ready"):
        return False
    targets = get(port, "/api/v1/targets").json()["data"]["activeTargets"]
    groups = get(port, "/api/v1/rules").json()["data"]["groups"]
    is_up = [target["health"] for target in targets] == ["up", "up"]
    return is_up and [group["name"] for group in groups] == ["ulora-guard"]


def hosts(port: int) -> dict[str, int]:
    """What MLflow answers to requests that name these hosts."""
    path = "/api/2.0/mlflow/registered-models/search?max_results=1"
    return {host: get(port, path, {"Host": host}).status_code for host in (f"mlflow:{port}", "elsewhere")}


# --- what they share -------------------------------------------------------------------------------------------------


def wait_for(running: Running, condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, or say what a container that ended before had printed."""

    def holds() -> bool:
        assert not running.ended(), running.says()
        try:
            return condition()
        except httpx.TransportError:
            return False

    wait_until(holds, 600)


def get(port: int, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    return httpx.get(f"http://{HOST}:{port}{path}", headers=headers, timeout=SECONDS)


def answers(port: int, path: str) -> bool:
    """Whether an address answers with 200."""
    return get(port, path).status_code == 200


def ask(port: int) -> dict[str, Any]:
    """The answer of a replica to an image."""
    headers = {"X-Request-Timeout-Ms": "600000"}
    at = f"http://{HOST}:{port}/predict"
    reply = httpx.post(at, files={"image": png(0)}, headers=headers, timeout=SECONDS)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def production(tracking_uri: str, model: str) -> str:
    """The version that has the alias of production, as MLflow shows it; empty for none."""

    def ask_for(what: str, **params: str) -> Any:
        return httpx.get(f"{tracking_uri}/api/2.0/mlflow/{what}/get", params=params, timeout=SECONDS).json()

    aliases = ask_for("registered-models", name=model).get("registered_model", {}).get("aliases", [])
    for number in (each["version"] for each in aliases if each["alias"] == "production"):
        version = ask_for("model-versions", name=model, version=number)["model_version"]
        return next(str(tag["value"]) for tag in version["tags"] if tag["key"] == "version")
    return ""
