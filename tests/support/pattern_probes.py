"""Patterns of `adapter_config.json` that hold the interpreter's lock for ever, and what every door does with them.

Run as a program (`python -m tests.support.pattern_probes`), it sends some of them through every door, and prints what
became of each as JSON. A test runs it in a process that can be killed, as code that matches them in its own hangs.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 0.3
"""The deadline in these tests; each of these patterns takes minutes at least."""

OPTIONAL = ".?" * 60 + "X"
NESTED = r"((\w|\.)+)+#"
PROBES: dict[str, dict[str, Any]] = {
    "optional letters": {"target_modules": OPTIONAL},
    "nested repetition": {"target_modules": NESTED},
    "alternatives that overlap": {"target_modules": r"(.|\w)*#"},
    "a look-ahead": {"target_modules": rf"(?={NESTED}).*"},
    "a negative look-ahead": {"target_modules": rf"^(?!{NESTED}).*$"},
    "a back-reference": {"target_modules": r"(?:(\w+|\.)+\1?)+#"},
    "counted repetition": {"target_modules": r"(?:.{0,60}){60}#"},
    "many stars": {"target_modules": ".*" * 12 + "#"},
    "a long alternation": {"target_modules": "(?:" + "|".join([*["(?:.+)+"] * 100, "q"]) + ")+#"},
    "exclude_modules": {"exclude_modules": OPTIONAL},
    "exclude_modules with a look-ahead": {"exclude_modules": rf"(?!{NESTED}).*x"},
    "layers_pattern": {"layers_to_transform": [1], "layers_pattern": OPTIONAL},
    "a list of layers_pattern": {"layers_to_transform": [1], "layers_pattern": ["block", NESTED]},
    "rank_pattern": {"rank_pattern": {OPTIONAL: 4}},
    "the second of rank_pattern": {"rank_pattern": {"k_proj": 4, f"{NESTED}": 4}},
    "alpha_pattern": {"alpha_pattern": {f"(.*_?)*{OPTIONAL}": 8}},
    "out of the group of alpha_pattern": {"alpha_pattern": {f"#)|({NESTED}": 8}},
}
"""What each adds to a configuration."""

AT_EVERY_DOOR = ("optional letters", "alpha_pattern")


def change(path: Path, fields: dict[str, Any]) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _load(folder: Path, fields: dict[str, Any]) -> None:
    from adapters.answer.loading import load
    from tests.support.bundles import manifest_of, read_bundle, write_bundle

    write_bundle(folder, targets=("low",))
    change(folder / "adapters/low/adapter_config.json", fields)
    load(manifest_of(folder), read_bundle(folder))


def _import(folder: Path, fields: dict[str, Any]) -> None:
    from adapters.importing import convert
    from tests.support.other_adapter_layouts import write_peft

    write_peft(folder / "maize")
    change(folder / "maize/adapter_config.json", fields)
    (folder / "bundle").mkdir()
    convert(folder / "maize", folder / "bundle", target="maize")


def _create(folder: Path, fields: dict[str, Any]) -> None:
    from registry.plugins import plugin
    from registry.versions.bundle import read_bundle
    from tests.support.bundles import write_bundle

    write_bundle(folder, targets=("low",))
    change(folder / "adapters/low/adapter_config.json", fields)
    bundle = read_bundle(folder)
    plugin("ulora.bundles", bundle.flavor)(bundle.paths, bundle.backbone)


DOORS: dict[str, Callable[[Path, dict[str, Any]], None]] = {"load": _load, "import": _import, "create": _create}


@contextlib.contextmanager
def _ticking() -> Iterator[threading.Event]:
    """An event that another thread sets, again and again, while it can run."""
    ticked, ended = threading.Event(), threading.Event()

    def tick() -> None:
        while not ended.wait(0.01):
            ticked.set()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield ticked
    finally:
        ended.set()
        thread.join()


def _outcome(door: str, probe: str, ticked: threading.Event) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        ticked.clear()
        try:
            DOORS[door](Path(folder), PROBES[probe])
        except Exception as error:
            return [type(error).__name__, str(error), ticked.is_set()]
        return ["nothing was refused", "", ticked.is_set()]


def main() -> None:
    """Send the probes through the doors."""
    with contextlib.suppress(ImportError):
        from adapters.bank import module_patterns

        module_patterns.MATCH_SECONDS = SECONDS
    with _ticking() as ticked:
        outcomes = [[door, probe, *_outcome(door, probe, ticked)] for door in DOORS for probe in AT_EVERY_DOOR]
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
