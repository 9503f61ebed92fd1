"""Judge a runtime for one version: compare it with torch in float32."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adapters.answer.components import LoadedComponent
from adapters.answer.loaded import LoadedVersion
from adapters.runtimes.gate import MIN_COSINE, cosines

MAX_ACCURACY_LOSS = 0.002
"""How far the accuracy may be below the reference's: 0.2 points."""


class Labelled(Protocol):
    """A held-out image; `adapters.fitting.image_folder.LabelledImage` is one."""

    @property
    def path(self) -> Path: ...
    @property
    def target(self) -> str: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class RuntimeReport:
    """The result of a runtime on one version.

    Attributes:
        runtime: its name.
        cosine: the smallest over all recorded inputs of all components, NaN without any.
        n_golden: how many recorded inputs there are.
        accuracy, reference_accuracy: on the held-out images, NaN without any.
        n: how many held-out images there are.
        reasons: why it does not pass, and limits of the measurement.
        passes: whether the version may run on it.
        weights_sha256: the digests of the weights that it was measured with, by component; not in old bundles.
    """

    runtime: str
    cosine: float
    n_golden: int
    accuracy: float
    reference_accuracy: float
    n: int
    reasons: tuple[str, ...]
    passes: bool
    weights_sha256: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Its entry in `config/runtimes.json`; NaN becomes null."""
        entry = asdict(self) | {"reasons": list(self.reasons)}
        del entry["runtime"]
        if not self.weights_sha256:
            del entry["weights_sha256"]
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value for name, value in entry.items()
        }


def judge_runtime(reference: LoadedVersion, other: LoadedVersion, images: Sequence[Labelled]) -> RuntimeReport:
    """Compare a version on a runtime with the same version on the reference.

    Args:
        reference, other: the version, loaded on both.
        images: held out from training; those of targets that the version does not have are ignored.
    """
    cosines = list(_golden_cosines(reference, other))
    judged_images = [image for image in images if image.target in reference.targets]
    accuracies = [_accuracy(version, judged_images) for version in (reference, other)]
    report = judge(other.runtime, cosines, accuracies[1], accuracies[0], len(judged_images))
    return replace(report, weights_sha256=other.weights_sha256())


def judge(runtime: str, cosines: Sequence[float], accuracy: float, reference_accuracy: float, n: int) -> RuntimeReport:
    """The report for some measurements; the arguments are named as in `RuntimeReport`."""
    lowest = float(np.min(cosines)) if cosines else math.nan  # unlike min(), it returns NaN if there is one
    faults = []
    if not lowest >= MIN_COSINE:  # NaN fails too
        known = (
            f"the smallest cosine between features and the reference's is {lowest:.5f}"
            if cosines
            else "there are no recorded outputs"
        )
        faults.append(f"{known}, but {MIN_COSINE} is required")
    if not n:
        faults.append("there are no held-out images to compare accuracies")
    elif not reference_accuracy - accuracy <= MAX_ACCURACY_LOSS + 1e-9:
        faults.append(
            f"accuracy {accuracy:.4f} is more than {MAX_ACCURACY_LOSS * 100:g} points "
            f"below the reference's {reference_accuracy:.4f} (n={n})"
        )
    notes = []
    if 0 < n < 1 / MAX_ACCURACY_LOSS:
        notes.append(f"{n} held-out images are too few to measure a difference of {MAX_ACCURACY_LOSS * 100:g} points")
    return RuntimeReport(runtime, lowest, len(cosines), accuracy, reference_accuracy, n, (*faults, *notes), not faults)


def runtimes_document(reports: Iterable[RuntimeReport]) -> dict[str, Any]:
    """The content of `config/runtimes.json`."""
    return {report.runtime: report.document() for report in reports}


def _golden_cosines(reference: LoadedVersion, other: LoadedVersion) -> Iterable[float]:
    components: dict[str | None, LoadedComponent | None] = {None: reference.components.router}
    components |= {target: one for target, one in reference.components.adapters.items() if one.last}
    for target, component in components.items():
        if component is not None and component.golden is not None:
            images = list(component.golden["images"].numpy())
            yield from cosines(other.features(images, target), reference.features(images, target)).tolist()


def _accuracy(version: LoadedVersion, images: Sequence[Labelled]) -> float:
    """The share of images whose label is right when their target is given."""
    if not images:
        return math.nan
    answers = version.predict([image.path for image in images], target=[image.target for image in images])
    right = sum(answer.label == image.label for answer, image in zip(answers, images, strict=True))
    return right / len(images)
