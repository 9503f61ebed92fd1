"""The bank gives each row what PEFT would, and never writes what a reader may see."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.backbone.backbones import TINY, new_model, ref_of_folder
from adapters.backbone.families import family_named
from adapters.bank.bank import Bank, Selection, Slot
from adapters.bank.lora import LoraModule, LoraWeights, Source, read_adapter
from adapters.bundle import BundleFiles
from adapters.runtimes.runtimes import Runtime, open_runtime
from registry.errors import BadWeights
from registry.versions.manifest import BackboneRef

ALL = {"dinov2": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]}
ALL["dinov3"] = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
FAMILIES = sorted(ALL)
TOLERANCE = 1e-5
"""Largest difference of hidden states of size about 1 between two orders of float32 sums."""


def backbone(family: str) -> BackboneRef:
    return ref_of_folder(TINY / f"{family}-tiny")


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """The model with its adapters' weights moved away from where PEFT starts them."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    return model.eval()


def peft_model(family: str, seed: int, **config: Any) -> Any:
    torch.manual_seed(seed)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | config
    return shaken(get_peft_model(new_model(backbone(family)), LoraConfig(**chosen)), seed)


def read(runtime: Runtime, model: Any, folder: Path) -> LoraWeights:
    """What PEFT saves of a model's adapter, read as a bundle's."""
    model.save_pretrained(folder)
    files = BundleFiles({f"adapter/{path.name}": path for path in folder.iterdir()})
    return read_adapter(files, "adapter", family_named(runtime.ref.family), runtime.bank.linears)


def tokens(runtime: Runtime, images: torch.Tensor, slots: Sequence[Slot | None]) -> torch.Tensor:
    walk = runtime.start(images, slots)
    walk.advance(6)
    return walk.pooled("cls+mean", norm=True)


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
def test_patterns_on_names_of_transformers_4_mean_what_they_mean_to_peft(
    config: dict[str, Any], tmp_path: Path
) -> None:
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
    dora, linear, inputs = adapter(3, rank=2, dora=True), LINEARS["first"], torch.randn(4, 7, 6)
    (slot,) = Bank(LINEARS).add([dora])
    module = dora.modules["first"]
    assert module.magnitude is not None
    a, b, magnitude, weight = (t.detach().double() for t in (module.a, module.b, module.magnitude, linear.weight))
    whole = weight + module.scale * b @ a
    expected = inputs.double() @ (magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True)).T + linear.bias.double()
    assert torch.allclose(changed([slot] * 4, inputs).double(), expected, atol=1e-5)


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


# --- slots -----------------------------------------------------------------------------------------------------------

LINEARS = {"first": nn.Linear(6, 5), "second": nn.Linear(5, 6)}


def adapter(seed: int, rank: int = 2, modules: Sequence[str] = ("first", "second"), dora: bool = False) -> LoraWeights:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    made = {
        name: LoraModule(
            normal(rank, LINEARS[name].in_features),
            normal(LINEARS[name].out_features, rank),
            0.5,
            normal(LINEARS[name].out_features) if dora else None,
        )
        for name in modules
    }
    parts = ("a", "b", *(("magnitude",) if dora else ()))
    sources = {f"{name}.{part}": Source((name,), part, torch.float32) for name in modules for part in parts}
    return LoraWeights.of(made, sources)


def held(slot: Slot) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in slot.tensors().items()}


def is_of(slot: Slot, weights: LoraWeights) -> bool:
    sources = weights.form.sources.items()
    parts = {name: getattr(weights.modules[source.modules[0]], source.part) for name, source in sources}
    actual = slot.tensors()
    return actual.keys() == parts.keys() and all(torch.equal(actual[name], parts[name]) for name in parts)


def changed(slots: Sequence[Slot | None], inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return Selection(slots, "cpu").change("first", LINEARS["first"], inputs, LINEARS["first"](inputs))


def test_a_freed_slot_is_filled_again_and_the_bank_does_not_grow() -> None:
    bank = Bank(LINEARS)
    slots = bank.add([adapter(number) for number in range(3)])
    before, index = bank.nbytes, slots[1].index
    del slots[1]
    (fresh,) = bank.add([adapter(9)])
    assert (bank.nbytes, fresh.index) == (before, index)
    assert is_of(fresh, adapter(9))


def test_the_bank_holds_adapters_in_little_more_than_their_own_bytes() -> None:
    bank, adapters = Bank(LINEARS), [adapter(number, rank) for number, rank in enumerate((2, 2, 8, 8, 7, 16))]
    slots = bank.add(adapters)
    assert bank.nbytes <= 1.2 * sum(one.nbytes for one in adapters)
    assert all(is_of(slot, one) for slot, one in zip(slots, adapters, strict=True))


def test_a_page_that_nobody_uses_is_given_back_when_another_form_arrives() -> None:
    bank = Bank(LINEARS)
    bank.add([adapter(number, 40) for number in range(4)])
    gc.collect()
    slots = bank.add([adapter(1, 2)])
    assert bank.nbytes == slots[0].nbytes


def test_a_large_page_is_not_kept_for_one_small_part_of_it() -> None:
    bank = Bank(LINEARS)
    bank.add([adapter(number, 40) for number in range(8)])
    gc.collect()
    adapters = [adapter(0, 40), *(adapter(number, 2) for number in range(7))]
    slots = bank.add(adapters)
    assert bank.nbytes <= 1.2 * sum(slot.nbytes for slot in slots)


def test_what_was_loaded_in_inference_mode_can_be_filled_again_outside_it() -> None:
    bank = Bank(LINEARS)
    kept = bank.add([adapter(0), adapter(1)])
    with torch.inference_mode():
        bank.add([adapter(number, 9) for number in range(2)])
        kept += bank.add([adapter(2, 20), adapter(3, 20)])
    del kept[2]
    gc.collect()
    (slot,) = bank.add([adapter(4, 20)])
    assert is_of(slot, adapter(4, 20))


def test_numbers_that_are_not_finite_are_refused_and_their_slot_is_free_again() -> None:
    bank, bad = Bank(LINEARS), adapter(1)
    keeper = bank.add([adapter(2), adapter(3)])
    del keeper[1]
    bad.modules["second"].b[0, 0] = float("nan")
    with pytest.raises(BadWeights, match="not finite at second"):
        bank.add([bad])
    gc.collect()
    before = bank.nbytes
    (slot,) = bank.add([adapter(4)])
    assert bank.nbytes == before
    assert is_of(slot, adapter(4))


def test_the_smallest_dora_goes_where_the_one_before_was() -> None:
    bank = Bank(LINEARS)
    keeper = bank.add([adapter(1, rank=1, dora=True), adapter(2, rank=1, dora=True)])
    before = bank.nbytes
    del keeper[1]
    (slot,) = bank.add([adapter(3, rank=1, dora=True)])
    assert bank.nbytes == before
    assert is_of(slot, adapter(3, rank=1, dora=True))


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_whose_parts_lie_in_another_order_takes_a_slot_of_the_same_page(dora: bool) -> None:
    bank, inputs = Bank(LINEARS), torch.ones(1, 3, 6)
    first, second = (adapter(seed, rank=8, dora=dora) for seed in (1, 2))
    turned = LoraWeights.of(dict(reversed(second.modules.items())), second.form.sources)
    slots = bank.add([first, turned])
    assert slots[0].page is slots[1].page
    assert is_of(slots[1], second)
    assert torch.equal(changed(slots[1:], inputs), changed(Bank(LINEARS).add([second]), inputs))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with an adapter of q and v, as PEFT saves it."""
    peft_model("dinov2", 3).save_pretrained(tmp_path)
    return tmp_path


def read_saved(folder: Path) -> LoraWeights:
    files = BundleFiles({f"adapter/{path.name}": path for path in folder.iterdir()})
    return read_adapter(files, "adapter", family_named("dinov2"), open_runtime(backbone("dinov2")).bank.linears)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_of_fewer_bits_are_read_as_float32_and_given_back_as_they_were(dtype: torch.dtype, saved: Path) -> None:
    place = saved / "adapter_model.safetensors"
    narrow = {name: tensor.to(dtype) for name, tensor in load_file(place).items()}
    save_file(narrow, place)
    (slot,) = open_runtime(backbone("dinov2")).bank.add([read_saved(saved)])
    tensors = slot.tensors()
    assert tensors.keys() == narrow.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in narrow.items())


def test_numbers_of_two_types_in_one_file_go_to_their_modules(saved: Path) -> None:
    place = saved / "adapter_model.safetensors"
    mixed = {name: tensor.half() if ".2." in name else tensor for name, tensor in load_file(place).items()}
    save_file(mixed, place)  # it puts all float32 before all float16
    (slot,) = open_runtime(backbone("dinov2")).bank.add([read_saved(saved)])
    tensors = slot.tensors()
    assert tensors.keys() == mixed.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in mixed.items())


def test_of_two_adapters_that_differ_in_numbers_alone_each_keeps_its_own(saved: Path) -> None:
    place = saved / "adapter_model.safetensors"
    first, numbers = read_saved(saved), load_file(place)
    save_file({name: 2 * tensor for name, tensor in numbers.items()}, saved / "other", metadata={"format": "pt"})
    place.unlink()
    (saved / "other").rename(place)
    second = read_saved(saved)
    assert second.form is first.form
    assert torch.equal(second.numbers, 2 * first.numbers)


def test_the_same_numbers_under_another_alpha_have_another_scale(saved: Path) -> None:
    place = saved / "adapter_config.json"
    before = read_saved(saved)
    place.write_text(json.dumps({**json.loads(place.read_text()), "lora_alpha": 24}))
    after = read_saved(saved)
    assert {module.scale for module in before.modules.values()} == {2.0}
    assert {module.scale for module in after.modules.values()} == {6.0}


def test_a_file_that_lost_its_end_is_refused_although_its_header_is_known(saved: Path) -> None:
    place = saved / "adapter_model.safetensors"
    read_saved(saved)
    place.write_bytes(place.read_bytes()[:-4])
    with pytest.raises(BadWeights, match="truncated"):
        read_saved(saved)


def test_an_adapter_that_fits_one_backbone_is_still_refused_on_another(saved: Path) -> None:
    read_saved(saved)
    files = BundleFiles({f"adapter/{path.name}": path for path in saved.iterdir()})
    linears = {name: nn.Linear(7, 7) for name in open_runtime(backbone("dinov2")).bank.linears}
    with pytest.raises(BadWeights, match="the backbone asks for"):
        read_adapter(files, "adapter", family_named("dinov2"), linears)


# --- whatever comes and goes -----------------------------------------------------------------------------------------

Step = tuple[str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 12)),
        st.tuples(st.just("add dora"), st.integers(1, 4)),
        st.tuples(st.just("drop"), st.integers(0, 100)),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_whatever_comes_and_goes_those_that_stay_are_never_touched(steps: list[Step]) -> None:
    bank, inputs = Bank(LINEARS), torch.ones(1, 3, 6)
    living: list[tuple[Slot, LoraWeights, torch.Tensor]] = []
    for number, (what, value) in enumerate(steps):
        if what == "drop":
            if living:
                living.pop(value % len(living))
            continue
        weights = adapter(number, rank=value, dora=what == "add dora")
        (slot,) = bank.add([weights])
        living.append((slot, weights, changed([slot], inputs)))
        assert len({(id(slot.page), slot.index) for slot, _, _ in living}) == len(living)
    for slot, weights, before in living:
        assert is_of(slot, weights)
        assert torch.equal(changed([slot], inputs), before)
    if living:
        rows = torch.cat([inputs] * len(living))
        expected = torch.cat([before for _, _, before in living])
        assert torch.allclose(changed([slot for slot, _, _ in living], rows), expected, atol=1e-4)


def test_answers_stay_bit_for_bit_while_versions_are_loaded_flipped_and_freed(tmp_path: Path) -> None:
    """As in serving: readers pin what is live when they start; a loader flips to the next version and drops the last.

    The versions' adapters have the same forms and other weights, so that each goes into slots that another left.
    """
    runtime, images = open_runtime(backbone("dinov3")), pixels(4)
    configs = [{}, {"r": 6}, {"r": 5, "target_modules": ALL["dinov3"]}, {"use_dora": True}]

    def version(number: int) -> list[LoraWeights]:
        models = [peft_model("dinov3", 10 * number + form, **config) for form, config in enumerate(configs)]
        return [read(runtime, model, tmp_path / f"{number}-{form}") for form, model in enumerate(models)]

    versions = [version(number) for number in range(3)]
    quiet = [tokens(runtime, images, runtime.bank.add(version)) for version in versions]
    assert not torch.equal(quiet[0], quiet[1])
    live = [(0, runtime.bank.add(versions[0]))]
    stop = threading.Event()

    def flip() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            live[0] = (number % 3, runtime.bank.add(versions[number % 3]))
        return number

    def ask(_: int) -> set[int]:
        seen = set()
        for _ in range(30):
            number, slots = live[0]
            assert torch.equal(tokens(runtime, images, slots), quiet[number])
            seen.add(number)
        return seen

    with ThreadPoolExecutor(4) as threads:
        flipping = threads.submit(flip)
        try:
            seen = set().union(*threads.map(ask, range(3)))
        finally:
            stop.set()
    assert flipping.result() > 3
    assert len(seen) > 1
