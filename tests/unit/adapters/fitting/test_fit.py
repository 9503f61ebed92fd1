"""A fit gives a bundle that loads, is honest about held-out images, and is the same for the same seed, interrupted or
not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file
from scipy.stats import beta
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from adapters import bundle
from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.backbone.locate import TINY
from adapters.backbone.resolve import ref_of_folder
from adapters.fitting import goldens
from adapters.fitting.assemble import FIT
from adapters.fitting.feature_extractor import FeatureExtractor
from adapters.fitting.fit import FitReport, WeightSources, complete_recipe, fit, new_context, prepare
from adapters.fitting.image_folder import ImageFolder, LabelledImage
from adapters.fitting.lora_training import TrainingInputs, _Training
from adapters.fitting.recipe import Recipe
from adapters.fitting.regression import head_feature_specs, starting_head
from adapters.fitting.target_fit import TargetFit
from adapters.fitting.target_images import choose_images, decode
from adapters.fitting.work_folder import Checkpoint, open_work_folder, work_folder_of
from registry.errors import BackboneNotFound, BadInput, ImageChanged, NotNow
from registry.versions.bundle import read_bundle as read_as_registry
from tests.support.bundles import read_bundle
from tests.support.coloured_images import COUNTS, write_blotches

BACKBONE = TINY / "dinov3-tiny"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path: place.read_bytes() for path, place in read_bundle(folder).items()}


def share_right(version: LoadedVersion, data: ImageFolder) -> float:
    images = data.split("test")
    predictions = version.predict([image.path for image in images])
    right = [(p.target, p.label) == (i.target, i.label) for p, i in zip(predictions, images, strict=True)]
    return sum(right) / len(right)


# --- what comes out --------------------------------------------------------------------------------------------------


def test_the_fitted_version_answers_right_on_images_it_never_saw(version: LoadedVersion, data: ImageFolder) -> None:
    assert share_right(version, data) > 0.9


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Thirty-two handwritten images of each of six digits, in two targets: other ones than the backbones know."""
    root = tmp_path_factory.mktemp("digits")
    images, digits = load_digits(return_X_y=True)
    for target, labels in {"low": (0, 1, 2), "high": (7, 8, 9)}.items():
        for digit in labels:
            rows = iter(np.flatnonzero(digits == digit)[:32])
            for split, number in {"train": 16, "val": 8, "test": 8}.items():
                folder = root / target / split / f"digit-{digit}"
                folder.mkdir(parents=True)
                for row in islice(rows, number):
                    Image.fromarray((15 * images[row].reshape(8, 8)).astype(np.uint8)).save(folder / f"{row}.png")
    return ImageFolder(root)


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("dinov2-tiny", {"method": "dora", "modules": ["all-linear"], "rank": 2, "head": "fusion"}),
        ("dinov3-tiny", {"method": "lora", "head": "cls"}),
    ],
)
def test_a_few_digits_suffice_for_accuracies_far_above_chance(
    backbone: str, settings: dict[str, Any], digits: ImageFolder, tmp_path: Path
) -> None:
    report = fit(digits, TINY / backbone, tmp_path / "bundle", {"epochs": 4, **settings})
    version = load_bundle(read_bundle(report.folder))
    version.self_test()
    assert share_right(version, digits) > 0.8, "chance is 1 in 6"
    config = json.loads((report.folder / "adapters/low/adapter_config.json").read_bytes())
    assert config["use_dora"] == (settings["method"] == "dora")
    assert len(config["target_modules"]) == (6 if "modules" in settings else 2)


def test_the_report_tells_what_was_fitted_to_what_and_how_well(report: FitReport, data: ImageFolder) -> None:
    document = json.loads((report.folder / FIT).read_bytes())
    assert document == report.document
    assert document["recipe"]["modules"] == ["q_proj", "v_proj"]
    assert document["recipe"]["alpha"] == 8
    assert document["data"]["images"]["pear"]["rot"] == COUNTS
    for target in data.targets:
        told = document["targets"][target]
        assert (told["val"]["images"], told["test"]["images"]) == (16, 8)
        assert told["test"]["accuracy"] > 0.9
        assert told["val"]["mean_blocks"] == 6
        assert told["false_alarms"] == {
            "asked": 0.03,
            "upper_bound_90": pytest.approx(beta.ppf(0.9, 1, 16)),
            "images": 16,
        }
    assert document["routing"]["test"] == {"images": 16, "accuracy": pytest.approx(1, abs=0.1)}
    assert any("16 held-out images, too few for a false-alarm rate of 0.03" in warning for warning in report.warnings)


def test_recorded_outputs_are_reproduced(version: LoadedVersion, report: FitReport) -> None:
    version.self_test()
    for folder in ("router", "adapters/apple", "adapters/pear"):
        golden = load_file(report.folder / folder / bundle.GOLDEN)
        best = np.sort(golden["logits"], axis=1)
        assert 0 < len(best) <= goldens.COUNT
        assert (best[:, -1] - best[:, -2] > 0.1).all()


def test_the_detector_was_shown_the_other_target(report: FitReport) -> None:
    choice = json.loads((report.folder / "adapters/pear/ood.json").read_bytes())["calibration"]["choice"]
    assert choice["others"] == 16
    assert len(choice["candidates"]) == 5


def test_the_registry_reads_the_bundle(report: FitReport) -> None:
    read = read_as_registry(report.folder)
    assert read.backbone == ref_of_folder(BACKBONE)
    assert {"adapters/apple", "adapters/pear", "router", "config"} <= read.components.keys()
    assert read.components["adapters/apple"].requires.keys() == {"backbone", "labels", "preprocessing"}
    assert {file.mode for file in read.files} == {"0644"}


def test_no_file_names_this_machine(report: FitReport, data: ImageFolder) -> None:
    for path, content in bytes_of(report.folder).items():
        for place in (report.folder.parent, TINY, data.root):
            assert str(place).encode() not in content, path


@pytest.mark.parametrize("backbone", ["dinov2-tiny", "dinov3-tiny"])
def test_what_is_trained_is_what_is_served(backbone: str, data: ImageFolder, tmp_path: Path) -> None:
    ref, chosen = ref_of_folder(TINY / backbone), choose_images(data, ["pear"])["pear"]
    recipe = complete_recipe(Recipe(method="dora", head="fusion"), ref)
    context = new_context(ref, WeightSources((TINY,)), recipe, None)
    squares, specs = (
        decode(context.extractor.preprocessing, chosen.splits["train"]),
        head_feature_specs("fusion", context.depth),
    )
    frozen = context.extractor.features(squares, None, specs, "train")
    start = starting_head(frozen, chosen.classes["train"], chosen.labels, specs)
    lesson = TrainingInputs(
        "pear",
        ref,
        (TINY,),
        None,
        context.extractor.preprocessing,
        squares,
        chosen.classes["train"],
        context.random("x"),
    )
    training = _Training.begin(lesson, recipe, start)
    training.step(torch.arange(8), 0.0)
    with torch.no_grad():
        taught = training.head(training._features(context.extractor.preprocessing.normalise(squares))).logits
    step = TargetFit(context, chosen, [])
    step._write_lora(tmp_path, training.trained())
    head = training.trained().head
    served = head(context.extractor.features(squares, step._slot(tmp_path), specs, "train")).logits
    assert torch.allclose(taught, served, atol=1e-4)
    assert not torch.allclose(head(frozen).logits, served, atol=1e-2)


# --- the same again --------------------------------------------------------------------------------------------------


def test_equal_images_give_equal_files_whatever_their_names(
    report: FitReport, data: ImageFolder, tmp_path: Path
) -> None:
    renamed = Path(shutil.copytree(data.root, tmp_path / "renamed"))
    for number, path in enumerate(sorted(renamed.rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"image-{number}.png"))
    assert bytes_of(fit(renamed, BACKBONE, tmp_path / "again").folder) == bytes_of(report.folder)


def test_targets_depend_on_the_seed_but_not_on_each_other(report: FitReport, data: ImageFolder, tmp_path: Path) -> None:
    weights = "adapters/pear/adapter_model.safetensors"
    alone = fit(data, BACKBONE, tmp_path / "alone", targets=["pear"])
    other = fit(data, BACKBONE, tmp_path / "other", {"seed": 1, "epochs": 1}, targets=["pear"])
    assert bytes_of(alone.folder)[weights] == bytes_of(report.folder)[weights]
    assert bytes_of(other.folder)[weights] != bytes_of(report.folder)[weights]
    assert load_bundle(read_bundle(other.folder)).targets == ("pear",)


def interrupted(at: Callable[[str, int], bool], times: int = 1) -> Callable[[str, int, int], None]:
    """A progress callback that Ctrl-C hits at the n-th moment of a kind."""
    met = count(1)

    def told(stage: str, done: int, total: int) -> None:
        if at(stage, done) and next(met) == times:
            raise KeyboardInterrupt

    return told


MOMENTS = {
    "in the second epoch of the first target": interrupted(lambda stage, done: (stage, done) == ("apple", 1)),
    "after a training": interrupted(lambda stage, done: stage == "apple:others"),
    "at the router": interrupted(lambda stage, done: stage == "router"),
    "at the last look": interrupted(lambda stage, done: stage == "checking", times=2),
}


@pytest.mark.acceptance
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_fit_goes_on_and_gives_the_same_files(
    moment: str, report: FitReport, data: ImageFolder, tmp_path: Path
) -> None:
    ready = prepare(data, BACKBONE, tmp_path / "bundle")
    with pytest.raises(KeyboardInterrupt):
        ready.run(MOMENTS[moment])
    assert not ready.out.exists()
    stages: list[str] = []
    resumed = ready.run(lambda stage, done, total: stages.append(stage))
    assert bytes_of(resumed.folder) == bytes_of(report.folder)
    assert ("apple" in stages) == ("first" in moment or "after" in moment)
    assert list(tmp_path.iterdir()) == [ready.out]


def test_a_damaged_state_is_not_gone_on_with(report: FitReport, data: ImageFolder, tmp_path: Path) -> None:
    ready = prepare(data, BACKBONE, tmp_path / "bundle", targets=["pear"])
    with pytest.raises(KeyboardInterrupt):
        ready.run(interrupted(lambda stage, done: (stage, done) == ("pear", 1)))
    (state,) = work_folder_of(ready.out).rglob("state-1.safetensors")
    state.write_bytes(state.read_bytes()[:-1])
    weights = "adapters/pear/adapter_model.safetensors"
    assert bytes_of(ready.run().folder)[weights] == bytes_of(report.folder)[weights]


def test_an_interrupted_fit_does_not_go_on_with_other_settings(data: ImageFolder, tmp_path: Path) -> None:
    ready = prepare(data, BACKBONE, tmp_path / "bundle")
    with pytest.raises(KeyboardInterrupt):
        ready.run(interrupted(lambda stage, done: True))
    with pytest.raises(BadInput, match=r"the unfinished fit in \S+\.bundle\.fit used --epochs 2(\n|$)") as refused:
        fit(data, BACKBONE, tmp_path / "bundle", {"epochs": 1})
    assert str(work_folder_of(ready.out)) in refused.value.hint


RECIPE = {"rank": 4, "alpha": 8.0, "seed": 0, "runtimes": []}
PLAN: dict[str, Any] = {
    "format": 1,
    "recipe": RECIPE,
    "backbone": {"name": "dinov3-tiny", "sha256": "a"},
    "targets": {"pear": ["rot", "sound"]},
    "digests": {"train": "a"},
}


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"recipe": RECIPE | {"rank": 8, "alpha": 16.0}}, "used --rank 4"),
        ({"recipe": RECIPE | {"alpha": 12.0}}, "used no --alpha"),
        ({"recipe": RECIPE | {"seed": 1, "runtimes": ["torch-bf16"]}}, "used no --runtimes --seed 0"),
        ({"backbone": {"name": "dinov2-tiny", "sha256": "b"}}, "used --backbone dinov3-tiny"),
        ({"targets": {"apple": ["rot", "sound"]}}, "used --targets pear"),
        ({"targets": {"pear": ["rot", "scab", "sound"]}}, "used other labels"),
        ({"digests": {"train": "b"}}, "used other images"),
        ({"backbone": {"name": "dinov3-tiny", "sha256": "b"}}, "used other weights of the backbone"),
        ({"format": 2}, "used another release of this software"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_an_unfinished_fit_used_is_said_as_typed(now: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_work_folder(tmp_path / "f3", PLAN):
        raise KeyboardInterrupt
    with pytest.raises(BadInput) as refused, open_work_folder(tmp_path / "f3", PLAN | now):
        pass
    assert str(refused.value) == f"the unfinished fit in {tmp_path / '.f3.fit'} {says}"
    assert "delete the folder" in refused.value.hint


def test_two_fits_of_the_same_bundle_do_not_mix(data: ImageFolder, tmp_path: Path) -> None:
    ready = prepare(data, BACKBONE, tmp_path / "bundle")
    with open_work_folder(ready.out, {}), pytest.raises(NotNow, match="another process"):
        ready.run()


@pytest.mark.parametrize("target", ["pear", "apple"])
def test_the_accuracy_without_the_lora_stands_beside(
    target: str, report: FitReport, version: LoadedVersion, data: ImageFolder
) -> None:
    (spec,) = head_feature_specs("cls+mean", 6)
    inputs, truths = {}, {}
    for split in ("train", "val"):
        images = [image for image in data.split(split) if image.target == target]
        inputs[split] = version.features_at([image.path for image in images], None, [spec])[spec].numpy()
        truths[split] = [image.label for image in images]
    theirs = LogisticRegression(max_iter=1000).fit(inputs["train"], truths["train"])
    told = report.document["targets"][target]["frozen"]
    assert told["images"] == 16
    assert told["accuracy"] == pytest.approx(theirs.score(inputs["val"], truths["val"]), abs=2 / 16)


# --- depth and runtimes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_shallower_adapter_takes_fewer_blocks(mode: str, data: ImageFolder, tmp_path: Path) -> None:
    report = fit(data, BACKBONE, tmp_path / "bundle", {"depth": mode, "epochs": 1}, targets=["pear"])
    depth = report.document["targets"]["pear"]["depth"]
    assert depth["mode"] == mode
    assert depth["recommended"] == "full"  # 16 images are too few
    version = load_bundle(read_bundle(report.folder))
    version.self_test()
    pears, apples = ([i.path for i in data.split("test") if i.target == target] for target in ("pear", "apple"))
    answers = version.predict(pears)
    assert max(answer.blocks_used for answer in answers) < 6
    assert report.document["targets"]["pear"]["test"]["accuracy"] > 0.9
    assert sum(version.ood_scores(apples, "pear")) > 2 * sum(version.ood_scores(pears, "pear"))


def test_a_runtime_is_calibrated_and_judged(data: ImageFolder, tmp_path: Path) -> None:
    report = fit(data, BACKBONE, tmp_path / "bundle", {"runtimes": ["torch-bf16"], "epochs": 1}, targets=["pear"])
    verdict = json.loads((report.folder / "config/runtimes.json").read_bytes())["torch-bf16"]
    assert verdict == report.document["runtimes"]["torch-bf16"]
    assert verdict["n"] == 16
    assert "thresholds@torch-bf16" in load_file(report.folder / "adapters/pear/ood.safetensors")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_progress_is_told_per_stage(data: ImageFolder, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    fit(data, BACKBONE, tmp_path / "b", {"epochs": 1}, targets=["pear"], progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["pear:train", "pear:val", "pear", "pear:others", "router", "checking"]
    assert all(0 <= done <= total and " " not in stage for stage, done, total in told)


def test_a_folder_that_exists_is_not_overwritten(data: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exists already"):
        fit(data, BACKBONE, tmp_path)


@pytest.mark.parametrize("place", [".", "bundle", "apple/bundle", "apple/train/../bundle"])
def test_a_bundle_among_the_images_is_refused(place: str, tmp_path: Path) -> None:
    root = write_blotches(tmp_path / "images", {"train": 2, "val": 1})
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(BadInput, match="exists already" if place == "." else "is inside"):
        prepare(root, BACKBONE, tmp_path / "link" / place)


@pytest.mark.parametrize("place", ["file/bundle", "file/deeper/bundle", "x" * 252])
def test_a_bundle_where_none_can_be_is_refused(place: str, data: ImageFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="can't be written"):
        prepare(data, BACKBONE, tmp_path / place)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"epochs": 0}, "epochs 0 is invalid"),
        ({"rank": 0}, "rank 0"),
        ({"alpha": -1.0}, "alpha -1"),
        ({"alpha": 1e30}, "alpha 1e.30"),
        ({"alpha": float("nan")}, "alpha nan"),
        ({"epochs": 1.5}, "epochs '1.5' is invalid"),
        ({"rank": "4"}, "rank '4' is invalid"),
        ({"seed": True}, "seed 'True' is invalid"),
        ({"modules": "q_proj"}, "modules 'q_proj' is invalid"),
        ({"head": 1}, "head '1' is invalid"),
        ({"seed": -1}, "seed -1"),
        ({"false_alarm_rate": 1.0}, "false_alarm_rate 1"),
        ({"method": "full"}, "no method 'full'"),
        ({"head": "mlp"}, "no head 'mlp'"),
        ({"depth": "deep"}, "no depth 'deep'"),
        ({"modules": ["query"]}, "no linear module 'query'"),
        ({"modules": ["all-linear", "typo"]}, "no linear module 'typo'"),
        ({"runtimes": ["abacus"]}, "'abacus' is not a runtime"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"device": "meta"}, "device meta is invalid"),
        ({"learning": 1}, "no setting learning"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(
    wrong: dict[str, Any], says: str, data: ImageFolder, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=says):
        fit(data, BACKBONE, tmp_path / "bundle", wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_that_is_nowhere_is_refused(data: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(BackboneNotFound, match="dinov9"):
        prepare(data, "dinov9", tmp_path / "bundle")


def test_a_target_that_is_not_there_is_refused(data: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no target 'plum'") as refused:
        prepare(data, BACKBONE, tmp_path / "bundle", targets=["pear", "plum"])
    assert refused.value.hint == "it has apple, pear"


def test_targets_that_cannot_be_trained_are_refused_together(tmp_path: Path) -> None:
    root = write_blotches(tmp_path / "images", {"train": 3, "val": 2})
    shutil.rmtree(root / "apple" / "train" / "rot")
    shutil.copytree(root / "pear", root / "plum")
    shutil.rmtree(root / "plum" / "val")
    for number, path in enumerate((root / "plum").rglob("*.png")):
        Image.fromarray(np.full((28, 28, 3), number, np.uint8)).save(path)
    with pytest.raises(BadInput, match="apple has 1 label with training images; plum has no validation") as refused:
        prepare(root, BACKBONE, tmp_path / "bundle")
    assert refused.value.hint.endswith("--targets pear")


def test_a_label_without_training_images_is_left_out_and_told(data: ImageFolder, tmp_path: Path) -> None:
    def new_in_validation(image: LabelledImage) -> str:
        return "new" if "val" in image.path.parts and image.path.stem == "0" else image.label

    ready = prepare(data.relabelled(new_in_validation), BACKBONE, tmp_path / "bundle")
    assert ready.plan["targets"]["pear"] == ["rot", "sound"]
    assert "pear: no training image, these labels are left out: new" in ready.data.warnings


def test_one_training_image_of_every_label_is_too_few(tmp_path: Path) -> None:
    root = write_blotches(tmp_path / "images", {"train": 1, "val": 2})
    with pytest.raises(BadInput, match="apple has only one training image of every label") as refused:
        prepare(root, BACKBONE, tmp_path / "bundle")
    assert "two training images of at least one of them" in refused.value.hint


def test_a_label_that_no_bundle_can_hold_is_refused(data: ImageFolder, tmp_path: Path) -> None:
    def long(image: LabelledImage) -> str:
        return image.label + "x" * 200

    with pytest.raises(BadInput, match="pear has a label that is empty or too long: 'rotxx"):
        prepare(data.relabelled(long), BACKBONE, tmp_path / "bundle", targets=["pear"])


def test_identical_images_of_a_label_are_refused_before_training(tmp_path: Path) -> None:
    root = write_blotches(tmp_path / "images", {"train": 3, "val": 1})
    for number, path in enumerate(sorted((root / "pear" / "train").rglob("*.png"))):
        note = PngInfo()
        note.add_text("number", str(number))  # another file, the same picture
        colour = 200 if path.parent.name == "rot" else 50
        Image.fromarray(np.full((28, 28, 3), colour, np.uint8)).save(path, pnginfo=note)
    ready, stages = prepare(root, BACKBONE, tmp_path / "bundle", targets=["pear"]), set()
    with pytest.raises(BadInput, match="each label of pear all look the same"):
        ready.run(lambda stage, done, total: stages.add(stage))
    assert "pear" not in stages


def test_a_training_that_diverges_is_reported(data: ImageFolder, tmp_path: Path) -> None:
    ready = prepare(data, BACKBONE, tmp_path / "bundle", targets=["pear"])
    with pytest.raises(KeyboardInterrupt):
        ready.run(interrupted(lambda stage, done: (stage, done) == ("pear", 1)))
    checkpoint = Checkpoint(work_folder_of(ready.out) / "training" / "pear")
    done, state = checkpoint.read()
    checkpoint.write(done, {name: one * torch.inf if name.startswith("lora.") else one for name, one in state.items()})
    with pytest.raises(BadInput, match="training of pear diverged in epoch 2"):
        ready.run()


def test_nan_features_are_not_reported_as_identical_images(
    data: ImageFolder,
) -> None:
    context = new_context(ref_of_folder(BACKBONE), WeightSources((TINY,)), Recipe(), None)
    step = TargetFit(context, choose_images(data, ["pear"])["pear"], [])
    features = torch.zeros(2, 192)
    step._check_finite({"train": {context.feature_spec(3): features}})
    features[1, 7] = torch.nan
    with pytest.raises(BadInput, match="training of pear diverged: with its LoRA the features are not finite"):
        step._check_finite({"train": {context.feature_spec(3): features}})


def test_no_images_give_no_feature_rows() -> None:
    context = new_context(ref_of_folder(BACKBONE), WeightSources((TINY,)), Recipe(), None)
    assert isinstance(context.extractor, FeatureExtractor)
    (features,) = context.extractor.features(
        torch.zeros(0, 28, 28, 3, dtype=torch.uint8), None, [context.feature_spec(3)], "none"
    ).values()
    assert features.shape == (0, 192)


def test_a_fit_takes_no_image_that_was_exchanged(data: ImageFolder, tmp_path: Path) -> None:
    other = ImageFolder(shutil.copytree(data.root, tmp_path / "images"))
    planned = prepare(other, BACKBONE, tmp_path / "bundle")
    image = other.split("train")[0]
    image.path.write_bytes(other.split("val")[0].read())
    with pytest.raises(ImageChanged, match=f"{image.path.name} has changed"):
        planned.run()
    assert not (tmp_path / "bundle").exists()
