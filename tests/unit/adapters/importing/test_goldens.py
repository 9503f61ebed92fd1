"""An import records what the source's own code answers, and is refused where what it wrote answers otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters.answer import heads, ood_imported
from adapters.answer.loading import load_bundle
from adapters.backbone.families import family_named
from adapters.backbone.preprocess import Preprocessing
from adapters.backbone.resolve import ref_of_folder
from adapters.bank import peft_config, peft_files
from adapters.importing import convert, goldens
from adapters.importing.goldens import COUNT, candidates, synthetic_images
from registry.errors import BadBundle, SelfTestFailed
from tests.support.bundles import read_bundle as files_of
from tests.support.importing import digests
from tests.support.other_adapter_layouts import LABELS, edit_json, write_peft, write_phase, write_release
from tests.support.peft_models import backbone


def golden_of(source: Path, target: str = "maize") -> dict[str, torch.Tensor]:
    bundle = source.parent / "bundle"
    convert(source, bundle, target=target)
    load_bundle(files_of(bundle)).self_test()
    return load_file(bundle / "adapters" / target / "golden.safetensors")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "phase": write_phase,
    "ensemble": write_release,
    "energy": lambda folder: write_release(folder, method="energy"),
    "knn": lambda folder: write_release(folder, method="knn"),
}


@pytest.mark.parametrize("layout", WRITERS)
def test_what_the_source_s_system_answers_is_recorded(layout: str, source: Path) -> None:
    reading = WRITERS[layout](source)
    golden = golden_of(source)
    logits, judged = reading([image.numpy() for image in golden["images"]])
    assert len(golden["images"]) == COUNT
    assert torch.allclose(golden["logits"], logits, atol=5e-4)
    expected = [raw / limit if layout in ("phase", "knn") else 1 + raw - limit for raw, limit in judged]
    assert golden["ood_score"].tolist() == pytest.approx(expected, abs=2e-3)
    assert golden["is_ood"].tolist() == [raw > limit for raw, limit in judged]


@pytest.mark.parametrize("labels", [LABELS, ()])
def test_what_peft_s_own_model_answers_is_recorded(labels: tuple[str, ...], source: Path) -> None:
    model = write_peft(source, labels=labels)
    golden = golden_of(source)
    preprocessing = Preprocessing.of(family_named("dinov2").preprocessing(backbone("dinov2").config))
    with torch.no_grad():
        last = model(torch.stack([preprocessing(image.numpy()) for image in golden["images"]])).last_hidden_state
    features = torch.cat([last[:, 0], last[:, 1:].mean(dim=1)], dim=1) if labels else last[:, 0]
    assert torch.allclose(golden["features"], features, atol=2e-4)
    assert ("logits" in golden) == bool(labels)
    assert "ood_score" not in golden


@pytest.mark.parametrize("labels", [LABELS, ()])
def test_a_later_change_of_the_adapter_fails_the_self_test(labels: tuple[str, ...], source: Path) -> None:
    write_peft(source, labels=labels)
    golden_of(source)
    bundle = source.parent / "bundle"
    edit_json(bundle / "adapters/maize/adapter_config.json", lambda it: it.update(lora_alpha=it["lora_alpha"] * 1.1))
    with pytest.raises(SelfTestFailed, match=f"{'logits' if labels else 'features'} differ by"):
        load_bundle(files_of(bundle)).self_test()


def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = peft_config._settings

    def wrong(config: Any, rank: int, alpha: float) -> peft_config.ModuleSettings:
        right = settings(config, rank, alpha)
        return peft_config.ModuleSettings(right.rank, right.alpha, right.scale * 1.01)

    monkeypatch.setattr(peft_config, "_settings", wrong)
    monkeypatch.setattr(peft_files, "_read_structure", peft_files._read_structure.__wrapped__)  # nothing cached


def with_another_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads.functional, "layer_norm", lambda fused, *args, **beside: fused)


def with_another_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ood_imported, "energy", lambda logits, temperature: -logits.logsumexp(dim=1))


@pytest.mark.parametrize(
    ("fault", "says"),
    [(scaled, "logits differ"), (with_another_norm, "logits differ"), (with_another_energy, "ood_score differ")],
)
def test_an_import_that_answers_otherwise_is_refused(
    fault: Callable[[pytest.MonkeyPatch], None], says: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_release(source)
    fault(monkeypatch)
    with pytest.raises(SelfTestFailed, match=f"does not answer as it does at its source: {says}"):
        convert(source, source.parent / "bundle", target="maize")


@pytest.mark.acceptance
def test_threads_do_not_change_what_is_recorded(source: Path) -> None:
    write_phase(source)
    threads = torch.get_num_threads()
    try:
        for number, name in ((1, "first"), (2, "second")):
            torch.set_num_threads(number)
            convert(source, source.parent / name, target="maize")
    finally:
        torch.set_num_threads(threads)
    assert digests(source.parent / "first") == digests(source.parent / "second")


def test_a_module_that_transformers_4_fused_is_read_by_peft(source: Path, tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=7, image_size=28, use_swiglu_ffn=True
    )
    model = Dinov2Model(config)
    model.save_pretrained(tmp_path / "vit")
    wide = 2 * model.encoder.layer[0].mlp.gate_proj.out_features
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(2):
        stem = f"base_model.model.encoder.layer.{layer}.mlp.weights_in"
        tensors |= {f"{stem}.lora_A.weight": torch.randn(3, 32), f"{stem}.lora_B.weight": torch.randn(wide, 3) * 0.1}
    write_peft(source)
    save_file(tensors, source / "adapter_model.safetensors")
    edit_json(source / "adapter_config.json", lambda it: it.update(target_modules=["weights_in"], r=3, lora_alpha=6))
    convert(source, source.parent / "bundle", target="maize", backbone=str(tmp_path / "vit"))
    golden = load_file(source.parent / "bundle/adapters/maize/golden.safetensors")
    merged = Dinov2Model.from_pretrained(tmp_path / "vit").eval()
    for layer, block in enumerate(merged.encoder.layer):
        a, b = (tensors[f"base_model.model.encoder.layer.{layer}.mlp.weights_in.lora_{x}.weight"] for x in "AB")
        for half, part in zip((block.mlp.gate_proj, block.mlp.up_proj), (2 * b @ a).chunk(2), strict=True):
            half.weight.data += part
    ref = ref_of_folder(tmp_path / "vit")
    preprocessing = Preprocessing.of(family_named("dinov2").preprocessing(ref.config))
    with torch.no_grad():
        last = merged(torch.stack([preprocessing(image.numpy()) for image in golden["images"]])).last_hidden_state
    assert torch.allclose(golden["features"], last[:, 0], atol=2e-4)


def test_images_are_smooth_and_the_same_everywhere() -> None:
    images = synthetic_images(2, 28)
    assert images.shape == (2, 28, 28, 3)
    assert not np.array_equal(images[0], images[1])
    assert np.abs(np.diff(images[0].astype(int), axis=0)).mean() < 20
    assert (int(images.sum()), images[0, 0, 0].tolist()) == (538024, [168, 170, 182])


@pytest.mark.parametrize(
    ("side", "patch", "count"), [(28, 7, 8), (224, 14, 8), (518, 14, 8), (1024, 16, 2), (2048, 16, 1)]
)
def test_few_large_images_are_computed(side: int, patch: int, count: int) -> None:
    assert candidates(side, {"patch_size": patch}) == count


def test_one_image_is_enough_to_record(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goldens, "_PATCHES", 1)
    write_phase(source)
    assert len(golden_of(source)["images"]) == 1


def test_images_that_take_too_long_end_the_import(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goldens, "SECONDS", 0.0)
    write_phase(source)
    with pytest.raises(BadBundle, match=r"8 images of 28 x 28 pixels.* within 0 s"):
        golden_of(source)
