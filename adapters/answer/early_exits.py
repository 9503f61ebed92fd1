"""Early exits of an adapter: heads at several blocks, and the mode in which rows use them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import bundle
from adapters.answer.heads import read_head
from adapters.answer.ood import read_detector
from adapters.answer.stages import Stage
from adapters.bundle import BundleFiles
from registry.errors import BadManifest

EXITS = "exits.json"
MODES = ("full", "dynamic", "static")
"""All blocks for all rows; as many as each row needs; the same smaller number for all rows."""
MAX_EXITS = 64


@dataclass(frozen=True)
class Depth:
    """How many blocks the rows of an adapter pass.

    Attributes:
        mode: one of `MODES`.
        exits: the stages before the last block, the earliest first.
        cut: the block of `static`, one of the exits' blocks; None without one.
        report: the results of the calibration.
    """

    mode: str
    exits: tuple[Stage, ...]
    cut: int | None
    report: dict[str, Any]

    def stages(self, last: Stage) -> tuple[Stage, ...]:
        """The stages that rows pass in this mode."""
        if self.mode == "dynamic":
            return (*self.exits, last)
        if self.mode == "static":
            head = next(stage for stage in self.exits if stage.block == self.cut)
            return (Stage(head.head, head.detector),)
        return (last,)


def exit_folder(folder: str, block: int) -> str:
    """The folder of an exit's head and detector in a bundle."""
    return f"{folder}/exits/{block}"


def write_depth(folder: Path, depth: Depth) -> None:
    """Write the files that `read_depth` reads into an adapter's folder.

    Raises:
        ValueError: when an exit has no detector, or the exits are not in ascending order.
    """
    blocks = [stage.block for stage in depth.exits]
    if blocks != sorted(set(blocks)) or not all(stage.detector for stage in depth.exits):
        raise ValueError(f"the exits at {blocks} do not ascend, or one has no detector")
    for stage in depth.exits:
        inner = Path(exit_folder(str(folder), stage.block))
        bundle.save(inner, bundle.HEAD, stage.head)
        if stage.detector:
            bundle.save(inner, bundle.OOD, stage.detector)
    entries = [{"block": stage.block, "threshold": stage.threshold} for stage in depth.exits]
    document = {"mode": depth.mode, "exits": entries, "cut": depth.cut, "report": depth.report}
    bundle.write_document(folder / EXITS, document)


def read_depth(files: BundleFiles, folder: str, hidden_size: int, depth: int, device: str) -> Depth | None:
    """Read the exits in an adapter's folder of a bundle; None if it has no exits.

    Args:
        hidden_size, depth: the backbone's width and number of blocks.

    Raises:
        BadManifest, BadWeights, MissingBlob: when a file is missing, malformed, or does not fit the backbone.
    """
    path = f"{folder}/{EXITS}"
    if path not in files:
        return None
    document = files.document(path)
    mode, entries, cut = document.get("mode"), document.get("exits"), document.get("cut")
    if mode not in MODES or not isinstance(entries, list) or not 0 < len(entries) <= MAX_EXITS:
        raise BadManifest(f"{path}: mode {str(mode)[:40]!r} or its exits are not known to this release")
    blocks = [_read_number(entry, "block", path) for entry in entries]
    if blocks != sorted(set(blocks)) or not all(0 < block < depth for block in blocks):
        raise BadManifest(f"{path}: the exits' blocks {str(blocks)[:100]} do not ascend below {depth}")
    if (cut is not None or mode == "static") and cut not in blocks:
        raise BadManifest(f"{path}: the cut {str(cut)[:20]} is not one of the exits")
    stages = []
    for block, entry in zip(blocks, entries, strict=True):
        inner, threshold = exit_folder(folder, int(block)), _read_number(entry, "threshold", path)
        head = read_head(files, inner, hidden_size, depth, device)
        stage = Stage(head, read_detector(files, inner, hidden_size, depth, device), threshold)
        if stage.block != block or threshold <= 0:
            raise BadManifest(f"{inner} takes features of block {stage.block}, or its threshold is not positive")
        stages.append(stage)
    report = document.get("report")
    return Depth(mode, tuple(stages), cut, report if isinstance(report, dict) else {})


def _read_number(entry: Any, name: str, path: str) -> float:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadManifest(f"{path}: an exit's {name} is {str(value)[:40]!r}, not a number")
    return value
