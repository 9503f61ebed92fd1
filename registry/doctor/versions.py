"""Checks of the versions themselves, served or not."""

from __future__ import annotations

from collections.abc import Iterator

from registry.answers import Finding
from registry.api import Registry
from registry.errors import IntegrityError, StoreDenied
from registry.formats.counts import counted
from registry.integrity.loadable import LoadableChecks
from registry.parallel import in_parallel

_MAX_VERSIONS = 300
"""How many versions are looked at: the last ones in the order of names. `ulora verify --all` looks at all."""


def check_loadable(registry: Registry) -> Iterator[Finding]:
    """Versions that loading would refuse by their documents, such as adapters whose training changed the backbone."""
    checks = LoadableChecks(registry.blobs)
    forgotten = set(registry.wiring.forgotten.versions())

    def problem(name: str) -> str:
        try:
            refused = checks.refused(registry.manifest(name))
        except IntegrityError:  # `verify` reports it
            return ""
        except StoreDenied:
            unread.append(name)
            return ""
        return "; ".join(f"{path}: {why}" for path, why in refused.items())

    unread: list[str] = []
    names = [name for name in map(str, registry.bindings.names()[-_MAX_VERSIONS:]) if name not in forgotten]
    found = {name: text for name, text in zip(names, in_parallel(problem, names), strict=True) if text}
    for name, text in found.items():
        fix = "create a version of the converted adapters: docs/importing.md"
        yield Finding("adapters", "error", f"{name} can't be loaded: {text}"[:500], fix)
    if unread:
        detail = f"{counted(len(unread), 'version')} may not be read, e.g. {min(unread)}"
        yield Finding("adapters", "warning", detail, "ulora verify --all")
    if names and not found and not unread:
        yield Finding("adapters", "ok", f"none of {len(names)} versions is known to be refused at loading")
