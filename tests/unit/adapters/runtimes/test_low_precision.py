"""Runtimes beside torch in float32 give its features, whatever adapters, cuts and neighbours a row has."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from adapters.backbone.build import new_model
from adapters.backbone.families import FAMILIES
from adapters.backbone.locate import TINY
from adapters.backbone.resolve import ref_of_folder
from adapters.bank.lora_weights import LoraModule, LoraWeights
from adapters.bank.slots import Slot
from adapters.runtimes.gate import MIN_COSINE
from adapters.runtimes.interface import REFERENCE, Runtime
from adapters.runtimes.open_runtime import RUNTIMES, open_runtime
from adapters.runtimes.openvino_graph import AdaptedModules
from adapters.runtimes.openvino_runtime import Graph, OpenVinoRuntime, openvino_fp32
from adapters.runtimes.torch_low_precision import Int8Linear, torch_int8
from adapters.runtimes.torch_runtime import TorchRuntime
from registry.errors import BadInput, MissingDependency
from registry.versions.manifest import BackboneRef

pytestmark = pytest.mark.acceptance

TINIES = ["dinov2-tiny", "dinov3-tiny"]
NARROW = ["torch-bf16", "torch-int8", "openvino-int8"]
DEPTH = 6
ATTENTION = ("q_proj", "v_proj")
EVERYWHERE = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "gate_proj", "up_proj", "down_proj")


def backbone(name: str) -> BackboneRef:
    return ref_of_folder(TINY / name)


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def adapter(runtime: Runtime, modules: Sequence[str] = ATTENTION, *, rank: int = 4, seed: int = 0) -> LoraWeights:
    """A LoRA on the linear modules with these last names."""
    random = torch.Generator().manual_seed(seed)
    return LoraWeights.of({name: lora(linear, rank, random) for name, linear in named(runtime, modules)})


def dora(runtime: Runtime, modules: Sequence[str] = ATTENTION, *, seed: int = 0) -> LoraWeights:
    plain = adapter(runtime, modules, seed=seed)
    norms = {name: linear.weight.float().norm(dim=1) for name, linear in named(runtime, modules)}
    return LoraWeights.of({name: replace(lora, magnitude=norms[name] * 1.2) for name, lora in plain.modules.items()})


def named(runtime: Runtime, modules: Sequence[str]) -> list[tuple[str, nn.Linear]]:
    return [item for item in runtime.bank.linears.items() if item[0].rpartition(".")[2] in modules]


def lora(linear: nn.Linear, rank: int, random: torch.Generator) -> LoraModule:
    a, b = (
        torch.randn(rank, linear.in_features, generator=random),
        torch.randn(linear.out_features, rank, generator=random),
    )
    return LoraModule(a * 0.1, b * 0.1, scale=0.5)


def features(runtime: Runtime, images: torch.Tensor, slots: Sequence[Slot | None], stops: Sequence[int] = ()) -> Any:
    walk = runtime.start(images, slots)
    for stop in (*stops, len(list(runtime.blocks))):
        walk.advance(stop)
    return walk.pooled("cls+mean", norm=True)


def mixed(runtime: Runtime) -> list[Slot | None]:
    """Adapters of three forms in pages of their own, and none."""
    weights = [adapter(runtime), adapter(runtime, EVERYWHERE, rank=2, seed=1), dora(runtime, seed=2)]
    return [*runtime.bank.add(weights), None]


def fresh(runtime: str, family: str) -> OpenVinoRuntime:
    """A runtime that no other test has cut or put adapters on."""
    ref = backbone(family)
    return OpenVinoRuntime(runtime, ref, new_model(ref), "cpu")


def graphs(runtime: OpenVinoRuntime) -> tuple[Graph, ...]:
    """The graphs for 28 x 28 pixels on the backbone without registers."""
    return runtime.graphs.between(0, DEPTH, AdaptedModules(), tokens=1 + 4 * 4)


@pytest.mark.parametrize("family", TINIES)
@pytest.mark.parametrize("stop", range(1, DEPTH + 1))
def test_openvino_fp32_gives_the_features_of_torch(family: str, stop: int) -> None:
    seen = []
    for name in (REFERENCE, "openvino-fp32"):
        runtime = open_runtime(backbone(family), name=name)
        walk = runtime.start(pixels(4), mixed(runtime))
        walk.advance(stop)
        seen.append(
            torch.cat([walk.pooled(pooling, norm) for pooling in ("cls", "tokens") for norm in (True, False)], 1)
        )
    assert (seen[0] - seen[1]).abs().max() < 1e-4


@pytest.mark.parametrize("family", TINIES)
@pytest.mark.parametrize("name", NARROW)
def test_low_precision_features_stay_within_the_gate(family: str, name: str) -> None:
    reference, runtime = (open_runtime(backbone(family), name=one) for one in (REFERENCE, name))
    seen = features(runtime, pixels(4), mixed(runtime))
    cosines = torch.cosine_similarity(seen, features(reference, pixels(4), mixed(reference)))
    assert cosines.min() >= MIN_COSINE
    assert cosines.max() < 1 - 1e-7  # it did compute otherwise


@pytest.mark.parametrize("name", NARROW)
def test_adapters_change_features_as_much_as_they_do_in_float32(name: str) -> None:
    reference, runtime = (open_runtime(backbone("dinov2-tiny"), name=one) for one in (REFERENCE, name))
    changes = []
    for one in (reference, runtime):
        slots = one.bank.add([dora(one, EVERYWHERE)])
        changes.append(features(one, pixels(1), slots) - features(one, pixels(1), [None]))
    assert torch.cosine_similarity(*changes).item() > 0.98
    assert changes[0].norm().item() == pytest.approx(changes[1].norm().item(), rel=0.1)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("dinov2", {"use_swiglu_ffn": True}),
        ("dinov2_with_registers", {"num_register_tokens": 3, "mlp_ratio": 2}),
        ("dinov3", {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 40, "num_register_tokens": 1}),
    ],
)
def test_openvino_knows_the_other_blocks_of_the_families(family: str, config: dict[str, Any]) -> None:
    plain = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    config = plain | config | {"model_type": FAMILIES[family].model_type}
    ref = BackboneRef(family=family, sha256="0" * 64, name="seeded", config=config)
    torch.manual_seed(0)
    model = FAMILIES[family].new_model(config).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    runtimes = [TorchRuntime(REFERENCE, ref, deepcopy(model), "cpu"), openvino_fp32(ref, model, "cpu")]
    expected, seen = (features(one, pixels(2), one.bank.add([dora(one, EVERYWHERE)]) * 2) for one in runtimes)
    assert (expected - seen).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["openvino-fp32", "openvino-int8"])
def test_openvino_rows_do_not_depend_on_other_rows(name: str) -> None:
    runtime = open_runtime(backbone("dinov3-tiny"), name=name)
    images, slots = pixels(4), mixed(runtime)
    together = features(runtime, images, slots)
    alone = [features(runtime, images[row : row + 1], [slot]) for row, slot in enumerate(slots)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", ["openvino-fp32", "openvino-int8"])
def test_splits_and_added_inputs_do_not_change_a_bit(name: str) -> None:
    runtime = fresh(name, "dinov3-tiny")
    images, slots = pixels(3), [*runtime.bank.add([adapter(runtime)]), None, None]
    before = features(runtime, images, slots)
    others = runtime.bank.add([adapter(runtime, EVERYWHERE), dora(runtime, EVERYWHERE)])
    features(runtime, images[:2], others, stops=[2, 5])
    assert torch.equal(features(runtime, images, slots), before)
    assert torch.equal(features(runtime, images, slots, stops=[1]), before)


def test_adapters_of_the_same_modules_share_a_graph() -> None:
    runtime = fresh("openvino-fp32", "dinov2-tiny")
    slots = runtime.bank.add([adapter(runtime, seed=1)])
    features(runtime, pixels(1), slots)
    before = graphs(runtime)
    others = runtime.bank.add([adapter(runtime, seed=2, rank=8)])
    assert others[0].page is not slots[0].page
    assert not torch.equal(features(runtime, pixels(1), others), features(runtime, pixels(1), slots))
    assert graphs(runtime) == before


def test_graphs_are_split_where_a_pass_stops_and_else_kept() -> None:
    runtime = fresh("openvino-fp32", "dinov2-tiny")
    features(runtime, pixels(1), [None])
    assert len(graphs(runtime)) == 1
    features(runtime, pixels(1), [None], stops=[2])
    first, second = graphs(runtime)
    features(runtime, pixels(1), [None], stops=[4])
    assert graphs(runtime)[0] is first
    assert second not in graphs(runtime)


def test_images_of_another_size_go_through_graphs_of_their_own() -> None:
    runtime, reference = fresh("openvino-fp32", "dinov3-tiny"), open_runtime(backbone("dinov3-tiny"))
    images = torch.nn.functional.interpolate(pixels(1), size=42)
    features(runtime, pixels(1), [None])
    assert (features(runtime, images, [None]) - features(reference, images, [None])).abs().max() < 1e-4


def test_a_reused_slot_gives_the_new_adapters_features() -> None:
    runtime, reference = fresh("openvino-fp32", "dinov2-tiny"), open_runtime(backbone("dinov2-tiny"))
    [slot] = runtime.bank.add([adapter(runtime, seed=3)])
    page, index = slot.page, slot.index
    features(runtime, pixels(1), [slot])
    del slot
    [again] = runtime.bank.add([adapter(runtime, seed=4)])
    assert (again.page, again.index) == (page, index)
    expected = features(reference, pixels(1), reference.bank.add([adapter(reference, seed=4)]))
    assert (features(runtime, pixels(1), [again]) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["openvino-fp32", "torch-int8", "torch-bf16"])
def test_rows_that_leave_early_leave_the_others_as_they_were(name: str) -> None:
    runtime = open_runtime(backbone("dinov2-tiny"), name=name)
    images, slots = pixels(4), mixed(runtime)
    walk = runtime.start(images, slots)
    walk.advance(3)
    walk.keep(torch.tensor([2, 0]))
    walk.advance(DEPTH)
    expected = features(runtime, images, slots, stops=[3])[[2, 0]]
    assert walk.block == DEPTH
    assert torch.allclose(walk.pooled("cls+mean", norm=True), expected, atol=1e-4 if name != "torch-bf16" else 0.05)


def test_threads_get_equal_features_while_graphs_are_split() -> None:
    runtime = fresh("openvino-fp32", "dinov2-tiny")
    images, slots = pixels(2), runtime.bank.add([adapter(runtime, seed=5), adapter(runtime, seed=6)])
    quiet = features(runtime, images, slots)

    def ask(_: int) -> bool:
        return all(torch.equal(features(runtime, images, slots), quiet) for _ in range(8))

    def come_and_go(_: int) -> bool:
        for seed in range(4):
            passing = runtime.bank.add([adapter(runtime, seed=seed), dora(runtime, EVERYWHERE, seed=seed)])
            features(runtime, images, passing, stops=[1 + seed])
        return True

    with ThreadPoolExecutor(3) as pool:
        others = pool.submit(come_and_go, 0)
        assert all(pool.map(ask, range(4)))
        assert others.result()


def test_the_shared_float32_weights_stay_unchanged() -> None:
    reference = open_runtime(backbone("dinov2-tiny"))
    before = {name: tensor.clone() for name, tensor in reference.model.state_dict().items()}  # type: ignore[attr-defined]
    for name in NARROW:
        open_runtime(backbone("dinov2-tiny"), name=name)
    after = reference.model.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_int8_linear_rounds_by_at_most_half_a_step() -> None:
    random = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(24, 40, generator=random), torch.randn(24, generator=random)
    inputs = torch.randn(2, 5, 40, generator=random) * torch.tensor([1e-3, 1e3])[:, None, None]
    linear = Int8Linear(weight, bias)
    assert ((linear.weight - weight).abs() <= weight.abs().amax(dim=1, keepdim=True) / 254 * 1.001).all()
    exact = torch.nn.functional.linear(inputs, weight, bias)
    cosines = torch.cosine_similarity(linear(inputs) - bias, exact - bias, dim=2)
    assert cosines.min() > MIN_COSINE  # the small image beside the large one too


def test_rows_of_zeros_stay_finite_in_int8() -> None:
    linear = Int8Linear(torch.zeros(3, 8), torch.ones(3))
    assert torch.equal(linear(torch.zeros(2, 8)), torch.ones(2, 3))


@pytest.mark.parametrize("name", ["torch-int8", "openvino-fp32", "openvino-int8", "openvino-bf16"])
def test_a_runtime_for_processors_refuses_another_device(name: str) -> None:
    ref = backbone("dinov2-tiny")
    make = torch_int8 if name == "torch-int8" else partial(OpenVinoRuntime, name)
    with pytest.raises(BadInput, match="runs on processors"):
        make(ref, new_model(ref), "cuda:0")


def test_an_activation_unknown_to_openvino_is_refused_by_name() -> None:
    ref = backbone("dinov2-tiny")
    ref = ref.model_copy(update={"config": dict(ref.config) | {"hidden_act": "relu"}})
    with pytest.raises(BadInput, match="ReLU"):
        openvino_fp32(ref, new_model(ref), "cpu")


def test_without_openvino_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependency) as caught:
        fresh("openvino-fp32", "dinov2-tiny")
    assert "ulora-registry[openvino]" in caught.value.hint


def test_openvino_bf16_computes_or_reports_the_processor() -> None:
    from openvino import Core

    if "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        runtime, reference = fresh("openvino-bf16", "dinov2-tiny"), open_runtime(backbone("dinov2-tiny"))
        seen = [features(one, pixels(2), mixed(one)[:2]) for one in (runtime, reference)]
        assert torch.cosine_similarity(*seen).min() >= MIN_COSINE
    else:
        with pytest.raises(BadInput, match="bfloat16"):
            fresh("openvino-bf16", "dinov2-tiny")


def test_every_runtime_can_be_opened_by_its_name() -> None:
    assert set(RUNTIMES) == {REFERENCE, *NARROW, "openvino-fp32", "openvino-bf16"}
