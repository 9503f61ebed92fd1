"""The cache on disk: what others put there is never trusted, and where it can't be written a replica still loads."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.errors import BadSetting
from registry.formats import bounded
from registry.parallel import WORKERS
from registry.store import cache
from registry.store.blobs import BlobEntry, Blobs
from registry.store.cache import FetchWatch
from registry.store.objects import ObjectStore
from tests.support.unwritable_folder import no_right_to_write

DATA = b"content"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def file(store: ObjectStore, shared: Path) -> BlobEntry:
    return BlobEntry(Blobs(store, shared).put(DATA), len(DATA))


@pytest.fixture
def blobs(store: ObjectStore, shared: Path) -> Blobs:
    return Blobs(store, shared)


def place(cache: Path, file: BlobEntry) -> Path:
    """Where the cache has a blob, in a folder that exists."""
    path = cache / "blobs" / file.sha256[:2] / file.sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_warm_cache_that_may_not_be_written_serves(blobs: Blobs, shared: Path, file: BlobEntry) -> None:
    path = blobs.fetch([file])[file.sha256]
    for left in path.parent.glob("*.lock"):
        left.unlink()
    with no_right_to_write(shared):
        assert blobs.fetch([file])[file.sha256] == path
        assert path.read_bytes() == DATA
    assert list(path.parent.iterdir()) == [path]


def test_what_an_unwritable_cache_lacks_is_kept_elsewhere(blobs: Blobs, shared: Path, file: BlobEntry) -> None:
    notes: list[str] = []
    with no_right_to_write(shared):
        path = blobs.fetch([file], watch=FetchWatch(note=notes.append))[file.sha256]
        assert path.read_bytes() == DATA
    assert not path.is_relative_to(shared)
    assert "can't be used: [Errno 13]" in notes[0]
    assert list(shared.iterdir()) == []


_FULL = """
import resource, sys
from pathlib import Path
from registry.errors import BadSetting
from registry.parallel import WORKERS
from registry.store import cache
from registry.store.blobs import BlobEntry, Blobs
from registry.store.objects import ObjectStore
blobs = Blobs(ObjectStore(sys.argv[1]), Path(sys.argv[2]))
warm, cold = BlobEntry(sys.argv[3], 7), BlobEntry(sys.argv[4], 6)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no byte can be written to any file
print(blobs.fetch([warm])[warm.sha256].read_bytes().decode(), flush=True)
try:
    blobs.fetch([cold])
except DiskFull as error:
    sys.stderr.write(f"{error}; {error.hint}")
"""


def test_a_full_disk_serves_what_it_has_and_is_said(
    blobs: Blobs, store: ObjectStore, shared: Path, file: BlobEntry
) -> None:
    blobs.fetch([file])
    cold = blobs.put(b"better")
    done = subprocess.run(
        [sys.executable, "-c", _FULL, store.url, str(shared), file.sha256, cold],
        check=False, capture_output=True, timeout=300, text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert done.stdout == "content\n", done
    assert "no space left" in done.stderr
    assert f"{shared}/blobs" in done.stderr
    assert list(shared.rglob("*.part")) == []


def test_a_lock_that_is_held_for_ever_is_left_alone(blobs: Blobs, shared: Path, file: BlobEntry) -> None:
    lock = place(shared, file).with_suffix(".lock")
    waits: list[str] = []
    notes: list[str] = []
    with lock.open("w") as held:
        held.write("7@elsewhere")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        watch = FetchWatch(waits=waits.append, note=notes.append, lock_seconds=0.2)
        path = blobs.fetch([file], watch=watch)[file.sha256]
    assert path.read_bytes() == DATA
    assert not path.is_relative_to(shared)
    assert "held by 7@elsewhere" in waits[0]
    assert "7@elsewhere holds the cache's lock" in notes[0]


def test_after_one_lock_that_was_given_up_no_other_is_waited_for(blobs: Blobs, shared: Path) -> None:
    """Three waves of files, and each lock is held: only the first wave waits."""
    content = [bytes([number]) for number in range(3 * WORKERS)]
    files = [BlobEntry(blobs.put(data), 1) for data in content]
    waited: set[str] = set()
    with ExitStack() as held:
        for file in files:
            lock = held.enter_context(place(shared, file).with_suffix(".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        found = blobs.fetch(files, watch=FetchWatch(waits=waited.add, lock_seconds=0.2))
    assert [found[file.sha256].read_bytes() for file in files] == content
    assert 1 <= len(waited) <= WORKERS
    assert not any(path.is_relative_to(shared) for path in found.values())


def test_locks_that_are_kept_alive_share_one_limit(blobs: Blobs, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LONGEST_LOCK", 0.3)
    files = [BlobEntry(blobs.put(bytes([number])), 1) for number in range(3 * WORKERS)]
    locks = [place(shared, file).with_suffix(".lock") for file in files]
    waited: set[str] = set()

    def wait(reason: str) -> None:
        waited.add(reason)
        for lock in locks:
            os.utime(lock)

    with ExitStack() as held:
        for lock in locks:
            fcntl.flock(held.enter_context(lock.open("w")), fcntl.LOCK_EX)
        blobs.fetch(files, watch=FetchWatch(waits=wait))
    assert 1 <= len(waited) <= WORKERS


@pytest.mark.parametrize("is_held", [False, True])
def test_a_lock_that_is_another_file_too_stays_as_it_is(
    is_held: bool, blobs: Blobs, shared: Path, file: BlobEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_LIFE_EVERY", 0.0)
    precious = tmp_path / "precious"
    precious.write_bytes(b"secret")
    os.utime(precious, (1, 1))
    os.link(precious, place(shared, file).with_suffix(".lock"))
    said: list[str] = []
    with precious.open() as held:
        if is_held:
            fcntl.flock(held, fcntl.LOCK_EX)
        path = blobs.fetch([file], watch=FetchWatch(waits=said.append, note=said.append, lock_seconds=0.1))[file.sha256]
    assert path.read_bytes() == DATA
    assert (precious.read_bytes(), precious.stat().st_mtime) == (b"secret", 1)
    assert "secret" not in str(said)


def test_a_lock_whose_holder_lives_is_waited_for(blobs: Blobs, shared: Path, file: BlobEntry) -> None:
    lock = place(shared, file).with_suffix(".lock")
    waits: list[str] = []
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def wait(reason: str) -> None:
            waits.append(reason)
            os.utime(lock, ns=(0, len(waits)))
            if len(waits) == 8:
                fcntl.flock(held, fcntl.LOCK_UN)

        path = blobs.fetch([file], watch=FetchWatch(waits=wait, lock_seconds=0.2))[file.sha256]
    assert path == place(shared, file)
    assert lock.read_text().startswith(f"{os.getpid()}@")


def test_no_link_in_a_shared_cache_is_followed(blobs: Blobs, shared: Path, file: BlobEntry, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(DATA)
    path = place(shared, file)
    path.symlink_to(mine)
    part = path.with_suffix(".part")
    part.symlink_to(mine)
    assert blobs.fetch([file])[file.sha256] == path
    assert not path.is_symlink()
    assert part.is_symlink()
    assert mine.stat().st_mode & 0o777 == 0o644


def test_a_part_that_somebody_has_put_there_is_not_written(
    blobs: Blobs, shared: Path, file: BlobEntry, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    place(shared, file).with_suffix(".part").symlink_to(mine)
    assert blobs.fetch([file])[file.sha256].read_bytes() == DATA
    assert mine.read_bytes() == b"precious"


def test_a_folder_that_is_a_link_is_not_used(blobs: Blobs, shared: Path, file: BlobEntry, tmp_path: Path) -> None:
    folder = place(shared, file).parent
    folder.rmdir()
    folder.symlink_to(tmp_path)
    (tmp_path / file.sha256).write_bytes(DATA)
    path = blobs.fetch([file])[file.sha256]
    assert path.read_bytes() == DATA
    assert not path.is_relative_to(shared)
    assert [each.name for each in tmp_path.iterdir()] == [file.sha256]


def test_a_pipe_in_place_of_a_blob_holds_nobody_up(blobs: Blobs, shared: Path, file: BlobEntry) -> None:
    os.mkfifo(place(shared, file))
    assert blobs.fetch([file])[file.sha256].read_bytes() == DATA


def test_a_file_that_grows_while_it_is_hashed_is_not_read_on(
    blobs: Blobs, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody makes it longer than the disk after its size was looked at."""
    monkeypatch.setattr(bounded, "_CHUNK", 64)
    data = bytes(range(256))
    file = BlobEntry(blobs.put(data), len(data))
    path = place(shared, file)
    path.write_bytes(data)
    hashed: list[int] = []

    def arrived(count: int) -> None:
        hashed.append(count)
        if len(hashed) == 1:
            os.truncate(path, 1 << 40)
        assert sum(hashed) <= 2 * len(data)

    found = blobs.fetch([file], watch=FetchWatch(arrived=arrived))[file.sha256]
    assert found.stat().st_size == len(data)
    assert found.read_bytes() == data


def test_a_folder_in_place_of_a_blob_holds_nobody_up(blobs: Blobs, shared: Path, file: BlobEntry) -> None:
    place(shared, file).mkdir()
    assert blobs.fetch([file])[file.sha256].read_bytes() == DATA


def test_parts_of_dead_writers_are_removed(blobs: Blobs, shared: Path, file: BlobEntry) -> None:
    folder = place(shared, file).parent
    old, young = folder / "a.part", folder / "b.part"
    for each in (old, young):
        each.write_bytes(b"half")
    yesterday = time.time() - 90_000
    os.utime(old, (yesterday, yesterday))
    blobs.fetch([file])
    assert not old.exists()
    assert young.exists()


def test_a_private_folder_that_is_gone_is_made_again(blobs: Blobs, shared: Path, file: BlobEntry) -> None:
    cache._private_folder.cache_clear()  # another test may have made it as another user
    with no_right_to_write(shared):
        private = blobs.fetch([file])[file.sha256]
        assert shared not in private.parents
        shutil.rmtree(private.parent)
        assert blobs.fetch([file])[file.sha256].read_bytes() == DATA


def test_without_any_folder_to_write_the_cache_is_named(
    blobs: Blobs, shared: Path, file: BlobEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_private_folder", lambda process: tmp_path / "no" / "where")
    with no_right_to_write(shared), pytest.raises(BadSetting, match=f"{shared}/blobs.*can't be written") as caught:
        blobs.fetch([file])
    assert "ULORA_CACHE" in caught.value.hint
