"""What the store refuses stays in MLflow as it was, and is said; the rest is shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.store import layout
from tests.servers.proxy import Proxy, answering
from tests.support.registries import open_registry, small_bundle
from tests.support.run_ulora import complains, ulora

V1, V2 = "v1.0.0", "v2.0.0"


@pytest.fixture
def online(
    store_url: str, model: str, tmp_path: Path, tracking_uri: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """Two versions in MLflow, whose pages say what production serves; commands go through the proxy."""
    registry = open_registry(tmp_path, store_url, model, tracking_uri=tracking_uri)
    registry.store.initialise()
    for number, name in enumerate((V1, V2)):
        registry.create(name, small_bundle(tmp_path / name, seed=number))
        registry.promote(name, "production", PromoteOptions(force=True), reason=f"because of {name}")
    assert not registry.reconcile().damaged
    for name, value in {"MODEL": model, "POLICY": registry.settings.policy, "CACHE": tmp_path / "far"}.items():
        monkeypatch.setenv(f"ULORA_{name}", str(value))
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    return registry


def pages(registry: Registry) -> Mapping[str, object]:
    registry.catalog.look_again()
    return {each.version: each.description for each in registry.catalog.versions(registry.model)}


@pytest.mark.acceptance
def test_a_page_of_a_refused_log_stays_as_it_was(online: Registry, proxy: Proxy) -> None:
    before = pages(online)
    assert "because of v2.0.0" in str(before)
    online.rollback(reason="error rate")
    key = layout.record(online.model, "production", 1)
    proxy.next(answering(403, "AccessDenied"), method="GET", containing=key, times=1000)
    done = ulora("reconcile")
    complains(done, 7, "MLflow keeps what it shows of them", "generation 1 of production may not be read")
    assert f"may not be read: {V1}: its page stays as it is" in done.out
    assert pages(online) == before
    proxy.clear()
    assert ulora("reconcile").code == 0
    assert pages(online) != before


@pytest.mark.acceptance
def test_a_refused_verdict_keeps_only_its_own_page(online: Registry, proxy: Proxy) -> None:
    before = pages(online)
    verdict = online.history()[0].verdict
    assert verdict
    key = layout.verdict(online.model, verdict)
    proxy.next(answering(403, "AccessDenied"), method="GET", containing=key, times=1000)
    online.rollback(reason="error rate")
    done = ulora("reconcile", "--json")
    assert [each.partition(":")[0] for each in done.document["refused"]] == [V2]
    after = pages(online)
    assert (after[V1] != before[V1], after[V2] == before[V2]) == (True, True)
