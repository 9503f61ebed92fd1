"""Other runtimes than the reference: their own OOD thresholds, and the verdict on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from adapters import bundle
from adapters.answer.answering import Stage
from adapters.answer.depth import exit_folder
from adapters.answer.loaded import LoadedVersion
from adapters.answer.ood import Mahalanobis
from adapters.fitting.images import Chosen
from adapters.runtimes.gate import RUNTIMES_FILE, RuntimeReport, judge_runtime, runtimes_document
from adapters.runtimes.runtimes import REFERENCE
from adapters.writing import write_part

Load = Callable[[str], LoadedVersion]
"""Loads the bundle as it is now on a runtime, whatever was or was not said of that runtime."""


def write_runtimes(
    folder: Path, runtimes: Sequence[str], images: Mapping[str, Chosen], squares: Mapping[str, torch.Tensor], load: Load
) -> dict[str, RuntimeReport]:
    """Calibrate the detectors of a bundle for some runtimes, judge these, and write down both.

    Args:
        folder: the bundle, its recorded outputs included.
        images, squares: per target the images, and its validation images [N, H, W, 3] uint8.
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
    adapter = version.parts.adapters[target]
    stages: dict[Path, Stage | None] = {folder: adapter.last}
    for stage in adapter.depth.exits if adapter.depth else ():
        stages[Path(exit_folder(str(folder), stage.block))] = stage
    taps = {tap for stage in stages.values() if stage for tap in stage.taps}
    features = version.features_at(list(squares.numpy()), target, sorted(taps))
    for place, stage in stages.items():
        if stage and isinstance(stage.detector, Mahalanobis):
            with torch.no_grad():
                predicted = stage.head(features).predicted
            write_part(place, bundle.OOD, stage.detector.calibrated_for(version.runtime, features, predicted))
