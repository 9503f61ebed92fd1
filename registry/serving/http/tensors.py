"""Tensors of the Open Inference Protocol in requests and answers, as JSON or as its binary extension."""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from registry.errors import BadInput

Datatype = Literal["BYTES", "FP64", "BOOL"]
_LENGTH = struct.Struct("<I")
_HINT = "before each element stand the 4 bytes of its length, the lowest first"


@dataclass(frozen=True)
class OutputTensor:
    """An output with one value for each image; None where there is none.

    Attributes:
        is_binary: whether it goes behind the JSON document.
    """

    name: str
    datatype: Datatype
    values: Sequence[Any]
    is_binary: bool

    def document(self) -> dict[str, Any]:
        """The output in the JSON document."""
        head: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": [len(self.values)]}
        if self.is_binary:
            return head | {"parameters": {"binary_data_size": len(self.to_bytes())}}
        return head | {"data": [self._for_json(value) for value in self.values]}

    def to_bytes(self) -> bytes:
        """Its values behind the JSON document."""
        if self.datatype == "BYTES":
            texts = [_text(value).encode() for value in self.values]
            return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
        if self.datatype == "BOOL":
            return bytes(bool(value) for value in self.values)
        numbers = [math.nan if value is None else float(value) for value in self.values]
        return struct.pack(f"<{len(numbers)}d", *numbers)

    def _for_json(self, value: Any) -> Any:
        if self.datatype == "BYTES":
            return _text(value)
        if self.datatype == "BOOL":
            return bool(value)
        return value if value is not None and math.isfinite(value) else None


def split_bytes(data: memoryview, count: int) -> list[memoryview]:
    """The elements of a BYTES tensor in binary form, up to one more than `count`.

    Raises:
        BadInput: it ends within one.
    """
    elements: list[memoryview] = []
    place = 0
    while place < len(data) and len(elements) <= count:
        if len(data) - place < _LENGTH.size:
            raise BadInput("the binary tensor ends within a length", hint=_HINT)
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if length > len(data) - place:
            raise BadInput(f"the binary tensor ends within an element of {length} bytes", hint=_HINT)
        elements.append(data[place : place + length])
        place += length
    return elements


def from_base64(element: str | memoryview) -> bytes:
    """The bytes of an element in base64.

    Raises:
        BadInput: it is not base64.
    """
    try:
        return binascii.a2b_base64(element, strict_mode=True)
    except ValueError as error:  # UnicodeEncodeError and binascii.Error are
        raise BadInput(
            f"an image is not base64: {error}"[:200], hint="JSON has images in base64; the binary extension as they are"
        ) from error


def _text(value: Any) -> str:
    return "" if value is None else str(value)
