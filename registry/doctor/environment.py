"""Checks of MLflow, of git tags, of a restored tree, and of this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

from registry.answers import Finding
from registry.api import Registry
from registry.errors import IntegrityError
from registry.machine.repository import Repository, opened
from registry.machine.scratch import remove_abandoned
from registry.parallel import in_parallel
from registry.tree.restore import is_unfinished
from registry.versions.manifest import Manifest

_LOW_DISK = 2 * 1024**3
_MAX_TAGGED = 100
"""How many versions have their git tags checked: the last ones in the order of names."""
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TAG = re.compile(r"\w[\w.+-]{0,199}")
"""What `create --git-tag` writes is a version's name. A manifest may say what no program can be given."""
_TREE = Path("current")


def check_catalog(registry: Registry) -> Iterator[Finding]:
    """Whether MLflow answers, shows what the store says, and has requests that wait."""
    if registry.settings.tracking_uri is None:
        yield Finding("MLflow", "warning", "no tracking server is set", "set MLFLOW_TRACKING_URI")
        return
    drift = registry.reconcile(dry_run=True)
    for damaged in drift.damaged:
        yield Finding("MLflow", "error", f"can't be shown: {damaged}", "ulora verify --all")
    for request in drift.requests:
        yield Finding("MLflow", "warning", f"a request waits: {request}", "ulora reconcile, or leave --watch running")
    plan = [f"{version} is not logged" for version in drift.logged] + list(drift.changes)
    if plan:
        yield Finding(
            "MLflow", "warning", f"does not show what the store says: {'; '.join(plan[:3])}", "ulora reconcile"
        )
    elif not drift.skipped:
        yield Finding("MLflow", "ok", "shows what the store says")
    for skipped in drift.skipped:
        yield Finding(
            "MLflow", "warning", f"left alone: {skipped}", "ulora reconcile, or with --adopt if ulora should manage it"
        )


def check_tags(registry: Registry) -> Iterator[Finding]:
    """The git tags that versions were made with, for those whose commit this repository has."""
    with opened(Path()) as repository:
        if repository is not None:
            yield from _tags_of(registry, repository)


def _tags_of(registry: Registry, repository: Repository) -> Iterator[Finding]:
    def read(name: str) -> Manifest | None:
        try:
            return registry.manifest(name)
        except IntegrityError:
            return None  # `verify` reports it

    names = [str(name) for name in registry.bindings.names()[-_MAX_TAGGED:]]
    for manifest in filter(None, in_parallel(read, names)):
        tag, commit = (str(manifest.provenance.get(key) or "") for key in ("git_tag", "git_commit"))
        is_here = _COMMIT.fullmatch(commit) and repository.ask("cat-file", "-e", f"{commit}^{{commit}}") is not None
        if _TAG.fullmatch(tag) and is_here:
            tagged = repository.ask("rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}")
            if tagged is None:
                words = shlex.join(["git", "tag", "-a", tag, "-m", tag, commit])
                yield Finding("git tags", "warning", f"{tag} of {manifest.version} is missing here", words)
            elif tagged != commit:
                detail = f"{tag} is on {tagged[:12]}, but {manifest.version} was made from {commit[:12]}"
                yield Finding("git tags", "warning", detail, "find out who moved the tag")


def check_restore(registry: Registry) -> Iterator[Finding]:
    """Whether a restore into `current`, in this folder, was interrupted."""
    if is_unfinished(_TREE):
        fix = "run the same `ulora restore` again: it finishes or undoes it"
        yield Finding("restore", "warning", f"a restore of {_TREE}/ did not finish, or runs right now", fix)


def check_machine(registry: Registry) -> Iterator[Finding]:
    """Free disk space for the cache, and temporary folders of killed processes."""
    if left := remove_abandoned():
        yield Finding("machine", "ok", f"{left} temporary folders of killed processes were removed")
    folder = registry.settings.cache
    existing = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        yield Finding("disk", "error", f"the cache {folder} can't be written", "set ULORA_CACHE")
        return
    level, fix = ("ok", "") if free > _LOW_DISK else ("warning", "free some disk space")
    yield Finding("disk", level, f"{free / 1e9:.1f} GB free for the cache {folder}", fix)
