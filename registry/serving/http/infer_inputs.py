"""A request of the Open Inference Protocol: its document, and the images in it or behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from registry.errors import BadInput
from registry.serving.byte_budget import HeldBytes
from registry.serving.http.request_body import MAX_IMAGE, checked_key, checked_target, parse_json, too_large
from registry.serving.http.tensors import from_base64, split_bytes

LENGTH_HEADER = "Inference-Header-Content-Length"
"""The length of the JSON document, behind which tensors follow (Triton's binary tensor data extension)."""
INPUT = "image"
_Name = Annotated[str, Field(max_length=256)]
_Parameters = dict[str, bool | int | float | str]


def _whole(value: object) -> object:
    """JSON does not tell 1.0 from 1, and some clients write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _ProtocolPart(BaseModel):
    """A part of a request; what other servers understand beside it is ignored, as the protocol wants."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class InferInput(_ProtocolPart):
    """An input tensor."""

    name: Literal["image"]
    datatype: Literal["BYTES"]
    shape: list[Annotated[int, Field(ge=1, le=2**31), BeforeValidator(_whole)]] = Field(min_length=1, max_length=2)
    parameters: _Parameters = {}
    data: list[str] | list[list[str]] | None = None


class InferOutput(_ProtocolPart):
    """An output that a client asks for."""

    name: _Name
    parameters: _Parameters = {}


class InferDocument(_ProtocolPart):
    """A request for predictions."""

    id: str = Field("", max_length=256)
    parameters: _Parameters = {}
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[InferOutput] = Field([], max_length=64)


@dataclass(frozen=True)
class InferInputs:
    """A request that was read.

    Attributes:
        outputs: the outputs that it asks for, and whether in binary; empty for all.
        all_binary: whether outputs are binary if it does not say so of each.
    """

    id: str
    images: list[bytes]
    target: str | None
    key: str | None
    outputs: dict[str, bool]
    all_binary: bool


def read_inputs(body: bytes, header: str | None, most: int, held: HeldBytes) -> InferInputs:
    """Read a request with at most `most` images; `header` is the value of `LENGTH_HEADER`.

    Raises:
        BadInput: it is not one.
        Refused: an image is too large.
        Overloaded: there is no memory for it.
    """
    length = _document_length(header, len(body))
    document = parse_json(InferDocument, body[:length], held)
    parameters = document.parameters | document.inputs[0].parameters
    all_binary = document.parameters.get("binary_data_output") is True
    return InferInputs(
        id=document.id,
        images=_images(document.inputs[0], memoryview(body)[length:], parameters, most, held),
        target=checked_target(_text(parameters, "target")),
        key=checked_key(_text(parameters, "key")),
        outputs={each.name: each.parameters.get("binary_data", all_binary) is True for each in document.outputs},
        all_binary=all_binary,
    )


def _document_length(header: str | None, size: int) -> int:
    if header is None:
        return size
    if not (header.isascii() and header.isdigit() and len(header) <= 12 and int(header) <= size):
        raise BadInput(f"{LENGTH_HEADER} is {header[:20]!r}, of a body of {size} bytes")
    return int(header)


def _images(tensor: InferInput, behind: memoryview, parameters: _Parameters, most: int, held: HeldBytes) -> list[bytes]:
    count = _count(tensor, most)
    kind = parameters.get("content_type")
    if kind not in (None, "base64"):
        raise BadInput(f"the content_type {str(kind)[:40]!r} is not supported", hint="base64 is, or none")
    is_binary = _is_binary(tensor, len(behind))
    elements: list[Any] = split_bytes(behind, count) if is_binary else _flat(tensor)
    if len(elements) != count:
        raise BadInput(f"the shape says {count} images, and there are {len(elements)}")
    held.add(sum(map(len, elements)))
    images = [bytes(each) if is_binary and kind is None else from_base64(each) for each in elements]
    if any(len(image) > MAX_IMAGE for image in images):
        raise too_large(MAX_IMAGE)
    return images


def _count(tensor: InferInput, most: int) -> int:
    shape = tensor.shape
    if shape[1:] not in ([], [1]):
        raise BadInput(f"the input has the shape {shape}", hint="images have the shape [n] or [n, 1]")
    if shape[0] > most:
        raise BadInput(f"{shape[0]} images are more than {most}", hint="send fewer in one request")
    return shape[0]


def _is_binary(tensor: InferInput, size: int) -> bool:
    said = tensor.parameters.get("binary_data_size")
    if said is None and not size:
        return False
    if said != size or isinstance(said, bool):
        raise BadInput(
            f"binary_data_size is {str(said)[:20]}, and {size} bytes follow the document",
            hint=f"{LENGTH_HEADER} is the length of the JSON document in bytes",
        )
    if tensor.data is not None:
        raise BadInput("the input has both data and binary data", hint="send one of them")
    return True


def _flat(tensor: InferInput) -> list[str]:
    return [each for row in tensor.data or [] for each in ([row] if isinstance(row, str) else row)]


def _text(parameters: _Parameters, name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"the parameter {name} is not a text")
    return value
