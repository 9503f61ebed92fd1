"""Weights: digests from safetensors headers alone, and invalid files of every kind."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import save

from registry.errors import BadWeights
from registry.formats.canonical import sha256
from registry.versions.weights import read_header, weights_sha256

QUICK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(4, np.int8), "empty": np.zeros((0, 5), "f2")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def digest(file: Path, data: bytes, inner: str = "adapter.safetensors") -> str | None:
    file.write_bytes(data)
    return weights_sha256({inner: file})


def theirs(path: Path) -> dict[str, tuple[str, list[int]]] | None:
    """What safetensors' own reader sees, None when it refuses."""
    try:
        with safetensors.safe_open(path, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  it is no dict
            return {name: (one.get_dtype(), one.get_shape()) for name, one in slices.items()}
    except SafetensorError:
        return None


def ours(path: Path) -> dict[str, tuple[str, list[int]]] | None:
    try:
        return {span.name: (span.dtype, list(span.shape)) for span in read_header(path)}
    except BadWeights:
        return None


def test_the_digest_is_the_one_that_the_design_describes(file: Path) -> None:
    expected = b"".join(
        f"adapter/{name}\0{dtype}\0{shape}\0".encode() + TENSORS[name].tobytes()
        for name, dtype, shape in [("a", "I8", "4"), ("b", "F32", "2,3"), ("empty", "F16", "0,5")]
    )
    assert digest(file, save(TENSORS)) == sha256(expected)


def test_order_metadata_padding_and_pefts_prefix_do_not_count(file: Path) -> None:
    one, two = b"\x01\x02", b"\x03"
    forms = [
        raw({"a": entry(0, 2), "b": entry(2, 3)}, one + two),
        raw({"b": entry(2, 3), "a": entry(0, 2)}, one + two),
        raw({"b": entry(0, 1), "a": entry(1, 3)}, two + one),
        raw({"__metadata__": {"format": "pt"}, "a": entry(0, 2), "b": entry(2, 3)}, one + two),
        raw({"base_model.model.a": entry(0, 2), "base_model.model.b": entry(2, 3)}, one + two),
        raw(json.dumps({"a": entry(0, 2), "b": entry(2, 3)}).encode() + b" " * 50, one + two),
    ]
    assert len({digest(file, form) for form in forms}) == 1


@pytest.mark.parametrize(
    "other",
    [
        raw({"a": entry(0, 2)}, b"\x01\x03"),
        raw({"c": entry(0, 2)}, b"\x01\x02"),
        raw({"a": entry(0, 2, "I8")}, b"\x01\x02"),
        raw({"a": entry(0, 2, shape=[2, 1])}, b"\x01\x02"),
        raw({"a": entry(0, 1), "b": entry(1, 2)}, b"\x01\x02"),
    ],
)
def test_names_types_shapes_and_bytes_do_count(file: Path, other: bytes) -> None:
    assert digest(file, raw({"a": entry(0, 2)}, b"\x01\x02")) != digest(file, other)


def test_the_files_path_counts_and_files_of_other_kinds_do_not(file: Path) -> None:
    data = save(TENSORS)
    assert digest(file, data, "a.safetensors") != digest(file, data, "b.safetensors")
    assert digest(file, data, "notes.txt") is None


def test_a_tensor_with_and_without_the_prefix_is_refused(file: Path) -> None:
    # Otherwise the digest would hang on the order in the file.
    with pytest.raises(BadWeights, match="twice"):
        digest(file, raw({"a": entry(0, 1), "base_model.model.a": entry(1, 2)}, b"\x01\x02"))


@QUICK
@given(st.integers(0))
def test_a_file_cut_anywhere_is_refused(file: Path, cut: int) -> None:
    data = save(TENSORS)
    file.write_bytes(data[: cut % len(data)])
    with pytest.raises(BadWeights, match=r"x\.safetensors"):
        read_header(file)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 7,
        raw({}, length=2**63),
        raw({}, length=100_000_001),
        raw({}, length=3),
        raw(b"[]"),
        raw(b"1"),
        raw(b'"abc"'),
        raw(b"\xff\xfe"),
        raw(b"[" * 100_000),
        raw({"a": 1}),
        raw({"a": {}}),
        raw({"a": entry(0, 1, "X9")}, b"\x00"),
        raw({"a": {**entry(0, 1), "dtype": ["U8"]}}, b"\x00"),
        raw({"a": entry(0, 1, shape=[-1])}, b"\x00"),
        raw({"a": entry(0, 1, shape=[True])}, b"\x00"),
        raw({"a": entry(0, 1, shape=[1.0])}, b"\x00"),
        raw({"a": {**entry(0, 1), "data_offsets": [0]}}, b"\x00"),
        raw({"a": {**entry(0, 1), "data_offsets": [0, 1, 2]}}, b"\x00"),
        raw({"a": {**entry(0, 1), "data_offsets": [1, 0]}}, b"\x00"),
        raw({"a": {**entry(0, 1), "data_offsets": [-1, 0]}}, b"\x00"),
        raw({"a": entry(0, 8, shape=[2**32, 2**32])}, b"\x00" * 8),
        raw({"a": entry(1, 2)}, b"\x00\x00"),
        raw({"a": entry(0, 2), "b": entry(1, 3)}, b"\x00" * 3),
        raw({"a": entry(0, 1)}, b"\x00\x00"),
        raw({"a": entry(0, 2)}, b"\x00"),
        raw({}, b"\x00"),
        raw(b'{"\\ud800": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\x00"),
        raw({"a": entry(0, 0, shape=[2**40, 2**40, 0])}),
        raw({"__metadata__": []}),
        raw({"__metadata__": "text"}),
        raw({"__metadata__": {"a": 1}}),
        raw({"__metadata__": {"a": None}}),
        raw(b'{"__metadata__": {"a": "\\ud800"}}'),
    ],
    ids=lambda data: repr(data[8:48]),
)
def test_a_wrong_header_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(BadWeights, match=r"x\.safetensors"):
        read_header(file)
    assert theirs(file) is None


@QUICK
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
        st.tuples(st.sampled_from(["f4", "f2", "i8", "u1", "?"]), st.lists(st.integers(0, 3), max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_files_that_safetensors_writes_are_read_the_same(file: Path, shapes: dict[str, Any]) -> None:
    file.write_bytes(save({name: np.ones(shape, dtype) for name, (dtype, shape) in shapes.items()}))
    assert ours(file) == theirs(file) is not None


@QUICK
@given(
    names=st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
    numbers=st.lists(st.integers(-1, 5), min_size=6, max_size=6),
    dtypes=st.lists(st.sampled_from(["U8", "F16", "F32", "BF16", "?"]), min_size=2, max_size=2),
    size=st.integers(0, 6),
)
def test_headers_are_accepted_as_safetensors_accepts_them(
    file: Path, names: list[str], numbers: list[int], dtypes: list[str], size: int
) -> None:
    header = {
        name: {"dtype": dtypes[i], "shape": [numbers[3 * i]], "data_offsets": numbers[3 * i + 1 : 3 * i + 3]}
        for i, name in enumerate(names)
    }
    file.write_bytes(raw(header, bytes(size)))
    assert ours(file) == theirs(file)


@QUICK
@given(st.binary(max_size=120), st.integers(0, 130))
def test_any_bytes_are_weights_or_refused(file: Path, data: bytes, length: int) -> None:
    file.write_bytes(struct.pack("<Q", length) + data)
    if ours(file) is not None:
        assert theirs(file) == ours(file)
