"""Bytes in pieces, up to a bound."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.formats import bounded, canonical
from registry.formats.bounded import file_digest, joined, read_regular


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(0, 100))
def test_bytes_within_the_bound_are_whole_others_are_none(pieces: list[bytes], limit: int) -> None:
    whole = b"".join(pieces)
    assert joined(pieces, limit) == (whole if len(whole) <= limit else None)


def test_no_more_is_asked_for_beyond_the_bound() -> None:
    asked = []

    def endless() -> Iterator[bytes]:
        while True:
            asked.append(1)
            yield b"12345"

    assert joined(endless(), 12) is None
    assert len(asked) == 3


def test_a_file_that_says_more_than_expected_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    arrived: list[int] = []
    path.write_bytes(b"abc")
    os.truncate(path, 1 << 40)
    with path.open("rb") as file:
        assert file_digest(file.fileno(), 3, arrived.append) is None
        assert arrived == []
        os.truncate(path, 3)
        assert file_digest(file.fileno(), 3, arrived.append) == canonical.sha256(b"abc")
        assert arrived == [3]


def test_a_file_that_grows_is_read_to_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_CHUNK", 1)
    path = tmp_path / "file"
    arrived: list[int] = []
    path.write_bytes(b"abc")

    def grow(count: int) -> None:
        arrived.append(count)
        os.truncate(path, 1 << 40)

    with path.open("rb") as file:
        assert file_digest(file.fileno(), 3, grow) is None
    assert arrived == [1, 1, 1]


def test_a_regular_file_is_read_to_one_byte_beyond_its_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 9) == b"12345"
    assert read_regular(tmp_path / "file", 2) == b"123"


@pytest.mark.parametrize("name", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="it is not a regular file"):
        read_regular(tmp_path / name, 9)
