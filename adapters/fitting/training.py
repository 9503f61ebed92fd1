"""Fit a bundle to a folder of images: per target a LoRA, a head and an OOD detector; over all targets a router.

The backbone stays frozen. Training images train; validation images choose blocks, thresholds and exits and give the
recorded outputs; test images decide nothing, their numbers are only told. The LoRA is trained with PEFT on a model of
its own; everything that is fitted to features takes them from the runtime that will serve. The same seed on the same
machine gives the same files, whatever the images are called and however often the fit was interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from adapters import bundle
from adapters.answer.components import read_parts
from adapters.answer.loaded import UNBOUND, LoadedVersion, check_device, load_bundle
from adapters.backbone import backbones
from adapters.backbone.backbones import FetchBlob
from adapters.backbone.families import family_named
from adapters.backbone.preprocess import Preprocessing
from adapters.fitting.data import SPLITS, ImageFolder, LabelledImage, Skipped
from adapters.fitting.data_report import DataReport, report_on
from adapters.fitting.goldens import CANDIDATES, goldens_of
from adapters.fitting.images import Chosen, LabelsOf, choose_images, decode, own_label
from adapters.fitting.lora_training import Progress
from adapters.fitting.metrics import routed_right, score, share
from adapters.fitting.recipe import Recipe
from adapters.fitting.regression import linear_head
from adapters.fitting.runtimes import write_runtimes
from adapters.fitting.seeing import Eyes
from adapters.fitting.target import FROZEN, MAX_OTHERS, TargetFit, Workbench
from adapters.fitting.workplace import Checkpoint, Workplace, opened, replace_folder, restore_folder, workplace_of
from adapters.runtimes.gate import RUNTIMES_FILE
from adapters.runtimes.runtimes import REFERENCE, RUNTIMES, Runtime, open_runtime
from adapters.writing import write_part
from registry.errors import BadInput, MissingBlob, disk_errors
from registry.formats import canonical
from registry.versions.manifest import BackboneRef

FIT = "config/fit.json"
"""What was fitted, how, to what, and how well: the recipe, the data's digests and oddities, metrics per target."""

_JUDGED = ("val", "test")
"""The splits that did not train, of which the report tells."""


@dataclass(frozen=True)
class FitReport:
    """What a fit made.

    Attributes:
        folder: the bundle.
        document: the content of `config/fit.json`. Numbers on validation images rest on images that also set
            thresholds; those on test images do not; `ulora measure` takes the test split too.
        skipped: files that were not used.
    """

    folder: Path
    document: Mapping[str, Any]
    skipped: tuple[Skipped, ...] = field(repr=False, default=())

    @property
    def accuracy(self) -> dict[str, float]:
        """Per target, on its validation images."""
        return {target: one["val"]["accuracy"] for target, one in self.document["targets"].items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the data, and what can't be promised, a sentence each."""
        own = [f"{target}: {note}" for target, one in self.document["targets"].items() for note in one["notes"]]
        return (*self.document["data"]["warnings"], *own)


@dataclass(frozen=True)
class Fit:
    """A fit that is ready to begin: everything that can be refused has been.

    Attributes:
        out: the bundle that it will write.
        data: what is odd about the images.
        recipe: the settings, filled in for the backbone.
    """

    out: Path
    data: DataReport
    recipe: Recipe
    _backbone: BackboneRef = field(repr=False)
    _places: _Places = field(repr=False)
    _images: Mapping[str, Chosen] = field(repr=False)
    _skipped: tuple[Skipped, ...] = field(repr=False)

    @property
    def plan(self) -> dict[str, Any]:
        """What would be done, as JSON; with the same plan an interrupted fit goes on."""
        return {
            "format": 1,
            "recipe": self.recipe.document(),
            "backbone": self._backbone.model_dump(mode="json"),
            "targets": {target: list(images.labels) for target, images in self._images.items()},
            "digests": {split: _digest(self._images, split) for split in SPLITS},
            "data": self.data.document(),
        }

    def run(self, progress: Progress | None = None) -> FitReport:
        """Do it, or go on with it. The bundle appears whole or not at all.

        Raises:
            BadInput: an interrupted fit of the same bundle was told to do something else; or the training ran away.
            NotNow: another process does it already.
            BackboneNotFound, CorruptBlob, BadWeights: the backbone is not as it should be.
            DiskFull, BadSetting: the bundle can't be written.
        """
        plan = self.plan
        decides = {name: plan[name] for name in ("format", "recipe", "backbone", "targets", "digests")}
        with disk_errors(self.out), opened(self.out, decides) as place:
            bench = _workbench(self._backbone, self._places, self.recipe, progress)
            for runtime in self.recipe.runtimes:
                _open(bench, runtime)  # what is not installed is better known before hours of training than after them
            for target in self._images:
                if not place.target(target).exists():
                    _fit_target(bench, self._images, target, place)
            whole = place.scratch("bundle")
            document = self._assemble(whole, place, bench, plan)
            _check_absent(self.out)
            whole.rename(self.out)
        return FitReport(self.out, document, self._skipped)

    def _assemble(self, whole: Path, place: Workplace, bench: Workbench, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Put the finished targets together, with the router and what the whole version makes of images."""
        bundle.write_document(whole / bundle.BACKBONE, self._backbone.model_dump(mode="json"))
        bundle.write_document(whole / bundle.PREPROCESSING, bench.preprocessing)
        bundle.write_document(whole / bundle.INFERENCE, bundle.DEFAULT_INFERENCE)
        for target in self._images:
            shutil.copytree(place.target(target) / "adapter", whole / bundle.adapter_folder(target))
        _write_router(whole / bundle.ROUTER, {target: place.target(target) / FROZEN for target in self._images}, bench)
        version = _load(whole, bench, REFERENCE)
        targets, routed = {}, dict.fromkeys(_JUDGED, 0)
        for done, (target, images) in enumerate(self._images.items()):
            bench.eyes.told("checking", done, len(self._images))
            squares = _judged(version, images)
            _write_golden(whole / bundle.adapter_folder(target), version, squares["val"], target)
            targets[target] = {**place.report(target), **_scores(version, images, squares)}
            for split in _JUDGED:
                routed[split] += routed_right(version, target, squares[split])
        _write_golden(whole / bundle.ROUTER, version, _some_squares(version, self._images.values()), None)
        totals = {split: sum(len(images.splits[split]) for images in self._images.values()) for split in _JUDGED}
        document = {
            **{name: plan[name] for name in ("format", "recipe", "digests", "data")},
            "targets": targets,
            "routing": {split: share(routed[split], totals[split]) for split in _JUDGED},
            "runtimes": _write_runtimes(whole, bench, self._images),
        }
        bench.eyes.told("checking", len(self._images), len(self._images))
        bundle.write_document(whole / FIT, document)
        return document


def prepare(
    data: ImageFolder | Path | str,
    backbone: BackboneRef | Path | str,
    out: Path | str,
    settings: Recipe | Mapping[str, Any] | None = None,
    *,
    targets: Sequence[str] | None = None,
    labels_of: LabelsOf = own_label,
    folders: Sequence[Path | str] = (),
    fetch: FetchBlob | None = None,
    known: Sequence[BackboneRef] = (),
) -> Fit:
    """Get a fit ready: look at all images, find the backbone, check everything. Nothing is written.

    Args:
        data: `crop/disease/*.jpg`, or `crop/{train,val,test}/disease/*.jpg`.
        backbone: what `adapters.backbone.backbones.resolve` takes, or a reference.
        out: the bundle's folder, which must not exist.
        settings: a recipe, or some of its attributes by name; see `Recipe` for what is left out.
        targets: some of the data's targets; all when left out.
        labels_of: which label an image is trained with.
        folders, fetch, known: where the backbone may be; see `adapters.backbone.backbones`.

    Raises:
        BadInput: `out` exists or can't be there, the data can't train a target (the message names all), or a setting
            can't be meant.
        BackboneNotFound, CorruptBlob, BadManifest: as `adapters.backbone.backbones.resolve`.
    """
    out = Path(out)
    _check_absent(out)
    images = data if isinstance(data, ImageFolder) else ImageFolder(data)
    _check_apart(out, images.root)
    recipe = settings if isinstance(settings, Recipe) else Recipe.of(settings or {})
    check_device(recipe.device)
    if unknown := sorted(set(recipe.runtimes) - set(RUNTIMES)):
        raise BadInput(f"{unknown[0][:80]!r} is no runtime", hint=f"there are {', '.join(RUNTIMES)}")
    ref, places = _find(backbone, folders, fetch, known)
    chosen = choose_images(images, images.targets if targets is None else targets, labels_of)
    return Fit(
        out=out,
        data=report_on(images, tuple(chosen), labels_of),
        recipe=_complete(recipe, ref),
        _backbone=ref,
        _places=places,
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
    labels_of: LabelsOf = own_label,
    progress: Progress | None = None,
) -> FitReport:
    """`prepare` and `Fit.run` in one.

    Raises:
        As these.
    """
    return prepare(data, backbone, out, settings, targets=targets, labels_of=labels_of).run(progress)


def fit_target(
    data: ImageFolder,
    target: str,
    folder: Path,
    settings: Recipe | Mapping[str, Any] | None = None,
    *,
    labels_of: LabelsOf = own_label,
    folders: Sequence[Path | str] = (),
    progress: Progress | None = None,
) -> FitReport:
    """Fit one target again, in a bundle that exists: its adapter's folder is replaced and its entry in
    `config/fit.json`; everything else stays. Verdicts on runtimes go: they were given on the adapter that was there.
    Whoever looks sees the old bundle or the new one as a whole; for a moment none, which the next call mends if this
    one is killed then.

    Raises:
        As `prepare` and `Fit.run`; BadManifest and the like if `folder` is no sound bundle.
    """
    recipe = settings if isinstance(settings, Recipe) else Recipe.of(settings or {})
    check_device(recipe.device)
    place = folder.resolve()
    restore_folder(place)
    here = load_bundle(_files(place), device=recipe.device, backbone_folders=folders)
    recipe = _complete(recipe, here.backbone)
    chosen = choose_images(data, [target], labels_of)
    others = [image for image in data.split("val") if image.target != target and image.target in here.targets]
    bench = _workbench(here.backbone, _Places(tuple(folders), None), recipe, progress)
    with TemporaryDirectory(dir=place.parent) as scratch, disk_errors(folder):
        made, whole = Path(scratch) / "made", Path(scratch) / "bundle"
        report = TargetFit(bench, chosen[target], _some_others(others)).write(made, Checkpoint(Path(scratch)))
        shutil.copytree(place, whole, ignore=lambda path, _: [target] if Path(path).name == bundle.ADAPTERS else [])
        (made / "adapter").rename(whole / bundle.adapter_folder(target))
        version = _load(whole, bench, REFERENCE)
        squares = _judged(version, chosen[target])
        _write_golden(whole / bundle.adapter_folder(target), version, squares["val"], target)
        scores = _scores(version, chosen[target], squares)
        document = _with_target(place, target, {**report, **scores, "recipe": recipe.document()})
        (whole / RUNTIMES_FILE).unlink(missing_ok=True)
        bundle.write_document(whole / FIT, document)
        replace_folder(place, whole)
    return FitReport(folder, document, data.skipped)


@dataclass(frozen=True)
class _Places:
    """Where a backbone may be, as `adapters.backbone.backbones.new_model` takes it."""

    folders: tuple[Path | str, ...]
    fetch: FetchBlob | None


def _find(
    backbone: BackboneRef | Path | str,
    folders: Sequence[Path | str],
    fetch: FetchBlob | None,
    known: Sequence[BackboneRef],
) -> tuple[BackboneRef, _Places]:
    if isinstance(backbone, BackboneRef):
        return backbone, _Places(tuple(folders), fetch)
    ref, weights = backbones.resolve(backbone, fetch=fetch, known=known)
    return ref, _Places((weights.parent, *folders), fetch)


def _check_absent(out: Path) -> None:
    for place in (out, workplace_of(out)):
        try:
            place.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:  # a file where a folder should be, a name that is too long
            raise BadInput(f"{out} can't be written: {error.strerror}", hint="give another folder") from error
        if place == out:
            raise BadInput(f"{out} exists already", hint="give a new folder, or remove it first")


def _check_apart(out: Path, data: Path) -> None:
    """Whether the bundle would not be taken for images the next time."""
    if out.resolve().is_relative_to(data.resolve()):
        raise BadInput(f"{out} lies inside of {data}, the folder of images", hint="give a folder elsewhere")


def _complete(recipe: Recipe, ref: BackboneRef) -> Recipe:
    """The recipe with the defaults of a backbone's family."""
    family = family_named(ref.family)
    with torch.device("meta"):
        model = family.new_model(ref.config)
    return recipe.on(family, {name.rpartition(".")[2] for name in family.linears_of(model)})


def _workbench(ref: BackboneRef, places: _Places, recipe: Recipe, progress: Progress | None) -> Workbench:
    document = family_named(ref.family).preprocessing(ref.config)
    runtime = open_runtime(ref, device=recipe.device, folders=places.folders, fetch=places.fetch)
    eyes = Eyes(runtime, Preprocessing.of(document), progress or _say_nothing)
    return Workbench(recipe, ref, places.folders, places.fetch, document, eyes)


def _fit_target(bench: Workbench, images: Mapping[str, Chosen], target: str, place: Workplace) -> None:
    others = [image for name, one in images.items() if name != target for image in one.splits["val"]]
    made = place.scratch(target)
    report = TargetFit(bench, images[target], _some_others(others)).write(made, place.checkpoint(target))
    place.finish(target, made, report)


def _some_others(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """So many of them that none is preferred."""
    return sorted(images, key=lambda image: image.sha256)[:MAX_OTHERS]


def _write_router(folder: Path, frozen: Mapping[str, Path], bench: Workbench) -> None:
    bench.eyes.told("router", 0, 1)
    features = [bundle.BundleFiles({FROZEN: path}).tensors(FROZEN)["train"] for path in frozen.values()]
    classes = torch.cat([torch.full((len(own),), number) for number, own in enumerate(features)])
    head = linear_head(torch.cat(features), classes, tuple(frozen), bench.router_tap)
    write_part(folder, bundle.HEAD, head)
    document = bundle.component_document(head.labels, bench.backbone, bench.preprocessing)
    bundle.write_document(folder / bundle.COMPONENT, document)
    bench.eyes.told("router", 1, 1)


def _open(bench: Workbench, runtime: str) -> Runtime:
    return open_runtime(
        bench.backbone, name=runtime, device=bench.recipe.device, folders=bench.folders, fetch=bench.fetch
    )


def _load(folder: Path, bench: Workbench, runtime: str) -> LoadedVersion:
    """The bundle on a runtime; no verdict is asked for, since it is only about to be given."""
    parts = read_parts(bundle.BundleFiles(_files(folder)), _open(bench, runtime))
    return LoadedVersion(UNBOUND, "", parts, {})


def _write_runtimes(folder: Path, bench: Workbench, images: Mapping[str, Chosen]) -> dict[str, Any]:
    if not bench.recipe.runtimes:
        return {}
    squares = {target: decode(bench.eyes.preprocessing, one.splits["val"]) for target, one in images.items()}

    def load(runtime: str) -> LoadedVersion:
        return _load(folder, bench, runtime)

    reports = write_runtimes(folder, bench.recipe.runtimes, images, squares, load)
    return {runtime: report.document() for runtime, report in reports.items()}


def _judged(version: LoadedVersion, images: Chosen) -> dict[str, np.ndarray]:
    """A target's squares by split, [N, H, W, 3] uint8: decoded once for all that is asked of them."""
    return {split: decode(version.parts.preprocessing, images.splits[split]).numpy() for split in _JUDGED}


def _some_squares(version: LoadedVersion, images: Collection[Chosen]) -> np.ndarray:
    """Of validation images of all targets, so many as recorded outputs are chosen from."""
    held_out = sorted((image for one in images for image in one.splits["val"]), key=lambda image: image.sha256)
    return decode(version.parts.preprocessing, held_out[:CANDIDATES]).numpy()


def _write_golden(folder: Path, version: LoadedVersion, squares: np.ndarray, target: str | None) -> None:
    bundle.write_tensors(folder / bundle.GOLDEN, goldens_of(version, squares[:CANDIDATES], target))


def _scores(version: LoadedVersion, images: Chosen, squares: Mapping[str, np.ndarray]) -> dict[str, Any]:
    labels = {split: [images.labels[row] for row in images.classes[split]] for split in _JUDGED}
    return {split: asdict(score(version, images.target, squares[split], labels[split])) for split in _JUDGED}


def _with_target(folder: Path, target: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle says of its fit, with one target's part renewed."""
    try:
        document = bundle.BundleFiles({FIT: folder / FIT} if (folder / FIT).exists() else {}).document(FIT)
    except MissingBlob:
        document = {"format": 1, "data": {"warnings": []}, "targets": {}}
    return {**document, "targets": {**document["targets"], target: dict(report)}, "runtimes": {}}


def _digest(images: Mapping[str, Chosen], split: str) -> str:
    """Of what the images of a split are and which label they are used with, whatever they are called."""
    rows = [
        [target, one.labels[row], image.sha256]
        for target, one in images.items()
        for image, row in zip(one.splits[split], one.classes[split].tolist(), strict=True)
    ]
    return canonical.digest(sorted(rows))


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _say_nothing(stage: str, done: int, total: int) -> None:
    """The progress callback of a caller who gave none."""
