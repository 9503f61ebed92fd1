"""A real store whose clock can be set ahead, and which can run an action before any of its calls.

    registry.store.days = 31              # everything that was written before is a month old
    registry.store.before("swap", act)    # `act` runs once, just before the next call of this method

Versions here are tiny: each file is a few bytes of the test's own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from registry.api import Registry
from registry.formats import canonical
from registry.store import layout
from registry.store.client import S3Client
from registry.store.object_info import ObjectInfo, StoredObject
from registry.store.objects import ObjectStore
from registry.store.publishing import publish
from registry.versions.manifest import Component, FileEntry, Manifest
from tests.support.registries import open_registry

_WRITES = ("create", "upload", "replace", "swap")
STEPS = ("get", "head", "list", "folders", "now", "create", "upload", "replace", "swap", "delete", "abort_uploads")


class Calendar(ObjectStore):
    """An `ObjectStore` of the real server. `days` is how far its clock is ahead, now and at what it writes."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.days = 0.0
        self.steps: list[str] = []
        self._written: dict[str, float] = {}
        self._lock = threading.Lock()
        self._plans: list[tuple[Callable[[str, str], bool], Callable[[], object]]] = []

    def now(self) -> datetime:
        return super().now() + timedelta(days=self.days)

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        stored = super().get(key, limit)
        if key != layout.GC_KEY:
            return stored  # how old a heartbeat or a record is does not depend on the calendar here
        written = timedelta(days=self._written.get(key, 0))
        passed = timedelta(days=self.days) - written
        return replace(stored, modified=stored.modified + written, age=stored.age + passed.total_seconds())

    def head(self, key: str) -> ObjectInfo | None:
        info = super().head(key)
        if info is None:
            return None
        assert info.read_at
        return replace(self._dated(info), read_at=info.read_at + timedelta(days=self.days))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return map(self._dated, super().list(prefix))

    def _dated(self, info: ObjectInfo) -> ObjectInfo:
        assert info.modified
        return replace(info, modified=info.modified + timedelta(days=self._written.get(info.key, 0)))

    def before(self, method: str, act: Callable[[], object], containing: str = "") -> None:
        """Run `act` once, just before the next call of a method on a key that contains a text."""
        self._plans.append((lambda name, key: name == method and containing in key, act))

    def at_step(self, number: int, act: Callable[[], object]) -> None:
        """Run `act` once, just before the call of this number from now on, counted from 0."""
        first = len(self.steps)
        self._plans.append((lambda name, key: len(self.steps) == first + number, act))

    def _step(self, name: str, key: str) -> None:
        with self._lock:
            due = [plan for plan in self._plans if plan[0](name, key)]
            self._plans = [plan for plan in self._plans if plan not in due]
            self.steps.append(f"{name} {key}")
        for _, act in due:
            act()
        if name in _WRITES:
            self._written[key] = self.days


def _stepped(name: str) -> Callable[..., Any]:
    real = getattr(Calendar, name)

    def call(self: Calendar, *arguments: Any, **options: Any) -> Any:
        self._step(name, str(arguments[0]) if arguments else "")
        return real(self, *arguments, **options)

    return call


for _name in STEPS:
    setattr(Calendar, _name, _stepped(_name))


def open_calendar(folder: Path, store: str, model: str) -> tuple[Registry, Calendar]:
    """A registry on such a store. All share their connections, which take long to make."""
    registry = open_registry(folder, store, model)
    calendar = Calendar(store)
    shared = _connections(os.environ["AWS_ENDPOINT_URL_S3"], os.environ["AWS_ACCESS_KEY_ID"])
    calendar._client.__dict__.update(shared)
    registry.wiring.__dict__["store"] = calendar
    return registry, calendar


@cache
def _connections(endpoint: str, who: str) -> dict[str, Any]:
    """What any `S3Client` needs to reach this server as this user."""
    client = S3Client("s3://bucket")
    return {name: getattr(client, name) for name in ("_session", "transfers", "reads", "unretried")}


def manifest_of(model: str, name: str, *files: bytes) -> Manifest:
    """What a tiny version is."""
    entries = [
        FileEntry(path=f"config/{number}", size=len(body), sha256=canonical.sha256(body))
        for number, body in enumerate(files)
    ]
    return Manifest.make(
        model=model, version=name, flavor="empty", backbone=None, files=entries,
        components={"config": Component()}, timestamp="2026-11-21T12:00:00Z",
    )  # fmt: skip


def release(
    registry: Registry, name: str, *files: bytes, patience: float = 0, then: Callable[[], object] = lambda: None
) -> None:
    """Publish a tiny version, as `create` does; `then` is called as soon as its name is bound."""
    manifest = manifest_of(registry.model, name, *files)
    folder = registry.settings.cache / "files"
    folder.mkdir(parents=True, exist_ok=True)
    for body in files:
        (folder / canonical.sha256(body)).write_bytes(body)

    def commit() -> None:
        registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))
        registry.wiring.forgotten.take_back(name)
        then()

    local = lambda file: nullcontext(folder / file.sha256)  # noqa: E731
    publish(registry.store, manifest.files, local, commit, patience=patience)


def has(registry: Registry, *files: bytes) -> bool:
    """Whether the store holds these bytes as blobs."""
    return all(registry.store.head(layout.blob(canonical.sha256(body))) is not None for body in files)
