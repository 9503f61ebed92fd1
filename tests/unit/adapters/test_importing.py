"""Adapters of other layouts become bundles that answer as their own systems do; what is unsound is refused whole."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from adapters.answer.features import pool
from adapters.answer.loaded import LoadedVersion, load_bundle
from adapters.backbone.backbones import TINY, new_model, ref_of_folder
from adapters.backbone.families import family_named
from adapters.backbone.preprocess import Preprocessing
from adapters.bank.lora import read_adapter
from adapters.bundle import BundleFiles
from adapters.importing import Imported, convert, reading
from adapters.importing.reading import by_class
from registry.errors import BackboneNotFound, BadBundle, BadInput, BadWeights, UloraError
from registry.formats.canonical import sha256
from registry.versions.bundle import read_bundle
from tests.support.bundles import read_bundle as files_of
from tests.support.bundles import write_bundle
from tests.support.foreign import IMAGES, LABELS, Reading, edit_json, write_peft, write_phase, write_release

PHASE = "phase3_conec_lora_adapter"
RELEASE = "tomato/leaf/continual_sd_lora_adapter"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter of each layout, to be copied by tests that only spoil it."""
    folder = tmp_path_factory.mktemp("made")
    write_phase(folder / "phase")
    write_release(folder / "release")
    write_peft(folder / "peft")
    return folder


@pytest.fixture
def phase(made: Path, source: Path) -> Path:
    return shutil.copytree(made / "phase", source)


@pytest.fixture
def release(made: Path, source: Path) -> Path:
    return shutil.copytree(made / "release", source)


def taken_in(source: Path, **hints: Any) -> tuple[LoadedVersion, Imported]:
    bundle = source.parent / "bundle"
    imported = convert(source, bundle, **hints)
    read_bundle(bundle)
    return load_bundle(files_of(bundle)), imported


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


def answers_as(version: LoadedVersion, target: str, reading: Reading, *, is_ratio: bool) -> None:
    """Check labels, probabilities, scores and flags against a plain reading of the original files."""
    logits, judged = reading()
    predictions = version.predict(IMAGES, [target] * len(IMAGES))
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


def test_a_peft_folder_answers_as_an_image_classifier_on_cls_and_mean(source: Path) -> None:
    model = write_peft(source / "maize", labels=LABELS)
    weights = load_file(source / "maize" / "adapter_model.safetensors")
    version, imported = taken_in(source)
    ref = ref_of_folder(TINY / "dinov2-tiny")
    preprocessing = Preprocessing.of(family_named("dinov2").preprocessing(ref.config))
    with torch.no_grad():
        tokens = model(torch.stack([preprocessing(image) for image in IMAGES])).last_hidden_state
    weight, bias = (weights[f"base_model.model.classifier.{name}"] for name in ("weight", "bias"))
    expected = (pool(tokens, "cls+mean", 1) @ weight.T + bias).softmax(dim=1)
    for row, prediction in zip(expected, version.predict(IMAGES, ["maize"] * len(IMAGES)), strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-4)
        assert prediction.ood_score is None
    assert "no detector" in imported.adapters[0].notes[0]


def test_a_peft_folder_without_a_classifier_gives_features_and_no_label(source: Path) -> None:
    model = write_peft(source)
    version, _ = taken_in(source, target="maize")
    pixels = torch.stack([version.parts.preprocessing(image) for image in IMAGES])
    through = version.parts.runtime.start(pixels, [version.parts.adapters["maize"].slot] * len(IMAGES))
    through.advance(6)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0]
    assert torch.allclose(through.pooled("cls", norm=True), expected, atol=1e-4)
    (prediction,) = version.predict(IMAGES[:1], ["maize"])
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


def test_statistics_of_the_system_s_earlier_code_give_squared_distances(source: Path) -> None:
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
    for (raw, threshold), prediction in zip(judged, version.predict(IMAGES, ["tomato"] * len(IMAGES)), strict=True):
        assert prediction.ood_score == pytest.approx(raw / threshold, rel=1e-3)


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


# --- what is found ---------------------------------------------------------------------------------------------------


def test_the_last_trained_phase_is_taken_and_the_others_are_left_out(source: Path) -> None:
    for phase, name in enumerate(["phase1_dora_adapter", "phase2_sd_lora_adapter", PHASE], start=1):
        write_phase(source / "models" / name, seed=phase, phase=phase, is_trained=phase < 3, crop_name="Tomato")
    _, imported = taken_in(source)
    (adapter,) = imported.adapters
    assert (adapter.target, adapter.folder) == ("tomato", "models/phase2_sd_lora_adapter")
    assert set(imported.left_out) == {f"models/{name}" for name in ("phase1_dora_adapter", PHASE)}


@pytest.mark.parametrize(
    ("layout", "place", "start", "target"),
    [
        ("phase", f"tomato/{PHASE}", "tomato", "tomato"),
        ("phase", f"tomato/{PHASE}", f"tomato/{PHASE}", "tomato"),
        ("phase", f"tomato/models/{PHASE}", "tomato", "tomato"),
        ("phase", f"models/tomato/{PHASE}", "", "tomato"),
        ("release", RELEASE, "", "tomato__leaf"),
        ("release", RELEASE, RELEASE, "tomato__leaf"),
        ("release", f"models/adapters/{RELEASE}", "", "tomato__leaf"),
        ("release", "tomato/continual_sd_lora_adapter", "", "tomato"),
        ("peft", "maize", "maize", "maize"),
        ("peft", "maize/adapter", "maize/adapter", "maize"),
        ("peft", "maize/lora", "", "maize"),
    ],
)
def test_targets_are_named_by_the_folders_around_them(
    made: Path, source: Path, layout: str, place: str, start: str, target: str
) -> None:
    shutil.copytree(made / layout, source / place)
    imported = convert(source / start, source.parent / "bundle")
    assert [adapter.target for adapter in imported.adapters] == [target]


def test_a_name_that_can_t_be_a_target_asks_for_one(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "my lora")
    with pytest.raises(BadInput, match=r"my lora.*name can't be told") as refusal:
        convert(source / "my lora", source.parent / "bundle")
    assert "--target" in refusal.value.hint
    convert(source / "my lora", source.parent / "again", target="maize")


def test_one_name_can_t_be_for_two_adapters(made: Path, source: Path) -> None:
    for name in ("maize", "wheat"):
        shutil.copytree(made / "peft", source / name)
    with pytest.raises(BadInput, match="there are 2: maize, wheat"):
        convert(source, source.parent / "bundle", target="maize")


def test_checkpoints_inside_an_adapter_are_left_out(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    shutil.copytree(made / "peft", source / "maize" / "checkpoint-500")
    _, imported = taken_in(source)
    assert ([adapter.target for adapter in imported.adapters], imported.left_out) == (
        ["maize"],
        ("maize/checkpoint-500",),
    )
    assert not (source.parent / "bundle/adapters/maize/checkpoint-500").exists()


def test_a_file_named_like_one_of_ours_is_kept_aside(made: Path, source: Path) -> None:
    shutil.copytree(made / "peft", source / "maize")
    (source / "maize" / "head.json").write_text("{}")
    (source / "maize" / "exits").mkdir()
    (source / "maize" / "exits" / "note.txt").write_text("door")
    taken_in(source)
    place = source.parent / "bundle/adapters/maize/source"
    assert ((place / "head.json").read_text(), (place / "exits/note.txt").read_text()) == ("{}", "door")


def test_a_bundle_further_down_is_pointed_to(source: Path) -> None:
    write_bundle(source / "inner", targets=("low",))
    with pytest.raises(BadBundle, match="holds a bundle") as refusal:
        convert(source, source.parent / "bundle")
    assert refusal.value.hint.endswith("inner")


@pytest.mark.parametrize("form", [list, torch.tensor, lambda values: dict(zip(LABELS, values, strict=True))])
def test_thresholds_come_in_several_forms(phase: Path, form: Callable[[list[float]], Any]) -> None:
    path = phase / "ood_components.pt"
    torch.save(torch.load(path, weights_only=True) | {"thresholds": form([3.0, 4.0, 5.0])}, path)
    taken_in(phase, target="tomato")
    written = load_file(phase.parent / "bundle/adapters/tomato/ood.safetensors")
    assert written["thresholds"].tolist() == [3.0, 4.0, 5.0]


def test_an_old_version_folder_brings_its_story_and_its_source_tree(made: Path, source: Path) -> None:
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


def test_what_is_stated_for_a_whole_tree_holds_for_all_its_adapters(made: Path, source: Path) -> None:
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


def test_adapters_that_prepare_their_images_differently_are_no_version(source: Path) -> None:
    for crop, side in (("maize", 28), ("wheat", 21)):
        write_phase(source / crop / PHASE, image_size=[side, side])
    with pytest.raises(BadBundle, match="maize and wheat prepare their images differently"):
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


# --- refusals --------------------------------------------------------------------------------------------------------


class Hostile:
    """A pickle of it runs code where it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def compress(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def more_classes(path: Path) -> None:
    edit_json(path, lambda meta: meta["class_to_idx"].update(scab=3))


def gap_in_classes(path: Path) -> None:
    edit_json(path, lambda meta: meta["class_to_idx"].update(rust=7))


def flip_a_bit(path: Path) -> None:
    """In the numbers of the largest tensor, which torch reads without looking at its checksum."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data[largest.header_offset + 256] ^= 1
    path.write_bytes(data)


def edited(**fields: Any) -> Callable[[Path], None]:
    return lambda path: edit_json(path, lambda document: document.update(fields))


def renamed(*names: tuple[str, str]) -> Callable[[Path], None]:
    """A second tensor under another name beside the first that has the first part of a pair in its name."""

    def change(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        first = next(name for name in state if all(old in name for old, _ in names))
        other = first
        for old, new in names:
            other = other.replace(old, new)
        torch.save(state | {other: state[first] + 1}, path)

    return change


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return spoil


def cyclic(content: dict[str, Any]) -> None:
    content["state_dict"] = content


def not_a_number(path: Path) -> None:
    edit_json(path, lambda meta: meta.update(temperature=float("nan")))


def save(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


LINEAR = {"weight": torch.randn(3, 96), "bias": torch.randn(3)}
PHASE_FILES: list[tuple[str, Callable[[Path], None], str]] = [
    ("classifier.pth", truncate, "no sound file"),
    ("classifier.pth", flip_a_bit, "damaged"),
    ("classifier.pth", changed(cyclic), "too deep"),
    ("classifier.pth", save(LINEAR | {"weight": torch.full((3, 96), 1e300, dtype=torch.float64)}), "not finite"),
    ("classifier.pth", save(LINEAR | {"weight": torch.zeros(3, 96, dtype=torch.complex64)}), "no plain tensor"),
    ("classifier.pth", save(LINEAR | {"\ud800": torch.zeros(3)}), "lone surrogate|no sound file"),
    ("ood_components.pt", flip_a_bit, "damaged"),
    ("ood_components.pt", changed(lambda it: it.update({5: 1, "5": 2})), "same text"),
    ("ood_components.pt", changed(lambda it: it.update(__metadata__=torch.zeros(2))), "no plain tensor"),
    ("ood_components.pt", changed(lambda it: it.update(mahalanobis=[1])), "mahalanobis is no dictionary"),
    ("ood_components.pt", changed(lambda it: it.update(thresholds={"0": 1.0, 0: 2.0})), "same text"),
    ("ood_components.pt", changed(lambda it: it.update(thresholds={"scab": 1.0})), "none of the 3 classes"),
    ("ood_components.pt", changed(lambda it: it.update(thresholds={0: 1e300})), "not a number"),
    ("ood_components.pt", changed(lambda it: it.update({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)})), "two"),
    ("adapter/pytorch_model.bin", renamed((".weight", ".other.weight"), ("lora_A", "lora_A")), "mean the same"),
    ("adapter/pytorch_model.bin", renamed(("base_model.model.", "")), "mean the same"),
    ("adapter/pytorch_model.bin", renamed(("attention.attention.query", "attention.q_proj")), "transformers 5"),
    ("adapter/pytorch_model.bin", renamed(("base_model.model.", "base_model.model.dinov2.")), "transformers 5"),
    ("adapter/pytorch_model.bin", renamed(("lora_B.weight", "lora_B.bias")), "neither LoRA nor"),
    (
        "adapter/pytorch_model.bin",
        changed(lambda it: it.update({f"{n}classifier.weight": torch.ones(3, 96) for n in ("", "head.")})),
        "mean the same",
    ),
    ("adapter/adapter_config.json", edited(lora_alpha=10**200), "64 bits"),
    ("adapter/adapter_config.json", edited(task_type="\ud800"), "lone surrogate"),
    ("adapter_meta.json", lambda path: path.write_text('{"a":' * 900 + "1" + "}" * 900), "too deep|nested|JSON"),
    ("classifier.pth", compress, "compressed archive"),
    ("classifier.pth", lambda path: path.write_bytes(b"no archive"), "no sound file"),
    ("classifier.pth", save(LINEAR | {"weight": torch.full((3, 96), float("nan"))}), "not finite"),
    ("classifier.pth", save(LINEAR | {"weight": torch.zeros(1).expand(3, 10**12)}), "more than the"),
    ("classifier.pth", save(LINEAR | {"weight": torch.randn(3, 96).to_sparse()}), "no plain tensor"),
    ("classifier.pth", save(LINEAR | {"weight": torch.randn(3, 50)}), "classifier_input_size 96"),
    ("classifier.pth", save(LINEAR | {"gate": torch.randn(3)}), "no single linear layer"),
    ("classifier.pth", save([1, 2]), "no names with tensors"),
    ("adapter_meta.json", more_classes, "3 classes apart, but adapter_meta.json names 4"),
    ("adapter_meta.json", gap_in_classes, "from 0 to 2"),
    ("adapter_meta.json", not_a_number, "NaN"),
    ("adapter_meta.json", truncate, "not valid JSON"),
    ("adapter_meta.json", lambda path: edit_json(path, lambda meta: meta.pop("class_to_idx")), "class_to_idx"),
    ("ood_components.pt", truncate, "no sound file"),
    ("ood_components.pt", save({"thresholds": 3.0}), "prototypes"),
    ("ood_components.pt", save({"mahalanobis": {"mean": torch.zeros(96)}, "thresholds": 1.0}), "covariance"),
    ("ood_components.pt", save({"thresholds": {0: -1.0}}), "not positive"),
    ("adapter/pytorch_model.bin", truncate, "no sound file"),
    ("adapter/pytorch_model.bin", save({"encoder.layer.0.norm1.weight": torch.ones(96)}), "neither LoRA nor"),
    ("adapter/pytorch_model.bin", save({"layer.lora_A.weight": torch.ones(4, 96)}), "does not fit"),
    ("adapter/pytorch_model.bin", Path.unlink, "none of"),
    ("adapter/adapter_config.json", lambda path: edit_json(path, lambda it: it.update(r=5)), "shapes"),
    ("adapter/adapter_config.json", lambda path: edit_json(path, lambda it: it.update(peft_type="IA3")), "not LORA"),
    (
        "adapter/adapter_config.json",
        lambda path: edit_json(path, lambda it: it.update(lora_alpha={})),
        "alpha|malformed",
    ),
]
RELEASE_FILES: list[tuple[str, Callable[[Path], None], str]] = [
    ("fusion.pth", truncate, "no sound file"),
    ("fusion.pth", save({"scale_logits": torch.zeros(4)}), "norm.weight"),
    ("classifier.pth", save({"weight": torch.randn(3, 25), "bias": torch.randn(3)}), "takes 25"),
    ("classifier.pth", Path.unlink, "no classifier.pth"),
    ("adapter_meta.json", edited(ood_state=[1]), "ood_state is no object"),
    ("adapter_meta.json", edited(ood_state={"class_stats": [1]}), "class_stats is no object"),
    ("adapter_meta.json", edited(fusion=[2, 5, 8, 11]), "fusion is no object"),
    ("adapter_model.safetensors", truncate, "truncated"),
    ("adapter_meta.json", not_a_number, "NaN"),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"]["class_stats"]["1"].update(mean=[0.0] * 23)),
        "mean of rust has the shape",
    ),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"]["class_stats"].update({"9": {}})),
        "none of the 3 classes",
    ),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"].update(primary_score_method="vim")),
        "'vim' is not one of",
    ),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"].update(primary_score_method=["knn"])),
        "is not one of",
    ),
    (
        "adapter_meta.json",
        lambda path: edit_json(path, lambda it: it["ood_state"].update(react_enabled=True)),
        "ReAct",
    ),
]


def refused(source: Path, place: str, spoil: Callable[[Path], object], says: str) -> None:
    spoil(source / place)
    with pytest.raises(UloraError, match=says) as refusal:
        convert(source, source.parent / "bundle", target="tomato")
    assert isinstance(refusal.value, BadBundle | BadWeights | BadInput)
    assert Path(place).parts[0] in str(refusal.value), "a refusal names the file"


@pytest.mark.parametrize(("place", "spoil", "says"), PHASE_FILES)
def test_an_unsound_file_of_a_phase_is_refused(
    phase: Path, place: str, spoil: Callable[[Path], object], says: str
) -> None:
    refused(phase, place, spoil, says)


@pytest.mark.parametrize(("place", "spoil", "says"), RELEASE_FILES)
def test_an_unsound_file_of_a_release_is_refused(
    release: Path, place: str, spoil: Callable[[Path], object], says: str
) -> None:
    refused(release, place, spoil, says)


@pytest.mark.parametrize("name", ["classifier.pth", "ood_components.pt", "adapter/pytorch_model.bin"])
@pytest.mark.parametrize("how", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_never_run(phase: Path, name: str, how: Callable[[Any, Path], object]) -> None:
    marker = phase.parent / "it-ran"
    how({"weight": Hostile(marker)}, phase / name)
    with pytest.raises(BadWeights, match=Path(name).name):
        convert(phase, phase.parent / "bundle", target="tomato")
    assert not marker.exists()


def test_a_file_over_the_bounds_is_refused_unread(phase: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_JSON", 50)
    with pytest.raises(BadBundle, match="more than the 50 that are allowed"):
        convert(phase, phase.parent / "bundle", target="tomato")
    monkeypatch.undo()
    monkeypatch.setattr(reading, "MAX_WEIGHTS", 2000)
    with pytest.raises(BadWeights, match="more than the 2000 that are allowed"):
        convert(phase, phase.parent / "bundle", target="tomato")


def test_numbers_of_a_score_that_could_not_be_computed_are_kept_as_text(phase: Path) -> None:
    changed(lambda it: it.update(metrics={"auroc": float("nan"), "tags": {"b", "a"}}))(phase / "ood_components.pt")
    taken_in(phase, target="tomato")
    kept = json.loads((phase.parent / "bundle/adapters/tomato/source_meta.json").read_text())
    assert kept["ood_components.pt"]["metrics"] == {"auroc": "nan", "tags": ["a", "b"]}


def test_tensors_anywhere_in_a_file_are_kept_as_tensors(phase: Path) -> None:
    changed(lambda it: it.update(history={"runs": [{"mean": torch.ones(3)}, 2]}))(phase / "ood_components.pt")
    taken_in(phase, target="tomato")
    place = phase.parent / "bundle/adapters/tomato"
    assert torch.equal(load_file(place / "source.safetensors")["history.runs.0.mean"], torch.ones(3))
    kept = json.loads((place / "source_meta.json").read_text())
    assert kept["ood_components.pt"]["history"] == {"runs": [{"mean": None}, 2]}


@pytest.mark.parametrize("keys", [range(4), "0123"])
def test_numbers_of_classes_are_no_labels_that_look_like_numbers(keys: Any) -> None:
    labels = ("0", "1", "10", "2")  # as folders are sorted
    assert by_class({key: float(key) for key in keys}, labels, "it") == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}


def test_labels_that_look_like_numbers_are_labels_otherwise() -> None:
    labels = ("0", "1", "10", "2")
    assert by_class({label: label for label in labels}, labels, "it") == dict(enumerate(labels))
    assert by_class({"2": "two"}, labels, "it") == {3: "two"}
    assert by_class({"2": "two", "rust": "one"}, LABELS, "it") == {2: "two", 1: "one"}
    with pytest.raises(BadBundle, match="none of the 4"):
        by_class({"3": 1.0}, labels, "it")


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


def test_a_link_could_lead_out_of_the_folder_and_is_refused(made: Path, source: Path) -> None:
    shutil.copytree(made / "release", source / RELEASE)
    secret = source.parent / "secret"
    secret.write_text("key")
    (source / RELEASE / "NOTICE.md").symlink_to(secret)
    with pytest.raises(BadBundle, match=r"NOTICE\.md is a link"):
        convert(source, source.parent / "bundle")


def test_a_folder_that_holds_nothing_known_is_told_what_is(source: Path) -> None:
    source.mkdir()
    (source / "model.onnx").write_bytes(b"")
    with pytest.raises(BadBundle, match="no adapter that is understood") as refusal:
        convert(source, source.parent / "bundle")
    for word in ("bundle", "phase", "continual_sd_lora_adapter", "PEFT", "models:/", "version.json"):
        assert word in refusal.value.hint


def test_two_layouts_in_one_tree_are_refused(made: Path, source: Path) -> None:
    shutil.copytree(made / "phase", source / "tomato" / PHASE)
    shutil.copytree(made / "release", source / RELEASE)
    with pytest.raises(BadBundle, match="different layouts"):
        convert(source, source.parent / "bundle")


def test_phases_of_which_none_is_trained_are_refused(source: Path) -> None:
    write_phase(source / "tomato" / PHASE, is_trained=False)
    with pytest.raises(BadBundle, match="no phase that is trained"):
        convert(source, source.parent / "bundle")


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
