"""How well OOD scores separate other images from images of the target.

In-distribution is the positive class: FPR95 is the share of out-of-distribution images that pass where 95% of the
target's own images do. `far` images are unrelated (`_ood/far`); `near` ones are plants that the target does not cover
(`_ood/near`, or else the other targets' test images). They are never combined: separating photographs of streets from
leaves says little about separating one leaf from another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.fitting.ood_metrics import ScoreCounts, auroc_interval
from benchmarks import plots
from benchmarks.bootstrap import interval, resampled_separation
from benchmarks.curves import roc, true_by_false_rate
from benchmarks.inputs import Data, File, Image, Model, Progress, batches, left_out, name_of, sample, test_images
from registry.evidence.outcomes import ImageOutcome, Kind
from registry.evidence.results import PROPORTION, Measurement, Metric
from registry.evidence.stats import CONFIDENCE, Interval, wilson
from registry.formats import canonical

MAX_FAR = 1000
MAX_NEAR = 300
"""How many images of a kind are scored for each target; from more, a sample is drawn."""
MAX_PLOTTED = 8
"""How many targets the plot shows."""

_FAR = ("ood_auroc", "ood_fpr95", "ood_aupr_in", "ood_aupr_out", "ood_detection_rate")
_NEAR = tuple(name.replace("ood_", "ood_near_") for name in _FAR)


@dataclass(frozen=True)
class Scores:
    """A target's scores of its own images and of out-of-distribution ones; [n] each, may be empty."""

    inside: np.ndarray
    far: np.ndarray
    near: np.ndarray


_EQUAL = 0.0005
"""Of two areas that are shown as the same number."""


def ood(model: Model, data: Data, *, seed: int = 0, progress: Progress | None = None) -> Measurement:
    """`ood_auroc`, `ood_fpr95`, `ood_aupr_in`, `ood_aupr_out` and `ood_detection_rate` on far images, the same with
    `ood_near_` on near ones, `ood_false_alarm_rate` on the target's own; per target, and over the scores of all targets
    together.

    AUROC has DeLong's interval; those of FPR95 and AUPR are bootstrapped, with each kind of images resampled separately
    and the threshold found again in each resample; rates have Wilson intervals. AUPR depends on the numbers of images,
    so compare it only on the same data. A metric has no value if there are no images for it, or if an image has no
    score because the target has no detector.

    Raises:
        BadInput: when there is no test image of any of the version's targets.
    """
    images = test_images(model, data)
    far, near = data.ood("far"), data.ood("near")
    plans = _plans(images, far, near, seed)
    found = score_all(model, plans, progress)
    together = pooled(plans, found)
    metrics = metrics_of(together, None, seed)
    for target, scores in found.items():
        metrics += metrics_of(scores, target, seed)
    return Measurement(
        metrics=tuple(metrics),
        data_sha256=canonical.digest([data.digest(kind) for kind in ("test", "far", "near")]),
        data_name=f"{name_of(data)} and _ood/far",
        data_n=len(images) + len(far),
        plot=_plot(found),
        plots={"roc": _roc(together)},
        curves={f"ood_tpr_by_fpr_{kind}": true_by_false_rate(*pair) for kind, pair in _pairs(together).items()},
        outcomes=tuple(_outcomes(plans, found)),
        notes=left_out(model, data) | _notes(data, far, near) | _reasons(data, found),
    )


def score_all(
    model: Model, plans: Mapping[str, Mapping[str, Sequence[File]]], progress: Progress | None
) -> dict[str, Scores]:
    """Score the planned images: target -> `inside`, `far`, `near` -> files."""
    done, total = 0, sum(len(files) for plan in plans.values() for files in plan.values())
    found: dict[str, Scores] = {}
    for target, plan in plans.items():
        scores: dict[str, list[float]] = {kind: [] for kind in plan}
        for kind, files in plan.items():
            for batch in batches(files, None):
                given = [file.read() for file in batch]
                # A target without a detector has no scores.
                scores[kind] += [math.nan if one is None else one for one in model.ood_scores(given, target)]
                done += len(batch)
                if progress:
                    progress(done, total)
        found[target] = Scores(**{kind: np.asarray(values, np.float64) for kind, values in scores.items()})
    return found


def metrics_of(scores: Scores, target: str | None, seed: int) -> list[Metric]:
    """The metrics of some scores."""
    return [
        *_separation("ood", scores.inside, scores.far, target, seed),
        _flagged("ood_detection_rate", scores.far, target),
        *_separation("ood_near", scores.inside, scores.near, target, seed),
        _flagged("ood_near_detection_rate", scores.near, target),
        _flagged("ood_false_alarm_rate", scores.inside, target),
    ]


def _plans(
    images: Sequence[Image], far: Sequence[File], near: Sequence[File], seed: int
) -> dict[str, dict[str, Sequence[File]]]:
    """The images to score for each target that has test images."""
    plans: dict[str, dict[str, Sequence[File]]] = {}
    for target in sorted({image.target for image in images}):
        others = [image for image in images if image.target != target]
        plans[target] = {
            "inside": [image for image in images if image.target == target],
            "far": sample(far, MAX_FAR, seed),
            "near": sample(near or others, MAX_NEAR, seed),
        }
    return plans


def pooled(plans: Mapping[str, Mapping[str, Sequence[File]]], found: Mapping[str, Scores]) -> Scores:
    """The scores of all targets together, with each image once: if several targets scored an image, one of them is
    used, in turn.

    Scores of one image by several targets are not independent, so n would be too large and intervals too narrow.
    """
    kinds: dict[str, list[float]] = {}
    for kind in ("inside", "far", "near"):
        scores: dict[Path, list[float]] = {}
        for target, plan in plans.items():
            for file, score in zip(plan[kind], getattr(found[target], kind), strict=True):
                scores.setdefault(file.path, []).append(float(score))
        kinds[kind] = [several[number % len(several)] for number, several in enumerate(scores.values())]
    return Scores(**{kind: np.asarray(values, np.float64) for kind, values in kinds.items()})


def _outcomes(plans: Mapping[str, Mapping[str, Sequence[File]]], found: Mapping[str, Scores]) -> Iterator[ImageOutcome]:
    """The score that each target's detector gave each image; none for a target without a detector."""
    kinds: tuple[tuple[str, Kind], ...] = (("inside", "test"), ("far", "far"), ("near", "near"))
    for target, plan in plans.items():
        for name, kind in kinds:
            for file, score in zip(plan[name], getattr(found[target], name), strict=True):
                if math.isfinite(score):
                    yield ImageOutcome(
                        image=file.sha256, kind=kind, target=target, ood_score=float(score),
                        is_ood=bool(score > plots.THRESHOLD),
                    )  # fmt: skip


def _separation(prefix: str, inside: np.ndarray, outside: np.ndarray, target: str | None, seed: int) -> list[Metric]:
    n = min(len(inside), len(outside))
    if n == 0 or np.isnan(inside).any() or np.isnan(outside).any():
        names = ("auroc", "fpr95", "aupr_in", "aupr_out")
        return [Metric.of(f"{prefix}_{name}", None, n=n, target=target) for name in names]
    counts = ScoreCounts.of(inside, outside)
    resampled = resampled_separation(counts, seed)
    low, high = auroc_interval(inside, outside, CONFIDENCE)
    rate = float(counts.fpr_at_95_tpr)
    around, binomial = interval(resampled.fpr95), wilson(round(rate * len(outside)), len(outside))
    # Where no image passes, none passes in any resample: only Wilson's interval knows that n is finite.
    around = Interval(min(around.low, binomial.low), max(around.high, binomial.high))
    return [
        Metric.of(f"{prefix}_auroc", float(counts.auroc), n=n, low=low, high=high, target=target, unit="area"),
        Metric.of(f"{prefix}_fpr95", rate, n=n, low=around.low, high=around.high, target=target, unit=PROPORTION),
        _precision(f"{prefix}_aupr_in", float(counts.aupr_in), resampled.aupr_in, n, target),
        _precision(f"{prefix}_aupr_out", float(counts.aupr_out), resampled.aupr_out, n, target),
    ]


def _precision(name: str, value: float, resampled: np.ndarray, n: int, target: str | None) -> Metric:
    """An AUPR; without an interval if all resamples are as good as equal: that says nothing of other images."""
    around = interval(resampled)
    if around.high - around.low < _EQUAL:
        return Metric.of(name, value, n=n, target=target, unit="area")
    low, high = min(around.low, value), max(around.high, value)
    return Metric.of(name, value, n=n, low=low, high=high, target=target, unit="area")


def _flagged(name: str, scores: np.ndarray, target: str | None) -> Metric:
    if np.isnan(scores).any():
        return Metric.of(name, None, n=len(scores), target=target, unit=PROPORTION)
    return Metric.proportion(name, int((scores > plots.THRESHOLD).sum()), len(scores), target=target)


def _plot(found: Mapping[str, Scores]) -> bytes:
    shown = dict(list(found.items())[:MAX_PLOTTED])
    more = f", the first {len(shown)} of {len(found)} targets" if len(shown) < len(found) else ""
    return plots.score_histograms({target: _kinds(scores) for target, scores in shown.items()}, f"OOD scores{more}")


def _pairs(scores: Scores) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The scores to tell apart, those of the targets' own images first; without kinds that have no scores."""
    kinds = _kinds(scores)
    return {kind: (kinds["in"], kinds[kind]) for kind in ("far", "near") if "in" in kinds and kind in kinds}


def _roc(scores: Scores) -> bytes:
    pairs = _pairs(scores)
    curves = {f"{kind} (n={len(pair[1])})": roc(*pair) for kind, pair in pairs.items()}
    return plots.roc(curves, f"ROC of OOD scores, n={len(scores.inside)} of the targets")


def _kinds(scores: Scores) -> dict[str, np.ndarray]:
    kinds = {"in": scores.inside, "near": scores.near, "far": scores.far}
    finite = {kind: values[np.isfinite(values)] for kind, values in kinds.items()}
    return {kind: values for kind, values in finite.items() if len(values)}


def _notes(data: Data, far: Sequence[File], near: Sequence[File]) -> dict[str, str | int | float]:
    """The out-of-distribution images that were used."""
    return {
        "far_images": len(far),
        "far_sha256": data.digest("far"),
        "near_images": len(near) or "test images of the other targets",
    }


def _reasons(data: Data, found: Mapping[str, Scores]) -> dict[str, str | int | float]:
    """The reason why a metric has no value, under the metric's name."""
    root = data.root.resolve().name
    reasons: dict[str, str | int | float] = {}
    if not any(len(scores.far) for scores in found.values()):
        reason = f"{root}/_ood/far has no image: put at least 100 images there that show none of the targets"
        reasons |= dict.fromkeys(_FAR, reason)
    if not any(len(scores.near) for scores in found.values()):
        reason = f"{root}/_ood/near has no image, and there is no other target whose images could be used"
        reasons |= dict.fromkeys(_NEAR, reason)
    without = [target for target, scores in found.items() if np.isnan(scores.inside).any()]
    if without:
        reason = f"no OOD score for images of {', '.join(without)[:300]}: the version may have no detector for it"
        reasons |= dict.fromkeys((*_FAR, *_NEAR, "ood_false_alarm_rate"), reason)
    return reasons
