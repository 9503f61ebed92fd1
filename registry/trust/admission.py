"""Decide which versions may be used: signed by a trusted key or composed of such versions, and not too old.

A composed version, which a partial rollback creates, needs no signature of its own. It is trusted if composing it again
from trusted versions, with the same base and components, gives the same content and name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import BadInput, IntegrityError, NotFound, NotTrusted
from registry.names import VersionName
from registry.trust.signatures import Signatures
from registry.trust.signing import Trust
from registry.versions.bindings import Bindings
from registry.versions.compose import ComponentFiles, compose
from registry.versions.manifest import Manifest

_MAX_SOURCES = 32
"""The largest number of versions that a composed version may be made from, directly or indirectly."""


@dataclass(frozen=True)
class Admission:
    """Decides which versions of one model may be used.

    Attributes:
        keys: files of the trusted keys; if empty, signatures are not checked.
        oldest: versions before it in the order of names are refused, and versions composed of them.
    """

    bindings: Bindings
    signatures: Signatures
    keys: Sequence[Path] = ()
    oldest: VersionName | None = None

    def check(self, manifest: Manifest) -> None:
        """Check that a version may be used, by the bytes that its manifest was read from.

        Raises:
            NotTrusted: it is neither signed by a trusted key nor composed of signed versions, or it is too old.
            BadSetting: a trusted key can't be read.
            MissingDependency: the package `model-signing` is not installed.
        """
        if self.keys or self.oldest is not None:
            _Check(self).check(manifest)


@dataclass
class _Check:
    """One decision; `begun` are the versions whose check has begun, `admitted` those that passed."""

    admission: Admission
    begun: set[str] = field(default_factory=set)
    admitted: set[str] = field(default_factory=set)

    def check(self, manifest: Manifest) -> None:
        if manifest.sha256 in self.admitted:
            return
        if manifest.sha256 in self.begun:  # otherwise two versions could be trusted because of each other
            raise NotTrusted(f"{manifest.version} is composed of itself")
        self.begun.add(manifest.sha256)
        self._decide(manifest)
        self.admitted.add(manifest.sha256)

    def _decide(self, manifest: Manifest) -> None:
        self._check_age(manifest)
        if self.admission.keys:
            self._check_signed(manifest)
        elif manifest.is_composed:
            self._sources(manifest)

    def _check_age(self, manifest: Manifest) -> None:
        oldest = self.admission.oldest
        if oldest is not None and manifest.name < oldest:
            raise NotTrusted(
                f"{manifest.version} is older than {oldest}, the oldest version that may be served here",
                hint="choose a newer version, or lower minimum_version (ULORA_MINIMUM_VERSION) on the replicas",
            )

    def _check_signed(self, manifest: Manifest) -> None:
        signatures = self.admission.signatures.of(manifest.version)
        try:
            Trust(self.admission.keys).check(manifest.to_bytes(), signatures, manifest.version)
        except NotTrusted as unsigned:
            if not manifest.is_composed:
                raise
            self._check_composed(manifest, unsigned)

    def _check_composed(self, manifest: Manifest, unsigned: NotTrusted) -> None:
        try:
            base, sources = self._sources(manifest)
            replacements = [ComponentFiles.of(source, name) for name, source in sources.items()]
            again = compose(base, replacements).manifest(manifest.timestamp)
        except (NotTrusted, BadInput, NotFound, IntegrityError) as error:
            hint = error.hint or unsigned.hint
            raise NotTrusted(
                f"{unsigned}; a version that it is composed of is not trusted either: {error}", hint=hint
            ) from error
        if (again.content_sha256, again.version) != (manifest.content_sha256, manifest.version):
            raise NotTrusted(f"{unsigned}; composing it again gives {again.version}", hint=unsigned.hint)
        if again.sha256 != manifest.sha256:  # its other fields are not signed by anybody
            raise NotTrusted(f"{unsigned}; it has fields that composing does not give", hint=unsigned.hint)

    def _sources(self, manifest: Manifest) -> tuple[Manifest, dict[str, Manifest]]:
        """The base of a composed version, and by component the versions that its components come from, checked.

        Components that come from a local folder are not included.

        Raises:
            NotTrusted: it does not name them, or one of them may not be used itself.
        """
        composed = manifest.provenance["composed"]
        try:
            stored = {name: origin for name, origin in composed["components"].items() if "source" not in origin}
            if len(stored) >= _MAX_SOURCES:
                raise NotTrusted(f"{manifest.version} is composed of more than {_MAX_SOURCES} versions")
            base = self._source(composed["live"])
            return base, {name: self._source(origin) for name, origin in stored.items()}
        except (AttributeError, KeyError, TypeError) as error:
            raise NotTrusted(f"{manifest.version} does not say which versions it is composed of") from error

    def _source(self, origin: Mapping[str, Any]) -> Manifest:
        if len(self.begun) >= _MAX_SOURCES:
            raise NotTrusted(f"it is composed of more than {_MAX_SOURCES} versions")
        binding = self.admission.bindings.get(VersionName.parse(str(origin["version"])))
        found = self.admission.bindings.manifest(binding.pointer)
        if found.content_sha256 != origin["content_sha256"]:
            raise NotTrusted(f"{found.version} has other content than when it was composed")
        self.check(found)
        return found
