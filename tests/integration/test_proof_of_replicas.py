"""What replicas have in memory, told by heartbeats and health, and looked at by `--wait`, `status` and `doctor`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.doctor.channels import check_replicas
from registry.serving.fleet import Heartbeat, Heartbeats, replicas
from registry.serving.follow import Live, LiveOptions
from registry.serving.loaders import Loader
from registry.serving.proof import Released
from registry.store import layout
from tests.support.bundles import add_goldens, png, write_bundle
from tests.support.echo_releases import wait_until
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import ulora

pytestmark = pytest.mark.acceptance

OLD, NEW = "v1.0.0", "v2.0.0"
WITH_WEIGHTS = ("adapters/low", "adapters/mid", "router")


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Real versions, of which production serves the older; and an environment in which `ulora` finds them."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    for seed, name in enumerate((OLD, NEW)):
        registry.create(name, write_bundle(tmp_path / name, seed=seed, targets=("low", "mid")), offline=True)
    registry.promote(OLD, "production")
    return registry


def released(registry: Registry, name: str) -> Released:
    manifest = registry.manifest(name)
    return Released.of(registry.bindings.get(manifest.name).pointer, manifest)


@contextmanager
def replica(registry: Registry, **options: Any) -> Iterator[Live]:
    """A replica whose heartbeat is there."""
    heartbeats = Heartbeats(registry.store, registry.model, "production", every=0.1)
    how = LiveOptions(**{"poll": 0.02, **options})
    with Live(registry.channel("production"), registry.bindings, registry.blobs, how, fleet=heartbeats) as live:
        wait_until(lambda: heartbeat(registry, heartbeats.id) is not None)
        yield live


def heartbeat(registry: Registry, replica_id: str | None = None) -> Heartbeat | None:
    said = [found.heartbeat for found in replicas(registry.store, registry.model, "production")]
    return next((one for one in said if replica_id in (None, one.id)), None)


def forge(registry: Registry, said: Heartbeat, **other: Any) -> None:
    """Write the heartbeat of a replica that is not there, as a thief of a replica's credentials can."""
    forged = said.model_copy(update={"id": "forged-1", **other})
    key = layout.replica(registry.model, "production", forged.id)
    registry.store.overwrite(key, Heartbeat.model_validate(forged.model_dump()).to_bytes())


def earlier(said: Heartbeat) -> dict[str, Any]:
    """What a replica of an earlier release says, as far as it matters here."""
    return {name: type(getattr(said, name))() for name in ("manifest_sha256", "weights_sha256", "weights_count")}


def test_heartbeats_and_health_carry_digests_of_weights(registry: Registry) -> None:
    expected = released(registry, OLD)
    components = registry.manifest(OLD).components
    with replica(registry) as live:
        said = heartbeat(registry)
        assert said is not None
        assert (said.manifest_sha256, said.weights_sha256) == (expected.manifest_sha256, expected.weights_sha256)
        assert (said.weights_count, said.golden_sha256) == (3, "")
        proof = live.health().proof
    assert proof is not None
    assert proof.weights == {name: components[name].weights_sha256 for name in WITH_WEIGHTS}
    assert (proof.manifest_sha256, proof.weights_sha256) == (said.manifest_sha256, said.weights_sha256)
    assert (proof.when, proof.problem) == (said.proved, "")


def test_a_rollback_ends_with_proof_of_every_replica(registry: Registry) -> None:
    registry.promote(NEW, "production")
    with replica(registry) as one, replica(registry) as other:
        wait_until(lambda: one.health().rollback_ready and other.health().rollback_ready)
        done = ulora("rollback", "--reason", "test", "--wait", 300)
        assert "it is served by 2 replicas; 2 with proof of the weights" in done.out
        assert (done.code, one.version, other.version) == (0, OLD, OLD)


def test_a_promotion_waits_if_it_is_asked_to(registry: Registry) -> None:
    with replica(registry) as live:
        done = ulora("promote", NEW, "--channel", "production", "--wait", 300)
        assert "it is served by 1 replica; 1 with proof of the weights" in done.out
        assert (done.code, live.version) == (0, NEW)
        status = ulora("status", "--json").document
        (shown,) = next(one for one in status["channels"] if one["channel"] == "production")["replicas"]
        assert (shown["version"], shown["proof"]) == (NEW, "ok")


def test_those_that_are_late_are_named_with_the_reason(registry: Registry) -> None:
    gate = threading.Event()
    try:
        with replica(registry, find=held_back(gate)) as late, replica(registry) as quick:
            done = ulora("promote", NEW, "--channel", "production", "--wait", 0.001)
            assert done.code == 0
            wait_until(lambda: quick.version == NEW and generations(registry) == [1, 2])
            wait_until(lambda: f"loading {NEW}" in str(heartbeat(registry, late_id(registry))))
            done = ulora("promote", NEW, "--channel", "production", "--wait", 1)
            assert done.code == 0
            assert "it is served by 1 replica; 1 with proof" in done.out
            assert (
                f"1 replica did not follow within 1 s: {late_id(registry)} (at generation 1; loading {NEW}" in done.err
            )
            assert late.version == OLD
            gate.set()
    finally:
        gate.set()


def generations(registry: Registry) -> list[int]:
    return sorted(one.heartbeat.generation for one in replicas(registry.store, registry.model, "production"))


def late_id(registry: Registry) -> str:
    found = [one.heartbeat for one in replicas(registry.store, registry.model, "production")]
    return next((said.id for said in found if said.generation == 1), "")


def held_back(gate: threading.Event) -> Any:
    """A loader that begins with the newer version only when it may."""
    from adapters.answer.loading import load

    def find(flavor: str) -> Loader:
        def wait_and_load(manifest: Any, files: Any, **how: Any) -> Any:
            assert manifest.version == OLD or gate.wait(300)
            return load(manifest, files, **how)

        return wait_and_load

    return find


@pytest.mark.parametrize("other", [{"weights_sha256": "0" * 64}, {"manifest_sha256": "0" * 64}])
def test_other_digests_are_told_loudly(registry: Registry, other: dict[str, str]) -> None:
    registry.promote(NEW, "production")
    with replica(registry):
        said = heartbeat(registry)
        assert said is not None
        forge(registry, said, generation=3, version=OLD, **other)
        done = ulora("rollback", "--reason", "test", "--wait", 300)
        assert done.code == 6
        assert "production is at generation 3, but forged-1 has other weights in memory than the manifest" in done.err
        assert "it is served by 2 replicas; 1 with proof" in done.out
        assert "differs" in ulora("status").out
        found = {each.subject: each for each in check_replicas(registry)}
        assert "other weights in memory" in found["replica forged-1"].detail
        as_json = ulora("rollback", "--from", NEW, "--reason", "test", "--json")
        assert (as_json.code, as_json.document["action"]) == (6, "none")
        assert json.loads(as_json.err.splitlines()[-1])["error"] == "IntegrityError"


def test_an_earlier_replica_is_not_waited_for_and_not_proved(registry: Registry) -> None:
    registry.promote(NEW, "production")
    with replica(registry):
        said = heartbeat(registry)
        assert said is not None
        forge(registry, said, generation=3, version=OLD, **earlier(said))
        done = ulora("rollback", "--reason", "test", "--wait", 3600)
        assert done.code == 0
        assert "1 replica does not say which weights are in memory: forged-1" in done.err
        assert "not told" in ulora("status").out


def test_a_manifest_that_is_not_there_proves_nothing(registry: Registry, tmp_path: Path) -> None:
    with replica(registry):
        said = heartbeat(registry)
        assert said is not None
        bind(registry, "v3.0.0")
        for number, version in enumerate(("v9.9.9", "nonsense", "v3.0.0")):
            forge(registry, said, id=f"forged-{number}", generation=7, version=version)
        shown = {replica.id: replica.proof for channel in registry.status().channels for replica in channel.replicas}
    assert shown == {said.id: "ok", "forged-0": "unknown", "forged-1": "unknown", "forged-2": "differs"}


def test_many_forged_versions_are_not_all_looked_up(registry: Registry) -> None:
    with replica(registry):
        said = heartbeat(registry)
        assert said is not None
        for number in range(40):
            forge(registry, said, id=f"forged-{number}", generation=7, version=f"v1.{number}.9")
        (production,) = (one for one in registry.status().channels if one.channel == "production")
    proofs = {one.id: one.proof for one in production.replicas}
    assert set(proofs.values()) == {"unknown", "ok"}
    assert proofs[said.id] == "ok"


def test_a_weight_that_changes_in_memory_is_found(registry: Registry) -> None:
    with replica(registry, prove_every=0.05) as live:
        version: Any = live.serving.stable
        version.components.adapters["mid"].last.head.tensors()["weight"].view(-1)[0] += 1
        wait_until(lambda: live.health().error)
        assert live.health().error == f"{OLD}: the weights of adapters/mid changed in memory since it was loaded"
        assert live.health().ready
        expected = released(registry, OLD)
        wait_until(lambda: str(heartbeat(registry)).count("changed in memory"))
        said = heartbeat(registry)
        assert said is not None
        assert expected.compare(said.manifest_sha256, said.weights_sha256) == "differs"
        assert ulora("promote", OLD, "--channel", "production", "--wait", 300).code == 6


def test_a_lora_that_changes_in_memory_is_found(registry: Registry) -> None:
    with replica(registry, prove_every=0.05) as live:
        version: Any = live.serving.stable
        slot = version.components.adapters["low"].slot
        slot.page.rows[slot.index, 0] += 1
        wait_until(lambda: "adapters/low changed in memory" in live.health().error)


def test_proofs_are_computed_again_while_versions_come_and_go(registry: Registry) -> None:
    with replica(registry, prove_every=0.001) as live:
        before = live.health().proof
        for name in (NEW, OLD, NEW, OLD):
            generation = registry.promote(name, "production").generation
            assert live.wait_for(version=name, generation=generation, timeout=300)
            assert live.predict(png(0)).version == name
            proof = live.health().proof
            assert proof is not None
            assert released(registry, name).compare(proof.manifest_sha256, proof.weights_sha256) == "ok"
        wait_until(lambda: live.health().proof != before)
        assert live.health().error == ""


def test_the_golden_fingerprint_is_that_of_the_computed_outputs(registry: Registry, tmp_path: Path) -> None:
    with ExitStack() as stack:
        bundle = add_goldens(write_bundle(tmp_path / "golden", seed=7, targets=("low",)))
        registry.create("v3.0.0", bundle, offline=True)
        registry.promote("v3.0.0", "production")
        one, other = (stack.enter_context(replica(registry)).health().proof for _ in range(2))
        assert one is not None
        assert other is not None
        assert len(one.golden_sha256) == 64
        assert one.golden_sha256 == other.golden_sha256
        wait_until(lambda: str(heartbeat(registry)).count(one.golden_sha256))
