"""Digests of safetensors files, read from their headers without torch.

Format: https://github.com/huggingface/safetensors#format: 8 bytes little-endian header size, a JSON header, the data.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from operator import mul
from pathlib import PurePosixPath

from registry.errors import BadManifest, BadWeights
from registry.formats import canonical
from registry.formats.local_file import LocalFile

MAX_HEADER = 16 * 1024 * 1024
"""Bytes of the largest header that is read; ten thousand tensors need about a tenth of it."""
PICKLES = frozenset({
    ".bin", ".ckpt", ".cloudpickle", ".dill", ".jbl", ".joblib", ".npy", ".npz", ".p", ".pck", ".pcl", ".pickle",
    ".pkl", ".pklz", ".pt", ".pt2", ".pth", ".ptl", ".sav",
})  # fmt: skip
"""Suffixes of files that may contain code. A version has none of them outside of its project."""
_PACKED = frozenset({".bz2", ".gz", ".lzma", ".tar", ".tgz", ".xz", ".z", ".zip", ".zst"})
"""Suffixes that stand after another one: joblib packs what it writes, and `.pth.tar` is an old habit."""
_MAX_DIMENSIONS = 64
_TOO_LARGE = 2**63
_ENTRY = {"dtype", "shape", "data_offsets"}
_MINUS_ZERO = re.compile(rb"[\[,:]\s*-0\s*[,\]}]")

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_PEFT_PREFIX = "base_model.model."
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class TensorSpan:
    """The position of a tensor's bytes in a file: `start` and `end` are absolute offsets."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def may_be_pickle(path: str) -> bool:
    """Whether a file is, by its name, one that may contain code."""
    suffixes = PurePosixPath(path.lower()).suffixes
    while suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in PICKLES


def weights_sha256(files: Mapping[str, LocalFile]) -> str | None:
    """The digest of all tensors of a component.

    It covers the sorted tuples (canonical name, dtype, shape, little-endian bytes). The canonical name is the file's
    path in the component without its suffix, then the tensor's name without PEFT's `base_model.model.`. Metadata,
    order and padding in the files have no influence.

    Args:
        files: files on disk by their paths in the component; only `.safetensors` files are read.

    Raises:
        BadWeights: a file is truncated or malformed.
    """
    tensors = tensors_of(files)
    return tensors_sha256(tensors) if tensors else None


def tensors_of(files: Mapping[str, LocalFile]) -> list[Tensor]:
    """The tensors of a component's files; their bytes are read when they are hashed.

    Args:
        files: files on disk by their paths in the component; only `.safetensors` files are read.

    Raises:
        BadWeights: a file is truncated or malformed.
    """
    return [
        Tensor(canonical_name(inner, span.name), span.dtype, span.shape, partial(_read_span, file, span))
        for inner, file in files.items()
        if inner.endswith(".safetensors")
        for span in read_header(file, inner)
    ]


@dataclass(frozen=True)
class Tensor:
    """A tensor to hash: canonical name, dtype as safetensors writes it (`F32`), shape and little-endian bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[bytes | memoryview]]


def canonical_name(file: str, name: str) -> str:
    """The name of a tensor in the digest, from its file in the component (`head.safetensors`) and its own name."""
    return f"{file.removesuffix('.safetensors')}/{name.removeprefix(_PEFT_PREFIX)}"


def tensors_sha256(tensors: Iterable[Tensor]) -> str:
    """The digest of tensors, from files or from memory.

    Raises:
        BadWeights: two tensors have the same canonical name.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    for tensor, following in pairwise(ordered):
        if tensor.name == following.name:
            raise BadWeights(f"the tensor {tensor.name!r} exists twice, with and without PEFT's prefix")
    digest = hashlib.sha256()
    for tensor in ordered:
        digest.update(f"{tensor.name}\0{tensor.dtype}\0{','.join(map(str, tensor.shape))}\0".encode())
        for chunk in tensor.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def read_header(file: LocalFile, what: str = "") -> list[TensorSpan]:
    """The tensors of a safetensors file, checked against the file's size; `what` names it in errors.

    Raises:
        BadWeights: the file is truncated, its header malformed, or a tensor's bytes do not fit its shape.
    """
    what = what or file.name
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        lead = opened.read(8)
        if len(lead) < 8:
            raise BadWeights(f"{what} is truncated: {size} bytes are too short for a safetensors header")
        (length,) = struct.unpack("<Q", lead)
        if length > MAX_HEADER or length + 8 > size:
            raise BadWeights(
                f"{what} is not a safetensors file, or truncated: its header would have {length} of {size} bytes"
            )
        text = opened.read(length)
    try:
        if _MINUS_ZERO.search(text):
            raise ValueError("a number is -0, which the library of the format takes for no integer")
        header = canonical.decode(text, "it", MAX_HEADER)
        _check_metadata(header.pop("__metadata__", None))
        spans = [_span(name, entry, 8 + length) for name, entry in header.items()]
    except (BadManifest, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadWeights(f"{what} has a malformed safetensors header: {error}") from error
    _check_cover(what, sorted(spans, key=lambda span: (span.start, span.end)), 8 + length, size)
    return spans


def _check_metadata(metadata: object) -> None:
    """As strictly as the library of the format does, which reads the file when a version is loaded."""
    entries = {} if metadata is None else metadata
    if not isinstance(entries, dict) or not all(isinstance(text, str) for text in entries.values()):
        raise TypeError("__metadata__ is not an object of texts")
    "".join([*entries, *entries.values()]).encode()  # refuses a lone surrogate


def _span(name: str, entry: dict[str, object], base: int) -> TensorSpan:
    if set(entry) != _ENTRY:
        raise ValueError(f"tensor {name!r} has other fields than {', '.join(sorted(_ENTRY))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list)):
        raise TypeError(f"tensor {name!r} has fields of the wrong type")
    if len(offsets) != 2 or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has {len(shape)} dimensions and {len(offsets)} offsets")
    if not all(type(number) is int and 0 <= number < _TOO_LARGE for number in [*shape, *offsets]):
        raise ValueError(f"tensor {name!r} has an invalid number: negative, too large, or not an integer")
    if any(product >= _TOO_LARGE for product in accumulate(shape, mul)):  # such as 2**40, 2**40, 0
        raise ValueError(f"tensor {name!r} has a shape that is too large")
    name.encode()  # refuses a lone surrogate, which can't be encoded
    start, end = offsets
    if end - start != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"tensor {name!r} has {end - start} bytes, which is not the size of {dtype} {shape}")
    return TensorSpan(name, dtype, tuple(shape), base + start, base + end)


def _check_cover(what: str, spans: list[TensorSpan], start: int, size: int) -> None:
    position = start
    for span in spans:
        if span.start != position:
            raise BadWeights(f"{what} has a gap or an overlap before tensor {span.name!r}")
        position = span.end
    if position != size:
        raise BadWeights(
            f"{what} is truncated or has extra bytes: it has {size} bytes, but its tensors end at {position}"
        )


def _read_span(file: LocalFile, span: TensorSpan) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(span.start)
        left = span.end - span.start
        while left:
            chunk = opened.read(min(_CHUNK, left))
            if not chunk:
                raise BadWeights(f"{file.name} became shorter while it was read")
            left -= len(chunk)
            yield chunk
