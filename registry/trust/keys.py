"""The keys of signatures: private keys that sign, public keys and certificates that are trusted. Stored nowhere."""

from __future__ import annotations

import re
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from registry.errors import BadInput, BadSetting, MissingDependency, first_line, install_hint
from registry.formats import canonical
from registry.trust.statement import (
    MAX_SIGNATURE,
    key_serialization,
    model_signing,
    signing_folder,
    states_digest_of,
)

_MAX_KEY = 256 * 1024
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


@dataclass(frozen=True)
class TrustedKey:
    """A PEM file with a public key, or with one or more CA certificates.

    Attributes:
        name: its path, for messages.
        fingerprint: a sha256 in hex: of a public key, by which signatures name it; of certificates, of their file.
    """

    name: str
    kind: Literal["public key", "certificate"]
    pem: bytes = field(repr=False)
    fingerprint: str

    @classmethod
    def read(cls, path: Path) -> TrustedKey:
        """Read a key or certificates.

        Raises:
            BadSetting: it can't be read, or is neither a public key nor certificates.
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
            BadSetting: it is not a public key on a NIST curve.
        """
        serialization = key_serialization()
        try:
            key = serialization.load_pem_public_key(pem)
            curve = key.curve.name
        except Exception as error:  # the parser raises many types
            raise BadSetting(f"the trusted key {name} is not an elliptic-curve public key: {error}") from error
        if curve not in ("secp256r1", "secp384r1", "secp521r1"):
            raise BadSetting(
                f"the trusted key {name} is on the curve {curve}", hint="supported: P-256, P-384 and P-521"
            )
        normal = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(name, "public key", normal, canonical.sha256(normal))

    def __str__(self) -> str:
        return f"{self.name} ({self.kind} {self.fingerprint[:12]})"


@dataclass(frozen=True)
class SigningKey:
    """An elliptic-curve private key, and optionally its certificate.

    Attributes:
        key: PEM file of the private key; its bytes are never stored or sent.
        certificate: PEM file of the key's certificate; `chain` are the certificates between it and a trusted one.
        password: the password of an encrypted key.
    """

    key: Path
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises: BadInput: the parts do not fit together."""
        if self.chain and not self.certificate:
            raise BadInput("a certificate chain needs the certificate of the key", hint="add --certificate CERT.pem")
        if self.certificate and self.password is not None:
            raise BadInput(
                "a key with a certificate can't be encrypted: model-signing does not support a password for it"
            )

    def public_key(self) -> TrustedKey:
        """The public key of this private key.

        Raises:
            BadInput: it can't be read, the password is wrong, or it is not an elliptic-curve key.
        """
        serialization = key_serialization()
        pem = _read_key(self.key, "private key")
        try:
            private = serialization.load_pem_private_key(pem, self.password.encode() if self.password else None)
            public = private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        except TypeError as error:
            raise BadInput(
                f"the private key {self.key} is encrypted and needs a password, or is not encrypted and got one",
                hint="set ULORA_KEY_PASSWORD for an encrypted key only",
            ) from error
        except Exception as error:  # the parser raises many types; its messages never contain the key
            raise BadInput(
                f"the private key {self.key} can't be used: wrong password, or not a PEM private key"
            ) from error
        if self.key.stat().st_mode & stat.S_IROTH:
            warnings.warn(
                f"the private key {self.key} can be read by every user of this machine: run chmod 600", stacklevel=2
            )
        try:
            return TrustedKey.of_public_key(f"the public key of {self.key}", public)
        except BadSetting as error:
            raise BadInput(str(error), hint="`openssl ecparam -name prime256v1 -genkey -noout` creates one") from error

    def sign(self, manifest: bytes) -> bytes:
        """Sign a manifest's bytes.

        Raises:
            BadInput: the key or a certificate can't be used.
            MissingDependency: `model-signing` is not installed.
        """
        signing, _ = model_signing()
        with signing_folder(manifest) as place:
            try:
                self._configure(signing.Config()).sign(place / "version.json", place / "signature.json")
            except Exception as error:  # the library raises many types
                raise BadInput(f"{self.certificate or self.key} can't sign: {first_line(error, 300)}") from error
            signature = (place / "signature.json").read_bytes()
        if len(signature) > MAX_SIGNATURE:
            raise BadInput(
                f"the signature with this chain has {len(signature)} bytes, more than the allowed {MAX_SIGNATURE}"
            )
        if not states_digest_of(signature, manifest):
            raise MissingDependency(
                "this release of model-signing writes signatures in an unknown form",
                hint=install_hint("signing"),
            )
        return signature

    def _configure(self, config: Any) -> Any:
        if self.certificate:
            chain = self.chain or (self.certificate,)  # the library does not accept an empty chain
            return config.use_certificate_signer(
                private_key=self.key, signing_certificate=self.certificate, certificate_chain=chain
            )
        password: Any = self.password.encode() if self.password else None  # the library expects bytes
        return config.use_elliptic_key_signer(private_key=self.key, password=password)


def _read_key(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY + 1)
    except OSError as error:
        raise BadSetting(f"the {what} {path} can't be read: {error.strerror}") from error
    if len(data) > _MAX_KEY:
        raise BadSetting(f"the {what} {path} is larger than {_MAX_KEY} bytes, so it is not a key")
    return data
