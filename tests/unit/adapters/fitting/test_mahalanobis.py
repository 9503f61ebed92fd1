"""A detector keeps the false-alarm rate that it was calibrated for, and is chosen by how well it separates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapters.answer.ood import distances
from adapters.backbone.features import FeatureSpec
from adapters.fitting import feature_choice
from adapters.fitting.mahalanobis import (
    MIN_ALARMS,
    MIN_HELD_OUT,
    DetectorData,
    calibrate,
    calibrated_for,
    fit_classes,
    fit_mahalanobis,
)
from adapters.fitting.ood_metrics import auroc
from registry.errors import BadInput
from registry.formats import canonical
from tests.support.blobs import EARLY, HIDDEN, LABELS, LATE, blobs, fitted, noise, seen, strangers


def test_distances_are_those_of_the_covariance() -> None:
    features, classes = blobs(400, 0)
    means, whitening = fit_classes(features, classes, 2)
    inverse = (whitening.double() @ whitening.double().T).numpy()
    normal = (features / features.norm(dim=1, keepdim=True)).double()
    centred = (normal - means[classes]).numpy()
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred))
    assert distances(features, classes, means, whitening).numpy() == pytest.approx(expected, rel=1e-3)


def test_the_covariance_is_ledoit_wolf_within_classes() -> None:
    from sklearn.covariance import LedoitWolf

    features, classes = blobs(400, 0)
    _, whitening = fit_classes(features, classes, 2)
    normal = (features / features.norm(dim=1, keepdim=True)).double().numpy()
    for number in range(2):
        normal[classes == number] -= normal[classes == number].mean(axis=0)
    covariance = LedoitWolf(assume_centered=True).fit(normal).covariance_
    identity = covariance @ (whitening.double() @ whitening.double().T).numpy()
    assert identity == pytest.approx(np.eye(HIDDEN), abs=1e-3)


def test_held_out_thresholds_keep_the_false_alarm_rate() -> None:
    train, classes = blobs(300, 0, width=60)
    means, whitening = fit_classes(train, classes, 2)
    held_out, held_out_classes = blobs(2000, 1, width=60)
    new, new_classes = blobs(4000, 2, width=60)

    def false_alarms(images: torch.Tensor, predicted: torch.Tensor) -> float:
        thresholds = calibrate(distances(images, predicted, means, whitening), predicted, 2, 0.05)
        return float((distances(new, new_classes, means, whitening) > thresholds[new_classes]).float().mean())

    honest = false_alarms(held_out, held_out_classes)
    from_training_images = false_alarms(train, classes)
    assert 0.03 < honest < 0.07
    assert from_training_images > 1.5 * honest


def test_each_label_keeps_the_rate_by_itself() -> None:
    random = torch.Generator().manual_seed(0)
    predicted = torch.arange(4000) % 2
    values = (1 + predicted * 9) * torch.rand(4000, generator=random)
    assert calibrate(values, predicted, 2, 0.1).tolist() == pytest.approx([0.9, 9], rel=0.03)


def test_the_threshold_is_the_least_that_promises_the_rate() -> None:
    values, alone = torch.arange(1.0, 100), torch.zeros(99).long()
    assert calibrate(values, alone, 1, 0.05).item() == pytest.approx(95)
    assert calibrate(values, alone, 1, 0.001).item() == pytest.approx(99), "nothing lies above the farthest"


def test_labels_with_few_images_use_a_multiple_of_their_median() -> None:
    random = torch.Generator().manual_seed(0)
    predicted = torch.arange(300) % 2
    values = (1 + predicted * 3) * torch.rand(300, generator=random)
    near, far = calibrate(values, predicted, 2, 0.05).tolist()
    medians = [values[predicted == number].median().item() for number in range(2)]
    assert medians[1] / medians[0] == pytest.approx(4, rel=0.2)
    assert far / near == pytest.approx(medians[1] / medians[0], rel=0.25)
    alarms = values > torch.tensor([near, far])[predicted]
    assert 0.03 <= alarms.float().mean() <= 0.05


def test_one_odd_image_does_not_make_a_small_label_blind() -> None:
    predicted = torch.arange(120) % 2
    values = torch.linspace(0.5, 1.5, 120)
    odd = values.index_fill(0, torch.tensor([1, 3]), 50.0)
    assert calibrate(odd, predicted, 2, 0.03).max() < 2


def test_a_label_without_held_out_images_takes_the_median_of_all() -> None:
    values, predicted = torch.linspace(0.5, 1.5, 200), torch.zeros(200).long()
    only, without = calibrate(values, predicted, 2, 0.03).tolist()
    assert only == pytest.approx(without)


def test_a_label_with_many_images_rests_on_them_alone() -> None:
    many = round(MIN_ALARMS / 0.1)
    values, predicted = torch.rand(2 * many, generator=torch.Generator().manual_seed(0)), torch.arange(2 * many) % 2
    spread = values.where(predicted == 0, values * 100)
    assert calibrate(values, predicted, 2, 0.1)[0] == calibrate(spread, predicted, 2, 0.1)[0]
    assert calibrate(values[2:], predicted[2:], 2, 0.1)[0] != calibrate(spread[2:], predicted[2:], 2, 0.1)[0]


@pytest.mark.parametrize(("count", "rate"), [(0, 0.05), (10, 0.0), (10, 1.0)])
def test_calibrating_on_nothing_or_to_no_rate_is_refused(count: int, rate: float) -> None:
    with pytest.raises(BadInput, match="no threshold"):
        calibrate(torch.zeros(count), torch.zeros(count).long(), 1, rate)


def test_a_label_without_training_images_is_refused() -> None:
    features, classes = blobs(20, 0)
    with pytest.raises(BadInput, match="no training image"):
        fit_classes(features, classes, 3)


@pytest.mark.parametrize("spoilt", [torch.ones(20, HIDDEN), torch.full((20, HIDDEN), torch.nan)])
def test_training_features_without_any_spread_are_refused(spoilt: torch.Tensor) -> None:
    with pytest.raises(BadInput, match="all equal"):
        fit_classes(spoilt, torch.arange(20) % 2, 2)


@pytest.mark.parametrize("others", [None, {EARLY: noise(200, 5), LATE: strangers(200, 5)}])
def test_the_block_that_separates_is_chosen(others: dict[FeatureSpec, torch.Tensor] | None) -> None:
    (train, classes), (val, predicted) = blobs(400, 0), blobs(400, 1)
    for good, useless in ((EARLY, LATE), (LATE, EARLY)):
        there = {good: others[LATE], useless: others[EARLY]} if others else None
        candidates = {good: train, useless: noise(400, 2)}, {good: val, useless: noise(400, 3)}
        chosen = fit_mahalanobis(DetectorData(candidates[0], classes, candidates[1], predicted, LABELS, there))
        assert chosen.feature_specs == (good,)


def test_images_of_other_targets_decide_where_there_are_some() -> None:
    """Early features tell the labels apart and know no stranger, late ones the other way round."""
    (train, classes), (val, predicted) = blobs(400, 0), blobs(400, 1)
    alike = blobs(400, 2)[0].mean(dim=0) + torch.randn(800, HIDDEN, generator=torch.Generator().manual_seed(2))
    specs = {EARLY: train, LATE: alike[:400]}, {EARLY: val, LATE: alike[400:]}
    others = {EARLY: blobs(300, 4)[0], LATE: strangers(300, 4)}
    alone = fit_mahalanobis(DetectorData(specs[0], classes, specs[1], predicted, LABELS))
    beside_others = fit_mahalanobis(DetectorData(specs[0], classes, specs[1], predicted, LABELS, others))
    assert (alone.feature_spec, beside_others.feature_spec) == (EARLY, LATE)
    assert alone.calibration["choice"]["criterion"] == feature_choice.EACH_LABEL
    assert beside_others.calibration["choice"]["criterion"] == feature_choice.OTHERS


def test_the_choice_keeps_what_it_rests_on() -> None:
    (train, classes), (val, predicted) = blobs(400, 0), blobs(400, 1)
    features = {LATE: strangers(80, 5), EARLY: noise(80, 5)}
    detector = fit_mahalanobis(
        DetectorData(
            {LATE: train, EARLY: noise(400, 2)},
            classes,
            {LATE: val, EARLY: noise(400, 3)},
            predicted,
            LABELS,
            others=features,
        )
    )
    choice = detector.calibration["choice"]
    assert (detector.calibration["split"], detector.calibration["images"]) == ("val", 400)
    assert detector.calibration["images_per_predicted_label"] == {"rust": 200, "mildew": 200}
    assert (choice["images"], choice["others"]) == (400, 80)
    assert [one["features"] for one in choice["candidates"]] == [EARLY.document(), LATE.document()]
    early, late = (one["auroc"] for one in choice["candidates"])
    assert early < 0.7 < 0.99 < late
    canonical.encode(detector.document())


def test_a_near_tie_prefers_late_and_wide_features() -> None:
    places = [FeatureSpec(3, "cls+mean"), FeatureSpec(3, "cls"), FeatureSpec(2, "cls+mean"), FeatureSpec(1, "cls")]
    near = {spec: feature_choice.SeparationScore(0.990, 0.004) for spec in places} | {
        FeatureSpec(1, "cls"): feature_choice.SeparationScore(0.993, 0.004)
    }
    assert feature_choice.choose(near) == FeatureSpec(3, "cls+mean")
    assert feature_choice.choose(
        near | {FeatureSpec(1, "cls"): feature_choice.SeparationScore(0.993, 0.001)}
    ) == FeatureSpec(1, "cls")
    assert feature_choice.choose(dict.fromkeys(places, feature_choice.SeparationScore(None, None))) == FeatureSpec(
        3, "cls+mean"
    )


def test_the_score_against_others_is_a_lower_bound() -> None:
    detector = fitted(others={LATE: noise(200, 6) + 1})
    value = detector.calibration["choice"]["candidates"][0]["auroc"]
    inside, _ = detector(seen(*blobs(400, 1)))
    for predicted in (torch.zeros(200).long(), torch.arange(200) % 2):
        outside, _ = detector(seen(noise(200, 6) + 1, predicted))
        assert value <= auroc(inside.numpy(), outside.numpy())


def test_the_same_features_give_the_same_detector() -> None:
    one, again = fitted(), fitted()
    assert one.document() == again.document()
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in one.tensors().items())


def test_one_label_alone_has_a_detector_too() -> None:
    features, _ = blobs(100, 0)
    nothing = torch.zeros(100).long()
    detector = fit_mahalanobis(DetectorData({LATE: features}, nothing, {LATE: features}, nothing, ("rust",)))
    assert detector.calibration["choice"]["candidates"][0]["auroc"] is None


def test_features_of_a_tap_that_a_split_lacks_are_refused() -> None:
    train, classes = blobs(100, 0)
    for val, others in (({EARLY: train}, None), ({LATE: train}, {EARLY: train})):
        with pytest.raises(BadInput, match="same features"):
            DetectorData({LATE: train}, classes, val, classes, LABELS, others)


def test_few_held_out_images_are_warned_of() -> None:
    assert fitted(MIN_HELD_OUT).notes == ()
    assert fitted(299).notes == ("the OOD thresholds rest on 299 held-out images, fewer than 300",)
    assert any("too few for a false-alarm rate of 0.001" in note for note in fitted(400, false_alarm_rate=0.001).notes)


def test_another_runtime_keeps_the_rate_with_its_own_thresholds() -> None:
    reference = fitted(false_alarm_rate=0.1)

    def blurred(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        features, classes = blobs(count, seed)
        return features + 0.8 * noise(count, seed + 100), classes

    held_out, predicted = blurred(1000, 7)
    calibrated = calibrated_for(reference, "torch-bf16", {LATE: held_out}, predicted)
    new = seen(*blurred(2000, 8))
    assert reference(new)[1].float().mean() > 0.15, "the reference's thresholds are wrong there"
    assert calibrated.for_runtime("torch-bf16")(new)[1].float().mean() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(calibrated(new)[0], reference(new)[0]), "the reference's thresholds stay"
    assert calibrated.for_runtime("torch-int8") is calibrated
    assert reference.runtime_thresholds == {}, "a copy was made"


def test_a_runtimes_own_warnings_are_shown() -> None:
    held_out, predicted = blobs(60, 2)
    calibrated = calibrated_for(fitted(), "torch-bf16", {LATE: held_out}, predicted)
    assert calibrated.notes == ()
    assert any("60 held-out images" in note for note in calibrated.for_runtime("torch-bf16").notes)


@pytest.mark.parametrize("name", ["", "Torch", "a b", "x" * 50])
def test_thresholds_for_no_runtime_are_refused(name: str) -> None:
    held_out, predicted = blobs(60, 2)
    with pytest.raises(BadInput, match="not a valid name of a runtime"):
        calibrated_for(fitted(), name, {LATE: held_out}, predicted)
