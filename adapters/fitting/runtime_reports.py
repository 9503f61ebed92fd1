"""Judge a runtime for one version: compare it with torch in float32 on held-out images.

It passes if its features point the same way, and if the share of images that the reference gets right and the runtime
gets wrong is at most `MAX_FLIPS` with 95% confidence. A comparison of two accuracies would rest on the few images where
they differ, and hide a harmful change behind another one that happens to help.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from adapters.answer.batching import MAX_BATCH
from adapters.answer.components import LoadedComponent
from adapters.answer.loaded import LoadedVersion
from adapters.runtimes.gate import MIN_COSINE, cosines
from registry.evidence.stats import n_that_bounds, upper_bound

MAX_FLIPS = 0.01
"""The largest share of images that the reference gets right and the runtime wrong: 1%, as a one-sided 95% bound."""

MAX_COMPARED = 100
"""How many held-out images of each component features are compared on, beside its recorded inputs."""


class Labelled(Protocol):
    """A held-out image; `adapters.fitting.image_folder.LabelledImage` is one."""

    def read(self) -> bytes: ...
    @property
    def target(self) -> str: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class Agreement:
    """What a runtime and the reference answered for the same held-out images.

    Attributes:
        n: how many images there are.
        right, reference_right: how many labels are right.
        flips: how many are right on the reference and wrong on the runtime.
    """

    n: int
    right: int
    reference_right: int
    flips: int


@dataclass(frozen=True)
class RuntimeReport:
    """The result of a runtime on one version.

    Attributes:
        runtime: its name.
        cosine: the smallest over all compared images of all components, NaN without any.
        n_golden: how many of these images are recorded inputs.
        n_cosine: how many there are; 0 in old bundles, which compared the recorded inputs only.
        accuracy, reference_accuracy: on the held-out images, NaN without any.
        n: how many held-out images there are.
        flips: how many of them are right on the reference and wrong on the runtime.
        flips_bound: the one-sided 95% Clopper-Pearson bound of their share; 1 without any image.
        reasons: why it does not pass.
        passes: whether the version may run on it.
        weights_sha256: the digests of the weights that it was measured with, by component; not in old bundles.
    """

    runtime: str
    cosine: float
    n_golden: int
    n_cosine: int
    accuracy: float
    reference_accuracy: float
    n: int
    flips: int
    flips_bound: float
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
    judged_images = [image for image in images if image.target in reference.targets]
    golden = list(_golden_cosines(reference, other))
    held_out = list(_held_out_cosines(reference, other, judged_images))
    report = judge(other.runtime, [*golden, *held_out], _agreement(reference, other, judged_images))
    return replace(report, n_golden=len(golden), weights_sha256=other.weights_sha256())


def judge(runtime: str, cosines: Sequence[float], answers: Agreement) -> RuntimeReport:
    """The report for some measurements: the cosine of each compared image, and the answers to held-out images."""
    lowest = float(np.min(cosines)) if cosines else math.nan  # unlike min(), it returns NaN if there is one
    n, flips = answers.n, answers.flips
    bound = upper_bound(flips, n) if n else 1.0
    faults = [*_cosine_faults(lowest, len(cosines)), *_flip_faults(flips, n, bound)]
    accuracy, reference_accuracy = (count / n if n else math.nan for count in (answers.right, answers.reference_right))
    return RuntimeReport(
        runtime=runtime,
        cosine=lowest,
        n_golden=0,
        n_cosine=len(cosines),
        accuracy=accuracy,
        reference_accuracy=reference_accuracy,
        n=n,
        flips=flips,
        flips_bound=bound,
        reasons=tuple(faults),
        passes=not faults,
    )


def _cosine_faults(lowest: float, compared: int) -> list[str]:
    if not compared:
        return [f"there are no images to compare features on, and a cosine of {MIN_COSINE} is required"]
    if not lowest >= MIN_COSINE:  # NaN fails too
        return [
            f"the smallest cosine between features and the reference's is {lowest:.5f} "
            f"(of {compared} images), but {MIN_COSINE} is required"
        ]
    return []


def _flip_faults(flips: int, n: int, bound: float) -> list[str]:
    """Why the answers do not show that at most `MAX_FLIPS` of them get wrong; "inconclusive" if more images could."""
    if bound <= MAX_FLIPS:
        return []
    found = f"{flips} of {n} held-out images {'is' if flips == 1 else 'are'} right on the reference and wrong on it"
    if flips > MAX_FLIPS * n:
        return [f"{found}, more than {MAX_FLIPS:.0%}"]
    needed = n_that_bounds(flips, MAX_FLIPS)
    return [
        f"inconclusive: {found}, so the share may be {bound:.1%} (95% upper bound), and {MAX_FLIPS:.0%} is allowed: "
        f"it takes {needed} images with no {'further one' if flips else 'such image'}"
    ]


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


def _held_out_cosines(reference: LoadedVersion, other: LoadedVersion, images: Sequence[Labelled]) -> Iterable[float]:
    """Of each adapter on its target's images, and of the router on images of all targets."""
    components: dict[str | None, list[Labelled]] = {None: [*images]}
    components |= {name: [image for image in images if image.target == name] for name in reference.targets}
    for target, mine in components.items():
        component = reference.components.router if target is None else reference.components.adapters[target]
        if component is not None and component.last is not None:
            some = [image.read() for image in _evenly(mine, MAX_COMPARED)]
            yield from cosines(other.features(some, target), reference.features(some, target)).tolist()


def _evenly(images: Sequence[Labelled], most: int) -> Sequence[Labelled]:
    """At most so many of some images, evenly spaced."""
    return [images[number * len(images) // most] for number in range(most)] if len(images) > most else images


def _agreement(reference: LoadedVersion, other: LoadedVersion, images: Sequence[Labelled]) -> Agreement:
    """How many labels are right when the target of each image is given."""
    right, reference_right = (list(_right(version, images)) for version in (other, reference))
    flips = sum(before and not now for now, before in zip(right, reference_right, strict=True))
    return Agreement(len(images), sum(right), sum(reference_right), flips)


def _right(version: LoadedVersion, images: Sequence[Labelled]) -> Iterable[bool]:
    """Whether each label is right."""
    for start in range(0, len(images), MAX_BATCH):
        batch = images[start : start + MAX_BATCH]
        answers = version.predict([image.read() for image in batch], target=[image.target for image in batch])
        yield from (answer.label == image.label for answer, image in zip(answers, batch, strict=True))
