"""PEFT's LoRA folders: what of an adapter's file goes where, and whether it fits the backbone.

PEFT is where adapters come from and what they are compared with; passes through the backbone do without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import nn

from adapters.backbone.families import Family
from adapters.bank.bank import Layout
from adapters.bank.peft_config import PeftConfig, read_config
from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BundleFiles, WeightsFile
from registry.errors import BadWeights
from registry.formats import canonical

MAX_ADAPTER_HEADER = 4 * 1024 * 1024
"""Bytes; headers are remembered with their forms, and those of the largest backbone's adapters are below 200 KB."""

FORMS = 128
"""Forms of adapters that are remembered; the versions of a target usually have one form."""

_PREFIX = "base_model.model."
_PARTS = {".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_magnitude_vector": "magnitude"}


@dataclass(frozen=True)
class LoraModule:
    """A LoRA on one linear module: it adds scale · B A x. `a` [r, in], `b` [out, r], a DoRA's `magnitude` [out]."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """r."""
        return len(self.a)


@dataclass(frozen=True)
class Source:
    """What a tensor of the file became: `part` (`a`, `b`, `magnitude`) of these modules, cut along dimension 0."""

    modules: tuple[str, ...]
    part: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Form:
    """What an adapter is apart from its numbers.

    Attributes:
        layout: of its numbers.
        scales: module -> s, in the order of the layout.
        sources: where each tensor of its file went, in the order of the file.
    """

    layout: Layout
    scales: Mapping[str, float]
    sources: Mapping[str, Source]

    @cached_property
    def is_as_stored(self) -> bool:
        """Whether the numbers lie in the file as in the layout."""
        stored = [(source.modules, source.part, source.dtype) for source in self.sources.values()]
        return stored == [((module,), part, torch.float32) for module, part in self.layout.shapes]


@dataclass(frozen=True)
class LoraWeights:
    """An adapter: its form, and its numbers [n] in float32, one part of the layout after another."""

    form: Form
    numbers: torch.Tensor

    @staticmethod
    def of(modules: Mapping[str, LoraModule], sources: Mapping[str, Source] | None = None) -> LoraWeights:
        """The adapter that consists of these LoRAs, with numbers of its own; by default no file holds it."""
        form = _form_of(modules, sources or {})
        parts = [getattr(modules[name], part) for name, part in form.layout.shapes]
        return LoraWeights(form, _joined(parts))

    @property
    def modules(self) -> dict[str, LoraModule]:
        """Per module its LoRA, cut out of the numbers."""
        cut = self.form.layout.cut(self.numbers)
        return {
            name: LoraModule(cut[name, "a"], cut[name, "b"], scale, cut.get((name, "magnitude")))
            for name, scale in self.form.scales.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return 4 * self.form.layout.size


def read_adapter(files: BundleFiles, folder: str, family: Family, linears: Mapping[str, nn.Linear]) -> LoraWeights:
    """The adapter in a folder of a bundle. Module names of transformers 4 are understood.

    Args:
        linears: the backbone's modules that may be changed, by name.

    Raises:
        BadManifest, MissingBlob: a file is missing or malformed.
        BadWeights: it is no LoRA, asks for a variant that this release does not compute, does not fit the backbone, or
            would change nothing.
    """
    config = files.document_bytes(f"{folder}/{ADAPTER_CONFIG}")
    file = files.weights_file(f"{folder}/{ADAPTER_WEIGHTS}")
    if len(file.header) > MAX_ADAPTER_HEADER:
        raise BadWeights(f"{folder}/{ADAPTER_WEIGHTS} has a header of {len(file.header)} bytes, which no adapter needs")
    shapes = tuple((name, linear.out_features, linear.in_features) for name, linear in linears.items())
    form = _read_form(folder, config, file, family, shapes)
    weights = LoraWeights(form, file.floats() if form.is_as_stored else _gathered(form, file, family))
    if not _changes_something(weights):
        raise BadWeights(f"the adapter in {folder} would change nothing: its B are all zero", hint="train it first")
    return weights


def write_config(config: LoraConfig, backbone: str) -> dict[str, Any]:
    """The content of `adapter_config.json`, with the backbone's name where PEFT would write this machine's path."""
    document = config.to_dict()
    document |= {"base_model_name_or_path": backbone, "peft_type": "LORA", "inference_mode": True}
    document["target_modules"] = sorted(config.target_modules or ())
    return document


def weights_of(model: nn.Module, adapter_name: str) -> dict[str, torch.Tensor]:
    """The weights of an adapter that was trained with PEFT, named as PEFT saves them."""
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    return {f"{_PREFIX}{name}": tensor.detach() for name, tensor in state.items()}


@lru_cache(maxsize=FORMS)
def _read_form(
    folder: str, document: bytes, file: WeightsFile, family: Family, linears: tuple[tuple[str, int, int], ...]
) -> Form:
    """All that can be said and refused without looking at numbers; of equal files it is the same.

    Args:
        document: the configuration's bytes.
        linears: name, out and in of the modules that may be changed.
    """
    path = f"{folder}/{ADAPTER_CONFIG}"
    stored = file.tensors()
    _check_floats(stored, folder)
    parts = _sorted_by_module(family.modern_tensors(stored), folder)
    sizes = {name: (wide, narrow) for name, wide, narrow in linears}
    modules_in_file = dict.fromkeys(_split(name)[0] for name in stored)
    config = read_config(canonical.decode(document, path), path, modules_in_file, family, sizes)
    _check_modules(folder, set(parts), config.targets, set(sizes))
    modules = {name: _read_module(folder, name, parts[name], config, sizes[name]) for name in parts}
    return _form_of(modules, {name: _source(name, tensor, family) for name, tensor in stored.items()})


def _form_of(modules: Mapping[str, LoraModule], sources: Mapping[str, Source]) -> Form:
    parts = (
        ((name, part), tuple(tensor.shape))
        for name, module in modules.items()
        for part, tensor in (("a", module.a), ("b", module.b), ("magnitude", module.magnitude))
        if tensor is not None
    )
    return Form(Layout(tuple(parts)), {name: module.scale for name, module in modules.items()}, sources)


def _gathered(form: Form, file: WeightsFile, family: Family) -> torch.Tensor:
    """The numbers of a file that are of another type or in another order than the form's."""
    parts = {_split(name): tensor for name, tensor in family.modern_tensors(file.tensors()).items()}
    return _joined([parts[key] for key in form.layout.shapes])


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1).float() for tensor in tensors])


def _changes_something(weights: LoraWeights) -> bool:
    """Whether it is a DoRA or any B is not all zero; usually the first one is not."""
    layout = weights.form.layout
    places = (place for (_, part), place in layout.places.items() if part == "b")
    return layout.has_magnitudes or any(bool(weights.numbers[place].any()) for place in places)


def _check_floats(tensors: Mapping[str, torch.Tensor], folder: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BadWeights(f"{folder}: {name[:200]!r} holds {tensor.dtype}, not weights")


def _sorted_by_module(tensors: Mapping[str, torch.Tensor], folder: str) -> dict[str, dict[str, torch.Tensor]]:
    """Module -> part -> tensor."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        module, part = _split(name)
        if not part:
            raise BadWeights(
                f"{folder}: {name[:200]!r} is no part of a LoRA that this release computes",
                hint="an adapter holds lora_A, lora_B and, for a DoRA, lora_magnitude_vector of linear modules",
            )
        parts.setdefault(module, {})[part] = tensor
    return parts


def _split(name: str) -> tuple[str, str]:
    """The module that a tensor of the file belongs to, and which part of its LoRA it is; an empty part if none."""
    bare = name.removeprefix(_PREFIX)
    for suffix, part in _PARTS.items():
        if bare.endswith(suffix):
            return bare.removesuffix(suffix), part
    return bare, ""


def _check_modules(folder: str, found: set[str], expected: set[str], linears: set[str]) -> None:
    foreign = sorted(found - linears)
    if foreign or found != expected or not found:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        raise BadWeights(
            f"the adapter in {folder} does not fit the backbone: {len(foreign)} modules are not in it {foreign[:1]}; "
            f"weights are missing of {len(missing)} {missing[:1]} and unexpected of {len(unexpected)} {unexpected[:1]}",
            hint="adapter_config.json must name the modules whose weights adapter_model.safetensors holds",
        )


def _read_module(
    folder: str, name: str, parts: Mapping[str, torch.Tensor], config: PeftConfig, size: tuple[int, int]
) -> LoraModule:
    """The LoRA on a module; its size is outputs and inputs."""
    wide, narrow = size
    settings = config.settings(name)
    shapes = {"a": (settings.rank, narrow), "b": (wide, settings.rank)}
    shapes |= {"magnitude": (wide,)} if config.is_dora else {}
    actual = {part: tuple(tensor.shape) for part, tensor in parts.items()}
    if actual != shapes:
        raise BadWeights(f"{folder}: the adapter of {name} has shapes {actual}, the backbone asks for {shapes}")
    return LoraModule(parts["a"], parts["b"], settings.scale, parts.get("magnitude"))


def _source(name: str, tensor: torch.Tensor, family: Family) -> Source:
    module, part = _split(family.modern_name(name))
    modules = family.parts_of(module)
    return Source(modules[:1] if part == "a" else modules, part, tensor.dtype)
