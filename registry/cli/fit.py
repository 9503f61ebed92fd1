"""`ulora fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.cli.data import gates_will_miss, images_table
from registry.cli.options import (
    ImageOptions,
    device_option,
    dry_run_option,
    folder,
    json_option,
    options_as,
    rename_option,
)
from registry.cli.output import Output, table
from registry.errors import BadSetting, Unreachable
from registry.plugins import FIT, plugin

if TYPE_CHECKING:
    from registry.versions.backbones import FetchBlob
    from registry.versions.manifest import BackboneRef


class _Names(click.ParamType[list[str]]):
    """Names separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = [name.strip() for name in value.split(",")]
        if not all(names):
            self.fail(f"{value!r} is not a list of names separated by commas", param, ctx)
        return names


@click.command("fit", short_help="Fit adapters to a folder of images: a bundle for `ulora create`.")
@click.option(
    "--data", required=True, type=folder, metavar="DIR",
    help="Images as crop/disease/*, or crop/{train,val,test}/disease/*; `ulora data check` says how they are read.",
)  # fmt: skip
@rename_option
@click.option("--backbone", required=True, metavar="REF", help="A folder, a hub id, or a name that the store mirrors.")
@click.option(
    "--out",
    "out_folder",
    required=True,
    type=folder,
    metavar="BUNDLE",
    help="The folder to write, which must not exist.",
)
@click.option("--targets", type=_Names(), metavar="A,B", help="Some of the data's targets; all when left out.")
@click.option("--method", type=click.Choice(["lora", "dora"]), help="[default: lora]")
@click.option("--rank", type=int, metavar="R", help="Of the LoRA. [default: 4]")
@click.option("--alpha", type=float, metavar="A", help="The LoRA's scale is A / R. [default: 2 R]")
@click.option(
    "--modules", type=_Names(), metavar="M,N", help="What it is put on; or all-linear. [default: q_proj,v_proj]"
)
@click.option("--head", type=click.Choice(["cls", "cls+mean", "fusion"]), help="[default: cls+mean]")
@click.option("--epochs", type=int, metavar="N", help="How often each training image is used. [default: 2]")
@click.option("--seed", type=int, metavar="N", help="Of everything random. [default: 0]")
@click.option("--depth", type=click.Choice(["full", "dynamic", "static", "auto"]), help="[default: full]")
@click.option("--false-alarm-rate", type=float, metavar="P", help="Of in-distribution images. [default: 0.03]")
@click.option("--runtimes", type=_Names(), metavar="R,S", help="Judge these too, each with OOD thresholds of its own.")
@click.option("--store", metavar="URL", help="Where mirrored backbones are. [ULORA_STORE]")
@device_option
@dry_run_option
@json_option
@options_as(ImageOptions, "images")
def fit_command(
    out: Output,
    *,
    images: ImageOptions,
    backbone: str,
    out_folder: Path,
    targets: list[str] | None,
    store: str | None,
    dry_run: bool,
    **settings: Any,
) -> None:
    """Fit per target a LoRA, a head and an OOD detector, and a router over all; write them as a bundle.

    Training images train; validation images set thresholds; test images are only reported on. A folder that is not
    split is split 70/14/16 by the images' bytes. The same seed gives the same files. After an interruption the same
    command goes on where it stopped.

    --depth dynamic puts exits at earlier blocks and static cuts later ones off, if held-out images show that accuracy
    loses at most 0.5 points; auto takes what they recommend, so that other targets' images are told apart as well as
    before. Needs no store and no MLflow.

    \b
    Examples:
      ulora fit --data images/ --backbone facebook/dinov2-base --out bundle/
      ulora fit --data images/ --backbone dinov3-tiny --out bundle/ --targets tomato,potato --depth auto
      ulora create v5.6.0-dinov2 --from bundle/ --description "fitted again"
    """
    from registry.evidence.data_check import in_short
    from registry.evidence.measure import open_data
    from registry.versions.bundle import DEFAULT_FLAVOR

    data = open_data(DEFAULT_FLAVOR, images.data, images.rename)
    with out.warnings_as_notes():
        known, fetch = _mirror(store, backbone, out)
        fit = plugin(FIT, DEFAULT_FLAVOR)(
            data, backbone, out_folder, settings, targets=targets, known=known, fetch=fetch
        )
    _warn(out, [*fit.plan["data"]["warnings"], *in_short(gates_will_miss(fit.data, fit.plan["targets"], out))])
    if dry_run:
        out.answer(fit.plan, _plan_text(fit.plan, out_folder))
        return
    try:
        with _bars(out) as progress:
            report = fit.run(progress)
    except KeyboardInterrupt:
        out.note("the finished steps are kept: the same command goes on from there")
        raise
    _warn(out, [*report.notes, *doubts(report.document["targets"])])
    out.answer({"folder": report.folder, **report.document}, _report_text(report.document, out_folder, backbone))


def _mirror(store: str | None, backbone: str, out: Output) -> tuple[Sequence[BackboneRef], FetchBlob | None]:
    """The backbones of the store and what fetches them; nothing if no store is set or needed."""
    if Path(backbone).is_dir():
        return (), None
    from registry.api import Registry

    try:
        registry = Registry(store=store)
    except BadSetting:
        if store:
            raise
        return (), None
    try:
        mirror = registry.wiring.backbone_mirror  # of a store that may not be made yet: a fit comes before it
        return [mirrored.backbone for mirrored in mirror.all()], mirror.fetch
    except Unreachable as error:
        out.note(f"the store's backbones are left out: {error}")
        return (), None


@contextmanager
def _bars(out: Output) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage of a fit. That of a stage that failed stays where it is."""
    advance: Callable[[int], None] = lambda done: None  # noqa: E731
    current, shown = "", 0
    with ExitStack() as bar:

        def told(stage: str, done: int, total: int) -> None:
            nonlocal advance, current, shown
            if stage != current or done < shown:
                bar.close()
                advance, current, shown = bar.enter_context(out.progress(total, stage)), stage, 0
            advance(done - shown)
            shown = done

        yield told


def _warn(out: Output, warnings: Sequence[str]) -> None:
    for warning in warnings:
        out.note(warning)


def _plan_text(plan: dict[str, Any], place: Path) -> str:
    backbone = plan["backbone"]
    told = f"would fit {place} on {backbone['name']} ({backbone['family']}, sha256 {backbone['sha256'][:12]})"
    return f"{images_table(plan['data']['images'])}\n{told}"


def _report_text(document: dict[str, Any], place: Path, backbone: str) -> str:
    rows = [
        [
            target,
            len(one["labels"]),
            _rate(one["frozen"], "accuracy") if "frozen" in one else "",  # not in work that an older release began
            *(_rate(one[split], "accuracy") for split in ("val", "test")),
            _rate(one["test"] if one["test"]["images"] else one["val"], "flagged"),
            _promised(one),
            _depth(one),
        ]
        for target, one in document["targets"].items()
    ]
    routing = document["routing"]
    rates = [_rate(routing[split], "accuracy") for split in ("val", "test")]
    rows.append(["(router)", len(rows), "", *rates, "", "", ""])
    header = (
        "TARGET", "LABELS", "WITHOUT LORA (VAL)", "ACCURACY (VAL)", "ACCURACY (TEST)", "FALSE ALARMS", "AT MOST (90%)",
        "BLOCKS USED",
    )  # fmt: skip
    lines = [table(header, rows)]
    for name, verdict in document["runtimes"].items():
        lines.append(f"{name} {'passes' if verdict['passes'] else 'does not pass: ' + '; '.join(verdict['reasons'])}")
    then = f"ulora backbone add {backbone} (once), and ulora create VERSION --from {place}"
    return "\n".join([*lines, f"wrote {place}; next: {then}"])


def doubts(targets: Mapping[str, Any]) -> Iterator[str]:
    """What the table's numbers say against a target, in words."""
    for target, one in targets.items():
        frozen, val, test = one.get("frozen", {}).get("accuracy"), one["val"]["accuracy"], one["test"]["accuracy"]
        if frozen is not None and val is not None and val < frozen:
            yield f"{target}: {val:.4f} of its val images are right, without LoRA {frozen:.4f}: the fit made it worse"
        if test is not None and test <= 1 / len(one["labels"]):
            yield f"{target}: {test:.4f} of its test images are right, as by guessing among {len(one['labels'])} labels"
        flagged, promised = one["test"]["flagged"], one.get("false_alarms", {}).get("upper_bound_90")
        if flagged is not None and promised is not None and flagged > promised:
            yield f"{target}: {flagged:.4f} of its test images raise false alarms, more than promised ({promised:.3f})"


def _rate(numbers: dict[str, Any], name: str) -> str:
    value = numbers[name]
    return "-" if value is None else f"{value:.4f} of {numbers['images']}"


def _promised(one: dict[str, Any]) -> str:
    """The false-alarm rate that the thresholds keep with 90% confidence."""
    return f"<= {one['false_alarms']['upper_bound_90']:.3f}" if "false_alarms" in one else ""


def _depth(one: dict[str, Any]) -> str:
    """How many blocks a target uses, and what is recommended if that differs."""
    blocks, report = f"{one['val']['mean_blocks']:.2f}", one.get("depth")
    if not report:
        return blocks
    if report["mode"] != report["recommended"]:
        return f"{blocks}, {report['mode']} ({report['recommended']} is recommended: {report['why']})"
    return f"{blocks}, {report['mode']}: {report['why']}"
