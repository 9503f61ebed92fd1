"""Two people for a release, and times in which nothing is released, on a real store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.errors import BadInput, GateRefused, NotNow, VersionNotFound
from registry.evidence.approvals import approvers
from registry.names import VersionName
from registry.store import layout
from registry.usecases.audit_options import ChecklistOptions
from tests.support.registries import bind, listing, open_registry
from tests.support.run_ulora import complains, ulora

TWO = "format: 1\nchannels: {staging: {}, production: {approvals: 2}}\n"
V1, V2 = "v1.0.0", "v2.0.0"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    opened = open_registry(tmp_path, store_url, model)
    opened.store.initialise()
    bind(opened, V1, V2)
    return under(opened, tmp_path, TWO)


def under(registry: Registry, folder: Path, policy: str) -> Registry:
    path = folder / "asked.yaml"
    path.write_text(policy)
    return Registry(settings=replace(registry.settings, policy=path))


def as_person(registry: Registry, who: str) -> Registry:
    return Registry(settings=replace(registry.settings, who=who))


def test_two_different_people_are_asked(registry: Registry) -> None:
    ann, bob = as_person(registry, "ann"), as_person(registry, "bob")
    with pytest.raises(GateRefused, match=r"0 of 2 approvals; another person runs `ulora approve v1.0.0"):
        ann.promote(V1, "production")
    assert ann.approve(V1, reason="looks right").who == ("ann",)
    with pytest.raises(NotNow, match="for production already; nothing changed"):
        ann.approve(V1)
    with pytest.raises(GateRefused, match="1 of 2 approvals: ann"):
        bob.promote(V1, "production")
    assert (bob.approve(V1).who, bob.approve(V2).who) == (("ann", "bob"), ("bob",))
    done = ann.promote(V1, "production")
    assert done.verdict
    (check,) = [one for one in done.verdict.checks if one.metric == "approvals"]
    assert (check.outcome, check.reason) == ("pass", "2 of 2 approvals: ann, bob")


def test_an_approval_and_a_tick_have_the_whole_reason(registry: Registry) -> None:
    longest = "\U0001f331" * 4096
    as_person(registry, "ann").approve(V1, reason=longest)
    registry.checklist(V1, ChecklistOptions(tick=("team-told",)), reason=longest)
    ledger, version = registry.wiring.ledger, VersionName.parse(V1)
    assert [one.reason for one in (*ledger.approvals(version), *ledger.ticks(version))] == [longest, longest]
    with pytest.raises(BadInput, match="longer than 4096"):
        registry.checklist(V1, ChecklistOptions(tick=("team-told",)), reason=longest + "x")


def test_what_stands_in_a_folder_inside_is_no_approval(registry: Registry) -> None:
    as_person(registry, "ann").approve(V1)
    (true,) = registry.wiring.ledger.approvals(VersionName.parse(V1))
    forged = true.model_copy(update={"who": "bob"})
    folder = layout.approval(registry.model, V1)
    # Where a role may write that may write to `models/*/operations/*`: AWS's `*` goes past slashes.
    registry.store.create(f"{folder}operations/{forged.sha256}.json", forged.to_bytes())
    with pytest.raises(GateRefused, match="1 of 2 approvals: ann"):
        registry.promote(V1, "production")
    registry.store.create(f"{layout.forgotten(registry.model)}operations/x.json", b"{}")
    assert registry.collect_garbage(dry_run=True)


def test_another_spelling_is_no_other_person(registry: Registry) -> None:
    as_person(registry, "Ann Lee").approve(V1)
    for who in ("ann lee", " Ann  Lee", "\uff21nn Lee"):
        with pytest.raises(NotNow, match="for production already"):
            as_person(registry, who).approve(V1)
    with pytest.raises(BadInput, match="a person's name"):
        as_person(registry, " ").approve(V1)
    approval = registry.wiring.ledger.approvals(VersionName.parse(V1))[0]
    twice = [approval, approval.model_copy(update={"who": "ANN LEE"})]
    assert approvers(twice, "production", approval.content_sha256) == ("ANN LEE",)
    forged = approval.model_copy(update={"who": "eve\n  accuracy  0.99  ok"})
    assert approvers([forged], "production", approval.content_sha256) == ("eve accuracy 0.99 ok",)


def test_an_approval_is_for_one_content_and_channel(registry: Registry) -> None:
    registry.approve(V1, "staging")
    (approval,) = registry.wiring.ledger.approvals(VersionName.parse(V1))
    assert approvers([approval], "staging", approval.content_sha256) == (registry.settings.who,)
    assert approvers([approval], "production", approval.content_sha256) == ()
    assert approvers([approval], "staging", "f" * 64) == ()


def test_a_dry_run_approves_nothing(registry: Registry) -> None:
    before = listing(registry)
    assert registry.approve(V1, dry_run=True).needed == 2
    assert listing(registry) == before
    with pytest.raises(VersionNotFound):
        registry.approve("v9.0.0")


def test_a_damaged_approval_does_not_count_and_is_found(registry: Registry) -> None:
    registry.approve(V1)
    (key,) = [info.key for info in registry.store.list(layout.approval(registry.model, V1))]
    registry.store.overwrite(key, b"{}")
    with pytest.raises(GateRefused, match="0 of 2"):
        registry.promote(V1, "production")
    assert key in ulora("verify", "--all", "--model", registry.model, "--store", registry.settings.store).out


def test_the_command_says_how_many_are_missing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    monkeypatch.setenv("ULORA_POLICY", str(registry.settings.policy))
    monkeypatch.setenv("ULORA_WHO", "ann")
    assert "by ann: 1 of 2 that the policy asks for" in ulora("approve", V1, "--reason", "fine").out
    complains(ulora("approve", V1), 4, "ann has approved")
    assert "ann (" not in ulora("approve", V1, "--channel", "staging").out
    assert "approvals" in ulora("promote", V1, "--channel", "production").out


def frozen(begin: timedelta, end: timedelta) -> str:
    now = datetime.now(UTC)
    window = f"{{from: {(now + begin).isoformat()}, to: {(now + end).isoformat()}, why: harvest}}"
    return f"format: 1\nchannels: {{staging: {{}}, production: {{freeze: [{window}]}}}}\n"


def test_in_a_freeze_nothing_is_promoted_but_by_force(registry: Registry, tmp_path: Path) -> None:
    open_times = under(registry, tmp_path, "format: 1\nchannels: {staging: {}, production: {}}\n")
    open_times.promote(V1, "production")
    closed = under(registry, tmp_path, frozen(-timedelta(hours=1), timedelta(hours=1)))
    before = listing(closed)
    with pytest.raises(NotNow, match=r"production is frozen until .*: harvest; nothing changed"):
        closed.promote(V2, "production")
    assert listing(closed) == before
    assert closed.promote(V1, "production").action == "none"
    planned = closed.promote(V2, "production", PromoteOptions(force=True), reason="incident 7", dry_run=True)
    assert [note for note in planned.notes if "would be overruled by force" in note]
    assert listing(closed) == before
    closed.promote(V2, "staging")
    done = closed.promote(V2, "production", PromoteOptions(force=True), reason="incident 7")
    assert [note for note in done.notes if "was overruled by force" in note]
    assert closed.rollback().version == V1


@pytest.mark.parametrize("hours", [(-2, -1), (1, 2)])
def test_before_and_after_a_freeze_promotions_go_on(registry: Registry, tmp_path: Path, hours: tuple[int, int]) -> None:
    asked = under(registry, tmp_path, frozen(timedelta(hours=hours[0]), timedelta(hours=hours[1])))
    assert asked.promote(V1, "production").changed
