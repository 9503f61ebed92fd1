"""What `/predict/batch` and the Open Inference Protocol take, made of images' bytes."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


def noise_png(seed: int, size: int = 28) -> bytes:
    """A PNG of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def as_text(image: bytes) -> str:
    """An image in base64."""
    return base64.b64encode(image).decode()


def as_json(*images: bytes, **more: Any) -> dict[str, Any]:
    """Images as the JSON document of a batch; `more` is said of each."""
    return {"images": [{"image": as_text(image), **more} for image in images]}


def as_files(*images: bytes) -> list[Any]:
    """Images as the files of a form."""
    return [("image", (f"{number}.png", image, "image/png")) for number, image in enumerate(images)]
