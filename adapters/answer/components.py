"""The components of a version in memory (adapters and router), read from its files and checked against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch

from adapters import bundle
from adapters.answer.early_exits import Depth, read_depth
from adapters.answer.heads import read_head
from adapters.answer.ood import read_detector
from adapters.answer.stages import Stage
from adapters.backbone.families import family_named
from adapters.backbone.images import MAX_PIXELS
from adapters.backbone.patches import MAX_LOADED, check_patches
from adapters.backbone.preprocess import Preprocessing
from adapters.bank.peft_files import read_adapter
from adapters.bank.slots import Slot
from adapters.bundle import BundleFiles
from adapters.runtimes.interface import REFERENCE, Runtime
from registry.errors import BadManifest, BadWeights, MissingBlob, first_line
from registry.formats import canonical
from registry.names import check_target
from registry.versions.weights import Tensor, canonical_name, tensors_of, tensors_sha256

MAX_GOLDENS = 64
"""How many recorded inputs a component may have."""

_DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class LoadedComponent:
    """One target's adapter, or the router, which has no slot.

    Attributes:
        folder: its folder in the bundle.
        slot: its LoRA in the bank.
        last: head and detector on the features of its last block; None for a LoRA without a head.
        depth: its early exits, None if there are none.
        golden: recorded inputs and outputs, None if the bundle has none.
        dtypes: for each file with tensors in memory, the dtype of each tensor.
        others: tensors of other files; nothing computes with them, and they stay on the disk.
    """

    folder: str
    slot: Slot | None
    last: Stage | None
    depth: Depth | None
    golden: Mapping[str, torch.Tensor] | None
    dtypes: Mapping[str, Mapping[str, str]]
    others: tuple[Tensor, ...]

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that rows pass, the earliest first; empty without a head."""
        if self.last is None:
            return ()
        return self.depth.stages(self.last) if self.depth else (self.last,)

    @property
    def labels(self) -> tuple[str, ...]:
        """One per class; empty without a head."""
        return self.last.head.labels if self.last else ()

    @property
    def nbytes(self) -> int:
        """Bytes of memory without the backbone and the recorded outputs."""
        own = [tensors for file, tensors in self._tensors() if file != bundle.GOLDEN]
        size = sum(tensor.nbytes for tensors in own for tensor in tensors.values())
        return size + (self.slot.nbytes if self.slot else 0)

    def weights_sha256(self) -> str:
        """The digest of its tensors as they are in memory now; the manifest's is that of its files.

        A LoRA's tensors are read from the bank, without padding and scale.
        """
        held = dict(self._tensors())
        if self.slot:
            held[bundle.ADAPTER_WEIGHTS] = self.slot.tensors()
        in_memory = [
            _hashable(file, name, tensor, self.dtypes[file][name])
            for file, tensors in held.items()
            for name, tensor in tensors.items()
        ]
        return tensors_sha256([*in_memory, *self.others])

    def _tensors(self) -> Iterator[tuple[str, Mapping[str, torch.Tensor]]]:
        """(file, its tensors) for all tensors that are not in the bank."""
        stages = {"": self.last} | {f"exits/{s.block}/": s for s in (self.depth.exits if self.depth else ())}
        for folder, stage in stages.items():
            if stage:
                yield f"{folder}{bundle.HEAD}.safetensors", stage.head.tensors()
            if stage and stage.detector:
                yield f"{folder}{bundle.OOD}.safetensors", stage.detector.tensors()
        if self.golden is not None:
            yield bundle.GOLDEN, self.golden


@dataclass(frozen=True)
class Components:
    """The components of a version, and what they run on.

    Attributes:
        adapters: target -> its adapter, sorted.
        router: chooses among targets; None if the version has none.
        router_threshold: the smallest probability at which its choice is used.
        tolerance: how far the version's outputs may differ from recorded ones: `logits`, and `ood_score` in thresholds.
        max_pixels: of an image to be answered.
    """

    runtime: Runtime
    preprocessing: Preprocessing
    adapters: Mapping[str, LoadedComponent]
    router: LoadedComponent | None
    router_threshold: float
    tolerance: Mapping[str, float]
    max_pixels: int = MAX_PIXELS


def read_components(files: BundleFiles, runtime: Runtime) -> Components:
    """Read a version's files onto a runtime.

    Raises:
        BadWeights: when a file is truncated, or does not fit the backbone or other files.
        BadManifest, MissingBlob: when a document is malformed or missing.
    """
    preprocessing = files.document(bundle.PREPROCESSING)
    offered = {"backbone": runtime.ref.sha256, "preprocessing": canonical.digest(preprocessing)}
    preprocessing_steps = Preprocessing.of(preprocessing)
    check_patches(preprocessing_steps.crop, runtime.ref.config, MAX_LOADED)
    targets = _targets(files)
    router_is_there = f"{bundle.ROUTER}/{bundle.HEAD}.json" in files
    for folder in (*map(bundle.adapter_folder, targets), *([bundle.ROUTER] if router_is_there else [])):
        _check_requirements(files, folder, offered)
    slots = _read_slots(files, targets, runtime)
    reader = _ComponentReader(files, runtime, preprocessing_steps)
    adapters = {
        target: reader.component(bundle.adapter_folder(target), slot)
        for target, slot in zip(targets, slots, strict=True)
    }
    router = reader.component(bundle.ROUTER, None) if router_is_there else None
    threshold, tolerance = _read_inference(files)
    return Components(runtime, preprocessing_steps, MappingProxyType(adapters), router, threshold, tolerance)


def _targets(files: BundleFiles) -> tuple[str, ...]:
    targets = files.children(bundle.ADAPTERS)
    if not targets:
        raise BadManifest("the version has no adapter", hint=f"a bundle holds {bundle.ADAPTERS}/<target>/…")
    return tuple(check_target(target) for target in targets)


def _read_slots(files: BundleFiles, targets: Sequence[str], runtime: Runtime) -> list[Slot]:
    family, linears = family_named(runtime.ref.family), runtime.bank.linears
    return runtime.bank.add([read_adapter(files, bundle.adapter_folder(target), family, linears) for target in targets])


@dataclass(frozen=True)
class _ComponentReader:
    """Reads the components of one version."""

    files: BundleFiles
    runtime: Runtime
    preprocessing: Preprocessing

    def component(self, folder: str, slot: Slot | None) -> LoadedComponent:
        last = self._last_stage(folder)
        depth = read_depth(self.files, folder, self._hidden, self._blocks, self.runtime.device) if last else None
        labels = last.head.labels if last else ()
        _check_requirements(self.files, folder, {"labels": canonical.digest(list(labels))})
        _check_labels(folder, [last, *(depth.exits if depth else ())])
        golden = _read_golden(self.files, folder, self.preprocessing, len(labels))
        dtypes = self._dtypes(folder, depth)
        inside = self.files.within(folder)
        others = tensors_of({inner: place for inner, place in inside.items() if inner not in dtypes})
        for stage in (last, *(depth.exits if depth else ())):
            if stage:
                _check_fit(folder, stage, self._hidden, self.runtime.device)
        if depth:
            depth = replace(depth, exits=tuple(_for_runtime(stage, self.runtime) for stage in depth.exits))
        last = _for_runtime(last, self.runtime) if last else None
        return LoadedComponent(folder, slot, last, depth, golden, dtypes, tuple(others))

    @property
    def _hidden(self) -> int:
        return int(self.runtime.ref.config["hidden_size"])

    @property
    def _blocks(self) -> int:
        return int(self.runtime.ref.config["num_hidden_layers"])

    def _last_stage(self, folder: str) -> Stage | None:
        if f"{folder}/{bundle.HEAD}.json" not in self.files:
            if self.files.document(f"{folder}/{bundle.COMPONENT}").get("labels"):
                raise MissingBlob(f"the version has labels for {folder}, but no file {folder}/{bundle.HEAD}.json")
            return None
        head = read_head(self.files, folder, self._hidden, self._blocks, self.runtime.device)
        if f"{folder}/{bundle.OOD}.json" not in self.files:
            return Stage(head)
        return Stage(head, read_detector(self.files, folder, self._hidden, self._blocks, self.runtime.device))

    def _dtypes(self, folder: str, depth: Depth | None) -> dict[str, dict[str, str]]:
        """The dtypes of the files whose tensors are held in memory."""
        names = [bundle.ADAPTER_WEIGHTS, bundle.GOLDEN] if folder != bundle.ROUTER else [bundle.GOLDEN]
        stems = ["", *(f"exits/{stage.block}/" for stage in (depth.exits if depth else ()))]
        names += [f"{stem}{part}.safetensors" for stem in stems for part in (bundle.HEAD, bundle.OOD)]
        return {name: self.files.dtypes(f"{folder}/{name}") for name in names if f"{folder}/{name}" in self.files}


def _for_runtime(stage: Stage, runtime: Runtime) -> Stage:
    """The stage with the detector's thresholds that were calibrated for a runtime."""
    return replace(stage, detector=stage.detector.for_runtime(runtime.name)) if stage.detector else stage


def _check_labels(folder: str, stages: Sequence[Stage | None]) -> None:
    labels = {one.labels for stage in stages if stage for one in (stage.head, stage.detector) if one}
    if len(labels) > 1:
        raise BadManifest(f"{folder}: the labels of the detector or an exit differ from those of the head")


@torch.no_grad()
def _check_fit(folder: str, stage: Stage, hidden: int, device: str) -> None:
    """Check that a head and its detector accept the backbone's features."""
    nothing = {spec: torch.zeros(1, spec.width(hidden), device=device) for spec in stage.feature_specs}
    try:
        output = replace(stage.head(nothing), features=nothing)
        if stage.detector:
            stage.detector(output)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        problem = first_line(error, 200)
        raise BadWeights(f"{folder}: head and detector do not fit: {problem}") from error


def _check_requirements(files: BundleFiles, folder: str, offered: Mapping[str, str]) -> None:
    requires = files.document(f"{folder}/{bundle.COMPONENT}").get("requires")
    if not isinstance(requires, dict):
        raise BadManifest(f"{folder}/{bundle.COMPONENT} has no field `requires`")
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
    if any(tensor.ndim == 0 for tensor in golden.values()):
        raise BadWeights(f"{path} has a tensor without dimensions")
    count = len(golden.get("images", ()))
    shapes: dict[str, tuple[int, ...]] = {"images": (count, preprocessing.crop, preprocessing.crop, 3)}
    if classes:
        shapes["logits"] = (count, classes)
    if "features" in golden or not classes:
        shapes["features"] = (count, golden["features"].shape[-1] if "features" in golden else 0)
    if classes and ("ood_score" in golden or "is_ood" in golden):
        shapes |= {"ood_score": (count,), "is_ood": (count,)}
    bundle.check_shapes(golden, shapes, path)
    if not 0 < count <= MAX_GOLDENS or golden["images"].dtype != torch.uint8:
        raise BadWeights(f"{path} must hold 1 to {MAX_GOLDENS} images of uint8")
    return golden


def _read_inference(files: BundleFiles) -> tuple[float, Mapping[str, float]]:
    document = files.document(bundle.INFERENCE)
    try:
        threshold = float(document["router_threshold"])
        tolerance: dict[str, Any] = document["tolerance"][REFERENCE]
        allowed = {name: float(tolerance[name]) for name in ("logits", "ood_score")}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadManifest(f"{bundle.INFERENCE} has a missing or invalid field: {error}") from error
    if not (0 <= threshold <= 1 and all(0 < value < 1 for value in allowed.values())):
        raise BadManifest(f"{bundle.INFERENCE} is out of bounds: threshold {threshold}, tolerance {allowed}")
    return threshold, MappingProxyType(allowed)


def _hashable(file: str, name: str, tensor: torch.Tensor, dtype: str) -> Tensor:
    def data() -> list[memoryview]:
        exact = tensor.detach().to("cpu", _DTYPES[dtype]).contiguous()
        return [exact.view(-1).view(torch.uint8).numpy().data] if exact.numel() else []

    return Tensor(canonical_name(file, name), dtype, tuple(tensor.shape), data)
