"""What sources say about their images is expressed here exactly, noted where it can't be, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.backbone.families import Family, family_named
from adapters.backbone.preprocess import Preprocessing
from adapters.importing.layouts import PEFT, AdapterFolder
from adapters.importing.preprocessing import StatedPreprocessing, stated_preprocessing
from registry.errors import BadBundle
from tests.support.bundles import noise

FAMILY, CONFIG = family_named("dinov2"), {"patch_size": 7, "image_size": 28}
USUAL = FAMILY.published_preprocessing(CONFIG)
STD = torch.tensor(USUAL["std"])


def stated(folder: Path, document: dict[str, Any], **meta: Any) -> tuple[dict[str, Any], list[str]]:
    folder.mkdir(exist_ok=True)
    if document:
        (folder / "preprocessor_config.json").write_text(json.dumps(document))
    found = read(folder, FAMILY, CONFIG, **meta)
    return found.document, list(found.notes["maize"])


def read(folder: Path, family: Family, config: dict[str, Any], **meta: Any) -> StatedPreprocessing:
    return stated_preprocessing(folder, [AdapterFolder("maize", folder, PEFT, meta)], family, config)


@pytest.mark.parametrize(
    ("document", "as_there"),
    [
        ({"do_normalize": False}, lambda pixels: pixels / 255),
        ({"do_rescale": False}, lambda pixels: (pixels - torch.tensor(USUAL["mean"])) / STD),
        ({"rescale_factor": 1 / 127.5}, lambda pixels: (pixels / 127.5 - torch.tensor(USUAL["mean"])) / STD),
        ({"image_mean": 0.5, "image_std": [0.1, 0.2, 0.4]}, lambda p: (p / 255 - 0.5) / torch.tensor([0.1, 0.2, 0.4])),
    ],
)
def test_pixels_become_the_numbers_that_they_became_there(tmp_path: Path, document: Any, as_there: Any) -> None:
    pixels = torch.from_numpy(noise(1))[None]
    found, notes = stated(tmp_path, document)
    actual = Preprocessing.of(found).normalise(pixels)
    assert torch.allclose(actual, as_there(pixels.float()).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)
    assert notes == []


@pytest.mark.parametrize(
    ("document", "sides", "note"),
    [
        ({"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}, (32, 28), ""),
        ({"size": {"height": 28, "width": 28}}, (28, 28), "stretched"),
        ({"size": {"shortest_edge": 28}, "do_center_crop": False}, (28, 28), "did not crop"),
        ({"crop_size": 21}, (28, 21), ""),
    ],
)
def test_sizes_are_used_and_differences_are_noted(
    tmp_path: Path, document: Any, sides: tuple[int, int], note: str
) -> None:
    found, notes = stated(tmp_path, document)
    assert (found["resize"], found["crop"]) == sides
    assert note in "".join(notes)
    assert bool(notes) == bool(note)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"resample": 0}, "resample"),
        ({"resample": "lanczos"}, "resample"),
        ({"size": {"height": 28, "width": 56}}, "size"),
        ({"size": {"longest_edge": 28}}, "size"),
        ({"size": "large"}, "size"),
        ({"size": {"shortest_edge": 28}, "crop_size": {"height": 56, "width": 56}}, "crop"),
        ({"size": 28, "crop_size": 6}, "smaller than a patch of 7"),
        ({"do_center_crop": True}, "crop_size"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_std": 0}, "bounds"),
    ],
)
def test_what_can_t_be_reproduced_is_refused_with_its_file(tmp_path: Path, document: Any, says: str) -> None:
    with pytest.raises(BadBundle, match=rf"preprocessor_config\.json.*{says}"):
        stated(tmp_path, document)


def test_metadata_of_an_adapter_is_held_to_the_same(tmp_path: Path) -> None:
    assert stated(tmp_path, {}, image_size=[21, 21])[0]["crop"] == 21
    assert "is not understood" in stated(tmp_path, {}, normalization="imagenet")[1][0]
    with pytest.raises(BadBundle, match=r"adapter_meta\.json.*image_size"):
        stated(tmp_path, {}, image_size=[21, 28])
    with pytest.raises(BadBundle, match=r"adapter_meta\.json.*342,225 patches of 7 pixels, more than 16,384"):
        stated(tmp_path, {}, image_size=4096)


# --- what no file states ---------------------------------------------------------------------------------------------

RELEASED = {"image_size": 518, "patch_size": 14}


@pytest.mark.parametrize("name", ["dinov2", "dinov2_with_registers"])
def test_without_a_statement_the_published_processor_is_taken(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, family_named(name), RELEASED)
    assert (found.document["resize"], found.document["crop"], found.document["interpolation"]) == (256, 224, "bicubic")
    assert found.document["mean"] == [0.485, 0.456, 0.406]
    (assumed,) = found.assumed
    for word in ("resize 256", "crop 224", "bicubic", "0.485", "0.229", f"the published processor of {name}"):
        assert word in assumed


def test_the_stretching_of_dinov3_is_told(tmp_path: Path) -> None:
    found = read(tmp_path, family_named("dinov3"), {"image_size": 224, "patch_size": 16})
    assert (found.document["resize"], found.document["crop"], found.document["interpolation"]) == (224, 224, "bilinear")
    assert "stretches images to 224 x 224; here the centre square is cropped" in found.assumed[0]


def test_for_other_sizes_nothing_is_published(tmp_path: Path) -> None:
    found = read(tmp_path, FAMILY, CONFIG)
    assert (found.document["resize"], found.document["crop"]) == (28, 28)
    assert "no processor is published for 28 pixels" in found.assumed[0]


@pytest.mark.parametrize(
    ("document", "assumed"),
    [
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "resample": 3, "image_mean": 0.5, "image_std": 0.5}, ""),
        (
            {"size": {"shortest_edge": 256}, "crop_size": 224, "image_mean": 0.5, "image_std": 0.5},
            "interpolation bicubic,",
        ),
        ({"size": 224, "resample": 3, "do_normalize": False}, ""),
        ({"size": 224, "resample": 3, "image_mean": 0.5}, "std 0.229 0.224 0.225,"),
        ({"image_mean": 0.5, "image_std": 0.5}, "resize 256, crop 224, interpolation bicubic,"),
    ],
)
def test_only_what_is_missing_is_assumed(tmp_path: Path, document: dict[str, Any], assumed: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(document))
    found = read(tmp_path, FAMILY, RELEASED).assumed
    assert [line.startswith(assumed) for line in found] == ([True] if assumed else [])


def test_metadata_that_state_a_part_leave_the_rest_assumed(tmp_path: Path) -> None:
    found = read(tmp_path, FAMILY, RELEASED, image_size=224, normalization={"mean": [0.5] * 3})
    assert (found.document["resize"], found.document["mean"]) == (224, [0.5] * 3)
    assert found.assumed[0].startswith("interpolation bicubic, std 0.229")
