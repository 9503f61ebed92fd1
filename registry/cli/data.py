"""`ulora data`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.options import folder, json_option
from registry.cli.output import Output, table
from registry.errors import BadInput, UloraError, no_folder
from registry.formats.counts import counted
from registry.plugins import DATA_CHECKS, plugin

if TYPE_CHECKING:
    from collections.abc import Collection

    from registry.evidence.data_check import DataReport, Shortage

_SPLITS = ("train", "val", "test")
_ENOUGH_VALIDATION = 300
"""With fewer validation images of a target, an OOD threshold that is to call 3% of the target's own images
out-of-distribution may call more than 4.8% so (one-sided 95% bound of an order statistic)."""


@click.group("data", short_help="Look at a folder of images before a fit or a measurement: check.")
def data_command() -> None:
    """Folders of images: how they are read, and what they lack.

    \b
    Example:
      ulora data check images/
    """


@data_command.command("check", short_help="How a folder of images is read, and what the gates will miss.")
@click.argument("data", type=folder, metavar="DIR")
@click.option(
    "--rename", type=folder, metavar="FILE",
    help="Read what the folders show from this file; where it does not exist, write a proposal into it first.",
)  # fmt: skip
@click.option(
    "--ood-from", "source", metavar="photos|noise|DIR",
    help="First make DIR/_ood/far: of photos that Python packages ship, of random pixels, or of a folder of images.",
)  # fmt: skip
@json_option
def check_command(out: Output, *, data: Path, rename: Path | None, source: str | None) -> None:
    """Say how a folder of images is read: targets, labels, splits; what is left out and why; and which images the gates
    of the policy in force (ULORA_POLICY) will miss. Read are, each split by train, val and test or not:

    \b
      DIR/tomato/blight/*.jpg            DIR/tomato/train/blight/*.jpg
      DIR/Tomato___blight/*.jpg          DIR/train/Tomato___blight/*.jpg      DIR/train/tomato/blight/*.jpg

    Where names do not say the crop, --rename writes what it takes them for into a file. Correct it, and give it to
    this command, `fit` and `measure`. Needs no store. Nothing is changed but that file and _ood/far.

    \b
    Examples:
      ulora data check images/
      ulora data check images/ --ood-from photos
      ulora data check PlantDoc/ --rename names.toml
    """
    from registry.evidence.measure import open_data
    from registry.versions.bundle import DEFAULT_FLAVOR

    if not data.is_dir():
        raise BadInput(no_folder(data), hint="give a folder of images")
    checks: Any = plugin(DATA_CHECKS, DEFAULT_FLAVOR)
    if rename is not None and not rename.exists():
        guesses = checks.propose_names(data, rename)
        by_guess = f", {guesses} of them by a guess" if guesses else ""
        out.note(f"wrote {rename}: what each folder shows{by_guess}; read and correct it")
    images = open_data(DEFAULT_FLAVOR, data, rename)
    if source is not None:
        is_made = checks.make_far(data, lambda place: _write_far(checks, source, place, data))
        made = "now has images that show none of the targets"
        made += ": pieces of the photos of scikit-image and scikit-learn" if source == "photos" else ""
        used = "holds files already, which are used as they are; remove them to make new ones"
        out.note(f"{data}/_ood/far {made if is_made else used}")
    report = checks.check(images)
    missing = gates_will_miss(report, report.counts, out)
    out.answer(_document(data, report, missing), "\n".join(_lines(data, report, missing)))


def gates_will_miss(report: DataReport, targets: Collection[str], out: Output) -> list[Shortage]:
    """Which images the rules of the policy in force will miss; a note where there is no valid policy."""
    from registry.evidence.data_check import future_version, shortages
    from registry.evidence.policy import load_policy
    from registry.settings import policy_file
    from registry.versions.bundle import DEFAULT_FLAVOR

    try:
        return shortages(load_policy(policy_file()), report, future_version(targets, DEFAULT_FLAVOR))
    except UloraError as error:
        out.note(f"what the gates need is not known: {error}")
        return []


def _write_far(checks: Any, source: str, place: Path, data: Path) -> None:
    if source == "photos":
        from registry.devstack.digits import write_photo_crops

        write_photo_crops(place)
    elif source == "noise":
        checks.write_noise(place)
    else:
        checks.copy_images(place, Path(source), data)


def _document(data: Path, report: Any, missing: list[Shortage]) -> dict[str, object]:
    return {
        "folder": data,
        "targets": list(report.counts),
        **report.document(),
        "unfit": dict(report.unfit),
        "gates": [{**vars(one), "message": str(one)} for one in missing],
    }


def _lines(data: Path, report: Any, missing: list[Shortage]) -> Iterator[str]:
    from registry.evidence.data_check import summary

    yield images_table(report.document()["images"], with_labels=True)
    near = f"{report.near} near" if report.near else "no near ones"
    if not report.near and len(report.counts) > 1:
        near += ": for each target the other targets' test images are taken"
    yield f"out-of-distribution: {report.far} far, {near}"
    if report.system_files:
        yield f"left aside: {counted(report.system_files, 'item')} of operating systems"
    yield from (f"- {warning}" for warning in report.warnings)
    few = [f"{target} {n}" for target, n in report.images("val").items() if 0 < n < _ENOUGH_VALIDATION]
    if few:
        yield f"- fewer than {_ENOUGH_VALIDATION} validation images ({', '.join(few)}): OOD thresholds are uncertain"
    yield from (f"- {target} can't be fitted: {why}" for target, why in report.unfit.items())
    said = summary(missing)
    yield from ["", *said[:1], *(f"- {sentence}" for sentence in said[1:])] if said else ()
    if not report.unfit:
        yield f"next: ulora fit --data {data} --backbone dinov2-tiny --out bundle/"


def images_table(images: Mapping[str, Mapping[str, Mapping[str, int]]], *, with_labels: bool = False) -> str:
    """The number of images of each target, or of each of its labels too, and split, given target -> label -> split ->
    number."""
    rows: list[Sequence[object]] = []
    for target, labels in images.items():
        rows.append([target, len(labels), *(sum(n[split] for n in labels.values()) for split in _SPLITS)])
        if with_labels:
            rows += [["", label, *(n[split] for split in _SPLITS)] for label, n in labels.items()]
    return table(("TARGET", "LABELS", "TRAIN", "VAL", "TEST"), rows)
