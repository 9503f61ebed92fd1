"""A server that sends more than it announced, or announces no size, uses no memory and is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import BadManifest, CorruptBlob
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.manifest import FileEntry
from tests.servers.endless_body import EndlessServer

ENOUGH = 32 * 1024 * 1024
"""Bytes that buffers on the way may take in."""


@pytest.mark.usefixtures("s3_env")
def test_an_endless_answer_is_not_read(tmp_path: Path) -> None:
    with EndlessServer() as server:
        store = ObjectStore("s3://bucket/prefix", endpoint_url=server.url)
        with pytest.raises(BadManifest, match="of unknown length"):
            store.get("models/x/versions/v1.0.0.json", 1000)
        file = FileEntry(path="a", size=10, sha256="a" * 64)
        with pytest.raises(CorruptBlob, match="not 10"):
            Blobs(store, tmp_path).fetch([file])
        assert list(tmp_path.rglob("*.part")) == []
        assert server.sent < ENOUGH


def test_an_object_announced_as_too_large_is_not_read(store_url: str) -> None:
    store = ObjectStore(store_url)
    key = layout.replica("m", "production", "one")
    store.overwrite(key, b" " * 70_000)
    with pytest.raises(BadManifest, match="70000 bytes, more than the 65536"):
        store.get(key, 65536)
