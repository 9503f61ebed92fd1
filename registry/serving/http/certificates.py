"""The TLS certificate of a replica."""

from __future__ import annotations

import ssl
from pathlib import Path

from registry.errors import BadSetting


def read_certificate(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """The TLS settings with a certificate and its key; None without any.

    Raises:
        BadSetting: a file can't be read, is not PEM, is encrypted, or they do not belong together.
    """
    if certificate is None:
        if key is not None:
            raise BadSetting("there is a key for TLS, but no certificate", hint="give --ssl-certfile too")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key):
        _check_readable(path)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedKey as error:
        raise BadSetting(f"the key {key or certificate} is encrypted", hint="give a key without a password") from error
    except (ssl.SSLError, ValueError) as error:
        names = f"{certificate}" + (f" with the key {key}" if key else "")
        reason = getattr(error, "reason", None) or "not PEM"
        raise BadSetting(
            f"{names} can't be used for TLS: {_words(str(reason))}",
            hint="give PEM files: the certificate with its chain, and the private key that belongs to it",
        ) from error
    return context


def _check_readable(path: Path | None) -> None:
    if path is not None:
        try:
            with path.open("rb"):
                return
        except OSError as error:
            raise BadSetting(f"{path} can't be read: {error.strerror}", hint="choose another file") from error


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()


class _EncryptedKey(Exception):
    """A key asks for a password. OpenSSL would ask the terminal for it."""


def _no_password() -> str:
    raise _EncryptedKey
