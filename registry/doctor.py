"""`ulora doctor`: look at every part once, say what is wrong and what to run. Writes nothing but the store's probe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

from registry.answers import Finding
from registry.api import Registry
from registry.errors import UloraError
from registry.names import CHANNELS
from registry.record import Record

_LOW_DISK = 2 * 1024**3

Check = Callable[[Registry], Iterator[Finding]]


def examine(registry: Registry) -> list[Finding]:
    """All findings, in the order in which trouble would spread."""
    findings: list[Finding] = []
    for subject, check in _CHECKS.items():
        try:
            for found in check(registry):
                findings.append(found)
        except UloraError as error:
            findings.append(Finding(subject, "error", str(error), error.hint))
            if subject == "store":
                break  # everything else needs it
        except Exception as error:  # one part that breaks in a new way must not hide the others
            findings.append(Finding(subject, "error", f"unexpected {type(error).__name__}: {error}"))
    return findings


def _check_store(registry: Registry) -> Iterator[Finding]:
    registry.store.check_writable()
    registry.store.probe()
    yield Finding("store", "ok", f"{registry.store.url} honours conditional writes and lists in order")


def _check_channel(name: str) -> Check:
    def check(registry: Registry) -> Iterator[Finding]:
        head = registry.channel(name).head()
        if head:
            yield from _check_served(registry, head)
        records = registry.history(name)
        yield Finding(name, "ok", f"a chain of {len(records)} records, verified" if records else "empty")

    return check


def _check_served(registry: Registry, head: Record) -> Iterator[Finding]:
    targets = {"stable": head.stable, "rollback target": next(iter(head.rollback_targets()), None)}
    for role, pointer in targets.items():
        subject = f"{head.channel} {role}"
        if pointer is None:
            yield Finding(
                subject, "warning", "there is none", "promote a second version, so that a rollback has a target"
            )
            continue
        try:
            checked = registry.verify(pointer.version)
        except UloraError as error:
            yield Finding(subject, "error", str(error), error.hint)
            continue
        problem = "; ".join(f"{bad.path} is {bad.problem}" for bad in checked.bad[:3])
        fix = f"ulora verify {pointer.version} --read-data"
        if problem:
            yield Finding(subject, "error", f"{pointer.version}: {problem}", fix)
        else:
            yield Finding(subject, "ok", f"{pointer.version}: all {checked.files} files are there")


def _check_replicas(registry: Registry) -> Iterator[Finding]:
    for channel in registry.status().channels:
        for replica in channel.replicas:
            behind = replica.generation != channel.generation
            troubled = bool(replica.error) or behind or replica.state != "serving"
            detail = (
                f"{replica.state}, {replica.version} at generation {replica.generation}: {replica.error or 'no error'}"
            )
            yield Finding(
                f"replica {replica.id}", "warning" if troubled else "ok", detail, "ulora status" if troubled else ""
            )


def _check_catalog(registry: Registry) -> Iterator[Finding]:
    if registry.settings.tracking_uri is None:
        yield Finding("MLflow", "warning", "no tracking server is set", "set MLFLOW_TRACKING_URI")
        return
    drift = registry.reconcile(dry_run=True)
    for damaged in drift.damaged:
        yield Finding("MLflow", "error", f"can't be shown: {damaged}", "ulora verify --all")
    todo = [f"{version} is not logged" for version in drift.logged] + list(drift.changes)
    if todo:
        yield Finding("MLflow", "warning", f"does not show what is true: {'; '.join(todo[:3])}", "ulora reconcile")
    elif not drift.skipped:
        yield Finding("MLflow", "ok", "shows what is true")
    for skipped in drift.skipped:
        yield Finding("MLflow", "warning", f"left alone: {skipped}", "ulora reconcile, or --adopt if it should be ours")


def _check_machine(registry: Registry) -> Iterator[Finding]:
    folder = registry.settings.cache
    existing = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        yield Finding("disk", "error", f"the cache {folder} can't be written", "set ULORA_CACHE")
        return
    level = "ok" if free > _LOW_DISK else "warning"
    yield Finding(
        "disk", level, f"{free / 1e9:.1f} GB free for the cache {folder}", "" if level == "ok" else "free some"
    )


_CHECKS: dict[str, Check] = {
    "store": _check_store,
    **{name: _check_channel(name) for name in CHANNELS},
    "replicas": _check_replicas,
    "MLflow": _check_catalog,
    "machine": _check_machine,
}
