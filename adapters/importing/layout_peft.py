"""The layout of plain PEFT folders: the LoRA in transformers 5's names, and the classifier that may be in the same
file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.backbone.families import Family
from adapters.bank.peft_config import read_config, resolved
from adapters.bank.peft_fields import check_fields
from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from adapters.importing.untrusted_files import read_json, read_state
from registry.errors import BadBundle, BadWeights

WEIGHTS = (ADAPTER_WEIGHTS, "adapter_model.bin", "pytorch_model.bin", "adapter_model.pt")
"""The names of the weights file, in the order in which they are tried."""

_NOT_MADE = "nothing was created"
_PREFIX = "base_model.model."
_LORA = re.compile(r"(.+)\.(lora_[AB]|lora_magnitude_vector)(?:\.(?!(?:weight|bias)$)\w+)?(?:\.weight)?")
_CLASSIFIER = re.compile(r"(?:.*\.)?classifier\.(?:modules_to_save\.\w+\.)?(weight|bias)")
_SUPERSEDED = re.compile(r"(?:.*\.)?classifier\.original_module\.(?:weight|bias)")


@dataclass(frozen=True)
class PeftFolder:
    """The content of a PEFT folder.

    Attributes:
        config: the original `adapter_config.json`.
        lora: the LoRA's tensors, named as in the file, with PEFT's prefix and without an adapter's name.
        classifier: `weight` and perhaps `bias` of a classifier that was saved with it; empty without one.
        weights: the weights file.
    """

    config: Mapping[str, Any]
    lora: Mapping[str, torch.Tensor]
    classifier: Mapping[str, torch.Tensor]
    weights: Path


def checked_config(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json`, which may ask for a `classifier` that was saved beside the LoRA.

    Raises:
        BadBundle: when it is missing or malformed.
        BadWeights: when it is not that of a LoRA on an unchanged backbone.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    check_fields({**config, "modules_to_save": _other_modules(config)}, str(folder / ADAPTER_CONFIG))
    return config


def backbone_of(folder: Path) -> str | None:
    """The backbone that a PEFT folder names.

    Raises:
        BadBundle: when its configuration is missing or malformed.
    """
    name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None


def read_folder(folder: Path) -> PeftFolder:
    """Read a PEFT folder.

    Raises:
        BadBundle, BadWeights: when a file is missing or malformed, has weights of neither LoRA nor classifier, or its
            configuration is not that of a LoRA on an unchanged backbone.
    """
    config = checked_config(folder)
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise BadBundle(
            f"{folder} has {ADAPTER_CONFIG}, but not one of {', '.join(WEIGHTS)}", hint="nothing was created"
        )
    lora: dict[str, torch.Tensor] = {}
    classifier: dict[str, torch.Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in read_state(path).items():
        if part := _LORA.fullmatch(name):
            place, new = lora, _lora_name(*part.groups())
        elif head := _CLASSIFIER.fullmatch(name):
            place, new = classifier, head.group(1)
        elif _SUPERSEDED.fullmatch(name):
            continue
        else:
            raise BadWeights(
                f"{path} holds {name[:200]!r}, which is neither LoRA nor classifier",
                hint="nothing was created; save the adapter alone, with PEFT's save_pretrained",
            )
        if other := origins.get(new):
            raise BadWeights(
                f"{path} holds {other[:200]!r} and {name[:200]!r}, which have the same meaning", hint=_NOT_MADE
            )
        place[new], origins[new] = tensor, name
    if not lora:
        raise BadWeights(f"{path} has no LoRA", hint="nothing was created")
    return PeftFolder(config, lora, classifier, path)


def modern_config(folder: PeftFolder, family: Family, linears: Iterable[str], backbone: str) -> dict[str, Any]:
    """`adapter_config.json` with the given backbone's name and with the module names of transformers 5; other fields
    stay unchanged.

    Args:
        linears: the backbone's modules that a LoRA may change.

    Raises:
        BadWeights: when it needs what this release does not support.
    """
    config = dict(folder.config)
    if folder.classifier:
        config["modules_to_save"] = _other_modules(config)  # the classifier becomes the head
    path = str(folder.weights.parent / ADAPTER_CONFIG)
    meant = read_config(config, path, modules_of(folder.lora), family, linears)
    return resolved(config, meant) | {"base_model_name_or_path": backbone, "inference_mode": True}


def modern_tensors(folder: PeftFolder, family: Family) -> dict[str, torch.Tensor]:
    """The LoRA's tensors under their names in transformers 5.

    Raises:
        BadWeights: when a fused matrix can't be split.
    """
    try:
        return family.modern_tensors(folder.lora)
    except (ValueError, RuntimeError, IndexError) as error:
        raise BadWeights(
            f"{folder.weights} can't be converted to the names of transformers 5: {error}"[:400]
        ) from error


def modules_of(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """The modules that a LoRA's tensors belong to."""
    return {name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in tensors}


def _other_modules(config: Mapping[str, Any]) -> Any:
    """The modules that were saved whole, but for the classifier."""
    modules = config.get("modules_to_save")
    return None if modules == ["classifier"] else modules


def _lora_name(module: str, part: str) -> str:
    # `lora_A.default.weight` in a model's state, `lora_A.weight` in a file that PEFT saved.
    suffix = "" if part == "lora_magnitude_vector" else ".weight"
    return f"{_PREFIX}{module.removeprefix(_PREFIX)}.{part}{suffix}"
