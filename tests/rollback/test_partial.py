"""Partial rollback on a real store: what is composed, what is refused, and that two people get the same version."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.errors import BadInput, ChannelMoved, MissingBlob, NothingToRollBackTo, NotNow, OutcomeUnknown
from registry.names import VersionName
from registry.store import layout
from registry.usecases.options import CanaryOptions
from registry.versions.compose import component_files
from registry.versions.manifest import BackboneRef, Component, FileEntry, Manifest
from tests.servers.proxy import Proxy, refuse, swallow_reply
from tests.support.registries import listing, open_registry
from tests.support.run_ulora import ulora

TOMATO, POTATO = "adapters/tomato", "adapters/potato"
DINOV2, DINOV3 = "2" * 64, "3" * 64
SQUARE, WIDE = "5" * 64, "6" * 64


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """Production served v1.0.0-a, now v2.0.0-b; each has a tomato and a potato of its own."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    for name in ("v1.0.0-a", "v2.0.0-b"):
        make(registry, name)
        registry.promote(name, "production")
    return registry


def make(
    registry: Registry,
    name: str,
    *,
    components: Sequence[str] = (TOMATO, POTATO, "config"),
    backbone: str = DINOV3,
    preprocessing: str = SQUARE,
    silent: Sequence[str] = (),
    like: str = "",
) -> None:
    """Create a version whose components have a file each; what is `silent` does not say what it requires.

    With `like` its potato is another version's.
    """
    requires = {"backbone": backbone, "preprocessing": preprocessing}
    files = []
    for component in sorted(components):
        body = f"{component} of {like if like and component == POTATO else name}".encode()
        files.append(FileEntry(path=f"{component}/weights", size=len(body), sha256=registry.blobs.put(body)))
    manifest = Manifest.make(
        model=registry.model, version=name, flavor="empty", timestamp="2026-11-21T12:00:00Z", files=files,
        backbone=BackboneRef(family="dinov2" if backbone == DINOV2 else "dinov3", sha256=backbone, name="tiny"),
        components={
            component: Component(requires=requires if component.startswith("adapters/") else {})
            if component not in silent
            else Component()
            for component in components
        },
    )  # fmt: skip
    registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))


def now(registry: Registry) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What production serves, its stack, and what is withdrawn."""
    head = registry.channel("production").head()
    assert head
    assert head.stable
    return head.stable.version, tuple(pointer.version for pointer in head.stack), head.withdrawn


def parts(registry: Registry, version: str) -> dict[str, str]:
    """Which version each component of a version is from, by its bytes."""
    files = registry.manifest(version).files
    return {file.path.removesuffix("/weights"): registry.blobs.read(file.sha256).split()[-1].decode() for file in files}


def test_only_the_named_component_changes(registry: Registry) -> None:
    change = registry.rollback(only=[TOMATO], reason="flags healthy leaves")
    assert (change.action, change.changed, change.previous) == ("rollback", True, "v2.0.0-b")
    assert change.version.startswith("v2.0.0-b.p")
    assert change.notes == ("v2.0.0-b with adapters/tomato of v1.0.0-a",)
    assert parts(registry, change.version) == {TOMATO: "v1.0.0-a", POTATO: "v2.0.0-b", "config": "v2.0.0-b"}
    assert now(registry) == (change.version, ("v1.0.0-a",), ("v2.0.0-b",))
    record = registry.history()[0]
    assert (record.action, record.verdict, record.reason) == ("rollback", None, "flags healthy leaves")


def test_a_composed_version_names_its_sources_and_its_content(registry: Registry) -> None:
    composed = registry.manifest(registry.rollback(only=[TOMATO, POTATO]).version)
    live, prior = registry.manifest("v2.0.0-b"), registry.manifest("v1.0.0-a")
    assert composed.version == f"v2.0.0-b.p{composed.content_sha256[:8]}"
    assert composed.provenance["composed"] == {
        "live": {"version": "v2.0.0-b", "content_sha256": live.content_sha256},
        "components": {
            name: {"version": "v1.0.0-a", "content_sha256": prior.content_sha256} for name in (POTATO, TOMATO)
        },
    }
    assert composed.parent
    assert composed.parent.version == "v2.0.0-b"
    assert composed.files_modified == (f"{POTATO}/weights", f"{TOMATO}/weights")


def test_no_file_is_uploaded_and_only_s3_is_used(registry: Registry, tmp_path: Path, dead_address: str) -> None:
    other = open_registry(
        tmp_path / "other", registry.settings.store, registry.model, tracking_uri=dead_address, who="someone else"
    )
    before = listing(registry)
    version = other.rollback(only=[TOMATO]).version
    pointer = registry.bindings.get(VersionName.parse(version)).pointer
    assert sorted(listing(registry).keys() - before.keys()) == sorted(
        [
            layout.blob(pointer.manifest_sha256),
            layout.record(registry.model, "production", 3),
            layout.version(registry.model, version),
        ]
    )
    assert registry.verify(version, read_data=True).ok


def test_a_rollback_after_it_goes_to_the_version_before(registry: Registry) -> None:
    composed = registry.rollback(only=[TOMATO]).version
    assert registry.rollback(options=RollbackOptions(leave=composed)).version == "v1.0.0-a"
    assert now(registry) == ("v1.0.0-a", (), ("v2.0.0-b", composed))


def test_the_version_left_can_be_promoted_and_rolled_back_again(registry: Registry) -> None:
    composed = registry.rollback(only=[TOMATO]).version
    registry.promote("v2.0.0-b", "production", PromoteOptions(force=True), reason="it was the camera")
    assert now(registry) == ("v2.0.0-b", (composed, "v1.0.0-a"), ())
    assert registry.rollback(only=[TOMATO]).version == composed
    assert now(registry) == (composed, ("v1.0.0-a",), ("v2.0.0-b",))


def test_a_withdrawn_composed_version_needs_a_forced_promotion(registry: Registry) -> None:
    composed = registry.rollback(only=[TOMATO]).version
    registry.rollback(options=RollbackOptions(leave=composed))
    registry.promote("v2.0.0-b", "production", PromoteOptions(force=True), reason="try again")
    with pytest.raises(NotNow, match=f"{composed}, which was withdrawn") as refused:
        registry.rollback(only=[TOMATO])
    assert "--force" in refused.value.hint
    assert now(registry)[0] == "v2.0.0-b"


def test_the_same_one_twice_is_one(registry: Registry) -> None:
    options = RollbackOptions(leave="v2.0.0-b")
    first, second, bare = (
        registry.rollback(only=[TOMATO], options=options),
        registry.rollback(only=[TOMATO], options=options),
        registry.rollback(only=[TOMATO]),
    )
    assert [first.changed, second.changed, bare.changed] == [True, False, False]
    assert second.version == bare.version == first.version
    assert "already done by a test: rollback" in bare.notes[0]
    assert len(registry.history()) == 3


def test_two_people_at_once_get_one_version_and_one_record(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    slow = open_registry(
        tmp_path / "slow", registry.settings.store, registry.model, endpoint_url=proxy.url, who="the slow one"
    )
    quick = []

    def first_the_other(exchange: object) -> None:
        quick.append(registry.rollback(only=[TOMATO]))
        exchange.send(exchange.forward())  # type: ignore[attr-defined]

    proxy.next(first_the_other, method="PUT", containing="/channels/")
    late = slow.rollback(only=[TOMATO])
    assert quick[0].changed
    assert not late.changed
    assert late.version == quick[0].version
    assert "already done by a test" in late.notes[0]
    assert len(registry.history()) == 3


def test_two_different_partial_rollbacks_at_once_are_told_apart(
    registry: Registry, proxy: Proxy, tmp_path: Path
) -> None:
    slow = open_registry(tmp_path / "slow", registry.settings.store, registry.model, endpoint_url=proxy.url)
    quick = []

    def first_the_other(exchange: object) -> None:
        quick.append(registry.rollback(only=[TOMATO]).version)
        exchange.send(exchange.forward())  # type: ignore[attr-defined]

    proxy.next(first_the_other, method="PUT", containing="/channels/")
    with pytest.raises(ChannelMoved, match=r"adapters/potato is not that of v1\.0\.0-a; nothing changed") as moved:
        slow.rollback(only=[POTATO])
    assert moved.value.hint.startswith(f"`--from {quick[0]}`")
    both = slow.rollback(only=[POTATO], options=RollbackOptions(leave=quick[0])).version
    assert parts(registry, both) == {TOMATO: "v1.0.0-a", POTATO: "v1.0.0-a", "config": "v2.0.0-b"}
    assert not registry.rollback(only=[TOMATO]).changed, "done two rollbacks ago is done"


def test_an_equal_component_is_not_rolled_back(registry: Registry) -> None:
    make(registry, "v3.0.0", like="v2.0.0-b")
    registry.promote("v3.0.0", "production")
    for options in (RollbackOptions(), RollbackOptions(leave="v3.0.0")):
        with pytest.raises(NothingToRollBackTo, match=r"adapters/potato of v3\.0\.0 is the same in v2\.0\.0-b") as same:
            registry.rollback(only=[POTATO], options=options)
        assert "--to VERSION" in same.value.hint
    assert registry.rollback(only=[POTATO], options=RollbackOptions(to="v1.0.0-a")).changed


def test_a_partial_rollback_right_after_another_is_refused(registry: Registry) -> None:
    make(registry, "v3.0.0")
    registry.promote("v3.0.0", "production")
    registry.rollback()
    with pytest.raises(NotNow, match="a test rolled production back") as refused:
        registry.rollback(only=[TOMATO])
    assert "--again" in refused.value.hint
    assert registry.rollback(only=[TOMATO], options=RollbackOptions(again=True)).changed


def test_what_was_left_by_a_whole_rollback_is_left(registry: Registry) -> None:
    seen = registry.channel("production").head()
    assert seen
    registry.rollback()
    for options in (RollbackOptions(leave="v2.0.0-b"), RollbackOptions(expected=seen.generation)):
        change = registry.rollback(only=[TOMATO], options=options)
        assert (change.changed, change.version) == (False, "v1.0.0-a")


def test_to_names_another_version_of_the_stack(registry: Registry) -> None:
    make(registry, "v3.0.0")
    registry.promote("v3.0.0", "production")
    assert (
        parts(registry, registry.rollback(only=[TOMATO], options=RollbackOptions(to="v1.0.0-a")).version)[TOMATO]
        == "v1.0.0-a"
    )
    with pytest.raises(NothingToRollBackTo, match=r"v3\.0\.0 is not on the stack"):
        registry.rollback(only=[POTATO], options=RollbackOptions(to="v3.0.0"))


def test_a_promotion_meanwhile_is_not_rolled_back_unseen(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    make(registry, "v3.0.0")
    slow = open_registry(tmp_path / "slow", registry.settings.store, registry.model, endpoint_url=proxy.url)

    def first_the_other(exchange: object) -> None:
        registry.promote("v3.0.0", "production")
        exchange.send(exchange.forward())  # type: ignore[attr-defined]

    proxy.next(first_the_other, method="PUT", containing="/channels/")
    with pytest.raises(ChannelMoved, match=r"promote to v3\.0\.0"):
        slow.rollback(only=[TOMATO], options=RollbackOptions(to="v1.0.0-a"))
    assert now(registry)[0] == "v3.0.0"


def test_while_a_canary_runs_it_is_refused(registry: Registry) -> None:
    make(registry, "v3.0.0")
    registry.canary.start("v3.0.0", options=CanaryOptions(percent=5))
    with pytest.raises(NotNow, match=r"v3\.0\.0 is on trial") as refused:
        registry.rollback(only=[TOMATO])
    assert "`ulora canary abort --channel production` ends the trial" in refused.value.hint


@pytest.mark.parametrize("silent", [(), (TOMATO,)])
def test_a_component_for_another_backbone_is_refused(
    store_url: str, model: str, tmp_path: Path, silent: Sequence[str]
) -> None:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    make(registry, "v1.0.0", backbone=DINOV2, silent=silent)
    make(registry, "v2.0.0", backbone=DINOV3)
    for name in ("v1.0.0", "v2.0.0"):
        registry.promote(name, "production")
    before = listing(registry)
    with pytest.raises(BadInput, match=r"adapters/tomato of v1\.0\.0 was made for another .*: v2\.0\.0 runs on"):
        registry.rollback(only=[TOMATO])
    assert listing(registry) == before


def test_a_component_needs_its_own_preprocessing(registry: Registry) -> None:
    make(registry, "v3.0.0", preprocessing=WIDE)
    registry.promote("v3.0.0", "production")
    with pytest.raises(BadInput, match=r"adapters/tomato of v2\.0\.0-b requires another preprocessing .* v3\.0\.0 has"):
        registry.rollback(only=[TOMATO])
    with pytest.raises(BadInput, match=r"adapters/potato of v3\.0\.0 requires another preprocessing .* v2\.0\.0-b has"):
        registry.rollback(only=[TOMATO, "config"])
    assert registry.rollback(only=[TOMATO, POTATO, "config"]).changed


@pytest.mark.parametrize(
    ("only", "says"),
    [
        ("backbone", "can't be replaced alone"),
        ("tomato", "no component 'tomato'"),
        ("adapters/onion", "v1.0.0-a has no"),
    ],
)
def test_a_component_that_can_t_be_replaced_alone_is_refused(registry: Registry, only: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as refused:
        registry.rollback(only=[only])
    assert refused.value.hint
    assert now(registry)[0] == "v2.0.0-b"


def test_a_component_that_the_live_version_lost_comes_back(registry: Registry) -> None:
    make(registry, "v3.0.0", components=(POTATO, "config"))
    registry.promote("v3.0.0", "production")
    composed = registry.manifest(registry.rollback(only=[TOMATO]).version)
    assert composed.files_added == (f"{TOMATO}/weights",)
    assert component_files(composed, POTATO) == component_files(registry.manifest("v3.0.0"), POTATO)


def test_without_an_earlier_version_it_is_refused(registry: Registry) -> None:
    registry.rollback()
    with pytest.raises(NotNow, match="a test rolled production back"):
        registry.rollback(only=[TOMATO])
    with pytest.raises(NothingToRollBackTo):
        registry.rollback(only=[TOMATO], options=RollbackOptions(again=True))
    with pytest.raises(NothingToRollBackTo):
        registry.rollback("staging", only=[TOMATO])


def test_a_lost_blob_is_found_before_anything_is_written(registry: Registry) -> None:
    registry.store.delete(layout.blob(component_files(registry.manifest("v1.0.0-a"), TOMATO)[0].sha256))
    before = listing(registry)
    with pytest.raises(MissingBlob, match="adapters/tomato/weights"):
        registry.rollback(only=[TOMATO])
    assert listing(registry) == before


@pytest.mark.parametrize("step", ["/blobs/", "/versions/", "/channels/"])
def test_a_lost_reply_at_any_write_does_not_change_the_outcome(
    registry: Registry, proxy: Proxy, tmp_path: Path, step: str
) -> None:
    shaky = open_registry(tmp_path / "shaky", registry.settings.store, registry.model, endpoint_url=proxy.url)
    proxy.next(swallow_reply, method="PUT", containing=step)
    change = shaky.rollback(only=[TOMATO])
    assert change.changed
    assert now(registry) == (change.version, ("v1.0.0-a",), ("v2.0.0-b",))
    assert len(registry.history()) == 3


@pytest.mark.acceptance
def test_an_interrupt_after_the_binding_is_completed_by_a_rerun(
    registry: Registry, proxy: Proxy, tmp_path: Path
) -> None:
    shaky = open_registry(tmp_path / "shaky", registry.settings.store, registry.model, endpoint_url=proxy.url)
    shaky.store._writer.deadline = 0.0
    proxy.next(refuse, containing="/channels/production/", method="PUT", times=100)
    with pytest.raises(OutcomeUnknown):
        shaky.rollback(only=[TOMATO])
    proxy.clear()
    bound = sorted(map(str, registry.bindings.names()))
    assert len(bound) == 3
    before = listing(registry)
    change = shaky.rollback(only=[TOMATO])
    assert change.changed
    assert change.version in bound
    assert sorted(listing(registry).keys() - before.keys()) == [layout.record(registry.model, "production", 3)]


def test_a_dry_run_shows_the_composition_and_writes_nothing(registry: Registry) -> None:
    before = listing(registry)
    planned = registry.rollback(only=[TOMATO], dry_run=True)
    assert (planned.changed, planned.previous) == (False, "v2.0.0-b")
    assert listing(registry) == before
    assert registry.rollback(only=[TOMATO]).version == planned.version


def test_from_the_command_line(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    done = ulora("rollback", "--only", TOMATO, "--only", POTATO, "--wait", "0", "--reason", "both are bad")
    assert done.code == 0, done
    assert "went from v2.0.0-b to v2.0.0-b.p" in done.out
    assert "note: v2.0.0-b with adapters/potato of v1.0.0-a; adapters/tomato of v1.0.0-a" in done.err
    again = ulora("rollback", "--only", TOMATO, "--json")
    assert (again.code, again.document["action"]) == (0, "none")
    for words in (("--only", "backbone"), ("--only", ""), ("--from", ""), ("--to", " ")):
        assert ulora("rollback", *words, "--json").error["error"] == "BadInput"
