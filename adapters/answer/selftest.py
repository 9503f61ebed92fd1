"""Check that a loaded version has the released weights and reproduces its recorded outputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters.runtimes.gate import MIN_COSINE, cosines
from adapters.runtimes.interface import REFERENCE
from registry.errors import CorruptBlob, SelfTestFailed
from registry.versions.weights import Tensor, tensors_sha256

if TYPE_CHECKING:
    import torch

LOGITS_TOLERANCE = 0.05
"""For bundles that record no features: how far logits may differ, relative to the row's largest absolute logit."""

_RELATIVE_FROM = {"features": 10.0, "logits": 10.0, "ood_score": 1.0}
"""From which size of a recorded value on (of the row's largest, for logits and features) a tolerance grows with it:
float32 has 7 digits, and processors round them differently."""

CLEAR_MARGIN = 0.1
"""A label must stay the same if its probability leads by at least this much; rounding may change closer decisions."""


def check_weights(version: str, in_memory: Mapping[str, str], expected: Mapping[str, str | None]) -> None:
    """Check the digests of the weights in memory.

    Args:
        version: the version's name, for messages.
        in_memory, expected: digest by component; components without an expected digest are not checked.

    Raises:
        CorruptBlob: when a digest differs.
    """
    for name, digest in in_memory.items():
        wanted = expected.get(name)
        if wanted is not None and digest != wanted:
            raise CorruptBlob(
                f"{version}: the weights of {name} in memory have digest {digest[:12]}, not {wanted[:12]}",
                hint="load it again; if the error remains, this machine's memory or cache is damaged",
            )


def check_outputs(
    component: str,
    actual: Mapping[str, np.ndarray],
    golden: Mapping[str, torch.Tensor],
    *,
    runtime: str,
    tolerance: Mapping[str, float],
) -> None:
    """Check a component's outputs against the recorded ones: same labels and OOD flags, logits and scores in tolerance.

    Args:
        component: its name with the version's, for messages.
        actual, golden: the outputs now and as recorded, by name.
        runtime: the runtime that computed `actual`; on another one than the reference, features are compared instead.
        tolerance: how far `logits` and `ood_score` may differ; see `difference`.

    Raises:
        SelfTestFailed: when an output differs.
    """
    fault = difference(actual, golden, tolerance) if runtime == REFERENCE else golden_fault(actual, golden)
    if fault:
        raise SelfTestFailed(
            f"{component} does not reproduce its recorded outputs: {fault}",
            hint="compare this machine's torch, transformers and peft with the version's provenance",
        )


def fingerprint(computed: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """One digest over the outputs of components, by the bytes of each number; empty if there are none.

    Args:
        computed: outputs by name, by component; `images`, the inputs, count too.
    """
    arrays = {f"{folder}/{name}": array for folder, outputs in computed.items() for name, array in outputs.items()}
    if not arrays:
        return ""
    return tensors_sha256(
        Tensor(name, array.dtype.str, array.shape, partial(_bytes_of, array)) for name, array in arrays.items()
    )


def _bytes_of(array: np.ndarray) -> tuple[bytes]:
    return (np.ascontiguousarray(array).tobytes(),)


def golden_fault(actual: Mapping[str, np.ndarray], recorded: Mapping[str, Any]) -> str:
    """How a component's outputs on another runtime than the reference differ from the recorded ones; empty if equal.

    Scores and OOD flags are not compared: thresholds are calibrated for each runtime.

    Args:
        actual, recorded: arrays or tensors `features` [N, width] (not recorded by old bundles) and, with a classifier,
            `logits` [N, classes].
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
    if "logits" not in golden:
        return ""
    clear = _margin(golden["logits"]) >= CLEAR_MARGIN
    if (actual["logits"].argmax(axis=1) != golden["logits"].argmax(axis=1))[clear].any():
        return "a label differs"
    return ""


def difference(
    actual: Mapping[str, np.ndarray], golden: Mapping[str, torch.Tensor], tolerance: Mapping[str, float]
) -> str:
    """How outputs on the reference runtime differ from the recorded ones; empty if they do not.

    Args:
        actual, golden: as `LoadedVersion.golden_outputs` gives them. Without `logits` the features are compared, as if
            they were logits.
        tolerance: how far `logits` and `ood_score` may differ; more, in proportion, for recorded values above 10 and 1.
    """
    compared = tolerance if "logits" in golden else {"features": tolerance["logits"]}
    for name, allowed in compared.items():
        if name in golden:
            expected = golden[name].numpy()
            sizes = np.abs(expected) if expected.ndim == 1 else np.abs(expected).max(axis=1, keepdims=True)
            error = float((np.abs(actual[name] - expected) / np.maximum(sizes / _RELATIVE_FROM[name], 1)).max())
            if not error <= allowed:  # NaN fails too
                return f"{name} differ by {error:.2g}, more than {allowed:g}"
    if "logits" in golden and not np.array_equal(
        actual["logits"].argmax(axis=1), golden["logits"].numpy().argmax(axis=1)
    ):
        return "a label differs"
    if "is_ood" in golden and not np.array_equal(actual["is_ood"] > 0, golden["is_ood"].numpy() > 0):
        return "an OOD flag differs"
    return ""


def _margin(logits: np.ndarray) -> np.ndarray:
    """By how much the probability of the most likely label leads, [N]; 1 if there is only one label."""
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = np.sort(probabilities / probabilities.sum(axis=1, keepdims=True), axis=1)
    return np.asarray(probabilities[:, -1] - (probabilities[:, -2] if probabilities.shape[1] > 1 else 0))
