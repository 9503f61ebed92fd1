"""Writing the parts of an adapter that are made of torch tensors: the same bytes for the same content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from adapters import bundle


class Part(Protocol):
    """A head or a detector."""

    def document(self) -> dict[str, Any]:
        """What its JSON file holds."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """What its safetensors file holds."""


def write_part(folder: Path, name: str, part: Part) -> None:
    """Write `<name>.json` and `<name>.safetensors` into a folder of a bundle."""
    bundle.write_document(folder / f"{name}.json", part.document())
    write_tensors(folder / f"{name}.safetensors", part.tensors())


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file of tensors, wherever they are."""
    bundle.write_tensors(path, {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})
