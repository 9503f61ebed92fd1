"""Small files in a cache that others may write to: pipes do not hold the reader up, and links lead nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from registry.formats.cache_files import CacheFile
from registry.integrity.lastprobe import LastProbe
from registry.integrity.lastread import LastReads
from registry.machine import identity

ARN = "arn:aws:sts::123456789012:assumed-role/release/anna"
DIGEST = "0" * 64


class Kept(NamedTuple):
    """A document that a machine keeps in the cache."""

    write: Callable[[Path], object]
    read: Callable[[Path], bool]


KINDS = {
    "identity": Kept(
        lambda cache: identity.save(cache, None, ARN), lambda cache: ARN in identity.claimed(cache, None)
    ),
    "probe": Kept(
        lambda cache: LastProbe(cache, "s3://b/p", None).note(honoured=True),
        lambda cache: LastProbe(cache, "s3://b/p", None).find() is not None,
    ),
    "read": Kept(
        lambda cache: LastReads(cache, "s3://b/p").note("v1.0.0", DIGEST, ()),
        lambda cache: LastReads(cache, "s3://b/p").find(DIGEST) is not None,
    ),
}  # fmt: skip


@pytest.fixture(params=sorted(KINDS))
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """One kind of document."""
    monkeypatch.delenv("ULORA_WHO", raising=False)
    return KINDS[request.param]


def place_of(cache: Path) -> Path:
    """The file of the only document in a cache."""
    (place,) = cache.rglob("*.json")
    return place


def test_a_document_that_was_written_is_read(tmp_path: Path, kept: Kept) -> None:
    kept.write(tmp_path)
    assert kept.read(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [place_of(tmp_path)]


def test_a_pipe_in_the_place_of_a_document_is_none(tmp_path: Path, kept: Kept) -> None:
    kept.write(tmp_path)
    place = place_of(tmp_path)
    place.unlink()
    os.mkfifo(place)
    pool = ThreadPoolExecutor(1)
    answer = pool.submit(kept.read, tmp_path)
    try:
        assert answer.result(timeout=20) is False
    finally:
        with suppress(OSError):  # lets a reader that waits go on
            os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))
        pool.shutdown()


def test_a_link_in_the_place_of_a_document_is_none(tmp_path: Path, kept: Kept) -> None:
    kept.write(tmp_path)
    place, outside = place_of(tmp_path), tmp_path / "outside"
    place.rename(outside)
    place.symlink_to(outside)
    assert not kept.read(tmp_path)
    kept.write(tmp_path)  # in its place; what it led to stays
    assert kept.read(tmp_path)
    assert not place.is_symlink()


def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path, kept: Kept) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    kept.write(cache)
    folder = cache / place_of(cache).relative_to(cache).parts[0]
    folder.rename(outside)
    folder.symlink_to(outside)
    assert not kept.read(cache)
    place_of(outside).unlink()
    kept.write(cache)
    assert not [path for path in outside.rglob("*") if not path.is_dir()]


def test_nobody_can_guess_what_is_written_to(tmp_path: Path, kept: Kept) -> None:
    kept.write(tmp_path)
    place, outside = place_of(tmp_path), tmp_path / "outside"
    outside.write_text("another file of this user")
    for name in (f"{place.name}.part", f"{place.stem}.{os.getpid()}.part"):
        place.with_name(name).symlink_to(outside)
    kept.write(tmp_path)
    assert outside.read_text() == "another file of this user"


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, ("a", "b.json"))
    file.write(b"x" * 1000)
    assert file.read(10) == b"x" * 11
