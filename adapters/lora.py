"""PEFT's LoRA folders: which configurations are accepted, and what they say about each module.

PEFT is where adapters come from and what they are compared with; passes through the backbone do without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import nn

from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BundleFiles
from adapters.families import Family
from registry.errors import BadWeights

MAX_RANK = 1024
MAX_EXPRESSION = 2000
_REPEATED = re.compile(r"[+*}]\)*[+*{]")
_PREFIX = "base_model.model."
_USED = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layers_pattern",
)  # fmt: skip
# Fields that say where an adapter comes from or how it was trained; they do not change what it computes.
_IGNORED = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout", "peft_version",
    "revision", "runtime_config", "task_type", "peft_type", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying",
}  # fmt: skip
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
class LoraWeights:
    """An adapter: per module its LoRA, and where each tensor of its file went."""

    modules: Mapping[str, LoraModule]
    sources: Mapping[str, Source]

    @property
    def nbytes(self) -> int:
        """Bytes of its weights in float32."""
        tensors = [tensor for module in self.modules.values() for tensor in (module.a, module.b, module.magnitude)]
        return sum(4 * tensor.numel() for tensor in tensors if tensor is not None)

    @property
    def form(self) -> tuple[tuple[str, bool], ...]:
        """Its modules, and which of them are DoRAs."""
        return tuple(sorted((name, module.magnitude is not None) for name, module in self.modules.items()))


def read_adapter(files: BundleFiles, folder: str, family: Family, linears: Mapping[str, nn.Linear]) -> LoraWeights:
    """The adapter in a folder of a bundle. Module names of transformers 4 are understood.

    Args:
        linears: the backbone's modules that may be changed, by name.

    Raises:
        BadManifest, MissingBlob: a file is missing or malformed.
        BadWeights: it is no LoRA, asks for a variant that this release does not compute, does not fit the backbone, or
            would change nothing.
    """
    path = f"{folder}/{ADAPTER_CONFIG}"
    config = read_config(files.document(path), family, path)
    stored = files.mapped_tensors(f"{folder}/{ADAPTER_WEIGHTS}")
    tensors = family.modern_tensors(stored)
    parts = _sorted_by_module(tensors, folder)
    expected = {name for name in linears if check_target_module_exists(config, name)}
    _check_modules(folder, set(parts), expected, linears)
    modules = {name: _read_module(folder, name, parts[name], config, linears[name]) for name in sorted(parts)}
    if not any(bool(module.b.any()) for module in modules.values()) and not config.use_dora:
        raise BadWeights(f"the adapter in {folder} would change nothing: its B are all zero", hint="train it first")
    return LoraWeights(modules, {name: _source(name, tensor, family) for name, tensor in stored.items()})


def read_config(document: Mapping[str, Any], family: Family, path: str) -> LoraConfig:
    """What an `adapter_config.json` says, in transformers 5's names; only what we compute is accepted.

    Raises:
        BadWeights: it is no LoRA, or it asks for a variant that this release does not compute.
    """
    if document.get("peft_type") != "LORA":
        raise BadWeights(f"{path}: peft_type {str(document.get('peft_type'))[:40]!r} is not LORA")
    plain = LoraConfig().to_dict()
    for name, value in document.items():
        if name not in _IGNORED and name not in _USED and value and value != plain.get(name):
            raise BadWeights(f"{path}: {name} = {str(value)[:80]} is not supported by this release")
    _check_rank(document.get("r"), path)
    _check_layers(document.get("layers_to_transform"), document.get("layers_pattern"), path)
    if not isinstance(document.get("lora_alpha"), int | float) or isinstance(document["lora_alpha"], bool):
        raise BadWeights(f"{path}: lora_alpha is {str(document.get('lora_alpha'))[:40]!r}, not a number")
    for rank in _pattern(document, "rank_pattern", path).values():
        _check_rank(rank, path)
    fields = {name: document[name] for name in _USED if document.get(name) is not None}
    fields["target_modules"] = _modern_targets(document.get("target_modules"), family, path)
    for name in ("rank_pattern", "alpha_pattern"):
        fields[name] = _modern_pattern(_pattern(document, name, path), family)
    try:
        return LoraConfig(**fields)
    except (TypeError, ValueError) as error:
        raise BadWeights(f"{path}: {error}"[:500]) from error


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


def _check_rank(rank: object, path: str) -> None:
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= MAX_RANK:
        raise BadWeights(f"{path}: r is {str(rank)[:40]!r}, not a rank of at most {MAX_RANK}")


def _check_layers(layers: object, pattern: object, path: str) -> None:
    numbers, names = (value if isinstance(value, list) else [value or 0] for value in (layers, pattern))
    if not all(type(number) is int for number in numbers):
        raise BadWeights(f"{path}: layers_to_transform is no list of numbers")
    if pattern and not all(isinstance(name, str) and _check_expression(name, path) for name in names):
        raise BadWeights(f"{path}: layers_pattern is no list of names")


def _pattern(document: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
    pattern = document.get(name) or {}
    numbers = isinstance(pattern, dict) and all(isinstance(value, int | float) for value in pattern.values())
    if not numbers or len(pattern) > 10_000:
        raise BadWeights(f"{path}: {name} is no object of numbers")
    return {_check_expression(key, path): value for key, value in pattern.items()}


def _check_expression(text: str, path: str) -> str:
    # PEFT matches these as regular expressions; a repeated repetition takes time exponential in a name's length.
    if len(text) > MAX_EXPRESSION or _REPEATED.search(text):
        raise BadWeights(f"{path}: {text[:80]!r} is too long or too costly as a regular expression")
    return text


def _modern_targets(targets: object, family: Family, path: str) -> str | list[str]:
    if targets == "all-linear":
        return list(family.linears)
    if isinstance(targets, str):
        return family.modern_name(_check_expression(targets, path))
    if not isinstance(targets, list) or not targets or not all(isinstance(module, str) for module in targets):
        raise BadWeights(f"{path}: target_modules is not a list of module names")
    return list(family.modern_modules(targets))


def _modern_pattern(pattern: Mapping[str, Any], family: Family) -> dict[str, Any]:
    return {new: value for name, value in pattern.items() for new in family.modern_modules([name])}


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


def _check_modules(folder: str, found: set[str], expected: set[str], linears: Mapping[str, nn.Linear]) -> None:
    foreign = sorted(found - linears.keys())
    if foreign or found != expected or not found:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        raise BadWeights(
            f"the adapter in {folder} does not fit the backbone: {len(foreign)} modules are not in it {foreign[:1]}; "
            f"weights are missing of {len(missing)} {missing[:1]} and unexpected of {len(unexpected)} {unexpected[:1]}",
            hint="adapter_config.json must name the modules whose weights adapter_model.safetensors holds",
        )


def _read_module(
    folder: str, name: str, parts: Mapping[str, torch.Tensor], config: LoraConfig, linear: nn.Linear
) -> LoraModule:
    rank = int(config.rank_pattern.get(get_pattern_key(list(config.rank_pattern), name), config.r))
    alpha = float(config.alpha_pattern.get(get_pattern_key(list(config.alpha_pattern), name), config.lora_alpha))
    scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    shapes = {"a": (rank, linear.in_features), "b": (linear.out_features, rank)}
    shapes |= {"magnitude": (linear.out_features,)} if config.use_dora else {}
    actual = {part: tuple(tensor.shape) for part, tensor in parts.items()}
    if actual != shapes:
        raise BadWeights(f"{folder}: the adapter of {name} has shapes {actual}, the backbone asks for {shapes}")
    if not math.isfinite(scale):
        raise BadWeights(f"{folder}: the scale of {name} is not finite")
    return LoraModule(parts["a"], parts["b"], scale, parts.get("magnitude"))


def _source(name: str, tensor: torch.Tensor, family: Family) -> Source:
    module, part = _split(family.modern_name(name))
    stem, _, last = module.rpartition(".")
    names = tuple(family.modern_modules([last]))
    modules = tuple(f"{stem}.{new}" for new in names)
    return Source(modules[:1] if part == "a" else modules, part, tensor.dtype)
