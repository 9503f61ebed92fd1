"""Imported detectors score as the formulas of their systems, and refuse what can't be meant."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from adapters.answer.heads import HeadOutput
from adapters.answer.ood_imported import (
    READERS,
    SHARED,
    SQUARED,
    EnergyDetector,
    EnsembleDetector,
    ImportedDetector,
    KnnDetector,
    PrototypeDetector,
    energy,
)
from registry.errors import BadManifest, BadWeights

LABELS = ("a", "b", "c")
WIDTH, ROWS = 5, 40


def seen(seed: int = 0) -> HeadOutput:
    """A batch in which every class is predicted."""
    random = torch.Generator().manual_seed(seed)
    embedding = 2 * torch.randn(ROWS, WIDTH, generator=random)
    return HeadOutput({}, embedding, torch.randn(ROWS, len(LABELS), generator=random))


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))) + 0.5


def prototype(distance: str) -> PrototypeDetector:
    spread = draw(WIDTH, WIDTH)
    precision = spread @ spread.T + torch.eye(WIDTH) if distance == SHARED else draw(3, WIDTH)
    centres = draw(1, WIDTH) if distance == SHARED else draw(3, WIDTH)
    return PrototypeDetector(LABELS, distance, centres, precision, 10 * draw(3))


def ensemble() -> EnsembleDetector:
    calibrated = torch.tensor([True, True, False])
    return EnsembleDetector(LABELS, 1.5, 0.7, draw(3, WIDTH), draw(3, WIDTH), *[draw(3)] * 5, calibrated)


def knn() -> KnnDetector:
    return KnnDetector(LABELS, None, draw(9, WIDTH), torch.tensor([7, 2, 0]), torch.tensor([3, 10, 10]), 2 * draw(3))


def detectors() -> dict[str, ImportedDetector]:
    return {
        "shared": prototype(SHARED),
        "squared": prototype(SQUARED),
        "ensemble": ensemble(),
        "energy": EnergyDetector(LABELS, 2.0, -2 * draw(3), torch.tensor([True, True, False])),
        "knn": knn(),
    }


@pytest.mark.parametrize("name", ["shared", "squared", "ensemble", "energy", "knn"])
def test_a_detector_reads_back_as_it_was_written(name: str) -> None:
    detector = detectors()[name]
    again = READERS[detector.document()["kind"]](detector.document(), detector.tensors(), "ood")
    assert type(again) is type(detector)
    for one in fields(detector):
        mine, theirs = getattr(detector, one.name), getattr(again, one.name)
        assert torch.equal(mine, theirs) if torch.is_tensor(mine) else mine == theirs
    assert all(torch.equal(*pair) for pair in zip(detector(seen()), again(seen()), strict=True))


def test_the_mahalanobis_distance_is_that_of_the_definition() -> None:
    detector, batch = prototype(SHARED), seen()
    scores, flags = detector(batch)
    for row in range(ROWS):
        centred = batch.embedding[row] - detector.centres[0]
        distance = float(centred @ detector.precision @ centred) ** 0.5
        threshold = float(detector.thresholds[batch.predicted[row]])
        assert float(scores[row]) == pytest.approx(distance / threshold, rel=1e-5)
        assert bool(flags[row]) == (distance > threshold)
    assert 0 < int(flags.sum()) < ROWS, "a test that flags all or none shows little"


def test_each_class_may_have_a_centre_of_its_own() -> None:
    detector, batch = replace(prototype(SHARED), centres=draw(3, WIDTH)), seen()
    row = batch.predicted.tolist().index(2)
    centred = batch.embedding[row] - detector.centres[2]
    assert float(detector(batch)[0][row] * detector.thresholds[2]) == pytest.approx(
        float(centred @ detector.precision @ centred) ** 0.5, rel=1e-5
    )


def test_squared_distances_use_the_variances_of_each_class() -> None:
    detector, batch = prototype(SQUARED), seen()
    scores, _ = detector(batch)
    for row, number in enumerate(batch.predicted.tolist()):
        centred = batch.embedding[row] - detector.centres[number]
        distance = float((centred**2 * detector.precision[number]).sum())
        assert float(scores[row]) == pytest.approx(distance / float(detector.thresholds[number]), rel=1e-5)


def test_the_ensemble_weighs_two_z_values_on_the_sphere() -> None:
    detector, batch = ensemble(), seen()
    scores, flags = detector(batch)
    for row, number in enumerate(batch.predicted.tolist()):
        if number == 2:
            assert (float(scores[row]), bool(flags[row])) == (0.0, False)
            continue
        feature = 1.5 * batch.embedding[row] / batch.embedding[row].norm()
        distance = float(((feature - detector.means[number]) ** 2 / detector.variances[number]).sum() ** 0.5)
        free = float(-0.7 * torch.logsumexp(batch.logits[row] / 0.7, dim=0))
        raw = 0.6 * (distance - float(detector.mahalanobis_mu[number])) / float(detector.mahalanobis_sigma[number])
        raw += 0.4 * (free - float(detector.energy_mu[number])) / float(detector.energy_sigma[number])
        assert float(scores[row]) == pytest.approx(1 + raw - float(detector.thresholds[number]), abs=1e-4)
        assert bool(flags[row]) == (raw > float(detector.thresholds[number]))


def test_energy_is_higher_for_flat_logits() -> None:
    sure, flat = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    assert float(energy(flat, 1.0)) > float(energy(sure, 1.0))
    assert float(energy(flat, 1.0)) == pytest.approx(-1 - torch.log(torch.tensor(3.0)).item())


def test_only_neighbours_of_the_predicted_class_count() -> None:
    detector, batch = knn(), seen()
    scores, flags = detector(batch)
    banks = (detector.bank[:7], detector.bank[7:])
    for row, number in enumerate(batch.predicted.tolist()):
        if number == 2:
            assert (float(scores[row]), bool(flags[row])) == (0.0, False)
            continue
        nearest = sorted(float((batch.embedding[row] - vector).norm()) for vector in banks[number])[: (3, 2)[number]]
        mean = sum(nearest) / len(nearest)
        assert float(scores[row]) == pytest.approx(mean / float(detector.thresholds[number]), rel=1e-4)
        assert bool(flags[row]) == (mean > float(detector.thresholds[number]))


@pytest.mark.parametrize(
    ("name", "document", "tensors", "error"),
    [
        ("shared", {"distance": "euclid"}, {}, BadManifest),
        ("shared", {"inputs": 4}, {}, BadWeights),
        ("shared", {}, {"thresholds": torch.tensor([1.0, 0.0, 1.0])}, BadWeights),
        ("ensemble", {"radial_beta": -1}, {}, BadManifest),
        ("ensemble", {"energy_temperature": None}, {}, BadManifest),
        ("ensemble", {}, {"variances": torch.zeros(3, WIDTH)}, BadWeights),
        ("energy", {"labels": ["a", "b"]}, {}, BadWeights),
        ("knn", {}, {"sizes": torch.tensor([9, -2, 2])}, BadWeights),
        ("knn", {}, {"sizes": torch.tensor([9, 9, 9])}, BadWeights),
        ("knn", {}, {"neighbours": torch.tensor([3, 0, 1])}, BadWeights),
        ("knn", {}, {"neighbours": draw(3)}, BadWeights),
    ],
)
def test_what_can_t_be_meant_is_refused(
    name: str, document: dict[str, Any], tensors: dict[str, torch.Tensor], error: type[Exception]
) -> None:
    detector = detectors()[name]
    read = READERS[detector.document()["kind"]]
    with pytest.raises(error, match="ood"):
        read(detector.document() | document, detector.tensors() | tensors, "ood")


def test_a_file_that_lacks_a_tensor_is_refused() -> None:
    for detector in detectors().values():
        for name in detector.tensors():
            rest = {other: tensor for other, tensor in detector.tensors().items() if other != name}
            with pytest.raises(BadWeights, match="ood"):
                READERS[detector.document()["kind"]](detector.document(), rest, "ood")
