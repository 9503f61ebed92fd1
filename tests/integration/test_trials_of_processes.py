"""Replicas and guards as processes of their own in a trial: they agree, whatever happens to one or all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from registry.channels.record import Record
from registry.devstack.s3_server import S3Server
from registry.evidence.policy import parse_policy
from registry.guard.counting import facts_of
from registry.guard.decision import Decision
from registry.guard.decisions import Decisions
from registry.guard.replay import replay_decision
from registry.serving.fleet import replicas
from registry.store.objects import ObjectStore
from registry.trials.observations import WINDOW_SECONDS
from registry.trials.split import is_canary
from registry.usecases.observed import ChannelLook, WatchedChannel
from tests.servers.proxy import Proxy, answering, unavailable
from tests.support.echo_releases import Shop, wait_until
from tests.support.serve_process import serving
from tests.support.trials import advance_trial, observed, stage_in_store, start_trial
from tests.support.watched_trials import policy_text

KEYS = [f"user-{number}" for number in range(30)]
STABLE, CANARY = "v1.0.0", "v1.1.0"


def answers(url: str) -> dict[str, str]:
    with httpx.Client(base_url=url, timeout=300) as http:
        found = {key: http.post("/predict", params={"key": key}, files={"image": b"leaf"}).json() for key in KEYS}
    return {key: answer["version"] for key, answer in found.items()}


def serves(url: str, generation: int) -> bool:
    return bool(httpx.get(f"{url}/health", timeout=300).json()["generation"] == generation)


@pytest.mark.acceptance
def test_processes_agree_and_what_a_killed_one_counted_stays(
    store_url: str, model: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in (STABLE, CANARY):
        shop.release(name)
    shop.promote(STABLE)
    record = start_trial(shop, CANARY, percent=30)
    expected = {key: CANARY if is_canary(record.trial.salt, key, 30) else STABLE for key in KEYS}
    with ExitStack() as stack:
        killed, first = stack.enter_context(serving(shop, drain=0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)  # of the second one
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        _, second = stack.enter_context(serving(shop, drain=0))
        assert answers(first) == answers(second) == expected

        wait_until(lambda: (stage := stage_in_store(shop, record.generation)) and len(stage.replicas) == 2)
        by_key = [key for key in KEYS if expected[key] == CANARY]
        wait_until(lambda: answered(shop, record) == [len(by_key)] * 2)  # the same units at both, and each has written
        assert len(stage_in_store(shop, record.generation).arms["canary"].of("asked")) == len(by_key)
        assert len(observed(shop)) == 2
        killed.kill()
        killed.wait()

        proxy.next(unavailable, times=100_000)
        assert answers(second) == expected  # the store is away
        wait_until(lambda: httpx.get(f"{second}/health", timeout=300).json()["observations_problem"])
        advanced = advance_trial(shop, 60)
        proxy.clear()
        wait_until(lambda: serves(second, advanced.generation))
        wider = {key: CANARY if is_canary(record.trial.salt, key, 60) else STABLE for key in KEYS}
        assert answers(second) == wider
        wait_until(lambda: (stage := stage_in_store(shop, advanced.generation)) and stage.arms["canary"].of("asked"))
    stage = stage_in_store(shop, record.generation)
    assert stage is not None
    assert len(stage.replicas) == 2
    assert sum(counters["answer"] for counters in stage.arms["canary"].counters.values()) >= 2 * len(by_key)


def answered(shop: Shop, record: Record) -> list[int]:
    """How many answers of the canary each replica has told of."""
    stage = stage_in_store(shop, record.generation)
    assert stage is not None
    return [counters.get("answer", 0) for counters in stage.arms["canary"].counters.values()]


# --- with guards -----------------------------------------------------------------------------------------------------


POLICY = policy_text(
    "\n    - {metric: error_rate, max: 0.005, severity: rollback}\n", "\n    default: [{percent: 100, bake: 7d}]\n"
)
DENIED = answering(403, "AccessDenied")
AN_HOUR, A_MINUTE = 3600.0, 60.0


@contextmanager
def guarding(shop: Shop, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`ulora guard run`, which is killed at the end."""
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    env = {**os.environ, "ULORA_MODEL": shop.model, "ULORA_POLICY": str(policy), "ULORA_CACHE": str(folder / "cache")}
    words = [sys.executable, "-m", "registry", "guard", "run", "--channel", "production", "--every", "1"]
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(url: str, prefix: str, count: int, image: bytes = b"leaf") -> None:
    """So many keys ask once; a version may fail."""
    with httpx.Client(base_url=url, timeout=300) as http:
        for number in range(count):
            http.post("/predict", params={"key": f"{prefix}-{number}"}, files={"image": image})


def head_of(shop: Shop) -> Record:
    head = shop.channel().head()
    assert head
    return head


def decided(shop: Shop) -> Decision:
    """What a guard would decide now."""
    facts = facts_of(look_at(shop), parse_policy(POLICY.encode()))
    assert facts
    return Decision.of(facts)


def look_at(shop: Shop) -> ChannelLook:
    view = WatchedChannel(shop.store, shop.channel())
    look = view.records()
    assert look
    return view.with_replicas(look)


@pytest.mark.acceptance
def test_two_guards_hold_through_all_that_is_no_fault_of_it(
    store_url: str, model: str, tmp_path: Path, proxy: Proxy, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One replica's clock is off by an hour, one may not write what it counts, one is killed, and the store is away for
    a minute: the guards hold. Then the version fails: they go back, once."""
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in (STABLE, CANARY):
        shop.release(name)
    shop.promote(STABLE)
    record = start_trial(shop, CANARY)
    with ExitStack() as stack:
        behind = stack.enter_context(Proxy(s3.port))
        behind.next(DENIED, method="PUT", containing="/observations/", times=10**6)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", behind.url)
        _, mute = stack.enter_context(serving(shop, drain=0, log=tmp_path / "log"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        killed, _ = stack.enter_context(serving(shop, drain=0, log=tmp_path / "log"))
        _, right = stack.enter_context(serving(shop, drain=0, log=tmp_path / "log"))
        _, wrong = stack.enter_context(serving(shop, drain=0, ahead=AN_HOUR, log=tmp_path / "log"))
        urls = [right, wrong, mute]
        for url in urls:
            ask(url, url, 100)
        guards = [stack.enter_context(guarding(shop, folder)) for folder in folders(tmp_path, 2)]

        wait_until(lambda: len(silenced(shop)) == 1)
        held = ("hold", ("replicas without fresh observations",))
        wait_until(lambda: (decided(shop).outcome, decided(shop).reasons) == held)
        facts = decided(shop).facts
        assert (facts.fleet.live, facts.fleet.unobserved.names) == (4, silenced(shop))
        wait_until(lambda: len(times_of_windows(shop)) == 2)  # of the one whose clock is right, and the other
        assert all(abs(at) * WINDOW_SECONDS < AN_HOUR / 4 for at in times_of_windows(shop))

        killed.kill()
        killed.wait()
        for each in (proxy, behind):
            each.next(unavailable, times=10**6)
        until = time.monotonic() + A_MINUTE
        for url in urls:
            ask(url, "away", 5)
        wait_until(lambda: time.monotonic() > until)
        for each in (proxy, behind):
            each.clear()
        behind.next(DENIED, method="PUT", containing="/observations/", times=10**6)
        wait_until(
            lambda: decided(shop).facts.fleet.live == 3 and (decided(shop).outcome, decided(shop).reasons) == held
        )
        assert head_of(shop).generation == record.generation
        assert [guard.poll() for guard in guards] == [None, None]

        for url in urls:
            ask(url, f"{url}-late", 100, f"fail {CANARY}".encode())
        wait_until(lambda: head_of(shop).generation > record.generation)
        wait_until(lambda: all(serves(url, head_of(shop).generation) for url in urls))
        assert [guard.poll() for guard in guards] == [None, None]
    head = head_of(shop)
    assert (head.generation, head.action, head.who) == (record.generation + 1, "abort", "guard")
    decision = Decisions(shop.store, model).read("production", head.decision or "")
    assert decision.reasons == ("error_rate <= 0.005, else roll back",)
    assert replay_decision(decision).equal


def silenced(shop: Shop) -> tuple[str, ...]:
    """The replicas that say that they can't write what they count."""
    told = replicas(shop.store, shop.model, "production")
    return tuple(each.heartbeat.id for each in told if each.heartbeat.observations_problem)


def folders(parent: Path, count: int) -> list[Path]:
    found = [parent / f"guard-{number}" for number in range(count)]
    for folder in found:
        folder.mkdir()
    return found


def times_of_windows(shop: Shop) -> list[int]:
    """How long ago each replica's last window of the canary was, as the guard sees it: in windows."""
    look = look_at(shop)
    told = [seen.document.stages[-1].arms["canary"].windows for seen in look.observations if seen.document]
    return [int(look.now.timestamp() // WINDOW_SECONDS) - windows[-1].at for windows in told if windows]


@pytest.mark.acceptance
def test_a_process_that_is_killed_again_and_again_goes_back(store_url: str, model: str, tmp_path: Path) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in (STABLE, CANARY):
        shop.release(name)
    shop.promote(STABLE)
    record = start_trial(shop, CANARY)
    for number in range(3):
        with serving(shop, drain=0) as (process, url):
            wait_until(lambda number=number: newest_followed(shop, record) == number + 1)
            assert serves(url, record.generation)
            process.kill()
            process.wait()
    with ExitStack() as stack:
        _, url = stack.enter_context(serving(shop, drain=0))
        stack.enter_context(guarding(shop, tmp_path))
        wait_until(lambda: head_of(shop).generation > record.generation)
        wait_until(lambda: serves(url, head_of(shop).generation))
    head = head_of(shop)
    decision = Decisions(shop.store, model).read("production", head.decision or "")
    assert decision.reasons == ("crash_loop, the version's fault",)


def newest_followed(shop: Shop, record: Record) -> int:
    """How many replicas have said that they follow a record."""
    told = replicas(shop.store, shop.model, "production")
    return sum(each.heartbeat.newest == record.generation for each in told)
