"""A batch with adapters from the bank computes exactly what PEFT computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.backbone.resolve import ref_of_folder
from adapters.bank.peft_files import read_adapter
from adapters.bank.slots import Bank, Slot
from adapters.bundle import BundleFiles
from adapters.runtimes.open_runtime import open_runtime
from tests.support.peft_models import (
    ALL,
    FAMILIES,
    LINEARS,
    applied,
    backbone,
    peft_model,
    pixels,
    read,
    shaken,
    small_adapter,
    tokens,
)

TOLERANCE = 1e-5
"""Largest difference of hidden states of size about 1 between two orders of float32 sums."""


def pooled(model: Any, images: torch.Tensor, prefix: int, **arguments: Any) -> torch.Tensor:
    with torch.no_grad():
        hidden = model(pixel_values=images, **arguments).last_hidden_state
    return torch.cat([hidden[:, 0], hidden[:, prefix:].mean(dim=1)], dim=1)


def prefix(family: str) -> int:
    return family_named(family).prefix_tokens(backbone(family).config)


VARIANTS: dict[str, dict[str, Any]] = {
    "any rank": {"r": 7, "lora_alpha": 5},
    "rslora": {"r": 9, "use_rslora": True},
    "all linears": {"target_modules": "all"},
    "a subset of the MLP": {"target_modules": "mlp"},
    "some layers": {"layers_to_transform": [1, 4]},
    "rank and alpha patterns": {
        "rank_pattern": {"q_proj": 2, "layer.3.attention.v_proj": 11},
        "alpha_pattern": {"v_proj": 3},
    },
    "a regular expression": {"target_modules": r".*\.[0-3]\.attention\.(q|k)_proj"},
    "dora": {"use_dora": True},
    "dora on all linears": {"use_dora": True, "target_modules": "all", "r": 3, "use_rslora": True},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_computes_every_variant_as_peft_does(family: str, variant: str, tmp_path: Path) -> None:
    names = {"all": ALL[family], "mlp": ALL[family][4:5]}
    config = dict(VARIANTS[variant])
    modules = config.get("target_modules", ["q_proj", "v_proj"])
    config["target_modules"] = names.get(str(modules), modules)
    model, runtime = peft_model(family, 1, **config), open_runtime(backbone(family))
    (slot,) = runtime.bank.add([read(runtime, model, tmp_path)])
    images = pixels(3)
    ours, base = tokens(runtime, images, [slot] * 3), tokens(runtime, images, [None] * 3)
    assert torch.allclose(ours, pooled(model, images, prefix(family)), atol=TOLERANCE)
    assert (ours - base).abs().max() > 0.01


PATTERNS = [
    {"alpha_pattern": {"query$": 64}},
    {"alpha_pattern": {"(query|value)": 64}},
    {"alpha_pattern": {r"layer\.(0|1|2)\.attention\.attention\.query": 32}},
    {"alpha_pattern": {".*query": 64}, "rank_pattern": {"attention.(attention.query|output.dense)": 3}},
    {"exclude_modules": ["value"], "target_modules": ["query", "value"]},
    {"target_modules": r".*attention\.attention\.(query|value)", "alpha_pattern": {"value": 5, "query": 7}},
    {"alpha_pattern": {"dense": 64, "layer.3.attention.output.dense": 8}, "target_modules": ["dense"]},
    {"rank_pattern": {"layer.1.mlp.weights_in": 2, "weights_in": 3}, "target_modules": ["weights_in", "weights_out"]},
    {"target_modules": ["weights_in"], "use_dora": True},
]


class Legacy(nn.Module):
    """Linear modules as transformers 4 named them in a DINOv2 with a SwiGLU, enough for PEFT to match names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(nn.Module() for _ in range(4))
        for layer in self.encoder.layer:
            layer.attention, layer.mlp = nn.Module(), nn.Module()
            layer.attention.attention, layer.attention.output = nn.Module(), nn.Module()
            for name in ("query", "key", "value"):
                setattr(layer.attention.attention, name, nn.Linear(8, 8))
            layer.attention.output.dense = nn.Linear(8, 8)
            layer.mlp.weights_in, layer.mlp.weights_out = nn.Linear(8, 12), nn.Linear(6, 8)


@pytest.mark.parametrize("config", PATTERNS, ids=lambda config: "; ".join(map(str, config.items())))
def test_patterns_on_transformers_4_names_match_as_in_peft(config: dict[str, Any], tmp_path: Path) -> None:
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value", "dense"]} | config
    torch.manual_seed(0)
    model = shaken(get_peft_model(Legacy(), LoraConfig(**chosen)), 1)
    model.save_pretrained(tmp_path)
    dinov2, modern = family_named("dinov2"), {}
    for name, module in Legacy().named_modules():
        if isinstance(module, nn.Linear):
            for part in dinov2.modern_tensors({f"{name}.weight": module.weight}):
                wide = module.out_features // 2 if name.endswith("weights_in") else module.out_features
                modern[part.removesuffix(".weight")] = nn.Linear(module.in_features, wide)
    files = BundleFiles({f"adapter/{path.name}": path for path in tmp_path.iterdir()})
    ours = read_adapter(files, "adapter", dinov2, modern).modules
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    assert layers
    for name, layer in layers.items():
        bare = name.removeprefix("base_model.model.")
        for part in dinov2.modern_tensors({f"{bare}.weight": torch.zeros(2, 2)}):
            mine = ours.pop(part.removesuffix(".weight"))
            assert (mine.rank, mine.scale) == (layer.r["default"], pytest.approx(layer.scaling["default"]))
    assert not ours


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_is_pefts_mixed_batch(family: str, tmp_path: Path) -> None:
    runtime, ranks = open_runtime(backbone(family)), {"one": 4, "two": 7, "three": 4}
    together = get_peft_model(new_model(backbone(family)), LoraConfig(r=1, target_modules=["q_proj"]))
    slots: dict[str, Slot | None] = {"__base__": None}
    for name, rank in ranks.items():
        together.add_adapter(name, LoraConfig(r=rank, target_modules=ALL[family]))
    shaken(together, 5)
    for name in ranks:
        together.save_pretrained(tmp_path, selected_adapters=[name])
        files = BundleFiles({f"adapter/{path.name}": path for path in (tmp_path / name).iterdir()})
        weights = read_adapter(files, "adapter", family_named(family), runtime.bank.linears)
        slots[name] = runtime.bank.add([weights])[0]
    rows = ["one", "two", "__base__", "three", "two", "one"]
    expected = pooled(together, pixels(6), prefix(family), adapter_names=rows)
    assert torch.allclose(tokens(runtime, pixels(6), [slots[row] for row in rows]), expected, atol=TOLERANCE)


def test_a_dora_is_exact_and_not_an_approximation() -> None:
    """The bank against DoRA's own formula in float64: m · V / ‖V‖ with V = W + s·BA."""
    dora, linear, inputs = small_adapter(3, rank=2, dora=True), LINEARS["first"], torch.randn(4, 7, 6)
    (slot,) = Bank(LINEARS).add([dora])
    module = dora.modules["first"]
    assert module.magnitude is not None
    a, b, magnitude, weight = (t.detach().double() for t in (module.a, module.b, module.magnitude, linear.weight))
    whole = weight + module.scale * b @ a
    expected = inputs.double() @ (magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True)).T + linear.bias.double()
    assert torch.allclose(applied([slot] * 4, inputs).double(), expected, atol=1e-5)


def test_backbones_with_registers_have_a_bank_too(tmp_path: Path) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=7, image_size=28, num_register_tokens=3
    )
    made = Dinov2WithRegistersModel(config).eval()
    folder = tmp_path / "registers"
    folder.mkdir()
    save_file(made.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    ref = ref_of_folder(folder)
    runtime = open_runtime(ref, folders=[folder])
    torch.manual_seed(1)
    model = shaken(get_peft_model(made, LoraConfig(r=3, target_modules=["q_proj", "fc2"])), 2)
    (slot,) = runtime.bank.add([read(runtime, model, tmp_path / "peft")])
    walk = runtime.start(pixels(2), [slot, slot])
    walk.advance(2)
    assert ref.family == "dinov2_with_registers"
    assert torch.allclose(walk.pooled("cls+mean", norm=True), pooled(model, pixels(2), 4), atol=TOLERANCE)


def test_features_are_the_hidden_states_of_transformers(tmp_path: Path) -> None:
    runtime, images = open_runtime(backbone("dinov3")), pixels(2)
    with torch.no_grad():
        hidden = new_model(backbone("dinov3"))(pixel_values=images, output_hidden_states=True).hidden_states
    walk = runtime.start(images, [None, None])
    for block in range(7):
        walk.advance(block)
        assert torch.allclose(walk.pooled("tokens", norm=False), hidden[block].mean(dim=1), atol=TOLERANCE)
        assert torch.equal(walk.pooled("cls", norm=False), walk.pooled("cls+mean", norm=False)[:, :96])


def test_rows_may_leave_a_pass_and_the_others_go_on_as_they_were(tmp_path: Path) -> None:
    runtime = open_runtime(backbone("dinov2"))
    slots: list[Slot | None] = [None]
    for seed, config in enumerate(({}, {"r": 9, "target_modules": ALL["dinov2"]}), start=3):
        slots += runtime.bank.add([read(runtime, peft_model("dinov2", seed, **config), tmp_path / str(seed))])
    whole = tokens(runtime, pixels(3), slots)
    walk = runtime.start(pixels(3), slots)
    walk.advance(3)
    walk.keep(torch.tensor([0, 2]))
    walk.advance(6)
    assert torch.allclose(walk.pooled("cls+mean", norm=True), whole[[0, 2]], atol=TOLERANCE)
