"""The TLS certificate of a replica, which is read again when it was renewed."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from registry.errors import BadSetting
from registry.serving.http.watched_files import WatchedFiles

_log = logging.getLogger(__name__)


class ServerCertificate:
    """The TLS settings of a server, with a certificate and its key from files."""

    def __init__(self, certificate: Path | None, key: Path | None) -> None:
        """Args:
        certificate, key: None without TLS; a key may stand in the file of its certificate.

        Raises:
            BadSetting: see `read_certificate`.
        """
        self._files = (certificate, key)
        self._context = read_certificate(certificate, key)
        self._watched = WatchedFiles([path for path in self._files if path])

    def settings(self) -> ssl.SSLContext | None:
        """For the next connection; None without TLS. Files that can't be used change nothing."""
        if self._watched.have_changed():
            try:
                self._context = read_certificate(*self._files)
            except BadSetting as error:
                _log.error(
                    "the certificate stays as it was: %s", error, extra={"facts": {"event": "certificate unusable"}}
                )
            else:
                _log.info("the certificate was read again", extra={"facts": {"event": "certificate"}})
        return self._context

    def look_soon(self) -> None:
        """Read the files again for the next connection."""
        self._watched.look_soon()


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
