"""Forget versions and collect garbage; copy versions to other stores and folders."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from registry.progress import OpenProgress, open_no_progress
from registry.retention.copy import Copied, Copy, FromFolder, FromStore, open_place
from registry.retention.forget import Collected, GarbageCollection, RetentionRule
from registry.retention.prune import GRACE
from registry.store.folder import Folder
from registry.usecases.options import CopyOptions
from registry.wiring import Wiring


def collect_garbage(
    wiring: Wiring,
    rule: RetentionRule | None,
    *,
    grace: timedelta | None,
    reason: str,
    dry_run: bool,
    say: Callable[[str], None],
) -> Collected:
    """Forget old versions, then prune the store; see `Registry.collect_garbage`."""
    collection = GarbageCollection(wiring.store, wiring.blobs, wiring.model, wiring.author(reason), say)
    rule, grace = rule or RetentionRule(), GRACE if grace is None else grace
    if dry_run:
        return collection.plan(rule, grace)
    wiring.check_writable()
    return collection.collect(rule, grace)


def remember(wiring: Wiring, version: str, *, dry_run: bool) -> bool:
    """Take back that a version was forgotten; see `Registry.remember`."""
    collection = GarbageCollection(wiring.store, wiring.blobs, wiring.model, wiring.author())
    if dry_run:
        return collection.may_remember(version)
    wiring.check_writable()
    return collection.remember(version)


def copy_to(
    wiring: Wiring,
    version: str,
    place: str,
    options: CopyOptions | None,
    *,
    dry_run: bool,
    progress: OpenProgress | None,
) -> Copied:
    """Copy a version to another store or to a folder; see `Registry.copy_to`."""
    options = options or CopyOptions()
    target = open_place(place, endpoint_url=options.endpoint_url, profile=options.profile, sse=wiring.settings.sse)
    local = FromStore(wiring.store, wiring.settings.cache)
    copy = Copy(wiring.store, target, local, wiring.model)
    return copy.plan(version) if dry_run else copy.run(version, progress or open_no_progress)


def copy_from(wiring: Wiring, version: str, source: Path, *, dry_run: bool, progress: OpenProgress | None) -> Copied:
    """Copy a version from a folder into this store; see `Registry.copy_from`."""
    folder = Folder(source)
    folder.check_readable()
    copy = Copy(folder, wiring.store, FromFolder(folder), wiring.model)
    return copy.plan(version) if dry_run else copy.run(version, progress or open_no_progress)
