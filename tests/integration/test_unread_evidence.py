"""Evidence that can't be read may refuse: a ratio to stable does not pass beside it, and the verdict names it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.errors import GateRefused
from registry.evidence.verdict import Verdict
from registry.store import layout
from registry.usecases.replay import newest_digest, replay
from tests.servers.proxy import Proxy, answering
from tests.support.measured_ratios import ratio_of
from tests.support.measured_versions import accuracy_of, manifest_of
from tests.support.registries import open_registry

V1, V2 = "v1.0.0", "v2.0.0"
RATIO = "{metric: latency_ratio_p50, max: 1.1, judge: bound}"
ACCURACY = "{metric: accuracy, min: 0.9}"


def production(rule: str) -> str:
    return f"format: 1\nchannels: {{staging: {{}}, production: {{defaults: [{rule}]}}}}\n"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """V1 is stable; V2 is as fast, and as accurate as is asked."""
    opened = open_registry(tmp_path, store_url, model)
    opened.store.initialise()
    asks(opened, "")
    for version in (V1, V2):
        manifest = manifest_of(model, version)
        opened.bindings.bind(manifest, opened.blobs.put(manifest.to_bytes()))
    opened.promote(V1, "production")
    opened.wiring.ledger.add(ratio_of(opened.manifest(V2), opened.manifest(V1), 1.0, 1))
    opened.wiring.ledger.add(*accuracy_of(opened.manifest(V2), [True] * 99))
    asks(opened, RATIO)
    return opened


def asks(registry: Registry, rule: str) -> None:
    assert registry.settings.policy
    registry.settings.policy.write_text(production(rule))


def refusing(registry: Registry) -> tuple[str, bytes]:
    """The key and the bytes of a measurement that refuses V2."""
    evidence = ratio_of(registry.manifest(V2), registry.manifest(V1), 1.5, 2)
    return layout.evidence(registry.model, V2, evidence.sha256), evidence.to_bytes()


def judged(registry: Registry) -> Verdict:
    """The verdict that a promotion keeps."""
    with suppress(GateRefused):
        registry.promote(V2, "production")
    return registry.wiring.ledger.verdict(newest_digest(registry.wiring, V2, "production"))


def later_format(body: bytes) -> bytes:
    return body.replace(b'"format":1', b'"format":2')


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "change",
    [lambda body: body[:-9], lambda body: body.replace(b"1.5", b"1.0"), later_format],
    ids=["truncated", "changed", "of a later format"],
)
def test_a_refusal_that_is_damaged_does_not_let_pass(registry: Registry, change: Callable[[bytes], bytes]) -> None:
    assert registry.judge(V2, "production").outcome == "pass"
    key, body = refusing(registry)
    registry.store.create(key, change(body))
    verdict = judged(registry)
    (check,) = verdict.checks
    assert (verdict.outcome, verdict.inputs and verdict.inputs.unread) == ("inconclusive", (key,))
    assert f"evidence that can't be read may refuse it: {key}; bring it back" in check.reason
    registry.store.delete(key)
    assert registry.judge(V2, "production").outcome == "pass"
    assert replay(registry.wiring, verdict.sha256).equal, "the verdict names what could not be read then"
    registry.store.create(key, body)
    assert registry.judge(V2, "production").outcome == "fail"


def test_a_refusal_that_s3_can_not_give_does_not_let_pass(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    """It was written with a key of its writer's own."""
    key, body = refusing(registry)
    registry.store.create(key, body)
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    assert far.settings.policy
    far.settings.policy.write_text(production(RATIO))
    proxy.next(answering(400, "InvalidRequest"), method="GET", containing=key, times=100)
    verdict = judged(far)
    assert (verdict.outcome, key in verdict.checks[0].reason) == ("inconclusive", True)
    far.promote(V2, "production", PromoteOptions(force=True), reason="it was disturbed")


def test_other_rules_go_by_what_can_be_read(registry: Registry) -> None:
    asks(registry, ACCURACY)
    key, body = refusing(registry)
    registry.store.create(key, body[:-9])
    verdict = judged(registry)
    assert (verdict.outcome, verdict.inputs and verdict.inputs.unread) == ("pass", ())
    assert b"unread" not in verdict.to_bytes()


@pytest.mark.acceptance
def test_many_keys_are_counted_and_some_named(registry: Registry) -> None:
    for number in range(120):
        registry.store.create(layout.evidence(registry.model, V2, f"{number:064x}"), b"{}")
    verdict = judged(registry)
    assert verdict.inputs
    assert len(verdict.inputs.unread) == 100
    assert "and 97 more" in verdict.checks[0].reason
    assert replay(registry.wiring, verdict.sha256).equal
