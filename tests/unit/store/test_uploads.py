"""Uploads of files, in one piece and in parts: the server checks every byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import (
    CorruptBlob,
)
from registry.formats import canonical
from registry.store import uploads
from registry.store.objects import ObjectStore
from tests.servers import proxy as faults
from tests.servers.proxy import Proxy

KEY = "models/m/channels/staging/0999999999999.json"


def seen(store: ObjectStore, key: str = KEY) -> bytes:
    return store.get(key).body


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"some bytes")
    return path


def digest(path: Path) -> str:
    return canonical.sha256(path.read_bytes())


def test_an_uploaded_file_has_the_servers_checksum(store: ObjectStore, file: Path) -> None:
    for _ in range(2):
        store.upload("blobs/x", file, digest(file), 10)
    info = store.head("blobs/x")
    assert info
    assert (info.size, info.sha256) == (10, digest(file))


def test_the_server_refuses_a_file_with_another_digest(store: ObjectStore, file: Path) -> None:
    announced = digest(file)
    for content in (b"other bits", b"some bytes and more"):
        file.write_bytes(content)
        with pytest.raises(CorruptBlob, match=f"{file} changed while"):
            store.upload("blobs/x", file, announced, 10)
    assert store.head("blobs/x") is None


def test_an_upload_over_other_bytes_is_refused(store: ObjectStore, file: Path) -> None:
    store.overwrite("blobs/x", b"other bits")
    with pytest.raises(CorruptBlob, match="not the ones its name says"):
        store.upload("blobs/x", file, digest(file), 10)
    assert seen(store, "blobs/x") == b"other bits"


def test_an_upload_whose_reply_is_lost_is_done(distant: ObjectStore, proxy: Proxy, file: Path) -> None:
    proxy.next(faults.swallow_reply, method="PUT", containing="blobs/")
    distant.upload("blobs/x", file, digest(file), 10)
    assert seen(distant, "blobs/x") == b"some bytes"


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts, of the smallest size that S3 allows for a part."""
    monkeypatch.setattr(uploads, "PART_BYTES", 5 * 1024**2)
    path = tmp_path / "big"
    path.write_bytes(bytes(range(256)) * (11 * 1024**2 // 256))
    return path


def test_a_large_file_goes_in_parts_once_and_names_its_digest(store: ObjectStore, big: Path) -> None:
    size = big.stat().st_size
    for _ in range(2):
        store.upload("blobs/big", big, digest(big), size)
    info = store.head("blobs/big")
    assert info
    assert (info.size, info.sha256) == (size, digest(big))
    assert b"".join(store.stream("blobs/big", size)) == big.read_bytes()


def test_a_large_file_that_changed_meanwhile_leaves_nothing(store: ObjectStore, big: Path) -> None:
    with pytest.raises(CorruptBlob, match="changed while it was read"):
        store.upload("blobs/big", big, "0" * 64, big.stat().st_size)
    assert store.head("blobs/big") is None


def test_a_large_file_over_other_bytes_is_refused(store: ObjectStore, big: Path) -> None:
    store.overwrite("blobs/big", b"other")
    with pytest.raises(CorruptBlob, match="not the ones its name says"):
        store.upload("blobs/big", big, digest(big), big.stat().st_size)
    assert seen(store, "blobs/big") == b"other"
