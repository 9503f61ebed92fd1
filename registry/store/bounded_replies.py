"""What a server's replies must be before anything believes them: bounded in size, and answers of S3.

botocore has no setting for either. Requests are sent here, from its event `before-send`: what such a handler returns is
taken as the reply. Successes are looked at in its event `after-call`: a proxy or a login page in front of the store may
answer 200 to everything, and botocore takes an empty page for a listing of nothing, and any page for a write that was
done.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from typing import Any

from botocore.awsrequest import AWSResponse
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from registry.formats.bounded import joined

MAX_REPLY = 16 * 1024 * 1024
"""Bytes. A page of a listing has at most 1,000 keys of 1,024 bytes, in an encoding that may triple them."""
_PIECE = 64 * 1024
_ALWAYS_SAID = {
    "ListObjectsV2": "IsTruncated",
    "ListMultipartUploads": "IsTruncated",
    "PutObject": "ETag",
    "HeadObject": "ETag",
    "GetObject": "ETag",
    "DeleteObject": "",
    "CreateMultipartUpload": "UploadId",
    "UploadPart": "ETag",
    "CompleteMultipartUpload": "ETag",
}
"""What a success of S3 always says, by its reference of the API; of a deletion its status only."""
_STATUSES = {"DeleteObject": (204,), "GetObject": (200, 206)}
"""Of a success, where it is not 200."""
_WITHOUT_BODY = ("PutObject", "UploadPart", "DeleteObject")
_OBJECTS = ("GetObject", "HeadObject")
"""Their answers have the media type that the object's writer chose."""
_PAGES = ("text/html", "application/xhtml+xml")
"""Media types that no answer of S3 has of its own, and no object that is written here."""
_REQUEST_ID = "x-amz-request-id"
"""In every answer of S3, by its reference of common response headers."""
_WEAK = 'W/"'
"""The beginning of an ETag that many web servers send, and S3 never does (RFC 9110, 8.8.1)."""


def bound_replies(client: Any) -> None:
    """Refuse replies of more than MAX_REPLY bytes to a client. Bodies of objects are left to their reader."""
    send = client._endpoint.http_session.send

    def send_bounded(request: Any, **_: object) -> Any:
        is_streamed, request.stream_output = request.stream_output, True
        reply = send(request)
        if is_streamed and reply.status_code < 300:
            return reply
        if _is_announced(reply.headers):
            _ = reply.content  # read here and kept
            return reply
        whole = HTTPResponse(io.BytesIO(_read(reply.raw)), preload_content=False)
        return AWSResponse(reply.url, reply.status_code, reply.headers, whole)

    client.meta.events.register_last("before-send.s3", send_bounded)


def check_replies(client: Any) -> None:
    """Let calls of a client raise KeyError, with the name of what is missing, for a success that is none of S3."""
    for operation in _ALWAYS_SAID:
        client.meta.events.register(f"after-call.s3.{operation}", partial(_check_reply, operation))


def _check_reply(operation: str, http_response: Any, parsed: Any, **_: object) -> None:
    status, field = http_response.status_code, _ALWAYS_SAID[operation]
    if status >= 300:
        return
    if status not in _STATUSES.get(operation, (200,)):
        raise KeyError(f"the right status ({status})")
    if field and (field not in parsed or str(parsed[field]).startswith(_WEAK)):
        raise KeyError(field)
    is_object = operation in _OBJECTS and _REQUEST_ID in http_response.headers
    if is_page(http_response.headers) and not is_object:
        raise KeyError("a type other than that of a page")
    if operation in _WITHOUT_BODY and http_response.content:
        raise KeyError("an empty body")


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether a reply says that it is a web page."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() in _PAGES


def _is_announced(headers: Any) -> bool:
    """Whether the size of a body is bounded by its header: then no more of it is read."""
    length = "" if headers.get("transfer-encoding") else headers.get("content-length", "")
    return length.isascii() and length.isdigit() and len(length) < 12 and int(length) <= MAX_REPLY


def _read(raw: Any) -> bytes:
    """All bytes of a body.

    Raises:
        HTTPError: there are more than MAX_REPLY.
    """
    body = joined(raw.stream(_PIECE), MAX_REPLY)
    if body is None:
        raw.close()
        raise HTTPError(f"a reply is longer than {MAX_REPLY} bytes")
    return body
