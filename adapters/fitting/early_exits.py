"""Fit exits at earlier blocks (heads and detectors), and choose whether to use them.

Labels need fewer blocks than separating out-of-distribution images. On handwritten digits, exits that kept the accuracy
answered most images after 2 of 6 blocks, and the AUROC against other digits fell from .99 to .84. So the recommendation
uses only blocks whose detector separates other images nearly as well as at full depth, and is checked again as a whole.
Explicitly requested exits or cuts only need to keep the accuracy; the report says what they cost otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from adapters.answer.early_exits import Depth
from adapters.answer.heads import Features, Head
from adapters.answer.ood import Mahalanobis
from adapters.answer.stages import Stage
from adapters.backbone.features import FeatureSpec
from adapters.fitting.depth_choice import DepthChoice, choose_depth
from adapters.fitting.ood_metrics import auroc
from adapters.fitting.regression import linear_head

ALLOWED_OOD_LOSS = 0.01
"""The allowed loss of AUROC against other targets' held-out images, compared with full depth."""

FitDetector = Callable[[Head, int], Mahalanobis]
"""Fits a detector for a head, on features of blocks up to the given one."""


def fit_depth(
    wanted: str,
    last: Stage,
    *,
    specs: Mapping[int, FeatureSpec],
    features: Mapping[str, Features],
    classes: Mapping[str, torch.Tensor],
    fit_detector: FitDetector,
) -> Depth:
    """Fit exits and choose how to use them.

    Args:
        wanted: `dynamic`, `static` or `auto`.
        last: head and detector at full depth.
        specs: block -> the features of an exit there.
        features: of `train`, `val` and `others`, the other targets' images, of which there may be none.
        classes: of `train` and `val`, [N].

    Returns:
        The depth. Its mode is the wanted one if the accuracy on held-out images allows it, or the recommended one for
        `auto`; otherwise full, without exits. The report has the measurements.
    """
    assert isinstance(last.detector, Mahalanobis)  # noqa: S101  a fit makes only these
    exits, worth = {}, {last.block: _worth(last.detector)}
    for block, spec in specs.items():
        head = linear_head(features["train"][spec], classes["train"], last.head.labels, spec)
        exits[block] = Stage(head, detector := fit_detector(head, block))
        worth[block] = _worth(detector)
    sound = {block: exits[block] for block in exits if _is_good(worth[block], worth[last.block])}
    best = _ExitCandidates.of(sound, last, features, classes["val"]).within_allowed_ood_loss()
    plan = best if wanted == "auto" else _ExitCandidates.of(exits, last, features, classes["val"])
    mode = best.mode if wanted == "auto" else wanted if wanted in plan.ways else "full"
    ood = {
        "allowed_loss": ALLOWED_OOD_LOSS,
        "auroc_by_block": [[block, worth[block]] for block in sorted(worth)],
        "auroc": {way: _auroc(stages, features) for way, stages in plan.ways.items()},
    }
    report = {**plan.report, "mode": mode, "recommended": best.mode, "why": best.why, "ood": ood}
    kept = tuple(stage for stage in plan.ways[mode] if stage.block < last.block)
    return Depth(mode, kept, kept[0].block if mode == "static" else None, report)


def ood_note(report: Mapping[str, Any]) -> list[str]:
    """A sentence for people if the chosen depth separates out-of-distribution images less well; otherwise empty."""
    mode, areas = report["mode"], report["ood"]["auroc"]
    if _is_good(areas[mode], areas["full"]):
        return []
    return [
        f"{mode} depth separates other targets' images with an AUROC of {areas[mode]:.3f}, "
        f"full depth with {areas['full']:.3f}"
    ]


@dataclass(frozen=True)
class _ExitCandidates:
    """The results of some exits on held-out images.

    Attributes:
        mode, why: the recommended mode, and the reason.
        ways: the stages of each mode that keeps the accuracy.
        areas: the AUROC of each mode against other targets' images.
        report: of the accuracy.
    """

    mode: str
    why: str
    ways: Mapping[str, tuple[Stage, ...]]
    areas: Mapping[str, float | None]
    report: Mapping[str, Any]

    @classmethod
    def of(
        cls, exits: Mapping[int, Stage], last: Stage, features: Mapping[str, Features], classes: torch.Tensor
    ) -> _ExitCandidates:
        """Choose on held-out images."""
        if not exits:
            alone = {"full": (last,)}
            return cls("full", f"no block before {last.block} separates other images as well", alone, {}, {})
        logits = {stage.block: stage.head(features["val"]).logits for stage in (*exits.values(), last)}
        choice = choose_depth(logits, classes)
        ways = _ways(choice, exits, last)
        areas = {way: _auroc(stages, features) for way, stages in ways.items()}
        return cls(choice.recommended, choice.report["why"], ways, areas, choice.report)

    def within_allowed_ood_loss(self) -> _ExitCandidates:
        """The same, with a recommendation that loses no more AUROC than allowed."""
        if _is_good(self.areas.get(self.mode), self.areas.get("full")):
            return self
        if "static" in self.ways and _is_good(self.areas["static"], self.areas["full"]):
            return replace(self, mode="static", why="exits separate other images less well, the static cut does not")
        return replace(self, mode="full", why=f"{self.mode} depth separates other images less well")


def _worth(detector: Mahalanobis) -> float:
    """The AUROC by which the detector's features were chosen."""
    choice = detector.calibration["choice"]
    own = next(one for one in choice["candidates"] if one["features"] == detector.feature_spec.document())
    return float(own["auroc"] or 0.0)


def _ways(choice: DepthChoice, exits: Mapping[int, Stage], last: Stage) -> dict[str, tuple[Stage, ...]]:
    """The stages of each mode that keeps the accuracy, without exits at which no held-out image leaves."""
    ways: dict[str, tuple[Stage, ...]] = {"full": (last,)}
    if choice.threshold is not None:
        blocks = choice.report["dynamic"]["leaving_blocks"]
        ways["dynamic"] = (
            *(Stage(exits[b].head, exits[b].detector, choice.threshold) for b in sorted(exits) if b in blocks),
            last,
        )
    if choice.cut is not None:
        # The threshold of a static cut is not used, but must be positive.
        ways["static"] = (Stage(exits[choice.cut].head, exits[choice.cut].detector, 1.0),)
    return ways


def _auroc(stages: Sequence[Stage], features: Mapping[str, Features]) -> float | None:
    """The AUROC of the target's held-out images against those of other targets, with the scores of these stages; None
    without others.
    """
    inside, outside = (_scores(stages, features[name]).numpy() for name in ("val", "others"))
    return auroc(inside, outside) if len(outside) else None


def _is_good(area: float | None, full: float | None) -> bool:
    return area is None or full is None or area >= full - ALLOWED_OOD_LOSS


@torch.no_grad()
def _scores(stages: Sequence[Stage], features: Features) -> torch.Tensor:
    """[N], the score of each row at the stage at which it leaves."""
    scores = torch.empty(len(next(iter(features.values()))))
    rows = torch.arange(len(scores))
    for stage in (*stages[:-1], replace(stages[-1], threshold=0.0)):
        leaving, answers = stage.answer({spec: own[rows] for spec, own in features.items()})
        staying = torch.ones(len(rows), dtype=torch.bool)
        staying[leaving] = False
        scores[rows[~staying]] = torch.tensor([one.score for one in answers])
        rows = rows[staying]
    return scores
