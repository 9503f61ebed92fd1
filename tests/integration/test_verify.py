"""A flipped byte, a lost blob, a poisoned cache: named, and never used."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.answers import BadFile
from registry.api import Registry
from registry.errors import BadInput, CorruptBlob, MissingBlob, VersionNotFound
from registry.names import VersionName
from registry.store import layout
from registry.usecases.options import VerifyOptions
from tests.support.registries import create, file_of, flip_a_byte, open_registry

WEIGHTS = "adapters/low/adapter_model.safetensors"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path) -> Registry:
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    create(registry, "v1.0.0", tmp_path)
    return registry


def test_a_whole_version_is_verified_by_checksums_and_by_reading(registry: Registry) -> None:
    size, done = registry.manifest("v1.0.0").size, []
    asked, read = registry.verify("v1.0.0"), registry.verify("v1.0.0", read_data=True, progress=done.append)
    assert (asked.ok, asked.read, read.ok, read.read) == (True, False, True, True)
    assert (asked.size, asked.files) == (size, len(registry.manifest("v1.0.0").files))
    assert sum(done) == sum({file.sha256: file.size for file in registry.manifest("v1.0.0").files}.values())


@pytest.mark.parametrize("read_data", [False, True])
def test_the_file_with_a_flipped_byte_is_named(registry: Registry, read_data: bool) -> None:
    flip_a_byte(registry, "v1.0.0", WEIGHTS)
    sha256 = file_of(registry, "v1.0.0", WEIGHTS).sha256
    assert registry.verify("v1.0.0", read_data=read_data).bad == (BadFile(WEIGHTS, sha256, "corrupt"),)


def test_a_byte_flipped_on_the_server_is_found_by_reading(registry: Registry) -> None:
    # The server's checksum is that of what was written; only reading shows that the bytes have changed since.
    file = file_of(registry, "v1.0.0", WEIGHTS)
    body = registry.store.get(layout.blob(file.sha256)).body
    client = registry.store._client
    client.transfers.put_object(
        **client.at(layout.blob(file.sha256)),
        Body=bytes([body[0] ^ 1]) + body[1:],
        Metadata={"sha256": file.sha256},  # what a multipart object says of itself
    )
    assert [bad.problem for bad in registry.verify("v1.0.0", read_data=True).bad] == ["corrupt"]


@pytest.mark.parametrize("read_data", [False, True])
def test_every_file_of_a_lost_blob_is_named(registry: Registry, tmp_path: Path, read_data: bool) -> None:
    bundle = tmp_path / "v1.0.0"
    for name in ("a", "b"):
        (bundle / f"config/{name}.json").write_text('{"twin":1}')
    registry.create("v1.1.0", bundle, offline=True)
    registry.store.delete(layout.blob(file_of(registry, "v1.1.0", "config/a.json").sha256))
    found = registry.verify("v1.1.0", read_data=read_data)
    assert [(bad.path, bad.problem) for bad in found.bad] == [
        ("config/a.json", "missing"),
        ("config/b.json", "missing"),
    ]
    assert registry.verify("v1.0.0", read_data=read_data).ok


def test_a_version_with_a_flipped_byte_is_not_loaded(registry: Registry) -> None:
    flip_a_byte(registry, "v1.0.0", WEIGHTS)
    with pytest.raises(CorruptBlob, match=file_of(registry, "v1.0.0", WEIGHTS).sha256):
        registry.load("v1.0.0")


def test_a_poisoned_cache_is_fetched_again_before_it_is_loaded(registry: Registry) -> None:
    before = registry.load("v1.0.0")
    file = file_of(registry, "v1.0.0", WEIGHTS)
    cached = registry.blobs.fetch([file])[file.sha256]
    cached.chmod(0o644)
    data = cached.read_bytes()
    cached.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert registry.load("v1.0.0").content_sha256 == before.content_sha256
    assert cached.read_bytes() == data


def test_a_damaged_manifest_names_its_version(registry: Registry) -> None:
    pointer = registry.bindings.get(VersionName(1, 0, 0)).pointer
    key = layout.blob(pointer.manifest_sha256)
    body = registry.store.get(key).body
    registry.store.overwrite(key, body.replace(b"v1.0.0", b"v1.0.1"))
    for act in (registry.verify, registry.manifest, registry.promote, registry.load):
        with pytest.raises(CorruptBlob, match=r"the manifest of v1\.0\.0"):
            act("v1.0.0")
    registry.store.delete(key)
    with pytest.raises(MissingBlob, match=r"the manifest of v1\.0\.0"):
        registry.verify("v1.0.0")


def test_a_version_that_is_not_there_is_not_found(registry: Registry) -> None:
    with pytest.raises(VersionNotFound):
        registry.verify("v9.0.0")


def test_verify_all_reports_each_result_at_once(registry: Registry) -> None:
    flip_a_byte(registry, "v1.0.0", WEIGHTS)
    told: list[object] = []
    report = registry.verify_all(tell=told.append)
    assert [type(each).__name__ for each in told] == [
        "Verification", "ChainCheck", "ChainCheck", "Documents", "GarbageCheck",
    ]  # fmt: skip
    assert told == [*report.versions, *report.chains, report.documents, report.garbage]
    assert report.problems == [f"v1.0.0 {WEIGHTS} (corrupt)"]
    assert report.seed is None


def test_a_share_is_read_and_can_be_read_again_by_its_seed(registry: Registry) -> None:
    report = registry.verify_all(["v1.0.0"], VerifyOptions(share=0.01))
    again = registry.verify_all(["v1.0.0"], VerifyOptions(share=0.01, seed=report.seed))
    assert 0 < report.versions[0].bytes_read == again.versions[0].bytes_read < report.versions[0].size
    assert (report.chains, report.documents, report.garbage) == ((), None, None)
    with pytest.raises(BadInput, match="--read-data"):
        VerifyOptions(read_data=True, share=0.01)
