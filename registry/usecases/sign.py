"""Sign versions, and give manifests only of versions that are trusted."""

from __future__ import annotations

from pathlib import Path

from registry.answers import Signed
from registry.errors import NotTrusted
from registry.trust.keys import SigningKey
from registry.trust.signing import sign as sign_manifest
from registry.usecases.checks import check_trusted
from registry.versions.manifest import Manifest
from registry.wiring import Wiring

_FEWEST_DIGITS = 12


def sign(wiring: Wiring, version: str, key: SigningKey | Path, *, content_sha256: str | None, dry_run: bool) -> Signed:
    """Sign a version's manifest; see `Registry.sign`."""
    key = key if isinstance(key, SigningKey) else SigningKey(key)
    manifest, public = wiring.manifest(version), key.public_key()
    if content_sha256 is not None and not _starts(manifest.content_sha256, content_sha256):
        raise NotTrusted(
            f"{version} holds {manifest.content_sha256}, not {content_sha256}; it was not signed",
            hint=f"`ulora show {version}` says what it is and where it comes from",
        )
    if not dry_run:
        wiring.check_writable()
    signature, is_new = sign_manifest(wiring.signatures, version, manifest.to_bytes(), key, dry_run=dry_run)
    return Signed(wiring.model, version, manifest.sha256, public.fingerprint, signature, is_new)


def trusted_manifest(wiring: Wiring, version: str) -> Manifest:
    """The manifest of a version that is trusted; see `Registry.trusted_manifest`."""
    manifest = wiring.manifest(version)
    check_trusted(wiring, manifest)
    return manifest


def _starts(digest: str, beginning: str) -> bool:
    return len(beginning) >= _FEWEST_DIGITS and digest.startswith(beginning)
