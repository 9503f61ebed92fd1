"""What PEFT itself computes with a LoRA, to compare it with what the bank computes.

PEFT puts its own layers on a tree of the backbone's linear modules under the names that the adapter's file uses, those
of transformers 4 too, by its own rules for targets, ranks and scales. Then these layers replace the backbone's.
Everything is computed in float64, so that machines differ in digits only that are rounded away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from adapters.backbone.families import Family
from adapters.backbone.features import pool
from adapters.bank.match_patterns import is_literal, patterns_of
from adapters.bank.peft_config import names_in_file, read_config, resolved
from adapters.bank.peft_fields import COMPUTED
from adapters.bundle import ADAPTER_CONFIG
from adapters.importing.layout_peft import PeftFolder, modules_of
from registry.errors import BadBundle, BadWeights, first_line
from registry.formats.counts import counted

MAX_KEYS = 200
"""Keys of rank and alpha patterns that PEFT itself matches; it compiles each again for each module where there are more
than Python remembers. Of more, the names that they match are given to it."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of some images, float64.

    Attributes:
        states: [N, T, D] as they enter the first block, and after each block; before the final layer norm.
        last: [N, T, D] after the last block and the final layer norm.
        prefix: the number of tokens before the patches.
    """

    states: tuple[torch.Tensor, ...]
    last: torch.Tensor
    prefix: int

    def pooled(self, pooling: str) -> torch.Tensor:
        """Features [N, width] of the last tokens."""
        return pool(self.last, pooling, self.prefix)


@torch.no_grad()
def tokens_of(
    folder: PeftFolder, model: Any, family: Family, pixels: torch.Tensor, seconds: float = math.inf
) -> Tokens:
    """What the backbone with PEFT's layers computes.

    Args:
        model: a module tree of the backbone that nothing else uses; it is changed, the weights that it shares are not.
        pixels: [N, 3, H, W].
        seconds: after which no further block is computed.

    Raises:
        BadWeights: when PEFT does not take the adapter.
        BadBundle: when it took longer than `seconds`.
    """
    _put_layers(folder, model, family)
    until = time.monotonic() + seconds
    seen: list[torch.Tensor] = []
    blocks = cast("nn.ModuleList", model.get_submodule(family.blocks))
    for number, block in enumerate(blocks):
        blocks[number] = _InDouble(block, seen, until)
    for name in ("embeddings", family.norm, family.rotary):
        if name is not None:
            model.get_submodule(name).double()
    try:
        last = model(pixel_values=pixels.double()).last_hidden_state
    except _TooSlow:
        count, _, side, _ = pixels.shape
        raise BadBundle(
            f"{folder.weights}: {counted(count, 'image')} of {side} x {side} pixels, from which recorded outputs are "
            f"made, could not be computed within {seconds:g} s",
            hint="nothing was created; import it on a faster machine, or with smaller images",
        ) from None
    return Tokens(tuple(seen), last, family.prefix_tokens(model.config.to_dict()))


class _TooSlow(Exception):
    """There is no time left for the next block."""


class _InDouble(nn.Module):
    """A block that computes in float64. Its copy in float64 exists only while it computes."""

    def __init__(self, block: nn.Module, seen: list[torch.Tensor], until: float) -> None:
        super().__init__()
        self._block = block
        self._seen = seen
        self._until = until

    def forward(self, tokens: torch.Tensor, *args: Any, **beside: Any) -> Any:
        """Note the tokens that enter the first block, and those that leave this one."""
        if time.monotonic() >= self._until:
            raise _TooSlow
        if not self._seen:
            self._seen.append(tokens)
        output: Any = deepcopy(self._block).double()(tokens, *args, **beside)
        self._seen.append(output if torch.is_tensor(output) else output[0])
        return output


class _Half(nn.Module):
    """One half of the outputs of a module that transformers 4 fused of two."""

    def __init__(self, fused: nn.Module, half: int) -> None:
        super().__init__()
        self._fused = fused
        self._half = half

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[…, in] -> […, out]."""
        return cast("torch.Tensor", self._fused(inputs).chunk(2, dim=-1)[self._half])


def _put_layers(folder: PeftFolder, model: nn.Module, family: Family) -> None:
    """Replace the linear modules of a backbone by PEFT's layers on them."""
    linears = family.linears_of(model)
    names = names_in_file(modules_of(folder.lora), family, linears)
    tree = nn.Module()
    try:
        for name in dict.fromkeys(names.values()):
            _plant(tree, name, _joined([linears[module] for module, its in names.items() if its == name]))
        adapted = get_peft_model(cast("Any", tree), _config(folder, family, linears))
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        if differing := expected.keys() ^ folder.lora.keys():
            raise BadWeights(f"{folder.weights}: PEFT itself would not read {sorted(differing)[0]!r} as this file says")
        set_peft_model_state_dict(adapted, dict(folder.lora))
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise BadWeights(
            f"{folder.weights}: PEFT itself does not take this adapter: {first_line(error, 300)}",
            hint="nothing was created",
        ) from error
    for module, name in names.items():
        layer, siblings = tree.get_submodule(name), [one for one, its in names.items() if its == name]
        place, _, end = module.rpartition(".")
        replacement = layer if len(siblings) == 1 else _Half(layer, siblings.index(module))
        model.get_submodule(place).register_module(end, replacement.eval())


def _config(folder: PeftFolder, family: Family, linears: Mapping[str, nn.Linear]) -> LoraConfig:
    """The folder's configuration, without patterns that could take for ever; see `adapters.bank.module_patterns`."""
    document = dict(folder.config)
    patterns = patterns_of(document)
    keys = len(patterns["rank_pattern"]) + len(patterns["alpha_pattern"])
    if not is_literal(patterns) or keys > MAX_KEYS:
        path = str(folder.weights.parent / ADAPTER_CONFIG)
        config = read_config({**document, "modules_to_save": None}, path, modules_of(folder.lora), family, linears)
        document = resolved(document, config, config.names)
    return LoraConfig(**{name: document[name] for name in COMPUTED if document.get(name) is not None})


def _plant(tree: nn.Module, name: str, linear: nn.Module) -> None:
    """Add a module to a tree under a dotted name."""
    *places, end = name.split(".")
    for place in places:
        if place not in dict(tree.named_children()):
            tree.add_module(place, nn.Module())
        tree = tree.get_submodule(place)
    tree.add_module(end, linear)


def _joined(linears: list[nn.Linear]) -> nn.Linear:
    """A linear module, or one with the outputs of two, one after another."""
    if len(linears) == 1:
        return linears[0]
    joined = nn.Linear(linears[0].in_features, sum(each.out_features for each in linears), linears[0].bias is not None)
    for name in ("weight", "bias"):
        if getattr(joined, name) is not None:
            getattr(joined, name).data = torch.cat([getattr(each, name).data for each in linears])
    return joined
