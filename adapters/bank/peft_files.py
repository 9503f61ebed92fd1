"""Read and write PEFT's LoRA folders, and check that an adapter fits the backbone.

PEFT trains adapters; it is not used in forward passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import nn

from adapters.backbone.families import Family
from adapters.bank.lora_weights import FileTensor, LoraModule, LoraStructure, LoraWeights, join_tensors, structure_of
from adapters.bank.peft_config import PeftConfig, read_config
from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BundleFiles, WeightsFile
from registry.errors import BadWeights
from registry.formats import canonical

MAX_ADAPTER_HEADER = 4 * 1024 * 1024
"""Bytes. Headers are cached with the structures; the header of the largest backbone's adapters is below 200 KB."""

CACHED_STRUCTURES = 128
"""How many structures of adapters are cached; the versions of a target usually have the same one."""

_PREFIX = "base_model.model."

_KINDS = {".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_magnitude_vector": "magnitude"}


def read_adapter(files: BundleFiles, folder: str, family: Family, linears: Mapping[str, nn.Linear]) -> LoraWeights:
    """Read the adapter in a folder of a bundle. Module names of transformers 4 are accepted.

    Args:
        linears: the backbone's modules that an adapter may change, by name.

    Raises:
        BadManifest, MissingBlob: when a file is missing or malformed.
        BadWeights: when it is not a LoRA, its training changed the backbone's own weights, it needs a variant that this
            release does not support, has patterns that can't be matched in reasonable time, does not fit the backbone,
            or would change nothing.
        LoadFailed: when no process can be started to match its patterns.
    """
    config = files.document_bytes(f"{folder}/{ADAPTER_CONFIG}")
    file = files.weights_file(f"{folder}/{ADAPTER_WEIGHTS}")
    if len(file.header) > MAX_ADAPTER_HEADER:
        raise BadWeights(f"{folder}/{ADAPTER_WEIGHTS} has a header of {len(file.header)} bytes, which no adapter needs")
    shapes = tuple((name, linear.out_features, linear.in_features) for name, linear in linears.items())
    structure = _read_structure(folder, config, file, family, shapes)
    numbers = file.floats() if structure.is_as_stored else _reordered_numbers(structure, file, family)
    weights = LoraWeights(structure, numbers)
    if not _changes_something(weights, linears):
        raise BadWeights(
            f"the adapter in {folder} would change nothing: of each module the A, the B or the alpha is zero",
            hint="train it first",
        )
    return weights


def write_config(config: LoraConfig, backbone: str) -> dict[str, Any]:
    """The content of `adapter_config.json`, with the backbone's name instead of a path of this machine."""
    document: dict[str, Any] = config.to_dict()
    document |= {"base_model_name_or_path": backbone, "peft_type": "LORA", "inference_mode": True}
    document["target_modules"] = sorted(config.target_modules or ())
    return document


def weights_of(model: nn.Module, adapter_name: str) -> dict[str, torch.Tensor]:
    """The weights of an adapter that was trained with PEFT, with the names that PEFT saves them under."""
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    return {f"{_PREFIX}{name}": tensor.detach() for name, tensor in state.items()}


def modules_of(tensors: Iterable[str]) -> list[str]:
    """The modules that the tensors of an adapter's file belong to, by their names in it."""
    return list(dict.fromkeys(_split(name)[0] for name in tensors))


@lru_cache(maxsize=CACHED_STRUCTURES)
def _read_structure(
    folder: str, document: bytes, file: WeightsFile, family: Family, linears: tuple[tuple[str, int, int], ...]
) -> LoraStructure:
    """Read and check everything but the numbers. Files with equal headers have the same structure.

    Args:
        document: the configuration's bytes.
        linears: name, out and in of the modules that an adapter may change.
    """
    path = f"{folder}/{ADAPTER_CONFIG}"
    stored = file.tensors()
    _check_floats(stored, folder)
    modules_found = _by_module(family.modern_tensors(stored), folder)
    sizes = {name: (wide, narrow) for name, wide, narrow in linears}
    config = read_config(canonical.decode(document, path), path, modules_of(stored), family, sizes)
    _check_modules(folder, set(modules_found), set(config.targets), set(sizes))
    modules = {
        name: _read_module(folder, name, tensors, config, sizes[name]) for name, tensors in modules_found.items()
    }
    return structure_of(modules, {name: _file_tensor(name, tensor, family) for name, tensor in stored.items()})


def _reordered_numbers(structure: LoraStructure, file: WeightsFile, family: Family) -> torch.Tensor:
    """The numbers of a file that has another type or another order than the layout."""
    tensors = {_split(name): tensor for name, tensor in family.modern_tensors(file.tensors()).items()}
    return join_tensors([tensors[key] for key in structure.layout.shapes])


def _changes_something(weights: LoraWeights, linears: Mapping[str, nn.Linear]) -> bool:
    """Whether any module's s·BA has a number that is not zero, or a DoRA's magnitudes are not the backbone's own."""
    if any(_has_product(module) for module in weights.modules.values()):
        return True
    return any(_is_rescaled(linears[name], module) for name, module in weights.modules.items())


def _has_product(module: LoraModule) -> bool:
    """Whether a rank has numbers that are not zero in both A and B."""
    return module.scale != 0 and bool((module.a.any(dim=1) & module.b.any(dim=0)).any())


def _is_rescaled(linear: nn.Linear, module: LoraModule) -> bool:
    """Whether a DoRA without a product scales an output. Without the weights of the backbone it is taken for true."""
    if module.magnitude is None:
        return False
    if linear.weight.is_meta:
        return True
    norms = torch.linalg.norm(linear.weight.detach().float().cpu(), dim=1)
    return not torch.allclose(module.magnitude, norms, rtol=1e-5, atol=0)


def _check_floats(tensors: Mapping[str, torch.Tensor], folder: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise BadWeights(f"{folder}: {name[:200]!r} holds {tensor.dtype}, not weights")


def _by_module(tensors: Mapping[str, torch.Tensor], folder: str) -> dict[str, dict[str, torch.Tensor]]:
    """Module -> kind -> tensor."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        module, kind = _split(name)
        if not kind:
            raise BadWeights(
                f"{folder}: {name[:200]!r} is not a tensor of a LoRA that this release supports",
                hint="an adapter holds lora_A, lora_B and, for a DoRA, lora_magnitude_vector of linear modules",
            )
        modules.setdefault(module, {})[kind] = tensor
    return modules


def _split(name: str) -> tuple[str, str]:
    """The module that a tensor of the file belongs to, and its kind; an empty kind for an unknown tensor."""
    bare = name.removeprefix(_PREFIX)
    for suffix, kind in _KINDS.items():
        if bare.endswith(suffix):
            return bare.removesuffix(suffix), kind
    return bare, ""


def _check_modules(folder: str, found: set[str], expected: set[str], linears: set[str]) -> None:
    unknown = sorted(found - linears)
    if unknown or found != expected or not found:
        missing, unexpected = sorted(expected - found), sorted(found - expected)
        raise BadWeights(
            f"the adapter in {folder} does not fit the backbone: {len(unknown)} modules are not in it {unknown[:1]}; "
            f"weights are missing of {len(missing)} {missing[:1]} and unexpected of {len(unexpected)} {unexpected[:1]}",
            hint="adapter_config.json must name the modules whose weights adapter_model.safetensors holds",
        )


def _read_module(
    folder: str, name: str, tensors: Mapping[str, torch.Tensor], config: PeftConfig, size: tuple[int, int]
) -> LoraModule:
    """The LoRA on a module of this size (outputs, inputs)."""
    wide, narrow = size
    settings = config.targets[name]
    shapes: dict[str, tuple[int, ...]] = {"a": (settings.rank, narrow), "b": (wide, settings.rank)}
    if config.is_dora:
        shapes["magnitude"] = (wide,)
    actual = {kind: tuple(tensor.shape) for kind, tensor in tensors.items()}
    if actual != shapes:
        raise BadWeights(f"{folder}: the adapter of {name} has shapes {actual}, the backbone needs {shapes}")
    return LoraModule(tensors["a"], tensors["b"], settings.scale, tensors.get("magnitude"))


def _file_tensor(name: str, tensor: torch.Tensor, family: Family) -> FileTensor:
    module, kind = _split(family.modern_name(name))
    modules = family.modules_of(module)
    return FileTensor(modules[:1] if kind == "a" else modules, kind, tensor.dtype)
