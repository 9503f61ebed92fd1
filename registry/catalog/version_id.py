"""What tells the versions of a store apart: the name and the manifest's digest, never the name alone."""

from __future__ import annotations

from typing import NamedTuple, Protocol, Self


class Named(Protocol):
    """What names a version exactly, such as a pointer of a channel."""

    @property
    def version(self) -> str: ...
    @property
    def manifest_sha256(self) -> str: ...


class Known(Named, Protocol):
    """A version that a store knows, such as its binding; everything that MLflow is asked for."""

    @property
    def model(self) -> str: ...
    @property
    def content_sha256(self) -> str: ...


class VersionId(NamedTuple):
    """A version within one store."""

    version: str
    manifest_sha256: str

    @classmethod
    def of(cls, named: Named) -> Self:
        """The identity of what a pointer, a binding or a script names."""
        return cls(named.version, named.manifest_sha256)
