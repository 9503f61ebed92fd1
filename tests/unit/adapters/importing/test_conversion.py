"""What an import writes: the numbers of the source's own files, every field and tensor, the same bytes each time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from adapters.answer.loaded import LoadedVersion
from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.backbone.features import pool
from adapters.backbone.locate import TINY
from adapters.backbone.preprocess import Preprocessing
from adapters.backbone.resolve import ref_of_folder
from adapters.bank.peft_files import read_adapter
from adapters.bundle import BundleFiles
from adapters.importing import convert
from registry.errors import BackboneNotFound, BadBundle, BadInput, BadWeights
from tests.support.bundles import read_bundle as files_of
from tests.support.importing import PHASE, RELEASE, digests, edited, taken_in
from tests.support.other_adapter_layouts import (
    IMAGES,
    LABELS,
    Reading,
    edit_json,
    write_peft,
    write_phase,
    write_release,
)


def answers_as(version: LoadedVersion, target: str, reading: Reading, *, is_ratio: bool) -> None:
    """Check labels, probabilities, scores and flags against a plain reading of the original files."""
    logits, judged = reading()
    predictions = version.predict(IMAGES, target=[target] * len(IMAGES))
    for row, (raw, threshold), prediction in zip(logits, judged, predictions, strict=True):
        assert prediction.label == LABELS[int(row.argmax())]
        assert list(prediction.probabilities.values()) == pytest.approx(row.softmax(dim=0).tolist(), abs=1e-4)
        expected = raw / threshold if is_ratio else 1 + raw - threshold
        assert prediction.ood_score == pytest.approx(expected, abs=1e-3)
        assert prediction.is_ood == (raw > threshold)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_phase_answers_as_a_plain_reading_of_its_files(source: Path) -> None:
    reading = write_phase(source / "models" / "tomato" / PHASE)
    version, imported = taken_in(source)
    assert [(one.target, one.head, one.detector) for one in imported.adapters] == [("tomato", "linear", "prototype")]
    answers_as(version, "tomato", reading, is_ratio=True)


@pytest.mark.parametrize(("method", "is_ratio"), [("ensemble", False), ("energy", False), ("knn", True)])
def test_a_release_answers_as_a_plain_reading_of_its_files(source: Path, method: str, is_ratio: bool) -> None:
    reading = write_release(source / RELEASE, method=method)
    version, imported = taken_in(source)
    assert [(one.target, one.head, one.detector) for one in imported.adapters] == [("tomato__leaf", "fusion", method)]
    answers_as(version, "tomato__leaf", reading, is_ratio=is_ratio)


def test_a_peft_folder_answers_like_its_image_classifier(source: Path) -> None:
    model = write_peft(source / "maize", labels=LABELS)
    weights = load_file(source / "maize" / "adapter_model.safetensors")
    version, imported = taken_in(source)
    ref = ref_of_folder(TINY / "dinov2-tiny")
    preprocessing = Preprocessing.of(family_named("dinov2").preprocessing(ref.config))
    with torch.no_grad():
        tokens = model(torch.stack([preprocessing(image) for image in IMAGES])).last_hidden_state
    weight, bias = (weights[f"base_model.model.classifier.{name}"] for name in ("weight", "bias"))
    expected = (pool(tokens, "cls+mean", 1) @ weight.T + bias).softmax(dim=1)
    for row, prediction in zip(expected, version.predict(IMAGES, target=["maize"] * len(IMAGES)), strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-4)
        assert prediction.ood_score is None
    assert "no detector" in imported.adapters[0].notes[0]


def test_a_peft_folder_without_a_classifier_gives_features(source: Path) -> None:
    model = write_peft(source)
    version, _ = taken_in(source, target="maize")
    pixels = torch.stack([version.components.preprocessing(image) for image in IMAGES])
    through = version.components.runtime.start(pixels, [version.components.adapters["maize"].slot] * len(IMAGES))
    through.advance(6)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0]
    assert torch.allclose(through.pooled("cls", norm=True), expected, atol=1e-4)
    (prediction,) = version.predict(IMAGES[:1], target=["maize"])
    assert (prediction.outcome, prediction.label) == ("no_adapter", None)


def test_a_whole_tree_of_targets_becomes_one_version(source: Path) -> None:
    readings = {
        f"{crop}__{part}": write_release(source / crop / part / "continual_sd_lora_adapter", seed=seed)
        for seed, (crop, part) in enumerate([("apricot", "fruit"), ("tomato", "leaf")])
    }
    version, _ = taken_in(source)
    assert version.targets == tuple(sorted(readings))
    for target, plain in readings.items():
        answers_as(version, target, plain, is_ratio=False)


@pytest.mark.parametrize("inside", ["", "wrapped/"])
def test_a_state_of_a_module_reads_like_what_peft_saved(source: Path, inside: str) -> None:
    reading = write_phase(source / PHASE)
    path = source / PHASE / "adapter" / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    named = {
        name.replace(".weight", ".default.weight").replace("_vector", "_vector.default"): tensor
        for name, tensor in state.items()
    }
    torch.save({"state_dict": named} if inside else named, path)
    version, _ = taken_in(source, target="tomato")
    answers_as(version, "tomato", reading, is_ratio=True)


def test_statistics_of_earlier_code_give_squared_distances(source: Path) -> None:
    reading = write_phase(source / PHASE)
    path = source / PHASE / "ood_components.pt"
    saved = torch.load(path, weights_only=True)
    prototypes, stds = saved["prototypes"], saved["class_std"]
    thresholds = {0: 900.0, 1: 900.0}  # none for class 2: that code takes 25 then
    torch.save({"prototypes": prototypes, "class_stds": stds, "ood_thresholds": thresholds}, path)

    def judge(embedding: torch.Tensor, logits: torch.Tensor, predicted: int) -> tuple[float, float]:
        covariance = torch.diag(stds[predicted].double() ** 2)
        regular = covariance + torch.eye(96) * max(1e-6, 1e-4 * float(covariance.trace()) / 96)
        centred = (embedding - prototypes[predicted]).double()
        return float(centred @ torch.linalg.inv(regular) @ centred), thresholds.get(predicted, 25.0)

    version, imported = taken_in(source, target="tomato")
    assert "25" in imported.adapters[0].notes[0]
    _, judged = Reading(reading.model, reading.embed, reading.classifier, judge, "dinov2")()
    for (raw, threshold), prediction in zip(judged, version.predict(IMAGES, target="tomato"), strict=True):
        assert prediction.ood_score == pytest.approx(raw / threshold, rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 96), (5,), (0,)], ids=str)
def test_deviations_of_another_shape_are_refused_by_name(source: Path, shape: tuple[int, ...]) -> None:
    write_phase(source / PHASE)
    path = source / PHASE / "ood_components.pt"
    saved = torch.load(path, weights_only=True)
    stds = {**saved["class_std"], 1: torch.ones(shape)}
    thresholds = dict.fromkeys(range(3), 900.0)
    torch.save({"prototypes": saved["prototypes"], "class_stds": stds, "ood_thresholds": thresholds}, path)
    with pytest.raises(BadBundle, match=r"class_stds.* is not a number for each of 96"):
        taken_in(source, target="tomato")


def test_patterns_of_rank_and_alpha_keep_their_meaning(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    edit_json(
        source / "maize" / "adapter_config.json",
        lambda config: config.update(alpha_pattern={"encoder.layer.1.attention.attention.query": 40}),
    )
    taken_in(source)
    config = json.loads((source.parent / "bundle/adapters/maize/adapter_config.json").read_text())
    assert config["alpha_pattern"] == {"encoder.layer.1.attention.q_proj": 40}
    assert LoraConfig(**{name: config[name] for name in ("r", "target_modules", "alpha_pattern")})


def test_a_file_named_like_one_of_ours_is_kept_aside(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    (source / "maize" / "head.json").write_text("{}")
    (source / "maize" / "exits").mkdir()
    (source / "maize" / "exits" / "note.txt").write_text("door")
    taken_in(source)
    place = source.parent / "bundle/adapters/maize/source"
    assert ((place / "head.json").read_text(), (place / "exits/note.txt").read_text()) == ("{}", "door")


@pytest.mark.parametrize("form", [list, torch.tensor, lambda values: dict(zip(LABELS, values, strict=True))])
def test_thresholds_come_in_several_forms(phase: Path, form: Callable[[list[float]], Any]) -> None:
    path = phase / "ood_components.pt"
    torch.save(torch.load(path, weights_only=True) | {"thresholds": form([3.0, 4.0, 5.0])}, path)
    taken_in(phase, target="tomato")
    written = load_file(phase.parent / "bundle/adapters/tomato/ood.safetensors")
    assert written["thresholds"].tolist() == [3.0, 4.0, 5.0]


def test_an_old_version_folder_keeps_its_notes_and_sources(made: Path, source: Path) -> None:
    shutil.copytree(made / "phase", source / "models" / "tomato" / PHASE)
    (source / "src").mkdir()
    (source / "src" / "router.py").write_text("def route(): ...\n")
    (source / "optimizer.pt").write_bytes(b"\x80\x04.")
    (source / "version.json").write_text(json.dumps({"version": "5.5.1", "description": "old"}))
    _, imported = taken_in(source)
    assert imported.version == {"version": "5.5.1", "description": "old"}
    assert (source.parent / "bundle/project/src/router.py").read_text() == "def route(): ...\n"
    assert imported.left_out == ("optimizer.pt",)


def test_what_the_source_states_about_its_images_is_taken(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    processor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}, "resample": 2}
    (source / "maize" / "preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": [0.5, 0.5, 0.5]}))
    taken_in(source)
    stated = json.loads((source.parent / "bundle/config/preprocessing.json").read_text())
    assert (stated["resize"], stated["crop"], stated["interpolation"]) == (32, 28, "bilinear")
    assert (stated["mean"], stated["std"]) == ([0.5] * 3, [0.229, 0.224, 0.225])
    kept = json.loads((source.parent / "bundle/adapters/maize/preprocessor_config.json").read_text())
    assert kept["resample"] == 2


def test_a_statement_for_the_whole_source_applies_to_all(made: Path, source: Path) -> None:
    shutil.copytree(made / "phase", source / "tomato" / PHASE)
    (source / "data").mkdir()
    normal = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    (source / "data" / "dataset_metadata.json").write_text(
        json.dumps({"image_size": [28, 28], "normalization": normal, "crops": ["tomato"]})
    )
    _, imported = taken_in(source)
    stated = json.loads((source.parent / "bundle/config/preprocessing.json").read_text())
    assert (stated["crop"], stated["mean"], stated["std"]) == (28, normal["mean"], normal["std"])
    assert (source.parent / "bundle/config/source/data/dataset_metadata.json").exists()
    assert imported.left_out == ()


def test_adapters_with_different_preprocessing_are_refused(source: Path) -> None:
    for crop, side in (("maize", 28), ("wheat", 21)):
        write_phase(source / crop / PHASE, image_size=[side, side])
    with pytest.raises(BadBundle, match="maize and wheat preprocess images differently"):
        convert(source, source.parent / "bundle")


# --- nothing is lost -------------------------------------------------------------------------------------------------


def test_every_field_and_tensor_is_somewhere(made: Path, source: Path) -> None:
    shutil.copytree(made / "phase", source / "tomato" / PHASE)
    taken_in(source)
    place = source.parent / "bundle/adapters/tomato"
    kept = json.loads((place / "source_meta.json").read_text())
    assert kept["adapter_meta.json"]["farm"] == "north"
    assert kept["ood_components.pt"]["calibrated_on"] == "validation"
    assert kept["adapter_config.json"]["target_modules"] == ["query", "value"]
    saved = torch.load(source / "tomato" / PHASE / "ood_components.pt", weights_only=True)
    tensors = load_file(place / "source.safetensors")
    assert torch.equal(tensors["prototypes"], saved["prototypes"])
    assert torch.equal(tensors["mahalanobis.covariance"], saved["mahalanobis"]["covariance"])
    assert torch.equal(tensors["class_std.1"], saved["class_std"][1])


def test_banks_leave_the_json_and_its_numbers_stay(made: Path, source: Path) -> None:
    shutil.copytree(made / "release", source / RELEASE)
    taken_in(source)
    place = source.parent / "bundle/adapters/tomato__leaf"
    original = json.loads((source / RELEASE / "adapter_meta.json").read_text())
    kept = json.loads((place / "source_meta.json").read_text())["adapter_meta.json"]
    stats = original["ood_state"]["class_stats"]
    for fields in stats.values():
        for name in ("mean", "var", "knn_bank"):
            fields.pop(name)
    assert kept == original
    written = load_file(place / "source.safetensors")
    assert written["class_stats.rust.knn_bank"].shape == (7, 24)
    for name in ("README.md", "DINOV3_LICENSE.md", "production_readiness.json"):
        assert (place / name).read_bytes() == (source / RELEASE / name).read_bytes()


def test_the_same_source_gives_the_same_bytes_wherever_it_lies(made: Path, source: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "release", source / RELEASE)
    edit_json(source / RELEASE / "adapter_meta.json", lambda meta: meta.update(trained_in="/home/ann/run7"))
    shutil.copytree(source, tmp_path / "elsewhere" / "copy")
    for start, bundle in ((source, "first"), (tmp_path / "elsewhere" / "copy", "second")):
        convert(start, tmp_path / bundle)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    assert not any(b"/home" in path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file())


def test_the_source_is_left_as_it_was(made: Path, source: Path) -> None:
    shutil.copytree(made / "phase", source / "tomato" / PHASE)
    before = digests(source)
    taken_in(source)
    assert digests(source) == before


def test_files_that_are_not_read_are_copied_or_listed(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    shutil.copytree(made / "release", source / "wheat")
    for name in ("maize/ood_components.pt", "maize/adapter_model.bin", "wheat/ood_components.pt"):
        torch.save({"thresholds": 1.0}, source / name)
    assert convert(source / "maize", source.parent / "first").left_out == ("adapter_model.bin", "ood_components.pt")
    assert convert(source / "wheat", source.parent / "second", target="wheat").left_out == ("ood_components.pt",)


def test_a_second_description_of_an_adapter_is_kept(phase: Path) -> None:
    (phase / "adapter" / "adapter_meta.json").write_text('{"inner": 1}')
    taken_in(phase, target="tomato")
    kept = phase.parent / "bundle/adapters/tomato/adapter/adapter_meta.json"
    assert json.loads(kept.read_text()) == {"inner": 1}


def test_a_program_of_the_project_can_still_be_run(made: Path, source: Path) -> None:
    shutil.copytree(made / "phase", source / "models" / "tomato" / PHASE)
    (source / "version.json").write_text("{}")
    (source / "rollback.sh").write_text("#!/bin/sh\n")
    (source / "rollback.sh").chmod(0o755)
    taken_in(source)
    assert (source.parent / "bundle/project/rollback.sh").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("place", ["/home/ann/dinov2-base", "C:\\models\\dinov2-base", "../dinov2-base"])
def test_a_backbone_s_folder_of_another_machine_is_asked_for(made: Path, source: Path, place: str) -> None:
    shutil.copytree(made / "peft", source / "maize")
    edited(base_model_name_or_path=place)(source / "maize" / "adapter_config.json")
    with pytest.raises(BackboneNotFound, match=r"adapter_config\.json names the folder") as refusal:
        convert(source, source.parent / "bundle")
    assert "--backbone" in refusal.value.hint


def test_a_backbone_that_is_nowhere_is_named(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    config = source / "maize" / "adapter_config.json"
    edit_json(config, lambda it: it.update(base_model_name_or_path="dinov2-nowhere"))
    with pytest.raises(BackboneNotFound, match="dinov2-nowhere"):
        convert(source, source.parent / "bundle")
    edit_json(config, lambda it: it.update(base_model_name_or_path=None))
    with pytest.raises(BadInput, match="names no backbone") as refusal:
        convert(source, source.parent / "again")
    assert "--backbone" in refusal.value.hint
    assert convert(source, source.parent / "said", backbone=str(TINY / "dinov2-tiny")).backbone == "dinov2-tiny"


def test_the_wrong_backbone_is_refused(made: Path, source: Path) -> None:
    shutil.copytree(made / "phase", source / "tomato" / PHASE)
    with pytest.raises(BadWeights, match=r"phase3_conec_lora_adapter.*dinov3-tiny"):
        convert(source, source.parent / "bundle", backbone="dinov3-tiny")


def test_adapters_of_two_backbones_are_no_version(made: Path, source: Path) -> None:
    for crop, backbone in (("maize", "dinov2-tiny"), ("wheat", "another")):
        shutil.copytree(made / "peft", source / crop)
        edit_json(
            source / crop / "adapter_config.json", lambda it, name=backbone: it.update(base_model_name_or_path=name)
        )  # type: ignore[misc]
    with pytest.raises(BadBundle, match="different backbones"):
        convert(source, source.parent / "bundle")


def test_an_adapter_that_would_change_nothing_is_refused(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    path = source / "maize" / "adapter_model.safetensors"
    save_file({name: tensor * ("lora_A" in name) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(BadWeights, match="would change nothing"):
        convert(source, source.parent / "bundle")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"(query|value)": 64}, {"q_proj": 32.0, "o_proj": 1.0}),
        ({"layer.3.attention.output.dense": 8, "dense": 64}, {"q_proj": 1.0, "o_proj": 32.0}),
        ({"output.dense": 64, "layer.3.attention.output.dense": 8}, {"q_proj": 1.0, "o_proj": 32.0}),
    ],
)
def test_patterns_mean_after_the_import_what_they_meant_to_peft(
    patterns: dict[str, float], expected: dict[str, float], tmp_path: Path
) -> None:
    """The first pattern that matches counts: neither names nor their order in the new file may change which that is."""
    source, config = tmp_path / "maize", {"alpha_pattern": patterns, "lora_alpha": 2, "r": 2}
    write_peft(source)
    path = source / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    convert(source, tmp_path / "bundle")
    family = family_named("dinov2")
    linears = family.linears_of(new_model(ref_of_folder(TINY / "dinov2-tiny")))
    weights = read_adapter(BundleFiles(files_of(tmp_path / "bundle")), "adapters/maize", family, linears)
    first = next(iter(patterns))
    for name, module in weights.modules.items():
        scale = expected[name.rpartition(".")[2]]
        is_exception = "layer.3" in first and ".3.attention.o_proj" in name
        assert module.scale == (4.0 if is_exception else scale)
