"""Garbage collection forgets what is old and unneeded, deletes only what nothing needs, and never in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.channels.record import Author, ChannelPosition, promoted
from registry.errors import (
    BadInput,
    BadManifest,
    IntegrityError,
    NotNow,
    StoreDenied,
    StoreUnreachable,
    UloraError,
    VersionExists,
    VersionForgotten,
    VersionNotFound,
)
from registry.formats.canonical import sha256
from registry.machine.clock import timestamp
from registry.retention import prune
from registry.retention.forget import RetentionRule
from registry.retention.notes import Pin, pins
from registry.serving.fleet import Heartbeat
from registry.store import gc_marks, layout
from registry.store.objects import ObjectStore
from registry.usecases.options import CanaryOptions
from registry.versions.backbones import MirroredBackbone
from registry.versions.manifest import BackboneRef
from tests.support.registries import bind, create, listing, small_bundle
from tests.support.run_ulora import complains, ulora
from tests.support.store_with_clock import Calendar, has, manifest_of, open_calendar, release

KEEP_ONE = RetentionRule(keep=1)


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    """A registry on a calendar; see `calendar`."""
    registry, calendar = open_calendar(tmp_path, store_url, model)
    calendar.initialise()
    registry.wiring.check_writable()
    return registry


@pytest.fixture
def calendar(registry: Registry) -> Calendar:
    assert isinstance(registry.store, Calendar)
    return registry.store


def serve(registry: Registry, channel: str, *names: str) -> None:
    """Make versions stable in a channel, one after the other, whatever the channel."""
    log = registry.channel(channel)
    for name in names:
        pointer = registry.bindings.get(registry.manifest(name).name).pointer
        log.commit(promoted(ChannelPosition(registry.model, channel, log.head()), pointer, Author("a test"), None))


def beat(registry: Registry, id: str, version: str, *resident: str) -> None:
    """A replica's heartbeat."""
    said = Heartbeat(
        format=1, id=id, host="h", pid=1, device="cpu", state="serving", version=version, generation=1, newest=1,
        rollback_ready=False, resident=resident, error="", when=timestamp(),
    )  # fmt: skip
    registry.store.overwrite(layout.replica(registry.model, "production", id), said.to_bytes())


def pin(registry: Registry, name: str) -> None:
    digest = registry.manifest(name).sha256
    note = Pin(
        format=1,
        model=registry.model,
        version=name,
        manifest_sha256=digest,
        channel="production",
        who="ann",
        when=timestamp(),
    )
    pins(registry.store, registry.model).add(note)


def months_later(
    calendar: Calendar, *, passes: int, registry: Registry, rule: RetentionRule = KEEP_ONE
) -> list[prune.Pruned]:
    """Garbage collections, one every other day, beginning when everything is a month old."""
    done = []
    calendar.days = max(calendar.days, 31)
    for _ in range(passes):
        done.append(registry.collect_garbage(rule).pruned)
        calendar.days += 2
    return done


# --- forget ----------------------------------------------------------------------------------------------------------


def test_what_is_new_or_needed_is_kept_and_says_why(registry: Registry, calendar: Calendar) -> None:
    names = [f"v1.{number}.0" for number in range(12)]
    bind(registry, *names)
    serve(registry, "production", "v1.0.0", "v1.1.0")
    serve(registry, "staging", "v1.2.0")
    serve(registry, "drill-7", "v1.3.0", "v1.4.0")
    beat(registry, "replica-1", "v1.5.0", "v1.5.0", "v1.6.0")
    pin(registry, "v1.7.0")
    calendar.days = 31
    done = registry.collect_garbage(RetentionRule(keep=2))
    assert done.forgotten == ("v1.8.0", "v1.9.0")
    assert {one.version: one.why for one in done.kept} == {
        "v1.0.0": ("on the stack of production",),
        "v1.1.0": ("stable in production",),
        "v1.2.0": ("stable in staging",),
        "v1.3.0": ("on the stack of drill-7",),
        "v1.4.0": ("stable in drill-7",),
        "v1.5.0": ("held by replica replica-1",),
        "v1.6.0": ("held by replica replica-1",),
        "v1.7.0": ("pinned by ann",),
        "v1.10.0": ("among the newest 2",),
        "v1.11.0": ("among the newest 2",),
    }
    again = registry.collect_garbage(RetentionRule(keep=2))
    assert (again.forgotten, again.before) == ((), ("v1.8.0", "v1.9.0"))


def test_what_is_young_is_kept(registry: Registry, calendar: Calendar) -> None:
    bind(registry, "v1.0.0", "v2.0.0")
    calendar.days = 29
    done = registry.collect_garbage(KEEP_ONE)
    assert (done.forgotten, done.kept[0].why) == ((), ("younger than 30d",))
    assert registry.collect_garbage(RetentionRule(keep=1, older_than=timedelta(days=28))).forgotten == ("v1.0.0",)


def test_the_newest_are_those_of_the_highest_names(registry: Registry, calendar: Calendar) -> None:
    bind(registry, "v1.10.0", "v1.9.0", "v1.9.0-ood")
    calendar.days = 31
    assert registry.collect_garbage(RetentionRule(keep=2)).forgotten == ("v1.9.0",)


def counts(registry: Registry, channel: str, replica: str) -> str:
    """What a replica has counted."""
    key = layout.observation(registry.model, channel, replica)
    registry.store.create(key, b'{"format":1,"replica":"' + replica.encode() + b'"}')
    return key


@pytest.mark.acceptance
def test_counts_go_a_week_after_their_trial_decisions_stay(registry: Registry, calendar: Calendar) -> None:
    bind(registry, "v1.0.0", "v2.0.0")
    for channel in ("staging", "production"):
        registry.promote("v1.0.0", channel)
        registry.canary.start("v2.0.0", channel, CanaryOptions(percent=10))
        counts(registry, channel, "one")
    registry.store.create(layout.decision(registry.model, "production", sha256(b"{}")), b"{}")
    calendar.days = 20
    counts(registry, "production", "two")
    registry.canary.abort("production")
    calendar.days = 26.9
    registry.promote("v2.0.0", "production", PromoteOptions(force=True), reason="fixed")
    assert registry.collect_garbage(KEEP_ONE).old_counts == 0
    calendar.days = 27.1
    counts(registry, "production", "three")
    assert registry.collect_garbage(KEEP_ONE, dry_run=True).old_counts == 2
    assert registry.collect_garbage(KEEP_ONE).old_counts == 2
    left = sorted(
        key.rpartition("/")[2] for key in listing(registry) if "/observations/" in key or "/decisions/" in key
    )
    assert left == sorted([f"{sha256(b'{}')}.json", "one.json", "three.json"])


def test_silent_replicas_and_old_scratch_channels_hold_nothing(
    registry: Registry, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind(registry, *(f"v{number}.0.0" for number in (1, 2, 3, 9)))
    beat(registry, "replica-1", "v1.0.0")
    serve(registry, "drill-1", "v2.0.0")
    serve(registry, "staging", "v3.0.0")
    calendar.days = 31
    assert registry.collect_garbage(KEEP_ONE).forgotten == ()
    monkeypatch.setattr("registry.retention.references.SILENT_AFTER", timedelta(seconds=-1))
    monkeypatch.setattr("registry.retention.references.SCRATCH_CHANNEL_AGE", timedelta(seconds=-1))
    assert registry.collect_garbage(KEEP_ONE).forgotten == ("v1.0.0", "v2.0.0")


def test_a_plan_writes_nothing(registry: Registry, calendar: Calendar) -> None:
    release(registry, "v1.0.0", b"one")
    release(registry, "v2.0.0", b"two")
    calendar.days = 31
    before = listing(registry)
    planned = registry.collect_garbage(KEEP_ONE, dry_run=True)
    assert (planned.forgotten, planned.pruned.marked, planned.pruned.marked_size) == (("v1.0.0",), 1, 3)
    assert listing(registry) == before


def test_the_name_of_a_forgotten_version_is_never_free_again(
    registry: Registry, calendar: Calendar, tmp_path: Path
) -> None:
    create(registry, "v1.0.0", tmp_path)
    bind(registry, "v2.0.0")
    months_later(calendar, passes=3, registry=registry)
    assert registry.manifest("v1.0.0").version == "v1.0.0"
    with pytest.raises(VersionExists):
        registry.create("v1.0.0", small_bundle(tmp_path / "other", seed=99), offline=True)


def test_a_forgotten_version_is_not_promoted(registry: Registry, calendar: Calendar) -> None:
    bind(registry, "v1.0.0", "v2.0.0")
    calendar.days = 31
    registry.collect_garbage(KEEP_ONE)
    with pytest.raises(VersionForgotten) as refused:
        registry.promote("v1.0.0", "staging", PromoteOptions(force=True), reason="must")
    assert "ulora store remember v1.0.0" in refused.value.hint
    assert registry.channel("staging").head() is None


def test_a_promotion_that_slips_in_wins_over_the_note(registry: Registry, calendar: Calendar) -> None:
    release(registry, "v1.0.0", b"one")
    bind(registry, "v2.0.0")
    calendar.days = 31
    calendar.before("create", lambda: serve(registry, "production", "v1.0.0"), containing="/forgotten/")
    assert registry.collect_garbage(KEEP_ONE).forgotten == ()
    assert registry.wiring.forgotten.find("v1.0.0") is None


def test_a_promotion_that_slips_in_later_loses_no_file(registry: Registry, calendar: Calendar) -> None:
    release(registry, "v1.0.0", b"one")
    bind(registry, "v2.0.0")
    calendar.days = 31
    calendar.before("create", lambda: registry.collect_garbage(KEEP_ONE), containing="/channels/")
    notes = registry.promote("v1.0.0", "production").notes
    assert any("ulora store remember v1.0.0" in note for note in notes)
    assert registry.wiring.forgotten.find("v1.0.0")
    assert registry.collect_garbage(KEEP_ONE, dry_run=True).remembered == ("v1.0.0",)
    done = registry.collect_garbage(KEEP_ONE)
    assert (done.remembered, done.before, done.forgotten) == (("v1.0.0",), (), ())
    assert registry.wiring.forgotten.find("v1.0.0") is None
    months_later(calendar, passes=3, registry=registry)
    assert has(registry, b"one")


# --- prune -----------------------------------------------------------------------------------------------------------


def test_files_go_in_the_second_pass_a_grace_after_the_first(registry: Registry, calendar: Calendar) -> None:
    release(registry, "v1.0.0", b"old", b"shared")
    release(registry, "v2.0.0", b"new", b"shared")
    calendar.days = 31
    first = registry.collect_garbage(KEEP_ONE).pruned
    assert (first.deleted, first.marked, first.marked_size) == (0, 1, 3)
    calendar.days += 0.9
    assert registry.collect_garbage(KEEP_ONE).pruned.deleted == 0
    assert has(registry, b"old")
    calendar.days += 0.2
    last = registry.collect_garbage(KEEP_ONE).pruned
    assert (last.deleted, last.deleted_size, last.marked, last.next_pass) == (1, 3, 0, None)
    assert not has(registry, b"old")
    assert has(registry, b"new", b"shared")


def test_nothing_but_files_is_ever_deleted(registry: Registry, calendar: Calendar) -> None:
    release(registry, "v1.0.0", b"old")
    serve(registry, "drill-1", "v1.0.0")
    release(registry, "v2.0.0", b"new")
    serve(registry, "drill-1", "v2.0.0")
    registry.store.create(layout.evidence(registry.model, "v1.0.0", "a" * 64), b"{}")
    registry.store.create(layout.verdict(registry.model, "b" * 64), b"{}")
    registry.store.create(layout.passed(registry.model, "staging", "v1.0.0", "c" * 64), b"{}")
    before = listing(registry)
    for number in range(3, 15):  # off the stack
        bind(registry, f"v{number}.0.0")
        serve(registry, "drill-1", f"v{number}.0.0")
    months_later(calendar, passes=3, registry=registry)
    files = {layout.blob(sha256(body)) for body in (b"old", b"new")}
    assert before.keys() - listing(registry).keys() == files


@pytest.mark.acceptance
def test_whatever_a_note_says_what_is_needed_keeps_its_files(registry: Registry, calendar: Calendar) -> None:
    bodies = [f"file {number}".encode() for number in range(5)]
    for number, body in enumerate(bodies):
        release(registry, f"v{number}.0.0", body)
    bind(registry, "v9.0.0")
    calendar.days = 31
    assert len(registry.collect_garbage(KEEP_ONE).forgotten) == 5
    serve(registry, "production", "v0.0.0", "v1.0.0")
    beat(registry, "replica-1", "v2.0.0", "v3.0.0")
    pin(registry, "v4.0.0")
    months_later(calendar, passes=3, registry=registry)
    assert has(registry, *bodies)


def test_other_models_and_backbones_keep_their_files(
    registry: Registry, calendar: Calendar, tmp_path: Path, store_url: str
) -> None:
    release(registry, "v1.0.0", b"ours")
    other, _ = open_calendar(tmp_path / "other", store_url, f"{registry.model}-other")
    release(other, "v1.0.0", b"theirs")
    registry.blobs.put(b"weights")
    ref = BackboneRef(family="dinov2", sha256=sha256(b"weights"), name="tiny")
    mirrored = MirroredBackbone(format=1, backbone=ref, size=7, who="ann", when=timestamp())
    registry.store.create(layout.backbone(ref.sha256), mirrored.to_bytes())
    registry.blobs.put(b"garbage")
    months_later(calendar, passes=2, registry=registry)
    assert has(registry, b"theirs", b"weights")
    assert not has(registry, b"garbage")


def damage(key_of: Callable[[Registry], str]) -> Callable[[Registry], None]:
    return lambda registry: registry.store.overwrite(key_of(registry), b"{damaged")


DAMAGES: dict[str, Callable[[Registry], None]] = {
    "a manifest": damage(lambda registry: layout.blob(registry.manifest("v2.0.0").sha256)),
    "a lost manifest": lambda registry: registry.store.delete(layout.blob(registry.manifest("v2.0.0").sha256)),
    "a name": damage(lambda registry: layout.version(registry.model, "v2.0.0")),
    "no name": damage(lambda registry: layout.versions(registry.model) + "junk"),
    "a record": damage(lambda registry: layout.record(registry.model, "production", 1)),
    "no channel": damage(lambda registry: layout.channel(registry.model, "Junk") + "x.json"),
    "a heartbeat": damage(lambda registry: layout.replica(registry.model, "production", "x")),
    "a pin": damage(lambda registry: layout.pin(registry.model, "v2.0.0")),
    "a note": damage(lambda registry: layout.forgotten(registry.model, "v1.0.0")),
    "a backbone": damage(lambda registry: layout.backbone("a" * 64)),
    "gc.json": damage(lambda registry: layout.GC_KEY),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_can_t_be_read_stops_it_and_nothing_is_deleted(registry: Registry, calendar: Calendar, what: str) -> None:
    release(registry, "v1.0.0", b"old")
    release(registry, "v2.0.0", b"new")
    serve(registry, "production", "v2.0.0")
    months_later(calendar, passes=1, registry=registry)
    before = listing(registry)
    DAMAGES[what](registry)
    with pytest.raises(IntegrityError):
        months_later(calendar, passes=1, registry=registry)
    assert has(registry, b"old", b"new")
    assert before.keys() - listing(registry).keys() <= {
        layout.blob(manifest_of(registry.model, "v2.0.0", b"new").sha256)
    }


def test_a_log_of_a_newer_release_stops_it(registry: Registry, calendar: Calendar) -> None:
    bind(registry, "v1.0.0")
    pointer = registry.bindings.get(registry.manifest("v1.0.0").name).pointer
    record = promoted(ChannelPosition(registry.model, "production", None), pointer, Author("a test"), None)
    registry.channel("production").commit(record.model_copy(update={"min_writer": 1000}))
    with pytest.raises(NotNow, match="1000"):
        months_later(calendar, passes=1, registry=registry)


def test_uploads_that_were_given_up_are_dropped(registry: Registry, calendar: Calendar) -> None:
    client = calendar._client
    client.transfers.create_multipart_upload(**client.at(layout.blob("a" * 64)))
    assert registry.collect_garbage(KEEP_ONE).pruned.uploads == 0
    calendar.days = 2
    assert registry.collect_garbage(KEEP_ONE).pruned.uploads == 1
    assert registry.collect_garbage(KEEP_ONE).pruned.uploads == 0


# --- two at once -----------------------------------------------------------------------------------------------------


def test_of_two_collections_at_once_only_one_deletes(registry: Registry, calendar: Calendar) -> None:
    registry.blobs.put(b"garbage")
    months_later(calendar, passes=1, registry=registry)
    other = ObjectStore(calendar.url)
    calendar.before("swap", lambda: other.swap(layout.GC_KEY, gc_marks.Marks.of({}, "other").to_bytes(), etag(other)))
    with pytest.raises(NotNow, match="was first"):
        months_later(calendar, passes=1, registry=registry)
    assert has(registry, b"garbage")


def test_an_overtaken_collection_says_how_much_it_has_deleted(registry: Registry, calendar: Calendar) -> None:
    registry.blobs.put(b"garbage")
    months_later(calendar, passes=1, registry=registry)

    def overtake() -> None:
        calendar.overwrite(layout.GC_KEY, gc_marks.Marks.of({}, "other").to_bytes())

    calendar.before("delete", lambda: calendar.before("swap", overtake))
    with pytest.raises(NotNow, match="took over; deleted by this one: 1 blob"):
        months_later(calendar, passes=1, registry=registry)
    assert not has(registry, b"garbage")


def etag(store: ObjectStore) -> str | None:
    return gc_marks.read_marks(store).etag


def test_the_claim_of_a_dead_sweep_holds_until_its_lease_is_over(
    registry: Registry, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.blobs.put(b"garbage")
    months_later(calendar, passes=1, registry=registry)

    def die() -> None:
        raise SystemExit

    monkeypatch.setattr(prune.Prune, "_end", lambda *_: None)  # a killed process ends nothing
    calendar.before("delete", die)
    with pytest.raises(SystemExit):
        months_later(calendar, passes=1, registry=registry)
    monkeypatch.undo()
    for refused in (lambda: registry.collect_garbage(KEEP_ONE), lambda: release(registry, "v1.0.0", b"garbage")):
        with pytest.raises(NotNow, match="is deleting"):
            refused()
    monkeypatch.setattr(gc_marks, "LEASE", timedelta(seconds=-1))
    release(registry, "v1.0.0", b"garbage")
    months_later(calendar, passes=2, registry=registry)
    assert has(registry, b"garbage")


@pytest.mark.parametrize(
    "error",
    [StoreUnreachable("no answer"), StoreDenied("403"), KeyboardInterrupt()],
    ids=["no answer", "a page", "Ctrl-C"],
)
def test_after_a_deletion_of_unknown_outcome_the_claim_holds(
    registry: Registry, calendar: Calendar, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The deletion may arrive when a creator has brought the blob back."""
    registry.blobs.put(b"garbage")
    months_later(calendar, passes=1, registry=registry)

    def lose() -> None:
        raise error

    calendar.before("delete", lose)
    with suppress(StoreDenied, KeyboardInterrupt):
        registry.collect_garbage(KEEP_ONE)
    with pytest.raises(NotNow, match="is deleting"):
        release(registry, "v1.0.0", b"garbage")
    monkeypatch.setattr(gc_marks, "LEASE", timedelta(seconds=-1))
    release(registry, "v1.0.0", b"garbage")
    assert has(registry, b"garbage")


def test_when_the_lease_ends_the_rest_is_left_for_the_next_sweep(
    registry: Registry, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.blobs.put(b"garbage")
    months_later(calendar, passes=1, registry=registry)
    with monkeypatch.context() as patch:
        patch.setattr(prune, "LEASE_MARGIN", gc_marks.LEASE)
        (done,) = months_later(calendar, passes=1, registry=registry)
    assert (done.deleted, done.left) == (0, 1)

    def lose() -> None:
        raise StoreUnreachable("the connection broke")

    calendar.before("delete", lose)
    first = len(calendar.steps)
    assert [one.deleted for one in months_later(calendar, passes=1, registry=registry)] == [1]
    key = layout.blob(sha256(b"garbage"))
    tries = [step for step in calendar.steps[first:] if step.endswith(key)]
    assert tries == [f"head {key}", f"delete {key}"] * 2, "it looks again before it tries again"


# --- back again ------------------------------------------------------------------------------------------------------


def test_within_the_grace_a_forgotten_version_is_remembered(registry: Registry, calendar: Calendar) -> None:
    release(registry, "v1.0.0", b"old")
    bind(registry, "v2.0.0")
    assert not registry.remember("v1.0.0")
    months_later(calendar, passes=1, registry=registry)
    assert registry.remember("v1.0.0", dry_run=True)
    assert registry.remember("v1.0.0")
    assert gc_marks.read_marks(calendar).marked == {}
    months_later(calendar, passes=1, registry=registry, rule=RetentionRule(keep=5))
    assert has(registry, b"old")
    assert registry.promote("v1.0.0", "staging").changed


def test_after_that_only_its_files_bring_it_back(registry: Registry, calendar: Calendar, tmp_path: Path) -> None:
    create(registry, "v1.0.0", tmp_path)
    bind(registry, "v2.0.0")
    months_later(calendar, passes=2, registry=registry)
    with pytest.raises(VersionForgotten, match="are gone") as late:
        registry.remember("v1.0.0")
    assert "ulora create v1.0.0" in late.value.hint
    done = registry.create("v1.0.0", tmp_path / "v1.0.0", offline=True)
    assert (done.is_new, done.brought_back) == (False, True)
    assert done.uploaded > 0
    assert registry.verify("v1.0.0").ok
    assert registry.promote("v1.0.0", "staging").changed
    with pytest.raises(VersionNotFound):
        registry.remember("v7.0.0")


def test_a_rollback_goes_where_gc_has_forgotten_nothing(registry: Registry, calendar: Calendar) -> None:
    for number in (1, 2, 3):
        release(registry, f"v{number}.0.0", f"{number}".encode())
        registry.promote(f"v{number}.0.0", "production")
    months_later(calendar, passes=3, registry=registry)
    for target in ("v2.0.0", "v1.0.0"):
        assert registry.rollback(options=RollbackOptions(again=True)).version == target
        assert registry.verify(target).ok


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_stays_and_why(
    registry: Registry, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULORA_MODEL", registry.model)
    release(registry, "v1.0.0", b"old")
    release(registry, "v2.0.0", b"new")
    plan = ulora("store", "gc", "--keep", 1, "--older-than", "0s", "--dry-run")
    assert plan.code == 0
    assert "v2.0.0  among the newest 1" in plan.out
    assert "would forget v1.0.0" in plan.out
    assert "would mark 1 blob for deletion" in plan.out
    done = ulora("store", "gc", "--keep", 1, "--older-than", "0s", "--reason", "tidy", "--json").document
    assert (done["forgotten"], done["pruned"]["marked"], done["dry_run"]) == (["v1.0.0"], 1, False)
    assert registry.wiring.forgotten.find("v1.0.0").reason == "tidy"
    assert [one["forgotten"] for one in ulora("list", "--json").document] == [True, False]
    assert ulora("list").out.count("forgotten") == 1
    shown = ulora("show", "v1.0.0")
    assert "tidy" in shown.out
    complains(ulora("promote", "v1.0.0", "--channel", "staging"), 5, "ulora store remember v1.0.0")
    assert ulora("store", "remember", "v1.0.0", "--dry-run").out == "v1.0.0 would be remembered\n"
    assert ulora("store", "remember", "v1.0.0", "--json").document == {"version": "v1.0.0", "changed": True}
    assert ulora("store", "remember", "v1.0.0").out == "v1.0.0 was not forgotten\n"


@pytest.mark.parametrize("words", [["--older-than", "soon"], ["--grace", "-1h"], ["--older-than", "999999999d"]])
def test_an_invalid_age_is_refused(store_url: str, words: list[str]) -> None:
    complains(ulora("store", "gc", *words), 2, "for example 30d")


def test_everything_can_t_be_forgotten(store_url: str) -> None:
    complains(ulora("store", "gc", "--keep", 0), 2, "--keep")
    with pytest.raises(BadInput):
        RetentionRule(keep=0)


def test_what_gc_json_says_is_checked(calendar: Calendar, monkeypatch: pytest.MonkeyPatch) -> None:
    written = json.loads(gc_marks.Marks.of({"a" * 64: calendar.now()}, "ann").to_bytes())
    for wrong in ("yesterday", "2026-11-21T12:00:00"):
        written["marks"][0]["when"] = wrong
        calendar.overwrite(layout.GC_KEY, json.dumps(written).encode())
        with pytest.raises(BadManifest) as refused:
            gc_marks.read_marks(calendar)
        assert "delete gc.json" in refused.value.hint
        assert isinstance(refused.value, UloraError)
    two = gc_marks.Marks.of(dict.fromkeys(("a" * 64, "b" * 64), calendar.now()), "ann").to_bytes()
    monkeypatch.setattr(gc_marks, "MAX_MARKED", 1)
    with pytest.raises(BadManifest, match="more than 1 blobs"):
        gc_marks.Marks.parse(two, "gc.json")
