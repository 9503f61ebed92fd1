"""What belongs to a version in one place, read and verified before it is copied to another one."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import BadManifest, CorruptBlob, MissingBlob, ObjectNotFound, VersionNotFound
from registry.formats import canonical
from registry.names import VersionName
from registry.retention.copied_documents import VersionDocuments
from registry.store import layout
from registry.store.storage import ReadableStorage
from registry.versions.backbones import MirroredBackbone
from registry.versions.bindings import Binding
from registry.versions.manifest import FileEntry, Manifest


@dataclass(frozen=True)
class VersionContents:
    """What belongs to a version, read and verified, but for `documents`, which are read when they are copied."""

    binding: Binding
    manifest: Manifest
    manifest_file: FileEntry
    backbone: MirroredBackbone | None
    documents: VersionDocuments
    notes: tuple[str, ...]

    @property
    def blobs(self) -> list[FileEntry]:
        """All blobs, each once."""
        weights = [self.backbone.weights] if self.backbone else []
        files = [*self.manifest.files, self.manifest_file, *weights]
        return list({file.sha256: file for file in files}.values())


def read_contents(source: ReadableStorage, model: str, name: VersionName) -> VersionContents:
    """Read a version of a source, with what is said of it there.

    Raises:
        VersionNotFound: the source does not have it.
        MissingBlob, CorruptBlob, BadManifest: it is damaged there.
    """
    key = layout.version(model, str(name))
    try:
        binding = Binding.parse(source.get(key, Binding.LIMIT).body, key)
    except ObjectNotFound as error:
        raise VersionNotFound(f"{source.url} has no {model} {name}") from error
    body = _read_blob(source, binding.manifest_sha256)
    manifest = Manifest.parse(body, f"the manifest of {name}")
    says = (binding.model, binding.version, manifest.model, manifest.version, manifest.content_sha256)
    if says != (model, str(name), model, str(name), binding.content_sha256):
        raise BadManifest(f"{key} and the manifest that it names are about different versions")
    backbone, notes = _read_backbone(source, manifest)
    documents = VersionDocuments.of(source, model, str(name))
    manifest_file = FileEntry(path="version.json", size=len(body), sha256=binding.manifest_sha256)
    return VersionContents(binding, manifest, manifest_file, backbone, documents, tuple(notes))


def _read_blob(source: ReadableStorage, digest: str) -> bytes:
    try:
        body = source.get(layout.blob(digest)).body
    except ObjectNotFound as error:
        raise MissingBlob(f"the manifest, blob {digest}, is not in {source.url}") from error
    if canonical.sha256(body) != digest:
        raise CorruptBlob(f"corrupt: SHA-256 mismatch (the manifest, blob {digest}, in {source.url})")
    return body


def _read_backbone(source: ReadableStorage, manifest: Manifest) -> tuple[MirroredBackbone | None, list[str]]:
    if manifest.backbone is None:
        return None, []
    key = layout.backbone(manifest.backbone.sha256)
    try:
        mirrored = MirroredBackbone.parse(source.get(key).body, key)
    except ObjectNotFound:
        hint = "the target must get it in another way, see `ulora backbone add`"
        return None, [f"{source.url} does not hold the backbone {manifest.backbone.name}: {hint}"]
    if mirrored.backbone.sha256 != manifest.backbone.sha256:
        raise BadManifest(f"{key} is about other weights, {mirrored.backbone.sha256}")
    return mirrored, []
