"""Scores and flags of a detector, and how it is written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters import bundle
from adapters.answer import ood
from adapters.answer.ood import Mahalanobis, distances, read_detector
from adapters.backbone.features import FeatureSpec
from adapters.fitting.mahalanobis import (
    calibrated_for,
)
from registry.errors import BadManifest, BadWeights, MissingBlob
from tests.support.blobs import DEPTH, HIDDEN, LABELS, LATE, blobs, fitted, seen, strangers


def written(folder: Path, document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bundle.BundleFiles:
    """A bundle that holds one detector."""
    bundle.write_document(folder / "ood.json", document)
    bundle.write_tensors(folder / "ood.safetensors", {name: tensor.numpy() for name, tensor in tensors.items()})
    return bundle.BundleFiles({f"adapters/leaf/{path.name}": path for path in folder.iterdir()})


def read(files: bundle.BundleFiles) -> ood.Detector:
    return read_detector(files, "adapters/leaf", HIDDEN, DEPTH, "cpu")


def test_scores_count_in_thresholds_of_the_predicted_label() -> None:
    detector = replace(fitted(), thresholds=torch.tensor([0.5, 2.0]))
    features, _ = blobs(200, 3)
    predicted = (torch.arange(200) < 50).long()
    scores, flags = detector(seen(features, predicted))
    expected = distances(features, predicted, detector.means, detector.whitening)
    assert torch.allclose(scores * detector.thresholds[predicted], expected)
    assert torch.equal(flags, scores > 1)


def test_strangers_are_flagged() -> None:
    _, flags = fitted()(seen(strangers(50, 4), torch.zeros(50).long()))
    assert flags.all()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    held_out, predicted = blobs(300, 2)
    detector = calibrated_for(fitted(), "torch-bf16", {LATE: held_out}, predicted)
    again = read(written(tmp_path, detector.document(), detector.tensors()))
    assert isinstance(again, Mahalanobis)
    assert again.document() == detector.document()
    assert again.labels == LABELS
    assert again.feature_specs == (LATE,)
    for runtime in ("torch-fp32", "torch-bf16"):
        looked = seen(held_out, predicted)
        assert torch.equal(again.for_runtime(runtime)(looked)[0], detector.for_runtime(runtime)(looked)[0])
    in_use = again.for_runtime("torch-bf16")
    assert in_use.tensors().keys() == detector.tensors().keys(), "what is shipped does not depend on the runtime"
    assert torch.equal(in_use.tensors()["thresholds"], detector.thresholds)


def test_a_detector_from_before_blocks_were_chosen_is_still_read(tmp_path: Path) -> None:
    detector = fitted()
    document = {key: value for key, value in detector.document().items() if key != "calibration"}
    again = read(written(tmp_path, {**document, "features": "cls"}, detector.tensors()))
    assert again.feature_specs == (FeatureSpec(DEPTH, "cls", norm=True),)
    assert isinstance(again, Mahalanobis)
    assert again.notes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "oracle"}, "of kind 'oracle' is not known"),
        ({"kind": ["mahalanobis"]}, "is not known"),
        ({"features": {"block": DEPTH + 1, "pooling": "cls", "norm": True}}, "but the backbone has 3"),
        ({"features": "max"}, "are not known"),
        ({"inputs": HIDDEN + 1}, "inputs"),
        ({"labels": ["rust", "rust"]}, "distinct"),
        ({"false_alarm_rate": 1.5}, "false_alarm_rate"),
        ({"false_alarm_rate": "low"}, "false_alarm_rate"),
        ({"calibration": []}, "calibration"),
        ({"calibration": {"notes": "careful"}}, "calibration"),
        ({"calibration": {"runtimes": {"torch-bf16": 3}}}, "calibration"),
    ],
)
def test_a_malformed_document_is_refused(change: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    detector = fitted()
    files = written(tmp_path, {**detector.document(), **change}, detector.tensors())
    with pytest.raises(BadManifest, match=message):
        read(files)


@pytest.mark.parametrize(
    "change",
    [
        {"means": torch.zeros(3, HIDDEN)},
        {"thresholds": torch.tensor([1.0, 0.0])},
        {"thresholds": torch.tensor([1.0, torch.inf])},
        {"thresholds@torch-bf16": torch.tensor([1.0, -1.0])},
        {"thresholds@torch-bf16": torch.tensor([1.0])},
        {"thresholds@Not A Runtime": torch.tensor([1.0, 1.0])},
        {"surplus": torch.zeros(1)},
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: Mapping[str, torch.Tensor], tmp_path: Path) -> None:
    detector = fitted()
    files = written(tmp_path, detector.document(), {**detector.tensors(), **change})
    with pytest.raises(BadWeights):
        read(files)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ood.json").write_text(json.dumps(fitted().document()))
    with pytest.raises(MissingBlob, match=r"ood\.safetensors"):
        read(bundle.BundleFiles({"adapters/leaf/ood.json": tmp_path / "ood.json"}))
