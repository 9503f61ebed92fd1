"""The preprocessing that a source states, in `preprocessor_config.json` of transformers or in its metadata.

Here the shortest side is resized, the centre square is cropped, and values are normalised. A stated preprocessing is
converted to these steps; if that is impossible it is refused, or noted if it differs only for images that are not
square.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.backbone.families import MAX_SIDE, Family
from adapters.backbone.patches import check_patches
from adapters.backbone.preprocess import Preprocessing
from adapters.importing.layouts import META, AdapterFolder
from adapters.importing.untrusted_files import read_json
from registry.errors import BadBundle, BadManifest

PROCESSOR = "preprocessor_config.json"
DATASET = "dataset_metadata.json"
FILES = (PROCESSOR, DATASET)
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers of its filters, as transformers writes them."""
_NOT_MADE = "nothing was created; to use another preprocessing, change that file"


@dataclass(frozen=True)
class StatedPreprocessing:
    """How a source prepares its images.

    Attributes:
        document: the content of `config/preprocessing.json`.
        notes: for people, by target.
        assumed: what no file states and is assumed, in words.
    """

    document: dict[str, Any]
    notes: Mapping[str, Sequence[str]]
    assumed: tuple[str, ...]


def stated_preprocessing(
    source: Path, adapters: Sequence[AdapterFolder], family: Family, config: dict[str, Any]
) -> StatedPreprocessing:
    """What the files of a source state; what they do not is that of the family's published processor.

    Args:
        source: the whole source; files in it apply to all adapters without own files.
        family, config: of the backbone.

    Raises:
        BadBundle: when adapters state different ones, or one is invalid or not supported.
    """
    usual = family.published_preprocessing(config)
    stated: dict[str, dict[str, Any]] = {}
    notes: dict[str, list[str]] = {}
    assumed: dict[str, None] = {}
    for adapter in adapters:
        found, notes[adapter.target] = _of_leaf(adapter, source, usual, config)
        stated[adapter.target] = usual | found
        if missing := [name for name in usual if name not in found]:
            assumed[_assumption(usual, missing, family)] = None
    first, *others = stated.items()
    for target, document in others:
        if document != first[1]:
            raise BadBundle(
                f"{first[0]} and {target} preprocess images differently: {first[1]} and {document}"[:500],
                hint="a version has one preprocessing: import them as separate versions",
            )
    return StatedPreprocessing(first[1], notes, tuple(assumed))


def _assumption(usual: Mapping[str, Any], missing: Sequence[str], family: Family) -> str:
    """What is assumed, and why."""
    shown = ", ".join(f"{name} {_shown(usual[name])}" for name in missing)
    if "resize" not in missing:
        return f"{shown}, as the published processor of {family.name} does: no file of the source states it"
    if usual["crop"] != MAX_SIDE:
        return f"{shown}: no file of the source states it, and no processor is published for {usual['crop']} pixels"
    text = f"{shown}, as the published processor of {family.name} does: no file of the source states it"
    if family.stretches:
        text += (
            f". That processor stretches images to {MAX_SIDE} x {MAX_SIDE}; here the centre square is cropped, so that "
            "images that are not square give other features"
        )
    return text


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _of_leaf(
    adapter: AdapterFolder, source: Path, usual: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The fields that are stated for an adapter, and notes."""
    where, read = adapter.folder / META, _of_metadata
    document: Mapping[str, Any] = adapter.meta
    for place in (adapter.folder, adapter.peft, source, source / "data"):
        found = next((place / name for name in FILES if (place / name).is_file()), None)
        if found:
            where, document = found, read_json(found)
            read = _of_processor if found.name == PROCESSOR else _of_metadata
            break
    try:
        fields, notes = read(document, usual)
        made = dict(usual) | fields
        check_patches(Preprocessing.of(made).crop, config)
    except (BadManifest, ValueError) as error:
        raise BadBundle(
            f"{where} states a preprocessing that is not supported: {error}"[:400], hint=_NOT_MADE
        ) from error
    return fields, [f"{where.name}: {note}" for note in notes]


def _of_processor(document: Mapping[str, Any], usual: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    if document.get("do_resize") is False:
        raise ValueError("do_resize is false, but here images are always resized")
    resize, keeps_proportions = _side(document.get("size"), "size")
    crop, _ = _side(document.get("crop_size"), "crop_size")
    if document.get("do_center_crop") is False:
        crop = None
    elif document.get("do_center_crop") is True and crop is None:
        raise ValueError("do_center_crop is true, but there is no crop_size")
    found: dict[str, Any] = {}
    if resize is not None:
        found |= {"resize": resize, "crop": resize if crop is None else crop}
    elif crop is not None:
        found |= {"crop": crop}
    notes = []
    if not keeps_proportions:
        notes.append("the source stretched images to a square; here the centre square is cropped")
    elif resize is not None and crop is None:
        notes.append("the source did not crop; here the centre square is cropped")
    if (resample := document.get("resample")) is not None:
        if type(resample) is not int or resample not in _FILTERS:
            raise ValueError(f"resample is {str(resample)[:40]!r}; the known ones are {_FILTERS}")
        found["interpolation"] = _FILTERS[resample]
    return found | _normalisation(document, usual), notes


def _normalisation(document: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, list[float]]:
    """Mean and standard deviation of values from 0 to 1 that are equivalent to the stated rescaling and normalising;
    empty where nothing is stated of them.
    """
    mean, std = (_channels(document.get(f"image_{name}"), usual[name], f"image_{name}") for name in ("mean", "std"))
    if document.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    factor = 1 if document.get("do_rescale") is False else document.get("rescale_factor", 1 / 255)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise ValueError(f"rescale_factor is {str(factor)[:40]!r}")
    scale = 255 * factor
    if not math.isclose(scale, 1, rel_tol=1e-6):
        return {"mean": [value / scale for value in mean], "std": [value / scale for value in std]}
    is_off = document.get("do_normalize") is False
    return {
        name: values
        for name, values in (("mean", mean), ("std", std))
        if is_off or document.get(f"image_{name}") is not None
    }


def _of_metadata(document: Mapping[str, Any], usual: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    side, _ = _side(document.get("image_size"), "image_size")
    if side is not None:
        found |= {"resize": side, "crop": side}
    normalization = document.get("normalization")
    if not isinstance(normalization, Mapping):
        notes = [] if normalization is None else ["its normalization is not understood"]
        return found, notes
    for name in ("mean", "std"):
        if normalization.get(name) is not None:
            found[name] = _channels(normalization[name], usual[name], f"normalization.{name}")
    return found, []


def _channels(value: Any, usual: Sequence[float], what: str) -> list[float]:
    """One number per channel."""
    if value is None:
        return list(usual)
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(type(each) in (int, float) for each in values):
        raise ValueError(f"{what} is {str(value)[:60]}, not a number per channel")
    return values


def _side(size: Any, what: str) -> tuple[int | None, bool]:
    """The side in pixels, in any form that transformers or others write, and whether proportions are kept."""
    if size is None:
        return None, True
    given = {name: side for name, side in size.items() if side is not None} if isinstance(size, Mapping) else {}
    if given.keys() == {"shortest_edge"}:
        sides = [given["shortest_edge"]]
    elif given.keys() == {"height", "width"}:
        sides = [given["height"], given["width"]]
    else:
        sides = size if isinstance(size, list) and len(size) in (1, 2) else [size]
    if any(type(side) is not int for side in sides) or len(set(sides)) > 1:
        raise ValueError(f"{what} is {str(size)[:60]}, not square")
    return sides[0], not given or len(sides) == 1
