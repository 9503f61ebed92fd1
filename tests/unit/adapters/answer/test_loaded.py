"""A loaded version answers as PEFT would, whatever is in the batch, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.numpy import load_file

from adapters import bundle
from adapters.answer.batching import predict_together
from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load, load_bundle
from adapters.answer.predictions import Prediction
from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.backbone.features import pool
from adapters.backbone.locate import TINY
from adapters.backbone.preprocess import Preprocessing
from adapters.backbone.resolve import ref_of_folder
from registry.errors import BadInput, BadManifest, BadWeights, CorruptBlob, MissingBlob, SelfTestFailed
from registry.formats import canonical
from registry.serving import loaders
from registry.versions.weights import weights_sha256
from tests.support.bundles import LABELS, add_goldens, manifest_of, noise, png, read_bundle, write_bundle
from tests.support.equal_answers import assert_equal_answers

TARGETS = ("low", "mid", "high")
MODULES = [f"{layer}.{module}" for layer in range(6) for module in ("q_proj", "v_proj")]
IMAGES = [noise(seed) for seed in range(9)]
ROWS = [TARGETS[row % 3] for row in range(9)]


def loaded(folder: Path) -> LoadedVersion:
    return load(manifest_of(folder), read_bundle(folder))


def logits(version: LoadedVersion, target: str, images: list[np.ndarray]) -> np.ndarray:
    return version.golden_outputs(np.stack(images), target)["logits"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def version(folder: Path) -> LoadedVersion:
    return loaded(folder)


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """A bundle of the test's own, to be spoiled."""
    return write_bundle(tmp_path / "bundle")


def test_it_says_what_it_is(version: LoadedVersion, folder: Path) -> None:
    assert version.version == "v1.0.0-dinov3"
    assert version.content_sha256 == manifest_of(folder).content_sha256
    assert version.targets == ("high", "low", "mid")
    assert version.labels == LABELS
    assert version.backbone.sha256 == ref_of_folder(TINY / "dinov3-tiny").sha256
    assert (version.device, version.runtime) == ("cpu", "torch-fp32")


def test_memory_is_tensor_bytes_plus_a_scale_per_module(version: LoadedVersion, folder: Path) -> None:
    for target, size in version.memory.items():
        tensors = [load_file(path) for path in (folder / "adapters" / target).glob("*.safetensors")]
        assert size == sum(array.nbytes for file in tensors for array in file.values()) + 4 * len(MODULES)


@pytest.mark.parametrize("family", ["dinov2", "dinov3"])
@pytest.mark.parametrize("target", TARGETS)
def test_it_computes_what_plain_peft_computes(family: str, target: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", family=family)
    inner = folder / "adapters" / target
    ref = ref_of_folder(TINY / f"{family}-tiny")
    plain = PeftModel.from_pretrained(new_model(ref), inner).eval()
    preprocessing = Preprocessing.of(json.loads((folder / bundle.PREPROCESSING).read_text()))
    head = load_file(inner / "head.safetensors")
    with torch.no_grad():
        tokens = plain(pixel_values=torch.stack([preprocessing(image) for image in IMAGES])).last_hidden_state
    features = pool(tokens, "cls+mean", family_named(family).prefix_tokens(ref.config)).numpy()
    expected = features @ head["weight"].T + head["bias"]
    assert logits(loaded(folder), target, IMAGES) == pytest.approx(expected, abs=1e-4)


def test_an_adapter_changes_the_answers(version: LoadedVersion) -> None:
    base, low, mid = (version.features(IMAGES, target) for target in (None, "low", "mid"))
    assert np.abs(base - low).max() > 0.01
    assert np.abs(low - mid).max() > 0.01


def test_a_mixed_batch_gives_each_row_what_it_gets_alone(version: LoadedVersion) -> None:
    mixed = version.predict(IMAGES, target=ROWS)
    alone = [version.predict([image], target=[target])[0] for image, target in zip(IMAGES, ROWS, strict=True)]
    for together, single in zip(mixed, alone, strict=True):
        assert (together.target, together.label, together.is_ood) == (single.target, single.label, single.is_ood)
        assert list(together.probabilities.values()) == pytest.approx(list(single.probabilities.values()), abs=1e-4)
        assert together.ood_score == pytest.approx(single.ood_score, abs=1e-4)


def test_both_families_run_in_one_process(folder: Path, version: LoadedVersion, tmp_path: Path) -> None:
    before = logits(version, "low", IMAGES)
    other = loaded(write_bundle(tmp_path / "other", family="dinov2"))
    assert not np.allclose(logits(other, "low", IMAGES), before)
    assert np.array_equal(logits(version, "low", IMAGES), before)


def test_versions_on_one_backbone_share_only_its_weights(version: LoadedVersion, tmp_path: Path) -> None:
    other = loaded(write_bundle(tmp_path / "other", seed=1))
    assert other.components.runtime is version.components.runtime
    ours, theirs = ({id(one.components.adapters[target].slot) for target in TARGETS} for one in (version, other))
    assert not ours & theirs
    assert not np.allclose(logits(other, "low", IMAGES), logits(version, "low", IMAGES))


def test_one_pass_serves_rows_of_different_versions(version: LoadedVersion, tmp_path: Path) -> None:
    other = loaded(write_bundle(tmp_path / "other", seed=1))
    mixed = predict_together([version, other] * 4, [IMAGES[0]] * 8, ["low", "mid"] * 4)
    alone = [version.predict([IMAGES[0]], target=["low"])[0], other.predict([IMAGES[0]], target=["mid"])[0]] * 4
    for together, single in zip(mixed, alone, strict=True):
        assert (together.version, together.label) == (single.version, single.label)
        assert list(together.probabilities.values()) == pytest.approx(list(single.probabilities.values()), abs=1e-4)


def test_rows_are_read_by_their_versions_and_answered_together(version: LoadedVersion, tmp_path: Path) -> None:
    other = loaded(write_bundle(tmp_path / "other", family="dinov2", seed=1))
    rows = [other.prepare(IMAGES[0], "low"), version.prepare(b"no image"), version.prepare(IMAGES[1])]
    assert [row.nbytes for row in rows] == [IMAGES[0].nbytes, 0, IMAGES[1].nbytes]
    assert [row.answer is None for row in rows] == [True, False, True]
    answers = version.answer_rows(rows)
    assert answers[1] == version.predict(b"no image")
    for answer, alone in (
        (answers[0], other.predict(IMAGES[0], target="low")),
        (answers[2], version.predict(IMAGES[1])),
    ):
        assert_equal_answers(answer.to_dict(), alone.to_dict())
    with pytest.raises(TypeError):
        version.prepare(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        version.prepare(IMAGES[0], ["low"])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no file"):
        version.prepare(tmp_path / "missing.png")


def test_versions_on_different_backbones_answer_together(version: LoadedVersion, tmp_path: Path) -> None:
    other = loaded(write_bundle(tmp_path / "other", family="dinov2"))
    routed = predict_together([version, other], [IMAGES[0]] * 2)
    assert [one.target for one in routed] == [one.predict(IMAGES[:1])[0].target for one in (version, other)]


def test_the_weights_in_memory_have_the_digests_of_the_files(version: LoadedVersion, folder: Path) -> None:
    expected = {
        path.parent.relative_to(folder).as_posix(): weights_sha256(read_bundle(path.parent))
        for path in folder.rglob(bundle.COMPONENT)
    }
    assert version.weights_sha256() == expected


def test_half_precision_weights_are_hashed_in_their_own_dtype(spoiled: Path) -> None:
    path = spoiled / "adapters" / "low" / bundle.ADAPTER_WEIGHTS
    half = {name: array.astype(np.float16) for name, array in load_file(path).items()}
    bundle.write_tensors(path, half)
    version = loaded(spoiled)
    assert version.weights_sha256()["adapters/low"] == weights_sha256(read_bundle(path.parent))
    slot = version.components.adapters["low"].slot
    assert {tensor.dtype for tensor in slot.tensors().values()} == {torch.float16}
    bundle.write_tensors(path, {name: array.astype(np.float32) for name, array in half.items()})
    assert np.array_equal(logits(version, "low", IMAGES), logits(loaded(spoiled), "low", IMAGES))


def test_the_self_test_fails_for_other_weights_than_the_manifest(folder: Path) -> None:
    manifest = manifest_of(folder)
    component = manifest.components["adapters/mid"].model_copy(update={"weights_sha256": "0" * 64})
    other = manifest.model_copy(update={"components": {**manifest.components, "adapters/mid": component}})
    with pytest.raises(CorruptBlob, match="adapters/mid in memory"):
        load(other, read_bundle(folder)).self_test()


@pytest.mark.parametrize("runtime", ["torch-bf16", "torch-int8"])
def test_other_runtimes_hold_the_adapters_that_were_released(
    runtime: str, version: LoadedVersion, folder: Path
) -> None:
    """Only the backbone is converted."""
    assert load_bundle(read_bundle(folder), runtime=runtime).weights_sha256() == version.weights_sha256()


def test_the_fingerprint_is_that_of_the_computed_outputs(spoiled: Path) -> None:
    before = loaded(add_goldens(spoiled))
    assert before.golden_sha256 == ""
    before.self_test()
    again = loaded(spoiled)
    again.self_test()
    assert len(before.golden_sha256) == 64
    assert again.golden_sha256 == before.golden_sha256
    path = spoiled / bundle.ROUTER / "head.safetensors"
    head = load_file(path)
    bundle.write_tensors(path, head | {"bias": head["bias"] + np.float32(1e-5)})
    other = loaded(spoiled)
    other.self_test()
    assert other.golden_sha256 != before.golden_sha256


def test_there_is_no_fingerprint_without_recorded_outputs(version: LoadedVersion) -> None:
    version.self_test()
    assert version.golden_sha256 == ""


def test_threads_with_different_targets_do_not_interfere(version: LoadedVersion) -> None:
    expected = {target: version.predict(IMAGES, target=[target] * 9) for target in TARGETS}
    with ThreadPoolExecutor(6) as pool_of_threads:
        asked = [TARGETS[number % 3] for number in range(60)]
        answers = list(pool_of_threads.map(lambda target: version.predict(IMAGES, target=[target] * 9), asked))
    assert all(answer == expected[target] for target, answer in zip(asked, answers, strict=True))


def test_the_router_chooses_where_no_target_is_named(version: LoadedVersion) -> None:
    choices = version.route(IMAGES)
    predictions = version.predict(IMAGES, target=[None, *ROWS[1:]])
    assert predictions[0].target == choices[0][0]
    assert predictions[0].target_confidence == pytest.approx(choices[0][1])
    assert [prediction.target for prediction in predictions[1:]] == ROWS[1:]
    assert {prediction.target_confidence for prediction in predictions[1:]} == {1.0}


def test_a_router_that_is_not_sure_gives_no_label(spoiled: Path) -> None:
    tensors = load_file(spoiled / "router" / "head.safetensors")
    flat = {name: np.zeros_like(array) for name, array in tensors.items()}
    bundle.write_tensors(spoiled / "router" / "head.safetensors", flat)
    prediction = loaded(spoiled).predict(IMAGES[:1])[0]
    assert (prediction.outcome, prediction.label) == ("router_uncertain", None)
    assert prediction.target_confidence == pytest.approx(1 / 3)


def test_a_target_without_an_adapter_gives_no_label(version: LoadedVersion) -> None:
    first, second = version.predict(IMAGES[:2], target=["tomato__leaf", "low"])
    assert (first.outcome, first.target, first.label) == ("no_adapter", "tomato__leaf", None)
    assert second.label in LABELS["low"]


def test_a_router_may_know_targets_that_have_no_adapter(spoiled: Path) -> None:
    version = loaded(spoiled)
    target = version.route(IMAGES[:1])[0][0]
    shutil.rmtree(spoiled / "adapters" / target)
    assert loaded(spoiled).predict(IMAGES[:1])[0].outcome == "no_adapter"


def test_a_corrupt_image_gets_its_own_row_and_spoils_no_other(version: LoadedVersion) -> None:
    images = [IMAGES[0], b"no image", png(1)[:60], IMAGES[1]]
    predictions = version.predict(images, target=["low", "low", None, "mid"])
    assert [prediction.outcome for prediction in predictions[1:3]] == ["corrupt_image"] * 2
    assert predictions[1].detail
    assert [prediction.label for prediction in (predictions[0], predictions[3])] == [
        prediction.label for prediction in version.predict(IMAGES[:2], target=["low", "mid"])
    ]


def test_an_image_unlike_its_label_goes_to_review(spoiled: Path) -> None:
    path = spoiled / "adapters" / "low" / "ood.safetensors"
    tensors = load_file(path)
    bundle.write_tensors(path, {**tensors, "thresholds": np.full(4, 1e-3, np.float32)})
    prediction = loaded(spoiled).predict(IMAGES[:1], target=["low"])[0]
    assert (prediction.outcome, prediction.is_ood) == ("review", True)
    assert prediction.ood_score == loaded(spoiled).ood_scores(IMAGES[:1], "low")[0] > 1


def test_nan_outputs_give_a_review_and_affect_no_other_row(spoiled: Path) -> None:
    path = spoiled / "adapters" / "low" / bundle.ADAPTER_WEIGHTS
    bundle.write_tensors(path, {name: array * np.float32(1e30) for name, array in load_file(path).items()})
    wild, sound = loaded(spoiled).predict(IMAGES[:2], target=["low", "mid"])
    assert (wild.outcome, wild.label, wild.is_ood, wild.ood_score) == ("review", None, True, None)
    assert json.dumps(wild.to_dict(), allow_nan=False)
    assert sound.label in LABELS["mid"]


def test_more_images_than_a_batch_are_answered_in_order(version: LoadedVersion) -> None:
    images = [noise(seed) for seed in range(70)]
    predictions = version.predict(images, target=["low"] * 70)
    assert predictions[65].label == version.predict([images[65]], target=["low"])[0].label
    assert len(version.ood_scores(images, "low")) == len(version.route(images)) == 70


def test_no_images_are_no_predictions(version: LoadedVersion) -> None:
    assert version.predict([]) == []


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "image", "array"])
def test_one_image_of_any_kind_is_one_answer(version: LoadedVersion, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(0))
    image = Image.open(path).convert("RGB")
    given = {"path": path, "text": str(path), "bytes": png(0), "image": image, "array": np.asarray(image)}[kind]
    assert version.predict(given, target="low") == version.predict([png(0)], target=["low"])[0]


def test_an_array_of_images_is_several_images(version: LoadedVersion) -> None:
    squares = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)
    assert version.predict(squares, target="low") == version.predict(list(squares), target=["low"] * 3)


@pytest.mark.parametrize("images", [7, None, {"a.png"}, {}.keys(), [7], ["a.png", None]], ids=repr)
def test_what_is_no_image_by_its_type_is_a_type_error(version: LoadedVersion, images: object) -> None:
    with pytest.raises(TypeError, match="an image is"):
        version.predict(images)


@pytest.mark.parametrize(("images", "target"), [(b"", 7), (b"", ["low"]), ([b""], [7]), ([b""], {"low"})], ids=repr)
def test_a_target_of_another_type_is_a_type_error(version: LoadedVersion, images: object, target: object) -> None:
    with pytest.raises(TypeError, match="target of one image"):
        version.predict(images, target=target)


def test_a_target_can_be_given_by_keyword_only(version: LoadedVersion) -> None:
    with pytest.raises(TypeError, match="positional"):
        version.predict(IMAGES[0], "low")


def test_a_prediction_declares_what_callers_may_rely_on() -> None:
    declared = {name for name in vars(loaders.Prediction) if not name.startswith("_")} - {"to_dict"}
    assert declared == {each.name for each in fields(Prediction)}


def test_a_prediction_reads_well_and_turns_into_json(version: LoadedVersion) -> None:
    good, bad = version.predict([IMAGES[0], b""], target=["low", "low"])
    assert good.label is not None
    assert good.label in str(good)
    assert "corrupt_image" in str(bad)
    assert f"<th>label</th><td>{good.label}</td>" in good._repr_html_()
    assert json.loads(json.dumps(good.to_dict()))["version"] == "v1.0.0-dinov3"


def test_targets_and_images_of_different_lengths_are_refused(version: LoadedVersion) -> None:
    with pytest.raises(BadInput, match="1 images but 2 targets"):
        version.predict(IMAGES[:1], target=["low", "mid"])
    with pytest.raises(BadInput, match="no adapter"):
        version.ood_scores(IMAGES[:1], "tomato")


def test_files_are_found_by_their_manifest_paths(folder: Path, tmp_path: Path) -> None:
    blobs: dict[str, Path] = {}
    for path, place in read_bundle(folder).items():
        blobs[path] = tmp_path / canonical.sha256(place.read_bytes())
        blobs[path].write_bytes(place.read_bytes())
    assert load(manifest_of(folder), blobs).predict(IMAGES, target=ROWS) == loaded(folder).predict(IMAGES, target=ROWS)


def test_a_bundle_can_be_asked_before_it_is_a_version(folder: Path, version: LoadedVersion) -> None:
    unbound = load_bundle(read_bundle(folder))
    assert unbound.version == "unbound"
    assert np.array_equal(logits(unbound, "low", IMAGES), logits(version, "low", IMAGES))


def test_the_self_test_passes_on_what_was_recorded(spoiled: Path) -> None:
    loaded(add_goldens(spoiled)).self_test()


def test_the_self_test_passes_without_recorded_outputs(version: LoadedVersion) -> None:
    version.self_test()


def shift_logits(golden: dict[str, np.ndarray]) -> None:
    golden["logits"][0, 0] += 0.01


def lose_a_number(golden: dict[str, np.ndarray]) -> None:
    golden["logits"][0] = golden["logits"][0].max() + 1


def shift_scores(golden: dict[str, np.ndarray]) -> None:
    golden["ood_score"] += 0.05


def flip_flags(golden: dict[str, np.ndarray]) -> None:
    golden["is_ood"] = 1 - golden["is_ood"]


@pytest.mark.parametrize("change", [shift_logits, lose_a_number, shift_scores, flip_flags])
def test_the_self_test_fails_when_a_recorded_output_is_another(
    change: Callable[[dict[str, np.ndarray]], None], spoiled: Path
) -> None:
    path = add_goldens(spoiled) / "adapters" / "mid" / bundle.GOLDEN
    golden = {name: array.copy() for name, array in load_file(path).items()}
    change(golden)
    bundle.write_tensors(path, golden)
    with pytest.raises(SelfTestFailed, match="adapters/mid"):
        loaded(spoiled).self_test()


def test_the_self_test_fails_when_weights_are_others(spoiled: Path) -> None:
    path = add_goldens(spoiled) / "adapters" / "low" / bundle.ADAPTER_WEIGHTS
    bundle.write_tensors(path, {name: array * 1.5 for name, array in load_file(path).items()})
    with pytest.raises(SelfTestFailed, match="adapters/low"):
        loaded(spoiled).self_test()


def test_the_self_test_fails_when_the_router_is_another(spoiled: Path) -> None:
    path = add_goldens(spoiled) / "router" / "head.safetensors"
    bundle.write_tensors(path, {name: array + 0.1 for name, array in load_file(path).items()})
    with pytest.raises(SelfTestFailed, match="router"):
        loaded(spoiled).self_test()


WEIGHTS = [f"adapters/low/{name}" for name in (bundle.ADAPTER_WEIGHTS, "head.safetensors", "ood.safetensors")]


@pytest.mark.parametrize("path", [*WEIGHTS, "router/head.safetensors"])
def test_truncated_weights_are_refused_by_path(path: str, spoiled: Path) -> None:
    place = spoiled / path
    place.write_bytes(place.read_bytes()[:-100])
    with pytest.raises(BadWeights, match=path):
        loaded(spoiled)


@pytest.mark.parametrize("path", WEIGHTS)
def test_weights_that_are_not_finite_are_refused(path: str, spoiled: Path) -> None:
    tensors = {name: array.copy() for name, array in load_file(spoiled / path).items()}
    next(iter(tensors.values())).flat[0] = np.nan
    bundle.write_tensors(spoiled / path, tensors)
    with pytest.raises(BadWeights, match="not finite"):
        loaded(spoiled)


@pytest.mark.parametrize("family", ["dinov2", "dinov3"])
def test_names_of_transformers_4_give_the_same_adapter(family: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, family=family)
    expected = logits(loaded(folder), "low", IMAGES)
    names = {"attention.q_proj": "attention.attention.query", "attention.v_proj": "attention.attention.value"}
    if family == "dinov3":
        names = {"model.model.layer.": "model.layer."}
    weights, config = (folder / "adapters" / "low" / file for file in (bundle.ADAPTER_WEIGHTS, bundle.ADAPTER_CONFIG))
    text = json.loads(config.read_text())
    text["target_modules"] = ["query", "value"] if family == "dinov2" else text["target_modules"]
    old = load_file(weights)
    for new_name, old_name in names.items():
        old = {name.replace(new_name, old_name): array for name, array in old.items()}
    assert old.keys() != load_file(weights).keys()
    bundle.write_tensors(weights, old)
    bundle.write_document(config, text)
    version = loaded(folder)
    assert np.array_equal(logits(version, "low", IMAGES), expected)
    assert version.weights_sha256()["adapters/low"] == weights_sha256(read_bundle(weights.parent))


def test_an_adapter_with_unknown_names_is_refused(spoiled: Path) -> None:
    path = spoiled / "adapters" / "low" / bundle.ADAPTER_WEIGHTS
    foreign = {name.replace("attention.q_proj", "attn.qkv"): array for name, array in load_file(path).items()}
    bundle.write_tensors(path, foreign)
    with pytest.raises(BadWeights, match="does not fit"):
        loaded(spoiled)


@pytest.mark.parametrize("kind", [np.float64, np.uint16])
@pytest.mark.parametrize("path", ["adapters/low/golden.safetensors", *WEIGHTS])
def test_kinds_of_numbers_that_are_not_computed_with_are_refused(path: str, kind: type, spoiled: Path) -> None:
    add_goldens(spoiled)
    bundle.write_tensors(spoiled / path, {n: array.astype(kind) for n, array in load_file(spoiled / path).items()})
    with pytest.raises(BadWeights, match="is not supported"):
        loaded(spoiled)


def test_an_adapter_that_would_change_nothing_is_refused(spoiled: Path) -> None:
    path = spoiled / "adapters" / "low" / bundle.ADAPTER_WEIGHTS
    bundle.write_tensors(path, {n: a * ("lora_A" in n) for n, a in load_file(path).items()})
    with pytest.raises(BadWeights, match="change nothing"):
        loaded(spoiled)


def test_an_adapter_that_lacks_a_layer_is_refused(spoiled: Path) -> None:
    path = spoiled / "adapters" / "low" / bundle.ADAPTER_WEIGHTS
    bundle.write_tensors(path, {name: a for name, a in load_file(path).items() if ".layer.3." not in name})
    with pytest.raises(BadWeights, match="missing"):
        loaded(spoiled)


def test_an_adapter_of_another_width_is_refused(spoiled: Path) -> None:
    path = spoiled / "adapters" / "low" / bundle.ADAPTER_WEIGHTS
    bundle.write_tensors(path, {name: np.repeat(array, 2, axis=1) for name, array in load_file(path).items()})
    with pytest.raises(BadWeights, match="low"):
        loaded(spoiled)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"use_dora": "perhaps", "bias": "all"},
        {"r": 0},
        {"r": 10**9},
        {"target_modules": 7},
        {"target_modules": []},
        {"rank_pattern": {"q_proj": 10**9}},
        {"alpha_pattern": {"q_proj": "much"}},
        {"lora_alpha": "much"},
        {"lora_alpha": 10**299},
        {"use_rslora": "false"},
        {"exclude_modules": 5},
        {"alpha_pattern": {"((": 8}},
        {"alpha_pattern": {"x" * 2001: 8}},
        {"target_modules": ["x"] * 10_001},
        {"layers_to_transform": [1] * 10_001},
        {"layers_to_transform": {"first": 1}},
        {"layers_to_transform": [1], "layers_pattern": [7]},
        {"modules_to_save": ["norm"]},
        {"a_field_of_the_future": 7},
    ],
)
def test_a_lora_that_this_release_does_not_compute_is_refused(change: Mapping[str, object], spoiled: Path) -> None:
    path = spoiled / "adapters" / "low" / bundle.ADAPTER_CONFIG
    bundle.write_document(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(BadWeights, match="adapter_config"):
        loaded(spoiled)


def test_a_component_made_on_another_backbone_is_refused(spoiled: Path, tmp_path: Path) -> None:
    dinov2 = write_bundle(tmp_path / "dinov2", family="dinov2")
    shutil.rmtree(spoiled / "adapters" / "mid")
    shutil.copytree(dinov2 / "adapters" / "mid", spoiled / "adapters" / "mid")
    with pytest.raises(BadWeights, match="adapters/mid was made for another backbone"):
        loaded(spoiled)


def test_a_component_made_for_other_preprocessing_is_refused(spoiled: Path) -> None:
    path = spoiled / bundle.PREPROCESSING
    bundle.write_document(path, {**json.loads(path.read_text()), "resize": 32})
    with pytest.raises(BadWeights, match="another preprocessing"):
        loaded(spoiled)


def test_a_head_whose_labels_are_not_those_required_is_refused(spoiled: Path) -> None:
    path = spoiled / "adapters" / "mid" / "head.json"
    bundle.write_document(path, {**json.loads(path.read_text()), "labels": ["five", "four", "six"]})
    with pytest.raises(BadWeights, match="another labels"):
        loaded(spoiled)


def test_a_missing_file_is_named(spoiled: Path) -> None:
    (spoiled / "adapters" / "mid" / "head.json").unlink()
    with pytest.raises(MissingBlob, match=r"adapters/mid/head\.json"):
        loaded(spoiled)


def test_a_version_of_another_kind_is_refused(folder: Path) -> None:
    manifest = manifest_of(folder)
    with pytest.raises(BadManifest, match="other-flavor"):
        load(manifest.model_copy(update={"flavor": "other-flavor"}), read_bundle(folder))


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_the_callers_mistake(device: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=device):
        load_bundle(read_bundle(write_bundle(tmp_path)), device=device)
