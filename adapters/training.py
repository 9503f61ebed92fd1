"""Fit a bundle to a folder of images: per target a LoRA, a head and an OOD detector; over all targets a router.

The backbone stays frozen. Training images train, validation images set the thresholds and the recorded outputs, test
images are never looked at. The same seed on the same machine gives the same files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional

from adapters import backbones, bundle, lora, ood
from adapters.augment import affine
from adapters.data import ImageFolder, LabelledImage, Skipped
from adapters.families import family_named
from adapters.heads import Head, pool
from adapters.loaded import LoadedVersion, load_bundle
from adapters.preprocess import Preprocessing
from registry import canonical
from registry.errors import BadInput, disk_errors
from registry.manifest import BackboneRef

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

LabelsOf: TypeAlias = Callable[[LabelledImage], str]
"""Which label an image is trained with."""

FEATURES = "cls+mean"
BATCH = 50
GOLDENS = 8
"""Recorded outputs per component, at most."""

_MARGIN = 0.5
_OOD_MARGIN = 0.05
"""What a recorded input has at least: between its two best logits, and between its OOD score and 1."""


@dataclass(frozen=True)
class FitReport:
    """What a fit made. Accuracies are on validation images, which also set thresholds; `measure` takes the test split.

    Attributes:
        folder: the bundle.
        accuracy: per target, its adapter's accuracy on the target's validation images.
        routing_accuracy: the router's, on all targets' validation images; None if no router was fitted.
        images: per target, how many images trained it.
        skipped: files that were not used.
    """

    folder: Path
    accuracy: Mapping[str, float]
    routing_accuracy: float | None
    images: Mapping[str, int]
    skipped: tuple[Skipped, ...]


def own_label(image: LabelledImage) -> str:
    """The label that the image's folder gives it."""
    return image.label


def fit(
    data: ImageFolder,
    backbone: BackboneRef | Path | str,
    out: Path,
    *,
    targets: Sequence[str] | None = None,
    rank: int = 4,
    epochs: int = 2,
    seed: int = 0,
    false_alarm_rate: float = ood.FALSE_ALARM_RATE,
    labels_of: LabelsOf = own_label,
    device: str = "cpu",
    progress: Progress | None = None,
) -> FitReport:
    """Fit a bundle for all targets of the data, or for `targets`, and write it to `out`, which must not exist.

    `out` appears whole or not at all.

    Raises:
        BadInput: the data lacks images of a split or label, `out` exists, or a number is out of bounds.
        BackboneNotFound, CorruptBlob: as `adapters.backbones.find`.
        DiskFull: nothing was left half written.
    """
    if out.exists():
        raise BadInput(f"{out} exists already", hint="give a new folder, or remove it first")
    chosen = tuple(sorted(targets or data.targets))
    fitting = _Fitting.start(
        data,
        backbone,
        rank=rank,
        epochs=epochs,
        seed=seed,
        false_alarm_rate=false_alarm_rate,
        labels_of=labels_of,
        device=device,
        progress=progress,
    )
    with _written_whole(out) as folder:
        fitting.write_shared(folder)
        accuracy: dict[str, float] = {}
        frozen: dict[str, _Features] = {}
        for target in chosen:
            images = fitting.read(target)
            frozen[target] = fitting.frozen_features(images)
            accuracy[target] = fitting.write_adapter(folder, images, frozen[target])
        routing = fitting.write_router(folder / bundle.ROUTER, frozen)
        version = load_bundle(_files(folder), device=device, backbone_folders=fitting.folders)
        for part in (None, *chosen):
            fitting.write_goldens(folder, version, part)
    counts = {target: len(fitting.labelled("train", target)) for target in chosen}
    return FitReport(out, accuracy, routing, counts, data.skipped)


def fit_target(
    data: ImageFolder,
    target: str,
    folder: Path,
    *,
    rank: int = 4,
    epochs: int = 2,
    seed: int = 0,
    false_alarm_rate: float = ood.FALSE_ALARM_RATE,
    labels_of: LabelsOf = own_label,
    backbone_folders: Sequence[Path | str] = (),
    device: str = "cpu",
    progress: Progress | None = None,
) -> FitReport:
    """Fit one target again, in a bundle that exists: its adapter's folder is replaced, everything else stays.

    Raises:
        As `fit`; BadManifest and the like if `folder` is no sound bundle.
    """
    here = load_bundle(_files(folder), device=device, backbone_folders=backbone_folders)
    fitting = _Fitting.start(
        data,
        here.backbone,
        folders=backbone_folders,
        rank=rank,
        epochs=epochs,
        seed=seed,
        false_alarm_rate=false_alarm_rate,
        labels_of=labels_of,
        device=device,
        progress=progress,
    )
    final = folder / bundle.adapter_folder(target)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, disk_errors(folder):
        whole = Path(scratch) / "bundle"
        shutil.copytree(folder, whole)
        shutil.rmtree(whole / bundle.adapter_folder(target), ignore_errors=True)
        images = fitting.read(target)
        accuracy = fitting.write_adapter(whole, images, fitting.frozen_features(images))
        version = load_bundle(_files(whole), device=device, backbone_folders=fitting.folders)
        fitting.write_goldens(whole, version, target)
        if final.exists():
            final.rename(Path(scratch) / "replaced")
        (whole / bundle.adapter_folder(target)).rename(final)
    return FitReport(folder, {target: accuracy}, None, {target: len(fitting.labelled("train", target))}, data.skipped)


@dataclass(frozen=True)
class _Images:
    """One target's training and validation images, decoded: squares [N, H, W, 3] uint8, classes [N]."""

    target: str
    labels: tuple[str, ...]
    squares: Mapping[str, torch.Tensor]
    classes: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Features:
    """What the frozen backbone makes of a target's images; of training images also once augmented, below each other."""

    train: torch.Tensor
    val: torch.Tensor


@dataclass(frozen=True)
class _Fitting:
    """The settings of one fit; its methods are the steps."""

    data: ImageFolder
    backbone: BackboneRef
    folders: tuple[Path | str, ...]
    preprocessing_document: dict[str, Any]
    rank: int
    epochs: int
    seed: int
    false_alarm_rate: float
    labels_of: LabelsOf
    device: str
    progress: Progress

    @classmethod
    def start(
        cls,
        data: ImageFolder,
        backbone: BackboneRef | Path | str,
        *,
        rank: int,
        epochs: int,
        seed: int,
        false_alarm_rate: float,
        labels_of: LabelsOf,
        device: str,
        progress: Progress | None,
        folders: Sequence[Path | str] = (),
    ) -> _Fitting:
        if not (0 < rank <= lora.MAX_RANK and epochs > 0 and seed >= 0 and 0 < false_alarm_rate < 1):
            raise BadInput(f"rank {rank}, epochs {epochs}, seed {seed}, false alarms {false_alarm_rate} can't be meant")
        if isinstance(backbone, BackboneRef):
            ref, places = backbone, tuple(folders)
        else:
            ref, places = backbones.ref_of_folder(backbone), (backbone, *folders)
        document = family_named(ref.family).preprocessing(ref.config)
        return cls(
            data=data,
            backbone=ref,
            folders=places,
            preprocessing_document=document,
            rank=rank,
            epochs=epochs,
            seed=seed,
            false_alarm_rate=false_alarm_rate,
            labels_of=labels_of,
            device=device,
            progress=progress or _say_nothing,
        )

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing.of(self.preprocessing_document)

    @property
    def prefix(self) -> int:
        return family_named(self.backbone.family).prefix_tokens(self.backbone.config)

    def labelled(self, split: str, target: str) -> tuple[LabelledImage, ...]:
        return tuple(image for image in self.data.split(split) if image.target == target)

    def new_model(self) -> nn.Module:
        return backbones.new_model(self.backbone, folders=self.folders, device=self.device)

    def write_shared(self, folder: Path) -> None:
        bundle.write_document(folder / bundle.BACKBONE, self.backbone.model_dump(mode="json"))
        bundle.write_document(folder / bundle.PREPROCESSING, self.preprocessing_document)
        bundle.write_document(folder / bundle.INFERENCE, bundle.DEFAULT_INFERENCE)

    def read(self, target: str) -> _Images:
        """Decode a target's training and validation images.

        Raises:
            BadInput: there are too few, or of labels that were not trained.
        """
        images = {name: self.labelled(name, target) for name in ("train", "val")}
        labels = self._labels(target, images)
        return _Images(
            target,
            labels,
            {name: self._squares(chosen) for name, chosen in images.items()},
            {name: torch.tensor([labels.index(self.labels_of(i)) for i in chosen]) for name, chosen in images.items()},
        )

    def frozen_features(self, images: _Images) -> _Features:
        """Show a target's images to the backbone alone."""
        model, train = self.new_model(), images.squares["train"]
        augmented = self._features(model, train, self._random(images.target, "frozen"))
        return _Features(
            torch.cat([self._features(model, train), augmented]), self._features(model, images.squares["val"])
        )

    def write_adapter(self, folder: Path, images: _Images, frozen: _Features) -> float:
        """Fit and write one target's adapter; its accuracy on the target's validation images."""
        inner = folder / bundle.adapter_folder(images.target)
        model, config, head = self._train(images, frozen)
        features = {name: self._features(model, squares) for name, squares in images.squares.items()}
        logits = head(features["val"])
        detector = self._detector(head, features, images.classes["train"], logits.argmax(dim=1))

        bundle.write_document(inner / bundle.ADAPTER_CONFIG, lora.write_config(config, self.backbone.name))
        _write_tensors(inner / bundle.ADAPTER_WEIGHTS, lora.weights_of(model, images.target))
        self._write_head(inner, head)
        bundle.write_document(inner / f"{bundle.OOD}.json", detector.document())
        _write_tensors(inner / f"{bundle.OOD}.safetensors", detector.tensors())
        self._write_component(inner, images.labels)
        return _share_right(logits, images.classes["val"])

    def write_router(self, folder: Path, frozen: Mapping[str, _Features]) -> float:
        """Fit and write the router; its accuracy on the validation images of these targets."""
        self.progress("router", 0, 1)
        train = [features.train for features in frozen.values()]
        head = _linear_head(torch.cat(train), _numbered(train), tuple(frozen))
        self._write_head(folder, head)
        self._write_component(folder, head.labels)
        self.progress("router", 1, 1)
        val = [features.val for features in frozen.values()]
        return _share_right(head(torch.cat(val)), _numbered(val))

    def write_goldens(self, folder: Path, version: LoadedVersion, target: str | None) -> None:
        """Record what the written version makes of some validation images, far enough from its decisions' borders."""
        inner = folder / (bundle.ROUTER if target is None else bundle.adapter_folder(target))
        images = [image for image in self.data.split("val") if target in (None, image.target)]
        chosen = sorted(images, key=lambda image: image.sha256)[: 8 * GOLDENS]
        outputs = version.golden_outputs(self._squares(chosen).numpy(), target)
        picked = _pick(outputs)
        bundle.write_tensors(inner / bundle.GOLDEN, {name: array[picked] for name, array in outputs.items()})

    def _train(self, images: _Images, frozen: _Features) -> tuple[nn.Module, LoraConfig, Head]:
        """The backbone with a trained LoRA on it, and its head, which starts as the best one without a LoRA."""
        target, squares, classes = images.target, images.squares["train"], images.classes["train"]
        random = self._random(target, "lora")
        model = self.new_model()
        start = _linear_head(frozen.train, classes.repeat(2), images.labels)
        weight, bias = (nn.Parameter(tensor.clone()) for tensor in (start.weight, start.bias))
        targets = family_named(self.backbone.family).lora_targets
        config = LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=list(targets))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.initial_seed())
            inject_adapter_in_model(config, model, adapter_name=lora.peft_name(target))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [{"params": trained, "lr": 4e-3}, {"params": [weight, bias], "lr": 4e-3}]
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-2)
        steps = self.epochs * -(-len(squares) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for epoch in range(self.epochs):
            self.progress(target, epoch, self.epochs)
            for rows in torch.randperm(len(squares), generator=random).split(BATCH):
                pixels = affine(self.preprocessing.normalise(squares[rows]), random).to(self.device)
                features = pool(model(pixel_values=pixels).last_hidden_state, FEATURES, self.prefix)
                logits = functional.linear(features, weight, bias)
                loss = functional.cross_entropy(logits, classes[rows].to(self.device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        self.progress(target, self.epochs, self.epochs)
        return model, config, Head(images.labels, FEATURES, weight.detach().cpu(), bias.detach().cpu())

    def _random(self, target: str, use: str) -> torch.Generator:
        """Random numbers that depend on nothing but the seed, the target and what they are for."""
        digest = canonical.digest([self.seed, target, use])
        return torch.Generator().manual_seed(int(digest[:12], 16))

    def _detector(
        self, head: Head, features: Mapping[str, torch.Tensor], classes: torch.Tensor, predicted: torch.Tensor
    ) -> ood.Detector:
        means, whitening = ood.fit_classes(features["train"], classes, len(head.labels))
        thresholds = ood.calibrate(features["val"], predicted, means, whitening, self.false_alarm_rate)
        counts = {label: int((predicted == number).sum()) for number, label in enumerate(head.labels)}
        calibration = {"split": "val", "images": len(predicted), "images_per_predicted_label": counts}
        return ood.Detector(head.labels, FEATURES, means, whitening, thresholds, self.false_alarm_rate, calibration)

    def _labels(self, target: str, images: Mapping[str, Sequence[LabelledImage]]) -> tuple[str, ...]:
        labels = tuple(sorted({self.labels_of(image) for image in images["train"]}))
        if len(labels) < 2:
            raise BadInput(f"{target} has {len(labels)} labels with training images, it takes two", hint="add images")
        if not images["val"]:
            raise BadInput(f"{target} has no validation image", hint="add images: 14% of them become validation images")
        unknown = {self.labels_of(image) for image in images["val"]} - set(labels)
        if unknown:
            raise BadInput(f"{target}: no training image has the label {sorted(unknown)[0]!r}", hint="add some")
        return labels

    def _squares(self, images: Sequence[LabelledImage]) -> torch.Tensor:
        if not images:
            raise BadInput("a target has no images in a split", hint="add images, or leave the target out")
        return torch.from_numpy(np.stack([self.preprocessing.square(image.path) for image in images]))

    @torch.no_grad()
    def _features(self, model: nn.Module, squares: torch.Tensor, random: torch.Generator | None = None) -> torch.Tensor:
        """[N, inputs] on the CPU; of augmented images if `random` is given."""
        features = []
        for batch in squares.split(256):
            pixels = self.preprocessing.normalise(batch)
            pixels = pixels if random is None else affine(pixels, random)
            tokens = model(pixel_values=pixels.to(self.device)).last_hidden_state
            features.append(pool(tokens, FEATURES, self.prefix).cpu())
        return torch.cat(features)

    def _write_head(self, folder: Path, head: Head) -> None:
        bundle.write_document(folder / f"{bundle.HEAD}.json", head.document())
        _write_tensors(folder / f"{bundle.HEAD}.safetensors", head.tensors())

    def _write_component(self, folder: Path, labels: Sequence[str]) -> None:
        document = bundle.component_document(labels, self.backbone, self.preprocessing_document)
        bundle.write_document(folder / bundle.COMPONENT, document)


def _numbered(groups: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each row's group."""
    return torch.cat([torch.full((len(group),), number) for number, group in enumerate(groups)])


def _linear_head(features: torch.Tensor, classes: torch.Tensor, labels: tuple[str, ...]) -> Head:
    """Multinomial logistic regression with a little weight decay, on standardised features, folded into one layer."""
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-6
    inputs = (features - mean) / scale
    weight = torch.zeros(len(labels), inputs.shape[1], requires_grad=True)
    bias = torch.zeros(len(labels), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(functional.linear(inputs, weight, bias), classes)
        value = value + 1e-3 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    folded = weight.detach() / scale
    return Head(labels, FEATURES, folded, bias.detach() - folded @ mean)


def _pick(outputs: Mapping[str, np.ndarray]) -> list[int]:
    """Rows with margin, a quarter of them flagged ones if there are any; all rows count if none has margin."""
    ordered = np.sort(outputs["logits"], axis=1)
    wide = ordered[:, -1] - ordered[:, -2] >= _MARGIN if ordered.shape[1] > 1 else np.ones(len(ordered), bool)
    scores = outputs.get("ood_score", np.zeros(len(wide)))
    clear = wide & (np.abs(scores - 1) >= _OOD_MARGIN)
    rows = np.flatnonzero(clear if clear.any() else np.ones_like(clear))
    flagged = [int(row) for row in rows if scores[row] > 1][: GOLDENS // 4]
    passing = [int(row) for row in rows if scores[row] <= 1][: GOLDENS - len(flagged)]
    return sorted(flagged + passing)


def _share_right(logits: torch.Tensor, classes: torch.Tensor) -> float:
    return float((logits.argmax(dim=1) == classes).float().mean())


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    bundle.write_tensors(path, {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when all went well, and goes away when not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(out), tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir(mode=0o755)
        yield folder
        folder.rename(out)


def _say_nothing(stage: str, done: int, total: int) -> None:
    """The progress callback of a caller who gave none."""
