"""Every write to the store asks for encryption, and no other request does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.errors import OutcomeUnknown, Unreachable
from registry.formats.canonical import sha256
from registry.store import layout, uploads
from registry.store.client import Deadlines
from registry.store.object_info import Encryption
from registry.store.objects import ObjectStore
from tests.support.registries import create, open_registry
from tests.support.sent_requests import Sent, record

ASKED, KEY = "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"
WRITES = {"PutObject", "CreateMultipartUpload"}
FIVE_MIB = 5 * 1024 * 1024


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    plain = open_registry(tmp_path, store_url, model)
    return Registry(settings=replace(plain.settings, sse="AES256"))


def asked(sent: list[Sent]) -> dict[str, set[str | None]]:
    """What each operation asked for."""
    found: dict[str, set[str | None]] = {}
    for request in sent:
        found.setdefault(request.operation, set()).add(request.headers.get(ASKED))
    return found


def test_every_write_asks_for_encryption_and_no_read_does(registry: Registry, tmp_path: Path) -> None:
    sent = record(registry.store)
    registry.store.initialise()
    for name in ("v1.0.0", "v1.1.0"):
        create(registry, name, tmp_path)
        registry.promote(name, "production")
    registry.rollback()
    registry.store.overwrite(layout.replica(registry.model, "production", "one"), b"{}")
    assert registry.verify("v1.0.0", read_data=True).ok
    found = asked(sent)
    assert found.pop("PutObject") == {"AES256"}
    assert set.union(*found.values()) == {None}
    written = {request.key for request in sent if request.operation == "PutObject"}
    folders = ("channels", "versions", "replicas", "verdicts", "blobs", layout.FORMAT_KEY)
    assert all(any(folder in key for key in written) for folder in folders)


def test_an_upload_in_parts_asks_for_it_when_it_begins(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", FIVE_MIB)
    large = tmp_path / "large"
    large.write_bytes(bytes(FIVE_MIB + 1))
    digest = sha256(large.read_bytes())
    sent = record(registry.store)
    registry.blobs.upload({digest: large})
    assert asked(sent) == {
        "CreateMultipartUpload": {"AES256"}, "HeadObject": {None},
        "UploadPart": {None}, "CompleteMultipartUpload": {None},
    }  # fmt: skip
    assert registry.blobs.absent([_Blob(digest, FIVE_MIB + 1)]) == []


class _Blob:
    def __init__(self, sha256: str, size: int) -> None:
        self.sha256, self.size = sha256, size


def test_a_key_of_ones_own_is_named_with_every_write(store_url: str) -> None:
    store = ObjectStore(store_url, deadlines=Deadlines(write=1), encryption=Encryption("aws:kms", "alias/ulora"))
    sent = record(store)
    # The server here knows no KMS and answers 500: a write whose outcome is not known, and never a plain one instead.
    with pytest.raises((OutcomeUnknown, Unreachable)):
        store.create("x", b"{}")
    writes = [request for request in sent if request.operation in WRITES]
    assert writes
    assert {(request.headers[ASKED], request.headers[KEY]) for request in writes} == {("aws:kms", "alias/ulora")}
    assert ObjectStore(store_url).head("x") is None


def test_nothing_is_asked_for_by_default(store_url: str) -> None:
    store = ObjectStore(store_url)
    sent = record(store)
    store.create("x", b"{}")
    assert asked(sent) == {"PutObject": {None}}
