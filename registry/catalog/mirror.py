"""The mirror: stages and aliases in MLflow that show what the channels serve.

The channels' logs are the truth. The mirror may be behind them, and running it again repairs it.

A mirrored alias that a person moved is moved back to what the log says; the version that it was moved to gets a notice
that says how to request a promotion. The mirror keeps what it set last in tags of the registered model, to tell an
alias that a person moved from one that is only out of date.

A registered model shows the channels of one store, which its tag `ulora.store` names, by URL and id. The mirror of
another store changes nothing there and says so: else two mirrors would move the aliases back and forth for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.catalog import tags
from registry.catalog.client import Catalog
from registry.catalog.denials import Denials
from registry.catalog.mirror_plan import (
    SERVED,
    CatalogChange,
    MirrorPlan,
    MirrorState,
    ModelClaim,
    StageChange,
    Unmanaged,
    aliased,
    plan_mirror,
)
from registry.catalog.page_writer import note
from registry.catalog.version_id import VersionId
from registry.catalog.views import ChannelView
from registry.errors import NotNow

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ROUNDS = 20
_NUMBER = re.compile(r"[0-9]{1,18}")
_NO_STAGES = {"ENDPOINT_NOT_FOUND", "NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED"}


@dataclass(frozen=True)
class MirrorOptions:
    """What the mirror may change.

    Attributes:
        unmanaged: what to do with aliases and stages of versions that are not of this store.
        bound: versions of the store; those that channels name are known anyway. A registered version that names no
            store is of this one only if it is known.
    """

    unmanaged: Unmanaged = "leave"
    bound: frozenset[VersionId] = frozenset()


def read_state(catalog: Catalog, model: str) -> MirrorState:
    """What MLflow shows of a model now; empty for a model that it does not have."""
    with catalog.connection.open() as client:
        return _read_state(catalog, client, model)


def preview(
    catalog: Catalog, model: str, channels: Sequence[ChannelView], options: MirrorOptions = MirrorOptions()
) -> MirrorPlan:
    """What `mirror` would change now. Nothing is written."""
    return _plan(catalog, model, channels, options)[1]


def mirror(
    catalog: Catalog,
    model: str,
    read_channels: Callable[[], Sequence[ChannelView]],
    options: MirrorOptions = MirrorOptions(),
) -> MirrorPlan:
    """Make MLflow show what the channels serve; returns what was changed and what was skipped.

    Reads the channels, writes the differences, and reads the channels again until none has moved: of two mirrors that
    run at once, the one that writes last has read the newest records. What MLflow refuses for want of a right does not
    stop the rest.

    Raises:
        CatalogUnreachable: MLflow does not answer.
        CatalogRefused: MLflow refuses.
        NotNow: the channels moved in every round.
    """
    done: list[CatalogChange] = []
    channels = read_channels()
    for _ in range(_ROUNDS):
        before, found = _plan(catalog, model, channels, options)
        skipped, denials = list(found.skipped), Denials()
        for change in found.changes:
            with denials.noted(change), catalog.connection.open() as client:  # one for each: there may be thousands
                if _apply(client, model, change, before):
                    done.append(change)
                else:
                    skipped.append(f"{change}: this MLflow server has no stages")
        if not denials.told:
            _note_mirrored(catalog, before, channels)
        again = read_channels()
        if _generations(again) == _generations(channels):
            return MirrorPlan(tuple(done), tuple(dict.fromkeys(skipped)), found.to_delete, denials.told)
        channels = again
    raise NotNow(
        f"the channels of {model} moved {_ROUNDS} times while MLflow was updated", hint="run `ulora reconcile`"
    )


def _plan(
    catalog: Catalog, model: str, channels: Sequence[ChannelView], options: MirrorOptions
) -> tuple[MirrorState, MirrorPlan]:
    """What MLflow shows, and what must change."""
    known = options.bound.union(*(view.known for view in channels))
    with catalog.connection.open() as client:
        names = {each.version for each in known} if any(view.formerly is None for view in channels) else None
        state = _read_state(catalog, client, model, names).knowing(known)
    return state, plan_mirror(state, channels, catalog.aliases, options.unmanaged)


def _read_state(catalog: Catalog, client: MlflowClient, model: str, names: set[str] | None = None) -> MirrorState:
    """What MLflow shows. With `names`, it is asked only what those versions are, and what it shows as served."""
    entries = catalog.entries(client)
    registered = entries.model(model)
    if registered is None:
        return MirrorState(model, catalog.store, claim=catalog.claim)
    mirrored = {
        name.removeprefix(tags.MIRRORED): int(number)
        for name, number in registered.tags.items()
        if name.startswith(tags.MIRRORED) and _NUMBER.fullmatch(number)
    }
    held = {str(registered.aliases.get(alias)) for alias in catalog.aliases.values()} | set(map(str, mirrored.values()))

    def concerns(found: Any) -> bool:
        named = {found.tags.get(tags.NAME), found.tags.get(tags.VERSION)}
        return names is None or bool(named & names) or found.version in held or found.current_stage in SERVED

    versions = entries.all(model, concerns)
    return MirrorState(
        model, catalog.store, versions, dict(registered.aliases), mirrored, owner=registered.store, claim=catalog.claim
    )


def _apply(client: MlflowClient, model: str, change: CatalogChange, before: MirrorState) -> bool:
    """Write one change; False if the server has no stages."""
    if isinstance(change, ModelClaim):
        client.set_registered_model_tag(model, tags.STORE, change.store)
        return True
    if isinstance(change, StageChange):
        return _set_stage(client, model, change)
    if change.after is None:
        client.delete_registered_model_alias(model, change.alias)
    else:
        client.set_registered_model_alias(model, change.alias, str(change.after))
    if change.by_hand and (moved := before.holder(change.before)):
        note(client, model, moved, {change.title: change.hint})
    if holder := before.holder(change.after):
        note(client, model, holder, {change.title: ""})
    return True


def _note_mirrored(catalog: Catalog, before: MirrorState, channels: Sequence[ChannelView]) -> None:
    """Keep what the aliases were set to. Written after them: a crash in between causes only an unnecessary hint."""
    if before.problem():
        return
    for view in aliased(channels, catalog.aliases):
        number = before.numbers.get(view.stable) if view.stable else None
        if number is not None and before.mirrored.get(view.channel) != number:
            with catalog.connection.open() as client:
                client.set_registered_model_tag(before.model, tags.MIRRORED + view.channel, str(number))


def _set_stage(client: MlflowClient, model: str, change: StageChange) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        # Never `archive_existing_versions`: it would archive the versions of other tools. The plan has each move.
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
