"""The torch side imports only a few, stable modules of `registry`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import adapters

ALLOWED = {
    "registry.errors",
    "registry.evidence.stats",
    "registry.formats.bounded",
    "registry.formats.canonical",
    "registry.formats.counts",
    "registry.formats.html",
    "registry.formats.local_file",
    "registry.machine.cores",
    "registry.machine.programs",
    "registry.names",
    "registry.versions.manifest",
    "registry.versions.weights",
}


def imported(path: Path) -> Iterator[str]:
    """The modules, or names in modules, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_allowed(name: str) -> bool:
    return name in ALLOWED or name.rpartition(".")[0] in ALLOWED


def test_adapters_import_only_allowed_modules_of_registry() -> None:
    files = list(Path(adapters.__file__).parent.rglob("*.py"))
    used = {(path.name, name) for path in files for name in imported(path) if name.split(".")[0] == "registry"}
    assert [one for one in sorted(used) if not is_allowed(one[1])] == []
    assert {name for _, name in used} != set(), "the files were found"


def test_other_modules_of_registry_are_not_allowed() -> None:
    assert is_allowed("registry.versions.manifest.Manifest")
    assert not is_allowed("registry.versions.bundle.read_bundle")
    assert not is_allowed("registry.api")
