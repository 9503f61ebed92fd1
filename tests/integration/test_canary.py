"""Trials on a real store: start, advance and abort, by one person and by several at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import Channel, PromoteOptions, RollbackOptions
from registry.errors import (
    BadInput,
    ChannelMoved,
    GateRefused,
    MissingBlob,
    NotFound,
    NotNow,
)
from registry.evidence.verdict import Verdict
from registry.retention.references import holds
from registry.store import layout
from registry.usecases.options import AbortOptions, AdvanceOptions, CanaryOptions
from tests.integration.test_races import in_processes
from tests.support.registries import bind, create, file_of, listing, open_registry
from tests.support.run_script import run
from tests.support.run_ulora import ulora

TEN = CanaryOptions(percent=10)
SHADOW = CanaryOptions(shadow=True, plan="default")
DECISION = "d" * 64
FROZEN = (
    "format: 1\nchannels:\n  staging: {}\n  production:\n    freeze:\n"
    "      - {from: 2020-01-01T00:00:00Z, to: 2999-01-01T00:00:00Z, why: harvest}\n"
)


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """v2 is stable in production, after v1; v3 and v4 are there."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, "v1.0.0", "v2.0.0", "v3.0.0", "v4.0.0")
    for version in ("v1.0.0", "v2.0.0"):
        registry.promote(version, "production")
    return registry


def head_of(registry: Registry) -> tuple[str, ...]:
    head = registry.channel("production").head()
    assert head
    return (head.action, *head.live())


def test_a_trial_by_a_plan_that_is_none_is_refused(registry: Registry) -> None:
    with pytest.raises(BadInput, match="did you mean default"):
        registry.canary.start("v3.0.0", options=CanaryOptions(percent=10, plan="defualt"), reason="a slip")
    assert head_of(registry) == ("promote", "v2.0.0")


def test_a_trial_starts_advances_and_becomes_stable(registry: Registry) -> None:
    started = registry.canary.start("v3.0.0", options=TEN, reason="try it")
    assert (started.action, started.version, started.canary, started.share) == ("canary", "v2.0.0", "v3.0.0", "10%")
    assert started.verdict
    assert (started.generation, started.previous, started.changed) == (3, "v2.0.0", True)
    advanced = registry.canary.advance(to=50)
    assert (advanced.action, advanced.share, advanced.generation) == ("advance", "50%", 4)
    done = registry.canary.advance(options=AdvanceOptions(decision=DECISION))
    assert (done.version, done.previous, done.canary, done.generation) == ("v3.0.0", "v2.0.0", "", 5)
    newest, _, first, *_ = registry.history()
    assert (newest.decision, newest.baking) == (DECISION, first.running_trial)
    assert newest.verdict == first.verdict == started.verdict.sha256
    assert registry.rollback().version == "v2.0.0"


def test_what_is_so_already_is_not_written_again(registry: Registry) -> None:
    def again(change: Callable[[], object]) -> None:
        change()
        before = listing(registry)
        change()
        assert listing(registry) == before

    again(lambda: registry.canary.start("v3.0.0", options=TEN))
    again(lambda: registry.canary.advance(to=50))
    again(registry.canary.advance)
    registry.canary.start("v4.0.0", options=SHADOW)
    again(registry.canary.abort)


def test_a_dry_run_writes_nothing(registry: Registry) -> None:
    before = listing(registry)
    assert not registry.canary.start("v3.0.0", options=TEN, dry_run=True).changed
    assert listing(registry) == before
    registry.canary.start("v3.0.0", options=TEN)
    before = listing(registry)
    assert registry.canary.advance(to=50, dry_run=True).share == "50%"
    assert registry.canary.abort(dry_run=True).previous == "v3.0.0"
    assert listing(registry) == before


def test_a_shadow_trial_serves_stable_and_is_shown(registry: Registry) -> None:
    registry.canary.start("v3.0.0", options=SHADOW)
    shown = registry.status().channels[1]
    assert shown.trial
    assert (shown.trial.share, shown.trial.percent, shown.trial.shadow_percent) == ("shadow 100%", 0, 100)
    assert (shown.trial.plan, shown.trial.generation, shown.trial.is_baking) == ("default", 3, False)
    with pytest.raises(BadInput, match="answers nobody"):
        registry.canary.advance(to=50)
    registry.canary.advance()
    baking = registry.status().channels[1].trial
    assert baking
    assert (baking.is_baking, baking.started_generation, baking.generation) == (True, 3, 4)


def test_the_end_of_a_trial_withdraws_its_version(registry: Registry) -> None:
    registry.canary.start("v3.0.0", options=TEN)
    ended = registry.canary.abort(options=AbortOptions(decision=DECISION), reason="errors")
    assert (ended.action, ended.version, ended.previous) == ("abort", "v2.0.0", "v3.0.0")
    head = registry.channel("production").head()
    assert head
    assert (head.withdrawn, head.decision) == (("v3.0.0",), DECISION)
    with pytest.raises(NotFound, match="no canary"):
        registry.canary.abort("staging")
    with pytest.raises(GateRefused, match="was rolled back"):
        registry.canary.start("v3.0.0", options=TEN)
    assert registry.canary.start("v3.0.0", options=replace(TEN, force=True), reason="fixed").share == "10%"


def test_a_guard_goes_back_from_what_a_trial_made_stable(registry: Registry) -> None:
    registry.canary.start("v3.0.0", options=TEN)
    registry.canary.advance()
    with pytest.raises(NotFound):
        registry.canary.abort()
    back = registry.canary.abort(options=AbortOptions(expected=4, baked=True, decision=DECISION))
    assert (back.action, back.version, back.previous) == ("rollback", "v2.0.0", "v3.0.0")
    head = registry.channel("production").head()
    assert head
    assert (head.decision, head.baking) == (DECISION, None)


def test_the_gates_judge_a_trial_and_keep_the_refusal(registry: Registry, tmp_path: Path) -> None:
    asks = tmp_path / "asks.yaml"
    asks.write_text("format: 1\nchannels: {staging: {}, production: {requires: staging}}\n")
    strict = Registry(settings=replace(registry.settings, policy=asks))
    with pytest.raises(GateRefused) as refused:
        strict.canary.start("v3.0.0", options=TEN)
    verdict = refused.value.verdict
    assert isinstance(verdict, Verdict)
    assert registry.wiring.ledger.verdict(verdict.sha256).to_bytes() == verdict.to_bytes()
    with pytest.raises(BadInput, match="needs a reason"):
        strict.canary.start("v3.0.0", options=replace(TEN, force=True))
    forced = strict.canary.start("v3.0.0", options=replace(TEN, force=True), reason="urgent")
    assert forced.verdict
    assert forced.verdict.forced == "urgent"


def test_a_trial_in_staging_passes_it_only_when_stable(registry: Registry, tmp_path: Path) -> None:
    registry.promote("v1.0.0", "staging")
    folder = layout.passed(registry.model, "staging", "v3.0.0")
    registry.canary.start("v3.0.0", "staging", TEN)
    assert registry.store.first(folder) is None
    registry.canary.advance("staging")
    assert registry.store.first(folder)


def test_nothing_is_promoted_in_part_or_whole_beside_a_trial(registry: Registry) -> None:
    registry.canary.start("v3.0.0", options=TEN)
    for change in (
        lambda: registry.promote("v4.0.0", "production"),
        lambda: registry.promote("v4.0.0", "production", PromoteOptions(force=True), reason="now"),
        lambda: registry.rollback(only=["adapters/low"]),
    ):
        with pytest.raises(NotNow, match=r"v3\.0\.0 is on trial in production \(10%\)") as refused:
            change()
        assert "ulora canary abort" in refused.value.hint
    assert head_of(registry) == ("canary", "v2.0.0", "v3.0.0")


def test_a_freeze_holds_a_trial_but_not_its_end(registry: Registry, tmp_path: Path) -> None:
    policy = tmp_path / "frozen.yaml"
    policy.write_text(FROZEN)
    frozen = Registry(settings=replace(registry.settings, policy=policy))
    with pytest.raises(NotNow, match="is frozen until"):
        frozen.canary.start("v3.0.0", options=TEN)
    registry.canary.start("v3.0.0", options=TEN)
    with pytest.raises(NotNow, match="is frozen until"):
        frozen.canary.advance(to=20)
    assert frozen.canary.advance(to=20, options=AdvanceOptions(force=True), reason="a fix").share == "20%"
    assert frozen.canary.abort().changed


def test_a_version_with_a_lost_file_goes_no_further(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v5.0.0", tmp_path)
    registry.canary.start("v5.0.0", options=TEN)
    registry.store.delete(layout.blob(file_of(registry, "v5.0.0", "adapters/low/adapter_model.safetensors").sha256))
    with pytest.raises(MissingBlob):
        registry.canary.advance()
    with pytest.raises(MissingBlob):
        registry.canary.start("v5.0.0", "production", replace(SHADOW, expected=3))
    assert registry.canary.abort().version == "v2.0.0"


def test_gc_keeps_all_that_a_trial_can_come_to(registry: Registry) -> None:
    registry.canary.start("v3.0.0", options=SHADOW)
    held = {hold.version: hold.why for hold in holds(registry.store, registry.model)}
    assert held == {
        "v1.0.0": "on the stack of production", "v2.0.0": "stable in production", "v3.0.0": "on trial in production",
    }  # fmt: skip


@pytest.mark.parametrize("options", [TEN, SHADOW], ids=["split", "shadow"])
def test_a_bare_rollback_and_a_script_end_a_trial(registry: Registry, options: CanaryOptions) -> None:
    registry.canary.start("v3.0.0", options=options)
    assert registry.rollback().action == "abort"
    registry.canary.start("v4.0.0", options=options)
    ran = run(registry.rollback_script("v2.0.0"), "--yes", "--json")
    assert (ran.code, ran.document["action"]) == (0, "abort")
    body = registry.store.get(layout.record(registry.model, "production", 6)).body
    assert not {"trial", "decision", "canary"} & json.loads(body).keys()
    assert [each.action for each in registry.history()] == ["abort", "canary", "abort", "canary", "promote", "promote"]


def test_a_start_leaves_the_script_that_ends_it(registry: Registry) -> None:
    before = {key for key in listing(registry) if "/scripts/" in key}
    registry.canary.start("v3.0.0", options=TEN)
    (left,) = {key for key in listing(registry) if "/scripts/" in key} - before
    assert left.endswith("rollback_to_v2.0.0.py")


# --- races -----------------------------------------------------------------------------------------------------------

CHANGE = """
import sys
from pathlib import Path
from registry import Registry
from registry.errors import UloraError
from registry.settings import Settings
from registry.usecases.options import AbortOptions, AdvanceOptions, CanaryOptions
act, model, store, cache, policy, expected = sys.argv[1:]
registry = Registry(settings=Settings(model=model, store=store, cache=Path(cache), policy=Path(policy), who=act))
registry.channel("production").head()      # warm: connected, imported
registry.canary
print("ready", flush=True)
sys.stdin.readline()
try:
    if act == "start":
        done = registry.canary.start("v4.0.0", options=CanaryOptions(percent=20, expected=int(expected)))
    elif act == "advance":
        done = registry.canary.advance(to=50, options=AdvanceOptions(expected=int(expected)))
    else:
        done = registry.canary.abort(options=AbortOptions(expected=int(expected)))
    print("changed" if done.changed else "nothing to do")
except UloraError as error:
    print(type(error).__name__)
"""


def at_once(registry: Registry, *acts: str) -> list[str]:
    """What becomes of changes that processes make at once, all after the newest record."""
    head = registry.channel("production").head()
    assert head
    settings = registry.settings
    rest = [registry.model, settings.store, str(settings.cache), str(settings.policy), str(head.generation)]
    return in_processes(CHANGE, *([act, *rest] for act in acts))


@pytest.mark.acceptance
def test_of_a_person_a_plan_and_a_guard_one_wins(registry: Registry) -> None:
    begun = at_once(registry, "start", "start")
    assert sorted(begun) == ["ChannelMoved", "changed"]
    assert head_of(registry) == ("canary", "v2.0.0", "v4.0.0")
    moved = at_once(registry, "advance", "abort", "advance")
    assert sorted(moved) == ["ChannelMoved", "ChannelMoved", "changed"]
    assert len(registry.history()) == 4


def between(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let somebody else act just before the next commit."""
    commit = Channel.commit

    def late(log: Channel, record: object) -> None:
        monkeypatch.setattr(Channel, "commit", commit)
        act()
        commit(log, record)  # type: ignore[arg-type]

    monkeypatch.setattr(Channel, "commit", late)


def test_a_person_ends_a_trial_at_whatever_share_it_is(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.canary.start("v3.0.0", options=TEN)
    between(monkeypatch, lambda: registry.canary.advance(to=50))
    assert registry.canary.abort().changed
    assert head_of(registry) == ("abort", "v2.0.0")


def test_two_people_who_end_a_trial_end_it_once(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.canary.start("v3.0.0", options=TEN)
    between(monkeypatch, lambda: registry.rollback(options=RollbackOptions(leave="v3.0.0")))
    ended = registry.canary.abort()
    assert (ended.changed, ended.version, ended.previous) == (False, "v2.0.0", "v3.0.0")
    assert len(registry.history()) == 4


def test_the_end_of_a_trial_leaves_no_stable_version(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.canary.start("v3.0.0", options=TEN)
    between(monkeypatch, registry.canary.advance)
    with pytest.raises(ChannelMoved, match=r"v3\.0\.0 is not on trial") as moved:
        registry.canary.abort()
    assert "`ulora rollback --from v3.0.0 --channel production`" in moved.value.hint
    assert head_of(registry) == ("advance", "v3.0.0")


@pytest.mark.parametrize("act", ["start", "advance", "abort"])
def test_an_expected_generation_that_is_past_changes_nothing(registry: Registry, act: str) -> None:
    if act != "start":
        registry.canary.start("v3.0.0", options=TEN)
    before = listing(registry)
    changes: dict[str, Callable[[], object]] = {
        "start": lambda: registry.canary.start("v3.0.0", options=replace(TEN, expected=1)),
        "advance": lambda: registry.canary.advance(to=50, options=AdvanceOptions(expected=1)),
        "abort": lambda: registry.canary.abort(options=AbortOptions(expected=1)),
    }
    with pytest.raises(ChannelMoved, match="not 1"):
        changes[act]()
    assert listing(registry) == before


def test_a_listing_that_is_late_hides_no_trial(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.canary.start("v3.0.0", options=TEN)
    listed = Channel._listed
    monkeypatch.setattr(Channel, "_listed", lambda log: min(listed(log), 2))
    assert registry.canary.advance(to=50).generation == 4
    assert registry.canary.abort().generation == 5


# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_did(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    monkeypatch.setenv("ULORA_STORE", registry.settings.store)

    def said(*words: str) -> str:
        ran = ulora(*words)
        assert ran.code == 0, ran.err
        return ran.out.splitlines()[-1]

    assert said("canary", "start", "v3.0.0", "--percent", "10", "--dry-run") == (
        "v3.0.0 would be on trial (10%) beside v2.0.0 in production, generation 3"
    )
    said("canary", "start", "v3.0.0", "--percent", "10", "--plan", "default")
    assert said("canary", "advance", "--to", "50") == (
        "v3.0.0 is on trial (50%) beside v2.0.0 in production, generation 4"
    )
    shown = ulora("status").out
    assert "  trial             split 50%, plan default, since " in shown
    assert "; begun at generation 3" in shown
    assert "v3.0.0 50%" in ulora("history").out
    assert said("canary", "abort", "--wait", "0") == ("production went from v3.0.0 to v2.0.0 by abort, generation 5")
    said("canary", "start", "v4.0.0", "--shadow")
    assert said("canary", "advance", "--to", "100") == (
        "production went from v2.0.0 to v4.0.0 by advance, generation 7"
    )
    assert "ended: it made the version stable" in ulora("status").out
    first = json.loads(ulora("history", "--json").out)[-3]
    assert (first["trial"]["kind"], first["trial_share"]) == ("split", "10%")
    for words in (("--percent", "0"), ("--percent", "100"), ("--percent", "101"), ()):
        assert ulora("canary", "start", "v3.0.0", *words).code == 2
