"""Images of any kind over HTTP: read as they are meant, or refused in time, and nobody else notices."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from registry.serving.follow import Live
from registry.serving.options import LiveOptions
from registry.store.objects import ObjectStore
from registry.versions.bundle import DEFAULT_FLAVOR
from tests.support.bundles import write_bundle
from tests.support.echo_releases import Shop
from tests.support.equal_answers import assert_equal_answers, prediction_of
from tests.support.http_batches import as_json, noise_png
from tests.support.image_files import encoded
from tests.support.running_app import running

MAX_PIXELS = 1_000_000
ARRAY = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
PLAIN = Image.fromarray(ARRAY)
GREY = PLAIN.convert("L")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims this size, with megabytes of zeros that take a few kilobytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(4 << 20)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header claims this size."""
    data = encoded(PLAIN, "JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def webp_of(size: int) -> bytes:
    """A lossless WebP of zeros: few bytes, many pixels."""
    return encoded(Image.new("RGB", (size, size)), "WEBP", lossless=True)


def gif_of(width: int, height: int) -> bytes:
    data = encoded(PLAIN, "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def turned(orientation: int, image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "PNG", exif=exif)


BOMBS = {
    "png": png_of(30_000, 30_000), "png-max": png_of(2**31 - 1, 2**31 - 1), "png-long": png_of(65_536, 1),
    "png-null": png_of(0, 5), "png-over-the-option": png_of(1001, 1000), "jpeg": jpeg_of(65_535, 65_535),
    "webp": webp_of(1200), "gif": gif_of(65_535, 65_535),
}  # fmt: skip
BROKEN = {
    "empty": b"", "text": b"GET / HTTP/1.1", "png-cut": encoded(PLAIN)[:200], "jpeg-cut": encoded(PLAIN, "JPEG")[:300],
    "webp-cut": encoded(PLAIN, "WEBP")[:100], "gif": encoded(PLAIN, "GIF"), "tiff": encoded(PLAIN, "TIFF"),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "pdf": encoded(PLAIN, "PDF"),
    "png-named-jpeg": b"\xff\xd8\xff" + encoded(PLAIN)[3:], "float": encoded(Image.new("F", (9, 9)), "TIFF"),
    "gif-animated": encoded(PLAIN, "GIF", save_all=True, append_images=[GREY.convert("RGB")] * 3),
}  # fmt: skip


@pytest.fixture
def http(store_url: str, model: str, tmp_path: Path) -> Iterator[httpx.Client]:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0", write_bundle(tmp_path / "v1"), flavor=DEFAULT_FLAVOR)
    shop.promote("v1.0.0")
    options = LiveOptions(deadline=600, max_pixels=MAX_PIXELS)
    with Live(shop.channel(), shop.versions, shop.blobs, options) as live, running(live) as client:
        yield client


def post(http: httpx.Client, image: bytes, kind: str = "image/png") -> httpx.Response:
    return http.post("/predict", content=image, params={"target": "mid"}, headers={"Content-Type": kind})


def test_bombs_and_broken_images_cost_no_other_its_answer(http: httpx.Client) -> None:
    sound = noise_png(1)
    for name, image in (BOMBS | BROKEN).items():
        answer = post(http, image)
        assert (answer.status_code, answer.json()["error"]) == (400, "BadImage"), name
        found = http.post("/predict/batch", json=as_json(sound, image, sound, target="mid")).json()["predictions"]
        assert [one.get("error") for one in found] == [None, "BadImage", None], name
        assert_equal_answers(found[0], found[2])


UNUSUAL = {
    "exif-3": (turned(3, PLAIN.transpose(Image.Transpose.ROTATE_180)), PLAIN),
    "exif-6": (turned(6, PLAIN.transpose(Image.Transpose.ROTATE_90)), PLAIN),
    "exif-9": (turned(9, PLAIN), PLAIN),
    "palette": (encoded(PLAIN.quantize(256)), PLAIN.quantize(256).convert("RGB")),
    "grey": (encoded(GREY), GREY.convert("RGB")),
    "bits": (encoded(GREY.convert("1")), GREY.convert("1").convert("RGB")),
    "16-bit": (encoded(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)), GREY.convert("RGB")),
    "apng": (encoded(PLAIN, "PNG", save_all=True, append_images=[GREY.convert("RGB")]), PLAIN),
    "webp-animated": (encoded(PLAIN, "WEBP", lossless=True, save_all=True, append_images=[GREY.convert("RGB")]), PLAIN),
    "bmp": (encoded(PLAIN, "BMP"), PLAIN),
    "tail": (encoded(PLAIN) + b"more" * 1000, PLAIN),
}


def test_unusual_images_are_read_as_they_are_meant(http: httpx.Client) -> None:
    for name, (image, same) in UNUSUAL.items():
        found, plain = post(http, image), post(http, encoded(same))
        assert found.status_code == plain.status_code == 200, (name, found.text)
        assert_equal_answers(found.json(), prediction_of(plain.json()))


def test_a_cmyk_photo_is_read_and_its_name_does_not_matter(http: httpx.Client) -> None:
    photo = encoded(PLAIN.convert("CMYK"), "JPEG", quality=100)
    answers = [post(http, photo, kind).json() for kind in ("image/jpeg", "image/png", "image/x-unknown")]
    assert answers[0]["outcome"] in ("answer", "review")
    for other in answers[1:]:
        assert_equal_answers(other, prediction_of(answers[0]))


LENGTHS = {
    b"Content-Length: -1\r\n": b"400", b"Content-Length: 5x\r\n": b"400", b"Content-Length: 99999999\r\n": b"413",
    b"Content-Length: 999999999999999999999999\r\n": b"4", b"Content-Length: 3\r\nContent-Length: 4\r\n": b"400",
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n": b"400", b"": b"400", b"Content-Length: 0\r\n": b"400",
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n": b"400",
}  # fmt: skip


def test_a_body_of_wrong_or_no_length_has_its_answer(http: httpx.Client) -> None:
    for head, status in LENGTHS.items():
        with socket.create_connection((http.base_url.host, http.base_url.port), timeout=300) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n" + head + b"\r\n")
            assert client.recv(100).split()[1].startswith(status), head
        assert http.get("/health/live").status_code == 200
