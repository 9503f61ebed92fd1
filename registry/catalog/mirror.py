"""What MLflow's UI shows of the channels: stages and aliases, made to follow the log.

The log is the truth; this is a view of it that may lag and is repaired by running it again. Versions that others
registered, those without the tag `ulora.version`, are never changed, archived or robbed of an alias unless they are to
be adopted.

A mirrored alias that somebody moved by hand goes back to where the log has it; the version it was moved to gets a tag
that says how to ask for it. What the mirror itself set is kept in tags of the registered model, so that a mirror that
has fallen behind is not taken for a hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from registry.catalog.log import Catalog, CatalogVersion
from registry.errors import NotNow
from registry.machine import clock
from registry.names import CHANNELS, VersionName

if TYPE_CHECKING:
    from mlflow import MlflowClient

Stage = Literal["Production", "Staging", "Archived", "None"]
Unmanaged = Literal["leave", "adopt"]
_FORMER: Stage = "Archived"
_ROUNDS = 20
_SERVED: tuple[Stage, ...] = ("Production", "Staging")
HINT_TAG = "ulora.hint"
MIRRORED_TAG = "ulora.mirrored."
"""With a channel's name: the number that the mirror last set the channel's alias to, a tag of the registered model."""
_NUMBER = re.compile(r"[0-9]{1,18}")
_NO_STAGES = {"ENDPOINT_NOT_FOUND", "NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED"}


@dataclass(frozen=True)
class ChannelView:
    """What the mirror needs to know of one channel. Versions are named, e.g. `v5.5.4-dinov3`.

    Attributes:
        generation: the generation that was read; 0 for an empty channel.
        stable, canary: what it serves, and what is on trial.
        formerly: versions that were stable or canary in it; None when its whole log was not read, and then what
            MLflow shows in a stage and the channels do not name counts as formerly promoted.
        withdrawn: versions that it was rolled back from.
        problem: why the channel can't be read; what MLflow shows of it is left as it is.
    """

    channel: str
    generation: int
    stable: str | None = None
    canary: str | None = None
    formerly: frozenset[str] | None = frozenset()
    withdrawn: frozenset[str] = frozenset()
    problem: str = ""


@dataclass(frozen=True)
class StageChange:
    """Move a registered version to another stage."""

    number: int
    version: str | None
    before: str
    after: Stage

    def __str__(self) -> str:
        return f"stage of {self.version or f'#{self.number}'}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class AliasChange:
    """Point an alias at another registered version, or at none. Both are MLflow's numbers.

    Attributes:
        channel: which the alias shows; `version` is what that serves.
        by_hand: whether somebody else than the mirror had set it.
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
        """What the version that it was set to by hand is told."""
        when = clock.timestamp("seconds")
        return (
            f"{when}: the alias {self.alias} follows the log, and went back to {self.version or 'nothing'}. To ask for "
            f"this version, set the alias request-{self.channel} on it; to go back in an emergency: `ulora rollback`"
        )


Change = StageChange | AliasChange


@dataclass(frozen=True)
class MirrorPlan:
    """What to change, and in words what stays different from the log and why."""

    changes: tuple[Change, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registered:
    """A registered version as the plan needs it; `version` is None for one that others registered, `hinted` says that
    it was told how to ask."""

    number: int
    version: str | None
    stage: str = "None"
    hinted: bool = False


@dataclass(frozen=True)
class Shown:
    """What MLflow shows of a model now: its versions, each alias's version number, and for each channel the number that
    the mirror last set its alias to."""

    versions: tuple[Registered, ...] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)
    mirrored: Mapping[str, int] = field(default_factory=dict)


def stages(channels: Sequence[ChannelView]) -> dict[str, Stage]:
    """The stage of each version that a channel knows of; all others are in `None`.

    Production if stable in production, else Staging if stable in staging or a canary, else Archived if withdrawn or
    formerly promoted. Only the channels in `registry.names.CHANNELS` count: scratch channels are not shown.
    """
    shown: dict[str, Stage] = {}
    mirrored = [view for view in channels if view.channel in CHANNELS]
    for view in mirrored:
        shown |= dict.fromkeys(view.withdrawn | (view.formerly or frozenset()), "Archived")
    for view in mirrored:
        if view.canary:
            shown[view.canary] = "Staging"
        if view.channel == "staging" and view.stable:
            shown[view.stable] = "Staging"
    for view in mirrored:
        if view.channel == "production" and view.stable:
            shown[view.stable] = "Production"
    return shown


def plan(
    shown: Shown, channels: Sequence[ChannelView], aliases: Mapping[str, str], unmanaged: Unmanaged = "leave"
) -> MirrorPlan:
    """Compare what MLflow shows with the channels. Aliases come first: they are what people load by.

    Args:
        aliases: the MLflow alias of each channel.
        unmanaged: `adopt` lets the mirror take aliases and stages from versions that others registered.
    """
    numbers = _numbers(shown.versions)
    by_alias = [
        _plan_alias(shown, view, aliases[view.channel], numbers, unmanaged) for view in _aliased(channels, aliases)
    ]
    return _joined([*by_alias, *_plan_stages(shown, channels, numbers, unmanaged)])


def _plan_stages(
    shown: Shown, channels: Sequence[ChannelView], numbers: Mapping[str, int], unmanaged: Unmanaged
) -> list[MirrorPlan]:
    """What to do about every version's stage: nothing while a channel can't be read, as it follows from all of them."""
    unread = [view for view in channels if view.channel in CHANNELS and view.problem]
    if unread:
        return [
            MirrorPlan(skipped=(f"all stages, and the alias of {view.channel}: {view.problem}",)) for view in unread
        ]
    wanted = stages(channels)
    if any(view.formerly is None for view in channels):
        staged = [each.version for each in shown.versions if each.version and each.stage != "None"]
        wanted = dict.fromkeys(staged, _FORMER) | wanted
    return [_plan_stage(each, wanted, numbers, unmanaged) for each in shown.versions]


def names(shown: Shown) -> list[AliasChange]:
    """Give each version its name as an alias, unless another one holds that: who logged it may have been stopped."""
    aliases = {VersionName.parse(version).alias: number for version, number in _numbers(shown.versions).items()}
    return [AliasChange(alias, None, number) for alias, number in aliases.items() if alias not in shown.aliases]


def _joined(parts: Sequence[MirrorPlan]) -> MirrorPlan:
    changes = [change for part in parts for change in part.changes]
    # A version enters a stage before another leaves it: nobody who looks finds it empty.
    order = {"Production": 1, "Staging": 2}
    changes.sort(key=lambda change: 0 if isinstance(change, AliasChange) else order.get(change.after, 3))
    return MirrorPlan(tuple(changes), tuple(reason for part in parts for reason in part.skipped))


def shown(catalog: Catalog, model: str) -> Shown:
    """What MLflow shows of a model now; nothing of one that it does not know."""
    with catalog.connection.open() as client:
        return _read(catalog, client, model)


def preview(
    catalog: Catalog, model: str, channels: Sequence[ChannelView], unmanaged: Unmanaged = "leave"
) -> MirrorPlan:
    """What `mirror` would change now. Nothing is written."""
    with catalog.connection.open() as client:
        before = _read(catalog, client, model)
        todo = plan(before, channels, catalog.aliases, unmanaged)
        return replace(todo, changes=(*todo.changes, *names(before)))


def mirror(
    catalog: Catalog,
    model: str,
    read_channels: Callable[[], Sequence[ChannelView]],
    unmanaged: Unmanaged = "leave",
) -> MirrorPlan:
    """Make MLflow show what the channels serve; returns what was changed and what was left.

    Reads the channels, writes what differs, and reads again until no generation moved meanwhile: of two mirrors that
    run at once, the one that writes last has seen the newest state.

    Raises:
        CatalogUnreachable, CatalogRefused: see `Catalog`.
        NotNow: the channels kept moving.
    """
    done: list[Change] = []
    channels = read_channels()
    for _ in range(_ROUNDS):
        with catalog.connection.open() as client:
            before = _read(catalog, client, model)
            todo = plan(before, channels, catalog.aliases, unmanaged)
            skipped = list(todo.skipped)
            for change in (*todo.changes, *names(before)):
                if _apply(client, model, change, before):
                    done.append(change)
                else:
                    skipped.append(f"{change}: this MLflow server has no stages")
            _note_mirrored(client, model, before, channels, catalog.aliases)
        again = read_channels()
        if _generations(again) == _generations(channels):
            return MirrorPlan(tuple(done), tuple(dict.fromkeys(skipped)))
        channels = again
    raise NotNow(
        f"the channels of {model} moved {_ROUNDS} times while MLflow was written", hint="run `ulora reconcile`"
    )


def _aliased(channels: Sequence[ChannelView], aliases: Mapping[str, str]) -> list[ChannelView]:
    return [view for view in channels if view.channel in CHANNELS and view.channel in aliases and not view.problem]


def _numbers(versions: Sequence[Registered]) -> dict[str, int]:
    """The number of each managed version: the lowest, should a name be registered twice."""
    numbers: dict[str, int] = {}
    for each in versions:
        if each.version is not None:
            numbers[each.version] = min(each.number, numbers.get(each.version, each.number))
    return numbers


def _plan_alias(
    shown: Shown, view: ChannelView, alias: str, numbers: Mapping[str, int], unmanaged: Unmanaged
) -> MirrorPlan:
    before = shown.aliases.get(alias)
    if view.stable is not None and view.stable not in numbers:
        return MirrorPlan(skipped=(f"alias {alias}: {view.stable} is not registered in MLflow",))
    after = None if view.stable is None else numbers[view.stable]
    if before == after:
        return MirrorPlan()
    holder = next((each for each in shown.versions if each.number == before), None)
    if holder is not None and holder.version is None and unmanaged == "leave":
        return MirrorPlan(skipped=(f"alias {alias}: held by #{before}, which was not registered by ulora",))
    by_hand = holder is not None and holder.version is not None and shown.mirrored.get(view.channel, before) != before
    return MirrorPlan((AliasChange(alias, before, after, view.channel, view.stable, by_hand),))


def _plan_stage(
    each: Registered, wanted: Mapping[str, Stage], numbers: Mapping[str, int], unmanaged: Unmanaged
) -> MirrorPlan:
    if each.version is None:
        if each.stage not in _SERVED:
            return MirrorPlan()
        if unmanaged == "leave":
            return MirrorPlan(skipped=(f"stage of #{each.number}: {each.stage}, and it was not registered by ulora",))
        return MirrorPlan((StageChange(each.number, None, each.stage, "Archived"),))
    after = wanted.get(each.version, "None") if numbers[each.version] == each.number else "None"
    return (
        MirrorPlan()
        if after == each.stage
        else MirrorPlan((StageChange(each.number, each.version, each.stage, after),))
    )


def _read(catalog: Catalog, client: MlflowClient, model: str) -> Shown:
    from mlflow.exceptions import MlflowException

    try:
        # A search never returns aliases, and the registered model has them all.
        registered = client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return Shown()
        raise
    aliases = {alias: int(number) for alias, number in registered.aliases.items()}
    mirrored = {
        name.removeprefix(MIRRORED_TAG): int(number)
        for name, number in registered.tags.items()
        if name.startswith(MIRRORED_TAG) and _NUMBER.fullmatch(number)
    }
    return Shown(tuple(_registered(version) for version in catalog.versions(model)), aliases, mirrored)


def _registered(version: CatalogVersion) -> Registered:
    return Registered(version.number, version.version, version.stage or "None", HINT_TAG in version.tags)


def _apply(client: MlflowClient, model: str, change: Change, before: Shown) -> bool:
    """Write one change; False when the server has no stages."""
    if isinstance(change, StageChange):
        return _move(client, model, change)
    if change.after is None:
        client.delete_registered_model_alias(model, change.alias)
    else:
        client.set_registered_model_alias(model, change.alias, str(change.after))
    if change.by_hand:
        client.set_model_version_tag(model, str(change.before), HINT_TAG, change.hint)
    if any(each.hinted for each in before.versions if each.number == change.after):
        client.delete_model_version_tag(model, str(change.after), HINT_TAG)
    return True


def _note_mirrored(
    client: MlflowClient, model: str, before: Shown, channels: Sequence[ChannelView], aliases: Mapping[str, str]
) -> None:
    """Keep what the aliases were set to. Written after them: a crash in between costs no more than a needless hint."""
    numbers = _numbers(before.versions)
    for view in _aliased(channels, aliases):
        number = numbers.get(view.stable or "")
        if number is not None and before.mirrored.get(view.channel) != number:
            client.set_registered_model_tag(model, MIRRORED_TAG + view.channel, str(number))


def _move(client: MlflowClient, model: str, change: StageChange) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        # Never `archive_existing_versions`: it would archive what others registered. The plan names each move.
        client.transition_model_version_stage(model, str(change.number), change.after, archive_existing_versions=False)
    except (AttributeError, NotImplementedError):
        return False
    except MlflowException as error:
        if error.error_code not in _NO_STAGES:
            raise
        return False
    return True


def _generations(channels: Sequence[ChannelView]) -> dict[str, int]:
    return {view.channel: view.generation for view in channels}
