"""Build the module tree of a backbone on weights that all its users in this process share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from adapters.backbone.families import Family, family_named
from adapters.backbone.locate import FetchWeights, find_weights
from registry.errors import BadInput, BadManifest, BadWeights
from registry.versions.manifest import BackboneRef

if TYPE_CHECKING:
    import torch

_BOUNDS = {
    "hidden_size": range(1, 2**16),
    "num_hidden_layers": range(1, 1000),
    "num_attention_heads": range(1, 2**12),
    "patch_size": range(1, 2**10),
    "num_register_tokens": range(2**10),
    "image_size": range(1, 2**16),
}
"""Bounds of the numbers in a configuration, far above those of any existing backbone."""


class _Tensors(dict[str, "torch.Tensor"]):
    """A backbone's tensors. A subclass, because a plain dict does not support weak references."""


_lock = threading.Lock()

_loaded: WeakValueDictionary[tuple[str, str], _Tensors] = WeakValueDictionary()  # alive while a model uses them


def new_model(
    ref: BackboneRef, *, folders: Sequence[Path | str] = (), device: str = "cpu", fetch: FetchWeights | None = None
) -> torch.nn.Module:
    """Build a module tree of a backbone, frozen and in evaluation mode, on the one copy of its weights in memory.

    Each caller gets its own tree; the tensors are shared by all of them and by all threads.

    Args:
        folders, fetch: where to look for the weights; see `adapters.backbone.locate.find_weights`.

    Raises:
        BackboneNotFound: when the weights are in no known place.
        CorruptBlob: when only weights with another digest were found.
        BadManifest: when its configuration, hub id or revision is malformed.
        BadWeights: when the weights do not fit the configuration.
    """
    tensors = _shared_tensors(ref, folders, device, fetch)
    try:
        model: Any = shapes(ref)
        missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise BadWeights(f"the weights of {ref.name} do not fit its configuration: {error}"[:500]) from error
    if missing or unexpected:
        raise BadWeights(
            f"the weights of {ref.name} do not fit its configuration: "
            f"missing {sorted(missing)[:3]}, unexpected {sorted(unexpected)[:3]}"
        )
    _fill_computed_buffers(model, device)
    model.shared_tensors = tensors  # keeps the copy in memory as long as the model exists
    frozen: torch.nn.Module = model.eval().requires_grad_(False)
    return frozen


def shapes(ref: BackboneRef) -> torch.nn.Module:
    """The module tree of a backbone without its weights.

    Raises:
        BadManifest: when its configuration is not that of a backbone.
    """
    import torch

    config = ref.config
    image = config.get("image_size")
    side = image[0] if isinstance(image, list) and len(image) == 2 and image[0] == image[1] else image
    numbers = config if image is None else config | {"image_size": side}
    for name, bounds in _BOUNDS.items():
        if name in numbers and not (type(numbers[name]) is int and numbers[name] in bounds):
            raise BadManifest(f"the configuration of {ref.name} is invalid: {name} is {str(config[name])[:40]!r}")
    try:
        with torch.device("meta"):
            model: torch.nn.Module = family_named(ref.family).new_model(config)
    except BadInput:
        raise
    except Exception as error:  # an invalid field can make transformers raise any exception
        raise BadManifest(f"the configuration of {ref.name} is invalid: {error}"[:400]) from error
    return model


def _shared_tensors(
    ref: BackboneRef, folders: Sequence[Path | str], device: str, fetch: FetchWeights | None
) -> _Tensors:
    key = (ref.sha256, device)
    with _lock:
        tensors = _loaded.get(key)
    if tensors is not None:
        return tensors
    weights = find_weights(ref, folders, fetch)  # outside the lock: a download must not block other backbones
    with _lock:  # held while reading, so that two threads do not read the same file twice
        tensors = _loaded.get(key)
        if tensors is None:
            tensors = _loaded[key] = _read(weights, family_named(ref.family), device)
        return tensors


def _read(weights: Path, family: Family, device: str) -> _Tensors:
    """The tensors under their names in transformers 5; the hub's files were written by transformers 4."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = family.modern_tensors(load_file(weights))
    except (SafetensorError, ValueError) as error:
        raise BadWeights(f"{weights} is not a valid safetensors file: {error}") from error
    return _Tensors({name: tensor.to(device, torch.float32) for name, tensor in tensors.items()})


def _fill_computed_buffers(model: Any, device: str) -> None:
    # Buffers that are computed instead of stored (DINOv3's rotary frequencies) are still on the meta device here.
    import torch

    for module in model.modules():
        empty = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in empty:
            setattr(module, name, torch.empty_like(getattr(module, name), device=device))
        if empty:
            with torch.no_grad():
                model._init_weights(module)
