"""An image becomes the square and the tensor that its version's document describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.backbone.preprocess import Preprocessing
from registry.errors import BadManifest
from tests.support.image_files import encoded, gradient

DOCUMENT = {"resize": 32, "crop": 28, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
PREPROCESSING = Preprocessing.of(DOCUMENT)


def test_all_kinds_of_images_give_the_same_tensor(tmp_path: Path) -> None:
    image = gradient(60, 40)
    path = tmp_path / "leaf.png"
    path.write_bytes(encoded(image))
    forms = [encoded(image), path, str(path), image, np.asarray(image)]
    tensors = [PREPROCESSING(form) for form in forms]
    assert tensors[0].shape == (3, 28, 28)
    assert tensors[0].dtype == torch.float32
    assert all(torch.equal(tensors[0], tensor) for tensor in tensors[1:])


def test_values_are_centred_and_scaled_per_channel() -> None:
    white = PREPROCESSING(np.full((28, 28, 3), 255, np.uint8))
    assert torch.allclose(white.mean(dim=(1, 2)), torch.tensor([2.5, 3.0, 3.5]), atol=1e-5)


def test_a_square_of_the_right_size_is_left_unchanged() -> None:
    plain = Preprocessing.of({**DOCUMENT, "resize": 28})
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    assert np.array_equal(plain.square(pixels), pixels)


def test_the_shortest_side_is_resized_and_the_centre_kept() -> None:
    left_to_right = np.zeros((32, 96, 3), np.uint8)
    left_to_right[:, 32:64] = 255
    plain = Preprocessing.of({**DOCUMENT, "resize": 28})
    assert (plain.square(left_to_right)[:, 2:-2] > 250).all()


def test_an_extremely_long_image_stays_small_on_its_way() -> None:
    assert PREPROCESSING.square(np.zeros((1, 65_535, 3), np.uint8)).shape == (28, 28, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"crop": 0},
        {"crop": 64},
        {"resize": 10**9},
        {"interpolation": "magic"},
        {"std": [0, 1, 1]},
        {"mean": [0.5]},
        {"crop": "x"},
    ],
)
def test_a_preprocessing_document_out_of_bounds_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadManifest, match="preprocessing"):
        Preprocessing.of({**DOCUMENT, **change})
