"""Calibrate the detectors of a bundle for other runtimes than the reference, and judge these runtimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from adapters import bundle
from adapters.answer.early_exits import exit_folder
from adapters.answer.loaded import LoadedVersion
from adapters.answer.ood import Mahalanobis
from adapters.answer.stages import Stage
from adapters.fitting.mahalanobis import calibrated_for
from adapters.fitting.runtime_reports import RuntimeReport, judge_runtime, runtimes_document
from adapters.fitting.target_images import TargetImages
from adapters.runtimes.gate import RUNTIMES_FILE
from adapters.runtimes.interface import REFERENCE

Load = Callable[[str], LoadedVersion]
"""Loads the bundle as it is now on a runtime, without the gate."""


def write_runtimes(
    folder: Path,
    runtimes: Sequence[str],
    images: Mapping[str, TargetImages],
    squares: Mapping[str, torch.Tensor],
    load: Load,
) -> dict[str, RuntimeReport]:
    """Calibrate the detectors of a bundle for some runtimes, judge these, and write both into the bundle.

    Args:
        folder: the bundle, with its recorded outputs.
        images, squares: the images of each target, and its validation images [N, H, W, 3] uint8.
    """
    for runtime in runtimes:
        version = load(runtime)
        for target in images:
            _calibrate(version, target, folder / bundle.adapter_folder(target), squares[target])
    reports: dict[str, RuntimeReport] = {}
    held_out = [image for one in images.values() for image in one.splits["val"]]
    for runtime in runtimes:
        reports[runtime] = judge_runtime(load(REFERENCE), load(runtime), held_out)
    if reports:
        bundle.write_document(folder / RUNTIMES_FILE, runtimes_document(reports.values()))
    return reports


def _calibrate(version: LoadedVersion, target: str, folder: Path, squares: torch.Tensor) -> None:
    adapter = version.components.adapters[target]
    exits = adapter.depth.exits if adapter.depth else ()
    stages: dict[Path, Stage] = {folder: adapter.last} if adapter.last else {}
    stages |= {Path(exit_folder(str(folder), stage.block)): stage for stage in exits}
    specs = {spec for stage in stages.values() for spec in stage.feature_specs}
    features = version.features_at(list(squares.numpy()), target, sorted(specs))
    for place, stage in stages.items():
        if isinstance(stage.detector, Mahalanobis):
            with torch.no_grad():
                predicted = stage.head(features).predicted
            bundle.save(place, bundle.OOD, calibrated_for(stage.detector, version.runtime, features, predicted))
