"""Replicas of a channel with a trial, on a real store: who answers, what is counted, what a failure costs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.errors import CorruptBlob, LoadFailed, StoreUnreachable
from registry.serving import computing
from registry.serving.fleet import Heartbeat, Heartbeats, replicas
from registry.serving.follow import Live, LiveOptions
from registry.serving.http.options import HttpOptions
from registry.serving.loaders import Loader
from registry.store.objects import ObjectStore
from registry.trials.split import is_canary
from registry.versions.bundle import DEFAULT_FLAVOR
from registry.versions.manifest import Manifest
from tests.servers.proxy import Exchange, Proxy, Reply
from tests.support.bundles import write_bundle
from tests.support.echo_releases import Echo, Shop, load_echo, wait_until
from tests.support.equal_answers import assert_equal_answers
from tests.support.http_batches import noise_png
from tests.support.running_app import running
from tests.support.trials import abort_trial, advance_trial, observed, stage_in_store, start_trial

STABLE, CANARY = "v1.0.0", "v1.1.0"
DENIED = Reply(403, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>")
IMAGES = [noise_png(seed) for seed in range(3)]
KEYS = [f"user-{number}" for number in range(40)]


@dataclass(frozen=True)
class Labelled:
    """What a version of this module answers: its label is the image's text, of the canary's in capitals."""

    version: str
    label: str
    outcome: str = "answer"
    target: str = "low"
    is_ood: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class LabelEcho(Echo):
    """A version that answers labels."""

    def predict(self, images: Any, *, target: object = None) -> Any:
        text = images.decode()
        return Labelled(self.version, text.upper() if self.version == CANARY else text)


class SlowEcho(Echo):
    """A version that takes some time for an image."""

    def predict(self, images: Any, *, target: object = None) -> Any:
        threading.Event().wait(0.1)
        return super().predict(images)


@dataclass
class Workshop:
    """A loader that fails on demand, and of which some versions are slow."""

    broken: dict[str, Exception] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)

    def find(self, flavor: str) -> Loader:
        return self.load

    def load(self, manifest: Manifest, files: Mapping[str, Path], **how: Any) -> Echo:
        if error := self.broken.get(manifest.version):
            raise error
        echo = load_echo(manifest, files, **how)
        labels = {"low": ("leaf", "LEAF", "rust")}
        kind = SlowEcho if manifest.version in self.slow else LabelEcho
        return kind(echo.version, echo.content_sha256, echo.weights, labels=labels)


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    """A model whose production serves v1.0.0, and which has v1.1.0 too."""
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in (STABLE, CANARY):
        shop.release(name)
    shop.promote(STABLE)
    return shop


def follow(shop: Shop, workshop: Workshop | None = None, store: ObjectStore | None = None, **options: Any) -> Live:
    heartbeats = Heartbeats(store or shop.store, shop.model, "production", every=0.1)
    options = {
        "poll": 0.02,
        "retry": 0.02,
        "observe_every": 0.1,
        "find": (workshop or Workshop()).find,
        "deadline": 600,
        **options,
    }
    return Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(**options), fleet=heartbeats)


def versions_of(live: Live) -> dict[str, str]:
    return {key: live.predict(b"leaf", key=key).version for key in KEYS}


def test_replicas_agree_on_who_sees_the_canary(shop: Shop) -> None:
    with ExitStack() as stack:
        fleet = [stack.enter_context(follow(shop)) for _ in range(3)]
        record = start_trial(shop, CANARY, percent=40)
        assert all(live.wait_for(generation=record.generation, timeout=150) for live in fleet)
        expected = {key: CANARY if is_canary(record.trial.salt, key, 40) else STABLE for key in KEYS}
        assert [versions_of(live) for live in fleet] == [expected] * 3
        assert set(expected.values()) == {STABLE, CANARY}

        record = advance_trial(shop, 75)
        assert all(live.wait_for(generation=record.generation, timeout=150) for live in fleet)
        wider = [versions_of(live) for live in fleet]
        assert wider == [wider[0]] * 3
        assert {key for key in KEYS if expected[key] == CANARY} < {key for key in KEYS if wider[0][key] == CANARY}

        record = abort_trial(shop)
        assert all(live.wait_for(generation=record.generation, timeout=150) for live in fleet)
        assert set(versions_of(fleet[0]).values()) == {STABLE}


def test_what_replicas_count_is_in_the_store(shop: Shop) -> None:
    record = start_trial(shop, CANARY)
    with follow(shop) as one, follow(shop) as other:
        asked = [versions_of(live) for live in (one, other)]
        assert asked[0] == asked[1]
    stage = stage_in_store(shop, record.generation)  # the replicas have ended, what they counted stays
    assert stage is not None
    assert (stage.stage.trial, len(stage.replicas)) == (record.trial.id, 2)
    for arm, version in (("stable", STABLE), ("canary", CANARY)):
        keys = [key for key in KEYS if asked[0][key] == version]
        assert len(stage.arms[arm].of("asked")) == len(keys)  # of both replicas, each once
        assert sum(counters["answer"] for counters in stage.arms[arm].counters.values()) == 2 * len(keys)


def test_a_canary_that_fails_to_load_costs_nothing(shop: Shop) -> None:
    workshop = Workshop({CANARY: LoadFailed("it does not fit")})
    with follow(shop, workshop) as live:
        record = start_trial(shop, CANARY)
        assert live.wait_for(generation=record.generation, timeout=150)
        assert set(versions_of(live).values()) == {STABLE}
        health = live.health()
        assert "it does not fit" in health.error
        assert health.trial.problem.startswith("stable answers all: v1.1.0 was not loaded")
        wait_until(lambda: replicas(shop.store, shop.model, "production")[0].heartbeat.trial_problem)
        wait_until(
            lambda: (stage := stage_in_store(shop, record.generation)) and any(stage.arms["canary"].failures.values())
        )
        stage = stage_in_store(shop, record.generation)
        assert [set(kinds) for kinds in stage.arms["canary"].failures.values()] == [{"load_failed"}]
        assert not stage.arms["stable"].of("asked")  # a replica without the canary takes no part

        workshop.broken.clear()
        wait_until(lambda: live.serving.canary)
        assert set(versions_of(live).values()) == {STABLE, CANARY}
        assert live.health().trial.problem == ""


@pytest.mark.parametrize(
    ("error", "kinds"),
    [(CorruptBlob("other bytes"), {"digest_mismatch"}), (StoreUnreachable("it is away"), set())],
)
def test_a_failure_is_told_by_its_kind(shop: Shop, error: Exception, kinds: set[str]) -> None:
    with follow(shop, Workshop({CANARY: error})) as live:
        record = start_trial(shop, CANARY)
        assert live.wait_for(generation=record.generation, timeout=150)
        wait_until(lambda: str(error) in live.health().error)
    (stage,) = [one for one in observed(shop)[0].stages if one.generation == record.generation]
    assert set(stage.arms["canary"].failures) == kinds


def test_a_replica_that_starts_in_a_trial_waits_for_the_canary(shop: Shop) -> None:
    start_trial(shop, CANARY)
    with follow(shop) as live:
        assert set(versions_of(live).values()) == {STABLE, CANARY}


def test_a_replica_that_may_not_write_says_so(shop: Shop, store_url: str, proxy: Proxy) -> None:
    proxy.next(lambda exchange: exchange.send(DENIED), method="PUT", containing="/observations/", times=100_000)
    with follow(shop, store=ObjectStore(store_url, endpoint_url=proxy.url)) as live:
        wait_until(lambda: live.health().observations_problem.startswith("no observations: "))
        assert live.health().note.startswith("no observations: ")
        assert live.health().state == "serving"
        wait_until(lambda: replicas(shop.store, shop.model, "production")[0].heartbeat.observations_problem)
        start_trial(shop, CANARY)
        assert live.wait_for(generation=2, timeout=150)
        assert set(versions_of(live).values()) == {STABLE, CANARY}
    assert observed(shop) == []


def test_a_heartbeat_says_when_its_replica_started(shop: Shop) -> None:
    def told() -> list[Heartbeat]:
        return sorted((each.heartbeat for each in replicas(shop.store, shop.model, "production")), key=started)

    def started(heartbeat: Heartbeat) -> datetime:
        return datetime.fromisoformat(heartbeat.started)

    before = datetime.now(UTC) - timedelta(milliseconds=1)  # times of heartbeats are cut to these
    with follow(shop):
        wait_until(told)
        (first,) = told()
        assert before <= started(first) <= datetime.fromisoformat(first.when)
        wait_until(lambda: told()[0].when > first.when)
        assert told()[0].started == first.started
        with follow(shop):
            wait_until(lambda: len(told()) == 2)
            assert started(told()[1]) >= datetime.fromisoformat(first.when)


def test_a_replica_that_loads_for_the_first_time_says_for_what(shop: Shop) -> None:
    """One that dies of it each time is told from others by that."""
    gate = threading.Event()

    class Waits(Workshop):
        def load(self, manifest: Manifest, files: Mapping[str, Path], **how: Any) -> Echo:
            assert gate.wait(150)
            return super().load(manifest, files, **how)

    live = follow(shop, Waits())
    with ThreadPoolExecutor() as pool:
        started = pool.submit(live.start)
        wait_until(lambda: replicas(shop.store, shop.model, "production"))
        (told,) = replicas(shop.store, shop.model, "production")
        gate.set()
        assert (told.heartbeat.state, told.heartbeat.generation, told.heartbeat.newest) == ("starting", 0, 1)
        started.result().close()


@pytest.mark.acceptance
def test_observations_go_on_when_the_store_is_back(shop: Shop, store_url: str, proxy: Proxy) -> None:
    def away(exchange: Exchange) -> None:
        exchange.send(Reply(503, [], b""))

    record = start_trial(shop, CANARY)
    proxy.next(away, method="PUT", containing="/observations/", times=8)
    with follow(shop, store=ObjectStore(store_url, endpoint_url=proxy.url)) as live:
        wait_until(lambda: live.health().observations_problem.startswith("the last observations"))
        versions_of(live)
        wait_until(lambda: live.health().observations_problem == "" and live.health().observed)
        wait_until(lambda: (stage := stage_in_store(shop, record.generation)) and stage.arms["canary"].of("asked"))


@pytest.mark.acceptance
def test_a_canary_that_was_far_too_slow_at_its_load_is_shed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOPELESS_SECONDS", "SHADOW_SECONDS"):
        monkeypatch.setattr(computing, name, 0.0)
    record = start_trial(shop, CANARY, "shadow", 100)
    with follow(shop, Workshop(slow={CANARY})) as live:
        assert {live.predict(b"leaf", key=key).version for key in KEYS} == {STABLE}
    stage = stage_in_store(shop, record.generation)
    assert stage
    assert [counters["shed"] for counters in stage.arms["stable"].counters.values()] == [len(KEYS)]
    assert not stage.arms["canary"].of("asked")


# --- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def http(shop: Shop, tmp_path: Path) -> Iterator[httpx.Client]:
    """A replica in a split trial of half of the keys, which issues receipts."""
    keys = tmp_path / "fleet.keys"
    keys.write_text("the-key-of-this-fleet\n")
    start_trial(shop, CANARY)
    with follow(shop) as live, running(live, HttpOptions(fleet_key_file=keys, cache_bytes=1 << 20)) as client:
        yield client


def ask(http: httpx.Client, key: str, **headers: str) -> httpx.Response:
    content = {"Content-Type": "image/png", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return http.post("/predict", params={"key": key} if key else {}, content=b"leaf", headers=content)


def key_of(http: httpx.Client, arm: str) -> str:
    return next(key for key in KEYS if ask(http, key).json()["arm"] == arm)


def test_an_answer_says_its_arm_and_whether_it_sticks(http: httpx.Client) -> None:
    for key in KEYS:
        answer = ask(http, key)
        arm = answer.headers["X-Ulora-Arm"]
        assert (answer.json()["arm"], answer.json()["sticky"]) == (arm, True)
        assert (
            answer.json()["version"] == answer.headers["X-Ulora-Version"] == {"stable": STABLE, "canary": CANARY}[arm]
        )
    assert ask(http, "").json()["sticky"] is False
    by_id = {ask(http, "", X_Request_Id="request-7").json()["arm"] for _ in range(5)}
    assert len(by_id) == 1


def test_every_endpoint_routes_by_the_same_key(http: httpx.Client, model: str) -> None:
    for arm in ("stable", "canary"):
        key = key_of(http, arm)
        image = "bGVhZg=="
        batch = http.post("/predict/batch", json={"images": [{"image": image, "key": key}, {"image": image}]}).json()
        assert (batch["arm"], batch["sticky"]) == (arm, True)
        assert len({one["request_id"] for one in batch["predictions"]}) == 2
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]}
        found = http.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], "parameters": {"key": key}}).json()
        assert (found["parameters"]["arm"], found["parameters"]["sticky"]) == (arm, True)


def test_a_forced_arm_is_left_out(http: httpx.Client, shop: Shop) -> None:
    for arm, version in (("canary", CANARY), ("stable", STABLE)):
        for answer in (ask(http, KEYS[0], X_Ulora_Arm=arm), http.post(f"/predict?arm={arm}", files={"image": b"leaf"})):
            assert (answer.json()["version"], answer.json()["arm"]) == (version, "named")
    assert {ask(http, KEYS[0], X_Ulora_Arm=arm).status_code for arm in ("best", "")} == {400}
    receipt = ask(http, KEYS[0], X_Ulora_Arm="canary").json()["request_id"]
    assert feedback(http, receipt, "leaf").json()["result"] == "left_out"


@pytest.mark.acceptance
def test_forcing_an_arm_needs_the_scope_admin(shop: Shop, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"app predict {'a' * 32}\nops predict,admin {'b' * 32}\n")
    start_trial(shop, CANARY)
    path = f"/v2/models/{shop.model}/versions/{CANARY}/infer"
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["bGVhZg=="]}
    with follow(shop) as live, running(live, HttpOptions(tokens=tokens)) as http:
        for token, status in (("a" * 32, 403), ("b" * 32, 200)):
            bearer = {"Authorization": f"Bearer {token}"}
            assert ask(http, "k", X_Ulora_Arm="canary", **bearer).status_code == status
            assert ask(http, "k", **bearer).status_code == 200
            assert http.post(path, json={"inputs": [tensor]}, headers=bearer).status_code == status


# --- labels ----------------------------------------------------------------------------------------------------------


def feedback(http: httpx.Client, receipt: str, label: str) -> httpx.Response:
    return http.post("/feedback", json={"request_id": receipt, "label": label})


def test_a_label_finds_its_arm(http: httpx.Client, shop: Shop) -> None:
    stable, canary = (ask(http, key_of(http, arm)).json()["request_id"] for arm in ("stable", "canary"))
    taken = feedback(http, stable, "leaf")
    assert taken.json() == {"result": "taken", "generation": 2, "arm": "stable", "version": STABLE}
    assert feedback(http, stable, "leaf").json()["result"] == "repeated"
    assert feedback(http, stable, "rust").status_code == 409
    assert feedback(http, canary, "leaf").json()["version"] == CANARY  # it answered LEAF
    assert feedback(http, canary, "laef").status_code == 400
    wait_until(lambda: (stage := stage_in_store(shop, 2)) and stage.arms["canary"].of("labelled"))
    stage = stage_in_store(shop, 2)
    assert [len(stage.arms[arm].of(event)) for arm in ("stable", "canary") for event in ("labelled", "wrong")] == [
        1,
        0,
        1,
        1,
    ]
    series = [line for line in http.get("/metrics").text.splitlines() if line.startswith("ulora_feedback_total{")]
    assert {'arm="canary",result="taken"' in line for line in series} == {True, False}


@pytest.mark.acceptance
def test_what_is_no_receipt_of_this_channel_is_refused(http: httpx.Client, shop: Shop, tmp_path: Path) -> None:
    receipt = ask(http, "k").json()["request_id"]
    assert feedback(http, receipt[:-4] + "AAAA", "leaf").status_code == 400
    assert http.post("/feedback", json={"request_id": receipt}).status_code == 400
    assert (
        http.post("/feedback", content=b"x" * 20_000, headers={"Content-Type": "application/json"}).status_code == 413
    )
    with follow(shop) as live, running(live) as other:
        assert "request_id" not in ask(other, "k").json()
        assert feedback(other, receipt, "leaf").status_code == 503


@pytest.mark.acceptance
def test_a_label_of_an_earlier_generation_is_taken_anywhere(http: httpx.Client, shop: Shop, tmp_path: Path) -> None:
    receipt = ask(http, key_of(http, "canary")).json()["request_id"]
    abort_trial(shop)
    with follow(shop) as late, running(late, HttpOptions(fleet_key_file=tmp_path / "fleet.keys")) as other:
        assert feedback(other, receipt, "LEAF").json()["generation"] == 2
    assert len(stage_in_store(shop, 2).arms["canary"].of("labelled")) == 1


# --- a shadow trial of real versions ---------------------------------------------------------------------------------


def test_a_shadow_trial_changes_no_bit_of_an_answer(store_url: str, model: str, tmp_path: Path) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for number, name in enumerate((STABLE, CANARY)):
        shop.release(name, write_bundle(tmp_path / name, seed=number, family="dinov3"), flavor=DEFAULT_FLAVOR)
    shop.promote(STABLE)
    options = LiveOptions(poll=0.02, max_batch=8, deadline=600)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live:
        quiet = [live.predict(image, target="mid") for image in IMAGES]
        record = start_trial(shop, CANARY, "shadow", 100)
        assert live.wait_for(generation=record.generation, timeout=300)
        passes = live.tally.computed.count
        tried = [live.predict(image, target="mid", key=str(n)) for n, image in enumerate(IMAGES)]
        for one, before in zip(tried, quiet, strict=True):
            assert_equal_answers(one.to_dict(), before.to_dict())
        wait_until(lambda: sum(_arms(live)["canary"].counters.values()) == len(IMAGES))
        assert live.tally.computed.count - passes == len(IMAGES)  # one pass for both versions
        assert _arms(live)["canary"].memory_mb > 0


def _arms(live: Live) -> Any:
    return next(stage.arms for stage in live.observing.recorder.document().stages if stage.trial)
