"""What replicas have counted in trials goes a week after the trial has ended; the guard's decisions stay for ever."""

from __future__ import annotations

from datetime import datetime, timedelta

from registry.channels.channel import Channel
from registry.errors import StoreDenied
from registry.names import is_channel_name
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.objects import ObjectStore

KEPT_FOR = timedelta(days=7)


def old_counts(store: ObjectStore, model: str) -> list[str]:
    """The keys of observations that nobody needs: older than `KEPT_FOR`, as is the end of the channel's last trial.

    Raises:
        IntegrityError: a channel's records can't be read, so nobody knows.
    """
    since = store.now() - KEPT_FOR
    found = []
    for channel in store.folders(layout.observations(model)):
        if not (is_channel_name(channel) and _was_on_trial(store, model, channel, since)):
            listed = store.list(layout.observations(model, channel))
            found += [info.key for info in listed if info.modified and info.modified < since]
    return found


def _was_on_trial(store: ObjectStore, model: str, channel: str, since: datetime) -> bool:
    """Whether a trial ran in a channel at any time since then, by the server's clock."""
    log, folder = Channel(store, model, channel), layout.channel(model, channel)
    for info in store.list(folder):
        if layout.is_record(folder, info.key):
            if log.read(layout.generation(info.key)).running_trial:
                return True
            if info.modified and info.modified < since:
                return False
    return False


def delete_old_counts(store: ObjectStore, model: str) -> int | None:
    """Delete them; return how many, None where this identity may not.

    Raises:
        IntegrityError: see `old_counts`. Nothing was deleted.
    """
    keys = old_counts(store, model)
    try:
        in_parallel(store.delete, keys)
    except StoreDenied:
        return None
    return len(keys)
