"""Early exits for bundles of tests, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from adapters import bundle
from adapters.answer.early_exits import Depth, write_depth
from adapters.answer.heads import LinearHead
from adapters.answer.ood import Mahalanobis
from adapters.answer.stages import Stage
from adapters.backbone.features import FeatureSpec
from tests.support.bundles import LABELS

WIDTH = 96


def add_exits(folder: Path, target: str, blocks: Sequence[int] = (2, 4), *, mode: str = "dynamic") -> Path:
    """Give a target of a bundle exits at these blocks of a tiny backbone."""
    exits = tuple(_exit(LABELS[target], block) for block in blocks)
    report = {"dynamic": {"mean_blocks": blocks[0] + 0.5}}
    write_depth(folder / bundle.adapter_folder(target), Depth(mode, exits, blocks[0], report))
    return folder


def _exit(labels: Sequence[str], block: int) -> Stage:
    spec, random, count = FeatureSpec(block, "cls"), torch.Generator().manual_seed(block), len(labels)
    head = LinearHead(tuple(labels), spec, torch.randn(count, WIDTH, generator=random), torch.zeros(count))
    detector = Mahalanobis(
        tuple(labels), spec, torch.zeros(count, WIDTH), torch.eye(WIDTH), torch.ones(count), 0.05
    )  # fmt: skip
    return Stage(head, detector, 0.9)
