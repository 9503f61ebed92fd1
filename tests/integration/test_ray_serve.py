"""Replicas on Ray Serve, on a real cluster of several nodes and a real store."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import pytest

from registry.devstack.s3_server import S3Server
from registry.serving.follow import Live, LiveOptions
from registry.store.objects import ObjectStore
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.ray_cluster import HANG, SLOW, RayCluster, all_serve, echo_replicas, heartbeats, ray_cluster
from tests.support.running_app import running

pytestmark = pytest.mark.acceptance
CLIENTS = 6


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[RayCluster]:
    """A head and three nodes."""
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


@dataclass
class Answered:
    """What one request got: when it was sent and answered, and by which version; `status` 0 without an answer."""

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
    image: bytes = b"leaf"
    count: int = CLIENTS
    answers: list[Answered] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._weights = {name: self._weights_of(name) for name in ("v1.0.0", "v1.1.0", "v1.2.0") if self._has(name)}
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

    def wait_for_more(self, count: int = 50) -> None:
        """Wait until so many more requests were answered."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted)

    def _has(self, name: str) -> bool:
        return name in {info.key.rpartition("/")[2].removesuffix(".json") for info in self.shop.store.list("models/")}

    def _weights_of(self, name: str) -> bytes:
        entry = self.shop.file(name, "adapters/low/adapter_model.safetensors")
        return self.shop.blobs.fetch([entry])[entry.sha256].read_bytes()

    def _run(self, number: int) -> None:
        with httpx.Client(timeout=300) as client:
            while not self._stopped.is_set():
                self.answers.append(self._ask(client, self.image + f" {number} {len(self.answers)}".encode()))

    def _ask(self, client: httpx.Client, image: bytes) -> Answered:
        sent = time.monotonic()
        try:
            answer = client.post(f"{self.url}/predict", content=image, headers={"Content-Type": "image/png"})
        except httpx.HTTPError as error:
            return Answered(sent, time.monotonic(), 0, problem="", version=repr(error))
        done = time.monotonic()
        if answer.status_code != 200:
            return Answered(sent, done, answer.status_code, answer.text[:200])
        said = answer.json()
        right = hashlib.sha256(self._weights[said["version"]] + image).hexdigest()
        same = said["answer"] == right and answer.headers["X-Ulora-Version"] == said["version"]
        same = same and said["manifest_sha256"] == self.shop.pointer(said["version"]).manifest_sha256
        return Answered(sent, done, 200, said["version"], "" if same else f"another version's answer: {said}")


def test_a_change_under_load_fails_and_mixes_nothing(cluster: RayCluster, shop: Shop) -> None:
    """Nothing is redeployed: each replica follows the channel."""
    shop.release("v1.2.0")
    with echo_replicas(cluster, shop, min_replicas=3, max_replicas=3) as url:
        wait_until(lambda: all_serve(shop, 2, 3))
        before = {(one.id, one.pid) for one in heartbeats(shop)}
        with Clients(url, shop) as clients:
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
