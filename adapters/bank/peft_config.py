"""PEFT's `adapter_config.json`: what is accepted, and what it says about each module of a backbone.

PEFT matches its patterns, which may be regular expressions, with the names of modules in the model that it trained.
Here they are matched with the same names, by PEFT's own functions, and never rewritten: for an adapter of
transformers 4 each module of the backbone is looked up under its name in transformers 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from adapters.backbone.families import Family
from registry.errors import BadWeights

MAX_RANK = 1024
MAX_EXPRESSION = 2000
MAX_REPETITIONS = 4
MAX_PATTERNS = 10_000

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
_ALL_LINEAR = "all-linear"
_REPETITION = re.compile(r"(?<!\\)[*+{]")
_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")


@dataclass(frozen=True)
class ModuleSettings:
    """The settings of one module: the LoRA's rank, its alpha, and the factor that its product is multiplied with."""

    rank: int
    alpha: float
    scale: float


@dataclass(frozen=True)
class PeftConfig:
    """A configuration, and the names of the backbone's modules in it.

    Attributes:
        names: each module of the backbone that an adapter may change -> its name in the adapter's file.
        is_dora: whether it is a DoRA, which also scales outputs.
    """

    names: Mapping[str, str]
    is_dora: bool
    _config: LoraConfig

    @property
    def targets(self) -> set[str]:
        """The modules of the backbone that the configuration puts a LoRA on."""
        if self._config.target_modules == _ALL_LINEAR:
            return set(self.names)
        return {module for module, name in self.names.items() if check_target_module_exists(self._config, name)}

    def settings(self, module: str) -> ModuleSettings:
        """The settings of a module of the backbone."""
        config, name = self._config, self.names[module]
        ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
        rank = int(ranks.get(get_pattern_key(list(ranks), name), config.r))
        alpha = float(alphas.get(get_pattern_key(list(alphas), name), config.lora_alpha))
        return ModuleSettings(rank, alpha, alpha / (math.sqrt(rank) if config.use_rslora else rank))


def read_config(
    document: Mapping[str, Any], path: str, stored: Iterable[str], family: Family, linears: Iterable[str]
) -> PeftConfig:
    """Read a configuration; only what this release supports is accepted.

    Args:
        path: its file, for messages.
        stored: the names of the modules in the weights file.
        linears: the backbone's modules that an adapter may change.

    Raises:
        BadWeights: when it is not a LoRA, or needs a variant that this release does not support.
    """
    config = _checked(document, path)
    return PeftConfig(names_in_file(stored, family, linears), bool(config.use_dora), config)


def names_in_file(stored: Iterable[str], family: Family, linears: Iterable[str]) -> dict[str, str]:
    """The name of each module of a backbone in an adapter's file, also of modules that the file does not contain.

    Args:
        stored: names of modules in the file, all from the same release of transformers.
    """
    prefix, is_legacy = "", False
    for name in stored:
        modern = family.modern_name(name)
        legacy = family.legacy_name(modern)
        if name.endswith(legacy) and (legacy != modern or family.is_fused(name)):
            prefix, is_legacy = name.removesuffix(legacy), True
        elif name.endswith(modern):
            prefix = name.removesuffix(modern)
    return {module: prefix + (family.legacy_name(module) if is_legacy else module) for module in linears}


def resolved(document: Mapping[str, Any], config: PeftConfig) -> dict[str, Any]:
    """The same configuration with transformers 5's names and without patterns: each module is listed with its own rank
    and alpha, so that the result does not depend on names or the order of patterns.
    """
    modules = sorted(config.targets)
    if not modules:
        return dict(document)  # the check of the weights reports that it fits no module
    last_names = sorted({module.rpartition(".")[2] for module in modules})
    same = sorted(module for module in config.names if module.rpartition(".")[2] in last_names)
    settings = {module: config.settings(module) for module in modules}
    return {
        **document,
        "target_modules": last_names if modules == same else modules,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {name: one.rank for name, one in settings.items() if one.rank != document["r"]},
        "alpha_pattern": {name: one.alpha for name, one in settings.items() if one.alpha != document["lora_alpha"]},
    }


def _checked(document: Mapping[str, Any], path: str) -> LoraConfig:
    if document.get("peft_type") != "LORA":
        raise BadWeights(f"{path}: peft_type {str(document.get('peft_type'))[:40]!r} is not LORA")
    plain = LoraConfig().to_dict()
    for name, value in document.items():
        if name not in _IGNORED and name not in _USED and value and value != plain.get(name):
            raise BadWeights(f"{path}: {name} = {str(value)[:80]} is not supported by this release")
    _check_rank(document.get("r"), path)
    _check_number("lora_alpha", document.get("lora_alpha"), path)
    for name in ("use_rslora", "use_dora"):
        if not isinstance(document.get(name, False), bool | None):
            raise BadWeights(f"{path}: {name} is {str(document[name])[:40]!r}, neither true nor false")
    for rank in _pattern(document, "rank_pattern", path).values():
        _check_rank(rank, path)
    for alpha in _pattern(document, "alpha_pattern", path).values():
        _check_number("alpha_pattern", alpha, path)
    _check_layers(document.get("layers_to_transform"), path)
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        _check_names(name, document.get(name), path)
    if not document.get("target_modules"):
        raise BadWeights(f"{path}: target_modules names no module")
    fields = {name: document[name] for name in _USED if document.get(name) is not None}
    try:
        return LoraConfig(**fields)
    except (TypeError, ValueError) as error:
        raise BadWeights(f"{path}: {error}"[:500]) from error


def _check_rank(rank: object, path: str) -> None:
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= MAX_RANK:
        raise BadWeights(f"{path}: r is {str(rank)[:40]!r}, not a rank of at most {MAX_RANK}")


def _check_number(name: str, value: object, path: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
        raise BadWeights(f"{path}: {name} is {str(value)[:40]!r}, not a number of reasonable size")


def _check_layers(layers: object, path: str) -> None:
    numbers = layers if isinstance(layers, list) else [0 if layers is None else layers]
    if not all(type(number) is int for number in numbers):
        raise BadWeights(f"{path}: layers_to_transform is not a list of numbers")


def _check_names(field: str, value: object, path: str) -> None:
    """Check names of modules; a single string is a regular expression."""
    if value is None or value == _ALL_LINEAR:
        return
    if isinstance(value, str):
        _check_expression(value, path)
    elif not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise BadWeights(f"{path}: {field} is not a list of names")
    elif field == "layers_pattern":
        for name in value:
            _check_expression(name, path)


def _pattern(document: Mapping[str, Any], name: str, path: str) -> dict[str, Any]:
    pattern = document.get(name) or {}
    if not isinstance(pattern, dict) or len(pattern) > MAX_PATTERNS:
        raise BadWeights(f"{path}: {name} is not an object of numbers")
    for key in pattern:
        _check_expression(key, path)
    return pattern


def _check_expression(text: str, path: str) -> None:
    # Matching takes exponential time for repeated groups, and polynomial time in the number of other repetitions.
    costly = _REPEATED_GROUP.search(text) or len(_REPETITION.findall(text)) > MAX_REPETITIONS
    if len(text) > MAX_EXPRESSION or costly:
        raise BadWeights(f"{path}: {text[:80]!r} is too long or too costly as a regular expression")
    try:
        re.compile(text)
    except (re.error, OverflowError) as error:
        raise BadWeights(f"{path}: {text[:80]!r} is not a regular expression: {error}") from error
