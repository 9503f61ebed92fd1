"""A version as OCI artifacts: one of all its files, one for each adapter, one for its backbone, and what is said of it.

    TAG                       the version: every file a layer, and version.json         (ModelPack)
    TAG_adapters_<target>     the files of one adapter, a PEFT folder                   (ModelPack)
    backbone-<digest>         the backbone: config.json and model.safetensors           (ModelPack)
    by digest                 each signature, and batches of evidence

A layer is a file as it is, so its digest is that of the store's blob, and a registry keeps it once. Its title is its
path in a restored version: everything can be pulled into one folder. Adapters, signatures and evidence have the version
as their `subject`, so whoever has that finds them. All documents follow from the version alone: the same version gives
the same bytes, and so the same digests, from whatever machine it is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from registry.errors import BadInput
from registry.formats import canonical
from registry.formats.counts import counted
from registry.names import is_target_name
from registry.oci import documents as oci
from registry.oci.documents import OciDescriptor, OciManifest
from registry.oci.reference import is_tag
from registry.retention.version_contents import VersionContents
from registry.store import layout
from registry.tree.version_folder import whole_version
from registry.versions.backbones import MirroredBackbone
from registry.versions.manifest import FileEntry, Manifest

BACKBONE_FOLDER = "backbone"
MIRRORED = f"{BACKBONE_FOLDER}/mirrored.json"
"""The store's document on a backbone, in its artifact."""
_ADAPTERS = "adapters/"
_BATCH = 1_000
"""Documents of evidence in one artifact: about 300 bytes each, where registries take manifests of 4 MiB."""
_KINDS = {
    oci.WEIGHTS_TYPE: {".safetensors", ".bin", ".pt", ".pth", ".onnx", ".npz", ".npy"},
    oci.PAGES_TYPE: {".md", ".rst", ".pdf"},
    oci.CODE_TYPE: {".py", ".sh", ".ipynb"},
}
_NAMED_PAGES = {"readme", "license", "notice", "changelog"}


@dataclass(frozen=True)
class OciArtifact:
    """A manifest, and the small blobs that it needs and that are made here.

    Attributes:
        tag: empty where it is found by its digest only.
        made: bodies by sha256.
        found: the manifest's bytes in a registry, if it was read there.
    """

    tag: str
    manifest: OciManifest
    made: Mapping[str, bytes]
    found: bytes | None = None

    @property
    def body(self) -> bytes:
        """The manifest's bytes.

        Raises:
            BadInput: no registry would take so many.
        """
        body = self.manifest.to_bytes() if self.found is None else self.found
        if len(body) > oci.MAX_MANIFEST or len(self.manifest.layers) > oci.MAX_LAYERS:
            raise BadInput(
                f"{counted(len(self.manifest.layers), 'file')} are too many for one OCI artifact: its manifest would "
                f"have {len(body):,} bytes, and registries take {oci.MAX_MANIFEST:,}",
                hint="copy it to a folder or to another store",
            )
        return body

    @property
    def digest(self) -> str:
        """`sha256:…` of the manifest."""
        return f"sha256:{canonical.sha256(self.body)}"

    @property
    def subject(self) -> OciDescriptor:
        """What others say that they are about."""
        return OciDescriptor.of(self.body, oci.MANIFEST_TYPE)

    @property
    def descriptor(self) -> OciDescriptor:
        """What a list of referrers says of it."""
        return OciDescriptor.of(
            self.body, oci.MANIFEST_TYPE, artifact=self.manifest.artifactType, annotations=self.manifest.annotations
        )


def version_artifact(contents: VersionContents, tag: str, backbone_digest: str) -> OciArtifact:
    """The version: all its files and its manifest.

    Args:
        backbone_digest: that of the backbone's artifact, empty if there is none.

    Raises:
        UnsafePath: a file would lie in a folder that ulora uses itself.
    """
    annotations = _said_of(contents)
    if backbone_digest:
        annotations[oci.BASE_DIGEST] = backbone_digest
    return _model(tag, contents.manifest, whole_version(contents.manifest).files, annotations)


def adapter_artifacts(contents: VersionContents, tag: str, subject: OciDescriptor) -> list[OciArtifact]:
    """One for each adapter. One whose tag would be too long is found by its digest only."""
    found = []
    for name in sorted(contents.manifest.components):
        files = [file for file in contents.manifest.files if file.path.startswith(f"{name}/")]
        if name.startswith(_ADAPTERS) and is_target_name(name.removeprefix(_ADAPTERS)) and files:
            own = f"{tag}_{name.replace('/', '_')}"
            said = {**_said_of(contents), oci.COMPONENT: name}
            found.append(_model(own if is_tag(own) else "", contents.manifest, files, said, subject))
    return found


def backbone_artifact(mirrored: MirroredBackbone) -> OciArtifact:
    """The backbone, as a folder that transformers loads, with the store's document on it."""
    ref, document = mirrored.backbone, mirrored.to_bytes()
    settings = canonical.encode(ref.config)
    made = {canonical.sha256(body): body for body in (settings, document)}
    layers = (
        _layer(f"{BACKBONE_FOLDER}/config.json", OciDescriptor.of(settings, oci.SETTINGS_TYPE)),
        _layer(MIRRORED, OciDescriptor.of(document, oci.SETTINGS_TYPE)),
        _layer(f"{BACKBONE_FOLDER}/model.safetensors", _blob(mirrored.weights, oci.WEIGHTS_TYPE)),
    )
    config = _config({"name": ref.name, "family": ref.family}, layers)
    said = {oci.BACKBONE_SHA256: ref.sha256, oci.CREATED: mirrored.when}
    manifest = _manifest(oci.MODEL_TYPE, OciDescriptor.of(config, oci.MODEL_CONFIG_TYPE), layers, said)
    return OciArtifact(f"backbone-{ref.sha256[:16]}", manifest, {**made, canonical.sha256(config): config})


def signature_artifact(contents: VersionContents, document: OciDescriptor, subject: OciDescriptor) -> OciArtifact:
    """A signature: a sigstore bundle that states the digest of version.json, not that of the OCI manifest."""
    return _attached(oci.SIGNATURE_TYPE, contents, [document], subject)


def evidence_artifacts(
    contents: VersionContents, documents: Sequence[OciDescriptor], subject: OciDescriptor
) -> list[OciArtifact]:
    """Results and outcomes, in batches."""
    batches = [documents[start : start + _BATCH] for start in range(0, len(documents), _BATCH)]
    return [_attached(oci.EVIDENCE_TYPE, contents, batch, subject) for batch in batches]


def document_layer(contents: VersionContents, key: str, body: bytes) -> OciDescriptor:
    """A document of the store as a layer: its title is its key below the model, without the version."""
    model, version = contents.manifest.model, contents.manifest.version
    title = key.removeprefix(layout.model_folder(model)).replace(f"/{version}/", "/", 1)
    is_signature = key.startswith(layout.signature(model, version))
    media_type = oci.SIGNATURE_TYPE if is_signature else oci.DOCUMENT_TYPE
    return _layer(title, OciDescriptor.of(body, media_type))


def document_key(model: str, version: str, title: str) -> str:
    """The store's key of a document that has this title as a layer."""
    kind, _, name = title.partition("/")
    return f"{layout.model_folder(model)}{kind}/{version}/{name}"


def _said_of(contents: VersionContents) -> dict[str, str]:
    manifest = contents.manifest
    return {
        oci.CREATED: manifest.timestamp,
        oci.VERSION: manifest.version,
        oci.MODEL: manifest.model,
        oci.VERSION_NAME: manifest.version,
        oci.MANIFEST_SHA256: contents.binding.manifest_sha256,
        oci.CONTENT_SHA256: manifest.content_sha256,
    }


def _model(
    tag: str,
    version: Manifest,
    files: Iterable[FileEntry],
    annotations: Mapping[str, str],
    subject: OciDescriptor | None = None,
) -> OciArtifact:
    layers = tuple(_layer(file.path, _blob(file, _media_type(file.path))) for file in files)
    described = {"name": version.model, "version": version.version, "createdAt": version.timestamp}
    if version.backbone is not None:
        described["family"] = version.backbone.family
    config = _config(described, layers)
    manifest = _manifest(oci.MODEL_TYPE, OciDescriptor.of(config, oci.MODEL_CONFIG_TYPE), layers, annotations, subject)
    return OciArtifact(tag, manifest, {canonical.sha256(config): config})


def _attached(
    artifact_type: str, contents: VersionContents, layers: Sequence[OciDescriptor], subject: OciDescriptor
) -> OciArtifact:
    config = OciDescriptor.of(oci.EMPTY, oci.EMPTY_TYPE)
    manifest = _manifest(artifact_type, config, layers, _said_of(contents), subject)
    return OciArtifact("", manifest, {config.sha256: oci.EMPTY})


def _manifest(
    artifact_type: str,
    config: OciDescriptor,
    layers: Sequence[OciDescriptor],
    annotations: Mapping[str, str],
    subject: OciDescriptor | None = None,
) -> OciManifest:
    return OciManifest(
        schemaVersion=2, mediaType=oci.MANIFEST_TYPE, artifactType=artifact_type, config=config, layers=tuple(layers),
        subject=subject, annotations=dict(annotations),
    )  # fmt: skip


def _config(described: Mapping[str, str], layers: Iterable[OciDescriptor]) -> bytes:
    """ModelPack's configuration of a model. Layers are not packed, so their digests are those of their content."""
    return canonical.encode(
        {
            "descriptor": described,
            "config": {"architecture": "transformer", "format": "safetensors"},
            "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
        }
    )


def _blob(file: FileEntry, media_type: str) -> OciDescriptor:
    return OciDescriptor(mediaType=media_type, digest=f"sha256:{file.sha256}", size=file.size)


def _layer(path: str, described: OciDescriptor) -> OciDescriptor:
    return described.model_copy(update={"annotations": {oci.TITLE: path, oci.FILE_PATH: path}})


def _media_type(path: str) -> str:
    name = PurePosixPath(path.lower())
    if name.stem in _NAMED_PAGES:
        return oci.PAGES_TYPE
    return next((kind for kind, suffixes in _KINDS.items() if name.suffix in suffixes), oci.SETTINGS_TYPE)
