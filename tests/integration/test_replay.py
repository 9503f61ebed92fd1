"""A verdict can be computed again from what it names, whatever happened since; what is wrong with one is said."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.errors import BadInput, BadManifest, CorruptBlob, GateRefused, NotFound
from registry.evidence.verdict import Verdict
from registry.formats import canonical
from registry.names import VersionName
from registry.store import layout
from registry.usecases.judge import basis_of
from registry.usecases.replay import newest_digest, replay
from tests.support.measured_ratios import ratio_of
from tests.support.measured_versions import accuracy_of, manifest_of
from tests.support.registries import open_registry
from tests.support.run_ulora import complains, ulora

V1, V2, V3 = "v1.0.0", "v2.0.0", "v3.0.0"
EVERY_KIND = """
format: 1
channels:
  staging: {}
  production:
    requires: staging
    approvals: 1
    defaults:
      - {metric: accuracy, min: 0.9, why: growers act on it}
      - {metric: accuracy, min: 0.8, per: target, judge: bound, confidence: 0.9}
      - {metric: accuracy, max_decrease: 0.05, per: target, judge: paired}
      - {metric: accuracy, max_decrease: 0.5, per: mean}
      - {metric: latency_ms_p95, max: 200, device: cpu}
"""
FORCE = PromoteOptions(force=True)


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("ULORA_MODEL", model)
    opened = open_registry(tmp_path, store_url, model)
    opened.store.initialise()
    for version in (V1, V2, V3):
        manifest = manifest_of(model, version)
        opened.bindings.bind(manifest, opened.blobs.put(manifest.to_bytes()))
    return opened


def asks(registry: Registry, policy: str) -> None:
    assert registry.settings.policy
    registry.settings.policy.write_text(policy)


def production(asked: str) -> str:
    return f"format: 1\nchannels: {{staging: {{}}, production: {{{asked}}}}}\n"


def measure(registry: Registry, version: str, right: int, n: int = 100, at: int = 13, *, kept: bool = True) -> None:
    answered = [number < right for number in range(n)]
    when = f"2026-11-21T{at:02}:00:00+00:00"
    registry.wiring.ledger.add(*accuracy_of(registry.manifest(version), answered, when, kept=kept))


def judged(registry: Registry, version: str, channel: str = "production", *, force: bool = False) -> Verdict:
    """The verdict that a promotion keeps, also if it refuses."""
    with suppress(GateRefused):
        registry.promote(version, channel, FORCE if force else None, reason="a test")
    return registry.wiring.ledger.verdict(newest_digest(registry.wiring, version, channel))


def is_the_same(registry: Registry, verdict: Verdict) -> bool:
    done = replay(registry.wiring, verdict.sha256)
    assert done.equal == (done.differences == ())
    return done.equal


def test_measurements_of_a_ratio_are_counted_again_as_then(registry: Registry) -> None:
    asks(registry, production(""))
    registry.promote(V1, "production")
    asks(registry, production("defaults: [{metric: latency_ratio_p50, max: 1.1, judge: bound}]"))
    kept = []
    for hour, value, n in ((3, 1.09, 300), (2, 1.08, 300), (4, 1.0, 1200), (5, 1.2, 300)):
        registry.wiring.ledger.add(ratio_of(registry.manifest(V2), registry.manifest(V1), value, hour, n))
        kept.append(judged(registry, V2) if value != 1.0 else registry.judge(V2, "production"))
    assert [verdict.outcome for verdict in kept] == ["inconclusive", "inconclusive", "pass", "fail"]
    assert [verdict.checks[0].look for verdict in kept] == [1, 2, 3, 4]
    assert [verdict.checks[0].measurements for verdict in kept] == [1, 2, 3, 4]
    assert all(is_the_same(registry, verdict) for verdict in (kept[0], kept[1], kept[3]))


def change_everything(registry: Registry) -> None:
    """New evidence and approvals, another policy, and other versions in the channels."""
    asks(registry, production("defaults: [{metric: ood_auroc, min: 0.5}]"))
    for version in (V1, V2):
        measure(registry, version, 3, at=19)
        Registry(settings=replace(registry.settings, who="later")).approve(version)
    for version in (V3, V2, V1):
        registry.promote(version, "staging", FORCE, reason="later")
        registry.promote(version, "production", FORCE, reason="later")
    registry.rollback(reason="later")


PAIRED = "defaults: [{metric: accuracy, min: 0}, {metric: accuracy, max_decrease: 0.05, judge: paired}]"
KINDS = {
    "value": ("defaults: [{metric: accuracy, min: 0.9}]", 95, "pass"),
    "value that fails": ("defaults: [{metric: accuracy, min: 0.9}]", 80, "fail"),
    "too few": ("defaults: [{metric: accuracy, min: 0.9, min_n: 500}]", 95, "inconclusive"),
    "bound": ("defaults: [{metric: accuracy, min: 0.9, judge: bound}]", 91, "inconclusive"),
    "relative": ("defaults: [{metric: accuracy, max_decrease: 0.1, per: target}]", 95, "pass"),
    "paired": (PAIRED, 96, "pass"),
    "paired that fails": (PAIRED, 60, "fail"),
    "approvals": ("approvals: 1", 95, "pass"),
    "too few approvals": ("approvals: 2", 95, "fail"),
    "past": ("requires: staging", 95, "fail"),
    "not measured": ("defaults: [{metric: macro_f1, min: 0.9, per: worst}]", 95, "fail"),
    "nothing asked": ("", 0, "pass"),
}


@pytest.mark.acceptance
def test_each_kind_of_rule_is_computed_again(registry: Registry) -> None:
    measure(registry, V1, 97)
    registry.promote(V1, "production")
    registry.approve(V2)
    verdicts = {}
    for number, (kind, (asked, right, outcome)) in enumerate(KINDS.items()):
        measure(registry, V2, right, n=100, at=number)
        asks(registry, production(asked))
        basis = basis_of(registry.wiring, V2, "production")
        verdicts[kind] = basis.judge()
        registry.wiring.ledger.add_verdict(verdicts[kind], basis.policy)
        assert (kind, verdicts[kind].outcome) == (kind, outcome)
        assert is_the_same(registry, verdicts[kind])
    change_everything(registry)
    assert [kind for kind, verdict in verdicts.items() if not is_the_same(registry, verdict)] == []


def test_a_verdict_on_everything_names_everything(registry: Registry) -> None:
    for version, right in ((V1, 97), (V2, 95)):
        measure(registry, version, right, at=12)
        measure(registry, version, right)
        registry.promote(version, "staging")
    registry.promote(V1, "production")
    registry.approve(V2)
    asks(registry, EVERY_KIND)
    verdict = judged(registry, V2, force=True)
    names = verdict.inputs
    assert names
    assert (verdict.outcome, verdict.forced, verdict.stable) == ("fail", "a test", V1)
    head = registry.channel("production").read(1)
    assert (names.head and names.head.sha256, names.stable_manifest) == (head.sha256, head.stable.manifest_sha256)  # type: ignore[union-attr]
    assert (names.past and names.past.generation, names.past_head and names.past_head.generation) == (2, 2)
    assert list(map(len, (names.evidence, names.stable_evidence, names.approvals, names.outcomes))) == [2, 2, 1, 2]
    kept = registry.store.get(layout.policy(registry.model, verdict.policy)).body
    assert canonical.sha256(kept) == verdict.policy
    change_everything(registry)
    assert is_the_same(registry, verdict)
    assert registry.wiring.ledger.verdict(verdict.sha256).to_bytes() == verdict.to_bytes()


def test_a_freeze_that_was_overruled_is_in_the_verdict(registry: Registry) -> None:
    now = datetime.now(UTC)
    window = {"from": (now - timedelta(hours=1)).isoformat(), "to": (now + timedelta(hours=1)).isoformat(), "why": "x"}
    asks(registry, production(f"freeze: [{json.dumps(window)}]"))
    verdict = judged(registry, V1, force=True)
    assert (verdict.outcome, verdict.freeze) == ("pass", window)
    assert is_the_same(registry, verdict)


def test_outcomes_that_came_later_change_nothing(registry: Registry) -> None:
    asks(
        registry,
        production("defaults: [{metric: accuracy, min: 0}, {metric: accuracy, max_decrease: 0.2, judge: paired}]"),
    )
    evidence, stored = accuracy_of(registry.manifest(V2), [True] * 50)
    key = layout.evidence(registry.model, V2, evidence.sha256)
    registry.store.create(key, evidence.to_bytes())
    measure(registry, V1, 49, n=50)
    registry.promote(V1, "production")
    verdict = judged(registry, V2)
    assert verdict.outcome == "inconclusive"
    registry.store.create(layout.outcomes(registry.model, V2, evidence.outcomes or ""), stored)
    assert registry.judge(V2, "production").outcome == "pass"
    assert is_the_same(registry, verdict)


def test_a_stable_that_could_not_be_read_is_remembered(registry: Registry) -> None:
    asks(registry, production("defaults: [{metric: accuracy, max_decrease: 0.1}]"))
    for version in (V1, V2):
        measure(registry, version, 90)
    registry.promote(V1, "production", FORCE, reason="first")
    key = layout.blob(registry.bindings.get(VersionName.parse(V1)).manifest_sha256)
    whole = registry.store.get(key).body
    registry.store.overwrite(key, whole[:-1])
    verdict = judged(registry, V2)
    assert verdict.outcome == "inconclusive"
    registry.store.overwrite(key, whole)
    assert is_the_same(registry, verdict)


# --- what is wrong with a verdict -----------------------------------------------------------------------------------


def measured_pass(registry: Registry) -> Verdict:
    measure(registry, V1, 95)
    asks(registry, production("defaults: [{metric: accuracy, min: 0.9}]"))
    return judged(registry, V1)


def test_a_false_verdict_is_shown_line_by_line(registry: Registry) -> None:
    measure(registry, V1, 80)
    asks(registry, production("defaults: [{metric: accuracy, min: 0.9}]"))
    verdict = judged(registry, V1)
    checks = tuple(check.model_copy(update={"outcome": "pass"}) for check in verdict.checks)
    false = verdict.model_copy(update={"outcome": "pass", "checks": checks})
    registry.store.create(layout.verdict(registry.model, false.sha256), false.to_bytes())
    shown = ulora("policy", "replay", false.sha256[:12])
    assert shown.code == 6
    for line in ('- outcome: "pass"', '+ outcome: "fail"', '- checks.0.outcome: "pass"'):
        assert f"  {line}" in shown.out.splitlines()
    complains(shown, 6, "differs in 4 lines")
    assert ulora("policy", "replay", false.sha256, "--json").document["equal"] is False
    assert ulora("policy", "replay", verdict.sha256).code == 0


@pytest.mark.parametrize("kind", ["evidence", "policies"])
def test_what_is_gone_is_named(registry: Registry, kind: str) -> None:
    verdict = measured_pass(registry)
    key = next(info.key for info in registry.store.list(f"models/{registry.model}/{kind}/"))
    body = registry.store.get(key).body
    registry.store.delete(key)
    with pytest.raises(NotFound, match=f"some of what it names is gone: {key}"):
        replay(registry.wiring, verdict.sha256)
    registry.store.create(key, body.replace(b"accuracy", b"macro_f1"))
    with pytest.raises(CorruptBlob, match=f"{key} hashes to"):
        replay(registry.wiring, verdict.sha256)
    complains(ulora("policy", "replay", verdict.sha256), 6, key)


def test_outcomes_that_are_gone_are_named(registry: Registry) -> None:
    asks(
        registry,
        production("defaults: [{metric: accuracy, min: 0}, {metric: accuracy, max_decrease: 0.2, judge: paired}]"),
    )
    for version, right in ((V1, 90), (V2, 91)):
        measure(registry, version, right)
    registry.promote(V1, "production")
    verdict = judged(registry, V2)
    key = next(info.key for info in registry.store.list(layout.outcomes(registry.model, V1)))
    registry.store.delete(key)
    complains(ulora("policy", "replay", verdict.sha256), 5, key)


def test_a_verdict_of_an_earlier_release_is_not_called_wrong(registry: Registry) -> None:
    verdict = measured_pass(registry)
    document = json.loads(verdict.to_bytes())
    del document["inputs"]
    old = Verdict.parse(canonical.encode(document), "an old verdict")
    registry.store.create(layout.verdict(registry.model, old.sha256), old.to_bytes())
    said = ulora("policy", "replay", old.sha256)
    complains(said, 5, "was made by an earlier release", "does not make it wrong", old.sha256[:12])
    assert ulora("verify", "--all").code == 0


def test_what_is_no_verdict_is_refused(registry: Registry) -> None:
    verdict = measured_pass(registry)
    registry.store.create(layout.verdicts(registry.model) + "abcdef.txt", b"junk")
    with pytest.raises(NotFound, match="no verdict begins with abcdef"):
        replay(registry.wiring, "abcdef")
    strange = verdict.model_copy(update={"channel": "../x"})
    registry.store.create(layout.verdict(registry.model, strange.sha256), strange.to_bytes())
    with pytest.raises(BadManifest, match="which is not a name of a channel"):
        replay(registry.wiring, strange.sha256)
    others = {"manifest": "f" * 64, "head": {"generation": 7, "sha256": "f" * 64}}
    document = json.loads(verdict.to_bytes())
    document["inputs"] |= others
    lost = Verdict.parse(canonical.encode(document), "a verdict")
    registry.store.create(layout.verdict(registry.model, lost.sha256), lost.to_bytes())
    with pytest.raises(NotFound, match=r"is gone: blobs/sha256/ff/f+, models/.*/0999999999993.json"):
        replay(registry.wiring, lost.sha256)


def test_other_bytes_with_the_same_values_are_not_the_same(registry: Registry) -> None:
    verdict = measured_pass(registry)
    spaced = json.dumps(json.loads(verdict.to_bytes()), indent=1).encode()
    registry.store.create(layout.verdict(registry.model, canonical.sha256(spaced)), spaced)
    done = replay(registry.wiring, canonical.sha256(spaced))
    assert (done.equal, done.differences) == (False, ("the same values in other bytes: it is not canonical JSON",))
    document = json.loads(verdict.to_bytes())
    del document["inputs"]["outcomes"]
    bare = Verdict.parse(canonical.encode(document), "a verdict")
    registry.store.create(layout.verdict(registry.model, bare.sha256), bare.to_bytes())
    assert replay(registry.wiring, bare.sha256).differences == ("+ inputs.outcomes: []",)


def test_damage_to_a_policy_or_a_verdict_is_found(registry: Registry) -> None:
    verdict = measured_pass(registry)
    for key in (layout.policy(registry.model, verdict.policy), layout.verdict(registry.model, verdict.sha256)):
        body = registry.store.get(key).body
        registry.store.overwrite(key, body.replace(b"accuracy", b"accuracz"))
        assert key in ulora("verify", "--all").out
        with pytest.raises(CorruptBlob, match="hashes to"):
            replay(registry.wiring, verdict.sha256)
        registry.store.overwrite(key, body)
    assert is_the_same(registry, verdict)


def test_evidence_that_was_changed_in_place_does_not_count(registry: Registry) -> None:
    measure(registry, V1, 80)
    asks(registry, production("defaults: [{metric: accuracy, min: 0.75}]"))
    assert registry.judge(V1, "production").outcome == "pass"
    key = next(info.key for info in registry.store.list(layout.evidence(registry.model, V1)))
    registry.store.overwrite(key, registry.store.get(key).body.replace(b"0.8", b"0.9"))
    assert registry.judge(V1, "production").outcome == "fail"


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_verdict_is_found_by_prefix_or_by_version(registry: Registry) -> None:
    verdict = measured_pass(registry)
    said = ulora("policy", "replay", verdict.sha256[:10])
    assert said.code == 0
    assert f"verdict {verdict.sha256[:12]} (v1.0.0 in production, pass" in said.out
    assert "the same" in said.out
    by_version = ulora("policy", "replay", "--version", V1, "--json").document
    assert (by_version["verdict"], by_version["equal"]) == (verdict.sha256, True)
    again = replace(registry.settings, who="another")
    measure(registry, V2, 10)
    refused = judged(Registry(settings=again), V2)
    assert ulora("policy", "replay", "--version", V2, "--json").document["verdict"] == refused.sha256


def test_a_wrong_name_of_a_verdict_is_said(registry: Registry) -> None:
    verdict = measured_pass(registry)
    for digest in ("abc", "../x", "g" * 8, "A" * 64):
        with pytest.raises(BadInput, match="is not the digest of a verdict"):
            replay(registry.wiring, digest)
    other = "0000" if not verdict.sha256.startswith("0000") else "1111"
    with pytest.raises(NotFound, match=f"no verdict begins with {other}"):
        replay(registry.wiring, other)
    complains(ulora("policy", "replay", "--version", V3), 5, "no verdict on v3.0.0 in production is kept")
    complains(ulora("policy", "replay"), 2, "either VERDICT or --version")
    complains(ulora("policy", "replay", "abcd", "--version", V1), 2, "either VERDICT or --version")
    twin = verdict.sha256[:20] + "0" * 44
    registry.store.create(layout.verdict(registry.model, twin), verdict.to_bytes())
    with pytest.raises(BadInput, match="more than one verdict begins with"):
        replay(registry.wiring, verdict.sha256[:20])
    with pytest.raises(CorruptBlob, match="it is not what was written"):
        replay(registry.wiring, twin)
