"""Every file has one row in the end, whatever interrupts the runs."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import os
import resource
import shutil
import signal
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import BadInput, BadManifest, DiskFull, LoadFailed, NotNow, UloraError
from registry.serving.batch.inputs import SUFFIXES
from registry.serving.batch.options import Shard, shard_of
from registry.serving.batch.plan import make_plan
from registry.serving.batch.reading import MAX_BYTES
from registry.serving.batch.rows import rows_for
from registry.serving.batch.shard import plan_shard, run_shard
from registry.serving.http.request_body import MAX_IMAGE
from registry.versions.pointer import Pointer
from tests.support.batch_jobs import POINTER, job, parts_of, rows_in, shards, write_files
from tests.support.echo_releases import Echo, wait_until
from tests.support.kill_at_step import count_of, killed_at, some_steps

FILES = 20


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_files(tmp_path / "images", FILES)


class Halting:
    """An echo that calls `act` before it answers the `at`-th image."""

    version = "v1.0.0"

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self._echo = Echo("v1.0.0", "c" * 64, b"weights")
        self._left, self._act = at, act

    def predict(self, image: bytes, *, target: object = None) -> Any:
        self._left -= 1
        if self._left == 0:
            self._act()
        return self._echo.predict(image, target=target)


# --- once -------------------------------------------------------------------------------------------------------------


def test_each_file_has_a_row_that_names_version_and_digest(images: Path, tmp_path: Path) -> None:
    done = run_shard(job(images, tmp_path / "out"))
    rows = rows_in(tmp_path / "out")
    assert [row["path"] for row in rows] == sorted(str(path.relative_to(images)) for path in images.rglob("*.jpg"))
    assert {(row["version"], row["manifest_sha256"], row["outcome"]) for row in rows} == {
        ("v1.0.0", "a" * 64, "answer")
    }
    assert (done.inputs, done.parts, done.finished, done.rows, done.outcomes) == (FILES, 7, 0, FILES, {"answer": FILES})
    again = run_shard(job(images, tmp_path / "out"))
    assert (again.finished, again.rows) == (7, 0)


def test_a_run_killed_at_any_step_goes_on_where_it_was(images: Path, tmp_path: Path) -> None:
    run_shard(job(images, tmp_path / "whole"))
    whole, out = parts_of(tmp_path / "whole"), tmp_path / "out"
    steps = count_of(lambda: run_shard(job(images, tmp_path / "counted")))
    found = set()
    for step in sorted({*some_steps(steps, 6), *range(5, steps, steps // 9)}):
        assert killed_at(step, lambda: run_shard(job(images, out))) or step > steps - 20
        before = parts_of(out)
        assert before.items() <= whole.items(), "a part is whole, or not there"
        found.add(len(before))
        times = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
        run_shard(job(images, out))
        assert parts_of(out) == whole
        assert times.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}.items()
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        shutil.rmtree(out)
    assert len(found) > 2


def test_one_that_is_killed_again_and_again_ends(images: Path, tmp_path: Path) -> None:
    run_shard(job(images, tmp_path / "whole"))
    out, step = tmp_path / "out", 30
    for _ in range(100):
        if not killed_at(step, lambda: run_shard(job(images, out))):
            break
        step += 3
    assert parts_of(out) == parts_of(tmp_path / "whole")


def test_ctrl_c_leaves_whole_parts_and_no_lock(images: Path, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_shard(job(images, tmp_path / "out", version=Halting(8, interrupt)))
    assert len(parts_of(tmp_path / "out")) == 2
    assert run_shard(job(images, tmp_path / "out")).finished == 2
    assert Counter(row["path"] for row in rows_in(tmp_path / "out")).most_common(1)[0][1] == 1
    assert len(rows_in(tmp_path / "out")) == FILES


def test_a_second_process_of_the_same_shard_is_refused(images: Path, tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(300)

    first = threading.Thread(target=lambda: run_shard(job(images, tmp_path / "out", version=Halting(5, hold))))
    first.start()
    wait_until(entered.is_set)
    try:
        with pytest.raises(NotNow, match="another run writes shard 1/1"):
            run_shard(job(images, tmp_path / "out"))
    finally:
        go_on.set()
        first.join()
    assert len(rows_in(tmp_path / "out")) == FILES


def test_a_run_that_hangs_keeping_its_plan_is_told(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.serving.batch.folder.PLAN_SECONDS", 0.2)
    out = tmp_path / "out"
    out.mkdir()
    with (out / "_lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(NotNow, match="keeping its plan"):
            run_shard(job(images, out))
    assert run_shard(job(images, out)).rows == FILES


def test_a_part_that_another_machine_has_written_stays(images: Path, tmp_path: Path) -> None:
    """As with a network disk whose locks do not reach the other machine."""
    out = tmp_path / "out"
    act = lambda: (out / "part-1-of-1-000001.jsonl").write_bytes(b"{}\n")  # noqa: E731
    run_shard(job(images, out, version=Halting(2, act)))
    assert parts_of(out)["part-1-of-1-000001.jsonl"] == b"{}\n"
    assert len(parts_of(out)) == 7


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        act = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # noqa: E731
        try:
            run_shard(job(images, out, version=Halting(8, act)))
        except DiskFull:
            os._exit(17)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
    assert len(parts_of(out)) == 2
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    run_shard(job(images, out))
    assert len(rows_in(out)) == FILES


# --- shards -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(1, 50))
def test_each_path_is_in_the_shard_that_the_page_says(path: str, count: int) -> None:
    assert shard_of(path, count) == int.from_bytes(hashlib.sha256(path.encode()).digest()[:8]) % count + 1


def test_shards_in_one_folder_are_one_run(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = [run_shard(job(images, out, shard=shard)) for shard in shards(4)]
    run_shard(job(images, tmp_path / "whole"))
    assert sum(each.inputs for each in done) == FILES == len(rows_in(out))
    key = lambda row: row["path"]  # noqa: E731
    assert sorted(rows_in(out), key=key) == sorted(rows_in(tmp_path / "whole"), key=key)
    assert plan_shard(job(images, out, shard=Shard(2, 4))).shards == tuple(each.inputs for each in done)
    with pytest.raises(BadInput, match="the number of shards is 5, but shard 1/4 in this folder has 4"):
        run_shard(job(images, out, shard=Shard(1, 5)))


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/8/9", "-1/8", "a/b", "1/1000000"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        Shard.parse(text)


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_folder_has_one_run(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_shard(job(images, out))
    before = parts_of(out)
    other = write_files(tmp_path / "other", 3)
    later = Pointer(version="v1.1.0", manifest_sha256="b" * 64)
    rebound = Pointer(version="v1.0.0", manifest_sha256="b" * 64)
    for changed, says in [
        (job(other, out), "the input is"),
        (job(images, out, pointer=later), "the version is v1.1.0"),
        (job(images, out, pointer=rebound), "the manifest of the version"),
        (job(images, out, part_rows=4), "--part-rows is 4"),
        (job(images, out, format="csv"), "--format is csv"),
        (job(images, out, target="low"), "--target is low"),
    ]:
        for act in (run_shard, plan_shard):
            with pytest.raises(BadInput, match=says) as refused:
                act(changed)
            assert "give another folder as --out" in refused.value.hint
    assert parts_of(out) == before


def test_files_that_came_later_are_told(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="no run of shard 1/1 began"):
        run_shard(job(images, out, as_planned=True))
    assert not out.exists() or not parts_of(out)
    run_shard(job(images, out))
    first = next(iter(sorted(out.glob("part-*"))))
    body = first.read_bytes()
    first.unlink()
    (images / "000" / "new.jpg").write_bytes(b"new")
    with pytest.raises(BadInput, match=f"{FILES} then, {FILES + 1} now") as refused:
        run_shard(job(images, out))
    assert "--as-planned" in refused.value.hint
    assert run_shard(job(images, out, as_planned=True)).rows == 3
    assert first.read_bytes() == body


def test_a_damaged_list_or_plan_is_told(images: Path, tmp_path: Path) -> None:
    for name in ("_inputs-1-of-1.jsonl", "_plan-1-of-1.json"):
        out = tmp_path / name
        run_shard(job(images, out))
        next(iter(out.glob("part-*"))).unlink()
        (out / name).write_bytes((out / name).read_bytes()[:-10])
        with pytest.raises(BadManifest):
            run_shard(job(images, out))


def test_parts_without_a_plan_are_not_taken_for_finished(images: Path, tmp_path: Path) -> None:
    run_shard(job(images, tmp_path / "out"))
    (tmp_path / "out" / "_plan-1-of-1.json").unlink()
    with pytest.raises(BadInput, match="has parts of shard 1/1, but no plan"):
        run_shard(job(images, tmp_path / "out"))


@pytest.mark.parametrize("name", ["part-1-of-1-000001.tmp", "part-1-of-1-000001.csv"])
def test_files_of_others_are_not_taken_for_parts(images: Path, tmp_path: Path, name: str) -> None:
    run_shard(job(images, tmp_path / "out"))
    (tmp_path / "out" / "part-1-of-1-000001.jsonl").rename(tmp_path / "out" / name)
    assert run_shard(job(images, tmp_path / "out")).finished == 6
    (tmp_path / "out" / name).unlink()
    assert len(rows_in(tmp_path / "out")) == FILES


def test_a_dry_run_writes_nothing(images: Path, tmp_path: Path) -> None:
    planned = plan_shard(job(images, tmp_path / "out", shard=Shard(1, 3)))
    assert (planned.version, sum(planned.shards), planned.rows) == ("v1.0.0", FILES, 0)
    assert not (tmp_path / "out").exists()


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_has_a_row(images: Path, tmp_path: Path) -> None:
    table = tmp_path / "paths.csv"
    large = images / "large.jpg"
    with large.open("wb") as out:
        out.truncate(MAX_BYTES + 1)
    os.mkfifo(images / "pipe.jpg")
    asked = ["images/000/00000.jpg", "images/gone.jpg", str(large), "images/pipe.jpg", "images", "x" * 5000, "fail.jpg"]
    (tmp_path / "fail.jpg").write_bytes(b"fail v1.0.0")
    with table.open("w", newline="") as text:
        csv.writer(text).writerows([["path", "target"], *([path, "low"] for path in asked)])
    run_shard(job(table, tmp_path / "out", part_rows=100))
    rows = rows_in(tmp_path / "out")
    assert [row["path"] for row in rows] == asked
    assert [row["outcome"] for row in rows] == ["answer", *["unreadable"] * 5, "failed"]
    assert rows[1]["detail"] == "No such file or directory"
    assert rows[2]["detail"] == "it has more than 32 MiB"
    assert rows[6]["detail"] == "RuntimeError: it was asked to fail"
    assert {row["target"] for row in rows} == {"low"}
    assert MAX_BYTES == MAX_IMAGE


def test_a_disk_that_fails_ends_the_run(tmp_path: Path) -> None:
    """What the kernel says of an unmapped page of this process is what it says of a broken disk."""
    table = tmp_path / "paths.csv"
    table.write_text("path\ngone.jpg\n/proc/self/mem\n")
    with pytest.raises(UloraError, match="/proc/self/mem can't be read: Input/output error"):
        run_shard(job(table, tmp_path / "out"))
    assert not parts_of(tmp_path / "out")


def test_a_file_that_is_one_endless_line_is_not_read_whole(tmp_path: Path) -> None:
    table = tmp_path / "paths.csv"
    with table.open("wb") as text:
        text.truncate(1 << 40)  # zeros that take no room on the disk
    with pytest.raises(BadInput, match="a line has 1048576 characters or more"):
        run_shard(job(table, tmp_path / "out"))


def test_a_long_list_is_not_held_in_memory(tmp_path: Path) -> None:
    table, out = tmp_path / "paths.csv", tmp_path / "out"
    with table.open("w") as text:
        text.write("path\n")
        text.writelines(f"{'images' * 10}/{number}.jpg\n" for number in range(6_000))
    one = job(table, out)
    tracemalloc.start()
    try:
        with one.folder.locked():
            count, digest = one.folder.keep_list(one.source.files())
        plan = make_plan(one.options, "m", POINTER, (str(table), "csv"), (count, digest))
        assert sum(1 for _ in one.folder.listed(plan)) == 6_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_plan_takes_no_text_without_end(images: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="this can't be kept as a plan: device"):
        run_shard(job(images, tmp_path / "out", device="x" * 200))


def test_a_part_of_which_everything_fails_is_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.jpg").write_bytes(b"fail v1.0.0")
    with pytest.raises(LoadFailed, match="none of the 9 images of part 0 could be computed: RuntimeError"):
        run_shard(job(folder, tmp_path / "out", part_rows=10))
    assert not parts_of(tmp_path / "out")


def test_names_of_any_bytes_and_hidden_ones(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / ".cache").mkdir(parents=True)
    (folder / "b.txt").write_bytes(b"")
    names = [b"\xff.jpg", 'ä\n,".JPG'.encode(), b"a.webp"]
    for name in [*names, b".hidden.jpg", b".cache/x.jpg"]:
        (folder / os.fsdecode(name)).write_bytes(name)
    (folder / "loop").symlink_to(folder)
    for form in ("jsonl", "csv", "parquet"):
        run_shard(job(folder, tmp_path / form, format=form))
    assert sorted(row["path"] for row in rows_in(tmp_path / "jsonl")) == ["\\xff.jpg", "a.webp", 'ä\n,".JPG']
    with next((tmp_path / "csv").glob("part-*")).open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert sorted(row["path"] for row in rows) == ["\\xff.jpg", "a.webp", 'ä\n,".JPG']


def test_parquet_is_read_and_written(images: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = pyarrow.table(
        {"path": ["images/000/00001.jpg", "images/gone.jpg"], "more": [1, 2], "target": ["low", None]}
    )
    parquet.write_table(table, tmp_path / "paths.parquet")
    run_shard(job(tmp_path / "paths.parquet", tmp_path / "out", format="parquet"))
    found = parquet.read_table(tmp_path / "out").to_pylist()
    run_shard(job(tmp_path / "paths.parquet", tmp_path / "lines"))
    assert found == rows_in(tmp_path / "lines")
    assert [row["outcome"] for row in found] == ["answer", "unreadable"]


def test_rows_for_bytes_without_a_folder() -> None:
    files = [("x", b"1"), ("y", b"fail v1.0.0"), ("z", b"2")]
    rows = rows_for(Echo("v1.0.0", "c" * 64, b"w"), POINTER.manifest_sha256, files, "low")
    assert [(row.path, row.outcome) for row in rows] == [("x", "answer"), ("y", "failed"), ("z", "answer")]
    assert {(row.version, row.manifest_sha256, row.target) for row in rows} == {
        ("v1.0.0", POINTER.manifest_sha256, "low")
    }


def test_the_suffixes_are_those_of_a_fit() -> None:
    from adapters.fitting import folder_tree

    assert SUFFIXES == folder_tree.SUFFIXES
