"""Any image becomes bounded RGB pixels, or a clear refusal."""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from adapters.backbone import image_files, images
from adapters.backbone.images import ImageLike, decoded
from registry.errors import BadImage
from tests.support.echo_releases import wait_until
from tests.support.image_files import encoded, gradient


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def noise_image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (77, 123, 3), np.uint8))


def cut_out(mode: str, below: str = "green") -> Image.Image:
    """An image whose four upper rows are transparent, in a mode."""
    mask = Image.new("L", (16, 16), 255)
    mask.paste(0, (0, 0, 16, 4))
    image = Image.composite(gradient(16, 16), Image.new("RGB", (16, 16), below), mask)
    if mode in ("RGBA", "LA", "PA"):
        image = image.convert("L") if mode == "LA" else image
        image.putalpha(mask)
        return image
    marked = image.convert(mode, dither=Image.Dither.NONE)
    marked.info["transparency"] = marked.getpixel((0, 0))
    return marked


def pixels(image: ImageLike) -> np.ndarray:
    with decoded(image) as rgb:
        assert rgb.mode == "RGB"
        return np.asarray(rgb).copy()


def test_a_photo_is_turned_the_way_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels(encoded(gradient(20, 10), "JPEG", exif=exif)).shape == (20, 10, 3)


@pytest.mark.parametrize("kind", image_files.FORMATS)
def test_every_listed_format_is_read(kind: str) -> None:
    assert pixels(encoded(gradient(8, 8), kind)).shape == (8, 8, 3)


def test_sixteen_bits_of_grey_become_eight() -> None:
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    assert np.array_equal(pixels(encoded(Image.fromarray(wide)))[:, :, 0], wide // 257)


def test_pixels_whose_range_nobody_knows_are_refused() -> None:
    with pytest.raises(BadImage, match="mode F"):
        pixels(Image.fromarray(np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("image", [None, 7, "a\0b", torch.zeros(3, 4, 4)], ids=repr)
def test_what_is_no_image_is_a_bad_image_whatever_it_is(image: object) -> None:
    with pytest.raises(BadImage):
        pixels(image)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PDF", "JPEG2000", "ICO", "AVIF"])
def test_another_format_is_refused_by_its_name(kind: str) -> None:
    with pytest.raises(BadImage, match=f"{kind.replace('G2', 'G 2')} images are not read") as refusal:
        pixels(encoded(gradient(32, 32), kind))
    assert "JPEG, PNG, BMP or WEBP" in refusal.value.hint


def test_a_photo_of_a_phone_in_heic_is_refused_by_its_name() -> None:
    with pytest.raises(BadImage, match="HEIC images are not read"):
        pixels(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000))


PNG_METADATA = {
    "a text of 2 MB": png_chunk(b"zTXt", b"note\0\0" + zlib.compress(b"x" * 2_000_000)),
    "EXIF that is none": png_chunk(b"eXIf", b"\x00\x08\x00\x02\x01\x12\x00\x03" + bytes(20)),
    "a damaged profile": png_chunk(b"iCCP", b"\0\0broken"),
    "a wrong checksum": png_chunk(b"tEXt", b"a\0b")[:-4] + b"oops",
    "an animation": png_chunk(b"acTL", bytes(8)) + png_chunk(b"fcTL", bytes(26)),
    "international text": png_chunk(b"iTXt", b"\xff" * 1000),
}


@pytest.mark.parametrize("name", PNG_METADATA)
def test_metadata_of_a_png_does_not_matter(name: str) -> None:
    plain = encoded(gradient(20, 10))
    assert np.array_equal(pixels(plain[:33] + PNG_METADATA[name] + plain[33:]), pixels(plain))


JPEG_METADATA = {
    "EXIF that is none": (0xE1, b"Exif\0\0" + bytes(range(200))),
    "a short profile": (0xE2, b"ICC_PROFILE\0"),
    "a short Adobe segment": (0xEE, b"Adobe"),
    "a short JFIF segment": (0xE0, b"JFIF"),
    "more images": (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + bytes(30)),
    "a long comment": (0xFE, b"x" * 60_000),
    "damaged resources": (0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff\xff\xff\xff"),
    "damaged XMP": (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta" + b"\xff" * 100),
}


@pytest.mark.parametrize("name", JPEG_METADATA)
def test_metadata_of_a_jpeg_does_not_matter(name: str) -> None:
    plain = encoded(gradient(20, 10), "JPEG")
    marker, body = JPEG_METADATA[name]
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
    assert np.array_equal(pixels(plain[:2] + segment + plain[2:]), pixels(plain))


def test_colours_of_jpegs_are_read_as_their_header_says() -> None:
    cmyk, rgb = gradient(16, 16).convert("CMYK"), gradient(16, 16)
    for image, options in ((cmyk, {}), (rgb, {"keep_rgb": True}), (rgb, {})):
        data = encoded(image, "JPEG", quality=95, **options)
        assert np.array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("parts", [png_chunk(b"tEXt", b"") * 100_001, b"\xff\xfe\0\2" * 100_001])
def test_a_file_of_very_many_parts_is_refused(parts: bytes) -> None:
    plain, header = (encoded(gradient(8, 8)), 33) if parts[0] == 0 else (encoded(gradient(8, 8), "JPEG"), 2)
    with pytest.raises(BadImage, match="parts"):
        pixels(plain[:header] + parts + plain[header:])


RESTARTS = {"restart_marker_rows": 1}
JPEG_OPTIONS = [
    {},
    {"quality": 95, "subsampling": 0},
    {"progressive": True},
    RESTARTS,
    {"progressive": True, **RESTARTS},
]


def test_a_jpeg_cut_at_a_restart_marker_is_refused() -> None:
    data = encoded(noise_image(), "JPEG", **RESTARTS)
    cuts = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    assert len(cuts) > 3
    for cut in cuts:
        with pytest.raises(BadImage):
            pixels(data[:cut])


def test_a_jpeg_that_lacks_bits_of_its_last_block_is_refused() -> None:
    data = encoded(noise_image(), "JPEG", quality=95, subsampling=0)
    whole = pixels(data)
    for missing in range(3, 40):
        try:
            read = pixels(data[:-missing])
        except BadImage:
            continue
        assert np.array_equal(read, whole)


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = encoded(noise_image(), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(BadImage, match="parts"):
        pixels(data[:-2] + data[last:-2] * 200 + b"\xff\xd9")


@pytest.mark.parametrize("compression", [1, 2])
def test_a_bmp_with_run_lengths_is_refused_at_once(compression: int) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 64_000_000, 1, 1, 8, compression, 0, 0, 0, 0, 0)
    file = b"BM" + struct.pack("<IHHI", 1082, 0, 0, 1078) + header + bytes(1024) + b"\0\0\0\1"
    with pytest.raises(BadImage, match="run-length"):
        pixels(file)


@pytest.mark.parametrize("options", JPEG_OPTIONS[:3], ids=str)
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_marker_is_read_in_full(options: dict[str, object], missing: int) -> None:
    data = encoded(noise_image(), "JPEG", **options)
    assert np.array_equal(pixels(data[:-missing]), pixels(data))


def test_a_png_without_its_end_is_read_in_full() -> None:
    data = encoded(noise_image())
    assert np.array_equal(pixels(data[:-12]), pixels(data))


@pytest.mark.parametrize("options", JPEG_OPTIONS, ids=str)
@given(missing=st.integers(8, 6000))
def test_a_jpeg_that_lacks_pixels_is_refused(options: dict[str, object], missing: int) -> None:
    data = encoded(noise_image(), "JPEG", **options)
    with pytest.raises(BadImage):
        pixels(data[: max(3, len(data) - missing)])


def test_a_progressive_jpeg_without_its_last_scan_is_refused() -> None:
    data = encoded(gradient(64, 48), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    with pytest.raises(BadImage):
        pixels(data[: data.rfind(b"\xff\xc4", 0, last)])


TRANSPARENT = ["RGBA", "LA", "PA", "P", "L", "RGB"]
"""`PA` can't be stored: it is saved as WEBP."""


@pytest.mark.parametrize("mode", TRANSPARENT)
def test_transparent_parts_are_white_as_in_transformers(mode: str) -> None:
    data = encoded(cut_out(mode), "PNG" if mode != "PA" else "WEBP", **({"lossless": True} if mode == "PA" else {}))
    expected = convert_to_rgb(Image.open(io.BytesIO(data)))
    assert np.array_equal(pixels(data), np.asarray(expected))
    assert (pixels(data)[:4] == 255).all()


def test_what_is_hidden_below_transparency_changes_nothing() -> None:
    black, white = (cut_out("RGBA", below) for below in ("black", "white"))
    assert np.array_equal(pixels(encoded(black)), pixels(encoded(white)))


def test_a_large_image_is_put_on_white_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pixels(cut_out("RGBA"))
    monkeypatch.setattr(images, "_STRIP_PIXELS", 100)
    assert np.array_equal(pixels(cut_out("RGBA")), whole)


def test_the_transparent_one_of_sixteen_bits_of_grey_is_white() -> None:
    grey = np.full((8, 8), 2570, np.uint16)
    grey[0] = 1234
    read = pixels(encoded(Image.fromarray(grey), transparency=1234))
    assert (read[0] == 255).all()
    assert (read[1:] == 10).all()


def test_images_wait_until_memory_for_pixels_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_DECODING", images.MemoryBudget(8 * 8 * 12))
    with ThreadPoolExecutor(1) as other:
        with decoded(gradient(8, 8)):
            second = other.submit(pixels, gradient(8, 8))
            with pytest.raises(TimeoutError):
                second.result(timeout=0.2)
        assert second.result(timeout=60).shape == (8, 8, 3)


def test_a_refused_image_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_DECODING", images.MemoryBudget(8 * 8 * 16))
    for _ in range(3):
        with pytest.raises(BadImage):
            pixels(encoded(gradient(8, 8), "JPEG")[:-40])


def test_a_large_request_for_memory_is_not_overtaken() -> None:
    budget, order = images.MemoryBudget(10), []

    def take(size: int) -> None:
        with budget.take(size):
            order.append(size)

    threads = [threading.Thread(target=take, args=(size,)) for size in (10, 1, 1)]
    with budget.take(5):
        for waiting, thread in enumerate(threads, start=1):
            thread.start()
            wait_until(lambda waiting=waiting: len(budget._queue) == waiting)
    for thread in threads:
        thread.join()
    assert order == [10, 1, 1]


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_raise_anything_else(data: bytes) -> None:
    with pytest.raises(BadImage):
        pixels(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@given(share=st.floats(0.0, 0.9), flipped=st.integers(0, 10_000))
def test_a_damaged_image_is_refused_or_read_but_never_crashes(kind: str, share: float, flipped: int) -> None:
    data = bytearray(encoded(gradient(40, 40), kind))
    data = data[: int(len(data) * (1 - share))] or bytearray(b"\0")
    data[flipped % len(data)] ^= 0xFF
    with suppress(BadImage):
        pixels(bytes(data))


def test_a_truncated_image_is_refused() -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(BadImage, match="damaged"):
        pixels(data[: len(data) // 2])


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(BadImage, match="pixels"):
        pixels(png_that_claims(20_000, 20_000))


def test_a_side_that_no_jpeg_has_is_refused() -> None:
    with pytest.raises(BadImage, match="a side has at most 65535"):
        pixels(png_that_claims(65_536, 1))


def test_a_smaller_limit_of_pixels_may_be_given() -> None:
    black = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(BadImage, match="20 x 20 pixels, not 1 to 399"), decoded(black, 399):
        pass
    with decoded(black, 400) as read:
        assert read.size == (20, 20)


def test_a_decompression_bomb_is_refused() -> None:
    with pytest.raises(BadImage):
        pixels(png_that_claims(2**30, 2**30))


def test_a_file_over_the_byte_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(BadImage, match="more than"):
        pixels(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"gone\.png"):
        pixels(tmp_path / "gone.png")


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_of_another_kind_is_refused(array: np.ndarray) -> None:
    with pytest.raises(BadImage):
        pixels(array)


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )
