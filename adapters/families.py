"""The backbone families: one row each, everything in which DINOv2 and DINOv3 differ for us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry.errors import BadInput

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 224
"""Side of the input in pixels where the released configuration asks for more (DINOv2's says 518)."""


@dataclass(frozen=True)
class Family:
    """What is particular to one family.

    Attributes:
        name: `dinov2` or `dinov3`, as in `BackboneRef.family`.
        model_class, config_class: names in `transformers`.
        model_type: what `config.json` calls it.
        lora_targets: the modules that a LoRA changes (names in transformers 5).
        interpolation: how its processor resizes, `bicubic` or `bilinear`.
    """

    name: str
    model_class: str
    config_class: str
    model_type: str
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    interpolation: str = "bicubic"

    def new_config(self, config: dict[str, Any]) -> Any:
        """The transformers configuration object of a `config.json`."""
        import transformers

        return getattr(transformers, self.config_class).from_dict(dict(config))

    def new_model(self, config: dict[str, Any]) -> Any:
        """A fresh module tree; under `torch.device("meta")` it costs no memory."""
        import transformers

        return getattr(transformers, self.model_class)(self.new_config(config))

    def prefix_tokens(self, config: dict[str, Any]) -> int:
        """Tokens before the patches: CLS and the registers."""
        return 1 + int(config.get("num_register_tokens", 0))

    def preprocessing(self, config: dict[str, Any]) -> dict[str, Any]:
        """What `config/preprocessing.json` holds; see `adapters.preprocess.Preprocessing`."""
        patch = int(config.get("patch_size", 16))
        side = min(int(config.get("image_size", MAX_SIDE)), MAX_SIDE) // patch * patch
        return {
            "resize": side,
            "crop": side,
            "interpolation": self.interpolation,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        }


FAMILIES = {
    family.name: family
    for family in (
        Family("dinov2", "Dinov2Model", "Dinov2Config", "dinov2"),
        Family("dinov3", "DINOv3ViTModel", "DINOv3ViTConfig", "dinov3_vit", interpolation="bilinear"),
    )
}


def family_named(name: str) -> Family:
    """The row of a family.

    Raises:
        BadInput: there is none of this name.
    """
    if name not in FAMILIES:
        raise BadInput(f"{name[:80]!r} is not a backbone family", hint=f"known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of_config(config: dict[str, Any]) -> Family:
    """The family that a `config.json` belongs to, by its `model_type`.

    Raises:
        BadInput: it is neither.
    """
    for family in FAMILIES.values():
        if config.get("model_type") == family.model_type:
            return family
    raise BadInput(
        f"config.json has model_type {str(config.get('model_type'))[:80]!r}, which is no known backbone",
        hint=f"known are {', '.join(family.model_type for family in FAMILIES.values())}",
    )
