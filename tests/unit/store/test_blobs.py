"""Blobs: what does not hash to its name never leaves the cache, and nothing travels twice."""

from __future__ import annotations

import multiprocessing
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.errors import CorruptBlob, MissingBlob, StoreUnreachable
from registry.formats import canonical
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.manifest import FileEntry
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy


@pytest.fixture
def blobs(store: ObjectStore, tmp_path: Path) -> Blobs:
    return Blobs(store, tmp_path / "cache")


def entry(data: bytes) -> FileEntry:
    return FileEntry(path="x", size=len(data), sha256=canonical.sha256(data))


def sources(folder: Path, *contents: bytes) -> dict[str, Path]:
    found = {}
    for data in contents:
        digest = canonical.sha256(data)
        found[digest] = folder / digest
        found[digest].write_bytes(data)
    return found


def downloads(proxy: Proxy) -> int:
    return sum(method == "GET" and "/blobs/" in path for method, path in proxy.requests)


def test_only_what_is_missing_is_uploaded(blobs: Blobs, tmp_path: Path) -> None:
    files = sources(tmp_path, b"one", b"three")
    done: list[int] = []
    assert blobs.upload(files, done.append) == 8
    assert blobs.upload(files | sources(tmp_path, b"12")) == 2
    assert sum(done) == 8
    assert blobs.absent([entry(b"one"), entry(b"three"), entry(b"12")]) == []


def test_a_cached_file_is_read_only_and_verified_each_time(blobs: Blobs, tmp_path: Path) -> None:
    file = entry(b"content")
    blobs.put(b"content")
    path = blobs.fetch([file, file])[file.sha256]
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert path.is_relative_to(tmp_path / "cache")
    assert blobs.fetch([file])[file.sha256] == path


@pytest.mark.parametrize("poison", [b"c0ntent", b"", b"content and more"])
def test_a_cache_that_was_tampered_with_is_fetched_again(blobs: Blobs, poison: bytes) -> None:
    file = entry(b"content")
    blobs.put(b"content")
    path = blobs.fetch([file])[file.sha256]
    path.chmod(0o644)
    path.write_bytes(poison)
    assert blobs.fetch([file])[file.sha256].read_bytes() == b"content"


def test_what_is_in_the_cache_needs_no_store(store_url: str, store: ObjectStore, tmp_path: Path, proxy: Proxy) -> None:
    Blobs(store, tmp_path).put(b"content")
    Blobs(store, tmp_path).fetch([entry(b"content")])
    away = Blobs(ObjectStore(store_url, endpoint_url=proxy.url), tmp_path)
    proxy.next(faults.refuse, times=100)
    assert away.fetch([entry(b"content")])
    assert proxy.requests == []


@pytest.mark.parametrize("bad", [b"c0ntent", b"conten", b"content+"])
def test_a_blob_that_does_not_hash_to_its_name_is_never_used(
    blobs: Blobs, store: ObjectStore, tmp_path: Path, bad: bytes
) -> None:
    file = entry(b"content")
    store.overwrite(layout.blob(file.sha256), bad)
    with pytest.raises(CorruptBlob, match=file.sha256):
        blobs.fetch([file])
    with pytest.raises(CorruptBlob, match=file.sha256):
        blobs.read(file.sha256)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert [(found.sha256, found.problem) for found in blobs.check([file])] == [(file.sha256, "corrupt")]
    # Written like this, the store keeps no digest: of bytes of the right size it can't tell.
    says = "unproven" if len(bad) == file.size else "corrupt"
    assert [found.problem for found in blobs.absent([file])] == [says]


def test_a_blob_that_is_missing_is_named(blobs: Blobs) -> None:
    file = entry(b"content")
    with pytest.raises(MissingBlob, match=file.sha256):
        blobs.fetch([file])
    with pytest.raises(MissingBlob, match=file.sha256):
        blobs.read(file.sha256)
    assert [found.problem for found in blobs.check([file])] == ["missing"]
    assert [found.problem for found in blobs.absent([file])] == ["missing"]


def test_a_broken_download_resumes_then_fails_without_traces(
    store_url: str, store: ObjectStore, tmp_path: Path, proxy: Proxy
) -> None:
    data = os.urandom(3_000_000)
    Blobs(store, tmp_path).put(data)
    blobs = Blobs(ObjectStore(store_url, endpoint_url=proxy.url), tmp_path)
    file = entry(data)
    proxy.next(faults.cut_body, method="GET", times=3)
    with pytest.raises(StoreUnreachable):
        blobs.fetch([file])
    assert list(tmp_path.rglob("*.part")) == []
    proxy.next(faults.cut_body, method="GET", times=2)
    assert blobs.fetch([file])[file.sha256].read_bytes() == data


def _fetch(store_url: str, endpoint: str, cache: Path, digest: str, size: int) -> bytes:
    store = ObjectStore(store_url, endpoint_url=endpoint)
    file = FileEntry(path="x", size=size, sha256=digest)
    return Blobs(store, cache).fetch([file])[digest].read_bytes()


def test_processes_that_share_a_cache_download_once(
    store_url: str, store: ObjectStore, tmp_path: Path, proxy: Proxy
) -> None:
    data = os.urandom(1_000_000)
    digest = Blobs(store, tmp_path).put(data)
    arguments = (store_url, proxy.url, tmp_path / "cache", digest, len(data))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(_fetch, [arguments] * 3) == [data] * 3
    assert downloads(proxy) == 1


def test_threads_that_fetch_the_same_blob_all_get_it(blobs: Blobs) -> None:
    file = entry(b"content")
    blobs.put(b"content")
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: blobs.fetch([file])[file.sha256], range(16)))
    assert {path.read_bytes() for path in paths} == {b"content"}
