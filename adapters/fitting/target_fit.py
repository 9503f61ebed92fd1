"""Fit one target: its LoRA, its head, its detector, and its exits if asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from adapters import bundle
from adapters.answer.early_exits import Depth, write_depth
from adapters.answer.heads import Features, Head
from adapters.answer.ood import Mahalanobis
from adapters.answer.stages import Stage
from adapters.backbone.families import family_named
from adapters.backbone.features import FeatureSpec
from adapters.backbone.locate import FetchWeights
from adapters.bank.peft_files import read_adapter, write_config
from adapters.bank.slots import Slot
from adapters.bundle import BundleFiles
from adapters.fitting.augment import affine
from adapters.fitting.early_exits import fit_depth, ood_note
from adapters.fitting.evaluation import share
from adapters.fitting.feature_extractor import FeatureExtractor
from adapters.fitting.image_folder import LabelledImage
from adapters.fitting.lora_training import Trained, TrainingInputs, train_lora
from adapters.fitting.mahalanobis import DetectorData, fit_mahalanobis, promised_rate
from adapters.fitting.recipe import Recipe
from adapters.fitting.regression import head_feature_specs, starting_head
from adapters.fitting.target_images import TargetImages, decode
from adapters.fitting.work_folder import Checkpoint
from adapters.runtimes.interface import Runtime
from registry.errors import BadInput
from registry.formats import canonical
from registry.versions.manifest import BackboneRef

MAX_OTHERS = 300
"""How many validation images of other targets are used to choose a detector's features."""

MAX_EXITS = 8
"""How many blocks before the last may have exits or give features to detectors: evenly spaced, from a third of the
depth."""

_NOTHING = 1e-12
"""A sum of squares that is only rounding, for features of length 1; as in `adapters.fitting.mahalanobis`."""

FROZEN = "frozen.safetensors"
"""Features of a target's images without an adapter, for the router: `train`, `val`, [N, width]."""


@dataclass(frozen=True)
class FitContext:
    """What the fits of all targets share.

    Attributes:
        recipe: completed for this backbone.
        backbone, folders, fetch: as for `adapters.backbone.build.new_model`.
        preprocessing: the content of `config/preprocessing.json`.
        extractor: computes features on the runtime that will serve.
    """

    recipe: Recipe
    backbone: BackboneRef
    folders: tuple[Path | str, ...]
    fetch: FetchWeights | None
    preprocessing: Mapping[str, Any]
    extractor: FeatureExtractor

    @property
    def runtime(self) -> Runtime:
        """The runtime of the fit."""
        return self.extractor.runtime

    @property
    def depth(self) -> int:
        """The number of blocks of the backbone."""
        return int(self.backbone.config["num_hidden_layers"])

    @property
    def router_spec(self) -> FeatureSpec:
        """The features that the router takes, independent of the heads of the targets."""
        return FeatureSpec(self.depth, "cls+mean")

    @property
    def early_blocks(self) -> tuple[int, ...]:
        """The blocks before the last that exits and detectors may use."""
        first = max(1, self.depth // 3)
        blocks = range(first, self.depth, max(1, -(-(self.depth - first) // MAX_EXITS)))
        return tuple(blocks)

    def feature_spec(self, block: int) -> FeatureSpec:
        """The features that an exit or a detector takes after a block."""
        return FeatureSpec(block, "cls" if self.recipe.head == "cls" else "cls+mean")

    def random(self, *words: str) -> torch.Generator:
        """A separate generator for each purpose, so that targets do not depend on each other."""
        seed = int(canonical.digest([self.recipe.seed, *words])[:15], 16)
        return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class TargetFit:
    """The fit of one target to `images`; its detector is chosen to separate them from `others`."""

    context: FitContext
    images: TargetImages
    others: Sequence[LabelledImage]

    def write(self, folder: Path, checkpoint: Checkpoint) -> dict[str, Any]:
        """Write the adapter's files, without its recorded outputs, into `folder/adapter`, and the features for the
        router beside it.

        Returns:
            The target's entry in the report, as JSON.

        Raises:
            BadInput: when the images of each label all look the same, or the training diverged.
            ImageChanged: when a file has changed since the folder was read.
        """
        context = self.context
        squares = {split: self._decode(self.images.splits[split]) for split in ("train", "val")}
        frozen = self._frozen(squares)
        self._check_variety(frozen["train"][context.router_spec])
        bundle.write_tensors(folder / FROZEN, {name: own[context.router_spec] for name, own in frozen.items()})
        start = self._starting_head(frozen["train"])
        trained = self._train(squares["train"], start, checkpoint)
        inner = folder / "adapter"
        self._write_lora(inner, trained)
        features = self._features(inner, trained, squares)
        self._check_finite(features)
        report = self._write_heads(inner, trained.head, features)
        report |= {"frozen": self._accuracy(start, frozen["val"])}
        document = bundle.component_document(self.images.labels, context.backbone, context.preprocessing)
        bundle.write_document(inner / bundle.COMPONENT, document)
        return report

    def _features(self, inner: Path, trained: Trained, squares: Mapping[str, torch.Tensor]) -> dict[str, Features]:
        """Features with the trained adapter of `train`, `val`, and the other targets' images (`others`)."""
        context, target = self.context, self.images.target
        slot = self._slot(inner)
        early = [context.feature_spec(block) for block in (*context.early_blocks, context.depth)]
        specs = {*trained.head.feature_specs, *early}
        extract = context.extractor.features
        features = {name: extract(one, slot, specs, f"{target}:{name}") for name, one in squares.items()}
        return {**features, "others": extract(self._decode(self.others), slot, specs, f"{target}:others")}

    def _write_heads(self, inner: Path, head: Head, features: Mapping[str, Features]) -> dict[str, Any]:
        """Write head, detector and exits; returns the target's entry in the report."""
        detector = self._detector(head, features, self.context.depth)
        bundle.save(inner, bundle.HEAD, head)
        bundle.save(inner, bundle.OOD, detector)
        notes, held_out = list(detector.notes), len(self.images.splits["val"])
        report = {
            "labels": list(self.images.labels),
            "notes": notes,
            "ood": detector.feature_spec.document(),
            "false_alarms": {
                "asked": detector.false_alarm_rate,
                "upper_bound_90": promised_rate(held_out, detector.false_alarm_rate),
                "images": held_out,
            },
        }
        if self.context.recipe.depth != "full":
            depth = self._fit_depth(Stage(head, detector), features)
            report |= {"depth": depth.report, "notes": [*notes, *ood_note(depth.report)]}
            if depth.exits:
                write_depth(inner, depth)
        return report

    def _decode(self, images: Sequence[LabelledImage]) -> torch.Tensor:
        return decode(self.context.extractor.preprocessing, images)

    def _frozen(self, squares: Mapping[str, torch.Tensor]) -> dict[str, Features]:
        """Features without an adapter; training images are followed by augmented copies."""
        extractor, target = self.context.extractor, self.images.target
        specs = {self.context.router_spec, *head_feature_specs(self.context.recipe.head, self.context.depth)}
        random = self.context.random(target, "frozen")
        plain = {name: extractor.features(one, None, specs, f"{target}:{name}") for name, one in squares.items()}
        bent = extractor.features(
            squares["train"], None, specs, f"{target}:train", lambda pixels: affine(pixels, random)
        )
        return {**plain, "train": {spec: torch.cat([plain["train"][spec], bent[spec]]) for spec in specs}}

    def _check_variety(self, features: torch.Tensor) -> None:
        """Check before the training that the features of images with the same label differ."""
        normal = functional.normalize(features[: len(self.images.classes["train"])].double(), dim=1)
        each = [normal[self.images.classes["train"] == number] for number in range(len(self.images.labels))]
        if sum(float((own - own.mean(dim=0)).square().sum()) for own in each) <= _NOTHING:
            raise BadInput(
                f"the training images of each label of {self.images.target} all look the same to the backbone",
                hint="add images that differ: thresholds are set by how much the images of a label differ",
            )

    def _check_finite(self, all_features: Mapping[str, Features]) -> None:
        if not all(bool(tensor.isfinite().all()) for features in all_features.values() for tensor in features.values()):
            raise BadInput(
                f"the training of {self.images.target} diverged: with its LoRA the features are not finite",
                hint="try a smaller --alpha or --rank",
            )

    def _train(self, squares: torch.Tensor, start: Head, checkpoint: Checkpoint) -> Trained:
        context, images = self.context, self.images
        inputs = TrainingInputs(
            target=images.target,
            backbone=context.backbone,
            folders=context.folders,
            fetch=context.fetch,
            preprocessing=context.extractor.preprocessing,
            squares=squares,
            classes=images.classes["train"],
            random=context.random(images.target, "lora"),
        )
        return train_lora(inputs, context.recipe, start, checkpoint, context.extractor.progress)

    def _starting_head(self, frozen: Features) -> Head:
        """The head that the training starts from, fitted to features without an adapter, with augmented copies."""
        specs = head_feature_specs(self.context.recipe.head, self.context.depth)
        return starting_head(frozen, self.images.classes["train"].repeat(2), self.images.labels, specs)

    def _accuracy(self, head: Head, features: Features) -> dict[str, Any]:
        """The accuracy of a head on features of the validation images."""
        with torch.no_grad():
            right = head(features).predicted == self.images.classes["val"]
        return share(int(right.sum()), len(right))

    def _write_lora(self, folder: Path, trained: Trained) -> None:
        config = write_config(trained.config, self.context.backbone.name)
        bundle.write_document(folder / bundle.ADAPTER_CONFIG, config)
        bundle.write_tensors(folder / bundle.ADAPTER_WEIGHTS, trained.weights)

    def _slot(self, folder: Path) -> Slot:
        """The adapter in the bank, read from its files in the same way as by a server."""
        runtime = self.context.runtime
        files = {f"adapter/{name}": folder / name for name in (bundle.ADAPTER_CONFIG, bundle.ADAPTER_WEIGHTS)}
        family = family_named(self.context.backbone.family)
        return runtime.bank.add([read_adapter(BundleFiles(files), "adapter", family, runtime.bank.linears)])[0]

    def _detector(self, head: Head, features: Mapping[str, Features], block: int) -> Mahalanobis:
        """A detector for a head, on features of blocks up to `block`."""
        context = self.context
        specs = [context.feature_spec(early) for early in (*context.early_blocks, context.depth) if early <= block]
        train, val, others = ({spec: features[name][spec] for spec in specs} for name in ("train", "val", "others"))
        with torch.no_grad():
            predicted = head(features["val"]).predicted
        classes = self.images.classes["train"]
        data = DetectorData(train, classes, val, predicted, self.images.labels, others if self.others else None)
        return fit_mahalanobis(data, false_alarm_rate=context.recipe.false_alarm_rate)

    def _fit_depth(self, last: Stage, features: Mapping[str, Features]) -> Depth:
        return fit_depth(
            self.context.recipe.depth,
            last,
            specs={block: self.context.feature_spec(block) for block in self.context.early_blocks},
            features=features,
            classes=self.images.classes,
            fit_detector=lambda head, block: self._detector(head, features, block),
        )
