"""Files a second of `ulora predict` against the version's plain batch loop: `python -m benchmarks.predict`.

Both read the same JPEG files from the disk and answer them with the same version in memory. The plain loop gives
`LoadedVersion.predict` lists of 64 paths; the other is what the command runs, from listing the folder to the last part.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import click
import numpy as np
from PIL import Image

from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from benchmarks.comparison import (
    Budget,
    Result,
    Turn,
    option_json,
    option_rounds,
    option_size,
    option_threads,
    run,
    say,
    take_turns,
)
from benchmarks.synthetic import make_backbone, write_bundle
from registry.serving.batch.folder import BatchFolder
from registry.serving.batch.inputs import LocalFolder
from registry.serving.batch.options import PredictOptions
from registry.serving.batch.plan import BatchPlan
from registry.serving.batch.shard import ShardJob, run_shard
from registry.versions.pointer import Pointer

BATCH = 64
FILES = {"vit-b": {"small": 64, "camera": 64}, "tiny": {"small": 256, "camera": 32}}
SIDES = {"small": 256, "camera": 1600}
"""Pixels of the side of a square photo."""
MODULES = ("query", "value", "q_proj", "v_proj")
LIMIT = 0.95
"""At least so many files a second, as a share of the plain loop's."""

EXAMPLES = """
\b
Examples:
  python -m benchmarks.predict                          ViT-B/14, 224 pixels: minutes
  python -m benchmarks.predict --size tiny --rounds 5   a backbone so small that reading files is most of the work
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@option_size(["vit-b", "tiny"], "vit-b")
@option_rounds(5)
@option_threads
@option_json
def main(*, size: str, rounds: int, threads: int, as_json: bool) -> None:
    """A folder of photos by `ulora predict`, against a loop over batches of 64."""
    run(lambda: predict(size, rounds), threads=threads, as_json=as_json)


def predict(size: str, rounds: int) -> Result:
    """Measure small photos, and photos as cameras make them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = make_backbone(folder, size)
        files = write_bundle(folder / "bundle", backbone, targets=["leaf"], modules=list(MODULES), rank=16, seed=0)
        loaded = load_bundle(files, backbone_folders=[backbone.folder])
        results = [_measure(loaded, folder, size, photo, rounds) for photo in SIDES]
    return Result(
        benchmark="predict",
        setting={"size": size, "files": FILES[size], "batch": BATCH, "rounds": rounds, "sides": dict(SIDES)},
        times={name: times for result in results for name, times in result.times.items()},
        figures={name: value for result in results for name, value in result.figures.items()},
        budgets=[budget for result in results for budget in result.budgets],
    )


def _measure(loaded: LoadedVersion, folder: Path, size: str, photo: str, rounds: int) -> Result:
    say(f"{photo} photos: making, measuring")
    count = FILES[size][photo]
    photos = write_photos(folder / photo, count, SIDES[photo])
    outs = (folder / f"out-{photo}-{number}" for number in itertools.count())
    plain, ours = f"{photo}: plain loop", f"{photo}: ulora predict"
    turns: dict[str, Turn] = {
        plain: lambda: plain_loop(loaded, photos),
        ours: lambda: as_command(loaded, photos, next(outs)),
    }
    times = take_turns(turns, rounds)
    share = times[plain].over(times[ours])
    rates = {f"{name}, files a second": round(1000 * count / each.median, 1) for name, each in times.items()}
    budget = Budget(f"{photo}: ulora predict / plain loop, files a second", share, "at least", LIMIT)
    return Result(benchmark="predict", setting={}, times=times, figures=rates, budgets=[budget])


def write_photos(folder: Path, count: int, side: int) -> Path:
    """Smooth random photos as JPEG: they take as long to decode as real ones of their size in bytes."""
    folder.mkdir()
    for number in range(count):
        rough = np.random.default_rng(number).integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC).save(
            folder / f"{number:05d}.jpg", quality=90
        )
    return folder


def plain_loop(loaded: LoadedVersion, photos: Path) -> int:
    """Answer all photos in batches; how many."""
    paths = sorted(photos.iterdir())
    return sum(len(loaded.predict(paths[start : start + BATCH])) for start in range(0, len(paths), BATCH))


def as_command(loaded: LoadedVersion, photos: Path, out: Path) -> int:
    """Answer all photos as the command does; how many."""
    pointer = Pointer(version=loaded.version, manifest_sha256="0" * 64)

    def find(known: BatchPlan | None) -> Pointer:
        return pointer

    options = PredictOptions()
    folder = BatchFolder(out, options.shard)
    job = ShardJob("benchmark", str(photos), LocalFolder(photos), folder, options, find, lambda plan: loaded)
    return run_shard(job).rows


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.predict")
