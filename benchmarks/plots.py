"""Small PNG plots. matplotlib is imported only when one is drawn, and needs no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.figures import new_figure as _figure
from benchmarks.figures import png as _png

THRESHOLD = 1.0
"""OOD scores are in units of the threshold: an image with more than 1 is flagged."""

_MAX_LABELS = 60  # more rows than this are drawn without their names


def confusion(counts: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """A confusion matrix [truth, predicted], each row coloured by its shares and labelled with its counts."""
    side = min(12.0, 3.0 + 0.35 * len(names))
    figure, axes = _figure(side + 0.8, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    if len(names) <= _MAX_LABELS:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    if len(names) <= 25:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    axes.set(xlabel="predicted", ylabel="truth", title=title)
    return _png(figure)


def score_histograms(scores: Mapping[str, Mapping[str, np.ndarray]], title: str) -> bytes:
    """The scores of each kind of images per target, with the threshold.

    Args:
        scores: target -> kind (`in`, `near`, `far`) -> scores.
    """
    figure, grid = _figure(4.0 * len(scores), 3.2, columns=len(scores))
    for axes, (target, kinds) in zip(np.atleast_1d(grid), scores.items(), strict=True):
        everything = np.concatenate([*kinds.values(), [0.0, THRESHOLD]])
        bins = np.linspace(everything.min(), max(1.2 * THRESHOLD, float(np.quantile(everything, 0.99))), 40)
        for kind, values in kinds.items():
            axes.hist(np.minimum(values, bins[-1]), bins, alpha=0.5, density=True, label=f"{kind} (n={len(values)})")
        axes.axvline(THRESHOLD, color="black", linestyle="--", linewidth=1, label="threshold")
        axes.set(title=target, xlabel="OOD score")
        axes.legend(fontsize=7)
    figure.suptitle(title)
    return _png(figure)


def latency_ecdf(milliseconds: np.ndarray, marks: Mapping[str, float], title: str) -> bytes:
    """The share of answers within a time, with the percentiles."""
    figure, axes = _figure(5.5, 3.5)
    ordered = np.sort(milliseconds)
    axes.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post")
    for number, (name, value) in enumerate(marks.items()):
        axes.axvline(value, color=f"C{number + 1}", linestyle="--", linewidth=1, label=f"{name} {value:.1f} ms")
    axes.set(xlabel="ms per image", ylabel="share of answers", title=title, ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="lower right")
    return _png(figure)


def roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> bytes:
    """Receiver operating characteristics: name -> (false positive rates, true positive rates), both rising."""
    figure, axes = _figure(4.5, 4.5)
    for name, (false, true) in curves.items():
        axes.step(false, true, where="post", label=name)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title, xlim=(0, 1), ylim=(0, 1.02))
    if curves:
        axes.legend(fontsize=8, loc="lower right")
    return _png(figure)


def reliability(probability: np.ndarray, right: np.ndarray, title: str) -> bytes:
    """The share of right answers against their probability, in bins of equal width, and how many there are in each.

    Args:
        probability, right: the mean of each bin that has images.
    """
    figure, axes = _figure(4.5, 4.5)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1, label="calibrated")
    axes.plot(probability, right, marker="o", label="measured")
    axes.set(xlabel="probability of the answer", ylabel="share right", title=title, xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(fontsize=8, loc="upper left")
    return _png(figure)


def bars(values: Mapping[str, float], label: str, title: str) -> bytes:
    """One horizontal bar per name."""
    figure, axes = _figure(5.5, min(12.0, 1.5 + 0.3 * len(values)))
    drawn = axes.barh(list(values), list(values.values()))
    axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=label, title=title)
    return _png(figure)
