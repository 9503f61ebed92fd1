"""Folders that are read while others write there: nothing below is reached through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.errors import BadBundle
from registry.machine.source_folder import SourceFolder, unchanged
from tests.support.working_trees import swap_for_link, write_tree


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_tree(tmp_path / "elsewhere", {"x.txt": "foreign", "sub/x.txt": "foreign"})
    return write_tree(tmp_path / "source", {"a.txt": "a", "z/x.txt": "inside", "z/sub/x.txt": "inside"})


@pytest.mark.parametrize("path", ["z/x.txt", "z/sub/x.txt"])
def test_a_folder_that_became_a_link_is_not_followed(place: Path, tmp_path: Path, path: str) -> None:
    folder = SourceFolder(place)
    file = folder.file(path)
    with file.open("rb") as opened:
        assert opened.read() == b"inside"
    swap_for_link(place / "z", tmp_path / "elsewhere")
    with pytest.raises(BadBundle, match=f"{place}/z is a symbolic link"):
        file.open("rb")
    with pytest.raises(BadBundle, match="z is a symbolic link"):
        folder.entries("z/")
    assert not folder.is_file(path)
    assert not folder.is_folder("z/sub")


def test_a_file_that_became_a_link_or_a_pipe_is_refused(place: Path, tmp_path: Path) -> None:
    file = SourceFolder(place).file("a.txt")
    (place / "a.txt").unlink()
    (place / "a.txt").symlink_to(tmp_path / "elsewhere/x.txt")
    with pytest.raises(BadBundle, match=r"a\.txt is a symbolic link"):
        file.open("rb")
    (place / "a.txt").unlink()
    os.mkfifo(place / "a.txt")
    with pytest.raises(BadBundle, match=r"a\.txt is not a file"):
        file.open("rb")


def test_the_chosen_folder_may_be_reached_through_a_link(place: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place)
    folder = SourceFolder(tmp_path / "link")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert [name for name, _ in folder.entries("z/")] == ["sub", "x.txt"]
    with folder.file("z/x.txt").open("rb") as opened:
        assert opened.read() == b"inside", "it stays the folder that was opened"
    assert (folder.file("z/x.txt").name, str(folder.file("z/x.txt"))) == ("x.txt", f"{tmp_path}/link/z/x.txt")


def test_a_folder_is_closed_when_no_file_of_it_is_used(place: Path) -> None:
    def times_opened() -> int:
        return sum(os.path.realpath(fd) == str(place.resolve()) for fd in Path("/proc/self/fd").iterdir())

    file = SourceFolder(place).file("a.txt")
    with file.open("rb"):
        assert times_opened() == 1
    del file
    assert times_opened() == 0


def test_what_was_put_back_was_a_change_all_the_same(place: Path, tmp_path: Path) -> None:
    with unchanged(place, (), 10):
        (place / "z/x.txt").read_bytes()
    with pytest.raises(BadBundle, match=f"{place} changed while it was read"), unchanged(place, (), 10):
        assert _read_another(place / "z/x.txt", tmp_path / "elsewhere") == "foreign"
    with pytest.raises(BadBundle, match="z/sub changed"), unchanged(place, (), 10):
        (place / "z/sub/new").touch()
    with unchanged(place, ("sub",), 10):
        (place / "z/sub/newer").touch()
    with pytest.raises(BadBundle, match="more than 3 files and folders"), unchanged(place, (), 3):
        pass


def _read_another(file: Path, folder: Path) -> str:
    """What a reader gets of a file while a link is in the place of its folder, for a moment only."""
    aside = swap_for_link(file.parent, folder)
    text = file.read_text()
    file.parent.unlink()
    aside.rename(file.parent)
    return text
