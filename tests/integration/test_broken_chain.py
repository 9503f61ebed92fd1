"""Whoever writes after a record that does not continue the log is told; a rollback is made all the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.channels.record import Author, ChannelPosition, promoted
from registry.errors import BrokenChain
from registry.store import layout
from tests.servers.proxy import Proxy, drip_headers
from tests.support.registries import bind, open_registry
from tests.support.run_script import pointer_of, run
from tests.support.run_ulora import complains, ulora

V1, V2, V3 = "v1.0.0", "v2.0.0", "v3.0.0"
SAYS = "generation 2 of production does not hash to what generation 3 says"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Production serves v2.0.0 by its third record, whose `previous` is false."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, V1, V2, V3)
    registry.promote(V1, "production")
    registry.promote(V3, "production")
    log = registry.channel("production")
    record = promoted(
        ChannelPosition(model, "production", log.head()), pointer_of(registry, V2), Author("mallory"), None
    )
    log.commit(record.model_copy(update={"previous": "0" * 64}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ULORA_MODEL", model)
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    return registry


def test_a_rollback_on_a_broken_chain_is_made_and_says_so(registry: Registry) -> None:
    planned = ulora("rollback", "--dry-run", "--json")
    assert SAYS in planned.document["broken_chain"]
    done = ulora("rollback", "--json")
    assert (done.code, done.document["changed"], done.document["version"]) == (0, True, V3)
    assert SAYS in done.document["broken_chain"]
    assert SAYS in done.err
    assert "until they are restarted" in done.err


def test_people_read_it_beside_the_answer(registry: Registry) -> None:
    said = ulora("rollback", "--again")
    assert (said.code, SAYS in said.err) == (0, True)


def test_a_record_that_is_gone_breaks_the_chain_too(registry: Registry) -> None:
    registry.store.delete(layout.record(registry.model, "production", 2))
    assert "is not in the store" in ulora("rollback", "--json").document["broken_chain"]


def test_a_rollback_on_a_whole_chain_says_nothing_of_it(registry: Registry) -> None:
    registry.promote(V1, "staging")
    registry.promote(V2, "staging")
    done = ulora("rollback", "--channel", "staging", "--json")
    assert (done.code, done.document["broken_chain"], done.document["notes"]) == (0, "", [])


@pytest.mark.acceptance
def test_a_store_that_does_not_say_fails_no_rollback(
    registry: Registry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(drip_headers, method="GET", containing=layout.record(registry.model, "production", 2), times=100)
    done = ulora("rollback", "--json", "--wait", "0")
    assert (done.code, done.document["changed"], done.document["broken_chain"]) == (0, True, "")
    assert "not found out" in done.err


def test_ctrl_c_after_the_rollback_costs_no_answer(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("registry.usecases.rollback.with_chain", interrupted)
    done = ulora("rollback", "--json")
    assert (done.code, done.document["changed"], done.document["version"]) == (130, True, V3)


def test_a_promotion_on_a_broken_chain_is_refused(registry: Registry) -> None:
    for options in ([], ["--dry-run"]):
        complains(ulora("promote", V1, "--channel", "production", *options), 6, SAYS, "--force --reason")
    with pytest.raises(BrokenChain):
        registry.promote(V1, "production")
    assert registry.channel("production").head() == registry.channel("production").read(3)


def test_a_forced_promotion_on_a_broken_chain_says_so(registry: Registry) -> None:
    change = registry.promote(V1, "production", PromoteOptions(force=True), reason="we looked")
    assert (change.changed, SAYS in change.broken_chain, SAYS in change.notes[0]) == (True, True, True)
    assert registry.promote(V2, "production").broken_chain == "", "its record continues the one before"


@pytest.mark.parametrize("words", [["--yes"], ["--dry-run"]], ids=" ".join)
def test_a_rollback_script_says_that_the_chain_is_broken(registry: Registry, words: list[str]) -> None:
    script = registry.rollback_script(V3)
    said = run(script, *words)
    assert (said.code, "warning: the log of production is broken" in said.err) == (0, True)
    if words == ["--dry-run"]:
        found = json.loads(run(script, *words, "--json").out)
        assert "does not hash to what generation 3 says" in found["broken_chain"]
    else:
        assert registry.channel("production").read(4).stable == pointer_of(registry, V3)
