"""Canonical JSON: one byte representation of a document, and strict, limited parsing."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadManifest
from registry.formats import canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
DOCUMENTS = st.dictionaries(TEXT, JSON, max_size=5)


@given(DOCUMENTS)
def test_a_document_is_read_back_and_key_order_does_not_matter(document: dict) -> None:
    data = canonical.encode(document)
    assert canonical.decode(data, "x") == document
    assert canonical.encode(dict(reversed(document.items()))) == data
    assert canonical.encode(canonical.decode(data, "x")) == data
    assert canonical.digest(document) == canonical.sha256(data)


def test_the_byte_form_is_pinned() -> None:
    assert canonical.encode({"b": [1, 2.5, None, True], "a": "ä/"}) == '{"a":"ä/","b":[1,2.5,null,true]}'.encode()
    assert canonical.digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical.encode({"a": number})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b'{"a":NaN}', "NaN is not allowed"),
        (b'{"a":-Infinity}', "-Infinity is not allowed"),
        (b'{"a":1e999}', "too large"),
        (b'{"a":1,"a":1}', "twice"),
        (b'{"b":{"a":1,"a":2}}', "twice"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_ambiguous_or_infinite_values_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadManifest, match=says):
        canonical.decode(data, "the thing")


def test_a_document_over_its_limit_is_refused_before_parsing() -> None:
    assert canonical.decode(b'{"a":1}', "x", limit=7) == {"a": 1}
    with pytest.raises(BadManifest, match="8 bytes, more than the allowed 7"):
        canonical.decode(b'{"a":12}', "x", limit=7)


@given(st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    with suppress(BadManifest):
        assert isinstance(canonical.decode(data, "x"), dict)
