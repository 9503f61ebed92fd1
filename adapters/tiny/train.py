"""Train the two tiny backbones that ship with the demo. See README.md beside this file for what they are.

    python adapters/tiny/train.py digits dinov3 --epochs 180
    python adapters/tiny/train.py digits dinov3 --epochs 60 --start adapters/tiny/dinov3-tiny

`digits` is a folder that `registry.devstack.digits.write_digits` wrote.

Reads the train split only. Writes `<family>-tiny/{config.json, model.safetensors}` beside this file, updates
`digests.json` and prints the digest. One run takes minutes on one core. The bytes differ between machines, because
kernels round differently; therefore the weights are shipped and not trained by the demo.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.backbone.families import family_named
from adapters.backbone.preprocess import Preprocessing
from adapters.fitting.augment import affine, elastic
from adapters.fitting.image_folder import ImageFolder
from registry.formats import canonical

HERE = Path(__file__).parent
WIDTH = 96
SHAPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "patch_size": 7,
    "image_size": 28,
    "layer_norm_eps": 1e-6,
    "layerscale_value": 1.0,
}
OWN = {
    "dinov2": {"model_type": "dinov2", "mlp_ratio": 4, "hidden_act": "gelu"},
    "dinov3": {"model_type": "dinov3_vit", "intermediate_size": 384, "num_register_tokens": 2},
}


@dataclass(frozen=True)
class TrainOptions:
    """How to train: epochs, seed, the largest learning rate, and the augmentation of each batch."""

    epochs: int
    seed: int
    rate: float
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", type=Path)
    options.add_argument("family", choices=sorted(OWN))
    options.add_argument("--epochs", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--start", type=Path, help="a backbone's folder to continue from, with mild augmentation")
    options.add_argument("--out", type=Path, default=HERE)
    chosen = options.parse_args()
    write_backbone(chosen.data, chosen.family, chosen.out, epochs=chosen.epochs, seed=chosen.seed, start=chosen.start)


def write_backbone(data: Path, family_name: str, out: Path, *, epochs: int, seed: int, start: Path | None) -> None:
    """Train one backbone and write it: from scratch, or from the weights in `start` with a lower learning rate."""
    family = family_named(family_name)
    config = {**SHAPE, **OWN[family_name]}
    torch.manual_seed(seed)
    pixels, labels = _train_tensors(data, Preprocessing.of(family.preprocessing(config)))
    model = family.new_model(config)
    prefix = family.prefix_tokens(config)
    options = TrainOptions(epochs, seed, rate=2e-3, augment=_strong)
    if start is not None:
        model.load_state_dict(load_file(start / "model.safetensors"))
        options = TrainOptions(epochs, seed, rate=5e-4, augment=affine)
    _train(model, pixels, labels, prefix=prefix, options=options)
    digest = _save(model, config, out / f"{family_name}-tiny")
    digests = out / "digests.json"
    known = json.loads(digests.read_text()) if digests.exists() else {}
    digests.write_text(json.dumps({**known, f"{family_name}-tiny": digest}, indent=2, sort_keys=True) + "\n")
    sys.stdout.write(f"{family_name}-tiny {digest}\n")


def _train_tensors(data: Path, preprocessing: Preprocessing) -> tuple[torch.Tensor, torch.Tensor]:
    images = ImageFolder(data).split("train")
    names = sorted({(image.target, image.label) for image in images})
    squares = torch.from_numpy(np.stack([preprocessing.square(image.read()) for image in images]))
    return preprocessing.normalise(squares), torch.tensor([names.index((i.target, i.label)) for i in images])


def _strong(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return elastic(affine(images, random, strength=1.25), random)


def _train(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, *, prefix: int, options: TrainOptions) -> None:
    """Train the model and a linear head on CLS and the mean of the patches.

    Args:
        prefix: tokens before the patches.
    """
    epochs, rate, augment = options.epochs, options.rate, options.augment
    random = torch.Generator().manual_seed(options.seed)
    head = nn.Linear(2 * WIDTH, int(labels.max()) + 1)
    parameters = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    batch = 100
    steps = epochs * (len(pixels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(epochs):
        right = 0
        order = torch.randperm(len(pixels), generator=random)[: len(pixels) // batch * batch]
        for rows in order.split(batch):
            tokens = model(augment(pixels[rows], random)).last_hidden_state
            logits = head(torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], dim=1))
            loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            right += int((logits.argmax(1) == labels[rows]).sum())
        sys.stderr.write(f"epoch {epoch + 1} of {epochs}: {right / len(order):.4f} of augmented training images\n")


def _save(model: nn.Module, config: dict[str, object], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
    weights.chmod(0o644)
    return canonical.sha256(weights.read_bytes())


if __name__ == "__main__":
    main()
