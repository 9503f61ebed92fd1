"""Which versions may be used here: what a trusted key signed, or what is composed of such, and nothing too old.

A composed version is nobody's to sign: a rollback of a part makes it in a second, at night. It is trusted if it can be
made again from versions that are trusted themselves: the same base, the same components, so the same content and name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.errors import BadInput, IntegrityError, NotFound, NotTrusted
from registry.names import VersionName
from registry.trust.signing import Signatures, Trust
from registry.versions.bindings import Versions
from registry.versions.compose import Piece, compose
from registry.versions.manifest import Manifest

_MOST = 32
"""Versions that one composed version may stand on, those of its parts counted too."""


@dataclass(frozen=True)
class Admission:
    """Decides about the versions of one model.

    Attributes:
        keys: files of the trusted keys; without any, signatures are not looked at.
        oldest: no version before it in the order of names is let in, nor one composed of such.
    """

    versions: Versions
    signatures: Signatures
    keys: Sequence[Path] = ()
    oldest: VersionName | None = None

    def check(self, manifest: Manifest) -> None:
        """Let a version in, by the very bytes that its manifest was read from.

        Raises:
            NotTrusted: it is neither signed by a trusted key nor composed of versions that are; or it is too old.
            BadSetting: a trusted key can't be read.
            MissingDependency: the package `model-signing` is not installed.
        """
        if self.keys or self.oldest is not None:
            _Check(self).check(manifest)


@dataclass
class _Check:
    """One decision; `begun` are the versions that it has looked at, `admitted` those of them that are let in."""

    admission: Admission
    begun: set[str] = field(default_factory=set)
    admitted: set[str] = field(default_factory=set)

    def check(self, manifest: Manifest) -> None:
        if manifest.sha256 in self.admitted:
            return
        if manifest.sha256 in self.begun:  # else two versions could vouch for each other
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
                f"{manifest.version} comes before {oldest}, the oldest version that may be served here",
                hint="go to a later one, or lower minimum_version (ULORA_MINIMUM_VERSION) on the replicas",
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
            base, parts = self._sources(manifest)
            pieces = [Piece.of(part, name) for name, part in parts.items()]
            again = compose(base, pieces).manifest(manifest.timestamp)
        except (NotTrusted, BadInput, NotFound, IntegrityError) as error:
            hint = error.hint or unsigned.hint
            raise NotTrusted(f"{unsigned}; nor is all that it is composed of: {error}", hint=hint) from error
        if (again.content_sha256, again.version) != (manifest.content_sha256, manifest.version):
            raise NotTrusted(
                f"{unsigned}; and what it says to be composed of makes {again.version}", hint=unsigned.hint
            )
        if again.sha256 != manifest.sha256:  # what it says besides is nobody's whom we trust
            raise NotTrusted(f"{unsigned}; and it says more of itself than that it is composed", hint=unsigned.hint)

    def _sources(self, manifest: Manifest) -> tuple[Manifest, dict[str, Manifest]]:
        """The version that a composed version is based on, and by component those that its parts come from, checked.

        A part from somebody's disk is left out.

        Raises:
            NotTrusted: it does not say, or one of them is not let in itself.
        """
        composed = manifest.provenance["composed"]
        try:
            stored = {name: origin for name, origin in composed["components"].items() if "source" not in origin}
            if len(stored) >= _MOST:
                raise NotTrusted(f"{manifest.version} is composed of more than {_MOST} versions")
            base = self._source(composed["live"])
            return base, {name: self._source(origin) for name, origin in stored.items()}
        except (AttributeError, KeyError, TypeError) as error:
            raise NotTrusted(f"{manifest.version} does not say which versions it is composed of") from error

    def _source(self, origin: Mapping[str, Any]) -> Manifest:
        if len(self.begun) >= _MOST:
            raise NotTrusted(f"it stands on more than {_MOST} versions")
        binding = self.admission.versions.get(VersionName.parse(str(origin["version"])))
        found = self.admission.versions.manifest(binding.pointer)
        if found.content_sha256 != origin["content_sha256"]:
            raise NotTrusted(f"{found.version} is not what it was composed of")
        self.check(found)
        return found
