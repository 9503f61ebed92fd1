"""What commands noted of how they ended goes after 90 days. The log of a channel stays for ever."""

from __future__ import annotations

from datetime import timedelta

from registry.errors import StoreDenied
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.objects import ObjectStore

KEPT_FOR = timedelta(days=90)


def old_operations(store: ObjectStore, model: str) -> list[str]:
    """The keys of the operations of the days before `KEPT_FOR`, by the server's clock."""
    last = (store.now() - KEPT_FOR).date().isoformat()
    days = sorted(filter(layout.is_day, store.folders(layout.operations(model))))
    return [info.key for day in days if day < last for info in store.list(layout.operation(model, day))]


def delete_old_operations(store: ObjectStore, model: str) -> int | None:
    """Delete them; return how many, None where this identity may not."""
    keys = old_operations(store, model)
    try:
        in_parallel(store.delete, keys)
    except StoreDenied:
        return None
    return len(keys)
