"""The gate of a runtime: may it answer for a version in the place of torch in float32?

`ulora fit` judges the runtimes of its machine and writes what it found into the bundle:

    config/runtimes.json    {"<runtime>": {"cosine": …, "n_golden": …, "accuracy": …, "reference_accuracy": …, "n": …,
                                           "reasons": […], "passes": true, "weights_sha256": {"<component>": …}}}

A version is loaded with a runtime only if that passed for this very version: how much precision a backbone and its
adapters need is a matter of their weights, not of the runtime alone. Where a component was exchanged since, the verdict
is about other weights: then torch in float32 answers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from adapters.bundle import ADAPTERS, ROUTER, BundleFiles
from adapters.runtimes.runtimes import REFERENCE, RUNTIMES
from registry.errors import BadInput, BadManifest
from registry.versions.manifest import Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from adapters.answer.loaded import LoadedVersion

RUNTIMES_FILE = "config/runtimes.json"

MIN_COSINE = 0.999
"""Least cosine of any golden input's features to the reference's."""

MAX_ACCURACY_LOSS = 0.002
"""Most that accuracy may be below the reference's: 0.2 points."""

LOGITS_TOLERANCE = 0.05
"""Where goldens hold no features: how far logits may be off, in units of the row's largest absolute logit."""

CLEAR_MARGIN = 0.1
"""A label must stay the same where its probability leads by this much: closer calls rounding may turn."""


class Labelled(Protocol):
    """A held-out image; `adapters.fitting.data.LabelledImage` is one."""

    @property
    def path(self) -> Path: ...
    @property
    def target(self) -> str: ...
    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class RuntimeReport:
    """What was found out about a runtime on one version.

    Attributes:
        runtime: its name.
        cosine: the least over all golden inputs of all components, NaN without goldens.
        n_golden: golden inputs.
        accuracy, reference_accuracy: on the held-out images, NaN without any.
        n: held-out images.
        reasons: why it does not pass; what the numbers leave open.
        passes: whether it may answer for the version.
        weights_sha256: by component the digests of the weights that it was measured with; empty in older bundles.
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
        """Its entry in `config/runtimes.json`; what is not a number is null."""
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
        reference, other: the version, loaded twice.
        images: held out from training; those of targets that the version does not have are left out.
    """
    cosines = list(_golden_cosines(reference, other))
    asked = [image for image in images if image.target in reference.targets]
    accuracies = [_accuracy(version, asked) for version in (reference, other)]
    report = judged(other.runtime, cosines, accuracies[1], accuracies[0], len(asked))
    return replace(report, weights_sha256=other.weights_sha256())


def judged(runtime: str, cosines: Sequence[float], accuracy: float, reference_accuracy: float, n: int) -> RuntimeReport:
    """The verdict on measurements; their names are those of `RuntimeReport`."""
    lowest = float(np.min(cosines)) if cosines else math.nan  # unlike min(), it lets no NaN slip by
    faults = []
    if not lowest >= MIN_COSINE:  # NaN fails too
        known = (
            f"the least cosine of features to the reference's is {lowest:.5f}" if cosines else "there are no goldens"
        )
        faults.append(f"{known}, where {MIN_COSINE} is asked")
    if not n:
        faults.append("there are no held-out images to compare the accuracy on")
    elif not reference_accuracy - accuracy <= MAX_ACCURACY_LOSS + 1e-9:
        faults.append(
            f"accuracy {accuracy:.4f} is more than {MAX_ACCURACY_LOSS * 100:g} points "
            f"below the reference's {reference_accuracy:.4f} (n={n})"
        )
    notes = []
    if 0 < n < 1 / MAX_ACCURACY_LOSS:
        notes.append(f"{n} held-out images are too few to tell {MAX_ACCURACY_LOSS * 100:g} points apart")
    return RuntimeReport(runtime, lowest, len(cosines), accuracy, reference_accuracy, n, (*faults, *notes), not faults)


def runtimes_document(reports: Iterable[RuntimeReport]) -> dict[str, Any]:
    """The content of `config/runtimes.json`."""
    return {report.runtime: report.document() for report in reports}


def check_runtime(files: BundleFiles, runtime: str) -> None:
    """Check that a runtime may answer for a version; the reference always may.

    Args:
        files: the version's.
        runtime: a name.

    Raises:
        BadInput: there is none of this name, it was not judged for this version, or did not pass.
        BadManifest: the file of verdicts is malformed.
    """
    if runtime == REFERENCE:
        return
    if runtime not in RUNTIMES:
        raise BadInput(f"{runtime[:80]!r} is no runtime", hint=f"there are {', '.join(RUNTIMES)}")
    verdicts = files.document(RUNTIMES_FILE) if RUNTIMES_FILE in files else {}
    passed = sorted(
        name for name, verdict in verdicts.items() if isinstance(verdict, dict) and verdict.get("passes") is True
    )
    hint = f"use {', '.join([REFERENCE, *passed])}, or fit the version again on a machine that has {runtime[:80]}"
    if runtime not in verdicts:
        raise BadInput(f"{runtime[:80]} was never judged for this version", hint=hint)
    verdict = verdicts[runtime]
    if not isinstance(verdict, dict) or not isinstance(verdict.get("passes"), bool):
        raise BadManifest(f"{RUNTIMES_FILE} does not say whether {runtime[:80]} passes")
    if not verdict["passes"]:
        reasons = verdict.get("reasons") or ["no reason was kept"]
        raise BadInput(f"{runtime} did not pass for this version: {'; '.join(map(str, reasons))}"[:500], hint=hint)


def runtime_for(manifest: Manifest, files: BundleFiles, asked: str) -> str:
    """The runtime that may answer for a version: the one asked for, or the reference where the verdict was given on
    other weights than the version has; that is warned of.

    Raises:
        BadInput, BadManifest: as `check_runtime`.
    """
    check_runtime(files, asked)
    if asked == REFERENCE or _is_about(files.document(RUNTIMES_FILE)[asked], manifest):
        return asked
    warnings.warn(
        f"{manifest.version} answers with {REFERENCE}: {asked} was judged on other adapters than it has",
        stacklevel=2,
    )
    return REFERENCE


def _is_about(verdict: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether a verdict was given on the weights of this version. An older one does not say, and a composed version is
    not what it was given on."""
    measured = verdict.get("weights_sha256")
    if measured is None:
        return not manifest.is_composed
    there = {
        name: component.weights_sha256
        for name, component in manifest.components.items()
        if name.startswith(f"{ADAPTERS}/") or name == ROUTER
    }
    return bool(measured == {name: digest for name, digest in there.items() if digest})


def golden_fault(actual: Mapping[str, np.ndarray], recorded: Mapping[str, Any]) -> str:
    """What is wrong with a component's outputs on a runtime that is not the reference; empty if nothing is.

    Scores and OOD flags are not compared: thresholds are calibrated for each runtime.

    Args:
        actual, recorded: arrays or tensors `features` [N, width] (which older bundles did not record) and `logits`
            [N, classes].
    """
    golden = {name: np.asarray(recorded[name]) for name in ("features", "logits") if name in recorded}
    if "features" in golden:
        lowest = float(cosines(actual["features"], golden["features"]).min())
        if not lowest >= MIN_COSINE:
            return f"features have a cosine of {lowest:.5f} to the recorded ones, less than {MIN_COSINE}"
    else:
        size = np.abs(golden["logits"]).max(axis=1, keepdims=True)
        error = float((np.abs(actual["logits"] - golden["logits"]) / np.maximum(size, 1e-12)).max())
        if not error <= LOGITS_TOLERANCE:
            return f"logits differ by {error:.2g} of the largest, more than {LOGITS_TOLERANCE:g}"
    clear = _margin(golden["logits"]) >= CLEAR_MARGIN
    if (actual["logits"].argmax(axis=1) != golden["logits"].argmax(axis=1))[clear].any():
        return "a label is another one"
    return ""


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[N], of the rows of two [N, width]; NaN for a row of zeros."""
    with np.errstate(invalid="ignore"):
        products = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
        return np.asarray((some * others).sum(axis=1) / products)


def _golden_cosines(reference: LoadedVersion, other: LoadedVersion) -> Iterable[float]:
    adapters = {target: component for target, component in reference.parts.adapters.items() if component.last}
    for target, component in {None: reference.parts.router, **adapters}.items():
        if component is not None and component.golden is not None:
            images = list(component.golden["images"].numpy())
            yield from cosines(other.features(images, target), reference.features(images, target)).tolist()


def _accuracy(version: LoadedVersion, images: Sequence[Labelled]) -> float:
    """The share of images whose label is right when their target is named."""
    if not images:
        return math.nan
    answers = version.predict([image.path for image in images], [image.target for image in images])
    right = sum(answer.label == image.label for answer, image in zip(answers, images, strict=True))
    return right / len(images)


def _margin(logits: np.ndarray) -> np.ndarray:
    """By how much the likeliest label's probability leads, [N]; 1 where there is one label only."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = np.sort(shares / shares.sum(axis=1, keepdims=True), axis=1)
    return shares[:, -1] - (shares[:, -2] if shares.shape[1] > 1 else 0)
