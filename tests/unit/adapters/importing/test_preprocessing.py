"""What sources say about their images is expressed here exactly, noted where it can't be, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.backbone.preprocess import Preprocessing
from adapters.importing.layouts import PEFT, AdapterFolder
from adapters.importing.preprocessing import stated_preprocessing
from registry.errors import BadBundle
from tests.support.bundles import noise

USUAL = {"resize": 28, "crop": 28, "interpolation": "bicubic", "mean": [0.485, 0.456, 0.406], "std": [0.2, 0.2, 0.2]}


def stated(folder: Path, document: dict[str, Any], **meta: Any) -> tuple[dict[str, Any], list[str]]:
    folder.mkdir(exist_ok=True)
    if document:
        (folder / "preprocessor_config.json").write_text(json.dumps(document))
    found, notes = stated_preprocessing(folder, [AdapterFolder("maize", folder, PEFT, meta)], USUAL, patch=7)
    return found, notes["maize"]


@pytest.mark.parametrize(
    ("document", "as_there"),
    [
        ({"do_normalize": False}, lambda pixels: pixels / 255),
        ({"do_rescale": False}, lambda pixels: (pixels - torch.tensor(USUAL["mean"])) / 0.2),
        ({"rescale_factor": 1 / 127.5}, lambda pixels: (pixels / 127.5 - torch.tensor(USUAL["mean"])) / 0.2),
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
    assert "is unknown" in stated(tmp_path, {}, normalization="imagenet")[1][0]
    with pytest.raises(BadBundle, match=r"adapter_meta\.json.*image_size"):
        stated(tmp_path, {}, image_size=[21, 28])
