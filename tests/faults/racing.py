"""Several people at one store, each a process with a schedule of its own drawn by a seed; what each was told.

Run as a program: it loads everything once, forks a process a person, and lets all go at once. Each writes its story,
a JSON document a line: what it did and what it was told.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from registry.api import Registry
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.errors import UloraError
from registry.retention.forget import RetentionRule
from registry.versions.manifest import Component, FileEntry, Manifest
from tests.support.registries import open_registry

VERSIONS = tuple(f"v{number}.0.0" for number in range(1, 6))
TAKEN = "v9.0.0"
"""The name that several want."""
_ACTS = ("promote", "promote", "promote_seen", "roll_back", "roll_back_from", "roll_back_to", "again", "part", "create")
_GRACE = timedelta(hours=1)


def open_desk(folder: Path, store: str, model: str, who: str) -> Registry:
    """The store as one person sees it."""
    return open_registry(folder / who, store, model, who=who)


def make_version(registry: Registry, name: str, mark: str) -> Manifest:
    """A version of two components of one small file each, not bound yet; its files are in the store."""
    bodies = {f"adapters/{part}/a.txt": f"{part} {mark}".encode() for part in ("high", "low")}
    files = [FileEntry(path=path, size=len(body), sha256=registry.blobs.put(body)) for path, body in bodies.items()]
    return Manifest.make(
        model=registry.model, version=name, flavor="empty", backbone=None, files=files,
        components={"adapters/low": Component(), "adapters/high": Component()}, timestamp=datetime.now(UTC).isoformat(),
    )  # fmt: skip


def bind(registry: Registry, manifest: Manifest) -> bool:
    """Give a version its name, as `create` does."""
    return registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))


class Person:
    """Does one thing after the other, and notes what it was told."""

    def __init__(self, registry: Registry, schedule: random.Random) -> None:
        self.registry = registry
        self.schedule = schedule
        self.log = registry.channel("production")

    def act(self) -> dict[str, Any]:
        """Do the next thing; what it was and what was told."""
        name = self.schedule.choice(_ACTS)
        version = self.schedule.choice(VERSIONS)
        done: dict[str, Any] = {"act": name, "version": version}
        try:
            return done | getattr(self, f"_{name}")(version)
        except UloraError as error:
            return done | {"error": type(error).__name__, "message": str(error)}

    def _promote(self, version: str) -> dict[str, Any]:
        return _told(self.registry.promote(version, "production", PromoteOptions(force=True), reason="a race"))

    def _promote_seen(self, version: str) -> dict[str, Any]:
        """Only if nobody moves it between looking and writing."""
        head = self.log.head()
        expected = head.generation if head else 0
        told = self.registry.promote(
            version, "production", PromoteOptions(force=True, expected=expected), reason="a race"
        )
        return _told(told) | {"expected": expected}

    def _roll_back(self, _: str) -> dict[str, Any]:
        return _told(self.registry.rollback())

    def _again(self, _: str) -> dict[str, Any]:
        return _told(self.registry.rollback(options=RollbackOptions(again=True)))

    def _roll_back_from(self, version: str) -> dict[str, Any]:
        return _told(self.registry.rollback(options=RollbackOptions(leave=version)))

    def _roll_back_to(self, version: str) -> dict[str, Any]:
        return _told(self.registry.rollback(options=RollbackOptions(to=version)))

    def _part(self, _: str) -> dict[str, Any]:
        return _told(self.registry.rollback(only=["adapters/low"], options=RollbackOptions(again=True)))

    def _create(self, version: str) -> dict[str, Any]:
        """One of two contents for a name that others want as well."""
        manifest = make_version(self.registry, TAKEN, mark=str(int(version[1]) % 2))
        return {"is_new": bind(self.registry, manifest), "content_sha256": manifest.content_sha256}


def _told(change: Any) -> dict[str, Any]:
    return {
        "changed": change.changed, "generation": change.generation, "serves": change.version, "did": change.action,
    }  # fmt: skip


def collect(registry: Registry, times: int) -> None:
    """Forget and prune, again and again, beside the others."""
    for _ in range(times):
        with suppress(UloraError):
            registry.collect_garbage(RetentionRule(3, timedelta()), grace=_GRACE)


def main(store: str, model: str, folder: str, seed: str, people: str, steps: str) -> None:
    """Play; each person's story lies in `folder/<who>.jsonl` then."""
    read, write = os.pipe()
    Registry(settings=replace(open_desk(Path(folder), store, model, "nobody").settings)).store._client._session.client(
        "s3"
    )

    def person(who: str) -> None:
        me = Person(open_desk(Path(folder), store, model, who), random.Random(f"{seed}/{who}"))
        me.log.head()
        os.read(read, 1)
        story = [me.act() for _ in range(int(steps))]
        (Path(folder) / f"{who}.jsonl").write_text("".join(json.dumps(step) + "\n" for step in story))

    def collector(who: str) -> None:
        registry = open_desk(Path(folder), store, model, who)
        os.read(read, 1)
        collect(registry, 2)

    acts: list[tuple[Callable[[str], None], str]] = [(person, f"person-{number}") for number in range(int(people))]
    children = [_fork(act, who) for act, who in [*acts, (collector, "collector")]]
    os.write(write, b"x" * len(children))
    codes = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(codes))


def _fork(act: Callable[[str], None], who: str) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act(who)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


if __name__ == "__main__":
    main(*sys.argv[1:])
