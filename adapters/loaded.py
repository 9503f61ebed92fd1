"""A version in memory: load it from its verified files, ask it, check that it answers as it did when it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from pydantic import ValidationError

from adapters import backbones, bundle, lora
from adapters.bundle import BundleFiles
from adapters.families import family_named
from adapters.heads import FEATURES, Head, pool
from adapters.ood import Detector
from adapters.predictions import Outcome, Prediction
from adapters.preprocess import ImageLike, Preprocessing
from registry import canonical
from registry.errors import BadImage, BadInput, BadManifest, BadWeights, SelfTestFailed
from registry.manifest import BackboneRef, Manifest, first_problem
from registry.names import check_target

FLAVOR = "dino-lora"
RUNTIME = "torch-fp32"
UNBOUND = "unbound"
"""What a bundle answers for as long as it has no version's name."""

MAX_BATCH = 64
"""Images that go through the backbone together; longer lists are cut into batches of this size."""


@dataclass(frozen=True)
class Adapter:
    """One target's part of a version, beside the LoRA weights that live on the backbone.

    Attributes:
        bytes: memory of the LoRA weights, the head and the detector together.
        golden: recorded inputs and outputs, None if the bundle has none.
    """

    head: Head
    detector: Detector
    bytes: int
    golden: Mapping[str, torch.Tensor] | None


@dataclass(frozen=True)
class Router:
    """The head that chooses the target, on the frozen backbone's features; its labels are targets."""

    head: Head
    golden: Mapping[str, torch.Tensor] | None


@dataclass(frozen=True)
class _Parts:
    model: torch.nn.Module
    prefix: int
    preprocessing: Preprocessing
    adapters: Mapping[str, Adapter]
    router: Router
    router_threshold: float
    tolerance: Mapping[str, float]


@dataclass(frozen=True)
class _Answers:
    """One target's outputs for a batch: logits [N, classes], scores [N], flags [N]."""

    logits: torch.Tensor
    scores: torch.Tensor
    flags: torch.Tensor


def load(
    manifest: Manifest, files: Mapping[str, Path], *, device: str = "cpu", backbone_folders: Sequence[Path | str] = ()
) -> LoadedVersion:
    """Build a version from its verified files.

    Args:
        manifest: what the version is.
        files: manifest path -> the file's place on this disk, whatever it is called there, its digest checked.
        device: where torch puts it, e.g. `cpu` or `cuda:0`.
        backbone_folders: searched for the backbone before the usual places (`adapters.backbones`).

    Raises:
        BadInput: there is no such device.
        BackboneNotFound, CorruptBlob: the backbone is not on this machine, or its weights are not the right ones.
        BadWeights: a file is truncated, or does not fit the backbone or its neighbours.
        BadManifest, MissingBlob: a document is malformed or missing.
    """
    if manifest.flavor != FLAVOR or manifest.backbone is None:
        raise BadManifest(f"{manifest.version} is {manifest.flavor!r}, not {FLAVOR}, or names no backbone")
    parts = _read_parts(manifest.backbone, BundleFiles(files), device, backbone_folders)
    return LoadedVersion(manifest.version, manifest.content_sha256, manifest.backbone, parts, device)


def load_bundle(
    files: Mapping[str, Path], *, device: str = "cpu", backbone_folders: Sequence[Path | str] = ()
) -> LoadedVersion:
    """Build what a bundle's files would be as a version, before `create` gives them a name and a digest.

    Raises:
        As `load`.
    """
    try:
        backbone = BackboneRef.model_validate(BundleFiles(files).document(bundle.BACKBONE))
    except ValidationError as error:
        raise BadManifest(f"{bundle.BACKBONE} does not follow the format: {first_problem(error)}") from error
    return LoadedVersion(
        UNBOUND, "", backbone, _read_parts(backbone, BundleFiles(files), device, backbone_folders), device
    )


class LoadedVersion:
    """A version that answers. It never changes after construction, and threads may share it."""

    def __init__(self, version: str, content_sha256: str, backbone: BackboneRef, parts: _Parts, device: str) -> None:
        """Use `load`."""
        self._version = version
        self._content_sha256 = content_sha256
        self._backbone = backbone
        self._parts = parts
        self._device = device

    @property
    def version(self) -> str:
        """The version's name."""
        return self._version

    @property
    def content_sha256(self) -> str:
        """The digest of what the version is."""
        return self._content_sha256

    @property
    def backbone(self) -> BackboneRef:
        """The backbone that it runs on."""
        return self._backbone

    @property
    def device(self) -> str:
        """Where it runs, e.g. `cpu`."""
        return self._device

    @property
    def runtime(self) -> str:
        """What computes it: `torch-fp32`."""
        return RUNTIME

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that it has an adapter for, sorted."""
        return tuple(self._parts.adapters)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The labels of each target."""
        return MappingProxyType({target: adapter.head.labels for target, adapter in self._parts.adapters.items()})

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes that each target's LoRA weights, head and detector take; the backbone is shared and not counted."""
        return MappingProxyType({target: adapter.bytes for target, adapter in self._parts.adapters.items()})

    def __repr__(self) -> str:
        return f"LoadedVersion({self.version}, targets={list(self.targets)}, {self.runtime} on {self.device})"

    def predict(self, images: Sequence[ImageLike], targets: Sequence[str | None] | None = None) -> list[Prediction]:
        """Answer for each image, in order. A corrupt image gets its own row and spoils no other.

        Args:
            images: any mix of files' bytes, paths, PIL images and arrays.
            targets: for each image its target, or None for the router to choose; None for all to be routed.

        Raises:
            BadInput: `targets` is of another length than `images`.
        """
        named = [None] * len(images) if targets is None else list(targets)
        if len(named) != len(images):
            raise BadInput(f"{len(images)} images but {len(named)} targets", hint="give one target, or None, per image")
        return [
            prediction
            for start in range(0, len(images), MAX_BATCH)
            for prediction in self._predict_batch(images[start : start + MAX_BATCH], named[start : start + MAX_BATCH])
        ]

    def route(self, images: Sequence[ImageLike]) -> list[tuple[str, float]]:
        """The router's choice for each image: target and probability, however small.

        Raises:
            BadImage: an image can't be read.
        """
        return [choice for pixels in self._batches(images) for choice in self._route(pixels)]

    def features(self, images: Sequence[ImageLike], target: str | None = None) -> np.ndarray:
        """Pooled features [N, inputs] as the target's detector sees them, or as the router does for None.

        Raises:
            BadImage: an image can't be read.
            BadInput: the version has no such target.
        """
        kind = self._parts.router.head.features if target is None else self._adapter(target).detector.features
        pooled = [
            pool(self._tokens(pixels, [target] * len(pixels)), kind, self._parts.prefix)
            for pixels in self._batches(images)
        ]
        return torch.cat(pooled).cpu().numpy() if pooled else np.zeros((0, 0), np.float32)

    def ood_scores(self, images: Sequence[ImageLike], target: str) -> list[float]:
        """How unlike the target's training images each image is, in units of the predicted label's threshold.

        Raises:
            BadImage: an image can't be read.
            BadInput: the version has no such target.
        """
        self._adapter(target)
        return [
            score
            for pixels in self._batches(images)
            for score in self._answers(target, self._tokens(pixels, [target] * len(pixels))).scores.tolist()
        ]

    def golden_outputs(self, images: np.ndarray, target: str | None) -> dict[str, np.ndarray]:
        """What `golden.safetensors` records of a component: inputs and what it makes of them.

        Args:
            images: [N, H, W, 3] uint8, squares of the size that the version takes.
            target: an adapter's, or None for the router's.

        Returns:
            `images`; `logits` [N, classes]; for an adapter `ood_score` [N] and `is_ood` [N] too.
        """
        batches = [self._golden_batch(pixels, target) for pixels in self._batches(list(images))]
        outputs = {name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in batches[0]}
        return {"images": images, **outputs}

    def self_test(self) -> None:
        """Check that every component still gives its recorded outputs: same label, same OOD flag, logits and scores
        within the stored tolerance. Components without recorded outputs are not checked.

        Raises:
            SelfTestFailed: one does not.
        """
        if self._parts.router.golden is not None:
            self._test_component(bundle.ROUTER, None, self._parts.router.golden)
        for target, adapter in self._parts.adapters.items():
            if adapter.golden is not None:
                self._test_component(bundle.adapter_folder(target), target, adapter.golden)

    def _golden_batch(self, pixels: torch.Tensor, target: str | None) -> dict[str, torch.Tensor]:
        tokens = self._tokens(pixels, [target] * len(pixels))
        if target is None:
            head = self._parts.router.head
            return {"logits": head(pool(tokens, head.features, self._parts.prefix))}
        answers = self._answers(target, tokens)
        return {"logits": answers.logits, "ood_score": answers.scores, "is_ood": answers.flags.byte()}

    def _test_component(self, component: str, target: str | None, golden: Mapping[str, torch.Tensor]) -> None:
        actual = self.golden_outputs(golden["images"].numpy(), target)
        for what, allowed in self._parts.tolerance.items():
            if what in golden:
                error = float(np.abs(actual[what] - golden[what].numpy()).max())
                if not error <= allowed:  # NaN fails too
                    raise self._failed(component, f"{what} differ by {error:.2g}, more than {allowed:g}")
        if not np.array_equal(actual["logits"].argmax(axis=1), golden["logits"].numpy().argmax(axis=1)):
            raise self._failed(component, "a label is another one")
        if "is_ood" in golden and not np.array_equal(actual["is_ood"] > 0, golden["is_ood"].numpy() > 0):
            raise self._failed(component, "another image is flagged as OOD")

    def _failed(self, component: str, what: str) -> SelfTestFailed:
        return SelfTestFailed(
            f"{self.version}: {component} does not reproduce its recorded outputs: {what}",
            hint="compare this machine's torch, transformers and peft with the version's provenance",
        )

    def _predict_batch(self, images: Sequence[ImageLike], named: Sequence[str | None]) -> list[Prediction]:
        answered: dict[int, Prediction] = {}
        squares: dict[int, np.ndarray] = {}
        for row, image in enumerate(images):
            try:
                squares[row] = self._parts.preprocessing.square(image)
            except BadImage as error:
                answered[row] = self._without_label(named[row], "corrupt_image", 0.0, str(error))
        if squares:
            pixels = dict(zip(squares, self._pixels(list(squares.values())), strict=True))
            chosen = self._choose(pixels, named)
            answered |= self._refuse(chosen)
            answered |= self._ask(pixels, {row: choice for row, choice in chosen.items() if row not in answered}, named)
        return [answered[row] for row in range(len(images))]

    def _choose(self, pixels: Mapping[int, torch.Tensor], named: Sequence[str | None]) -> dict[int, tuple[str, float]]:
        """(target, confidence) of each row: what the caller named, and the router's choice for the others."""
        chosen = {row: (target, 1.0) for row in pixels if (target := named[row]) is not None}
        routed = [row for row in pixels if row not in chosen]
        if routed:
            choices = self._route(torch.stack([pixels[row] for row in routed]))
            chosen |= dict(zip(routed, choices, strict=True))
        return chosen

    def _refuse(self, chosen: Mapping[int, tuple[str, float]]) -> dict[int, Prediction]:
        refused: dict[int, Prediction] = {}
        for row, (target, confidence) in chosen.items():
            if confidence < self._parts.router_threshold:
                detail = f"the likeliest target is {target} at {confidence:.2f}"
                refused[row] = self._without_label(target, "router_uncertain", confidence, detail)
            elif target not in self._parts.adapters:
                detail = f"{self.version} has no adapter for {target[:80]}"
                refused[row] = self._without_label(target, "no_adapter", confidence, detail)
        return refused

    def _ask(
        self, pixels: Mapping[int, torch.Tensor], chosen: Mapping[int, tuple[str, float]], named: Sequence[str | None]
    ) -> dict[int, Prediction]:
        """One pass through the backbone, each row with its own adapter."""
        if not chosen:
            return {}
        rows = list(chosen)
        tokens = self._tokens(torch.stack([pixels[row] for row in rows]), [chosen[row][0] for row in rows])
        answered: dict[int, Prediction] = {}
        for target in sorted({target for target, _ in chosen.values()}):
            mine = [row for row in rows if chosen[row][0] == target]
            answers = self._answers(target, tokens[[rows.index(row) for row in mine]])
            for position, row in enumerate(mine):
                answered[row] = self._with_label(target, chosen[row][1], answers, position)
        return answered

    def _with_label(self, target: str, confidence: float, answers: _Answers, row: int) -> Prediction:
        labels = self._parts.adapters[target].head.labels
        shares = answers.logits[row].softmax(dim=0).tolist()
        best = max(range(len(labels)), key=shares.__getitem__)
        is_ood = bool(answers.flags[row])
        return Prediction(
            version=self.version,
            target=target,
            label=labels[best],
            confidence=shares[best],
            ood_score=float(answers.scores[row]),
            is_ood=is_ood,
            outcome="review" if is_ood else "answer",
            target_confidence=confidence,
            probabilities=dict(zip(labels, shares, strict=True)),
        )

    def _without_label(self, target: str | None, outcome: Outcome, confidence: float, detail: str) -> Prediction:
        return Prediction(self.version, target, None, 0.0, None, False, outcome, confidence, {}, detail)

    def _answers(self, target: str, tokens: torch.Tensor) -> _Answers:
        adapter = self._parts.adapters[target]
        with torch.no_grad():
            logits = adapter.head(pool(tokens, adapter.head.features, self._parts.prefix))
            seen = pool(tokens, adapter.detector.features, self._parts.prefix)
            scores, flags = adapter.detector(seen, logits.argmax(dim=1))
        return _Answers(logits, scores, flags)

    def _route(self, pixels: torch.Tensor) -> list[tuple[str, float]]:
        head = self._parts.router.head
        features = pool(self._tokens(pixels, [None] * len(pixels)), head.features, self._parts.prefix)
        with torch.no_grad():
            best = head(features).softmax(dim=1).max(dim=1)
        return [(head.labels[number], share) for share, number in zip(*map(torch.Tensor.tolist, best), strict=True)]

    def _tokens(self, pixels: torch.Tensor, targets: Sequence[str | None]) -> torch.Tensor:
        with torch.no_grad(), lora.rows(targets):
            tokens: torch.Tensor = self._parts.model(pixel_values=pixels).last_hidden_state
        return tokens

    def _batches(self, images: Sequence[ImageLike]) -> Iterator[torch.Tensor]:
        for start in range(0, len(images), MAX_BATCH):
            yield self._pixels([self._parts.preprocessing.square(image) for image in images[start : start + MAX_BATCH]])

    def _pixels(self, squares: Sequence[np.ndarray]) -> torch.Tensor:
        return self._normalise(torch.from_numpy(np.stack(squares)))

    def _normalise(self, squares: torch.Tensor) -> torch.Tensor:
        return self._parts.preprocessing.normalise(squares.to(self._device))

    def _adapter(self, target: str) -> Adapter:
        if target not in self._parts.adapters:
            raise BadInput(
                f"{self.version} has no adapter for {target[:80]!r}", hint=f"it has {', '.join(self.targets)}"
            )
        return self._parts.adapters[target]


@torch.no_grad()
def _check_device(device: str) -> None:
    """Check that torch can compute here.

    Raises:
        BadInput: there is no such device, or this build of torch has none.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        problem = str(error).partition("\n")[0][:200]
        raise BadInput(f"device {device[:40]!r} can't be used: {problem}", hint="cpu is always there") from error


def _read_parts(
    backbone: BackboneRef, files: BundleFiles, device: str, backbone_folders: Sequence[Path | str]
) -> _Parts:
    _check_device(device)
    preprocessing = files.document(bundle.PREPROCESSING)
    requirements = {"backbone": backbone.sha256, "preprocessing": canonical.digest(preprocessing)}
    side = Preprocessing.of(preprocessing)
    model = backbones.new_model(backbone, folders=backbone_folders, device=device)
    targets = _targets(files)
    lora_parts = {target: _read_lora(files, target, device) for target in targets}
    sizes = {target: sum(tensor.nbytes for tensor in tensors.values()) for target, (_, tensors) in lora_parts.items()}
    adapters = {
        target: _read_adapter(files, target, requirements, side, lora_bytes=sizes[target], device=device)
        for target in targets
    }
    lora.attach(model, lora_parts)
    lora.let_rows_choose(model.eval().requires_grad_(False))
    router = _read_router(files, requirements, side, device)
    _check_inputs(router.head, bundle.ROUTER, int(backbone.config["hidden_size"]))
    for target, adapter in adapters.items():
        for part in (adapter.head, adapter.detector):
            _check_inputs(part, bundle.adapter_folder(target), int(backbone.config["hidden_size"]))
    threshold, tolerance = _read_inference(files)
    prefix = family_named(backbone.family).prefix_tokens(backbone.config)
    return _Parts(model, prefix, side, MappingProxyType(adapters), router, threshold, tolerance)


def _targets(files: BundleFiles) -> tuple[str, ...]:
    targets = files.children(bundle.ADAPTERS)
    if not targets:
        raise BadManifest("the version has no adapter", hint=f"a bundle holds {bundle.ADAPTERS}/<target>/…")
    return tuple(check_target(target) for target in targets)


def _read_lora(files: BundleFiles, target: str, device: str) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    folder = bundle.adapter_folder(target)
    return lora.read_config(files, folder), lora.read_tensors(files, folder, device)


def _read_adapter(
    files: BundleFiles,
    target: str,
    requirements: Mapping[str, str],
    preprocessing: Preprocessing,
    *,
    lora_bytes: int,
    device: str,
) -> Adapter:
    folder = bundle.adapter_folder(target)
    head, detector = Head.read(files, folder, device), Detector.read(files, folder, device)
    _check_component(files, folder, head.labels, requirements)
    if detector.labels != head.labels:
        raise BadManifest(f"{folder}: the detector's labels are not those of the head")
    size = lora_bytes + head.bytes + detector.bytes
    return Adapter(head, detector, size, _read_golden(files, folder, preprocessing, len(head.labels)))


def _read_router(
    files: BundleFiles, requirements: Mapping[str, str], preprocessing: Preprocessing, device: str
) -> Router:
    head = Head.read(files, bundle.ROUTER, device)
    _check_component(files, bundle.ROUTER, head.labels, requirements)
    return Router(head, _read_golden(files, bundle.ROUTER, preprocessing, len(head.labels)))


def _check_component(files: BundleFiles, folder: str, labels: Sequence[str], requirements: Mapping[str, str]) -> None:
    document = files.document(f"{folder}/{bundle.COMPONENT}")
    requires = document.get("requires")
    if not isinstance(requires, dict):
        raise BadManifest(f"{folder}/{bundle.COMPONENT} says nothing about what it requires")
    offered = {**requirements, "labels": canonical.digest(list(labels))}
    for name, digest in offered.items():
        if requires.get(name) != digest:
            raise BadWeights(
                f"{folder} was made for another {name}: it requires {str(requires.get(name))[:12]}…, "
                f"the version has {digest[:12]}…",
                hint="take this component from a version with the same one",
            )


def _read_golden(
    files: BundleFiles, folder: str, preprocessing: Preprocessing, classes: int
) -> Mapping[str, torch.Tensor] | None:
    path = f"{folder}/{bundle.GOLDEN}"
    if path not in files:
        return None
    golden = files.tensors(path)
    count = len(golden.get("images", ()))
    shapes: dict[str, tuple[int, ...]] = {
        "images": (count, preprocessing.crop, preprocessing.crop, 3),
        "logits": (count, classes),
    }
    if folder != bundle.ROUTER:
        shapes |= {"ood_score": (count,), "is_ood": (count,)}
    bundle.check_shapes(golden, shapes, path)
    if not 0 < count <= MAX_BATCH or golden["images"].dtype != torch.uint8:
        raise BadWeights(f"{path} holds no images, more than {MAX_BATCH}, or no bytes")
    return golden


def _read_inference(files: BundleFiles) -> tuple[float, Mapping[str, float]]:
    document = files.document(bundle.INFERENCE)
    try:
        threshold = float(document["router_threshold"])
        tolerance: dict[str, Any] = document["tolerance"][RUNTIME]
        allowed = {name: float(tolerance[name]) for name in ("logits", "ood_score")}
    except (KeyError, TypeError, ValueError) as error:
        raise BadManifest(f"{bundle.INFERENCE} lacks or misspells a field: {error}") from error
    if not (0 <= threshold <= 1 and all(0 < value < 1 for value in allowed.values())):
        raise BadManifest(f"{bundle.INFERENCE} is out of bounds: threshold {threshold}, tolerance {allowed}")
    return threshold, MappingProxyType(allowed)


def _check_inputs(part: Head | Detector, folder: str, width: int) -> None:
    inputs = (part.weight if isinstance(part, Head) else part.means).shape[1]
    if inputs != FEATURES[part.features] * width:
        raise BadWeights(f"{folder} takes {inputs} features, but {part.features} of this backbone has another number")
