"""What a measured row depends on besides its sizes: the code, the libraries and the machine."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from registry.machine import provenance
from registry.machine.hardware import this_machine

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("adapters", "benchmarks", "registry")


@cache
def conditions() -> dict[str, Any]:
    """As JSON. `code` is a digest of the Python files: unlike a commit it also tells what is not committed."""
    machine = this_machine()
    return {
        "code": code_digest(_ROOT),
        "processor": machine.cpu,
        "number of cores": machine.cores,
        "quota": machine.quota,
        "set of libraries": {"python": platform.python_version(), **provenance.libraries()},
    }


def differing(kept: Mapping[str, Any]) -> list[str]:
    """The conditions that are not those of this process, by name."""
    return [name for name, value in conditions().items() if name not in kept or kept[name] != value]


def code_digest(root: Path) -> str:
    """The sha256, in hex, of the paths and contents of the packages' Python files."""
    digest = hashlib.sha256()
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        body = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(body)}\n".encode() + body)
    return digest.hexdigest()
