"""What a version becomes in an OCI registry."""

from __future__ import annotations

import pytest

from registry.errors import BadInput
from registry.formats.canonical import sha256
from registry.names import VersionName
from registry.oci import documents as oci
from registry.oci.artifacts import adapter_artifacts, document_key, document_layer, version_artifact
from registry.retention.version_contents import VersionContents, read_contents
from registry.store import layout
from registry.store.folder import Folder
from registry.versions.bindings import Binding
from registry.versions.manifest import Component, FileEntry, Manifest


def contents(folder: Folder, *paths: str) -> VersionContents:
    """A version with files of these paths, in a folder of copies."""
    manifest = Manifest.make(
        model="m", version="v1.0.0", flavor="dino-lora", backbone=None, timestamp="2026-11-21T12:00:00Z",
        files=[FileEntry(path=path, size=1, sha256=sha256(path.encode())) for path in sorted(paths)],
        components={"adapters/low": Component(), "router": Component(), "adapters/" + "l" * 150: Component()},
    )  # fmt: skip
    body = manifest.to_bytes()
    folder.create(layout.blob(sha256(body)), body)
    folder.create(layout.version("m", "v1.0.0"), Binding.of(manifest, sha256(body)).to_bytes())
    return read_contents(folder, "m", VersionName.parse("v1.0.0"))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(tmp_path_factory.mktemp("copies"))


PATHS = ("adapters/low/adapter_config.json", "adapters/low/adapter_model.safetensors", "README.md", "router/head.json",
         f"adapters/{'l' * 150}/head.json")  # fmt: skip


def test_each_adapter_has_an_artifact_that_names_the_version(folder: Folder) -> None:
    version = version_artifact(contents(folder, *PATHS), "v1.0.0", "")
    found = adapter_artifacts(contents(folder, *PATHS), "v1.0.0", version.subject)
    assert [each.tag for each in found] == ["", "v1.0.0_adapters_low"]  # the other tag would be too long
    assert {each.manifest.subject.digest for each in found if each.manifest.subject} == {version.digest}
    titles = [layer.said(oci.TITLE) for layer in found[1].manifest.layers]
    assert titles == ["adapters/low/adapter_config.json", "adapters/low/adapter_model.safetensors"]
    kinds = {layer.said(oci.FILE_PATH): layer.mediaType for layer in version.manifest.layers}
    assert kinds["adapters/low/adapter_model.safetensors"] == oci.WEIGHTS_TYPE
    assert (kinds["README.md"], kinds["version.json"]) == (oci.PAGES_TYPE, oci.SETTINGS_TYPE)


def test_the_same_version_has_the_same_digest_everywhere(folder: Folder) -> None:
    one, two = (version_artifact(contents(folder, *PATHS), "v1.0.0", "") for _ in range(2))
    assert one.digest == two.digest
    assert one.digest != version_artifact(contents(folder, *PATHS), "v1.0.0", f"sha256:{'0' * 64}").digest


def test_a_version_of_too_many_files_is_refused(folder: Folder) -> None:
    many = version_artifact(contents(folder, *(f"config/{'a' * 100}{number}" for number in range(12_000))), "t", "")
    with pytest.raises(BadInput, match="too many for one OCI artifact"):
        _ = many.body


@pytest.mark.parametrize("key_of", [layout.evidence, layout.outcomes, layout.signature])
def test_a_document_finds_its_way_back(folder: Folder, key_of: object) -> None:
    assert callable(key_of)
    key = key_of("m", "v1.0.0", sha256(b"body"))
    layer = document_layer(contents(folder, *PATHS), key, b"body")
    assert document_key("m", "v1.0.0", layer.said(oci.TITLE)) == key
