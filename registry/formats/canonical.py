"""Canonical JSON: one byte representation for each document, so that equal documents have equal digests.

UTF-8, sorted keys, no spaces, no NaN or infinity (as RFC 8785, but with Python's shortest float representation).
Decoding is strict and limited: duplicate keys, NaN and too large documents are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, NoReturn

from registry.errors import BadManifest
from registry.formats.local_file import LocalFile

MAX_DIGITS = 300
"""Of an integer: about the range of a float."""
MAX_DOCUMENT = 16 * 1024 * 1024
"""Bytes of the largest JSON document that is read into memory."""
MAX_DEPTH = 100
"""How deep objects and lists of a document may be in each other. Pydantic's parser ends at 200, Python's at about
1,000; both must read the same documents."""


def encode(document: Any) -> bytes:
    """The canonical bytes of a JSON document.

    Raises:
        ValueError: it has NaN or infinity, which have no canonical form.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def decode(data: bytes, what: str, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
    """Parse a JSON object; `what` names it in errors.

    Raises:
        BadManifest: it has more than `limit` bytes, is not UTF-8 JSON, is not an object, has a duplicate key, NaN or a
            number that is too large, or is nested too deeply.
    """
    if len(data) > limit:
        raise BadManifest(f"{what} has {len(data)} bytes, more than the allowed {limit}")
    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant,
            parse_float=_finite, parse_int=_bounded,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"{what} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadManifest(f"{what} is not a JSON object")
    if is_deeper(document, MAX_DEPTH):
        raise BadManifest(f"{what} is nested more than {MAX_DEPTH} levels deep")
    return document


def is_deeper(document: Any, levels: int) -> bool:
    """Whether more than so many objects and lists are in each other, the outermost included."""
    inner = [document]
    for _ in range(levels):
        outer, inner = inner, []
        for each in outer:
            values = each.values() if isinstance(each, dict) else each
            inner += [value for value in values if isinstance(value, dict | list)]
        if not inner:
            return False
    return True


def is_document(data: bytes) -> bool:
    """Whether bytes are a document as the store has them: canonical, with the number of its format."""
    try:
        found = decode(data, "a document")
        return type(found.get("format")) is int and encode(found) == data
    except (BadManifest, ValueError):
        return False


def read_file(file: LocalFile, what: str, limit: int = MAX_DOCUMENT) -> bytes:
    """A document's bytes from disk; never more than `limit` + 1 bytes are read.

    Raises:
        BadManifest: it is larger than `limit` bytes.
        OSError: it can't be read.
    """
    with file.open("rb") as opened:
        data = opened.read(limit + 1)
    if len(data) > limit:
        raise BadManifest(f"{what} is larger than the allowed {limit} bytes")
    return data


def digest(document: Any) -> str:
    """The sha256, in hex, of a document's canonical bytes."""
    return sha256(encode(document))


def sha256(data: bytes) -> str:
    """The sha256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def is_text(text: str) -> bool:
    """Whether a string can be encoded as UTF-8, that is, has no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _bounded(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"the number {text[:40]} is too large")
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
