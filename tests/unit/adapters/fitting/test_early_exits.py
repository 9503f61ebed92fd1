"""Exits are recommended only where foreign images are told apart as well as at full depth; who asks all the same is
told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from adapters.answer.early_exits import Depth
from adapters.answer.heads import Features, Head
from adapters.answer.ood import Mahalanobis
from adapters.answer.stages import Stage
from adapters.backbone.features import FeatureSpec
from adapters.fitting.early_exits import _scores, fit_depth, ood_note
from adapters.fitting.mahalanobis import DetectorData, fit_mahalanobis
from adapters.fitting.regression import linear_head

LABELS, WIDTH, N = ("rot", "sound"), 6, 120
EARLY, LAST = FeatureSpec(2, "cls"), FeatureSpec(6, "cls")
CLASSES = {"train": torch.arange(N) % 2, "val": torch.arange(N) // 2 % 2}


def features(early_tells: bool, others: int = N) -> dict[str, Features]:
    """Of two labels that are far apart at both blocks, and of foreign images: at the last block they lie elsewhere, at
    the early one only if told so."""
    random = torch.Generator().manual_seed(0)
    centres = torch.eye(WIDTH)[:2] * 5

    def around(centre: torch.Tensor) -> torch.Tensor:
        return centre + torch.randn(len(centre), WIDTH, generator=random)

    seen: dict[str, Features] = {
        name: {spec: around(centres[classes]) for spec in (EARLY, LAST)} for name, classes in CLASSES.items()
    }
    elsewhere = torch.eye(WIDTH)[2].expand(others, WIDTH) * 5
    disguised = centres[torch.arange(others) % 2]
    seen["others"] = {EARLY: around(elsewhere if early_tells else disguised), LAST: around(elsewhere)}
    return seen


def depth_of(wanted: str, seen: Mapping[str, Features]) -> Depth:
    def fit_detector(head: Head, block: int) -> Mahalanobis:
        train, val, others = ({spec: of[spec] for spec in (EARLY, LAST) if spec.block <= block} for of in seen.values())
        predicted = head(seen["val"]).predicted
        strangers = others if len(seen["others"][LAST]) else None
        return fit_mahalanobis(DetectorData(train, CLASSES["train"], val, predicted, LABELS, strangers))

    head = linear_head(seen["train"][LAST], CLASSES["train"], LABELS, LAST)
    last = Stage(head, fit_detector(head, 6))
    return fit_depth(wanted, last, specs={2: EARLY}, features=seen, classes=CLASSES, fit_detector=fit_detector)


def test_a_block_that_tells_both_apart_is_where_all_leave() -> None:
    depth = depth_of("auto", features(early_tells=True))
    assert (depth.mode, depth.cut) == ("static", 2)
    assert [stage.block for stage in depth.exits] == [2]
    assert ood_note(depth.report) == []


def test_a_block_that_separates_only_labels_is_not_recommended() -> None:
    depth = depth_of("auto", features(early_tells=False))
    assert (depth.mode, depth.exits) == ("full", ())
    assert "no block before 6 separates other images as well" in depth.report["why"]
    early, last = dict(depth.report["ood"]["auroc_by_block"]).values()
    assert early < last - 0.2


@pytest.mark.parametrize("wanted", ["static", "dynamic"])
def test_a_requested_depth_is_used_and_its_cost_reported(wanted: str) -> None:
    depth = depth_of(wanted, features(early_tells=False))
    assert depth.mode == wanted
    assert depth.report["recommended"] == "full"
    (note,) = ood_note(depth.report)
    assert note.startswith(f"{wanted} depth separates other targets' images with an AUROC of 0.")


def test_without_foreign_images_nothing_is_said_of_them() -> None:
    depth = depth_of("static", features(early_tells=True, others=0))
    assert depth.mode == "static"
    assert depth.report["ood"]["auroc"] == {"full": None, "dynamic": None, "static": None}
    assert ood_note(depth.report) == []


def test_images_are_scored_where_they_leave_as_in_use() -> None:
    seen = features(early_tells=True)
    (early,) = depth_of("dynamic", seen).exits
    head = linear_head(seen["train"][LAST], CLASSES["train"], LABELS, LAST)
    train, val = ({LAST: seen[name][LAST]} for name in ("train", "val"))
    last = Stage(head, fit_mahalanobis(DetectorData(train, CLASSES["train"], val, head(val).predicted, LABELS)))
    asked = {spec: tensor.clone() for spec, tensor in seen["val"].items()}
    asked[EARLY][0] = torch.nan  # what is no number goes no further, and gets no other score there
    asked[EARLY][1] = 0  # between the labels: no exit is sure of it
    scores = _scores((early, last), asked)
    rows, answers = early.answer(asked)
    assert scores[rows].tolist() == pytest.approx([one.score for one in answers], nan_ok=True)
    assert scores[0].isnan()
    assert 1 not in rows
    assert scores[1] == pytest.approx(last.answer(asked)[1][1].score)
