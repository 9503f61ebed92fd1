"""How often the router assigns an image to its target."""

from __future__ import annotations

import numpy as np

from benchmarks import plots
from benchmarks.curves import right_by_coverage
from benchmarks.inputs import Data, Image, Model, Progress, batches, left_out, name_of, test_images
from registry.evidence.outcomes import ImageOutcome
from registry.evidence.results import Measurement, Metric


def routing(model: Model, data: Data, *, seed: int = 0, progress: Progress | None = None) -> Measurement:
    """`crop_routing_accuracy` over all test images, `crop_routing_recall` per target, with Wilson intervals.

    The router's first choice counts, whatever its probability.

    Raises:
        BadInput: when there is no test image of any of the version's targets.
    """
    images = test_images(model, data)
    outcomes: list[ImageOutcome] = []
    for batch in batches(images, progress):
        routed = model.route([image.read() for image in batch])
        outcomes += [_outcome(image, *choice) for image, choice in zip(batch, routed, strict=True)]
    chosen = [outcome.answered_target or "" for outcome in outcomes]
    names = sorted({*model.targets, *chosen})
    counts: np.ndarray = np.zeros((len(names), len(names)), dtype=int)
    for image, choice in zip(images, chosen, strict=True):
        counts[names.index(image.target), names.index(choice)] += 1
    total = Metric.proportion("crop_routing_accuracy", int(np.trace(counts)), len(images))
    recalls = [
        Metric.proportion("crop_routing_recall", int(counts[row, row]), int(counts[row].sum()), target=name)
        for row, name in enumerate(names)
        if counts[row].sum()
    ]
    return Measurement(
        metrics=(total, *recalls),
        data_sha256=data.digest("test"),
        data_name=name_of(data),
        data_n=len(images),
        plot=plots.confusion(counts, names, f"routing {total.value:.3f}, n={len(images)}"),
        curves={
            "routing_accuracy_by_coverage": right_by_coverage(
                [outcome.probability or 0.0 for outcome in outcomes],
                [outcome.answered_target == outcome.target for outcome in outcomes],
            )
        },
        outcomes=tuple(outcomes),
        notes=left_out(model, data),
    )


def _outcome(image: Image, chosen: str, probability: float) -> ImageOutcome:
    return ImageOutcome(image=image.sha256, target=image.target, answered_target=chosen, probability=probability)
