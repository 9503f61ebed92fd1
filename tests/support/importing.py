"""Importing a source in tests: the layouts' folders, and what an import makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.importing import ImportResult, convert
from registry.formats.canonical import sha256
from registry.versions.bundle import read_bundle
from tests.support.bundles import read_bundle as files_of
from tests.support.other_adapter_layouts import edit_json

PHASE = "phase3_conec_lora_adapter"


RELEASE = "tomato/leaf/continual_sd_lora_adapter"


def taken_in(source: Path, **hints: Any) -> tuple[LoadedVersion, ImportResult]:
    bundle = source.parent / "bundle"
    imported = convert(source, bundle, **hints)
    read_bundle(bundle)
    return load_bundle(files_of(bundle)), imported


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


def edited(**fields: Any) -> Callable[[Path], None]:
    return lambda path: edit_json(path, lambda document: document.update(fields))
