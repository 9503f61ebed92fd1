"""`promote` on a real store: gates, evidence of a past, wholeness, and what a refusal leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.errors import BadInput, ChannelMoved, GateRefused, MissingBlob, Overwritten, VersionNotFound
from registry.evidence.verdict import Verdict
from registry.store import layout
from registry.usecases.options import CreateOptions
from tests.support.registries import bind, create, file_of, flip_a_byte, listing, open_registry, rebind

WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    return registry


def under(registry: Registry, folder: Path, policy: str | None) -> Registry:
    """The same registry under another policy; None is the one that ships."""
    path = None
    if policy is not None:
        path = folder / "other-policy.yaml"
        path.write_text(policy)
    return Registry(settings=replace(registry.settings, policy=path))


def kept_verdicts(registry: Registry) -> list[Verdict]:
    folder = f"models/{registry.model}/verdicts/"
    stems = [key.removeprefix(folder).removesuffix(".json") for key in listing(registry) if key.startswith(folder)]
    return [registry.wiring.ledger.verdict(stem) for stem in stems]


def test_a_promotion_moves_the_log_and_keeps_its_verdict(registry: Registry) -> None:
    bind(registry, "v1.0.0", "v2.0.0")
    first = registry.promote("v1.0.0", "staging", reason="try it")
    second = registry.promote("v2.0.0", "staging")
    assert (first.changed, first.previous, first.generation, first.reason) == (True, None, 1, "try it")
    assert (second.version, second.previous, second.generation) == ("v2.0.0", "v1.0.0", 2)
    newest, oldest = registry.history("staging")
    assert newest.verdict
    assert registry.wiring.ledger.verdict(newest.verdict).outcome == "pass"
    assert oldest.reason == "try it"


def test_what_is_stable_already_is_left_alone(registry: Registry) -> None:
    bind(registry, "v1.0.0")
    registry.promote("v1.0.0")
    before = listing(registry)
    again = registry.promote("v1.0.0")
    assert (again.changed, again.notes) == (False, ("v1.0.0 is stable in staging already",))
    assert listing(registry) == before


def test_a_refusal_names_the_rules_and_keeps_the_verdict(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    strict = under(registry, tmp_path, None)
    with pytest.raises(GateRefused, match=r"staging refuses v1\.0\.0 .*accuracy") as refused:
        strict.promote("v1.0.0", "staging")
    assert refused.value.exit_code == 3
    assert refused.value.hint.startswith("`ulora measure v1.0.0 --data DIR` measures all that is missing; `--force")
    (kept,) = kept_verdicts(registry)
    assert isinstance(refused.value.verdict, Verdict)
    assert kept.sha256 == refused.value.verdict.sha256
    assert {check.outcome for check in kept.checks} == {"fail"}
    assert registry.channel("staging").head() is None


def test_a_snapshot_is_promoted_by_rules_of_its_flavor(registry: Registry, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "read.me").write_text("a snapshot")
    registry.create("v1.0.0", options=CreateOptions(project=project), offline=True)
    asks = r"a snapshot can't be measured; a policy with `by_flavor: \{files: \[\]\}`"
    with pytest.raises(GateRefused, match=asks) as refused:
        under(registry, tmp_path, None).promote("v1.0.0", "staging")
    assert refused.value.hint.startswith("`--force")
    asked = "{defaults: [{metric: accuracy}], by_flavor: {files: []}}"
    own = under(registry, tmp_path, f"format: 1\nchannels: {{staging: {asked}, production: {asked}}}\n")
    assert own.promote("v1.0.0", "staging").changed
    assert own.promote("v1.0.0", "production").changed


def test_a_forced_promotion_needs_a_reason_and_says_so_for_ever(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    strict = under(registry, tmp_path, None)
    for reason in ("", "  "):
        with pytest.raises(BadInput, match="needs a reason"):
            strict.promote("v1.0.0", "production", PromoteOptions(force=True), reason=reason)
    change = strict.promote("v1.0.0", "production", PromoteOptions(force=True), reason="incident 42")
    assert change.verdict
    assert (change.verdict.outcome, change.verdict.forced) == ("fail", "incident 42")
    (record,) = registry.history()
    assert record.reason == "incident 42"
    assert registry.wiring.ledger.verdict(record.verdict or "").forced == "incident 42"


def test_a_reason_that_is_too_long_is_refused_before_any_write(registry: Registry, tmp_path: Path) -> None:
    bind(registry, "v1.0.0")
    before = listing(registry)
    strict = under(registry, tmp_path, None)
    with pytest.raises(BadInput, match="reason"):
        strict.promote("v1.0.0", "production", PromoteOptions(force=True), reason="x" * 4097)
    assert listing(registry) == before
    change = strict.promote("v1.0.0", "production", PromoteOptions(force=True), reason="x" * 4096)
    assert change.verdict
    assert registry.wiring.ledger.verdict(change.verdict.sha256).forced
    assert registry.history()[0].reason == "x" * 4096


def test_production_asks_for_a_past_in_staging_that_still_stands(registry: Registry, tmp_path: Path) -> None:
    bind(registry, "v0.0.0", "v1.0.0", "v2.0.0")
    asks = under(registry, tmp_path, "format: 1\nchannels: {staging: {}, production: {requires: staging}}\n")
    with pytest.raises(GateRefused, match="staging"):
        asks.promote("v1.0.0", "production")
    asks.promote("v0.0.0", "staging")
    asks.promote("v1.0.0", "staging")
    assert asks.promote("v1.0.0", "production").changed
    asks.promote("v2.0.0", "staging")
    asks.rollback("staging")
    with pytest.raises(GateRefused, match="withdrawn"):
        asks.promote("v2.0.0", "production")


def test_a_pass_whose_record_lost_its_race_is_no_past(registry: Registry, tmp_path: Path) -> None:
    # Written before the commit, as by a promoter that died there or lost.
    bind(registry, "v1.0.0", "v2.0.0")
    asks = under(registry, tmp_path, "format: 1\nchannels: {staging: {}, production: {requires: staging}}\n")
    asks.promote("v2.0.0", "staging")
    asks.promote("v1.0.0", "staging")
    record = asks.history("staging")[0]
    for info in list(registry.store.list(layout.passed(registry.model, "staging", "v1.0.0"))):
        registry.store.delete(info.key)
    content = registry.manifest("v1.0.0").content_sha256
    asks.wiring.ledger.add_pass(record.model_copy(update={"nonce": "0" * 32}), content)
    with pytest.raises(GateRefused, match="staging"):
        asks.promote("v1.0.0", "production")


def test_what_was_withdrawn_comes_back_by_force_only(registry: Registry) -> None:
    bind(registry, "v1.0.0", "v2.0.0")
    registry.promote("v1.0.0", "production")
    registry.promote("v2.0.0", "production")
    registry.rollback(reason="errors")
    with pytest.raises(GateRefused, match=r"v2\.0\.0 was rolled back in production"):
        registry.promote("v2.0.0", "production")
    assert registry.promote("v2.0.0", "production", PromoteOptions(force=True), reason="it was the network").changed
    head = registry.history()[0]
    assert head.withdrawn == ()


def test_a_generation_that_is_not_the_one_seen_is_a_conflict(registry: Registry) -> None:
    bind(registry, "v1.0.0", "v2.0.0")
    registry.promote("v1.0.0", options=PromoteOptions(expected=0))
    with pytest.raises(ChannelMoved, match="at generation 1, not 0: last moved by a test"):
        registry.promote("v2.0.0", options=PromoteOptions(expected=0))
    assert registry.promote("v2.0.0", options=PromoteOptions(expected=1)).changed


def test_a_version_that_is_not_whole_is_refused_by_file(registry: Registry, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    flip_a_byte(registry, "v1.0.0", WEIGHTS)
    with pytest.raises(MissingBlob, match=WEIGHTS):
        registry.promote("v1.0.0")
    registry.store.delete(layout.blob(file_of(registry, "v1.0.0", WEIGHTS).sha256))
    with pytest.raises(MissingBlob, match=WEIGHTS):
        registry.promote("v1.0.0", options=PromoteOptions(force=True), reason="all the same")
    assert registry.channel("staging").head() is None


def test_a_dry_run_judges_and_writes_nothing(registry: Registry, tmp_path: Path) -> None:
    bind(registry, "v1.0.0")
    before = listing(registry)
    change = registry.promote("v1.0.0", "production", dry_run=True)
    assert (change.changed, change.version) == (False, "v1.0.0")
    with pytest.raises(GateRefused):
        under(registry, tmp_path, None).promote("v1.0.0", "production", dry_run=True)
    assert listing(registry) == before


def test_what_does_not_exist_is_not_promoted(registry: Registry) -> None:
    with pytest.raises(VersionNotFound):
        registry.promote("v1.0.0")
    with pytest.raises(BadInput, match="not a channel"):
        registry.promote("v1.0.0", "prod")


def test_with_mlflow_down_the_log_moves_and_a_note_says_so(
    registry: Registry, tmp_path: Path, dead_address: str
) -> None:
    bind(registry, "v1.0.0")
    other = open_registry(tmp_path / "other", registry.settings.store, registry.model, tracking_uri=dead_address)
    change = other.promote("v1.0.0", "production")
    assert change.changed
    assert "MLflow does not show it yet" in change.notes[0]
    assert "ulora reconcile" in change.notes[0]
    assert len(registry.history()) == 1


@pytest.mark.parametrize("uri", ["sqlite:////proc/no/such.db", "nonsense://x", "/proc/no/such"])
def test_no_error_of_mlflow_makes_a_promotion_look_failed(registry: Registry, tmp_path: Path, uri: str) -> None:
    bind(registry, "v1.0.0")
    other = open_registry(tmp_path / "other", registry.settings.store, registry.model, tracking_uri=uri)
    change = other.promote("v1.0.0", "production")
    assert change.changed
    assert "MLflow does not show it yet" in change.notes[0]


@pytest.mark.parametrize("served_by", ["staging", "production"])
def test_a_version_that_was_bound_again_is_not_promoted(registry: Registry, served_by: str) -> None:
    bind(registry, "v1.0.0", "v2.0.0")
    registry.promote("v1.0.0", served_by)
    registry.promote("v2.0.0", served_by)
    digests = rebind(registry, "v1.0.0")
    before = listing(registry)
    for options in (PromoteOptions(), PromoteOptions(force=True)):
        with pytest.raises(Overwritten, match=f"of {served_by} names v1.0.0 with the manifest {digests[0]}") as error:
            registry.promote("v1.0.0", "production", options, reason="all the same")
        assert error.value.exit_code == 6
        assert digests[1] in str(error.value)
    assert listing(registry) == before
    assert registry.promote("v2.0.0", "production").version == "v2.0.0"
