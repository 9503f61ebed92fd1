"""Fit one target of an existing bundle again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapters import bundle
from adapters.answer.loading import check_device, load_bundle
from adapters.fitting.assemble import FIT, files_of_folder, held_out_squares, load_folder, scores_of, write_golden
from adapters.fitting.fit import FitReport, WeightSources, complete_recipe, new_context, sample_others
from adapters.fitting.image_folder import ImageFolder
from adapters.fitting.lora_training import Progress
from adapters.fitting.recipe import Recipe
from adapters.fitting.target_fit import TargetFit
from adapters.fitting.target_images import choose_images
from adapters.fitting.work_folder import Checkpoint, replace_folder, restore_folder
from adapters.runtimes.gate import RUNTIMES_FILE
from adapters.runtimes.interface import REFERENCE
from registry.errors import MissingBlob, disk_errors


def fit_target(
    data: ImageFolder,
    target: str,
    folder: Path,
    settings: Recipe | Mapping[str, Any] | None = None,
    *,
    folders: Sequence[Path | str] = (),
    progress: Progress | None = None,
) -> FitReport:
    """Fit one target of an existing bundle again: its adapter's folder and its entry in `config/fit.json` are replaced,
    everything else stays. The results of runtimes are removed, because they are about the previous adapter.

    A reader sees the old bundle or the new one as a whole. For a moment there is none; if this function is killed then,
    its next call restores the old one.

    Args:
        data: the images; others than the target's are only used to choose its detector.
        folder: the bundle.
        settings: as for `adapters.fitting.fit.prepare`.
        folders: searched for the backbone first.

    Raises:
        BadInput: when a setting is invalid, the data can't train the target, or the training diverged.
        BackboneNotFound, CorruptBlob, BadWeights: when the backbone or the bundle is missing or damaged.
        BadManifest, MissingBlob: when `folder` is not a valid bundle.
        DiskFull, BadSetting: when the bundle can't be written.
    """
    recipe = settings if isinstance(settings, Recipe) else Recipe.of(settings or {})
    check_device(recipe.device)
    place = folder.resolve()
    restore_folder(place)
    existing = load_bundle(files_of_folder(place), device=recipe.device, backbone_folders=folders)
    recipe = complete_recipe(recipe, existing.backbone)
    images = choose_images(data, [target])[target]
    others = [image for image in data.split("val") if image.target != target and image.target in existing.targets]
    context = new_context(existing.backbone, WeightSources(tuple(folders)), recipe, progress)
    with TemporaryDirectory(dir=place.parent) as scratch, disk_errors(folder):
        made, whole = Path(scratch) / "made", Path(scratch) / "bundle"
        report = TargetFit(context, images, sample_others(others)).write(made, Checkpoint(Path(scratch)))
        shutil.copytree(place, whole, ignore=lambda path, _: [target] if Path(path).name == bundle.ADAPTERS else [])
        (made / "adapter").rename(whole / bundle.adapter_folder(target))
        version = load_folder(whole, context, REFERENCE)
        squares = held_out_squares(version, images)
        write_golden(whole / bundle.adapter_folder(target), version, squares["val"], target)
        entry = {**report, **scores_of(version, images, squares), "recipe": recipe.document()}
        document = _with_target(place, target, entry)
        (whole / RUNTIMES_FILE).unlink(missing_ok=True)
        bundle.write_document(whole / FIT, document)
        replace_folder(place, whole)
    return FitReport(folder, document, data.skipped)


def _with_target(folder: Path, target: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The bundle's `config/fit.json` with a new entry for one target."""
    try:
        document = bundle.BundleFiles({FIT: folder / FIT} if (folder / FIT).exists() else {}).document(FIT)
    except MissingBlob:
        document = {"format": 1, "data": {"warnings": []}, "targets": {}}
    return {**document, "targets": {**document["targets"], target: dict(entry)}, "runtimes": {}}
