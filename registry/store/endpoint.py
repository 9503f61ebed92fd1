"""Whether an S3 server can be asked: mistakes in its address and credentials are named before anything is sent."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from registry.errors import BadSetting
from registry.formats.addresses import has_host, without_password
from registry.formats.header_values import check_header

_VARIABLES = "ULORA_S3_ENDPOINT or AWS_ENDPOINT_URL"
_KEY = "AWS_ACCESS_KEY_ID"
_SENT = (_KEY, "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
"""What boto3 sends as it is, of the variables that it finds credentials in."""


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


def check_sent_credentials() -> None:
    """Check the credentials in the environment.

    Those of elsewhere are not looked at: it may take a request to get them. See `error_table` for their errors.

    Raises:
        BadSetting: they can't be sent.
    """
    if os.environ.get(_KEY):  # else boto3 uses none of them
        for name in _SENT:
            check_header(name, os.environ.get(name, ""), "utf-8")


def named_endpoint(endpoint_url: str | None) -> str:
    """The address of the S3 server as the settings and the environment name it, without a password; empty for AWS's own
    choice. Nothing is opened for it."""
    named = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return without_password(named) if named else ""
