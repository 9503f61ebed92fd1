"""Forget versions and collect garbage; copy versions to other stores, folders and OCI registries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from registry.errors import BadInput, VersionNotFound
from registry.names import VersionName
from registry.oci.push import OciPush
from registry.oci.reference import OciReference, is_oci
from registry.oci.repository import open_repository
from registry.oci.source import OciSource
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
    """Copy a version to another store, to a folder or to an OCI registry; see `Registry.copy_to`."""
    options = options or CopyOptions()
    copy: Copy | OciPush
    local = FromStore(wiring.store, wiring.settings.cache)
    if is_oci(place):
        reference = OciReference.parse(place, plain_http=options.plain_http).with_tag(version)
        if reference.digest:
            raise BadInput(f"{place} names a digest, which follows from what is sent", hint="give a tag, or nothing")
        copy = OciPush(wiring.store, open_repository(reference), local, wiring.model)
    else:
        target = open_place(place, endpoint_url=options.endpoint_url, profile=options.profile, sse=wiring.settings.sse)
        copy = Copy(wiring.store, target, local, wiring.model)
    try:
        return copy.plan(version) if dry_run else copy.run(version, progress or open_no_progress)
    except VersionNotFound:
        wiring.store.check_holds(wiring.model)
        raise


def copy_from(
    wiring: Wiring,
    version: str,
    source: Path | str,
    options: CopyOptions | None,
    *,
    dry_run: bool,
    progress: OpenProgress | None,
) -> Copied:
    """Copy a version from a folder or an OCI registry into this store; see `Registry.copy_from`."""
    options = options or CopyOptions()
    if isinstance(source, str) and is_oci(source):
        name = VersionName.parse(version)
        reference = OciReference.parse(source, plain_http=options.plain_http).with_tag(version)
        artifact = OciSource(open_repository(reference), wiring.model, name)
        copy = Copy(artifact, wiring.store, FromStore(artifact, wiring.settings.cache), wiring.model)
        notes, digest = artifact.notes, artifact.digest
    else:
        folder = Folder(Path(source))
        folder.check_readable()
        copy = Copy(folder, wiring.store, FromFolder(folder), wiring.model)
        notes, digest = (), ""
    done = copy.plan(version) if dry_run else copy.run(version, progress or open_no_progress)
    return replace(done, notes=(*notes, *done.notes), digest=digest)
