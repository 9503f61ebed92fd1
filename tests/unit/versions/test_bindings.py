"""Bindings of version names on a real store: a name is bound once and never changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import BadManifest, CorruptBlob, MissingBlob, VersionExists, VersionNotFound
from registry.formats import canonical
from registry.names import VersionName
from registry.store import layout
from registry.store.blobs import Blobs
from registry.store.objects import ObjectStore
from registry.versions.bindings import Bindings
from registry.versions.manifest import Manifest
from registry.versions.pointer import Pointer

V1, V2 = VersionName(1, 0, 0), VersionName(2, 0, 0)


@pytest.fixture
def store(store_url: str) -> ObjectStore:
    return ObjectStore(store_url)


@pytest.fixture
def versions(store: ObjectStore, tmp_path: Path) -> Bindings:
    return Bindings(store, Blobs(store, tmp_path), "m")


def manifest(name: VersionName = V1, flavor: str = "a", **fields: object) -> Manifest:
    known = {"backbone": None, "components": {}, "files": [], "timestamp": "now"}
    return Manifest.make(model="m", version=str(name), flavor=flavor, **(known | fields))


def bind(store: ObjectStore, tmp_path: Path, versions: Bindings, made: Manifest) -> bool:
    return versions.bind(made, Blobs(store, tmp_path).put(made.to_bytes()))


def test_a_bound_version_is_found_again(store: ObjectStore, tmp_path: Path, versions: Bindings) -> None:
    made = manifest()
    assert versions.find(V1) is None
    assert bind(store, tmp_path, versions, made)
    binding = versions.get(V1)
    assert binding.pointer == Pointer(version="v1.0.0", manifest_sha256=made.sha256)
    assert versions.manifest(binding.pointer).to_bytes() == made.to_bytes()


def test_binding_equal_content_again_keeps_the_first_manifest(
    store: ObjectStore, tmp_path: Path, versions: Bindings
) -> None:
    bind(store, tmp_path, versions, manifest(timestamp="first"))
    assert not bind(store, tmp_path, versions, manifest(timestamp="second"))
    assert versions.manifest(versions.get(V1).pointer).timestamp == "first"


def test_a_bound_name_refuses_other_content(store: ObjectStore, tmp_path: Path, versions: Bindings) -> None:
    bind(store, tmp_path, versions, manifest())
    with pytest.raises(VersionExists, match=r"v1\.0\.0 exists with other content") as error:
        bind(store, tmp_path, versions, manifest(flavor="b"))
    assert error.value.exit_code == 4
    assert "next name" in error.value.hint


def test_names_are_listed_in_order_without_other_objects(
    store: ObjectStore, tmp_path: Path, versions: Bindings
) -> None:
    for name in (VersionName(1, 10, 0), VersionName(1, 9, 0, "x"), VersionName(1, 9, 0)):
        bind(store, tmp_path, versions, manifest(name))
    store.create(f"{layout.versions('m')}notes.txt", b"x")
    assert [str(name) for name in versions.names()] == ["v1.9.0", "v1.9.0-x", "v1.10.0"]


def test_a_name_that_is_free_is_not_found(store: ObjectStore, versions: Bindings) -> None:
    store.initialise()
    with pytest.raises(VersionNotFound, match=r"m has no version v1\.0\.0"):
        versions.get(V1)


def test_a_binding_copied_under_another_name_is_refused(store: ObjectStore, tmp_path: Path, versions: Bindings) -> None:
    bind(store, tmp_path, versions, manifest())
    body = store.get(layout.version("m", "v1.0.0")).body
    store.create(layout.version("m", "v2.0.0"), body)
    with pytest.raises(BadManifest, match=r"binds m v1\.0\.0"):
        versions.get(V2)
    with pytest.raises(BadManifest, match=r"is that of m v1\.0\.0"):
        versions.manifest(Pointer(version="v2.0.0", manifest_sha256=versions.get(V1).manifest_sha256))


def test_a_damaged_or_missing_manifest_names_its_version(
    store: ObjectStore, tmp_path: Path, versions: Bindings
) -> None:
    bind(store, tmp_path, versions, manifest())
    pointer = versions.get(V1).pointer
    store.overwrite(layout.blob(pointer.manifest_sha256), b"{}")
    with pytest.raises(CorruptBlob, match=r"the manifest of v1\.0\.0"):
        versions.manifest(pointer)
    store.delete(layout.blob(pointer.manifest_sha256))
    with pytest.raises(MissingBlob, match=r"the manifest of v1\.0\.0"):
        versions.manifest(pointer)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"format":2}', b'{"format":1}', b"\xff", b"x" * 70_000], ids=repr)
def test_a_binding_that_is_damaged_is_refused(store: ObjectStore, versions: Bindings, body: bytes) -> None:
    store.create(layout.version("m", "v1.0.0"), body)
    with pytest.raises(BadManifest, match=r"v1\.0\.0\.json"):
        versions.get(V1)


def test_a_blob_that_is_not_a_manifest_is_refused(store: ObjectStore, versions: Bindings, tmp_path: Path) -> None:
    digest = Blobs(store, tmp_path).put(canonical.encode({"format": 1}))
    with pytest.raises(BadManifest, match=r"the manifest of v1\.0\.0"):
        versions.manifest(Pointer(version="v1.0.0", manifest_sha256=digest))
