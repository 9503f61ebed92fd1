"""The body of a request: an image and its fields, bounded before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from registry.errors import BadImage, BadInput
from registry.names import check_target
from registry.serving.byte_budget import HeldBytes
from registry.serving.http.responses import Refused

MAX_IMAGE = 32 * 1024 * 1024
"""Bytes of the largest image."""
MAX_KEY = MAX_TARGET = 256
"""Characters."""
_MAX_FORM = 64 * 1024
_HINT = "send the image as the multipart field `image`, or as the body with a Content-Type of image/…"
_Fields = list[tuple[str, Any]]
"""The fields of a query or form in order: texts, and in forms files."""


@dataclass(frozen=True)
class Input:
    """What a request asks for: one image, with its target and key if they are given."""

    image: bytes
    target: str | None
    key: str | None


async def read_input(request: Request, held: HeldBytes) -> Input:
    """Read the image and its fields, from either kind of body, of which `held` counts the bytes.

    Raises:
        Refused: the body is too large, or of an unknown content type.
        Overloaded: there is no memory for it.
        BadInput: the body has no image, or a field is invalid.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = request.query_params.multi_items()
    if kind.startswith("image/"):
        return _checked_input(await _read_body(request, MAX_IMAGE, held), query, [])
    if kind == "multipart/form-data":
        body = await _read_body(request, MAX_IMAGE + _MAX_FORM, held)
        held.add(len(body))  # of the copy that a form's fields are
        form = await _read_form(request, body)
        image = _only("image", form.multi_items())
        if not hasattr(image, "read"):
            raise BadInput("the form has no file field `image`", hint=_HINT)
        return _checked_input(await image.read(), query, form.multi_items())
    raise Refused(415, "BadInput", f"the content type {kind[:80] or '(none)'} is not supported", _HINT)


def _checked_input(image: bytes, query: _Fields, form: _Fields) -> Input:
    if len(image) > MAX_IMAGE:
        raise _too_large()
    if not image:
        raise BadImage("the image is empty", hint=_HINT)
    target, key = (_text(name, limit, query, form) for name, limit in (("target", MAX_TARGET), ("key", MAX_KEY)))
    return Input(image, check_target(target) if target else None, key)


def _text(name: str, limit: int, query: _Fields, form: _Fields) -> str | None:
    """A field of a request as text, None if it is not given or empty. That of the form counts before the query's."""
    in_query, in_form = _only(name, query), _only(name, form)
    value = in_query if in_form is None else in_form
    if value is not None and not isinstance(value, str):
        raise Refused(422, BadInput.__name__, f"the field `{name}` is a file", "send it as text")
    if value is not None and len(value) > limit:
        raise BadInput(f"the {name} has {len(value)} characters, more than {limit}", hint=f"send a shorter {name}")
    return value or None


def _only(name: str, fields: _Fields) -> Any:
    """The one value of a field, None if it is not given."""
    values = [value for each, value in fields if each == name]
    if len(values) > 1:
        raise Refused(422, BadInput.__name__, f"the field `{name}` is given {len(values)} times", "send it once")
    return values[0] if values else None


async def _read_body(request: Request, limit: int, held: HeldBytes) -> bytes:
    """Read the whole body; refuse it as soon as it is known to be larger than `limit` bytes, or than the memory."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise _too_large()
    body = bytearray()
    try:
        async for chunk in request.stream():
            held.add(len(chunk))
            body += chunk
            if len(body) > limit:
                raise _too_large()
    except ClientDisconnect as error:
        raise BadInput("the client closed the connection before the whole image was received") from error
    return bytes(body)


async def _read_form(request: Request, body: bytes) -> Any:
    """Parse a multipart body that was read completely, up to the limit."""

    async def replay() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        return await Request(request.scope, replay).form(max_files=1, max_fields=8, max_part_size=_MAX_FORM)
    except HTTPException as error:
        raise BadInput(f"the form can't be parsed: {error.detail}", hint=_HINT) from error


def _too_large() -> Refused:
    return Refused(413, BadImage.__name__, f"the image has more than {MAX_IMAGE >> 20} MiB", "send a smaller image")
