"""What exits save on a large backbone if the same shares of images leave at them as on a small, trained one.

Only trained weights decide whether an image may leave early, and the available ones are tiny: 0.7 million parameters,
where a block takes as long as an exit. So the shares of images that leave are taken from there, and the time from a
ViT-B with random weights: exits at the same relative depths, thresholds set so that the same shares leave.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from adapters.answer.early_exits import Depth
from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.answer.stages import Stage
from adapters.backbone.features import FeatureSpec
from benchmarks.comparison import Times, take_turns
from benchmarks.synthetic import MODULES, detector_at, head_at, make_backbone, noise, write_bundle

IMAGES = 24
TARGET = "leaf"
RANK = 16


@dataclass(frozen=True)
class EarlyExitShares:
    """How many images leave where: relative depth -> share of all images, without those at full depth."""

    shares: Mapping[float, float]

    def counts(self, images: int, depth: int) -> dict[int, int]:
        """Block -> how many of `images` leave there, on a backbone of this depth."""
        counts: dict[int, int] = {}
        left, so_far = 0, 0.0
        for place, share in self.shares.items():
            so_far += share
            block = max(1, min(depth - 1, round(place * depth)))
            counts[block] = counts.get(block, 0) + round(so_far * images) - left
            left = round(so_far * images)
        return {block: count for block, count in counts.items() if count}


@dataclass(frozen=True)
class Speed:
    """Latencies of single images, full and dynamic, and the mean number of blocks of dynamic."""

    times: Mapping[str, Times]
    mean_blocks: float

    @property
    def saving(self) -> float:
        """The share of the mean latency that exits save."""
        return 1 - self.times["dynamic"].mean / self.times["full"].mean


def speed(leaving: EarlyExitShares, size: str, folder: Path) -> Speed:
    """Measure on a backbone of this size, written into `folder`."""
    backbone = make_backbone(folder, size)
    modules = MODULES["q,v"][backbone.ref.family]
    files = write_bundle(folder / "bundle", backbone, targets=[TARGET], modules=modules, rank=RANK, seed=1)
    full = load_bundle(files, backbone_folders=[backbone.folder])
    images = noise(IMAGES, backbone.side)
    dynamic = _with_exits(full, images, leaving)
    blocks = [dynamic.predict([image], target=TARGET)[0].blocks_used for image in images]
    ways = {"full": _one_by_one(full, images), "dynamic": _one_by_one(dynamic, images)}
    return Speed(take_turns(ways, len(images), warm_up=0), sum(blocks) / len(blocks))


def _with_exits(full: LoadedVersion, images: Sequence[np.ndarray], leaving: EarlyExitShares) -> LoadedVersion:
    """The version with exits at which the given shares of the images leave."""
    adapter = full.components.adapters[TARGET]
    depth = int(full.backbone.config["num_hidden_layers"])
    width = int(full.backbone.config["hidden_size"])
    counts = leaving.counts(len(images), depth)
    stages = [
        Stage(
            head_at(FeatureSpec(block, "cls"), adapter.labels, width, block),
            detector_at(FeatureSpec(block, "cls"), adapter.labels, width),
        )
        for block in sorted(counts)
    ]
    features = full.features_at(list(images), TARGET, [stage.head.feature_specs[0] for stage in stages])
    sure = {stage.block: stage.head(features).logits.softmax(dim=1).amax(dim=1) for stage in stages}
    thresholds = thresholds_for(sure, counts)
    exits = tuple(replace(stage, threshold=thresholds[stage.block]) for stage in stages)
    changed = replace(adapter, depth=Depth("dynamic", exits, None, {})) if exits else adapter
    return LoadedVersion(full.version, "", replace(full.components, adapters=MappingProxyType({TARGET: changed})), {})


def thresholds_for(sure: Mapping[int, torch.Tensor], counts: Mapping[int, int]) -> dict[int, float]:
    """Thresholds at which the given numbers of images leave.

    Args:
        sure: block -> [N], the confidence of its head for each image.
        counts: block -> how many are to leave there.
    """
    thresholds = {}
    left = torch.arange(len(next(iter(sure.values()), torch.zeros(0))))
    for block in sorted(counts):
        ordered = sure[block][left].sort(descending=True).values
        after = float(ordered[counts[block]]) if counts[block] < len(ordered) else 0.0
        thresholds[block] = (float(ordered[counts[block] - 1]) + after) / 2
        left = left[sure[block][left] < thresholds[block]]
    return thresholds


def _one_by_one(version: LoadedVersion, images: Sequence[np.ndarray]) -> Callable[[], object]:
    """A turn answers the next image."""
    following = itertools.cycle(images)
    return lambda: version.predict([next(following)], target=TARGET)
