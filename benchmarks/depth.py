"""What early exits save and what they cost: `python -m benchmarks.depth`.

On a trained tiny backbone and real images: handwritten digits on `adapters/tiny`, one target of ten classes, so that
700 validation images choose the thresholds: with fewer, half a point is less than one image. A bundle with exits is
fitted (or given: `--bundle`), and its test images are answered in three ways with the same weights:

    full       all blocks for every image
    dynamic    each image leaves at the first exit that is confident enough; thresholds are from validation images
    static     every image leaves at one block, the first that is as deep as dynamic is on average

If the calibration finds no threshold that keeps the allowed loss, there are no exits, and nothing is saved.

Latency is of single images, one after the other, from the image file's bytes to the answer; `batches` is the same in
mixed batches of 8, where rows leave one by one. Accuracy is on all test images of all targets. A detector at an early
exit may separate out-of-distribution images less well: `far_auroc` is of the same test images against photographs.

On such a small backbone an exit takes about as long as a block, and decoding the image as long as three. The savings
where blocks are expensive are measured on a ViT-B with random weights, with the same shares of images leaving at the
same relative depths (`benchmarks.depth_speed`).
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from adapters.answer.components import LoadedComponent
from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.answer.predictions import Prediction
from adapters.backbone.locate import TINY
from adapters.fitting.fit import fit
from adapters.fitting.folder_tree import OOD_FOLDER
from adapters.fitting.image_folder import ImageFile, ImageFolder, LabelledImage
from adapters.fitting.ood_metrics import auroc
from adapters.fitting.recipe import Recipe
from benchmarks.comparison import Budget, Result, option_json, option_rounds, option_threads, run, say, take_turns
from benchmarks.depth_speed import EarlyExitShares, speed
from benchmarks.depth_ways import three_ways
from benchmarks.inputs import batches
from benchmarks.synthetic import files_of
from registry.devstack.digits import TARGETS, write_digits
from registry.errors import BadInput

BACKBONES = ("dinov2-tiny", "dinov3-tiny")
PER_ROUND = 40
"""How many images each way answers in a round."""
BATCH = 8

LEAST_SAVING = 0.20
"""The share of the mean latency that dynamic should save."""
MOST_LOSS = 0.5
"""The points of accuracy that it may lose."""

EXAMPLES = """
\b
Examples:
  python -m benchmarks.depth                                fits to 3,500 digits first: some minutes
  python -m benchmarks.depth --backbone dinov3-tiny --json
  python -m benchmarks.depth --data DIR --bundle BUNDLE     a bundle of yours that has exits, on its test images
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--backbone", type=click.Choice(BACKBONES), default=BACKBONES[0], show_default=True)
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Images instead of digits.")
@click.option(
    "--bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A fitted bundle; needs --data."
)
@click.option(
    "--speed-on",
    type=click.Choice(["vit-b", "tiny", ""]),
    default="vit-b",
    show_default=True,
    help="The backbone that latency is measured on too, with the same shares of images leaving early; empty for none.",
)
@option_rounds(20)
@option_threads
@option_json
def main(
    *, backbone: str, data: Path | None, bundle: Path | None, speed_on: str, rounds: int, threads: int, as_json: bool
) -> None:
    """Early exits against full depth and against a static cut of the same mean depth."""
    if bundle is not None and data is None:
        raise click.UsageError("--bundle needs --data, the folder of its images")

    def measure() -> Result:
        with tempfile.TemporaryDirectory() as folder:
            images = ImageFolder(data or _digits(Path(folder) / "digits"))
            place = bundle or _fitted(images, backbone, Path(folder) / "bundle")
            small = depth(load_bundle(files_of(place)), images.split("test"), rounds, far=images.ood("far"))
            return with_speed(small, speed_on, Path(folder) / "speed") if speed_on else small

    run(measure, threads=threads, as_json=as_json)


def depth(
    version: LoadedVersion, images: Sequence[LabelledImage], rounds: int, far: Sequence[ImageFile] = ()
) -> Result:
    """Measure a version with exits on labelled images that were not used for its fit.

    Args:
        far: unrelated images, which detectors should separate.

    Raises:
        BadInput: when there is no image of its targets.
    """
    shuffled = _shuffled([image for image in images if image.target in version.targets])
    if not shuffled:
        raise BadInput("there is no image of the version's targets to measure on")
    ways = three_ways(version)
    say(f"answering {len(shuffled)} images in {len(ways)} ways")
    answered = {name: _DepthResult.of(way, shuffled, far) for name, way in ways.items()}
    full, dynamic, static = answered.values()
    singles = take_turns({name: _in_rounds(way, shuffled, 1) for name, way in ways.items()}, rounds)
    eights = take_turns({f"{name}, batches": _in_rounds(way, shuffled, BATCH) for name, way in ways.items()}, rounds)
    saving = {name: 1 - taken.over(singles["full"]) for name, taken in singles.items()}
    return Result(
        benchmark="depth",
        setting={"backbone": version.backbone.name, "images": len(shuffled), "per_round": PER_ROUND, "rounds": rounds},
        times=singles | eights,
        figures={
            **{f"{name}": one.document(full) for name, one in answered.items()},
            "modes as calibrated": {target: _mode(one) for target, one in version.components.adapters.items()},
            "saving of the static cut": saving["static"],
            "saving in batches, dynamic": 1 - eights["dynamic, batches"].over(eights["full, batches"]),
            "saving in batches, static": 1 - eights["static, batches"].over(eights["full, batches"]),
            "static is as good": bool(
                static.loss(full) <= max(dynamic.loss(full), 0.0) and saving["static"] >= saving["dynamic"]
            ),
        },
        budgets=[
            Budget("mean latency saved by exits", saving["dynamic"], "at least", LEAST_SAVING, "of full depth's"),
            Budget("accuracy lost by exits", dynamic.loss(full), "at most", MOST_LOSS, "points"),
        ],
    )


def with_speed(result: Result, size: str, folder: Path) -> Result:
    """The result, with the savings of exits on a larger backbone if the same shares of images leave early."""
    say(f"measuring the latency on {size}")
    dynamic, last = result.figures["dynamic"], result.figures["full"]["mean_blocks"]
    leaving = {int(block): count for block, count in dynamic["leaving"].items() if int(block) < last}
    shares = {block / last: count / dynamic["n"] for block, count in leaving.items()}
    found = speed(EarlyExitShares(shares), size, folder)
    what = f"mean latency saved on {size}, as many leaving"
    return replace(
        result,
        times={**result.times, **{f"{name}, {size}": times for name, times in found.times.items()}},
        figures={**result.figures, f"mean blocks on {size}": found.mean_blocks},
        budgets=[*result.budgets, Budget(what, found.saving, "at least", LEAST_SAVING, "of full depth's")],
    )


@dataclass(frozen=True)
class _DepthResult:
    """The results of a way: which images are right [N], how many blocks each took [N], and the AUROC against far
    images, None without any.
    """

    right: np.ndarray
    blocks: np.ndarray
    far_auroc: float | None

    @classmethod
    def of(cls, version: LoadedVersion, images: Sequence[LabelledImage], far: Sequence[ImageFile]) -> _DepthResult:
        """Answer all images with their targets given; far images get the targets in turn."""
        answers = _answers(version, images, [image.target for image in images])
        right = [answer.label == image.label for answer, image in zip(answers, images, strict=True)]
        targets = list(itertools.islice(itertools.cycle(version.targets), len(far)))
        others = _answers(version, far, targets)
        inside, outside = ([one.ood_score for one in some if one.ood_score is not None] for some in (answers, others))
        has_all = len(inside) == len(answers) and len(outside) == len(others)
        area = auroc(inside, outside) if far and has_all else None
        return cls(np.array(right), np.array([answer.blocks_used for answer in answers]), area)

    def loss(self, full: _DepthResult) -> float:
        """Points of accuracy below full depth; negative if it is better."""
        return float(full.right.mean() - self.right.mean()) * 100

    def document(self, full: _DepthResult) -> dict[str, Any]:
        """As JSON, with how many images became wrong, and right, by leaving early."""
        return {
            "accuracy": round(float(self.right.mean()), 5),
            "n": len(self.right),
            "mean_blocks": round(float(self.blocks.mean()), 3),
            "leaving": {str(block): int((self.blocks == block).sum()) for block in np.unique(self.blocks)},
            "loss_points": round(self.loss(full), 3),
            "turned_wrong": int((full.right & ~self.right).sum()),
            "turned_right": int((~full.right & self.right).sum()),
            "far_auroc": None if self.far_auroc is None else round(self.far_auroc, 4),
        }


def _answers(version: LoadedVersion, images: Sequence[ImageFile], targets: Sequence[str]) -> list[Prediction]:
    return [
        answer
        for batch in batches(list(zip(images, targets, strict=True)), None)
        for answer in version.predict([image.read() for image, _ in batch], target=[target for _, target in batch])
    ]


def _mode(adapter: LoadedComponent) -> dict[str, Any]:
    """The recommendation of the calibration for an adapter."""
    if adapter.depth is None:
        return {"mode": "full", "why": "it has no exits"}
    report = adapter.depth.report
    return {"mode": adapter.depth.mode} | {name: report[name] for name in ("recommended", "why") if name in report}


def _in_rounds(version: LoadedVersion, images: Sequence[LabelledImage], size: int) -> Callable[[], object]:
    """A turn answers the next images in batches of `size`, and starts again at the end."""
    parts: Iterator[LabelledImage] = itertools.cycle(images)
    files = {image.path: image.read() for image in images}

    def turn() -> None:
        for _ in range(0, PER_ROUND, size):
            batch = list(itertools.islice(parts, size))
            version.predict([files[image.path] for image in batch], target=[image.target for image in batch])

    return turn


def _shuffled(images: list[LabelledImage]) -> list[LabelledImage]:
    order = np.random.default_rng(0).permutation(len(images))
    return [images[index] for index in order]


def _digits(folder: Path) -> Path:
    """The digits as a single target."""
    say("writing the digits")
    write_digits(folder / "apart")
    for target in TARGETS:
        for labelled in (folder / "apart" / target).glob("*/*"):
            place = folder / "together" / "digits" / labelled.parent.name / labelled.name
            place.parent.mkdir(parents=True, exist_ok=True)
            labelled.rename(place)
    (folder / "apart" / OOD_FOLDER).rename(folder / "together" / OOD_FOLDER)
    return folder / "together"


def _fitted(images: ImageFolder, backbone: str, folder: Path) -> Path:
    say(f"fitting {', '.join(images.targets)} on {backbone}, with exits")
    report = fit(images, TINY / backbone, folder, Recipe(depth="dynamic"))
    for target, one in report.document["targets"].items():
        say(f"{target}: {json.dumps(one.get('depth', {}))[:2000]}")
    return folder


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.depth")
