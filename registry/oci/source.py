"""A version in an OCI registry, read as if it were a store with this one version.

Nothing is believed that can be checked: the manifest has the digest by which it was asked for, version.json the one
that the manifest names, and the layers are exactly the files that version.json lists. The bytes of each are checked by
who reads them. No path of a registry is ever a path on a disk here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from registry.errors import BadInput, BadManifest, MissingBlob, ObjectNotFound, UnsafePath, VersionNotFound
from registry.formats import canonical
from registry.formats.counts import counted
from registry.names import VersionName
from registry.oci import documents as oci
from registry.oci.artifacts import MIRRORED, document_key
from registry.oci.attached import read_attached
from registry.oci.documents import OciManifest
from registry.oci.repository import OciRepository
from registry.parallel import time_limit
from registry.store import layout
from registry.store.object_info import ObjectInfo, StoredObject
from registry.tree.version_folder import whole_version
from registry.versions.bindings import Binding
from registry.versions.manifest import MAX_FILE, Manifest, check_path

SECONDS = 600.0
"""For all that is read before the first file."""


class OciSource:
    """A `StreamedStorage` with one version. Threads may share it.

    Attributes:
        notes: what the caller should know.
    """

    def __init__(self, repository: OciRepository, model: str, version: VersionName) -> None:
        """Read what there is, but for the files.

        Raises:
            VersionNotFound: there is no such tag or digest.
            BadManifest, CorruptBlob, MissingBlob, UnsafePath: it is not this version, or is damaged.
            OciUnreachable, OciDenied: the registry does not answer.
        """
        self._repository, self._model = repository, model
        self._bodies: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        """Of what is read when it is asked for, by key."""
        with time_limit(SECONDS):
            found = repository.find(repository.reference.wanted)
            if found is None:
                raise VersionNotFound(
                    f"{repository.reference} is not there",
                    hint=f"the tag of {version} is {version}, if it was not given another one",
                )
            artifact = OciManifest.parse(found.body, str(repository.reference))
            manifest = self._read_version(artifact, version)
            self._read_backbone(artifact, manifest)
            attached = read_attached(repository, found.digest)
        self.digest, self.notes = found.digest, attached.notes
        for title, layer in attached.documents.items():
            self._sizes[document_key(model, str(version), title)] = layer.size

    @property
    def url(self) -> str:
        """Its reference."""
        return str(self._repository.reference)

    @property
    def address(self) -> str:
        """Its reference: no store is at such an address."""
        return self.url

    def get(self, key: str, limit: int = canonical.MAX_DOCUMENT) -> StoredObject:
        """Read a document or a small blob, verified.

        Raises:
            ObjectNotFound: there is none with this key.
            BadManifest: it is larger than `limit`.
            CorruptBlob: it does not have its digest.
        """
        body = self._bodies.get(key)
        if body is None:
            if key not in self._sizes:
                raise ObjectNotFound(key)
            if self._sizes[key] > limit:
                raise BadManifest(f"{key} in {self.url} is larger than the {limit} bytes that are allowed")
            body = self._repository.read_blob(_digest_in(key), self._sizes[key])
        return StoredObject(body, datetime.now(UTC), 0.0)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """What is attached to the version below a prefix, in order."""
        for key in sorted(self._sizes):
            if key.startswith(prefix):
                yield ObjectInfo(key, self._sizes[key])

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        """The bytes that the registry gives for a blob of the version; the caller checks them.

        Raises:
            MissingBlob: the registry, or the version there, does not have it.
            BadInput: it is too large for a file of a version.
        """
        if self._sizes.get(key) != size:
            raise MissingBlob(f"{key} with {size} bytes is not in {self.url}")
        if size > MAX_FILE:
            raise BadInput(f"{key} has {size} bytes, more than the {MAX_FILE} that a file may have")
        yield from self._repository.stream_blob(_digest_in(key), size)

    # --- reading the manifests ---------------------------------------------------------------------------------------

    def _read_version(self, artifact: OciManifest, version: VersionName) -> Manifest:
        digest = artifact.said(oci.MANIFEST_SHA256)
        sizes = {layer.sha256: layer.size for layer in artifact.layers}
        if artifact.artifactType != oci.MODEL_TYPE or not digest or digest not in sizes:
            raise BadManifest(
                f"{self.url} is not a version of ulora", hint="`ulora store copy V --to oci://…` makes such artifacts"
            )
        if sizes[digest] > Manifest.LIMIT:
            raise BadManifest(f"version.json in {self.url} has {sizes[digest]} bytes, more than {Manifest.LIMIT}")
        body = self._repository.read_blob(digest, sizes[digest])
        manifest = Manifest.parse(body, f"version.json in {self.url}")
        if (manifest.model, manifest.version) != (self._model, str(version)):
            raise BadManifest(
                f"{self.url} is {manifest.model} {manifest.version}, not {self._model} {version}",
                hint="name that version, with --model if it is another model",
            )
        self._check_layers(artifact, manifest)
        self._sizes |= {layout.blob(file.sha256): file.size for file in manifest.files}
        self._sizes[layout.blob(digest)] = len(body)
        self._bodies[layout.blob(digest)] = body
        self._bodies[layout.version(self._model, str(version))] = Binding.of(manifest, digest).to_bytes()
        return manifest

    def _check_layers(self, artifact: OciManifest, manifest: Manifest) -> None:
        """Check that the layers are the files that version.json lists, by path, digest and size."""
        layers = {(layer.said(oci.TITLE), layer.sha256, layer.size) for layer in artifact.layers}
        for path in (path for layer in artifact.layers for path in (layer.said(oci.TITLE), layer.said(oci.FILE_PATH))):
            try:
                check_path(path)
            except ValueError as error:
                raise UnsafePath(f"{self.url} has a file that can't be in a folder: {error}") from error
        files = {(file.path, file.sha256, file.size) for file in whole_version(manifest).files}
        if layers != files:
            raise BadManifest(
                f"{self.url} is not what its version.json says: {counted(len(files - layers), 'file')} missing or "
                f"changed, {counted(len(layers - files), 'other layer')}"
            )

    def _read_backbone(self, artifact: OciManifest, manifest: Manifest) -> None:
        """Find the backbone, if the version was sent with one."""
        wanted = artifact.said(oci.BASE_DIGEST)
        if manifest.backbone is None or not wanted:
            return
        found = self._repository.find(wanted) if wanted.startswith("sha256:") and len(wanted) == 71 else None
        if found is None:
            raise BadManifest(f"the backbone of {self.url}, manifest {wanted[:80]}, is not there")
        layers = OciManifest.parse(found.body, f"the backbone of {self.url}").layers
        document = next((layer for layer in layers if layer.said(oci.TITLE) == MIRRORED and layer.sha256), None)
        if document is None or document.size > canonical.MAX_DOCUMENT:
            raise BadManifest(f"the backbone of {self.url} has no document {MIRRORED}")
        body = self._repository.read_blob(document.sha256, document.size)
        self._bodies[layout.backbone(manifest.backbone.sha256)] = body
        self._sizes |= {
            layout.blob(layer.sha256): layer.size for layer in layers if layer.sha256 == manifest.backbone.sha256
        }


def _digest_in(key: str) -> str:
    """The digest that ends the key of a blob or of a document."""
    return key.rpartition("/")[2].partition(".")[0]
