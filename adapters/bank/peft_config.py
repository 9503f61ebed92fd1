"""PEFT's `adapter_config.json`: what is accepted, and what it says about each module of a backbone.

PEFT matches its patterns with the names of modules in the model that it trained. Here they are matched with the same
names, by the same rules, and never rewritten: for an adapter of transformers 4 each module of the backbone is looked up
under its name in transformers 4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig

from adapters.backbone.families import Family
from adapters.bank.match_patterns import patterns_of
from adapters.bank.module_patterns import match_modules
from adapters.bank.peft_fields import COMPUTED, check_fields
from adapters.bank.peft_values import check_values
from registry.errors import BadWeights

MAX_NAME = 500
"""Characters of a module's name in an adapter's file; the longest of the known backbones have 60."""

_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class ModuleSettings:
    """The settings of one module: the LoRA's rank, its alpha, and the factor that its product is multiplied with."""

    rank: int
    alpha: float
    scale: float


@dataclass(frozen=True)
class PeftConfig:
    """A configuration, as it applies to a backbone.

    Attributes:
        names: each module of the backbone that an adapter may change -> its name in the adapter's file.
        targets: each module that the configuration puts a LoRA on -> its settings.
        is_dora: whether it is a DoRA, which also scales outputs.
    """

    names: Mapping[str, str]
    targets: Mapping[str, ModuleSettings]
    is_dora: bool


def read_config(
    document: Mapping[str, Any], path: str, stored: Iterable[str], family: Family, linears: Iterable[str]
) -> PeftConfig:
    """Read a configuration; only what this release supports is accepted.

    Args:
        path: its file, for messages.
        stored: the names of the modules in the weights file.
        linears: the backbone's modules that an adapter may change.

    Raises:
        BadWeights: when it is not a LoRA, its training changed the backbone's own weights, it needs a variant that this
            release does not support, or it has patterns that can't be matched in reasonable time.
        LoadFailed: when no process can be started to match them.
    """
    config = _checked(document, path)
    names = names_in_file(stored, family, linears)
    for name in names.values():
        if len(name) > MAX_NAME or not _NAME.fullmatch(name):
            raise BadWeights(f"{path}: its weights are of {name[:80]!r}, which does not fit the backbone")
    found = match_modules(patterns_of(document), list(names.values()), path)
    ranks, alphas = (list((pattern or {}).values()) for pattern in (config.rank_pattern, config.alpha_pattern))
    targets = {
        module: _settings(
            config, config.r if rank is None else ranks[rank], config.lora_alpha if alpha is None else alphas[alpha]
        )
        for module, (is_target, rank, alpha) in zip(names, found, strict=True)
        if is_target
    }
    return PeftConfig(names, targets, bool(config.use_dora))


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


def resolved(
    document: Mapping[str, Any], config: PeftConfig, written: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The same configuration without patterns: each module is listed with its own rank and alpha, so that the result
    does not depend on the order of patterns.

    Args:
        written: module -> the name to write; by default that of transformers 5.
    """
    names = written or {module: module for module in config.names}
    settings = {names[module]: one for module, one in config.targets.items()}
    if not settings:
        return dict(document)  # the check of the weights reports that it fits no module
    last_names = sorted({name.rpartition(".")[2] for name in settings})
    same = {name for name in names.values() if name.rpartition(".")[2] in last_names}
    return {
        **document,
        "target_modules": last_names if settings.keys() == same else sorted(settings),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {name: one.rank for name, one in settings.items() if one.rank != document["r"]},
        "alpha_pattern": {name: one.alpha for name, one in settings.items() if one.alpha != document["lora_alpha"]},
    }


def _settings(config: LoraConfig, rank: int, alpha: float) -> ModuleSettings:
    return ModuleSettings(int(rank), float(alpha), float(alpha) / (math.sqrt(rank) if config.use_rslora else rank))


def _checked(document: Mapping[str, Any], path: str) -> LoraConfig:
    check_fields(document, path)
    check_values(document, path)
    fields = {name: document[name] for name in COMPUTED if document.get(name) is not None}
    try:
        return LoraConfig(**fields)
    except (TypeError, ValueError) as error:
        raise BadWeights(f"{path}: {error}"[:500]) from error
