"""What an input may say, and what is no file's own fault when it can't be read."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from registry.errors import BadInput, UloraError
from registry.serving.batch.inputs import open_input
from registry.serving.batch.reading import InputFile
from registry.serving.batch.shard import run_shard
from tests.support.batch_jobs import job, no_store, parts_of, rows_in, write_files
from tests.support.unwritable_folder import mode_of

# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("a.csv", b"file\nx.jpg\n", "no column `path`, but file"),
        ("a.csv", b'path\n"x', "is not a CSV file"),
        ("a.csv", b"path\n\xff\n", "is not a CSV file in UTF-8"),
        ("a.csv", b"path,target\n,low\n", "row 1 of .* has no path"),
        ("a.csv", b"path\n" + b"x" * 40_000, "row 1 of .* far too long"),
        ("a.csv", b"path\n", "has no images"),
        ("a.csv", b"path,path\na.jpg,b.jpg\n", "more than one column `path`"),
        ("a.csv", b"path,target\na.jpg,low\na,b.jpg,low\n", "line 3 has more fields than there are columns"),
        ("a.csv", b"path\na.jpg\ns3://\n", "row 2 of .* has no address of an object in S3: 's3://'"),
        ("a.csv", b"path\ns3:///a.jpg\n", "row 1 of .* has no address"),
        ("a.csv", b"path\ns3://photos/\n", "row 1 of .* has no address"),
        ("a.csv", b"path\ns3://photos/" + b"x" * 1025 + b"\n", "row 1 of .* has no address"),
        ("a.csv", b"path\ns3://me:secret@photos/a.jpg\n", "row 1 of .* has no address .* 's3://photos/a.jpg'"),
        ("a.csv", b"path, target\na.jpg,low\n", "has a column ' target', which is not `target`"),
        ("a.csv", b"path,Target\na.jpg,low\n", "has a column 'Target'"),
        ("a.csv", b"path,target \na.jpg,low\n", "has a column 'target '"),
        ("a.csv", b"PATH,path\na.jpg,b.jpg\n", "has a column 'PATH', which is not `path`"),
        ("a.csv", b"path\na.jpg\ns3a://photos/a.jpg\n", "row 2 of .* has no address .* 's3a://photos/a.jpg'"),
        ("a.csv", b"path\nS3://photos/a.jpg\n", "row 1 of .* has no address"),
        ("a.csv", b"path\n s3://photos/a.jpg\n", "row 1 of .* has no address"),
        ("a.csv", b"path\nhttps://me:secret@host/a.jpg\n", "row 1 of .* has no address .* 'https://host/a.jpg'"),
        ("a.csv", b"path\nfile:///a.jpg\n", "row 1 of .* has no address"),
        ("a.csv", b"path\ns3://A..b/a.jpg\n", "row 1 of .* has no address"),
        ("a.csv", b"path\ns3://abc-/a.jpg\n", "row 1 of .* has no address"),
        ("a.csv", b"path,target\nx.jpg,low\na,b.jpg\n", "row 2 of .* has a target that is not .* name: 'b.jpg'"),
        ("a.parquet", b"PAR1", "is not a Parquet file"),
        ("a.txt", b"", "has another kind"),
    ],
)
def test_what_is_no_table_is_refused(name: str, body: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(BadInput, match=says):
        run_shard(job(tmp_path / name, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("_plan*")), "it did not begin"


def test_parquet_whose_text_is_no_utf8_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    letters = pyarrow.array([b"\xff.jpg"], pyarrow.binary())
    paths = pyarrow.Array.from_buffers(pyarrow.string(), 1, letters.buffers())
    parquet.write_table(pyarrow.table({"path": paths}), tmp_path / "paths.parquet")
    with pytest.raises(BadInput, match="has a path or target that is not UTF-8"):
        run_shard(job(tmp_path / "paths.parquet", tmp_path / "out"))


# --- what is away -----------------------------------------------------------------------------------------------------


def table_of(table: Path, paths: Iterable[Path | str]) -> Path:
    table.parent.mkdir(exist_ok=True)
    table.write_text("path\n" + "".join(f"{path}\n" for path in paths))
    return table


def linked(folder: Path, disk: Path) -> Path:
    folder.mkdir()
    for file in disk.rglob("*.jpg"):
        (folder / file.name).symlink_to(file)
    return folder


def disk_file(path: Path) -> Path:
    path.write_bytes(b"leaf")
    return path


SOURCES: dict[str, Callable[[Path, Path], Path]] = {
    "the folder": lambda root, disk: disk,
    "one of two disks below it": lambda root, disk: write_files(root / "two" / "other", 4).parent,
    "links to it": lambda root, disk: linked(root / "links", disk),
    "a table on it": lambda root, disk: table_of(disk / "paths.csv", ["000/00000.jpg"]),
    "a table beside it": lambda root, disk: table_of(disk.parent / "paths.csv", ["disk/000/00001.jpg"]),
    "a table of what is right on it": lambda root, disk: table_of(root / "paths.csv", [disk_file(disk / "a.jpg")]),
    "a table elsewhere": lambda root, disk: table_of(root / "tables" / "paths.csv", disk.rglob("*.jpg")),
}
"""From a folder and the disk `two/disk` in it, with files, the input."""


@pytest.mark.parametrize("marker", ["", ".not-mounted"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_disk_that_was_unmounted_fills_no_rows(name: str, marker: str, tmp_path: Path) -> None:
    """Every path below it "does not exist" then; rows of that would stay for ever."""
    disk, out = write_files(tmp_path / "two" / "disk", 5), tmp_path / "out"
    whole = job(SOURCES[name](tmp_path, disk), out, part_rows=2)

    def unmounted(plan: Any) -> Any:
        """Load the version; meanwhile the disk goes, and leaves the folder that it was mounted on."""
        disk.rename(tmp_path / "away")
        disk.mkdir()
        if marker:
            (disk / marker).touch()
        return whole.load(plan)

    with pytest.raises(UloraError, match=r"can't be read: .* is not there any more, is empty, or may not"):
        run_shard(replace(whole, load=unmounted))
    assert {row["outcome"] for row in rows_in(out)} <= {"answer"}
    shutil.rmtree(disk)
    (tmp_path / "away").rename(disk)
    run_shard(whole)
    assert {row["outcome"] for row in rows_in(out)} == {"answer"}


def test_a_table_that_went_with_its_disk_is_missed(tmp_path: Path) -> None:
    """Where a mount point has a file that is not hidden, the table tells."""
    table = table_of(tmp_path / "disk" / "paths.csv", ["a.jpg"])
    source = open_input(str(table), no_store)
    table.rename(tmp_path / "disk" / "not-mounted.txt")
    with pytest.raises(UloraError, match=r"paths\.csv is not there any more"):
        source.read(InputFile("a.jpg"))


@pytest.mark.parametrize("mode", [0o444, 0o111, 0])
@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_folder_that_may_not_be_entered_ends_the_run(kind: str, mode: int) -> None:
    with TemporaryDirectory() as place:  # the folder of pytest's own is closed to other users
        folder = Path(place)
        (folder / "a.jpg").write_bytes(b"leaf")
        table = table_of(folder / "paths.csv", ["a.jpg"])
        source = open_input(place if kind == "folder" else str(table), no_store)
        with mode_of(folder, mode):
            if mode == 0o111:
                assert source.read(InputFile("a.jpg")).data == b"leaf"
            with pytest.raises(UloraError, match="is not there any more, is empty, or may not be entered"):
                source.read(InputFile("gone.jpg"))
            if mode == 0:
                with pytest.raises(BadInput, match="can't be looked at: Permission denied"):
                    open_input(str(table), no_store)


def test_a_file_is_to_blame_where_its_folder_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"leaf")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "link.jpg").symlink_to("never/there/key")  # as git-annex has those that were not fetched
    source = open_input(str(table_of(tmp_path / "paths.csv", ["a.jpg"])), no_store)
    for path in (
        "gone.jpg",
        "never/there/a.jpg",
        "link.jpg",
        "a.jpg/b.jpg",
        "a.jpg/b/c.jpg",
        "x" * 300 + "/a.jpg",
        "loop.jpg",
        "a\0.jpg",
    ):
        assert source.read(InputFile(path)).problem, path


def test_a_file_that_was_away_for_a_moment_is_read(tmp_path: Path) -> None:
    """It comes back when its folder is looked at, which the interpreter's own audit event tells."""
    table, out = table_of(tmp_path / "images" / "paths.csv", ["a.jpg"]), tmp_path / "out"
    (tmp_path / "a.jpg").write_bytes(b"leaf")
    child = os.fork()
    if child == 0:

        def back(event: str, arguments: tuple[object, ...]) -> None:
            if event == "os.scandir" and str(arguments[0]).startswith(str(table.parent)):
                (tmp_path / "a.jpg").rename(table.parent / "a.jpg")

        sys.addaudithook(back)
        try:
            run_shard(job(table, out))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert [row["outcome"] for row in rows_in(out)] == ["answer"]


def test_a_part_of_which_nothing_can_be_read_is_not_kept(tmp_path: Path) -> None:
    table, out = table_of(tmp_path / "paths.csv", [f"{number}.jpg" for number in range(10)]), tmp_path / "out"
    with pytest.raises(
        UloraError, match=r"none of the 8 files of part 0 could be read: '7\.jpg': No such file"
    ) as told:
        run_shard(job(table, out, part_rows=8))
    assert "leave them out of the input" in told.value.hint
    assert not parts_of(out)
    (tmp_path / "3.jpg").write_bytes(b"leaf")
    run_shard(job(table, out, part_rows=8))
    assert Counter(row["outcome"] for row in rows_in(out)) == {"unreadable": 9, "answer": 1}
