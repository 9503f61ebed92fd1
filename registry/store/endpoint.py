"""Whether an address can be that of an S3 server: mistakes are named before anything is sent there."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from registry.errors import BadSetting
from registry.formats.addresses import has_host, without_password

_VARIABLES = "ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL"


def check_endpoint(address: str, bucket: str) -> str:
    """Return the address of an S3 server unchanged.

    Raises:
        BadSetting: it is no http or https address of a host, or it has the bucket in it.
    """
    shown = without_password(address)
    if not re.match(r"https?://", address, re.IGNORECASE) or not has_host(address):
        raise BadSetting(
            f"the S3 endpoint {shown!r} is not an address", hint=f"{_VARIABLES} reads https://HOST or http://HOST:PORT"
        )
    parts = urlsplit(address)
    folders = parts.path.strip("/").split("/")
    is_in_host = str(parts.hostname).startswith(f"{bucket}.s3".lower())
    if is_in_host or bucket in (folders[0], folders[-1]):
        server = parts.netloc.rpartition("@")[2]
        server = server[len(bucket) + 1 :] if is_in_host else server
        raise BadSetting(
            f"the S3 endpoint {shown!r} has the bucket {bucket!r} in it, which belongs into the store's URL only",
            hint=f"set {_VARIABLES} to {parts.scheme}://{server}",
        )
    return address


def named_endpoint(endpoint_url: str | None) -> str:
    """The address of the S3 server as the settings and the environment name it, without a password; empty for AWS's own
    choice. Nothing is opened for it."""
    named = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return without_password(named) if named else ""
