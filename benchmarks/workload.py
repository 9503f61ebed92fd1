"""A workload with the sizes and shapes of the public AADS release: `python -m benchmarks.workload`.

Eight targets in the layout `<crop>/<part>/continual_sd_lora_adapter/` on a DINOv3 ViT-L/16: files of the published
sizes, which determine ranks, classes and banks, with random weights. The release is written into a temporary folder,
imported as by `ulora create`, and loaded in a separate process (`benchmarks.footprint`), which answers a mixed batch
with one row per target and measures everything.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from adapters.importing import convert
from benchmarks.comparison import Budget, Result, option_json, option_rounds, option_size, option_threads, run, say
from benchmarks.footprint import Footprint, in_fresh_process
from benchmarks.residents import adapter_bytes
from benchmarks.synthetic import MODULES, SyntheticBackbone, make_backbone, write_lora

LAYERS, WIDTH = (2, 5, 8, 11), 768
"""The heads fuse the mean tokens of these hidden states, each projected to this width."""

LIMIT, MEMORY = 1.2, 24e9
"""Memory may grow by this many times the bytes of the adapters' files, and must stay below this many bytes."""

_OVERHEAD, _NUMBER = 1_900, 17.4
"""Bytes of a `.pth` file besides its tensors, and of a number in a JSON file."""
_MB = 1e6

EXAMPLES = """
\b
Examples:
  python -m benchmarks.workload                       some minutes, 4 GB of disk for as long as it runs
  python -m benchmarks.workload --threads 1 --json
  python -m benchmarks.workload --size tiny-dinov3    seconds; a look at whether it runs
"""


@dataclass(frozen=True)
class ReleaseFileSizes:
    """A target of the release and the sizes of its files in bytes: LoRA weights, classifier, statistics."""

    target: str
    lora: int
    classifier: int
    meta: int


RELEASE = (
    ReleaseFileSizes("apricot__fruit", 35_425_648, 17_277, 7_888_506),
    ReleaseFileSizes("apricot__leaf", 35_425_648, 11_133, 4_248_712),
    ReleaseFileSizes("grape__fruit", 42_503_568, 17_277, 5_007_181),
    ReleaseFileSizes("grape__leaf", 42_503_568, 23_421, 9_194_251),
    ReleaseFileSizes("strawberry__fruit", 35_425_648, 17_277, 6_340_375),
    ReleaseFileSizes("strawberry__leaf", 42_503_568, 14_205, 13_573_527),
    ReleaseFileSizes("tomato__fruit", 42_503_568, 23_421, 3_616_421),
    ReleaseFileSizes("tomato__leaf", 56_659_384, 32_637, 33_776_004),
)
"""As published in July 2026 (`aads.adapter_release.v2`)."""


@dataclass(frozen=True)
class AdapterShape:
    """The content of a target's files: a LoRA on all linear modules, a classifier, a bank of vectors per class."""

    target: str
    rank: int
    classes: int
    vectors: int

    @classmethod
    def of(cls, published: ReleaseFileSizes, per_rank: int) -> AdapterShape:
        """Derive it from the sizes of the files.

        Args:
            per_rank: bytes of one rank in all linear modules of the release's backbone together.
        """
        classes = round((published.classifier - _OVERHEAD) / (4 * (WIDTH + 1)))
        vectors = round(published.meta / (_NUMBER * WIDTH * classes))
        return cls(published.target, published.lora // per_rank, classes, vectors)


VIT_L_BYTES_PER_RANK = 24 * (4 * (1024 + 1024) + 2 * (1024 + 4096)) * 4
SHAPES = tuple(AdapterShape.of(published, VIT_L_BYTES_PER_RANK) for published in RELEASE)
TINY = tuple(AdapterShape(shape.target, shape.rank // 8, shape.classes, 12) for shape in SHAPES)
"""The same targets, smaller, for the tiny backbone."""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_size(["vit-l", "tiny-dinov3"], "vit-l")
@option_rounds(5)
@option_threads
@option_json
def main(*, size: str, rounds: int, threads: int, as_json: bool) -> None:
    """Import, load and ask a release of eight targets on a ViT-L/16, and report what it takes."""
    run(lambda: workload(size, rounds, threads), threads=threads, as_json=as_json)


def workload(size: str, rounds: int, threads: int) -> Result:
    """Measure the release on a backbone of this size."""
    shapes = SHAPES if size == "vit-l" else TINY
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say(f"making the backbone and {len(shapes)} targets")
        backbone = make_backbone(folder, size)
        release, place = folder / "release", folder / "bundle"
        for seed, shape in enumerate(shapes):
            write_target(release, backbone, shape, seed)
        say("importing")
        start = time.perf_counter()
        convert(release, place, backbone=str(backbone.folder))
        imported = time.perf_counter() - start
        say("loading and asking, in a process of its own")
        seen = in_fresh_process(backbone.folder, [place], threads=threads, rounds=rounds)
        sizes = {"release": _bytes(release), "adapters": adapter_bytes(place), "backbone": _bytes(backbone.folder)}
    grown = seen.loaded - seen.backbone
    return Result(
        benchmark="workload",
        setting={"size": size, "targets": len(shapes), "rows": len(shapes), "pixels": backbone.side, "rounds": rounds},
        figures={
            "shapes": {s.target: f"rank {s.rank}, {s.classes} classes, {s.vectors} vectors each" for s in shapes},
            "files, MB": _in_mb(sizes),
            "memory, MB": _in_mb(_memory(seen)),
            "seconds": {"import": round(imported, 2), **seen.seconds},
            "stages, ms": dict(seen.stages_ms),
            "outcomes": dict(seen.outcomes),
        },
        budgets=[
            Budget("growth of the process / adapter bytes", grown / sizes["adapters"], "at most", LIMIT),
            Budget("peak memory", seen.peak / 1e9, "at most", MEMORY / 1e9, "GB"),
            Budget("rows that got a label", _labelled(seen.outcomes), "at least", len(shapes), "rows"),
        ],
    )


def _memory(seen: Footprint) -> dict[str, int]:
    return {
        "backbone alone": seen.backbone,
        "with the version": seen.loaded,
        "after mixed batches": seen.used,
        "peak": seen.peak,
        "bank": seen.bank,
        "held by the version": seen.held,
    }


def write_target(release: Path, backbone: SyntheticBackbone, shape: AdapterShape, seed: int) -> Path:
    """Write a target's files in the layout of the release; returns its folder."""
    crop, part = shape.target.split("__")
    folder = release / crop / part / "continual_sd_lora_adapter"
    write_lora(folder, backbone, MODULES["all-linear"][backbone.ref.family], shape.rank, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(nn.Linear(WIDTH, shape.classes).state_dict(), folder / "classifier.pth")
        torch.save(_fusion(int(backbone.ref.config["hidden_size"])), folder / "fusion.pth")
        statistics = {str(number): _statistics(shape.vectors) for number in range(shape.classes)}
    meta = {
        "schema_version": "v6",
        "backbone": {"model_name": backbone.ref.name, "frozen": True},
        "fusion": {"layers": list(LAYERS), "output_dim": WIDTH, "dropout": 0.1, "gating": "softmax"},
        "class_to_idx": {f"class_{number}": number for number in range(shape.classes)},
        "ood_state": {"class_stats": statistics, "primary_score_method": "knn", "radial_beta": 1.75},
    }
    (folder / "adapter_meta.json").write_text(json.dumps(meta))
    return folder


def _fusion(hidden: int) -> dict[str, torch.Tensor]:
    state = {
        "scale_logits": torch.zeros(len(LAYERS)),
        "norm.weight": torch.ones(WIDTH),
        "norm.bias": torch.zeros(WIDTH),
    }
    for number in range(len(LAYERS)):
        layer = nn.Linear(hidden, WIDTH)
        state |= {f"projections.{number}.{name}": tensor.detach() for name, tensor in layer.state_dict().items()}
    return state


def _statistics(vectors: int) -> dict[str, Any]:
    """The statistics of one class: a bank of vectors of length about 1.75, far from those of any random image."""
    bank = (torch.randn(vectors, WIDTH, dtype=torch.float64) * 0.06).tolist()
    return {"knn_bank": [[round(number, 13) for number in row] for row in bank], "knn_k": 10, "knn_threshold": 1.0}


def _labelled(outcomes: Mapping[str, int]) -> int:
    return outcomes.get("answer", 0) + outcomes.get("review", 0)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _in_mb(sizes: Mapping[str, int]) -> dict[str, float]:
    return {name: round(size / _MB, 1) for name, size in sizes.items()}


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.workload")
