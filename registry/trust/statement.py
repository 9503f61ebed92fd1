"""The one statement that a signature of a version may contain, and access to the library `model-signing`.

`model-signing` hashes files by rules that it reads from the signature itself. So before it verifies a signature, the
signed statement must be the only one that is accepted here: this one file has this sha256, and no file is left out.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.errors import BadManifest, MissingDependency, install_hint
from registry.formats import canonical

MAX_SIGNATURE = 64 * 1024
"""Bytes of the largest signature that is read."""
_EXTRA = install_hint("signing")
_PREDICATE = "https://model_signing/signature/v1.0"


def states_digest_of(signature: bytes, manifest: bytes) -> bool:
    """Whether a signature's statement is exactly: this one file has the sha256 of these bytes."""
    try:
        bundle = canonical.decode(signature, "the signature", MAX_SIGNATURE)
        envelope = bundle["dsseEnvelope"]
        if set(bundle) != {"mediaType", "verificationMaterial", "dsseEnvelope"} or set(envelope) != {
            "payload", "payloadType", "signatures",
        }:  # fmt: skip
            return False  # with other fields the library could read another statement than is read here
        statement = canonical.decode(base64.b64decode(envelope["payload"], validate=True), "the statement")
        predicate = statement["predicate"]
        serialization = predicate["serialization"]
        return (
            statement["predicateType"] == _PREDICATE
            and (serialization["method"], serialization["hash_type"]) == ("files", "sha256")
            and predicate["resources"] == [{"name": ".", "algorithm": "sha256", "digest": canonical.sha256(manifest)}]
            and len(envelope["signatures"]) == 1
        )
    except (BadManifest, KeyError, TypeError, ValueError, binascii.Error):
        return False


def named_key(signature: bytes) -> object:
    """The fingerprint of the public key that a signature names; None if it has certificates."""
    try:
        return canonical.decode(signature, "the signature")["verificationMaterial"]["publicKey"]["hint"]
    except (KeyError, TypeError):
        return None


@contextmanager
def signing_folder(manifest: bytes) -> Iterator[Path]:
    """A private temporary folder with the manifest: the library reads files, not bytes."""
    with tempfile.TemporaryDirectory(prefix="ulora-signing-") as folder:
        (Path(folder) / "version.json").write_bytes(manifest)
        yield Path(folder)


def model_signing() -> tuple[Any, Any]:
    """The library's modules `signing` and `verifying`, imported on first use because that takes half a second.

    Raises:
        MissingDependency: `model-signing` is not installed.
    """
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise MissingDependency(
            f"signatures need the package model-signing ({error.name} is not installed)", hint=_EXTRA
        ) from error
    return signing, verifying


def key_serialization() -> Any:
    """The module of `cryptography` that reads keys.

    Raises:
        MissingDependency: `cryptography` is not installed.
    """
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise MissingDependency("signatures need the package cryptography", hint=_EXTRA) from error
    return serialization
