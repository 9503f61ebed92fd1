"""Any image becomes a bounded tensor, or a clear refusal."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adapters.backbone import preprocess
from adapters.backbone.preprocess import Preprocessing, read_image
from registry.errors import BadImage, BadManifest

DOCUMENT = {"resize": 32, "crop": 28, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
PREPROCESSING = Preprocessing.of(DOCUMENT)


def gradient(width: int, height: int) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


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


def test_a_photo_is_turned_the_way_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(encoded(gradient(20, 10), "JPEG", exif=exif)).size == (10, 20)


@pytest.mark.parametrize("kind", preprocess.FORMATS)
def test_every_listed_format_is_read(kind: str) -> None:
    assert read_image(encoded(gradient(8, 8), kind)).size == (8, 8)


def test_sixteen_bits_of_grey_become_eight() -> None:
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, format="PNG")
    assert np.array_equal(np.asarray(read_image(buffer.getvalue()))[:, :, 0], wide // 257)


def test_pixels_whose_range_nobody_knows_are_refused() -> None:
    with pytest.raises(BadImage, match="mode F"):
        read_image(Image.fromarray(np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("image", [None, 7, "a\0b", torch.zeros(3, 4, 4)], ids=repr)
def test_what_is_no_image_is_a_bad_image_whatever_it_is(image: object) -> None:
    with pytest.raises(BadImage):
        read_image(image)


def test_other_formats_are_refused() -> None:
    with pytest.raises(BadImage, match="not an image in an accepted format"):
        read_image(encoded(gradient(8, 8), "TIFF"))


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise_anything_else(data: bytes) -> None:
    with pytest.raises(BadImage):
        read_image(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@given(share=st.floats(0.0, 0.9), flipped=st.integers(0, 10_000))
def test_a_damaged_image_is_refused_or_read_but_never_crashes(kind: str, share: float, flipped: int) -> None:
    data = bytearray(encoded(gradient(40, 40), kind))
    data = data[: int(len(data) * (1 - share))] or bytearray(b"\0")
    data[flipped % len(data)] ^= 0xFF
    with suppress(BadImage):
        assert read_image(bytes(data)).mode == "RGB"


def test_a_truncated_image_is_refused() -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(BadImage, match="damaged"):
        read_image(data[: len(data) // 2])


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(BadImage, match="pixels"):
        read_image(png_that_claims(20_000, 20_000))


def test_a_decompression_bomb_is_refused() -> None:
    with pytest.raises(BadImage):
        read_image(png_that_claims(2**30, 2**30))


def test_a_file_over_the_byte_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(preprocess.MAX_BYTES + 1)
    with pytest.raises(BadImage, match="more than"):
        read_image(path)


def test_an_extremely_long_image_stays_small_on_its_way() -> None:
    assert PREPROCESSING.square(np.zeros((1, 1_000_000, 3), np.uint8)).shape == (28, 28, 3)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_of_another_kind_is_refused(array: np.ndarray) -> None:
    with pytest.raises(BadImage):
        read_image(array)


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


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
