"""A reference to a version, as channels and retention notes store it."""

from __future__ import annotations

from pydantic import Field

from registry.formats.document import DocumentPart, Sha256


class Pointer(DocumentPart):
    """A version, by name and by the digest of its manifest."""

    version: str = Field(max_length=120)
    manifest_sha256: Sha256
