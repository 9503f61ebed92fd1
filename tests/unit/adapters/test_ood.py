"""The detector's distances, thresholds and measures mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from adapters import ood
from adapters.ood import auroc, calibrate, distances, fit_classes, fpr_at_95_tpr
from registry.errors import BadInput

scores = st.lists(st.integers(0, 12).map(float), min_size=1, max_size=60)


@given(scores, scores)
def test_auroc_is_sklearns(inside: list[float], outside: list[float]) -> None:
    truth = [0] * len(inside) + [1] * len(outside)
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, inside + outside))


@given(scores, scores)
def test_fpr_at_95_tpr_is_that_of_sklearns_curve_with_in_distribution_positive(
    inside: list[float], outside: list[float]
) -> None:
    truth = [1] * len(inside) + [0] * len(outside)
    fpr, tpr, _ = roc_curve(truth, [-value for value in inside + outside], drop_intermediate=False)
    assert fpr_at_95_tpr(inside, outside) == pytest.approx(fpr[np.argmax(tpr >= 0.95 - 1e-12)])


def test_measures_by_hand() -> None:
    assert auroc([1, 2], [3, 4]) == 1.0
    assert auroc([3, 4], [1, 2]) == 0.0
    assert auroc([1], [1]) == 0.5
    inside = [float(value) for value in range(1, 21)]
    assert fpr_at_95_tpr(inside, [19.0, 19.5, 25.0, 30.0]) == 0.25


def test_the_measures_refuse_nothing_and_nan() -> None:
    with pytest.raises(BadInput):
        auroc([], [1.0])
    with pytest.raises(BadInput):
        fpr_at_95_tpr([1.0], [float("nan")])


def blobs(count: int, seed: int, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes in some dimensions, far from the origin so that normalising keeps them apart."""
    random = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % 2
    centres = torch.eye(width)[:2] * 20
    scale = torch.linspace(0.2, 2, width)
    return centres[classes] + scale * torch.randn(count, width, generator=random), classes


def test_distances_are_those_of_the_covariance() -> None:
    features, classes = blobs(400, 0)
    means, whitening = fit_classes(features, classes, 2)
    inverse = (whitening.double() @ whitening.double().T).numpy()
    normal = (features / features.norm(dim=1, keepdim=True)).double()
    centred = (normal - means[classes]).numpy()
    expected = np.sqrt(np.einsum("ni,ij,nj->n", centred, inverse, centred))
    assert distances(features, classes, means, whitening).numpy() == pytest.approx(expected, rel=1e-3)


def test_thresholds_from_held_out_images_keep_the_promised_false_alarm_rate() -> None:
    train, classes = blobs(300, 0, width=60)
    means, whitening = fit_classes(train, classes, 2)
    held_out, held_out_classes = blobs(2000, 1, width=60)
    new, new_classes = blobs(4000, 2, width=60)

    def false_alarms(thresholds: torch.Tensor) -> float:
        return float((distances(new, new_classes, means, whitening) > thresholds[new_classes]).float().mean())

    honest = false_alarms(calibrate(held_out, held_out_classes, means, whitening, 0.05))
    from_training_images = false_alarms(calibrate(train, classes, means, whitening, 0.05))
    assert 0.03 < honest < 0.07
    assert from_training_images > 1.5 * honest


def test_a_label_with_few_held_out_images_takes_the_threshold_of_all() -> None:
    train, classes = blobs(200, 0)
    means, whitening = fit_classes(train, classes, 2)
    held_out, _ = blobs(200, 1)
    predicted = (torch.arange(200) < ood.MIN_PER_LABEL - 1).long()
    thresholds = calibrate(held_out, predicted, means, whitening, 0.05)
    everything = calibrate(held_out, torch.zeros(200).long(), means[:1], whitening, 0.05)
    assert thresholds[1] > 0
    assert everything.shape == (1,)
    assert thresholds[0] != thresholds[1]


def test_scores_count_in_thresholds() -> None:
    train, classes = blobs(200, 0)
    means, whitening = fit_classes(train, classes, 2)
    thresholds = torch.tensor([0.5, 2.0])
    detector = ood.Detector(("a", "b"), "cls", means, whitening, thresholds, 0.05)
    got, flags = detector(train, classes)
    assert torch.allclose(got * thresholds[classes], distances(train, classes, means, whitening))
    assert torch.equal(flags, got > 1)


def test_a_label_without_training_images_is_refused() -> None:
    features, classes = blobs(20, 0)
    with pytest.raises(BadInput, match="no training image"):
        fit_classes(features, classes, 3)


def test_calibrating_on_nothing_is_refused() -> None:
    with pytest.raises(BadInput):
        calibrate(torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(1, 2), torch.eye(2), 0.05)
