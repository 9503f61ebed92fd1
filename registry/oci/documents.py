"""The documents of an OCI registry (image specification 1.1), read strictly and bounded, and the names used in them.

A registry keeps the bytes that it was sent, so a document has one digest for ever. What comes from a registry is
somebody else's: sizes, numbers of layers and annotations are bounded before they are looked at.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.errors import BadManifest
from registry.formats import canonical
from registry.formats.document import first_problem

MAX_MANIFEST = 4 * 1024 * 1024
"""Bytes. The distribution specification lets registries refuse more, and most do."""
MAX_LAYERS = 20_000
MAX_LISTED = 5_000
"""Manifests in an index."""

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"

# CNCF ModelPack: https://github.com/modelpack/model-spec, docs/spec.md and docs/config.md.
MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHTS_TYPE = "application/vnd.cncf.model.weight.v1.raw"
SETTINGS_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
PAGES_TYPE = "application/vnd.cncf.model.doc.v1.raw"
CODE_TYPE = "application/vnd.cncf.model.code.v1.raw"
FILE_PATH = "org.cncf.model.filepath"

SIGNATURE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""What `model-signing` writes is such a bundle."""
EVIDENCE_TYPE = "application/vnd.ulora.evidence.v1+json"
"""Our own: no standard has one for results of benchmarks."""
DOCUMENT_TYPE = "application/vnd.ulora.document.v1"

TITLE = "org.opencontainers.image.title"
BASE_DIGEST = "org.opencontainers.image.base.digest"
CREATED = "org.opencontainers.image.created"
VERSION = "org.opencontainers.image.version"
MODEL = "vnd.ulora.model"
VERSION_NAME = "vnd.ulora.version"
MANIFEST_SHA256 = "vnd.ulora.manifest.sha256"
CONTENT_SHA256 = "vnd.ulora.content.sha256"
COMPONENT = "vnd.ulora.component"
BACKBONE_SHA256 = "vnd.ulora.backbone.sha256"

_Text = Annotated[str, Field(max_length=4096)]
_Type = Annotated[str, Field(max_length=255)]
_Annotations = Annotated[dict[Annotated[str, Field(max_length=255)], _Text], Field(max_length=64)]


class _OciPart(BaseModel):
    """Fields that we do not know are left out: others may put any there."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class OciDescriptor(_OciPart):
    """What a document says of other bytes. `size` is in bytes; `digest` may be of an algorithm that we do not know."""

    mediaType: _Type
    digest: str = Field(max_length=200)
    size: int = Field(ge=0, le=5 * 1024**4)
    artifactType: _Type | None = None
    annotations: _Annotations | None = None

    @classmethod
    def of(
        cls, body: bytes, media_type: str, *, artifact: str | None = None, annotations: dict[str, str] | None = None
    ) -> Self:
        """That of some bytes."""
        return cls(
            mediaType=media_type, digest=f"sha256:{canonical.sha256(body)}", size=len(body), artifactType=artifact,
            annotations=annotations,
        )  # fmt: skip

    @property
    def sha256(self) -> str:
        """The digest in hex; empty if it is of another algorithm."""
        algorithm, _, digest = self.digest.partition(":")
        is_known = algorithm == "sha256" and len(digest) == 64 and set(digest) <= set("0123456789abcdef")
        return digest if is_known else ""

    def said(self, annotation: str) -> str:
        """The value of an annotation, or the empty string."""
        return (self.annotations or {}).get(annotation, "")


class OciManifest(_OciPart):
    """An image manifest, which any artifact is."""

    schemaVersion: Literal[2]
    mediaType: Literal["application/vnd.oci.image.manifest.v1+json"]
    artifactType: _Type | None = None
    config: OciDescriptor
    layers: tuple[OciDescriptor, ...] = Field(max_length=MAX_LAYERS)
    subject: OciDescriptor | None = None
    annotations: _Annotations | None = None

    @classmethod
    def parse(cls, body: bytes, what: str) -> Self:
        """Read a manifest's bytes; `what` names it in errors.

        Raises:
            BadManifest: it is too large, not JSON, or not an image manifest.
        """
        canonical.decode(body, what, MAX_MANIFEST)
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise BadManifest(f"{what} is no OCI image manifest that is read here: {first_problem(error)}") from error

    def to_bytes(self) -> bytes:
        """Its canonical bytes."""
        return canonical.encode(self.model_dump(mode="json", exclude_none=True))

    def said(self, annotation: str) -> str:
        """The value of an annotation, or the empty string."""
        return (self.annotations or {}).get(annotation, "")


class OciIndex(_OciPart):
    """An image index: here the list of what refers to a manifest."""

    schemaVersion: Literal[2]
    mediaType: Literal["application/vnd.oci.image.index.v1+json"]
    manifests: tuple[OciDescriptor, ...] = Field(max_length=MAX_LISTED)

    @classmethod
    def parse(cls, body: bytes, what: str) -> Self:
        """Read an index's bytes.

        Raises:
            BadManifest: it is too large, not JSON, lists too much, or is not an image index.
        """
        canonical.decode(body, what, MAX_MANIFEST)
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise BadManifest(f"{what} is no OCI image index that is read here: {first_problem(error)}") from error

    def to_bytes(self) -> bytes:
        """Its canonical bytes."""
        return canonical.encode(self.model_dump(mode="json", exclude_none=True))
