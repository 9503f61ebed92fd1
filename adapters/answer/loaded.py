"""A version in memory: load it from its verified files, ask it, check that it answers as it did when it was made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from pydantic import ValidationError

from adapters import bundle
from adapters.answer.answering import Answer, answer
from adapters.answer.components import Component, Parts, read_parts
from adapters.answer.features import Tap
from adapters.answer.heads import Features
from adapters.answer.predictions import Outcome, Prediction
from adapters.backbone.preprocess import ImageLike
from adapters.bundle import BundleFiles
from adapters.runtimes.gate import golden_fault, runtime_for
from adapters.runtimes.runtimes import REFERENCE, FetchBlob, Runtime, open_runtime
from registry.errors import BadImage, BadInput, BadManifest, CorruptBlob, SelfTestFailed, first_line
from registry.versions.manifest import BackboneRef, Manifest, first_problem

FLAVOR = "dino-lora"
UNBOUND = "unbound"
"""What a bundle answers for as long as it has no version's name."""

MAX_BATCH = 64
"""Images that go through the backbone together; longer lists are cut into batches of this size."""


def load(
    manifest: Manifest,
    files: Mapping[str, Path],
    *,
    device: str = "cpu",
    runtime: str | None = None,
    backbone_folders: Sequence[Path | str] = (),
    fetch: FetchBlob | None = None,
) -> LoadedVersion:
    """Build a version from its verified files.

    Args:
        manifest: what the version is.
        files: manifest path -> the file's place on this disk, whatever it is called there, its digest checked.
        device: where torch puts it, e.g. `cpu` or `cuda:0`.
        runtime: what computes it, a name of `adapters.runtimes.runtimes.RUNTIMES`; torch in float32 when left out, and
            (with a warning) where the runtime's verdict is about other weights than the version has.
        backbone_folders: searched for the backbone before the usual places (`adapters.backbone.backbones`).
        fetch: gives blobs of the store by digest: the backbone, if it is nowhere else on this machine.

    Raises:
        BadInput: there is no such device or runtime, or the version did not pass the runtime's gate.
        BackboneNotFound, CorruptBlob: the backbone is not on this machine, or its weights are not the right ones.
        BadWeights: a file is truncated, or does not fit the backbone or its neighbours.
        BadManifest, MissingBlob: a document is malformed or missing.
    """
    if manifest.flavor != FLAVOR or manifest.backbone is None:
        raise BadManifest(f"{manifest.version} is {manifest.flavor!r}, not {FLAVOR}, or names no backbone")
    chosen = runtime_for(manifest, BundleFiles(files), runtime or REFERENCE)
    here = _open(manifest.backbone, chosen, device, backbone_folders, fetch)
    weights = {name: component.weights_sha256 for name, component in manifest.components.items()}
    parts = read_parts(BundleFiles(files), here)
    return LoadedVersion(manifest.version, manifest.content_sha256, parts, weights)


def load_bundle(
    files: Mapping[str, Path],
    *,
    device: str = "cpu",
    runtime: str | None = None,
    backbone_folders: Sequence[Path | str] = (),
    fetch: FetchBlob | None = None,
) -> LoadedVersion:
    """Build what a bundle's files would be as a version, before `create` gives them a name and a digest.

    The gate of a runtime is not asked: it is judged on what this gives.

    Raises:
        As `load`.
    """
    try:
        backbone = BackboneRef.model_validate(BundleFiles(files).document(bundle.BACKBONE))
    except ValidationError as error:
        raise BadManifest(f"{bundle.BACKBONE} does not follow the format: {first_problem(error)}") from error
    here = _open(backbone, runtime, device, backbone_folders, fetch)
    return LoadedVersion(UNBOUND, "", read_parts(BundleFiles(files), here), {})


class LoadedVersion:
    """A version that answers. It never changes after construction, and threads may share it."""

    def __init__(self, version: str, content_sha256: str, parts: Parts, weights: Mapping[str, str | None]) -> None:
        """Use `load`."""
        self._version = version
        self._content_sha256 = content_sha256
        self._parts = parts
        self._expected_weights = weights

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
        return self._parts.runtime.ref

    @property
    def parts(self) -> Parts:
        """What it consists of."""
        return self._parts

    @property
    def device(self) -> str:
        """Where it runs, e.g. `cpu`."""
        return self._parts.runtime.device

    @property
    def runtime(self) -> str:
        """What computes it, e.g. `torch-fp32`."""
        return self._parts.runtime.name

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that it has an adapter for, sorted."""
        return tuple(self._parts.adapters)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The labels of each target."""
        return MappingProxyType({target: adapter.labels for target, adapter in self._parts.adapters.items()})

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes that each target's LoRA weights, heads and detectors take; the backbone is shared and not counted."""
        return MappingProxyType({target: adapter.nbytes for target, adapter in self._parts.adapters.items()})

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
        return predict_together([self] * len(images), images, targets)

    def route(self, images: Sequence[ImageLike]) -> list[tuple[str, float]]:
        """The router's choice for each image: target and probability, however small.

        Raises:
            BadImage: an image can't be read.
            BadInput: the version has no router.
        """
        router = self._router()
        return [
            _likeliest(router.labels, routed)
            for pixels in self._batches(images)
            for routed in answer(self._parts.runtime, pixels, [router] * len(pixels))
        ]

    def features(self, images: Sequence[ImageLike], target: str | None = None) -> np.ndarray:
        """What the classifier of the target's last head takes of each image, or the router's for None: [N, width].

        Raises:
            BadImage: an image can't be read.
            BadInput: the version has no such target, or no head for it.
        """
        head = self._with_head(target).last.head  # type: ignore[union-attr]
        with torch.no_grad():
            return head(self.features_at(images, target, head.taps)).embedding.cpu().numpy()

    def features_at(self, images: Sequence[ImageLike], target: str | None, taps: Sequence[Tap]) -> Features:
        """Features [N, width] at any places of the backbone, with a target's adapter on it or none for None.

        Raises:
            BadImage: an image can't be read.
            BadInput: the version has no such target.
        """
        slot = None if target is None else self._adapter(target).slot
        batches = [_features(self._parts.runtime, pixels, slot, taps) for pixels in self._batches(images)]
        hidden = int(self.backbone.config["hidden_size"])
        none = {tap: torch.zeros(0, tap.width(hidden), device=self.device) for tap in taps}
        return {tap: torch.cat([none[tap], *(batch[tap] for batch in batches)]) for tap in taps}

    def ood_scores(self, images: Sequence[ImageLike], target: str) -> list[float]:
        """How unlike the target's training images each image is, in units of the predicted label's threshold; NaN
        where the target has no detector, or no head.

        Raises:
            BadImage: an image can't be read.
            BadInput: the version has no such target.
        """
        adapter = self._adapter(target)
        if adapter.last is None:
            return [float("nan")] * len(images)
        return [
            float("nan") if one.score is None else one.score
            for pixels in self._batches(images)
            for one in answer(self._parts.runtime, pixels, [adapter] * len(pixels))
        ]

    def weights_sha256(self) -> dict[str, str]:
        """For each adapter and the router the digest of its tensors as they are in memory now, by component.

        It equals the manifest's `weights_sha256`: a proof that what answers is what was released.
        """
        return {component.folder: component.weights_sha256() for component in self._components()}

    def golden_outputs(self, images: np.ndarray, target: str | None) -> dict[str, np.ndarray]:
        """What `golden.safetensors` records of a component: inputs and what it makes of them.

        Args:
            images: [N, H, W, 3] uint8, squares of the size that the version takes.
            target: an adapter's, or None for the router's.

        Returns:
            `images`; `features` [N, width] that its classifier takes; `logits` [N, classes]; with a detector
            `ood_score` [N] and `is_ood` [N] too.
        """
        component = self._with_head(target)
        answers = [
            one
            for pixels in self._batches(list(images))
            for one in answer(self._parts.runtime, pixels, [component] * len(pixels))
        ]
        outputs = {
            "images": images,
            "features": self.features(list(images), target),
            "logits": torch.stack([one.logits for one in answers]).cpu().numpy(),
        }
        if all(one.score is not None for one in answers):
            outputs["ood_score"] = np.array([one.score for one in answers], np.float32)
            outputs["is_ood"] = np.array([one.flag for one in answers], np.uint8)
        return outputs

    def self_test(self) -> None:
        """Check that the weights in memory are those of the manifest, and that every component still gives its recorded
        outputs: same label, same OOD flag, logits and scores within the stored tolerance. Components without recorded
        outputs are not asked.

        Raises:
            CorruptBlob: the weights in memory are others.
            SelfTestFailed: a component answers otherwise.
        """
        for name, digest in self.weights_sha256().items():
            expected = self._expected_weights.get(name)
            if expected is not None and digest != expected:
                raise CorruptBlob(
                    f"{self.version}: the weights of {name} in memory have digest {digest[:12]}, not {expected[:12]}",
                    hint="load it again; if it stays so, this machine's memory or its cache is bad",
                )
        for target in (None, *self.targets):
            component = self._parts.router if target is None else self._parts.adapters[target]
            if component and component.golden is not None:
                self._test_component(component.folder, target, component.golden)

    def _test_component(self, component: str, target: str | None, golden: Mapping[str, torch.Tensor]) -> None:
        actual = self.golden_outputs(golden["images"].numpy(), target)
        if self.runtime != REFERENCE:
            if fault := golden_fault(actual, golden):
                raise self._failed(component, fault)
            return
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

    def _batches(self, images: Sequence[ImageLike]) -> Iterator[torch.Tensor]:
        side = self._parts.preprocessing
        for start in range(0, len(images), MAX_BATCH):
            yield self._pixels([side.square(image) for image in images[start : start + MAX_BATCH]])

    def _pixels(self, squares: Sequence[np.ndarray]) -> torch.Tensor:
        return self._parts.preprocessing.normalise(torch.from_numpy(np.stack(squares)).to(self.device))

    def _components(self) -> list[Component]:
        return [*self._parts.adapters.values(), *([self._parts.router] if self._parts.router else [])]

    def _adapter(self, target: str) -> Component:
        if target not in self._parts.adapters:
            raise BadInput(
                f"{self.version} has no adapter for {target[:80]!r}", hint=f"it has {', '.join(self.targets)}"
            )
        return self._parts.adapters[target]

    def _router(self) -> Component:
        if self._parts.router is None:
            raise BadInput(f"{self.version} has no router", hint=f"name the target: {', '.join(self.targets)}")
        return self._parts.router

    def _with_head(self, target: str | None) -> Component:
        component = self._router() if target is None else self._adapter(target)
        if component.last is None:
            raise BadInput(f"{self.version} has no classifier for {target}: a LoRA alone gives features, no labels")
        return component


@dataclass(frozen=True)
class _Row:
    """An image on its way to an answer: its version, the target that the caller named, its pixels, who answers."""

    version: LoadedVersion
    named: str | None
    pixels: torch.Tensor
    target: str | None = None
    confidence: float = 1.0

    def with_target(self, target: str, confidence: float) -> _Row:
        return _Row(self.version, self.named, self.pixels, target, confidence)

    def without_label(self, outcome: Outcome, detail: str) -> Prediction:
        return Prediction(
            self.version.version, self.target, None, 0.0, None, False, outcome, self.confidence, {}, detail
        )


def predict_together(
    versions: Sequence[LoadedVersion], images: Sequence[ImageLike], targets: Sequence[str | None] | None = None
) -> list[Prediction]:
    """Answer each image by a version of its own, e.g. one image by stable and canary: rows of versions on one backbone
    go through it together.

    Args:
        versions, images: of equal length.
        targets: as for `LoadedVersion.predict`.

    Raises:
        BadInput: the lengths differ.
    """
    named = [None] * len(images) if targets is None else list(targets)
    if not all(target is None or isinstance(target, str) for target in named):
        raise BadInput("a target is a name, or None for the router to choose")
    if not len(named) == len(images) == len(versions):
        raise BadInput(
            f"{len(images)} images but {len(named)} targets and {len(versions)} versions",
            hint="give one target, or None, per image",
        )
    answered: list[Prediction] = []
    for start in range(0, len(images), MAX_BATCH):
        part = slice(start, start + MAX_BATCH)
        answered += _predict_batch(versions[part], images[part], named[part])
    return answered


def _predict_batch(
    versions: Sequence[LoadedVersion], images: Sequence[ImageLike], named: Sequence[str | None]
) -> list[Prediction]:
    answered: dict[int, Prediction] = {}
    rows: dict[int, _Row] = {}
    for number, (version, image, target) in enumerate(zip(versions, images, named, strict=True)):
        try:
            square = version.parts.preprocessing.square(image)
        except BadImage as error:
            nothing = (version.version, target, None, 0.0, None, False, "corrupt_image", 0.0)
            answered[number] = Prediction(*nothing, detail=str(error))  # type: ignore[arg-type]
        else:
            pixels = version.parts.preprocessing.normalise(torch.from_numpy(square.copy())[None].to(version.device))
            rows[number] = _Row(version, target, pixels)
    rows |= _choose(rows)
    answered |= {number: refusal for number, row in rows.items() if (refusal := _refuse(row)) is not None}
    answered |= _ask({number: row for number, row in rows.items() if number not in answered})
    return [answered[number] for number in range(len(images))]


def _choose(rows: Mapping[int, _Row]) -> dict[int, _Row]:
    """Each row with its target: what the caller named, the router's choice for the others; a sole target needs none."""
    chosen: dict[int, _Row] = {}
    routed: dict[int, tuple[_Row, Component]] = {}
    for number, row in rows.items():
        router, targets = row.version.parts.router, row.version.targets
        if row.named is not None:
            chosen[number] = row.with_target(row.named, 1.0)
        elif router is not None:
            routed[number] = (row, router)
        else:
            chosen[number] = row.with_target(targets[0], 1.0 if len(targets) == 1 else 0.0)
    for number, one in _answer_all(routed).items():
        row, router = routed[number]
        chosen[number] = row.with_target(*_likeliest(router.labels, one))
    return chosen


def _refuse(row: _Row) -> Prediction | None:
    """Why a row gets no label before anything was computed; None if it may."""
    parts, version = row.version.parts, row.version.version
    target = str(row.target)[:80]
    if row.named is None and parts.router is None and len(parts.adapters) > 1:
        return row.without_label(
            "router_uncertain", f"{version} has no router: name one of {', '.join(parts.adapters)}"
        )
    if row.confidence < parts.router_threshold:
        return row.without_label("router_uncertain", f"the likeliest target is {target} at {row.confidence:.2f}")
    if row.target not in parts.adapters:
        return row.without_label("no_adapter", f"{version} has no adapter for {target}")
    if parts.adapters[row.target].last is None:
        return row.without_label("no_adapter", f"the adapter of {version} for {target} has no classifier")
    return None


def _ask(rows: Mapping[int, _Row]) -> dict[int, Prediction]:
    asked = {number: (row, row.version.parts.adapters[str(row.target)]) for number, row in rows.items()}
    return {number: _prediction(*asked[number], one) for number, one in _answer_all(asked).items()}


def _answer_all(asked: Mapping[int, tuple[_Row, Component]]) -> dict[int, Answer]:
    """One pass for all rows that share a runtime and a size."""
    groups: dict[tuple[int, torch.Size], list[int]] = {}
    for number, (row, _) in asked.items():
        groups.setdefault((id(row.version.parts.runtime), row.pixels.shape), []).append(number)
    answers: dict[int, Answer] = {}
    for members in groups.values():
        runtime = asked[members[0]][0].version.parts.runtime
        pixels = torch.cat([asked[number][0].pixels for number in members])
        answers |= zip(members, answer(runtime, pixels, [asked[number][1] for number in members]), strict=True)
    return answers


def _prediction(row: _Row, adapter: Component, one: Answer) -> Prediction:
    if not bool(one.logits.isfinite().all()):
        nothing = row.without_label("review", "what the adapter computed is no number")
        return replace(nothing, is_ood=True, blocks_used=one.blocks)
    label, confidence = _likeliest(adapter.labels, one)
    score = one.score if one.score is not None and math.isfinite(one.score) else None
    is_ood = one.flag or score != one.score
    return Prediction(
        version=row.version.version,
        target=row.target,
        label=label,
        confidence=confidence,
        ood_score=score,
        is_ood=is_ood,
        outcome="review" if is_ood else "answer",
        target_confidence=row.confidence,
        probabilities=dict(zip(adapter.labels, one.logits.softmax(dim=0).tolist(), strict=True)),
        blocks_used=one.blocks,
    )


def _likeliest(labels: Sequence[str], one: Answer) -> tuple[str, float]:
    """The label with the largest share, and the share; no share where nothing is a number."""
    shares = one.logits.softmax(dim=0).nan_to_num(0.0).tolist()
    best = max(range(len(labels)), key=shares.__getitem__)
    return labels[best], shares[best]


@torch.no_grad()
def _features(runtime: Runtime, pixels: torch.Tensor, slot: object, taps: Sequence[Tap]) -> dict[Tap, torch.Tensor]:
    walk = runtime.start(pixels, [slot] * len(pixels))  # type: ignore[list-item]
    features = {}
    for tap in sorted(set(taps)):
        walk.advance(tap.block)
        features[tap] = walk.pooled(tap.pooling, tap.norm)
    return features


def _open(
    backbone: BackboneRef,
    runtime: str | None,
    device: str,
    folders: Sequence[Path | str],
    fetch: FetchBlob | None,
) -> Runtime:
    check_device(device)
    return open_runtime(backbone, name=runtime or REFERENCE, device=device, folders=folders, fetch=fetch)


@torch.no_grad()
def check_device(device: str) -> None:
    """Check that torch can compute on a device.

    Raises:
        BadInput: there is no such device, or this build of torch has none.
    """
    try:
        torch.empty(1, device=device).item()  # `meta` has no numbers
    except (RuntimeError, AssertionError) as error:
        problem = first_line(error, 200)
        raise BadInput(f"device {device[:40]!r} can't be used: {problem}", hint="cpu is always there") from error
