"""Addresses without their passwords, for everything that is printed."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection
from urllib.parse import quote, unquote, urlsplit

# Of linear time: servers choose some of the texts.
_ADDRESS = re.compile(r"://[^\s'\"]*")
_PARAMETER = re.compile(
    r"(?i)([?&;](?=sig=|[\w-]*(?:password|passwd|secret|token|signature|credential))[\w-]*=)[^&\s'\"]*"
)
_HIDDEN = "***"


def without_passwords(text: str) -> str:
    """A text whose addresses have no user and no password, and whose secret parameters read `***`."""
    # Up to the last @ of a word: a password may hold any of `/ ? # @`, if somebody did not quote it.
    without_user = _ADDRESS.sub(lambda found: "://" + found[0].removeprefix("://").rpartition("@")[2], text)
    return _PARAMETER.sub(rf"\1{_HIDDEN}", without_user)


def without_password(address: str) -> str:
    """One address without its user, its password and secret parameters, however badly it is spelled."""
    before, slashes, after = address.partition("://")
    start, rest = (before, after) if slashes else ("", before)
    return _PARAMETER.sub(rf"\1{_HIDDEN}", start + slashes + rest.rpartition("@")[2])


def without_password_of(address: str, text: str) -> str:
    """What others said about an address, without its password in whatever form they took it apart."""
    word, _, rest = address.rpartition("@")
    user, _, given = word.partition("://")[2].partition(":") if rest else ("", "", "")
    return without_passwords(without_secrets(secrets_of(unquote(user), unquote(given)) | {given}, text))


def secrets_of(user: str, password: str) -> set[str]:
    """A password in the forms in which others may repeat it: as it is, quoted, and as HTTP's basic authentication."""
    if not password:
        return set()
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {password, quote(password, safe=""), quote(password), basic, basic.rstrip("=")}


def without_secrets(secrets: Collection[str], text: str) -> str:
    """What others said, with `***` for what is secret in it."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 2:  # others occur in any text
            text = text.replace(secret, _HIDDEN)
    return text


def has_host(address: str) -> bool:
    """Whether an http address names a host, and a port that can be one."""
    try:
        parts = urlsplit(address)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and re.search(r"\s", address) is None
