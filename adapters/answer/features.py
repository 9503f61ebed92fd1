"""Where features are taken from a backbone: after which block, pooled how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import BadManifest

if TYPE_CHECKING:
    import torch

POOLINGS = {"cls": 1, "mean": 1, "cls+mean": 2, "tokens": 1}
"""Ways to pool tokens, with the width in hidden sizes: the CLS token, the mean of the patches, both beside each other,
and the mean of all tokens (CLS, registers and patches)."""


@dataclass(frozen=True, order=True)
class Tap:
    """A place in a backbone that features are taken from.

    Attributes:
        block: how many blocks the tokens went through; 0 are the embeddings. As `hidden_states[block]` of transformers.
        pooling: a key of `POOLINGS`.
        norm: whether the backbone's final layer norm is applied first, as it is to `last_hidden_state`.
    """

    block: int
    pooling: str
    norm: bool = True

    def width(self, hidden_size: int) -> int:
        """Numbers per image."""
        return POOLINGS[self.pooling] * hidden_size

    def document(self) -> dict[str, Any]:
        """As it stands in a head's or a detector's JSON."""
        return {"block": self.block, "pooling": self.pooling, "norm": self.norm}

    @classmethod
    def of(cls, document: Any, depth: int, path: str) -> Tap:
        """Read it: an object as `document` gives, or the name of a pooling alone for the last block, normalised.

        Args:
            depth: the backbone's blocks.
            path: the file that it stands in, for messages.

        Raises:
            BadManifest: a field is missing, unknown or out of bounds.
        """
        if isinstance(document, str):
            document = {"block": depth, "pooling": document, "norm": True}
        if not isinstance(document, dict) or document.keys() != {"block", "pooling", "norm"}:
            raise BadManifest(f"{path}: features {str(document)[:100]} are not known to this release")
        block, pooling, norm = document["block"], document["pooling"], document["norm"]
        if not isinstance(pooling, str) or pooling not in POOLINGS or not isinstance(norm, bool):
            raise BadManifest(f"{path}: features {str(document)[:100]} are not known to this release")
        if not isinstance(block, int) or isinstance(block, bool) or not 0 <= block <= depth:
            raise BadManifest(f"{path}: features of block {str(block)[:20]}, but the backbone has {depth}")
        return cls(block, pooling, norm)


def pool(tokens: torch.Tensor, pooling: str, prefix: int) -> torch.Tensor:
    """Features of each image.

    Args:
        tokens: [N, T, D], hidden states.
        pooling: a key of `POOLINGS`.
        prefix: tokens before the patches (CLS and registers).

    Returns:
        [N, D], or [N, 2 D] for `cls+mean`.
    """
    import torch

    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "tokens":
        return tokens.mean(dim=1)
    patches = tokens[:, prefix:].mean(dim=1)
    return patches if pooling == "mean" else torch.cat([tokens[:, 0], patches], dim=1)
