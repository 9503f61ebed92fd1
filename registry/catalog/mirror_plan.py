"""What must change in MLflow so that its stages and aliases show what the channels serve. Pure functions.

Versions that were not created by ulora, those without the tag `ulora.version`, keep their stages and aliases, unless
the caller asks to adopt them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from registry.catalog.views import ChannelView
from registry.names import CHANNELS, VersionName

MlflowStage = Literal["Production", "Staging", "Archived", "None"]
Unmanaged = Literal["leave", "adopt"]
_SERVED: tuple[MlflowStage, ...] = ("Production", "Staging")


@dataclass(frozen=True)
class StageChange:
    """Move a registered version to another stage."""

    number: int
    version: str | None
    before: str
    after: MlflowStage

    def __str__(self) -> str:
        return f"stage of {self.version or f'#{self.number}'}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class AliasChange:
    """Move an alias to another registered version, or delete it. Both numbers are MLflow's.

    Attributes:
        channel: the channel that the alias shows; `version` is what the channel serves.
        by_hand: whether the alias was last moved by a person, not by the mirror.
    """

    alias: str
    before: int | None
    after: int | None
    channel: str = field(default="", compare=False)
    version: str | None = field(default=None, compare=False)
    by_hand: bool = False

    def __str__(self) -> str:
        by_hand = ", where somebody had set it by hand" if self.by_hand else ""
        return f"alias {self.alias}: {self.before or 'none'} -> {self.after or 'none'}{by_hand}"

    @property
    def hint(self) -> str:
        """The text of the tag on the version that the alias was moved to by hand."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        return (
            f"{when}: the alias {self.alias} follows the log, and was moved back to {self.version or 'nothing'}. To "
            f"request this version, set the alias request-{self.channel} on it; to roll back in an emergency: "
            "`ulora rollback`"
        )


CatalogChange = StageChange | AliasChange


@dataclass(frozen=True)
class MirrorPlan:
    """The changes, and in words what will stay different from the log and why."""

    changes: tuple[CatalogChange, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class MirroredVersion:
    """A registered version, as far as the plan needs it.

    Attributes:
        version: its name, None if it was not created by ulora.
        hinted: whether it has the tag that says how to request a promotion.
    """

    number: int
    version: str | None
    stage: str = "None"
    hinted: bool = False


@dataclass(frozen=True)
class MirrorState:
    """What MLflow shows of a model.

    Attributes:
        versions: the registered versions.
        aliases: the version number of each alias.
        mirrored: for each channel the number that the mirror last set the channel's alias to.
    """

    versions: tuple[MirroredVersion, ...] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)
    mirrored: Mapping[str, int] = field(default_factory=dict)

    def numbers(self) -> dict[str, int]:
        """The number of each version that ulora created: the lowest, if a name is registered twice."""
        numbers: dict[str, int] = {}
        for each in self.versions:
            if each.version is not None:
                numbers[each.version] = min(each.number, numbers.get(each.version, each.number))
        return numbers


def stages(channels: Sequence[ChannelView]) -> dict[str, MlflowStage]:
    """The stage of each version that the channels know; all others have the stage `None`.

    Production if stable in production, else Staging if stable in staging or a canary, else Archived if withdrawn or
    formerly promoted. Only the channels in `registry.names.CHANNELS` count: scratch channels are not shown.
    """
    found: dict[str, MlflowStage] = {}
    mirrored = [view for view in channels if view.channel in CHANNELS]
    for view in mirrored:
        found |= dict.fromkeys(view.withdrawn | (view.formerly or frozenset()), "Archived")
    for view in mirrored:
        if view.canary:
            found[view.canary] = "Staging"
        if view.channel == "staging" and view.stable:
            found[view.stable] = "Staging"
    for view in mirrored:
        if view.channel == "production" and view.stable:
            found[view.stable] = "Production"
    return found


def plan_mirror(
    state: MirrorState, channels: Sequence[ChannelView], aliases: Mapping[str, str], unmanaged: Unmanaged = "leave"
) -> MirrorPlan:
    """Compare MLflow with the channels. The aliases come first: people load versions by them.

    Args:
        aliases: the MLflow alias of each channel.
        unmanaged: `adopt` takes aliases and stages also from versions that were not created by ulora.
    """
    by_alias = [_plan_alias(state, view, aliases[view.channel], unmanaged) for view in aliased(channels, aliases)]
    return _join([*by_alias, *_plan_stages(state, channels, unmanaged)])


def plan_name_aliases(state: MirrorState) -> list[AliasChange]:
    """Set the name of each version as its alias, unless another version has that alias: `create` may have been
    interrupted before it did so."""
    aliases = {VersionName.parse(version).alias: number for version, number in state.numbers().items()}
    return [AliasChange(alias, None, number) for alias, number in aliases.items() if alias not in state.aliases]


def aliased(channels: Sequence[ChannelView], aliases: Mapping[str, str]) -> list[ChannelView]:
    """The channels that an alias shows and that could be read."""
    return [view for view in channels if view.channel in CHANNELS and view.channel in aliases and not view.problem]


def _plan_alias(state: MirrorState, view: ChannelView, alias: str, unmanaged: Unmanaged) -> MirrorPlan:
    before, numbers = state.aliases.get(alias), state.numbers()
    if view.stable is not None and view.stable not in numbers:
        return MirrorPlan(skipped=(f"alias {alias}: {view.stable} is not registered in MLflow",))
    after = None if view.stable is None else numbers[view.stable]
    if before == after:
        return MirrorPlan()
    holder = next((each for each in state.versions if each.number == before), None)
    if holder is not None and holder.version is None and unmanaged == "leave":
        return MirrorPlan(skipped=(f"alias {alias}: held by #{before}, which was not created by ulora",))
    by_hand = holder is not None and holder.version is not None and state.mirrored.get(view.channel, before) != before
    return MirrorPlan((AliasChange(alias, before, after, view.channel, view.stable, by_hand),))


def _plan_stages(state: MirrorState, channels: Sequence[ChannelView], unmanaged: Unmanaged) -> list[MirrorPlan]:
    """The change of every version's stage. None while a channel can't be read: stages follow from all channels."""
    unread = [view for view in channels if view.channel in CHANNELS and view.problem]
    if unread:
        return [
            MirrorPlan(skipped=(f"all stages, and the alias of {view.channel}: {view.problem}",)) for view in unread
        ]
    wanted = stages(channels)
    if any(view.formerly is None for view in channels):
        formerly: MlflowStage = "Archived"
        staged = [each.version for each in state.versions if each.version and each.stage != "None"]
        wanted = dict.fromkeys(staged, formerly) | wanted
    numbers = state.numbers()
    return [_plan_stage(each, wanted, numbers, unmanaged) for each in state.versions]


def _plan_stage(
    each: MirroredVersion, wanted: Mapping[str, MlflowStage], numbers: Mapping[str, int], unmanaged: Unmanaged
) -> MirrorPlan:
    if each.version is None:
        if each.stage not in _SERVED:
            return MirrorPlan()
        if unmanaged == "leave":
            return MirrorPlan(skipped=(f"stage of #{each.number}: {each.stage}, and it was not created by ulora",))
        return MirrorPlan((StageChange(each.number, None, each.stage, "Archived"),))
    after = wanted.get(each.version, "None") if numbers[each.version] == each.number else "None"
    if after == each.stage:
        return MirrorPlan()
    return MirrorPlan((StageChange(each.number, each.version, each.stage, after),))


def _join(parts: Sequence[MirrorPlan]) -> MirrorPlan:
    changes = [change for part in parts for change in part.changes]
    # A version enters a stage before another leaves it: a stage in use is never empty.
    order = {"Production": 1, "Staging": 2}
    changes.sort(key=lambda change: 0 if isinstance(change, AliasChange) else order.get(change.after, 3))
    return MirrorPlan(tuple(changes), tuple(reason for part in parts for reason in part.skipped))
