"""That a promotion was forced, what it overruled, and why a version was withdrawn: said wherever people look back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.errors import StoreDenied
from tests.support.registries import bind, open_registry
from tests.support.run_ulora import ulora

V1, V2 = "v1.0.0", "v1.1.0"
STRICT = "format: 1\nchannels: {staging: {}, production: {defaults: [{metric: accuracy, min: 0.9}]}}\n"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Production went to V1 by force, to V2 by force, and back to V1."""
    registry = open_registry(tmp_path, store_url, model, who="ana")
    assert registry.settings.policy is not None
    registry.settings.policy.write_text(STRICT)
    registry.store.initialise()
    bind(registry, V1, V2)
    for version in (V1, V2):
        registry.promote(version, "production", PromoteOptions(force=True), reason="the field needs it")
    registry.rollback(options=RollbackOptions(leave=V2), reason="errors doubled")
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    return registry


def test_the_history_says_what_was_forced_and_overruled(registry: Registry) -> None:
    shown = ulora("history", "--channel", "production").out.splitlines()
    assert "promote (forced)" in shown[2]
    assert "the field needs it; overruled: accuracy" in shown[2]
    assert "forced" not in shown[1], "the rollback was not"
    assert [record["forced"] for record in ulora("history", "--json").document] == [False, True, True]


def test_the_status_says_what_the_newest_change_overruled(registry: Registry) -> None:
    assert "forced" not in ulora("status").out, "the rollback was not"
    registry.promote(V2, "production", PromoteOptions(force=True), reason="it is repaired")
    assert re.search(r"overruled by force +v1.1.0 was rolled back", ulora("status").out)


def test_a_promotion_notes_the_gates_that_force_overruled(registry: Registry) -> None:
    force = PromoteOptions(force=True)
    refusal = f"production refuses {V2} .fail.: {V2} was rolled back in production.*; accuracy was not measured"
    for dry_run, was in ((True, "would be"), (False, "was")):
        done = registry.promote(V2, "production", force, reason="it is repaired", dry_run=dry_run)
        (note,) = [note for note in done.notes if "overruled" in note]
        assert re.fullmatch(f"{refusal}.*; this {was} overruled by force", note)
    shown = ulora("promote", V1, "--channel", "production", "--force", "--reason", "back")
    assert "note: production refuses v1.0.0 (fail): accuracy was not measured" in shown.err
    staged = registry.promote(V2, "staging", force, reason="nothing is asked there")
    assert not [note for note in staged.notes if "overruled" in note]


def test_the_status_needs_no_right_to_read_verdicts(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise StoreDenied("a replica may not read verdicts")

    registry.promote(V2, "production", PromoteOptions(force=True), reason="it is repaired")
    monkeypatch.setattr(type(registry.wiring.ledger), "verdict", denied)
    production = registry.status().channels[1]
    assert (production.stable, production.overruled) == (V2, "")


def test_a_version_says_that_it_was_withdrawn_and_why(registry: Registry) -> None:
    shown = ulora("show", V2)
    line = next(line for line in shown.out.splitlines() if line.startswith("channels"))
    assert "production: withdrawn by ana" in line
    assert "generation 3: errors doubled" in line
    assert "(forced; overruled: accuracy" in line
    (channel,) = ulora("show", V1, "--json").document["channels"]
    assert (channel["role"], channel["generation"], channel["forced"]) == ("stable", 3, True)
