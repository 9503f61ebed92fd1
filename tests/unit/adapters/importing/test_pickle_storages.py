"""A tensor has only numbers that are in its file, in both formats of `torch.save`."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.importing.untrusted_files import read_pickle
from registry.errors import BadWeights

HEAD = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
"""Of the format before torch 1.6."""


class Storage:
    """What a pickle says of a storage."""

    def __init__(self, key: str, count: int, kind: object = torch.FloatStorage, *view: object) -> None:
        self.pid = ("storage", kind, key, "cpu", count, *view)


class View:
    """What a pickle says of a tensor."""

    def __init__(self, storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.said = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.said


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return obj.pid if isinstance(obj, Storage) else None


def pickled(content: object) -> bytes:
    out = io.BytesIO()
    Pickler(out, protocol=2).dump(content)
    return out.getvalue()


def old_file(path: Path, content: object, numbers: Mapping[str, bytes], said: int | None = None) -> Path:
    """A file of the old format; `said` is a wrong number of the elements of every storage."""
    parts = [pickled(each) for each in (*HEAD, content, list(numbers))]
    for body in numbers.values():
        parts += [struct.pack("<q", len(body) // 4 if said is None else said), body]
    path.write_bytes(b"".join(parts))
    return path


def archive(path: Path, content: object, numbers: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled(content))
        file.writestr("archive/version", "3\n")
        for key, body in numbers.items():
            file.writestr(f"archive/data/{key}", body)
    return path


FOUR = {"0": struct.pack("<4f", 1, 2, 3, 4)}
SOUND = View(Storage("0", 4, torch.FloatStorage, None), 1, (3,), (1,))


def test_a_sound_file_of_the_old_format_is_read(tmp_path: Path) -> None:
    assert read_pickle(old_file(tmp_path / "old.bin", SOUND, FOUR)).tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (lambda at: View(at(4), 0, (5,), (1,)), "more numbers than the file has"),
        (lambda at: View(at(4), 2, (3,), (1,)), "more numbers than the file has"),
        (lambda at: View(at(4), 0, (2, 2), (1, 4)), "more numbers than the file has"),
        (lambda at: View(at(4), 0, (10**9,), (0,)), "more numbers than the file has"),
        (lambda at: View(at(4), 0, (3, 2), (1, 1)), "more numbers than the file has"),
        (lambda at: View(at(4), -1, (3,), (1,)), "no storage, or a size that is none"),
        (lambda at: View(at(4), 3, (3,), (-1,)), "no storage, or a size that is none"),
        (lambda at: View("0", 0, (3,), (1,)), "no storage, or a size that is none"),
        (lambda at: View(at(4), 0, (3,), ()), "or a stride for others"),
        (lambda at: View(at(-4), 0, (3,), (1,)), "something else than a storage"),
        (lambda at: [View(at(4), 0, (3,), (1,)), View(at(3), 0, (3,), (1,))], "two things at once"),
    ],
)
@pytest.mark.parametrize("form", [old_file, archive])
def test_no_tensor_has_more_than_its_storage(
    form: Callable[..., Path], view: Callable[[Callable[[int], Storage]], object], why: str, tmp_path: Path
) -> None:
    more = (None,) if form is old_file else ()
    content = view(lambda count: Storage("0", count, torch.FloatStorage, *more))
    with pytest.raises(BadWeights, match=why):
        read_pickle(form(tmp_path / "odd.bin", content, FOUR))


@pytest.mark.parametrize(
    ("numbers", "said", "why"),
    [
        ({}, None, "not those of which it has the numbers"),
        ({"1": FOUR["0"]}, None, "not those of which it has the numbers"),
        ({"0": FOUR["0"], "1": FOUR["0"]}, None, "not those of which it has the numbers"),
        ({"0": FOUR["0"][:12]}, None, "ends before the last of its numbers"),
        (FOUR, 5, "wrong byte size"),
    ],
)
def test_no_memory_of_this_process_becomes_numbers(
    numbers: Mapping[str, bytes], said: int | None, why: str, tmp_path: Path
) -> None:
    with pytest.raises(BadWeights, match=why):
        read_pickle(old_file(tmp_path / "old.bin", SOUND, numbers, said))


def test_a_part_of_a_storage_of_a_storage_is_not_read(tmp_path: Path) -> None:
    part = Storage("0", 4, torch.FloatStorage, ("1", 0, 4))
    with pytest.raises(BadWeights, match="not a plain tensor"):
        read_pickle(old_file(tmp_path / "old.bin", View(part, 0, (4,), (1,)), FOUR))


def test_a_file_that_is_shorter_than_it_says_is_refused(tmp_path: Path) -> None:
    huge = View(Storage("0", 10**8, torch.FloatStorage, None), 0, (10**8,), (1,))
    with pytest.raises(BadWeights, match="ends before the last of its numbers"):
        read_pickle(old_file(tmp_path / "old.bin", huge, FOUR))
