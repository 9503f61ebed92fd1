"""What training did to the backbone decides whether an adapter is read: exactly as in PEFT, or refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga

from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.bank.peft_fields import HARMLESS_INITS, check_fields, refused_documents
from adapters.bank.peft_files import read_adapter
from adapters.bank.slots import Slot
from adapters.bundle import BundleFiles
from adapters.importing import convert
from adapters.runtimes.interface import Runtime
from adapters.runtimes.open_runtime import open_runtime
from registry.errors import BadWeights
from tests.support.other_adapter_layouts import edit_json
from tests.support.peft_models import backbone, peft_model, pixels, shaken

ROOT = Path(__file__).parents[4]
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
CHANGED = ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga")
TRAINING = pixels(4, seed=9)


def slot_of(runtime: Runtime, folder: Path) -> Slot:
    files = BundleFiles({f"adapter/{path.name}": path for path in folder.iterdir()})
    family = family_named(runtime.ref.family)
    (slot,) = runtime.bank.add([read_adapter(files, "adapter", family, runtime.bank.linears)])
    return slot


def ours(family: str, folder: Path, images: torch.Tensor) -> torch.Tensor:
    runtime = open_runtime(backbone(family))
    through = runtime.start(images, [slot_of(runtime, folder)] * len(images))
    through.advance(6)
    return through.pooled("cls", norm=True)


def peft_s(family: str, folder: Path, images: torch.Tensor) -> torch.Tensor:
    """The CLS features of what PEFT itself loads."""
    model: Any = PeftModel.from_pretrained(new_model(backbone(family)), folder).eval()
    with torch.no_grad():
        features: torch.Tensor = model(pixel_values=images).last_hidden_state[:, 0]
    return features


def own_backbone() -> Any:
    """A backbone whose weights PEFT may change: no other test has the same memory."""
    model: Any = new_model(backbone("dinov2"))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def started(init: str) -> Any:
    """A model whose backbone PEFT has changed, before training."""
    torch.manual_seed(0)
    model = own_backbone()
    extra = {"corda": {"corda_config": CordaConfig()}, "lora_ga": {"lora_ga_config": LoraGAConfig()}}
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=init, **extra.get(init, {})
    )  # type: ignore[arg-type]

    def step() -> None:
        model(pixel_values=TRAINING).last_hidden_state[:, 0].square().mean().backward()

    if init == "corda":
        with torch.no_grad():
            preprocess_corda(model, config, run_model=lambda: [model(pixel_values=image[None]) for image in TRAINING])
    if init == "lora_ga":
        model.requires_grad_(True)
        preprocess_loraga(model, config, step)
    return get_peft_model(model, config)


def trained(init: str, folder: Path) -> tuple[Path, Path, torch.Tensor]:
    """The folders that PEFT saves as it is and converted, and the features of the trained model itself."""
    model = started(init)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(folder / "start")
    model.peft_config["default"].init_lora_weights = init
    shaken(model, 1)
    with torch.no_grad():
        features = model(pixel_values=pixels(2)).last_hidden_state[:, 0]
    model.save_pretrained(folder / "plain")
    model.save_pretrained(folder / "converted", path_initial_model_for_weight_conversion=str(folder / "start"))
    return folder / "plain", folder / "converted", features


@pytest.mark.parametrize("init", CHANGED)
def test_a_changed_backbone_is_refused_and_converted_read(init: str, tmp_path: Path) -> None:
    plain, converted, expected = trained(init, tmp_path)
    with pytest.raises(BadWeights, match=f"adapter/adapter_config.json: init_lora_weights is '{init}'") as at_load:
        ours("dinov2", plain, pixels(2))
    edit_json(plain / "adapter_config.json", lambda it: it.update(base_model_name_or_path="dinov2-tiny"))
    with pytest.raises(BadWeights, match=f"init_lora_weights is '{init}'.*changed the backbone") as at_import:
        convert(plain, tmp_path / "bundle", target="maize")
    for refused in (at_load, at_import):
        assert "path_initial_model_for_weight_conversion" in refused.value.hint
    actual = ours("dinov2", converted, pixels(2))
    assert torch.allclose(actual, peft_s("dinov2", converted, pixels(2)), atol=1e-5)
    assert torch.allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("init", [True, False, None, *HARMLESS_INITS])
def test_other_starts_of_a_lora_are_read_as_by_peft(init: Any, tmp_path: Path) -> None:
    family = "dinov2"
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "fc2"], init_lora_weights=init)
    shaken(get_peft_model(new_model(backbone(family)), config), 3).save_pretrained(tmp_path)  # type: ignore[operator]
    assert json.loads((tmp_path / "adapter_config.json").read_text())["init_lora_weights"] == init
    assert torch.allclose(ours(family, tmp_path, pixels(2)), peft_s(family, tmp_path, pixels(2)), atol=1e-5)


@pytest.mark.parametrize("init", ["loftq", "rotated", "PISSA", 1, 0, ["gaussian"], {"pissa": True}])
def test_an_initialisation_that_is_not_listed_is_refused(init: Any) -> None:
    with pytest.raises(BadWeights, match="a/file: init_lora_weights is ") as refused:
        check_fields(LORA | {"init_lora_weights": init}, "a/file")
    assert refused.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loftq_config", {"loftq_bits": 4}), ("megatron_config", {"tensor_model_parallel_size": 2}),
        ("bias", "lora_only"), ("lora_bias", True), ("fan_in_fan_out", True), ("modules_to_save", ["norm"]),
        ("layer_replication", [[0, 4]]), ("target_parameters", ["weight"]), ("trainable_token_indices", [1]),
        ("use_qalora", True), ("use_bdlora", {"nblocks": 2}), ("alora_invocation_tokens", [3]),
        ("arrow_config", {"top_k": 3}), ("kasa_config", {"beta": 1e-4}), ("velora_config", {"scale": 1.0}),
        ("monteclora_config", {"num_samples": 4}), ("a_field_of_2029", True), ("a_field_of_2029", 0),
        ("a_field_of_2029", {"depth": 0}), ("a_field_of_2029", "new"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_known_to_be_harmless_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadWeights, match=f"a/file: {name} is "):
        check_fields(LORA | {name: value}, "a/file")


@pytest.mark.parametrize("value", [None, False, [], {}, ""])
def test_a_later_field_that_is_off_is_no_obstacle(value: Any) -> None:
    check_fields(LORA | {"a_field_of_2029": value, "bias": "none", "megatron_core": "megatron.core"}, "a/file")


def test_what_peft_writes_of_a_plain_lora_is_accepted(tmp_path: Path) -> None:
    peft_model("dinov3", 1).save_pretrained(tmp_path)
    check_fields(json.loads((tmp_path / "adapter_config.json").read_text()), "a/file")


METHODS = sorted(str(each.value) for each in PeftType if each != PeftType.LORA)


@pytest.mark.parametrize("method", METHODS)
def test_every_other_method_of_peft_is_refused_by_name(method: str) -> None:
    with pytest.raises(BadWeights, match=rf"a/file: peft_type is '{method}', not LORA") as refused:
        check_fields(LORA | {"peft_type": method, "init_lora_weights": "pissa"}, "a/file")
    assert "save_as_lora" in refused.value.hint


@pytest.mark.parametrize("method", ["ADALORA", "LOHA", "VERA", "OFT"])
def test_a_folder_of_another_method_is_refused_by_name(method: str, tmp_path: Path) -> None:
    """Its weights mean something else; they are not looked at."""
    options: dict[str, Any] = {"total_step": 10} if method == "ADALORA" else {}
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](target_modules=["q_proj"], **options)
    get_peft_model(own_backbone(), config).save_pretrained(tmp_path / "maize")
    with pytest.raises(BadWeights, match=rf"adapter_config\.json: peft_type is '{method}', not LORA"):
        convert(tmp_path / "maize", tmp_path / "bundle")


# --- adapters that change nothing ------------------------------------------------------------------------------------


def zeroed(kind: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, parameter in model.named_parameters():
            if f".{kind}." in name:
                parameter.data.zero_()

    return change


def of_other_ranks(model: Any) -> None:
    """A and B have numbers, but in no common rank, so that their product is zero."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.data[:2] = 0
        if ".lora_B." in name:
            parameter.data[:, 2:] = 0


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"lora_alpha": 0}, lambda model: None),
        ({}, zeroed("lora_A")),
        ({}, zeroed("lora_B")),
        ({}, of_other_ranks),
        ({"alpha_pattern": {"q_proj": 0, "v_proj": 0}}, lambda model: None),
        ({"use_dora": True, "lora_alpha": 0}, lambda model: None),
    ],
)
def test_an_adapter_that_changes_nothing_is_refused(
    options: dict[str, Any], change: Callable[[Any], None], tmp_path: Path
) -> None:
    model = peft_model("dinov2", 2, **options)
    if "use_dora" in options:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "magnitude" in name:
                    weight = model.get_submodule(name.rpartition(".lora_mag")[0]).base_layer.weight
                    parameter.copy_(weight.norm(dim=1))
    change(model)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        bare = new_model(backbone("dinov2"))(pixel_values=pixels(2)).last_hidden_state[:, 0]  # type: ignore[operator]
    assert torch.allclose(peft_s("dinov2", tmp_path, pixels(2)), bare, atol=1e-5), "PEFT says so too"
    with pytest.raises(BadWeights, match="would change nothing"):
        ours("dinov2", tmp_path, pixels(2))


def test_a_dora_that_only_scales_is_read(tmp_path: Path) -> None:
    model = peft_model("dinov2", 2, use_dora=True)
    zeroed("lora_B")(model)
    model.save_pretrained(tmp_path)
    assert torch.allclose(ours("dinov2", tmp_path, pixels(2)), peft_s("dinov2", tmp_path, pixels(2)), atol=1e-5)


# --- all-linear ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "excluded"),
    [("dinov2", ["fc1"]), ("dinov2", ["encoder.layer.1.attention.q_proj"]), ("dinov3", r".*\.[0-2]\..*")],
)
def test_all_linear_is_taken_as_peft_takes_it(family: str, excluded: Any, tmp_path: Path) -> None:
    peft_model(family, 4, target_modules="all-linear", exclude_modules=excluded).save_pretrained(tmp_path)
    expected = peft_s(family, tmp_path, pixels(2))
    assert torch.allclose(ours(family, tmp_path, pixels(2)), expected, atol=1e-5)
    edit_json(tmp_path / "adapter_config.json", lambda it: it.update(target_modules="all-linear"))
    assert torch.equal(peft_s(family, tmp_path, pixels(2)), expected)
    assert torch.allclose(ours(family, tmp_path, pixels(2)), expected, atol=1e-5)


# --- without torch ---------------------------------------------------------------------------------------------------


def test_documents_that_loading_would_refuse_are_found() -> None:
    stored = {
        "adapters/maize/adapter_config.json": json.dumps(LORA | {"init_lora_weights": "pissa"}).encode(),
        "adapters/wheat/adapter_config.json": json.dumps(LORA).encode(),
        "adapters/oats/adapter_config.json": json.dumps(LORA | {"target_modules": 7}).encode(),
        "adapters/rice/adapter_config.json": b"[",
        "adapters/rice/source/adapter_config.json": b"[",
        "project/adapter_config.json": b"[",
    }
    found = refused_documents(stored, stored.__getitem__)
    assert found.keys() == {f"adapters/{target}/adapter_config.json" for target in ("maize", "oats", "rice")}
    assert found["adapters/maize/adapter_config.json"].startswith("init_lora_weights is 'pissa'")


def test_documents_are_checked_without_torch() -> None:
    code = "import sys, adapters.bank.peft_fields; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "peft", "transformers", "mlflow"} & set(done.stdout.split())
