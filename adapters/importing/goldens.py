"""Record what the source of an import answers for a few images, and refuse an import that answers otherwise.

Nobody recorded outputs of these adapters. So they are computed here from the source's files, by PEFT's own layers and
the plain formulas of the source's system, and not by the code that will answer; from then on the self-test of every
load compares with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapters import bundle as layout
from adapters.answer.heads import Head
from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.answer.ood_imported import RATIO, ImportedDetector, PrototypeDetector
from adapters.answer.selftest import difference
from adapters.backbone.build import new_model
from adapters.backbone.families import family_named
from adapters.backbone.locate import FetchWeights
from adapters.backbone.patches import patch_size
from adapters.backbone.preprocess import Preprocessing
from adapters.importing.layout_peft import PeftFolder
from adapters.importing.layouts import AdapterFolder
from adapters.importing.peft_reading import Tokens, tokens_of
from adapters.importing.plain_reading import embedding_of, scores_of
from adapters.runtimes.interface import REFERENCE
from registry.errors import SelfTestFailed
from registry.versions.manifest import BackboneRef

COUNT = 4
"""How many images are recorded for each adapter."""

CANDIDATES = 2 * COUNT
"""From how many images those are chosen that are farthest from every decision boundary; fewer where they are large."""

_PATCHES = CANDIDATES * 37**2
"""Of all these images together, unless one alone has more: eight of 518 pixels, the size that DINOv2 is released for.
Four times as many pixels take up to sixteen times as long."""

SECONDS = 900.0
"""After which an import is refused whose images could not be computed: looked at before each block of the backbone."""

_DECIMALS = 4
"""Recorded numbers are rounded to a tenth of the tolerance, so that the same source gives the same bytes everywhere."""

_GRID = 6
"""Synthetic images are smooth: random colours on a grid of this side, interpolated."""


@dataclass(frozen=True)
class BackbonePlace:
    """A backbone, and where its weights are: in a folder that a person or the source named, or else in the places that
    every load searches.

    Attributes:
        fetch: fetches the weights from the store.
    """

    ref: BackboneRef
    folders: tuple[Path, ...] = ()
    fetch: FetchWeights | None = None


def record(
    adapter: AdapterFolder,
    parts: tuple[PeftFolder, Head | None, ImportedDetector | None],
    backbone: BackbonePlace,
    bundle: Path,
) -> LoadedVersion:
    """Write an adapter's `golden.safetensors` into a bundle, after a check that the bundle's files answer the same.

    Args:
        parts: what was read of its source.
        bundle: with everything else of this adapter.

    Returns:
        The adapter as it was loaded. As long as it exists, the next on this backbone does not read the weights again.

    Raises:
        SelfTestFailed: when what the bundle answers differs by more than the self-test of a version allows.
        BadWeights: when PEFT does not take the adapter.
        BadBundle: when the images could not be computed within `SECONDS`.
        BackboneNotFound, CorruptBlob: when the backbone's weights are in no known place.
    """
    place = layout.adapter_folder(adapter.target)
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    own = {path: file for path, file in files.items() if not path.startswith(f"{layout.ADAPTERS}/")}
    own |= {path: file for path, file in files.items() if path.startswith(f"{place}/")}
    version = load_bundle(own, backbone_folders=backbone.folders, fetch=backbone.fetch)
    preprocessing = version.components.preprocessing
    images = synthetic_images(candidates(preprocessing.crop, backbone.ref.config), preprocessing.crop)
    golden = _rounded(_outputs(adapter, parts, _tokens(parts[0], backbone, preprocessing, images)) | {"images": images})
    golden = _clearest(golden)
    tensors = {name: torch.from_numpy(array) for name, array in golden.items()}
    tolerance = layout.DEFAULT_INFERENCE["tolerance"][REFERENCE]
    if fault := difference(version.golden_outputs(golden["images"], adapter.target), tensors, tolerance):
        raise SelfTestFailed(
            f"{adapter.peft} was imported, but does not answer as it does at its source: {fault}",
            hint="nothing was created; please report its adapter_config.json",
        )
    layout.write_tensors(bundle / place / layout.GOLDEN, golden)
    return version


def candidates(side: int, config: Mapping[str, Any]) -> int:
    """How many images are computed: the same on every machine, because the same source gives the same bytes."""
    patches = (side // patch_size(config)) ** 2
    return max(1, min(CANDIDATES, _PATCHES // patches))


def synthetic_images(count: int, side: int) -> np.ndarray:
    """The same smooth images of random colours on every machine: [count, side, side, 3] uint8."""

    def image(number: int) -> np.ndarray:
        data = hashlib.shake_256(f"image {number}".encode()).digest(_GRID * _GRID * 3)
        grid = Image.fromarray(np.frombuffer(data, np.uint8).reshape(_GRID, _GRID, 3))
        return np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))

    return np.stack([image(number) for number in range(count)])


def _tokens(folder: PeftFolder, backbone: BackbonePlace, preprocessing: Preprocessing, images: np.ndarray) -> Tokens:
    pixels = torch.stack([preprocessing(image) for image in images])
    model = new_model(backbone.ref, folders=backbone.folders, fetch=backbone.fetch)
    return tokens_of(folder, model, family_named(backbone.ref.family), pixels, SECONDS)


def _outputs(
    adapter: AdapterFolder, parts: tuple[PeftFolder, Head | None, ImportedDetector | None], tokens: Tokens
) -> dict[str, np.ndarray]:
    """What the source answers; the names and shapes are those of `LoadedVersion.golden_outputs`."""
    _, head, detector = parts
    if head is None:
        return {"features": tokens.pooled("cls").numpy()}
    state = {
        name.rpartition(".")[2]: tensor.double() for name, tensor in head.tensors().items() if _is_classifier(name)
    }
    embedding = embedding_of(adapter, tokens, state["weight"].shape[1])
    logits = embedding @ state["weight"].T + state["bias"]
    outputs = {"features": embedding.numpy(), "logits": logits.numpy()}
    if detector is None:
        return outputs
    thresholds = detector.thresholds.tolist() if isinstance(detector, PrototypeDetector) else []
    raws = scores_of(adapter, head.labels, thresholds, embedding, logits)
    is_ratio = detector.document()["score"] == RATIO
    scores = [(raw / limit if is_ratio else 1 + raw - limit) if known else 0.0 for raw, limit, known in raws]
    flags = [known and raw > limit for raw, limit, known in raws]
    return outputs | {"ood_score": np.array(scores), "is_ood": np.array(flags, np.uint8)}


def _is_classifier(name: str) -> bool:
    """Whether a head's tensor is its linear classifier's: of a linear head all are, of a fusion those named so."""
    return name in ("weight", "bias") or name.startswith("classifier.")


def _rounded(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers as they are recorded: rounded, float32."""
    return {
        name: array if array.dtype == np.uint8 else np.round(array, _DECIMALS).astype(np.float32)
        for name, array in outputs.items()
    }


def _clearest(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows that are farthest from every decision boundary: another processor rounds differently."""
    distances: Sequence[np.ndarray] = [np.full(len(outputs["images"]), np.inf)]
    if "logits" in outputs and outputs["logits"].shape[1] > 1:
        ordered = np.sort(outputs["logits"], axis=1)
        distances = [*distances, ordered[:, -1] - ordered[:, -2]]
    if "ood_score" in outputs:
        distances = [*distances, np.abs(outputs["ood_score"] - 1)]
    nearest = np.min(distances, axis=0)
    picked = np.sort(np.argsort(-nearest, kind="stable")[:COUNT])
    return {name: array[picked] for name, array in outputs.items()}
