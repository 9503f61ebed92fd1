"""How images were prepared, where the source says so: `preprocessor_config.json` of transformers, or its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.importing.layouts import META, Leaf
from adapters.importing.reading import read_json
from adapters.preprocess import Preprocessing
from registry.errors import BadBundle, BadManifest

PROCESSOR = "preprocessor_config.json"
DATASET = "dataset_metadata.json"
FILES = (PROCESSOR, DATASET)
_FILTERS = {"2": "bilinear", "3": "bicubic"}
"""PIL's numbers of its filters, which transformers writes."""


def stated_preprocessing(source: Path, leaves: Sequence[Leaf], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What `config/preprocessing.json` is to hold.

    Args:
        source: the whole tree; files in it hold for all its adapters that have none of their own.
        usual: the backbone family's, for all that is not stated.

    Raises:
        BadBundle: the adapters state different ones, or something that can't be meant.
    """
    stated: dict[str, dict[str, Any]] = {}
    for leaf in leaves:
        found, where = _of_leaf(leaf, source)
        document = dict(usual) | found
        try:
            Preprocessing.of(document)
        except BadManifest as error:
            raise BadBundle(f"{where} states images that can't be made: {found}"[:300]) from error
        stated[leaf.target] = document
    first, *others = stated.items()
    for target, document in others:
        if document != first[1]:
            raise BadBundle(
                f"{first[0]} and {target} prepare their images differently: {first[1]} and {document}"[:500],
                hint="a version prepares all images alike: import them as versions of their own",
            )
    return first[1]


def _of_leaf(leaf: Leaf, source: Path) -> tuple[dict[str, Any], Path]:
    for place in (leaf.folder, leaf.peft, source, source / "data"):
        for name, read in ((PROCESSOR, _of_processor), (DATASET, _of_metadata)):
            if (place / name).is_file():
                return read(read_json(place / name)), place / name
    return _of_metadata(leaf.meta), leaf.folder / META


def _of_processor(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    resize, crop = _side(document.get("size")), _side(document.get("crop_size"))
    if document.get("do_center_crop") is False or crop is None:
        crop = resize
    if resize and crop:
        found |= {"resize": max(resize, crop), "crop": crop}
    for name in ("mean", "std"):
        if isinstance(value := document.get(f"image_{name}"), list):
            found[name] = value
    if interpolation := _FILTERS.get(str(document.get("resample"))):
        found["interpolation"] = interpolation
    return found


def _of_metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if side := _side(document.get("image_size")):
        found |= {"resize": side, "crop": side}
    normalization = document.get("normalization")
    if isinstance(normalization, Mapping):
        found |= {name: normalization[name] for name in ("mean", "std") if isinstance(normalization.get(name), list)}
    return found


def _side(size: Any) -> int | None:
    """One side in pixels from the forms that transformers and others write it in."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    elif isinstance(size, list) and size:
        size = size[0]
    return size if isinstance(size, int) and not isinstance(size, bool) else None
