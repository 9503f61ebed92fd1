"""`POST /predict/batch`: several images, all answered by one version, each with its own outcome or error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from registry.errors import BadImage, BadInput, UloraError
from registry.serving.byte_budget import HeldBytes
from registry.serving.http.asking import AskedImage, ask, check_admission, choose, refuse_corrupt
from registry.serving.http.request_body import (
    MAX_IMAGE,
    MAX_KEY,
    MAX_TARGET,
    TARGET_PATTERN,
    JsonInput,
    checked_key,
    checked_target,
    content_type,
    decode_base64,
    only_text,
    parse_json,
    read_body,
    read_parts,
    texts_of,
    too_large,
    unknown_kind,
)
from registry.serving.http.responses import Routes, answer_of, as_refused
from registry.serving.loaders import Prediction

_OTHER_PARTS = 8
_HINT = 'send the images as multipart fields `image`, or as JSON {"images": [{"image": "<base64>"}, …]}'


class BatchImage(JsonInput):
    """One image of a batch."""

    image: str = Field(description="An image file in base64.", json_schema_extra={"format": "byte"})
    target: str | None = Field(None, max_length=MAX_TARGET, pattern=TARGET_PATTERN)
    key: str | None = Field(None, max_length=MAX_KEY)


class BatchInput(JsonInput):
    """A batch as JSON."""

    images: list[BatchImage] = Field(min_length=1)


@dataclass(frozen=True)
class _ImageBatch:
    """The images of a request, and the key by which their version is chosen."""

    images: list[AskedImage]
    key: str | None


async def predict_batch(request: Request) -> JSONResponse:
    """Predict for several images. The status is 200 if the request was valid, whatever becomes of its images."""
    deadline = check_admission(request)
    with HeldBytes(request.app.state.live.scheduler.budget) as held:
        given = await _read(request, held)
        route = choose(request, given.key)
        asked = ask(request, route, given.images, deadline)
    del given  # the bodies are not needed once the images were read
    answered = await asked.answers(request)
    predictions = [_one(each, receipt) for each, receipt in zip(answered, asked.receipts_of(answered), strict=True)]
    return answer_of(route, {"predictions": predictions})


async def _read(request: Request, held: HeldBytes) -> _ImageBatch:
    """Read the images, of which `held` counts the bytes.

    Raises:
        Refused, Overloaded, BadInput: see `registry.serving.http.request_body`; or there are too many images.
    """
    kind, limit = content_type(request), request.app.state.options.max_body
    if kind == "application/json":
        body = await read_body(request, limit, held)
        return await run_in_threadpool(_from_json, body, request.app.state.options.max_images, held)
    if kind == "multipart/form-data":
        return await _from_form(request, limit, held)
    raise unknown_kind(kind, _HINT)


def _from_json(body: bytes, most: int, held: HeldBytes) -> _ImageBatch:
    images = parse_json(BatchInput, body, held).images
    _check_count(len(images), most)
    asked = [AskedImage(_decoded(each.image, held), checked_target(each.target)) for each in images]
    return _ImageBatch(asked, images[0].key or None)


async def _from_form(request: Request, limit: int, held: HeldBytes) -> _ImageBatch:
    most: int = request.app.state.options.max_images
    parts = await read_parts(request, limit, 2 * most + _OTHER_PARTS, held)
    files = [part for part in parts if part.name == "image"]
    if not files or not all(part.is_file for part in files):
        raise BadInput("the form has no file fields `image`", hint=_HINT)
    _check_count(len(files), most)
    query = request.query_params.multi_items()
    targets = texts_of("target", parts) or [value for name, value in query if name == "target"] or [""]
    if len(targets) not in (1, len(files)):
        raise BadInput(
            f"{len(files)} images but {len(targets)} targets", hint="give no target, one for all, or one for each image"
        )
    of_each = [checked_target(target) for target in targets] * (len(files) if len(targets) == 1 else 1)
    asked = [AskedImage(_checked(part.data), target) for part, target in zip(files, of_each, strict=True)]
    return _ImageBatch(asked, checked_key(only_text("key", [*query], [(part.name, part) for part in parts])))


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise BadInput(f"{count} images are more than {most}", hint="send fewer in one request, or raise --max-images")


def _decoded(text: str, held: HeldBytes) -> bytes | UloraError:
    """The image, or why there is none: that costs the others nothing."""
    try:
        return _checked(decode_base64(text, held))
    except BadImage as error:
        return error


def _checked(image: bytes) -> bytes | UloraError:
    if len(image) > MAX_IMAGE:
        return BadImage(str(too_large(MAX_IMAGE)), hint="send a smaller image")
    return image or BadImage("the image is empty", hint="send a complete image file")


def _one(answered: Prediction | BaseException, receipt: dict[str, str]) -> dict[str, Any]:
    """An image's outcome: its prediction, or its error with the status that it would have alone."""
    try:
        return {**refuse_corrupt(answered).to_dict(), **receipt}
    except Exception as error:
        refused = as_refused(error)
        return {**refused.document(), "status": refused.status}


ROUTES: Routes = {("POST", "/predict/batch"): predict_batch}
