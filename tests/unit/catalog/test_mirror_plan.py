"""The mirror's rules: which stage, which alias, and which versions are not changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from registry.catalog.entries import CatalogVersion
from registry.catalog.mirror_plan import (
    AliasChange,
    MirrorPlan,
    MirrorState,
    ModelClaim,
    StageChange,
    plan_mirror,
    stages,
)
from registry.catalog.version_id import VersionId
from registry.catalog.views import ChannelView

ALIASES = {"staging": "staging", "production": "champion"}
NAMES = ["v1.0.0", "v1.1.0", "v2.0.0-dinov3", "v2.0.1-ood"]
STORE, OTHER = "s3://bucket/prefix", "s3://bucket/other"
DIGEST, WRONG = "0" * 64, "f" * 64


def of(name: str | None) -> VersionId | None:
    return VersionId(name, DIGEST) if name else None


def all_of(names: Iterable[str]) -> frozenset[VersionId]:
    return frozenset(VersionId(name, DIGEST) for name in names)


def named(found: dict[VersionId, str]) -> dict[str, str]:
    return {each.version: stage for each, stage in found.items()}


def production(stable: str | None = None, canary: str | None = None, formerly: Iterable[str] = ()) -> ChannelView:
    return ChannelView("production", 1, of(stable), of(canary), all_of(formerly))


def staging(stable: str | None = None) -> ChannelView:
    return ChannelView("staging", 1, of(stable))


def registered(
    number: int, name: str | None, stage: str = "None", store: str = STORE, digest: str = DIGEST
) -> CatalogVersion:
    """A version in MLflow; None is one that was not created by ulora."""
    tags = {"ulora.store": store, "ulora.version": name or "", "ulora.manifest_sha256": digest}
    its_tags = {**tags, "ulora.content_sha256": digest} if name else {}
    return CatalogVersion(number, f"m-{number}", {}, stage, "", its_tags)


def shown_as(*versions: CatalogVersion, **fields) -> MirrorState:
    """What MLflow shows; every version of these names is known, and has its name as an alias."""
    named = {each.version.replace(".", "_"): each.number for each in reversed(versions) if each.version}
    aliases = {**named, **fields.pop("aliases", {})}
    return MirrorState("m", STORE, versions, aliases, **{"owner": STORE, "known": all_of(NAMES), **fields})


def test_the_stage_production_has_priority_over_staging() -> None:
    assert named(stages([production("v1.0.0"), staging("v1.0.0")])) == {"v1.0.0": "Production"}
    assert named(stages([staging("v1.0.0"), production("v1.0.0")])) == {"v1.0.0": "Production"}


def test_stable_in_staging_and_a_canary_are_staging() -> None:
    assert named(stages([staging("v1.1.0"), production("v1.0.0", canary="v2.0.0-dinov3")])) == {
        "v1.0.0": "Production",
        "v1.1.0": "Staging",
        "v2.0.0-dinov3": "Staging",
    }


def test_former_versions_are_archived() -> None:
    views = [production("v1.0.0", formerly={"v1.1.0", "v2.0.0-dinov3"}), staging("v2.0.0-dinov3")]
    assert named(stages(views)) == {"v1.0.0": "Production", "v1.1.0": "Archived", "v2.0.0-dinov3": "Staging"}


def test_without_the_whole_log_staged_versions_count_as_former() -> None:
    shown = shown_as(
        registered(1, "v1.0.0", "Production"), registered(2, "v1.1.0", "Archived"), registered(3, "v2.0.1-ood"),
        aliases={"champion": 4},
    )  # fmt: skip
    todo = plan_mirror(shown, [replace(production("v2.0.0-dinov3"), formerly=None)], ALIASES)
    assert todo.changes == (StageChange(1, "v1.0.0", "Production", "Archived"),)


def test_scratch_channels_are_not_shown() -> None:
    drill = ChannelView("drill-abc", 7, of("v1.1.0"), of("v2.0.0-dinov3"))
    assert stages([drill]) == {}
    assert plan_mirror(shown_as(registered(1, "v1.1.0")), [drill], {"drill-abc": "drill"}) == MirrorPlan()


def test_production_is_never_empty_and_aliases_come_first() -> None:
    shown = shown_as(registered(1, "v1.0.0", "Production"), registered(2, "v1.1.0", "Staging"), aliases={"champion": 1})
    todo = plan_mirror(shown, [production("v1.1.0", formerly={"v1.0.0"})], ALIASES)
    assert todo.changes == (
        AliasChange("champion", 1, 2),
        StageChange(2, "v1.1.0", "Staging", "Production"),
        StageChange(1, "v1.0.0", "Production", "Archived"),
    )
    assert [str(change) for change in todo.changes] == [
        "alias champion: 1 -> 2",
        "stage of v1.1.0: Staging -> Production",
        "stage of v1.0.0: Production -> Archived",
    ]


def test_an_alias_goes_when_the_channel_serves_nothing() -> None:
    todo = plan_mirror(shown_as(registered(1, "v1.0.0"), aliases={"champion": 1}), [production()], ALIASES)
    assert todo.changes == (AliasChange("champion", 1, None),)


def test_a_version_missing_in_mlflow_is_skipped_by_name() -> None:
    todo = plan_mirror(shown_as(), [production("v1.0.0")], ALIASES)
    assert todo.changes == ()
    assert "v1.0.0 is not registered" in todo.skipped[0]


def test_an_unmanaged_version_keeps_its_stage_and_its_alias() -> None:
    shown = shown_as(registered(1, None, "Production"), registered(2, "v1.0.0"), aliases={"champion": 1, "theirs": 1})
    todo = plan_mirror(shown, [production("v1.0.0")], ALIASES)
    assert todo.changes == (StageChange(2, "v1.0.0", "None", "Production"),)
    assert len(todo.skipped) == 2
    assert all("#1" in reason for reason in todo.skipped)


def test_adopting_takes_stage_and_alias_of_unmanaged_versions() -> None:
    shown = shown_as(registered(1, None, "Production"), registered(2, "v1.0.0"), aliases={"champion": 1, "theirs": 1})
    todo = plan_mirror(shown, [production("v1.0.0")], ALIASES, unmanaged="adopt")
    after = apply(shown, todo)
    assert after.aliases == {"v1_0_0": 2, "champion": 2, "theirs": 1}
    assert [each.stage for each in after.versions] == ["Archived", "Production"]
    assert todo.skipped == ()


def test_a_version_registered_twice_is_the_lower_number() -> None:
    shown = shown_as(registered(3, "v1.0.0"), registered(5, "v1.0.0", "Production"))
    after = apply(shown, plan_mirror(shown, [production("v1.0.0")], ALIASES))
    assert [each.stage for each in after.versions] == ["Production", "None"]
    assert after.aliases["champion"] == 3


def test_equal_names_of_others_get_nothing_and_keep_theirs() -> None:
    shown = shown_as(
        registered(1, "v1.0.0", "Staging", digest=WRONG),
        registered(2, "v1.0.0", "Staging", store=OTHER),
        registered(3, "v1.0.0", "Staging", store="", digest=WRONG),
        registered(4, "v1.0.0"),
    )
    todo = plan_mirror(shown, [production("v1.0.0")], ALIASES)
    assert todo.changes == (
        AliasChange("champion", None, 4),
        StageChange(4, "v1.0.0", "None", "Production"),
        StageChange(1, "v1.0.0", "Staging", "None"),
    )
    assert list(todo.skipped) == [
        f"stage of #2: Staging, and it is of the store {OTHER}",
        "stage of #3: Staging, and it is not the v1.0.0 of this store",
        "alias v1_0_0: held by #1, which is not #4",
    ]


def test_a_version_that_names_no_store_is_ours_if_it_is_known() -> None:
    shown = shown_as(registered(1, "v1.0.0", store=""), registered(2, "v1.1.0", store=""), known=all_of(["v1.1.0"]))
    assert shown.numbers == {of("v1.1.0"): 2}
    both = shown_as(registered(1, "v1.0.0", store=""), registered(2, "v1.0.0"))
    assert both.numbers == {of("v1.0.0"): 2}, "one that names the store comes first"


def test_a_model_shows_one_store() -> None:
    versions = (registered(1, "v1.0.0"), registered(2, "v1.0.0", store=OTHER))
    assert shown_as(*versions).problem() == ""
    assert f"shows the channels of {OTHER}" in shown_as(*versions, owner=OTHER).problem()
    assert shown_as(*versions, owner="", mirrored={"production": 1}).problem() == ""
    assert "showed #2" in shown_as(*versions, owner="", mirrored={"production": 2}).problem()
    taken = plan_mirror(shown_as(*versions, owner=""), [production()], ALIASES)
    assert [str(change) for change in taken.changes] == [f"store of the model: none -> {STORE}"]
    assert plan_mirror(shown_as(owner=""), [production()], ALIASES).changes == ()


def test_equal_urls_with_other_ids_are_other_stores() -> None:
    ours, theirs = f"{STORE}#{'a' * 32}", f"{STORE}#{'b' * 32}"
    version = registered(1, "v1.0.0")
    assert shown_as(version, owner=ours, claim=ours).problem() == ""
    for owner, claim in ((theirs, ours), (ours, ""), (ours, STORE)):
        says = shown_as(version, owner=owner, claim=claim).problem()
        assert f"shows the channels of {owner}, and this store is {claim or STORE}." in says
        assert plan_mirror(shown_as(version, owner=owner, claim=claim), [production()], ALIASES).changes == ()


def test_a_model_that_names_a_url_alone_is_claimed_once() -> None:
    ours, version = f"{STORE}#{'a' * 32}", registered(1, "v1.0.0")
    found = plan_mirror(shown_as(version, owner=STORE, claim=ours), [production()], ALIASES)
    assert found.changes == (ModelClaim(ours, before=STORE),)
    for claim in (ours, ""):
        owner = claim or STORE
        assert plan_mirror(shown_as(version, owner=owner, claim=claim), [production()], ALIASES).changes == ()


def test_an_alias_not_set_by_the_mirror_was_moved_by_hand() -> None:
    versions = (registered(1, "v1.0.0"), registered(2, "v1.1.0"))
    moved, behind, unknown = (
        plan_mirror(
            shown_as(*versions, aliases={"champion": 2}, mirrored=mirrored), [production("v1.0.0")], ALIASES
        ).changes[0]
        for mirrored in ({"production": 1}, {"production": 2}, {})
    )
    assert [change.by_hand for change in (moved, behind, unknown)] == [True, False, False]
    assert "request-production" in moved.hint
    assert "v1.0.0" in moved.hint


def test_an_unreadable_channel_keeps_its_alias_and_all_stages() -> None:
    shown = shown_as(registered(1, "v1.0.0", "Production"), registered(2, "v1.1.0", "Staging"), aliases={"champion": 1})
    unread = ChannelView("production", 0, problem="junk")
    todo = plan_mirror(shown, [staging("v1.0.0"), unread], ALIASES)
    assert todo.changes == (AliasChange("staging", None, 1),)
    assert len(todo.skipped) == 1
    assert "junk" in todo.skipped[0]


names = st.sampled_from(NAMES)
views = st.builds(production, stable=st.none() | names, canary=st.none() | names, formerly=st.frozensets(names))
both_channels = st.tuples(views, views.map(lambda view: replace(view, channel="staging")))
some = st.builds(
    registered, st.just(0), st.none() | names, st.sampled_from(["None", "Staging", "Production", "Archived"]),
    st.sampled_from([STORE, STORE, OTHER, ""]), st.sampled_from([DIGEST, DIGEST, WRONG]),
)  # fmt: skip
several = st.lists(some, max_size=8).map(
    lambda found: tuple(replace(each, number=number) for number, each in enumerate(found, start=1))
)


@st.composite
def shown_by_mlflow(draw: st.DrawFn) -> MirrorState:
    versions = draw(several)
    numbers = st.sampled_from([each.number for each in versions]) if versions else st.nothing()
    held = draw(st.dictionaries(st.sampled_from(["staging", "champion", "theirs"]), numbers))
    return MirrorState("m", STORE, versions, held, owner=STORE, known=all_of(NAMES))


@given(shown_by_mlflow(), both_channels, st.sampled_from(["leave", "adopt"]))
def test_after_the_plan_nothing_is_left_to_change(shown: MirrorState, channels, unmanaged) -> None:
    after = apply(shown, plan_mirror(shown, channels, ALIASES, unmanaged))
    assert plan_mirror(after, channels, ALIASES, unmanaged).changes == ()


@given(shown_by_mlflow(), both_channels)
def test_at_most_one_version_of_ours_is_in_production(shown: MirrorState, channels) -> None:
    after = apply(shown, plan_mirror(shown, channels, ALIASES))
    assert sum(each.stage == "Production" for each in after.versions if shown.is_ours(each)) <= 1
    unmanaged = {each.number for each in shown.versions if each.version is None}
    others = [each for each in shown.versions if not shown.is_ours(each)]
    assert others == [each for each in after.versions if not shown.is_ours(each)]
    for each in after.versions:
        served = {after.aliases.get(alias) for alias in ALIASES.values()} - set(shown.aliases.values())
        assert each.number not in served or (shown.is_ours(each) and each.id in after.known)
    held = {alias: number for alias, number in shown.aliases.items() if number in unmanaged}
    assert held.items() <= after.aliases.items()
    assert after.aliases.get("theirs") == shown.aliases.get("theirs")


def apply(shown: MirrorState, todo: MirrorPlan) -> MirrorState:
    """The state of MLflow after the plan was carried out."""
    versions, aliases = {each.number: each for each in shown.versions}, dict(shown.aliases)
    for change in todo.changes:
        if isinstance(change, StageChange):
            assert versions[change.number].stage == change.before
            versions[change.number] = replace(versions[change.number], stage=change.after)
        elif change.after is None:
            del aliases[change.alias]
        else:
            aliases[change.alias] = change.after
    return replace(shown, versions=tuple(versions.values()), aliases=aliases)
