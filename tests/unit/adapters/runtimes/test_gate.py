"""A runtime answers for a version only where it was shown to answer as the reference does."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters import bundle
from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load, load_bundle
from adapters.answer.selftest import golden_fault
from adapters.bundle import BundleFiles
from adapters.fitting.image_folder import LabelledImage
from adapters.fitting.runtime_reports import Agreement, judge, judge_runtime, runtimes_document
from adapters.runtimes.gate import RUNTIMES_FILE, check_runtime
from registry.errors import BadInput, BadManifest
from registry.formats import canonical
from registry.versions.bundle import read_bundle as read_whole_bundle
from registry.versions.manifest import Manifest
from tests.support.bundles import add_goldens, noise, png, read_bundle, write_bundle

pytestmark = pytest.mark.acceptance

RUNTIMES = ["torch-bf16", "torch-int8", "openvino-int8"]
TARGETS = ("low", "mid", "high")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with goldens."""
    return add_goldens(write_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def reference(folder: Path) -> LoadedVersion:
    return load_bundle(read_bundle(folder))


@pytest.fixture(scope="module")
def images(reference: LoadedVersion, tmp_path_factory: pytest.TempPathFactory) -> list[LabelledImage]:
    """Images with the labels that the reference gives them, but for the first."""
    place = tmp_path_factory.mktemp("images")
    found = []
    for number in range(30):
        target, path = TARGETS[number % 3], place / f"{number}.png"
        path.write_bytes(png(number))
        label = str(reference.predict([path], target=[target])[0].label) if number else "none of its labels"
        found.append(LabelledImage(path, canonical.sha256(png(number)), target, label))
    return found


def files_with(folder: Path, document: object) -> BundleFiles:
    folder.mkdir(exist_ok=True)
    (folder / "runtimes.json").write_text(json.dumps(document))
    return BundleFiles({RUNTIMES_FILE: folder / "runtimes.json"})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_that_answers_as_the_reference_does_passes(
    reference: LoadedVersion, folder: Path, images: Sequence[LabelledImage], runtime: str
) -> None:
    other = load_bundle(read_bundle(folder), runtime=runtime)
    few, many = (judge_runtime(reference, other, some) for some in (images, [*images] * 10))
    assert many.passes
    assert many.runtime == runtime
    assert 0.995 <= many.cosine < 1
    assert (few.n_golden, few.n_cosine) == (4 * 3, 4 * 3 + 2 * 30)  # three adapters and the router
    assert (many.reference_accuracy, many.n, many.flips) == (29 / 30, 300, 0)
    assert not few.passes
    assert few.reasons == (
        "inconclusive: 0 of 30 held-out images are right on the reference and wrong on it, so the share may be 9.5% "
        "(95% upper bound), and 1% is allowed: it takes 299 images with no such image",
    )


def test_what_computes_something_else_does_not_pass(
    reference: LoadedVersion, images: Sequence[LabelledImage], tmp_path: Path
) -> None:
    other = load_bundle(read_bundle(write_bundle(tmp_path / "other", seed=7)), runtime="torch-int8")
    report = judge_runtime(reference, other, images)
    assert not report.passes
    assert "cosine" in report.reasons[0]
    assert "right on the reference and wrong on it, more than 1%" in report.reasons[1]


def test_images_of_targets_that_the_version_lacks_are_left_out(
    reference: LoadedVersion, images: Sequence[LabelledImage]
) -> None:
    strange = [replace(image, target="melon") for image in images]
    assert judge_runtime(reference, reference, [*images, *strange]).n == len(images)


def test_a_runtime_needs_images_to_pass(tmp_path: Path) -> None:
    bare = load_bundle(read_bundle(write_bundle(tmp_path)))
    report = judge_runtime(bare, bare, [])
    assert not report.passes
    assert report.reasons[0].startswith("there are no images to compare features on")
    assert report.reasons[1].startswith("inconclusive: 0 of 0 held-out images")


def answers(n: int, flips: int = 0, gained: int = 0) -> Agreement:
    """Of a reference that is right for 90% of n images."""
    right = round(0.9 * n)
    return Agreement(n, right - flips + gained, right, flips)


@pytest.mark.parametrize(
    ("cosines", "of", "passes"),
    [
        ([1.0, 0.995], answers(1000), True),
        ([1.0, 0.9949], answers(1000), False),
        ([1.0, math.nan], answers(1000), False),
        ([], answers(1000), False),
        ([1.0], answers(299), True),
        ([1.0], answers(298), False),
        ([1.0], answers(473, 1), True),
        ([1.0], answers(472, 1), False),
        ([1.0], answers(628, 2), True),
        ([1.0], answers(627, 2), False),
        ([1.0], answers(1000, 5), False),
        ([1.0], answers(1000, 20, 30), False),
        ([1.0], answers(0), False),
    ],
)
def test_the_bounds_are_cosine_0_995_and_1_percent_of_flips(cosines: list[float], of: Agreement, passes: bool) -> None:
    report = judge("torch-int8", cosines, of)
    assert report.passes == passes
    assert bool(report.reasons) != passes


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (answers(306, 1), r"^inconclusive: 1 of 306 .* is right .*1\.5%.* takes 473 images with no further one$"),
        (answers(100), r"^inconclusive: 0 of 100 .* 299 images with no such image$"),
        (answers(1000, 11), r"^11 of 1000 held-out images are right on the reference and wrong on it, more than 1%$"),
    ],
)
def test_too_few_images_are_inconclusive_with_the_n_that_decides(of: Agreement, said: str) -> None:
    (reason,) = judge("torch-int8", [1.0], of).reasons
    assert re.search(said, reason)


def test_a_nan_row_fails_at_any_position() -> None:
    for cosines in ([math.nan, 1.0], [1.0, math.nan]):
        assert not judge("torch-int8", cosines, answers(1000)).passes


def test_the_document_is_json_even_where_there_is_no_number() -> None:
    reports = [judge("torch-int8", [], answers(0)), judge("openvino-int8", [1.0], answers(600, 1))]
    document = json.loads(canonical.encode(runtimes_document(reports)))
    assert document["torch-int8"]["cosine"] is None
    assert document["openvino-int8"] == {
        "cosine": 1.0,
        "n_golden": 0,
        "n_cosine": 1,
        "accuracy": 539 / 600,
        "reference_accuracy": 0.9,
        "n": 600,
        "flips": 1,
        "flips_bound": pytest.approx(0.00788, abs=1e-5),
        "reasons": [],
        "passes": True,
    }


def test_the_reference_needs_no_verdict() -> None:
    check_runtime(BundleFiles({}), "torch-fp32")


def test_a_runtime_that_passed_may_be_used(tmp_path: Path) -> None:
    verdicts = runtimes_document([judge("openvino-int8", [0.9999], answers(600))])
    check_runtime(files_with(tmp_path, verdicts), "openvino-int8")


def test_a_runtime_that_was_never_judged_is_refused(tmp_path: Path) -> None:
    verdicts = runtimes_document([judge("torch-int8", [0.9999], answers(600)), judge("torch-bf16", [], answers(600))])
    with pytest.raises(BadInput, match="openvino-int8 was never judged") as caught:
        check_runtime(files_with(tmp_path, verdicts), "openvino-int8")
    assert "use torch-fp32, torch-int8, or" in caught.value.hint
    with pytest.raises(BadInput, match="never judged"):
        check_runtime(BundleFiles({}), "openvino-int8")


def test_a_runtime_that_there_is_not_is_told_which_there_are() -> None:
    with pytest.raises(BadInput, match="'bogus' is not a runtime") as caught:
        check_runtime(BundleFiles({}), "bogus")
    assert "torch-fp32, torch-bf16" in caught.value.hint


def test_a_runtime_that_did_not_pass_is_refused_with_its_reasons(tmp_path: Path) -> None:
    verdicts = runtimes_document([judge("torch-int8", [0.9], answers(600))])
    with pytest.raises(BadInput, match=r"torch-int8 did not pass.*0\.90000"):
        check_runtime(files_with(tmp_path, verdicts), "torch-int8")


@pytest.mark.parametrize("verdict", [True, {}, {"passes": "yes"}, {"passes": 1}, None])
def test_a_verdict_that_says_nothing_clear_is_refused(tmp_path: Path, verdict: object) -> None:
    with pytest.raises(BadManifest, match=RUNTIMES_FILE):
        check_runtime(files_with(tmp_path, {"torch-int8": verdict}), "torch-int8")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_low_precision_outputs_agree_with_the_recorded_ones(folder: Path, runtime: str) -> None:
    version = load_bundle(read_bundle(folder), runtime=runtime)
    for target in (None, *TARGETS):
        inner = bundle.ROUTER if target is None else bundle.adapter_folder(target)
        golden = BundleFiles(read_bundle(folder)).tensors(f"{inner}/{bundle.GOLDEN}")
        actual = version.golden_outputs(golden["images"].numpy(), target)
        assert golden_fault(actual, golden) == ""
        assert golden_fault(actual, {"logits": golden["logits"]}) == ""  # as older bundles have them


def test_outputs_of_another_component_do_not_agree(reference: LoadedVersion) -> None:
    images = np.stack([noise(seed) for seed in range(3)])
    mid, high = (reference.golden_outputs(images, target) for target in ("mid", "high"))
    assert "features" in golden_fault(mid, high)
    assert "logits" in golden_fault(mid, {"logits": high["logits"]})


def test_a_label_may_change_only_near_a_decision_boundary() -> None:
    features = np.ones((1, 4))
    close, clear = np.array([[2.0, 2.05, -9.0]]), np.array([[2.0, 3.0, -9.0]])
    turned = {"features": features, "logits": np.array([[2.1, 2.0, -9.0]])}
    assert golden_fault(turned, {"features": features, "logits": close}) == ""
    assert golden_fault(turned, {"features": features, "logits": clear}) == "a label differs"


def test_outputs_that_are_not_numbers_agree_with_nothing() -> None:
    sound, nothing = np.ones((1, 2)), np.full((1, 2), np.nan)
    assert golden_fault({"features": nothing, "logits": sound}, {"features": sound, "logits": sound})
    assert golden_fault({"logits": nothing}, {"logits": sound})


# --- a verdict is about the weights that it was given on -------------------------------------------------------------


def version_of(folder: Path, **provenance: object) -> Manifest:
    """A bundle's manifest, with the digests of its weights."""
    made = read_whole_bundle(folder)
    return Manifest.make(
        model="m", version="v1.0.0", flavor="dino-lora", backbone=made.backbone, components=made.components,
        files=made.files, timestamp="2026-01-01T00:00:00Z", provenance=provenance,
    )  # fmt: skip


def loaded_runtime(folder: Path, manifest: Manifest) -> str:
    version = load(manifest, read_bundle(folder), runtime="torch-bf16")
    version.self_test()
    return version.runtime


@pytest.fixture
def judged_folder(reference: LoadedVersion, folder: Path, images: Sequence[LabelledImage], tmp_path: Path) -> Path:
    """The bundle, with a verdict on torch-bf16."""
    report = judge_runtime(reference, load_bundle(read_bundle(folder), runtime="torch-bf16"), [*images] * 10)
    place = Path(shutil.copytree(folder, tmp_path / "judged"))
    bundle.write_document(place / RUNTIMES_FILE, runtimes_document([report]))
    return place


def test_a_verdict_names_the_weights_that_it_was_given_on(judged_folder: Path, folder: Path) -> None:
    verdict = json.loads((judged_folder / RUNTIMES_FILE).read_bytes())["torch-bf16"]
    components = read_whole_bundle(folder).components
    assert verdict["weights_sha256"] == {
        name: component.weights_sha256 for name, component in components.items() if component.weights_sha256
    }


def test_a_verdict_applies_to_equal_weights_composed_or_not(judged_folder: Path) -> None:
    assert loaded_runtime(judged_folder, version_of(judged_folder)) == "torch-bf16"
    assert loaded_runtime(judged_folder, version_of(judged_folder, composed={"live": {}})) == "torch-bf16"


def test_the_reference_is_used_after_a_component_was_replaced(judged_folder: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", seed=9)
    shutil.rmtree(judged_folder / "adapters/mid")
    shutil.copytree(other / "adapters/mid", judged_folder / "adapters/mid")
    with pytest.warns(UserWarning, match=r"v1\.0\.0 runs on torch-fp32: torch-bf16 was judged on other adapters"):
        assert loaded_runtime(judged_folder, version_of(judged_folder)) == "torch-fp32"


def test_a_verdict_without_digests_excludes_composed_versions(judged_folder: Path) -> None:
    verdicts = json.loads((judged_folder / RUNTIMES_FILE).read_bytes())
    del verdicts["torch-bf16"]["weights_sha256"]
    bundle.write_document(judged_folder / RUNTIMES_FILE, verdicts)
    assert loaded_runtime(judged_folder, version_of(judged_folder)) == "torch-bf16"
    with pytest.warns(UserWarning, match="judged on other adapters"):
        assert loaded_runtime(judged_folder, version_of(judged_folder, composed={"live": {}})) == "torch-fp32"
