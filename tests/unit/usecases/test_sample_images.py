"""The images that are sent to what is deployed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from registry.errors import BadInput
from registry.usecases.sample_images import MOST, images_of_folder, images_of_golden, pattern, png
from tests.support import bundles


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_png_holds_the_pixels() -> None:
    square = bundles.noise(3, side=5)[:, :4]
    assert np.array_equal(pixels(png(square.tobytes(), 4, 5)), square)


def test_patterns_differ() -> None:
    assert len({pattern(number).data for number in range(4)}) == 4
    assert pixels(pattern(0).data).shape == (224, 224, 3)


def test_of_a_folder_some_are_taken_evenly(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    for number in range(3 * MOST):
        (tmp_path / "inner" / f"{number:02}.png").write_bytes(str(number).encode())
    found = images_of_folder(tmp_path)
    assert [image.data for image in found] == [str(number).encode() for number in range(0, 3 * MOST, 3)]
    assert (found[1].name, found[1].target) == ("inner/03.png", None)
    assert images_of_folder(tmp_path) == found


def test_a_folder_without_images_is_wrong_usage(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nosuch"):
        with pytest.raises(BadInput):
            images_of_folder(folder)


def test_recorded_inputs_are_sent_as_they_were(tmp_path: Path) -> None:
    from adapters import bundle

    images = np.stack([bundles.noise(seed) for seed in range(3)])
    bundle.write_tensors(tmp_path / "golden.safetensors", {"images": images, "logits": np.zeros((3, 2), np.float32)})
    found = list(images_of_golden("adapters/low/golden.safetensors", tmp_path / "golden.safetensors"))
    assert [image.target for image in found] == ["low", "low"]
    for image, expected in zip(found, images, strict=False):
        assert np.array_equal(pixels(image.data), expected)
    of_the_router = images_of_golden("router/golden.safetensors", tmp_path / "golden.safetensors")
    assert {image.target for image in of_the_router} == {None}


@pytest.mark.parametrize("shape", [(3, 8, 8, 4), (3, 8, 8), (3, 0, 8, 3)])
def test_recorded_inputs_of_another_kind_are_left_out(tmp_path: Path, shape: tuple[int, ...]) -> None:
    from adapters import bundle

    bundle.write_tensors(tmp_path / "golden.safetensors", {"images": np.zeros(shape, np.uint8)})
    assert list(images_of_golden("router/golden.safetensors", tmp_path / "golden.safetensors")) == []
