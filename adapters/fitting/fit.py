"""Fit a bundle to a folder of images: a LoRA, a head and an OOD detector per target, and a router over all targets.

The backbone stays frozen. Training images are trained on; validation images choose blocks, thresholds and exits and
give the recorded outputs; test images decide nothing, their metrics are only reported. The LoRA is trained with PEFT on
its own copy of the model; everything that is fitted to features takes them from the runtime that will serve. The same
seed on the same machine gives the same files, whatever the names of the images and however often the fit was
interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adapters.answer.loading import check_device
from adapters.backbone.families import family_named
from adapters.backbone.locate import FetchWeights
from adapters.backbone.preprocess import Preprocessing
from adapters.backbone.resolve import resolve
from adapters.fitting.assemble import assemble, open_context_runtime
from adapters.fitting.data_report import DataReport, report_on
from adapters.fitting.feature_extractor import FeatureExtractor
from adapters.fitting.folder_layout import SPLITS
from adapters.fitting.image_folder import ImageFolder, LabelledImage, Skipped
from adapters.fitting.lora_training import Progress
from adapters.fitting.recipe import Recipe
from adapters.fitting.target_fit import MAX_OTHERS, FitContext, TargetFit
from adapters.fitting.target_images import TargetImages, choose_images
from adapters.fitting.work_folder import WorkFolder, open_work_folder, work_folder_of
from adapters.runtimes.open_runtime import RUNTIMES, open_runtime
from registry.errors import BadInput, disk_errors
from registry.formats import canonical
from registry.versions.manifest import BackboneRef


@dataclass(frozen=True)
class FitReport:
    """The result of a fit.

    Attributes:
        folder: the bundle.
        document: the content of `config/fit.json`. Metrics on validation images are optimistic, because these images
            also set thresholds; those on test images are not. `ulora measure` uses the test split too.
        skipped: files that were not used.
    """

    folder: Path
    document: Mapping[str, Any]
    skipped: tuple[Skipped, ...] = field(repr=False, default=())

    @property
    def accuracy(self) -> dict[str, float]:
        """The accuracy of each target on its validation images."""
        return {target: one["val"]["accuracy"] for target, one in self.document["targets"].items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the data and the results, a sentence each."""
        return (*self.document["data"]["warnings"], *self.notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the results alone."""
        return tuple(f"{target}: {note}" for target, one in self.document["targets"].items() for note in one["notes"])


@dataclass(frozen=True)
class WeightSources:
    """Where to look for the backbone's weights, as `adapters.backbone.build.new_model` takes it."""

    folders: tuple[Path | str, ...] = ()
    fetch: FetchWeights | None = None


@dataclass(frozen=True)
class Fit:
    """A fit that is ready to run: its settings and its data have been checked.

    Attributes:
        out: the bundle that it will write.
        data: the report on the images.
        recipe: the settings, completed for the backbone.
    """

    out: Path
    data: DataReport
    recipe: Recipe
    _backbone: BackboneRef = field(repr=False)
    _sources: WeightSources = field(repr=False)
    _images: Mapping[str, TargetImages] = field(repr=False)
    _skipped: tuple[Skipped, ...] = field(repr=False)

    @property
    def plan(self) -> dict[str, Any]:
        """What would be done, as JSON. An interrupted fit continues only with the same plan."""
        return {
            "format": 1,
            "recipe": self.recipe.document(),
            "backbone": self._backbone.model_dump(mode="json"),
            "targets": {target: list(images.labels) for target, images in self._images.items()},
            "digests": {split: _digest(self._images, split) for split in SPLITS},
            "data": self.data.document(),
        }

    def run(self, progress: Progress | None = None) -> FitReport:
        """Run the fit, or continue an interrupted one. The bundle appears complete or not at all.

        Raises:
            BadInput: when an interrupted fit of the same bundle had another plan, or the training diverged.
            NotNow: when another process runs it.
            ImageChanged: when an image has changed since the folder was read.
            BackboneNotFound, CorruptBlob, BadWeights: when the backbone is missing or damaged.
            DiskFull, BadSetting: when the bundle can't be written.
        """
        plan = self.plan
        decisive = {name: plan[name] for name in ("format", "recipe", "backbone", "targets", "digests")}
        with disk_errors(self.out), open_work_folder(self.out, decisive) as work:
            context = new_context(self._backbone, self._sources, self.recipe, progress)
            for runtime in self.recipe.runtimes:
                open_context_runtime(context, runtime)  # a missing package is reported now, not after the training
            for target in self._images:
                if not work.target(target).exists():
                    _fit_target(context, self._images, target, work)
            whole = work.scratch("bundle")
            header = {name: plan[name] for name in ("format", "recipe", "digests", "data")}
            document = assemble(whole, work, context, self._images, header)
            _check_absent(self.out)
            whole.rename(self.out)
        return FitReport(self.out, document, self._skipped)


def prepare(
    data: ImageFolder | Path | str,
    backbone: BackboneRef | Path | str,
    out: Path | str,
    settings: Recipe | Mapping[str, Any] | None = None,
    *,
    targets: Sequence[str] | None = None,
    fetch: FetchWeights | None = None,
    known: Sequence[BackboneRef] = (),
) -> Fit:
    """Prepare a fit: read all images, find the backbone, check everything. Nothing is written.

    Args:
        data: `crop/disease/*.jpg`, or `crop/{train,val,test}/disease/*.jpg`.
        backbone: what `adapters.backbone.resolve.resolve` takes, or a reference.
        out: the bundle's folder, which must not exist.
        settings: a recipe, or some of its attributes by name; see `Recipe` for the defaults.
        targets: some of the data's targets; all by default.
        fetch, known: as for `adapters.backbone.resolve.resolve`.

    Raises:
        BadInput: when `out` exists or can't be written, the data can't train a target (the message names all), or a
            setting is invalid.
        BackboneNotFound, CorruptBlob, BadManifest: when the backbone is missing or damaged.
    """
    out = Path(out)
    _check_absent(out)
    images = data if isinstance(data, ImageFolder) else ImageFolder(data)
    _check_outside(out, images.root)
    recipe = settings if isinstance(settings, Recipe) else Recipe.of(settings or {})
    check_device(recipe.device)
    if unknown := sorted(set(recipe.runtimes) - set(RUNTIMES)):
        raise BadInput(f"{unknown[0][:80]!r} is not a runtime", hint=f"the runtimes are {', '.join(RUNTIMES)}")
    ref, sources = _find(backbone, fetch, known)
    chosen = choose_images(images, images.targets if targets is None else targets)
    return Fit(
        out=out,
        data=report_on(images, tuple(chosen)),
        recipe=complete_recipe(recipe, ref),
        _backbone=ref,
        _sources=sources,
        _images=chosen,
        _skipped=images.skipped,
    )


def fit(
    data: ImageFolder | Path | str,
    backbone: BackboneRef | Path | str,
    out: Path | str,
    settings: Recipe | Mapping[str, Any] | None = None,
    *,
    targets: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> FitReport:
    """Prepare a fit and run it.

    Raises:
        BadInput: when `prepare` or `Fit.run` refuses the settings or the data, or the training diverged.
        NotNow: when another process runs it.
        ImageChanged: when an image has changed since the folder was read.
        BackboneNotFound, CorruptBlob, BadManifest, BadWeights: when the backbone is missing or damaged.
        DiskFull, BadSetting: when the bundle can't be written.
    """
    return prepare(data, backbone, out, settings, targets=targets).run(progress)


def complete_recipe(recipe: Recipe, ref: BackboneRef) -> Recipe:
    """The recipe with the defaults of a backbone's family."""
    family = family_named(ref.family)
    with torch.device("meta"):
        model = family.new_model(ref.config)
    return recipe.on(family, {name.rpartition(".")[2] for name in family.linears_of(model)})


def new_context(ref: BackboneRef, sources: WeightSources, recipe: Recipe, progress: Progress | None) -> FitContext:
    """Open the runtime that the targets are fitted on."""
    document = family_named(ref.family).preprocessing(ref.config)
    runtime = open_runtime(ref, device=recipe.device, folders=sources.folders, fetch=sources.fetch)
    extractor = FeatureExtractor(runtime, Preprocessing.of(document), progress or _no_progress)
    return FitContext(recipe, ref, sources.folders, sources.fetch, document, extractor)


def sample_others(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """At most `MAX_OTHERS` of other targets' images, chosen by digest."""
    return sorted(images, key=lambda image: image.sha256)[:MAX_OTHERS]


def _find(
    backbone: BackboneRef | Path | str, fetch: FetchWeights | None, known: Sequence[BackboneRef]
) -> tuple[BackboneRef, WeightSources]:
    if isinstance(backbone, BackboneRef):
        return backbone, WeightSources(fetch=fetch)
    ref, weights = resolve(backbone, fetch=fetch, known=known)
    return ref, WeightSources((weights.parent,), fetch)


def _check_absent(out: Path) -> None:
    for path in (out, work_folder_of(out)):
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:  # a file where a folder should be, a name that is too long
            raise BadInput(f"{out} can't be written: {error.strerror}", hint="give another folder") from error
        if path == out:
            raise BadInput(f"{out} exists already", hint="give a new folder, or remove it first")


def _check_outside(out: Path, data: Path) -> None:
    """Check that the bundle would not be read as images by the next fit."""
    if out.resolve().is_relative_to(data.resolve()):
        raise BadInput(f"{out} is inside {data}, the folder of images", hint="give a folder elsewhere")


def _fit_target(context: FitContext, images: Mapping[str, TargetImages], target: str, work: WorkFolder) -> None:
    others = [image for name, one in images.items() if name != target for image in one.splits["val"]]
    made = work.scratch(target)
    report = TargetFit(context, images[target], sample_others(others)).write(made, work.checkpoint(target))
    work.finish(target, made, report)


def _digest(images: Mapping[str, TargetImages], split: str) -> str:
    """The digest of a split: its images' bytes and the labels that they are used with, but not their names."""
    rows = [
        [target, one.labels[row], image.sha256]
        for target, one in images.items()
        for image, row in zip(one.splits[split], one.classes[split].tolist(), strict=True)
    ]
    return canonical.digest(sorted(rows))


def _no_progress(stage: str, done: int, total: int) -> None:
    """The default progress callback."""
