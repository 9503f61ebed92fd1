"""The gate of a runtime: whether a version may run on it instead of torch in float32.

`ulora fit` judges the runtimes of its machine and writes the result into the bundle:

    config/runtimes.json    {"<runtime>": {"cosine": …, "n_golden": …, "n_cosine": …, "accuracy": …, "n": …,
                                           "reference_accuracy": …, "flips": …, "flips_bound": …, "reasons": […],
                                           "passes": true, "weights_sha256": {"<component>": …}}}

A version may use a runtime only if it passed for this version: the precision that is needed depends on the weights, not
on the runtime alone. If a component was replaced since then, the result is about other weights: the version runs on
torch in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from adapters.bundle import ADAPTERS, ROUTER, BundleFiles
from adapters.runtimes.interface import REFERENCE
from adapters.runtimes.open_runtime import RUNTIMES
from registry.errors import BadInput, BadManifest
from registry.versions.manifest import Manifest

RUNTIMES_FILE = "config/runtimes.json"

MIN_COSINE = 0.995
"""The smallest allowed cosine between the features of an image on the runtime and on the reference. openvino-int8 had
.9983 with real weights, .9994 with random ones: answers decide, and this bound finds what computes something else."""


def check_runtime(files: BundleFiles, runtime: str) -> None:
    """Check that a version may run on a runtime; the reference is always allowed.

    Args:
        files: the version's files.
        runtime: the runtime's name.

    Raises:
        BadInput: when the name is unknown, or the runtime was not judged for this version or did not pass.
        BadManifest: when the file with the results is malformed.
    """
    if runtime == REFERENCE:
        return
    if runtime not in RUNTIMES:
        raise BadInput(f"{runtime[:80]!r} is not a runtime", hint=f"the runtimes are {', '.join(RUNTIMES)}")
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
        reasons = verdict.get("reasons") or ["no reason was recorded"]
        raise BadInput(f"{runtime} did not pass for this version: {'; '.join(map(str, reasons))}"[:500], hint=hint)


def runtime_for(manifest: Manifest, files: BundleFiles, asked: str) -> str:
    """The runtime to use for a version: the one asked for, or, with a warning, the reference if the result is about
    other weights than those of the version.

    Raises:
        BadInput: when the name is unknown, or the runtime was not judged for this version or did not pass.
        BadManifest: when the file with the results is malformed.
    """
    check_runtime(files, asked)
    if asked == REFERENCE or _was_judged_on(files.document(RUNTIMES_FILE)[asked], manifest):
        return asked
    warnings.warn(
        f"{manifest.version} runs on {REFERENCE}: {asked} was judged on other adapters than those of this version",
        stacklevel=2,
    )
    return REFERENCE


def _was_judged_on(verdict: Mapping[str, Any], manifest: Manifest) -> bool:
    """Whether a result is about the weights of this version.

    Old results do not record the weights; they are taken to be about a version unless it is composed.
    """
    measured = verdict.get("weights_sha256")
    if measured is None:
        return not manifest.is_composed
    there = {
        name: component.weights_sha256
        for name, component in manifest.components.items()
        if name.startswith(f"{ADAPTERS}/") or name == ROUTER
    }
    return bool(measured == {name: digest for name, digest in there.items() if digest})


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The cosine of each row of two [N, width], [N]; NaN for a row of zeros."""
    with np.errstate(invalid="ignore"):
        products = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
        return np.asarray((some * others).sum(axis=1) / products)
