"""`ulora predict`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.options import (
    device_option,
    dry_run_option,
    folder,
    options_as,
    registry_options,
    runtime_option,
    version_or_channel,
)
from registry.cli.output import Output
from registry.cli.signals import sigterm_interrupts
from registry.errors import BadInput
from registry.formats.counts import counted
from registry.serving.batch.options import FORMATS, PredictOptions, Shard

if TYPE_CHECKING:
    from registry.api import Registry
    from registry.serving.batch.run import WrittenPart
    from registry.serving.batch.shard import Predicted


class _ShardType(click.ParamType[Shard]):
    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        if isinstance(value, Shard):
            return value
        try:
            return Shard.parse(str(value))
        except BadInput as error:
            self.fail(f"{error}; {error.hint}", param, ctx)


@click.command("predict", short_help="Answer a folder, a table of paths or an S3 prefix with one version.")
@click.argument("source", metavar="INPUT")
@click.option(
    "--out",
    "out_folder",
    type=folder,
    required=True,
    metavar="DIR",
    help="Where the parts go; a new folder for a new run.",
)
@version_or_channel("The version that answers; what the channel serves at the first start when left out.")
@click.option("--target", metavar="NAME", help="The target of all images; the version chooses when left out.")
@click.option(
    "--shard", type=_ShardType(), default="1/1", metavar="N/M", help="Only this share of the files, e.g. 3/8."
)
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default="jsonl",
    show_default=True,
    help="Of the parts; parquet needs pyarrow.",
)
@click.option(
    "--part-rows", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, metavar="N",
    help="Images of a part: what has to be computed again after a crash.",
)  # fmt: skip
@click.option(
    "--max-pixels", type=click.IntRange(min=1), metavar="N", help="Of an image; the version's own limit when left out."
)
@click.option(
    "--as-planned", is_flag=True, help="Go on with the files of the first start, without looking for new ones."
)
@device_option
@runtime_option
@dry_run_option
@registry_options
@options_as("registry.serving.batch.options:PredictOptions")
def predict_command(
    registry: Registry, out: Output, *, source: str, options: PredictOptions, out_folder: Path, dry_run: bool
) -> None:
    """Answer every image of INPUT with one version, a row each, in parts that are written once.

    INPUT is a folder; a .csv or .parquet file with a column `path`, and perhaps `target`; or s3://BUCKET/PREFIX. A file
    that can't be read or computed has a row too, with its outcome `unreadable`, `corrupt_image` or `failed`.

    After Ctrl-C, a crash or a full disk the same command goes on where it was: every file has one row in the end.
    Version and files are fixed at the first start.

    \b
    Examples:
      ulora predict images/ --out predicted
      ulora predict images/ --out predicted --dry-run
      ulora predict paths.parquet --out predicted --version v5.5.4-dinov3 --format parquet
      ulora predict s3://photos/2026/11 --out predicted --shard 3/8
    """
    written: list[int] = []

    def tell(part: WrittenPart) -> None:
        written.append(part.rows)
        out.say(f"part {part.part}: {counted(part.rows, 'row')}, {part.rows / max(part.seconds, 1e-3):.1f} a second")

    try:
        with sigterm_interrupts():
            done = registry.predict_files(
                source, out_folder, options, dry_run=dry_run, tell=tell,
                progress=partial(out.progress, label="images"),
            )  # fmt: skip
    except KeyboardInterrupt:
        out.note(f"{counted(len(written), 'part')} written now; the same command goes on there")
        raise
    out.answer(done, _planned(done) if dry_run else _said(done))


def _said(done: Predicted) -> str:
    kinds = ", ".join(f"{count} {outcome}" for outcome, count in done.outcomes.items())
    speed = f", {done.rows / done.seconds:.1f} a second" if done.seconds else ""
    now = f"{counted(done.rows, 'row')} now ({kinds}){speed}" if done.rows else "nothing was left to do"
    return f"{_head(done)}: all {counted(done.parts, 'part')} are in {done.folder}; {now}"


def _planned(done: Predicted) -> str:
    lines = [f"{_head(done)}: {done.parts - done.finished} of {counted(done.parts, 'part')} would be written"]
    if len(done.shards) > 1:
        lines += [f"  shard {number}/{len(done.shards)}: {count}" for number, count in enumerate(done.shards, 1)]
    return "\n".join(lines)


def _head(done: Predicted) -> str:
    shard = "" if done.shard == "1/1" else f", shard {done.shard}"
    return f"{done.version} on {counted(done.inputs, 'file')}{shard}"
