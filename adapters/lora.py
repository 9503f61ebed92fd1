"""LoRA through PEFT: which configurations are accepted, and how an adapter gets onto a backbone without surprises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from peft import LoraConfig, LoraModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer

from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BundleFiles
from registry.errors import BadWeights

BASE = "__base__"
"""PEFT's name for rows of a batch that go through the backbone alone."""

MAX_RANK = 1024
_USED = ("r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform")
# Fields that say where an adapter comes from or how it was trained; they do not change what it computes.
_IGNORED = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout", "peft_version",
    "revision", "runtime_config", "task_type", "peft_type", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "megatron_config", "megatron_core", "layers_pattern", "qalora_group_size", "ensure_weight_tying",
}  # fmt: skip

_row_names: ContextVar[list[str] | None] = ContextVar("row_names", default=None)


def peft_name(target: str) -> str:
    """What an adapter is called inside PEFT: `lora` would be a target's name, but PEFT trips over it."""
    return f"at_{target}"


def read_config(files: BundleFiles, folder: str) -> LoraConfig:
    """The LoRA configuration in a folder of a bundle; only what we compute is accepted, nothing is ignored silently.

    Raises:
        BadWeights: it is no LoRA, or it asks for a variant that this release does not compute.
    """
    path = f"{folder}/{ADAPTER_CONFIG}"
    document = files.document(path)
    if document.get("peft_type") != "LORA":
        raise BadWeights(f"{path}: peft_type {str(document.get('peft_type'))[:40]!r} is not LORA")
    plain = LoraConfig().to_dict()
    for name, value in document.items():
        if name not in _IGNORED and name not in _USED and value and value != plain.get(name):
            raise BadWeights(f"{path}: {name} = {str(value)[:80]} is not supported by this release")
    rank, modules = document.get("r"), document.get("target_modules")
    if not isinstance(rank, int) or not 0 < rank <= MAX_RANK:
        raise BadWeights(f"{path}: r is {str(rank)[:40]!r}, not a rank of at most {MAX_RANK}")
    if not isinstance(modules, list) or not modules or not all(isinstance(module, str) for module in modules):
        raise BadWeights(f"{path}: target_modules is not a list of module names")
    try:
        return LoraConfig(**{name: document[name] for name in _USED if document.get(name) is not None})
    except (TypeError, ValueError) as error:
        raise BadWeights(f"{path}: {error}") from error


def write_config(config: LoraConfig, backbone: str) -> dict[str, Any]:
    """The content of `adapter_config.json`, with the backbone's name where PEFT would write this machine's path."""
    document = config.to_dict()
    document |= {"base_model_name_or_path": backbone, "peft_type": "LORA", "inference_mode": True}
    document["target_modules"] = sorted(config.target_modules or ())
    return document


def attach(model: torch.nn.Module, adapters: Mapping[str, tuple[LoraConfig, Mapping[str, torch.Tensor]]]) -> None:
    """Put adapters on a backbone that has none: target -> its configuration and weights.

    Raises:
        BadWeights: weights do not fit. PEFT itself warns and leaves an adapter that changes nothing, for instance for
            one that was saved with transformers 4's module names.
    """
    tuner: LoraModel | None = None
    for target, (config, tensors) in adapters.items():
        name = peft_name(target)
        try:
            with torch.device("meta"):  # no random initial weights; PEFT's own switch for this patches torch globally
                if tuner is None:
                    tuner = LoraModel(model, config, adapter_name=name)
                else:
                    tuner.peft_config[name] = config
                    tuner.inject_adapter(model, name)
            result = set_peft_model_state_dict(model, dict(tensors), adapter_name=name, low_cpu_mem_usage=True)
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise BadWeights(f"the adapter of {target} does not fit the backbone: {error}"[:500]) from error
        missing = [key for key, parameter in model.named_parameters() if f".{name}." in key and parameter.is_meta]
        if missing or result.unexpected_keys:
            raise BadWeights(
                f"the adapter of {target} does not fit the backbone: {len(missing)} weights missing {missing[:1]}, "
                f"{len(result.unexpected_keys)} unexpected {sorted(result.unexpected_keys)[:1]}",
                hint="adapters saved with transformers 4 have other module names: import them, or fit again",
            )


def read_tensors(files: BundleFiles, folder: str, device: str) -> dict[str, torch.Tensor]:
    """The adapter's weights in a folder of a bundle.

    Raises:
        BadWeights: the file is truncated or malformed.
    """
    tensors = files.tensors(f"{folder}/{ADAPTER_WEIGHTS}")
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def weights_of(model: torch.nn.Module, target: str) -> dict[str, torch.Tensor]:
    """An adapter's weights, named as PEFT saves them."""
    state = get_peft_model_state_dict(model, adapter_name=peft_name(target), save_embedding_layers=False)
    return {f"base_model.model.{name}": tensor.detach() for name, tensor in state.items()}


def let_rows_choose(model: torch.nn.Module) -> None:
    """Make the model's LoRA layers obey `rows`. PEFT's own way adds and removes hooks around each call, which threads
    that share the model would see of each other.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.register_forward_pre_hook(_with_row_names, with_kwargs=True)


@contextmanager
def rows(targets: Sequence[str | None]) -> Iterator[None]:
    """In this thread, row i of each batch goes through the adapter of `targets[i]`, or through none for None."""
    token = _row_names.set([BASE if target is None else peft_name(target) for target in targets])
    try:
        yield
    finally:
        _row_names.reset(token)


def _with_row_names(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, "adapter_names": _row_names.get()}
