"""A pickle that asks for more memory or time than its tensors need is refused, in both formats of `torch.save`."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.importing import untrusted_files
from adapters.importing.untrusted_files import read_pickle
from registry.errors import BadWeights

PROTO = b"\x80\x02"
COPY = b"h\x01h\x02\x85R"
"""Calls what is in place 1 with what is in place 2."""


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def kept(place: int) -> bytes:
    return b"q" + bytes([place])


def text(letters: int) -> bytes:
    return b"X" + struct.pack("<I", letters) + b"a" * letters


def numbers(*values: int) -> bytes:
    """A dictionary with these keys."""
    keys = (b"\x8a\x0a" + value.to_bytes(10, "little", signed=True) + b"K\x01" for value in values)
    return b"}(" + b"".join(keys) + b"u"


def copies(module: str, name: str, of: bytes, count: int) -> bytes:
    """So many copies of a value, each asked for by a few bytes."""
    return PROTO + b"]" + named(module, name) + kept(1) + of + kept(2) + COPY * count + b"."


EMPTY_SETS = PROTO + b"\x8f" * 5_500_000
MADE = PROTO + named("__builtin__", "bytearray") + b"\x8a\x08" + struct.pack("<q", 1 << 42) + b"\x85R."
COPIES = {
    "bytes": copies("__builtin__", "bytearray", of=b"J" + struct.pack("<i", 1 << 28), count=8),
    "lists": copies("torch", "Size", of=b"](" + b"N" * 500_000 + b"e", count=1000),
    "attributes": PROTO + named("collections", "OrderedDict") + kept(1) + numbers(*range(50_000)) + kept(2)
    + b"h\x01)Rh\x02b" * 500 + b".",
}  # fmt: skip


def write(path: Path, content: bytes, *, as_archive: bool) -> Path:
    """A file of either format whose first pickle is this one."""
    if not as_archive:
        path.write_bytes(content)
        return path
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, content if name.endswith("/data.pkl") else data)
    return path


def refused(path: Path) -> None:
    with pytest.raises(BadWeights, match=rf"{path.name} .*more than 1073741824 bytes of memory"):
        read_pickle(path)


@pytest.mark.parametrize("as_archive", [True, False])
def test_what_takes_too_much_memory_is_refused(as_archive: bool, tmp_path: Path) -> None:
    refused(write(tmp_path / "bomb.bin", MADE, as_archive=as_archive))


@pytest.mark.acceptance
@pytest.mark.parametrize("what", COPIES)
def test_many_copies_of_one_value_are_refused(what: str, tmp_path: Path) -> None:
    refused(write(tmp_path / "copies.bin", COPIES[what], as_archive=True))


@pytest.mark.acceptance
def test_many_empty_values_are_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "empty.bin", EMPTY_SETS, as_archive=False))


@pytest.mark.parametrize("as_archive", [True, False])
def test_what_takes_too_long_is_refused(as_archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys have the same hash, so each is compared with all before it."""
    monkeypatch.setattr(untrusted_files, "UNPICKLE_SECONDS", 0.5)
    same_hash = numbers(*(number * (2**61 - 1) for number in range(40_000)))
    path = write(tmp_path / "slow.bin", PROTO + same_hash + b".", as_archive=as_archive)
    with pytest.raises(BadWeights, match=r"slow.bin can't be read within 0.5 s"):
        read_pickle(path)


@pytest.mark.parametrize("as_archive", [True, False])
def test_a_pickle_that_is_too_long_is_refused(
    as_archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted_files, "MAX_PICKLE", 1000)
    path = write(tmp_path / "long.bin", PROTO + text(2000) + b".", as_archive=as_archive)
    with pytest.raises(BadWeights, match=r"long.bin.*(more than 1000 bytes|ends too early|exhausted)"):
        read_pickle(path)


def test_an_instruction_of_another_protocol_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "other.bin", pickle.dumps({"a": "b"}, protocol=4), as_archive=True)
    with pytest.raises(BadWeights, match=r"other.bin.*never writes"):
        read_pickle(path)


def test_no_set_is_made_of_the_numbers_of_a_tensor(tmp_path: Path) -> None:
    """A set of a tensor has an object for each of its numbers, in torch."""
    words = [b"X" + struct.pack("<I", len(word)) + word for word in (b"storage", b"0", b"cpu")]
    storage = b"(" + words[0] + named("torch", "FloatStorage") + words[1] + words[2] + b"K\x04tQ"
    content = PROTO + named("__builtin__", "set") + storage + b"\x85R."
    with pytest.raises(BadWeights, match=r"set.bin.*not iterable"):
        read_pickle(write(tmp_path / "set.bin", content, as_archive=True))


def test_an_archive_that_python_sees_otherwise_is_refused(tmp_path: Path) -> None:
    """What torch takes for an archive is read as one."""
    path = tmp_path / "odd.bin"
    path.write_bytes(b"PK\x03\x04" + PROTO + b"}.")
    with pytest.raises(BadWeights, match=r"odd.bin is not a valid file"):
        read_pickle(path)


@pytest.mark.parametrize("module", ["torch.hub", "os"])
def test_nobody_is_told_to_read_it_without_care(module: str, tmp_path: Path) -> None:
    path = write(tmp_path / "code.bin", PROTO + named(module, "load") + b".", as_archive=True)
    with pytest.raises(BadWeights, match=r"code.bin") as refusal:
        read_pickle(path)
    said = f"{refusal.value} {refusal.value.hint}"
    for advice in ("weights_only", "can still be loaded", "trust", "safe_globals"):
        assert advice not in said


@pytest.mark.parametrize("as_archive", [True, False])
def test_all_that_is_plain_is_read_as_before(as_archive: bool, tmp_path: Path) -> None:
    shared = ["twice"]
    content: dict[str, Any] = {
        "state": OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.ones(2, dtype=torch.float16)),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "counts": Counter("abca"),
        "tags": {"b", "a"},
        "bytes": b"\x00\xff",
        "more bytes": bytearray(b"\x01"),
        "dtype": torch.float32,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "complex": 1 + 2j,
        "numbers": [1, 2**40, 0.5, None, True, (), (1, 2, 3, 4)],
        "shared": [shared, shared],
        "module": torch.nn.Linear(2, 3).state_dict(),
    }
    path = tmp_path / "plain.pt"
    torch.save(content, path, _use_new_zipfile_serialization=as_archive)
    found = read_pickle(path)
    assert torch.equal(found["state"]["weight"], content["state"]["weight"])
    assert torch.equal(found["module"]["bias"], content["module"]["bias"])
    assert torch.equal(found["parameter"], torch.ones(2))
    assert found["counts"] == {"a": 2, "b": 1, "c": 1}
    assert found["tags"] == ["a", "b"]
    assert found["numbers"] == [1, 2**40, 0.5, None, True, [], [1, 2, 3, 4]]
    assert found["shared"] == [["twice"], ["twice"]]


def test_the_opcodes_are_those_that_torch_reads() -> None:
    """A pickle of Python has others too."""
    from adapters.importing.pickle_rehearsal import _OPCODES

    source = Path(torch._weights_only_unpickler.__file__).read_text()
    read = {name for name in vars(pickle) if name.isupper() and re.search(rf"\b{name}\[0\]", source)}
    assert {getattr(pickle, name) for name in read} == {bytes([code]) for code in _OPCODES}


@pytest.mark.acceptance
@pytest.mark.parametrize(
    "content",
    [{"a": bytearray(300_000_000)}, [bytearray(60_000)] * 2_000],
    ids=["one large", "one in many places"],
)
def test_bytes_do_not_grow_when_they_become_text(tmp_path: Path, content: object) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save(content, path)
    with pytest.raises(BadWeights):
        read_pickle(path)
