"""Signatures on manifests, by the OpenSSF `model-signing` library, and the keys whose signatures are trusted.

What is signed is a manifest's exact bytes, `version.json`. They hold the digest of every file, so one signature covers
all of a version; they name the model and the version, so a signature can't be moved to another. A signature is a
sigstore bundle of its own beside the version; keys never enter the store.

`model-signing` verifies what it is told to hash, by rules that it reads from the signature itself. So before it is
asked, the signed statement must say the one thing that counts here, in the one way in which it is said here.
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from registry.errors import (
    BadInput,
    BadManifest,
    BadSetting,
    Conflict,
    MissingDependency,
    NotTrusted,
    ObjectNotFound,
    first_line,
)
from registry.formats import canonical
from registry.parallel import in_parallel
from registry.store import layout
from registry.store.objects import ObjectStore

MAX_SIGNATURES = 64
"""Of one version: the oldest of them are read, and no more are written."""
_MAX_LISTED = 10_000
"""Objects among which the oldest are looked for."""
MAX_SIGNATURE = 64 * 1024
"""Bytes of the largest one that is read."""
_MAX_KEY = 256 * 1024
_EXTRA = "pip install 'ulora-registry[signing]'"
_PREDICATE = "https://model_signing/signature/v1.0"
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


# --- keys ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrustedKey:
    """A PEM file with a public key, or with one or more CA certificates.

    Attributes:
        name: how people know it: its path.
        fingerprint: of a public key, the sha256 in hex that signatures name it by; of certificates, that of the file.
    """

    name: str
    kind: Literal["public key", "certificate"]
    pem: bytes = field(repr=False)
    fingerprint: str

    @classmethod
    def read(cls, path: Path) -> TrustedKey:
        """Read a key or certificates.

        Raises:
            BadSetting: it can't be read, or is neither.
            MissingDependency: `model-signing` is not installed.
        """
        pem = _read_key(path, "trusted key")
        labels = {label.decode() for label in _PEM.findall(pem)}
        if any("PRIVATE" in label for label in labels):
            raise BadSetting(
                f"the trusted key {path} is a private key",
                hint="`openssl ec -in KEY.pem -pubout` writes its public key",
            )
        if labels == {"CERTIFICATE"}:
            return cls(str(path), "certificate", pem, canonical.sha256(pem))
        if labels != {"PUBLIC KEY"}:
            raise BadSetting(f"the trusted key {path} is neither a PEM public key nor PEM certificates")
        return cls.of_public_key(str(path), pem)

    @classmethod
    def of_public_key(cls, name: str, pem: bytes) -> TrustedKey:
        """A public key from its PEM form.

        Raises:
            BadSetting: it is none on a NIST curve.
        """
        serialization = _serialization()
        try:
            key = serialization.load_pem_public_key(pem)
            curve = key.curve.name
        except Exception as error:  # whatever the parser stumbles over, it is no key that can be used
            raise BadSetting(f"the trusted key {name} is no elliptic-curve public key: {error}") from error
        if curve not in ("secp256r1", "secp384r1", "secp521r1"):
            raise BadSetting(f"the trusted key {name} is on the curve {curve}", hint="P-256, P-384 and P-521 are known")
        normal = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(name, "public key", normal, canonical.sha256(normal))

    def __str__(self) -> str:
        return f"{self.name} ({self.kind} {self.fingerprint[:12]})"


@dataclass(frozen=True)
class SigningKey:
    """What a version is signed with: an elliptic-curve private key, and perhaps the certificate that vouches for it.

    Attributes:
        key: PEM file of the private key; its bytes are read only by `sign`, and go nowhere.
        certificate: PEM file of the certificate of this key, `chain` those between it and a trusted one.
        password: of an encrypted key.
    """

    key: Path
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises: BadInput: the parts do not fit together."""
        if self.chain and not self.certificate:
            raise BadInput("a chain needs the certificate that it leads to", hint="add --certificate CERT.pem")
        if self.certificate and self.password is not None:
            raise BadInput("a key with a certificate can't be encrypted: model-signing takes no password for it")

    def public_key(self) -> TrustedKey:
        """The public key of this private key.

        Raises:
            BadInput: it can't be read, is encrypted with another password, or no elliptic-curve key.
        """
        serialization = _serialization()
        pem = _read_key(self.key, "private key")
        try:
            private = serialization.load_pem_private_key(pem, self.password.encode() if self.password else None)
            public = private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        except TypeError as error:
            raise BadInput(
                f"the private key {self.key} is encrypted, or a password was given for one that is not",
                hint="ULORA_KEY_PASSWORD holds the password of an encrypted key",
            ) from error
        except Exception as error:  # as above; the message of a parser never quotes the key
            raise BadInput(
                f"the private key {self.key} can't be used: wrong password, or no PEM private key"
            ) from error
        if self.key.stat().st_mode & stat.S_IROTH:
            warnings.warn(
                f"the private key {self.key} can be read by everybody on this machine: chmod 600", stacklevel=2
            )
        try:
            return TrustedKey.of_public_key(f"the public key of {self.key}", public)
        except BadSetting as error:
            raise BadInput(str(error), hint="`openssl ecparam -name prime256v1 -genkey -noout` makes one") from error

    def sign(self, manifest: bytes) -> bytes:
        """A signature on a manifest's bytes.

        Raises:
            BadInput: the key or a certificate can't be used.
            MissingDependency: `model-signing` is not installed.
        """
        signing, _ = _model_signing()
        with _workplace(manifest) as place:
            try:
                self._configure(signing.Config()).sign(place / "version.json", place / "signature.json")
            except Exception as error:  # the library lets through whatever its parsers raise
                raise BadInput(f"{self.certificate or self.key} can't sign: {first_line(error)}") from error
            signature = (place / "signature.json").read_bytes()
        if len(signature) > MAX_SIGNATURE:
            raise BadInput(f"a signature with this chain has {len(signature)} bytes, more than {MAX_SIGNATURE}")
        if not _is_about(signature, manifest):
            raise MissingDependency("this release of model-signing writes signatures in a form that is not known here")
        return signature

    def _configure(self, config: Any) -> Any:
        if self.certificate:
            chain = self.chain or (self.certificate,)  # the library's parser takes no empty one
            return config.use_certificate_signer(
                private_key=self.key, signing_certificate=self.certificate, certificate_chain=chain
            )
        password: Any = self.password.encode() if self.password else None  # what the library's parser takes
        return config.use_elliptic_key_signer(private_key=self.key, password=password)


# --- trust -----------------------------------------------------------------------------------------------------------


class Trust:
    """The keys whose signatures are accepted. Their files are read at every check: a new key needs no restart."""

    def __init__(self, keys: Sequence[Path]) -> None:
        """Raises: BadSetting: there are none."""
        if not keys:
            raise BadSetting("no trusted key is named", hint="leave trusted_keys out to accept unsigned versions")
        self._paths = tuple(keys)

    def check(self, manifest: bytes, signatures: Sequence[bytes], version: str) -> TrustedKey:
        """The key that signed a manifest.

        Args:
            manifest: the very bytes that are used afterwards.
            signatures: what is there beside it; whatever of it is garbage is passed over.
            version: names it in errors.

        Raises:
            NotTrusted: it is unsigned, or signed by none of the keys.
            BadSetting: a key can't be read.
            MissingDependency: `model-signing` is not installed.
        """
        _model_signing()
        keys = [TrustedKey.read(path) for path in self._paths]
        said = [signature for signature in signatures if _is_about(signature, manifest)]
        for signature in said:
            for key in keys:
                if _is_by(key, manifest, signature):
                    return key
        trusted = "; ".join(map(str, keys))
        found = f"{len(signatures)} signatures, none by a trusted key" if signatures else "it is unsigned"
        raise NotTrusted(
            f"{version} is not trusted: {found}. Tried were {trusted}",
            hint=f"`ulora sign {version} --key PRIVATE.pem` signs it, if it is what its name promises",
        )


def is_signed_by(key: TrustedKey, manifest: bytes, signature: bytes) -> bool:
    """Whether this is a signature of this key on these bytes."""
    return _is_about(signature, manifest) and _is_by(key, manifest, signature)


def _is_about(signature: bytes, manifest: bytes) -> bool:
    """Whether a bundle's statement is: this one file has this sha256, and nothing is left out."""
    try:
        bundle = canonical.decode(signature, "the signature", MAX_SIGNATURE)
        envelope = bundle["dsseEnvelope"]
        if set(bundle) != {"mediaType", "verificationMaterial", "dsseEnvelope"} or set(envelope) != {
            "payload", "payloadType", "signatures",
        }:  # fmt: skip
            return False  # under other names the library could find another statement than we do
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


def _is_by(key: TrustedKey, manifest: bytes, signature: bytes) -> bool:
    """Whether the library finds that a key signed this; for a statement that `_is_about` the manifest."""
    _, verifying = _model_signing()
    if key.kind == "public key" and _named_key(signature) != key.fingerprint:
        return False
    with _workplace(manifest) as place:
        (place / "signature.json").write_bytes(signature)
        (place / "key.pem").write_bytes(key.pem)
        config = verifying.Config()
        if key.kind == "public key":
            config.use_elliptic_key_verifier(public_key=place / "key.pem")
        else:
            config.use_certificate_verifier(certificate_chain=[place / "key.pem"])
        with suppress(Exception):  # bad signatures raise anything, from ValueError to what OpenSSL's binding has
            config.verify(place / "version.json", place / "signature.json")
            return True
    return False


def _named_key(signature: bytes) -> object:
    """The fingerprint of the public key that a bundle names, None for one with certificates."""
    try:
        return canonical.decode(signature, "the signature")["verificationMaterial"]["publicKey"]["hint"]
    except (KeyError, TypeError):
        return None


# --- the signatures in a store ---------------------------------------------------------------------------------------


class Signatures:
    """The signatures of a model's versions in the store. Create-only; whoever may write may add garbage, so bounded."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._model = model

    def of(self, version: str) -> list[bytes]:
        """What is stored as signatures of a version, each the bytes that its key says."""
        return [body for body in in_parallel(self._read, self._oldest(version)) if body is not None]

    def add(self, version: str, signature: bytes) -> str:
        """Store a signature and return its sha256.

        Raises:
            Conflict: the version has as many as are read.
        """
        self.check_room(version)
        digest = canonical.sha256(signature)
        self._store.create(layout.signature(self._model, version, digest), signature)
        return digest

    def check_room(self, version: str) -> None:
        """Check that one more signature would be read.

        Raises:
            Conflict: the version has as many as are read.
        """
        if len(self._oldest(version)) >= MAX_SIGNATURES:
            raise Conflict(
                f"{version} has {MAX_SIGNATURES} signatures: more are not read",
                hint="with the rights of policies/gc.json, delete those of keys that you do not know below "
                f"{layout.signature(self._model, version)} in the bucket",
            )

    def _oldest(self, version: str) -> list[str]:
        """The keys that are read. By the server's clock: what is put there later can't hide a signature."""
        infos = islice(self._store.list(layout.signature(self._model, version)), _MAX_LISTED)
        fitting = [(info.modified, info.key) for info in infos if info.modified and info.size <= MAX_SIGNATURE]
        return [key for _, key in sorted(fitting)[:MAX_SIGNATURES]]

    def _read(self, key: str) -> bytes | None:
        with suppress(ObjectNotFound, BadManifest):  # deleted meanwhile, or grown: as good as not there
            body = self._store.get(key, MAX_SIGNATURE).body
            if key.endswith(f"/{canonical.sha256(body)}.json"):
                return body
        return None


def sign(
    signatures: Signatures, version: str, manifest: bytes, key: SigningKey, *, dry_run: bool = False
) -> tuple[str, bool]:
    """Sign a version; the signature's sha256, and whether it is new: one that this key made before is enough.

    Raises:
        BadInput, MissingDependency, Conflict: see `SigningKey.sign` and `Signatures.add`.
    """
    public = key.public_key()
    for there in signatures.of(version):
        if is_signed_by(public, manifest, there):
            return canonical.sha256(there), False
    signature = key.sign(manifest)
    if dry_run:
        signatures.check_room(version)
        return "", True
    return signatures.add(version, signature), True


# --- parts -----------------------------------------------------------------------------------------------------------


def _read_key(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY + 1)
    except OSError as error:
        raise BadSetting(f"the {what} {path} can't be read: {error.strerror}") from error
    if len(data) > _MAX_KEY:
        raise BadSetting(f"the {what} {path} is larger than {_MAX_KEY} bytes: it is no key")
    return data


@contextmanager
def _workplace(manifest: bytes) -> Iterator[Path]:
    """A folder that only this user can look into, with the manifest: the library takes paths, not bytes."""
    with tempfile.TemporaryDirectory(prefix="ulora-signing-") as folder:
        (Path(folder) / "version.json").write_bytes(manifest)
        yield Path(folder)


def _model_signing() -> tuple[Any, Any]:
    """The library's `signing` and `verifying`, imported on first use: half a second."""
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise MissingDependency(
            f"signatures need the package model-signing ({error.name} is not installed)", hint=_EXTRA
        ) from error
    return signing, verifying


def _serialization() -> Any:
    """How `cryptography`, which model-signing needs too, reads keys."""
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise MissingDependency("signatures need the package cryptography", hint=_EXTRA) from error
    return serialization
