"""Shards that a version of flavor `echo` answers, without a store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.serving.batch.folder import BatchFolder
from registry.serving.batch.inputs import open_input
from registry.serving.batch.options import PredictOptions, Shard
from registry.serving.batch.plan import BatchPlan
from registry.serving.batch.shard import ShardJob
from registry.store.objects import ObjectStore
from registry.versions.pointer import Pointer
from tests.support.echo_releases import Echo

POINTER = Pointer(version="v1.0.0", manifest_sha256="a" * 64)


def write_files(folder: Path, count: int) -> Path:
    """So many different files, in folders of ten."""
    for number in range(count):
        place = folder / f"{number // 10:03d}" / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(f"leaf {number}".encode())
    return folder


def no_store(url: str) -> ObjectStore:
    raise AssertionError(url)


def job(
    text: Path | str, out: Path, *, pointer: Pointer = POINTER, version: Any = None,
    open_store: Callable[[str], ObjectStore] = no_store, **options: Any,
) -> ShardJob:  # fmt: skip
    """A shard's job, in parts of three; `version` answers instead of an `Echo`."""
    wanted = PredictOptions(**{"part_rows": 3, **options})
    loaded = version or Echo(pointer.version, "c" * 64, b"weights")

    def find(known: BatchPlan | None) -> Pointer:
        return pointer

    source = open_input(str(text), open_store)
    return ShardJob("a-model", str(text), source, BatchFolder(out, wanted.shard), wanted, find, lambda plan: loaded)


def parts_of(out: Path) -> dict[str, bytes]:
    """The parts that a folder has, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("part-*"))}


def rows_in(out: Path) -> list[dict[str, Any]]:
    """All rows of a folder's parts, JSON lines."""
    return [json.loads(line) for body in parts_of(out).values() for line in body.splitlines()]


def shards(count: int) -> list[Shard]:
    return [Shard(number, count) for number in range(1, count + 1)]
