"""A replica that serves one version for good, and two of them behind the real nginx."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from registry.api import Registry
from registry.devstack.ports import HOST
from registry.devstack.replica_server import ReplicaServer
from registry.errors import NotTrusted, VersionNotFound
from registry.retention.notes import Forgotten
from registry.serving.fleet import replicas
from registry.serving.follow import Live
from registry.serving.http.options import HttpOptions
from registry.serving.kept_state import StatePlace
from registry.serving.options import LiveOptions
from registry.serving.pinned import pinned_name
from registry.store import layout
from registry.store.endpoint import named_endpoint
from tests.servers.nginx import PROGRAM, Nginx
from tests.servers.proxy import Proxy, refuse
from tests.support.bundles import png
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.raw_http import connect, read_answer
from tests.support.registries import create, open_registry
from tests.support.run_ulora import complains, ulora
from tests.support.running_app import running, running_server
from tests.support.signing_keys import key_pair

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "deploy" / "nginx" / "two-versions.conf").read_text()
IMAGE = {"Content-Type": "image/jpeg"}
KEYS = [f"user-{number}" for number in range(200)]


@pytest.fixture
def registry(store_url: str, proxy: Proxy, model: str, tmp_path: Path) -> Registry:
    """A model whose production serves v1.1.0, before that v1.0.0, behind a proxy."""
    registry = open_registry(tmp_path, store_url, model, endpoint_url=proxy.url)
    registry.store.initialise()
    shop = shop_of(registry)
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    return registry


def shop_of(registry: Registry) -> Shop:
    return Shop(registry.store, registry.model, registry.settings.cache.parent)


def pinned(registry: Registry, version: str = "v1.0.0", **options: Any) -> Live:
    options = {"poll": 0.02, "retry": 0.02, "read_seconds": 0.5, "find": find_echo, "deadline": 600, **options}
    return registry.pinned(version, LiveOptions(**options))


def is_kept(registry: Registry, version: str) -> bool:
    """Whether this machine could start with a version without the store."""
    settings = registry.settings
    endpoint = named_endpoint(settings.endpoint_url)
    place = StatePlace(settings.cache, settings.store, endpoint, settings.model, pinned_name(version))
    return place.path.exists()


def answer_once(registry: Registry, version: str) -> Any:
    """What a pinned replica answers, whose state is kept then."""
    with pinned(registry, version) as live:
        wait_until(lambda: is_kept(registry, version))
        return live.predict(b"leaf")


# --- one replica -----------------------------------------------------------------------------------------------------


def test_a_pinned_replica_follows_no_channel(registry: Registry) -> None:
    with pinned(registry) as live, running(live) as client:
        shop_of(registry).rollback()
        shop_of(registry).promote("v1.1.0")
        seen = live.health().last_seen
        wait_until(lambda: live.health().last_seen <= seen)
        answer = client.post("/predict?key=user-7", files={"image": b"leaf"})
        assert (answer.json()["version"], answer.headers["X-Ulora-Version"]) == ("v1.0.0", "v1.0.0")
        told, health = client.get("/version").json(), client.get("/health").json()
        assert (told["pinned"], told["version"], told["channel"]) == (True, "v1.0.0", "pinned v1.0.0")
        assert (health["pinned"], health["state"], health["version"], health["error"]) == (
            True,
            "serving",
            "v1.0.0",
            "",
        )
        assert [replicas(registry.store, registry.model, name) for name in ("staging", "production")] == [[], []]
        assert not list(registry.store.list(layout.observations(registry.model, "pinned v1.0.0")))


def test_a_replica_that_follows_says_that_it_is_not_pinned(registry: Registry) -> None:
    with registry.follow("production", LiveOptions(find=find_echo, deadline=600)) as live, running(live) as client:
        assert [client.get(path).json()["pinned"] for path in ("/version", "/health")] == [False, False]


def test_a_pinned_replica_takes_no_labels(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_FLEET_KEY", "0123456789abcdef" * 4)
    with pinned(registry) as live, running(live) as client:
        assert "request_id" not in client.post("/predict", files={"image": b"leaf"}).json()
        refused = client.post("/feedback", json={"request_id": "x", "label": "healthy"})
        assert (refused.status_code, refused.json()["error"]) == (409, "Pinned")


def test_it_starts_and_serves_on_without_the_store(registry: Registry, proxy: Proxy) -> None:
    before = answer_once(registry, "v1.0.0")
    answer_once(registry, "v1.1.0")
    proxy.next(refuse, times=1_000_000)
    with pinned(registry) as live:
        assert live.predict(b"leaf") == before
        assert live.health().state == "stale"
        assert "started from the kept state" in live.health().error
        proxy.clear()
        wait_until(lambda: live.health().state == "serving")
        assert live.predict(b"leaf") == before


@pytest.mark.acceptance
def test_versions_with_long_names_are_kept_apart(registry: Registry, proxy: Proxy) -> None:
    names = [f"v1.2.0-{'a' * 60}{last}" for last in "xy"]
    for name in names:
        shop_of(registry).release(name)
        assert answer_once(registry, name).version == name
    proxy.next(refuse, times=1_000_000)
    for name in names:
        with pinned(registry, name) as live:
            assert live.predict(b"leaf").version == name


def test_it_says_that_the_version_was_withdrawn_or_forgotten(registry: Registry) -> None:
    shop_of(registry).rollback()
    pointer = shop_of(registry).pointer("v1.1.0")
    note = Forgotten(
        format=1, model=registry.model, version="v1.1.0", manifest_sha256=pointer.manifest_sha256, who="a cleaner",
        when="2026-12-01T00:00:00+00:00",
    )  # fmt: skip
    with pinned(registry, "v1.1.0") as live:
        assert live.health().note == "production has withdrawn v1.1.0"
        registry.wiring.forgotten.add(note)
        wait_until(lambda: "v1.1.0 was forgotten by a cleaner" in live.health().note)
        registry.wiring.forgotten.take_back("v1.1.0")
        shop_of(registry).promote("v1.1.0")
        wait_until(lambda: live.health().note == "")


def test_only_what_is_there_and_trusted_is_pinned(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(VersionNotFound, match=r"no version v9\.9\.9"), pinned(registry, "v9.9.9"):
        pass
    strict = replace(registry.settings, trusted_keys=(key_pair(tmp_path, "release").trusted,))
    late = replace(registry.settings, minimum_version="v1.1.0")
    for settings in (strict, late):
        with pytest.raises(NotTrusted), pinned(Registry(settings=settings)):
            pass


@pytest.mark.acceptance
def test_a_name_that_is_bound_again_is_told_and_not_followed(registry: Registry) -> None:
    with pinned(registry) as live:
        shop = shop_of(registry)
        other = shop.pointer("v1.1.0").manifest_sha256
        key = layout.version(registry.model, "v1.0.0")
        body = json.loads(registry.store.get(key).body)
        registry.store.overwrite(key, json.dumps({**body, "manifest_sha256": other}).encode())
        wait_until(lambda: "another history" in live.health().error)
        assert live.predict(b"leaf").version == "v1.0.0"


@pytest.mark.acceptance
def test_ulora_serve_pins_a_version(store_url: str, model: str, tmp_path: Path, s3_env: dict[str, str]) -> None:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    create(registry, "v1.0.0", tmp_path / "bundles")
    env = os.environ | {"ULORA_MODEL": model, "ULORA_CACHE": str(tmp_path / "cache")}

    class PinnedServer(ReplicaServer):
        def _command(self) -> list[str]:
            return [*super()._command(), "--version", "v1.0.0"]

    server = PinnedServer(tmp_path / "serve", env)
    try:
        server.start()
        told = httpx.get(f"{server.url}/version", timeout=300).json()
        assert (told["version"], told["pinned"]) == ("v1.0.0", True)
        answer = httpx.post(f"{server.url}/predict", content=png(0), headers=IMAGE, timeout=300)
        assert (answer.status_code, answer.json()["version"]) == (200, "v1.0.0")
        server.stop()
        assert f"{model} pinned v1.0.0 serves v1.0.0: generation 1\n" in server.log.read_text()
    finally:
        server.kill()


def test_version_and_channel_exclude_each_other() -> None:
    words = ["serve", "--version", "v1.0.0", "--store", "s3://bucket/x"]
    complains(ulora(*words, "--channel", "production"), 2, "--version and --channel exclude each other")
    complains(ulora(*words, "--fleet-key-file", "keys"), 2, "--fleet-key-file is for a replica that follows a channel")


# --- two behind nginx ------------------------------------------------------------------------------------------------

needs_nginx = pytest.mark.skipif(
    PROGRAM is None, reason="nginx is not installed; on Debian: apt-get install nginx-light"
)


SHARE = "10% ulora_b;"
ONE_EACH = httpx.Limits(max_keepalive_connections=0)
"""A connection for each request: with a reload nginx closes those that wait for one, which may cross it."""


def shipped(port: int, *, log: Path, ports: Mapping[str, int], **changes: str) -> str:
    """The configuration that is shipped, with these ports, and some of its text replaced."""
    changes = {
        "listen 8000;": f"listen {HOST}:{port};", "/var/log/nginx/ulora.log": str(log),
        "127.0.0.1:8001": f"{HOST}:{ports['a']}", "127.0.0.1:8002": f"{HOST}:{ports['b']}", **changes,
    }  # fmt: skip
    text = CONFIGURATION
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    return text


@dataclass(frozen=True)
class Balanced:
    """Two pinned replicas behind nginx: v1.0.0 is a, v1.1.0 is b; `ends` closes one of them."""

    nginx: Nginx
    configuration: Callable[..., str]
    ends: Mapping[str, ExitStack]

    @property
    def log(self) -> str:
        """The lines about requests."""
        return (self.nginx.folder / "ulora.log").read_text()

    def reload(self, **changes: str) -> None:
        self.nginx.reload(partial(self.configuration, **changes))

    def ask(self, client: httpx.Client, *keys: str) -> dict[str, str]:
        """Which version answers each key, by its header and its own bytes."""
        found = {}
        for key in keys:
            answer = client.post(f"{self.nginx.url}/predict", params={"key": key}, content=b"leaf", headers=IMAGE)
            assert answer.status_code == 200, answer.text
            assert answer.json()["version"] == answer.headers["X-Ulora-Version"]
            found[key] = answer.headers["X-Ulora-Version"]
        return found


@contextmanager
def balanced(registry: Registry, **changes: str) -> Iterator[Balanced]:
    with TemporaryDirectory(prefix="ulora-nginx-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o777)
        ends, ports = {}, {}
        for name, version in (("a", "v1.0.0"), ("b", "v1.1.0")):
            ends[name] = stack.enter_context(ExitStack())
            live = ends[name].enter_context(pinned(registry, version))
            _, url = ends[name].enter_context(running_server(live))
            ports[name] = int(url.rpartition(":")[2])
        configuration = partial(shipped, log=Path(folder) / "ulora.log", ports=ports)
        nginx = Nginx(Path(folder), partial(configuration, **changes))
        stack.callback(nginx.end)
        yield Balanced(nginx, configuration, ends)


@pytest.mark.acceptance
@needs_nginx
def test_nginx_gives_a_key_the_same_version_always(registry: Registry) -> None:
    with balanced(registry) as two, httpx.Client(timeout=300, limits=ONE_EACH) as client:
        first = two.ask(client, *KEYS)
        tried = {key for key in KEYS if first[key] == "v1.1.0"}
        assert 8 <= len(tried) <= 32  # 10% of 200; the keys are the same in every run
        assert two.ask(client, *KEYS) == first

        lines = [json.loads(line) for line in two.log.splitlines()]
        answers = [line for line in lines if line["version"] in first.values() and line["request_id"]]
        assert len([line for line in answers if line["status"] == 200]) >= 2 * len(KEYS)
        assert not any(key in two.log for key in KEYS)

        two.reload(**{SHARE: "50% ulora_b;"})
        wait_until(lambda: sum(each == "v1.1.0" for each in two.ask(client, *KEYS[:40]).values()) > 10)
        larger = {key for key, version in two.ask(client, *KEYS).items() if version == "v1.1.0"}
        assert tried < larger
        assert 70 <= len(larger) <= 130

        two.reload(**{SHARE: ""})  # the rollback
        key = next(iter(tried))
        wait_until(lambda: two.ask(client, key) == {key: "v1.0.0"})
        wait_until(lambda: set(two.ask(client, *KEYS[:40]).values()) == {"v1.0.0"})


@needs_nginx
def test_a_key_whose_replica_is_away_gets_an_error(registry: Registry) -> None:
    with balanced(registry) as two, httpx.Client(timeout=300, limits=ONE_EACH) as client:
        versions = two.ask(client, *KEYS[:60])
        a, b = (next(key for key in versions if versions[key] == name) for name in ("v1.0.0", "v1.1.0"))
        two.ends["b"].close()
        away = client.post(f"{two.nginx.url}/predict", params={"key": b}, content=b"leaf", headers=IMAGE)
        assert (away.status_code, away.json()["error"]) == (503, "Unreachable")
        assert (away.headers["Retry-After"], away.headers["Content-Type"]) == ("1", "application/json")
        assert away.headers["X-Request-Id"]
        assert two.ask(client, a) == {a: "v1.0.0"}
        probes = [client.get(f"{two.nginx.url}/{path}health/ready").status_code for path in ("a/", "b/", "")]
        assert probes == [200, 503, 200]


@needs_nginx
@pytest.mark.acceptance
def test_with_a_backup_the_other_version_answers_and_says_so(registry: Registry) -> None:
    with (
        balanced(registry, **{"    # server": "    server"}) as two,
        httpx.Client(timeout=300, limits=ONE_EACH) as client,
    ):
        versions = two.ask(client, *KEYS[:60])
        b = next(key for key in versions if versions[key] == "v1.1.0")
        two.ends["b"].close()
        assert two.ask(client, b) == {b: "v1.0.0"}


@needs_nginx
def test_nginx_hands_on_what_a_replica_says(registry: Registry) -> None:
    with balanced(registry) as two, httpx.Client(base_url=two.nginx.url, timeout=300, limits=ONE_EACH) as client:
        told = client.post("/predict", content=b"leaf", headers={**IMAGE, "X-Request-Id": "my-own"})
        assert (told.headers["X-Request-Id"], told.headers["X-Ulora-Arm"]) == ("my-own", "stable")
        assert len(client.post("/predict", content=b"leaf", headers=IMAGE).headers["X-Request-Id"]) == 32
        wrong = client.post("/predict", content=b"leaf", headers={"Content-Type": "text/plain"})
        assert (wrong.status_code, wrong.json()["error"]) == (415, "BadInput")
        late = client.post("/predict", content=b"leaf", headers={**IMAGE, "X-Request-Timeout-Ms": "never"})
        assert (late.status_code, late.headers["X-Ulora-Version"][:2]) == (400, "v1")
        for name, version in (("a", "v1.0.0"), ("b", "v1.1.0")):
            assert client.get(f"/{name}/version").json()["version"] == version
            assert f'ulora_resident_versions{{version="{version}"}} 1.0' in client.get(f"/{name}/metrics").text
        assert client.get("/a/docs").status_code == 404
        with connect(two.nginx.url) as large:
            large.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 67108865\r\n\r\n")
            assert read_answer(large).status == 413


def test_the_bounds_of_nginx_are_those_of_a_replica() -> None:
    says = {name: value for name, value in re.findall(r"^    (\w+) (\S+);$", CONFIGURATION, re.MULTILINE)}
    ours = HttpOptions()
    assert says["client_max_body_size"] == f"{ours.max_body // 2**20}m"
    assert says["client_header_timeout"] == f"{ours.header_seconds:g}s"
    assert says["client_body_timeout"] == says["send_timeout"] == f"{ours.body_seconds:g}s"
    assert re.search(rf"^    keepalive_timeout {ours.idle_seconds:g}s;$", CONFIGURATION, re.MULTILINE)
    assert CONFIGURATION.count("keepalive_timeout 60s;") == 2  # to the replicas: closed before they do
    assert ours.idle_seconds > 60
    assert float(says["proxy_read_timeout"].rstrip("s")) > LiveOptions().deadline + 1
