"""Rollback on a real store: the resulting state, refusals, and that a repetition is one rollback."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import RollbackOptions
from registry.channels.record import Author, Canary, ChannelPosition, promoted
from registry.errors import BadInput, BadManifest, NotFound, NothingToRollBackTo, NotNow, VersionNotFound
from registry.names import VersionName
from registry.store import layout
from registry.store.objects import ObjectStore
from registry.versions.pointer import Pointer
from tests.support.echo_releases import Shop
from tests.support.registries import bind, open_registry

AGAIN = RollbackOptions(again=True)


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """Versions v1.0.0 to v4.0.0, none of them promoted."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    bind(registry, "v1.0.0", "v2.0.0", "v3.0.0", "v4.0.0")
    return registry


def promote(registry: Registry, *numbers: int) -> None:
    for number in numbers:
        registry.promote(f"v{number}.0.0", "production")


def now(registry: Registry) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """What production serves, its stack, and what is withdrawn."""
    head = registry.channel("production").head()
    assert head
    stack = tuple(pointer.version for pointer in head.stack)
    return head.stable.version if head.stable else None, stack, head.withdrawn


def try_out(registry: Registry, name: str) -> None:
    """Start a trial, as a later release will: a record with a canary."""
    log = registry.channel("production")
    head = log.head()
    assert head
    pointer = registry.bindings.get(VersionName.parse(name)).pointer
    record = promoted(ChannelPosition(registry.model, "production", head), pointer, Author("a test"), None)
    canary = Canary(**pointer.model_dump(), weight=5.0)
    unchanged = {"stable": head.stable, "stack": head.stack}
    log.commit(record.model_copy(update={"action": "canary", "canary": canary, **unchanged}))


def test_a_rollback_goes_to_the_version_before(registry: Registry) -> None:
    promote(registry, 1, 2, 3)
    change = registry.rollback(reason="errors")
    assert (change.version, change.previous, change.changed, change.generation) == ("v2.0.0", "v3.0.0", True, 4)
    assert (change.reason, change.who, change.action) == ("errors", "a test", "rollback")
    assert now(registry) == ("v2.0.0", ("v1.0.0",), ("v3.0.0",))


def test_one_two_one_then_two_rollbacks(registry: Registry) -> None:
    promote(registry, 1, 2, 1)
    assert registry.rollback().version == "v2.0.0"
    with pytest.raises(NothingToRollBackTo, match="nothing changed") as error:
        registry.rollback(options=AGAIN)
    assert error.value.exit_code == 5
    assert now(registry) == ("v2.0.0", (), ("v1.0.0",))
    assert len(registry.history()) == 4


def test_the_same_rollback_twice_is_one(registry: Registry) -> None:
    promote(registry, 1, 2, 3)
    options = RollbackOptions(leave="v3.0.0")
    first, second = (registry.rollback(reason="errors", options=options) for _ in range(2))
    assert (first.changed, second.changed) == (True, False)
    assert (first.version, second.version) == ("v2.0.0", "v2.0.0")
    assert "already done by a test: rollback" in second.notes[0]
    assert len(registry.history()) == 4


def test_a_rollback_right_after_another_is_refused_with_a_hint(registry: Registry) -> None:
    promote(registry, 1, 2, 3)
    registry.rollback()
    with pytest.raises(NotNow, match="a test rolled production back") as error:
        registry.rollback()
    assert error.value.exit_code == 4
    assert "--from v2.0.0" in error.value.hint
    assert "--again" in error.value.hint
    assert now(registry)[0] == "v2.0.0"
    assert registry.rollback(options=RollbackOptions(leave="v2.0.0")).version == "v1.0.0"


def test_again_goes_back_one_more(registry: Registry) -> None:
    promote(registry, 1, 2, 3)
    registry.rollback()
    assert registry.rollback(options=AGAIN).version == "v1.0.0"
    assert now(registry) == ("v1.0.0", (), ("v3.0.0", "v2.0.0"))


def test_a_rollback_after_a_promotion_is_not_a_repetition(registry: Registry) -> None:
    promote(registry, 1, 2)
    registry.rollback()
    promote(registry, 3)
    assert registry.rollback().version == "v1.0.0"


def test_a_rollback_to_a_version_withdraws_all_above_it(registry: Registry) -> None:
    promote(registry, 1, 2, 3, 4)
    options = RollbackOptions(to="v2.0.0")
    assert registry.rollback(options=options).changed
    assert not registry.rollback(options=options).changed
    assert now(registry) == ("v2.0.0", ("v1.0.0",), ("v4.0.0", "v3.0.0"))
    with pytest.raises(NothingToRollBackTo, match=r"v4\.0\.0 is not on the stack"):
        registry.rollback(options=RollbackOptions(to="v4.0.0"))


def test_from_a_version_that_was_never_served_is_not_found(registry: Registry) -> None:
    promote(registry, 1, 2)
    with pytest.raises(VersionNotFound, match=r"production does not serve v4\.0\.0") as error:
        registry.rollback(options=RollbackOptions(leave="v4.0.0"))
    assert "v2.0.0" in error.value.hint
    assert now(registry)[0] == "v2.0.0"


def test_expected_means_what_that_generation_served(registry: Registry) -> None:
    promote(registry, 1, 2)
    seen = registry.channel("production").head()
    assert seen
    promote(registry, 3)
    late = registry.rollback(options=RollbackOptions(expected=seen.generation))
    assert not late.changed  # v2.0.0, which generation 2 served, had been left already
    assert registry.rollback(options=RollbackOptions(expected=3)).version == "v2.0.0"
    assert not registry.rollback(options=RollbackOptions(expected=3)).changed
    with pytest.raises(NotFound, match="no generation 99, the newest is 4"):
        registry.rollback(options=RollbackOptions(expected=99))


def test_a_channel_without_an_earlier_version_refuses_rollback(registry: Registry) -> None:
    with pytest.raises(NothingToRollBackTo):
        registry.rollback()
    promote(registry, 1)
    with pytest.raises(NothingToRollBackTo):
        registry.rollback()
    assert now(registry) == ("v1.0.0", (), ())


def test_a_rollback_ends_a_trial_and_leaves_stable(registry: Registry) -> None:
    promote(registry, 1, 2)
    try_out(registry, "v3.0.0")
    change = registry.rollback()
    assert (change.action, change.version, change.previous) == ("abort", "v2.0.0", "v3.0.0")
    assert now(registry) == ("v2.0.0", ("v1.0.0",), ("v3.0.0",))
    with pytest.raises(NotNow):
        registry.rollback()


def test_with_stable_a_rollback_leaves_trial_and_stable(registry: Registry) -> None:
    promote(registry, 1, 2)
    try_out(registry, "v3.0.0")
    assert registry.rollback(options=RollbackOptions(leave_stable=True)).version == "v1.0.0"
    assert now(registry) == ("v1.0.0", (), ("v2.0.0", "v3.0.0"))


def test_from_stable_during_a_trial_leaves_stable_too(registry: Registry) -> None:
    promote(registry, 1, 2)
    try_out(registry, "v3.0.0")
    assert registry.rollback(options=RollbackOptions(leave="v2.0.0")).version == "v1.0.0"


def test_a_dry_run_says_what_would_happen_and_writes_nothing(registry: Registry) -> None:
    promote(registry, 1, 2)
    change = registry.rollback(dry_run=True)
    assert (change.version, change.previous, change.changed) == ("v1.0.0", "v2.0.0", False)
    assert now(registry) == ("v2.0.0", ("v1.0.0",), ())
    assert len(registry.history()) == 2


def test_a_channel_has_a_log_of_its_own(registry: Registry) -> None:
    for number in (1, 2):
        registry.promote(f"v{number}.0.0", "staging")
        registry.promote(f"v{number}.0.0", "drill-7")
    assert registry.rollback("drill-7").version == "v1.0.0"
    head = registry.channel("staging").head()
    assert head
    assert head.stable
    assert head.stable.version == "v2.0.0"
    with pytest.raises(BadInput):
        registry.rollback("prod")


def test_it_needs_no_mlflow_and_no_blob(
    registry: Registry, store_url: str, model: str, tmp_path: Path, dead_address: str
) -> None:
    promote(registry, 1, 2)
    for info in registry.store.list(layout.BLOBS_PREFIX):
        registry.store.delete(info.key)
    other = open_registry(tmp_path / "other", store_url, model, tracking_uri=dead_address)
    assert other.rollback().version == "v1.0.0"
    assert other.catalog.connection.uri == dead_address


def test_the_record_of_a_rollback_links_to_the_one_before(store_url: str, model: str, tmp_path: Path) -> None:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    before = shop.channel().head()
    record = shop.rollback()
    assert before
    assert record.previous == before.sha256
    assert [one.generation for one in shop.channel().history()] == [3, 2, 1]
    stored = shop.store.get(layout.record(model, "production", 3)).body
    assert stored == record.to_bytes()


def test_a_stack_entry_that_is_no_version_is_named(registry: Registry) -> None:
    promote(registry, 1, 2)
    log = registry.channel("production")
    head = log.head()
    assert head
    false = Pointer(version="../../evil", manifest_sha256="0" * 64)
    changes = {"generation": 3, "nonce": "1" * 32, "previous": head.sha256, "stack": (false, *head.stack)}
    log.commit(head.model_copy(update=changes))
    for options in (RollbackOptions(), RollbackOptions(to="../../evil")):
        with pytest.raises(BadManifest, match=r"'../../evil', which is on the stack .* is not a version's name") as bad:
            registry.rollback(options=options)
        assert "--to v1.0.0" in bad.value.hint
    assert registry.rollback(options=RollbackOptions(to="v1.0.0")).version == "v1.0.0"
