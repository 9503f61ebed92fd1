"""Replicas as processes of their own in a trial: they agree, one is killed, the store is away for a while."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from registry.store.objects import ObjectStore
from registry.trials.split import is_canary
from tests.servers.proxy import Proxy, unavailable
from tests.support.echo_releases import Shop, wait_until
from tests.support.serve_process import serving
from tests.support.trials import advance_trial, observed, stage_in_store, start_trial

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
        wait_until(lambda: len(stage_in_store(shop, record.generation).arms["canary"].of("asked")) == len(by_key))
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
