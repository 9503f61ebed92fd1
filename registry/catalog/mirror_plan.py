"""What must change in MLflow so that its stages and aliases show what the channels serve. Pure functions.

Only versions of one store get a stage or an alias, and only in a registered model that shows this store's channels.
Versions of other stores, and those that were not created by ulora, keep their stages; aliases that the latter hold
stay there. The caller may ask to adopt them. A version whose LoggedModel is deleted or false keeps neither: whoever
loads it gets nothing, or something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal, Self

from registry.catalog import tags
from registry.catalog.entries import CatalogVersion, by_id
from registry.catalog.version_id import VersionId
from registry.catalog.views import ChannelView
from registry.names import CHANNELS, VersionName

MlflowStage = Literal["Production", "Staging", "Archived", "None"]
Unmanaged = Literal["leave", "adopt"]
_WAYS_OUT = "delete it in MLflow, or run with --adopt"
SERVED: tuple[MlflowStage, ...] = ("Production", "Staging")


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
        channel: the channel that the alias shows, empty for a version's name; `version` is what the channel serves.
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
        """The notice on the version that the alias was moved to by hand."""
        when = datetime.now(UTC).isoformat(timespec="minutes")
        return (
            f"{when}: it follows the log, and was moved back to {self.version or 'nothing'}. To ask for this version, "
            f"set the alias `request-{self.channel}` on it; in an emergency: `ulora rollback`"
        )

    @property
    def title(self) -> str:
        """The title of that notice."""
        return f"Alias {self.alias} was set by hand"


@dataclass(frozen=True)
class ModelClaim:
    """Note on the registered model that it shows the channels of a store; `before` is what it said."""

    store: str
    before: str = ""

    def __str__(self) -> str:
        return f"store of the model: {self.before or 'none'} -> {self.store}"


CatalogChange = ModelClaim | StageChange | AliasChange


@dataclass(frozen=True)
class MirrorPlan:
    """The changes, and in words what will stay different from the log and why.

    Attributes:
        to_delete: the registered versions that are not what they say they are, and why.
        denied: for want of which right in MLflow changes were not made.
    """

    changes: tuple[CatalogChange, ...] = ()
    skipped: tuple[str, ...] = ()
    to_delete: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


@dataclass(frozen=True)
class MirrorState:
    """What MLflow shows of a model, and which store looks at it.

    Attributes:
        store: the store whose channels are to be shown.
        versions: the registered versions.
        aliases: the version number of each alias.
        mirrored: for each channel the number that the mirror last set the channel's alias to.
        owner: the claim of the store whose channels the model shows, or its URL only, as earlier releases wrote it;
            empty if it does not say.
        known: versions of the store. A registered version that names no store is one of them, or not of this store.
        claim: the store's URL and id, see `Catalog.claim`; empty for its URL alone.
    """

    model: str
    store: str
    versions: tuple[CatalogVersion, ...] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)
    mirrored: Mapping[str, int] = field(default_factory=dict)
    owner: str = ""
    known: frozenset[VersionId] = frozenset()
    claim: str = ""

    @property
    def own(self) -> str:
        """What `owner` is if the model shows this store."""
        return self.claim or self.store

    def knowing(self, known: frozenset[VersionId]) -> Self:
        """The same, with more known versions of the store."""
        return replace(self, known=self.known | known)

    @cached_property
    def numbers(self) -> dict[VersionId, int]:
        """The number of each version of this store."""
        ours = [each for each in self.versions if self.is_ours(each)]
        return {each: found.number for each, found in by_id(ours, self.store).items()}

    def is_ours(self, each: CatalogVersion) -> bool:
        """Whether a version is of this store."""
        if each.id is None:
            return False
        return each.store == self.store or (not each.store and each.id in self.known)

    def holder(self, number: int | None) -> CatalogVersion | None:
        """The version with a number, e.g. that of an alias."""
        return next((each for each in self.versions if each.number == number), None)

    def problem(self) -> str:
        """Why nothing of this store may be shown in the model; empty if it may.

        A model that does not say which store it shows is this store's, unless its aliases were mirrored from another.
        """
        if self.owner in (self.own, self.store):
            return ""
        says = f"shows the channels of {self.owner[:300]}"
        if not self.owner:
            mirrored = filter(None, map(self.holder, self.mirrored.values()))
            others = [each.number for each in mirrored if each.id and not self.is_ours(each)]
            if not others:
                return ""
            says = f"does not say whose channels it shows, and showed #{others[0]}, which is not of this store"
        return (
            f"stages and aliases: nothing changed, as the model {self.model} in MLflow {says}, and this store is "
            f"{self.own}. Use another model name or another MLflow server; or, to show this store's channels from "
            f"now on, set the tag {tags.STORE} of the model to {self.own} in MLflow"
        )


def stages(channels: Sequence[ChannelView]) -> dict[VersionId, MlflowStage]:
    """The stage of each version that the channels know; all others have the stage `None`.

    Production if stable in production, else Staging if stable in staging or a canary, else Archived if formerly
    promoted. Only the channels in `registry.names.CHANNELS` count: scratch channels are not shown.
    """
    found: dict[VersionId, MlflowStage] = {}
    mirrored = [view for view in channels if view.channel in CHANNELS]
    for view in mirrored:
        found |= dict.fromkeys(view.formerly or (), "Archived")
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
        unmanaged: `adopt` takes aliases and stages also from versions that are not of this store.
    """
    if problem := state.problem():
        return MirrorPlan(skipped=(problem,))
    is_said = state.owner == state.own or not state.versions
    claim = () if is_said else (ModelClaim(state.own, before=state.owner),)
    by_alias = [_plan_alias(state, view, aliases[view.channel], unmanaged) for view in aliased(channels, aliases)]
    planned = _join([*by_alias, *_plan_stages(state, channels, unmanaged)])
    names = _join(_plan_name_aliases(state, unmanaged))
    wrong = (
        f"#{each.number}: {each.refused or 'its tags say what its source is not'}; delete it in MLflow"
        for each in state.versions
        if each.refused or each.is_mislabelled
    )
    changes = (*claim, *planned.changes, *names.changes)
    return MirrorPlan(changes, (*planned.skipped, *names.skipped), tuple(wrong))


def aliased(channels: Sequence[ChannelView], aliases: Mapping[str, str]) -> list[ChannelView]:
    """The channels that an alias shows and that could be read."""
    return [view for view in channels if view.channel in CHANNELS and view.channel in aliases and not view.problem]


def _plan_alias(state: MirrorState, view: ChannelView, alias: str, unmanaged: Unmanaged) -> MirrorPlan:
    before, after = state.aliases.get(alias), state.numbers.get(view.stable) if view.stable else None
    if view.stable is not None and after is None:
        return MirrorPlan(skipped=(f"alias {alias}: {view.stable.version} is not registered in MLflow",))
    if before == after:
        return MirrorPlan()
    holder = state.holder(before)
    if holder is not None and holder.id is None and not holder.refused and unmanaged == "leave":
        return MirrorPlan(skipped=(f"alias {alias}: held by #{before}, which was not created by ulora; {_WAYS_OUT}",))
    by_hand = holder is not None and state.is_ours(holder) and state.mirrored.get(view.channel, before) != before
    version = view.stable.version if view.stable else None
    return MirrorPlan((AliasChange(alias, before, after, view.channel, version, by_hand),))


def _plan_name_aliases(state: MirrorState, unmanaged: Unmanaged) -> list[MirrorPlan]:
    """The name of each known version as its alias: `create` may have been interrupted before it set that."""
    plans = []
    for each, number in state.numbers.items():
        alias = VersionName.parse(each.version).alias
        before = state.aliases.get(alias)
        holder = state.holder(before)
        if each not in state.known or (holder and state.is_ours(holder) and holder.id == each):
            continue
        if holder is None or holder.refused or unmanaged == "adopt":
            plans.append(MirrorPlan((AliasChange(alias, before, number),)))
        else:
            way_out = "" if holder.id else f"; {_WAYS_OUT}"
            plans.append(MirrorPlan(skipped=(f"alias {alias}: held by #{before}, which is not #{number}{way_out}",)))
    return plans


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
        staged = [each.id for each in state.versions if each.id and each.stage not in ("", "None")]
        wanted = dict.fromkeys(staged, formerly) | wanted
    return [_plan_stage(state, each, wanted, unmanaged) for each in state.versions]


def _plan_stage(
    state: MirrorState, each: CatalogVersion, wanted: Mapping[VersionId, MlflowStage], unmanaged: Unmanaged
) -> MirrorPlan:
    before = each.stage or "None"
    if each.id is None or not state.is_ours(each):
        if before not in SERVED:
            return MirrorPlan()
        if unmanaged == "leave" and not each.refused:
            return MirrorPlan(skipped=(f"stage of #{each.number}: {before}, and {_whose(each)}",))
        return MirrorPlan((StageChange(each.number, None, before, "Archived"),))
    after = wanted.get(each.id, "None") if state.numbers[each.id] == each.number else "None"
    if after == before:
        return MirrorPlan()
    return MirrorPlan((StageChange(each.number, each.id.version, before, after),))


def _whose(each: CatalogVersion) -> str:
    if each.id is None:
        return "it was not created by ulora"
    return f"it is of the store {each.store}" if each.store else f"it is not the {each.version} of this store"


def _join(parts: Sequence[MirrorPlan]) -> MirrorPlan:
    changes = [change for part in parts for change in part.changes]
    # A version enters a stage before another leaves it: a stage in use is never empty.
    order = {"Production": 1, "Staging": 2}
    changes.sort(key=lambda change: order.get(change.after, 3) if isinstance(change, StageChange) else 0)
    return MirrorPlan(tuple(changes), tuple(reason for part in parts for reason in part.skipped))
