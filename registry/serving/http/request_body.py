"""The body of a request: images and their fields, bounded before anything is decoded."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from registry.errors import BadImage, BadInput
from registry.formats.document import first_problem
from registry.names import check_target
from registry.serving.byte_budget import HeldBytes
from registry.serving.http.form import FormPart, read_form
from registry.serving.http.responses import Refused

MAX_IMAGE = 32 * 1024 * 1024
"""Bytes of the largest image."""
MAX_KEY = MAX_TARGET = 256
"""Characters."""
TARGET_PATTERN = r"^([a-z0-9]+(_[a-z0-9]+)*(__[a-z0-9]+(_[a-z0-9]+)*)?)?$"
"""A target's name (`registry.names`), or nothing, for documents."""
_MAX_FORM = 64 * 1024
MAX_FIELDS = 8
"""Parts of the form of one image."""
_MAX_JSON_MARKS = 20_000
"""Brackets, commas and colons of a JSON body. Each makes an object of up to 100 bytes; base64 text has none."""
_HINT = "send the image as the multipart field `image`, or as the body with a Content-Type of image/…"
_Fields = list[tuple[str, Any]]
"""The fields of a query or form in order: texts, and of forms parts."""


class JsonInput(BaseModel):
    """A JSON document that a client sends. What it does not name is refused, so that a typing error is found."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Json = TypeVar("Json", bound=BaseModel)


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
    kind = content_type(request)
    query: _Fields = [*request.query_params.multi_items()]
    most: int = min(MAX_IMAGE, request.app.state.options.max_body)
    if kind.startswith("image/"):
        return _checked_input(await read_body(request, most, held), query, [])
    if kind == "multipart/form-data":
        parts = await read_parts(request, most + _MAX_FORM, MAX_FIELDS, held)
        form: _Fields = [(part.name, part) for part in parts]
        image = _only("image", form)
        if image is None or not image.is_file:
            raise BadInput("the form has no file field `image`", hint=_HINT)
        return _checked_input(image.data, query, form)
    raise unknown_kind(kind, _HINT)


def content_type(request: Request) -> str:
    """The content type of a request, in small letters, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def unknown_kind(kind: str, hint: str) -> Refused:
    """The refusal of another content type."""
    return Refused(415, BadInput.__name__, f"the content type {kind[:80] or '(none)'} is not supported", hint)


async def read_parts(request: Request, limit: int, max_parts: int, held: HeldBytes) -> list[FormPart]:
    """The parts of a form of at most `limit` bytes.

    Raises:
        Refused, Overloaded, BadInput: see `read_body` and `registry.serving.http.form.read_form`.
    """
    body = await read_body(request, limit, held)
    held.add(len(body))  # of the copy that its parts are
    return read_form(body, request.headers.get("content-type", ""), max_parts)


def parse_json(kind: type[Json], body: bytes, held: HeldBytes) -> Json:
    """A JSON body as a document of this kind.

    Raises:
        BadInput: it is not one, or has too many parts.
        Overloaded: there is no memory for it.
    """
    if sum(body.count(mark) for mark in b"[{,:") > _MAX_JSON_MARKS:
        raise BadInput("the JSON document has too many parts", hint="send fewer images in one request")
    # Of the texts in it: one character that is not in Latin-1 lets a whole text take four bytes for each.
    held.add(len(body) * (1 if body.isascii() and b"\\u" not in body else 4))
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise BadInput(f"the JSON document is not valid: {first_problem(error)}"[:400], hint="see /docs") from error


def decode_base64(text: str, held: HeldBytes) -> bytes:
    """The bytes of an image that was sent as base64.

    Raises:
        BadImage: it is not base64, or the image is too large.
        Overloaded: there is no memory for it.
    """
    if len(text) > MAX_IMAGE * 4 // 3 + 4:
        raise BadImage(f"the image has more than {MAX_IMAGE >> 20} MiB", hint="send a smaller image")
    held.add(len(text) * 3 // 4)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # UnicodeEncodeError and binascii.Error are
        raise BadImage(f"the image is not base64: {error}"[:200], hint="without line breaks or `data:`") from error


def checked_target(target: str | None) -> str | None:
    """The name of a target; None if it is not given or empty.

    Raises:
        BadInput: it is not one.
    """
    if target and len(target) > MAX_TARGET:
        raise _too_long("target", target, MAX_TARGET)
    return check_target(target) if target else None


def checked_key(key: str | None) -> str | None:
    """The key of a request; None if it is not given or empty.

    Raises:
        BadInput: it is too long.
    """
    if key and len(key) > MAX_KEY:
        raise _too_long("key", key, MAX_KEY)
    return key or None


def texts_of(name: str, parts: Sequence[FormPart]) -> list[str]:
    """The texts of all fields of this name.

    Raises:
        Refused: one is a file.
        BadInput: one is not UTF-8.
    """
    found = [part for part in parts if part.name == name]
    if any(part.is_file for part in found):
        raise _is_file(name)
    return [part.text for part in found]


async def read_body(request: Request, limit: int, held: HeldBytes, has_images: bool = True) -> bytes:
    """Read the whole body; refuse it as soon as it is known to be larger than `limit` bytes, or than the memory.

    Raises:
        Refused: it is too large, or compressed.
        Overloaded: there is no memory for it.
        BadInput: the client closed the connection.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(415, BadInput.__name__, "compressed bodies are not read", "send it without Content-Encoding")
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise too_large(limit, has_images)
    body = bytearray()
    try:
        async for chunk in request.stream():
            held.add(len(chunk))
            body += chunk
            if len(body) > limit:
                raise too_large(limit, has_images)
    except ClientDisconnect as error:
        raise BadInput("the client closed the connection before the whole body was received") from error
    return bytes(body)


def too_large(limit: int, has_images: bool = True) -> Refused:
    """The refusal of a body or an image of more bytes."""
    size = f"{limit / (1 << 20):.3g} MiB" if limit >= 1 << 20 else f"{limit} bytes"
    kind, hint = (BadImage, "send smaller or fewer images") if has_images else (BadInput, "send a smaller document")
    return Refused(413, kind.__name__, f"the body has more than {size}", hint)


def only_text(name: str, query: _Fields, form: _Fields) -> str | None:
    """A field of a request as text, None if it is not given or empty. That of the form counts before the query's.

    Raises:
        Refused: it is given twice, or is a file.
        BadInput: it is not UTF-8.
    """
    in_query, in_form = _only(name, query), _only(name, form)
    if isinstance(in_form, FormPart):
        if in_form.is_file:
            raise _is_file(name)
        in_form = in_form.text
    return (in_query if in_form is None else in_form) or None


def _checked_input(image: bytes, query: _Fields, form: _Fields) -> Input:
    if len(image) > MAX_IMAGE:
        raise too_large(MAX_IMAGE)
    if not image:
        raise BadImage("the image is empty", hint=_HINT)
    target, key = (only_text(name, query, form) for name in ("target", "key"))
    return Input(image, checked_target(target), checked_key(key))


def _only(name: str, fields: _Fields) -> Any:
    """The one value of a field, None if it is not given."""
    values = [value for each, value in fields if each == name]
    if len(values) > 1:
        raise Refused(422, BadInput.__name__, f"the field `{name}` is given {len(values)} times", "send it once")
    return values[0] if values else None


def _is_file(name: str) -> Refused:
    return Refused(422, BadInput.__name__, f"the field `{name}` is a file", "send it as text")


def _too_long(name: str, text: str, limit: int) -> BadInput:
    return BadInput(f"the {name} has {len(text)} characters, more than {limit}", hint=f"send a shorter {name}")
