"""Train a LoRA and its head on one target's images with PEFT; the state is saved after each epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional

from adapters.answer.heads import Features, Head
from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.backbone.features import pool
from adapters.backbone.locate import FetchWeights
from adapters.backbone.preprocess import Preprocessing
from adapters.bank.peft_files import weights_of
from adapters.fitting.augment import affine
from adapters.fitting.recipe import Recipe
from adapters.fitting.regression import with_tensors
from adapters.fitting.work_folder import Checkpoint
from registry.errors import BadInput
from registry.versions.manifest import BackboneRef

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the current step (a word), how much of it is done, and the total."""

BATCH = 50
RATE, RATE_WIDTH = 4e-3, 96
"""Adam's initial learning rate, for a backbone of this width. It is lower for wider backbones, because a step then
changes more weights: Yang et al., "Tensor Programs V", 2021, table 3."""

_ADAPTER = "fitted"


@dataclass(frozen=True)
class TrainingInputs:
    """The data and the backbone that a LoRA is trained with.

    Attributes:
        target: for messages.
        backbone, folders, fetch: as for `adapters.backbone.build.new_model`.
        squares: [N, H, W, 3] uint8.
        classes: [N].
        random: the generator for the order of images and their augmentation.
    """

    target: str
    backbone: BackboneRef
    folders: tuple[Path | str, ...]
    fetch: FetchWeights | None
    preprocessing: Preprocessing
    squares: torch.Tensor
    classes: torch.Tensor
    random: torch.Generator


@dataclass(frozen=True)
class Trained:
    """A LoRA as PEFT describes and saves it, and its head."""

    config: LoraConfig
    weights: Mapping[str, torch.Tensor]
    head: Head


def train_lora(
    inputs: TrainingInputs, recipe: Recipe, start: Head, checkpoint: Checkpoint, progress: Progress
) -> Trained:
    """Train from the starting head, or from the checkpoint of an interrupted training with the same inputs.

    Raises:
        BadInput: when the training diverged.
        BackboneNotFound, CorruptBlob, BadWeights: when the backbone is missing or damaged.
    """
    training = _Training.begin(inputs, recipe, start)
    done, state = checkpoint.read()
    if done:
        training.restore(state)
    steps = -(-len(inputs.squares) // BATCH)
    for epoch in range(done, recipe.epochs):
        for step, rows in enumerate(torch.randperm(len(inputs.squares), generator=inputs.random).split(BATCH)):
            progress(inputs.target, epoch * steps + step, recipe.epochs * steps)
            training.step(rows, (epoch * steps + step) / (recipe.epochs * steps))
        training.check(epoch)
        checkpoint.write(epoch + 1, training.state())
    progress(inputs.target, recipe.epochs * steps, recipe.epochs * steps)
    return training.trained()


@dataclass(frozen=True)
class _Training:
    inputs: TrainingInputs
    config: LoraConfig
    model: nn.Module
    head: Head
    tensors: dict[str, torch.Tensor]
    optimiser: torch.optim.AdamW
    rate: float

    @classmethod
    def begin(cls, inputs: TrainingInputs, recipe: Recipe, start: Head) -> _Training:
        ref, device = inputs.backbone, recipe.device
        model = new_model(ref, folders=inputs.folders, device=device, fetch=inputs.fetch)
        alpha: Any = _number(recipe.alpha)  # PEFT declares an integer, but computes with any number
        modules, use_dora = list(recipe.modules), recipe.method == "dora"
        config = LoraConfig(r=recipe.rank, lora_alpha=alpha, target_modules=modules, use_dora=use_dora)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(inputs.random.initial_seed())
            inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
        trainable = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
        tensors: dict[str, torch.Tensor] = {f"lora.{name}": parameter for name, parameter in trainable}
        own = {name: tensor.to(device).clone().requires_grad_() for name, tensor in start.tensors().items()}
        tensors |= {f"head.{name}": tensor for name, tensor in own.items()}
        rate = RATE * min(1.0, RATE_WIDTH / int(ref.config["hidden_size"]))
        optimiser = torch.optim.AdamW(list(tensors.values()), lr=rate, weight_decay=1e-2)
        return cls(inputs, config, model, with_tensors(start, own), tensors, optimiser, rate)

    def step(self, rows: torch.Tensor, share_done: float) -> None:
        """Train on some images."""
        inputs, device = self.inputs, next(iter(self.tensors.values())).device
        self.optimiser.param_groups[0]["lr"] = self.rate * (1 + math.cos(math.pi * share_done)) / 2
        pixels = affine(inputs.preprocessing.normalise(inputs.squares[rows]), inputs.random).to(device)
        logits = self.head(self._features(pixels)).logits
        loss = functional.cross_entropy(logits, inputs.classes[rows].to(device))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def check(self, epoch: int) -> None:
        """Check that all weights are finite."""
        if not all(bool(tensor.isfinite().all()) for tensor in self.tensors.values()):
            raise BadInput(
                f"the training of {self.inputs.target} diverged in epoch {epoch + 1}: its weights are not finite",
                hint="try a smaller --alpha or --rank",
            )

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next epoch depends on."""
        moments = self.optimiser.state_dict()["state"]
        kept = {f"adam.{row}.{name}": tensor for row, own in moments.items() for name, tensor in own.items()}
        return {**self.tensors, **kept, "random": self.inputs.random.get_state()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from a saved state."""
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in state.items():
            if key.startswith("adam."):
                _, row, name = key.split(".")
                # A scalar is read back as a tensor with one element.
                moments.setdefault(int(row), {})[name] = tensor.reshape(()) if name == "step" else tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.inputs.random.set_state(state["random"])

    def trained(self) -> Trained:
        """The current weights, on the CPU."""
        own = {name: tensor.detach().cpu().clone() for name, tensor in self.head.tensors().items()}
        return Trained(self.config, weights_of(self.model, _ADAPTER), with_tensors(self.head, own))

    def _features(self, pixels: torch.Tensor) -> Features:
        """The features with gradients, computed without the runtime; tests check that both give the same."""
        family, ref = family_named(self.inputs.backbone.family), self.inputs.backbone
        states = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        norm, prefix = self.model.get_submodule(family.norm), family.prefix_tokens(ref.config)
        return {
            spec: pool(norm(states[spec.block]) if spec.norm else states[spec.block], spec.pooling, prefix)
            for spec in self.head.feature_specs
        }


def _number(alpha: float | None) -> float | None:
    """8 instead of 8.0: the number is written into a file that other programs read."""
    return int(alpha) if alpha is not None and alpha.is_integer() else alpha
