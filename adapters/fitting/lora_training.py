"""Train a LoRA and its head on one target's images, with PEFT, epoch by epoch; an epoch that is done is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional

from adapters.answer.features import pool
from adapters.answer.heads import Features, Head
from adapters.backbone import backbones
from adapters.backbone.backbones import FetchBlob
from adapters.backbone.families import family_named
from adapters.backbone.preprocess import Preprocessing
from adapters.bank import lora
from adapters.fitting.augment import affine
from adapters.fitting.recipe import Recipe
from adapters.fitting.regression import with_tensors
from adapters.fitting.workplace import Checkpoint
from registry.errors import BadInput
from registry.versions.manifest import BackboneRef

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done (a word), how much of it is done, and of how much."""

BATCH = 50
RATE, RATE_WIDTH = 4e-3, 96
"""Adam's first learning rate at this width of the backbone. It falls as the width grows beyond it, as the weights that
a step changes become more: Yang et al., "Tensor Programs V", 2021, table 3."""

_ADAPTER = "fitted"


@dataclass(frozen=True)
class Lesson:
    """What a LoRA is trained on.

    Attributes:
        target: for messages.
        backbone, folders, fetch: as for `adapters.backbone.backbones.new_model`.
        squares: [N, H, W, 3] uint8.
        classes: [N].
        random: of the order of images and their augmentation; it moves on.
    """

    target: str
    backbone: BackboneRef
    folders: tuple[Path | str, ...]
    fetch: FetchBlob | None
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


def train_lora(lesson: Lesson, recipe: Recipe, start: Head, checkpoint: Checkpoint, progress: Progress) -> Trained:
    """Train from the head's start, or from where an earlier training of the same lesson was interrupted.

    Raises:
        BadInput: the numbers ran away.
        BackboneNotFound, CorruptBlob, BadWeights: as `adapters.backbone.backbones.new_model`.
    """
    training = _Training.begin(lesson, recipe, start)
    done, state = checkpoint.read()
    if done:
        training.restore(state)
    steps = -(-len(lesson.squares) // BATCH)
    for epoch in range(done, recipe.epochs):
        for step, rows in enumerate(torch.randperm(len(lesson.squares), generator=lesson.random).split(BATCH)):
            progress(lesson.target, epoch * steps + step, recipe.epochs * steps)
            training.step(rows, (epoch * steps + step) / (recipe.epochs * steps))
        training.check(epoch)
        checkpoint.write(epoch + 1, training.state())
    progress(lesson.target, recipe.epochs * steps, recipe.epochs * steps)
    return training.trained()


@dataclass(frozen=True)
class _Training:
    lesson: Lesson
    config: LoraConfig
    model: nn.Module
    head: Head
    tensors: dict[str, torch.Tensor]
    optimiser: torch.optim.AdamW
    rate: float

    @classmethod
    def begin(cls, lesson: Lesson, recipe: Recipe, start: Head) -> _Training:
        ref, device = lesson.backbone, recipe.device
        model = backbones.new_model(ref, folders=lesson.folders, device=device, fetch=lesson.fetch)
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=_number(recipe.alpha),  # type: ignore[arg-type]  PEFT computes with any number
            target_modules=list(recipe.modules),
            use_dora=recipe.method == "dora",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(lesson.random.initial_seed())
            inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
        tensors = {f"lora.{name}": parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        own = {name: tensor.to(device).clone().requires_grad_() for name, tensor in start.tensors().items()}
        tensors |= {f"head.{name}": tensor for name, tensor in own.items()}
        rate = RATE * min(1.0, RATE_WIDTH / int(ref.config["hidden_size"]))
        optimiser = torch.optim.AdamW(list(tensors.values()), lr=rate, weight_decay=1e-2)
        return cls(lesson, config, model, with_tensors(start, own), tensors, optimiser, rate)

    def step(self, rows: torch.Tensor, share_done: float) -> None:
        """Learn from some images."""
        lesson, device = self.lesson, next(iter(self.tensors.values())).device
        self.optimiser.param_groups[0]["lr"] = self.rate * (1 + math.cos(math.pi * share_done)) / 2
        pixels = affine(lesson.preprocessing.normalise(lesson.squares[rows]), lesson.random).to(device)
        logits = self.head(self._features(pixels)).logits
        loss = functional.cross_entropy(logits, lesson.classes[rows].to(device))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def check(self, epoch: int) -> None:
        """Whether there are still numbers."""
        if not all(bool(tensor.isfinite().all()) for tensor in self.tensors.values()):
            raise BadInput(
                f"the training of {self.lesson.target} ran away in epoch {epoch + 1}: its weights are no numbers",
                hint="try a smaller --alpha or --rank",
            )

    def state(self) -> dict[str, torch.Tensor]:
        """All that the next epoch depends on."""
        moments = self.optimiser.state_dict()["state"]
        kept = {f"adam.{row}.{name}": tensor for row, own in moments.items() for name, tensor in own.items()}
        return {**self.tensors, **kept, "random": self.lesson.random.get_state()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to where `state` was taken."""
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in state.items():
            if key.startswith("adam."):
                _, row, name = key.split(".")
                # A number by itself comes back from its file as a list of one.
                moments.setdefault(int(row), {})[name] = tensor.reshape(()) if name == "step" else tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.lesson.random.set_state(state["random"])

    def trained(self) -> Trained:
        """What has been learnt by now, on the CPU."""
        own = {name: tensor.detach().cpu().clone() for name, tensor in self.head.tensors().items()}
        return Trained(self.config, lora.weights_of(self.model, _ADAPTER), with_tensors(self.head, own))

    def _features(self, pixels: torch.Tensor) -> Features:
        """With gradients, which the runtime that serves does without; the tests hold the two against each other."""
        family, ref = family_named(self.lesson.backbone.family), self.lesson.backbone
        states = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        norm, prefix = self.model.get_submodule(family.norm), family.prefix_tokens(ref.config)
        return {
            tap: pool(norm(states[tap.block]) if tap.norm else states[tap.block], tap.pooling, prefix)
            for tap in self.head.taps
        }


def _number(alpha: float | None) -> float | None:
    """8, not 8.0, where that is meant: it stands in a file that others read."""
    return int(alpha) if alpha is not None and alpha.is_integer() else alpha
