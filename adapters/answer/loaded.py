"""A version in memory: what it contains, what it answers, and its self-test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, overload

import numpy as np
import torch

from adapters.answer import selftest
from adapters.answer.arguments import Images, Targets, as_list, check_images, one_target, targets_of
from adapters.answer.batching import (
    MAX_BATCH,
    PreparedRow,
    adopted,
    answer_rows,
    most_likely,
    predict_together,
    prepare,
)
from adapters.answer.components import Components, LoadedComponent
from adapters.answer.forward_pass import features_of, forward
from adapters.answer.heads import Features
from adapters.answer.predictions import Prediction
from adapters.answer.stages import Answer, Stage
from adapters.backbone.features import FeatureSpec
from adapters.backbone.images import ImageLike
from adapters.runtimes.threads import compute_in_this_thread, operations_of, share_cores
from registry.errors import BadInput
from registry.versions.manifest import BackboneRef


class LoadedVersion:
    """A version that answers. It does not change after its self-test, and threads may share it."""

    def __init__(
        self, version: str, content_sha256: str, components: Components, weights: Mapping[str, str | None]
    ) -> None:
        """Use `adapters.answer.loading.load`."""
        self._version = version
        self._content_sha256 = content_sha256
        self._components = components
        self._expected_weights = weights
        self._golden_sha256 = ""

    @property
    def version(self) -> str:
        """The version's name."""
        return self._version

    @property
    def content_sha256(self) -> str:
        """The digest of the version's content."""
        return self._content_sha256

    @property
    def backbone(self) -> BackboneRef:
        """The backbone that it runs on."""
        return self._components.runtime.ref

    @property
    def components(self) -> Components:
        """Its adapters, its router, and what they run on."""
        return self._components

    @property
    def device(self) -> str:
        """Where it runs, e.g. `cpu`."""
        return self._components.runtime.device

    @property
    def runtime(self) -> str:
        """The name of its runtime, e.g. `torch-fp32`."""
        return self._components.runtime.name

    @property
    def runs_on(self) -> int:
        """Versions of one backbone, runtime and device, which share a pass, have the same number."""
        return id(self._components.runtime)

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that it has an adapter for, sorted."""
        return tuple(self._components.adapters)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The labels of each target."""
        return MappingProxyType({target: adapter.labels for target, adapter in self._components.adapters.items()})

    @property
    def has_router(self) -> bool:
        """Whether it can choose the target itself by a router."""
        return self._components.router is not None

    @property
    def targets_with_ood(self) -> frozenset[str]:
        """The targets that have an OOD detector."""
        adapters = self._components.adapters.items()
        return frozenset(target for target, adapter in adapters if adapter.last and adapter.last.detector)

    @property
    def memory(self) -> Mapping[str, int]:
        """Bytes that each target's LoRA, heads and detectors take; the backbone is shared and not counted."""
        return MappingProxyType({target: adapter.nbytes for target, adapter in self._components.adapters.items()})

    def __repr__(self) -> str:
        return f"LoadedVersion({self.version}, targets={list(self.targets)}, {self.runtime} on {self.device})"

    @overload
    def predict(self, images: Images, *, target: Targets = None) -> list[Prediction]: ...
    @overload
    def predict(self, images: ImageLike, *, target: str | None = None) -> Prediction: ...
    def predict(self, images: Any, *, target: Targets = None) -> Prediction | list[Prediction]:
        """Answer one image, or each of several, in order. A corrupt image gets its own answer and does not affect
        others.

        Args:
            images: a file's bytes or path, a PIL image or an array [H, W, 3] of uint8; or a list or tuple of them, or
                an array [N, H, W, 3].
            target: the target; None for the router to choose. Of several images it may be a list with one for each.

        Raises:
            TypeError: when an image or a target is of another type, or one image has several targets.
            BadInput: when the lists differ in length, or there is no file at a path.
        """
        several = as_list(images)
        if several is None:
            return predict_together([self], [images], [one_target(target)])[0]
        return predict_together([self] * len(several), several, targets_of(several, target))

    def prepare(self, image: ImageLike, target: str | None = None) -> PreparedRow:
        """Read one image, in any thread, for `answer_rows`; one that can't be read already has its answer.

        Raises:
            TypeError: when the image or the target is of another type.
            BadInput: when there is no file at a path.
        """
        check_images([image])
        return prepare(self, image, one_target(target))

    def adopt(self, row: PreparedRow) -> PreparedRow | None:
        """An image that another version has read, for this one; None if that reads it otherwise, or could not."""
        return adopted(self, row)

    @staticmethod
    def answer_rows(rows: Sequence[PreparedRow]) -> list[Prediction]:
        """Answer rows that any versions prepared, in order, at most `MAX_BATCH` or so at a time.

        To be called in the thread that called `begin_computing`.
        """
        share_cores(max((_operations(row.version.components) for row in rows), default=0.0))
        return answer_rows(rows)

    @staticmethod
    def begin_computing() -> None:
        """Prepare this process for one thread, the one that calls, to do all the computing."""
        compute_in_this_thread()

    def route(self, images: Sequence[ImageLike]) -> list[tuple[str, float]]:
        """The router's choice for each image: target and probability, however small.

        Raises:
            BadImage: when an image can't be read.
            BadInput: when the version has no router.
        """
        router = self._router()
        return [most_likely(router.labels, one) for one in self._answers(images, router)]

    def features(self, images: Sequence[ImageLike], target: str | None = None) -> np.ndarray:
        """The input of the classifier of the target's last head, or of the router's for None: [N, width].

        Raises:
            BadImage: when an image can't be read.
            BadInput: when the version has no such target, or no head for it.
        """
        _, last = self._with_head(target)
        with torch.no_grad():
            output = last.head(self.features_at(images, target, last.head.feature_specs))
            return np.asarray(output.embedding.cpu().numpy())

    def features_at(self, images: Sequence[ImageLike], target: str | None, specs: Sequence[FeatureSpec]) -> Features:
        """Features [N, width] after any blocks of the backbone, with a target's adapter or without one for None.

        Raises:
            BadImage: when an image can't be read.
            BadInput: when the version has no such target.
        """
        slot = None if target is None else self._adapter(target).slot
        batches = [features_of(self._components.runtime, pixels, slot, specs) for pixels in self._batches(images)]
        hidden = int(self.backbone.config["hidden_size"])
        empty = {spec: torch.zeros(0, spec.width(hidden), device=self.device) for spec in specs}
        return {spec: torch.cat([empty[spec], *(batch[spec] for batch in batches)]) for spec in specs}

    def ood_scores(self, images: Sequence[ImageLike], target: str) -> list[float]:
        """The OOD score of each image, in units of the predicted label's threshold: the higher, the less it is like the
        target's training images. NaN if the target has no detector or no head.

        Raises:
            BadImage: when an image can't be read.
            BadInput: when the version has no such target.
        """
        adapter = self._adapter(target)
        if adapter.last is None:
            return [float("nan")] * len(images)
        return [float("nan") if one.score is None else one.score for one in self._answers(images, adapter)]

    def weights_sha256(self) -> dict[str, str]:
        """The digest of the tensors in memory now, of each adapter and the router, by component.

        It equals the manifest's `weights_sha256` if the weights in memory are the released ones.
        """
        return {component.folder: component.weights_sha256() for component in self._all_components()}

    @property
    def golden_sha256(self) -> str:
        """The fingerprint of the outputs that the self-test computed for recorded images, by the last bit of each
        number; empty before the self-test, or if nothing is recorded.

        Equal numbers need equal weights, backbone, runtime, packages and kind of processor. So it tells replicas on
        equal machines apart, and says nothing by itself where machines differ.
        """
        return self._golden_sha256

    def golden_outputs(self, images: np.ndarray, target: str | None) -> dict[str, np.ndarray]:
        """The content of a component's `golden.safetensors`: inputs and the outputs for them.

        Args:
            images: [N, H, W, 3] uint8, squares of the size that the version takes.
            target: an adapter's target, or None for the router.

        Returns:
            `images`; `features` [N, width] that its classifier takes; `logits` [N, classes]; with a detector
            `ood_score` [N] and `is_ood` [N] too. Of an adapter without a classifier `images`, and as `features` the
            CLS token after the last block.
        """
        if target is not None and self._adapter(target).last is None:
            spec = FeatureSpec(int(self.backbone.config["num_hidden_layers"]), "cls")
            return {"images": images, "features": self.features_at(list(images), target, [spec])[spec].cpu().numpy()}
        component, _ = self._with_head(target)
        answers = self._answers(list(images), component)
        outputs = {
            "images": images,
            "features": self.features(list(images), target),
            "logits": torch.stack([one.logits for one in answers]).cpu().numpy(),
        }
        if all(one.score is not None for one in answers):
            outputs["ood_score"] = np.array([one.score for one in answers], np.float32)
            outputs["is_ood"] = np.array([one.flag for one in answers], np.uint8)
        return outputs

    def limit_pixels(self, max_pixels: int) -> None:
        """Answer no image of more pixels, by its header; to be called before the self-test."""
        self._components = replace(self._components, max_pixels=max_pixels)

    def self_test(self) -> None:
        """Check that the weights in memory are those of the manifest, and that every component with recorded outputs
        reproduces them: same labels and OOD flags, logits and scores within the stored tolerance.

        Raises:
            CorruptBlob: when the weights differ.
            SelfTestFailed: when an output differs.
        """
        selftest.check_weights(self.version, self.weights_sha256(), self._expected_weights)
        tolerance = self._components.tolerance
        computed: dict[str, dict[str, np.ndarray]] = {}
        for target in (None, *self.targets):
            component = self._components.router if target is None else self._components.adapters[target]
            if component and component.golden is not None:
                actual = self.golden_outputs(component.golden["images"].numpy(), target)
                name = f"{self.version}: {component.folder}"
                selftest.check_outputs(name, actual, component.golden, runtime=self.runtime, tolerance=tolerance)
                computed[component.folder] = actual
        self._golden_sha256 = selftest.fingerprint(computed)

    def _answers(self, images: Sequence[ImageLike], component: LoadedComponent) -> list[Answer]:
        return [
            one
            for pixels in self._batches(images)
            for one in forward(self._components.runtime, pixels, [component] * len(pixels))
        ]

    def _batches(self, images: Sequence[ImageLike]) -> Iterator[torch.Tensor]:
        preprocessing = self._components.preprocessing
        for start in range(0, len(images), MAX_BATCH):
            squares = np.stack([preprocessing.square(image) for image in images[start : start + MAX_BATCH]])
            yield preprocessing.normalise(torch.from_numpy(squares).to(self.device))

    def _all_components(self) -> list[LoadedComponent]:
        router = self._components.router
        return [*self._components.adapters.values(), *([router] if router else [])]

    def _adapter(self, target: str) -> LoadedComponent:
        if target not in self._components.adapters:
            raise BadInput(
                f"{self.version} has no adapter for {target[:80]!r}", hint=f"it has {', '.join(self.targets)}"
            )
        return self._components.adapters[target]

    def _router(self) -> LoadedComponent:
        if self._components.router is None:
            raise BadInput(f"{self.version} has no router", hint=f"name the target: {', '.join(self.targets)}")
        return self._components.router

    def _with_head(self, target: str | None) -> tuple[LoadedComponent, Stage]:
        """A component and its last stage."""
        component = self._router() if target is None else self._adapter(target)
        if component.last is None:
            raise BadInput(f"{self.version} has no classifier for {target}: a LoRA alone gives features, but no labels")
        return component, component.last


def _operations(components: Components) -> float:
    """Of an image."""
    return operations_of(components.runtime.ref, components.preprocessing.crop)
