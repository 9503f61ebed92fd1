"""The backbone families: one table row each, with everything in which DINOv2 and DINOv3 differ here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from registry.errors import BadInput

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 224
"""Side of the input in pixels where the released configuration asks for more (DINOv2's says 518)."""

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("fc1", "fc2", "gate_proj", "up_proj", "down_proj")
_PEFT_PREFIX = "base_model.model."
_FUSED = "weights_in"
_HALVES = ("gate_proj", "up_proj")
# transformers 4 stored the gate and the up projection of DINOv2's SwiGLU in one matrix, the gate's rows first.

_DINOV2_RENAMES = (
    (r"^(?:dinov2|dinov2_with_registers|backbone)\.", ""),
    (r"\battention\.attention\.query\b", "attention.q_proj"),
    (r"\battention\.attention\.key\b", "attention.k_proj"),
    (r"\battention\.attention\.value\b", "attention.v_proj"),
    (r"\battention\.output\.dense\b", "attention.o_proj"),
    (r"\bweights_out\b", "down_proj"),
)
_DINOV3_RENAMES = (
    (r"^(?:dinov3_vit|backbone)\.", ""),
    (r"(?<!model\.)\blayer\.(?=\d)", "model.layer."),
)
_DINOV2_LEGACY = (
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.gate_proj", f"mlp.{_FUSED}"),
    ("mlp.up_proj", f"mlp.{_FUSED}"),
    ("mlp.down_proj", "mlp.weights_out"),
)
_DINOV3_LEGACY = (("model.layer.", "layer."),)


@dataclass(frozen=True)
class Family:
    """The properties of one family.

    Attributes:
        name: as in `BackboneRef.family`.
        model_class, config_class: names in `transformers`.
        model_type: its name in `config.json`.
        blocks, norm: names of the transformer blocks and of the final layer norm in the model.
        rotary: name of the rotary position embeddings, None if it has none.
        renames: patterns that turn transformers 4's names of weights into those of transformers 5.
        legacy: substrings of transformers 5's names of linear modules, and the same in transformers 4.
        lora_targets: the modules that `fit` puts a LoRA on.
        linears: the modules of a block that an adapter may change.
        interpolation: how its processor resizes, `bicubic` or `bilinear`.
        published_resize: to what its published processor resizes an image before it takes `MAX_SIDE` pixels: the
            shortest side, or both sides if `stretches` is true (preprocessor_config.json of facebook/dinov2-base and
            facebook/dinov3-vitb16-pretrain-lvd1689m).
    """

    name: str
    model_class: str
    config_class: str
    model_type: str
    blocks: str
    norm: str
    rotary: str | None
    renames: tuple[tuple[str, str], ...]
    legacy: tuple[tuple[str, str], ...]
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    linears: tuple[str, ...] = _ATTENTION + _MLP
    interpolation: str = "bicubic"
    published_resize: int = 256
    stretches: bool = False

    def new_config(self, config: dict[str, Any]) -> Any:
        """The transformers configuration object of a `config.json`.

        Only the family's own fields are passed on: of those that all models share, some make transformers fill
        memory (`num_labels`) or fetch code from the hub (`attn_implementation`), and none changes a backbone.
        """
        import transformers

        config_class = getattr(transformers, self.config_class)
        own = {name for name in config_class.__annotations__ if not name.startswith("_")}
        return config_class.from_dict({name: value for name, value in config.items() if name in own})

    def new_model(self, config: dict[str, Any]) -> Any:
        """Make a new model; under `torch.device("meta")` it takes no memory."""
        import transformers

        return getattr(transformers, self.model_class)(self.new_config(config))

    def linears_of(self, model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
        """The modules of a model that an adapter may change, by name."""
        inside = re.compile(rf"{re.escape(self.blocks)}\.\d+\.(?:\w+\.)*(?:{'|'.join(self.linears)})")
        found = ((name, module) for name, module in model.named_modules() if inside.fullmatch(name))
        return {name: cast("torch.nn.Linear", module) for name, module in found}

    def modern_name(self, name: str) -> str:
        """The name of a weight or a module in transformers 5; unchanged if it is that already."""
        prefix = _PEFT_PREFIX if name.startswith(_PEFT_PREFIX) else ""
        bare = name.removeprefix(_PEFT_PREFIX)
        for pattern, replacement in self.renames:
            bare = re.sub(pattern, replacement, bare)
        return prefix + bare

    def is_fused(self, module: str) -> bool:
        """Whether a module of transformers 4 is two in transformers 5."""
        return module.rpartition(".")[2] == _FUSED

    def modules_of(self, module: str) -> tuple[str, ...]:
        """The modules of transformers 5 that correspond to a module: itself, or two if it was fused."""
        stem = module.removesuffix(_FUSED)
        return tuple(stem + half for half in _HALVES) if self.is_fused(module) else (module,)

    def legacy_name(self, module: str) -> str:
        """The name in transformers 4 of a linear module of transformers 5."""
        for new, old in self.legacy:
            module = module.replace(new, old)
        return module

    def modern_tensors(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights of a backbone or an adapter under their names in transformers 5.

        A matrix that transformers 4 fused is split in two; for a LoRA on it both halves share A.

        Raises:
            ValueError: when two have the same name in transformers 5, or a matrix can't be split.
        """
        modern: dict[str, torch.Tensor] = {}
        origins: dict[str, str] = {}
        for name, tensor in tensors.items():
            for new, half in self._unfused(name, tensor):
                if other := origins.get(new):
                    raise ValueError(f"{other[:200]!r} and {name[:200]!r} are both {new[:200]!r} in transformers 5")
                modern[new], origins[new] = half, name
        return modern

    def _unfused(self, name: str, tensor: torch.Tensor) -> Iterable[tuple[str, torch.Tensor]]:
        """The one or two weights of transformers 5 that a weight corresponds to."""
        new = self.modern_name(name)
        if f".{_FUSED}." not in new:
            return [(new, tensor)]
        halves = (tensor, tensor) if ".lora_A." in new else tensor.chunk(2)
        return [(new.replace(_FUSED, suffix), half) for suffix, half in zip(_HALVES, halves, strict=True)]

    def prefix_tokens(self, config: dict[str, Any]) -> int:
        """Tokens before the patches: CLS and the registers."""
        return 1 + int(config.get("num_register_tokens", 0))

    def preprocessing(self, config: dict[str, Any]) -> dict[str, Any]:
        """The content of `config/preprocessing.json`; see `adapters.backbone.preprocess.Preprocessing`."""
        patch = int(config.get("patch_size", 16))
        size = config.get("image_size", MAX_SIDE)
        side = min(int(size[0] if isinstance(size, list) else size), MAX_SIDE) // patch * patch
        return {
            "resize": side,
            "crop": side,
            "interpolation": self.interpolation,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        }

    def published_preprocessing(self, config: dict[str, Any]) -> dict[str, Any]:
        """What the family's published processor does, as far as `Preprocessing` can say it: the same document.

        For a backbone that takes other sizes than `MAX_SIDE` nothing is published: all of the centre square is used.
        """
        usual = self.preprocessing(config)
        return usual | {"resize": self.published_resize} if usual["crop"] == MAX_SIDE else usual


_DINOV2 = ("encoder.layer", "layernorm", None, _DINOV2_RENAMES, _DINOV2_LEGACY)
_DINOV3 = ("model.layer", "norm", "rope_embeddings", _DINOV3_RENAMES, _DINOV3_LEGACY)

FAMILIES = {
    family.name: family
    for family in (
        Family("dinov2", "Dinov2Model", "Dinov2Config", "dinov2", *_DINOV2),
        Family(
            "dinov2_with_registers",
            "Dinov2WithRegistersModel",
            "Dinov2WithRegistersConfig",
            "dinov2_with_registers",
            *_DINOV2,
        ),
        Family(
            "dinov3",
            "DINOv3ViTModel",
            "DINOv3ViTConfig",
            "dinov3_vit",
            *_DINOV3,
            interpolation="bilinear",
            published_resize=224,
            stretches=True,
        ),
    )
}


def family_named(name: str) -> Family:
    """The family with this name.

    Raises:
        BadInput: when the name is unknown.
    """
    if name not in FAMILIES:
        raise BadInput(f"{name[:80]!r} is not a backbone family", hint=f"known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of_config(config: dict[str, Any]) -> Family:
    """The family of a `config.json`, by its `model_type`.

    Raises:
        BadInput: when the `model_type` is unknown.
    """
    for family in FAMILIES.values():
        if config.get("model_type") == family.model_type:
            return family
    raise BadInput(
        f"config.json has model_type {str(config.get('model_type'))[:80]!r}, which is not a known backbone family",
        hint=f"known are {', '.join(family.model_type for family in FAMILIES.values())}",
    )
