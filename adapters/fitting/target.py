"""Fit one target: its LoRA, its head, its detector, and its exits if they were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from adapters import bundle
from adapters.answer.answering import Stage
from adapters.answer.depth import Depth, write_depth
from adapters.answer.features import Tap
from adapters.answer.heads import Features, Head
from adapters.answer.ood import Mahalanobis, fit_mahalanobis
from adapters.backbone.backbones import FetchBlob
from adapters.backbone.families import family_named
from adapters.bank import lora
from adapters.bank.bank import Slot
from adapters.bundle import BundleFiles
from adapters.fitting.augment import affine
from adapters.fitting.data import LabelledImage
from adapters.fitting.exits import fit_depth, ood_note
from adapters.fitting.images import Chosen, decode
from adapters.fitting.lora_training import Lesson, Trained, train_lora
from adapters.fitting.recipe import Recipe
from adapters.fitting.regression import head_taps, starting_head
from adapters.fitting.seeing import Eyes
from adapters.fitting.workplace import Checkpoint
from adapters.runtimes.runtimes import Runtime
from adapters.writing import write_part, write_tensors
from registry.errors import BadInput
from registry.formats import canonical
from registry.versions.manifest import BackboneRef

MAX_OTHERS = 300
"""Validation images of other targets that a detector's block is chosen on, at most."""

MAX_EXITS = 8
"""Blocks before the last that exits may stand at and detectors may look at, at most: evenly spread, from a third on."""

_NOTHING = 1e-12
"""A sum of squares that is rounding alone, of features of length 1; as `adapters.answer.ood` sees it."""

FROZEN = "frozen.safetensors"
"""What the backbone alone makes of a target's images, which the router is fitted to: `train`, `val`, [N, width]."""


@dataclass(frozen=True)
class Workbench:
    """What the fits of all targets share.

    Attributes:
        recipe: complete for this backbone.
        backbone, folders, fetch: as for `adapters.backbone.backbones.new_model`.
        preprocessing: the content of `config/preprocessing.json`.
        eyes: the runtime that will serve.
    """

    recipe: Recipe
    backbone: BackboneRef
    folders: tuple[Path | str, ...]
    fetch: FetchBlob | None
    preprocessing: Mapping[str, Any]
    eyes: Eyes

    @property
    def runtime(self) -> Runtime:
        """What computes."""
        return self.eyes.runtime

    @property
    def depth(self) -> int:
        """Blocks of the backbone."""
        return int(self.backbone.config["num_hidden_layers"])

    @property
    def router_tap(self) -> Tap:
        """Where the router takes its features, whatever the heads of the targets do."""
        return Tap(self.depth, "cls+mean")

    @property
    def early_blocks(self) -> tuple[int, ...]:
        """Blocks before the last that are looked at."""
        first = max(1, self.depth // 3)
        blocks = range(first, self.depth, max(1, -(-(self.depth - first) // MAX_EXITS)))
        return tuple(blocks)

    def tap(self, block: int) -> Tap:
        """Where an exit or a detector takes its features at a block."""
        return Tap(block, "cls" if self.recipe.head == "cls" else "cls+mean")

    def random(self, *words: str) -> torch.Generator:
        """A generator of its own for each purpose, so that targets do not depend on each other."""
        seed = int(canonical.digest([self.recipe.seed, *words])[:15], 16)
        return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class TargetFit:
    """The fit of one target: `images` that it is fitted to, and `others` that its detector should tell apart."""

    bench: Workbench
    images: Chosen
    others: Sequence[LabelledImage]

    def write(self, folder: Path, checkpoint: Checkpoint) -> dict[str, Any]:
        """Write the adapter's files, but for its recorded outputs, into `folder/adapter`, what the router needs beside
        it; what is to be known of it, as JSON.

        Raises:
            BadInput: the images of each label look all the same; or the training ran away.
            BadImage: a file has changed since the folder was looked at.
        """
        bench, target = self.bench, self.images.target
        squares = {split: self._decode(self.images.splits[split]) for split in ("train", "val")}
        frozen = self._frozen(squares)
        self._check_variety(frozen["train"][bench.router_tap])
        write_tensors(folder / FROZEN, {name: features[bench.router_tap] for name, features in frozen.items()})
        trained = self._train(squares["train"], frozen["train"], checkpoint)
        inner = folder / "adapter"
        self._write_lora(inner, trained)
        slot = self._slot(inner)
        early = [bench.tap(block) for block in (*bench.early_blocks, bench.depth)]
        taps = {*trained.head.taps, *early}
        seen = {name: bench.eyes.features(one, slot, taps, f"{target}:{name}") for name, one in squares.items()}
        seen["others"] = bench.eyes.features(self._decode(self.others), slot, taps, f"{target}:others")
        self._check_finite(seen)

        detector = self._detector(trained.head, seen, bench.depth)
        write_part(inner, bundle.HEAD, trained.head)
        write_part(inner, bundle.OOD, detector)
        report = {"labels": list(self.images.labels), "notes": list(detector.notes), "ood": detector.tap.document()}
        if bench.recipe.depth != "full":
            depth = self._fit_depth(Stage(trained.head, detector), seen)
            report |= {"depth": depth.report, "notes": [*detector.notes, *ood_note(depth.report)]}
            if depth.exits:
                write_depth(inner, depth)
        document = bundle.component_document(self.images.labels, bench.backbone, bench.preprocessing)
        bundle.write_document(inner / bundle.COMPONENT, document)
        return report

    def _decode(self, images: Sequence[LabelledImage]) -> torch.Tensor:
        return decode(self.bench.eyes.preprocessing, images)

    def _frozen(self, squares: Mapping[str, torch.Tensor]) -> dict[str, Features]:
        """What the backbone alone makes of the images; of training images also once augmented, below each other."""
        eyes, target = self.bench.eyes, self.images.target
        taps = {self.bench.router_tap, *head_taps(self.bench.recipe.head, self.bench.depth)}
        random = self.bench.random(target, "frozen")
        plain = {name: eyes.features(one, None, taps, f"{target}:{name}") for name, one in squares.items()}
        bent = eyes.features(squares["train"], None, taps, f"{target}:train", lambda pixels: affine(pixels, random))
        return {**plain, "train": {tap: torch.cat([plain["train"][tap], bent[tap]]) for tap in taps}}

    def _check_variety(self, features: torch.Tensor) -> None:
        """Whether the backbone sees that images of some label differ; after the training it would be late to ask."""
        normal = functional.normalize(features[: len(self.images.classes["train"])].double(), dim=1)
        each = [normal[self.images.classes["train"] == number] for number in range(len(self.images.labels))]
        if sum(float((own - own.mean(dim=0)).square().sum()) for own in each) <= _NOTHING:
            raise BadInput(
                f"the training images of each label of {self.images.target} look all the same to the backbone",
                hint="add images that differ: how far new ones may lie from a label is told by how far its own do",
            )

    def _check_finite(self, seen: Mapping[str, Features]) -> None:
        if not all(bool(tensor.isfinite().all()) for features in seen.values() for tensor in features.values()):
            raise BadInput(
                f"the training of {self.images.target} ran away: with its LoRA the features are no numbers",
                hint="try a smaller --alpha or --rank",
            )

    def _train(self, squares: torch.Tensor, frozen: Features, checkpoint: Checkpoint) -> Trained:
        bench, images = self.bench, self.images
        classes = images.classes["train"]
        start = starting_head(frozen, classes.repeat(2), images.labels, head_taps(bench.recipe.head, bench.depth))
        lesson = Lesson(
            target=images.target,
            backbone=bench.backbone,
            folders=bench.folders,
            fetch=bench.fetch,
            preprocessing=bench.eyes.preprocessing,
            squares=squares,
            classes=classes,
            random=bench.random(images.target, "lora"),
        )
        return train_lora(lesson, bench.recipe, start, checkpoint, bench.eyes.told)

    def _write_lora(self, folder: Path, trained: Trained) -> None:
        config = lora.write_config(trained.config, self.bench.backbone.name)
        bundle.write_document(folder / bundle.ADAPTER_CONFIG, config)
        write_tensors(folder / bundle.ADAPTER_WEIGHTS, trained.weights)

    def _slot(self, folder: Path) -> Slot:
        """The adapter in the bank, read from its files as whoever serves it will read it."""
        runtime = self.bench.runtime
        files = {f"adapter/{name}": folder / name for name in (bundle.ADAPTER_CONFIG, bundle.ADAPTER_WEIGHTS)}
        family = family_named(self.bench.backbone.family)
        return runtime.bank.add([lora.read_adapter(BundleFiles(files), "adapter", family, runtime.bank.linears)])[0]

    def _detector(self, head: Head, seen: Mapping[str, Features], block: int) -> Mahalanobis:
        """A detector that looks no further than a block, for the classes that a head gives there."""
        taps = [self.bench.tap(early) for early in (*self.bench.early_blocks, self.bench.depth) if early <= block]
        train, val, others = ({tap: seen[name][tap] for tap in taps} for name in ("train", "val", "others"))
        with torch.no_grad():
            predicted = head(seen["val"]).predicted
        return fit_mahalanobis(
            train,
            self.images.classes["train"],
            val,
            predicted,
            self.images.labels,
            false_alarm_rate=self.bench.recipe.false_alarm_rate,
            others=others if self.others else None,
        )

    def _fit_depth(self, last: Stage, seen: Mapping[str, Features]) -> Depth:
        taps = {block: self.bench.tap(block) for block in self.bench.early_blocks}
        return fit_depth(
            self.bench.recipe.depth,
            last,
            taps=taps,
            seen=seen,
            classes=self.images.classes,
            fit_detector=lambda head, block: self._detector(head, seen, block),
        )
