"""Refuse files that look like credentials: a version is permanent and many people read it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from registry.errors import BadBundle, BadInput
from registry.formats.local_file import LocalFile
from registry.parallel import in_parallel
from registry.tree.layout import PROJECT

_CHECKED_BYTES = 64 * 1024
_NAMES = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "id_rsa*",
    "id_dsa*", "id_ecdsa*", "id_ed25519*", "credentials*", ".netrc", "_netrc", ".pypirc", ".pgpass", ".htpasswd",
    ".git-credentials", "secrets.json", "secrets.toml", "secrets.yaml", "secrets.yml",
)  # fmt: skip
_HARMLESS = ("*.pub", "*.example", "*.sample", "*.template", "*.dist")

_CONTENTS = {
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----",
    "an AWS access key": rb"(?<![A-Z0-9])(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE)[A-Z0-9]{16}(?![A-Z0-9])",
    "an AWS secret key": rb"(?i:aws_?secret_?access_?key)[\"']?\s*[=:]\s*[\"']?(?![A-Za-z0-9/+]{30}EXAMPLEKEY)"
    rb"[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
    "a Hugging Face token": rb"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{34}(?![A-Za-z0-9])",
    "a GitHub token": rb"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
}
_PATTERNS = {what: re.compile(pattern) for what, pattern in _CONTENTS.items()}


def check_credentials(paths: Mapping[str, LocalFile], allowed: Sequence[str] = ()) -> None:
    """Refuse a project's files that look like credentials: by their names, or by their first bytes.

    Args:
        paths: files on disk by their paths in a version; only those in `project/` are checked.
        allowed: paths in the project that are included anyway.

    Raises:
        BadInput: files look like credentials (the message names them), or `allowed` names a file that does not exist.
        BadBundle: a file can't be read, or a link leads to it.
    """
    files = {path.removeprefix(PROJECT): file for path, file in paths.items() if path.startswith(PROJECT)}
    allowed_paths = {path.removeprefix("./") for path in allowed}
    if unknown := sorted(allowed_paths - files.keys()):
        raise BadInput(
            f"--allow-secret: the project has no file {unknown[0][:200]!r}",
            hint="give the path inside the project's folder, of a file that is not excluded",
        )
    checked = [(path, file) for path, file in files.items() if path not in allowed_paths]
    try:
        reasons = in_parallel(lambda item: _by_name(item[0]) or _by_content(item[1]), checked)
    except OSError as error:
        raise BadBundle(f"{error.filename} can't be read: {error.strerror}") from error
    suspects = {path: why for (path, _), why in zip(checked, reasons, strict=True) if why}
    if suspects:
        named = (f"{path} ({why})" for path, why in sorted(suspects.items()))
        raise BadInput(
            f"these files look like credentials, and a version is permanent: {', '.join(named)}",
            hint=f"exclude them in .gitignore; to include a harmless file: --allow-secret {shlex.quote(min(suspects))}",
        )


def _by_name(path: str) -> str:
    """Why a file's name looks like credentials; empty if it does not."""
    name = path.rpartition("/")[2].casefold()
    if any(fnmatchcase(name, harmless) for harmless in _HARMLESS):
        return ""
    return f"named like credentials, {name}" if any(fnmatchcase(name, secret) for secret in _NAMES) else ""


def _by_content(file: LocalFile) -> str:
    """Which credentials the first bytes of a file hold; empty if none."""
    with file.open("rb") as opened:
        beginning = opened.read(_CHECKED_BYTES)
    return next((f"holds {what}" for what, pattern in _PATTERNS.items() if pattern.search(beginning)), "")
