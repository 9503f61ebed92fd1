"""Which features are taken from a backbone: after which block, and how the tokens are pooled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import BadManifest

if TYPE_CHECKING:
    import torch

POOLINGS = {"cls": 1, "mean": 1, "cls+mean": 2, "tokens": 1}
"""Ways to pool tokens, with the width in hidden sizes: the CLS token, the mean of the patches, both concatenated, and
the mean of all tokens (CLS, registers and patches)."""


@dataclass(frozen=True, order=True)
class FeatureSpec:
    """Which features a head or a detector takes from a backbone.

    Attributes:
        block: how many blocks the tokens passed, as in `hidden_states[block]` of transformers; 0: the embeddings.
        pooling: a key of `POOLINGS`.
        norm: whether the backbone's final layer norm is applied first, as it is to `last_hidden_state`.
    """

    block: int
    pooling: str
    norm: bool = True

    def width(self, hidden_size: int) -> int:
        """How many numbers they are for each image."""
        return POOLINGS[self.pooling] * hidden_size

    def document(self) -> dict[str, Any]:
        """Its JSON in a head's or a detector's document."""
        return {"block": self.block, "pooling": self.pooling, "norm": self.norm}

    @classmethod
    def of(cls, document: Any, depth: int, path: str) -> FeatureSpec:
        """Read an object as `document` gives it; the name of a pooling alone means the last block, normalised.

        Args:
            depth: the number of blocks of the backbone.
            path: its file, for messages.

        Raises:
            BadManifest: when a field is missing, unknown or out of bounds.
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
    """Pool the tokens of each image to features.

    Args:
        tokens: [N, T, D], hidden states.
        pooling: a key of `POOLINGS`.
        prefix: the number of tokens before the patches (CLS and registers).

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
