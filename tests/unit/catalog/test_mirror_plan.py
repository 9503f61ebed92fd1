"""The mirror's rules: which stage, which alias, and which versions are not changed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from registry.catalog.mirror_plan import (
    AliasChange,
    MirroredVersion,
    MirrorPlan,
    MirrorState,
    StageChange,
    plan_mirror,
    stages,
)
from registry.catalog.views import ChannelView

ALIASES = {"staging": "staging", "production": "champion"}
NAMES = ["v1.0.0", "v1.1.0", "v2.0.0-dinov3", "v2.0.1-ood"]


def production(stable: str | None = None, **fields) -> ChannelView:
    return ChannelView("production", 1, stable, **fields)


def staging(stable: str | None = None, **fields) -> ChannelView:
    return ChannelView("staging", 1, stable, **fields)


def test_the_stage_production_has_priority_over_staging() -> None:
    assert stages([production("v1.0.0"), staging("v1.0.0")]) == {"v1.0.0": "Production"}
    assert stages([staging("v1.0.0"), production("v1.0.0")]) == {"v1.0.0": "Production"}


def test_stable_in_staging_and_a_canary_are_staging() -> None:
    assert stages([staging("v1.1.0"), production("v1.0.0", canary="v2.0.0-dinov3")]) == {
        "v1.0.0": "Production",
        "v1.1.0": "Staging",
        "v2.0.0-dinov3": "Staging",
    }


def test_withdrawn_and_former_versions_are_archived() -> None:
    views = [
        production("v1.0.0", formerly=frozenset({"v1.1.0"}), withdrawn=frozenset({"v2.0.0-dinov3"})),
        staging("v2.0.0-dinov3"),
    ]
    assert stages(views) == {"v1.0.0": "Production", "v1.1.0": "Archived", "v2.0.0-dinov3": "Staging"}


def test_without_the_whole_log_staged_versions_count_as_former() -> None:
    versions = (
        MirroredVersion(1, "v1.0.0", "Production"),
        MirroredVersion(2, "v1.1.0", "Archived"),
        MirroredVersion(3, "v2.0.1-ood"),
    )
    todo = plan_mirror(MirrorState(versions, {"champion": 4}), [production("v2.0.0-dinov3", formerly=None)], ALIASES)
    assert todo.changes == (StageChange(1, "v1.0.0", "Production", "Archived"),)


def test_scratch_channels_are_not_shown() -> None:
    drill = ChannelView("drill-abc", 7, "v1.1.0", canary="v2.0.0-dinov3")
    assert stages([drill]) == {}
    assert plan_mirror(MirrorState((MirroredVersion(1, "v1.1.0"),)), [drill], {"drill-abc": "drill"}) == MirrorPlan()


def test_production_is_never_empty_and_aliases_come_first() -> None:
    shown = MirrorState(
        (MirroredVersion(1, "v1.0.0", "Production"), MirroredVersion(2, "v1.1.0", "Staging")), {"champion": 1}
    )
    todo = plan_mirror(shown, [production("v1.1.0", formerly=frozenset({"v1.0.0"}))], ALIASES)
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
    todo = plan_mirror(MirrorState((MirroredVersion(1, "v1.0.0"),), {"champion": 1}), [production()], ALIASES)
    assert todo.changes == (AliasChange("champion", 1, None),)


def test_a_version_missing_in_mlflow_is_skipped_by_name() -> None:
    todo = plan_mirror(MirrorState(), [production("v1.0.0")], ALIASES)
    assert todo.changes == ()
    assert "v1.0.0 is not registered" in todo.skipped[0]


def test_an_unmanaged_version_keeps_its_stage_and_its_alias() -> None:
    shown = MirrorState(
        (MirroredVersion(1, None, "Production"), MirroredVersion(2, "v1.0.0")), {"champion": 1, "theirs": 1}
    )
    todo = plan_mirror(shown, [production("v1.0.0")], ALIASES)
    assert todo.changes == (StageChange(2, "v1.0.0", "None", "Production"),)
    assert len(todo.skipped) == 2
    assert all("#1" in reason for reason in todo.skipped)


def test_adopting_takes_stage_and_alias_of_unmanaged_versions() -> None:
    shown = MirrorState(
        (MirroredVersion(1, None, "Production"), MirroredVersion(2, "v1.0.0")), {"champion": 1, "theirs": 1}
    )
    todo = plan_mirror(shown, [production("v1.0.0")], ALIASES, unmanaged="adopt")
    after = apply(shown, todo)
    assert after.aliases == {"champion": 2, "theirs": 1}
    assert [each.stage for each in after.versions] == ["Archived", "Production"]
    assert todo.skipped == ()


def test_a_name_registered_twice_is_served_by_the_lower_number() -> None:
    shown = MirrorState((MirroredVersion(3, "v1.0.0"), MirroredVersion(5, "v1.0.0", "Production")))
    after = apply(shown, plan_mirror(shown, [production("v1.0.0")], ALIASES))
    assert [each.stage for each in after.versions] == ["Production", "None"]
    assert after.aliases == {"champion": 3}


def test_an_alias_not_set_by_the_mirror_was_moved_by_hand() -> None:
    versions = (MirroredVersion(1, "v1.0.0"), MirroredVersion(2, "v1.1.0"))
    moved, behind, unknown = (
        plan_mirror(MirrorState(versions, {"champion": 2}, mirrored), [production("v1.0.0")], ALIASES).changes[0]
        for mirrored in ({"production": 1}, {"production": 2}, {})
    )
    assert [change.by_hand for change in (moved, behind, unknown)] == [True, False, False]
    assert "request-production" in moved.hint
    assert "v1.0.0" in moved.hint


def test_an_unreadable_channel_keeps_its_alias_and_all_stages() -> None:
    shown = MirrorState(
        (MirroredVersion(1, "v1.0.0", "Production"), MirroredVersion(2, "v1.1.0", "Staging")), {"champion": 1}
    )
    unread = ChannelView("production", 0, problem="junk")
    todo = plan_mirror(shown, [staging("v1.0.0"), unread], ALIASES)
    assert todo.changes == (AliasChange("staging", None, 1),)
    assert len(todo.skipped) == 1
    assert "junk" in todo.skipped[0]


names = st.sampled_from(NAMES)
views = st.builds(
    ChannelView,
    channel=st.just("production"),
    generation=st.integers(1, 99),
    stable=st.none() | names,
    canary=st.none() | names,
    formerly=st.frozensets(names),
    withdrawn=st.frozensets(names),
)
both_channels = st.tuples(views, views.map(lambda view: replace(view, channel="staging")))
registered = st.lists(
    st.tuples(st.none() | names, st.sampled_from(["None", "Staging", "Production", "Archived"])), max_size=8
).map(lambda pairs: tuple(MirroredVersion(number, *pair) for number, pair in enumerate(pairs, start=1)))


@st.composite
def shown_by_mlflow(draw: st.DrawFn) -> MirrorState:
    versions = draw(registered)
    numbers = st.sampled_from([each.number for each in versions]) if versions else st.nothing()
    return MirrorState(versions, draw(st.dictionaries(st.sampled_from(["staging", "champion", "theirs"]), numbers)))


@given(shown_by_mlflow(), both_channels, st.sampled_from(["leave", "adopt"]))
def test_after_the_plan_nothing_is_left_to_change(shown: MirrorState, channels, unmanaged) -> None:
    after = apply(shown, plan_mirror(shown, channels, ALIASES, unmanaged))
    assert plan_mirror(after, channels, ALIASES, unmanaged).changes == ()


@given(shown_by_mlflow(), both_channels)
def test_at_most_one_managed_version_is_in_production(shown: MirrorState, channels) -> None:
    after = apply(shown, plan_mirror(shown, channels, ALIASES))
    assert sum(each.stage == "Production" for each in after.versions if each.version) <= 1
    unmanaged = {each.number for each in shown.versions if each.version is None}
    assert {each for each in shown.versions if each.version is None} <= set(after.versions)
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
    return MirrorState(tuple(versions.values()), aliases)
