"""A configuration that no release could load is refused before it becomes a version."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.answer.loading import load
from adapters.importing.literal_names import literal_documents
from registry.errors import BadManifest, BadWeights
from registry.versions.bundle import read_bundle
from tests.support.bundles import manifest_of, write_bundle
from tests.support.bundles import read_bundle as files_of

CONFIG = "adapters/low/adapter_config.json"


def field(name: str, value: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | {name: value}).encode()


def text(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | {"x": "here"}).replace(old, new).encode()


UNUSABLE: dict[str, Callable[[bytes], bytes]] = {
    **{f"target_modules {value}": field("target_modules", value) for value in (7, None, {}, [], "", ["q_proj", 7])},
    **{f"r {value}": field("r", value) for value in (-1, 0, 1.5, "4", True, None, 10**9)},
    "r NaN": text('"r": 4', '"r": NaN'),
    "lora_alpha": field("lora_alpha", [4]),
    "exclude_modules": field("exclude_modules", {"a": 1}),
    "layers_to_transform": field("layers_to_transform", ["0"]),
    "rank_pattern": field("rank_pattern", {"q_proj": -1}),
    "alpha_pattern": field("alpha_pattern", ["q_proj"]),
    "use_dora": field("use_dora", "yes"),
    "too many names": field("target_modules", [f"n{number}" for number in range(10_001)]),
    "too large": field("x", "a" * (16 * 1024 * 1024)),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "nested": text('"here"', '{"a":' * 100_000 + "1" + "}" * 100_000),
    "a list": lambda data: b"[]",
    "twice the same key": text('"x"', '"r"'),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_what_loading_refuses_is_no_version(how: str, tmp_path: Path) -> None:
    config = write_bundle(tmp_path, targets=("low",)) / CONFIG
    config.write_bytes(UNUSABLE[how](config.read_bytes()))
    bundle = read_bundle(tmp_path)
    with pytest.raises((BadWeights, BadManifest), match=CONFIG):
        literal_documents(bundle.paths, bundle.backbone)
    with pytest.raises((BadWeights, BadManifest), match=CONFIG):
        load(manifest_of(tmp_path), files_of(tmp_path))


def test_the_check_does_not_import_torch() -> None:
    lines = "import sys, adapters.importing.literal_names; sys.exit('torch' in sys.modules or 'peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lines], check=False, timeout=300).returncode == 0
