"""Ray Serve and Ray Data on a real cluster of several nodes, and a real store."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
import pyarrow.parquet
import pytest
import ray.data
import ray.serve
import yaml
from ray.serve.schema import ServeDeploySchema

from registry.api import Registry
from registry.devstack.s3_server import S3Server
from registry.serving.follow import Live, LiveOptions
from registry.serving.http.options import HttpOptions
from registry.serving.ray import DatasetOptions, RayArguments, predict_dataset
from registry.store.objects import ObjectStore
from tests.support.bundles import png
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.pages import ROOT, blocks
from tests.support.ray_cluster import (
    HANG,
    LONG,
    SLOW,
    RayCluster,
    all_serve,
    begun,
    echo_replicas,
    heartbeats,
    ray_cluster,
)
from tests.support.registries import open_registry, small_bundle
from tests.support.run_ulora import ulora
from tests.support.running_app import running

pytestmark = pytest.mark.acceptance
CLIENTS = 6
IMAGE = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[RayCluster]:
    """Three nodes with one core each."""
    with ray_cluster(s3.env) as cluster:
        yield cluster


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    """A model whose production serves v1.1.0, and before that v1.0.0."""
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    return shop


def released(folder: Path, store: str, model: str) -> Registry:
    """A registry with a version of the DINO flavor, v1.0.0."""
    registry = open_registry(folder, store, model)
    registry.store.initialise()
    registry.create("v1.0.0", small_bundle(folder / "bundle"), offline=True)
    return registry


@dataclass
class Answered:
    """What one request got: when it was sent and answered, and by which version; `status` 0 without an answer."""

    image: bytes
    sent: float
    done: float
    status: int
    version: str = ""
    problem: str = ""


@dataclass
class Clients:
    """Clients in threads that ask all the time, and check that each answer is that of the version that it names."""

    url: str
    shop: Shop
    names: tuple[str, ...] = ("v1.0.0", "v1.1.0")
    image: bytes = b"leaf"
    count: int = CLIENTS
    tries: int = 1
    answers: list[Answered] = field(default_factory=list)
    gave_up: list[Answered] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._weights = {name: self._weights_of(name) for name in self.names}
        self._manifests = {name: self.shop.pointer(name).manifest_sha256 for name in self.names}
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def failed(self) -> list[Answered]:
        return [one for one in self.answers if one.status != 200]

    def mixed(self) -> list[Answered]:
        return [one for one in self.answers if one.problem]

    def versions(self) -> set[str]:
        return {one.version for one in self.answers if one.status == 200}

    def in_flight(self) -> set[tuple[bytes, int]]:
        """The `LONG` images that a replica began to compute and that are not answered, and the process of each."""
        noted = begun(self.shop)
        answered = {one.image for one in self.answers}
        return {(image, pid) for image, pid in noted if image not in answered}

    def wait_for_more(self, count: int = 50) -> None:
        """Wait until so many more requests were answered."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted)

    def _weights_of(self, name: str) -> bytes:
        entry = self.shop.file(name, "adapters/low/adapter_model.safetensors")
        return self.shop.blobs.fetch([entry])[entry.sha256].read_bytes()

    def _run(self, number: int) -> None:
        with httpx.Client(timeout=300) as client:
            while not self._stopped.is_set():
                image = self.image + f" {number} {len(self.answers)}".encode()
                for _ in range(self.tries):
                    answered = self._ask(client, image)
                    self.answers.append(answered)
                    if answered.status == 200:
                        break
                else:
                    self.gave_up.append(answered)

    def _ask(self, client: httpx.Client, image: bytes) -> Answered:
        sent = time.monotonic()
        try:
            answer = client.post(f"{self.url}/predict", content=image, headers=IMAGE)
        except httpx.HTTPError as error:
            return Answered(image, sent, time.monotonic(), 0, problem="", version=repr(error))
        done = time.monotonic()
        if answer.status_code != 200:
            return Answered(image, sent, done, answer.status_code, answer.text[:200])
        said = answer.json()
        right = hashlib.sha256(self._weights[said["version"]] + image).hexdigest()
        same = said["answer"] == right and answer.headers["X-Ulora-Version"] == said["version"]
        same = same and said["manifest_sha256"] == self._manifests[said["version"]]
        return Answered(image, sent, done, 200, said["version"], "" if same else f"another version's answer: {said}")


def test_a_change_under_load_fails_and_mixes_nothing(cluster: RayCluster, shop: Shop) -> None:
    """Nothing is redeployed: each replica follows the channel."""
    shop.release("v1.2.0")
    with echo_replicas(cluster, shop, min_replicas=3, max_replicas=3) as url:
        wait_until(lambda: all_serve(shop, 2, 3))
        before = {(one.id, one.pid) for one in heartbeats(shop)}
        with Clients(url, shop, ("v1.1.0", "v1.2.0")) as clients:
            clients.wait_for_more()
            for _ in range(2):
                generation = shop.promote("v1.2.0").generation
                wait_until(lambda: all_serve(shop, generation, 3))  # noqa: B023
                clients.wait_for_more()
                generation = shop.rollback().generation
                wait_until(lambda: all_serve(shop, generation, 3))  # noqa: B023
                clients.wait_for_more()
        assert clients.failed() == []
        assert clients.mixed() == []
        assert clients.versions() == {"v1.1.0", "v1.2.0"}
        assert {(one.id, one.pid) for one in heartbeats(shop)} == before
    wait_until(lambda: heartbeats(shop) == [])


def test_a_removed_node_costs_what_was_in_flight_on_it(cluster: RayCluster, shop: Shop) -> None:
    """Ray does not send it again. One retry of the client is enough."""
    with echo_replicas(cluster, shop, min_replicas=3, max_replicas=3, max_ongoing_requests=128) as url:
        wait_until(lambda: all_serve(shop, 2, 3))
        try:
            with Clients(url, shop, image=LONG, tries=2) as clients:
                clients.wait_for_more(3 * CLIENTS)
                actors = [one.pid for one in heartbeats(shop)]
                wait_until(lambda: {pid for _, pid in clients.in_flight()} >= set(actors))
                began, computing = time.monotonic(), clients.in_flight()
                dead = cluster.kill_a_node_of(actors)
                removed = time.monotonic()
                lost = {image for image, pid in computing if pid in dead}
                clients.wait_for_more(3 * CLIENTS)
        finally:
            cluster.add_node()
        assert clients.gave_up == []
        assert clients.mixed() == []
        failed = clients.failed()
        assert len(failed) <= CLIENTS
        assert all(one.sent < removed and one.done > began for one in failed)
        assert lost, "nothing was in flight on the node"
        assert lost <= {one.image for one in clients.answers if one.status == 200}
        wait_until(lambda: len([one for one in heartbeats(shop) if one.generation == 2]) >= 3)


def test_replicas_come_with_the_requests(cluster: RayCluster, shop: Shop) -> None:
    wanted = {"target_ongoing_requests": 1, "look_back_seconds": 2, "upscale_seconds": 0, "num_cpus": 0.5}
    with echo_replicas(cluster, shop, min_replicas=1, max_replicas=4, **wanted) as url:
        wait_until(lambda: all_serve(shop, 2, 1))
        with Clients(url, shop, image=SLOW, count=12) as clients:
            wait_until(lambda: all_serve(shop, 2, 4))
            generation = shop.rollback().generation
            wait_until(lambda: all_serve(shop, generation, 4))
            clients.wait_for_more()
        assert clients.failed() == []
        assert clients.mixed() == []


def test_a_replica_that_hangs_is_replaced(cluster: RayCluster, shop: Shop) -> None:
    with echo_replicas(cluster, shop, min_replicas=1, max_replicas=1, compute_limit=1, shutdown_seconds=1) as url:
        wait_until(lambda: all_serve(shop, 2, 1))
        (before,) = heartbeats(shop)
        asking = threading.Thread(target=lambda: httpx.post(f"{url}/predict", content=HANG, headers=IMAGE, timeout=300))
        asking.start()
        wait_until(lambda: {one.id for one in heartbeats(shop)} - {before.id})
        wait_until(lambda: httpx.post(f"{url}/predict", content=b"leaf", headers=IMAGE, timeout=300).status_code == 200)
        asking.join()


def test_answers_are_those_of_ulora_serve(cluster: RayCluster, shop: Shop) -> None:
    bodies = (b"leaf", b"fail v1.1.0", b"x" * 2000)
    asked: list[tuple[str, str, dict[str, Any]]] = [
        *(("POST", "/predict", {"content": body, "headers": IMAGE}) for body in bodies),
        ("POST", "/predict", {"content": b"leaf"}),
        ("POST", "/predict", {"files": {"image": b"leaf"}}),
        *(("GET", path, {}) for path in ("/version", "/health/live", "/v2/health/ready", "/nowhere")),
        ("HEAD", "/health/ready", {}),
        ("POST", "/-/refresh", {}),
        ("POST", "/predict", {"content": b"leaf", "headers": {**IMAGE, "X-Request-Id": "mine"}}),
    ]
    options = HttpOptions(max_body=1024)
    live = Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600))
    with (
        live,
        running(live, options) as plain,
        echo_replicas(cluster, shop, max_replicas=1, max_body=1024) as url,
        httpx.Client(timeout=300) as behind,
    ):
        for method, path, how in asked:
            one, other = plain.request(method, path, **how), behind.request(method, f"{url}{path}", **how)
            assert (other.status_code, _shape(other)) == (one.status_code, _shape(one)), path
            assert len(other.headers.get_list("x-request-id")) == 1, path
        assert other.headers["x-request-id"] == "mine"


def test_serve_run_names_the_app(
    cluster: RayCluster,
    store_url: str,
    s3_env: dict[str, str],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command of the page, with a version of the DINO flavor; `ulora status` shows its replica."""
    registry = released(tmp_path, store_url, model)
    registry.promote("v1.0.0", "production")
    env = {**s3_env, "ULORA_STORE": store_url, "ULORA_MODEL": model, "ULORA_CACHE": str(tmp_path / "cache")}
    command = next(block for block in blocks(ROOT / "docs" / "ray.md") if block.run_by).text.splitlines()[0].split()
    words = [*command[1:3], "--non-blocking", "--name", model, "--route-prefix", f"/{model}"]
    words += ["--address", cluster.address, "--runtime-env-json", json.dumps({"env_vars": env}), *command[3:]]
    serve = Path(sys.executable).with_name("serve")
    done = subprocess.run(
        [serve, *words], check=False, capture_output=True, text=True, env={**os.environ, **cluster.env}, timeout=600
    )
    assert done.returncode == 0, done.stderr
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    try:
        answer = httpx.post(f"{cluster.url}/{model}/predict?target=low", content=png(1), headers=IMAGE, timeout=300)
        shown = ulora("status", "--json").document
    finally:
        ray.serve.delete(model)
    assert (answer.status_code, answer.json()["version"], answer.json()["target"]) == (200, "v1.0.0", "low")
    (channel,) = [one for one in shown["channels"] if one["channel"] == "production"]
    assert [one["version"] for one in channel["replicas"]] == ["v1.0.0"]


def test_a_dataset_is_answered_as_the_version_answers(
    cluster: RayCluster, store_url: str, model: str, tmp_path: Path
) -> None:
    registry, opened = released(tmp_path, store_url, model), partial(open_registry, tmp_path, store_url, model)
    images: list[bytes | None] = [*(png(seed) for seed in range(8)), b"no image", None]
    named = [{"name": str(number), "bytes": image, "crop": "low"} for number, image in enumerate(images)]
    options = DatasetOptions(targets="crop", batch_size=4)
    found = predict_dataset(ray.data.from_items(named), "v1.0.0", options, registry=opened).take_all()
    rows = sorted(found, key=lambda row: int(row["name"]))
    loaded, digest = registry.load("v1.0.0"), registry.manifest("v1.0.0").sha256
    assert {(row["version"], row["manifest_sha256"]) for row in rows} == {("v1.0.0", digest)}
    assert [row["label"] for row in rows] == [
        *(loaded.predict(png(seed), target="low").label for seed in range(8)),
        None,
        None,
    ]
    assert [row["outcome"] for row in rows[8:]] == ["corrupt_image", None]
    assert [bool(row["error"]) for row in rows] == [False] * 9 + [True]
    assert all(
        "bytes" not in row and sum(json.loads(row["probabilities"]).values()) == pytest.approx(1) for row in rows[:8]
    )


def test_a_killed_run_goes_on_with_each_image_once(
    cluster: RayCluster, store_url: str, model: str, tmp_path: Path
) -> None:
    released(tmp_path, store_url, model)
    env = {"ULORA_STORE": store_url, "ULORA_MODEL": model, "ULORA_CACHE": str(tmp_path / "cache"), "COLUMNS": "80"}
    words = [sys.executable, "-m", "tests.support.ray_driver", cluster.address, str(tmp_path), "v1.0.0"]
    words.append(json.dumps(env))
    rows, folder = tmp_path / "out" / "rows", tmp_path / "images"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.png").write_bytes(png(number))
    with subprocess.Popen(words, env={**os.environ, **cluster.env, **env}, stderr=subprocess.DEVNULL) as killed:
        wait_until(lambda: len(list(rows.glob("*.parquet"))) >= 2)
        killed.kill()
    written = len(list(rows.glob("*.parquet")))
    done = subprocess.run(words, env={**os.environ, **cluster.env, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = [pyarrow.parquet.read_table(file) for file in rows.glob("*.parquet")]
    names = [name for table in files for name in table["path"].to_pylist()]
    assert sorted(names) == sorted(map(str, folder.iterdir()))
    assert 2 <= written < len(files)


def test_the_file_on_the_page_is_one_that_ray_takes() -> None:
    (text,) = [block.text for block in blocks(ROOT / "docs" / "ray.md") if block.language == "yaml"]
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    assert application.import_path == "registry.serving.ray:app"
    assert RayArguments.read(application.args).max_replicas == 16


def _shape(answer: httpx.Response) -> tuple[object, ...]:
    """What an answer says and how, without what differs between two replicas or two requests."""
    said = answer.json() if answer.content else None
    kept = {
        name for name in answer.headers if name.startswith("x-") or name in ("content-type", "allow", "retry-after")
    }
    own = {"since", "request_id"}
    return kept, {key: said[key] for key in said if key not in own} if isinstance(said, dict) else said
