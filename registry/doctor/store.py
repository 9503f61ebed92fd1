"""Checks of the store: conditional writes, rights, bucket rules, the clock, garbage."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

from registry.answers import Finding
from registry.api import Registry
from registry.errors import IntegrityError, StoreDenied, StoreUnfit, UloraError
from registry.formats.counts import counted
from registry.retention.references import References
from registry.store import layout
from registry.store.gc_marks import read_marks

_SKEW = 60.0
"""Seconds by which a clock may be wrong before times in records are misleading. S3 itself refuses 15 minutes."""
_DAY = 86400.0
_MAX_VERSIONS, _MAX_BLOBS = 300, 20_000
"""In stores with more, garbage is not counted here."""


def check_store(registry: Registry) -> Iterator[Finding]:
    """Conditional writes and ordered listings, where this identity may write."""
    store = registry.store
    store.check_target()  # raises if this is no store, or this identity may not even read
    try:
        store.check_writable()
        store.probe()
    except StoreDenied as error:
        detail = f"conditional writes were not probed: no right ({error})"
        yield Finding("store", "warning", detail, "run it as an identity that may write format.json and probe/")
        return
    except StoreUnfit as error:
        fix = f"promote, create and roll back nothing until it does: two writers may overwrite each other. {error.hint}"
        yield Finding("store", "error", str(error), fix)
        return
    yield Finding("store", "ok", f"{store.url} honours conditional writes and lists in order")


def check_rights(registry: Registry) -> Iterator[Finding]:
    """What this identity may do. Missing rights are reported, but are not an error."""
    registry.wiring.note_caller()
    rights = vars(registry.store.rights())
    words = {True: "may {}", False: "may not {}", None: "can't say whether it may {}"}
    yield Finding("rights", "ok", "this identity " + ", ".join(words[may].format(what) for what, may in rights.items()))


def check_bucket(registry: Registry) -> Iterator[Finding]:
    """Bucket rules that delete objects, and whether the bucket keeps deleted objects."""
    try:
        rules = registry.store.lifecycle()
    except UloraError as error:
        yield Finding("lifecycle", "ok", f"could not be asked: {error}")
    else:
        for rule in rules:
            detail = f"the rule {rule.id or '(unnamed)'} {rule.does} below {rule.prefix or 'everything'}"
            yield Finding("lifecycle", "error", f"{detail}: it would delete versions and logs", "remove the rule")
        if not rules:
            yield Finding("lifecycle", "ok", "no rule expires objects of this store")
    try:
        versioning = registry.store.versioning()
    except UloraError as error:
        yield Finding("versioning", "ok", f"could not be asked: {error}")
    else:
        kept = "can be brought back" if versioning == "Enabled" else "is gone; copies elsewhere are the only backup"
        yield Finding("versioning", "ok", f"{versioning.lower()}: what is deleted {kept}")


def check_clock(registry: Registry) -> Iterator[Finding]:
    """This machine's clock against the server's."""
    skew = (datetime.now(UTC) - registry.store.now()).total_seconds()
    if abs(skew) > _SKEW:
        side = "ahead of" if skew > 0 else "behind"
        yield Finding("clock", "warning", f"{abs(skew):.0f} s {side} the store's", "set this machine's clock (NTP)")
    else:
        yield Finding("clock", "ok", "within a minute of the store's")


def check_garbage(registry: Registry) -> Iterator[Finding]:
    """Blobs that nothing refers to, and uploads that never finished. They only waste space."""
    yield from _check_uploads(registry)
    store = registry.store
    models = list(store.folders(layout.MODELS_PREFIX))
    keys = islice((info for model in models for info in store.list(layout.versions(model))), _MAX_VERSIONS + 1)
    blobs = list(islice(store.list(layout.BLOBS_PREFIX), _MAX_BLOBS + 1))
    if sum(1 for _ in keys) > _MAX_VERSIONS or len(blobs) > _MAX_BLOBS:
        yield Finding("garbage", "ok", "not counted in so large a store; `ulora store gc --dry-run` counts it")
        return
    try:
        referenced = References(store, registry.blobs)()
        marked = read_marks(store).marked
    except IntegrityError as error:
        detail = f"it is unknown what is needed, so nothing is deleted: {error}"
        yield Finding("garbage", "error", detail, error.hint)
        return
    orphans = [info for info in blobs if info.key.rpartition("/")[2] not in referenced]
    size = sum(info.size for info in orphans) / 1e6
    detail = f"{counted(len(orphans), 'blob')} that nothing refers to, {size:.2f} MB, {len(marked)} of them marked"
    yield Finding("garbage", "ok", f"{detail}; `ulora store gc` deletes them in time" if orphans else "none")


def _check_uploads(registry: Registry) -> Iterator[Finding]:
    try:
        old = [age for age in registry.store.unfinished_uploads() if age > _DAY]
    except UloraError as error:
        yield Finding("uploads", "ok", f"could not be asked: {error}")
        return
    if old:
        yield Finding("uploads", "warning", f"{len(old)} never finished, and waste space", "ulora store gc")
