"""The mirror: stages and aliases in MLflow that show what the channels serve.

The channels' logs are the truth. The mirror may be behind them, and running it again repairs it.

A mirrored alias that a person moved is moved back to what the log says; the version that it was moved to gets a tag
that says how to request a promotion. The mirror keeps what it set last in tags of the registered model, to tell an
alias that a person moved from one that is only out of date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from registry.catalog import tags
from registry.catalog.client import Catalog
from registry.catalog.entries import CatalogVersion
from registry.catalog.mirror_plan import (
    CatalogChange,
    MirroredVersion,
    MirrorPlan,
    MirrorState,
    StageChange,
    Unmanaged,
    aliased,
    plan_mirror,
    plan_name_aliases,
)
from registry.catalog.views import ChannelView
from registry.errors import NotNow

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ROUNDS = 20
_NUMBER = re.compile(r"[0-9]{1,18}")
_NO_STAGES = {"ENDPOINT_NOT_FOUND", "NOT_FOUND", "FEATURE_DISABLED", "NOT_IMPLEMENTED"}


def read_state(catalog: Catalog, model: str) -> MirrorState:
    """What MLflow shows of a model now; empty for a model that it does not have."""
    with catalog.connection.open() as client:
        return _read_state(catalog, client, model)


def preview(
    catalog: Catalog, model: str, channels: Sequence[ChannelView], unmanaged: Unmanaged = "leave"
) -> MirrorPlan:
    """What `mirror` would change now. Nothing is written."""
    before = read_state(catalog, model)
    todo = plan_mirror(before, channels, catalog.aliases, unmanaged)
    return replace(todo, changes=(*todo.changes, *plan_name_aliases(before)))


def mirror(
    catalog: Catalog,
    model: str,
    read_channels: Callable[[], Sequence[ChannelView]],
    unmanaged: Unmanaged = "leave",
) -> MirrorPlan:
    """Make MLflow show what the channels serve; returns what was changed and what was skipped.

    Reads the channels, writes the differences, and reads the channels again until none has moved: of two mirrors that
    run at once, the one that writes last has read the newest records.

    Raises:
        CatalogUnreachable: MLflow does not answer.
        CatalogRefused: MLflow refuses.
        NotNow: the channels moved in every round.
    """
    done: list[CatalogChange] = []
    channels = read_channels()
    for _ in range(_ROUNDS):
        with catalog.connection.open() as client:
            before = _read_state(catalog, client, model)
            todo = plan_mirror(before, channels, catalog.aliases, unmanaged)
            skipped = list(todo.skipped)
            for change in (*todo.changes, *plan_name_aliases(before)):
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
        f"the channels of {model} moved {_ROUNDS} times while MLflow was updated", hint="run `ulora reconcile`"
    )


def _read_state(catalog: Catalog, client: MlflowClient, model: str) -> MirrorState:
    from mlflow.exceptions import MlflowException

    try:
        # A search returns no aliases; the registered model has all of them.
        registered = client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return MirrorState()
        raise
    aliases = {alias: int(number) for alias, number in registered.aliases.items()}
    mirrored = {
        name.removeprefix(tags.MIRRORED): int(number)
        for name, number in registered.tags.items()
        if name.startswith(tags.MIRRORED) and _NUMBER.fullmatch(number)
    }
    return MirrorState(tuple(_mirrored_version(version) for version in catalog.versions(model)), aliases, mirrored)


def _mirrored_version(version: CatalogVersion) -> MirroredVersion:
    return MirroredVersion(version.number, version.version, version.stage or "None", tags.HINT in version.tags)


def _apply(client: MlflowClient, model: str, change: CatalogChange, before: MirrorState) -> bool:
    """Write one change; False if the server has no stages."""
    if isinstance(change, StageChange):
        return _set_stage(client, model, change)
    if change.after is None:
        client.delete_registered_model_alias(model, change.alias)
    else:
        client.set_registered_model_alias(model, change.alias, str(change.after))
    if change.by_hand:
        client.set_model_version_tag(model, str(change.before), tags.HINT, change.hint)
    if any(each.hinted for each in before.versions if each.number == change.after):
        client.delete_model_version_tag(model, str(change.after), tags.HINT)
    return True


def _note_mirrored(
    client: MlflowClient, model: str, before: MirrorState, channels: Sequence[ChannelView], aliases: Mapping[str, str]
) -> None:
    """Keep what the aliases were set to. Written after them: a crash in between causes only an unnecessary hint."""
    numbers = before.numbers()
    for view in aliased(channels, aliases):
        number = numbers.get(view.stable or "")
        if number is not None and before.mirrored.get(view.channel) != number:
            client.set_registered_model_tag(model, tags.MIRRORED + view.channel, str(number))


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
