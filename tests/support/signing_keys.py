"""Keys and certificates for tests, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from registry.trust.keys import SigningKey

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pair:
    """A private key's file, and what others are given to trust it: its public key, or its CA's certificate."""

    private: Path
    trusted: Path
    certificate: Path | None = None

    @property
    def key(self) -> SigningKey:
        return SigningKey(self.private, self.certificate)


def key_pair(folder: Path, name: str, curve: ec.EllipticCurve | None = None, password: bytes | None = None) -> Pair:
    """A private key and its public key."""
    private = ec.generate_private_key(curve or ec.SECP256R1())
    return Pair(_private(folder, name, private, password), _public(folder, name, private))


def rsa_pair(folder: Path, name: str = "rsa") -> Pair:
    """Keys of a kind that model-signing does not know."""
    private = rsa.generate_private_key(65537, 2048)
    return Pair(_private(folder, name, private, None), _public(folder, name, private))


def certified(folder: Path, name: str, days: int = 365, *, may_sign: bool = True) -> Pair:
    """A private key with a certificate of a CA of its own."""
    ca, private = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate(f"{name} CA", ca, f"{name} CA", ca, days, is_ca=True, may_sign=False)
    leaf = _certificate(f"{name} CA", ca, name, private, days, is_ca=False, may_sign=may_sign)
    places = (folder / f"{name}.ca.pem", folder / f"{name}.cert.pem")
    for place, certificate in zip(places, (root, leaf), strict=True):
        place.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Pair(_private(folder, name, private, None), *places)


def _certificate(
    issuer: str, signer: ec.EllipticCurvePrivateKey, subject: str, key: ec.EllipticCurvePrivateKey, days: int,
    *, is_ca: bool, may_sign: bool,
) -> x509.Certificate:  # fmt: skip
    usage = x509.KeyUsage(
        digital_signature=may_sign, key_cert_sign=is_ca, crl_sign=is_ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = x509.CertificateBuilder().issuer_name(_name(issuer)).subject_name(_name(subject))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(_BEGIN).not_valid_after(_BEGIN + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    return builder.add_extension(usage, critical=True).sign(signer, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _private(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None
) -> Path:
    path = folder / f"{name}.pem"
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    path.chmod(0o600)
    return path


def _public(folder: Path, name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Path:
    path = folder / f"{name}.pub.pem"
    public = key.public_key()
    path.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path
