"""Sign versions and check their signatures, with the OpenSSF library `model-signing`.

The signed bytes are exactly the manifest, `version.json`. It has the digest of every file, so one signature covers the
whole version; it has the model's and the version's name, so a signature can't be moved to another version. A signature
is a sigstore bundle in an object of its own; private keys are never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from registry.errors import BadSetting, NotTrusted
from registry.formats import canonical
from registry.formats.counts import counted
from registry.trust.keys import SigningKey, TrustedKey
from registry.trust.signatures import Signatures
from registry.trust.statement import model_signing, named_key, signing_folder, states_digest_of


def sign(
    signatures: Signatures, version: str, manifest: bytes, key: SigningKey, *, dry_run: bool = False
) -> tuple[str, bool]:
    """Sign a version. Return the signature's sha256 and whether it is new: an earlier one by this key is used again.

    Raises:
        BadInput: the key or a certificate can't be used.
        MissingDependency: `model-signing` is not installed.
        Conflict: the version has the maximum number of signatures.
    """
    public = key.public_key()
    for existing in signatures.of(version):
        if is_signed_by(public, manifest, existing):
            return canonical.sha256(existing), False
    signature = key.sign(manifest)
    if dry_run:
        signatures.check_room(version)
        return "", True
    return signatures.add(version, signature), True


class Trust:
    """The trusted keys. Their files are read at every check, so a new key needs no restart."""

    def __init__(self, keys: Sequence[Path]) -> None:
        """Raises: BadSetting: no key is given."""
        if not keys:
            raise BadSetting("trusted_keys is empty", hint="remove trusted_keys to accept unsigned versions")
        self._paths = tuple(keys)

    def check(self, manifest: bytes, signatures: Sequence[bytes], version: str) -> TrustedKey:
        """The key that signed a manifest.

        Args:
            manifest: exactly the bytes that are used afterwards.
            signatures: the stored signatures; invalid ones are skipped.
            version: its name, for messages.

        Raises:
            NotTrusted: it is unsigned, or not signed by any of the keys.
            BadSetting: a key can't be read.
            MissingDependency: `model-signing` is not installed.
        """
        model_signing()
        keys = [TrustedKey.read(path) for path in self._paths]
        matching = [signature for signature in signatures if states_digest_of(signature, manifest)]
        for signature in matching:
            for key in keys:
                if _is_by(key, manifest, signature):
                    return key
        trusted = "; ".join(map(str, keys))
        found = f"{counted(len(signatures), 'signature')}, none by a trusted key" if signatures else "it is unsigned"
        raise NotTrusted(
            f"{version} is not trusted: {found}. Trusted keys: {trusted}",
            hint=f"`ulora sign {version} --key PRIVATE.pem` signs it, after you have checked it",
        )


def is_signed_by(key: TrustedKey, manifest: bytes, signature: bytes) -> bool:
    """Whether a signature is by this key and on these bytes."""
    return states_digest_of(signature, manifest) and _is_by(key, manifest, signature)


def _is_by(key: TrustedKey, manifest: bytes, signature: bytes) -> bool:
    """Whether the library verifies a signature with a key; the caller has checked its statement."""
    _, verifying = model_signing()
    if key.kind == "public key" and named_key(signature) != key.fingerprint:
        return False
    with signing_folder(manifest) as place:
        (place / "signature.json").write_bytes(signature)
        (place / "key.pem").write_bytes(key.pem)
        config = verifying.Config()
        if key.kind == "public key":
            config.use_elliptic_key_verifier(public_key=place / "key.pem")
        else:
            config.use_certificate_verifier(certificate_chain=[place / "key.pem"])
        with suppress(Exception):  # the library raises many types for invalid signatures
            config.verify(place / "version.json", place / "signature.json")
            return True
    return False
