"""The files of the public release of July 2026, by size: 64 files, 518 MB; their bytes are random.

v1.1.2 followed v1.1.1 by correcting three small files, `production_readiness.json` of three targets.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.workload import RELEASE

LICENSE_BYTES, README_BYTES, CONFIG_BYTES, FUSION_BYTES = 7_579, 2_060, 1_264, 12_605_297
READINESS = {
    "apricot__fruit": 16_929, "apricot__leaf": 14_443, "grape__fruit": 18_276, "grape__leaf": 22_732,
    "strawberry__fruit": 18_174, "strawberry__leaf": 29_737, "tomato__fruit": 16_917, "tomato__leaf": 21_759,
}  # fmt: skip
"""As published (`aads.adapter_release.v2`); of README.md and adapter_config.json, which differ by bytes, the mean."""
CORRECTED = ("grape__leaf", "strawberry__leaf", "tomato__leaf")
"""The targets whose file changes: together about 75 KB, as published."""
_CHUNK = 4 * 1024 * 1024
_LEAST = 100


def release_sizes(scale: float = 1.0) -> dict[str, int]:
    """Path -> bytes of every file. Large files are scaled; small ones stay, as their number is what they cost."""
    sizes: dict[str, int] = {}
    for one in RELEASE:
        crop, part = one.target.split("__")
        folder = f"{crop}/{part}/continual_sd_lora_adapter"
        sizes |= {
            f"{folder}/DINOV3_LICENSE.md": LICENSE_BYTES,
            f"{folder}/README.md": README_BYTES,
            f"{folder}/adapter_config.json": CONFIG_BYTES,
            f"{folder}/adapter_meta.json": _scaled(one.meta, scale),
            f"{folder}/adapter_model.safetensors": _scaled(one.lora, scale),
            f"{folder}/classifier.pth": one.classifier,
            f"{folder}/fusion.pth": _scaled(FUSION_BYTES, scale),
            f"{folder}/production_readiness.json": READINESS[one.target],
        }
    return sizes


def write_release(folder: Path, scale: float = 1.0, seed: int = 0) -> Path:
    """Write v1.1.1. Licences are the same file eight times, as published."""
    for number, (path, size) in enumerate(release_sizes(scale).items()):
        is_licence = path.endswith("LICENSE.md")
        _write(folder / path, size, random.Random(f"{seed}-{'licence' if is_licence else number}"))  # noqa: S311
    return folder


def correct_release(folder: Path, seed: int = 1) -> int:
    """Make it v1.1.2: three small files get other bytes; returns how many bytes these are."""
    changed = 0
    for target in CORRECTED:
        path = folder / target.replace("__", "/") / "continual_sd_lora_adapter" / "production_readiness.json"
        size = path.stat().st_size
        path.unlink()  # it may be the file of v1.1.1 too
        _write(path, size, random.Random(f"{seed}-{target}"))  # noqa: S311
        changed += size
    return changed


def files_below(folder: Path) -> dict[str, Path]:
    """Path -> file, of all files below a folder."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in files_below(folder).values())


def digests_below(folder: Path) -> set[str]:
    """The sha256, in hex, of all files below a folder."""
    found = set()
    for path in files_below(folder).values():
        with path.open("rb") as file:
            found.add(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def _scaled(size: int, scale: float) -> int:
    return max(_LEAST, round(size * scale))


def _write(path: Path, size: int, source: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for chunk in _chunks(size):
            file.write(source.randbytes(chunk))


def _chunks(size: int) -> Iterator[int]:
    for start in range(0, size, _CHUNK):
        yield min(_CHUNK, size - start)
