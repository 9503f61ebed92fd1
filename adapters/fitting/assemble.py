"""Assemble fitted targets into a bundle: router, recorded outputs, scores, and the results of runtimes."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters import bundle
from adapters.answer.components import read_components
from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import UNBOUND
from adapters.fitting.evaluation import routed_right, score, share
from adapters.fitting.goldens import CANDIDATES, goldens_of
from adapters.fitting.regression import linear_head
from adapters.fitting.runtime_calibration import write_runtimes
from adapters.fitting.target_fit import FROZEN, FitContext
from adapters.fitting.target_images import TargetImages, decode
from adapters.fitting.work_folder import WorkFolder
from adapters.runtimes.interface import REFERENCE, Runtime
from adapters.runtimes.open_runtime import open_runtime

FIT = "config/fit.json"
"""The recipe, the digests of the data and warnings about it, and metrics per target."""

HELD_OUT_SPLITS = ("val", "test")
"""The splits that were not trained on; the report has metrics for them."""


def assemble(
    whole: Path,
    work: WorkFolder,
    context: FitContext,
    images: Mapping[str, TargetImages],
    header: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the bundle of all finished targets; returns the content of `config/fit.json`.

    Args:
        whole: an empty folder.
        header: the first entries of `config/fit.json`.
    """
    bundle.write_document(whole / bundle.BACKBONE, context.backbone.model_dump(mode="json"))
    bundle.write_document(whole / bundle.PREPROCESSING, context.preprocessing)
    bundle.write_document(whole / bundle.INFERENCE, bundle.DEFAULT_INFERENCE)
    for target in images:
        shutil.copytree(work.target(target) / "adapter", whole / bundle.adapter_folder(target))
    _write_router(whole / bundle.ROUTER, {target: work.target(target) / FROZEN for target in images}, context)
    version = load_folder(whole, context, REFERENCE)
    targets, routed = {}, dict.fromkeys(HELD_OUT_SPLITS, 0)
    for done, (target, one) in enumerate(images.items()):
        context.extractor.progress("checking", done, len(images))
        squares = held_out_squares(version, one)
        write_golden(whole / bundle.adapter_folder(target), version, squares["val"], target)
        targets[target] = {**work.report(target), **scores_of(version, one, squares)}
        for split in HELD_OUT_SPLITS:
            routed[split] += routed_right(version, target, squares[split])
    write_golden(whole / bundle.ROUTER, version, _some_squares(version, images.values()), None)
    totals = {split: sum(len(one.splits[split]) for one in images.values()) for split in HELD_OUT_SPLITS}
    document = {
        **header,
        "targets": targets,
        "routing": {split: share(routed[split], totals[split]) for split in HELD_OUT_SPLITS},
        "runtimes": _write_runtime_reports(whole, context, images),
    }
    context.extractor.progress("checking", len(images), len(images))
    bundle.write_document(whole / FIT, document)
    return document


def open_context_runtime(context: FitContext, runtime: str) -> Runtime:
    """Open a runtime for the backbone of a fit."""
    return open_runtime(
        context.backbone, name=runtime, device=context.recipe.device, folders=context.folders, fetch=context.fetch
    )


def load_folder(folder: Path, context: FitContext, runtime: str) -> LoadedVersion:
    """Load the bundle on a runtime, without its gate: the runtime is only about to be judged."""
    files = bundle.BundleFiles(files_of_folder(folder))
    return LoadedVersion(UNBOUND, "", read_components(files, open_context_runtime(context, runtime)), {})


def held_out_squares(version: LoadedVersion, images: TargetImages) -> dict[str, np.ndarray]:
    """A target's decoded images by split, [N, H, W, 3] uint8."""
    preprocessing = version.components.preprocessing
    return {split: decode(preprocessing, images.splits[split]).numpy() for split in HELD_OUT_SPLITS}


def write_golden(folder: Path, version: LoadedVersion, squares: np.ndarray, target: str | None) -> None:
    """Write a component's recorded outputs into its folder."""
    bundle.write_tensors(folder / bundle.GOLDEN, goldens_of(version, squares[:CANDIDATES], target))


def scores_of(version: LoadedVersion, images: TargetImages, squares: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A target's metrics by split, as JSON."""
    labels = {split: [images.labels[row] for row in images.classes[split]] for split in HELD_OUT_SPLITS}
    return {split: asdict(score(version, images.target, squares[split], labels[split])) for split in HELD_OUT_SPLITS}


def files_of_folder(folder: Path) -> dict[str, Path]:
    """The files of a bundle by their paths in it."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _write_router(folder: Path, frozen: Mapping[str, Path], context: FitContext) -> None:
    context.extractor.progress("router", 0, 1)
    features = [bundle.BundleFiles({FROZEN: path}).tensors(FROZEN)["train"] for path in frozen.values()]
    classes = torch.cat([torch.full((len(own),), number) for number, own in enumerate(features)])
    head = linear_head(torch.cat(features), classes, tuple(frozen), context.router_spec)
    bundle.save(folder, bundle.HEAD, head)
    document = bundle.component_document(head.labels, context.backbone, context.preprocessing)
    bundle.write_document(folder / bundle.COMPONENT, document)
    context.extractor.progress("router", 1, 1)


def _write_runtime_reports(folder: Path, context: FitContext, images: Mapping[str, TargetImages]) -> dict[str, Any]:
    if not context.recipe.runtimes:
        return {}
    squares = {target: decode(context.extractor.preprocessing, one.splits["val"]) for target, one in images.items()}

    def load(runtime: str) -> LoadedVersion:
        return load_folder(folder, context, runtime)

    reports = write_runtimes(folder, context.recipe.runtimes, images, squares, load)
    return {runtime: report.document() for runtime, report in reports.items()}


def _some_squares(version: LoadedVersion, images: Collection[TargetImages]) -> np.ndarray:
    """Validation images of all targets, as many as recorded outputs are chosen from."""
    held_out = sorted((image for one in images for image in one.splits["val"]), key=lambda image: image.sha256)
    return decode(version.components.preprocessing, held_out[:CANDIDATES]).numpy()
